from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np
import pytest
from rtmlib import YOLOX, RTMPose

from benchmarks.support.cards import FIGURES, assert_misread, assert_read, make_card
from detector.engine.pose_engine import MAX_UNCERTAIN, EngineOptions, PoseEngine
from detector.engine.pose_estimator import Crop
from detector.models.package import ModelPackage
from detector.pose.pose import FloatArray
from mock.test_card.cards import MAX_PERSONS, Figure, arrange
from tests.support.rtmlib_precision import computing_f32


@dataclass(frozen=True)
class Pair:
    """Our engine and rtmlib's own classes, on the same networks and runtime."""

    engine: PoseEngine
    detector: YOLOX
    estimator: RTMPose


OTHERS = [pytest.param(name, marks=pytest.mark.integration) for name in ('openvino', 'opencv')]


@pytest.fixture(scope='module', params=['onnxruntime', *OTHERS])
def pair(embedded: ModelPackage, request: pytest.FixtureRequest) -> Pair:
    engine = PoseEngine(embedded, EngineOptions(backend_type=request.param, precision='f32'))
    engine.check()
    return Pair(
        engine=engine,
        detector=computing_f32(YOLOX(str(embedded.detector_path), (640, 640), backend=request.param)),
        estimator=computing_f32(RTMPose(str(embedded.estimator_path), (192, 256), backend=request.param)),
    )


@pytest.mark.parametrize(
    ('figures', 'size'),
    [
        ((), (640, 480)),
        (FIGURES[:1], (481, 457)),
        (FIGURES, (720, 480)),
        (arrange(4, (801, 1203)), (801, 1203)),
        (arrange(10, (1600, 1200)), (1600, 1200)),
        ((Figure(x=0, y=0, height=480), Figure(x=360.5, y=10.2, height=430)), (721, 480)),
    ],
    ids=['no person', 'odd size', 'two', 'four', 'ten', 'at the border'],
)
def test_keypoints_equal_those_of_rtmlib(
    pair: Pair,
    figures: tuple[Figure, ...],
    size: tuple[int, int],
) -> None:
    """Boxes equal rtmlib's; for equal boxes and colour order, keypoints are within 0.5 px, in batches of any size."""
    image = make_card(figures, width=size[0], height=size[1])
    engine, detector, estimator = pair.engine, pair.detector, pair.estimator
    boxes, confidences = engine.detector.detect(image)
    theirs = detector(np.ascontiguousarray(image[..., ::-1]))
    limit = np.array([size[0], size[1], size[0], size[1]])
    assert len(boxes) == len(theirs) == len(figures)
    for box in np.clip(theirs, 0, limit):
        assert np.abs(boxes - box).max(axis=1).min() < 0.01
    if not figures:
        return
    (poses,) = engine.poses_in_boxes([(image, boxes, confidences)])
    keypoints, scores = estimator(image, boxes)
    inside = np.clip(keypoints, 0, [size[0] - 1, size[1] - 1])
    np.testing.assert_allclose(np.stack([pose.keypoints for pose in poses]), inside, atol=0.5)
    np.testing.assert_allclose(np.stack([pose.confidences for pose in poses]), np.clip(scores, 0, 1), atol=1e-4)


@pytest.mark.parametrize('backend', ['onnxruntime', 'openvino', 'opencv'])
def test_every_runtime_reads_the_card(embedded: ModelPackage, backend: str) -> None:
    """Each runtime finds the figures of a test card, from image to poses."""
    assert_read(PoseEngine(embedded, EngineOptions(backend_type=backend)).poses(make_card()))  # type: ignore[arg-type]


def test_no_person_means_no_pose(engine: PoseEngine) -> None:
    """An image without persons gives no pose, while rtmlib takes the whole image for a person."""
    assert engine.poses(np.full((480, 640, 3), 90, dtype=np.uint8)) == []
    assert engine.poses_in_boxes([(make_card(), np.zeros((0, 4), np.float32), np.zeros(0, np.float32))]) == [[]]
    assert engine.poses_of_images([]) == []


def test_all_persons_up_to_the_limit_are_found_best_first(engine: PoseEngine, embedded: ModelPackage) -> None:
    """Twelve persons are sorted by box confidence, and `max_persons` keeps the best."""
    figures = arrange(MAX_PERSONS, (1600, 1200))
    image = make_card(figures, width=1600, height=1200)
    poses = engine.poses(image)
    assert_read(poses, figures)
    confidences = [pose.box_confidence for pose in poses]
    assert confidences == sorted(confidences, reverse=True)
    few = PoseEngine(embedded, EngineOptions(max_persons=3)).poses(image)
    assert [pose.box_confidence for pose in few] == confidences[:3]


def test_red_and_blue_are_not_interchangeable(engine: PoseEngine) -> None:
    """Each network gets its own colour order: an image with swapped channels is not read."""
    swapped = np.ascontiguousarray(make_card()[..., ::-1])
    assert_misread(engine.poses(swapped))
    boxes = np.stack([figure.box for figure in FIGURES])
    assert_misread(engine.poses_in_boxes([(swapped, boxes, np.ones(2, dtype=np.float32))])[0])


def test_given_boxes_get_their_poses(engine: PoseEngine) -> None:
    """A hand-drawn box gives the keypoints of the person in it, and no other person's."""
    figure = FIGURES[1]
    rough = (figure.box + np.array([-6, -5, 7, 6], dtype=np.float32))[None]
    ((pose,),) = engine.poses_in_boxes([(make_card(), rough, np.ones(1, dtype=np.float32))])
    assert np.percentile(np.linalg.norm(pose.keypoints - figure.keypoints, axis=1), 95) < 2
    assert pose.box_confidence == 1


