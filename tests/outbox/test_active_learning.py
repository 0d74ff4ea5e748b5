"""From robots and users through the outbox to the Learning Loop, with real processes and sockets."""

import io
import resource
import shutil
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx
import numpy as np
import pytest
from PIL import Image as PillowImage

from benchmarks.support.cards import CARD, FIGURES, assert_found, assert_read, make_card, poses_of
from benchmarks.support.loops import MockLoopProcess, running_mock_loop
from benchmarks.support.processes import NodeProcess, running_node
from benchmarks.support.waiting import eventually
from detector.pose import images
from detector.pose.images import Image
from detector.pose.skeleton import PART_BY_NAME, PARTS, category_id
from mock.test_card.cards import Figure

FADED = 0.32
"""Scale at which the confidence of a dot is about 0.43, in the middle of the default thresholds."""


def faded(*parts: str, x: float = 40, y: float = 30, height: float = 420) -> Figure:
    """A figure with parts of uncertain confidence."""
    fading = np.zeros(133, dtype=np.float32)
    for part in parts:
        fading[PART_BY_NAME[part].slice] = FADED
    return Figure(x=x, y=y, height=height, fading=fading)


def raw(image: Image) -> dict[str, Any]:
    return {'bytes': image.tobytes(), 'dtype': 'uint8', 'shape': image.shape}


@pytest.fixture(scope='module')
def loop(tmp_path_factory: pytest.TempPathFactory) -> Iterator[MockLoopProcess]:
    with running_mock_loop(tmp_path_factory.mktemp('learning') / 'loop') as server:
        yield server


@pytest.fixture(scope='module')
def learner(tmp_path_factory: pytest.TempPathFactory, loop: MockLoopProcess) -> Iterator[NodeProcess]:
    """A node that sends every 0.1 s."""
    with running_node(tmp_path_factory.mktemp('learner'), UPLOAD_SECONDS=0.1, DEADLINE=60, **loop.settings) as node:
        yield node


@pytest.fixture(autouse=True)
def _clean(loop: MockLoopProcess) -> None:
    loop.clear_faults()
    loop.delete_images()


def arrived(node: NodeProcess, loop: MockLoopProcess, count: int) -> list[dict[str, Any]]:
    """Return the images in the Loop after the outbox is empty and late duplicates would have arrived."""
    eventually(lambda: len(loop.images()) >= count)
    eventually(lambda: node.outbox()['waiting'] == 0)
    time.sleep(0.5)
    received = loop.images()
    assert len(received) == count
    return received


def test_exactly_the_uncertain_images_arrive_once_each(learner: NodeProcess, loop: MockLoopProcess) -> None:
    """Cards over REST and Socket.IO, JPEG and raw, arrive with the right tags and 133 points; confident ones do not."""
    sent: dict[str, tuple[list[Figure], set[str]]] = {}

    def card(camera: str, *figures: Figure, tags: set[str]) -> Image:
        sent[camera] = list(figures), tags
        return make_card(figures)

    with learner.socketio() as client:
        for part in (part.name for part in PARTS):
            tags = {'uncertain', f'uncertain_{part}'}
            image = card(f'rest-{part}', faded(part), tags=tags)
            headers = {'camera_id': f'rest-{part}', 'source': f'rest-{part}', 'tags': 'robot'}
            for _ in range(2):
                answer = learner.detect(images.encode_jpeg(image), headers)
                assert_found(poses_of(answer.json()), [faded(part)])
            image = card(f'raw-{part}', FIGURES[1], faded(part), tags=tags)
            for _ in range(2):
                payload = {'image': raw(image), 'camera_id': f'raw-{part}', 'source': f'raw-{part}', 'tags': ['robot']}
                client.call('detect', payload)
        both = {'uncertain', 'uncertain_face', 'uncertain_left_hand'}
        batch = card('batch', faded('face', 'left_hand'), tags=both), make_card()
        frames = [raw(batch[1]), raw(batch[0]), raw(batch[0]), raw(batch[1])]
        answer = client.call(
            'batch_detect', {'images': frames, 'camera_id': 'batch', 'source': 'batch', 'tags': ['robot']}
        )
        assert [len(item['tags']) for item in answer['items']] == [1, 4, 1, 1], 'the answer contains the causes'
        for number in range(3):
            client.call('detect', {'image': raw(make_card()), 'source': 'confident', 'camera_id': f'c{number}'})
            client.call('detect', {'image': raw(make_card([faded('face', x=300)])), 'autoupload': 'disabled'})
            learner.detect(CARD, {'source': 'confident'})
            learner.detect(images.encode_jpeg(make_card(())), {'source': 'empty'})
    received = arrived(learner, loop, len(sent))
    assert {image['source'] for image in received} == set(sent)
    for entry in received:
        figures, tags = sent[entry['source']]
        assert set(entry['tags']) == tags | {'robot'}
        assert_found(poses_of(entry['metadata']), figures)
        ids = {point['category_name']: point['category_id'] for point in entry['metadata']['point_detections']}
        assert ids['left_hand_20'] == category_id('left_hand_20')
        assert len(ids) == 133
        assert entry['metadata']['created'] is not None
        stored = images.decode_image(loop.jpeg(entry['id']))
        assert np.abs(stored.astype(int) - make_card(figures)).mean() < 3


