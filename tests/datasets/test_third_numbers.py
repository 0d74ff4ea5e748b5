"""Visibilities and confidences as third numbers."""

import pytest

from detector.datasets.third_numbers import ThirdNumbers
from detector.errors import InvalidRequest


@pytest.mark.parametrize('numbers', [[], [0, 1], [0, 1, 2], [2.0, '2'], [None, 'x', 7], [1.0, 0.0]])
def test_whole_numbers_are_visibilities(numbers: list[object]) -> None:
    """A dataset without a number between 0 and 1 holds visibilities."""
    found = ThirdNumbers()
    found.note(numbers, 'a.txt')
    assert found.threshold(None) is None
    assert found.threshold(0.3) is None


@pytest.mark.parametrize('number', [0.02, 0.99, '0.5', 1e-6])
def test_a_fraction_makes_all_of_them_confidences(number: object) -> None:
    """One number between 0 and 1 makes all of the dataset confidences, which are refused unless there is a
    threshold."""
    found = ThirdNumbers()
    found.note([1, 1, 0], 'a.txt')
    found.note([1, number], 'b.txt')
    assert found.threshold(0.3) == 0.3
    with pytest.raises(InvalidRequest, match='b.txt has confidences .* --as predictions'):
        found.threshold(None)


def test_a_mixture_is_refused() -> None:
    """A dataset with visibilities and confidences is refused with a place of each."""
    found = ThirdNumbers()
    found.note([2], 'a.txt')
    found.note([0.5], 'b.txt')
    with pytest.raises(InvalidRequest, match='a.txt has the visibility 2, and b.txt a confidence'):
        found.threshold(0.3)
