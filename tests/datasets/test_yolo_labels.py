"""Label files of YOLO datasets, and files that stray among them."""

import codecs
import json
from pathlib import Path

import pytest
from PIL import Image

from detector.datasets.omissions import Omissions
from detector.datasets.yolo import read_yolo
from detector.errors import InvalidRequest
from tests.support.yolo_folders import make_folder, person_line


@pytest.mark.parametrize('kind', ['1', '1 0.5 0.5 0.1 0.1', '1 0.5 0.5 0.1 0.1 0.2 0.2 0.3 0.3', '1 x y'])
def test_lines_of_other_classes_may_have_any_form(tmp_path: Path, kind: str) -> None:
    """A line of another class is left out with a line whatever its form is, and the persons are read."""
    lines: list[str] = []
    omissions = Omissions(lines.append)
    folder = make_folder(tmp_path, {'a': f'{kind}\n{person_line()}{kind}\n'}, names={0: 'person', 1: 'car'})
    assert len(read_yolo(folder, omissions)[0].persons) == 1
    assert lines == [
        f'{folder}/labels/train/a.txt, line 1, and 1 other: the class car is not person; --ignore-class car accepts it'
    ]
    assert omissions.summary == '2 objects of another class'
    assert len(read_yolo(folder, Omissions(expected=['car']))[0].persons) == 1


@pytest.mark.parametrize(
    ('bad', 'named'),
    [
        ('0 0.5 0.5 0.1 0.1', 'line 2 has 5 numbers; kpt_shape .17, 3. requires 56'),
        ('7 0.5 0.5 0.1 0.1', 'line 2: 7 is not the number of a class in data.yaml'),
        ('0.5 0.5 0.5 0.1 0.1', 'line 2: 0.5 is not the number of a class'),
        ('person 0.5', 'line 2: not all values are numbers: person'),
        (person_line(third=[2, 3, *15 * [2]]), 'line 2: the visibility of keypoint 1 must be 0, 1 or 2, not 3'),
        (person_line().replace('0.5 0.5 0.4 0.6', '100 50 80 60'), 'line 2: the box 100 50 80 60 must'),
        (person_line().replace('0.5 0.5 0.4 0.6', '0.5 0.5 0 0'), 'line 2: the box 0.5 0.5 0 0 must have a width'),
        (person_line().replace(' 0.32 0.32', ' 64 32'), 'line 2: keypoint 1 lies at 64 32; coordinates are shares'),
        (person_line(extra=' 0.9'), 'line 2 has 57 numbers'),
    ],
)
def test_an_unreadable_person_takes_its_image_with_it(tmp_path: Path, bad: str, named: str) -> None:
    """A line that cannot be read is named with its value, its image is left out, and the other images are read."""
    folder = make_folder(tmp_path, {'a': f'{person_line()}{bad}', 'b': person_line()})
    lines: list[str] = []
    omissions = Omissions(lines.append)
    assert [image.file_name for image in read_yolo(folder, omissions)] == ['b.jpg']
    assert len(lines) == 2
    with pytest.raises(InvalidRequest, match=named):
        raise InvalidRequest(lines[0])
    assert 'a.txt has 2 lines, 1 of which cannot be read' in lines[1]
    assert omissions.summary == '1 image, 1 person'


@pytest.mark.parametrize('third', [[1.0, *16 * [0.02]], [0.99] * 17, [*16 * ['1'], '0.5'], [*16 * [0], 1e-3]])
def test_confidences_are_refused_or_scores(tmp_path: Path, third: list[object]) -> None:
    """Confidences of a model are refused for annotations, and are scores of predictions, 1.0 included."""
    folder = make_folder(tmp_path, {'a': person_line(third=17 * [1]), 'b': person_line(third=third, extra=' 0.75')})
    with pytest.raises(InvalidRequest, match=r'b.txt has confidences of a model .* --as predictions'):
        read_yolo(folder)
    first, second = (image.persons[0] for image in read_yolo(folder, threshold=0.3))
    assert first.scores[:17].tolist() == 17 * [1]
    assert first.box_score is None
    assert second.box_score == 0.75
    for score, visibility, expected in zip(second.scores, second.visibility, map(float, map(str, third)), strict=False):
        assert visibility == (2 if expected >= 0.3 else 0)
        if expected:
            assert float(score) == pytest.approx(expected)


def test_visibilities_and_confidences_do_not_mix(tmp_path: Path) -> None:
    """A dataset with both is refused with a file of each."""
    folder = make_folder(tmp_path, {'a': person_line(), 'b': person_line(third=17 * [0.5])})
    with pytest.raises(InvalidRequest, match=r'a.txt has the visibility 2, and .*b.txt a confidence'):
        read_yolo(folder, threshold=0.3)


@pytest.mark.parametrize(
    'content',
    [
        codecs.BOM_UTF8 + person_line().encode(),
        person_line().encode('utf-16'),
        person_line().replace('\n', '\r\n').encode(),
        person_line().replace(' ', '\t').encode(),
        person_line().encode() + b'\n\n',
    ],
)
def test_files_of_windows_tools_are_read(tmp_path: Path, content: bytes) -> None:
    """Byte order marks, UTF-16, other line ends and other blanks change nothing."""
    (image,) = read_yolo(make_folder(tmp_path, {'a': content}))
    assert image.persons[0].visibility[:17].tolist() == 17 * [2]


def test_stray_files_are_named_and_the_rest_is_read(tmp_path: Path) -> None:
    """Hidden files are ignored, a list of the same classes too; other stray files are named and stop nothing."""
    folder = make_folder(tmp_path, {'a': person_line()})
    images, labels = folder / 'images' / 'train', folder / 'labels' / 'train'
    (images / '._a.jpg').write_bytes(b'\0\5\x16\7')
    (labels / '._a.txt').write_bytes(b'\0\5\x16\7')
    (labels / 'classes.txt').write_text('person\n')
    (images / 'Thumbs.db').write_bytes(b'x')
    assert len(read_yolo(folder)) == 1
    (labels / 'classes.txt').write_text('man\nwoman\n')
    (labels / 'notes.txt').write_text('see below')
    (images / 'broken.jpg').write_bytes(b'x')
    (labels / 'broken.txt').touch()
    Image.new('RGB', (20, 20)).save(images / 'unlabelled.png')
    Image.new('RGB', (20, 20)).save(images / 'a.png')
    lines: list[str] = []
    omissions = Omissions(lines.append)
    assert read_yolo(folder, omissions) == []
    for part in ('classes.txt has no image', 'notes.txt has no image', 'broken.jpg is not an image', 'unlabelled.png'):
        assert sum(part in line for line in lines) == 1, part
    assert sum('shares' in line and 'with another image' in line for line in lines) == 2
    assert omissions.summary == '2 files, 4 images'


def test_sizes_come_from_the_images(tmp_path: Path) -> None:
    """The size of an image comes from its file, and another one in images.json is reported."""
    folder = make_folder(tmp_path, {'a': person_line()})
    entry = {'id': 4, 'file_name': 'A.jpg', 'width': 400, 'height': 200}
    (folder / 'images.json').write_text(json.dumps({'images/train/a.jpg': entry}))
    lines: list[str] = []
    omissions = Omissions(lines.append)
    (image,) = read_yolo(folder, omissions)
    assert (image.id, image.file_name, image.size) == (4, 'A.jpg', (200, 100))
    assert image.persons[0].keypoints[0].tolist() == [60, 30]
    assert (len(lines), omissions.summary) == (1, '1 size of an image')
    assert 'images.json says 400×200' in lines[0]
