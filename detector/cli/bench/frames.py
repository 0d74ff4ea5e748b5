"""The work that is measured: frames computed by a variant, in a process of its own."""

import io
import time
from abc import ABC, abstractmethod
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import cycle
from multiprocessing.connection import Connection
from typing import Any, Final

import cv2
import numpy as np
from numpy.typing import NDArray
from PIL import Image as PillowImage

from detector.engine.pose_engine import EngineOptions, Found, PoseEngine
from detector.engine.pose_estimator import BATCH_SIZES
from detector.engine.runtimes import Backend, Precision, Runtime, reason_of
from detector.engine.streams import Streams
from detector.models.package import ModelPackage
from detector.pose import images
from detector.pose.images import Image
from detector.pose.pose import FloatArray, Pose
from detector.pose.skeleton import KEYPOINT_COUNT
from detector.wording import counted

_SECONDS_PER_TURN: Final = 0.4
_MIN_FRAMES: Final = 3
_JPEG_QUALITY: Final = 90


@dataclass(frozen=True, slots=True, kw_only=True)
class Case:
    """Contents of a frame.

    :param persons: number of persons.
    :param interval: the person detector runs on one of so many frames (DETECTION_INTERVAL).
    """

    persons: int
    interval: int = 1

    @property
    def name(self) -> str:
        persons = counted(self.persons, 'person')
        return persons if self.interval == 1 else f'{persons}, interval {self.interval}'


@dataclass(frozen=True, slots=True, kw_only=True)
class Frame:
    """Times of one frame, in seconds.

    :param total: from the array to the keypoints.
    :param networks: share of `total` spent in the networks; 0 if not measured.
    :param decode: decoding of a JPEG of the frame, not part of `total`; 0 if not measured.
    """

    total: float
    networks: float = 0
    decode: float = 0


@dataclass(frozen=True, kw_only=True)
class Variant:
    """The engine with one runtime and precision. Subclasses compute frames in other ways."""

    backend_type: Backend
    precision: Precision = 'f32'

    @property
    def name(self) -> str:
        return f'{self.backend_type} {self.precision}'

    def load(self, package: ModelPackage, pictures: Sequence[Image]) -> 'Loaded':
        """Load the networks of a package.

        :param pictures: RGB uint8, H×W×3; the frames cycle through them.
        """
        return LoadedEngine(self, package, pictures)


def work(pipe: Connection, variant: Variant, package: ModelPackage, pictures: Sequence[Image]) -> None:
    """Load a variant, then answer requests until the pipe is closed.

    The first message is True, or a text that says why the variant cannot run. The answer to a `Case` is a list of
    `Frame`; the answer to a list of boxes, one array per picture, is the keypoints in them.
    """
    try:
        loaded = variant.load(package, pictures)
        for persons in (0, *BATCH_SIZES):
            loaded.frame(pictures[0], Case(persons=persons))
    except Exception as error:
        pipe.send(reason_of(error))
        return
    pipe.send(True)
    while True:
        try:
            asked = pipe.recv()
        except EOFError:
            return
        pipe.send(loaded.turn(asked) if isinstance(asked, Case) else loaded.keypoints(asked))


class Loaded(ABC):
    """A variant with its networks loaded."""

    def __init__(self, pictures: Sequence[Image]) -> None:
        self.pictures = pictures

    @abstractmethod
    def frame(self, picture: Image, case: Case) -> None:
        """Compute one frame, or `case.interval` consecutive frames of a stream."""

    @abstractmethod
    def keypoints(self, boxes: Sequence[FloatArray]) -> list[FloatArray]:
        """Return keypoints, (N, 133, 2) float32 in pixels per picture; an empty list if the variant computes none.

        :param boxes: per picture, (N, 4) xyxy in pixels.
        """

    def turn(self, case: Case) -> list[Frame]:
        """Time some frames in a row, after one untimed frame."""
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


