"""Reading and writing ultralytics' yolo-pose format."""

import io
import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import yaml
from numpy.typing import NDArray
from PIL import Image

from detector.datasets.labelled_image import LabelledImage
from detector.datasets.omissions import Omissions
from detector.datasets.person import VISIBLE, Person
from detector.datasets.yolo import read_yolo, write_yolo
from detector.errors import InvalidRequest
from tests.support.people import SIZE, assert_same_persons, make_image, make_person


def jpeg(image: LabelledImage) -> bytes:
    buffer = io.BytesIO()
    Image.new('RGB', image.size, 'grey').save(buffer, 'JPEG')
    return buffer.getvalue()


def read_as_documented(folder: Path) -> dict[str, NDArray[Any]]:
    """Read persons as ultralytics documents it, independently of the code under test.

    A label lies at the image's path with the last `/images/` replaced by `/labels/`; each line has 5 + 133 · 3 columns;
    the class is known; all coordinates are in 0..1.

    :return: by image file, shape (N, 134, 3) in pixels, the centre of the box first.
    """
    data = yaml.safe_load((folder / 'data.yaml').read_text(encoding='utf-8'))
    count, dimensions = data['kpt_shape']
    assert len(data['flip_idx']) == count
    assert [data['flip_idx'][other] for other in data['flip_idx']] == list(range(count))
    found = {}
    for split in ('train', 'val'):
        for path in sorted((Path(data['path']) / data[split]).iterdir()):
            before, after = str(path).rsplit('/images/', 1)
            lines = Path(f'{before}/labels/{after}'.rsplit('.', 1)[0] + '.txt').read_text().splitlines()
            rows = np.array([line.split() for line in lines], dtype=np.float32).reshape(-1, 5 + count * dimensions)
            assert set(rows[:, 0]) <= set(data['names'])
            points = rows[:, 5:].reshape(len(rows), count, dimensions)
            for coordinates in (rows[:, 1:5], points[:, :, :2]):
                assert (coordinates >= 0).all()
                assert (coordinates <= 1).all()
            with Image.open(path) as image:
                sides = np.array([*image.size, 1])
            centres = np.pad(rows[:, None, 1:3], ((0, 0), (0, 0), (0, 1)))
            found[path.name] = np.concatenate([centres, points], axis=1) * sides
    return found


@pytest.mark.parametrize('count', range(9))
def test_nothing_is_lost_on_the_way(tmp_path: Path, count: int) -> None:
    """Coordinates, visibilities, boxes, names, sizes and ids survive, with and without image files."""
    images = [make_image(count), make_image(1, 2, file_name='Straße/東京.png'), make_image(0, 3)]
    for folder, image_bytes in (('with', jpeg), ('without', None)):
        write_yolo(tmp_path / folder, images, val_share=0.5, image_bytes=image_bytes)
        found = sorted(read_yolo(tmp_path / folder), key=lambda image: image.id)
        for image, other in zip(found, images, strict=True):
            assert (image.id, image.file_name, image.size) == (other.id, other.file_name, other.size)
            assert_same_persons(image.persons, other.persons)


def test_ultralytics_finds_what_was_written(tmp_path: Path) -> None:
    """An independent reader finds the same persons."""
    images = [make_image(count, count + 1) for count in range(6)]
    write_yolo(tmp_path / 'data', images, val_share=0.4, image_bytes=jpeg)
    found = read_as_documented(tmp_path / 'data')
    assert len(found) == 6
    for image in images:
        persons = found[image.file_name]
        assert len(persons) == len(image.persons)
        for table, person in zip(persons, image.persons, strict=True):
            labelled = person.visibility > 0
            if person.box is not None:
                np.testing.assert_allclose(table[0, :2], (person.box[:2] + person.box[2:]) / 2, atol=0.01)
            np.testing.assert_array_equal(table[1:, 2], person.visibility)
            np.testing.assert_allclose(table[1:, :2][labelled], person.keypoints[labelled], atol=0.01)
            assert not table[1:][~labelled].any()


