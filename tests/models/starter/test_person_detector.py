"""The starter's person detector, whose weights the project contains."""

import cv2
import numpy as np
import onnx
import pytest
from rtmlib import YOLOX

from benchmarks.support.cards import iou
from detector.engine.person_detector import PersonDetector, clip_boxes
from detector.engine.runtimes import Backend, open_runtime
from tests.support.networks import detector_spec, make_thresholds
from tests.support.photographs import portrait
from tests.support.starter_weights import WEIGHTS

FACE_AND_SHOULDERS = np.array([20, 20, 505, 595])
"""Box of Grace Hopper in the portrait, set by hand, in pixels."""


@pytest.fixture(scope='module', params=['onnxruntime', 'openvino'])
def network(request: pytest.FixtureRequest) -> PersonDetector:
    """Open the weights in a runtime."""
    backend: Backend = request.param
    opened = PersonDetector(open_runtime(WEIGHTS, backend_type=backend), detector_spec('raw'), make_thresholds())
    opened.check()
    return opened


def test_the_weights_fit_into_the_repository() -> None:
    """The file takes at most 2 MB, and holds no path of the machine that wrote it."""
    assert WEIGHTS.stat().st_size <= 2_000_000
    model = onnx.load(WEIGHTS)
    onnx.checker.check_model(model)
    assert [output.name for output in model.graph.output] == ['output']
    assert not model.doc_string
    assert not any(node.doc_string for node in model.graph.node)


def test_the_person_in_a_portrait_is_found(network: PersonDetector) -> None:
    """Exactly one person is found in matplotlib's portrait of Grace Hopper, where she is."""
    boxes, scores = network.detect(portrait())
    assert len(boxes) == 1
    assert iou(boxes[0], FACE_AND_SHOULDERS) > 0.6
    assert 0.5 < scores[0] <= 1


def test_a_small_person_is_found(network: PersonDetector) -> None:
    """The portrait is found as well where it takes a twentieth of the picture."""
    picture = np.full((800, 1000, 3), 114, np.uint8)
    small = cv2.resize(portrait(), (171, 200), interpolation=cv2.INTER_AREA)
    picture[300:500, 400:571] = small
    boxes, _ = network.detect(picture)
    assert len(boxes) >= 1
    assert iou(boxes[0], np.array([400, 300, 571, 500])) > 0.5


@pytest.mark.parametrize('seed', range(4))
def test_nobody_is_found_in_noise(network: PersonDetector, seed: int) -> None:
    """Noise of pixels, coarse noise and plain grey hold no person."""
    random = np.random.default_rng(seed)
    noise = random.integers(0, 256, (480, 640, 3)).astype(np.uint8)
    coarse = np.asarray(cv2.resize(noise[:12, :16], (640, 480), interpolation=cv2.INTER_CUBIC), np.uint8)
    for picture in (noise, coarse, np.full((480, 640, 3), 60 * seed, np.uint8)):
        assert len(network.detect(picture)[0]) == 0


def test_rtmlib_finds_the_same_boxes() -> None:
    """rtmlib's YOLOX class reads the file as it is and finds the boxes that the node finds."""
    ours = PersonDetector(open_runtime(WEIGHTS), detector_spec('raw'), make_thresholds())
    theirs = YOLOX(str(WEIGHTS), (416, 416), score_thr=ours.thresholds.person, backend='onnxruntime', device='cpu')
    image = portrait()
    for picture in (image, np.ascontiguousarray(image[:, ::-1]), np.tile(image, (1, 2, 1))):
        boxes, _ = ours.detect(picture)
        found = clip_boxes(np.array(theirs(picture[..., ::-1]), np.float32).reshape(-1, 4), picture.shape)
        assert len(boxes) == len(found) >= 1
        for box in clip_boxes(boxes, picture.shape):
            assert np.abs(found - box).max(1).min() < 1
