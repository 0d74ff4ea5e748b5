"""`wholebody bench`: this engine against rtmlib and against the bare networks, on the user's package and machine.

Every variant lives in a process of its own, since runtimes keep threads spinning after a run; the processes take turns,
a few frames each. Machines are disturbed: ratios are taken turn by turn, and the median is what counts.
"""

import contextlib
import multiprocessing
from collections.abc import Callable, Iterator, Sequence
from dataclasses import asdict, dataclass, field
from multiprocessing.connection import Connection
from pathlib import Path
from statistics import median
from typing import Any, Final

import numpy as np

from detector.engine.pose_engine import EngineOptions, PoseEngine
from detector.engine.runtimes import Backend, FloatArray, cpu_flags, installed_for, openvino_capabilities, usable_cpus
from detector.errors import RuntimeUnavailable, WholebodyError
from detector.models.package import ModelPackage
from detector.pose.images import Image

from .frames import Case, Frame, Variant, fixed_boxes, work

RIVAL: Final = Variant(kind='rtmlib', backend_type='onnxruntime').name
"""rtmlib with its defaults, on ONNX Runtime: what all others are compared with."""
REFERENCE: Final = Variant(kind='ours', backend_type='onnxruntime')
"""Whose keypoints the others' are compared with."""
_NOTABLE_FLAGS: Final = ('avx2', 'avx512f', 'avx512_vnni', 'avx512_bf16', 'amx_bf16', 'amx_int8', 'asimd', 'bf16')
_PERSONS_TO_COMPARE: Final = 4
"""Of a picture in which nobody is found."""
_START_SECONDS: Final = 300
_CLOSE_PIXELS: Final = 0.5


@dataclass(frozen=True, slots=True, kw_only=True)
class Distances:
    """Of keypoints from the reference's in the same boxes.

    :param close: share within half a pixel.
    :param p99: 99th percentile, in pixels.
    """

    close: float
    p99: float
    largest: float

    @classmethod
    def between(cls, keypoints: Sequence[FloatArray], reference: Sequence[FloatArray]) -> 'Distances | None':
        """:param keypoints: (N, 133, 2) per picture; None without any."""
        pairs = zip(keypoints, reference, strict=True)
        distances = np.concatenate([np.linalg.norm(ours - theirs, axis=-1).ravel() for ours, theirs in pairs] or [[]])
        if not distances.size:
            return None
        return cls(
            close=round(float((distances <= _CLOSE_PIXELS).mean()), 4),
            p99=round(float(np.percentile(distances, 99)), 2),
            largest=round(float(distances.max()), 2),
        )


@dataclass(slots=True, kw_only=True)
class Figures:
    """What was measured of a variant.

    :param turns: by case, the median milliseconds per frame of each turn.
    :param overhead: by case, of the time from JPEG to keypoints the share that is not spent in the networks; of ours.
    :param failure: why it could not run; then there are no figures.
    """

    turns: dict[str, list[float]] = field(default_factory=dict)
    overhead: dict[str, float] = field(default_factory=dict)
    distances: Distances | None = None
    failure: str | None = None

    def milliseconds(self, case: Case) -> float | None:
        """Per frame."""
        turns = self.turns.get(case.name)
        return median(turns) if turns else None

    def add(self, case: Case, frames: Sequence[Frame]) -> None:
        self.turns.setdefault(case.name, []).append(round(1000 * median(frame.total for frame in frames), 3))


@dataclass(frozen=True, slots=True, kw_only=True)
class Report:
    """The outcome of a bench, as it is written to JSON.

    :param images: width, height of each.
    :param cpu_features: of those that matter here, what the CPU has.
    """

    package: str
    images: list[tuple[int, int]]
    cpu: str
    cpus: int
    cpu_features: list[str]
    rounds: int
    cases: list[Case]
    variants: dict[str, Figures]

    def to_json(self) -> dict[str, Any]:
        return asdict(self)

    def ratio(self, name: str, case: Case, rival: str = RIVAL) -> float | None:
        """How many times as fast as a rival: the median over the turns."""
        ours, theirs = (
            self.variants[key].turns.get(case.name) if key in self.variants else None for key in (name, rival)
        )
        if not ours or not theirs:
            return None
        return median(their_turn / our_turn for our_turn, their_turn in zip(ours, theirs, strict=True))


def variants(package: ModelPackage, runtimes: Sequence[Backend] | None = None) -> list[Variant]:
    """All that this machine and the package allow.

    :param runtimes: only these.
    """
    backends = [backend for backend in installed_for('cpu') if runtimes is None or backend in runtimes]
    can_bf16 = (
        'openvino' in backends and 'BF16' in openvino_capabilities('cpu') and package.wholebody.precision == 'any'
    )
    found = [Variant(kind='rtmlib', backend_type=backend) for backend in backends]
    for kind in ('ours', 'bare'):
        found += [Variant(kind=kind, backend_type=backend) for backend in backends]
        if can_bf16:
            found.append(Variant(kind=kind, backend_type='openvino', precision='bf16'))
    return found


