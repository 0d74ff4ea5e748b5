"""Calibration of the scores."""

import numpy as np
import pytest

from training.calibration import fitted, logit


@pytest.mark.parametrize(('slope', 'shift'), [(1.0, 0.0), (2.0, -0.5), (0.5, 1.0)])
def test_the_share_of_right_boxes_is_recovered(slope: float, shift: float) -> None:
    """From boxes that are right with a known probability, the fit finds this probability's slope and shift."""
    random = np.random.default_rng(0)
    logits = random.normal(0, 2, 20000).astype(np.float32)
    right = random.random(20000) < 1 / (1 + np.exp(-(slope * logits + shift)))
    found = fitted(logits, right)
    assert found.slope == pytest.approx(slope, rel=0.08)
    assert found.shift == pytest.approx(shift, abs=0.08)


def test_boxes_that_are_easy_to_tell_apart_give_a_finite_calibration() -> None:
    """Where every likely box is right and every unlikely one wrong, the slope grows but stays finite."""
    found = fitted(np.array([-2, -1, 1, 2], np.float32), np.array([False, False, True, True]))
    assert 1 < found.slope < 100


def test_without_boxes_nothing_changes() -> None:
    """A detector that finds nothing keeps its scores."""
    assert fitted(np.zeros(0, np.float32), np.zeros(0, bool)).slope == 1.0


def test_logit() -> None:
    """The logit inverts the logistic function and is finite at 0 and 1."""
    np.testing.assert_allclose(logit(np.array([0.5, 0.75], np.float32)), [0, np.log(3)], atol=1e-6)
    assert np.isfinite(logit(np.array([0, 1], np.float32))).all()
