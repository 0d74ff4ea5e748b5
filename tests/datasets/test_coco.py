"""Reading and writing COCO-WholeBody files."""

import copy
import json
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from detector.datasets.coco import from_coco, read_coco, to_coco
from detector.datasets.labelled_image import LabelledImage
from detector.datasets.omissions import Omissions
from detector.datasets.person import Person
from detector.errors import InvalidRequest
from detector.label_studio.labels.config import Style, generate, parse
from detector.label_studio.labels.regions import from_results, to_results
from detector.pose.skeleton import KEYPOINT_NAMES, SKELETON_EDGES
from tests.support.people import assert_same_persons, dataset_file, make_image, make_person

STYLES: tuple[Style, ...] = ('keypoints', 'skeleton')


def through_label_studio(images: list[LabelledImage], style: Style) -> list[LabelledImage]:
    """Convert persons to regions, to JSON, and back."""
    config = parse(generate(style))
    return [
        replace(
            image, persons=from_results(json.loads(json.dumps(to_results(image.persons, config, image.size))), config)
        )
        for image in images
    ]


@pytest.mark.parametrize('flat', [False, True])
@pytest.mark.parametrize('style', STYLES)
@pytest.mark.parametrize('count', range(9))
def test_nothing_is_lost_on_the_way(count: int, style: Style, flat: bool) -> None:
    """Coordinates within 0.01 px, visibilities and boxes survive the way from Label Studio to COCO and back."""
    images = [make_image(count), make_image(0, 2, file_name='Straße 東京.png')]
    content = json.loads(json.dumps(to_coco(through_label_studio(images, style), flat=flat), allow_nan=False))
    first, second = from_coco(content)
    by_place = sorted(first.persons, key=lambda person: person.keypoints[person.visibility > 0].sum())
    expected = sorted(images[0].persons, key=lambda person: person.keypoints[person.visibility > 0].sum())
    assert_same_persons(by_place, expected)
    assert all(person.box is not None for person in first.persons)
    assert (second.file_name, second.size, second.persons) == ('Straße 東京.png', (640, 480), [])


@pytest.mark.parametrize('style', [None, *STYLES])
def test_an_unchanged_annotation_is_exported_as_imported(style: Style | None) -> None:
    """An unchanged annotation is exported field by field as it was imported, including digits, reliabilities and
    license."""
    file = dataset_file()
    images = from_coco(copy.deepcopy(file))
    content = to_coco(images if style is None else through_label_studio(images, style))
    for field in ('licenses', 'categories', 'images', 'annotations'):
        assert json.dumps(content[field], sort_keys=True) == json.dumps(file[field], sort_keys=True)


def test_the_dataset_s_oddities_are_understood() -> None:
    """A 1.0 for the face and a confidence for a hand do not mean hidden, but a 1 for the body does."""
    (person, crowd), none = (image.persons for image in from_coco(dataset_file()))
    assert person.visibility[:3].tolist() == [0, 1, 2]
    assert set(person.visibility[17:91]) == {2}
    assert set(person.visibility[91:112]) == {0}
    assert set(person.visibility[112:]) == {2}
    assert person.box is not None
    np.testing.assert_allclose(person.box, [280.79, 44.73, 499.49, 391.41], atol=1e-3)
    assert not crowd.visibility.any()
    assert none == []


def test_the_flat_form_has_133_keypoints() -> None:
    """The flat form has all keypoints in one field with names, limbs counted from 1, and no fields for parts."""
    content = to_coco(from_coco(dataset_file()), flat=True)
    (category,) = content['categories']
    assert category['keypoints'] == list(KEYPOINT_NAMES)
    assert category['skeleton'] == [[a + 1, b + 1] for a, b in SKELETON_EDGES]
    person = content['annotations'][0]
    assert len(person['keypoints']) == 399
    assert person['num_keypoints'] == 16 + 6 + 68 + 21
    assert not [key for key in person if key.endswith(('_kpts', '_box', '_valid'))]
    assert (person['id'], person['area'], person['segmentation'][0][0]) == (442619, 27789.11055, 10.5)
    assert_same_persons(from_coco(content)[0].persons, from_coco(dataset_file())[0].persons, within=0)


