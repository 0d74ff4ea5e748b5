"""Compare predictions for many tasks by our node with those of a Label Studio backend written the usual way.

    uv run python -m benchmarks.label_studio [--package ZIP] [--persons 1] [--tasks 64] [--rounds 3] [-o FILE.json]

Linux only, since it reads /proc. The backends take turns: one gets a POST /predict with all tasks while the others are
idle. Each image takes 50 ms to fetch and has a new URL each time, so that it is not cached. Our node runs in f32, and
also in bf16 if OpenVINO reports it for the CPU. During its turns a prober requests `/health`. The usual backend loops
over the tasks with rtmlib and the same weights; `label_studio_backends` describes it. The exit status is 1 if a goal is
missed.
"""

import argparse
import http.client
import json
import sys
import tempfile
import threading
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import asdict, dataclass, field
from pathlib import Path
from statistics import median
from typing import Any, Final

from detector.models.package import unpack_package
from detector.pose import images

from .label_studio_backends import (
    CONFIG,
    PATIENCE,
    USUAL,
    Backend,
    cpu_seconds,
    machine_seconds,
    precisions,
    running_ours,
    running_usual,
    serving,
)
from .load import Times, health_seconds
from .network_layers import random_pictures

GOALS: Final = {'f32': 2.0, 'bf16': 4.0}
"""Smallest ratio to the usual backend, by precision."""
GOAL_HEALTH_MS: Final = 100.0
"""Largest permitted 99th percentile of `/health`, in milliseconds."""
SAME_BOX: Final = 0.8
"""Smallest intersection over union of the two boxes of a person."""
IDLE: Final = 0.05
"""Maximum number of cores that the idle backends may keep busy."""

_WARM_UP: Final = 8
"""Number of tasks to predict before the first round."""
_REST: Final = 1.0
_PROBE_SECONDS: Final = 0.05

Box = tuple[float, float, float, float]
"""x1, y1, x2, y2 in percent of the image."""


@dataclass(kw_only=True)
class Figures:
    """Figures of one backend.

    :param seconds: duration of POST /predict, per round.
    :param ratios: how many times as fast as the usual backend, per round.
    :param health: times of `/health` in all rounds; None if not requested.
    :param persons: number of rectangles in the last answer.
    :param keypoints: number of keypoints in the last answer.
    :param megabytes: size of the last answer.
    :param overlap: smallest intersection over union of a box with the usual backend's box.
    :param cores: cores that the backend kept busy, per round.
    :param rivals: cores that the other backends kept busy, although they should be idle, per round.
    :param strangers: cores that all other programs kept busy, per round; if high, the round is not reliable.
    """

    runtime: str
    seconds: list[float] = field(default_factory=list)
    ratios: list[float] = field(default_factory=list)
    health: Times | None = None
    persons: int = 0
    keypoints: int = 0
    megabytes: float = 0
    overlap: float = 1
    cores: list[float] = field(default_factory=list)
    rivals: list[float] = field(default_factory=list)
    strangers: list[float] = field(default_factory=list)


@dataclass(kw_only=True)
class Report:
    """Figures of a run.

    :param backends: figures by name, the usual backend first; ours are named after their precision.
    :param missed: missed goals; empty if all is well.
    """

    package: str
    tasks: int
    backends: dict[str, Figures] = field(default_factory=dict)
    missed: list[str] = field(default_factory=list)


@dataclass(frozen=True, slots=True, kw_only=True)
class Turn:
    """One POST /predict.

    :param health: seconds of each `/health` during the request.
    :param cores: cores kept busy by the backend, by the other backends, and by other programs.
    """

    seconds: float
    content: bytes
    health: list[float]
    cores: tuple[float, float, float]

    def answers(self) -> list[list[Any]]:
        """Return the regions of each task; an empty list for a failed task."""
        return [answer['result'] if answer else [] for answer in json.loads(self.content)['results']]


# ---------------------------------------------------------------- beside the backends


