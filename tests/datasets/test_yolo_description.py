"""The YAML file of a YOLO dataset: which file it is, and what it says."""

import shutil
from pathlib import Path
from typing import Any

import pytest
import yaml

from detector.datasets.omissions import Omissions
from detector.datasets.yolo import read_yolo
from detector.datasets.yolo_description import read_description
from detector.errors import InvalidRequest
from detector.pose.skeleton import FLIP_INDICES, KEYPOINT_NAMES
from tests.support.yolo_folders import make_folder, person_line


def test_the_named_file_is_the_one_that_is_read(tmp_path: Path) -> None:
    """A named file is read and not another one of its folder; a folder's only dataset is found beside other files."""
    make_folder(tmp_path, {'a': person_line()}, file='dataset.yaml')
    (tmp_path / 'args.yaml').write_text('task: pose\n')
    (tmp_path / '._data.yaml').write_bytes(b'\0\5\x16\7')
    for path in (tmp_path / 'dataset.yaml', tmp_path):
        assert read_description(path, Omissions()).file == tmp_path / 'dataset.yaml'
    with pytest.raises(InvalidRequest, match='args.yaml: kpt_shape must be'):
        read_description(tmp_path / 'args.yaml', Omissions())


@pytest.mark.parametrize('name', ['data.yaml', 'a.yml', 'other.yaml'])
def test_several_datasets_are_told_apart_by_name_only(tmp_path: Path, name: str) -> None:
    """A folder with two datasets is refused with both names, and each can be named."""
    make_folder(tmp_path, {'a': person_line()}, file='dataset.yaml')
    shutil.copy(tmp_path / 'dataset.yaml', tmp_path / name)
    with pytest.raises(InvalidRequest, match=rf'several datasets, .*{name}.*: name one of them'):
        read_description(tmp_path, Omissions())
    assert read_description(tmp_path / name, Omissions()).file == tmp_path / name


@pytest.mark.parametrize(
    ('data', 'named'),
    [
        ({'train': None, 'val': None}, 'none of train, val and test names a folder'),
        ({'flip_idx': list(range(17))}, "flip_idx is not that of COCO's 17 keypoints"),
        ({'flip_idx': list(FLIP_INDICES[:16])}, 'flip_idx is not that'),
        ({'kpt_names': {0: ['nose']}}, 'kpt_names has 1 names, and kpt_shape 17 keypoints'),
        ({'kpt_names': {1: ['nose']}}, 'kpt_names must have one list of names for the class person, not 0'),
        ({'kpt_names': ['nose']}, 'kpt_names must be a mapping'),
        ({'kpt_shape': [21, 3]}, r'kpt_shape must be .* not \[21, 3\]; kpt_names can name other keypoints'),
    ],
)
def test_an_unclear_order_is_refused(tmp_path: Path, data: dict[str, Any], named: str) -> None:
    """Fields that contradict the order of the keypoints are refused with their name and a remedy."""
    with pytest.raises(InvalidRequest, match=named):
        read_description(make_folder(tmp_path, {'a': person_line()}, **data), Omissions())


def test_named_keypoints_have_their_own_order(tmp_path: Path) -> None:
    """Names of keypoints decide their order and number, and unknown ones are reported."""
    lines: list[str] = []
    omissions = Omissions(lines.append)
    names = ['left_ankle', 'neck', 'Right Eye']
    folder = make_folder(
        tmp_path, {'a': person_line(third=(2, 2, 1))}, kpt_shape=[3, 3], kpt_names={0: names}, flip_idx=[0, 1, 2]
    )
    (person,) = read_yolo(folder, omissions)[0].persons
    assert {KEYPOINT_NAMES[n]: int(person.visibility[n]) for n in person.labelled.nonzero()[0]} == {
        'left_ankle': 2,
        'right_eye': 1,
    }
    assert person.keypoints[15].tolist() == [60, 30]
    assert lines == [f"{folder / 'data.yaml'}: kpt_names[1] 'neck' is not one of the 133 keypoints"]


def test_images_that_no_split_names_are_reported(tmp_path: Path) -> None:
    """Images and labels of a folder that no split names are reported with the folder and their number."""
    folder = make_folder(tmp_path, {'a': person_line(), 'b': person_line()})
    shutil.copytree(folder / 'images' / 'train', folder / 'images' / 'val')
    shutil.copytree(folder / 'labels' / 'train', folder / 'labels' / 'val')
    data = yaml.safe_load((folder / 'data.yaml').read_text())
    del data['val']
    (folder / 'data.yaml').write_text(yaml.safe_dump(data))
    lines: list[str] = []
    omissions = Omissions(lines.append)
    assert len(read_yolo(folder, omissions)) == 2
    assert lines == [f'{folder / "data.yaml"}: train, val and test do not name the folder images/val']
    assert omissions.summary == '2 images'
