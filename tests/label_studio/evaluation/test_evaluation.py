"""A model against people: figures that can be computed by hand, and those of faster-coco-eval."""

import sys
from collections.abc import Sequence
from dataclasses import replace

import numpy as np
import pytest

from detector.datasets.person import HIDDEN, Person
from detector.errors import ExtraMissing, InvalidRequest
from detector.label_studio.evaluation.evaluation import (
    METRICS,
    Evaluated,
    Evaluation,
    KeypointFigures,
    compare,
    evaluate,
)
from detector.label_studio.evaluation.matching import EVALUATED_PARTS, PCK_THRESHOLDS
from detector.pose.similarity import BOX_TO_OKS_AREA
from detector.pose.skeleton import KEYPOINT_NAMES, OKS_SIGMAS, PART_BY_NAME
from tests.support.label_studio.evaluated import (
    LEFT_HAND,
    NOSE,
    by_hand,
    coco_figures,
    make_image,
    make_person,
    moved,
    part_of,
    without,
)


def measure(people: Sequence[Person], predicted: Sequence[Person]) -> Evaluation:
    """Of one image."""
    return evaluate([make_image(people, predicted)])


def keypoint_of(evaluation: Evaluation, name: str) -> KeypointFigures:
    return next(keypoint for keypoint in evaluation.keypoints if keypoint.name == name)


def test_a_perfect_model_gets_everything() -> None:
    """Each figure of each part is 1, also with more persons than COCO counts; no image is bad, nothing is corrected."""
    crowd = [make_person(20 * index, 5 * index, seed=index) for index in range(30)]
    hidden = replace(crowd[0], visibility=np.full(133, HIDDEN, dtype=np.int8))
    evaluation = evaluate(
        [
            make_image([by_hand(person) for person in crowd], crowd),
            make_image([by_hand(hidden)], [crowd[0]], 'hidden.jpg'),
            make_image([], [], 'empty.jpg'),
        ]
    )
    assert [part.name for part in evaluation.parts] == [*PART_BY_NAME, 'whole_body']
    for part in evaluation.parts:
        figures = [getattr(part, metric) for metric in METRICS]
        assert figures == pytest.approx([1] * len(METRICS)), part
        assert part.people == 31
        assert part.pck == (1,) * len(PCK_THRESHOLDS)
    assert (evaluation.people, evaluation.predicted, evaluation.missed, evaluation.surplus) == (31, 31, 0, 0)
    assert all(image.quality == pytest.approx(1) for image in evaluation.images)
    assert all(keypoint.corrected_share == 0 for keypoint in evaluation.keypoints)
    assert [keypoint.name for keypoint in evaluation.keypoints] == list(KEYPOINT_NAMES)


def test_a_model_that_finds_nobody_gets_nothing() -> None:
    """Precision and recall are 0; of keypoints nothing can be said."""
    evaluation = measure([make_person()], [])
    for part in evaluation.parts:
        assert (part.ap, part.ap50, part.ap75, part.ar) == (0, 0, 0, 0)
        assert (part.oks, part.pck, part.pck05, part.labelled) == (None, None, None, 0)
    assert (evaluation.missed, evaluation.surplus) == (1, 0)
    assert evaluation.images[0].quality == 0
    assert all(keypoint.corrected_share is None for keypoint in evaluation.keypoints)


def test_where_people_labelled_nothing_no_figure_exists() -> None:
    """A person who is predicted on an empty image is surplus; without any label there is no precision."""
    evaluation = measure([], [make_person()])
    assert all(part.ap is None and part.ar is None and part.people == 0 for part in evaluation.parts)
    assert (evaluation.missed, evaluation.surplus) == (0, 1)
    assert evaluation.images[0].quality == 0


