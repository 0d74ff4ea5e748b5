"""Datasets of other programs are read, or refused with an InvalidRequest that names the fault."""

import json
from collections.abc import Callable
from math import inf
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import numpy as np
import pytest
import yaml
from hypothesis import example, given
from hypothesis import strategies as st

from detector.datasets.coco import read_coco, to_coco
from detector.datasets.fiftyone import write_fiftyone
from detector.datasets.labelled_image import LabelledImage
from detector.datasets.omissions import Omissions
from detector.datasets.poses_json import read_poses_json, to_poses_json
from detector.datasets.yolo import read_yolo, write_yolo
from detector.errors import InvalidRequest
from tests.support.people import assert_same_persons, dataset_file, make_image
from tests.support.strategies import JSON, as_file, damaged, mutated

IMAGES = [make_image(3, 1), make_image(1, 2)]
COCO = dataset_file()
OURS = to_poses_json(IMAGES)
READERS: dict[str, tuple[Callable[[Path], list[LabelledImage]], Any]] = {
    'coco': (read_coco, COCO),
    'flat coco': (read_coco, to_coco(IMAGES, flat=True)),
    'json': (read_poses_json, OURS),
}


def writable(images: list[LabelledImage]) -> None:
    """Check that the images can be written in every format, as strict JSON, or are refused."""
    for image in images:
        for person in image.persons:
            assert np.isfinite(person.keypoints).all()
            assert person.box is None or np.isfinite(person.box).all()
    lines: list[str] = []
    omissions = Omissions(lines.append)
    json.dumps(to_coco(images, omissions), allow_nan=False)
    json.dumps(to_poses_json(images), allow_nan=False)
    with TemporaryDirectory() as folder:
        write_fiftyone(Path(folder) / 'fiftyone', images, omissions)
        write_yolo(Path(folder) / 'yolo', images, omissions, val_share=0.5)
    assert bool(lines) == bool(omissions.summary)


@pytest.mark.parametrize('name', READERS)
def test_any_json_is_a_dataset_or_refused(name: str) -> None:
    """A file with wrong values is read and can be written again, or raises InvalidRequest."""
    read, document = READERS[name]

    @given(JSON | mutated(document))
    @example({'images': [], 'annotations': [{'category_id': []}], 'categories': [{'id': 1, 'name': 'person'}]})
    @example({'images': [{'id': 1, 'file_name': 'a', 'width': 10**400, 'height': 1}], 'annotations': []})
    @example(
        COCO | {'images': [{**COCO['images'][0], 'license': 3}], 'annotations': [], 'licenses': [{'id': 3, 'a': inf}]}
    )
    def check(content: Any) -> None:
        try:
            images = as_file(read, content)
        except InvalidRequest as error:
            assert str(error)
            return
        assert isinstance(images, list)
        writable(images)

    check()


@given(damaged(json.dumps(COCO).encode()) | st.sampled_from([b'[' * 20_000, b'9' * 5000, b'\xff\xfe{}']))
def test_a_damaged_file_is_a_dataset_or_refused(content: bytes) -> None:
    """A file with wrong bytes is read or raises InvalidRequest."""
    for read, _ in READERS.values():
        try:
            as_file(read, content)
        except InvalidRequest as error:
            assert str(error)


YAML = {'path': '.', 'train': 'images/train', 'val': 'images/val', 'kpt_shape': [133, 3], 'names': {0: 'person'}}
INDEX = {'images/train/a.jpg': {'id': 1, 'file_name': 'a.jpg', 'width': 64, 'height': 48}}
WORDS = st.sampled_from(['0', '1', '0.5', '-1', 'nan', 'inf', '1e400', '1e308', 'x', '٣', '']) | st.text(max_size=4)
LINES = st.lists(WORDS | st.just('0 0.5 0.5 0.2 0.2 ' + '0.5 0.5 2 ' * 133), max_size=4).map('\n'.join)


@given(
    data=st.just(yaml.safe_dump(YAML).encode()) | mutated(YAML).map(lambda content: json.dumps(content).encode()),
    index=st.just(INDEX) | JSON | mutated(INDEX),
    label=LINES.map(lambda text: text.encode(errors='surrogatepass')) | st.binary(max_size=30),
)
def test_any_yolo_folder_is_a_dataset_or_refused(data: bytes, index: Any, label: bytes) -> None:
    """Wrong values in data.yaml, images.json and label files are read or raise InvalidRequest."""
    with TemporaryDirectory() as name:
        folder = Path(name)
        (folder / 'images' / 'train').mkdir(parents=True)
        (folder / 'labels' / 'train').mkdir(parents=True)
        (folder / 'data.yaml').write_bytes(data)
        (folder / 'images.json').write_text(json.dumps(index))
        (folder / 'labels' / 'train' / 'a.txt').write_bytes(label)
        try:
            images = read_yolo(folder)
        except InvalidRequest as error:
            assert str(error)
            return
    writable(images)


@given(st.lists(st.integers(0, 4), max_size=3))
def test_our_own_file_loses_nothing(counts: list[int]) -> None:
    """Any persons survive the project's own JSON exactly, and COCO to a hundredth of a pixel."""
    images = [make_image(count, number) for number, count in enumerate(counts, 1)]
    again = as_file(read_poses_json, to_poses_json(images))
    assert isinstance(again, list)
    for image, other in zip(images, again, strict=True):
        assert_same_persons(other.persons, image.persons, within=0)
