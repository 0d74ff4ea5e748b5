"""The limit on open files of a process that starts with a low one."""

import logging
import resource
from pathlib import Path

import pytest

from benchmarks.support.attackers import open_files
from benchmarks.support.processes import running_node
from detector.system.open_files import raise_limit


def test_the_limit_is_raised_as_far_as_the_system_allows(caplog: pytest.LogCaptureFixture) -> None:
    """The limit grows to what is needed, never shrinks, and a limit that is too low is logged with the remedy."""
    hard = resource.getrlimit(resource.RLIMIT_NOFILE)[1]
    with open_files(200):
        assert raise_limit(300) == 300
        assert resource.getrlimit(resource.RLIMIT_NOFILE) == (300, hard)
        assert raise_limit(100) == 300
        assert not caplog.records
        with caplog.at_level(logging.WARNING):
            assert raise_limit(hard + 1) == hard
        assert 'ulimit -Hn' in caplog.text


def test_a_node_raises_it_for_its_clients(tmp_path: Path) -> None:
    """A node with room for many clients may open as many files although it was started with fewer."""
    with open_files(1024), running_node(tmp_path, MAX_CLIENTS=1000) as node:
        limits = Path(f'/proc/{node.process.pid}/limits').read_text()
    (line,) = [line for line in limits.splitlines() if line.startswith('Max open files')]
    assert int(line.split()[3]) > 2000