def test_both_splits_are_there(tmp_path: Path) -> None:
    """Both splits have their folders even without images, and an image without persons has an empty label file."""
    write_yolo(tmp_path, [make_image(0)], val_share=0)
    assert (tmp_path / 'labels' / 'train' / '0001.txt').read_text() == ''
    assert (tmp_path / 'images' / 'val').is_dir()
    data = yaml.safe_load((tmp_path / 'data.yaml').read_text())
    assert (data['train'], data['val'], data['kpt_shape'], data['names']) == (
        'images/train', 'images/val', [133, 3], {0: 'person'},
    )  # fmt: skip
    assert Path(data['path']) == tmp_path.resolve()


def test_what_the_format_cannot_hold_is_left_out(tmp_path: Path) -> None:
    """Empty persons, persons whose box has no area, and keypoints outside the image are left out and reported."""
    outside = make_person()
    outside.visibility[:] = VISIBLE
    outside.keypoints[0] = -5, 10
    outside.keypoints[1] = 640.2, 10
    away = replace(make_person(), box=np.array([700, 10, 800, 20], dtype=np.float32))
    omissions = Omissions(print)
    write_yolo(tmp_path, [make_image(0, persons=[Person.empty(), away, outside])], omissions, val_share=0)
    assert omissions.summary == '1 keypoint, 2 persons'
    (person,) = read_yolo(tmp_path)[0].persons
    assert person.visibility[:3].tolist() == [0, 2, 2]
    np.testing.assert_allclose(person.keypoints[1], [640, 10], atol=0.001)


def test_equal_names_get_files_of_their_own(tmp_path: Path) -> None:
    """Images with the same name in other folders, or with another ending, get distinct label files."""
    images = [make_image(1, number, file_name=name) for number, name in enumerate(['a/x.jpg', 'b/x.jpg', 'x.png'])]
    write_yolo(tmp_path, images, val_share=0)
    assert len(list((tmp_path / 'labels' / 'train').iterdir())) == 3
    assert sorted(image.file_name for image in read_yolo(tmp_path)) == ['a/x.jpg', 'b/x.jpg', 'x.png']


def foreign(
    folder: Path, *, shape: tuple[int, int] = (17, 3), names: Any = None, train: Any = '../train/images'
) -> Path:
    """Make a dataset as exporters write it: a folder per split, and sizes only in the images."""
    (folder / 'train' / 'images').mkdir(parents=True)
    (folder / 'train' / 'labels').mkdir()
    data = {'train': train, 'val': None, 'kpt_shape': list(shape), 'names': names or ['dog', 'person']}
    (folder / 'data.yaml').write_text(yaml.safe_dump(data))
    (folder / 'train' / 'images' / 'a.jpg').write_bytes(jpeg(make_image(0)))
    columns = ' '.join('0.5 0.25 2' if shape[1] == 3 else '0.5 0.25' for _ in range(shape[0] - 1))
    unseen = ' '.join(shape[1] * ['0'])
    dog, person = (f'{kind} 0.5 0.5 0.25 0.5 {unseen} {columns}' for kind in (0, 1))
    (folder / 'train' / 'labels' / 'a.txt').write_text(f'{dog}\n\n{person}\n')
    return folder


@pytest.mark.parametrize('shape', [(17, 2), (17, 3), (133, 2), (133, 3)])
def test_foreign_datasets_are_read(tmp_path: Path, shape: tuple[int, int]) -> None:
    """Datasets with 17 or 133 keypoints, with or without visibility, are read, and other classes are reported."""
    lines: list[str] = []
    label = tmp_path / 'train' / 'labels' / 'a.txt'
    (image,) = read_yolo(foreign(tmp_path, shape=shape), Omissions(lines.append))
    assert [line.partition(': ') for line in lines] == [
        (f'{label}, line 1', ': ', 'the class dog is not person; --ignore-class dog accepts it')
    ]
    assert (image.file_name, image.size, image.id) == ('a.jpg', SIZE, 1)
    (person,) = image.persons
    assert person.box is not None
    np.testing.assert_allclose(person.box, [240, 120, 400, 360])
    assert person.visibility.tolist() == [0] + (shape[0] - 1) * [2] + (133 - shape[0]) * [0]
    assert person.keypoints[1].tolist() == [320, 120]


