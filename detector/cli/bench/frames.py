"""What `wholebody bench` measures: frames computed by this engine, by rtmlib, and by the bare networks.

Each variant lives in a process of its own, where `work` computes turns on demand.
"""

import contextlib
import io
import time
from abc import ABC, abstractmethod
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from itertools import cycle
from multiprocessing.connection import Connection
from typing import Any, Final

import cv2
import numpy as np
from numpy.typing import NDArray
from PIL import Image as PillowImage

from detector.engine.pose_engine import EngineOptions, PoseEngine
from detector.engine.pose_estimator import BATCH_SIZES
from detector.engine.runtimes import Backend, FloatArray, Precision, Runtime
from detector.engine.streams import Streams
from detector.models.package import ModelPackage
from detector.pose import images
from detector.pose.images import Image
from detector.pose.pose import Pose
from detector.pose.skeleton import KEYPOINT_COUNT
from detector.wording import counted

_SECONDS_PER_TURN: Final = 0.4
_MIN_FRAMES: Final = 3
_JPEG_QUALITY: Final = 90


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
            return 'rtmlib as it comes' if self.backend_type == 'onnxruntime' else f'rtmlib on {self.backend_type}'
        prefix = 'ours' if self.kind == 'ours' else 'bare networks'
        return f'{prefix}, {self.backend_type} {self.precision}'


@dataclass(frozen=True, slots=True, kw_only=True)
class Case:
    """What a frame is to hold.

    :param persons: how many. With none, rtmlib takes the whole image for a person.
    :param interval: the person detector runs on every so many frames (DETECTION_INTERVAL), but always in rtmlib.
    """

    persons: int
    interval: int = 1

    @property
    def name(self) -> str:
        persons = counted(self.persons, 'person')
        return persons if self.interval == 1 else f'{persons}, interval {self.interval}'


@dataclass(frozen=True, slots=True, kw_only=True)
class Frame:
    """What a frame took, in seconds.

    :param total: from the array to the keypoints.
    :param networks: of it, in the networks; known of ours only.
    :param decode: for the JPEG that it may come as; not in `total`; known of ours only.
    """

    total: float
    networks: float = 0
    decode: float = 0


def work(pipe: Connection, variant: Variant, package: ModelPackage, pictures: Sequence[Image]) -> None:
    """Load a variant, then do as is asked until the pipe is closed.

    Sends True, or why the variant cannot run. Each `Case` is answered by a list of `Frame`, each list of boxes (one
    array per picture) by the keypoints in them.
    """
    try:
        with contextlib.redirect_stdout(io.StringIO()):  # rtmlib announces what it loads
            bench = _KINDS[variant.kind](variant, package, pictures)
        for persons in (0, *BATCH_SIZES):
            bench.frame(pictures[0], Case(persons=persons))
    except Exception as error:
        pipe.send(' '.join(str(error).split())[:300] or type(error).__name__)
        return
    pipe.send(True)
    while True:
        try:
            asked = pipe.recv()
        except EOFError:
            return
        pipe.send(bench.turn(asked) if isinstance(asked, Case) else bench.keypoints(asked))


class _Bench(ABC):
    """A variant that is loaded."""

    def __init__(self, variant: Variant, package: ModelPackage, pictures: Sequence[Image]) -> None:
        self.variant = variant
        self.package = package
        self.pictures = pictures

    @abstractmethod
    def frame(self, picture: Image, case: Case) -> None:
        """Compute what is measured; with an interval, as many frames."""

    @abstractmethod
    def keypoints(self, boxes: Sequence[FloatArray]) -> list[FloatArray]:
        """(N, 133, 2) in pixels for the boxes (N, 4) in each picture."""

    def turn(self, case: Case) -> list[Frame]:
        """Some frames in a row, after one that is not counted."""
        pictures = cycle(self.pictures)
        self.frame(next(pictures), case)
        frames: list[Frame] = []
        while len(frames) < _MIN_FRAMES or sum(frame.total for frame in frames) * case.interval < _SECONDS_PER_TURN:
            frames.append(self._timed(next(pictures), case))
        return frames

    def _timed(self, picture: Image, case: Case) -> Frame:
        start = time.perf_counter()
        self.frame(picture, case)
        return Frame(total=(time.perf_counter() - start) / case.interval)


