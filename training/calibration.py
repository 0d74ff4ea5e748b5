"""Calibrates the scores: afterwards a score is about the share of right boxes among the boxes with this score."""

import logging
from dataclasses import dataclass
from pathlib import Path
from typing import Final

import numpy as np

from .augmentation import letterboxed
from .evaluation import MEETS, Detector, kept_by_suppression
from .grid import Array, decoded, overlaps
from .photographs import Collection, Photograph
from .targets import persons
from .teacher import Teacher

log = logging.getLogger(__name__)

PHOTOGRAPHS: Final = 600
"""Number of training photographs whose boxes are looked at, over all sources."""
LEAST: Final = 0.1
"""Lowest score of a box that is looked at, before the calibration."""
TAUGHT: Final = 0.35
"""Lowest score of a box of the teacher that counts as a person."""


@dataclass(slots=True, kw_only=True)
class Calibration:
    """A score's logit z becomes slope · z + shift."""

    slope: float = 1.0
    shift: float = 0.0


def calibrated(detector: Detector, teacher: Path, collection: Collection) -> Calibration:
    """Fit the calibration on training photographs.

    A box is right if it meets an annotated person or a box of the teacher.
    """
    answers = Teacher(teacher)
    random = np.random.default_rng(7)
    logits: list[Array] = []
    right: list[np.ndarray] = []
    for source, some in collection.training().items():
        number = min(len(some), round(PHOTOGRAPHS * collection.shares[source]))
        for index in random.permutation(len(some))[:number]:
            picture, truth = some[index].read()
            boxes, scores = detector(picture)
            kept = kept_by_suppression(boxes, scores, LEAST)
            people = np.concatenate([persons(truth)[:, :4], taught_boxes(answers, some[index])])
            logits.append(logit(scores[kept]))
            right.append(np.any(overlaps(boxes[kept], people) >= MEETS, 1))
    result = fitted(np.concatenate(logits), np.concatenate(right))
    log.info('calibrated on %d boxes: slope %.3f, shift %.3f', sum(map(len, logits)), result.slope, result.shift)
    return result


def taught_boxes(teacher: Teacher, photograph: Photograph) -> Array:
    """Return the persons (N, 4, pixels) that the teacher sees in a photograph."""
    canvas, scale = letterboxed(photograph.read()[0])
    rows = teacher(canvas[None]).rows[0]
    boxes, scores = decoded(rows) / np.float32(scale), rows[:, 4] * rows[:, 5]
    return boxes[kept_by_suppression(boxes, scores, TAUGHT)]


def logit(scores: Array) -> Array:
    """Return the logits of scores."""
    inner = scores.clip(1e-6, 1 - 1e-6)
    return np.log(inner / (1 - inner))


def fitted(logits: Array, right: np.ndarray) -> Calibration:
    """Return the calibration under which the observations are most likely (Platt, 1999), by Newton's method.

    A weak prior for the identity keeps the solution finite where the logits separate the right from the wrong boxes.
    """
    points = np.stack([logits.astype(np.float64), np.ones(len(logits))], 1)
    start = np.array([1.0, 0.0])
    weights = start.copy()
    prior = 1e-2
    for _ in range(50):
        likely = 1 / (1 + np.exp(-(points @ weights).clip(-30, 30)))
        gradient = points.T @ (likely - right) + prior * (weights - start)
        curvature = (points * (likely * (1 - likely))[:, None]).T @ points + prior * np.eye(2)
        step = np.linalg.solve(curvature, gradient)
        weights -= step / max(1.0, np.abs(step).max())  # damped, since full steps may diverge
        if np.abs(step).max() < 1e-6:
            break
    return Calibration(slope=float(weights[0]), shift=float(weights[1]))
