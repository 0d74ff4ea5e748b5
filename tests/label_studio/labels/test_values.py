"""Fields of regions that are no numbers, too large, or missing."""

import math
from typing import Any

import numpy as np
import pytest

from detector.label_studio.labels.values import (
    corners_of,
    drawable,
    extra_of,
    labels_of,
    notes_of,
    place_of,
    score_field,
    score_of,
    size_in,
)

BOX = {'x': 50, 'y': 20, 'width': 20, 'height': 10}


@pytest.mark.parametrize('value', [None, 'x', [], 1e7, -1e7, 10**400, math.inf, math.nan])
def test_what_cannot_be_drawn_has_no_place_and_no_score(value: Any) -> None:
    """Texts, lists, huge numbers and nan are not drawn; a point needs both coordinates."""
    assert drawable(value) is None
    assert place_of({'x': value, 'y': 50}, (640, 480)) is None
    assert place_of({'x': 50, 'y': value}, (640, 480)) is None
    for side in BOX:
        assert corners_of(BOX | {side: value}, (640, 480)) is None
    assert math.isnan(score_of({'score': value}))


def test_numbers_are_converted_to_pixels() -> None:
    """Percent become pixels of the image."""
    assert place_of({'x': 50, 'y': 25.5}, (640, 480)) == (320, 122.4)


@pytest.mark.parametrize(
    ('rotation', 'expected'),
    [
        (0, [100, 20, 140, 30]),
        (90, [90, 20, 100, 60]),
        (180, [60, 10, 100, 20]),
        (45, [92.9289, 20, 128.2843, 55.3553]),
        ('x', [100, 20, 140, 30]),
    ],
)
def test_a_turned_rectangle_is_enclosed_by_its_corners(rotation: Any, expected: list[float]) -> None:
    """A rectangle is turned clockwise about its upper left corner, in pixels; the image is not square."""
    corners = corners_of(BOX | {'rotation': rotation}, (200, 100))
    assert corners is not None
    assert corners.dtype == np.float32
    np.testing.assert_allclose(corners, expected, atol=1e-3)


@pytest.mark.parametrize(
    ('score', 'expected'), [(None, {}), (math.nan, {}), (1.7, {'score': 1.0}), (-1, {'score': 0.0})]
)
def test_a_score_is_clipped_or_left_out(score: float | None, expected: dict[str, float]) -> None:
    """A score outside 0..1 is clipped, and none is written for a number that is missing."""
    assert score_field(score) == expected


@pytest.mark.parametrize('sides', [(0, 5), (True, 5), (5.0, 5), ('5', 5), (None, 5), (10**9, 5)])
def test_a_size_consists_of_two_whole_numbers(sides: tuple[Any, Any]) -> None:
    """A size of other values than whole positive numbers is unknown."""
    assert size_in({'w': sides[0], 'h': sides[1]}, 'w', 'h') is None
    assert size_in({'w': 4, 'h': 5}, 'w', 'h') == (4, 5)


def test_labels_are_a_list_of_texts() -> None:
    """Labels of another type than a list are none."""
    assert labels_of({'value': {'keypointlabels': ['nose', 3]}}, 'keypointlabels') == ['nose', '3']
    assert labels_of({'value': {'keypointlabels': 'nose'}}, 'keypointlabels') is None


def test_notes_and_extra_are_in_the_meta() -> None:
    """Notes are a list, or one text; extra is a mapping; a region without `meta` has neither."""
    assert notes_of({'meta': {'text': ['v=1', 2]}}) == ['v=1', '2']
    assert notes_of({'meta': {'text': 'hidden'}}) == ['hidden']
    assert extra_of({'meta': {'extra': {'coco': 1}}}) == {'coco': 1}
    for meta in (None, 'x', ['x']):
        assert (notes_of({'meta': meta}), extra_of({'meta': meta})) == ([], {})
    assert (notes_of({}), extra_of({})) == ([], {})
    assert extra_of({'meta': {'extra': ['coco']}}) == {}
