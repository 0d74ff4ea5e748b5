"""The first model: installed ones, embedded ones, and the published one that MODE names."""

import asyncio
import errno
import threading
from collections.abc import AsyncIterator, Callable
from pathlib import Path
from typing import Any

import httpx
import pytest

from benchmarks.support.cards import CARD
from benchmarks.support.packages import make_package
from benchmarks.support.processes import NodeProcess, node_process
from benchmarks.support.waiting import eventually
from detector.engine.verification import verify
from detector.errors import DownloadFailed, RuntimeUnavailable, StarterUnavailable
from detector.models import catalogue
from detector.models import starter as starter_model
from detector.models.library import ModelLibrary, PullRequest
from detector.models.package import ModelPackage
from detector.models.pulling import ModelPull
from detector.models.store import ModelStore
from detector.observability.life import Life
from detector.observability.metrics import Metrics
from detector.pose import images
from detector.serving import first_model, model_serving
from detector.serving.first_model import MAX_PAUSE_SECONDS, FirstModel
from detector.serving.model_serving import ModelServing, ServingModel
from detector.settings import Settings
from tests.support.photographs import portrait
from tests.support.published_models import catalogue_of, published_networks
from tests.support.starter import needs_starter

PATIENCE = 20


class Bench:
    """A `ModelServing` on a folder, and the versions that it served."""

    def __init__(self, folder: Path, **settings: Any) -> None:
        self.settings = Settings(data_folder=folder, **settings)
        self.store = ModelStore(folder)
        self.served: list[str] = []
        self.started = asyncio.Event()
        self.serving = ModelServing(self.settings, metrics=Metrics(), life=Life(), on_change=self._note)
        self.pull = ModelPull(ModelLibrary(self.store, self.settings.model_catalogue), verify=verify, use=self._refuse)
        self.first = FirstModel(self.settings, self.store, self.serving, self.pull, on_ended=self.started.set)

    async def _refuse(self, _: str) -> None:
        raise AssertionError('no client has chosen a model')

    async def stop(self) -> None:
        await self.first.stop()
        await self.pull.stop()
        await self.serving.stop()

    def _note(self, model: ServingModel | None) -> None:
        self.served += [] if model is None else [model.package.model_version]

    async def start(self) -> None:
        """Start, and wait until loading the first model has ended."""
        self.first.start()
        await asyncio.wait_for(self.started.wait(), PATIENCE)

    async def until(self, condition: Callable[[], object]) -> None:
        async with asyncio.timeout(PATIENCE):
            while not condition():
                await asyncio.sleep(0.01)


MakeBench = Callable[..., Bench]


@pytest.fixture
async def make_bench(tmp_path: Path) -> AsyncIterator[MakeBench]:
    made: list[Bench] = []

    def make(**settings: Any) -> Bench:
        made.append(Bench(tmp_path / 'data', **settings))
        return made[-1]

    yield make
    for bench in made:
        await bench.stop()


@pytest.fixture
def no_starter(monkeypatch: pytest.MonkeyPatch) -> None:
    """Let the starter model be unavailable, as on a Python without its wheel."""

    def unavailable(_: Path) -> Path:
        raise StarterUnavailable('mediapipe is not installed; run `uv sync`')

    monkeypatch.setattr(starter_model, 'starter_package', unavailable)


def install(folder: Path, version: str = '1.0', name: str = 'balanced') -> ModelPackage:
    archive = make_package(folder / f'{version}.zip', version=version, name=name)
    return ModelStore(folder / 'data').install(archive, verify=verify)


class Downloads:
    """Replaces the download of published models.

    :param faults: errors of the next attempts.
    """

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.faults: list[Exception] = []
        self.attempts: list[str] = []
        self.pauses: list[float] = []
        self.may_end = asyncio.Event()
        self.may_end.set()
        self._sleep = asyncio.sleep
        monkeypatch.setattr(catalogue, 'pull', self._pull)

    async def _pull(self, name: str, archive: Path, **_: object) -> None:
        self.attempts.append(name)
        await self.may_end.wait()
        if self.faults:
            raise self.faults.pop(0)
        make_package(archive, version='1.0.2', name=name)


