"""A person as annotators label it."""

from dataclasses import replace

import numpy as np

from detector.datasets.person import HIDDEN, NOT_LABELLED, VISIBLE, Person
from tests.support.poses import make_pose


def test_keypoints_below_the_threshold_are_not_labelled() -> None:
    """A keypoint with exactly the threshold is visible; box, places and scores stay those of the pose."""
    pose = make_pose()
    threshold = float(pose.confidences[7])
    person = Person.of(pose, threshold=threshold)
    np.testing.assert_array_equal(person.visibility == VISIBLE, pose.confidences >= threshold)
    np.testing.assert_array_equal(person.labelled, pose.confidences >= threshold)
    assert person.visibility[7] == VISIBLE
    assert NOT_LABELLED in person.visibility
    assert (person.box_score, person.box is pose.box) == (pose.box_confidence, True)
    np.testing.assert_array_equal(person.scores, pose.confidences)


def test_the_extent_is_the_box_or_holds_the_labelled_keypoints() -> None:
    """Hidden keypoints count, keypoints that are not labelled do not; an empty person has no extent."""
    empty = Person.empty()
    assert empty.is_empty
    assert empty.extent is None
    keypoints, visibility = empty.keypoints.copy(), empty.visibility.copy()
    keypoints[[3, 5, 9]] = [(10, 40), (30, 20), (500, 500)]
    visibility[[3, 5]] = VISIBLE, HIDDEN
    person = replace(empty, keypoints=keypoints, visibility=visibility)
    assert not person.is_empty
    assert person.extent is not None
    np.testing.assert_array_equal(person.extent, [10, 20, 30, 40])
    box = np.array([1, 2, 3, 4], dtype=np.float32)
    assert replace(person, box=box).extent is box
    assert not replace(empty, box=box).is_empty
