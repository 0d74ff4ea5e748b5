"""Counts of persons found and of false boxes."""

from pathlib import Path

import cv2
import numpy as np

from training.evaluation import inside, matched, measured, suppressed
from training.photographs import Photograph

PEOPLE = np.array([[0, 0, 10, 20], [30, 0, 60, 60]], np.float32)
CROWD = np.array([[70, 0, 100, 100]], np.float32)


def test_each_person_is_found_once() -> None:
    """A second box on the same person is false; a box in a crowd is neither found nor false."""
    boxes = np.array([[0, 0, 10, 19], [0, 0, 10, 21], [75, 10, 85, 30], [40, 70, 60, 90]], np.float32)
    found, false = matched(boxes, PEOPLE, CROWD)
    assert found.tolist() == [True, False]
    assert false == 2
    assert matched(boxes, np.zeros((0, 4), np.float32), np.zeros((0, 4), np.float32))[1] == 4


def test_suppression_keeps_the_likelier_box() -> None:
    """The likelier of two boxes on one person stays; boxes below the threshold are dropped."""
    boxes = np.array([[0, 0, 10, 20], [0, 0, 10, 21], [50, 50, 60, 60]], np.float32)
    np.testing.assert_array_equal(suppressed(boxes, np.array([0.6, 0.8, 0.3], np.float32), 0.5), boxes[1:2])
    assert suppressed(boxes, np.zeros(3, np.float32), 0.5).shape == (0, 4)


def test_a_detector_is_measured_at_each_threshold(tmp_path: Path) -> None:
    """Recall, recall of large persons and precision are counted over the photographs."""
    cv2.imwrite(str(tmp_path / 'a.png'), np.zeros((100, 100, 3), np.uint8))
    truth = np.array([[0, 0, 0.05, 0.05, 1], [0.3, 0, 0.6, 0.6, 1], [0.7, 0, 1, 1, 0]], np.float32)
    photograph = Photograph(path=tmp_path / 'a.png', name='a.png', boxes=truth)
    boxes = np.array([[30, 0, 60, 60], [10, 80, 20, 90]], np.float32)
    figures = measured(lambda _: (boxes, np.array([0.9, 0.4], np.float32)), [photograph], (0.3, 0.5))
    assert (figures[0.3].recall, figures[0.3].recall_large, figures[0.3].precision) == (0.5, 1, 0.5)
    assert (figures[0.5].persons, figures[0.5].large, figures[0.5].false) == (2, 1, 0)
    assert str(figures[0.5]) == '0.500/1.000; 1.000'


def test_the_share_within_a_region() -> None:
    """The share is that of the box, not of the region."""
    np.testing.assert_allclose(inside(np.array([60, 0, 80, 10], np.float32), CROWD), [0.5])
