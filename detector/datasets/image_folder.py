"""Image files of a dataset in a folder, found by the names that the dataset gives them."""

import unicodedata
from collections import defaultdict
from pathlib import Path
from typing import Final

from PIL import ExifTags
from PIL import Image as PillowImage

from detector.errors import InvalidRequest

from .person import Size

_ENDINGS: Final = frozenset(PillowImage.registered_extensions())
_TURNED: Final = range(5, 9)
"""Values of the EXIF orientation that swap width and height."""


def upright_size(path: Path) -> Size:
    """Return width and height of an image file, with its EXIF orientation applied; only the header is read.

    :raises InvalidRequest: the file is not an image.
    """
    try:
        with PillowImage.open(path) as image:
            is_turned = image.getexif().get(ExifTags.Base.Orientation) in _TURNED
            return (image.height, image.width) if is_turned else image.size
    except (OSError, ValueError, SyntaxError, PillowImage.DecompressionBombError) as error:
        raise InvalidRequest(f'{path} is not an image: {error}') from None


class ImageFolder:
    """The image files below a folder; hidden files and folders are ignored.

    :param folder: None: there are no files.
    """

    def __init__(self, folder: Path | None) -> None:
        self._folder = folder
        self._files: dict[str, list[Path]] = defaultdict(list)
        for path in () if folder is None else sorted(folder.rglob('*')):
            is_hidden = folder is not None and any(part.startswith('.') for part in path.relative_to(folder).parts)
            if path.suffix.lower() in _ENDINGS and not is_hidden and path.is_file():
                self._files[_key(path.name)].append(path)

    def find(self, file_name: str) -> list[Path]:
        """Return the file at the path of a name, or else all files below the folder with its last part."""
        parts = [part for part in file_name.replace('\\', '/').split('/') if part not in ('', '.', '..')]
        candidates = self._files.get(_key(parts[-1]), []) if parts else []
        exact = [
            path for path in candidates if self._folder and _key(str(path)) == _key(str(self._folder.joinpath(*parts)))
        ]
        return exact or candidates

    def size(self, file_name: str) -> Size | None:
        """Return the size of the upright image of a name; None if there is not exactly one file.

        :raises InvalidRequest: the file is not an image.
        """
        found = self.find(file_name)
        return upright_size(found[0]) if len(found) == 1 else None


def _key(name: str) -> str:
    """Normalise a name, since file systems and datasets differ in their Unicode normal forms."""
    return unicodedata.normalize('NFC', name)