def test_the_17_keypoints_of_coco_are_read() -> None:
    """A file with the 17 keypoints of COCO leaves the other parts unlabelled and is written in COCO-WholeBody's
    form."""
    file = dataset_file()
    plain = {key: value for key, value in file['annotations'][0].items() if not key.endswith(('kpts', 'box', 'valid'))}
    plain['bbox'] = file['annotations'][0]['bbox']
    (person,) = from_coco(file | {'annotations': [plain]})[0].persons
    assert set(person.visibility[17:]) == {0}
    (annotation,) = to_coco(from_coco(file | {'annotations': [plain]}))['annotations']
    assert annotation | plain == annotation
    assert annotation['face_kpts'] == 68 * [0.0, 0.0, 0]
    assert (annotation['lefthand_valid'], annotation['foot_valid']) == (False, False)


def test_keypoints_in_another_order_are_found_by_their_names() -> None:
    """Keypoints in another order, also under mmpose's names, are found by name and written in the standard order."""
    file = to_coco([make_image(3)], flat=True)
    order = np.random.default_rng(3).permutation(133)
    renamed = {'left_hand_0': 'left_hand_root', 'face_7': 'face-7'}
    file['categories'][0]['keypoints'] = [renamed.get(KEYPOINT_NAMES[n], KEYPOINT_NAMES[n]) for n in order]
    expected = copy.deepcopy(file['annotations'])
    for annotation in file['annotations']:
        annotation['keypoints'] = np.array(annotation['keypoints']).reshape(133, 3)[order].ravel().tolist()
    images = from_coco(file)
    assert_same_persons(images[0].persons, make_image(3).persons)
    found = to_coco(images, flat=True)['annotations']
    assert [annotation['keypoints'] for annotation in found] == [annotation['keypoints'] for annotation in expected]


def test_ids_are_stable() -> None:
    """Ids are equal for equal input, do not depend on other images, and are new only for copied persons."""
    images = [make_image(3, 7), make_image(2, 8)]
    ids = [annotation['id'] for annotation in to_coco(images)['annotations']]
    assert ids == [7001, 7002, 7003, 8001, 8002]
    assert [annotation['id'] for annotation in to_coco(images[1:])['annotations']] == ids[3:]
    imported = from_coco(dataset_file())[0].persons[0]
    kept = [replace(images[0], persons=[make_person(), imported, imported]), make_image(1, 9)]
    content = to_coco(kept)
    assert [annotation['id'] for annotation in content['annotations']] == [7001, 442619, 7002, 9001]
    assert [annotation['image_id'] for annotation in content['annotations']] == [7, 7, 7, 9]


def test_empty_persons_are_left_out() -> None:
    """A person with neither box nor labelled keypoints is left out and reported, and so is an image of such persons."""
    lines: list[str] = []
    omissions = Omissions(lines.append)
    content = to_coco([make_image(0, persons=[Person.empty(), make_person()])], omissions)
    assert len(content['annotations']) == 1
    assert lines == ['0001.jpg: a person has neither a box nor a labelled keypoint']
    assert to_coco([make_image(0, persons=[Person.empty()])], omissions)['images'] == []
    assert omissions.summary == '1 image, 2 persons'
    assert to_coco([])['images'] == []
    assert from_coco(to_coco([])) == []


def test_licences_of_several_files_are_told_apart() -> None:
    """Licenses of several files are kept apart even if they have the same id."""
    files = [dataset_file(), dataset_file()]
    files[1]['licenses'] = [{'id': 4, 'name': 'Other'}]
    for image in files[1]['images']:
        image['id'] += 1000
    files[1]['annotations'] = []
    content = to_coco([image for file in files for image in from_coco(file)])
    assert [(entry['id'], entry['name']) for entry in content['licenses']] == [(1, 'Other'), (4, 'Attribution License')]
    assert [image['license'] for image in content['images']] == [4, 4, 1, 1]