def test_a_displacement_has_the_likeness_of_the_formula() -> None:
    """exp(-d² / (2 · 0.53 · width · height · (2σ)²)) for the keypoint that is off, 1 for the others."""
    person = make_person(width=200, height=400)
    expected = np.exp(-(20**2) / (2 * 0.53 * 200 * 400 * (2 * 0.026) ** 2))
    assert expected == pytest.approx(0.174742, abs=1e-6)
    evaluation = measure([by_hand(person)], [moved(person, [NOSE], 12, -16)])
    assert part_of(evaluation, 'body').oks == pytest.approx((16 + expected) / 17, abs=1e-6)
    assert part_of(evaluation, 'whole_body').oks == pytest.approx((132 + expected) / 133, abs=1e-6)
    assert evaluation.images[0].oks == evaluation.images[0].quality == part_of(evaluation, 'whole_body').oks
    assert part_of(evaluation, 'face').oks == 1


def test_precision_counts_the_thresholds_that_a_likeness_reaches() -> None:
    """A body with the OKS 0.72 is right at 0.5, 0.55, 0.6, 0.65 and 0.7 of ten thresholds."""
    person = make_person()
    sigmas = OKS_SIGMAS[:17].astype(np.float64)
    distances = np.sqrt(-np.log(0.72) * 2 * BOX_TO_OKS_AREA * 200 * 400) * 2 * sigmas
    keypoints = person.keypoints.copy()
    keypoints[:17, 0] += distances.astype(np.float32)
    body = part_of(measure([person], [replace(person, keypoints=keypoints)]), 'body')
    assert body.oks == pytest.approx(0.72, abs=1e-5)
    assert (body.ap, body.ap50, body.ap75, body.ar) == pytest.approx((0.5, 1, 0, 0.5))


def test_a_shifted_hand_concerns_only_that_hand() -> None:
    """And the whole body, which it belongs to."""
    person = make_person()
    evaluation = measure([by_hand(person)], [moved(person, LEFT_HAND.indices, 100)])
    for part in evaluation.parts:
        if part.name == 'left_hand':
            assert (part.ap, part.ar, part.pck05, part.pck10) == (0, 0, 0, 0)
        elif part.name == 'whole_body':
            assert part.oks == pytest.approx(112 / 133, abs=1e-4)
            assert part.pck10 == pytest.approx(112 / 133)
        else:
            assert (part.ap, part.ar, part.pck05, part.oks) == pytest.approx((1, 1, 1, 1))


def test_persons_missed_and_surplus() -> None:
    """Recall falls with the one, precision with the other; the image with both comes first."""
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


def test_a_surplus_person_of_a_high_score_costs_precision() -> None:
    """At half of all recalls only: with the better score it comes before the right one."""
    right, wrong = make_person(0), replace(make_person(600), box_score=0.99)
    assert part_of(measure([right], [right, wrong]), 'body').ap == pytest.approx(0.5)
    assert part_of(measure([right], [right, replace(wrong, box_score=0.1)]), 'body').ap == pytest.approx(1)
    timid = replace(wrong, scores=np.full(133, 0.3, dtype=np.float32))
    assert part_of(measure([right], [right, timid]), 'body').ap == pytest.approx(1)


def test_one_who_is_found_twice_is_surplus_once() -> None:
    """The more alike of both is taken, whatever its score."""
    person = make_person()
    worse = replace(moved(person, range(133), 5), box_score=0.99)
    evaluation = measure([person], [worse, person])
    assert (evaluation.missed, evaluation.surplus) == (0, 1)
    assert part_of(evaluation, 'whole_body').oks == 1


def test_persons_who_embrace_are_told_apart_by_their_keypoints() -> None:
    """Their boxes are the same."""
    persons = [make_person(seed=seed) for seed in (1, 2)]
    evaluation = measure(persons, persons[::-1])
    assert part_of(evaluation, 'whole_body').oks == 1
    assert (evaluation.missed, evaluation.surplus) == (0, 0)


