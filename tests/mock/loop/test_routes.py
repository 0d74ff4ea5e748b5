"""The routes that a detector node calls, driven by upstream's own clients."""

import asyncio
from dataclasses import asdict
from pathlib import Path

from learning_loop_node.data_exchanger import DataExchanger
from learning_loop_node.detector.outbox import Outbox
from learning_loop_node.loop_communication import LoopCommunicator

from benchmarks.support.cards import CARD, make_card
from benchmarks.support.loops import MockLoopProcess
from detector.engine.pose_engine import PoseEngine
from detector.models import package as model_package
from detector.models.package import MODEL_FORMAT
from detector.wholebody_logic import WholebodyDetectorLogic
from tests.support.mock_loop import CONTEXT


async def test_upstreams_data_exchanger_downloads_the_model(
    communicator: LoopCommunicator, loop: MockLoopProcess, tmp_path: Path
) -> None:
    """The real client unpacks the served model."""
    exchanger = DataExchanger(CONTEXT, communicator)
    folder = tmp_path / 'model'
    folder.mkdir()
    files = await exchanger.download_model(str(folder), CONTEXT, loop.target()['model_uuid'], MODEL_FORMAT)
    assert {Path(file).name for file in files} == {'model.json', 'det.onnx', 'pose.onnx'}
    assert model_package.open_package(folder).version == '1.0'


def test_a_download_resumes(loop: MockLoopProcess) -> None:
    """Range with If-Range gives the rest of the same file, a changed file completely, and 416 beyond the end."""
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


async def test_upstreams_outbox_delivers_with_encoded_names(
    as_node: None, loop: MockLoopProcess, engine: PoseEngine
) -> None:
    """Twenty images in aiohttp's multipart keep the colons in their names and their metadata."""
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
    """A batch with a broken JPEG gets 422; the outbox halves it, and each other image arrives once."""
    outbox = Outbox()
    for index in range(8):
        await outbox.save(CARD if index != 5 else CARD[: len(CARD) // 2])
    await outbox.upload()
    assert not outbox.get_upload_folders()
    names = [image['name'] for image in await asyncio.to_thread(loop.images)]
    assert len(names) == len(set(names)) == 7


def test_status_reports_are_kept_with_a_bounded_history(loop: MockLoopProcess) -> None:
    """The latest hundred reports per detector are kept; a report that lacks a field gets 422."""
    report = {
        'uuid': 'u', 'name': 'n', 'state': 'online', 'uptime': 1, 'model_format': 'f', 'current_model': None,
        'target_model': '1.0', 'errors': {}, 'operation_mode': 'idle', 'node_version': None,
    }  # fmt: skip
    for uptime in range(103):
        assert loop.http.post(f'{loop.api}/detectors', json=report | {'uptime': uptime}).status_code == 200
    assert loop.detectors()['u']['uptime'] == 102
    assert [entry['uptime'] for entry in loop.reports('u')] == list(range(3, 103))
    assert loop.http.post(f'{loop.api}/detectors', json={'uuid': 'u'}).status_code == 422