def test_images_that_lie_turned_are_as_they_are_seen(tmp_path: Path) -> None:
    """Labels of an image with an EXIF orientation refer to the upright image."""
    exif = Image.Exif()
    exif[0x0112] = 6
    Image.new('RGB', SIZE).save(foreign(tmp_path) / 'train' / 'images' / 'a.jpg', exif=exif)
    assert read_yolo(tmp_path, Omissions(expected=['dog']))[0].size == (480, 640)


@pytest.mark.parametrize(
    ('file', 'content', 'named'),
    [
        ('data.yaml', b'{', 'data.yaml is not YAML'),
        ('data.yaml', b'\xff', 'data.yaml is not UTF-8'),
        ('data.yaml', b'- 1', 'data.yaml: the file must be a mapping'),
        ('data.yaml', b'train: a\nnames: [person]', r'data.yaml: kpt_shape must be \[133, 3\]'),
        ('data.yaml', b'kpt_shape: [21, 3]', r'kpt_shape must be .* not \[21, 3\]'),
        ('data.yaml', b'kpt_shape: [17, 3]', 'names must be a mapping'),
        ('data.yaml', b'kpt_shape: [17, 3]\nnames: [dog]', 'names has no class person, only dog'),
        ('data.yaml', b'kpt_shape: [17, 3]\nnames: {x: person}', 'the class of person in names must be an integer'),
        ('data.yaml', b'kpt_shape: [17, 3]\nnames: [person]\ntrain: 5', 'train must be a text'),
        ('data.yaml', b'kpt_shape: [17, 3]\nnames: [person]\ntrain: /etc', 'train must be a folder of the dataset'),
        (
            'data.yaml',
            b'kpt_shape: [17, 3]\nnames: [person]\ntrain: a/../../b',
            'train must be a folder of the dataset',
        ),
        ('data.yaml', b'kpt_shape: [17, 3]\nnames: [person]\ntrain: a.txt', 'lists of images are not supported'),
        ('data.yaml', b'kpt_shape: [17, 3]\nnames: [person]\ntrain: elsewhere', 'there is no such folder'),
        ('train/labels/a.txt', b'1 0.5 0.5', 'a.txt, line 1 has 3 numbers; .* 56'),
        ('train/labels/a.txt', b'person 0.5', 'a.txt, line 1: not all values are numbers'),
        ('train/labels/a.txt', b'nan ' * 56, 'a.txt, line 1: not all numbers are finite'),
        ('train/labels/a.txt', b'\xff', 'a.txt is not UTF-8'),
        ('train/labels/b.txt', b'', r'b.txt has no image train/images/b\.\*'),
        ('train/images/a.jpg', b'x', 'a.jpg is not an image'),
        ('images.json', b'[]', 'images.json must be a mapping'),
        ('images.json', b'{"train/images/a.jpg": {"id": 1}}', 'images.json: train/images/a.jpg.file_name must be'),
    ],
)
def test_broken_files_are_refused(tmp_path: Path, file: str, content: bytes, named: str) -> None:
    """A damaged dataset is refused with the name of the file and the fault."""
    (foreign(tmp_path) / file).write_bytes(content)
    with pytest.raises(InvalidRequest, match=named):
        read_yolo(tmp_path)


def test_a_folder_without_a_dataset_is_refused(tmp_path: Path) -> None:
    """A folder without a dataset is refused with the name of the missing file, and a folder with files is not written
    to."""
    with pytest.raises(InvalidRequest, match='data.yaml cannot be read'):
        read_yolo(tmp_path)
    foreign(tmp_path)
    with pytest.raises(InvalidRequest, match='is not empty'):
        write_yolo(tmp_path, [], val_share=0)


def test_added_images_get_new_ids(tmp_path: Path) -> None:
    """Images that were added to a written dataset get new ids."""
    write_yolo(tmp_path, [make_image(1, 5)], val_share=0, image_bytes=jpeg)
    (tmp_path / 'images' / 'train' / '0000.jpg').write_bytes(jpeg(make_image(0)))
    with pytest.raises(InvalidRequest, match='0000.jpg has no label file'):
        read_yolo(tmp_path)
    (tmp_path / 'labels' / 'train' / '0000.txt').touch()
    assert [(image.id, len(image.persons)) for image in read_yolo(tmp_path)] == [(6, 0), (5, 1)]
    assert json.loads((tmp_path / 'images.json').read_text()).keys() == {'images/train/0005.jpg'}
