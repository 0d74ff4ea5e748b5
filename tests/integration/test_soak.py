"""A run of `benchmarks.soak` for a minute instead of half an hour."""

from pathlib import Path

import pytest

from benchmarks.soak import run
from benchmarks.soak_report import plot, write

pytestmark = [pytest.mark.integration, pytest.mark.nightly]

SLOW_TO_SHOW = ('throughput', 'memory', 'work')
"""Goals that a minute on a busy machine cannot judge."""


def test_a_minute_of_mixed_load_leaves_nothing_behind(tmp_path: Path) -> None:
    """A minute with switches and faults has only intended refusals and leaves no lost image or open resource."""
    report = run(tmp_path / 'soak', seconds=60, warm=15)
    assert [goal for goal in report.missed if not goal.startswith(SLOW_TO_SHOW)] == []
    assert report.switches >= 3
    assert report.connections >= 10
    assert report.accepted >= 10
    assert sum(report.faults.values()) >= 5
    assert report.corrections['sent'] > 0
    write(report, tmp_path / 'soak.json')
    plot(report, tmp_path / 'soak.svg')
    assert (tmp_path / 'soak.svg').stat().st_size > 1000
