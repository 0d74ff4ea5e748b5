"""Corrections from webhooks to the Learning Loop: a real node, the mock Loop, and a stand-in for Label Studio."""

import asyncio
import time
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import httpx
import numpy as np
import pytest

from benchmarks.support.cards import CARD, FIGURES, person_of
from benchmarks.support.loops import MockLoopProcess, running_mock_loop
from benchmarks.support.processes import NodeProcess, running_node
from benchmarks.support.studio import Studio, running_studio
from benchmarks.support.waiting import eventually_async
from detector.datasets.person import HIDDEN, VISIBLE, Person
from detector.label_studio.backend.correction_queue import MAX_PAUSE_SECONDS, CorrectionQueue, Hint
from detector.label_studio.backend.corrections import hints_in, to_annotations
from detector.label_studio.labels.config import generate, parse
from detector.label_studio.labels.regions import to_results
from detector.label_studio.labels.values import Region
from detector.pose.skeleton import KEYPOINT_INDEX, KEYPOINT_NAMES, category_id
from mock.test_card.cards import Figure
from tests.support.one_annotation import OneAnnotation, make_corrections

SIZE = (720, 480)


@pytest.fixture(scope='module')
def loop(tmp_path_factory: pytest.TempPathFactory) -> Iterator[MockLoopProcess]:
    with running_mock_loop(tmp_path_factory.mktemp('learning') / 'loop') as server:
        yield server


@pytest.fixture(scope='module')
def studio() -> Iterator[Studio]:
    with running_studio() as server:
        yield server


@pytest.fixture(scope='module')
def node(tmp_path_factory: pytest.TempPathFactory, loop: MockLoopProcess, studio: Studio) -> Iterator[NodeProcess]:
    """Start a node between the two."""
    settings = {'UPLOAD_SECONDS': 0.1, **loop.settings, **studio.settings}
    with running_node(tmp_path_factory.mktemp('node'), **settings) as running:
        yield running


@pytest.fixture(autouse=True)
def _clean(loop: MockLoopProcess, studio: Studio) -> None:
    loop.delete_images()
    studio.asked.clear()
    studio.objects.clear()
    studio.down = False


def regions(figures: Sequence[Figure] = FIGURES) -> list[Region]:
    return to_results([person_of(figure) for figure in figures], parse(generate('keypoints')), SIZE)


def tell(node: NodeProcess, *annotations: int, action: str = 'ANNOTATION_UPDATED', project: int = 1) -> None:
    """Call the webhook as Label Studio does, with contents that must not be trusted."""
    body: dict[str, Any] = {'action': action, 'project': {'id': project}, 'task': {'id': 1}}
    items = [{'id': annotation, 'result': [{'forged': True}]} for annotation in annotations]
    body['annotation'] = items if action.startswith('ANNOTATIONS') else items[0]
    answer = httpx.post(f'{node.url}/webhook', json=body, timeout=10)
    assert answer.status_code == 200
    assert answer.json()['annotations'] == len(annotations)


def corrections(node: NodeProcess) -> dict[str, int]:
    return dict(httpx.get(f'{node.url}/about').json()['label_studio']['corrections'])


def handled(node: NodeProcess, loop: MockLoopProcess) -> list[dict[str, Any]]:
    """Wait until no correction or image is waiting, and return the metadata that the Loop has received."""
    deadline = time.monotonic() + 30
    while corrections(node)['waiting'] or httpx.get(f'{node.url}/outbox').json()['waiting']:
        assert time.monotonic() < deadline, corrections(node)
        time.sleep(0.1)
    return [image['metadata'] for image in loop.images()]


def test_a_correction_arrives_as_annotations(node: NodeProcess, loop: MockLoopProcess, studio: Studio) -> None:
    """A correction arrives with boxes and points in pixels, the model's category ids, and tags that name no person."""
    results = regions()
    nose = next(region for region in results if region['value'].get('keypointlabels') == ['nose'])
    nose['value'] |= {'x': 50.0, 'y': 25.0}
    studio.add_annotation(11, results, image=studio.add_image('card.jpg', CARD))
    tell(node, 11)
    (metadata,) = handled(node, loop)
    assert set(metadata['tags']) >= {'label_studio', 'project_1', 'task_11', 'annotator_7'}
    boxes, points = metadata['box_annotations'], metadata['point_annotations']
    assert len(boxes) == 2
    assert len(points) == 266
    for figure, box in zip(FIGURES, boxes, strict=True):
        corners = np.array([box['x'], box['y'], box['x'] + box['width'], box['y'] + box['height']])
        assert np.abs(corners - figure.box).max() <= 1
        assert box['category_id'] == category_id('person')
    assert points[0] == {'category_name': 'nose', 'category_id': category_id('nose'), 'x': 360.0, 'y': 120.0}
    for point, expected in zip(points[1:133], FIGURES[0].keypoints[1:], strict=True):
        assert np.hypot(point['x'] - expected[0], point['y'] - expected[1]) < 0.02


