"""The distance between persons' postures, and an order of tasks by diversity.

The order is the farthest-first traversal (k-center greedy) of Sener and Savarese, Active Learning for Convolutional
Neural Networks: A Core-Set Approach, ICLR 2018, over postures instead of a network's features.
"""

from collections.abc import Sequence
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray

from detector.datasets.person import Person
from detector.pose.pose import FloatArray
from detector.pose.skeleton import KEYPOINT_COUNT, PARTS

Floats = NDArray[np.floating[Any]]

_ABSENT: Final = 0.25
"""Distance in shares of the box's longer side between a labelled keypoint and a missing one, at least."""
_SAME_SQUARED: Final = 1e-6
"""Squared distance up to which postures count as equal, to allow for rounding."""
_LABELLED_AT_ONCE: Final = 256
"""Number of labelled postures that are compared at once, which limits the memory."""
_COORDINATES: Final = 3 * KEYPOINT_COUNT


def postures(persons: Sequence[Person]) -> FloatArray:
    """Convert persons to points whose Euclidean distance is that of their postures, independent of place and size.

    A labelled keypoint has x and y relative to the box's centre in shares of its longer side, and a constant third
    coordinate; an unlabelled one has zeros. Every part has the same weight, so the 68 points of the face do not
    outweigh the body: a distance is the root of the mean over the parts' mean squares.

    :return: shape (N, 399).
    """
    if not persons:
        return np.zeros((0, _COORDINATES), dtype=np.float32)
    boxes = np.array([person.extent for person in persons])
    labelled = np.array([person.labelled for person in persons])
    keypoints = np.array([person.keypoints for person in persons])
    centres = (boxes[:, :2] + boxes[:, 2:]) / 2
    sides = np.maximum((boxes[:, 2:] - boxes[:, :2]).max(axis=1), 1)
    places = (keypoints - centres[:, None]) / sides[:, None, None]
    points = np.concatenate([places, np.full((*places.shape[:2], 1), _ABSENT)], axis=2)
    weights = np.concatenate([np.full(len(part.indices), 1 / len(part.indices) / len(PARTS)) for part in PARTS])
    points *= (labelled * np.sqrt(weights))[..., None]
    return points.reshape(len(persons), _COORDINATES).astype(np.float32)


def farthest_first(
    tasks: Sequence[FloatArray], labelled: Sequence[FloatArray], count: int | None = None
) -> tuple[list[int], list[float]]:
    """Order tasks so that each has the posture farthest from all previous and all labelled ones.

    The farthest person of a task counts. Without labelled tasks, the first task has the posture nearest to the mean.
    Tasks without persons come last.

    The time is n · k · 399 multiplications for n postures, k of which are chosen or labelled: ten seconds for all of
    10,000. The memory is twice n · 399 numbers of 4 bytes, 32 MB.

    :param tasks: postures of each task, shape (N, 399).
    :param labelled: postures of each labelled task, shape (N, 399).
    :param count: number of tasks to choose; None: all.
    :return: indices of tasks, and their distances when they were chosen; inf for a first task without labelled ones.
    """
    count = len(tasks) if count is None else min(count, len(tasks))
    peopled = [index for index, rows in enumerate(tasks) if len(rows)]
    order: list[int] = []
    distances: list[float] = []
    if peopled and count:
        stops = np.cumsum([len(tasks[index]) for index in peopled])
        starts = stops - [len(tasks[index]) for index in peopled]
        points = np.concatenate([tasks[index] for index in peopled])
        squares = np.square(points).sum(axis=1)
        nearest = _nearest(points, squares, labelled)
        done = np.zeros(len(peopled), dtype=np.bool_)
        for _ in range(min(count, len(peopled))):
            if np.isinf(nearest[0]):
                typical = np.square(points - points.mean(axis=0)).sum(axis=1).argmin()
                chosen = int(np.searchsorted(stops, typical, side='right'))
            else:
                chosen = int(np.where(done, -1, np.maximum.reduceat(nearest, starts)).argmax())
            order.append(peopled[chosen])
            distances.append(float(np.sqrt(nearest[starts[chosen] : stops[chosen]].max())))
            done[chosen] = True
            mine = slice(starts[chosen], stops[chosen])
            np.minimum(nearest, _squared(points, squares, points[mine], squares[mine]), out=nearest)
    empty = [index for index, rows in enumerate(tasks) if not len(rows)][: count - len(order)]
    return order + empty, distances + [0.0] * len(empty)


def _nearest(points: Floats, squares: Floats, labelled: Sequence[FloatArray]) -> Floats:
    """Return the squared distance of each point to the nearest labelled one; inf without labelled ones."""
    nearest = np.full(len(points), np.inf, dtype=np.float32)
    known = np.concatenate(labelled) if labelled else np.zeros((0, _COORDINATES), dtype=np.float32)
    for start in range(0, len(known), _LABELLED_AT_ONCE):
        some = known[start : start + _LABELLED_AT_ONCE]
        np.minimum(nearest, _squared(points, squares, some, np.square(some).sum(axis=1)), out=nearest)
    return nearest


def _squared(points: Floats, squares: Floats, others: Floats, their_squares: Floats) -> Floats:
    """Return the squared distance of each point to the nearest of `others`: |a|² + |b|² - 2ab, to save memory."""
    found: Floats = (their_squares - 2 * (points @ others.T)).min(axis=1) + squares
    found[found < _SAME_SQUARED] = 0
    return found
