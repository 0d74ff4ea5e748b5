"""The starter model on annotated photographs. The tests need WHOLEBODY_TEST_DATA, the path of a folder with them.

The folder contains photographs, and `coco_wholebody_two_images.json` with their persons in COCO-WholeBody's own fields.
"""

import os
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest

from benchmarks.keypoints import ALL, Measured, measure, opened
from detector.datasets.coco import read_coco
from detector.datasets.labelled_image import LabelledImage
from detector.engine.pose_engine import EngineOptions
from detector.engine.pose_estimator import PoseEstimator
from detector.engine.runtimes import Backend, open_runtime
from detector.models.package import ModelPackage
from detector.pose.images import read_image
from tests.support.starter import needs_starter

DATA = os.environ.get('WHOLEBODY_TEST_DATA')
pytestmark = [
    needs_starter,
    pytest.mark.skipif(DATA is None, reason='WHOLEBODY_TEST_DATA names no folder with photographs'),
]


@pytest.fixture(scope='module')
def package() -> Iterator[ModelPackage]:
    with opened('starter') as package:
        yield package


@pytest.fixture(scope='module')
def photographs() -> list[LabelledImage]:
    return read_coco(Path(str(DATA)) / 'coco_wholebody_two_images.json')


@pytest.fixture(scope='module')
def measured(package: ModelPackage, photographs: list[LabelledImage]) -> Measured:
    return measure(package, photographs, Path(str(DATA)), EngineOptions(backend_type='onnxruntime'))


def test_the_keypoints_are_right_in_the_true_boxes(measured: Measured) -> None:
    """With the true boxes and annotated areas, the mean OKS is at least 0.70 for body and face, 0.65 for the feet."""
    for part, least in (('body', 0.70), ('feet', 0.65), ('face', 0.65), (ALL, 0.58)):
        assert measured.oks(part) >= least, part


def test_the_persons_are_found(measured: Measured, photographs: list[LabelledImage]) -> None:
    """The model finds at least five of the six persons, with at most one false box per photograph."""
    assert measured.people == 6
    assert measured.found >= 5
    assert measured.false <= len(photographs)


def test_the_runtimes_agree_on_photographs(package: ModelPackage, photographs: list[LabelledImage]) -> None:
    """ONNX Runtime and OpenVINO place each present keypoint within half a pixel of the crop."""
    backends: tuple[Backend, ...] = ('onnxruntime', 'openvino')
    estimators = [
        PoseEstimator(open_runtime(package.estimator_path, backend_type=backend), package.wholebody.estimator)
        for backend in backends
    ]
    close = []
    for image in photographs:
        pixels = read_image(Path(str(DATA)) / image.file_name)
        for person in image.persons:
            assert person.box is not None
            (one, scores), (other, _) = (estimator.estimate([(pixels, person.box)]) for estimator in estimators)
            pixel = 1.25 * max((person.box[2:] - person.box[:2]) / package.wholebody.estimator.input_size)
            close.append(np.abs(one - other).max(axis=2)[scores > 0.3] <= 0.5 * pixel + 1e-3)
    assert np.concatenate(close).sum() >= 500
    assert np.concatenate(close).all()
