"""The memory that a process may use, and the return of free memory to the system."""

import os
import sys
from pathlib import Path

import pytest

from detector.system import memory


class Ring:
    """An object that refers to itself, so that only the garbage collector frees it."""

    freed = 0

    def __init__(self) -> None:
        self.myself = self

    def __del__(self) -> None:
        Ring.freed += 1


def test_reference_cycles_are_freed() -> None:
    """Objects in reference cycles are freed at once."""
    before = Ring.freed
    Ring()
    memory.give_back()
    assert Ring.freed == before + 1


@pytest.mark.skipif(sys.platform != 'linux', reason='reads /proc')
def test_freed_memory_leaves_the_process() -> None:
    """Small freed objects leave the process even if others in the same arena stay."""

    def resident_kib() -> int:
        return int(Path('/proc/self/status').read_text().split('VmRSS:')[1].split()[0])

    pieces = [bytes(1000) for _ in range(200_000)]
    kept = pieces[::1000]
    held = resident_kib()
    del pieces
    memory.give_back()
    assert len(kept) == 200
    assert resident_kib() < held - 100_000


MIB = 1024**2
MACHINE = os.sysconf('SC_PHYS_PAGES') * os.sysconf('SC_PAGE_SIZE')


@pytest.fixture
def cgroups(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """An empty folder in place of the system's cgroups; `own` beside it lists those of the process."""
    monkeypatch.setattr(memory, '_CGROUPS', tmp_path / 'cgroup')
    monkeypatch.setattr(memory, '_OWN_CGROUPS', tmp_path / 'own')
    return tmp_path / 'cgroup'


def limit(file: Path, value: object) -> None:
    file.parent.mkdir(parents=True, exist_ok=True)
    file.write_text(f'{value}\n')


def test_the_machine_limits_the_memory(cgroups: Path) -> None:
    """Without cgroups, or with cgroups without a limit, a process may use the memory of the machine."""
    assert memory.usable() == MACHINE
    limit(cgroups.parent / 'own', '4:memory:/a\n0::/a')
    assert memory.usable() == MACHINE
    limit(cgroups / 'a' / 'memory.max', 'max')
    limit(cgroups / 'memory' / 'a' / 'memory.limit_in_bytes', 9223372036854771712)
    assert memory.usable() == MACHINE


@pytest.mark.parametrize('folder', ['system.slice/node.service', 'system.slice', ''])
def test_the_lowest_limit_of_the_cgroups_counts(cgroups: Path, folder: str) -> None:
    """In version 2, the limit of the process's cgroup, of one above it, or of the container's root applies."""
    limit(cgroups.parent / 'own', '0::/system.slice/node.service')
    for other in ('system.slice/node.service', 'system.slice', ''):
        limit(cgroups / other / 'memory.max', 800 * MIB)
    limit(cgroups / folder / 'memory.max', 512 * MIB)
    assert memory.usable() == 512 * MIB


@pytest.mark.parametrize('folder', ['docker/1234', ''])
def test_cgroups_of_version_1_count(cgroups: Path, folder: str) -> None:
    """In version 1, only the controller of the memory counts; in a container the path may be that of the host."""
    limit(cgroups.parent / 'own', '5:cpu,cpuacct:/docker/99\n4:memory:/docker/1234')
    limit(cgroups / 'memory' / 'docker' / '99' / 'memory.limit_in_bytes', 1 * MIB)
    limit(cgroups / 'memory' / folder / 'memory.limit_in_bytes', 512 * MIB)
    assert memory.usable() == 512 * MIB


def test_the_spare_memory_is_read(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """`MemAvailable` is what the machine can spare; a system without it says nothing."""
    listed = tmp_path / 'meminfo'
    monkeypatch.setattr(memory, '_MEMINFO', listed)
    assert memory.spare() is None
    listed.write_text('MemTotal:       16000000 kB\n')
    assert memory.spare() is None
    listed.write_text('MemTotal:       16000000 kB\nMemAvailable:     300 kB\n')
    assert memory.spare() == 300 * 1024
