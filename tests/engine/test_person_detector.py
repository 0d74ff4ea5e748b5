"""The person detector's output."""

import numpy as np
import pytest
from rtmlib import YOLOX

from detector.engine.person_detector import MIN_BOX_AREA, MIN_BOX_SIDE, are_large, clip_boxes
from detector.errors import InvalidPackage
from tests.support.networks import canned_detector


def test_raw_output_is_decoded_as_rtmlib_does_but_for_persons_only() -> None:
    """Grid decoding and NMS give rtmlib's boxes of class 0; the other 79 classes are ignored."""
    rng = np.random.default_rng(5)
    raw = rng.normal(0, 0.4, (1, 3549, 85)).astype(np.float32)
    raw[..., 4:] = 0
    busy = rng.choice(3549, 60, replace=False)
    raw[0, busy, 4] = rng.uniform(0.5, 1, 60)
    raw[0, busy[:40], 5] = rng.uniform(0.5, 1, 40)
    raw[0, busy[30:], 21] = rng.uniform(0.8, 1, 30)
    image = np.zeros((300, 500, 3), dtype=np.uint8)

    ours, scores = canned_detector(raw, output='raw').detect(image)

    theirs = YOLOX.__new__(YOLOX)
    theirs.model_input_size, theirs.nms_thr, theirs.score_thr, theirs.det_mode = (416, 416), 0.45, 0.3, 'multiclass'
    boxes, classes = theirs.postprocess(raw.copy(), 416 / 500)
    persons = boxes[classes == 0]
    persons = persons[are_large(clip_boxes(persons, image.shape))]
    assert len(persons) > 10
    assert (classes != 0).any()
    assert len(ours) == len(persons)
    for box in persons:
        assert np.abs(ours - box).max(axis=1).min() < 1e-2
    assert (np.diff(scores) <= 0).all()


def test_only_persons_above_the_threshold_pass_from_nms_output() -> None:
    """Boxes are filtered by label, score, size and finiteness; they may extend beyond the image."""
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
    detector = canned_detector(np.array([rows], dtype=np.float32), labels, output='nms')
    boxes, scores = detector.detect(np.zeros((416, 416, 3), dtype=np.uint8))
    np.testing.assert_allclose(boxes, [(-50, -50, 600, 600), (10, 20, 110, 220)])
    np.testing.assert_allclose(scores, [0.9, 0.6])


def test_an_empty_detector_output_means_no_person() -> None:
    """A network with NMS may return no row; then no person is found."""
    detector = canned_detector(np.zeros((1, 0, 5), np.float32), np.zeros((1, 0), np.float32), output='nms')
    boxes, scores = detector.detect(np.zeros((416, 416, 3), dtype=np.uint8))
    assert boxes.shape == (0, 4)
    assert scores.shape == (0,)


def test_the_trial_inference_names_a_raw_detector_of_another_input_size() -> None:
    """The trial inference refuses an input of 416×416 for a raw detector of 8400 rows, which belong to 640×640."""
    detector = canned_detector(np.zeros((1, 8400, 85), np.float32), output='raw')
    with pytest.raises(InvalidPackage, match=r'\(1, 3549, 5 \+ classes\) is expected'):
        detector.check()


@pytest.mark.parametrize(
    ('width', 'height', 'large'),
    [(4, 7, False), (8, 8, False), (9, 14, False), (9, 15, True), (2, 66, False), (2, 67, True), (1.9, 400, False)],
)
def test_a_box_of_fewer_pixels_than_keypoints_is_no_person(width: float, height: float, large: bool) -> None:
    """A box of 4×7 pixels, like one around a smallest image, cannot show 133 keypoints; nor can a line."""
    assert (MIN_BOX_SIDE, MIN_BOX_AREA) == (2, 133)
    assert are_large(np.array([[5, 6, 5 + width, 6 + height]], dtype=np.float32)).tolist() == [large]
    rows = np.array([[[5, 6, 5 + width, 6 + height, 0.9]]], dtype=np.float32)
    boxes, _ = canned_detector(rows, output='nms').detect(np.zeros((416, 416, 3), dtype=np.uint8))
    assert len(boxes) == large