def test_each_version_is_sent_once(node: NodeProcess, loop: MockLoopProcess, studio: Studio) -> None:
    """Each version of an annotation is sent once, however often Label Studio calls."""
    image = studio.add_image('card.jpg', CARD)
    studio.add_annotation(12, regions(), image=image)
    for _ in range(3):
        tell(node, 12, action='ANNOTATION_CREATED')
        assert len(handled(node, loop)) == 1
    studio.add_annotation(12, regions(FIGURES[:1]), image=image, updated_at='2026-11-21T00:00:00Z')
    tell(node, 12)
    assert len(handled(node, loop)) == 2


def test_many_at_once_are_all_sent(node: NodeProcess, loop: MockLoopProcess, studio: Studio) -> None:
    """All annotations of a bulk webhook are sent."""
    numbers = list(range(20, 30))
    for number in numbers:
        studio.add_annotation(number, regions(), image=studio.add_image(f'{number}.jpg', CARD))
    tell(node, *numbers, action='ANNOTATIONS_CREATED')
    tags = {tag for metadata in handled(node, loop) for tag in metadata['tags'] if tag.startswith('task_')}
    assert tags == {f'task_{number}' for number in numbers}


def test_persons_that_cannot_be_read_are_not_sent_as_nobody(
    node: NodeProcess, loop: MockLoopProcess, studio: Studio
) -> None:
    """An annotation whose persons cannot be read is given up with its task and region; one without regions is sent."""
    image = studio.add_image('card.jpg', CARD)
    before = corrections(node)['given_up']
    stray = regions()[0] | {'id': 'stray', 'parentID': 'gone'}
    studio.add_annotation(36, [stray], image=image)
    studio.add_annotation(37, [], image=image)
    tell(node, 36)
    tell(node, 37)
    (metadata,) = handled(node, loop)
    assert 'task_37' in metadata['tags']
    assert metadata['box_annotations'] == []
    assert corrections(node)['given_up'] == before + 1
    log = node.log.read_text()
    assert 'none of its persons can be read: task 36 has a point nose (region stray)' in log


def test_forged_and_skipped_annotations_ship_nothing(node: NodeProcess, loop: MockLoopProcess, studio: Studio) -> None:
    """Annotations that are invented, skipped, of another project, or of a project without poses are not sent."""
    image = studio.add_image('card.jpg', CARD)
    studio.add_annotation(31, regions(), image=image, was_cancelled=True)
    studio.add_annotation(32, regions(), image=image, project=2)
    studio.add_annotation(33, regions(), image=image, project=3)
    studio.objects['/api/projects/3/']['label_config'] = '<View><Text name="t" value="$t"/></View>'
    tell(node, 31)
    tell(node, 32, project=1)
    tell(node, 33, project=3)
    tell(node, 34)
    assert handled(node, loop) == []
    assert not any(path.startswith('/data') for path in studio.asked)


@pytest.mark.parametrize(
    'body',
    [
        {'action': 'TASKS_CREATED', 'tasks': [{'id': 1}], 'project': {'id': 1}},
        {'action': 'ANNOTATIONS_DELETED', 'annotations': [{'id': 1}], 'project': {'id': 1}},
        {'action': 'ANNOTATION_CREATED'},
        {'action': 'ANNOTATION_CREATED', 'annotation': {'id': 'x'}, 'project': {'id': 1}},
        {'action': 'ANNOTATION_CREATED', 'annotation': {'id': True}, 'project': {'id': 1}},
        {'action': 'ANNOTATION_CREATED', 'annotation': {'id': -1}, 'project': {'id': 1}},
        {'action': 'ANNOTATION_CREATED', 'annotation': {'id': 0}, 'project': {'id': 1}},
        {'action': 'ANNOTATION_CREATED', 'annotation': {'id': 2**70}, 'project': {'id': 1}},
        {'action': 'ANNOTATION_CREATED', 'annotation': {'id': 1}, 'project': 1},
        {'action': 'ANNOTATION_CREATED', 'annotation': 'x', 'project': {'id': 1}},
        {'action': ['x'], 'annotation': {'id': 1}, 'project': {'id': 1}},
        {},
    ],
)
def test_other_calls_tell_of_nothing(body: dict[str, Any]) -> None:
    """Webhooks about deletions and tasks, and malformed ones, queue nothing."""
    assert hints_in(body) == []


@pytest.mark.integration
def test_an_outage_of_label_studio_is_waited_for(tmp_path: Path, loop: MockLoopProcess, studio: Studio) -> None:
    """Corrections are sent after an outage of Label Studio, even if the node was killed meanwhile."""
    studio.add_annotation(41, regions(), image=studio.add_image('card.jpg', CARD))
    settings = {'UPLOAD_SECONDS': 0.1, **loop.settings, **studio.settings}
    studio.down = True
    with running_node(tmp_path, **settings) as node:
        tell(node, 41)
        time.sleep(1)
        assert corrections(node)['waiting'] == 1
        node.process.kill()
        node.process.wait()
    studio.down = False
    with running_node(tmp_path, **settings) as node:
        (metadata,) = handled(node, loop)
        assert 'task_41' in metadata['tags']
        assert corrections(node) == {'waiting': 0, 'sent': 1, 'given_up': 0, 'missed': 0}


