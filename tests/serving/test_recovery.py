"""A runtime that fails while it runs: the node reports it, loads the model again, and serves again."""

import asyncio
import gc
import time
import weakref
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import httpx
import pytest

from benchmarks.support.cards import assert_read, make_card, poses_of
from benchmarks.support.loops import running_mock_loop
from benchmarks.support.packages import make_package
from benchmarks.support.processes import NodeProcess, running_node, running_node_without_model
from detector.engine.runtimes import Runtime
from detector.errors import InferenceFailed, RuntimeUnavailable
from detector.observability import request_context
from detector.pose import images
from detector.pose.pose import FloatArray
from detector.serving.recovery import FAULTS, Recovery
from tests.support.sabotage import Sabotage
from tests.support.scrapes import Scrape

CARD = images.encode_jpeg(make_card())


def ready(node: NodeProcess) -> httpx.Response:
    return httpx.get(f'{node.url}/ready')


def until_ready(node: NodeProcess, status: int, text: str = '') -> None:
    deadline = time.monotonic() + 30
    while time.monotonic() < deadline:
        answer = ready(node)
        if answer.status_code == status and text in answer.text:
            return
        time.sleep(0.05)
    raise AssertionError(f'not {status} {text}: {ready(node).text}')


def test_a_device_that_disappears_and_comes_back(tmp_path: Path) -> None:
    """Single failures are reported; after three in a row no model is loaded until it has been loaded again."""
    sabotage = Sabotage(tmp_path / 'sabotage')
    with running_node(tmp_path, **sabotage.settings) as node, node.socketio() as client:
        for state in (sabotage.broken, sabotage.end):  # a single failure
            state()
            answer = node.detect(CARD)
            assert answer.status_code == (503 if state == sabotage.broken else 200)
            assert ready(node).status_code == 200
        sabotage.gone()
        errors = [node.detect(CARD) for _ in range(FAULTS - 1)]
        assert errors[0].json()['detail'].startswith('onnxruntime on CPUExecutionProvider fails: CUDA failure 700')
        assert {error.status_code for error in errors} == {503}
        event = client.call('detect', {'image': {'format': 'jpeg', 'bytes': CARD}})
        assert 'CUDA failure 700' in event['error']
        assert 'the model is being loaded again' in ready(node).json()['detail']
        until_ready(node, 503, 'the model cannot be loaded again')
        assert 'no CUDA-capable device' in ready(node).text
        assert node.detect(CARD).status_code == 503
        assert httpx.get(f'{node.url}/health').status_code == 200
        sabotage.broken()  # the device is back, but fails the trial inference
        until_ready(node, 503, 'a trial inference failed')
        sabotage.end()
        until_ready(node, 200)
        assert_read(poses_of(node.detect(CARD).json()))
        scrape = Scrape.of_node(node.url)
        assert scrape.total('wholebody_model_switches_total', outcome='failed') >= 2  # one attempt each way
        assert scrape.total('wholebody_refused_total', reason='runtime_fails') == 1 + FAULTS
    assert 'the model cannot be loaded again; the next try is in 1 seconds' in node.log.read_text()


def test_a_device_that_is_away_at_the_start_is_waited_for(tmp_path: Path) -> None:
    """The node serves without a restart once the device is there."""
    sabotage = Sabotage(tmp_path / 'sabotage')
    sabotage.gone()
    with running_node_without_model(tmp_path, **sabotage.settings) as node:
        until_ready(node, 503, 'no CUDA-capable device')
        sabotage.end()
        until_ready(node, 200)
        assert_read(poses_of(node.detect(CARD).json()))


