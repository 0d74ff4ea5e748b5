"""The dataset's own annotations. The tests need WHOLEBODY_TEST_DATA, the path of a folder with them.

The folder contains `coco_wholebody_two_images.json`, persons in COCO-WholeBody's own fields.
"""

import json
import os
from dataclasses import replace
from pathlib import Path

import pytest

from detector.datasets.coco import from_coco, read_coco, to_coco
from detector.label_studio.labels.config import Style, generate, parse
from detector.label_studio.labels.regions import from_results, to_results

DATA = os.environ.get('WHOLEBODY_TEST_DATA')
pytestmark = pytest.mark.skipif(DATA is None, reason='WHOLEBODY_TEST_DATA names no folder with annotations')


@pytest.mark.parametrize('style', ['keypoints', 'skeleton'])
def test_the_dataset_comes_out_as_it_went_in(style: Style) -> None:
    """Annotations survive import, Label Studio's regions and export field by field, down to each number's digits."""
    path = Path(str(DATA)) / 'coco_wholebody_two_images.json'
    original, images, config = json.loads(path.read_text()), read_coco(path), parse(generate(style))
    assert sum(len(image.persons) for image in images) == 6
    labelled = []
    for image in images:
        results = json.loads(json.dumps(to_results(image.persons, config, image.size)))
        labelled.append(replace(image, persons=from_results(results, config, image.size)))
    content = to_coco(labelled)
    assert content['categories'] == original['categories']
    assert content['images'] == original['images']
    assert [entry for entry in original['licenses'] if entry in content['licenses']] == content['licenses']
    for annotation, before in zip(content['annotations'], original['annotations'], strict=True):
        for field in before.keys() | annotation.keys():
            assert json.dumps(annotation.get(field)) == json.dumps(before.get(field)), field


def test_the_flat_form_holds_the_same_persons() -> None:
    """The flat form keeps everything except the boxes of face and hands, for which it has no fields."""
    path = Path(str(DATA)) / 'coco_wholebody_two_images.json'
    original = json.loads(path.read_text())
    again = to_coco(from_coco(to_coco(read_coco(path), flat=True)))
    for annotation, before in zip(again['annotations'], original['annotations'], strict=True):
        differing = {field for field in before.keys() | annotation.keys() if annotation.get(field) != before.get(field)}
        assert differing <= {'face_box', 'lefthand_box', 'righthand_box', 'foot_valid'}
