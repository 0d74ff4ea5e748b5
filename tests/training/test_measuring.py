"""Tables of detectors beside each other."""

import json
from pathlib import Path

import cv2
import numpy as np
import pytest

from tests.support.photographs import portrait
from tests.support.starter_weights import WEIGHTS
from training.measuring import coco, tables


@pytest.fixture
def annotations(tmp_path: Path) -> Path:
    """Write the portrait with its person and a crowd as a COCO file."""
    image = portrait()
    cv2.imwrite(str(tmp_path / 'portrait.png'), image[..., ::-1])
    listed = {
        'images': [{'id': 1, 'file_name': 'portrait.png'}],
        'annotations': [
            {'image_id': 1, 'bbox': [20, 20, 485, 575], 'iscrowd': 0},
            {'image_id': 1, 'bbox': [0, 0, 10, 10], 'iscrowd': 1},
        ],
    }
    path = tmp_path / 'truth.json'
    path.write_text(json.dumps(listed))
    return path


def test_a_coco_file_is_read(annotations: Path) -> None:
    """Persons and crowds are read in pixels from width and height."""
    (photograph,) = coco(annotations)
    _, boxes = photograph.read()
    np.testing.assert_allclose(boxes, [[20, 20, 505, 595, 1], [0, 0, 10, 10, 0]], atol=1e-3)


def test_the_tables_count_what_the_node_finds(annotations: Path, tmp_path: Path) -> None:
    """The shipped weights find the person of the portrait at each threshold up to 0.5, without a false box."""
    (tmp_path / 'photographs/coco').mkdir(parents=True)
    cv2.imwrite(str(tmp_path / 'photographs/coco/a.png'), np.zeros((40, 40, 3), np.uint8))
    lines = list(tables([WEIGHTS], tmp_path / 'photographs', annotations))
    for threshold in (0.3, 0.4, 0.5):
        assert f'| {WEIGHTS.name} | {threshold} | 1 of 1 | 1 of 1 | 0 | 1.00 | 1.00 | 1.00 |' in lines
    assert lines[-1].startswith(f'{WEIGHTS.name}: ')
