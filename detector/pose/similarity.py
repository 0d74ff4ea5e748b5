"""Similarity of poses and boxes: object keypoint similarity (OKS), intersection over union (IoU), shared bodies."""

from typing import Any, Final

import numpy as np
from numpy.typing import NDArray

from .skeleton import OKS_SIGMAS, PART_BY_NAME

BODY_SLICE: Final = PART_BY_NAME['body'].slice
"""Slice of the 17 body keypoints."""
ABSENT: Final = 0.15
"""Confidence below which a keypoint counts as absent, for instance on a hidden leg."""
PRESENT: Final = 0.3
"""Confidence from which the position of a keypoint is meaningful."""
MIN_BODY_KEYPOINTS: Final = 3
"""Number of body keypoints that must be present for a comparison of bodies."""
SAME_BODY_OKS: Final = 0.7
"""OKS of the body keypoints from which two poses show the same person."""
BOX_TO_OKS_AREA: Final = 0.53
"""Average share of a box that the person's outline covers. mmpose uses it for the OKS if only boxes exist."""


def oks(
    points: NDArray[Any],
    others: NDArray[Any],
    visible: NDArray[np.bool_],
    *,
    area: NDArray[Any] | float,
    sigmas: NDArray[np.float32],
) -> NDArray[np.float64]:
    """Return the object keypoint similarity, 0..1: the mean over the keypoints of exp(-d² / (2 · area · (2σ)²)).

    The formula is COCO's (pycocotools, `computeOks`).

    :param points: (…, K, 2), x, y.
    :param others: (…, K, 2), broadcast against `points`.
    :param visible: (…, K), True for keypoints that count. If none counts, the similarity is 0.
    :param area: (…), area of each person in squares of the unit of the points.
    :param sigmas: (K,), see `OKS_SIGMAS`.
    :return: (…).

    >>> import numpy as np
    >>> points = np.zeros((133, 2))
    >>> float(oks(points, points, np.ones(133, dtype=bool), area=10_000, sigmas=OKS_SIGMAS))
    1.0
    """
    offsets = points - others
    squares = np.square(offsets[..., 0]) + np.square(offsets[..., 1])
    variances = np.square(2 * sigmas)
    similarities = np.exp(-squares / (2 * np.asarray(area)[..., None] * variances))
    mean: NDArray[np.float64] = (similarities * visible).sum(axis=-1) / np.maximum(visible.sum(axis=-1), 1)
    return mean


def shared_bodies(boxes: NDArray[Any], keypoints: NDArray[Any], confidences: NDArray[Any]) -> NDArray[np.bool_]:
    """Find poses whose body coincides with that of another pose, as when one person was detected twice.

    :param boxes: (N, 4): x1, y1, x2, y2.
    :param keypoints: (N, 133, 2): x, y.
    :param confidences: (N, 133), 0..1.
    :return: (N,), True for each such pose.
    """
    shares = np.zeros(len(boxes), dtype=np.bool_)
    if len(boxes) < 2:
        return shares
    first, second = np.nonzero(np.triu(box_ious(boxes[:, None], boxes[None]) > 0, k=1))
    if not first.size:
        return shares
    bodies, present = keypoints[:, BODY_SLICE], confidences[:, BODY_SLICE] >= PRESENT
    both = present[first] & present[second]
    areas = np.maximum(boxes[:, 2:] - boxes[:, :2], 1).prod(axis=1)
    similarities = oks(
        bodies[first],
        bodies[second],
        both,
        area=BOX_TO_OKS_AREA * np.minimum(areas[first], areas[second]),
        sigmas=OKS_SIGMAS[BODY_SLICE],
    )
    same = (both.sum(axis=1) >= MIN_BODY_KEYPOINTS) & (similarities >= SAME_BODY_OKS)
    shares[first[same]] = shares[second[same]] = True
    return shares


def box_ious(boxes: NDArray[Any], others: NDArray[Any]) -> NDArray[np.float64]:
    """Return the intersection over union of boxes, 0..1.

    :param boxes: (…, 4): x1, y1, x2, y2.
    :param others: (…, 4), broadcast against `boxes`.
    :return: (…).
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
