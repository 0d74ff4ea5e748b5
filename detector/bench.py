"""`wholebody bench`: this engine against rtmlib and against the bare networks, on the user's package and machine.

Every variant lives in a process of its own, since runtimes keep threads spinning after a run; the processes take turns,
a few frames each, and the figures are medians over all turns. A frame is one image in, keypoints out. The person
detector runs on it, and the poses of a given number of fixed boxes are estimated, the same for all.
"""

import contextlib
import io
import multiprocessing
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import asdict, dataclass, field
from multiprocessing.connection import Connection
from pathlib import Path
from statistics import median
from typing import Any, Final

import cv2
import numpy as np
from numpy.typing import NDArray

from .engine import EngineOptions, PoseEngine
from .errors import RuntimeUnavailable, WholebodyError
from .images import Image
from .model_package import ModelPackage
from .pose_estimator import BATCH_SIZES
from .runtimes import Backend, FloatArray, Precision, cpu_flags, installed_for, openvino_capabilities, usable_cpus

RIVAL: Final = 'rtmlib as it comes'
"""rtmlib with its defaults, on ONNX Runtime: what all others are compared with."""
_SECONDS_PER_TURN: Final = 0.4
_MIN_FRAMES: Final = 3
_START_SECONDS: Final = 300
_CLOSE_PIXELS: Final = 0.5
_CONFIDENCE: Final = 1.0


@dataclass(frozen=True, slots=True, kw_only=True)
class Variant:
    """One way to run the networks.

    :param kind: `ours`, `rtmlib`, or `bare`: the networks alone, on inputs prepared in advance.
    """

    kind: str
    backend_type: Backend
    precision: Precision = 'f32'

    @property
    def name(self) -> str:
        if self.kind == 'rtmlib':
            return RIVAL if self.backend_type == 'onnxruntime' else f'rtmlib on {self.backend_type}'
        prefix = 'ours' if self.kind == 'ours' else 'bare networks'
        return f'{prefix}, {self.backend_type} {self.precision}'


@dataclass(slots=True, kw_only=True)
class Figures:
    """What was measured of a variant.

    :param milliseconds: medians per frame, by number of persons.
    :param share_close: of the keypoints, by number of persons, how many lie within half a pixel of those of our f32 on
        ONNX Runtime.
    :param failure: why it could not run; then there are no figures.
    """

    milliseconds: dict[int, float] = field(default_factory=dict)
    share_close: dict[int, float] = field(default_factory=dict)
    failure: str | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Report:
    """The outcome of a bench, as it is written to JSON."""

    package: str
    image: tuple[int, int]
    cpu: str
    cpus: int
    bf16: list[str]
    rounds: int
    variants: dict[str, Figures]

    def to_json(self) -> dict[str, Any]:
        return asdict(self)

    def ratio(self, name: str, persons: int) -> float | None:
        """How many times as fast as rtmlib as it comes."""
        ours, rival = (self.variants[key].milliseconds.get(persons) for key in (name, RIVAL))
        return None if ours is None or rival is None else rival / ours


def variants(package: ModelPackage) -> list[Variant]:
    """All that this machine and the package allow."""
    backends = installed_for('cpu')
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
    image: Image,
    *,
    persons: Sequence[int],
    chosen: Sequence[Variant],
    rounds: int,
    watch: Callable[[int], None] = lambda _: None,
) -> Report:
    """Measure.

    :param image: RGB uint8, H×W×3.
    :param persons: numbers of persons to measure with.
    :param rounds: turns of each variant per number of persons.
    :param watch: told how many of the turns, `rounds * len(persons)`, are done.
    :raises WholebodyError: no variant runs.
    """
    with _workers(package, image, chosen) as (workers, failures):
        if not workers:
            raise RuntimeUnavailable('; '.join(f'{name}: {why}' for name, why in failures.items()))
        times: dict[tuple[str, int], list[float]] = {(name, count): [] for name in workers for count in persons}
        keypoints: dict[tuple[str, int], FloatArray] = {}
        for done in range(rounds * len(persons)):
            count = persons[done % len(persons)]
            for name, worker in workers.items():
                worker.send(count)
                seconds, keypoints[name, count] = _received(worker)
                times[name, count] += seconds
            watch(done + 1)
    reference = next((name for name in workers if name == 'ours, onnxruntime f32'), None)
    figures = {variant.name: Figures(failure=failures.get(variant.name)) for variant in chosen}
    for (name, count), seconds in times.items():
        figures[name].milliseconds[count] = round(1000 * median(seconds), 2)
        if reference is not None and count and not name.startswith('bare'):
            figures[name].share_close[count] = _share_close(keypoints[name, count], keypoints[reference, count])
    return Report(
        package=package.model_version,
        image=(image.shape[1], image.shape[0]),
        cpu=_cpu_name(),
        cpus=usable_cpus(),
        bf16=sorted(flag for flag in cpu_flags() if 'bf16' in flag),
        rounds=rounds,
        variants=figures,
    )


def _share_close(keypoints: FloatArray, reference: FloatArray) -> float:
    distances = np.linalg.norm(keypoints - reference, axis=-1)
    return round(float((distances <= _CLOSE_PIXELS).mean()), 4)


def _cpu_name() -> str:
    try:
        lines = Path('/proc/cpuinfo').read_text(encoding='ascii', errors='replace').splitlines()
    except OSError:
        lines = []
    return next((line.partition(':')[2].strip() for line in lines if line.startswith('model name')), 'unknown')


# ---------------------------------------------------------------- processes


