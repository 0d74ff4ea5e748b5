"""Measures a detector on annotated photographs: recall, recall of large persons, precision."""

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from typing import Final

import cv2
import numpy as np

from .grid import Array, Picture, areas, overlaps
from .photographs import Photograph

LARGE: Final = 0.01
"""Share of the picture's area above which a person is large."""
MEETS: Final = 0.5
"""Least intersection over union of a box with a person that it finds."""
SUPPRESSION: Final = 0.45
"""Intersection over union above which the less likely of two boxes is dropped, as detectors do."""

Detector = Callable[[Picture], tuple[Array, Array]]
"""Returns all boxes (N, 4, pixels) and scores (N,) of a picture (BGR)."""


@dataclass(slots=True, kw_only=True)
class Counts:
    """Persons and boxes of some photographs."""

    persons: int = 0
    found: int = 0
    large: int = 0
    found_large: int = 0
    false: int = 0

    @property
    def recall(self) -> float:
        return self.found / max(1, self.persons)

    @property
    def recall_large(self) -> float:
        return self.found_large / max(1, self.large)

    @property
    def precision(self) -> float:
        return self.found / max(1, self.found + self.false)

    def __str__(self) -> str:
        return f'{self.recall:.3f}/{self.recall_large:.3f}; {self.precision:.3f}'


def measured(detector: Detector, photographs: Iterable[Photograph], thresholds: Sequence[float]) -> dict[float, Counts]:
    """Return the counts of a detector at each threshold on annotated photographs."""
    counts = {threshold: Counts() for threshold in thresholds}
    for photograph in photographs:
        picture, truth = photograph.read()
        boxes, scores = detector(picture)
        for threshold, some in counts.items():
            count(some, suppressed(boxes, scores, threshold), truth, picture.shape[0] * picture.shape[1])
    return counts


def count(counts: Counts, boxes: Array, truth: Array, area: int) -> None:
    """Add one photograph's boxes, the likeliest first."""
    people, crowds = truth[truth[:, 4] == 1, :4], truth[truth[:, 4] == 0, :4]
    large = areas(people) > LARGE * area
    found, false = matched(boxes, people, crowds)
    counts.persons += len(people)
    counts.found += int(found.sum())
    counts.large += int(large.sum())
    counts.found_large += int((found & large).sum())
    counts.false += false


def matched(boxes: Array, people: Array, crowds: Array) -> tuple[np.ndarray, int]:
    """Return which persons (mask) the boxes find, and the number of false boxes.

    A box that lies mostly in a crowd is neither found nor false.
    """
    found, false = np.zeros(len(people), bool), 0
    for box in boxes:
        overlap = np.where(found, 0, overlaps(box[None], people)[0])
        if len(overlap) and overlap.max() >= MEETS:
            found[overlap.argmax()] = True
        elif not len(crowds) or inside(box, crowds).max() <= 0.5:
            false += 1
    return found, false


def inside(box: Array, regions: Array) -> Array:
    """Return the shares (N,) of a box's area within each region."""
    common = (np.minimum(box[2:4], regions[:, 2:4]) - np.maximum(box[:2], regions[:, :2])).clip(0).prod(1)
    return common / areas(box[None])


def suppressed(boxes: Array, scores: Array, threshold: float) -> Array:
    """Return the boxes above a threshold, the likeliest first, without those that overlap a likelier one."""
    kept = kept_by_suppression(boxes, scores, threshold)
    return boxes[kept]


def kept_by_suppression(boxes: Array, scores: Array, threshold: float) -> np.ndarray:
    """Return the indices of the boxes that stay, the likeliest first."""
    corners = np.concatenate([boxes[:, :2], boxes[:, 2:] - boxes[:, :2]], 1)
    kept = cv2.dnn.NMSBoxes(corners.tolist(), scores.tolist(), threshold, SUPPRESSION)
    return np.array(kept, int).ravel()