def test_images_share_inferences_and_keep_their_persons(engine: PoseEngine) -> None:
    """Several images together give the same poses as each image alone."""
    nine = make_card(arrange(9, (1280, 960)), width=1280, height=960)
    cards = [make_card(FIGURES[:1]), make_card(()), make_card(), nine]
    together = engine.poses_of_images(cards)
    assert [len(poses) for poses in together] == [1, 0, 2, 9]
    for card, poses in zip(cards, together, strict=True):
        for pose, alone in zip(poses, engine.poses(card), strict=True):
            np.testing.assert_allclose(pose.keypoints, alone.keypoints, atol=0.5)


DOUBTED = EngineOptions(person_threshold=0.99, max_uncertain_threshold=0.98)
"""Options under which the figures of a card are uncertain persons."""


def test_uncertain_persons_are_found_on_request_only(embedded: ModelPackage) -> None:
    """Persons below the threshold are not answered; with `with_uncertain` they are found with their keypoints."""
    engine = PoseEngine(embedded, DOUBTED)
    assert engine.poses(make_card()) == []
    (found,) = engine.find([make_card()])
    assert (found.poses, found.uncertain, found.absent) == ([], [], 0)
    (found,) = engine.find([make_card()], with_uncertain=True)
    assert found.poses == []
    assert_read(found.uncertain, FIGURES)


def test_boxes_above_the_uncertain_range_are_neither_answered_nor_estimated(embedded: ModelPackage) -> None:
    """A box that is neither certain enough for an answer nor uncertain costs no pose."""
    (found,) = PoseEngine(embedded, EngineOptions(person_threshold=0.99)).find([make_card()], with_uncertain=True)
    assert (found.poses, found.uncertain) == ([], [])


def test_the_number_of_uncertain_poses_is_bounded(embedded: ModelPackage) -> None:
    """The engine estimates the most certain of twelve uncertain persons, with and without answered persons."""
    figures = arrange(MAX_PERSONS, (1600, 1200))
    image = make_card(figures, width=1600, height=1200)
    confidences = [pose.box_confidence for pose in PoseEngine(embedded).poses(image)]
    (found,) = PoseEngine(embedded, DOUBTED).find([image], with_uncertain=True)
    assert [pose.box_confidence for pose in found.uncertain] == confidences[:MAX_UNCERTAIN]


def test_an_uncertain_box_around_an_answered_person_is_not_another_one(engine: PoseEngine) -> None:
    """A second, less certain box that gives the same body is dropped; one with another body is kept."""
    card = make_card()
    first, second = (figure.box for figure in FIGURES)
    nearly = first + np.array([-6, -5, 7, 6], dtype=np.float32)
    boxes = np.stack([first, nearly, second, nearly])
    confidences = np.array([0.9, 0.45, 0.4, 0.35], dtype=np.float32)
    (poses,) = engine.poses_in_boxes([(card, boxes, confidences)])
    found = engine.sorted_out(poses)
    assert [pose.box_confidence for pose in found.poses] == [pytest.approx(0.9)]
    assert [pose.box_confidence for pose in found.uncertain] == [pytest.approx(0.4)]


def test_a_box_without_a_present_keypoint_is_no_person(embedded: ModelPackage) -> None:
    """Such boxes are dropped and counted, answered or uncertain; the threshold is the package's."""
    card = make_card([replace(figure, fading=np.ones(133, dtype=np.float32)) for figure in FIGURES])
    assert len(PoseEngine(embedded).detector.detect(card)[0]) == len(FIGURES)
    (found,) = PoseEngine(embedded).find([card])
    assert (found.poses, found.absent) == ([], len(FIGURES))
    (found,) = PoseEngine(embedded, DOUBTED).find([card], with_uncertain=True)
    assert (found.uncertain, found.absent) == ([], len(FIGURES))
    never = replace(embedded, wholebody=embedded.wholebody.model_copy(update={'presence_threshold': 0}))
    assert len(PoseEngine(never).poses(card)) == len(FIGURES)


def test_nms_threshold_without_effect_is_reported(embedded: ModelPackage, caplog: pytest.LogCaptureFixture) -> None:
    """NMS_THRESHOLD cannot apply to a network that drops overlapping boxes itself, and the log says so."""
    PoseEngine(embedded, EngineOptions(nms_threshold=0.3))
    assert 'NMS_THRESHOLD has no effect on test-card 0.0' in caplog.text


@pytest.mark.parametrize('broken', [(np.nan, 5.0), (5.0, np.nan), (np.inf, 5.0), (5.0, -np.inf)])
def test_a_keypoint_without_a_place_has_no_confidence(
    engine: PoseEngine, monkeypatch: pytest.MonkeyPatch, broken: tuple[float, float]
) -> None:
    """A network that gives no finite place for a keypoint, with a high score, is not believed; others keep theirs."""
    estimate = engine.estimator.estimate

    def breaking(crops: Sequence[Crop]) -> tuple[FloatArray, FloatArray]:
        keypoints, scores = estimate(crops)
        keypoints[:, 0] = broken
        scores[:, 0] = 1
        return keypoints, scores

    expected = engine.poses(make_card())
    monkeypatch.setattr(engine.estimator, 'estimate', breaking)
    for pose, sound in zip(engine.poses(make_card()), expected, strict=True):
        assert pose.confidences[0] == 0
        assert np.isfinite(pose.keypoints).all()
        np.testing.assert_array_equal(pose.confidences[1:], sound.confidences[1:])
        np.testing.assert_array_equal(pose.keypoints[1:], sound.keypoints[1:])