class LoadedEngine(Loaded):
    """The engine. Also measures the decoding of JPEGs and the time in the networks."""

    def __init__(self, variant: Variant, package: ModelPackage, pictures: Sequence[Image]) -> None:
        super().__init__(pictures)
        self.engine = PoseEngine(package, EngineOptions(backend_type=variant.backend_type, precision=variant.precision))
        self.engine.check()
        self._networks = [_TimedRuntime(self.engine.detector.runtime), _TimedRuntime(self.engine.estimator.runtime)]
        self.engine.detector.runtime, self.engine.estimator.runtime = self._networks
        self._jpegs = {id(picture): _jpeg(picture) for picture in pictures}

    def frame(self, picture: Image, case: Case) -> None:
        source = _StandingPersons(self.engine, fixed_boxes(picture, case.persons))
        if case.interval == 1:
            source.find([picture])
            return
        streams = Streams(source, interval=case.interval)
        for _ in range(case.interval):
            streams.find(picture, 'camera')

    def _timed(self, picture: Image, case: Case) -> Frame:
        start = time.perf_counter()
        images.decode_image(self._jpegs[id(picture)])
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
        return [stacked([pose.keypoints for pose in poses]) for poses in self.engine.poses_in_boxes(queries)]


def _jpeg(picture: Image) -> bytes:
    """Encode a picture as cameras do, with colours at half the resolution."""
    buffer = io.BytesIO()
    PillowImage.fromarray(picture).save(buffer, format='JPEG', quality=_JPEG_QUALITY, subsampling='4:2:0')
    return buffer.getvalue()


class _TimedRuntime(Runtime):
    """A runtime that adds up the seconds that it runs."""

    def __init__(self, runtime: Runtime) -> None:
        self._runtime = runtime
        self.name, self.precision, self.prepares_sizes = runtime.name, runtime.precision, runtime.prepares_sizes
        self.seconds = 0.0

    def _infer(self, batch: FloatArray) -> list[NDArray[Any]]:
        start = time.perf_counter()
        outputs = self._runtime.run(batch)
        self.seconds += time.perf_counter() - start
        return outputs

    def release(self) -> None:
        self._runtime.release()


class _StandingPersons:
    """An engine that returns standing persons in given boxes, whatever the picture shows.

    It computes everything as usual, then replaces the poses that it found, so that `Streams` finds the same persons
    again in the next frame.
    """

    def __init__(self, engine: PoseEngine, boxes: FloatArray) -> None:
        self._engine = engine
        self._boxes = boxes

    def find(self, images: Sequence[Image], *, with_uncertain: bool = False) -> list[Found]:
        for image in images:
            self._engine.detector.detect(image, with_uncertain=with_uncertain)
        ones = np.ones(len(self._boxes), dtype=np.float32)
        return [Found(poses=poses) for poses in self.poses_in_boxes([(image, self._boxes, ones) for image in images])]

    def poses_in_boxes(self, queries: Sequence[tuple[Image, FloatArray, FloatArray]]) -> list[list[Pose]]:
        self._engine.poses_in_boxes(queries)
        return [[_standing(box) for box in boxes] for _, boxes, _ in queries]


def _standing(box: FloatArray) -> Pose:
    places = np.linspace(box[:2], box[2:], KEYPOINT_COUNT, dtype=np.float32)
    return Pose(box=box, box_confidence=1, keypoints=places, confidences=np.ones(KEYPOINT_COUNT, dtype=np.float32))


def stacked(keypoints: Sequence[FloatArray]) -> FloatArray:
    """Stack the keypoints of N persons, each (133, 2), to (N, 133, 2)."""
    return np.stack(keypoints) if keypoints else np.zeros((0, KEYPOINT_COUNT, 2), dtype=np.float32)


def fixed_boxes(image: Image, persons: int) -> FloatArray:
    """Return boxes of upright persons beside each other, two thirds of the image high: (N, 4) xyxy in pixels."""
    height, width = image.shape[:2]
    lefts = np.linspace(0, width * 0.75, max(persons, 1))[:persons]
    boxes = [(left, height / 6, left + width / 4, height * 5 / 6) for left in lefts]
    return np.array(boxes, dtype=np.float32).reshape(-1, 4)


def example_image(size: tuple[int, int] = (640, 480)) -> Image:
    """Return a reproducible picture with coarse and fine structure. Its JPEG is about as large as a photograph's.

    :param size: width and height in pixels.
    """
    rng = np.random.default_rng(0)
    coarse = rng.integers(0, 256, (12, 16, 3), dtype=np.uint8)
    smooth = cv2.resize(coarse, size, interpolation=cv2.INTER_CUBIC).astype(np.int16)
    noise = rng.normal(0, 5, smooth.shape)
    picture: Image = np.clip(smooth + noise, 0, 255).astype(np.uint8)
    return picture
