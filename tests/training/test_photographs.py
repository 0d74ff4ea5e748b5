"""The photographs of a folder and their sources."""

import json
import tomllib
from pathlib import Path

import cv2
import numpy as np
import pytest

from training.photographs import SOURCES, Collection, Photograph


def folder_with(folder: Path, *names: str) -> Path:
    """Fill a folder with grey pictures of 40×20 pixels."""
    for name in names:
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        cv2.imwrite(str(folder / name), np.full((20, 40, 3), 128, np.uint8))
    return folder


def test_shares_are_those_of_the_sources_at_hand(tmp_path: Path) -> None:
    """The shares add up to 1 over the sources that the folder has, in the proportions of the list."""
    collection = Collection.of(folder_with(tmp_path, 'coco/a.jpg', 'osie/b.png'))
    listed = tomllib.loads(SOURCES.read_text())
    assert sum(collection.shares.values()) == pytest.approx(1)
    expected = listed['coco']['share'] / listed['osie']['share']
    assert collection.shares['coco'] / collection.shares['osie'] == pytest.approx(expected)


def test_a_source_without_a_licence_is_refused(tmp_path: Path) -> None:
    """A subfolder that the list of sources does not name is refused, with the place to add it."""
    with pytest.raises(ValueError, match=r'holidays: not listed; add the source and its licence to .*sources\.toml'):
        Collection.of(folder_with(tmp_path, 'coco/a.jpg', 'holidays/b.jpg'))


def test_a_folder_without_photographs_is_refused(tmp_path: Path) -> None:
    """An empty folder is refused."""
    with pytest.raises(ValueError, match='no photographs'):
        Collection.of(tmp_path)


def test_the_list_names_licence_and_origin_of_each_source() -> None:
    """Each source has a title, a licence, the copies from which its photographs were taken, and their number."""
    for source, entry in tomllib.loads(SOURCES.read_text()).items():
        assert set(entry) == {'title', 'copies', 'photographs', 'licence', 'share'}, source
        assert all(entry.values()), source


def test_no_photograph_both_trains_and_measures(tmp_path: Path) -> None:
    """Each photograph either trains or is held out; more of the annotated ones are held out."""
    names = [f'{source}/{index}.jpg' for source in ('coco', 'osie') for index in range(120)]
    (tmp_path / 'boxes.json').write_text(json.dumps({name: [[0, 0, 1, 1, 1]] for name in names[:120]}))
    collection = Collection.of(folder_with(tmp_path, *names))
    training = {one.name for some in collection.training().values() for one in some}
    held_out = [one.name for one in collection.held_out()]
    assert training.isdisjoint(held_out)
    assert training | set(held_out) == set(names)
    assert 10 <= sum(name.startswith('coco') for name in held_out) <= 30
    assert 1 <= sum(name.startswith('osie') for name in held_out) <= 8


def test_boxes_are_read_in_pixels(tmp_path: Path) -> None:
    """Relative boxes become pixels of the picture; a photograph without annotation has no boxes."""
    folder_with(tmp_path, 'coco/a.jpg')
    boxes = np.array([[0.25, 0.5, 0.5, 1, 0]], np.float32)
    picture, read = Photograph(path=tmp_path / 'coco/a.jpg', name='coco/a.jpg', boxes=boxes).read()
    assert picture.shape == (20, 40, 3)
    np.testing.assert_allclose(read, [[10, 10, 20, 20, 0]])
    assert boxes[0, 0] == 0.25
    assert Photograph(path=tmp_path / 'coco/a.jpg', name='coco/a.jpg', boxes=None).read()[1].shape == (0, 5)


def test_a_broken_picture_is_named(tmp_path: Path) -> None:
    """A file that is no picture is refused with its path."""
    (tmp_path / 'a.jpg').write_bytes(b'no picture')
    with pytest.raises(ValueError, match=r'a\.jpg: OpenCV cannot read'):
        Photograph(path=tmp_path / 'a.jpg', name='a.jpg', boxes=None).read()
