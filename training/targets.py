"""What the student is to answer: the teacher's answer, raised where persons are annotated."""

from typing import Final

import numpy as np

from .grid import Array, areas, cells, decoded, overlaps
from .photographs import ANNOTATED_SCORE

SMALLEST: Final = 10
"""Smallest side of an annotated person that raises a target, in pixels (square root of the area)."""


def targets(rows: Array, boxes: Array) -> tuple[Array, Array]:
    """Return the boxes (cells, 4) and person scores (cells,) that the student is to answer for one picture.

    :param rows: the teacher's rows (cells, 6).
    :param boxes: boxes annotated in the picture (N, 5: left, top, right, bottom, 1 person or 0 crowd). The cells whose
        boxes meet an annotated person get a high score. Where the teacher sees no person, the cells at the centre do.
    """
    places, strides = cells()
    seen, taught = decoded(rows), rows[:, 4] * rows[:, 5]
    scores = taught.copy()
    sides = np.sqrt(areas(boxes))
    for box, side in zip(boxes[:, :4], sides, strict=True):
        if side < SMALLEST:
            continue
        overlap = overlaps(seen, box[None])[:, 0]
        best = np.argsort(-(overlap * (taught + 0.05)))[:5]
        best = best[overlap[best] > 0.6]
        scores[best] = np.maximum(scores[best], ANNOTATED_SCORE * overlap[best])
        if len(best) < 3:
            stride = 8 if side < 56 else 16 if side < 150 else 32
            offset = np.abs((places + 0.5) * strides - (box[:2] + box[2:4]) / 2).max(1)
            near = (offset < stride) & (strides[:, 0] == stride) & (scores < 0.5)
            seen[near] = box
            scores[near] = np.maximum(scores[near], 0.75 * ANNOTATED_SCORE)
    return seen, scores


def persons(boxes: Array) -> Array:
    """Return the boxes of persons, without crowds."""
    return boxes[boxes[:, 4] == 1]
