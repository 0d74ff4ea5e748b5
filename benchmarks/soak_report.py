"""Results of `benchmarks.soak`: figures by slices of time, missed goals, a plot."""

import json
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from statistics import median
from typing import Any, Final

THROUGHPUT: Final = 0.1
"""Largest permitted relative difference between the numbers of answers in the second and the last tenth of a run."""
MEMORY: Final = 0.05
"""Largest permitted relative increase of memory from the second to the last tenth."""
WORK: Final = 0.25
"""Largest permitted relative increase of CPU time per answer.

At a steady rate, only this figure shows a slower node."""


@dataclass(frozen=True, slots=True, kw_only=True)
class State:
    """State of the node's process.

    :param rss: resident memory in MiB.
    :param files: number of open descriptors.
    :param tasks: number of asyncio tasks that are not done.
    """

    rss: float
    files: int
    threads: int
    tasks: int


@dataclass(slots=True, kw_only=True)
class Slice:
    """Figures of a slice of time.

    :param start: seconds since the start of the load.
    :param answered: number of answers by kind of request, as for `refused`; `p50` and `p99` are milliseconds.
    :param states: at most one per second.
    :param cpu: CPU seconds of the node.
    """

    start: float
    answered: dict[str, int] = field(default_factory=dict)
    refused: dict[str, int] = field(default_factory=dict)
    p50: dict[str, float] = field(default_factory=dict)
    p99: dict[str, float] = field(default_factory=dict)
    states: list[State] = field(default_factory=list)
    cpu: float = 0.0


@dataclass(slots=True, kw_only=True)
class Report:
    """Figures of a run.

    :param rate: offered requests a second.
    :param errors: answers that are neither a result nor a refusal, with their counts.
    :param idle: states of the warm idle node before and after the load; for descriptors, threads and tasks the largest
        and the smallest number.
    :param left_files: descriptors that are open at the end, if there are too many.
    :param accepted: number of images that the node accepted for the Loop.
    :param lost: accepted images that did not reach the Loop.
    :param corrections: counts of annotations from webhooks, by outcome.
    :param faults: requests of the node that met a fault of the Loop, by kind.
    :param missed: missed goals; empty if all is well.
    """

    seconds: float
    rate: float = 0.0
    slices: list[Slice] = field(default_factory=list)
    errors: dict[str, int] = field(default_factory=dict)
    idle: dict[str, State] = field(default_factory=dict)
    left_files: list[str] = field(default_factory=list)
    accepted: int = 0
    lost: list[str] = field(default_factory=list)
    corrections: dict[str, int] = field(default_factory=dict)
    switches: int = 0
    connections: int = 0
    faults: dict[str, int] = field(default_factory=dict)
    missed: list[str] = field(default_factory=list)

    def tenth(self, number: int) -> list[Slice]:
        """Return the slices of a tenth of the run.

        :param number: 0..9.
        """
        size = len(self.slices) // 10
        return self.slices[number * size : (number + 1) * size]


def answers(slices: Sequence[Slice]) -> int:
    return sum(sum(part.answered.values()) for part in slices)


def memory(slices: Sequence[Slice]) -> float:
    """Return the median resident memory in MiB."""
    return median(state.rss for part in slices for state in part.states)


def work(slices: Sequence[Slice]) -> float:
    """Return the CPU time of the node per answer, in milliseconds."""
    return 1000 * sum(part.cpu for part in slices) / max(1, answers(slices))


