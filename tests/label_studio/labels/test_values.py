"""Fields of regions that are no numbers, too large, or missing."""

import math
from typing import Any

import pytest

from detector.label_studio.labels.values import drawable, labels_of, place_of, score_field, score_of, size_in


@pytest.mark.parametrize('value', [None, 'x', [], 1e7, -1e7, 10**400, math.inf, math.nan])
def test_what_cannot_be_drawn_has_no_place_and_no_score(value: Any) -> None:
    """Texts, lists, huge numbers and nan are not drawn; a point needs both coordinates."""
    assert drawable(value) is None
    assert place_of({'x': value, 'y': 50}, (640, 480)) is None
    assert math.isnan(score_of({'score': value}))


def test_numbers_are_converted_to_pixels() -> None:
    """Percent become pixels of the image."""
    assert place_of({'x': 50, 'y': 25.5}, (640, 480)) == (320, 122.4)


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