def test_what_is_not_labelled_does_not_count() -> None:
    """People labelled one of two left hands, and no feet: what the model says of the others is ignored there."""
    full, bare = make_person(0), make_person(500, seed=1)
    feet = PART_BY_NAME['feet'].indices
    people = [without(full, feet), without(bare, [*feet, *LEFT_HAND.indices])]
    evaluation = measure(people, [full, moved(bare, LEFT_HAND.indices, 30)])
    assert part_of(evaluation, 'left_hand').people == 1
    assert part_of(evaluation, 'left_hand').ap == pytest.approx(1)
    assert part_of(evaluation, 'left_hand').oks == 1
    assert part_of(evaluation, 'feet').ap is None
    assert part_of(evaluation, 'feet').pck is None
    assert part_of(evaluation, 'whole_body').ap == pytest.approx(1)
    assert part_of(evaluation, 'whole_body').labelled == 2 * 133 - 2 * 6 - 21


def test_a_hand_of_which_the_model_shows_little_is_ignored_as_well() -> None:
    """Where people labelled none; though keypoints below the model's threshold have no place of their own."""
    full, bare = make_person(0), replace(make_person(500, seed=1), box_score=0.99)
    predicted = without(bare, LEFT_HAND.indices[3:])
    evaluation = measure([full, without(bare, LEFT_HAND.indices)], [full, predicted])
    assert part_of(evaluation, 'left_hand').ap == pytest.approx(1)


def test_a_person_without_a_predicted_hand_is_no_wrong_hand() -> None:
    """It costs recall, not precision; the same holds for single keypoints and the likeness."""
    full, bare = make_person(0), replace(make_person(500, seed=1), box_score=0.99)
    hand = part_of(measure([full, bare], [full, without(bare, LEFT_HAND.indices)]), 'left_hand')
    assert hand.ar == pytest.approx(0.5)
    assert hand.ap == pytest.approx(51 / 101)  # of the recalls 0, 0.01 … 1 those up to a half, each with precision 1
    assert hand.oks == pytest.approx(0.5)
    assert hand.pck10 == pytest.approx(0.5)
    corner = without(moved(full, [NOSE], 0), [NOSE])
    corner.keypoints[NOSE] = full.keypoints[NOSE]  # a place below the threshold is no prediction
    assert keypoint_of(measure([full], [corner]), 'nose').pck10 == 0


def test_persons_without_a_box() -> None:
    """They get that of their labelled keypoints; a person without anything is nobody."""
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
    """Neither a box without extent nor one point divides by zero."""
    point = without(replace(make_person(), box=None), range(1, 133))
    evaluation = measure([point], [point])
    assert part_of(evaluation, 'body').ap == pytest.approx(1)
    assert evaluation.images[0].oks == 1


def test_a_person_with_only_a_box_is_found_by_it() -> None:
    """There is nothing to say of keypoints, and the prediction is not surplus."""
    person = make_person()
    evaluation = measure([without(person, range(133))], [person])
    assert (evaluation.missed, evaluation.surplus) == (0, 0)
    assert (evaluation.images[0].oks, evaluation.images[0].quality) == (None, 1)
    assert part_of(evaluation, 'body').ap is None


def test_correct_keypoints_are_near_in_terms_of_the_longer_side() -> None:
    """0.05 and 0.1 of 400 pixels, whichever way a point is off."""
    person = make_person(width=200, height=400)
    off = moved(moved(moved(person, [0], 19), [1], 0, 21), [2], 41)
    evaluation = measure([person], [off])
    shares = [(keypoint.pck05, keypoint.pck10) for keypoint in evaluation.keypoints[:4]]
    assert shares == [(1, 1), (0, 1), (0, 0), (1, 1)]
    body = part_of(evaluation, 'body')
    assert (body.pck05, body.pck10) == pytest.approx((15 / 17, 16 / 17))
    assert body.pck is not None
    assert body.pck[0] == pytest.approx(14 / 17)
    assert list(body.pck) == sorted(body.pck)


