"""Fields of regions: numbers, places, boxes, scores, labels, notes."""

import math
from collections.abc import Mapping
from typing import Any, Final

import numpy as np

from detector.pose.pose import FloatArray

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


def corners_of(value: Mapping[str, Any], size: tuple[int, int]) -> FloatArray | None:
    """Return the upright box around a rectangle that is turned clockwise about its upper left corner.

    :return: x1, y1, x2, y2 in pixels, float32; None if it has no coordinates.
    """
    numbers = [drawable(value.get(key)) for key in ('x', 'y', 'width', 'height')]
    if any(side is None for side in numbers):
        return None
    x, y, width, height = (side or 0.0 for side in numbers)
    scale = np.array(size) / 100
    angle = math.radians(drawable(value.get('rotation')) or 0.0)
    along = np.array([math.cos(angle), math.sin(angle)]) * width * scale[0]
    down = np.array([-math.sin(angle), math.cos(angle)]) * height * scale[1]
    origin = np.array([x, y]) * scale
    corners = np.stack([origin, origin + along, origin + down, origin + along + down])
    return np.concatenate([corners.min(axis=0), corners.max(axis=0)]).astype(np.float32)


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


def notes_of(region: Mapping[str, Any]) -> list[str]:
    """Return the notes that annotators have written in the `meta` of a region."""
    notes = meta_of(region).get('text', [])
    return [str(note) for note in notes] if isinstance(notes, list) else [str(notes)]


def extra_of(region: Mapping[str, Any]) -> dict[str, Any]:
    """Return the fields of a dataset in the `meta` of a region; empty if it has none."""
    extra = meta_of(region).get('extra')
    return extra if isinstance(extra, dict) else {}
