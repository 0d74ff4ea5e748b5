"""Agreement of annotators with each other."""

from typing import Any

import numpy as np
import pytest

from detector.datasets.person import Person
from detector.label_studio.evaluation.agreement import Agreement, Labelled, agreement
from tests.support.label_studio.evaluated import LEFT_HAND, NOSE, by_hand, make_person, moved, without


def labelled(**people: list[Person]) -> list[Labelled]:
    return [Labelled(annotator=name, people=persons) for name, persons in people.items()]


def measured(*images: list[Labelled]) -> Agreement:
    found = agreement(images)
    assert found is not None
    return found


def similarity(pixels: float, sigma: float) -> float:
    """Return the similarity of one keypoint of a person of 200 × 400 pixels, by COCO's formula."""
    return float(np.exp(-(pixels**2) / (2 * 0.53 * 200 * 400 * (2 * sigma) ** 2)))


PERSON = by_hand(make_person(width=200, height=400))


def test_equal_annotations_agree_fully() -> None:
    """Two annotators with equal persons have an OKS of 1 in every part, in any order of persons and annotators."""
    other = by_hand(make_person(600, seed=1))
    found = measured(labelled(bea=[PERSON, other], ann=[other, PERSON]), labelled(ann=[], bea=[]))
    (pair,) = found.pairs
    assert (found.images, pair.annotators, pair.images, pair.people) == (2, ('ann', 'bea'), 2, 2)
    assert (pair.only_first, pair.only_second) == (0, 0)
    assert set(pair.oks.values()) == {1.0}


def test_a_moved_keypoint_lowers_its_part_only() -> None:
    """An OKS is that computed by hand, the same from either side, and other parts keep theirs."""
    shifted = moved(PERSON, [NOSE], 12, -16)
    for image in (labelled(ann=[PERSON], bea=[shifted]), labelled(ann=[shifted], bea=[PERSON])):
        (pair,) = measured(image).pairs
        expected = (16 + similarity(20, 0.026)) / 17
        assert pair.oks['body'] == pytest.approx(expected, abs=1e-5)
        assert pair.oks['face'] == pytest.approx(1)
        assert pair.oks['whole_body'] == pytest.approx((132 + similarity(20, 0.026)) / 133, abs=1e-5)


def test_keypoints_of_one_annotator_count_in_one_direction() -> None:
    """A hand that only one annotator has labelled has an OKS of 0; half a hand has 1 in one direction and less in the
    other; a part that neither has labelled has none."""
    bare, half = without(PERSON, LEFT_HAND.indices), without(PERSON, LEFT_HAND.indices[:7])
    (pair,) = measured(labelled(ann=[PERSON], bea=[bare])).pairs
    assert pair.oks['left_hand'] == 0
    (pair,) = measured(labelled(ann=[PERSON], bea=[half])).pairs
    assert pair.oks['left_hand'] == pytest.approx((1 + 14 / 21) / 2)
    (pair,) = measured(labelled(ann=[bare], bea=[bare])).pairs
    assert pair.oks['left_hand'] is None
    assert pair.oks['right_hand'] == 1


def test_persons_of_one_annotator_are_counted() -> None:
    """Persons whom only one annotator has labelled are counted for the pair and for both annotators."""
    other = by_hand(make_person(600, seed=1))
    found = measured(labelled(ann=[PERSON, other], bea=[PERSON]), labelled(ann=[], bea=[other]))
    (pair,) = found.pairs
    assert (pair.people, pair.only_first, pair.only_second) == (1, 1, 1)
    people: dict[str, Any] = {
        one.annotator: (one.images, one.people, one.missed, one.alone) for one in found.annotators
    }
    assert people == {'ann': (2, 1, 1, 1), 'bea': (2, 1, 1, 1)}
    (pair,) = measured(labelled(ann=[PERSON], bea=[])).pairs
    assert set(pair.oks.values()) == {None}


def test_the_annotator_who_differs_comes_first() -> None:
    """The annotator who differs from two others is listed first, and so are the pairs with this annotator."""
    shifted = moved(PERSON, range(133), 8)
    found = measured(labelled(ann=[PERSON], bea=[PERSON], cai=[shifted]), labelled(ann=[PERSON]))
    assert found.images == 1
    assert [one.annotator for one in found.annotators] == ['cai', 'ann', 'bea']
    assert [one.annotators for one in found.pairs] == [('ann', 'cai'), ('bea', 'cai'), ('ann', 'bea')]
    worst = found.annotators[0].oks['whole_body']
    assert worst is not None
    assert worst < 0.9
    assert found.annotators[1].oks['whole_body'] == pytest.approx((1 + worst) / 2)


@pytest.mark.parametrize('images', [[], [labelled(ann=[PERSON])], [labelled(ann=[PERSON]), labelled(bea=[PERSON])]])
def test_without_common_images_there_is_no_agreement(images: list[list[Labelled]]) -> None:
    """Annotators without a common image are not compared."""
    assert agreement(images) is None