def test_autoupload_all_sends_every_image_as_it_came(learner: NodeProcess, loop: MockLoopProcess) -> None:
    """JPEG bytes arrive unchanged, the same image twice if sent twice, and no relevance tag is added."""
    for number in range(3):
        assert learner.detect(CARD, {'autoupload': 'all', 'source': f'{number}', 'tags': 'a'}).json()['tags'] == ['a']
    received = arrived(learner, loop, 3)
    assert {image['source'] for image in received} == {'0', '1', '2'}
    assert all(loop.jpeg(image['id']) == CARD and image['tags'] == ['a'] for image in received)


def test_stored_images_are_upright_jpegs_whatever_came(learner: NodeProcess, loop: MockLoopProcess) -> None:
    """PNG, WebP and rotated JPEG are stored so that their coordinates are pixels of the stored picture."""
    picture = PillowImage.fromarray(make_card())
    exif = PillowImage.Exif()
    exif[0x0112] = 6
    turned = picture.transpose(PillowImage.Transpose.ROTATE_90)
    forms: dict[str, tuple[str, PillowImage.Image, dict[str, Any]]] = {
        'png': ('PNG', picture, {}),
        'webp': ('WEBP', picture, {'quality': 95}),
        'turned': ('JPEG', turned, {'quality': 95, 'subsampling': 0, 'exif': exif}),
    }
    for name, (kind, source, options) in forms.items():
        buffer = io.BytesIO()
        source.save(buffer, kind, **options)
        assert learner.detect(buffer.getvalue(), {'autoupload': 'all', 'source': name}).status_code == 200
    for image in arrived(learner, loop, 3):
        jpeg = loop.jpeg(image['id'])
        with PillowImage.open(io.BytesIO(jpeg)) as stored:
            assert (stored.format, stored.size, 0x0112 in stored.getexif()) == ('JPEG', (720, 480), False)
        assert np.abs(images.decode_image(jpeg).astype(int) - make_card()).mean() < 3
        assert_read(poses_of(image['metadata']))


def test_uploads_over_rest(learner: NodeProcess, loop: MockLoopProcess) -> None:
    """An upload has several files; source, date and priority are query parameters or headers, in either spelling."""
    jpegs = [images.encode_jpeg(make_card([figure])) for figure in FIGURES]
    answer = httpx.post(
        f'{learner.url}/upload?source=query&creation_date=2026-01-31T12:00:00&upload_priority=true',
        files=[('files', jpeg) for jpeg in jpegs],
    )
    assert answer.status_code == 200
    names = answer.json()['names']
    headers = {'source': 'header', 'creation-date': '2025-01-31', 'upload_priority': 'false'}
    assert httpx.post(f'{learner.url}/upload', files={'files': jpegs[0]}, headers=headers).status_code == 200
    assert httpx.post(f'{learner.url}/upload', files={'files': jpegs[1]}).status_code == 200
    received = arrived(learner, loop, 4)
    assert [image['name'] for image in received if image['source'] == 'query'] == [f'image_{name}' for name in names]
    dates = {image['source']: image['metadata']['created'] for image in received}
    assert (dates['query'], dates['header']) == ('2026-01-31T12:00:00', '2025-01-31')
    assert dates[None] > '2026'
    assert all(image['tags'] == ['picked_by_system'] for image in received)
    assert {loop.jpeg(image['id']) for image in received} == set(jpegs)


