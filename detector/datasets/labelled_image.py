"""Labelled images, and what all dataset formats need: splits, ids, file names and folders."""

import hashlib
import unicodedata
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path, PurePosixPath
from typing import Any, Final, Literal

import numpy as np

from detector.errors import InvalidRequest
from detector.pose.pose import FloatArray

from .fields import MAX_SIDE, as_integer, as_text
from .person import Person, Size

IMAGE_FIELDS: Final = ('id', 'file_name', 'width', 'height')

Split = Literal['train', 'val']

_MIN_SIDE: Final = 1.0
"""Smallest side of a box around keypoints in pixels; training discards boxes without an area."""
_MAX_STEM_BYTES: Final = 200


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class LabelledImage:
    """An image and its persons.

    :param id: unique in a dataset.
    :param file_name: as in the dataset or the labelling task; may contain folders.
    :param width: width of the upright image in pixels.
    :param height: height of the upright image in pixels.
    :param extra: further fields of the dataset about the image, as JSON.
    """

    id: int
    file_name: str
    width: int
    height: int
    persons: Sequence[Person]
    extra: Mapping[str, Any] = field(default_factory=dict)

    @property
    def size(self) -> Size:
        return self.width, self.height


def fields_of(image: LabelledImage) -> dict[str, Any]:
    """Return the fields that all JSON files have about an image: id, name and size."""
    return {name: getattr(image, name) for name in IMAGE_FIELDS}


def read_fields(entry: Mapping[str, Any], where: str) -> dict[str, Any]:
    """Check the `IMAGE_FIELDS` of a JSON object and return them.

    :param where: name of the object in error messages.
    :raises InvalidRequest: a field is missing or has the wrong type; the message names it.
    """
    return {
        'id': as_integer(entry.get('id'), f'{where}.id'),
        'file_name': as_text(entry.get('file_name'), f'{where}.file_name'),
        **{
            side: as_integer(entry.get(side), f'{where}.{side}', least=1, most=MAX_SIDE) for side in ('width', 'height')
        },
    }


def split_of(name: str, val_share: float) -> Split:
    """Assign an image to a split by its name alone, in whichever Unicode normal form the name is.

    :param val_share: share of the images that are for validation, 0..1.
    """
    digest = hashlib.sha256(unicodedata.normalize('NFC', name).encode(errors='surrogatepass')).digest()
    return 'val' if int.from_bytes(digest[:8], 'big') < val_share * 2**64 else 'train'


def box_of(person: Person, size: Size) -> FloatArray | None:
    """Return the person's box, or the box around the labelled keypoints; None if the person is empty.

    :param size: size of the image; a box around keypoints is clipped to it and is at least a pixel wide and high.
    :return: shape (4,), float32: x1, y1, x2, y2 in pixels.
    """
    if person.box is not None:
        return person.box
    extent = person.extent
    if extent is None:
        return None
    limits = np.array(size, dtype=np.float32)
    low, high = extent.reshape(2, 2).clip(0, limits)
    low = np.where(high - low < _MIN_SIDE, ((low + high - _MIN_SIDE) / 2).clip(0, limits - _MIN_SIDE), low)
    return np.concatenate([low, np.maximum(high, low + _MIN_SIDE)]).astype(np.float32)


def file_names(images: Sequence[LabelledImage]) -> list[str]:
    """Return a file name for each image so that all fit into one folder.

    Names have no folders and are still distinct without their endings.
    """
    taken: set[str] = set()
    names = []
    for image in images:
        path = PurePosixPath(image.file_name.replace('\\', '/').translate(_REPLACED).rstrip('/'))
        suffix = path.suffix if len(path.suffix) <= 10 else ''
        # a remaining dot would make the rest look like an ending
        stem = path.name.removesuffix(suffix) if suffix else path.name.replace('.', '_')
        stem = stem.encode(errors='ignore')[:_MAX_STEM_BYTES].decode(errors='ignore').strip('. ') or 'image'
        candidates = (stem, f'{stem}-{image.id}', *(f'{stem}-{image.id}-{number}' for number in range(2, len(images))))
        chosen = next(candidate for candidate in candidates if _key(candidate) not in taken)
        taken.add(_key(chosen))
        names.append(chosen + suffix)
    return names


_REPLACED: Final = {code: '_' for code in (*range(32), 127, *map(ord, ':*?"<>|'))}
"""Characters that some file systems refuse, with their replacement."""


def _key(name: str) -> str:
    """Normalise a name; equal keys are the same file on some file systems."""
    return unicodedata.normalize('NFC', name).casefold()


def check_ids(images: Sequence[LabelledImage]) -> None:
    """:raises InvalidRequest: two images have the same id."""
    first: dict[int, LabelledImage] = {}
    for image in images:
        other = first.setdefault(image.id, image)
        if other is not image:
            raise InvalidRequest(f'{other.file_name} and {image.file_name} have the same id {image.id}')


def unique_ids(previous: Sequence[object], candidates: Sequence[Iterable[int]]) -> list[int]:
    """Choose an id for each item: its previous one, or the first free candidate.

    :param previous: the id that each item had before, if any; the first of several items with the same one keeps it.
    :param candidates: new ids for each item, best first.
    """
    taken: set[int] = set()
    kept: list[int | None] = []
    for number in previous:
        kept.append(number if type(number) is int and number not in taken else None)
        taken |= {number} if type(number) is int else set()
    ids: list[int] = []
    for old, new in zip(kept, candidates, strict=True):
        ids.append(next(number for number in new if number not in taken) if old is None else old)
        taken.add(ids[-1])
    return ids


def new_folder(folder: Path) -> None:
    """Create the folder of a dataset.

    :raises InvalidRequest: the folder is not empty or cannot be created.
    """
    try:
        folder.mkdir(parents=True, exist_ok=True)
        if any(folder.iterdir()):
            raise InvalidRequest(f'{folder} is not empty; a dataset needs a folder of its own')
    except OSError as error:
        raise InvalidRequest(f'{folder} cannot be created: {error.strerror}') from None


def write_image(path: Path, content: bytes) -> None:
    """Write an image file and create its folder."""
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(content)
