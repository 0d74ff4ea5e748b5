"""Poses for tests."""

import numpy as np

from detector.pose.pose import Pose
from detector.pose.skeleton import PART_BY_NAME
from mock.test_card.cards import PANEL_HEIGHT, PANEL_WIDTH, layout


def make_pose(seed: int = 0) -> Pose:
    rng = np.random.default_rng(seed)
    return Pose(
        box=np.array([10, 20, 110, 220], dtype=np.float32),
        box_confidence=0.75,
        keypoints=rng.uniform(0, 200, (133, 2)).astype(np.float32),
        confidences=rng.uniform(0, 1, 133).astype(np.float32),
    )


def person(
    x: float = 300,
    y: float = 200,
    *,
    width: float = 150,
    height: float = 300,
    box_confidence: float = 0.9,
    confidence: float = 0.9,
    **parts: float,
) -> Pose:
    """Make a schematic person in a box; all parts are certain except those with an explicit confidence."""
    confidences = np.full(133, confidence, dtype=np.float32)
    for name, value in parts.items():
        confidences[PART_BY_NAME[name].slice] = value
    points = layout() / (PANEL_WIDTH, PANEL_HEIGHT) * (width, height) + np.array([x, y])
    return Pose(
        box=np.array([x, y, x + width, y + height], dtype=np.float32),
        box_confidence=box_confidence,
        keypoints=points.astype(np.float32),
        confidences=confidences,
    )
