"""Crops, batches and scores of the pose estimator."""

import numpy as np
import pytest

from benchmarks.support.cards import FIGURES, make_card
from detector.engine.pose_engine import PoseEngine
from detector.engine.pose_estimator import PoseEstimator
from detector.engine.runtimes import Runtime
from detector.models.package import Estimator, ModelPackage
from detector.pose.pose import FloatArray


def test_a_person_cut_by_the_border_is_cropped_as_detected(engine: PoseEngine) -> None:
    """The estimator gets the detector's box; the box of the pose is clipped to the image."""
    figure = FIGURES[0]
    beyond = figure.box - np.array([80, 0, 0, 0], dtype=np.float32)
    ((pose,),) = engine.poses_in_boxes([(make_card(), beyond[None], np.ones(1, dtype=np.float32))])
    keypoints, _ = engine.estimator.estimate([(make_card(), beyond)])
    np.testing.assert_allclose(pose.keypoints, np.clip(keypoints[0], 0, None), atol=1e-3)
    np.testing.assert_allclose(pose.box, np.clip(beyond, 0, None))
    assert beyond[0] < 0


@pytest.mark.parametrize('box', [(-500, -500, -400, -400), (700, 400, 900, 700), (10, 10, 10, 10), (50, 50, 10, 10)])
def test_strange_boxes_give_finite_points_inside_the_image(engine: PoseEngine, box: tuple[int, ...]) -> None:
    """Boxes outside the image, partly outside, empty or inverted give finite keypoints in the image."""
    image = make_card()
    boxes = np.array([box], dtype=np.float32)
    ((pose,),) = engine.poses_in_boxes([(image, boxes, np.ones(1, dtype=np.float32))])
    assert np.isfinite(pose.keypoints).all()
    assert (pose.keypoints >= 0).all()
    assert (pose.keypoints <= (image.shape[1] - 1, image.shape[0] - 1)).all()
    assert ((pose.confidences >= 0) & (pose.confidences <= 1)).all()


def test_scores_are_mapped_before_they_are_clipped(embedded: ModelPackage) -> None:
    """A package with raw scores from 1 to 8 gets confidences from 0 to 1."""
    wholebody = embedded.wholebody.model_copy(update={'score_mapping': [(1.0, 0.0), (3.0, 0.5), (8.0, 1.0)]})
    engine = PoseEngine(
        ModelPackage(
            id='x', folder=embedded.folder, version='1.0', wholebody=wholebody, category_ids=embedded.category_ids
        )
    )
    mapped = engine.confidences(np.array([0, 1, 2, 3, 5.5, 8, 99, np.nan], dtype=np.float32))
    np.testing.assert_allclose(mapped, [0, 0, 0.25, 0.5, 0.75, 1, 1, 0], atol=1e-6)


class Counted(Runtime):
    """A SimCC network that counts its runs and may be unable to batch.

    :param fault: `refuses` batches, computes them `wrongly`, or None.
    """

    name = 'counted'

    def __init__(self, fault: str | None = None) -> None:
        self.fault = fault
        self.sizes: list[int] = []
        self.released_after: list[int] = []

    def release(self) -> None:
        self.released_after.append(len(self.sizes))

    def _infer(self, batch: FloatArray) -> list[FloatArray]:
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
def test_persons_are_batched_in_few_sizes(persons: int, sizes: list[int]) -> None:
    """Only a few batch sizes are used, since runtimes prepare for each size that they see."""
    runtime = Counted()
    estimator = PoseEstimator(runtime, estimator_spec())
    estimator.check()
    runtime.sizes = []
    box = np.array([10, 10, 100, 200], dtype=np.float32)
    keypoints, scores = estimator.estimate(persons * [(make_card(), box)])
    assert runtime.sizes == sizes
    assert (keypoints.shape, scores.shape) == ((persons, 133, 2), (persons, 133))


def test_a_limit_bounds_the_batches() -> None:
    """With a limit, no inference has more persons, also while the network is checked."""
    runtime = Counted()
    runtime.prepares_sizes = True
    estimator = PoseEstimator(runtime, estimator_spec(), largest_batch=2)
    estimator.check()
    assert max(runtime.sizes) == 2
    runtime.sizes = []
    estimator.estimate(5 * [(make_card(), np.array([10, 10, 100, 200], dtype=np.float32))])
    assert runtime.sizes == [2, 2, 1]


def test_the_check_leaves_no_memory_for_large_batches() -> None:
    """After the last inference of the check, the runtime frees what it kept for the largest batch."""
    runtime = Counted()
    runtime.prepares_sizes = True
    PoseEstimator(runtime, estimator_spec()).check()
    assert runtime.sizes.count(8) == 1
    assert runtime.released_after == [len(runtime.sizes)]


@pytest.mark.parametrize('fault', ['refuses', 'wrongly'])
def test_without_batching_persons_are_run_singly(fault: str) -> None:
    """`check` detects networks exported for one person and runtimes that compute batches wrongly."""
    runtime = Counted(fault)
    estimator = PoseEstimator(runtime, estimator_spec())
    estimator.check()
    runtime.sizes = []
    estimator.estimate(3 * [(make_card(), np.array([10, 10, 100, 200], dtype=np.float32))])
    assert runtime.sizes == [1, 1, 1]
