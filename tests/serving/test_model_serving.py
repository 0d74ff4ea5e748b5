"""Which model a node serves."""

import time
from pathlib import Path

import httpx

from benchmarks.support.cards import CARD
from benchmarks.support.packages import make_package
from benchmarks.support.processes import running_node, running_node_without_model
from detector.engine.verification import verify
from detector.models.store import ModelStore


def test_without_a_model_the_node_says_503(tmp_path: Path) -> None:
    """A current model that is damaged: alive, not ready, and the reason in every answer."""
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
        assert node.detect(CARD).json()['detail'].startswith('no model serves')
        assert httpx.get(f'{node.url}/health').status_code == 200
        assert 'pose.onnx: sha256' in httpx.get(f'{node.url}/about').json()['wholebody']['notice']
        with node.socketio() as client:
            client_answer = client.call('detect', {'image': {'format': 'jpeg', 'bytes': CARD}})
        assert client_answer['error'].startswith('no model serves')


def test_an_installed_model_is_served(tmp_path: Path) -> None:
    """Installed by the library or command, found at the start."""
    ModelStore(tmp_path / 'data').install(make_package(tmp_path / 'p.zip', version='4.2', name='mine'), verify=verify)
    with running_node(tmp_path) as node:
        assert httpx.get(f'{node.url}/ready').json()['model_version'] == 'mine 4.2'
        assert node.detect(CARD).json()['box_detections'][0]['model_name'] == '4.2'
        assert httpx.get(f'{node.url}/model_version').json()['local_versions'] == ['4.2']
