"""Pose and its JSON form."""

import numpy as np
import pytest

from detector.pose.pose import Pose, poses_to_json
from detector.pose.skeleton import KEYPOINT_NAMES
from tests.support.poses import make_pose


def test_json_and_back_keeps_the_pose() -> None:
    """Coordinates survive to 0.01 px and confidences to 0.0001, in any order of the keypoints."""
    pose = make_pose()
    data = pose.to_json()
    data['keypoints'].reverse()
    again = Pose.from_json(data)
    np.testing.assert_allclose(again.box, pose.box, atol=0.01)
    np.testing.assert_allclose(again.keypoints, pose.keypoints, atol=0.0051)
    np.testing.assert_allclose(again.confidences, pose.confidences, atol=0.000051)
    assert again.box_confidence == pose.box_confidence


def test_grouped_answer_names_every_keypoint_of_every_person() -> None:
    """The answer has 133 named keypoints per person, the size of the image and the model."""
    answer = poses_to_json([make_pose(1), make_pose(2)], width=640, height=480, model_version='m 1')
    assert [[point['name'] for point in pose['keypoints']] for pose in answer['poses']] == 2 * [list(KEYPOINT_NAMES)]
    assert answer['image'] == {'width': 640, 'height': 480}
    assert answer['model_version'] == 'm 1'


def test_arrays_of_another_shape_are_refused() -> None:
    """A pose always has all 133 keypoints."""
    with pytest.raises(ValueError, match='17'):
        Pose(
            box=np.zeros(4, dtype=np.float32),
            box_confidence=1,
            keypoints=np.zeros((17, 2), dtype=np.float32),
            confidences=np.zeros(17, dtype=np.float32),
        )


def test_an_unknown_keypoint_name_is_refused() -> None:
    """A misspelled name raises an error instead of losing the keypoint."""
    data = make_pose().to_json()
    data['keypoints'][0]['name'] = 'tail'
    with pytest.raises(KeyError, match='tail'):
        Pose.from_json(data)
