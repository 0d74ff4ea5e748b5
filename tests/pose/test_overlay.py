"""Drawing of skeletons over images."""

import numpy as np

from detector.pose import overlay
from detector.pose.pose import Pose
from detector.pose.skeleton import KEYPOINT_INDEX, PART_BY_NAME
from tests.support.poses import make_pose


def pose_with(visible: list[str]) -> Pose:
    base = make_pose()
    confidences = np.zeros(133, dtype=np.float32)
    confidences[[KEYPOINT_INDEX[name] for name in visible]] = 0.9
    return Pose(box=base.box, box_confidence=0.9, keypoints=base.keypoints, confidences=confidences)


def test_limbs_are_drawn_in_the_colour_of_their_part_on_a_copy() -> None:
    """Halfway between two visible keypoints the pixel has the part's colour; the input is unchanged."""
    image = np.zeros((240, 240, 3), dtype=np.uint8)
    pose = pose_with(['left_shoulder', 'left_elbow'])
    drawn = overlay.draw_poses(image, [pose])
    assert not image.any()
    a, b = (pose.keypoints[KEYPOINT_INDEX[name]] for name in ('left_shoulder', 'left_elbow'))
    x, y = np.round((a + b) / 2).astype(int)
    colour = np.array(PART_BY_NAME['body'].colour)
    assert np.abs(drawn[y - 1 : y + 2, x - 1 : x + 2].astype(int) - colour).sum(axis=-1).min() < 60


def test_keypoints_below_the_threshold_are_not_drawn() -> None:
    """If no keypoint is visible, only the box is drawn; a lower threshold shows the keypoints again."""
    image = np.zeros((240, 240, 3), dtype=np.uint8)
    pose = pose_with([])
    box_only = overlay.draw_poses(image, [pose])
    everything = overlay.draw_poses(image, [pose], confidence_threshold=0)
    assert box_only.any()
    assert (everything != box_only).any(axis=-1).sum() > 1000
    inner = box_only[25:215, 15:105]
    assert not inner.any()


def test_without_poses_the_picture_stays() -> None:
    """Without poses, the result is an equal copy."""
    image = np.random.default_rng(0).integers(0, 256, (20, 20, 3), dtype=np.uint8)
    np.testing.assert_array_equal(overlay.draw_poses(image, []), image)