def run(
    package: ModelPackage,
    images: Sequence[Image],
    *,
    cases: Sequence[Case],
    chosen: Sequence[Variant],
    rounds: int,
    watch: Callable[[int], None] = lambda _: None,
) -> Report:
    """Measure.

    :param images: RGB uint8, H×W×3; frames take them in turn.
    :param rounds: turns of each variant per case.
    :param watch: told how many of the turns, `rounds * len(cases)`, are done.
    :raises RuntimeUnavailable: no variant runs.
    """
    figures = {variant.name: Figures() for variant in chosen}
    with _workers(package, images, chosen) as (workers, failures):
        for name, why in failures.items():
            figures[name].failure = why
        if not workers:
            raise RuntimeUnavailable('; '.join(f'{name}: {why}' for name, why in failures.items()))
        shares: dict[tuple[str, Case], list[float]] = {}
        for done in range(rounds * len(cases)):
            case = cases[done % len(cases)]
            for name, worker in workers.items():
                worker.send(case)
                frames = _received(worker)
                figures[name].add(case, frames)
                shares.setdefault((name, case), []).extend(_overheads(frames))
            watch(done + 1)
        for (name, case), values in shares.items():
            if values:
                figures[name].overhead[case.name] = round(median(values), 4)
        _compare_keypoints(package, images, workers, figures)
    return Report(
        package=package.model_version,
        images=[(image.shape[1], image.shape[0]) for image in images],
        cpu=_cpu_name(),
        cpus=usable_cpus(),
        cpu_features=[flag for flag in _NOTABLE_FLAGS if flag in cpu_flags()],
        rounds=rounds,
        cases=list(cases),
        variants=figures,
    )


def _overheads(frames: Sequence[Frame]) -> list[float]:
    whole = [(frame.total + frame.decode, frame.networks) for frame in frames if frame.networks]
    return [1 - networks / seconds for seconds, networks in whole]


def _compare_keypoints(
    package: ModelPackage, images: Sequence[Image], workers: dict[str, Connection], figures: dict[str, Figures]
) -> None:
    """In the boxes that the package finds in the pictures; where it finds nobody, in some others."""
    engine = PoseEngine(package, EngineOptions(backend_type=REFERENCE.backend_type, precision=REFERENCE.precision))
    boxes = []
    for image in images:
        found, _ = engine.detector.detect(image)
        boxes.append(found if len(found) else fixed_boxes(image, _PERSONS_TO_COMPARE))
    keypoints = {}
    for name, worker in workers.items():
        worker.send(boxes)
        keypoints[name] = _received(worker)
    reference = keypoints.get(REFERENCE.name)
    for name, found in keypoints.items():
        if reference is not None and found and name != REFERENCE.name:
            figures[name].distances = Distances.between(found, reference)


def _cpu_name() -> str:
    try:
        lines = Path('/proc/cpuinfo').read_text(encoding='ascii', errors='replace').splitlines()
    except OSError:
        lines = []
    return next((line.partition(':')[2].strip() for line in lines if line.startswith('model name')), 'unknown')


@contextlib.contextmanager
def _workers(
    package: ModelPackage, images: Sequence[Image], chosen: Sequence[Variant]
) -> Iterator[tuple[dict[str, Connection], dict[str, str]]]:
    """A process per variant that can run; why the others cannot."""
    context = multiprocessing.get_context('spawn')
    started = []
    workers: dict[str, Connection] = {}
    failures: dict[str, str] = {}
    try:
        for variant in chosen:  # one after the other, so that they do not load at the same time
            here, there = context.Pipe()
            process = context.Process(target=work, args=(there, variant, package, images), daemon=True)
            process.start()
            there.close()
            started.append((process, here))
            try:
                _received(here)
            except WholebodyError as error:
                failures[variant.name] = str(error)
            else:
                workers[variant.name] = here
        yield workers, failures
    finally:
        for process, pipe in started:
            pipe.close()
            process.join(5)
            process.kill()
            process.join()


def _received(pipe: Connection) -> Any:
    try:
        if not pipe.poll(_START_SECONDS):
            raise RuntimeUnavailable(f'no answer within {_START_SECONDS} seconds')
        answer = pipe.recv()
    except (EOFError, ConnectionError):
        raise RuntimeUnavailable('its process died') from None
    if isinstance(answer, str):
        raise RuntimeUnavailable(answer)
    return answer
