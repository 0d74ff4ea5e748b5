"""Agreement of a precision with f32: the same persons with the same keypoints in photographs."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Final

import numpy as np
from numpy.typing import NDArray

from detector.models.package import ModelPackage
from detector.pose.images import Image, read_image
from detector.pose.pose import FloatArray
from detector.pose.similarity import BOX_TO_OKS_AREA, PRESENT, box_ious, oks
from detector.pose.skeleton import OKS_SIGMAS

from .person_detector import PersonDetector
from .pose_estimator import PoseEstimator, confidences_of
from .runtimes import Runtime
from .thresholds import Thresholds

PHOTOGRAPHS: Final = Path(__file__).with_name('photographs.jpg')
"""Three photographs of a person each, side by side.

The portrait of Grace Hopper is a work of the US Navy, the portrait of Eileen Collins one of NASA; both are in the
public domain. The man behind the camera is CC0.
"""
_SAME_BOX_IOU: Final = 0.5
"""IoU from which two boxes show the same person."""
_WORST_FACTOR: Final = 5
"""How many times as far as the mean the worst person may fall short of 1."""


@dataclass(frozen=True, slots=True, kw_only=True)
class People:
    """The persons in one image.

    :param boxes: (N, 4), x1, y1, x2, y2 in pixels.
    :param keypoints: (N, 133, 2), x, y in pixels.
    :param present: (N, 133), True for keypoints whose position is meaningful.
    """

    boxes: FloatArray
    keypoints: FloatArray
    present: NDArray[np.bool_]


@dataclass(frozen=True, slots=True, kw_only=True)
class Agreement:
    """OKS of the persons in photographs to those that f32 finds. A person that only one of the two finds counts as 0.

    :param persons: number of persons that either of the two finds.
    """

    mean: float
    worst: float
    persons: int

    def suffices(self, mean: float) -> bool:
        """Return True if persons were found, and their OKS reaches the demanded mean and the worst that it allows."""
        return self.persons > 0 and self.mean >= mean and self.worst >= lowest_worst(mean)

    def __str__(self) -> str:
        return f'OKS {self.mean:.4f}, at worst {self.worst:.4f}, of {self.persons} persons'


def lowest_worst(mean: float) -> float:
    """Return the lowest OKS of a single person that goes with a demanded mean."""
    return 1 - _WORST_FACTOR * (1 - mean)


def photographs() -> list[Image]:
    """Return the photographs and their mirror images, RGB uint8, H×W×3."""
    picture = read_image(PHOTOGRAPHS)
    return [picture, np.ascontiguousarray(picture[:, ::-1])]


def find_people(
    package: ModelPackage, images: Sequence[Image], detector: Runtime, estimator: Runtime, *, thresholds: Thresholds
) -> list[People]:
    """Find the persons in images, one after the other, with two loaded networks.

    :return: one item per image, in their order. Persons without a meaningful keypoint are left out.
    """
    boxes_in = PersonDetector(detector, package.wholebody.detector, thresholds)
    keypoints_in = PoseEstimator(estimator, package.wholebody.estimator)
    people = []
    for image in images:
        boxes, _ = boxes_in.detect(image)
        keypoints, scores = keypoints_in.estimate([(image, box) for box in boxes])
        present = confidences_of(scores, package.wholebody) >= PRESENT
        meant = present.any(axis=1) & np.isfinite(keypoints).all(axis=(1, 2))
        people.append(People(boxes=boxes[meant], keypoints=keypoints[meant], present=present[meant]))
    return people


def compare(found: Sequence[People], reference: Sequence[People]) -> Agreement:
    """Compare the persons in some images with those that f32 finds in the same images.

    :param found: one item per image.
    :param reference: one item per image, in the same order.
    """
    similarities = [value for ours, theirs in zip(found, reference, strict=True) for value in _oks(ours, theirs)]
    if not similarities:
        return Agreement(mean=0, worst=0, persons=0)
    return Agreement(
        mean=round(float(np.mean(similarities)), 4), worst=round(min(similarities), 4), persons=len(similarities)
    )


def _oks(found: People, reference: People) -> list[float]:
    """Return the OKS of each person that either finds; 0 for a person that only one of them finds."""
    free = set(range(len(found.boxes)))
    similarities: list[float] = []
    for box, keypoints, present in zip(reference.boxes, reference.keypoints, reference.present, strict=True):
        ious = box_ious(found.boxes, box)
        match = max(free, key=ious.__getitem__, default=None)
        if match is None or ious[match] < _SAME_BOX_IOU:
            similarities.append(0)
            continue
        free.remove(match)
        area = BOX_TO_OKS_AREA * float((box[2:] - box[:2]).prod())
        similarities.append(float(oks(found.keypoints[match], keypoints, present, area=area, sigmas=OKS_SIGMAS)))
    return similarities + [0.0] * len(free)
