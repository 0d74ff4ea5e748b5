"""Real weights and photographs. The tests need WHOLEBODY_TEST_DATA, the path of a folder with them.

The folder contains `yolox_nano_coco80.onnx` (YOLOX-nano with its published COCO weights, raw output, 416×416),
photographs, and `coco_wholebody_two_images.json` with their persons in COCO-WholeBody's own fields.
"""

import json
import os
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import onnx
import pytest

from benchmarks.support.cards import iou
from detector.engine.person_detector import PersonDetector
from detector.engine.pose_engine import PoseEngine
from detector.engine.runtimes import Runtime
from detector.engine.verification import verify
from detector.models.package import unpack_package
from detector.models.packing import pack_onnx
from detector.pose import images
from detector.pose.pose import FloatArray
from mock.test_card.model import build_estimator

DATA = os.environ.get('WHOLEBODY_TEST_DATA')
pytestmark = pytest.mark.skipif(DATA is None, reason='WHOLEBODY_TEST_DATA names no folder with weights and photographs')


def photographs() -> list[dict[str, Any]]:
    """Return the images of the annotation file, each with its persons' boxes x, y, width, height, largest first."""
    if DATA is None:
        return []
    annotations = json.loads((Path(DATA) / 'coco_wholebody_two_images.json').read_text())
    return [
        image
        | {
            'boxes': sorted(
                (person['bbox'] for person in annotations['annotations'] if person['image_id'] == image['id']),
                key=lambda box: -box[2] * box[3],
            )
        }
        for image in annotations['images']
    ]


@pytest.fixture(scope='module')
def engine(tmp_path_factory: pytest.TempPathFactory) -> PoseEngine:
    """Open an engine with YOLOX-nano, packed by our own function, and the test card's estimator."""
    folder = tmp_path_factory.mktemp('nano')
    onnx.save(build_estimator(), folder / 'rtmw.onnx')
    pack_onnx(
        folder / 'nano.zip',
        detector=Path(str(DATA)) / 'yolox_nano_coco80.onnx',
        estimator=folder / 'rtmw.onnx',
        name='nano',
        version='1.0',
        verify=verify,
    )
    (folder / 'unpacked').mkdir()
    return PoseEngine(unpack_package(folder / 'nano.zip', folder / 'unpacked'))


@pytest.mark.parametrize('photograph', photographs(), ids=lambda image: str(image['file_name']))
def test_the_largest_person_is_found_and_nothing_but_persons(engine: PoseEngine, photograph: dict[str, Any]) -> None:
    """The largest person is found with an IoU of at least 0.6, and every other box lies on an annotated person.

    The test card's estimator finds keypoints in photographs by chance, so the boxes are those of the detector.
    """
    image = images.read_image(Path(str(DATA)) / photograph['file_name'])
    (poses,) = engine.poses_in_boxes([(image, *engine.detector.detect(image))])
    truth = [np.array([x, y, x + width, y + height]) for x, y, width, height in photograph['boxes']]
    assert max(iou(pose.box, truth[0]) for pose in poses) >= 0.6
    for pose in poses:
        assert max(iou(pose.box, box) for box in truth) > 0.3
    assert all(pose.confidences.shape == (133,) for pose in poses)


class Recorder(Runtime):
    """Runtime that records its last batch."""

    name = 'recorder'

    def __init__(self, runtime: Runtime) -> None:
        self.runtime = runtime
        self.batch: FloatArray = np.zeros(0, dtype=np.float32)

    def _infer(self, batch: FloatArray) -> list[Any]:
        self.batch = batch.copy()
        return self.runtime.run(batch)


def test_bgr_goes_into_the_detector(engine: PoseEngine) -> None:
    """The detector gets a photograph with blue first, values in 0..255, at the upper left of a background of 114."""
    recorder = Recorder(engine.detector.runtime)
    detector = PersonDetector(recorder, engine.detector.spec, engine.thresholds)
    image = images.read_image(Path(str(DATA)) / photographs()[0]['file_name'])
    detector.detect(image)
    assert recorder.batch.shape == (1, 3, 416, 416)
    ratio = 416 / max(image.shape[:2])
    small = cv2.resize(image, (int(image.shape[1] * ratio), int(image.shape[0] * ratio)))
    height, width = small.shape[:2]
    for channel, colour in enumerate((2, 1, 0)):
        np.testing.assert_array_equal(recorder.batch[0, channel, :height, :width], small[..., colour])
    assert (recorder.batch[0, :, height:] == 114).all()


def test_other_classes_do_not_appear(engine: PoseEngine) -> None:
    """The network detects other classes in these photographs, and none of them becomes a person."""
    others = 0
    for photograph in photographs():
        image = images.read_image(Path(str(DATA)) / photograph['file_name'])
        recorder = Recorder(engine.detector.runtime)
        PersonDetector(recorder, engine.detector.spec, engine.thresholds).detect(image)
        ((rows,),) = recorder.run(recorder.batch)
        classes = (rows[:, 4:5] * rows[:, 5:]).argmax(axis=1)
        scores = (rows[:, 4:5] * rows[:, 5:]).max(axis=1)
        others += int(((scores > 0.5) & (classes != 0)).sum())
        truth = [np.array([x, y, x + width, y + height]) for x, y, width, height in photograph['boxes']]
        for box in engine.detector.detect(image)[0]:
            assert max(iou(box, person) for person in truth) > 0.3
    assert others > 0
