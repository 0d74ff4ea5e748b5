"""Following without a node and without a Loop: which target is pursued, and when the status is reported."""

from pathlib import Path

import pytest
from learning_loop_node.enums import OperationMode

from benchmarks.support.packages import make_package
from detector.errors import InvalidRequest, LoopFault, NoLearningLoop
from detector.loop import client
from detector.loop.following import Following
from detector.loop.model_updates import ModelUpdater, Target
from detector.models.embedded import EMBEDDED_NAMES
from detector.models.package import ModelPackage
from detector.models.store import ModelStore
from detector.settings import Settings

LOOP = {'loop_host': '127.0.0.1:9', 'loop_organization': 'o', 'loop_project': 'p', 'sync_cycles': 3}


class Bench:
    """A `Following`, the Loop's answers to it, and the models that serve.

    :param answer: the deployment target that the Loop answers, or its fault.
    """

    def __init__(self, folder: Path, monkeypatch: pytest.MonkeyPatch, **settings: object) -> None:
        self.answer: Target | LoopFault = LoopFault('the Loop is away')
        self.package: ModelPackage | None = None
        self.error: str | None = None
        self.ending = False
        self.reports = self.changes = 0
        self.store = ModelStore(folder / 'data')
        chosen = Settings(data_folder=folder / 'data', **settings)  # type: ignore[arg-type]
        self.updates = ModelUpdater(
            self.store,
            files_url=None,
            connect=lambda: pytest.fail('nothing is fetched'),
            switch=self._switch,
            try_out=lambda _: pytest.fail('nothing is replaced'),
            keep=5,
        )
        self.following = Following(
            chosen,
            client.communicator(chosen),
            self.store,
            self.updates,
            self,
            send_status=self._report,
            on_change=self._note,
            is_ending=lambda: self.ending,
        )
        monkeypatch.setattr(client, 'deployment_target', self._target)

    async def _target(self, *_: object) -> Target:
        if isinstance(self.answer, LoopFault):
            raise self.answer
        return self.answer

    async def _switch(self, package: ModelPackage) -> None:
        self.package = package

    async def _report(self) -> None:
        self.reports += 1

    def _note(self, _: Following) -> None:
        self.changes += 1

    def current(self) -> ModelPackage | None:
        return self.package

    def intended(self) -> ModelPackage | None:
        return self.package

    def fault(self) -> str | None:
        return self.error

    def install(self, version: str) -> Target:
        """Install a model, and return the target that it meets."""
        package = self.store.add(make_package(self.store.data_folder.with_name(f'{version}.zip'), version=version))
        return Target(version=version, model_id=package.id)

    async def cycle(self) -> str | None:
        """Run a cycle and the update that it begins; return the version that is active then."""
        await self.following.cycle()
        await self.updates.wait()
        return None if self.package is None else self.package.version


