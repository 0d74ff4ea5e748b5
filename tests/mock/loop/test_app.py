"""The mock Learning Loop as learning_loop_node's own clients and plain HTTP see it, over a real port."""

import asyncio
import io
import json
import zipfile
from collections.abc import AsyncIterator, Iterator
from dataclasses import asdict
from pathlib import Path
from typing import Any
from uuid import uuid4

import numpy as np
import pytest
from learning_loop_node.annotation.annotator_logic import AnnotatorLogic
from learning_loop_node.annotation.annotator_node import AnnotatorNode
from learning_loop_node.data_classes import BoxDetection, Context, Detections, ImageMetadata
from learning_loop_node.data_exchanger import DataExchanger
from learning_loop_node.detector.outbox import Outbox
from learning_loop_node.globals import GLOBALS
from learning_loop_node.loop_communication import LoopCommunicationException, LoopCommunicator
from learning_loop_node.trainer.downloader import TrainingsDownloader
from learning_loop_node.trainer.io_helpers import ActiveTrainingIO

from benchmarks.support.cards import CARD, make_card
from benchmarks.support.loops import MockLoopProcess, running_mock_loop
from benchmarks.support.packages import make_package, write_zip
from detector.engine.pose_engine import PoseEngine
from detector.models import package as model_package
from detector.models.package import MODEL_FORMAT
from detector.pose import images
from detector.wholebody_logic import WholebodyDetectorLogic

CONTEXT = Context(organization='zauberzeug', project='wholebody')


@pytest.fixture(scope='module')
def running(tmp_path_factory: pytest.TempPathFactory) -> Iterator[MockLoopProcess]:
    with running_mock_loop(tmp_path_factory.mktemp('mock') / 'loop') as loop:
        yield loop


@pytest.fixture
def loop(running: MockLoopProcess) -> MockLoopProcess:
    """A mock as at its first start, into which `loop.http` is logged in."""
    running.reset()
    running.http.cookies.clear()
    assert running.login().status_code == 200
    return running


