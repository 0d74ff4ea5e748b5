"""The networks that read a test card."""

import numpy as np
import pytest

from benchmarks.support.cards import FIGURES, assert_read, errors, make_card
from detector.engine.pose_engine import PoseEngine
from detector.pose import images
from mock.test_card.cards import Figure, draw_card
from tests.support.photographs import portrait

BACKGROUNDS = {
    'plain': np.full((480, 720, 3), 30, dtype=np.uint8),
    'noise': np.random.default_rng(0).integers(0, 256, (480, 720, 3), dtype=np.uint8),
    'photograph': np.ascontiguousarray(np.tile(portrait(), (1, 2, 1))[:480, :720]),
}


@pytest.mark.parametrize('background', BACKGROUNDS)
@pytest.mark.parametrize('quality', [None, 90, 75])
def test_a_card_is_read_on_any_background_and_through_jpeg(
    engine: PoseEngine, background: str, quality: int | None
) -> None:
    """Figures are read on a plain area, noise and a photograph, without compression and as JPEG."""
    card = draw_card(BACKGROUNDS[background], FIGURES)
    if quality is not None:
        from PIL import Image as PillowImage

        from tests.support.pictures import encoded

        card = images.decode_image(encoded(PillowImage.fromarray(card), 'JPEG', quality=quality))
    assert_read(engine.poses(card), FIGURES)


def test_a_photograph_holds_no_figure(engine: PoseEngine) -> None:
    """The embedded model finds no person in a photograph without a test card."""
    assert engine.poses(portrait()) == []


@pytest.mark.parametrize('height', [160, 250, 900])
def test_a_card_is_read_at_any_size(engine: PoseEngine, height: int) -> None:
    """Figures from below the estimator's resolution to large ones, at fractional positions, are read."""
    figures = [Figure(x=20.37, y=15.81, height=height)]
    size = 2 * height if height < 500 else 1000
    assert_read(engine.poses(make_card(figures, width=size, height=size)), figures)


def test_fading_lowers_the_confidence_steadily_and_keeps_the_place(engine: PoseEngine) -> None:
    """A shrinking dot loses confidence and keeps its position down to a confidence of 0.15."""
    medians = []
    for fade in (0.0, 0.15, 0.3, 0.45, 0.6):
        figure = Figure(x=40, y=30, height=420, fading=np.full(133, fade, dtype=np.float32))
        (pose,) = engine.poses(make_card([figure]))
        medians.append(float(np.median(pose.confidences)))
        seen = pose.confidences > 0.15
        assert np.percentile(errors(pose, figure)[seen], 95) < 2.5
    assert medians[0] > 0.8
    assert (np.diff(medians) < -0.1).all()
    assert medians[-1] < 0.3


def test_an_absent_dot_has_no_confidence(engine: PoseEngine) -> None:
    """A fading of 1 removes a dot and leaves the others unaffected."""
    fading = np.zeros(133, dtype=np.float32)
    fading[91:112] = 1
    figure = Figure(x=40, y=30, height=420, fading=fading)
    (pose,) = engine.poses(make_card([figure]))
    assert pose.confidences[91:112].max() < 0.3
    rest = np.delete(np.arange(133), np.arange(91, 112))
    assert np.percentile(errors(pose, figure)[rest], 95) < 2.5