def test_uploads_over_socketio_with_metadata(learner: NodeProcess, loop: MockLoopProcess) -> None:
    """Old and new versions of rosys upload without waiting for an answer, with `creation_date` in the metadata."""
    detected = learner.detect(CARD, {'autoupload': 'disabled'}).json()
    annotations = {
        'box_annotations': [{'category_name': 'person', 'x': 1.0, 'y': 1, 'width': 2, 'height': 2}],
        'point_annotations': [{'category_name': 'face-3', 'x': 1, 'y': 1.5}],
    }
    metadata = detected | annotations | {'created': None, 'creation_date': '2026-01-31T12:00:00', 'tags': ['mine']}
    image = {'format': 'jpeg', 'bytes': CARD}
    with learner.socketio() as client:
        client.emit('upload', {'image': image, 'metadata': metadata | {'source': 'old'}})
        new = {'source': 'new', 'tags': [], 'state': 'trash', 'created': '2025-01-31'}
        client.emit('upload', {'image': raw(make_card()), 'metadata': new})
        answer = client.call('upload', {'image': image, 'upload_priority': True, 'source': 'beside'})
        assert answer == {'status': 'OK'}
    received = {image['source']: image['metadata'] for image in arrived(learner, loop, 3)}
    assert set(received) == {'old', 'new', 'beside'}
    assert_read(poses_of(received['old']))
    assert received['old']['box_annotations'][0]['category_id'] == category_id('person')
    assert received['old']['point_annotations'][0]['category_name'] == 'face_3'
    assert received['old']['point_annotations'][0]['category_id'] == category_id('face_3')
    assert (received['old']['created'], received['old']['tags']) == (
        '2026-01-31T12:00:00',
        ['mine', 'picked_by_system'],
    )
    assert (received['new']['created'], received['new']['state']) == ('2025-01-31', 'trash')


def test_bad_uploads_are_refused_and_none_of_their_images_is_kept(learner: NodeProcess, loop: MockLoopProcess) -> None:
    """A file that is not an image, a broken one among good ones, or a wrong date or priority changes no counter."""
    before = learner.outbox()['saved']
    good = ('files', CARD)
    for files, query, status, message in (
        ([('files', b'garbage')], '', 415, 'not an image'),
        ([good, ('files', CARD[:2000])], '', 400, 'broken'),
        ([('file', CARD)], '', 422, 'files'),
        ([good], '?creation_date=yesterday', 422, 'ISO 8601'),
        ([good], '?upload_priority=perhaps', 422, 'upload_priority'),
    ):
        answer = httpx.post(f'{learner.url}/upload{query}', files=files)
        assert answer.status_code == status
        assert message in answer.json()['detail']
    jpeg = {'format': 'jpeg', 'bytes': CARD}
    box = {'category_name': 'dragon', 'x': 1, 'y': 1, 'width': 1, 'height': 1, 'model_name': '', 'confidence': 1}
    with learner.socketio() as client:
        for metadata, message in (
            ({'box_detections': [box]}, "knows no category 'dragon'"),
            ({'tags': 'a'}, 'tags'),
            ({'box_detections': [box | {'x': 'left'}]}, 'box_detections.0.x'),
            ({'created': 'yesterday'}, 'ISO 8601'),
        ):
            answer = client.call('upload', {'image': jpeg, 'metadata': metadata})
            assert message in answer['error']
        assert 'true or false' in client.call('upload', {'image': jpeg, 'upload_priority': 'false'})['error']
        assert 'ISO 8601' in client.call('detect', {'image': jpeg, 'creation_date': 'now'})['error']
    assert learner.outbox()['saved'] == before
    assert learner.detect(CARD).status_code == 200