def test_other_categories_are_passed_over() -> None:
    """Annotations of categories other than persons are left out with one line each, unless they are expected."""
    file = dataset_file()
    file['categories'].append({'id': 3, 'name': 'car'})
    file['annotations'].append({'id': 1, 'image_id': 785, 'category_id': 3, 'bbox': 'none of our business'})
    lines: list[str] = []
    omissions = Omissions(lines.append)
    assert len(from_coco(file, omissions)[0].persons) == 2
    assert lines == ['annotations[2].category_id 3: the class car is not person; --ignore-class car accepts it']
    assert omissions.summary == '1 object of another class'
    assert len(from_coco(file, Omissions(expected=['car']))[0].persons) == 2
    del file['annotations'][-1], file['categories']
    assert len(from_coco(file)[0].persons) == 2


def put(*path: str | int) -> Callable[[Any, Any], None]:
    def change(file: Any, value: Any) -> None:
        for step in path[:-1]:
            file = file[step]
        file[path[-1]] = value

    return change


@pytest.mark.parametrize(
    ('change', 'value', 'named'),
    [
        (put('images'), None, 'images must be a list'),
        (put('annotations'), {}, 'annotations must be a list'),
        (put('categories'), 5, 'categories must be a list'),
        (put('categories', 0, 'name'), 'dog', 'categories has no entry named person, only dog'),
        (put('images', 1), 'x', r'images\[1\] must be a mapping'),
        (put('images', 1, 'id'), '785a', r'images\[1\].id must be an integer'),
        (put('images', 1, 'id'), 785, 'have the same id 785'),
        (put('images', 1, 'file_name'), '', r'images\[1\].file_name must be a text'),
        (put('images', 0, 'width'), 0, r'images\[0\].width must be an integer of at least 1'),
        (put('annotations', 0, 'image_id'), 5, r'annotations\[0\].image_id 5 is not the id of an image'),
        (put('annotations', 0, 'bbox'), [1, 2, 3], r'annotations\[0\].bbox must have 4 numbers, not 3'),
        (put('annotations', 0, 'bbox'), [1, 2, 3, float('inf')], r'annotations\[0\].bbox\[3\] must be a finite'),
        (put('annotations', 0, 'keypoints'), 50 * [0], r'annotations\[0\].keypoints has 50 numbers'),
        (put('annotations', 0, 'keypoints'), 399 * [0], r'annotations\[0\].keypoints has 399 numbers'),
        (put('annotations', 0, 'keypoints'), 51 * ['a'], r'annotations\[0\].keypoints\[0\] must be a finite number'),
        (put('annotations', 0, 'foot_kpts'), 51 * [0], r'annotations\[0\].foot_kpts must have 18 numbers, not 51'),
        (put('annotations', 1, 'face_kpts'), 'x', r'annotations\[1\].face_kpts must be a list'),
    ],
)
def test_broken_files_are_refused(change: Callable[[Any, Any], None], value: Any, named: str, tmp_path: Path) -> None:
    """A damaged file is refused with the name of the field, and of the file if one was read."""
    file = dataset_file()
    change(file, value)
    with pytest.raises(InvalidRequest, match=named):
        from_coco(file)
    path = tmp_path / 'broken.json'
    path.write_text(json.dumps(file))
    with pytest.raises(InvalidRequest, match=f'broken.json: .*{named}'):
        read_coco(path)


@pytest.mark.parametrize('content', [None, [], 'x', 5])
def test_other_json_is_refused(content: object) -> None:
    """JSON that is not a mapping is refused."""
    with pytest.raises(InvalidRequest, match='the file must be a mapping'):
        from_coco(content)