@contextmanager
def probing(port: int) -> Iterator[list[float]]:
    """Request `/health` at a steady rate over one connection; yield the growing list of times.

    A time, in seconds, starts when the request is due, even if the previous answer was late.
    """
    taken: list[float] = []
    done = threading.Event()

    def probe() -> None:
        connection = http.client.HTTPConnection('127.0.0.1', port, timeout=PATIENCE)
        due = time.monotonic()
        while not done.is_set():
            seconds, due = health_seconds(connection, due)
            taken.append(seconds)
            due += _PROBE_SECONDS
        connection.close()

    thread = threading.Thread(target=probe)
    thread.start()
    try:
        yield taken
    finally:
        done.set()
        thread.join()


# ---------------------------------------------------------------- the run


def run(folder: Path, *, archive: Path, tasks: int, rounds: int) -> Report:
    """Measure all backends.

    :param folder: empty folder for logs and data.
    :param archive: package to serve.
    """
    (folder / 'package').mkdir(parents=True)
    package = unpack_package(archive, folder / 'package')
    report = Report(package=package.model_version, tasks=tasks)
    pictures = [images.encode_jpeg(picture, quality=90) for picture in random_pictures(tasks, width=640, height=480)]
    health: dict[str, list[float]] = {}
    with ExitStack() as stack:
        image_port = stack.enter_context(serving(pictures))
        backends = [stack.enter_context(running_usual(folder / 'usual', package))]
        for precision in precisions(package):
            backends.append(stack.enter_context(running_ours(folder / precision, archive, image_port, precision)))
        report.backends = {backend.name: Figures(runtime=backend.runtime) for backend in backends}
        for backend in backends:
            take_turn(backend, backends, _request(image_port, f'warm-up/{backend.name[:5]}', min(tasks, _WARM_UP)))
        for number in range(rounds):
            for backend in backends:
                turn = take_turn(backend, backends, _request(image_port, f'{number}/{backend.name[:5]}', tasks))
                if backend.name == USUAL:
                    usual = turn
                note(report, backend.name, turn, usual)
                ours, rivals, strangers = turn.cores
                cores = f'{ours:.2f} cores; the other backends on {rivals:.2f}, other programs on {strangers:.2f}'
                print(f'{backend.name:14} {turn.seconds:8.2f} s on {cores}', flush=True)
                health.setdefault(backend.name, []).extend(turn.health)
    for name, seconds in health.items():
        report.backends[name].health = Times.of(seconds) if seconds else None
    report.missed += missed(report)
    return report


def _request(port: int, folder: str, tasks: int) -> dict[str, Any]:
    """Return a request for predictions like that of Label Studio 1.23."""
    url = f'http://127.0.0.1:{port}/{folder}'
    return {
        'tasks': [{'id': number + 1, 'data': {'image': f'{url}/{number}.jpg'}} for number in range(tasks)],
        'model_version': None,
        'project': '1.1',
        'label_config': CONFIG,
        'params': {'login': None, 'password': None, 'context': None},
    }


def take_turn(backend: Backend, backends: Sequence[Backend], request: Mapping[str, Any]) -> Turn:
    """Send a request to a backend while the others are idle."""
    time.sleep(_REST)
    before = _spent(backend, backends)
    with ExitStack() as stack:
        health = [] if backend.name == USUAL else stack.enter_context(probing(backend.port))
        start = time.monotonic()
        content = backend.post('/predict', request)
        seconds = time.monotonic() - start
    spent = [after - start for after, start in zip(_spent(backend, backends), before, strict=True)]
    ours, rivals, here, machine = (round(part / seconds, 3) for part in spent)
    strangers = round(max(0.0, machine - ours - rivals - here), 3)
    return Turn(seconds=seconds, content=content, health=health, cores=(ours, rivals, strangers))


def _spent(backend: Backend, backends: Sequence[Backend]) -> tuple[float, float, float, float]:
    """Return the CPU seconds of the backend, of the others, of this process, and of the whole machine."""
    others = (other.pid for other in backends if other is not backend)
    return cpu_seconds(backend.pid), sum(map(cpu_seconds, others)), time.process_time(), machine_seconds()


