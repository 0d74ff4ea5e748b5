"""Labelled images: splits, boxes, file names and folders."""

from pathlib import Path

import numpy as np
import pytest

from detector.datasets.labelled_image import box_of, check_ids, file_names, new_folder, split_of
from detector.datasets.person import VISIBLE, Person
from detector.errors import InvalidRequest
from tests.support.people import SIZE, make_image, make_person


def test_an_image_stays_in_its_split() -> None:
    """The split depends on the name alone, meets the share, and only grows with a larger share."""
    names = [f'image-{number}.jpg' for number in range(2000)]
    small, large = ({name for name in names if split_of(name, share) == 'val'} for share in (0.1, 0.3))
    assert small < large
    assert len(small) == pytest.approx(200, abs=50)
    assert {split_of(name, 0) for name in names} == {'train'}
    assert {split_of(name, 1) for name in names} == {'val'}
    assert split_of('image-2.jpg', 0.5) == 'train'
    assert split_of('image-0.jpg', 0.5) == 'val'


def test_a_name_has_one_split_in_either_composition() -> None:
    """A name has the same split in both Unicode normal forms, since macOS decomposes accented letters."""
    for number in range(50):
        assert split_of(f'Stra\u00dfe-\u00e9{number}.jpg', 0.5) == split_of(f'Stra\u00dfe-e\u0301{number}.jpg', 0.5)


def test_a_box_is_made_of_labelled_keypoints() -> None:
    """A box is computed from the labelled keypoints only if the person has none."""
    person = make_person('no box')
    box = box_of(person, SIZE)
    assert box is not None
    labelled = person.keypoints[person.visibility > 0]
    np.testing.assert_allclose(box, [*labelled.min(axis=0), *labelled.max(axis=0)], atol=1e-4)
    drawn = make_person()
    assert box_of(drawn, SIZE) is drawn.box
    assert box_of(Person.empty(), SIZE) is None


@pytest.mark.parametrize('place', [(0, 0), (640, 480), (320.5, 479.8), (-50, 700)])
def test_the_box_of_a_single_keypoint_has_an_area(place: tuple[float, float]) -> None:
    """The box of a single keypoint is a pixel wide and high and lies inside the image."""
    person = Person.empty()
    person.keypoints[0] = place
    person.visibility[0] = VISIBLE
    box = box_of(person, SIZE)
    assert box is not None
    np.testing.assert_allclose(box[2:] - box[:2], 1, atol=1e-4)
    assert (box >= 0).all()
    assert (box.reshape(2, 2) <= SIZE).all()


def test_file_names_are_safe_and_differ() -> None:
    """File names have no folders or refused characters and are distinct without case and ending."""
    originals = [
        'a.jpg', 'b/a.jpg', 'A.png', 'a.JPG', '../../etc/passwd', 'C:\\photos\\c.jpg', '..', '', 'x:y?.png', 'Zoë.jpg',
        'Zoe\u0308.jpg', 's3://bucket/photo.v2.jpeg', 'x' * 500 + '.jpg', 'lone\ud800.jpg', 'a.notanendingatall',
    ]  # fmt: skip
    names = file_names([make_image(0, number, file_name=name) for number, name in enumerate(originals)])
    assert len(names) == len(originals)
    assert names[0] == 'a.jpg'
    assert names[1] == 'a-1.jpg'
    assert names[9] == 'Zoë.jpg'
    assert names[11] == 'photo.v2.jpeg'
    stems = [name.rsplit('.', 1)[0].casefold() for name in names]
    assert len(set(stems)) == len(stems)
    for name in names:
        assert not set(name) & set('/\\:*?"<>|')
        assert name.strip('.')
        assert len(name.encode()) <= 255


def test_equal_ids_are_refused() -> None:
    """Two images with the same id are refused."""
    with pytest.raises(InvalidRequest, match=r'0001\.jpg and other\.jpg have the same id 1'):
        check_ids([make_image(1, 1), make_image(1, 1, file_name='other.jpg')])


def test_a_dataset_gets_a_folder_of_its_own(tmp_path: Path) -> None:
    """A dataset's folder is created with its parents; an existing one must be empty."""
    new_folder(tmp_path / 'a' / 'b')
    assert (tmp_path / 'a' / 'b').is_dir()
    new_folder(tmp_path / 'a' / 'b')
    with pytest.raises(InvalidRequest, match=r'a is not empty'):
        new_folder(tmp_path / 'a')
    (tmp_path / 'file').touch()
    with pytest.raises(InvalidRequest, match=r'file cannot be created'):
        new_folder(tmp_path / 'file')
