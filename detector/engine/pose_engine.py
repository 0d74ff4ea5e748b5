"""PoseEngine: finds poses in images."""

import logging
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Final

import numpy as np

from detector.errors import InferenceFailed, InvalidPackage
from detector.models.package import ModelPackage
from detector.pose.images import Image
from detector.pose.pose import FloatArray, Pose
from detector.pose.similarity import shared_bodies
from detector.settings import Settings

from . import runtime_choice
from .person_detector import PersonDetector, clip_boxes
from .pose_estimator import Crop, PoseEstimator, confidences_of
from .runtime_choice import BackendType, PrecisionSetting
from .runtimes import reason_of
from .thresholds import Thresholds

log = logging.getLogger('wholebody.engine')

MAX_UNCERTAIN: Final = 4
"""Number of poses per image, at most, that are estimated for relevance only, in the most certain of these boxes."""


@dataclass(frozen=True, slots=True, kw_only=True)
class EngineOptions:
    """Options for running a package; each one means the same as the setting of the same name.

    :param backend_type: inference runtime: `onnxruntime`, `openvino`, `opencv`, or `auto` for the fastest one.
    :param device: `cpu`, `cuda`, `cuda:N`, `tensorrt`, `mps`, `gpu` or `npu`.
    :param precision: `f32`, `bf16`, `f16`, or `auto` for the fastest one whose keypoints agree with those of f32.
    :param precision_agreement: mean OKS to f32 on photographs from which `auto` takes a lower precision.
    :param max_persons: largest number of persons per image; the ones with the most certain boxes are kept.
    :param person_threshold: confidence from which a box is answered; None: the package's.
    :param nms_threshold: IoU above which the less certain of two boxes is dropped; None: the package's.
    :param min_uncertain_threshold: lowest confidence of a box that counts as uncertain.
    :param max_uncertain_threshold: highest confidence of a box that counts as uncertain.
    :param trial_seconds: time limit for the trial of a package, in seconds.
    :param cache: folder that keeps passed trials and what was measured of runtimes and precisions. With it, compiled
        networks are kept in the folder of the package. None: nothing is kept.

    >>> options = EngineOptions(backend_type='openvino', max_persons=1)
    >>> engine = PoseEngine(open_package(embedded_package()), options)
    >>> engine.runtime, len(engine.poses(read_image('photo.jpg')))
    ('openvino on CPU, f32', 1)
    """

    backend_type: BackendType = 'auto'
    device: str = 'cpu'
    precision: PrecisionSetting = 'auto'
    precision_agreement: float = 0.99
    max_persons: int = 50
    person_threshold: float | None = None
    nms_threshold: float | None = None
    min_uncertain_threshold: float = 0.3
    max_uncertain_threshold: float = 0.6
    trial_seconds: float = 300
    cache: Path | None = None

    @classmethod
    def of(cls, settings: Settings) -> 'EngineOptions':
        """Return the options that the settings contain."""
        return cls(
            backend_type=settings.backend_type,
            device=settings.device,
            precision=settings.precision,
            precision_agreement=settings.precision_agreement,
            max_persons=settings.max_persons,
            person_threshold=settings.person_threshold,
            nms_threshold=settings.nms_threshold,
            min_uncertain_threshold=settings.min_uncertain_threshold,
            max_uncertain_threshold=settings.max_uncertain_threshold,
            trial_seconds=settings.trial_seconds,
            cache=settings.data_folder / 'cache',
        )


@dataclass(frozen=True, slots=True, kw_only=True)
class Found:
    """What the engine found in an image.

    :param poses: the answered persons, best box first.
    :param uncertain: poses whose box is too uncertain to be answered, for relevance, best box first.
    :param absent: number of boxes without a present keypoint; they are no persons.
    """

    poses: list[Pose]
    uncertain: list[Pose] = field(default_factory=list)
    absent: int = 0


