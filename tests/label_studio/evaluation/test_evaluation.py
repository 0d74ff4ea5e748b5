"""Evaluation figures, compared with values computed by hand and by faster-coco-eval."""

import sys
from dataclasses import replace

import numpy as np
import pytest

from detector.datasets.person import HIDDEN
from detector.errors import ExtraMissing, InvalidRequest
from detector.label_studio.evaluation.evaluation import (
    METRICS,
    Evaluation,
    KeypointFigures,
    compare,
    evaluate,
)
from detector.label_studio.evaluation.matching import EVALUATED_PARTS, PCK_THRESHOLDS
from detector.pose.skeleton import KEYPOINT_NAMES, PART_BY_NAME
from tests.support.label_studio.evaluated import (
    LEFT_HAND,
    NOSE,
    by_hand,
    make_image,
    make_person,
    measure,
    moved,
    part_of,
    without,
)


def keypoint_of(evaluation: Evaluation, name: str) -> KeypointFigures:
    return next(keypoint for keypoint in evaluation.keypoints if keypoint.name == name)


def test_a_perfect_model_gets_everything() -> None:
    """A perfect model gets 1 for every figure, also with more persons than COCO counts, and has no bad image."""
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


def test_a_model_that_finds_no_person_has_no_precision() -> None:
    """A model that finds no person has precision and recall 0 and no figures for keypoints."""
    evaluation = measure([make_person()], [])
    for part in evaluation.parts:
        assert (part.ap, part.ap50, part.ap75, part.ar) == (0, 0, 0, 0)
        assert (part.oks, part.pck, part.pck05, part.labelled) == (None, None, None, 0)
    assert (evaluation.missed, evaluation.surplus) == (1, 0)
    assert evaluation.images[0].quality == 0
    assert all(keypoint.corrected_share is None for keypoint in evaluation.keypoints)


def test_where_people_labelled_nothing_no_figure_exists() -> None:
    """A person predicted on an empty image is surplus, and without annotated keypoints there is no precision."""
    evaluation = measure([], [make_person()])
    assert all(part.ap is None and part.ar is None and part.people == 0 for part in evaluation.parts)
    assert (evaluation.missed, evaluation.surplus) == (0, 1)
    assert evaluation.images[0].quality == 0


def test_a_shifted_hand_concerns_only_that_hand() -> None:
    """A shifted hand lowers the figures of that hand and of the whole body only."""
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


def test_what_is_not_labelled_does_not_count() -> None:
    """Predictions for parts that annotators did not label are ignored."""
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
    """A hand that annotators did not label is ignored even if the model predicts only a few of its keypoints."""
    full, bare = make_person(0), replace(make_person(500, seed=1), box_score=0.99)
    predicted = without(bare, LEFT_HAND.indices[3:])
    evaluation = measure([full, without(bare, LEFT_HAND.indices)], [full, predicted])
    assert part_of(evaluation, 'left_hand').ap == pytest.approx(1)


def test_a_person_without_a_predicted_hand_is_no_wrong_hand() -> None:
    """A person without a predicted hand lowers recall and not precision, and likewise single keypoints and the OKS."""
    full, bare = make_person(0), replace(make_person(500, seed=1), box_score=0.99)
    hand = part_of(measure([full, bare], [full, without(bare, LEFT_HAND.indices)]), 'left_hand')
    assert hand.ar == pytest.approx(0.5)
    assert hand.ap == pytest.approx(51 / 101)  # recalls 0, 0.01 … 0.5 have precision 1
    assert hand.oks == pytest.approx(0.5)
    assert hand.pck10 == pytest.approx(0.5)
    corner = without(moved(full, [NOSE], 0), [NOSE])
    corner.keypoints[NOSE] = full.keypoints[NOSE]  # coordinates below the threshold do not count as a prediction
    assert keypoint_of(measure([full], [corner]), 'nose').pck10 == 0


def test_correct_keypoints_are_near_in_terms_of_the_longer_side() -> None:
    """PCK at 0.05 and 0.1 is measured by the box's longer side of 400 pixels, in any direction."""
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
    """Keypoints count as moved beyond 0.5 % of the diagonal (447 pixels) or 2 pixels, and as removed or added."""
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


def test_versions_are_compared() -> None:
    """Versions are compared in the given order with a row per part and metric; a missing figure gives no change."""
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
    """An evaluation without images or with several versions, and a comparison with one version, are refused."""
    with pytest.raises(InvalidRequest, match='no images'):
        evaluate([])
    with pytest.raises(InvalidRequest, match='the versions 1, 2'):
        evaluate([make_image([], [], version='1'), make_image([], [], version='2')])
    evaluation = measure([], [])
    for evaluations in ([], [evaluation], [evaluation, evaluation]):
        with pytest.raises(InvalidRequest, match='at least two versions'):
            compare(evaluations)


def test_without_the_extra_it_says_what_to_install(monkeypatch: pytest.MonkeyPatch) -> None:
    """A missing package is reported with the name of its extra."""
    monkeypatch.setitem(sys.modules, 'faster_coco_eval', None)
    with pytest.raises(ExtraMissing, match=r'faster-coco-eval is not installed.*extra `evaluate`'):
        measure([make_person()], [])