@pytest.fixture
def bench(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Bench:
    made = Bench(tmp_path, monkeypatch, **LOOP)
    made.following.leave_startup()
    return made


async def test_the_deployment_target_is_served(bench: Bench) -> None:
    """Each new target replaces the model; while the Loop is away, the model stays and the status names the fault."""
    for version in ('1.0', '2.0'):
        bench.answer = bench.install(version)
        assert await bench.cycle() == version
        assert bench.following.loop_target == bench.answer
    bench.answer = LoopFault('the Loop is away')
    assert await bench.cycle() == '2.0'
    assert bench.following.errors == {'deployment_target': 'the Loop is away'}
    bench.answer = Target(version='2.0', model_id=bench.following.target.model_id if bench.following.target else '')
    await bench.cycle()
    assert bench.following.errors == {}


async def test_models_are_switched_in_idle_only(bench: Bench) -> None:
    """No switch begins during startup, in the mode `detecting`, in pause, or while the node shuts down."""
    bench.answer = bench.install('1.0')
    for mode in (OperationMode.Startup, OperationMode.Detecting):
        bench.following.set_operation_mode(mode)
        assert await bench.cycle() is None
    bench.following.leave_startup()
    assert bench.following.operation_mode == OperationMode.Detecting
    bench.following.set_operation_mode(OperationMode.Idle)
    await bench.following.set_mode('pause')
    assert await bench.cycle() is None
    bench.ending = True
    await bench.following.set_mode('follow_loop')
    assert await bench.cycle() is None
    bench.ending = False
    assert await bench.cycle() == '1.0'


async def test_a_chosen_version_wins_over_the_target(bench: Bench) -> None:
    """The chosen version serves until the node follows the Loop again; an unavailable version changes nothing."""
    bench.answer = bench.install('1.0')
    bench.install('2.0')
    await bench.cycle()
    await bench.following.set_mode(' 2.0\n')
    assert (await bench.cycle(), bench.following.mode()) == ('2.0', '2.0')
    with pytest.raises(InvalidRequest, match="'newest' is not a version"):
        await bench.following.set_mode('newest')
    with pytest.raises(LoopFault):
        await bench.following.set_mode('3.0')
    assert (await bench.cycle(), bench.following.mode()) == ('2.0', '2.0')
    await bench.following.set_mode('follow_loop')
    assert (await bench.cycle(), bench.following.mode()) == ('1.0', 'follow_loop')


async def test_the_status_is_reported_at_changes_and_every_few_cycles(bench: Bench) -> None:
    """With SYNC_CYCLES=3 a report is due at the start, after three cycles, and at once after a new error or model."""
    reports = []
    for change in (None, None, None, None, 'the runtime fails', None, None, None):
        bench.error = change or bench.error
        await bench.cycle()
        reports.append(bench.reports)
    assert reports == [1, 1, 1, 2, 3, 3, 3, 4]
    assert bench.following.errors['inference'] == 'the runtime fails'


async def test_without_a_loop_installed_versions_can_be_chosen(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The node sends no request and no report; a version that is not installed needs a Loop."""
    bench = Bench(tmp_path, monkeypatch)
    bench.following.leave_startup()
    bench.install('1.0')
    await bench.following.set_mode('1.0')
    assert await bench.cycle() == '1.0'
    with pytest.raises(NoLearningLoop, match='^model 2.0 is not installed: install it with .*, or set LOOP_HOST'):
        await bench.following.set_mode('2.0')
    await bench.following.report()
    assert bench.reports == 0
    assert bench.following.loop_target is None


@pytest.mark.usefixtures('starter')
async def test_an_embedded_model_serves_on_request_until_the_next_start(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Neither of the embedded models becomes the current one or lets an installed one be pruned."""
    bench = Bench(tmp_path, monkeypatch)
    bench.following.leave_startup()
    bench.install('1.0')
    bench.store.select('1.0')
    for name in EMBEDDED_NAMES:
        await bench.following.set_mode(name)
        await bench.cycle()
        assert bench.package is not None
        assert (bench.package.name, bench.following.mode(), bench.updates.error) == (name, name, None)
        assert bench.updates.target is not None
        assert bench.updates.target.is_met_by(bench.package)
    assert bench.store.current_or_embedded('starter').version == '1.0'
    await bench.following.set_mode('1.0')
    assert await bench.cycle() == '1.0'
    with pytest.raises(InvalidRequest, match="send 'follow_loop', 'pause', 'starter', 'test-card' or a version"):
        await bench.following.set_mode('test-cards')


async def test_what_the_node_awaits_from_the_loop_is_named(bench: Bench) -> None:
    """The reason names the Loop's silence, its target, the fault of its model, and a pause; it ends with the model."""
    assert bench.following.awaited() == 'the target of the Learning Loop is unknown: it has not answered yet'
    await bench.cycle()
    assert bench.following.awaited() == 'the target of the Learning Loop is unknown: the Loop is away'
    await bench.following.set_mode('pause')
    assert 'pause' in str(bench.following.awaited())
    await bench.following.set_mode('follow_loop')
    bench.answer = Target(version='1.0', model_id='missing')
    await bench.cycle()
    assert 'model 1.0 cannot be installed: ' in str(bench.following.awaited())
    bench.answer = bench.install('1.0')
    await bench.cycle()
    assert bench.following.awaited() is None


async def test_a_reset_forgets_targets_and_begins_anew(bench: Bench) -> None:
    """After the reset the mode is `startup`, targets are unknown, and the observer has been called."""
    bench.answer = bench.install('1.0')
    await bench.following.set_mode('pause')
    await bench.cycle()
    before = bench.changes
    bench.following.reset()
    assert (bench.following.target, bench.following.loop_target) == (None, None)
    assert (bench.following.operation_mode, bench.following.mode()) == (OperationMode.Startup, 'follow_loop')
    assert bench.changes == before + 1