def note(report: Report, name: str, turn: Turn, usual: Turn) -> None:
    """Record the figures of a turn.

    :param usual: turn of the usual backend in the same round.
    """
    figures = report.backends[name]
    figures.seconds.append(round(turn.seconds, 3))
    figures.ratios.append(round(usual.seconds / turn.seconds, 3))
    figures.megabytes = round(len(turn.content) / 1e6, 2)
    for kept, cores in zip((figures.cores, figures.rivals, figures.strangers), turn.cores, strict=True):
        kept.append(cores)
    answers, expected = turn.answers(), usual.answers()
    found = [boxes(regions) for regions in answers]
    others = [boxes(regions) for regions in expected]
    figures.persons = sum(map(len, found))
    figures.keypoints = sum(map(len, answers)) - figures.persons
    differing = [index for index, pair in enumerate(zip(found, others, strict=False)) if len(set(map(len, pair))) > 1]
    if len(found) != report.tasks or differing:
        report.missed.append(f'{name}: {len(found)} answers; the numbers of persons differ in the answers {differing}')
        return
    overlaps = [
        overlap(box, other) for pair in zip(found, others, strict=True) for box, other in zip(*pair, strict=True)
    ]
    figures.overlap = round(min([*overlaps, figures.overlap]), 4)


def boxes(regions: Sequence[Mapping[str, Any]]) -> list[Box]:
    """Return the boxes of the persons in a prediction, from left to right."""
    values = [region['value'] for region in regions if region['type'] == 'rectanglelabels']
    return sorted((v['x'], v['y'], v['x'] + v['width'], v['y'] + v['height']) for v in values)


def overlap(a: Box, b: Box) -> float:
    """Return the intersection over union of two boxes."""
    width, height = (max(0.0, min(a[i + 2], b[i + 2]) - max(a[i], b[i])) for i in (0, 1))
    areas = sum((box[2] - box[0]) * (box[3] - box[1]) for box in (a, b))
    return width * height / max(areas - width * height, 1e-9)


def missed(report: Report) -> list[str]:
    """Return the missed goals with their figures."""
    found = []
    for name, figures in report.backends.items():
        if max(figures.rivals) > IDLE:
            found.append(f'{name}: the other backends kept {max(figures.rivals):.2f} cores busy during its turns')
        if name not in GOALS:
            continue
        if median(figures.ratios) < GOALS[name]:
            found.append(f'{name}: {median(figures.ratios):.2f} times as fast, not {GOALS[name]:g} times')
        if figures.overlap < SAME_BOX:
            found.append(f'{name}: boxes overlap by only {figures.overlap:.2f}')
        if figures.persons == 0:
            found.append(f'{name}: no person was found, so nothing is compared')
        if figures.health is None or figures.health.p99 > GOAL_HEALTH_MS:
            found.append(f'{name}: /health, 99th percentile above {GOAL_HEALTH_MS:.0f} ms: {figures.health}')
    return found


def show(report: Report) -> None:
    print(f'{report.package}, {report.tasks} tasks, medians of {len(report.backends[USUAL].seconds)} rounds')
    print(f'{"":14} {"seconds":>8} {"ratio":>6} {"persons":>8} {"keypoints":>10} {"MB":>6} {"overlap":>8}')
    for name, figures in report.backends.items():
        print(
            f'{name:14} {median(figures.seconds):8.2f} {median(figures.ratios):6.2f} {figures.persons:8} '
            f'{figures.keypoints:10} {figures.megabytes:6.2f} {figures.overlap:8.4f}  {figures.runtime}'
        )
    for name, figures in report.backends.items():
        if (times := figures.health) is not None:
            print(
                f'{name}: /health {times.count} times: median {times.median} ms, p99 {times.p99} ms, max {times.max} ms'
            )
    print('\n'.join(f'MISSED {goal}' for goal in report.missed) or 'every goal is met')


def main() -> int:
    from .random_weights import pack

    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument('--package', type=Path, help='package to serve; by default lightweight with random weights')
    parser.add_argument(
        '--persons', type=int, default=1, help='number of persons that the random weights report in every image'
    )
    parser.add_argument('--tasks', type=int, default=64)
    parser.add_argument('--rounds', type=int, default=3)
    parser.add_argument('-o', '--output', type=Path, help='JSON file for the report')
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        archive = options.package or pack(Path(folder), 'lightweight', persons=options.persons)
        report = run(Path(folder) / 'run', archive=archive, tasks=options.tasks, rounds=options.rounds)
    show(report)
    if options.output is not None:
        options.output.write_text(json.dumps(asdict(report), indent=1) + '\n')
    return 1 if report.missed else 0


if __name__ == '__main__':
    sys.exit(main())
