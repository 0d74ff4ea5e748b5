"""The starter model from end to end, on photographs with and without people."""

from typing import NamedTuple

import numpy as np
import pytest

from benchmarks.support.cards import iou
from detector.engine.pose_engine import PoseEngine
from detector.models.package import ModelPackage
from detector.pose.images import Image
from detector.pose.pose import Pose
from detector.pose.skeleton import KEYPOINT_INDEX
from tests.support.photographs import WITHOUT_PEOPLE, astronaut, cameraman, picture
from tests.support.starter import needs_starter

pytestmark = needs_starter


class Marked(NamedTuple):
    """A photograph of one person, and what a person marked in it by hand, in pixels."""

    image: Image
    box: tuple[float, float, float, float]
    """Outline of the person: x1, y1, x2, y2."""
    face_height: float
    """Distance from the hairline to the chin; the astronaut's hair covers her hairline."""
    face: dict[str, tuple[float, float]]
    """Keypoints of the face that the photograph shows clearly."""
    body: dict[str, tuple[float, float]]
    """Other keypoints, under clothes or at the edge of the face."""


ASTRONAUT = Marked(
    image=astronaut(),
    box=(20, 15, 365, 512),
    face_height=112,
    face={
        'right_eye': (202, 101),
        'left_eye': (247, 103),
        'nose': (223, 122),
        'face_30': (223, 122),  # tip of the nose
        'face_48': (205, 140),  # right corner of the mouth
        'face_54': (244, 142),  # left corner of the mouth
        'face_8': (222, 176),  # chin
    },
    body={'right_ear': (176, 123), 'left_ear': (274, 130)},
)
CAMERAMAN = Marked(
    image=cameraman(),
    box=(0, 63, 332, 512),
    face_height=90,
    face={},  # in profile and half behind the camera: not closer than the body
    body={'nose': (252, 163), 'right_eye': (237, 147), 'right_ear': (189, 141), 'right_shoulder': (90, 185)},
)


@pytest.fixture(scope='module')
def engine(starter: ModelPackage) -> PoseEngine:
    return PoseEngine(starter)


@pytest.mark.parametrize('marked', [ASTRONAUT, CAMERAMAN], ids=['astronaut', 'cameraman'])
def test_a_person_is_found_with_face_and_body(engine: PoseEngine, marked: Marked) -> None:
    """The person is found, with at most one false box beside it; the face's keypoints lie within 6 % of its height,
    others within 12 % of the person's."""
    pose, *others = sorted(engine.poses(marked.image), key=lambda pose: -iou(pose.box, np.array(marked.box)))
    assert len(others) <= 1
    assert iou(pose.box, np.array(marked.box)) > 0.5
    assert distances(pose, marked.face) <= 0.06 * marked.face_height
    assert distances(pose, marked.body) <= 0.12 * (marked.box[3] - marked.box[1])


def distances(pose: Pose, places: dict[str, tuple[float, float]]) -> float:
    """Return the largest distance of keypoints from their places, in pixels."""
    found = (pose.keypoints[KEYPOINT_INDEX[name]] - place for name, place in places.items())
    return max((float(np.hypot(*offset)) for offset in found), default=0.0)


def test_hardly_a_person_is_found_where_none_is(engine: PoseEngine) -> None:
    """In all pictures without people, at most one person is found."""
    found = {name: engine.poses(picture(name)) for name in WITHOUT_PEOPLE}
    boxes = {name: [pose.box.round().tolist() for pose in poses] for name, poses in found.items() if poses}
    assert sum(len(some) for some in boxes.values()) <= 1, boxes