def test_what_waits_can_be_looked_at(learner: NodeProcess, loop: MockLoopProcess) -> None:
    """The list of waiting images has count, bytes, age and details, and pictures come plain or with skeletons."""
    httpx.put(f'{learner.url}/outbox_mode', content='stopped')
    try:
        learner.detect(CARD, {'autoupload': 'all', 'source': 'first', 'tags': 'a,b'})
        eventually(lambda: learner.outbox()['waiting'] == 1)
        names = httpx.post(f'{learner.url}/upload?upload_priority=true', files={'files': CARD}).json()['names']
        listed = learner.outbox()
        assert (listed['mode'], listed['waiting'], listed['waiting_priority']) == ('stopped', 2, 1)
        assert listed['bytes'] == sum(image['bytes'] for image in listed['images']) > 2 * len(CARD)
        urgent, first = listed['images']
        assert (urgent['name'], urgent['priority'], urgent['persons']) == (names[0], True, 0)
        assert (first['persons'], first['tags'], first['source']) == (2, ['a', 'b'], 'first')
        assert listed['oldest'] == first['saved_at']
        assert len(httpx.get(f'{learner.url}/outbox?limit=1&offset=1').json()['images']) == 1
        address = f'{learner.url}/outbox/{first["name"]}'
        assert httpx.get(f'{address}/image').content == CARD
        assert_read(poses_of(httpx.get(f'{address}/metadata').json()))
        drawn = images.decode_image(httpx.get(f'{address}/image?skeletons=true').content)
        assert np.abs(drawn.astype(int) - images.decode_image(CARD)).mean() > 1
        for missing in ('nothing', '..', '%2e%2e%2fnormal', first['name'] + 'x'):
            assert httpx.get(f'{learner.url}/outbox/{missing}/image').status_code == 404
        assert httpx.get(f'{learner.url}/outbox?limit=-1').status_code == 422
        about = httpx.get(f'{learner.url}/about').json()['outbox']
        assert (about['waiting'], about['mode']) == (2, 'stopped')
    finally:
        httpx.put(f'{learner.url}/outbox_mode', content='continuous_upload')
    arrived(learner, loop, 2)


def test_without_a_loop_there_is_no_outbox(node: NodeProcess) -> None:
    """Without a Loop the routes of the outbox answer 409 and name the setting."""
    for path in ('outbox', 'outbox/x/image', 'outbox/x/metadata'):
        answer = httpx.get(f'{node.url}/{path}')
        assert answer.status_code == 409
        assert 'set LOOP_HOST' in answer.json()['detail']


def test_a_disk_that_refuses_is_told_and_survived(learner: NodeProcess, loop: MockLoopProcess) -> None:
    """While the disk accepts no large file, uploads get 507 and detections an answer; later images are stored."""
    failed = learner.outbox()['failed']
    large = images.encode_jpeg(np.random.default_rng(0).integers(0, 256, (200, 300, 3), dtype=np.uint8))
    uncertain = images.encode_jpeg(make_card([faded('face', x=200)]))
    limits = resource.prlimit(learner.process.pid, resource.RLIMIT_FSIZE)
    resource.prlimit(learner.process.pid, resource.RLIMIT_FSIZE, (60_000, limits[1]))
    try:
        answer = httpx.post(f'{learner.url}/upload', files=[('files', large), ('files', large)])
        assert answer.status_code == 507
        assert answer.json()['detail'].startswith('the outbox cannot store the image: ')
        assert answer.json()['detail'].endswith('0 of 2 images are accepted')
        with learner.socketio() as client:
            assert 'cannot store' in client.call('upload', {'image': {'format': 'jpeg', 'bytes': large}})['error']
        headers = {'camera_id': 'full-disk', 'source': 'robot-7'}
        assert 'uncertain' in learner.detect(uncertain, headers).json()['tags']
        eventually(lambda: learner.outbox()['failed'] == failed + 3)
    finally:
        resource.prlimit(learner.process.pid, resource.RLIMIT_FSIZE, limits)
    assert learner.outbox()['waiting'] == 0
    line = next(line for line in learner.log.read_text().splitlines() if 'will not reach the Learning Loop' in line)
    assert "camera 'full-disk'" in line
    assert "source 'robot-7'" in line
    assert 'uncertain' in learner.detect(uncertain, headers).json()['tags'], (
        'an image that could not be stored is relevant again'
    )
    (image,) = arrived(learner, loop, 1)
    assert image['source'] == 'robot-7'


