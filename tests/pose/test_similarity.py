"""Similarity of poses and boxes."""

import numpy as np
import pytest

from detector.pose.similarity import box_ious, oks


def test_oks_follows_cocos_formula() -> None:
    """Distance 0 gives 1, a distance of 2σ·√area gives exp(-1/2), and invisible keypoints do not count."""
    sigmas = np.array([0.025, 0.1], dtype=np.float32)
    points = np.array([[0, 0], [10, 10]], dtype=np.float32)
    moved = points + np.array([[0, 0.05 * 100], [0, 0]], dtype=np.float32)
    both = np.array([True, True])
    assert oks(points, points, both, area=100**2, sigmas=sigmas) == pytest.approx(1)
    assert oks(points, moved, both, area=100**2, sigmas=sigmas) == pytest.approx((np.exp(-0.5) + 1) / 2)
    assert oks(points, moved, np.array([False, True]), area=100**2, sigmas=sigmas) == pytest.approx(1)
    assert oks(points, moved, ~both, area=100**2, sigmas=sigmas) == 0
    many = oks(np.stack([points, moved]), points, both, area=np.array([100.0**2, 100.0**2]), sigmas=sigmas)
    assert many == pytest.approx([1, (np.exp(-0.5) + 1) / 2])


def test_box_ious() -> None:
    """The IoU is right for equal, overlapping and separate boxes, and for boxes without area."""
    box = np.array([0, 0, 10, 10], dtype=np.float32)
    others = np.array([[0, 0, 10, 10], [0, 0, 10, 5], [5, 5, 15, 15], [20, 20, 30, 30], [3, 3, 3, 3]])
    assert box_ious(box, others) == pytest.approx([1, 0.5, 25 / 175, 0, 0])
    assert box_ious(np.zeros(4), np.zeros(4)) == 0