@pytest.fixture
def as_node(loop: MockLoopProcess, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Settings from which learning_loop_node finds the mock."""
    for name, value in loop.settings.items():
        monkeypatch.setenv(name, value)
    for name in ('HOST', 'ORGANIZATION', 'PROJECT', 'USERNAME', 'PASSWORD', 'LOOP_USERNAME', 'LOOP_PASSWORD'):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setattr(GLOBALS, 'data_folder', str(tmp_path / 'data'))


@pytest.fixture
async def communicator(as_node: None) -> AsyncIterator[LoopCommunicator]:
    communicator = LoopCommunicator()
    yield communicator
    await communicator.shutdown()


def metadata(**changes: Any) -> bytes:
    return json.dumps(asdict(ImageMetadata()) | changes).encode()


def send_images(loop: MockLoopProcess, files: dict[str, bytes]) -> Any:
    return loop.http.post(f'{loop.api}/images', files=[('files', (name, data)) for name, data in files.items()])


# ---- login


def test_what_needs_a_login_answers_401_without_and_what_does_not_serves(loop: MockLoopProcess) -> None:
    """As upstream: images are posted and model files fetched without a cookie, all else needs it."""
    model = loop.models()[0]['id']
    loop.http.cookies.clear()
    needing = ['deployment/target', 'models', 'data', 'images', f'images/{model}/main', 'trainings']
    assert {loop.http.get(f'{loop.api}/{path}').status_code for path in needing} == {401}
    assert loop.http.post(f'{loop.api}/detectors', json={}).status_code == 401
    assert loop.http.post('/api/zauberzeug/projects/generator', json={}).status_code == 401
    assert loop.http.delete(loop.api).status_code == 401
    assert loop.http.get('/api/status').status_code == 200
    assert loop.http.get(f'{loop.api}/models/{model}/{MODEL_FORMAT}/file').status_code == 200
    assert send_images(loop, {'a.jpg': CARD}).status_code == 200


def test_login_sets_a_cookie_for_empty_credentials_and_logout_ends_it(loop: MockLoopProcess) -> None:
    """Exactly 200 and a Set-Cookie are what nodes need; an expired login is 401 again."""
    answer = loop.login()
    assert answer.status_code == 200
    assert 'session=' in answer.headers['set-cookie']
    assert loop.http.get(f'{loop.api}/models').status_code == 200
    kept = dict(loop.http.cookies)
    assert loop.http.post('/api/logout').status_code == 200
    assert loop.http.get(f'{loop.api}/models', headers={'Cookie': f'session={kept["session"]}'}).status_code == 401
    loop.login()
    loop.expire_sessions()
    assert loop.http.get(f'{loop.api}/models').status_code == 401


async def test_upstreams_communicator_logs_in_again_and_out(
    loop: MockLoopProcess, communicator: LoopCommunicator
) -> None:
    """The real client: login, a second one after the first has expired, readiness, logout."""
    path = '/zauberzeug/projects/wholebody/deployment/target'
    assert (await communicator.get(path)).json()['version'] == '1.0'
    await asyncio.to_thread(loop.expire_sessions)
    assert (await communicator.get(path)).status_code == 200
    assert await communicator.backend_ready(timeout=1)
    await communicator.logout()
    assert not communicator.get_cookies()


async def test_configured_credentials_are_asked_for(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """With a user name set, all others are answered with 401."""
    with running_mock_loop(tmp_path / 'loop', username='robot', password='secret') as loop:
        assert loop.login().status_code == 401
        assert loop.login('robot', 'wrong').status_code == 401
        assert loop.login('robot', 'secret').status_code == 200
        monkeypatch.setenv('LOOP_HOST', loop.host)
        communicator = LoopCommunicator()
        with pytest.raises(LoopCommunicationException):
            await communicator.ensure_login()
        await communicator.shutdown()


# ---- models and target


def test_a_new_mock_offers_the_test_card_model(loop: MockLoopProcess, tmp_path: Path) -> None:
    """Version 1.0 is the target, and its zip is a valid package that names itself as the Loop does."""
    target = loop.http.get(f'{loop.api}/deployment/target').json()
    model = loop.http.get(f'{loop.api}/models').json()['models'][0]
    assert target == {'model_uuid': model['id'], 'version': '1.0'}
    assert model['formats'] == [MODEL_FORMAT]
    answer = loop.http.get(f'{loop.api}/models/{model["id"]}/{MODEL_FORMAT}/file')
    assert answer.headers['content-type'] == 'application/zip'
    assert 'filename="' in answer.headers['content-disposition']
    archive = tmp_path / 'package.zip'
    archive.write_bytes(answer.content)
    assert model_package.file_sha256(archive) == answer.headers['etag'].strip('"')
    (tmp_path / 'package').mkdir()
    assert model_package.unpack(archive, tmp_path / 'package').version == '1.0'
    description = json.loads((tmp_path / 'package' / 'model.json').read_bytes())
    assert (description['id'], description['organization'], description['project']) == (
        model['id'],
        'zauberzeug',
        'wholebody',
    )


def test_a_package_becomes_the_next_version_whatever_it_says_itself(loop: MockLoopProcess, tmp_path: Path) -> None:
    """The version in the served model.json is the announced one; target and list follow."""
    package = make_package(tmp_path / 'package.zip', version='7.7')
    second = loop.upload_package(package)
    tenth = loop.upload_package(package, '1.9')
    loop.upload_package(package)
    assert [model['version'] for model in loop.models()] == ['1.0', '1.1', '1.9', '1.10']
    loop.set_target('1.1')
    assert loop.target() == {'model_uuid': second, 'version': '1.1'}
    loop.set_target(model_uuid=tenth)
    assert loop.http.get(f'{loop.api}/deployment/target').json() == {'model_uuid': tenth, 'version': '1.9'}
    content = loop.http.get(f'{loop.api}/models/{second}/{MODEL_FORMAT}/file').content
    with zipfile.ZipFile(io.BytesIO(content)) as archive:
        assert json.loads(archive.read('model.json'))['version'] == '1.1'
        assert sorted(archive.namelist()) == ['det.onnx', 'model.json', 'pose.onnx']


def test_folders_in_a_zip_stay_and_any_bytes_can_be_handed_out(loop: MockLoopProcess, tmp_path: Path) -> None:
    """For tests of a node's distrust: nested zips, and what is no zip at all."""
    nested = write_zip(tmp_path / 'nested.zip', {'a/b/model.json': b'{}', 'a/b/det.onnx': b'x'})
    model = loop.upload_package(nested)
    content = loop.http.get(f'{loop.api}/models/{model}/{MODEL_FORMAT}/file').content
    assert zipfile.ZipFile(io.BytesIO(content)).namelist() == ['a/b/model.json', 'a/b/det.onnx']
    html = tmp_path / 'page.html'
    html.write_bytes(b'<html>')
    model = loop.upload_package(html, rewrite=False)
    assert loop.http.get(f'{loop.api}/models/{model}/{MODEL_FORMAT}/file').content == b'<html>'


def test_bad_packages_and_unknown_things_are_refused_by_name(loop: MockLoopProcess, tmp_path: Path) -> None:
    """Errors say what is wrong; nothing is left of what was refused."""
    page = tmp_path / 'page.zip'
    page.write_bytes(b'<html>')
    for path, version, message in (
        (page, None, 'not a readable zip'),
        (write_zip(tmp_path / 'empty.zip', {'x': b''}), None, 'no model.json'),
        (write_zip(tmp_path / 'list.zip', {'model.json': b'[]'}), None, 'not an object'),
        (make_package(tmp_path / 'good.zip'), '1.0', 'exists already'),
    ):
        with pytest.raises(Exception, match=message):
            loop.upload_package(path, version)
    for call in (lambda: loop.set_target('9.9'), lambda: loop.delete_model('x'), lambda: loop.reports('x')):
        with pytest.raises(Exception, match='no (model|detector)'):
            call()
    assert len(loop.models()) == 1
    assert len(list((loop.folder / 'projects/zauberzeug/wholebody/models').iterdir())) == 1
    assert loop.http.get(f'{loop.api}x/models').status_code == 404
    assert loop.http.get(f'{loop.api}/models/x/y/file').status_code == 404


def test_malformed_targets_and_twins_can_be_set_up(loop: MockLoopProcess, tmp_path: Path) -> None:
    """A target without version or with a number, two models of one version, and none at all."""
    for body in ({'model_uuid': 'x'}, {'model_uuid': 'x', 'version': 1.1}, [], None):
        loop.set_raw_target(body)
        assert loop.http.get(f'{loop.api}/deployment/target').json() == body
    loop.upload_package(make_package(tmp_path / 'twin.zip'), '1.0', duplicate=True)
    assert [model['version'] for model in loop.models()] == ['1.0', '1.0']
    loop.set_target('1.0')
    newest = loop.models()[1]['id']
    assert loop.target()['model_uuid'] == newest
    loop.delete_model(newest)
    assert loop.http.get(f'{loop.api}/deployment/target').status_code == 404


async def test_upstreams_data_exchanger_downloads_the_model(
    communicator: LoopCommunicator, loop: MockLoopProcess, tmp_path: Path
) -> None:
    """The real client unpacks what the mock serves."""
    exchanger = DataExchanger(CONTEXT, communicator)
    folder = tmp_path / 'model'
    folder.mkdir()
    files = await exchanger.download_model(str(folder), CONTEXT, loop.target()['model_uuid'], MODEL_FORMAT)
    assert {Path(file).name for file in files} == {'model.json', 'det.onnx', 'pose.onnx'}
    assert model_package.open_package(folder).version == '1.0'


def test_a_download_resumes(loop: MockLoopProcess) -> None:
    """Range with If-Range: the rest of the same file, the whole of another one, 416 beyond the end."""
    path = f'{loop.api}/models/{loop.target()["model_uuid"]}/{MODEL_FORMAT}/file'
    whole = loop.http.get(path)
    headers = {'Range': 'bytes=1000-', 'If-Range': whole.headers['etag']}
    rest = loop.http.get(path, headers=headers)
    assert (rest.status_code, rest.content) == (206, whole.content[1000:])
    assert rest.headers['content-range'] == f'bytes 1000-{len(whole.content) - 1}/{len(whole.content)}'
    other = loop.http.get(path, headers=headers | {'If-Range': '"another"'})
    assert (other.status_code, other.content) == (200, whole.content)
    assert loop.http.get(path, headers={'Range': 'bytes=99999999-'}).status_code == 416
    assert loop.requests('model_file')[-1]['range'] == 'bytes=99999999-'


# ---- images and reports


async def test_upstreams_outbox_delivers_with_encoded_names(
    as_node: None, loop: MockLoopProcess, engine: PoseEngine
) -> None:
    """Twenty pairs in aiohttp's own multipart; the colons of the names come back, the metadata whole."""
    found = WholebodyDetectorLogic(engine).evaluate(make_card())
    found.tags, found.source, found.created = ['night', 'a b'], 'cam', '2026-01-02'
    outbox = Outbox()
    for _ in range(20):
        await outbox.save(CARD, found)
    await outbox.upload()
    assert outbox.upload_counter == 20
    assert not outbox.get_upload_folders()
    received = await asyncio.to_thread(loop.images, 'night')
    assert len(received) == 20
    first = received[0]
    assert ':' in first['name']
    assert (first['boxes'], first['points'], first['source'], first['state']) == (2, 266, 'cam', 'inbox')
    assert first['metadata']['box_detections'] == [asdict(box) for box in found.box_detections]
    assert loop.jpeg(first['id']) == CARD
    assert loop.images('day') == []


async def test_upstreams_outbox_drops_only_the_broken_image(as_node: None, loop: MockLoopProcess) -> None:
    """422 for a batch with a broken JPEG: the others arrive once each, as the outbox halves the batch."""
    outbox = Outbox()
    for index in range(8):
        await outbox.save(CARD if index != 5 else CARD[: len(CARD) // 2])
    await outbox.upload()
    assert not outbox.get_upload_folders()
    names = [image['name'] for image in await asyncio.to_thread(loop.images)]
    assert len(names) == len(set(names)) == 7


@pytest.mark.parametrize(
    ('files', 'message'),
    [
        ({'a.json': metadata(), 'a.jpg': b'text'}, 'a: the image is broken'),
        ({'a.json': metadata(), 'a.jpg': CARD[:2000]}, 'a: the image is broken'),
        ({'a.json': b'{', 'a.jpg': CARD}, 'a: the metadata is not JSON'),
        ({'a.json': b'[]', 'a.jpg': CARD}, 'a: the metadata'),
        ({'a.json': b'{"x": NaN}', 'a.jpg': CARD}, 'NaN is no JSON number'),
        ({'a.json': metadata(tags=[1]), 'a.jpg': CARD}, 'a: tags.0'),
        ({'a.json': metadata(box_detections=[{'x': 1.5}]), 'a.jpg': CARD}, 'box_detections.0'),
        ({'a%3A.json': metadata()}, 'a:: there is metadata, but no image'),
        ({'a%3A.jpg': CARD, 'a:.jpg': CARD}, 'a second image'),
    ],
    ids=lambda value: None if isinstance(value, dict) else value,
)
def test_a_broken_part_rejects_the_whole_batch(loop: MockLoopProcess, files: dict[str, bytes], message: str) -> None:
    """422 with a detail that names the image; nothing is stored."""
    answer = send_images(loop, {'good.json': metadata(), 'good.jpg': CARD} | files)
    assert answer.status_code == 422
    assert message in answer.json()['detail']
    assert loop.images() == []


def test_skeletons_are_drawn_over_what_was_received(loop: MockLoopProcess, engine: PoseEngine) -> None:
    """The picture for people differs from the image where the persons are; without boxes it does not."""
    found = json.dumps(asdict(WholebodyDetectorLogic(engine).evaluate(make_card()))).encode()
    assert send_images(loop, {'a.jpg': CARD, 'a.json': found, 'b.jpg': CARD, 'b.json': metadata()}).status_code == 200
    drawn = [images.decode(loop.jpeg(image['id'], skeletons=True)).astype(int) for image in loop.images()]
    changed = [int((np.abs(picture - images.decode(CARD)) > 60).any(axis=-1).sum()) for picture in drawn]
    assert changed[0] > 2000
    assert changed[1] == 0
    loop.delete_images()
    assert loop.images() == []


def test_status_reports_are_kept_with_a_bounded_history(loop: MockLoopProcess) -> None:
    """The latest per detector, and its last hundred; a report that lacks a field is 422."""
    report = {
        'uuid': 'u', 'name': 'n', 'state': 'online', 'uptime': 1, 'model_format': 'f', 'current_model': None,
        'target_model': '1.0', 'errors': {}, 'operation_mode': 'idle', 'node_version': None,
    }  # fmt: skip
    for uptime in range(103):
        assert loop.http.post(f'{loop.api}/detectors', json=report | {'uptime': uptime}).status_code == 200
    assert loop.detectors()['u']['uptime'] == 102
    assert [entry['uptime'] for entry in loop.reports('u')] == list(range(3, 103))
    assert loop.http.post(f'{loop.api}/detectors', json={'uuid': 'u'}).status_code == 422


# ---- trainers, annotators, converters


async def test_generated_projects_serve_upstreams_trainers(
    communicator: LoopCommunicator, loop: MockLoopProcess, tmp_path: Path
) -> None:
    """Generate, download the training data and the model, upload detections, delete: with upstream's code."""
    wanted = {'project_name': 'demo', 'complete': 3, 'inbox': 1, 'box_categories': 2, 'trainings': 1, 'thumbs': False}
    assert (await communicator.post('/zauberzeug/projects/generator', json=wanted)).status_code == 200
    context = Context(organization='zauberzeug', project='demo')
    exchanger = DataExchanger(context, communicator)
    assert len(await exchanger.fetch_image_uuids()) == 4
    data, skipped = await TrainingsDownloader(exchanger).download_training_data(str(tmp_path / 'images'))
    assert (len(data), skipped) == (3, 0)
    assert {image['set'] for image in data} <= {'train', 'test'}

    trainings = (await communicator.get('/zauberzeug/projects/demo/trainings')).json()
    model = trainings['charts'][0]['data'][0]['model_id']
    (tmp_path / 'model').mkdir()
    files = await exchanger.download_model(str(tmp_path / 'model'), context, model, 'mocked')
    assert sorted(Path(file).name for file in files) == ['file_1.txt', 'file_2.txt', 'model.json']
    assert json.loads((tmp_path / 'model' / 'model.json').read_bytes())['format'] == 'mocked'

    box = BoxDetection(category_name='c', x=1, y=2, width=3, height=4, model_name='1.0', confidence=0.5)
    sent = [Detections(box_detections=[box], image_id=data[0]['id'])] * 101
    await ActiveTrainingIO(str(tmp_path), communicator, context)._upload_detections_batched(context, sent)
    stored = loop.http.get('/mock/projects/zauberzeug/demo/detections').json()['detections']
    assert [entry['image_id'] for entry in stored] == 101 * [data[0]['id']]
    too_many = await communicator.post('/zauberzeug/projects/demo/detections', json=101 * [{}])
    assert too_many.status_code == 422

    assert (await communicator.post('/zauberzeug/projects/generator', json=wanted)).status_code == 409
    assert (await communicator.delete('/zauberzeug/projects/demo?keep_images=true')).status_code == 200
    assert (await communicator.delete('/zauberzeug/projects/demo')).status_code == 404


async def test_upstreams_trainers_upload_models(
    communicator: LoopCommunicator, loop: MockLoopProcess, tmp_path: Path
) -> None:
    """A new training is a new model, a second format joins it, the same again is 409 with its id."""
    exchanger = DataExchanger(CONTEXT, communicator)
    for name, content in (('model.json', '{"categories": []}'), ('det.onnx', 'd'), ('pose.onnx', 'p')):
        (tmp_path / name).write_text(content)
    files = [str(tmp_path / name) for name in ('det.onnx', 'pose.onnx', 'model.json')]
    first = await exchanger.upload_model_get_uuid(CONTEXT, files, 3, MODEL_FORMAT)
    assert await exchanger.upload_model_get_uuid(CONTEXT, files, 3, MODEL_FORMAT) == first
    assert await exchanger.upload_model_get_uuid(CONTEXT, files, 3, 'other') == first
    (tmp_path / 'det.onnx').write_text('changed')
    second = await exchanger.upload_model_get_uuid(CONTEXT, files, 3, MODEL_FORMAT)
    assert [(model['version'], model['formats']) for model in loop.models()[1:]] == [
        ('3.0', [MODEL_FORMAT, 'other']),
        ('3.1', [MODEL_FORMAT]),
    ]
    conflict = await communicator.put(
        f'/zauberzeug/projects/wholebody/trainings/3/models/latest/{MODEL_FORMAT}/file', files=files
    )
    assert (conflict.status_code, conflict.json()) == (409, {'detail': {'id': second}})
    (tmp_path / 'model').mkdir()
    await exchanger.download_model(str(tmp_path / 'model'), CONTEXT, str(first), 'other')
    assert json.loads((tmp_path / 'model' / 'model.json').read_bytes())['version'] == '3.0'
    assert (tmp_path / 'model' / 'det.onnx').read_text() == 'd'
    without = await communicator.put('/zauberzeug/projects/wholebody/trainings/4/models/latest/f/file', files=files[:2])
    assert without.status_code == 422


def test_converters_read_and_add_formats(loop: MockLoopProcess, tmp_path: Path) -> None:
    """`models?format=` lists what is available in it; a converted model joins the one it came from."""
    package = make_package(tmp_path / 'package.zip')
    with package.open('rb') as file:
        uploaded = loop.http.post(f'{loop.api}/format_a', files={'files': file}).json()
    assert uploaded['version'] == '1.1'

    def listed(name: str) -> list[tuple[str, list[str]]]:
        answer = loop.http.get(f'{loop.api}/models', params={'format': name}).json()
        return [(model['id'], model['formats']) for model in answer['models']]

    assert listed('format_a') == [(uploaded['id'], ['format_a'])]
    assert listed('format_b') == []
    parts = [('files', ('model.json', b'{}')), ('files', ('weights.bin', b'w'))]
    assert loop.http.post(f'{loop.api}/models/{uploaded["id"]}/format_b', files=parts).status_code == 200
    assert listed('format_b') == [(uploaded['id'], ['format_a', 'format_b'])]
    content = loop.http.get(f'{loop.api}/models/{uploaded["id"]}/format_b/file').content
    with zipfile.ZipFile(io.BytesIO(content)) as archive:
        assert json.loads(archive.read('model.json'))['version'] == '1.1'
    assert loop.http.post(f'{loop.api}/models/unknown/format_b', files=parts).status_code == 404


class _Tool(AnnotatorLogic):  # type: ignore[misc]
    logged_out: str | None = None

    async def handle_user_input(self, user_input: Any, history: Any) -> Any:
        raise NotImplementedError

    def create_empty_history(self) -> dict[str, Any]:
        return {}

    def logout_user(self, sid: str) -> bool:
        self.logged_out = sid
        return True


async def test_upstreams_nodes_connect_by_socketio(as_node: None, loop: MockLoopProcess) -> None:
    """A real annotator logs in, connects and reports; events sent on request reach it and are answered."""
    tool = _Tool()
    node = AnnotatorNode('annotator', tool, uuid=str(uuid4()))
    await node.reconnect_to_loop()
    try:
        await node.send_status()
        assert not node.socket_connection_broken
        found = (await asyncio.to_thread(loop.http.get, '/mock/nodes')).json()['nodes']
        assert [(entry['node_type'], entry['project'], entry['status']['name']) for entry in found] == [
            ('annotation_node', 'wholebody', 'annotator')
        ]
        sent = {'arguments': ['user'], 'node_type': 'annotation_node'}
        answer = await asyncio.to_thread(loop.http.post, '/mock/nodes/user_logout', json=sent)
        assert answer.json()['answers'][0]['answer']['success'] is True
        assert tool.logged_out == 'user'

        assert node.sio_client is not None
        training = ('zauberzeug', 'wholebody', {'trainer_id': 't', 'best_epoch': 3})
        assert (await node.sio_client.call('update_training', training))['success'] is True
        assert (await node.sio_client.call('update_training', ('no', 'such', {})))['success'] is False
        assert (await node.sio_client.call('update_trainer', {'id': 't', 'name': 'trainer'}))['success'] is True
        shape = ('zauberzeug', 'wholebody', {'id': 'a', 'shape': {'points': []}})
        assert (await node.sio_client.call('update_segmentation_annotation', shape))['success'] is True
    finally:
        await node._on_shutdown()
    assert loop.http.get(f'{loop.api}/trainings').json()['trainings'][0]['best_epoch'] == 3


async def test_socketio_needs_the_cookie(as_node: None, loop: MockLoopProcess) -> None:
    """A node without a login is refused."""
    node = AnnotatorNode('annotator', _Tool(), uuid=str(uuid4()))
    node.needs_login = False
    with pytest.raises(Exception, match='Could not connect'):
        await node.reconnect_to_loop()
    await node._on_shutdown()


def test_the_openapi_page_has_a_summary_for_every_route(loop: MockLoopProcess) -> None:
    """Every operation says what it does; the paths of the Loop and of the mock are apart."""
    paths = loop.http.get('/openapi.json').json()['paths']
    assert {path.split('/')[1] for path in paths} == {'api', 'mock'}
    operations = [operation for path in paths.values() for operation in path.values()]
    assert len(operations) > 35
    assert all(operation['summary'] and operation['description'] for operation in operations)
    assert loop.http.get('/docs').status_code == 200
    assert loop.http.get('/').headers['location'] == '/ui/'
