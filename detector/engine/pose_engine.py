"""PoseEngine: finds poses in images."""

import logging
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from detector.errors import InferenceFailed, InvalidPackage
from detector.models.package import ModelPackage
from detector.pose.images import Image
from detector.pose.pose import FloatArray, Pose
from detector.settings import Settings

from . import runtime_choice
from .person_detector import PersonDetector, clip_boxes
from .pose_estimator import Crop, PoseEstimator
from .runtime_choice import BackendType, PrecisionSetting
from .runtimes import reason_of

log = logging.getLogger('wholebody.engine')


@dataclass(frozen=True, slots=True, kw_only=True)
class EngineOptions:
    """Options for running a package; each one means the same as the setting of the same name.

    :param backend_type: inference runtime: `onnxruntime`, `openvino`, `opencv`, or `auto` for the fastest one.
    :param device: `cpu`, `cuda`, `cuda:N`, `tensorrt`, `mps`, `gpu` or `npu`.
    :param precision: `f32`, `bf16`, or `auto` for bf16 if the CPU has matrix units for it.
    :param max_persons: largest number of persons per image; the ones with the most certain boxes are kept.
    :param cache: folder that keeps measured speeds of runtimes. With it, compiled networks are kept in the folder of
        the package. None: nothing is kept.

    >>> options = EngineOptions(backend_type='openvino', max_persons=1)
    >>> engine = PoseEngine(open_package(embedded_package()), options)
    >>> engine.runtime, len(engine.poses(read_image('photo.jpg')))
    ('openvino on CPU, f32', 1)
    """

    backend_type: BackendType = 'auto'
    device: str = 'cpu'
    precision: PrecisionSetting = 'auto'
    max_persons: int = 50
    cache: Path | None = None

    @classmethod
    def of(cls, settings: Settings) -> 'EngineOptions':
        """Return the options that the settings contain."""
        return cls(
            backend_type=settings.backend_type,
            device=settings.device,
            precision=settings.precision,
            max_persons=settings.max_persons,
            cache=settings.data_folder / 'cache',
        )


class PoseEngine:
    """Finds persons and their 133 keypoints in images, with the two networks of a package.

    Calls must not overlap, since not all runtimes are re-entrant and buffers are reused.

    :param package: an opened package, see `open_package`.
    :param options: how to run it.
    :raises RuntimeUnavailable: the runtime, device or precision is missing, or a network is rejected.

    >>> engine = PoseEngine(open_package(embedded_package()))
    >>> for pose in engine.poses(read_image('photo.jpg')):
    ...     print(pose.box.round(), f'{pose.box_confidence:.0%}')
    [ 61.  40. 480. 598.] 84%
    [621. 210. 950. 648.] 84%
    """

    def __init__(self, package: ModelPackage, options: EngineOptions | None = None) -> None:
        options = EngineOptions() if options is None else options
        self.package = package
        self._on_cpu = options.device == 'cpu'
        self.max_persons = options.max_persons
        wholebody = package.wholebody
        choice = runtime_choice.choose(
            package,
            backend_type=options.backend_type,
            device=options.device,
            precision=options.precision,
            cache=options.cache,
        )
        log.info('%s runs on %s in %s: %s', package.model_version, choice.backend_type, choice.precision, choice.reason)
        self.detector = PersonDetector(choice.open(package.detector_path), wholebody.detector)
        self.estimator = PoseEstimator(choice.open(package.estimator_path), wholebody.estimator)
        self._score_mapping = np.array(wholebody.score_mapping, dtype=np.float64).T

    @property
    def runtime(self) -> str:
        """The runtime, its device and its precision, e.g. `openvino on CPU, bf16`."""
        return f'{self.detector.runtime.name}, {self.detector.runtime.precision}'

    def poses(self, image: Image) -> list[Pose]:
        """Find the persons in an image and their keypoints, best box first.

        :param image: RGB uint8, H×W×3.
        """
        return self.poses_of_images([image])[0]

    def poses_of_images(self, images: Sequence[Image]) -> list[list[Pose]]:
        """Find the persons in several images. The persons of all images share inferences.

        :param images: RGB uint8, H×W×3 each.
        :return: one list per image, in their order; see `poses`.
        """
        found = [self.detector.detect(image) for image in images]
        return self.poses_in_boxes(
            [
                (image, boxes[: self.max_persons], confidences[: self.max_persons])
                for image, (boxes, confidences) in zip(images, found, strict=True)
            ]
        )

    def poses_in_boxes(self, queries: Sequence[tuple[Image, FloatArray, FloatArray]]) -> list[list[Pose]]:
        """Estimate one pose per given box.

        :param queries: images (RGB uint8, H×W×3), each with boxes (N, 4), x1, y1, x2, y2 in pixels, and their
            confidences (N,), 0..1. Boxes may extend beyond the image; the boxes of the poses are clipped to it.
        :return: one list per image, in their order; poses in the order of the boxes.
        """
        crops: list[Crop] = [(image, box) for image, boxes, _ in queries for box in boxes]
        estimates = iter(zip(*self.estimator.estimate(crops), strict=True))
        return [
            [
                self._pose(image, box, float(confidence), *next(estimates))
                for box, confidence in zip(boxes, confidences, strict=True)
            ]
            for image, boxes, confidences in queries
        ]

    def _pose(
        self, image: Image, box: FloatArray, confidence: float, keypoints: FloatArray, scores: FloatArray
    ) -> Pose:
        height, width = image.shape[:2]
        finite = np.isfinite(keypoints).all(axis=1)
        return Pose(
            box=clip_boxes(np.asarray(box, dtype=np.float32), image.shape),
            box_confidence=confidence,
            keypoints=np.clip(np.nan_to_num(keypoints), 0, np.array([width - 1, height - 1], dtype=np.float32)),
            confidences=np.where(finite, self.confidences(scores), np.float32(0)),
        )

    def confidences(self, scores: FloatArray) -> FloatArray:
        """Map raw SimCC scores of any shape to confidences, 0..1, with the mapping of the package."""
        mapped = np.interp(np.nan_to_num(scores), *self._score_mapping)
        return np.clip(mapped, 0, 1).astype(np.float32)

    def check(self) -> None:
        """Run both networks once and check their outputs. After that, persons are batched.

        :raises InvalidPackage: names the network and its faulty output.
        :raises InferenceFailed: a device other than the CPU fails; the package may be sound.
        """
        for network, path in (
            (self.detector, self.package.detector_path),
            (self.estimator, self.package.estimator_path),
        ):
            try:
                network.check()
            except InvalidPackage:
                raise
            except InferenceFailed as error:
                if self._on_cpu:
                    raise InvalidPackage(f'{path.name}: a trial inference failed: {error}') from error
                raise  # the device may be at fault
            except Exception as error:
                raise InvalidPackage(f'{path.name}: a trial inference failed: {reason_of(error)}') from error
