"""Thresholds: for any output of the networks, the answer depends on them as documented."""

from collections.abc import Sequence
from dataclasses import replace
from typing import Literal

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from detector.engine.pose_engine import MAX_UNCERTAIN, PoseEngine
from detector.engine.pose_estimator import Crop
from detector.engine.thresholds import Thresholds
from detector.pose.images import Image
from detector.pose.pose import FloatArray, Pose
from tests.support.networks import canned_detector, make_thresholds

SIZE = 128
"""Side of the detector's input, in pixels; small, since all its boxes pass a threshold of 0."""
ANCHORS = 336
DEGENERATE = ((8, 8), (200, 8000), (8000, 200), (8, 512), (416, 416), (333, 517))
"""Heights and widths of images: the smallest, the longest strips, and usual ones."""

FRACTIONS = st.floats(0, 1, width=32).map(float) | st.sampled_from([0.0, 0.3, 0.5, 0.6, 0.7, 1.0])
SEEDS = st.integers(0, 2**32 - 1)
Form = Literal['nms', 'raw']
FORMS: st.SearchStrategy[Form] = st.sampled_from(['nms', 'raw'])


def nms_rows(rng: np.random.Generator, count: int) -> FloatArray:
    """Return boxes of all kinds: overlapping, outside, tiny, inverted, not finite; scores on a coarse grid tie."""
    corners = rng.uniform(-0.2 * SIZE, SIZE, (count, 2))
    sides = rng.exponential(80, (count, 2)) * rng.choice([1, 1, 1, 0.01, -1], (count, 1))
    scores = np.round(rng.uniform(-0.1, 1.1, (count, 1)), rng.choice([1, 6]))
    rows = np.concatenate([corners, corners + sides, scores], axis=1)
    rows[rng.random(rows.shape) < 0.02] = rng.choice([np.nan, np.inf, -np.inf, 1e30])
    return rows[None].astype(np.float32)


def raw_rows(rng: np.random.Generator, count: int) -> FloatArray:
    """Return the output of a detector without NMS, in which some cells near each other hold boxes."""
    rows = rng.normal(0, 0.4, (1, ANCHORS, 6)).astype(np.float32)
    rows[..., 4:] = 0
    cells = (rng.integers(0, ANCHORS) + rng.integers(0, 20, count)) % ANCHORS
    rows[0, cells, 2:4] = rng.uniform(0, 3, (count, 2))
    rows[0, cells, 4:] = rng.uniform(0, 1, (count, 2)) ** 0.25
    return rows


class Estimates:
    """An estimator whose keypoints depend on the box only; in some boxes all are absent, or not finite."""

    def estimate(self, crops: Sequence[Crop]) -> tuple[FloatArray, FloatArray]:
        found = [self._person(box) for _, box in crops]
        keypoints = np.array([points for points, _ in found], dtype=np.float32).reshape(-1, 133, 2)
        return keypoints, np.array([scores for _, scores in found], dtype=np.float32).reshape(-1, 133)

    @staticmethod
    def _person(box: FloatArray) -> tuple[FloatArray, FloatArray]:
        rng = np.random.default_rng(np.abs(box).astype(np.float32).view(np.uint32))
        points = rng.uniform(box[:2] - 50, np.maximum(box[2:], box[:2]) + 50, (133, 2)).astype(np.float32)
        points[rng.random(133) < 0.1] = rng.choice([np.nan, np.inf])
        scores = rng.uniform(0, 1, 133).astype(np.float32) * rng.choice([0.0, 0.2, 1.0])
        return points, scores


@pytest.fixture(scope='module')
def make_engine(engine: PoseEngine) -> 'Maker':
    return Maker(engine)


class Maker:
    """Makes engines whose networks return drawn outputs."""

    def __init__(self, engine: PoseEngine) -> None:
        self._engine = engine

    def __call__(self, form: Form, seed: int, thresholds: Thresholds, *, max_persons: int = 50) -> PoseEngine:
        rng = np.random.default_rng(seed)
        count = int(rng.integers(0, 40))
        rows = nms_rows(rng, count) if form == 'nms' else raw_rows(rng, count)
        made: PoseEngine = PoseEngine.__new__(PoseEngine)
        vars(made).update(vars(self._engine))
        made.max_persons, made.thresholds = max_persons, thresholds
        made.detector = canned_detector(rows, output=form, thresholds=thresholds, size=SIZE)
        made.estimator = Estimates()  # type: ignore[assignment]
        return made