class _Ours(_Bench):
    def __init__(self, variant: Variant, package: ModelPackage, pictures: Sequence[Image]) -> None:
        super().__init__(variant, package, pictures)
        self.engine = PoseEngine(package, EngineOptions(backend_type=variant.backend_type, precision=variant.precision))
        self.engine.check()
        self._networks = [_Watched(self.engine.detector.runtime), _Watched(self.engine.estimator.runtime)]
        self.engine.detector.runtime, self.engine.estimator.runtime = self._networks
        self._jpegs = {id(picture): _jpeg(picture) for picture in pictures}

    def frame(self, picture: Image, case: Case) -> None:
        source = _Standing(self.engine, fixed_boxes(picture, case.persons))
        if case.interval == 1:
            source.poses(picture)
            return
        streams = Streams(source, interval=case.interval)
        for _ in range(case.interval):
            streams.poses(picture, 'camera')

    def _timed(self, picture: Image, case: Case) -> Frame:
        start = time.perf_counter()
        images.decode(self._jpegs[id(picture)])
        decode = time.perf_counter() - start
        for network in self._networks:
            network.seconds = 0
        frame = super()._timed(picture, case)
        networks = sum(network.seconds for network in self._networks) / case.interval
        return Frame(total=frame.total, networks=networks, decode=decode)

    def keypoints(self, boxes: Sequence[FloatArray]) -> list[FloatArray]:
        queries = [
            (picture, wanted, np.ones(len(wanted), dtype=np.float32))
            for picture, wanted in zip(self.pictures, boxes, strict=True)
        ]
        return [_stacked([pose.keypoints for pose in poses]) for poses in self.engine.poses_in_boxes(queries)]


def _jpeg(picture: Image) -> bytes:
    """As cameras send it, with colours at half the resolution."""
    buffer = io.BytesIO()
    PillowImage.fromarray(picture).save(buffer, format='JPEG', quality=_JPEG_QUALITY, subsampling='4:2:0')
    return buffer.getvalue()


class _Watched(Runtime):
    """A runtime that notes how long it runs."""

    def __init__(self, runtime: Runtime) -> None:
        self._runtime = runtime
        self.name, self.precision, self.prepares_sizes = runtime.name, runtime.precision, runtime.prepares_sizes
        self.seconds = 0.0

    def _infer(self, batch: FloatArray) -> list[NDArray[Any]]:
        start = time.perf_counter()
        outputs = self._runtime.run(batch)
        self.seconds += time.perf_counter() - start
        return outputs


class _Standing:
    """An engine that finds persons in given boxes, whatever the picture shows.

    All is computed; then the poses of persons who stand still take the place of the found ones, so that `Streams` finds
    them again.
    """

    def __init__(self, engine: PoseEngine, boxes: FloatArray) -> None:
        self._engine = engine
        self._boxes = boxes

    def poses(self, image: Image) -> list[Pose]:
        self._engine.detector.detect(image)
        return self.poses_in_boxes([(image, self._boxes, np.ones(len(self._boxes), dtype=np.float32))])[0]

    def poses_in_boxes(self, queries: Sequence[tuple[Image, FloatArray, FloatArray]]) -> list[list[Pose]]:
        self._engine.poses_in_boxes(queries)
        return [[_standing(box) for box in boxes] for _, boxes, _ in queries]


def _standing(box: FloatArray) -> Pose:
    places = np.linspace(box[:2], box[2:], KEYPOINT_COUNT, dtype=np.float32)
    return Pose(box=box, box_confidence=1, keypoints=places, confidences=np.ones(KEYPOINT_COUNT, dtype=np.float32))


