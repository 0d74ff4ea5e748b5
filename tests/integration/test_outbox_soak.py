"""A short run of `benchmarks.outbox_soak`, which checks that the outbox loses no image."""

from pathlib import Path

import pytest

from benchmarks.outbox_soak import run

pytestmark = [pytest.mark.integration, pytest.mark.nightly]


def test_a_failing_loop_and_two_kills_lose_no_image(tmp_path: Path) -> None:
    """Each accepted image arrives intact or is set aside, and only lost answers and kills make one arrive twice."""
    report = run(tmp_path, count=150, kills=2, seed=1)
    assert report.violations == []
    assert (report.sent, report.corrupt, report.kills) == (150, 0, 2)
    assert report.accepted >= 60
    assert sum(report.fired.values()) >= 20
