"""The tables of points fit the skeleton of 133 keypoints."""

from detector.models.starter import layout
from detector.pose.skeleton import FLIP_INDICES, PART_BY_NAME


def test_each_part_has_as_many_points_as_the_skeleton() -> None:
    """Body, face and hands have 17, 68 and 21 different points, which their networks answer."""
    for part, points, answered in (
        ('body', layout.BODY, 33),
        ('face', layout.FACE_68, layout.FACE_POINTS),
        ('left_hand', range(layout.HAND_POINTS), layout.HAND_POINTS),
    ):
        place = PART_BY_NAME[part].slice
        assert len(points) == len(set(points)) == place.stop - place.start
        assert max(points) < answered


def test_left_and_right_are_not_mixed_up() -> None:
    """A left joint has the number n and the right one n + 1, or n + 3 at the eyes, as the skeleton's mirror has it."""
    for index, point in enumerate(layout.BODY[1:], start=1):
        other = layout.BODY[FLIP_INDICES[index]]
        assert abs(other - point) == (3 if point in layout.EYES else 1)
        assert (point < other) == (index < FLIP_INDICES[index])
