from dataclasses import dataclass

import numpy as np
import pytest
from rtmlib import YOLOX, RTMPose

from benchmarks.support.cards import FIGURES, assert_misread, assert_read, make_card
from detector.engine.person_detector import PersonDetector, clip_boxes
from detector.engine.pose_engine import EngineOptions, PoseEngine
from detector.engine.pose_estimator import PoseEstimator
from detector.engine.runtimes import FloatArray, Runtime
from detector.errors import InvalidPackage
from detector.models.package import Detector, Estimator, ModelPackage
from mock.test_card.cards import MAX_PERSONS, Figure, arrange


@dataclass(frozen=True)
class Pair:
    """Our engine, and rtmlib's own classes as they come, on the same networks and runtime."""

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
        detector=YOLOX(str(embedded.detector_path), (640, 640), backend=request.param),
        estimator=RTMPose(str(embedded.estimator_path), (192, 256), backend=request.param),
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
    ids=['nobody', 'odd size', 'two', 'four', 'ten', 'at the border'],
)
def test_keypoints_equal_those_of_rtmlib(
    pair: Pair,
    figures: tuple[Figure, ...],
    size: tuple[int, int],
) -> None:
    """Same boxes, and given the same boxes and colour order the same keypoints to 0.5 px, in batches of any size."""
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
    """From image to poses, not only tensor to tensor."""
    assert_read(PoseEngine(embedded, EngineOptions(backend_type=backend)).poses(make_card()))  # type: ignore[arg-type]


def test_nobody_means_no_pose(engine: PoseEngine) -> None:
    """rtmlib would take the whole image for a person."""
    assert engine.poses(np.full((480, 640, 3), 90, dtype=np.uint8)) == []
    assert engine.poses_in_boxes([(make_card(), np.zeros((0, 4), np.float32), np.zeros(0, np.float32))]) == [[]]
    assert engine.poses_of_images([]) == []


def test_all_persons_up_to_the_limit_are_found_best_first(engine: PoseEngine, embedded: ModelPackage) -> None:
    """Twelve on one card, sorted by box confidence; `max_persons` keeps the best."""
    figures = arrange(MAX_PERSONS, (1600, 1200))
    image = make_card(figures, width=1600, height=1200)
    poses = engine.poses(image)
    assert_read(poses, figures)
    confidences = [pose.box_confidence for pose in poses]
    assert confidences == sorted(confidences, reverse=True)
    few = PoseEngine(embedded, EngineOptions(max_persons=3)).poses(image)
    assert [pose.box_confidence for pose in few] == confidences[:3]


def test_red_and_blue_are_not_interchangeable(engine: PoseEngine) -> None:
    """Each network gets the colour order that it was made for: a swapped image is not read."""
    swapped = np.ascontiguousarray(make_card()[..., ::-1])
    assert_misread(engine.poses(swapped))
    boxes = np.stack([figure.box for figure in FIGURES])
    assert_misread(engine.poses_in_boxes([(swapped, boxes, np.ones(2, dtype=np.float32))])[0])


def test_boxes_given_from_outside_get_their_pose(engine: PoseEngine) -> None:
    """A box that a person drew, a little off, gives that person's points and no other's."""
    figure = FIGURES[1]
    rough = (figure.box + np.array([-6, -5, 7, 6], dtype=np.float32))[None]
    ((pose,),) = engine.poses_in_boxes([(make_card(), rough, np.ones(1, dtype=np.float32))])
    assert np.percentile(np.linalg.norm(pose.keypoints - figure.keypoints, axis=1), 95) < 2
    assert pose.box_confidence == 1


def test_a_person_cut_by_the_border_is_cropped_as_detected(engine: PoseEngine) -> None:
    """The estimator sees the detector's box; the pose's box ends with the image."""
    figure = FIGURES[0]
    beyond = figure.box - np.array([80, 0, 0, 0], dtype=np.float32)
    ((pose,),) = engine.poses_in_boxes([(make_card(), beyond[None], np.ones(1, dtype=np.float32))])
    keypoints, _ = engine.estimator.estimate([(make_card(), beyond)])
    np.testing.assert_allclose(pose.keypoints, np.clip(keypoints[0], 0, None), atol=1e-3)
    np.testing.assert_allclose(pose.box, np.clip(beyond, 0, None))
    assert beyond[0] < 0


@pytest.mark.parametrize('box', [(-500, -500, -400, -400), (700, 400, 900, 700), (10, 10, 10, 10), (50, 50, 10, 10)])
def test_strange_boxes_give_finite_points_inside_the_image(engine: PoseEngine, box: tuple[int, ...]) -> None:
    """Outside, half outside, empty or inverted."""
    image = make_card()
    boxes = np.array([box], dtype=np.float32)
    ((pose,),) = engine.poses_in_boxes([(image, boxes, np.ones(1, dtype=np.float32))])
    assert np.isfinite(pose.keypoints).all()
    assert (pose.keypoints >= 0).all()
    assert (pose.keypoints <= (image.shape[1] - 1, image.shape[0] - 1)).all()
    assert ((pose.confidences >= 0) & (pose.confidences <= 1)).all()