@contextlib.contextmanager
def _workers(
    package: ModelPackage, image: Image, chosen: Sequence[Variant]
) -> Iterator[tuple[dict[str, Connection], dict[str, str]]]:
    """A process per variant that can run; why the others cannot."""
    context = multiprocessing.get_context('spawn')
    started = []
    workers: dict[str, Connection] = {}
    failures: dict[str, str] = {}
    try:
        for variant in chosen:  # one after the other, so that they do not load at the same time
            here, there = context.Pipe()
            process = context.Process(target=_work, args=(there, variant, package, image), daemon=True)
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
    except EOFError:
        raise RuntimeUnavailable('its process died') from None
    if isinstance(answer, str):
        raise RuntimeUnavailable(answer)
    return answer


def _work(pipe: Connection, variant: Variant, package: ModelPackage, image: Image) -> None:
    """In the process of a variant: frames on demand."""
    try:
        with contextlib.redirect_stdout(io.StringIO()):  # rtmlib announces what it loads
            frame = _frames(variant, package, image)
        for count in (0, *BATCH_SIZES):
            frame(count)
    except Exception as error:
        pipe.send(' '.join(str(error).split())[:300] or type(error).__name__)
        return
    pipe.send(True)
    while True:
        try:
            count = pipe.recv()
        except EOFError:
            return
        times: list[float] = []
        keypoints = frame(count)
        while len(times) < _MIN_FRAMES or sum(times) < _SECONDS_PER_TURN:
            start = time.perf_counter()
            keypoints = frame(count)
            times.append(time.perf_counter() - start)
        pipe.send((times, keypoints))


def _frames(variant: Variant, package: ModelPackage, image: Image) -> Callable[[int], NDArray[Any]]:
    """What computes a frame with a number of persons: keypoints (N, 133, 2)."""
    if variant.kind == 'rtmlib':
        return _rtmlib_frames(variant.backend_type, package, image)
    options = EngineOptions(backend_type=variant.backend_type, precision=variant.precision)
    engine = PoseEngine(package, options)
    engine.check()
    return _our_frames(engine, image) if variant.kind == 'ours' else _bare_frames(engine)


def _our_frames(engine: PoseEngine, image: Image) -> Callable[[int], NDArray[Any]]:
    def frame(persons: int) -> NDArray[Any]:
        engine.detector.detect(image)
        boxes = fixed_boxes(image, persons)
        (poses,) = engine.poses_in_boxes([(image, boxes, np.full(persons, _CONFIDENCE, dtype=np.float32))])
        return np.array([pose.keypoints for pose in poses])

    return frame


def _bare_frames(engine: PoseEngine) -> Callable[[int], NDArray[Any]]:
    detector, estimator = engine.detector, engine.estimator
    width, height = detector.spec.input_size
    frame_input = np.full((1, 3, height, width), 114, dtype=np.float32)
    width, height = estimator.spec.input_size
    crops = np.random.default_rng(0).normal(0, 1, (BATCH_SIZES[0], 3, height, width)).astype(np.float32)

    def frame(persons: int) -> NDArray[Any]:
        detector.runtime.run(frame_input)
        left = persons
        while left:
            size = next(size for size in estimator.batch_sizes if size <= left)
            estimator.runtime.run(crops[:size])
            left -= size
        return np.zeros((0, 133, 2))

    return frame


def _rtmlib_frames(backend: Backend, package: ModelPackage, image: Image) -> Callable[[int], NDArray[Any]]:
    """rtmlib's classes, each given the colour order that the package asks for, which takes no time here."""
    from rtmlib import YOLOX, RTMPose

    spec = package.wholebody
    width, height = spec.detector.input_size
    detector = YOLOX(
        str(package.detector_path), (height, width), score_thr=spec.detector.score_threshold, backend=backend
    )
    mean, std = spec.estimator.mean, spec.estimator.std
    estimator = RTMPose(str(package.estimator_path), spec.estimator.input_size, mean=mean, std=std, backend=backend)
    reversed_image = np.ascontiguousarray(image[..., ::-1])
    for_detector = image if spec.detector.color_order == 'RGB' else reversed_image
    for_estimator = image if spec.estimator.color_order == 'RGB' else reversed_image
    limit = np.array([image.shape[1] - 1, image.shape[0] - 1])

    def frame(persons: int) -> NDArray[Any]:
        detector(for_detector)
        keypoints, _ = estimator(for_estimator, fixed_boxes(image, persons))
        return np.asarray(np.clip(keypoints, 0, limit), dtype=np.float32)

    return frame


def fixed_boxes(image: Image, persons: int) -> FloatArray:
    """Boxes of upright persons beside each other, two thirds of the image high, (N, 4): x1, y1, x2, y2."""
    height, width = image.shape[:2]
    lefts = np.linspace(0, width * 0.75, max(persons, 1))[:persons]
    boxes = [(left, height / 6, left + width / 4, height * 5 / 6) for left in lefts]
    return np.array(boxes, dtype=np.float32).reshape(-1, 4)


def example_image(size: tuple[int, int] = (640, 480)) -> Image:
    """A picture with coarse and fine structure, the same every time.

    :param size: width, height in pixels.
    """
    rng = np.random.default_rng(0)
    coarse = rng.integers(0, 256, (12, 16, 3), dtype=np.uint8)
    smooth = cv2.resize(coarse, size, interpolation=cv2.INTER_CUBIC).astype(np.int16)
    noise = rng.normal(0, 8, smooth.shape)
    picture: Image = np.clip(smooth + noise, 0, 255).astype(np.uint8)
    return picture
