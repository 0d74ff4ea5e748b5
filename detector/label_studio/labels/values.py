"""Fields of regions: numbers, places, scores, notes."""

import math
from collections.abc import Mapping
from typing import Any, Final

import numpy as np

Region = dict[str, Any]
Points = dict[int, tuple[float, float, int, float]]
"""x and y in pixels, visibility and score by keypoint index."""

MAX_NUMBER: Final = 1e6
"""Largest absolute number that is read (percent, degrees, pixels of a side); larger ones overflow in computations."""


def drawable(value: object) -> float | None:
    """Return the value if it is a number within ±`MAX_NUMBER`, else None."""
    return float(value) if isinstance(value, int | float) and abs(value) <= MAX_NUMBER else None


def size_in(item: Mapping[str, Any], width: str, height: str) -> tuple[int, int] | None:
    """Return the image size from two fields; None if they do not hold it."""
    sides = item.get(width), item.get(height)
    return sides if all(type(side) is int and 0 < side <= MAX_NUMBER for side in sides) else None  # type: ignore[return-value]


def place_of(value: Mapping[str, Any], size: tuple[int, int]) -> tuple[float, float] | None:
    """Convert a point from percent to pixels; None if it has no coordinates."""
    x, y = drawable(value.get('x')), drawable(value.get('y'))
    return None if x is None or y is None else (x * size[0] / 100, y * size[1] / 100)


def score_of(item: Mapping[str, Any]) -> float:
    """Return the score of a region or vertex; nan if it has none."""
    score = drawable(item.get('score'))
    return math.nan if score is None else score


def score_field(score: float | np.floating[Any] | None) -> Region:
    """Return the field of a score, clipped to 0..1; nothing for a score that is no number."""
    if score is None or not math.isfinite(score):
        return {}
    return {'score': round(min(max(float(score), 0.0), 1.0), 4)}


def meta_of(region: Mapping[str, Any]) -> dict[str, Any]:
    """Return the `meta` of a region; empty if it has none."""
    meta = region.get('meta')
    return meta if isinstance(meta, dict) else {}


def labels_of(region: Mapping[str, Any], kind: str) -> list[str] | None:
    """Return the labels of a region of a kind such as `keypointlabels`; None if there is no list of them."""
    labels = region['value'].get(kind)
    return [str(label) for label in labels] if isinstance(labels, list) else None