def test_a_deleted_outbox_folder_is_made_anew(learner: NodeProcess, loop: MockLoopProcess) -> None:
    """The images of a deleted outbox folder count as vanished, and later images arrive."""
    httpx.put(f'{learner.url}/outbox_mode', content='stopped')
    before = learner.outbox()['vanished']
    assert httpx.post(f'{learner.url}/upload', files={'files': CARD}).status_code == 200
    shutil.rmtree(learner.data_folder / 'outbox')
    assert httpx.post(f'{learner.url}/upload?source=after', files={'files': CARD}).status_code == 200
    httpx.put(f'{learner.url}/outbox_mode', content='continuous_upload')
    (image,) = arrived(learner, loop, 1)
    assert image['source'] == 'after'
    assert learner.outbox()['vanished'] == before + 1


def test_an_outbox_folder_that_turned_into_a_file_is_told(learner: NodeProcess, loop: MockLoopProcess) -> None:
    """With a file in place of the outbox folder, uploads get 507 until it is repaired, and the node serves."""
    folder = learner.data_folder / 'outbox' / 'normal'
    failed = learner.outbox()['failed']
    folder.rmdir()
    folder.write_text('')
    assert httpx.post(f'{learner.url}/upload', files={'files': CARD}).status_code == 507
    assert learner.detect(CARD, {'autoupload': 'all'}).status_code == 200
    eventually(lambda: learner.outbox()['failed'] == failed + 2)
    folder.unlink()
    assert httpx.post(f'{learner.url}/upload', files={'files': CARD}).status_code == 200
    arrived(learner, loop, 1)


def test_stop_and_continue_end_as_asked(learner: NodeProcess, loop: MockLoopProcess) -> None:
    """While the Loop hangs, calls over Socket.IO are answered within rosys' 5 seconds, and the last mode wins."""
    loop.fault('images', 'delay', seconds=30)
    assert httpx.post(f'{learner.url}/upload', files={'files': CARD}).status_code == 200
    time.sleep(0.5)
    with learner.socketio() as client:
        assert client.call('set_outbox_mode', 'stopped', timeout=5) == {'status': 'OK'}
        assert client.call('get_outbox_mode') == {'outbox_mode': 'stopped'}
        assert client.call('set_outbox_mode', 'continuous_upload', timeout=5) == {'status': 'OK'}
        client.emit('set_outbox_mode', 'stopped')
        time.sleep(0.1)
        assert client.call('set_outbox_mode', 'continuous_upload', timeout=5) == {'status': 'OK'}
        assert client.call('get_outbox_mode') == {'outbox_mode': 'continuous_upload'}
        loop.clear_faults()
        client.call('set_outbox_mode', 'stopped')  # the hanging request would otherwise last half a minute
        client.call('set_outbox_mode', 'continuous_upload')
    eventually(lambda: learner.outbox()['waiting'] == 0)
    assert len({image['name'] for image in loop.images()}) == 1


@pytest.mark.parametrize(
    'client',
    [
        'websocket',
        pytest.param('polling', marks=pytest.mark.integration),
        pytest.param('none', marks=pytest.mark.integration),
    ],
)
@pytest.mark.integration
def test_sigterm_during_a_hanging_upload(tmp_path: Path, loop: MockLoopProcess, client: str) -> None:
    """The node exits within 5 seconds with code 0, keeps the image, and sends it after the next start."""
    loop.fault('images', 'delay', seconds=60)
    settings = {'UPLOAD_SECONDS': 0.1, **loop.settings}
    with running_node(tmp_path, **settings) as node:
        eventually(lambda: httpx.get(f'{node.url}/ready').status_code == 200)
        (name,) = httpx.post(f'{node.url}/upload', files={'files': CARD}).json()['names']
        time.sleep(1)  # until the request has begun
        if client == 'none':
            _terminate_in_time(node)
        else:
            with node.socketio(client):
                _terminate_in_time(node)
        assert (node.data_folder / 'outbox' / 'normal' / name / f'image_{name}.jpg').read_bytes() == CARD
    loop.clear_faults()
    before = len(loop.images())
    with running_node(tmp_path, **settings) as node:
        eventually(lambda: len(loop.images()) > before)
        assert node.outbox()['found'] == 1
    assert f'image_{name}' in {image['name'] for image in loop.images()}


def _terminate_in_time(node: NodeProcess) -> None:
    start = time.monotonic()
    node.process.terminate()
    assert node.process.wait(10) == 0
    assert time.monotonic() - start < 5