@pytest.fixture
def downloads(monkeypatch: pytest.MonkeyPatch) -> Downloads:
    return Downloads(monkeypatch)


async def test_where_nothing_is_installed_the_starter_serves(make_bench: MakeBench, starter: list[Path]) -> None:
    """The starter is the default; nothing is downloaded, and the node has no fault."""
    bench = make_bench(mode='starter')
    await bench.start()
    assert bench.served == ['starter 0.0.1']
    assert bench.serving.active().information.version == 'starter'
    assert (bench.first.fault, bench.first.awaited) == (None, None)


async def test_an_operator_who_decides_otherwise_ends_the_download(
    make_bench: MakeBench, starter: list[Path], downloads: Downloads
) -> None:
    """After `set_aside`, the model that MODE names is neither downloaded nor served; after `resume` it is."""
    downloads.may_end.clear()
    bench = make_bench(mode='balanced')
    await bench.start()
    await bench.until(lambda: downloads.attempts)
    await bench.first.set_aside()
    assert bench.first.awaited is None
    assert bench.pull.state is not None
    assert bench.pull.state.stage == 'cancelled'
    downloads.may_end.set()
    await asyncio.sleep(0.1)
    assert bench.served == ['starter 0.0.1']
    assert bench.store.versions() == []
    await bench.first.resume()
    await bench.until(lambda: bench.store.has_current)
    assert bench.served == ['starter 0.0.1', 'balanced 1.0.2']
    await bench.first.resume()
    assert downloads.attempts == ['balanced', 'balanced']


