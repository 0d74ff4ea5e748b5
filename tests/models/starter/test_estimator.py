"""The composed graph: the same on each runtime and in batches, and right on a photograph."""

import cv2
import numpy as np
import pytest

from detector.engine.pose_engine import EngineOptions, PoseEngine
from detector.engine.runtimes import Backend, open_runtime
from detector.errors import RuntimeUnavailable
from detector.models.package import ModelPackage
from detector.pose.images import Image
from detector.pose.pose import FloatArray
from detector.pose.similarity import oks
from detector.pose.skeleton import KEYPOINT_INDEX, OKS_SIGMAS, PART_BY_NAME
from tests.support.photographs import portrait
from tests.support.starter import needs_starter

pytestmark = needs_starter

PERSON = np.array([10, 25, 512, 600], dtype=np.float32)
"""Box around the person of the portrait."""
FACE_HEIGHT = 209.0
"""Height of her face from the hat to the chin, in pixels."""
_BOTH: tuple[Backend, ...] = ('onnxruntime', 'openvino')
MARKED = {
    'face_36': (201, 191),  # outer corner of her right eye
    'face_45': (331, 185),  # outer corner of her left eye
    'face_30': (267, 238),  # tip of the nose
    'face_48': (234, 278),  # right corner of the mouth
    'face_54': (301, 277),  # left corner of the mouth
    'face_8': (271, 333),  # chin
    'nose': (267, 238),
    'right_eye': (223, 190),
    'left_eye': (306, 186),
}
"""Places in the portrait, marked by hand in pixels."""


@pytest.fixture(scope='module')
def engine(starter: ModelPackage) -> PoseEngine:
    engine = PoseEngine(starter, EngineOptions(backend_type='onnxruntime'))
    engine.check()
    return engine


def test_the_face_is_where_it_was_marked(engine: PoseEngine) -> None:
    """On the portrait, eyes, nose, mouth and chin lie within 6 % of the face's height, with high confidence."""
    (points,), (scores,) = engine.estimator.estimate([(portrait(), PERSON)])
    for name, place in MARKED.items():
        index = KEYPOINT_INDEX[name]
        assert np.hypot(*(points[index] - place)) <= 0.06 * FACE_HEIGHT, name
        assert engine.confidences(scores)[index] > 0.6, name


def test_what_the_picture_does_not_show_is_not_confident(engine: PoseEngine) -> None:
    """The portrait ends above the hips: knees, ankles, feet and hands have low confidences, at most 0.3."""
    _, (scores,) = engine.estimator.estimate([(portrait(), PERSON)])
    confidences = engine.confidences(scores)
    for name in ('left_knee', 'right_knee', 'left_ankle', 'right_ankle', 'left_big_toe', 'right_heel'):
        assert confidences[KEYPOINT_INDEX[name]] <= 0.3, name
    for name in ('left_hand', 'right_hand'):
        assert confidences[PART_BY_NAME[name].slice].mean() <= 0.3


def test_a_person_upside_down_is_found(engine: PoseEngine) -> None:
    """In the picture turned upside down the face has the turned places (OKS of at least 0.9)."""
    image = portrait()
    height, width = image.shape[:2]
    turned = np.ascontiguousarray(image[::-1, ::-1])
    last = np.array([width - 1, height - 1], dtype=np.float32)
    box = np.concatenate([last - PERSON[2:], last - PERSON[:2]])
    (upright,), _ = engine.estimator.estimate([(image, PERSON)])
    (points,), _ = engine.estimator.estimate([(turned, box)])
    face = PART_BY_NAME['face'].slice
    seen = np.ones(68, dtype=bool)
    assert oks(last - points[face], upright[face], seen, area=FACE_HEIGHT**2, sigmas=OKS_SIGMAS[face]) >= 0.9


def _inputs(count: int) -> FloatArray:
    """Return normalised crops of the portrait at different places and sizes."""
    image = (portrait().astype(np.float32) - 120) / 58
    crops = [image[:, shift : shift + 400] for shift in range(0, 28 * count, 28)]
    sized = [cv2.resize(crop, (384, 512)) for crop in crops]
    return np.ascontiguousarray(np.stack(sized).transpose(0, 3, 1, 2), dtype=np.float32)


def test_the_runtimes_agree(starter: ModelPackage) -> None:
    """ONNX Runtime and OpenVINO place each keypoint that is present within half a pixel, and agree on what is present.

    A peak that lies between two bins is up to 1.4 % lower than one on a bin, so confidences agree to 0.02.
    """
    batch = _inputs(3)
    outputs = [open_runtime(starter.estimator_path, backend_type=backend).run(batch) for backend in _BOTH]
    for one, other in zip(*outputs, strict=True):
        np.testing.assert_allclose(one.max(axis=2), other.max(axis=2), atol=0.02)
        present = one.max(axis=2) > 0.1
        assert present.mean() > 0.4
        assert np.abs(one.argmax(axis=2) - other.argmax(axis=2))[present].max() <= 1  # a bin is half a pixel


@pytest.mark.parametrize('backend', _BOTH)
def test_a_batch_equals_its_persons(starter: ModelPackage, backend: Backend) -> None:
    """Persons computed together have the same outputs as each alone."""
    runtime = open_runtime(starter.estimator_path, backend_type=backend)
    batch = _inputs(4)
    together = runtime.run(batch)
    for index in range(len(batch)):
        alone = runtime.run(np.ascontiguousarray(batch[index : index + 1]))
        for one, other in zip(together, alone, strict=True):
            np.testing.assert_allclose(one[index], other[0], atol=1e-3)


def test_pictures_without_structure_give_finite_answers(engine: PoseEngine) -> None:
    """Black, white and noisy pictures of any size, and boxes of one pixel, give finite points."""
    pictures: list[Image] = [np.full((64, 64, 3), level, np.uint8) for level in (0, 255)]
    for shape in ((8, 8, 3), (200, 8000, 3)):
        pictures.append(np.random.default_rng(0).integers(0, 256, shape, dtype=np.uint8))
    for picture in pictures:
        height, width = picture.shape[:2]
        for box in ([0, 0, width, height], [width / 2, height / 2, width / 2 + 1, height / 2 + 1]):
            points, scores = engine.estimator.estimate([(picture, np.array(box, dtype=np.float32))])
            assert np.isfinite(points).all()
            assert ((scores >= 0) & (scores <= 1)).all()


def test_opencv_is_refused_by_name(starter: ModelPackage) -> None:
    """OpenCV's DNN cannot load the graph: the error names the file, the operator and the runtimes that can."""
    with pytest.raises(RuntimeUnavailable, match=r'opencv on cpu cannot load pose\.onnx: .*MatMul.*BACKEND_TYPE=onnxr'):
        open_runtime(starter.estimator_path, backend_type='opencv')
