"""Measure variants in turns, each in its own process.

The processes isolate the variants, since a runtime's threads keep spinning after a run. The speed of a machine changes
while it is measured, so that ratios are taken turn by turn, and their median counts.
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
from detector.engine.runtimes import Backend, cpu_flags, installed_for, openvino_capabilities, usable_cpus
from detector.errors import RuntimeUnavailable, WholebodyError
from detector.models.package import ModelPackage
from detector.pose.images import Image
from detector.pose.pose import FloatArray

from .frames import Case, Frame, Variant, fixed_boxes, work

_NOTABLE_FLAGS: Final = ('avx2', 'avx512f', 'avx512_vnni', 'avx512_bf16', 'amx_bf16', 'amx_int8', 'asimd', 'bf16')
_PERSONS_TO_COMPARE: Final = 4
"""Number of boxes to compare keypoints in, for a picture without persons."""
_ANSWER_SECONDS: Final = 300
"""Time limit for loading a variant, and for each of its turns, in seconds."""
_CLOSE_PIXELS: Final = 0.5


@dataclass(frozen=True, slots=True, kw_only=True)
class Comparison:
    """Variants to measure against each other.

    :param rival: name of the variant with whose times the others are compared.
    :param reference: name of the variant with whose keypoints the others are compared.
    """

    variants: Sequence[Variant]
    rival: str
    reference: str


def engine_comparison(package: ModelPackage, runtimes: Sequence[Backend] | None) -> Comparison:
    """Compare the engine on ONNX Runtime in f32 with all runtimes and precisions that machine and package allow.

    :param runtimes: the runtimes to measure; all installed ones if None.
    """
    backends = [backend for backend in installed_for('cpu') if runtimes is None or backend in runtimes]
    variants = [Variant(backend_type=backend) for backend in backends]
    if 'openvino' in backends and 'BF16' in openvino_capabilities('cpu') and package.wholebody.precision == 'any':
        variants.append(Variant(backend_type='openvino', precision='bf16'))
    reference = Variant(backend_type='onnxruntime').name
    return Comparison(variants=variants, rival=reference, reference=reference)


@dataclass(frozen=True, slots=True, kw_only=True)
class Distances:
    """Distances of keypoints from the reference's keypoints in the same boxes.

    :param close: share of keypoints within half a pixel.
    :param p99: 99th percentile in pixels.
    :param largest: largest distance in pixels.
    """

    close: float
    p99: float
    largest: float

    @classmethod
    def between(cls, keypoints: Sequence[FloatArray], reference: Sequence[FloatArray]) -> 'Distances | None':
        """Measure the distances; None without keypoints.

        :param keypoints: per picture, (N, 133, 2) float32 in pixels.
        :param reference: the same shapes.
        """
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
    """Figures of one variant.

    :param turns: per case, the median milliseconds per frame of each turn.
    :param overhead: per case, the share of the time from JPEG to keypoints that is spent outside the networks; empty
        if the variant does not measure it.
    :param distances: None for the reference itself and for variants without keypoints.
    :param failure: reason why the variant cannot run; None if it can.
    """

    turns: dict[str, list[float]] = field(default_factory=dict)
    overhead: dict[str, float] = field(default_factory=dict)
    distances: Distances | None = None
    failure: str | None = None

    def milliseconds(self, case: Case) -> float | None:
        turns = self.turns.get(case.name)
        return median(turns) if turns else None

    def add(self, case: Case, frames: Sequence[Frame]) -> None:
        self.turns.setdefault(case.name, []).append(round(1000 * median(frame.total for frame in frames), 3))


@dataclass(frozen=True, slots=True, kw_only=True)
class Report:
    """All that was measured, with the conditions.

    :param images: width and height of each picture in pixels.
    :param cpu_features: features of the CPU that matter for inference.
    :param rival: see `Comparison`.
    :param reference: see `Comparison`.
    """

    package: str
    images: list[tuple[int, int]]
    cpu: str
    cpus: int
    cpu_features: list[str]
    rounds: int
    cases: list[Case]
    rival: str
    reference: str
    variants: dict[str, Figures]

    def to_json(self) -> dict[str, Any]:
        return asdict(self)

    def ratio(self, name: str, case: Case, rival: str | None = None) -> float | None:
        """Return how many times as fast as a rival a variant is: the median over the turns.

        :param rival: name of a variant; the report's rival if None.
        """
        ours, theirs = (
            self.variants[key].turns.get(case.name) if key in self.variants else None
            for key in (name, rival or self.rival)
        )
        if not ours or not theirs:
            return None
        return median(their_turn / our_turn for our_turn, their_turn in zip(ours, theirs, strict=True))


def measure(
    package: ModelPackage,
    images: Sequence[Image],
    *,
    comparison: Comparison,
    cases: Sequence[Case],
    rounds: int,
    watch: Callable[[int], None] = lambda _: None,
) -> Report:
    """Measure the variants.

    :param images: RGB uint8, H×W×3; the frames cycle through them.
    :param rounds: turns of each variant per case.
    :param watch: called with the number of finished turns, at most `rounds * len(cases)`.
    :raises RuntimeUnavailable: no variant can run.
    """
    figures = {variant.name: Figures() for variant in comparison.variants}
    with _workers(package, images, comparison.variants) as (workers, failures):
        for name, why in failures.items():
            figures[name].failure = why
        if not workers:
            raise RuntimeUnavailable('; '.join(f'{name}: {why}' for name, why in failures.items()))
        _take_turns(workers, figures, cases, rounds, watch)
        _compare_keypoints(package, images, workers, figures, comparison.reference)
    return Report(
        package=package.model_version,
        images=[(image.shape[1], image.shape[0]) for image in images],
        cpu=_cpu_name(),
        cpus=usable_cpus(),
        cpu_features=[flag for flag in _NOTABLE_FLAGS if flag in cpu_flags()],
        rounds=rounds,
        cases=list(cases),
        rival=comparison.rival,
        reference=comparison.reference,
        variants=figures,
    )


def _take_turns(
    workers: dict[str, Connection],
    figures: dict[str, Figures],
    cases: Sequence[Case],
    rounds: int,
    watch: Callable[[int], None],
) -> None:
    shares: dict[tuple[str, Case], list[float]] = {}
    for done in range(rounds * len(cases)):
        case = cases[done % len(cases)]
        for name, worker in workers.items():
            worker.send(case)
            frames = _received(worker)
            figures[name].add(case, frames)
            shares.setdefault((name, case), []).extend(overheads(frames))
        watch(done + 1)
    for (name, case), values in shares.items():
        if values:
            figures[name].overhead[case.name] = round(median(values), 4)


def overheads(frames: Sequence[Frame]) -> list[float]:
    """Return per frame the share of the time outside the networks, decoding included; skip frames that lack it."""
    whole = [(frame.total + frame.decode, frame.networks) for frame in frames if frame.networks]
    return [1 - networks / seconds for seconds, networks in whole]


def _compare_keypoints(
    package: ModelPackage,
    images: Sequence[Image],
    workers: dict[str, Connection],
    figures: dict[str, Figures],
    reference: str,
) -> None:
    """Compare in the boxes that the person detector finds, or in fixed boxes for a picture without persons."""
    engine = PoseEngine(package, EngineOptions(backend_type='onnxruntime', precision='f32'))
    boxes = []
    for image in images:
        found, _ = engine.detector.detect(image)
        boxes.append(found if len(found) else fixed_boxes(image, _PERSONS_TO_COMPARE))
    keypoints = {}
    for name, worker in workers.items():
        worker.send(boxes)
        keypoints[name] = _received(worker)
    for name, found in keypoints.items():
        if reference in keypoints and found and name != reference:
            figures[name].distances = Distances.between(found, keypoints[reference])


def _cpu_name() -> str:
    try:
        lines = Path('/proc/cpuinfo').read_text(encoding='ascii', errors='replace').splitlines()
    except OSError:
        lines = []
    return next((line.partition(':')[2].strip() for line in lines if line.startswith('model name')), 'unknown')


@contextlib.contextmanager
def _workers(
    package: ModelPackage, images: Sequence[Image], variants: Sequence[Variant]
) -> Iterator[tuple[dict[str, Connection], dict[str, str]]]:
    """Start a process per variant; yield connections to those that can run, and reasons why the others cannot."""
    context = multiprocessing.get_context('spawn')
    started = []
    workers: dict[str, Connection] = {}
    failures: dict[str, str] = {}
    try:
        for variant in variants:  # one after the other: loading takes all CPUs
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
        if not pipe.poll(_ANSWER_SECONDS):
            raise RuntimeUnavailable(f'no answer within {_ANSWER_SECONDS} seconds')
        answer = pipe.recv()
    except (EOFError, ConnectionError):
        raise RuntimeUnavailable('its process died') from None
    if isinstance(answer, str):
        raise RuntimeUnavailable(answer)
    return answer