async def test_an_operator_who_decides_while_the_model_is_loaded_wins(
    make_bench: MakeBench, starter: list[Path], downloads: Downloads, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A downloaded model that is being loaded when the operator decides otherwise does not begin to serve."""
    loading, may_load = threading.Event(), threading.Event()
    load = model_serving.load_model

    def slowly(source: Path | ModelPackage, settings: Settings) -> ServingModel:
        if isinstance(source, Path):
            loading.set()
            may_load.wait(PATIENCE)
        return load(source, settings)

    monkeypatch.setattr(model_serving, 'load_model', slowly)
    bench = make_bench(mode='balanced')
    await bench.start()
    await bench.until(loading.is_set)
    await bench.first.set_aside()
    may_load.set()
    await asyncio.sleep(0.3)
    assert bench.served == ['starter 0.0.1']
    assert not bench.store.has_current


async def test_a_decision_during_the_start_prevents_the_download(
    make_bench: MakeBench, starter: list[Path], downloads: Downloads
) -> None:
    """An operator may decide while the embedded model is still being loaded, which goes on."""
    bench = make_bench(mode='balanced')
    bench.first.start()
    await bench.first.set_aside()
    await asyncio.wait_for(bench.started.wait(), PATIENCE)
    await asyncio.sleep(0.1)
    assert bench.served == ['starter 0.0.1']
    assert downloads.attempts == []


async def test_the_test_card_serves_on_request(make_bench: MakeBench, starter: list[Path]) -> None:
    """MODE=test-card builds no starter."""
    bench = make_bench(mode='test-card')
    await bench.start()
    assert (bench.served, starter) == (['test-card 0.0'], [])


@pytest.mark.usefixtures('no_starter')
async def test_without_its_wheel_the_test_card_serves_and_names_the_command(
    make_bench: MakeBench, caplog: pytest.LogCaptureFixture
) -> None:
    """The command that brings the starter stands in the log, and in the fault that the node shows."""
    bench = make_bench(mode='starter')
    await bench.start()
    assert bench.served == ['test-card 0.0']
    assert bench.first.fault is not None
    assert 'run `uv sync`' in bench.first.fault
    assert 'finds no person in a photograph. The starter model cannot serve: mediapipe' in caplog.text


@pytest.mark.usefixtures('starter')
async def test_a_starter_that_cannot_run_here_gives_way_to_the_test_card(
    make_bench: MakeBench, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A runtime that rejects the starter's graph does not leave the node without a model."""
    load = model_serving.load_model

    def refusing(source: Path | ModelPackage, settings: Settings) -> ServingModel:
        if isinstance(source, ModelPackage) and source.name == 'starter':
            raise RuntimeUnavailable('opencv cannot run GridSample')
        return load(source, settings)

    monkeypatch.setattr(model_serving, 'load_model', refusing)
    bench = make_bench(mode='starter')
    await bench.start()
    assert bench.served == ['test-card 0.0']
    assert 'GridSample' in str(bench.first.fault)


async def test_the_awaited_model_takes_over_without_a_gap(
    make_bench: MakeBench, starter: list[Path], downloads: Downloads
) -> None:
    """The starter serves during the download; the published model follows it and is current from then on."""
    downloads.may_end.clear()
    bench = make_bench(mode='balanced')
    await bench.start()
    await bench.until(lambda: downloads.attempts)
    assert bench.served == ['starter 0.0.1']
    assert str(bench.first.awaited) == 'the balanced model (MODE) is being downloaded'
    downloads.may_end.set()
    await bench.until(lambda: bench.store.has_current)
    assert bench.served == ['starter 0.0.1', 'balanced 1.0.2']
    await bench.until(lambda: bench.first.awaited is None)
    assert list(bench.store.data_folder.rglob('*.zip')) == []


async def test_a_model_chosen_while_the_awaited_one_is_loaded_stays_current(
    make_bench: MakeBench,
    starter: list[Path],
    downloads: Downloads,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """The awaited model takes neither the place of a model that a command has just made current, nor its service."""
    bench = make_bench(mode='balanced')
    switch = bench.serving.switch

    async def meanwhile(source: Path | ModelPackage) -> None:
        if not bench.store.has_current and isinstance(source, Path):
            await asyncio.to_thread(install, tmp_path, '3.0', 'chosen')
        await switch(source)

    monkeypatch.setattr(bench.serving, 'switch', meanwhile)
    await bench.start()
    await bench.until(lambda: bench.pull.state and not bench.pull.state.running)
    assert bench.store.current() == bench.store.folder('3.0').resolve()
    assert bench.served == ['starter 0.0.1', 'balanced 1.0.2', 'chosen 3.0']


async def test_another_installed_model_ends_the_wait(
    make_bench: MakeBench, starter: list[Path], downloads: Downloads, tmp_path: Path
) -> None:
    """Once a command has installed a model, the node announces no further try to download the one that MODE names."""
    downloads.faults = [DownloadFailed('no route to host')]
    bench = make_bench(mode='balanced')
    await bench.start()
    await bench.until(lambda: 'the next try' in str(bench.first.awaited))
    install(tmp_path, '3.0', 'chosen')
    assert bench.first.awaited is None


@pytest.mark.usefixtures('no_starter')
async def test_a_download_that_comes_due_during_another_one_lets_it_finish(
    make_bench: MakeBench, tmp_path: Path
) -> None:
    """While a client's download runs, that of the awaited model does not begin, and says why; each file comes once."""
    with published_networks() as servers:
        servers[1].chunk_seconds = 0.05
        entries: dict[str, dict[str, Any]] = {'balanced': {'version': '1.0.1'}, 'lightweight': {'version': '1.0.2'}}
        catalogue_file = catalogue_of(tmp_path, servers, entries=entries)
        bench = make_bench(mode='balanced', model_catalogue=catalogue_file)

        async def use(version: str) -> None:
            bench.store.select(version)

        bench.pull.start(PullRequest(mode='lightweight'), use=use)
        await bench.start()
        await bench.until(lambda: bench.first.awaited and bench.first.awaited.error)
        assert 'lightweight is being downloaded; wait until it is installed' in str(bench.first.awaited)
        assert bench.pull.state is not None
        assert (bench.pull.state.mode, bench.pull.state.stage) == ('lightweight', 'downloading')
        await bench.until(lambda: bench.pull.state is not None and not bench.pull.state.running)
        assert bench.pull.state.stage == 'installed'
        assert [server.ranges for server in servers] == [[None], [None]]
        assert bench.store.versions() == ['1.0.2']
        assert bench.first.awaited is None


async def test_attempts_come_later_each_time(
    make_bench: MakeBench, starter: list[Path], downloads: Downloads, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The pause doubles up to a limit, the next try is named, and the starter serves throughout."""
    pauses: list[float] = []
    sleep = asyncio.sleep
    bench = make_bench(mode='lightweight')
    downloads.faults = [DownloadFailed('no route to host') for _ in range(9)]

    async def no_sleep(seconds: float) -> None:
        pauses.append(seconds)
        assert f'no route to host; the next try is in {round(seconds)} s' in str(bench.first.awaited)
        await sleep(0)

    monkeypatch.setattr(first_model, 'sleep', no_sleep)
    await bench.start()
    async with asyncio.timeout(PATIENCE):
        while not bench.store.has_current:
            await sleep(0.01)
    assert pauses == [15, 30, 60, 120, 240, 480, MAX_PAUSE_SECONDS, MAX_PAUSE_SECONDS, MAX_PAUSE_SECONDS]
    assert bench.served == ['starter 0.0.1', 'lightweight 1.0.2']


async def test_a_client_may_cancel_the_download(
    make_bench: MakeBench, starter: list[Path], downloads: Downloads
) -> None:
    """The node does not begin again by itself before its next start."""
    downloads.may_end.clear()
    bench = make_bench(mode='balanced')
    await bench.start()
    await bench.until(lambda: downloads.attempts)
    await bench.pull.cancel()
    await bench.until(lambda: bench.first.awaited is None)
    assert (bench.served, downloads.attempts) == (['starter 0.0.1'], ['balanced'])


async def test_an_unreadable_catalogue_is_a_reason_too(
    make_bench: MakeBench, starter: list[Path], tmp_path: Path
) -> None:
    """The starter serves, and the node names the file and the next try."""
    bench = make_bench(mode='balanced', model_catalogue=tmp_path / 'none.json')
    await bench.start()
    await bench.until(lambda: 'none.json' in str(bench.first.awaited))
    assert bench.served == ['starter 0.0.1']


async def test_a_downloaded_model_that_cannot_run_here_is_not_left_behind(
    make_bench: MakeBench, starter: list[Path], downloads: Downloads, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The starter goes on serving, and does so after a restart as well, since nothing is installed."""
    bench = make_bench(mode='balanced')
    switch = bench.serving.switch

    async def refusing(source: Path | ModelPackage) -> None:
        if isinstance(source, Path):
            raise RuntimeUnavailable('out of memory')
        await switch(source)

    monkeypatch.setattr(bench.serving, 'switch', refusing)
    await bench.start()
    await bench.until(lambda: 'out of memory' in str(bench.first.awaited))
    assert bench.store.to_start_with() == []
    assert bench.served == ['starter 0.0.1']


async def test_a_broken_installed_model_is_not_replaced_by_an_embedded_one(
    make_bench: MakeBench, starter: list[Path], downloads: Downloads, tmp_path: Path
) -> None:
    """The node serves nothing, says why and what to do, and neither builds nor downloads."""
    install(tmp_path).estimator_path.write_bytes(b'damaged')
    bench = make_bench(mode='balanced')
    await bench.start()
    assert (bench.served, starter, downloads.attempts) == ([], [], [])
    assert 'pose.onnx: sha256' in str(bench.serving.unavailable)
    assert 'wholebody model pull' in str(bench.serving.unavailable)


@pytest.mark.parametrize('link', ['nothing', 'a folder', 'a file', 'itself', 'a version that is gone'])
async def test_without_a_link_the_latest_model_that_works_serves_and_becomes_current(
    make_bench: MakeBench, starter: list[Path], tmp_path: Path, caplog: pytest.LogCaptureFixture, link: str
) -> None:
    """The next start needs no search; no embedded model serves, and a model that does not work is not made current."""
    for version in ('1.0', '1.1', '1.2'):
        install(tmp_path, version).folder.touch()
    bench = make_bench(mode='starter')
    bench.store.folder('1.2').joinpath('pose.onnx').write_bytes(b'damaged')
    bench.store.link.unlink()
    if link == 'a folder':
        bench.store.link.mkdir()
        bench.store.link.joinpath('a file').touch()
    elif link == 'a file':
        bench.store.link.touch()
    elif link != 'nothing':
        bench.store.link.symlink_to('current_model' if link == 'itself' else 'models/9.9')
    await bench.start()
    assert (bench.served, starter) == (['balanced 1.1'], [])
    assert bench.store.current() == bench.store.folder('1.1').resolve()
    assert 'balanced 1.1 serves and is current from now on' in caplog.text
    assert bench.store.versions() == ['1.0', '1.1', '1.2']


async def test_a_damaged_current_model_stays_current(make_bench: MakeBench, tmp_path: Path) -> None:
    """Another version serves; the fault stays visible, and the link follows only when a client chooses a model."""
    install(tmp_path, '1.0')
    install(tmp_path, '1.1').estimator_path.write_bytes(b'damaged')
    bench = make_bench()
    await bench.start()
    assert bench.served == ['balanced 1.0']
    assert bench.store.current() == bench.store.folder('1.1').resolve()


async def test_a_model_serves_even_if_it_cannot_be_made_current(
    make_bench: MakeBench, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    """On a disk that takes no link, the log says so."""
    install(tmp_path)
    bench = make_bench()
    bench.store.link.unlink()

    def refuse(_: str) -> None:
        raise OSError(errno.EROFS, 'Read-only file system')

    monkeypatch.setattr(bench.store, 'select', refuse)
    await bench.start()
    assert bench.served == ['balanced 1.0']
    assert 'balanced 1.0 cannot be made current: [Errno 30] Read-only file system' in caplog.text


@pytest.mark.parametrize(('mode', 'warned'), [('balanced', False), ('performance', True), ('test-card', True)])
async def test_an_installed_model_comes_before_mode(
    make_bench: MakeBench,
    starter: list[Path],
    downloads: Downloads,
    tmp_path: Path,
    caplog: pytest.LogCaptureFixture,
    mode: str,
    warned: bool,
) -> None:
    """Nothing is downloaded or built; if MODE names another model, the log says that it has no effect."""
    install(tmp_path)
    bench = make_bench(mode=mode)
    await bench.start()
    assert bench.served == ['balanced 1.0']
    assert (starter, downloads.attempts) == ([], [])
    assert (f'MODE={mode} has no effect' in caplog.text) == warned


async def test_a_full_disk_leaves_no_model_and_a_reason(
    make_bench: MakeBench, starter: list[Path], tmp_path: Path
) -> None:
    """If no embedded model can be stored either, the node is alive and names the first fault."""
    (tmp_path / 'data').mkdir()
    (tmp_path / 'data' / 'starter').write_text('a file')
    (tmp_path / 'data' / 'embedded').write_text('a file')
    bench = make_bench(mode='starter')
    await bench.start()
    assert bench.served == []
    assert 'the starter model cannot serve: ' in str(bench.serving.unavailable)


def _is_alive(node: NodeProcess) -> bool:
    try:
        return httpx.get(f'{node.url}/health', timeout=5).status_code == 200
    except httpx.TransportError:
        return False


@needs_starter
def test_a_fresh_node_finds_a_person_in_a_photograph(tmp_path: Path) -> None:
    """The real starter model serves; health is answered while it is built, and `/ready` names what is prepared."""
    settings = {'MODE': 'starter', 'BACKEND_TYPE': 'onnxruntime'}  # a chosen runtime is not measured
    with node_process(tmp_path, **settings) as node:
        eventually(lambda: _is_alive(node), 'health', 60)
        preparing = httpx.get(f'{node.url}/ready', timeout=5)
        assert (preparing.status_code, httpx.get(f'{node.url}/health', timeout=5).status_code) == (503, 200)
        assert 'the starter model is being prepared' in preparing.json()['detail']
        node.wait_for_version('starter', seconds=180)
        (found, *others) = node.detect(images.encode_jpeg(portrait())).json()['box_detections']
        assert (found['model_name'], len(others) < 2) == ('starter', True)
        assert found['width'] * found['height'] > 0.3 * portrait().shape[0] * portrait().shape[1]
        ready = httpx.get(f'{node.url}/ready', timeout=5).json()
        assert ready['model_version'].startswith('starter 0.')
        assert ready['notice'].startswith('The starter model serves. ')
        assert httpx.put(f'{node.url}/model_version', content='test-card').status_code == 200
        node.wait_for_version('test-card')
        assert len(node.detect(CARD).json()['box_detections']) == 2
