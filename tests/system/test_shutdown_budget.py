"""The time limits of a shutdown fit into each other and into Docker's."""

from dataclasses import fields

import pytest

from detector.system.shutdown_budget import DOCKER_SECONDS, ShutdownBudget

BUDGET = ShutdownBudget()


def test_the_phases_add_up_to_less_than_docker_allows() -> None:
    """Every phase has time, and even a forced exit leaves Docker's SIGKILL two seconds of margin."""
    assert all(getattr(BUDGET, field.name) > 0 for field in fields(BUDGET))
    phases = (BUDGET.requests, BUDGET.answers, BUDGET.flush, BUDGET.connections, BUDGET.saving)
    assert BUDGET.orderly == pytest.approx(sum(phases))
    assert BUDGET.orderly < BUDGET.forced_exit < BUDGET.total <= DOCKER_SECONDS - 2


def test_what_runs_beside_a_phase_ends_within_it() -> None:
    """Bodies and the upload end while requests finish; saving ends before the parts are given up."""
    assert BUDGET.bodies < BUDGET.requests
    assert BUDGET.upload < BUDGET.requests
    assert BUDGET.saving < BUDGET.parts <= BUDGET.forced_exit - BUDGET.requests


def test_the_parts_have_time_when_all_phases_before_were_slow() -> None:
    """Saving images keeps its whole share of the time after the slowest requests and connections."""
    before = BUDGET.requests + BUDGET.answers + BUDGET.flush + BUDGET.connections
    assert BUDGET.orderly - before == pytest.approx(BUDGET.saving)
