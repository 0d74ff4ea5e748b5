"""Average precision and recall."""

from dataclasses import replace

import numpy as np
import pytest

from detector.label_studio.evaluation.evaluation import (
    Evaluated,
    evaluate,
)
from detector.label_studio.evaluation.matching import EVALUATED_PARTS
from detector.pose.similarity import BOX_TO_OKS_AREA
from detector.pose.skeleton import OKS_SIGMAS
from tests.support.label_studio.evaluated import (
    coco_figures,
    make_image,
    make_person,
    measure,
    part_of,
    without,
)


def test_precision_counts_the_thresholds_that_a_likeness_reaches() -> None:
    """A body with an OKS of 0.72 counts at five of the ten thresholds: 0.5, 0.55, 0.6, 0.65 and 0.7."""
    person = make_person()
    sigmas = OKS_SIGMAS[:17].astype(np.float64)
    distances = np.sqrt(-np.log(0.72) * 2 * BOX_TO_OKS_AREA * 200 * 400) * 2 * sigmas
    keypoints = person.keypoints.copy()
    keypoints[:17, 0] += distances.astype(np.float32)
    body = part_of(measure([person], [replace(person, keypoints=keypoints)]), 'body')
    assert body.oks == pytest.approx(0.72, abs=1e-5)
    assert (body.ap, body.ap50, body.ap75, body.ar) == pytest.approx((0.5, 1, 0, 0.5))


def test_a_surplus_person_of_a_high_score_costs_precision() -> None:
    """A surplus person with a high score lowers precision at half of the recalls."""
    right, wrong = make_person(0), replace(make_person(600), box_score=0.99)
    assert part_of(measure([right], [right, wrong]), 'body').ap == pytest.approx(0.5)
    assert part_of(measure([right], [right, replace(wrong, box_score=0.1)]), 'body').ap == pytest.approx(1)
    timid = replace(wrong, scores=np.full(133, 0.3, dtype=np.float32))
    assert part_of(measure([right], [right, timid]), 'body').ap == pytest.approx(1)


def random_images(seed: int, *, complete: bool) -> list[Evaluated]:
    """Make images with persons found at various distances, missed and surplus.

    :param complete: True: the model predicts all keypoints; False: annotators label all, and the model omits some.
    """
    rng = np.random.default_rng(seed)
    images = []
    for number in range(12):
        people, predicted = [], []
        for _ in range(rng.integers(0, 5)):
            width, height = rng.uniform(60, 300, 2)
            person = make_person(*rng.uniform(0, 400, 2), width=width, height=height, seed=int(rng.integers(1 << 30)))
            spread = 10 ** rng.uniform(-1.5, 0.5) * np.sqrt(width * height) * OKS_SIGMAS[:, None]
            found = replace(
                person,
                keypoints=(person.keypoints + rng.normal(0, spread, (133, 2))).astype(np.float32),
                box_score=float(rng.uniform()),
            )
            omitted = [index for part in EVALUATED_PARTS[:5] for index in part.indices if rng.uniform() < 0.3] + list(
                EVALUATED_PARTS[rng.integers(5)].indices if rng.uniform() < 0.7 else ()
            )
            if rng.uniform() < 0.9:
                people.append(without(person, omitted) if complete else person)
            if rng.uniform() < 0.9:
                predicted.append(found if complete else without(found, omitted))
        images.append(make_image(people, predicted, str(number)))
    return images


@pytest.mark.parametrize('complete', [True, False], ids=['people omit', 'the model omits'])
@pytest.mark.parametrize('seed', range(3))
def test_precision_is_that_of_coco(seed: int, complete: bool) -> None:
    """On random persons, precision equals COCO's for each part, with omitted keypoints far outside in COCO's files."""
    images = random_images(seed, complete=complete)
    evaluation = evaluate(images)
    for part, figures in zip(EVALUATED_PARTS, evaluation.parts, strict=True):
        expected = coco_figures(images, part)
        assert 0.05 < expected[0] < 0.95, 'the data must distinguish a right result from a wrong one'
        found = [figures.ap, figures.ap50, figures.ap75, figures.ar]
        assert found == pytest.approx(expected, abs=1e-9), part.name