def missed(report: Report) -> list[str]:
    """Return the missed goals with their figures."""
    found = []
    second, last = report.tenth(1), report.tenth(9)
    if abs(answers(last) - answers(second)) > THROUGHPUT * answers(second):
        found.append(f'throughput: {answers(last)} answers in the last tenth, {answers(second)} in the second')
    if memory(last) > (1 + MEMORY) * memory(second):
        found.append(f'memory: {memory(last):.0f} MiB in the last tenth, {memory(second):.0f} in the second')
    if work(last) > (1 + WORK) * work(second):
        found.append(f'work: {work(last):.1f} ms CPU per answer in the last tenth, {work(second):.1f} in the second')
    before, after = report.idle['before'], report.idle['after']
    for name in ('files', 'threads', 'tasks'):
        if getattr(after, name) > getattr(before, name):
            found.append(f'left over: {getattr(after, name)} {name}, {getattr(before, name)} before the load')
    found += [f'open: {", ".join(report.left_files)}'] if report.left_files else []
    found += [f'error, {count} times: {said}' for said, count in report.errors.items()]
    found += [f'lost: {len(report.lost)} images, such as {report.lost[0]}'] if report.lost else []
    if report.corrections.get('waiting', 0) or report.corrections.get('given_up', 0):
        found.append(f'corrections: {report.corrections}')
    half = len(report.slices) // 2
    kinds = [
        {kind for part in parts for kind in part.answered} for parts in (report.slices[:half], report.slices[half:])
    ]
    found += [f'no more answers in the second half: {kind}' for kind in sorted(kinds[0] - kinds[1])]
    return found


def show(report: Report) -> None:
    second, last = report.tenth(1), report.tenth(9)
    print(f'{report.rate:.1f} requests/s for {report.seconds:.0f} s, {report.switches} switches, ', end='')
    print(f'{report.connections} Socket.IO connections, faults of the Loop: {report.faults}')
    rows: list[tuple[str, Callable[[Sequence[Slice]], float]]] = [
        ('answers', answers), ('MiB resident', memory), ('CPU ms per answer', work),
    ]  # fmt: skip
    print(f'{"":24} {"2nd tenth":>12} {"last tenth":>12}')
    for name, figure in rows:
        print(f'{name:24} {figure(second):12.1f} {figure(last):12.1f}')
    for kind in sorted({kind for part in report.slices for kind in part.answered}):
        parts = [part for part in report.slices if kind in part.p50]
        count = sum(part.answered[kind] for part in parts)
        refused = sum(part.refused.get(kind, 0) for part in report.slices)
        p50, p99 = median(part.p50[kind] for part in parts), max(part.p99[kind] for part in parts)
        print(f'{kind:24} {count:7} answered, {refused:4} refused, median {p50:7.1f} ms, slowest {p99:8.1f} ms')
    for name, state in report.idle.items():
        print(f'idle {name:19} {state}')
    print(f'images accepted {report.accepted}, lost {len(report.lost)}; corrections {report.corrections}')
    print('\n'.join(f'MISSED {goal}' for goal in report.missed) or 'every goal is met')


def write(report: Report, path: Path) -> None:
    path.write_text(json.dumps(asdict(report), indent=1) + '\n')


def plot(report: Report, path: Path) -> None:
    """Plot answers, latency, memory and open resources over time; needs matplotlib."""
    from matplotlib.figure import Figure

    figure = Figure(figsize=(9, 9), layout='constrained')
    axes: Any = figure.subplots(4, 1, sharex=True)
    width = report.seconds / len(report.slices)
    minutes = [part.start / 60 for part in report.slices]
    for kind in sorted({kind for part in report.slices for kind in part.answered}):
        axes[0].plot(minutes, [part.answered.get(kind, 0) / width for part in report.slices], label=kind)
        axes[1].plot(minutes, [part.p50.get(kind) for part in report.slices], label=kind)
    axes[0].plot(minutes, [sum(part.refused.values()) / width for part in report.slices], 'k:', label='refused')
    axes[0].set_ylabel('answers per second')
    axes[0].set_ylim(0, 1.4 * axes[0].get_ylim()[1])  # space for the legend
    axes[1].set_ylabel('median latency in ms')
    axes[1].set_yscale('log')
    looked = [part for part in report.slices if part.states]
    times = [part.start / 60 for part in looked]
    axes[2].plot(times, [median(state.rss for state in part.states) for part in looked], 'k')
    axes[2].set_ylabel('resident MiB')
    axes[2].set_ylim(bottom=0)
    for name in ('files', 'threads', 'tasks'):
        axes[3].plot(times, [median(getattr(state, name) for state in part.states) for part in looked], label=name)
    axes[3].set_ylabel('open')
    axes[3].set_ylim(bottom=0)
    axes[3].set_xlabel('minutes')
    for axis in (axes[0], axes[3]):
        axis.legend(fontsize=7, ncols=4, loc='upper right')
    figure.savefig(path, dpi=90)