def blank(shape: tuple[int, int] = (333, 517)) -> Image:
    return np.zeros((*shape, 3), dtype=np.uint8)


def same(one: Sequence[Pose], other: Sequence[Pose]) -> bool:
    return len(one) == len(other) and all(
        a.box_confidence == b.box_confidence
        and np.array_equal(a.box, b.box)
        and np.array_equal(a.keypoints, b.keypoints)
        and np.array_equal(a.confidences, b.confidences)
        for a, b in zip(one, other, strict=True)
    )


@given(FORMS, SEEDS, FRACTIONS, FRACTIONS)
def test_answered_boxes_are_the_kept_ones_from_the_threshold_up(
    make_engine: Maker, form: Form, seed: int, person: float, lowest: float
) -> None:
    """Keeping uncertain boxes changes no answered box; they are those from the threshold up, in the same order."""
    thresholds = make_thresholds(person=person, uncertain=(lowest, 1))
    detector = make_engine(form, seed, thresholds).detector
    answered, scores = detector.detect(blank())
    kept, all_scores = detector.detect(blank(), with_uncertain=True)
    chosen = thresholds.answers(all_scores)
    np.testing.assert_array_equal(answered, kept[chosen])
    np.testing.assert_array_equal(scores, all_scores[chosen])
    assert (np.diff(all_scores) <= 0).all()
    assert (all_scores >= np.float32(min(person, lowest))).all()


@given(FORMS, SEEDS, FRACTIONS, FRACTIONS, st.integers(1, 12))
def test_a_higher_threshold_never_adds_a_person(
    make_engine: Maker, form: Form, seed: int, one: float, other: float, max_persons: int
) -> None:
    """With the higher threshold, the answer is the beginning of the one with the lower threshold."""
    low, high = (
        make_engine(form, seed, make_thresholds(person=person), max_persons=max_persons).poses(blank())
        for person in sorted((one, other))
    )
    assert len(high) <= len(low) <= max_persons
    assert same(high, low[: len(high)])


@given(FORMS, SEEDS, FRACTIONS, FRACTIONS, FRACTIONS)
def test_relevance_sees_what_is_answered_and_uncertain_boxes_besides(
    make_engine: Maker, form: Form, seed: int, person: float, one: float, other: float
) -> None:
    """The answer is the same with and without uncertain boxes; those are few, less certain, and in the range."""
    low, high = sorted((one, other))
    engine = make_engine(form, seed, make_thresholds(person=person, uncertain=(low, high)))
    (plain,), (found,) = engine.find([blank()]), engine.find([blank()], with_uncertain=True)
    assert same(found.poses, plain.poses)
    assert same(engine.poses(blank()), plain.poses)
    assert plain.uncertain == []
    assert len(found.uncertain) <= MAX_UNCERTAIN
    confidences = [pose.box_confidence for pose in (*found.poses, *found.uncertain)]
    assert confidences == sorted(confidences, reverse=True)
    for pose in found.uncertain:
        assert np.float32(low) <= np.float32(pose.box_confidence) <= np.float32(high)
        assert not engine.thresholds.answers(pose.box_confidence)


@given(SEEDS, FRACTIONS, st.floats(0, 0.3), st.sampled_from(DEGENERATE))
def test_every_pose_lies_in_the_image_and_has_a_present_keypoint(
    make_engine: Maker, seed: int, person: float, presence: float, shape: tuple[int, int]
) -> None:
    """Whatever the networks return for an image of any shape, no pose is a ghost, and none leaves the image."""
    thresholds = replace(make_thresholds(person=person), presence=presence)
    (found,) = make_engine('nms', seed, thresholds).find([blank(shape)], with_uncertain=True)
    height, width = shape
    for pose in (*found.poses, *found.uncertain):
        assert (pose.confidences >= presence).any()
        assert np.isfinite(pose.keypoints).all()
        assert (pose.box >= 0).all()
        assert (pose.box <= [width, height, width, height]).all()
        assert (pose.box[2:] > pose.box[:2]).all()
        assert (pose.keypoints >= 0).all()
        assert (pose.keypoints <= [width - 1, height - 1]).all()
