"""Words for people."""

import pytest

from detector.wording import counted


@pytest.mark.parametrize(('count', 'text'), [(0, '0 images'), (1, '1 image'), (2, '2 images')])
def test_a_noun_follows_its_number(count: int, text: str) -> None:
    """Only 1 takes the singular."""
    assert counted(count, 'image') == text


def test_a_box_has_boxes() -> None:
    """The plural of a noun in x ends in es."""
    assert [counted(count, 'box') for count in (0, 1, 2)] == ['0 boxes', '1 box', '2 boxes']
