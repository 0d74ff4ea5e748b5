"""Preparation of pixels for a network."""

import numpy as np
from rtmlib import YOLOX, RTMPose

from benchmarks.support.cards import make_card
from detector.engine.person_detector import PersonDetector
from detector.engine.pose_estimator import PoseEstimator
from detector.models.package import ModelPackage
from detector.pose.pose import FloatArray
from tests.support.networks import Canned, detector_spec, make_thresholds


def test_inputs_are_those_of_rtmlib_to_the_bit(embedded: ModelPackage) -> None:
    """Letterbox, crop and normalisation equal rtmlib's, also for boxes beyond the border of an odd image."""
    rng = np.random.default_rng(3)
    image = rng.integers(0, 256, (333, 517, 3), dtype=np.uint8)
    seen = []

    class Recording(Canned):
        def _infer(self, batch: FloatArray) -> list[FloatArray]:
            seen.append(batch.copy())
            return super()._infer(batch)

    detector = PersonDetector(Recording(np.zeros((1, 0, 5), np.float32)), detector_spec('nms'), make_thresholds())
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
