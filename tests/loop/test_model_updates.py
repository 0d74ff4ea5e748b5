"""The updater alone: refusals and retries. Whole nodes are tested in test_following.py."""

import errno
import time
from collections.abc import AsyncIterator
from pathlib import Path

import httpx
import pytest

from benchmarks.support.packages import altered, make_package
from detector.engine.verification import verify
from detector.errors import InvalidPackage, RuntimeUnavailable
from detector.loop.model_updates import INSTALLED, ModelUpdater, Target
from detector.models import archive
from detector.models.package import ModelPackage, open_package
from detector.models.store import ModelStore
from tests.support.file_server import FileServer, serving

TARGET = Target(version='1.5', model_id='abc')


class Bench:
    """An updater, a file server for it, and the versions that it switched to.

    :param broken: True to make the switch fail as a missing device does.
    :param fault: error of trials and switches.
    :param tried: versions that were tried out before they replaced another package.
    :param serving: True while another model is loaded.
    :param attempts: number of attempts to switch.
    """

    def __init__(self, folder: Path, server: FileServer) -> None:
        self.server = server
        self.client = httpx.AsyncClient(base_url=f'http://127.0.0.1:{server.port}')
        self.store = ModelStore(folder / 'data')
        self.switched: list[str] = []
        self.broken = False
        self.fault: Exception | None = None
        self.tried: list[str] = []
        self.serving = True
        self.attempts = 0
        self.refusals = 0
        self.updater = ModelUpdater(
            self.store,
            files_url='/models',
            connect=self._connect,
            switch=self._switch,
            try_out=self._try_out,
            keep=2,
            on_refusal=self._count_refusal,
            is_serving=lambda: self.serving,
        )

    def _count_refusal(self) -> None:
        self.refusals += 1

    async def _connect(self) -> httpx.AsyncClient:
        return self.client

    def _try_out(self, package: ModelPackage) -> None:
        self.tried.append(package.version)
        if self.fault is not None:
            raise self.fault

    async def _switch(self, package: ModelPackage) -> None:
        self.attempts += 1
        if self.broken:
            raise RuntimeUnavailable('no such device')
        if self.fault is not None:
            raise self.fault
        self.switched.append(package.folder.name)

    async def cycle(self, target: Target = TARGET) -> str | None:
        """Run one cycle and its update; return the remaining error."""
        await self.updater.ensure(target, self.current)
        await self.updater.wait()
        return self.updater.error

    @property
    def current(self) -> ModelPackage | None:
        return open_package(self.store.folder(self.switched[-1])) if self.switched else None

    @property
    def fetched(self) -> int:
        return len(self.server.ranges)


@pytest.fixture
async def bench(tmp_path: Path) -> AsyncIterator[Bench]:
    with serving(make_package(tmp_path / 'p.zip', version='9.9').read_bytes()) as server:
        made = Bench(tmp_path, server)
        yield made
        await made.client.aclose()


async def test_the_loops_version_wins_over_the_files(bench: Bench) -> None:
    """A package whose file says 9.9 is installed, selected and found under the Loop's version."""
    assert await bench.cycle() is None
    assert bench.switched == ['1.5']
    current = bench.store.current()
    assert current is not None
    assert current.name == '1.5'
    (package,) = bench.store.installed()
    assert getattr(package, 'version', None) == '1.5'
    assert getattr(package, 'id', None) == 'abc'
    before = bench.fetched
    assert await bench.cycle() is None
    assert bench.fetched == before
    assert list((bench.store.data_folder / 'downloads').iterdir()) == []


async def test_a_local_model_of_the_same_number_is_not_taken_for_the_loops(bench: Bench, tmp_path: Path) -> None:
    """The Loop's 1.5 replaces a local 1.5, unless the client asked for the installed one."""
    bench.store.install(make_package(tmp_path / 'own.zip', version='1.5', name='own'), verify=verify)
    assert await bench.cycle(Target(version='1.5', model_id=INSTALLED)) is None
    assert bench.fetched == 0
    assert getattr(bench.current, 'name', None) == 'own'
    assert await bench.cycle() is None
    (package,) = bench.store.installed()
    assert getattr(package, 'name', None) == 'test-card'


@pytest.mark.parametrize('name', ['starter', 'test-card'])
async def test_a_package_named_like_an_embedded_model_is_reached_by_its_version(
    bench: Bench, tmp_path: Path, name: str
) -> None:
    """A user's package `starter` 0.5 is served under its version, is current then, and is loaded once."""
    bench.store.install(make_package(tmp_path / 'own.zip', version='0.4', name='own'), verify=verify)
    bench.store.add(make_package(tmp_path / 'named.zip', version='0.5', name=name))
    for _ in range(2):
        assert await bench.cycle(Target(version='0.5', model_id=INSTALLED)) is None
    assert (bench.attempts, bench.switched) == (1, ['0.5'])
    current = bench.store.current()
    assert current is not None
    assert current.name == '0.5'
    assert bench.current is not None
    assert bench.current.reported_version == '0.5'


