"""The project's own JSON format."""

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from detector.datasets.person import Person
from detector.datasets.poses_json import from_poses_json, read_poses_json, to_poses_json
from detector.errors import InvalidRequest
from tests.support.people import make_image, make_person


@pytest.mark.parametrize('count', range(9))
def test_nothing_is_lost(count: int) -> None:
    """Coordinates, scores, boxes, extras and ids survive exactly, also for unlabelled keypoints."""
    image = make_image(count, 3, extra={'license': 4})
    scored = replace(make_person(seed=9), box_score=0.1, scores=np.linspace(0, 1, 133, dtype=np.float32))
    persons = [*image.persons, scored, replace(scored, extra={'coco': {'id': 5}})]
    content = json.loads(
        json.dumps(to_poses_json([replace(image, persons=persons)], {3: {'task': 3}}), allow_nan=False)
    )
    (found,) = from_poses_json(content)
    assert (found.id, found.file_name, found.size, found.extra) == (3, '0003.jpg', image.size, {'license': 4})
    assert content['images'][0]['origin'] == {'task': 3}
    for one, other in zip(found.persons, persons, strict=True):
        assert_equal(one, other)


def assert_equal(one: Person, other: Person) -> None:
    np.testing.assert_array_equal(one.keypoints, other.keypoints)
    np.testing.assert_array_equal(one.visibility, other.visibility)
    np.testing.assert_array_equal(one.scores, other.scores)
    assert (one.box is None) == (other.box is None)
    if one.box is not None and other.box is not None:
        np.testing.assert_array_equal(one.box, other.box)
    assert (one.box_score, one.extra) == (other.box_score, other.extra)


@pytest.mark.parametrize(
    ('path', 'value', 'named'),
    [
        (['version'], 2, 'version'),
        (['images'], {}, 'images'),
        (['images', 0, 'width'], 0, r'images\[0\].width'),
        (['images', 0, 'persons', 0, 'box'], [5, 0, 1, 1], r'persons\[0\].box'),
        (['images', 0, 'persons', 0, 'keypoints', 'nose'], [1, 2, 3, None], 'visibility'),
        (['images', 0, 'persons', 0, 'keypoints', 'nose'], [1, 2], 'nose'),
        (['images', 0, 'persons', 0, 'keypoints', 'third_eye'], [1, 2, 2, None], 'third_eye'),
        (['images', 0, 'persons', 0, 'box_score'], 'high', 'box_score'),
    ],
)
def test_a_broken_file_is_explained(tmp_path: Path, path: list[Any], value: object, named: str) -> None:
    """The error for a damaged file names the field and the file."""
    content = to_poses_json([make_image(1)])
    place: Any = content
    for key in path[:-1]:
        place = place[key]
    place[path[-1]] = value
    (tmp_path / 'a.json').write_text(json.dumps(content))
    with pytest.raises(InvalidRequest, match=f'a.json.*{named}'):
        read_poses_json(tmp_path / 'a.json')
