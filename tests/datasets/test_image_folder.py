"""Image files of a dataset in a folder."""

import unicodedata
from pathlib import Path

import pytest
from PIL import Image

from detector.datasets.image_folder import ImageFolder, upright_size
from detector.errors import InvalidRequest


def picture(path: Path, size: tuple[int, int] = (64, 48), orientation: int = 1) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    exif = Image.Exif()
    exif[0x0112] = orientation
    Image.new('RGB', size).save(path, exif=exif)
    return path


@pytest.mark.parametrize(('orientation', 'size'), [(1, (64, 48)), (3, (64, 48)), (6, (48, 64)), (8, (48, 64))])
def test_sizes_are_those_of_upright_images(tmp_path: Path, orientation: int, size: tuple[int, int]) -> None:
    """The size is that of the image as it is seen, with its EXIF orientation applied."""
    assert upright_size(picture(tmp_path / 'a.jpg', orientation=orientation)) == size
    assert ImageFolder(tmp_path).size('x/a.jpg') == size


def test_files_that_are_not_images_are_refused(tmp_path: Path) -> None:
    """A file that is not an image is refused with its name, and a missing or ambiguous one has no size."""
    (tmp_path / 'b.jpg').write_bytes(b'x')
    picture(tmp_path / 'one' / 'c.jpg')
    picture(tmp_path / 'two' / 'c.jpg')
    folder = ImageFolder(tmp_path)
    with pytest.raises(InvalidRequest, match='b.jpg is not an image'):
        folder.size('b.jpg')
    assert folder.size('missing.jpg') is None
    assert folder.size('c.jpg') is None
    assert folder.size('two/c.jpg') == (64, 48)
    assert ImageFolder(None).size('two/c.jpg') is None


def test_names_are_found_in_either_normal_form(tmp_path: Path) -> None:
    """A name is found whichever Unicode normal form the file system and the dataset use; hidden files are ignored."""
    decomposed = unicodedata.normalize('NFD', 'Küche.jpg')
    path = picture(tmp_path / decomposed)
    (tmp_path / f'._{decomposed}').write_bytes(b'x')
    folder = ImageFolder(tmp_path)
    assert folder.find(unicodedata.normalize('NFC', 'Küche.jpg')) == [path]
    assert folder.find(f'._{decomposed}') == []
