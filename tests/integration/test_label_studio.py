"""The backend with a real Label Studio that validates predictions strictly."""

import base64
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx
import pytest
from PIL import Image as PillowImage
from skimage import data as photographs

from benchmarks.support.cards import CARD, FIGURES, make_card
from benchmarks.support.label_studio_api import Json, LabelStudio, Refused
from benchmarks.support.loops import MockLoopProcess, running_mock_loop
from benchmarks.support.processes import PROJECT, NodeProcess, clean_environment, running_node
from benchmarks.support.waiting import eventually
from detector.label_studio.labels.config import generate, parse
from detector.label_studio.labels.regions import from_results
from detector.pose import images
from mock.test_card.cards import Figure, arrange
from tests.support.label_studio.drawn import assert_drawn
from tests.support.pictures import encoded

pytestmark = pytest.mark.integration

VERSION = 'test-card 1.0'
"""Names that the mock Loop requires."""
ALIASES = (
    '<View><Image name="image" value="$image"/><RectangleLabels name="bbox" toName="image"><Label value="Person" '
    'alias="P"/></RectangleLabels><KeyPointLabels name="kp" toName="image"><Label value="Nase" alias="nose"/>'
    '<Label value="Linkes Auge" alias="left_eye"/></KeyPointLabels></View>'
)
SIZES = ((720, 480), (1000, 600), (1203, 801))


@pytest.fixture(scope='module')
def studio(strict_label_studio: LabelStudio) -> LabelStudio:
    return strict_label_studio


@pytest.fixture(scope='module')
def loop(tmp_path_factory: pytest.TempPathFactory) -> Iterator[MockLoopProcess]:
    with running_mock_loop(tmp_path_factory.mktemp('learning') / 'loop') as server:
        yield server


@pytest.fixture(scope='module')
def node(tmp_path_factory: pytest.TempPathFactory, studio: LabelStudio, loop: MockLoopProcess) -> Iterator[NodeProcess]:
    """Start a node between both, with a personal access token of Label Studio's user."""
    settings = {'UPLOAD_SECONDS': 0.1, **settings_for(studio), **loop.settings}
    with running_node(tmp_path_factory.mktemp('node'), **settings) as running:
        assert eventually(lambda: httpx.get(f'{running.url}/ready').json()['model_version'] == VERSION)
        yield running


def settings_for(studio: LabelStudio) -> dict[str, Any]:
    return {'LABEL_STUDIO_URL': studio.url, 'LABEL_STUDIO_API_TOKEN': studio.personal_token()}


