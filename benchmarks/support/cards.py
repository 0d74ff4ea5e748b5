"""Test cards, and comparison of the poses read from a card with its figures."""

from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from detector.datasets.person import VISIBLE, Person
from detector.pose import images
from detector.pose.images import Image
from detector.pose.pose import Pose
from detector.pose.skeleton import KEYPOINT_COUNT
from mock.test_card.cards import Figure, draw_card
from mock.test_card.model import ESTIMATOR_SIZE

FIGURES = (Figure(x=40, y=30, height=420), Figure(x=400, y=80, height=330))
"""Two persons for a card of 640×480 to 720×480 pixels."""


def make_card(figures: Sequence[Figure] = FIGURES, *, width: int = 720, height: int = 480) -> Image:
    """Draw a card on light grey."""
    return draw_card(np.full((height, width, 3), 200, dtype=np.uint8), figures)


CARD = images.encode_jpeg(make_card(), quality=90)
"""The card as a JPEG file."""

RAW_CARD = {'bytes': make_card().tobytes(), 'dtype': 'uint8', 'shape': (480, 720, 3)}
"""The card as a raw frame, which a robot sends over Socket.IO."""


def iou(a: NDArray[Any], b: NDArray[Any]) -> float:
    """Return the intersection over union of two boxes x1, y1, x2, y2."""
    low, high = np.maximum(a[:2], b[:2]), np.minimum(a[2:], b[2:])
    intersection = float(np.prod(np.clip(high - low, 0, None)))
    areas = [float(np.prod(box[2:] - box[:2])) for box in (a, b)]
    return intersection / (sum(areas) - intersection)


def person_of(figure: Figure) -> Person:
    """Return a figure as a labelled person with a box, all of whose keypoints are visible."""
    return Person(
        box=figure.box.astype(np.float32),
        box_score=0.9,
        keypoints=figure.keypoints.astype(np.float32),
        visibility=np.full(KEYPOINT_COUNT, VISIBLE, dtype=np.int8),
        scores=np.ones(KEYPOINT_COUNT, dtype=np.float32),
    )


def tolerance(figure: Figure) -> float:
    """Return the largest error of a keypoint: 1.5 pixels or one pixel of the estimator's crop (1.25 times the box)."""
    return max(1.5, 1.25 * figure.height / ESTIMATOR_SIZE[1])


def errors(pose: Pose, figure: Figure) -> NDArray[np.float64]:
    """Return the distance of each keypoint from its drawn place in pixels, shape (133,)."""
    return np.asarray(np.linalg.norm(pose.keypoints - figure.keypoints, axis=1), dtype=np.float64)


def assert_read(poses: Sequence[Pose], figures: Sequence[Figure] = FIGURES) -> None:
    """Assert that each figure was found once, with high confidence."""
    assert_found(poses, figures)
    for pose in poses:
        assert np.median(pose.confidences) > 0.6


def assert_found(poses: Sequence[Pose], figures: Sequence[Figure] = FIGURES) -> None:
    """Assert that each figure was found once, with an IoU of 0.9 and 95 % of its keypoints within the tolerance."""
    assert len(poses) == len(figures)
    for figure in figures:
        pose = max(poses, key=lambda candidate: iou(candidate.box, figure.box))
        assert iou(pose.box, figure.box) >= 0.9
        assert pose.confidences.shape == (KEYPOINT_COUNT,)
        assert np.percentile(errors(pose, figure), 95) <= tolerance(figure)


def assert_misread(poses: Sequence[Pose], figures: Sequence[Figure] = FIGURES) -> None:
    """Assert that no figure was read correctly: it has no pose, or most of its keypoints lie elsewhere."""
    for figure in figures:
        for pose in poses:
            if iou(pose.box, figure.box) >= 0.5:
                assert np.median(errors(pose, figure)) > 10 * tolerance(figure)


def poses_of(metadata: dict[str, Any]) -> list[Pose]:
    """Return the poses in an answer of `detect`: box i with points 133·i … 133·i + 132."""
    boxes, points = metadata['box_detections'], metadata['point_detections']
    assert len(points) == KEYPOINT_COUNT * len(boxes)
    poses = []
    for index, box in enumerate(boxes):
        own = points[KEYPOINT_COUNT * index : KEYPOINT_COUNT * (index + 1)]
        poses.append(
            Pose.from_json(
                {
                    'box': box,
                    'confidence': box['confidence'],
                    'keypoints': [point | {'name': point['category_name']} for point in own],
                }
            )
        )
    return poses