class PoseEngine:
    """Finds persons and their 133 keypoints in images, with the two networks of a package.

    Calls must not overlap, since not all runtimes are re-entrant and buffers are reused.

    :param package: an opened package, see `open_package`.
    :param options: how to run it.
    :raises RuntimeUnavailable: the runtime, device or precision is missing, or a network is rejected.

    >>> engine = PoseEngine(open_package(embedded_package()))
    >>> for pose in engine.poses(read_image('photo.jpg')):
    ...     print(pose.box.round(), f'{pose.box_confidence:.0%}')
    [621. 210. 950. 648.] 84%
    [ 61.  40. 480. 598.] 82%
    """

    def __init__(self, package: ModelPackage, options: EngineOptions | None = None) -> None:
        options = EngineOptions() if options is None else options
        self.package = package
        self._on_cpu = options.device == 'cpu'
        self.max_persons = options.max_persons
        wholebody = package.wholebody
        self.thresholds = Thresholds.of(package, options)
        if options.nms_threshold is not None and self.thresholds.nms is None:
            log.warning(
                'NMS_THRESHOLD has no effect on %s: its person detector drops overlapping boxes in the network',
                package.model_version,
            )
        choice = runtime_choice.choose(
            package,
            backend_type=options.backend_type,
            device=options.device,
            precision=options.precision,
            agreement=options.precision_agreement,
            thresholds=Thresholds.of(package, EngineOptions()),  # the package's own, for the same result in each node
            cache=options.cache,
        )
        self.runtime_reason = choice.reason
        """The reason for the runtime and the precision, with what was measured."""
        log.info('%s runs on %s in %s: %s', package.model_version, choice.backend_type, choice.precision, choice.reason)
        self.detector = PersonDetector(choice.open(package.detector_path), wholebody.detector, self.thresholds)
        self.estimator = PoseEstimator(
            choice.open(package.estimator_path), wholebody.estimator, largest_batch=choice.largest_batch
        )

    @property
    def runtime(self) -> str:
        """The runtime, its device and its precision, e.g. `openvino on CPU, bf16`."""
        return f'{self.detector.runtime.name}, {self.detector.runtime.precision}'

    def poses(self, image: Image) -> list[Pose]:
        """Find the persons in an image and their keypoints, best box first. See `find`.

        :param image: RGB uint8, H×W×3.
        """
        return self.poses_of_images([image])[0]

    def poses_of_images(self, images: Sequence[Image]) -> list[list[Pose]]:
        """Find the persons in several images. The persons of all images share inferences.

        :param images: RGB uint8, H×W×3 each.
        :return: one list per image, in their order; see `poses`.
        """
        return [found.poses for found in self.find(images)]

    def find(self, images: Sequence[Image], *, with_uncertain: bool = False) -> list['Found']:
        """Find the persons in several images, and the boxes that only relevance sees.

        :param images: RGB uint8, H×W×3 each.
        :param with_uncertain: True to estimate up to `MAX_UNCERTAIN` poses per image whose box is too uncertain to be
            answered. The answered poses stay the same.
        :return: one item per image, in their order.
        """
        queries = [(image, *self._boxes(image, with_uncertain)) for image in images]
        return [self.sorted_out(poses) for poses in self.poses_in_boxes(queries)]

    def _boxes(self, image: Image, with_uncertain: bool) -> tuple[FloatArray, FloatArray]:
        """Return the boxes, (N, 4), whose poses are estimated, best first, and their confidences, (N,)."""
        boxes, confidences = self.detector.detect(image, with_uncertain=with_uncertain)
        answered = self.thresholds.answers(confidences)
        doubtful = ~answered & (confidences <= self.thresholds.uncertain[1])
        chosen = [*np.flatnonzero(answered)[: self.max_persons], *np.flatnonzero(doubtful)[:MAX_UNCERTAIN]]
        return boxes[chosen], confidences[chosen]

    def sorted_out(self, poses: Sequence[Pose]) -> 'Found':
        """Return the poses of an image, best box first, without the boxes that show no person.

        A box without a present keypoint is no person, and an uncertain box shows none if its body belongs to a better
        box already.
        """
        present = [pose for pose in poses if (pose.confidences >= self.thresholds.presence).any()]
        persons = [pose for pose in present if self.thresholds.answers(pose.box_confidence)]
        uncertain = _new_bodies(persons, present[len(persons) :])
        return Found(poses=persons, uncertain=uncertain, absent=len(poses) - len(present))

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
        return confidences_of(scores, self.package.wholebody)

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


def _new_bodies(persons: Sequence[Pose], uncertain: Sequence[Pose]) -> list[Pose]:
    """Return the uncertain poses without those of a body that a better box has found already."""
    kept = list(persons)
    for pose in uncertain:
        group = [*kept, pose]
        shared = shared_bodies(
            np.stack([one.box for one in group]),
            np.stack([one.keypoints for one in group]),
            np.stack([one.confidences for one in group]),
        )
        if not shared[-1]:
            kept.append(pose)
    return kept[len(persons) :]
