"""A mock Loop for the tests of its parts."""

from collections.abc import AsyncIterator, Iterator
from pathlib import Path

import pytest
from learning_loop_node.globals import GLOBALS
from learning_loop_node.loop_communication import LoopCommunicator

from benchmarks.support.loops import MockLoopProcess, running_mock_loop


@pytest.fixture(scope='session')
def running(tmp_path_factory: pytest.TempPathFactory) -> Iterator[MockLoopProcess]:
    """A mock Loop for all tests, which reset it by `loop`."""
    with running_mock_loop(tmp_path_factory.mktemp('mock') / 'loop') as loop:
        yield loop


@pytest.fixture
def loop(running: MockLoopProcess) -> MockLoopProcess:
    """A mock in the state of its first start. `loop.http` is logged in."""
    running.reset()
    running.http.cookies.clear()
    assert running.login().status_code == 200
    return running


@pytest.fixture
def as_node(loop: MockLoopProcess, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Settings by which learning_loop_node finds the mock."""
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
