"""Each operation that changes the data folder, with each fault of the disk at each of its points."""

import os
import shutil
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Final

import pytest

from tests.faults.scenarios import SCENARIOS, Scenario, download_scenario
from tests.support.disk_faults import Fault, Note, Outcome, run

SAMPLE: Final = 10
"""Number of points of which the plain suite takes one; the end of the operation is always among them."""
forks = pytest.mark.filterwarnings('ignore:.* is multi-threaded, use of fork:DeprecationWarning')
steps = pytest.mark.parametrize(
    'step', [pytest.param(SAMPLE, id='sample'), pytest.param(1, id='all', marks=pytest.mark.integration)]
)


@pytest.fixture
def disk(tmp_path: Path) -> Iterator[Path]:
    """Return a folder in memory where there is one: the faults are not those of a real disk, which syncs slowly."""
    memory = Path('/dev/shm')
    with tempfile.TemporaryDirectory(dir=memory if os.access(memory, os.W_OK) else tmp_path) as folder:
        yield Path(folder)


def losses(scenario: Scenario, disk: Path, step: int) -> list[str]:
    """Run an operation with each fault at its points, and return what was lost.

    :param step: number of points of which one is taken.
    """
    prepared = disk / 'prepared'
    prepared.mkdir()
    scenario.prepare(prepared)
    counted = run(scenario.operation, copied(prepared, disk / 'counted'))
    assert counted.errors == []
    assert counted.points
    lost = []
    ends = len(counted.points) - 1
    for number in sorted({*range(0, ends, step), ends}):
        for outcome in Outcome:
            folder = copied(prepared, disk / f'{number}-{outcome.name}')
            result = run(scenario.operation, folder, Fault(number=number, outcome=outcome))
            found = scenario.check(folder, result.notes)
            lost += [
                f'{outcome} at point {number}, {counted.points[number]}: {what} of {result.notes}' for what in found
            ]
            shutil.rmtree(folder)
    print(f'{scenario.name}: {len(counted.points)} points, {len(lost)} lost')
    return lost


def copied(source: Path, target: Path) -> Path:
    shutil.copytree(source, target, symlinks=True)
    return target


@forks
@steps
@pytest.mark.parametrize('scenario', SCENARIOS, ids=lambda scenario: scenario.name)
def test_no_fault_of_the_disk_loses_what_was_confirmed(disk: Path, scenario: Scenario, step: int) -> None:
    """After each fault at each point, the next start has every image, annotation and project that was confirmed."""
    lost = losses(scenario, disk, step)
    assert not lost, '\n'.join(lost)


@forks
@steps
@pytest.mark.parametrize(('begun_with', 'cut'), [(0, None), (0, 400_000), (1, 400_000)])
def test_no_fault_of_the_disk_mixes_versions_of_a_download(
    disk: Path, begun_with: int, cut: int | None, step: int
) -> None:
    """After each fault at each point, the next download has the server's version, whatever was there before."""
    with download_scenario(begun_with=begun_with, cut=cut) as scenario:
        lost = losses(scenario, disk, step)
    assert not lost, '\n'.join(lost)


def _write_carelessly(folder: Path, note: Note) -> None:
    (folder / 'new').write_text('content')
    (folder / 'new').rename(folder / 'file')
    note('written')


@forks
def test_the_faults_find_what_is_not_synced(disk: Path) -> None:
    """A file that is written, renamed and never synced has four points, and a power cut at the end loses it."""
    (disk / 'folder').mkdir()
    counted = run(_write_carelessly, copied(disk / 'folder', disk / 'counted'))
    assert counted.points == ['create new', 'write new', 'rename file', 'end .']
    assert (disk / 'counted' / 'file').read_text() == 'content'
    for number, (outcome, left) in enumerate(
        [(Outcome.FAILS, []), (Outcome.KILLED, ['new']), (Outcome.FAILS_ON, ['new'])]
    ):
        folder = copied(disk / 'folder', disk / str(number))
        assert run(_write_carelessly, folder, Fault(number=number, outcome=outcome)).notes == []
        assert [path.name for path in folder.iterdir()] == left
    cut = run(_write_carelessly, disk / 'folder', Fault(number=3, outcome=Outcome.POWER_CUT))
    assert cut.notes == ['written']
    assert list((disk / 'folder').iterdir()) == []
