"""Repeated switches of models under load, with large packages, and with kills. The tests take minutes."""

import re
import signal
import time
import zipfile
from pathlib import Path

import numpy as np
import onnx
import pytest
from onnx import numpy_helper

from benchmarks.support.cards import CARD, RAW_CARD, assert_read, poses_of
from benchmarks.support.loops import MockLoopProcess, running_mock_loop
from benchmarks.support.packages import make_package, with_network
from benchmarks.support.processes import NodeProcess, running_node
from benchmarks.support.waiting import eventually
from mock.test_card.model import build_detector
from tests.support.load import Load

pytestmark = pytest.mark.integration


def large_package(path: Path, megabytes: int) -> Path:
    """Make a copy of the embedded package with unused random weights in its detector."""
    model = build_detector()
    ballast = np.random.default_rng(0).random(megabytes * 250_000, dtype=np.float32)
    model.graph.initializer.append(numpy_helper.from_array(ballast, 'ballast'))
    network = path.with_suffix('.onnx')
    onnx.save(model, network)
    with_network(path, 'detector', network)
    with zipfile.ZipFile(path) as archive:
        files = {name: archive.read(name) for name in archive.namelist()}
    with zipfile.ZipFile(path, 'w', zipfile.ZIP_STORED) as archive:
        for name, content in files.items():
            archive.writestr(name, content)
    network.unlink()
    return path


class SocketLoad(Load):
    """Load over Socket.IO with raw frames."""

    def _run(self) -> None:
        with self.node.socketio() as client:
            while not self._stop.is_set():
                try:
                    answer = client.call('detect', {'image': RAW_CARD}, timeout=60)
                    boxes = answer.get('box_detections', [])
                    assert len(boxes) == 2, str(answer)[:200]
                    self.versions |= {box['model_name'] for box in boxes}
                    self.answers += 1
                except Exception as error:
                    self.failures.append(repr(error))


def test_ten_switches_under_load_fail_no_request(tmp_path: Path) -> None:
    """No request of four clients fails during ten switches, and the switches never block the event loop for 0.1 s."""
    with running_mock_loop(tmp_path / 'loop') as loop:
        loop.upload_package(make_package(tmp_path / 'small.zip', version='1.1'), '1.1')
        loop.upload_package(large_package(tmp_path / 'large.zip', 200), '2.0')
        loop.set_target('1.1')
        settings = {'POLL_SECONDS': 0.5, 'DEADLINE': 60, 'KEEP_MODELS': 1, 'DEBUG': 1, **loop.settings}
        with running_node(tmp_path / 'node', **settings) as node:
            node.wait_for_version('1.1')
            started = len(node.log.read_text())
            with Load(node) as a, Load(node) as b, SocketLoad(node) as c, SocketLoad(node) as d:
                for number in range(10):
                    version = '2.0' if number % 2 == 0 else '1.1'
                    loop.set_target(version)
                    node.wait_for_version(version, 90)
                    a.wait_for_answers(2)
            for load in (a, b, c, d):
                assert load.failures == []
                assert load.answers > 20
                assert load.versions == {'1.1', '2.0'}
            log = node.log.read_text()[started:]
            eventually(lambda: not (node.data_folder / 'models' / '2.0').exists(), 'the other version is pruned')
            assert (node.data_folder / 'models' / '1.1').exists()
    assert 'Using selector' in node.log.read_text()  # asyncio is in debug mode, which logs slow steps
    held_up = [float(seconds) for seconds in re.findall(r'Executing .* took (\d+\.\d+) seconds', log)]
    # Each package is loaded five times: a slow step of the switch would appear each time, a busy machine only sometimes
    assert len([seconds for seconds in held_up if seconds > 0.1]) < 3, held_up


def restart_and_check(folder: Path, loop: MockLoopProcess, seconds: float, versions: set[str]) -> None:
    """Start a node, check it, change its target, and kill it after a time in seconds."""
    with running_node(folder, POLL_SECONDS=0.2, KEEP_MODELS=1, **loop.settings) as node:
        assert node.version in versions
        assert_read(poses_of(node.detect(CARD).json()))
        _change_target(loop, node)
        time.sleep(seconds)
        node.process.send_signal(signal.SIGKILL)
        node.process.wait()


def _change_target(loop: MockLoopProcess, node: NodeProcess) -> None:
    loop.set_target('2.0' if node.version == '1.1' else '1.1')


def test_sigkill_at_twenty_moments_leaves_a_good_model(tmp_path: Path) -> None:
    """Each restart serves a working model after a kill during download, unpacking or switching."""
    rng = np.random.default_rng(7)
    with running_mock_loop(tmp_path / 'loop') as loop:
        loop.upload_package(large_package(tmp_path / 'a.zip', 20), '1.1')
        loop.upload_package(large_package(tmp_path / 'b.zip', 20), '2.0')
        loop.fault('model_file', 'throttle', bytes_per_second=20_000_000)
        loop.set_target('1.1')
        with running_node(tmp_path / 'node', POLL_SECONDS=0.2, **loop.settings) as node:
            node.wait_for_version('1.1', 30)
        for _ in range(20):
            restart_and_check(tmp_path / 'node', loop, float(rng.uniform(0.1, 2.5)), {'1.1', '2.0'})
        with running_node(tmp_path / 'node', POLL_SECONDS=0.2, KEEP_MODELS=1, **loop.settings) as node:
            loop.set_target('1.1')
            node.wait_for_version('1.1', 30)
            models = node.data_folder / 'models'
            eventually(lambda: not list(models.glob('.*')), 'the leftovers of the killed nodes are removed')