@pytest.mark.integration
def test_a_database_that_breaks_is_said(tmp_path: Path, loop: MockLoopProcess, studio: Studio) -> None:
    """A failing database is reported by 507 and in `/about`, and the next start begins a new one."""
    for answer in (507, 200):
        with running_node(tmp_path, **loop.settings, **studio.settings) as node:
            if answer == 507:
                (node.data_folder / 'label_studio' / 'corrections.sqlite').write_bytes(b'x' * 8192)
            body = {'action': 'ANNOTATION_UPDATED', 'annotation': {'id': 404}, 'project': {'id': 1}}
            told = httpx.post(f'{node.url}/webhook', json=body, timeout=20)
            assert told.status_code == answer
            assert answer == 200 or 'the correction cannot be stored' in told.json()['detail']
            about = httpx.get(f'{node.url}/about', timeout=20)
            assert about.status_code == 200
            assert ('error' in about.json()['label_studio']['corrections']) == (answer == 507)


def test_without_a_loop_webhooks_are_answered(tmp_path: Path, studio: Studio) -> None:
    """Without a Loop, webhooks are answered and nothing is stored."""
    with running_node(tmp_path, **studio.settings) as node:
        body = {'action': 'ANNOTATION_CREATED', 'annotation': {'id': 1}, 'project': {'id': 1}}
        answer = httpx.post(f'{node.url}/webhook', json=body)
        assert answer.status_code == 200
        assert 'LOOP_HOST' in answer.json()['detail']
        assert httpx.get(f'{node.url}/about').json()['label_studio']['corrections'] is None
    assert not (tmp_path / 'data' / 'label_studio').exists()


def test_half_a_skeleton_is_half_a_skeleton() -> None:
    """Only labelled keypoints become points, and a person without a box gets the box around them."""
    person = Person.empty()
    for name, (x, y), visibility in (('nose', (10, 20), VISIBLE), ('left_wrist', (30.123, 5), HIDDEN)):
        person.keypoints[KEYPOINT_INDEX[name]] = x, y
        person.visibility[KEYPOINT_INDEX[name]] = visibility
    ids = {name: f'id of {name}' for name in ('person', *KEYPOINT_NAMES)}
    metadata = to_annotations([person], ids)
    (box,) = metadata.box_annotations
    assert (box.x, box.y, box.width, box.height, box.category_id) == (10, 5, 20, 15, 'id of person')
    assert [(point.category_name, point.x, point.y) for point in metadata.point_annotations] == [
        ('nose', 10, 20),
        ('left_wrist', 30.12, 5),
    ]


@pytest.mark.parametrize(
    ('ahead', 'handled_now'), [(-5.0, True), (MAX_PAUSE_SECONDS - 5, False), (MAX_PAUSE_SECONDS + 5, True)]
)
async def test_a_clock_that_was_set_back_keeps_nothing_waiting(tmp_path: Path, ahead: float, handled_now: bool) -> None:
    """An annotation that seems to be due later than any pause, because the clock was set back, is handled now."""
    queue = CorrectionQueue(tmp_path / 'corrections.sqlite')
    queue.add([Hint(annotation=71, project=1)], time.time() + ahead)
    corrections = make_corrections(tmp_path, queue)
    corrections.start()
    if handled_now:
        await eventually_async(lambda: queue.about()['sent'] == 1)
        assert queue.was_sent(Hint(annotation=71, project=1), 'v1'), 'the time of the last change is the version'
    else:
        await asyncio.sleep(0.3)
        assert queue.about() == {'waiting': 1, 'sent': 0, 'given_up': 0, 'missed': 0}
    await corrections.close()


async def test_regions_of_an_unknown_control_are_not_sent_as_nobody(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    """An annotation with regions of a control that the labeling config lacks is given up, and its log line names it."""

    async def drawn(_: OneAnnotation, number: int) -> dict[str, Any]:
        region = {'from_name': 'older', 'type': 'rectanglelabels', 'value': {'rectanglelabels': ['person']}}
        return {'id': number, 'task': 3, 'result': [region], 'updated_at': 'v1'}

    monkeypatch.setattr(OneAnnotation, 'annotation', drawn)
    queue = CorrectionQueue(tmp_path / 'corrections.sqlite')
    queue.add([Hint(annotation=72, project=1)], time.time())
    corrections = make_corrections(tmp_path, queue)
    corrections.start()
    await eventually_async(lambda: queue.about()['waiting'] == 0)
    assert queue.about() == {'waiting': 0, 'sent': 0, 'given_up': 1, 'missed': 0}
    assert "the labeling config has no 'older'" in caplog.text
    await corrections.close()