def test_corrections_are_counted() -> None:
    """Moved by more than 0.5 % of the diagonal (447 pixels) or 2 pixels, removed, added; others are as they were."""
    model = make_person(0, 0, width=200, height=400)
    small = make_person(500, 0, width=40, height=80, seed=1)
    people = [
        by_hand(moved(moved(without(model, [5, 6]), [0], 2.3), [1], 2.1)),
        by_hand(moved(moved(small, [0], 1.9), [1], 2.1)),
    ]
    evaluation = measure(people, [without(model, [6, 7]), small])
    counts = {
        keypoint.name: (keypoint.moved, keypoint.removed, keypoint.added, keypoint.corrected_share)
        for keypoint in evaluation.keypoints
        if keypoint.corrected
    }
    assert counts == {
        'nose': (1, 0, 0, 0.5),
        'left_eye': (1, 0, 0, 0.5),
        'left_shoulder': (0, 1, 0, 0.5),
        'left_elbow': (0, 0, 1, 0.5),
    }
    assert keypoint_of(evaluation, 'right_shoulder').corrected_share == 0
    assert keypoint_of(evaluation, 'right_shoulder').predicted == 1
    assert keypoint_of(evaluation, 'left_elbow').labelled == 2


def random_images(seed: int, *, complete: bool) -> list[Evaluated]:
    """Persons found with all kinds of distances, missed and surplus.

    :param complete: the model gives all keypoints; otherwise people do, and the model omits some.
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
    """On random persons, for each part; what the model omits lies far outside in the files for COCO."""
    images = random_images(seed, complete=complete)
    evaluation = evaluate(images)
    for part, figures in zip(EVALUATED_PARTS, evaluation.parts, strict=True):
        expected = coco_figures(images, part)
        assert 0.05 < expected[0] < 0.95, 'the data can tell right from wrong'
        found = [figures.ap, figures.ap50, figures.ap75, figures.ar]
        assert found == pytest.approx(expected, abs=1e-9), part.name


def test_versions_are_compared() -> None:
    """A row per part and metric, in the given order; a figure that one of them lacks has no change."""
    person = make_person()
    off = moved(person, LEFT_HAND.indices, 100)
    old, new = (
        evaluate([make_image([person], [predicted], version=version)])
        for predicted, version in ((off, 'm 1.0'), (person, 'm 1.1'))
    )
    comparison = compare([old, new])
    assert comparison.versions == ('m 1.0', 'm 1.1')
    assert comparison.same_images
    rows = {(row.part, row.metric): row for row in comparison.rows}
    assert len(rows) == len(EVALUATED_PARTS) * len(METRICS)
    assert rows['left_hand', 'ap'].values == pytest.approx((0, 1))
    assert rows['left_hand', 'ap'].change == pytest.approx(1)
    assert rows['face', 'ap'].change == 0
    blind = evaluate([make_image([person], [], 'other.jpg', 'm 0.1')])
    comparison = compare([blind, new])
    assert not comparison.same_images
    assert next(row for row in comparison.rows if row.metric == 'oks').change is None


def test_what_cannot_be_compared_is_refused() -> None:
    """No images, several versions in one evaluation, one version in a comparison."""
    with pytest.raises(InvalidRequest, match='no images'):
        evaluate([])
    with pytest.raises(InvalidRequest, match='the versions 1, 2'):
        evaluate([make_image([], [], version='1'), make_image([], [], version='2')])
    evaluation = measure([], [])
    for evaluations in ([], [evaluation], [evaluation, evaluation]):
        with pytest.raises(InvalidRequest, match='at least two versions'):
            compare(evaluations)


def test_without_the_extra_it_says_what_to_install(monkeypatch: pytest.MonkeyPatch) -> None:
    """The name of the extra, not only that of the package."""
    monkeypatch.setitem(sys.modules, 'faster_coco_eval', None)
    with pytest.raises(ExtraMissing, match=r'faster-coco-eval is not installed.*extra `evaluate`'):
        measure([make_person()], [])
