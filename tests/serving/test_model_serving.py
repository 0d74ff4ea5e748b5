"""The model that a node serves."""

import time
from functools import partial
from pathlib import Path

import httpx
import pytest

from benchmarks.support.cards import CARD
from benchmarks.support.packages import hostile_network, make_package, with_network
from benchmarks.support.processes import NodeProcess, running_node, running_node_without_model
from benchmarks.support.waiting import eventually
from detector.engine.pose_engine import EngineOptions
from detector.engine.verification import verify
from detector.models import package as model_package
from detector.models.package import OfferedModel, file_sha256
from detector.models.store import ModelStore
from detector.observability.life import Life
from detector.observability.metrics import Metrics
from detector.serving.model_serving import ModelServing
from detector.settings import Settings


def test_without_a_model_the_node_says_503(tmp_path: Path) -> None:
    """With a damaged model the node is alive but not ready, and every answer has the reason."""
    data = tmp_path / 'data'
    store = ModelStore(data)
    package = store.install(make_package(tmp_path / 'p.zip'), verify=verify)
    package.estimator_path.write_bytes(b'damaged')
    with running_node_without_model(tmp_path) as node:
        deadline = time.monotonic() + 20
        while 'cannot serve' not in node.log.read_text() and time.monotonic() < deadline:
            time.sleep(0.1)
        ready = httpx.get(f'{node.url}/ready')
        assert ready.status_code == 503
        assert 'pose.onnx: sha256' in ready.json()['detail']
        assert node.detect(CARD).status_code == 503
        assert node.detect(CARD).json()['detail'].startswith('no model is loaded')
        assert httpx.get(f'{node.url}/health').status_code == 200
        assert 'pose.onnx: sha256' in httpx.get(f'{node.url}/about').json()['wholebody']['notice']
        with node.socketio() as client:
            client_answer = client.call('detect', {'image': {'format': 'jpeg', 'bytes': CARD}})
        assert client_answer['error'].startswith('no model is loaded')


def test_an_installed_model_is_served(tmp_path: Path) -> None:
    """The node finds at its start a model that the library or the command has installed."""
    ModelStore(tmp_path / 'data').install(make_package(tmp_path / 'p.zip', version='4.2', name='mine'), verify=verify)
    with running_node(tmp_path) as node:
        assert httpx.get(f'{node.url}/ready').json()['model_version'] == 'mine 4.2'
        assert node.detect(CARD).json()['box_detections'][0]['model_name'] == '4.2'
        assert httpx.get(f'{node.url}/model_version').json()['local_versions'] == ['4.2']


def _children(node: NodeProcess) -> list[int]:
    """Return the process ids of the children of a node."""
    tasks = Path(f'/proc/{node.process.pid}/task').glob('*/children')
    return [int(pid) for task in tasks for pid in task.read_text().split()]


def _install_sound_and_endless(folder: Path) -> ModelStore:
    """Install the model `sound 1.0`, which has passed its trial, and a model 9.9 whose graph loops for ever."""
    store = ModelStore(folder / 'data')
    options = EngineOptions(backend_type='onnxruntime', cache=store.data_folder / 'cache')
    sound = make_package(folder / 'sound.zip', version='1.0', name='sound')
    store.install(sound, verify=partial(verify, options=options))
    network = hostile_network(folder / 'network.onnx', grows=False)
    store.add(with_network(folder / 'endless.zip', 'estimator', network), OfferedModel(version='9.9', model_id='x'))
    return store


def test_a_node_that_tries_an_endless_model_serves_and_ends_in_time(tmp_path: Path) -> None:
    """The trial runs in a child process: requests are answered as before, and SIGTERM ends both processes."""
    _install_sound_and_endless(tmp_path)
    with running_node(tmp_path, BACKEND_TYPE='onnxruntime') as node:
        assert httpx.put(f'{node.url}/model_version', content='9.9').status_code == 200
        eventually(lambda: len(_children(node)) == 1, 'the trial runs')
        (child,) = _children(node)
        for _ in range(3):
            assert node.detect(CARD).json()['box_detections'][0]['model_name'] == '1.0'
        assert httpx.get(f'{node.url}/about').json()['update']['busy']
        start = time.monotonic()
        node.process.terminate()
        assert node.process.wait(20) == 0
        assert time.monotonic() - start < 8
        eventually(lambda: not Path(f'/proc/{child}').exists(), 'the trial has ended')
        assert 'forced exit' not in node.log.read_text()


def test_an_endless_model_does_not_keep_a_node_from_serving_another(tmp_path: Path) -> None:
    """At the start it is refused when its time is up, stays installed and current, and the other one serves."""
    store = _install_sound_and_endless(tmp_path)
    store.select('9.9')
    with running_node(tmp_path, BACKEND_TYPE='onnxruntime', TRIAL_SECONDS=2) as node:
        assert httpx.get(f'{node.url}/ready').json()['model_version'] == 'sound 1.0'
        log = node.log.read_text()
        assert 'models/9.9 cannot serve: a trial inference of det.onnx and pose.onnx has not ended within 2' in log
        assert not _children(node)
    assert store.versions() == ['1.0', '9.9']
    assert store.current() == store.folder('9.9').resolve()


async def test_a_deployed_model_is_hashed_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The networks of a package are hashed when it is unpacked, and not again when it is loaded."""
    hashed: list[str] = []

    def counting(path: Path) -> str:
        hashed.append(path.name)
        return file_sha256(path)

    archive = make_package(tmp_path / 'a.zip', version='1.1')
    settings = Settings(data_folder=tmp_path / 'data')
    serving = ModelServing(settings, metrics=Metrics(), life=Life())
    monkeypatch.setattr(model_package, 'file_sha256', counting)
    offered = OfferedModel(version='1.2', model_id='loop-model')
    await serving.switch(ModelStore(settings.data_folder).add(archive, offered))
    assert hashed == ['det.onnx', 'pose.onnx']
    assert serving.active().information.version == '1.2'
    hashed.clear()
    await serving.switch(serving.active().package.folder)
    assert hashed == ['det.onnx', 'pose.onnx']
    await serving.stop()
