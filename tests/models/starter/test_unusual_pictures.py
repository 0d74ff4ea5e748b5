"""The starter model, from image to poses, on pictures that no model was trained on: no crash, and no ghost."""

import cv2
import numpy as np
import pytest

from detector.engine.person_detector import MIN_BOX_AREA
from detector.engine.pose_engine import EngineOptions, PoseEngine
from detector.models.package import ModelPackage
from detector.pose.images import Image, check
from detector.pose.skeleton import PART_BY_NAME
from tests.support.photographs import portrait
from tests.support.starter import needs_starter

pytestmark = needs_starter


@pytest.fixture(scope='module')
def engine(starter: ModelPackage) -> PoseEngine:
    """Open an engine that answers almost every box."""
    return PoseEngine(starter, EngineOptions(backend_type='onnxruntime', person_threshold=0.02, max_persons=4))


def scaled(width: int, height: int) -> Image:
    return np.asarray(cv2.resize(portrait(), (width, height), interpolation=cv2.INTER_AREA), dtype=np.uint8)


def in_a_strip(*, turned: bool) -> Image:
    """Return a grey strip of 8000×200 pixels, or turned by a right angle, with the portrait at one end."""
    strip = np.full((200, 8000, 3), 128, dtype=np.uint8)
    strip[:, :171] = scaled(171, 200)
    return np.ascontiguousarray(strip.transpose(1, 0, 2)) if turned else strip


def noise(width: int, height: int) -> Image:
    return np.random.default_rng(0).integers(0, 256, (height, width, 3), dtype=np.uint8)


PICTURES = {
    'smallest, black': np.zeros((8, 8, 3), dtype=np.uint8),
    'smallest, noise': noise(8, 8),
    'smallest, a portrait': scaled(8, 8),
    'strip, noise': noise(8000, 200),
    'strip, a portrait at its end': in_a_strip(turned=False),
    'upright strip': in_a_strip(turned=True),
    'narrowest': noise(8, 512),
    'stretched': scaled(2000, 100),
    'upside down': np.ascontiguousarray(portrait()[::-1]),
    'on its side': np.ascontiguousarray(portrait().transpose(1, 0, 2)),
    'negative': 255 - portrait(),
}


@pytest.mark.parametrize('name', PICTURES)
def test_unusual_pictures_hold_no_ghost(engine: PoseEngine, name: str) -> None:
    """Even with a threshold near 0, each pose lies in the picture, has an area, and has a present keypoint."""
    image = check(PICTURES[name])
    height, width = image.shape[:2]
    for pose in (poses := engine.poses(image)):
        assert (pose.confidences >= engine.thresholds.presence).any()
        assert (pose.box >= 0).all()
        assert (pose.box <= [width, height, width, height]).all()
        assert (pose.box[2:] - pose.box[:2]).prod() >= MIN_BOX_AREA
        assert np.isfinite(pose.keypoints).all()
    if width * height < MIN_BOX_AREA:
        assert poses == []


def test_the_person_is_found_in_every_position(engine: PoseEngine) -> None:
    """Upright and upside down, the portrait's face is found with 68 present keypoints."""
    face = PART_BY_NAME['face'].slice
    for image in (portrait(), PICTURES['upside down']):
        present = [(pose.confidences[face] >= engine.thresholds.presence).sum() for pose in engine.poses(image)]
        assert max(present) == 68