def test_scores_are_mapped_before_they_are_clipped(embedded: ModelPackage) -> None:
    """A package whose raw scores run from 1 to 8 gets confidences from 0 to 1."""
    wholebody = embedded.wholebody.model_copy(update={'score_mapping': [(1.0, 0.0), (3.0, 0.5), (8.0, 1.0)]})
    engine = PoseEngine(
        ModelPackage(
            id='x', folder=embedded.folder, version='1.0', wholebody=wholebody, category_ids=embedded.category_ids
        )
    )
    mapped = engine.confidences(np.array([0, 1, 2, 3, 5.5, 8, 99, np.nan], dtype=np.float32))
    np.testing.assert_allclose(mapped, [0, 0, 0.25, 0.5, 0.75, 1, 1, 0], atol=1e-6)


class Canned(Runtime):
    """A runtime that answers with given outputs."""

    name = 'canned'

    def __init__(self, *outputs: np.ndarray) -> None:  # type: ignore[type-arg]
        self.outputs = list(outputs)

    def _infer(self, batch: FloatArray) -> list[np.ndarray]:  # type: ignore[type-arg]
        return [output.copy() for output in self.outputs]


def detector_spec(output: str, size: int = 416) -> Detector:
    return Detector(
        file='det.onnx', sha256=64 * '0', input_size=(size, size), color_order='BGR', output=output, score_threshold=0.3
    )  # type: ignore[arg-type]


def test_raw_output_is_decoded_as_rtmlib_does_but_for_persons_only() -> None:
    """Grid decoding and NMS give rtmlib's boxes of class 0; the other 79 classes never appear."""
    rng = np.random.default_rng(5)
    raw = rng.normal(0, 0.4, (1, 3549, 85)).astype(np.float32)
    raw[..., 4:] = 0
    busy = rng.choice(3549, 60, replace=False)
    raw[0, busy, 4] = rng.uniform(0.5, 1, 60)
    raw[0, busy[:40], 5] = rng.uniform(0.5, 1, 40)
    raw[0, busy[30:], 21] = rng.uniform(0.8, 1, 30)
    image = np.zeros((300, 500, 3), dtype=np.uint8)

    ours, scores = PersonDetector(Canned(raw), detector_spec('raw')).detect(image)

    theirs = YOLOX.__new__(YOLOX)
    theirs.model_input_size, theirs.nms_thr, theirs.score_thr, theirs.det_mode = (416, 416), 0.45, 0.3, 'multiclass'
    boxes, classes = theirs.postprocess(raw.copy(), 416 / 500)
    persons = boxes[classes == 0]
    inside = clip_boxes(persons, image.shape)
    persons = persons[((inside[:, 2:] - inside[:, :2]) >= 2).all(axis=1)]
    assert len(persons) > 10
    assert (classes != 0).any()
    assert len(ours) == len(persons)
    for box in persons:
        assert np.abs(ours - box).max(axis=1).min() < 1e-2
    assert (np.diff(scores) <= 0).all()


def test_only_persons_above_the_threshold_pass_from_nms_output() -> None:
    """Label, score, size and finiteness are looked at; boxes may reach beyond the image, if they lie in it too."""
    rows = [
        (10, 20, 110, 220, 0.6),
        (-50, -50, 600, 600, 0.9),
        (-50, 20, 1, 220, 0.9),
        (10, 20, 110, 220, 0.29),
        (30, 30, 90, 90, 0.8),
        (50, 50, 50.5, 90, 0.8),
        (np.nan, 50, 90, 90, 0.8),
    ]
    labels = np.array([[0, 0, 0, 0, 16, 0, 0]])
    detector = PersonDetector(Canned(np.array([rows], dtype=np.float32), labels), detector_spec('nms'))
    boxes, scores = detector.detect(np.zeros((416, 416, 3), dtype=np.uint8))
    np.testing.assert_allclose(boxes, [(-50, -50, 600, 600), (10, 20, 110, 220)])
    np.testing.assert_allclose(scores, [0.9, 0.6])


def test_an_empty_detector_output_is_nobody() -> None:
    """Exports with NMS may return no row at all."""
    detector = PersonDetector(Canned(np.zeros((1, 0, 5), np.float32), np.zeros((1, 0))), detector_spec('nms'))
    boxes, scores = detector.detect(np.zeros((416, 416, 3), dtype=np.uint8))
    assert boxes.shape == (0, 4)
    assert scores.shape == (0,)


def test_the_trial_inference_names_a_raw_detector_of_another_input_size() -> None:
    """8400 rows belong to 640×640, not to 416×416."""
    detector = PersonDetector(Canned(np.zeros((1, 8400, 85), np.float32)), detector_spec('raw'))
    with pytest.raises(InvalidPackage, match=r'\(1, 3549, 5 \+ classes\) is expected'):
        detector.check()


