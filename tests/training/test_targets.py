"""The targets of the student."""

import numpy as np

from training.grid import cells, decoded, overlaps
from training.targets import persons, targets


def rows_with(box: tuple[float, float, float, float], score: float) -> tuple[np.ndarray, int]:
    """Return a teacher's rows in which one cell answers with a box, and the cell's index."""
    places, strides = cells()
    rows = np.zeros((3549, 6), np.float32)
    centre = np.array([box[0] + box[2], box[1] + box[3]]) / 2
    index = int(np.flatnonzero(((places * strides <= centre) & (centre < (places + 1) * strides)).all(1))[1])
    rows[index, :2] = centre / strides[index] - places[index]
    rows[index, 2:4] = np.log(np.array([box[2] - box[0], box[3] - box[1]]) / strides[index])
    rows[index, 4:] = score, 1
    return rows, index


def test_without_annotation_the_teacher_is_the_target() -> None:
    """The targets are the teacher's boxes, and objectness times person of each cell."""
    rows, index = rows_with((50, 60, 150, 260), 0.7)
    rows[index, 5] = 0.5
    boxes, scores = targets(rows, np.zeros((0, 5), np.float32))
    np.testing.assert_allclose(boxes, decoded(rows))
    assert scores[index] == np.float32(0.35)
    assert np.delete(scores, index).max() == 0


def test_an_annotated_person_raises_the_cell_that_sees_it() -> None:
    """A cell whose box meets an annotated person gets a high score even if the teacher is unsure."""
    rows, index = rows_with((50, 60, 150, 260), 0.2)
    _, scores = targets(rows, np.array([[52, 60, 150, 262, 1]], np.float32))
    assert scores[index] > 0.8


def test_a_person_whom_the_teacher_misses_is_answered_at_the_centre() -> None:
    """If no box of the teacher meets an annotated person, cells at its centre get its box and a high score."""
    person = np.array([[200, 100, 300, 300, 1]], np.float32)
    boxes, scores = targets(rows_with((0, 0, 20, 20), 0.0)[0], person)
    raised = scores > 0.5
    assert 1 <= raised.sum() <= 4
    np.testing.assert_allclose(overlaps(boxes[raised], person[:, :4]), 1, atol=1e-5)


def test_a_tiny_person_changes_nothing() -> None:
    """Persons of a few pixels are left to the teacher."""
    rows, _ = rows_with((50, 60, 150, 260), 0.5)
    _, scores = targets(rows, np.array([[10, 10, 16, 16, 1]], np.float32))
    np.testing.assert_array_equal(scores, rows[:, 4] * rows[:, 5])


def test_crowds_are_no_persons() -> None:
    """Boxes of crowds are left out."""
    boxes = np.array([[0, 0, 9, 9, 0], [1, 1, 5, 5, 1]], np.float32)
    np.testing.assert_array_equal(persons(boxes), boxes[1:])