def drawings() -> list[tuple[str, bytes, tuple[Figure, ...], tuple[int, int]]]:
    """Make sixty images with name, file, figures and size; all but the last four are cards with one to four persons."""
    found = []
    for number in range(56):
        size = SIZES[number % 3]
        figures = tuple(arrange(1 + number % 4, size))
        card = make_card(figures, width=size[0], height=size[1])
        kind = ('JPEG', 'PNG', 'WEBP')[number // 3 % 3]
        name = f'card-{number}.{kind.lower().replace("jpeg", "jpg")}'
        found.append((name, encoded(PillowImage.fromarray(card), kind, quality=92), figures, size))
    astronaut = encoded(PillowImage.fromarray(photographs.astronaut()), 'JPEG')  # type: ignore[no-untyped-call]
    exif = PillowImage.Exif()
    exif[0x0112] = 6
    stored = PillowImage.fromarray(make_card()).transpose(PillowImage.Transpose.ROTATE_90)
    turned = encoded(stored, 'JPEG', exif=exif, quality=92, subsampling=0)
    found += [
        ('empty.jpg', images.encode_jpeg(make_card(())), (), (720, 480)),
        ('astronaut.jpg', astronaut, (), (512, 512)),
        ('turned.jpg', turned, FIGURES, (720, 480)),
        ('broken.jpg', CARD[:3000], (), (720, 480)),
    ]
    return found


@pytest.mark.parametrize('style', ['keypoints', 'skeleton'])
def test_sixty_images_get_their_poses(studio: LabelStudio, node: NodeProcess, style: Any) -> None:
    """Sixty images, among them a photograph, an empty card and a turned one, get one prediction each, except a damaged
    one."""
    config = generate(style)
    project = studio.create_project(config)
    drawn = drawings()
    task_ids = project.upload([(name, content) for name, content, _, _ in drawn])
    project.connect(node.url, title=VERSION)
    project.retrieve_predictions(task_ids)
    names = {task['id']: str(task['data']['image']).partition('-')[2] for task in project.tasks()}
    by_name = {names[prediction['task']]: prediction for prediction in project.predictions()}
    assert set(by_name) == {name for name, *_ in drawn} - {'broken.jpg'}
    for name, _, figures, size in drawn[:-1]:
        prediction = by_name[name]
        assert prediction['model_version'] == VERSION
        assert 0 <= prediction['score'] <= 1
        assert_drawn(from_results(prediction['result'], parse(config)), figures, size)
    before = {prediction['id'] for prediction in project.predictions()}
    project.retrieve_predictions(task_ids)
    assert {prediction['id'] for prediction in project.predictions()} == before
    for task_id in task_ids:
        project.open_task(task_id)
    broken = next(task_id for task_id, name in names.items() if name == 'broken.jpg')
    assert f'task {broken}: the image is broken' in node.log.read_text()


def test_a_task_that_is_opened_gets_its_prediction(studio: LabelStudio, node: NodeProcess) -> None:
    """An opened task gets its prediction, and uncertainty sampling uses it, since the backend's title is its model
    version."""
    project = studio.create_project(generate('skeleton'), sampling='Uncertainty sampling')
    (task_id,) = project.upload([('card.jpg', CARD)])
    backend = project.connect(node.url, title=VERSION)
    assert project.backend(backend)['state'] == 'CO'
    assert project.settings()['model_version'] == VERSION
    assert len(project.open_task(task_id)['predictions']) == 1
    assert_drawn(from_results(project.predictions()[0]['result'], parse(generate('skeleton'))), FIGURES, (720, 480))


@pytest.mark.parametrize('style', ['keypoints', 'skeleton'])
def test_a_drawn_box_gets_its_person(studio: LabelStudio, node: NodeProcess, style: Any) -> None:
    """A drawn box gets its person through Label Studio's own route for its editor."""
    project = studio.create_project(generate(style))
    (task_id,) = project.upload([('card.jpg', CARD)])
    backend = project.connect(node.url, title=VERSION)
    for figure in FIGURES:
        x1, y1, x2, y2 = (figure.box / (7.2, 4.8, 7.2, 4.8)).tolist()
        value = {'x': x1, 'y': y1, 'width': x2 - x1, 'height': y2 - y1, 'rotation': 0, 'rectanglelabels': ['person']}
        prompt = {'id': 'x', 'from_name': 'bbox', 'to_name': 'image', 'type': 'rectanglelabels', 'origin': 'manual'}
        answer = project.interactive(backend, task_id, {'result': [prompt | {'value': value}]})
        assert 'errors' not in answer
        assert_drawn(from_results(answer['data']['result'], parse(generate(style))), [figure], (720, 480))


@pytest.mark.parametrize(
    ('settings', 'login', 'complaint'),
    [
        ({'BASIC_AUTH_USER': 'ann', 'BASIC_AUTH_PASS': 'sésame'}, ('ann', 'sésame'), 'authentication parameters'),
        ({'API_TOKEN': 'open-sesame-0123456789'}, ('any-name', 'open-sesame-0123456789'), '401'),
    ],
    ids=['password', 'token'],
)
def test_label_studio_logs_in_with_basic_auth(
    tmp_path: Path, studio: LabelStudio, settings: dict[str, str], login: tuple[str, str], complaint: str
) -> None:
    """Wrong or missing basic auth is reported by Label Studio; with it, predictions and webhooks with the header
    work."""
    with running_node(tmp_path, **settings, **settings_for(studio)) as node:
        project = studio.create_project(generate('keypoints'))
        (task_id,) = project.upload([('card.jpg', CARD)])
        for auth in (None, ('ann', 'wrong')):
            with pytest.raises(Refused, match=complaint):
                project.connect(node.url, basic_auth=auth)
        project.connect(node.url, basic_auth=login, title=VERSION)
        project.retrieve_predictions([task_id])
        assert len(project.predictions()) == 1
        project.annotate(task_id, project.predictions()[0]['result'])
        assert eventually(lambda: 'PATCH /api/webhooks/ID' in node.log.read_text())
        header = base64.b64encode(':'.join(login).encode()).decode()
        project.set_webhook_headers({'Authorization': f'Basic {header}'})
        refused = node.log.read_text().count('PATCH /api/webhooks/ID')
        project.annotate(task_id, [])
        time.sleep(1)
        assert node.log.read_text().count('PATCH /api/webhooks/ID') == refused


def test_both_kinds_of_token_load_images(tmp_path: Path, studio: LabelStudio) -> None:
    """Images load with both kinds of token, the personal one also with legacy tokens switched off."""
    folder = studio.files / 'cards'
    folder.mkdir()
    (folder / 'local.jpg').write_bytes(CARD)
    tokens = {'legacy': studio.token, 'personal': studio.personal_token()}
    for kind, token in tokens.items():
        studio.legacy_tokens(kind == 'legacy')
        with running_node(tmp_path / kind, LABEL_STUDIO_URL=studio.url, LABEL_STUDIO_API_TOKEN=token) as node:
            project = studio.create_project(generate('skeleton'))
            project.upload([('card.jpg', CARD)])
            project.add_local_files(folder)
            project.connect(node.url, title=VERSION)
            task_ids = [task['id'] for task in project.tasks()]
            assert len(task_ids) == 2
            project.retrieve_predictions(task_ids)
            assert sorted(prediction['task'] for prediction in project.predictions()) == task_ids
            assert token not in node.log.read_text()
    studio.legacy_tokens(True)


def test_a_legacy_token_that_is_off_is_explained(tmp_path: Path, studio: LabelStudio) -> None:
    """A switched-off legacy token is explained, and the task can be opened without a prediction."""
    studio.legacy_tokens(False)
    with running_node(tmp_path, LABEL_STUDIO_URL=studio.url, LABEL_STUDIO_API_TOKEN=studio.token) as node:
        project = studio.create_project(generate('skeleton'))
        (task_id,) = project.upload([('card.jpg', CARD)])
        project.connect(node.url, title=VERSION)
        project.retrieve_predictions([task_id])
        assert project.predictions() == []
        assert 'personal access token' in node.log.read_text()
        project.open_task(task_id)
    studio.legacy_tokens(True)


def corrections_of(loop: MockLoopProcess, task_id: int) -> list[Json]:
    found = [image['metadata'] for image in loop.images()]
    return [metadata for metadata in found if f'task_{task_id}' in metadata['tags']]


@pytest.mark.parametrize('style', ['keypoints', 'skeleton'])
def test_corrections_reach_the_learning_loop(
    studio: LabelStudio, node: NodeProcess, loop: MockLoopProcess, style: Any
) -> None:
    """Corrections, single or bulk-accepted, reach the Loop with their new coordinates; skipped and deleted ones do
    not."""
    project = studio.create_project(generate(style))
    task_ids = project.upload([(f'{number}.jpg', CARD) for number in range(4)])
    project.connect(node.url, title=VERSION)
    project.retrieve_predictions(task_ids)
    (result,) = [item['result'] for item in project.predictions() if item['task'] == task_ids[0]]
    _move_nose(result, 25.0, 50.0)
    project.annotate(task_ids[0], result)
    project.annotate(task_ids[1], [], was_cancelled=True)
    project.accept_predictions(task_ids[2:])
    assert eventually(lambda: all(corrections_of(loop, task_id) for task_id in (task_ids[0], *task_ids[2:])))
    (corrected,) = corrections_of(loop, task_ids[0])
    assert {'label_studio', f'project_{project.id}', 'annotator_1'} <= set(corrected['tags'])
    assert len(corrected['box_annotations']) == 2
    assert len(corrected['point_annotations']) == 266
    noses = [(p['x'], p['y']) for p in corrected['point_annotations'] if p['category_name'] == 'nose']
    assert (180.0, 240.0) in noses
    time.sleep(1)
    assert corrections_of(loop, task_ids[1]) == []
    assert [len(corrections_of(loop, task_id)) for task_id in task_ids] == [1, 0, 1, 1]


def _move_nose(result: list[Json], x: float, y: float) -> None:
    for region in result:
        if region['value'].get('keypointlabels') == ['nose']:
            region['value'] |= {'x': x, 'y': y}
            return
        for vertex in region['value'].get('vertices', ()):
            if vertex['id'] == 'nose':
                vertex |= {'x': x, 'y': y}
                return


def test_labels_with_aliases_go_round(
    studio: LabelStudio, node: NodeProcess, loop: MockLoopProcess, tmp_path: Path
) -> None:
    """With a config of aliases, the command and the node preannotate all six tasks, and the corrections that Label
    Studio reports arrive in the Loop with all boxes and points."""
    project = studio.create_project(ALIASES)
    task_ids = project.upload([(f'{number}.jpg', CARD) for number in range(6)])
    project.connect(node.url, title=VERSION)
    done = subprocess.run(
        [sys.executable, '-m', 'detector', 'labelstudio', 'preannotate', '--project', str(project.id)],
        cwd=PROJECT,
        env=clean_environment(DATA_FOLDER=tmp_path / 'data', **settings_for(studio)),
        capture_output=True,
        text=True,
        timeout=200,
        check=False,
    )
    assert done.returncode == 0, done.stdout + done.stderr
    assert '6 of 6 tasks have a new prediction of test-card 0.0' in done.stdout
    project.retrieve_predictions(task_ids)
    predictions = project.predictions()
    assert sorted(one['task'] for one in predictions) == sorted(2 * task_ids)
    for prediction in predictions:
        texts = [text for region in prediction['result'] for text in next(iter(labels_in(region)))]
        assert sorted(texts) == sorted(2 * ['P', 'nose', 'left_eye'])
    project.accept_predictions(task_ids)
    assert eventually(lambda: all(corrections_of(loop, task_id) for task_id in task_ids))
    for task_id in task_ids:
        for metadata in corrections_of(loop, task_id):
            assert len(metadata['box_annotations']) == 2
            names = [point['category_name'] for point in metadata['point_annotations']]
            assert sorted(names) == sorted(2 * ['nose', 'left_eye'])


def labels_in(region: Json) -> list[list[str]]:
    """Return the lists of labels of a region."""
    return [texts for kind, texts in region['value'].items() if kind.endswith('labels')]


def test_a_project_of_another_kind_keeps_its_tasks_usable(studio: LabelStudio, node: NodeProcess) -> None:
    """Tasks of a project without controls for poses open without predictions."""
    choices = '<Choices name="c" toName="image"><Choice value="a"/></Choices>'
    config = f'<View><Image name="image" value="$image"/>{choices}</View>'
    project = studio.create_project(config)
    (task_id,) = project.upload([('card.jpg', CARD)])
    project.connect(node.url, title=VERSION)
    project.retrieve_predictions([task_id])
    assert project.predictions() == []
    project.open_task(task_id)
    assert httpx.get(f'{node.url}/health').json() == {'status': 'UP'}
