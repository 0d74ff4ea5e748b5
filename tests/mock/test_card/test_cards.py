"""Drawing of test cards."""

import numpy as np
import pytest

from benchmarks.support.cards import FIGURES
from mock.test_card.cards import FRAME_COLOURS, MAX_PERSONS, Figure, arrange, dot_colours, draw_card, layout


def test_dots_and_colours_are_apart() -> None:
    """Any two of the 133 dots are at least 9 units apart, and their colours at least 51."""
    for points, distance in ((layout(), 9 - 1e-4), (dot_colours(), 51)):
        apart = np.linalg.norm(points[:, None].astype(float) - points[None], axis=-1)
        assert apart[~np.eye(133, dtype=bool)].min() >= distance
    assert len({*map(tuple, dot_colours().tolist()), *FRAME_COLOURS}) == 133 + MAX_PERSONS


def test_a_card_is_drawn_on_a_copy_and_up_to_the_limit() -> None:
    """The background is unchanged, and too many figures are an error."""
    background = np.full((480, 720, 3), 30, dtype=np.uint8)
    draw_card(background, FIGURES)
    assert (background == 30).all()
    with pytest.raises(ValueError, match='up to 12 persons, not 13'):
        draw_card(background, [Figure(x=0, y=0, height=100)] * 13)


@pytest.mark.parametrize(('count', 'size'), [(0, (100, 100)), (1, (640, 480)), (5, (1280, 960)), (12, (1600, 1200))])
def test_arranged_figures_lie_inside_and_apart(count: int, size: tuple[int, int]) -> None:
    """Figures lie inside the card, with gaps on all sides."""
    figures = arrange(count, size)
    assert len(figures) == count
    for index, figure in enumerate(figures):
        x1, y1, x2, y2 = figure.box
        assert x1 > 0
        assert y1 > 0
        assert x2 < size[0]
        assert y2 < size[1]
        for other in figures[:index]:
            a1, b1, a2, b2 = other.box
            assert x1 > a2 or a1 > x2 or y1 > b2 or b1 > y2
    with pytest.raises(ValueError, match='do not fit'):
        arrange(12, (300, 300))
