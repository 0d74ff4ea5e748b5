"""The grids of YOLOX and boxes in them."""

import numpy as np
from rtmlib import YOLOX

from training.grid import SIZE, areas, cells, cells_of, decoded, overlaps


def test_rows_are_decoded_as_rtmlib_does() -> None:
    """Each row becomes the box that rtmlib's YOLOX class decodes from it."""
    rows = np.random.default_rng(0).normal(0, 0.5, (1, 3549, 6)).astype(np.float32)
    rows[..., 4:] = 1
    theirs = YOLOX.__new__(YOLOX)
    theirs.model_input_size, theirs.nms_thr, theirs.score_thr, theirs.det_mode = (SIZE, SIZE), 1.1, 0.3, 'human'
    boxes = decoded(rows)[0]
    found = theirs.postprocess(rows.copy(), 1.0)
    order = np.lexsort(boxes.T), np.lexsort(found.T)
    np.testing.assert_allclose(boxes[order[0]], found[order[1]], atol=1e-2)


def test_cells_cover_the_picture() -> None:
    """The cells of each grid tile the input: their areas sum up to three times the picture's."""
    places, strides = cells()
    assert len(places) == 3549
    assert float((strides**2).sum()) == 3 * SIZE * SIZE
    assert ((places + 1) * strides).max() == SIZE
    assert [set(strides[cells_of(level), 0]) for level in range(3)] == [{8}, {16}, {32}]
    assert sum(len(strides[cells_of(level)]) for level in range(3)) == 3549


def test_overlaps() -> None:
    """The overlap is 1 for equal boxes, a third for boxes that share half, 0 for boxes apart and for no area."""
    one = np.array([[0, 0, 10, 10]], np.float32)
    others = np.array([[0, 0, 10, 10], [5, 0, 15, 10], [20, 20, 30, 30], [5, 5, 5, 9]], np.float32)
    np.testing.assert_allclose(overlaps(one, others), [[1, 1 / 3, 0, 0]], atol=1e-6)
    assert overlaps(one, np.zeros((0, 4), np.float32)).shape == (1, 0)
    np.testing.assert_allclose(areas(others), [100, 100, 100, 0])
