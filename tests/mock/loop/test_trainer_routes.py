"""The routes of trainers and converters, driven by upstream's own clients."""

import io
import json
import zipfile
from pathlib import Path

from learning_loop_node.data_classes import BoxDetection, Context, Detections
from learning_loop_node.data_exchanger import DataExchanger
from learning_loop_node.loop_communication import LoopCommunicator
from learning_loop_node.trainer.downloader import TrainingsDownloader
from learning_loop_node.trainer.io_helpers import ActiveTrainingIO

from benchmarks.support.loops import MockLoopProcess
from benchmarks.support.packages import make_package
from detector.models.package import MODEL_FORMAT
from tests.support.mock_loop import CONTEXT


async def test_generated_projects_serve_upstreams_trainers(
    communicator: LoopCommunicator, loop: MockLoopProcess, tmp_path: Path
) -> None:
    """Upstream's code downloads training data and model, uploads detections and deletes the project."""
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
    """A new training gives a new model, a second format joins it, and the same content gets 409 with its id."""
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
    """`models?format=` lists models in that format; a converted model is added to its source."""
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
