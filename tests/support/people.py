"""Persons for the tests of datasets."""

from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import numpy as np

from detector.datasets.labelled_image import LabelledImage
from detector.datasets.person import NOT_LABELLED, Person

SIZE = (640, 480)
KINDS = ('all', 'upper half', 'no box', 'box only', 'hidden')


def make_person(kind: str = 'all', seed: int = 0) -> Person:
    """Make a person anywhere in the image, with all visibilities unless the kind limits them."""
    rng = np.random.default_rng(seed)
    corner = rng.uniform(0, 300, 2)
    visibility = rng.integers(0, 3, 133)
    if kind == 'upper half':
        visibility[[11, 12, 13, 14, 15, 16, *range(17, 23), *range(112, 133)]] = 0
    elif kind == 'box only':
        visibility[:] = 0
    elif kind == 'hidden':
        visibility[:] = np.minimum(visibility, 1)
    return Person(
        box=None if kind == 'no box' else np.concatenate([corner, corner + rng.uniform(50, 150, 2)]).astype(np.float32),
        box_score=None,
        keypoints=rng.uniform((0, 0), SIZE, (133, 2)).astype(np.float32),
        visibility=visibility.astype(np.int8),
        scores=np.full(133, np.nan, dtype=np.float32),
    )


def make_image(count: int, number: int = 1, **fields: Any) -> LabelledImage:
    persons = [make_person(KINDS[index % len(KINDS)], seed=100 * number + index) for index in range(count)]
    image = LabelledImage(id=number, file_name=f'{number:04}.jpg', width=SIZE[0], height=SIZE[1], persons=persons)
    return replace(image, **fields)


def assert_same_persons(
    found: Sequence[Person], expected: Sequence[Person], *, within: float = 0.01, indices: Sequence[int] = range(133)
) -> None:
    """Assert that persons are equal: coordinates within a tolerance in pixels, and boxes where they were expected."""
    assert len(found) == len(expected)
    for one, other in zip(found, expected, strict=True):
        np.testing.assert_array_equal(one.visibility[indices], other.visibility[indices])
        labelled = [index for index in indices if other.visibility[index] != NOT_LABELLED]
        np.testing.assert_allclose(one.keypoints[labelled], other.keypoints[labelled], atol=within)
        if other.box is not None:
            assert one.box is not None
            np.testing.assert_allclose(one.box, other.box, atol=within)


def dataset_file() -> dict[str, Any]:
    """Make a file in COCO-WholeBody's form, with its fields and oddities but other numbers.

    The body has integers with a 0, a 1 and a 2, the feet have five digits with 2.0, the face has flags of 1.0, the left
    hand is empty, and the right hand has integers and confidences. One annotation is of a crowd.
    """
    rng = np.random.default_rng(5)

    def points(count: int, digits: int | None, flags: Sequence[float]) -> list[float]:
        numbers: list[float] = []
        for index in range(count):
            x, y = (rng.uniform(10, 400, 2)).round(digits or 0).tolist()
            numbers += [x, y, flags[index]] if digits else [int(x), int(y), flags[index]]
        return numbers

    body = points(17, None, [0, 1] + 15 * [2])
    body[:3] = [0, 0, 0]
    confidences = rng.uniform(0.01, 0.4, 21).tolist()
    person = {
        'segmentation': [[10.5, 20.25, 30.0, 40.75, 11.0, 60.5]],
        'num_keypoints': 16,
        'area': 27789.11055,
        'iscrowd': 0,
        'keypoints': body,
        'image_id': 785,
        'bbox': [280.79, 44.73, 218.7, 346.68],
        'category_id': 1,
        'id': 442619,
        'face_box': [358.2, 69.86, 26.360000000000014, 25.849999999999994],
        'lefthand_box': [0.0, 0.0, 0.0, 0.0],
        'righthand_box': [280.43, 173.12, 27.860000000000014, 24.849999999999994],
        'lefthand_kpts': 63 * [0.0],
        'righthand_kpts': points(21, 1, confidences),
        'face_kpts': points(68, 4, 68 * [1.0]),
        'face_valid': True,
        'lefthand_valid': False,
        'righthand_valid': True,
        'foot_valid': True,
        'foot_kpts': points(6, 5, 6 * [2.0]),
    }
    crowd = person | {
        'segmentation': {'counts': [3, 5, 7], 'size': [425, 640]},
        'num_keypoints': 0,
        'iscrowd': 1,
        'keypoints': 51 * [0],
        'bbox': [0.0, 12.5, 639.99, 100.25],
        'id': 900100000785,
        'righthand_kpts': 63 * [0.0],
        'righthand_box': 4 * [0.0],
        'face_kpts': 204 * [0.0],
        'face_box': 4 * [0.0],
        'foot_kpts': 18 * [0.0],
        'foot_valid': False,
        'face_valid': False,
        'righthand_valid': False,
    }
    named = ['nose', *(f'{side}_{part}' for part in BODY_PARTS for side in ('left', 'right'))]
    category = {'supercategory': 'person', 'id': 1, 'name': 'person', 'keypoints': named, 'skeleton': SKELETON}
    license_entry = {'url': 'http://creativecommons.org/licenses/by/2.0/', 'id': 4, 'name': 'Attribution License'}
    image = {
        'license': 4,
        'file_name': '000000000785.jpg',
        'coco_url': 'http://images.cocodataset.org/val2017/000000000785.jpg',
        'height': 425,
        'width': 640,
        'date_captured': '2013-11-19 21:22:42',
        'flickr_url': 'http://farm8.staticflickr.com/7015/6795644157_f019453ae7_z.jpg',
        'id': 785,
    }
    return {
        'info': {'description': 'COCO-WholeBody sample'},
        'licenses': [license_entry],
        'categories': [category],
        'images': [image, image | {'id': 786, 'file_name': '000000000786.jpg'}],
        'annotations': [person, crowd],
    }


BODY_PARTS = ('eye', 'ear', 'shoulder', 'elbow', 'wrist', 'hip', 'knee', 'ankle')
SKELETON = [
    [16, 14], [14, 12], [17, 15], [15, 13], [12, 13], [6, 12], [7, 13], [6, 7], [6, 8], [7, 9], [8, 10], [9, 11],
    [2, 3], [1, 2], [1, 3], [2, 4], [3, 5], [4, 6], [5, 7],
]  # fmt: skip
