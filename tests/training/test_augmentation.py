"""Training pictures and their boxes."""

from pathlib import Path

import cv2
import numpy as np
import pytest

from training.augmentation import GREY, Pictures, cropped, letterboxed, scaled
from training.grid import SIZE
from training.photographs import Photograph


@pytest.mark.parametrize('mosaic', [0.0, 1.0])
def test_boxes_follow_the_pixels(tmp_path: Path, mosaic: float) -> None:
    """After crop, mirror image, scale and mosaic, a box still lies around the bright rectangle it was annotated on."""
    photograph = np.zeros((200, 300, 3), np.uint8)
    photograph[60:150, 100:160] = 255
    cv2.imwrite(str(tmp_path / 'a.png'), photograph)
    box = np.array([[100 / 300, 60 / 200, 160 / 300, 150 / 200, 1]], np.float32)
    one = Photograph(path=tmp_path / 'a.png', name='a.png', boxes=box)
    pictures, seen = Pictures({'coco': [one]}, {'coco': 1.0}, [3]), 0
    for _ in range(40):
        canvas, boxes = pictures.draw(mosaic)
        assert canvas.shape == (SIZE, SIZE, 3)
        bright = canvas.min(2).astype(int) - int(np.median(canvas[canvas.max(2) < 100])) > 60
        for left, top, right, bottom, person in boxes:
            assert person == 1
            inner = bright[int(top) + 3 : int(bottom) - 3, int(left) + 3 : int(right) - 3]
            if inner.size:
                assert inner.mean() > 0.9
                seen += 1
    assert seen > 20


def test_the_seed_fixes_the_pictures(tmp_path: Path) -> None:
    """The same seed draws the same pictures; another seed draws others."""
    cv2.imwrite(str(tmp_path / 'a.png'), np.random.default_rng(0).integers(0, 256, (90, 120, 3)).astype(np.uint8))
    one = Photograph(path=tmp_path / 'a.png', name='a.png', boxes=None)
    first, same, other = (Pictures({'coco': [one]}, {'coco': 1.0}, seed).draw(0.5)[0] for seed in ([1], [1], [2]))
    np.testing.assert_array_equal(first, same)
    assert (first != other).any()


def test_a_crop_keeps_the_boxes_that_are_mostly_in_it() -> None:
    """A box of which a third or less is visible is dropped; the others are cut at the edge."""
    boxes = np.array([[0, 0, 40, 40, 1], [50, 0, 90, 40, 1]], np.float32)
    part, kept = cropped(np.zeros((100, 100, 3), np.uint8), boxes, 30, 0, 40, 50)
    assert part.shape == (50, 40, 3)
    np.testing.assert_allclose(kept, [[20, 0, 40, 40, 1]])


def test_letterbox_and_scale() -> None:
    """The picture fills the top left of a grey square; boxes scale with the picture."""
    canvas, scale = letterboxed(np.zeros((50, 100, 3), np.uint8), 200)
    assert scale == 2
    assert canvas[:100].max() == 0
    assert canvas[100:].min() == GREY
    _, boxes = scaled(
        np.zeros((50, 100, 3), np.uint8), np.array([[10, 10, 20, 30, 0]], np.float32), 0.5, cv2.INTER_AREA
    )
    np.testing.assert_allclose(boxes, [[5, 5, 10, 15, 0]])
