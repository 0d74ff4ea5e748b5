"""Pose and its JSON form."""

from typing import Any

import numpy as np
import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from detector.pose.pose import Pose, poses_from_metadata, poses_to_json
from detector.pose.skeleton import KEYPOINT_INDEX, KEYPOINT_NAMES
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


def annotated(*persons: tuple[tuple[int, int, int, int], dict[str, tuple[float, float]]]) -> dict[str, Any]:
    """Return metadata with annotated persons: x, y, width, height of the box, and the points by name."""
    sides = ('x', 'y', 'width', 'height')
    return {
        'box_annotations': [{'category_name': 'person'} | dict(zip(sides, box, strict=True)) for box, _ in persons],
        'point_annotations': [
            {'category_name': name, 'x': x, 'y': y} for _, points in persons for name, (x, y) in points.items()
        ],
    }


def shown(pose: Pose) -> dict[str, tuple[float, float]]:
    """Return the keypoints with a confidence."""
    found = np.flatnonzero(pose.confidences)
    return {
        KEYPOINT_NAMES[index]: (float(pose.keypoints[index, 0]), float(pose.keypoints[index, 1])) for index in found
    }


LEFT, RIGHT = (0, 0, 100, 200), (300, 0, 100, 200)


@pytest.mark.parametrize(
    'people',
    [
        [{name: (10.0 + n, 20.0) for n, name in enumerate(KEYPOINT_NAMES)}, {'nose': (310.0, 5.0)}],
        [{'nose': (1.0, 2.0), 'face_3': (3.0, 4.0)}, {'nose': (301.0, 2.0), 'left_wrist': (90.0, 7.0)}],
        [{}, {'nose': (301.0, 2.0), 'right_hand_20': (350.0, 7.0)}],
        [{'nose': (1.0, 2.0)}, {}],
    ],
)
def test_annotated_persons_keep_their_points(people: list[dict[str, tuple[float, float]]]) -> None:
    """Each annotated box gets the points of its person, with a confidence of 1, also if one person has no points."""
    poses = poses_from_metadata(annotated((LEFT, people[0]), (RIGHT, people[1])))
    assert [shown(pose) for pose in poses] == people
    assert [pose.box.tolist() for pose in poses] == [[0, 0, 100, 200], [300, 0, 400, 200]]
    assert all(pose.box_confidence == 1 and set(pose.confidences.tolist()) <= {0, 1} for pose in poses)


def test_points_that_continue_the_order_of_another_person_stay_with_their_box() -> None:
    """Three persons with one part each, whose points follow each other in the order of the skeleton, stay apart."""
    boxes = [(0, 0, 100, 200), (90, 0, 100, 200), (300, 0, 100, 200)]
    people: list[dict[str, tuple[float, float]]] = [
        {'nose': (95.0, 5.0), 'left_ankle': (10.0, 190.0)},
        {'face_3': (140.0, 9.0), 'face_4': (95.0, 9.0), 'face_5': (150.0, 9.0)},
        {'left_hand_9': (310.0, 9.0), 'right_hand_1': (250.0, 9.0)},
    ]
    poses = poses_from_metadata(annotated(*zip(boxes, people, strict=True)))
    assert [shown(pose) for pose in poses] == people


@given(st.lists(st.sets(st.sampled_from(range(133)), max_size=4).map(sorted), min_size=1, max_size=5))
@example([[0], [1]])
@example([[], [5, 9], [], [20], [3]])
def test_annotated_points_inside_their_boxes_are_theirs(people: list[list[int]]) -> None:
    """Persons with separate boxes get exactly their points, whichever they have."""
    boxes = [(200 * number, 0, 100, 100) for number in range(len(people))]
    named = [
        {KEYPOINT_NAMES[index]: (200.0 * number + index / 2, 5.0) for index in indices}
        for number, indices in enumerate(people)
    ]
    poses = poses_from_metadata(annotated(*zip(boxes, named, strict=True)))
    assert [shown(pose) for pose in poses] == named


def test_points_of_more_persons_than_boxes_go_to_the_nearest_box() -> None:
    """Metadata of other programs may list points in any order; each run goes to the box that holds most of it."""
    metadata = annotated((LEFT, {'left_ear': (1.0, 2.0), 'nose': (302.0, 3.0), 'face_1': (3.0, 4.0)}), (RIGHT, {}))
    metadata['point_annotations'] += [{'category_name': 'nose', 'x': 310.0, 'y': 9.0}]
    left, right = poses_from_metadata(metadata)
    assert 'left_ear' in shown(left)
    assert shown(right)['nose'] == (310.0, 9.0)


def test_annotations_replace_detections() -> None:
    """The annotated persons of an image are returned even if it has detections; without annotations, the
    detected ones."""
    box = {'category_name': 'person', 'x': 5, 'y': 6, 'width': 7, 'height': 8, 'confidence': 0.5}
    points = [{'category_name': name, 'x': 9, 'y': 10, 'confidence': 0.25} for name in KEYPOINT_INDEX]
    detected = {'box_detections': [box], 'point_detections': points}
    (pose,) = poses_from_metadata(detected | {'box_annotations': [], 'point_annotations': []})
    assert (pose.box_confidence, pose.confidences.max()) == (0.5, 0.25)
    (pose,) = poses_from_metadata(detected | annotated((LEFT, {'nose': (1.0, 2.0)})))
    assert shown(pose) == {'nose': (1.0, 2.0)}
