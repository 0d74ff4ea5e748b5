"""Compare persons in Label Studio with the figures drawn on a test card."""

from collections.abc import Sequence

import numpy as np

from benchmarks.support.cards import iou
from detector.datasets.person import Person
from mock.test_card.cards import Figure


def assert_drawn(persons: Sequence[Person], figures: Sequence[Figure], size: tuple[int, int]) -> None:
    """Assert that each figure is there once, with 95 % of its keypoints within 1 % of the image and its box in
    place."""
    assert len(persons) == len(figures)
    for figure in figures:
        person = min(persons, key=lambda candidate: np.abs(candidate.keypoints - figure.keypoints).max())
        distances = np.linalg.norm(person.keypoints - figure.keypoints, axis=1)
        assert np.percentile(distances, 95) < 0.01 * max(size)
        assert person.box is not None
        assert iou(person.box, figure.box) > 0.9