async def test_a_wrong_package_is_fetched_once(bench: Bench, tmp_path: Path) -> None:
    """Later cycles only ask whether the file has changed; another file or a client's command leads to a new attempt."""
    bench.server.content = altered(tmp_path / 'bad.zip', lambda d: d['categories'].pop()).read_bytes()
    assert 'right_hand_20 missing' in str(await bench.cycle())
    (refused,) = bench.updater.about()['refused']
    assert refused['version'] == '1.5'
    assert not bench.store.folder('1.5').exists()
    for _ in range(3):
        assert 'right_hand_20 missing' in str(await bench.cycle())
    assert not (bench.store.data_folder / 'downloads' / '1.5-abc.zip').exists()
    assert bench.refusals == 1
    bench.updater.forget()
    await bench.cycle()
    assert bench.refusals == 2
    assert bench.updater.about()['refused']
    bench.server.content = make_package(tmp_path / 'good.zip').read_bytes()
    assert await bench.cycle() is None
    assert bench.updater.about()['refused'] == []
    assert bench.switched == ['1.5']


async def test_a_damaged_file_is_fetched_again_a_few_times(bench: Bench) -> None:
    """A damaged file is fetched again a few times, even if the server's file has not changed."""
    good = bench.server.content
    bench.server.content = good[: len(good) // 2] + bytes(100) + good[len(good) // 2 + 100 :]
    for number in range(1, 6):
        assert await bench.cycle() is not None
        (refused,) = bench.updater.about()['refused']
        assert refused['reason']
        assert bench.updater._refusals['1.5'].faults == min(number, 3)


async def test_a_model_that_cannot_run_here_is_left_alone(bench: Bench) -> None:
    """While another model is loaded, the fault is reported, and only a command of a client leads to a new attempt."""
    bench.broken = True
    assert await bench.cycle() == 'no such device'
    assert bench.store.folder('1.5').exists()
    assert await bench.cycle() == 'no such device'
    bench.broken = False
    assert await bench.cycle() == 'no such device'
    bench.updater.forget()
    assert await bench.cycle() is None
    assert bench.switched == ['1.5']
    assert bench.fetched == 1


async def test_while_no_model_serves_the_device_may_be_away(bench: Bench, monkeypatch: pytest.MonkeyPatch) -> None:
    """While no model is loaded, a package that cannot run is kept and tried with growing pauses until it serves."""
    now = 1000.0
    monkeypatch.setattr(time, 'monotonic', lambda: now)
    bench.serving, bench.broken = False, True
    for pause in (1.0, 2.0, 4.0):
        attempts = bench.attempts
        assert await bench.cycle() == 'no such device'
        assert await bench.cycle() == 'no such device'
        assert bench.attempts == attempts + 1
        now += pause
    assert bench.updater.about()['refused'] == []
    bench.broken = False
    assert await bench.cycle() is None
    assert (bench.switched, bench.fetched) == (['1.5'], 1)


async def test_an_installed_model_that_cannot_run_here_is_never_removed(bench: Bench, tmp_path: Path) -> None:
    """A local model could not be fetched again, so it stays; only a command of a client leads to a new attempt."""
    bench.store.install(make_package(tmp_path / 'own.zip', version='1.5', name='own'), verify=verify)
    target = Target(version='1.5', model_id=INSTALLED)
    bench.broken = True
    assert await bench.cycle(target) == 'no such device'
    bench.broken = False
    assert await bench.cycle(target) == 'no such device'
    assert bench.store.versions() == ['1.5']
    bench.updater.forget()
    assert await bench.cycle(target) is None
    assert bench.fetched == 0


INVALID = InvalidPackage('pose.onnx: outputs are [(1, 17, 384)]')


@pytest.mark.parametrize('is_current', [True, False])
async def test_an_installed_model_that_is_not_valid_is_never_removed(
    bench: Bench, tmp_path: Path, is_current: bool
) -> None:
    """This holds for a model of the Loop too, which may be the only one; a client's command leads to a new attempt."""
    bench.store.install(make_package(tmp_path / 'own.zip', version='1.5', name='own'), verify=verify)
    (own,) = bench.store.installed()
    served = [] if is_current else [bench.store.install(make_package(tmp_path / 'a.zip', version='1.6'), verify=verify)]
    bench.fault = INVALID
    for model_id in (INSTALLED, getattr(own, 'id', '')):
        target = Target(version='1.5', model_id=model_id)
        for _ in range(2):
            assert await bench.cycle(target) == str(INVALID)
        assert bench.store.versions() == ['1.5', *(package.version for package in served)]
    assert bench.attempts == 2
    bench.fault = None
    bench.updater.forget()
    assert await bench.cycle(target) is None
    assert bench.fetched == 0


async def test_a_fetched_model_that_is_not_valid_is_removed(bench: Bench) -> None:
    """It would be tried at the next start, although it has never served."""
    bench.fault = INVALID
    assert await bench.cycle() == str(INVALID)
    assert bench.store.versions() == []
    assert bench.store.current() is None


@pytest.mark.parametrize('fault', [INVALID, RuntimeUnavailable('out of memory')])
async def test_a_model_that_does_not_work_replaces_none(bench: Bench, tmp_path: Path, fault: Exception) -> None:
    """The Loop's 1.5 is tried out before it takes the place of a local 1.5; the refused file is fetched once."""
    bench.store.install(make_package(tmp_path / 'own.zip', version='1.5', name='own'), verify=verify)
    bench.fault = fault
    for _ in range(3):
        assert await bench.cycle() == str(fault)
    assert (bench.tried, bench.attempts) == (['1.5'], 0)
    assert bench.store.current_or_embedded('starter').name == 'own'
    bench.fault = None
    bench.updater.forget()
    assert await bench.cycle() is None
    assert bench.store.current_or_embedded('starter').name == 'test-card'


async def test_without_a_device_a_replacement_is_tried_again_later(
    bench: Bench, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """While no model is loaded, the device may be missing: the package is not refused, and the pauses grow."""
    bench.store.install(make_package(tmp_path / 'own.zip', version='1.5', name='own'), verify=verify)
    now = 1000.0
    monkeypatch.setattr(time, 'monotonic', lambda: now)
    bench.serving, bench.fault = False, RuntimeUnavailable('no such device')
    for pause in (1.0, 2.0):
        for _ in range(2):
            assert await bench.cycle() == 'no such device'
        now += pause
    assert (bench.tried, bench.updater.about()['refused']) == (['1.5', '1.5'], [])
    bench.fault = None
    assert await bench.cycle() is None


async def test_a_damaged_installed_model_stays_until_the_loops_is_there(bench: Bench, tmp_path: Path) -> None:
    """A client that asks for the installed one gets the fault; the Loop's package replaces it."""
    bench.store.install(make_package(tmp_path / 'own.zip', version='1.5'), verify=verify)
    bench.store.folder('1.5').joinpath('pose.onnx').write_bytes(b'damaged')
    error = await bench.cycle(Target(version='1.5', model_id=INSTALLED))
    assert 'the installed model 1.5 is damaged: pose.onnx: sha256' in str(error)
    good, bench.server.content = bench.server.content, b'no zip'
    assert 'not a readable zip file' in str(await bench.cycle())
    assert bench.store.versions() == ['1.5']
    bench.server.content = good
    assert await bench.cycle() is None
    assert bench.switched == ['1.5']


async def test_an_embedded_model_that_cannot_run_here_is_not_tried_again(bench: Bench, starter: list[Path]) -> None:
    """Like an installed one, it is tried once per command of a client, and no file is fetched for it."""
    target = Target(version='starter', model_id=INSTALLED)
    bench.broken = True
    for _ in range(3):
        assert await bench.cycle(target) == 'no such device'
    assert (bench.attempts, bench.fetched, len(starter)) == (1, 0, 1)
    bench.broken = False
    bench.updater.forget()
    assert await bench.cycle(target) is None
    assert bench.switched == ['starter']
    assert bench.store.current() is None


async def test_a_full_disk_is_reported_and_what_was_fetched_is_kept(
    bench: Bench, monkeypatch: pytest.MonkeyPatch
) -> None:
    """No partial model remains after a full disk, and the next cycle with free space needs no download."""

    def full(*_: object) -> None:
        raise OSError(errno.ENOSPC, 'No space left on device')

    with monkeypatch.context() as patched:
        patched.setattr(archive, '_extract', full)
        assert 'No space left' in str(await bench.cycle())
        assert list(bench.store.models.iterdir()) == []
        assert bench.updater.about()['refused'] == []
    fetched = bench.fetched
    assert await bench.cycle() is None
    assert bench.fetched == fetched + 1  # only to ask whether the file is still the same
    assert bench.switched == ['1.5']


async def test_a_new_target_breaks_off_what_is_going_on(bench: Bench) -> None:
    """A target that changes during a download cancels the download."""
    await bench.updater.ensure(TARGET, None)
    assert bench.updater.busy
    other = Target(version='1.6', model_id='def')
    assert await bench.cycle(other) is None
    assert bench.switched == ['1.6']
    await bench.updater.ensure(None, bench.current)
    assert not bench.updater.busy


async def test_old_versions_are_pruned_but_never_the_current_one(bench: Bench) -> None:
    """Two versions stay: the current one and the previous one."""
    for minor in range(5, 9):
        assert await bench.cycle(Target(version=f'1.{minor}', model_id='abc')) is None
    assert bench.store.versions() == ['1.7', '1.8']
    bench.store.select('1.7')
    bench.store.prune(1)
    assert bench.store.versions() == ['1.7']
