"""A short run of `benchmarks.load`, which puts a node under overload."""

import json
from dataclasses import asdict

import pytest

from benchmarks.load import (
    ANSWERED,
    AT_DEADLINE,
    AT_ONCE,
    CLIENTS,
    DEADLINE,
    DOORS,
    FAILED,
    PHASES,
    Outcome,
    Report,
    Times,
    missed,
    note_overload,
    run,
    show,
)

pytestmark = [pytest.mark.integration, pytest.mark.nightly]

SECONDS = 3


@pytest.fixture(scope='module')
def report(tmp_path_factory: pytest.TempPathFactory) -> Report:
    """Run the benchmark on the embedded model, with a deadline that a busy machine can meet."""
    return run(tmp_path_factory.mktemp('load') / 'node', archive=None, seconds=SECONDS, DEADLINE=60)


def count(report: Report, end: str) -> int:
    return sum(ends[end] for ends in report.ends.values())


def test_every_frame_is_answered_or_refused(report: Report) -> None:
    """Each frame gets poses, 503 with Retry-After, or an error over Socket.IO, and both kinds of answers occur."""
    assert list(report.ends) == list(DOORS)
    assert report.capacity > 0
    assert report.offered > report.answered > 0
    assert count(report, ANSWERED) > 0
    assert count(report, AT_ONCE) > 0
    assert count(report, FAILED) == 0, report.missed


def test_the_counts_add_up(report: Report) -> None:
    """The counts of frames by interface and end add up to the timed frames and to the node's own counts."""
    frames = round(report.offered * SECONDS)
    assert sum(sum(ends.values()) for ends in report.ends.values()) == frames
    assert all(abs(sum(ends.values()) - frames / len(DOORS)) < 1 for ends in report.ends.values())
    assert report.times['full load: answered'].count == round(report.capacity * SECONDS) >= CLIENTS
    assert report.times['overload: sent late by'].count == frames
    for end in (ANSWERED, AT_ONCE):
        assert report.times[f'overload: {end}'].count == count(report, end)
    told = sum(report.ends[door][ANSWERED] for door in DOORS if door.endswith('poses'))
    assert report.times['overload: answered, the turn'].count == told > 0
    refused = count(report, AT_ONCE) + count(report, AT_DEADLINE) + report.times['full load: refused'].count
    assert report.requests == {'present': 0, 'refused': refused}


def test_health_is_requested_all_the_time(report: Report) -> None:
    """The run requests `/health` at a steady rate in each phase and records the node's memory once per second."""
    for phase in PHASES:
        for connection in ('kept', 'fresh'):
            assert report.times[f'{phase}: /health, {connection} connection'].count == 20 * SECONDS
    assert len(report.memory) == SECONDS
    assert min(report.memory) > 10


def test_the_report_can_be_shown_and_kept(report: Report, capsys: pytest.CaptureFixture[str]) -> None:
    """The report is printed as a table with every figure and goal, and can be written as JSON."""
    show(report)
    shown = capsys.readouterr().out
    assert all(name in shown for name in [*report.times, *report.missed, *DOORS])
    assert json.loads(json.dumps(asdict(report)))['ends'] == report.ends


def made_up(*others: Outcome, health: float = 0.01, memory: tuple[float, ...] = (100, 100, 100)) -> list[str]:
    """Return the missed goals of an invented run; with the defaults, it misses none.

    :param health: seconds until each answer of `/health`.
    """
    answered = Outcome(
        door='POST /poses',
        end=ANSWERED,
        seconds=1.2,
        late=0,
        timing={'decode_ms': 10, 'wait_ms': 900, 'inference_ms': 100},
        said='',
    )
    refused = [Outcome(door='POST /poses', end=AT_ONCE, seconds=0.01, late=0, timing=None, said='')]
    report = Report(seconds=1, deadline=DEADLINE, memory=list(memory))
    report.times['idle: /health, kept connection'] = Times.of([health])
    outcomes = [answered, *others, *refused]
    note_overload(report, outcomes)
    return missed(report, outcomes)


def test_a_good_run_misses_no_goal() -> None:
    """A run with quick answers of `/health`, quick refusals and timely turns misses no goal."""
    assert made_up() == []


def ended(end: str, *, seconds: float, begun: float | None = None, said: str = '') -> Outcome:
    timing = None if begun is None else {'decode_ms': 0, 'wait_ms': 1000 * begun, 'inference_ms': 100}
    return Outcome(door='event poses', end=end, seconds=seconds, late=0, timing=timing, said=said)


@pytest.mark.parametrize(
    ('outcome', 'goal'),
    [
        (ended(ANSWERED, seconds=2.5, begun=2.2), 'seconds until a turn: 2.2'),
        (ended(ANSWERED, seconds=3.5), 'seconds until an answer: 3.5'),
        (ended(AT_ONCE, seconds=0.2), f'overload: {AT_ONCE}, 99th percentile in ms: 200.0'),
        (ended(FAILED, seconds=0.1, said='500: ouch'), 'event poses: 500: ouch'),
    ],
    ids=['late turn', 'late answer', 'slow refusal', 'failure'],
)
def test_what_goes_wrong_is_a_missed_goal(outcome: Outcome, goal: str) -> None:
    """A late turn, a late answer, a slow refusal and a failure each miss one goal, which is named."""
    (found,) = made_up(outcome)
    assert found.startswith(goal)


def test_slow_health_and_growing_memory_are_missed_goals() -> None:
    """`/health` above 50 ms and a growth of memory by more than a tenth each miss one goal."""
    (found,) = made_up(health=0.051)
    assert '/health' in found
    (found,) = made_up(memory=(100, 100, 100, 120, 120, 120))
    assert 'MiB' in found
    assert made_up(memory=(100, 200, 100, 100, 105, 105)) == []


def test_percentiles() -> None:
    """The 99th percentile of a hundred values is the second largest one, and without values it is 0."""
    times = Times.of([second / 1000 for second in range(100, 0, -1)])
    assert (times.count, times.median, times.p99, times.max) == (100, 50.5, 99, 100)
    assert Times.of([]).p99 == 0
