"""Finding the person of points without a parent."""

import numpy as np
import pytest

from detector.label_studio.labels.config import generate, parse
from detector.label_studio.labels.regions import from_results, read_results
from detector.label_studio.labels.values import Region
from detector.pose.skeleton import KEYPOINT_NAMES
from tests.support.label_studio.regions import SIZE, box_region, drawn_skeleton, keypoint_region

KEYPOINTS = parse(generate('keypoints'))
PARTS = parse(generate('parts'))
WITHOUT_BOXES = parse(
    '<View><Image name="image" value="$image"/><KeyPointLabels name="kp" toName="image">'
    + ''.join(f'<Label value="{name}"/>' for name in KEYPOINT_NAMES)
    + '</KeyPointLabels></View>'
)


def test_points_that_an_annotator_adds_go_to_the_only_possible_person() -> None:
    """An added point goes to the only box around it that lacks the keypoint, whatever the order of the regions."""
    boxes = [box_region('a', 0, 0, 40, 40), box_region('b', 50, 50, 30, 30)]
    own = keypoint_region('nose', 20, 20, parentID='a')
    added = [keypoint_region('left_ear', 22, 22), keypoint_region('nose', 60, 60), keypoint_region('left_ear', 61, 61)]
    for results in ([*boxes, own, *added], [*added, own, *boxes]):
        reading = read_results(results, KEYPOINTS, SIZE)
        assert reading.unread == []
        first, second = sorted(reading.persons, key=lambda person: person.keypoints[0][0])
        assert [np.flatnonzero(person.visibility).tolist() for person in (first, second)] == [[0, 3], [0, 3]]
        assert second.keypoints[0].tolist() == pytest.approx([60 * 6.4, 60 * 4.8])
        assert np.isnan(first.scores[3])


@pytest.mark.parametrize(
    'stray',
    [
        pytest.param([keypoint_region('left_ear', 35, 35)], id='inside two boxes'),
        pytest.param([keypoint_region('left_ear', 90, 90)], id='outside all boxes'),
        pytest.param([keypoint_region('nose', 5, 5)], id='inside the box of a person that has it'),
        pytest.param([keypoint_region('left_ear', 5, 5), keypoint_region('left_ear', 6, 6)], id='twice'),
        pytest.param([keypoint_region('left_ear', 90, 90), keypoint_region('nose', 91, 90)], id='two outside'),
        pytest.param([keypoint_region('nose', 5, 5, id='again', parentID='a')], id='again below the same box'),
    ],
)
def test_points_that_may_belong_to_several_persons_are_reported(stray: list[Region]) -> None:
    """A point that belongs to no person for certain changes no person and makes none; its region is named."""
    boxes = [box_region('a', 0, 0, 40, 40), box_region('b', 30, 30, 40, 40)]
    results = [*boxes, keypoint_region('nose', 20, 20, parentID='a')]
    expected = from_results(results, KEYPOINTS, SIZE)
    reading = read_results([*results, *stray], KEYPOINTS, SIZE)
    assert len(reading.persons) == 2
    for person, other in zip(reading.persons, expected, strict=True):
        np.testing.assert_array_equal(person.visibility, other.visibility)
    assert len(reading.unread) == len(stray)
    for region, phrase in zip(stray, reading.unread, strict=True):
        assert f'(region {region["id"]})' in phrase
        assert 'belongs to no person for certain' in phrase


def test_a_stray_point_is_no_person() -> None:
    """A single point without a person is reported, and the annotation does not say that nobody is there."""
    for gone in ({}, {'parentID': 'deleted'}):
        reading = read_results([keypoint_region('nose', 5, 5, **gone)], KEYPOINTS, SIZE)
        assert reading.persons == []
        assert reading.is_lost
    assert not read_results([], KEYPOINTS, SIZE).is_lost


def test_points_without_any_box_are_one_person_if_each_occurs_once() -> None:
    """Different points in an image without boxes are one person; if one occurs twice, all are reported."""
    points = [keypoint_region('nose', 5, 5), keypoint_region('left_eye', 6, 4), keypoint_region('right_eye', 4, 4)]
    (person,) = from_results(points, WITHOUT_BOXES, SIZE)
    assert np.flatnonzero(person.visibility).tolist() == [0, 1, 2]
    reading = read_results([*points, keypoint_region('nose', 50, 50)], WITHOUT_BOXES, SIZE)
    assert reading.persons == []
    assert len(reading.unread) == 4


def test_points_below_other_regions_stay_together() -> None:
    """Points with the same lost parent are one person, and a point below another belongs to the same person."""
    gone = [keypoint_region(name, 5, 5 + y, parentID='gone') for y, name in enumerate(('nose', 'left_eye'))]
    nested = [keypoint_region('nose', 50, 50, id='n', parentID='a'), keypoint_region('left_eye', 51, 50, parentID='n')]
    persons = from_results([box_region('a', 40, 40, 50, 50), *gone, *nested], KEYPOINTS, SIZE)
    assert [np.flatnonzero(person.visibility).tolist() for person in persons] == [[0, 1], [0, 1]]
    assert [person.box is None for person in persons] == [False, True]


def test_points_of_a_lost_box_go_to_the_only_possible_person() -> None:
    """Points whose parent is not there belong to the only box around them that lacks them; others are reported."""
    results = [keypoint_region(name, 5, 5 + y, parentID='gone') for y, name in enumerate(('nose', 'left_eye'))]
    (person,) = from_results([*results, box_region('a', 0, 0, 20, 20)], KEYPOINTS, SIZE)
    assert np.flatnonzero(person.visibility).tolist() == [0, 1]
    boxes = [box_region('a', 0, 0, 20, 20), box_region('b', 1, 1, 20, 20)]
    for others in ([], boxes, [box_region('c', 50, 50, 20, 20)]):
        reading = read_results([*results, *others], KEYPOINTS, SIZE)
        assert len(reading.persons) == len(others) + 1
        assert reading.unread == ['2 points below the region gone, which is not there; they are taken as a person']


def test_two_drawn_persons_are_two() -> None:
    """Each drawn skeleton of a body is a person; the hands of two persons belong to neither for certain."""
    first, second = drawn_skeleton('body', 17), drawn_skeleton('body', 17, id='second')
    assert len(from_results([first, second], PARTS, SIZE)) == 2
    hands = [drawn_skeleton('left_hand', 21, id='h1'), drawn_skeleton('left_hand', 21, id='h2')]
    reading = read_results([first, second, *hands], PARTS, SIZE)
    assert len(reading.persons) == 2
    assert len(reading.unread) == 2
