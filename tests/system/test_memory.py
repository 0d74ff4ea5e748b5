"""Return of free memory to the system."""

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