def test_images_share_inferences_and_keep_their_persons(engine: PoseEngine) -> None:
    """Several images at once give what each gives alone."""
    nine = make_card(arrange(9, (1280, 960)), width=1280, height=960)
    cards = [make_card(FIGURES[:1]), make_card(()), make_card(), nine]
    together = engine.poses_of_images(cards)
    assert [len(poses) for poses in together] == [1, 0, 2, 9]
    for card, poses in zip(cards, together, strict=True):
        for pose, alone in zip(poses, engine.poses(card), strict=True):
            np.testing.assert_allclose(pose.keypoints, alone.keypoints, atol=0.5)


class Counted(Runtime):
    """A SimCC network of our making that counts its runs and may be unable to batch.

    :param fault: `refuses` batches, computes them `wrongly`, or None.
    """

    name = 'counted'

    def __init__(self, fault: str | None = None) -> None:
        self.fault = fault
        self.sizes: list[int] = []

    def _infer(self, batch: FloatArray) -> list[np.ndarray]:  # type: ignore[type-arg]
        self.sizes.append(len(batch))
        if len(batch) > 1 and self.fault == 'refuses':
            raise RuntimeError('Got invalid dimensions for input')
        sums = batch.sum(axis=(1, 2, 3)) / 1e5
        if len(batch) > 1 and self.fault == 'wrongly':
            sums[1] = sums[0]
        noise = np.random.default_rng(0).normal(0, 1, (1, 133, 896)).astype(np.float32)
        values = noise * (1 + sums[:, None, None])
        return [values[..., :384], values[..., 384:]]


def estimator_spec() -> Estimator:
    return Estimator(file='pose.onnx', sha256=64 * '0', input_size=(192, 256), color_order='RGB')


@pytest.mark.parametrize(
    ('persons', 'sizes'), [(0, []), (1, [1]), (2, [2]), (3, [2, 1]), (8, [8]), (10, [8, 2]), (23, [8, 8, 4, 2, 1])]
)
def test_persons_go_in_batches_of_few_sizes(persons: int, sizes: list[int]) -> None:
    """Runtimes prepare for every size that they meet."""
    runtime = Counted()
    estimator = PoseEstimator(runtime, estimator_spec())
    estimator.check()
    runtime.sizes = []
    box = np.array([10, 10, 100, 200], dtype=np.float32)
    keypoints, scores = estimator.estimate(persons * [(make_card(), box)])
    assert runtime.sizes == sizes
    assert (keypoints.shape, scores.shape) == ((persons, 133, 2), (persons, 133))


@pytest.mark.parametrize('fault', ['refuses', 'wrongly'])
def test_networks_that_cannot_batch_run_person_by_person(fault: str) -> None:
    """Exports for one person, and runtimes that compute batches wrongly, are found out when the model is tried."""
    runtime = Counted(fault)
    estimator = PoseEstimator(runtime, estimator_spec())
    estimator.check()
    runtime.sizes = []
    estimator.estimate(3 * [(make_card(), np.array([10, 10, 100, 200], dtype=np.float32))])
    assert runtime.sizes == [1, 1, 1]


def test_inputs_are_those_of_rtmlib_to_the_bit(embedded: ModelPackage) -> None:
    """Letterbox, crop, normalisation: what reaches the networks, for an odd image and boxes beyond its border."""
    rng = np.random.default_rng(3)
    image = rng.integers(0, 256, (333, 517, 3), dtype=np.uint8)
    seen = []

    class Recording(Canned):
        def _infer(self, batch: FloatArray) -> list[np.ndarray]:  # type: ignore[type-arg]
            seen.append(batch.copy())
            return super()._infer(batch)

    detector = PersonDetector(Recording(np.zeros((1, 0, 5), np.float32)), detector_spec('nms'))
    detector.detect(make_card())
    detector.detect(image)
    theirs = YOLOX.__new__(YOLOX)
    theirs.model_input_size = (416, 416)
    expected, _ = theirs.preprocess(image[..., ::-1])
    np.testing.assert_array_equal(seen[-1][0], expected.transpose(2, 0, 1).astype(np.float32))

    spec = embedded.wholebody.estimator
    simcc = np.zeros((1, 133, 384), np.float32), np.zeros((1, 133, 512), np.float32)
    estimator = PoseEstimator(Recording(*simcc), spec)
    theirs_pose = RTMPose.__new__(RTMPose)
    theirs_pose.model_input_size, theirs_pose.mean, theirs_pose.std = spec.input_size, spec.mean, spec.std
    for box in ((20, 30, 200, 320), (-40, 100.5, 90.25, 400), (0, 0, 517, 333)):
        corners = np.array(box, dtype=np.float32)
        estimator.estimate([(image, corners)])
        crop, _, _ = theirs_pose.preprocess(image, corners)
        np.testing.assert_array_equal(seen[-1][0], crop.transpose(2, 0, 1).astype(np.float32))
