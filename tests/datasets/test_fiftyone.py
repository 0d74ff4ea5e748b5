"""Datasets for FiftyOne."""

import json
import math
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from detector.datasets.fiftyone import write_fiftyone
from detector.datasets.omissions import Omissions
from detector.datasets.person import Person
from detector.errors import InvalidRequest
from detector.pose.skeleton import KEYPOINT_NAMES
from tests.support.people import SIZE, make_image, make_person


def decoded(value: Any) -> Any:
    """Decode the part of MongoDB's extended JSON that FiftyOne's files use."""
    if isinstance(value, dict):
        if value == {'$numberDouble': 'NaN'}:
            return math.nan
        return value['$oid'] if value.keys() == {'$oid'} else {key: decoded(item) for key, item in value.items()}
    return [decoded(item) for item in value] if isinstance(value, list) else value


def written(folder: Path) -> tuple[dict[str, Any], list[dict[str, Any]]]:
    metadata = decoded(json.loads((folder / 'metadata.json').read_text()))
    return metadata, decoded(json.loads((folder / 'samples.json').read_text()))['samples']


@pytest.mark.parametrize('count', range(9))
def test_every_person_has_its_keypoints(tmp_path: Path, count: int) -> None:
    """Each `Keypoint` has the index of its box, nan for unlabelled points, and coordinates relative to the image."""
    image = make_image(count)
    write_fiftyone(tmp_path, [image])
    _, (sample,) = written(tmp_path)
    detections = sample['detections']['detections']
    assert [detection['index'] for detection in detections] == list(range(1, count + 1))
    keypoints = {keypoint['index']: keypoint for keypoint in sample['keypoints']['keypoints']}
    for index, (person, detection) in enumerate(zip(image.persons, detections, strict=True), 1):
        if person.box is not None:
            x, y, width, height = np.array(detection['bounding_box']) * np.tile(SIZE, 2)
            np.testing.assert_allclose([x, y, x + width, y + height], person.box, atol=0.001)
        assert (index in keypoints) == person.visibility.any()
        if index in keypoints:
            places = np.array(keypoints[index]['points']) * SIZE
            np.testing.assert_array_equal(np.isnan(places).all(axis=1), person.visibility == 0)
            labelled = person.visibility > 0
            np.testing.assert_allclose(places[labelled], person.keypoints[labelled], atol=0.001)
            assert keypoints[index]['visibility'] == person.visibility.tolist()
            assert 'confidence' not in keypoints[index]


def test_scores_of_a_model_are_confidences(tmp_path: Path) -> None:
    """A model's scores become confidences, with nan for points that an annotator set."""
    person = make_person()
    person.scores[3] = 0.25
    scored = Person(
        box=person.box, box_score=0.5, keypoints=person.keypoints, visibility=person.visibility, scores=person.scores
    )
    omissions = Omissions(print)
    write_fiftyone(tmp_path, [make_image(0, persons=[Person.empty(), scored])], omissions)
    assert omissions.summary == '1 person'
    _, (sample,) = written(tmp_path)
    (detection,), (keypoint,) = sample['detections']['detections'], sample['keypoints']['keypoints']
    assert (detection['confidence'], detection['index'], keypoint['index']) == (0.5, 1, 1)
    assert keypoint['confidence'][3] == 0.25
    assert np.isnan(keypoint['confidence']).sum() == 132


def test_the_dataset_has_the_skeleton(tmp_path: Path) -> None:
    """The skeleton is declared for the field and as the default, and so is every field of the samples."""
    write_fiftyone(tmp_path, [make_image(2)], val_share=1)
    metadata, (sample,) = written(tmp_path)
    skeleton = metadata['skeletons']['keypoints']
    assert skeleton['labels'] == list(KEYPOINT_NAMES)
    assert {index for edge in skeleton['edges'] for index in edge} == set(range(133))
    assert metadata['default_skeleton'] == skeleton
    declared = {field['db_field']: field for field in metadata['sample_fields']}
    assert sample.keys() == declared.keys()
    for name in ('detections', 'keypoints'):
        (items,) = declared[name]['fields']
        known = {field['db_field'] for field in items['fields']} | {'_cls'}
        assert all(item.keys() <= known for item in sample[name][name])
    assert sample['tags'] == ['val']


def test_equal_input_gives_equal_files(tmp_path: Path) -> None:
    """Equal input gives equal files, whose ids are distinct."""
    images = [make_image(3), make_image(2, 2, file_name='Straße 東京.png')]
    for folder in ('a', 'b'):
        write_fiftyone(tmp_path / folder / 'poses', images, image_bytes=lambda image: image.file_name.encode())
    texts = [(tmp_path / folder / 'poses' / 'samples.json').read_text() for folder in ('a', 'b')]
    assert texts[0] == texts[1]
    assert texts[0].count('$oid') == len({part[:32] for part in texts[0].split('$oid')[1:]})
    assert (tmp_path / 'a' / 'poses' / 'data' / 'Straße 東京.png').read_text() == 'Straße 東京.png'
    _, samples = written(tmp_path / 'a' / 'poses')
    assert [sample['filepath'] for sample in samples] == ['data/0001.jpg', 'data/Straße 東京.png']
    assert [sample['image_id'] for sample in samples] == [1, 2]


def test_a_folder_with_files_is_refused(tmp_path: Path) -> None:
    """A folder that holds files is refused and stays unchanged."""
    write_fiftyone(tmp_path, [])
    with pytest.raises(InvalidRequest, match='is not empty'):
        write_fiftyone(tmp_path, [])