@pytest.mark.integration
def test_the_model_of_the_loop_stays_installed(tmp_path: Path) -> None:
    """A missing device is not a fault of the package: it is neither removed nor fetched again, and the Loop gets a
    report.
    """
    sabotage = Sabotage(tmp_path / 'sabotage')
    with running_mock_loop(tmp_path / 'loop') as loop:
        loop.upload_package(make_package(tmp_path / 'p.zip', version='7.0'), '7.0')
        loop.set_target('7.0')
        settings = {'POLL_SECONDS': 0.2, 'SYNC_CYCLES': 1, **loop.settings, **sabotage.settings}
        with running_node(tmp_path, **settings) as node:
            until_ready(node, 200, '"model_version":"test-card 7.0"')
            fetched = len(loop.requests('model_file'))
            sabotage.gone()
            for _ in range(FAULTS):
                assert node.detect(CARD).status_code == 503
            until_ready(node, 503, 'the model cannot be loaded again')
            time.sleep(1)
            assert (node.data_folder / 'models' / '7.0' / 'pose.onnx').exists()
            (detector,) = loop.detectors().values()
            assert 'CUDA failure' in str(detector)
            sabotage.end()
            until_ready(node, 200, '"model_version":"test-card 7.0"')
            assert len(loop.requests('model_file')) == fetched


class Failing(Runtime):
    name = 'failing'

    def _infer(self, batch: FloatArray) -> list[Any]:
        raise ZeroDivisionError


def test_whatever_a_runtime_raises_is_one_error() -> None:
    """The error carries the runtime's name, even if the exception has no text."""
    with pytest.raises(InferenceFailed, match='^failing fails: ZeroDivisionError$'):
        Failing().run(None)  # type: ignore[arg-type]


async def test_the_failed_model_is_released() -> None:
    """The failed model is released, although the error in a request's context refers to it."""

    class Engine:
        pass

    def infer(_: Engine) -> None:
        raise InferenceFailed('memory is full')

    async def fail(engine: Engine) -> None:
        request_context.begin()
        try:
            infer(engine)
        except InferenceFailed as error:
            request_context.note_error(error)
            for _ in range(FAULTS):
                watched.failed(package, error)

    async def reload(_: Path) -> None:
        raise RuntimeUnavailable('gone')

    watched = Recovery(unload=lambda _: None, reload=reload)
    package: Any = SimpleNamespace(folder=Path('model'))
    engine = Engine()
    kept = weakref.ref(engine)
    await asyncio.create_task(fail(engine))
    await asyncio.sleep(0)  # until then the event loop holds the task that has ended
    assert watched.package is not None
    del engine
    gc.collect()
    assert kept() is None
    await watched.stop()


async def test_tries_come_later_each_time_and_end(monkeypatch: pytest.MonkeyPatch) -> None:
    """Pauses grow up to a limit, one success resets the count of failures, and `stop` ends the attempts."""
    pauses: list[float] = []
    told: list[str] = []
    faults: list[Exception | None] = [RuntimeUnavailable('gone')] * 9 + [None]
    sleep = asyncio.sleep

    async def no_sleep(seconds: float) -> None:
        pauses.append(seconds)
        await sleep(0)

    async def reload(folder: Path) -> None:
        assert folder == Path('model')
        fault = faults.pop(0)
        if fault is not None:
            raise fault

    monkeypatch.setattr(asyncio, 'sleep', no_sleep)
    watched = Recovery(unload=told.append, reload=reload)
    package: Any = SimpleNamespace(folder=Path('model'))
    fault = InferenceFailed('runtime fails')
    for _ in range(5):
        for _ in range(FAULTS - 1):
            watched.failed(package, fault)
        watched.inferred()
    assert not told
    for _ in range(FAULTS + 2):
        watched.failed(package, fault)
    assert told == ['runtime fails; the model is being loaded again']
    while watched.package is not None:
        await sleep(0)
    assert pauses == [0.5, 1, 2, 4, 8, 16, 32, 60, 60, 60]
    assert told[-1] == 'runtime fails; the model cannot be loaded again: gone'
    faults.extend([RuntimeUnavailable('gone')] * 1000)
    for _ in range(FAULTS):
        watched.failed(package, fault)
    await watched.stop()
    assert watched.package is None