class _Bare(_Bench):
    def __init__(self, variant: Variant, package: ModelPackage, pictures: Sequence[Image]) -> None:
        super().__init__(variant, package, pictures)
        ours = _Ours(variant, package, pictures).engine
        self._detector, self._estimator, self._batch_sizes = ours.detector, ours.estimator, ours.estimator.batch_sizes
        width, height = package.wholebody.detector.input_size
        self._frame = np.full((1, 3, height, width), 114, dtype=np.float32)
        width, height = package.wholebody.estimator.input_size
        noise = np.random.default_rng(0).normal(0, 1, (BATCH_SIZES[0], 3, height, width))
        self._crops = noise.astype(np.float32)

    def frame(self, picture: Image, case: Case) -> None:
        self._detector.runtime.run(self._frame)
        for _ in range(case.interval):
            left = case.persons
            while left:
                size = next(size for size in self._batch_sizes if size <= left)
                self._estimator.runtime.run(self._crops[:size])
                left -= size

    def keypoints(self, boxes: Sequence[FloatArray]) -> list[FloatArray]:
        return []


class _Rtmlib(_Bench):
    """rtmlib's classes, each given the colour order that the package asks for, which takes no time here."""

    def __init__(self, variant: Variant, package: ModelPackage, pictures: Sequence[Image]) -> None:
        from rtmlib import YOLOX, RTMPose

        super().__init__(variant, package, pictures)
        detector, estimator = package.wholebody.detector, package.wholebody.estimator
        width, height = detector.input_size
        backend = variant.backend_type
        threshold = detector.score_threshold
        self._detector = YOLOX(str(package.detector_path), (height, width), score_thr=threshold, backend=backend)
        self._estimator = RTMPose(
            str(package.estimator_path), estimator.input_size, mean=estimator.mean, std=estimator.std, backend=backend
        )
        both = {id(picture): {'RGB': picture, 'BGR': np.ascontiguousarray(picture[..., ::-1])} for picture in pictures}
        self._for_detector = {key: orders[detector.color_order] for key, orders in both.items()}
        self._for_estimator = {key: orders[estimator.color_order] for key, orders in both.items()}

    def frame(self, picture: Image, case: Case) -> None:
        for _ in range(case.interval):
            self._detector(self._for_detector[id(picture)])
            self._estimator(self._for_estimator[id(picture)], fixed_boxes(picture, case.persons))

    def keypoints(self, boxes: Sequence[FloatArray]) -> list[FloatArray]:
        found = []
        for picture, wanted in zip(self.pictures, boxes, strict=True):
            limit = np.array([picture.shape[1] - 1, picture.shape[0] - 1])
            keypoints = [self._estimator(self._for_estimator[id(picture)], box[None])[0][0] for box in wanted]
            found.append(_stacked([np.clip(points, 0, limit).astype(np.float32) for points in keypoints]))
        return found


_KINDS: Final[dict[str, Callable[[Variant, ModelPackage, Sequence[Image]], _Bench]]] = {
    'ours': _Ours,
    'bare': _Bare,
    'rtmlib': _Rtmlib,
}


def _stacked(keypoints: Sequence[FloatArray]) -> FloatArray:
    return np.stack(keypoints) if keypoints else np.zeros((0, KEYPOINT_COUNT, 2), dtype=np.float32)


def fixed_boxes(image: Image, persons: int) -> FloatArray:
    """Boxes of upright persons beside each other, two thirds of the image high, (N, 4): x1, y1, x2, y2."""
    height, width = image.shape[:2]
    lefts = np.linspace(0, width * 0.75, max(persons, 1))[:persons]
    boxes = [(left, height / 6, left + width / 4, height * 5 / 6) for left in lefts]
    return np.array(boxes, dtype=np.float32).reshape(-1, 4)


def example_image(size: tuple[int, int] = (640, 480)) -> Image:
    """A picture with coarse and fine structure, the same every time; its JPEG is about as large as a photograph's.

    :param size: width, height in pixels.
    """
    rng = np.random.default_rng(0)
    coarse = rng.integers(0, 256, (12, 16, 3), dtype=np.uint8)
    smooth = cv2.resize(coarse, size, interpolation=cv2.INTER_CUBIC).astype(np.int16)
    noise = rng.normal(0, 5, smooth.shape)
    picture: Image = np.clip(smooth + noise, 0, 255).astype(np.uint8)
    return picture
