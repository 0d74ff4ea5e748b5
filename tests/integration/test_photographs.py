"""The test card model and photographs of scikit-image, with compressed test cards drawn on them."""

import numpy as np
import pytest
from PIL import Image as PillowImage
from skimage import data as photographs

from benchmarks.support.cards import FIGURES, assert_read
from detector.engine.pose_engine import PoseEngine
from detector.pose import images
from mock.test_card.cards import draw_card
from tests.support.pictures import encoded

pytestmark = pytest.mark.integration


@pytest.mark.parametrize('picture', ['astronaut', 'coffee', 'cat', 'rocket'])
def test_a_photograph_holds_no_figure(engine: PoseEngine, picture: str) -> None:
    """The embedded model finds no person in a photograph without a test card."""
    assert engine.poses(getattr(photographs, picture)()) == []


@pytest.mark.parametrize(('picture', 'tiles'), [('astronaut', (1, 2, 1)), ('coffee', (2, 2, 1))])
@pytest.mark.parametrize('quality', [None, 90, 75])
def test_a_card_is_read_on_a_photograph(
    engine: PoseEngine, picture: str, tiles: tuple[int, int, int], quality: int | None
) -> None:
    """Figures drawn on a photograph are read from the array and after JPEG compression."""
    background = np.tile(getattr(photographs, picture)(), tiles)[:480, :720]
    card = draw_card(np.ascontiguousarray(background), FIGURES)
    if quality is not None:
        card = images.decode_image(encoded(PillowImage.fromarray(card), 'JPEG', quality=quality))
    assert_read(engine.poses(card), FIGURES)
