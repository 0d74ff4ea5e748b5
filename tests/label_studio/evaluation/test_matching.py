"""Pairing annotated with predicted persons."""

from dataclasses import replace

import numpy as np
import pytest

from detector.datasets.person import Person
from detector.label_studio.evaluation.evaluation import (
    evaluate,
)
from tests.support.label_studio.evaluated import (
    NOSE,
    by_hand,
    make_image,
    make_person,
    measure,
    moved,
    part_of,
    without,
)


def test_a_displacement_has_the_likeness_of_the_formula() -> None:
    """The OKS of a displaced keypoint is exp(-d² / (2 · 0.53 · width · height · (2σ)²)), and 1 for the others."""
    person = make_person(width=200, height=400)
    expected = np.exp(-(20**2) / (2 * 0.53 * 200 * 400 * (2 * 0.026) ** 2))
    assert expected == pytest.approx(0.174742, abs=1e-6)
    evaluation = measure([by_hand(person)], [moved(person, [NOSE], 12, -16)])
    assert part_of(evaluation, 'body').oks == pytest.approx((16 + expected) / 17, abs=1e-6)
    assert part_of(evaluation, 'whole_body').oks == pytest.approx((132 + expected) / 133, abs=1e-6)
    assert evaluation.images[0].oks == evaluation.images[0].quality == part_of(evaluation, 'whole_body').oks
    assert part_of(evaluation, 'face').oks == 1


def test_persons_missed_and_surplus() -> None:
    """A missed person lowers recall, a surplus one precision, and the image with both comes first."""
    here, there, nowhere = (make_person(x, seed=x) for x in (0, 300, 600))
    images = [
        make_image([here], [here], 'good'),
        make_image([here, there], [there, nowhere], 'bad'),
        make_image([here, there], [here], 'incomplete'),
    ]
    evaluation = evaluate(images)
    assert (evaluation.people, evaluation.predicted, evaluation.missed, evaluation.surplus) == (5, 4, 2, 1)
    assert [(image.name, image.missed, image.surplus) for image in evaluation.images] == [
        ('bad', 1, 1),
        ('incomplete', 1, 0),
        ('good', 0, 0),
    ]
    assert [image.quality for image in evaluation.images] == pytest.approx([1 / 3, 1 / 2, 1])
    assert part_of(evaluation, 'body').ar == pytest.approx(3 / 5)
    assert evaluation.images[0].oks == pytest.approx(1)


def test_a_person_found_twice_is_surplus_once() -> None:
    """The more similar of two predictions for a person is paired, whatever its score, and the other is surplus."""
    person = make_person()
    worse = replace(moved(person, range(133), 5), box_score=0.99)
    evaluation = measure([person], [worse, person])
    assert (evaluation.missed, evaluation.surplus) == (0, 1)
    assert part_of(evaluation, 'whole_body').oks == 1


def test_persons_who_embrace_are_told_apart_by_their_keypoints() -> None:
    """Persons who embrace have equal boxes and are told apart by their keypoints."""
    persons = [make_person(seed=seed) for seed in (1, 2)]
    evaluation = measure(persons, persons[::-1])
    assert part_of(evaluation, 'whole_body').oks == 1
    assert (evaluation.missed, evaluation.surplus) == (0, 0)


def test_persons_without_a_box() -> None:
    """A person without a box gets the box around the labelled keypoints, and an empty person is ignored."""
    person = make_person()
    bare = replace(person, box=None, box_score=None)
    evaluation = measure([bare, Person.empty()], [bare, Person.empty()])
    assert (evaluation.people, evaluation.predicted) == (1, 1)
    assert part_of(evaluation, 'body').ap == pytest.approx(1)
    spans = np.ptp(person.keypoints.astype(np.float64), axis=0)
    expected = np.exp(-(10**2) / (2 * 0.53 * spans.prod() * (2 * 0.026) ** 2))
    off = measure([bare], [moved(bare, [NOSE], 10)])
    assert part_of(off, 'body').oks == pytest.approx((16 + expected) / 17, abs=1e-5)


def test_a_single_point_is_a_person_too() -> None:
    """A person with a single keypoint or a box without extent does not cause a division by zero."""
    point = without(replace(make_person(), box=None), range(1, 133))
    evaluation = measure([point], [point])
    assert part_of(evaluation, 'body').ap == pytest.approx(1)
    assert evaluation.images[0].oks == 1


def test_a_person_with_only_a_box_is_found_by_it() -> None:
    """A person with only a box is paired by it, without figures for keypoints."""
    person = make_person()
    evaluation = measure([without(person, range(133))], [person])
    assert (evaluation.missed, evaluation.surplus) == (0, 0)
    assert (evaluation.images[0].oks, evaluation.images[0].quality) == (None, 1)
    assert part_of(evaluation, 'body').ap is None
