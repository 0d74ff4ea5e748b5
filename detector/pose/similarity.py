"""Similarity of poses and boxes: object keypoint similarity (OKS), intersection over union (IoU), shared bodies."""

from typing import Any, Final

import numpy as np
from numpy.typing import NDArray

from .skeleton import OKS_SIGMAS, PART_BY_NAME

BODY: Final = PART_BY_NAME['body'].slice
PRESENT: Final = 0.3
"""A keypoint of this confidence has a place that means something."""
MIN_BODY_KEYPOINTS: Final = 3
"""Present ones, that make a body."""
SAME_BODY_OKS: Final = 0.7
BOX_TO_OKS_AREA: Final = 0.53
"""Share of its box that a person's outline covers on average, as mmpose takes it for the OKS where only boxes exist."""


def oks(
    points: NDArray[Any],
    others: NDArray[Any],
    visible: NDArray[np.bool_],
    *,
    area: NDArray[Any] | float,
    sigmas: NDArray[np.float32],
) -> NDArray[np.float64]:
    """Object keypoint similarity, 0..1: the mean over keypoints of exp(-d² / (2 · area · (2σ)²)).

    The formula is that of COCO (pycocotools, `computeOks`).

    :param points: (…, K, 2), in units whose square the area is in.
    :param others: (…, K, 2), broadcast against `points`.
    :param visible: (…, K), the keypoints that count; without any the similarity is 0.
    :param area: (…) of the persons.
    :param sigmas: (K,), see `skeleton.OKS_SIGMAS`.
    :return: (…).
    """
    offsets = points - others
    squares = np.square(offsets[..., 0]) + np.square(offsets[..., 1])
    variances = np.square(2 * sigmas)
    similarities = np.exp(-squares / (2 * np.asarray(area)[..., None] * variances))
    mean: NDArray[np.float64] = (similarities * visible).sum(axis=-1) / np.maximum(visible.sum(axis=-1), 1)
    return mean


def shared_bodies(boxes: NDArray[Any], keypoints: NDArray[Any], confidences: NDArray[Any]) -> NDArray[np.bool_]:
    """Whether another of the poses has its body where this one has: two boxes of one person.

    :param boxes: (N, 4): x1, y1, x2, y2.
    :param keypoints: (N, 133, 2).
    :param confidences: (N, 133).
    :return: (N,).
    """
    shares = np.zeros(len(boxes), dtype=np.bool_)
    if len(boxes) < 2:
        return shares
    first, second = np.nonzero(np.triu(box_ious(boxes[:, None], boxes[None]) > 0, k=1))
    if not first.size:
        return shares
    bodies, present = keypoints[:, BODY], confidences[:, BODY] >= PRESENT
    both = present[first] & present[second]
    areas = np.maximum(boxes[:, 2:] - boxes[:, :2], 1).prod(axis=1)
    similarities = oks(
        bodies[first],
        bodies[second],
        both,
        area=BOX_TO_OKS_AREA * np.minimum(areas[first], areas[second]),
        sigmas=OKS_SIGMAS[BODY],
    )
    same = (both.sum(axis=1) >= MIN_BODY_KEYPOINTS) & (similarities >= SAME_BODY_OKS)
    shares[first[same]] = shares[second[same]] = True
    return shares


def box_ious(boxes: NDArray[Any], others: NDArray[Any]) -> NDArray[np.float64]:
    """Intersection over union of boxes.

    :param boxes: (…, 4): x1, y1, x2, y2.
    :param others: (…, 4), broadcast against `boxes`.
    :return: (…), 0..1.
    """
    # by columns, since numpy is slow at reducing an axis of two
    (ax1, ay1, ax2, ay2), (bx1, by1, bx2, by2) = _columns(boxes), _columns(others)
    width = np.maximum(np.minimum(ax2, bx2) - np.maximum(ax1, bx1), 0)
    height = np.maximum(np.minimum(ay2, by2) - np.maximum(ay1, by1), 0)
    intersection = width * height
    union = (ax2 - ax1) * (ay2 - ay1) + (bx2 - bx1) * (by2 - by1) - intersection
    ious: NDArray[np.float64] = intersection / np.maximum(union, 1e-9)
    return ious


def _columns(boxes: NDArray[Any]) -> tuple[NDArray[Any], ...]:
    return boxes[..., 0], boxes[..., 1], boxes[..., 2], boxes[..., 3]
