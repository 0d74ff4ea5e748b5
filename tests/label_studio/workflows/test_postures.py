"""Postures and the distances between them."""

from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import numpy as np
import pytest

from detector.datasets.person import NOT_LABELLED, Person
from detector.label_studio.workflows import postures as postures_module
from detector.label_studio.workflows.postures import farthest_first, postures
from tests.support.label_studio.evaluated import LEFT_HAND, NOSE, make_person, moved, without
from tests.support.label_studio.review import KEYPOINTS, SKELETON, make_waiting, predicted


def distance(one: Person, other: Person) -> float:
    first, second = postures([one, other])
    return float(np.linalg.norm(first - second))


def test_a_posture_does_not_depend_on_place_and_size() -> None:
    """A posture does not depend on place, size and the model's scores."""
    person = make_person(0, 0, width=200, height=400)
    larger = replace(
        make_person(300, 100, width=400, height=800), box_score=0.1, scores=np.full(133, 0.5, dtype=np.float32)
    )
    assert distance(person, larger) == pytest.approx(0, abs=1e-5)
    assert postures([]).shape == (0, 399)


def test_distances_can_be_computed_by_hand() -> None:
    """Each part weighs a fifth: 80 pixels of 400 at the nose are √(0.2² / 17 / 5), and at the whole hand √(0.2² /
    5)."""
    person = make_person(width=200, height=400)
    assert distance(person, moved(person, [NOSE], 80)) == pytest.approx(np.sqrt(0.2**2 / 17 / 5), abs=1e-6)
    assert distance(person, moved(person, LEFT_HAND.indices, 0, 80)) == pytest.approx(np.sqrt(0.2**2 / 5), abs=1e-6)
    centred = person.keypoints.copy()
    centred[NOSE] = person.box.reshape(2, 2).mean(axis=0) if person.box is not None else 0
    middle = replace(person, keypoints=centred)
    assert distance(middle, without(middle, [NOSE])) == pytest.approx(np.sqrt(0.25**2 / 17 / 5), abs=1e-6)
    assert distance(without(person, [NOSE]), without(middle, [NOSE])) == 0


def slow_farthest_first(
    tasks: Sequence[np.ndarray[Any, Any]], labelled: Sequence[np.ndarray[Any, Any]]
) -> tuple[list[int], list[float]]:
    """Order tasks by the definition; there must be labelled ones, and every task has a person."""
    known = [row.astype(np.float64) for rows in labelled for row in rows]
    order: list[int] = []
    distances: list[float] = []
    while len(order) < len(tasks):
        best = max(
            (index for index in range(len(tasks)) if index not in order),
            key=lambda index: max(min(np.linalg.norm(row - one) for one in known) for row in tasks[index]),
        )
        distances.append(float(max(min(np.linalg.norm(row - one) for one in known) for row in tasks[best])))
        order.append(best)
        known += [row.astype(np.float64) for row in tasks[best]]
    return order, distances


@pytest.mark.parametrize('seed', range(3))
def test_the_farthest_comes_first(seed: int, monkeypatch: pytest.MonkeyPatch) -> None:
    """The order equals that of the definition, with several persons per task and in pieces of any size."""
    monkeypatch.setattr(postures_module, '_LABELLED_AT_ONCE', 3)
    rng = np.random.default_rng(seed)
    tasks = [rng.normal(size=(rng.integers(1, 4), 399)).astype(np.float32) for _ in range(25)]
    labelled = [rng.normal(size=(rng.integers(0, 3), 399)).astype(np.float32) for _ in range(9)]
    order, distances = farthest_first(tasks, labelled)
    expected, their = slow_farthest_first(tasks, labelled)
    assert order == expected
    assert distances == pytest.approx(their, rel=1e-3)
    assert farthest_first(tasks, labelled, 7)[0] == expected[:7]


def test_without_labels_the_most_usual_posture_comes_first() -> None:
    """Without labelled tasks the posture nearest to the mean comes first, and tasks without persons come last."""
    rows = np.zeros((5, 1, 399), dtype=np.float32)
    rows[:, 0, 0] = [0, 1, 2.5, 4, 5]
    order, distances = farthest_first([rows[0], rows[1], rows[2][:0], rows[2], rows[3], rows[4]], [])
    assert order[0] == 3
    assert set(order[1:3]) == {0, 5}
    assert order[-1] == 2
    assert distances[0] == np.inf
    assert distances[1:3] == [2.5, 2.5]
    assert distances[-1] == 0
    assert farthest_first([], []) == ([], [])
    assert farthest_first([rows[0][:0]], [rows[0]], 5) == ([0], [0.0])


def test_points_that_are_not_labelled_make_no_posture() -> None:
    """Unlabelled keypoints do not count, so both styles of regions give the same posture."""
    shown = without(make_person(), LEFT_HAND.indices)
    hidden = replace(shown, keypoints=make_person().keypoints)
    (one,), (other,) = (
        make_waiting([predicted(1, person, config=config)], config=config).candidates
        for person, config in ((hidden, SKELETON), (shown, KEYPOINTS))
    )
    assert (hidden.visibility == NOT_LABELLED).any()
    assert one.postures == pytest.approx(other.postures, abs=1e-5)
