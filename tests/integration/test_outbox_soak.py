"""The outbox loses nothing: a short run of the soak that `benchmarks.outbox_soak` does at length."""

from pathlib import Path

import pytest

from benchmarks.outbox_soak import run

pytestmark = [pytest.mark.integration, pytest.mark.nightly]


def test_a_failing_loop_and_two_kills_lose_no_image(tmp_path: Path) -> None:
    """Every accepted image arrives whole or is set aside; twice only by lost answers and kills."""
    report = run(tmp_path, count=150, kills=2, seed=1)
    assert report.violations == []
    assert (report.sent, report.corrupt, report.kills) == (150, 0, 2)
    assert report.accepted >= 60
    assert sum(report.fired.values()) >= 20
