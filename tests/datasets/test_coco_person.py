"""What changes in a COCO-WholeBody annotation when a person is edited."""

from dataclasses import replace
from typing import Any

import numpy as np
import pytest

from detector.datasets.coco_person import read_person, write_person
from detector.datasets.person import HIDDEN, VISIBLE, Person
from tests.support.people import SIZE, dataset_file, make_person


def imported() -> tuple[dict[str, Any], Person]:
    annotation = dataset_file()['annotations'][0]
    return annotation, read_person(annotation, 'annotation')


def written(person: Person, *, flat: bool = False) -> dict[str, Any]:
    annotation = write_person(person, SIZE, flat=flat)
    assert annotation is not None
    return annotation


def changes(before: dict[str, Any], after: dict[str, Any]) -> set[str]:
    """Return the names of the fields that differ, without the ids of image and category."""
    keys = (before.keys() | after.keys()) - {'image_id', 'category_id'}
    return {key for key in keys if before.get(key) != after.get(key)}


def test_a_moved_point_changes_its_part_alone() -> None:
    """Moving a keypoint changes its coordinates and the box and valid flag of its part, and nothing else."""
    before, person = imported()
    person.keypoints[30] = 500, 17.25
    after = written(person)
    assert changes(before, after) == {'face_kpts', 'face_box'}
    moved = [
        index
        for index, pair in enumerate(zip(before['face_kpts'], after['face_kpts'], strict=True))
        if len({*pair}) > 1
    ]
    assert set(moved) <= {21, 22}
    assert after['face_kpts'][21:24] == [500, 17.25, 1]
    assert after['face_box'][0] + after['face_box'][2] == 500


def test_a_point_that_is_marked_hidden_says_so() -> None:
    """Hiding a face keypoint turns the flags of its part into visibilities, which are read as such."""
    _, person = imported()
    person.visibility[30] = HIDDEN
    after = written(person)
    assert set(after['face_kpts'][2::3]) == {1, 2}
    assert read_person(after, 'x').visibility.tolist() == person.visibility.tolist()


def test_parts_that_are_wholly_hidden_are_marked() -> None:
    """A part with all keypoints hidden is marked, since flags of 1 alone mean reliability."""
    person = make_person('hidden')
    for flat in (False, True):
        after = written(person, flat=flat)
        assert after['kpts_flags'] == 'visibility'
        again = read_person(after, 'x')
        assert again.visibility.tolist() == person.visibility.tolist()
        assert written(again, flat=flat) == after
        again.visibility[23:] = VISIBLE
        assert read_person(written(again, flat=flat), 'x').visibility.tolist() == again.visibility.tolist()
    assert 'kpts_flags' not in written(make_person())


def test_a_body_s_point_changes_the_count() -> None:
    """`num_keypoints` counts the body, or all keypoints in the flat form."""
    before, person = imported()
    person.keypoints[0] = 100, 100
    person.visibility[0] = VISIBLE
    after = written(person)
    assert changes(before, after) == {'keypoints', 'num_keypoints'}
    assert after['num_keypoints'] == 17
    assert written(person, flat=True)['num_keypoints'] == 17 + 6 + 68 + 21


def test_another_box_has_another_area() -> None:
    """A changed box gets a new area and loses the segmentation of the old one."""
    before, person = imported()
    after = written(replace(person, box=np.array([10, 20, 110, 220], dtype=np.float32)))
    assert changes(before, after) == {'bbox', 'area', 'segmentation'}
    assert (after['bbox'], after['area']) == ([10, 20, 100, 200], 20000)
    assert 'segmentation' not in after


def test_a_part_that_is_taken_away_is_not_valid() -> None:
    """The box and the points of a removed part are zero."""
    before, person = imported()
    person.visibility[112:] = 0
    after = written(person)
    assert changes(before, after) == {'righthand_kpts', 'righthand_box', 'righthand_valid'}
    assert (after['righthand_valid'], after['righthand_box'], set(after['righthand_kpts'])) == (False, 4 * [0], {0})


def test_integers_and_hundredths_come_back_exactly() -> None:
    """Integers and hundredths survive single precision and Label Studio's percent in images of up to 8000 px."""
    rng = np.random.default_rng(0)
    for size in ((640, 480), (1921, 1079), (8000, 6000)):
        places = rng.uniform((0, 0), size, (133, 2)).round(2)
        percent = np.round(places.astype(np.float32).astype(np.float64) * 100 / size, 6)
        person = replace(make_person(), visibility=np.full(133, 2, dtype=np.int8))
        person.keypoints[:] = percent * size / 100
        after = write_person(person, size, flat=True)
        assert after is not None
        assert np.array(after['keypoints']).reshape(133, 3)[:, :2].tolist() == places.tolist()


def test_what_lies_outside_the_image_is_unchanged_on_its_edge() -> None:
    """A point outside the image counts as unchanged when Label Studio shows it on the edge."""
    before, _ = imported()
    before['keypoints'][3:6] = [-7, 300, 2]
    before['bbox'] = [-10.5, 20, 700.25, 100]
    person = read_person(before, 'x')
    assert person.box is not None
    shown = replace(
        person, keypoints=person.keypoints.clip(0, SIZE), box=person.box.reshape(2, 2).clip(0, SIZE).ravel()
    )
    assert not changes(before, written(shown))


@pytest.mark.parametrize('extra', [{}, {'coco': None}, {'coco': {'keypoints': 'x'}}, {'coco': {'bbox': [1]}}, {'a': 1}])
def test_broken_extras_are_no_reason_to_fail(extra: dict[str, Any]) -> None:
    """Damaged extras, which users of Label Studio can edit, do not make the export fail."""
    person = make_person()
    assert written(replace(person, extra=extra)) == written(person)


def test_a_person_without_box_keeps_what_the_import_said() -> None:
    """A person whose imported box has no area keeps the other imported fields, such as the segmentation."""
    before, _ = imported()
    before['bbox'] = [0, 0, 0, 0]
    person = read_person(before, 'x')
    assert person.box is None
    after = written(person)
    assert changes(before, after) == {'bbox'}
    assert min(after['bbox'][2:]) > 0
