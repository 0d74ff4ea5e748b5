"""Pulls in the background of a node."""

import asyncio
from collections.abc import AsyncIterator, Iterator
from pathlib import Path
from typing import Any

import pytest

from benchmarks.support.packages import make_package
from benchmarks.support.processes import free_port
from detector.engine.verification import verify
from detector.errors import FolderInUse, InvalidPackage, InvalidRequest
from detector.models import downloads
from detector.models.library import ModelLibrary, PullRequest
from detector.models.pulling import ModelPull, PullState
from detector.models.store import ModelStore
from tests.support.file_server import FileServer
from tests.support.published_models import catalogue_of, published_networks

SMALL = PullRequest(mode='small')


class Node:
    """A data folder with a catalogue, and the versions that the pull has switched to."""

    def __init__(self, folder: Path, servers: tuple[FileServer, FileServer], **changes: Any) -> None:
        entries: dict[str, dict[str, Any]] = {'small': {'version': '1.0.1'}}
        catalogue = catalogue_of(folder, servers, entries=entries, **changes)
        self.library = ModelLibrary(ModelStore(folder / 'data'), catalogue)
        self.used: list[str] = []
        self.pull = ModelPull(self.library, verify=verify, use=self._use)

    async def _use(self, version: str) -> None:
        self.used.append(version)

    async def skip(self, _: str) -> None:
        """Stay with the model that serves."""

    async def until(self, stage: str) -> PullState:
        async with asyncio.timeout(30):
            while self.pull.state is None or self.pull.state.stage != stage:
                await asyncio.sleep(0.01)
        return self.pull.state


@pytest.fixture
def servers(monkeypatch: pytest.MonkeyPatch) -> Iterator[tuple[FileServer, FileServer]]:
    monkeypatch.setattr(downloads, '_PAUSE_SECONDS', 0)
    with published_networks() as running:
        yield running


@pytest.fixture
async def node(tmp_path: Path, servers: tuple[FileServer, FileServer]) -> AsyncIterator[Node]:
    made = Node(tmp_path, servers, megabytes=20)
    yield made
    await made.pull.stop()


async def test_a_model_is_pulled_with_progress_and_used(node: Node, servers: tuple[FileServer, FileServer]) -> None:
    """Progress rises to the size of both files; then the model is installed, and the node switches to it."""
    servers[1].chunk_seconds = 0.02
    assert node.pull.about() is None
    node.pull.start(SMALL)
    seen: list[tuple[int, int | None]] = []
    while node.pull.state is not None and node.pull.state.stage == 'downloading':
        seen.append((node.pull.state.received, node.pull.state.expected))
        await asyncio.sleep(0.01)
    state = await node.until('installed')
    size = sum(len(server.content) for server in servers)
    assert (state.received, state.expected, state.error) == (size, size, None)
    assert len({received for received, _ in seen}) > 2
    assert seen == sorted(seen, key=lambda now: now[0])
    assert node.used == ['1.0.1']
    assert node.library.find('small').version == '1.0.1'
    assert node.pull.about() == {
        'mode': 'small', 'stage': 'installed', 'received': size, 'expected': size, 'error': None,
    }  # fmt: skip


async def test_the_size_is_approximate_until_the_server_states_it(node: Node, tmp_path: Path) -> None:
    """Before the first byte the size is the catalogue's; files that are there count neither as size nor as progress."""
    assert set(node.library.missing_files('small')) == {'det.zip', 'pose.zip'}
    node.pull.start(SMALL)
    assert node.pull.state is not None
    assert node.pull.state.expected is None, 'the catalogue does not state the size of the estimator'
    await node.until('installed')
    assert node.library.missing_files('small') == {}
    node.pull.start(SMALL)
    assert node.pull.state.expected == 0
    assert (await node.until('installed')).received == 0


async def test_one_pull_at_a_time(node: Node, servers: tuple[FileServer, FileServer]) -> None:
    """A second pull is refused while one is in progress, and an unknown model without any trace."""
    servers[0].chunk_seconds = 0.02
    with pytest.raises(InvalidPackage, match="no model 'huge'"):
        node.pull.start(PullRequest(mode='huge'))
    assert node.pull.state is None
    node.pull.start(SMALL)
    with pytest.raises(FolderInUse, match='small is being downloaded; wait .* or cancel it'):
        node.pull.start(SMALL)
    await node.until('installed')
    node.pull.start(SMALL)


async def test_a_model_that_is_installed_during_the_download_stays(
    node: Node, servers: tuple[FileServer, FileServer], tmp_path: Path
) -> None:
    """If the Loop's model gets the same version during a download, it stays, and the pull fails with the remedy."""
    servers[1].chunk_seconds = 0.02
    node.pull.start(SMALL)
    await node.until('downloading')
    archive = make_package(tmp_path / 'loop.zip', version='1.0.1', name='of the Loop')
    await asyncio.to_thread(node.library.store.install, archive, verify=verify)
    assert node.pull.state is not None
    assert node.pull.state.stage == 'downloading'
    error = (await node.until('failed')).error
    assert error is not None
    assert 'of the Loop is installed as version 1.0.1, which small would overwrite: remove it with' in error
    assert [model.name for model in node.library.installed()] == ['of the Loop']
    assert node.used == []


async def test_a_cancelled_download_is_continued(node: Node, servers: tuple[FileServer, FileServer]) -> None:
    """After a cancellation nothing is installed, and the next pull requests only the rest of the file."""
    with pytest.raises(InvalidRequest, match='no download is in progress'):
        await node.pull.cancel()
    servers[1].chunk_seconds = 0.05
    node.pull.start(SMALL)
    while node.pull.state is None or node.pull.state.received < len(servers[0].content) + 60_000:
        await asyncio.sleep(0.01)
    await node.pull.cancel()
    assert node.pull.state.stage == 'cancelled'
    assert node.used == []
    assert node.library.installed() == []
    servers[1].chunk_seconds = 0
    node.pull.start(SMALL)
    await node.until('installed')
    assert servers[1].ranges[-1] is not None
    with pytest.raises(InvalidRequest, match='no download is in progress'):
        await node.pull.cancel()


async def test_a_failure_is_kept_with_its_remedy(
    tmp_path: Path, servers: tuple[FileServer, FileServer], caplog: pytest.LogCaptureFixture
) -> None:
    """The state names the files and the folder after a failed download, and a fault inside the node as such."""
    node = Node(tmp_path, servers, urls=[f'http://127.0.0.1:{free_port()}/det.zip'])
    node.pull.start(SMALL)
    error = (await node.until('failed')).error
    assert error is not None
    assert 'could not connect' in error
    assert f'put the files into {tmp_path / "data" / "downloads"}' in error
    assert [one.message for one in caplog.records if one.levelname != 'INFO'] == [f'small cannot be pulled: {error}']
    caplog.clear()
    node.pull.start(SMALL, use=node.skip)
    await node.until('failed')
    assert [one for one in caplog.records if one.levelname != 'INFO'] == [], (
        'a caller with its own way to switch reports the failure'
    )
    node = Node(tmp_path, servers)

    async def fails(_: str) -> None:
        raise RuntimeError('boom')

    node.pull = ModelPull(node.library, verify=verify, use=fails)
    node.pull.start(SMALL)
    assert (await node.until('failed')).error == "a fault inside the node: RuntimeError('boom')"
