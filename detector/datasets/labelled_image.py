"""Labelled images, and what all dataset formats need: splits, ids, file names and folders."""

import hashlib
import unicodedata
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path, PurePosixPath
from typing import Any, Final, Literal, TypedDict

import numpy as np

from detector.errors import InvalidRequest
from detector.pose.pose import FloatArray
from detector.wording import counted

from .fields import MAX_SIDE, as_integer, as_text
from .omissions import Omissions
from .person import Person, Size

IMAGE_FIELDS: Final = ('id', 'file_name', 'width', 'height')

Split = Literal['train', 'val']


class Options(TypedDict, total=False):
    """Options of readers.

    :param threshold: least confidence of a labelled keypoint, for files that hold confidences; None: refuse them.
    :param size_of: returns the size of the upright image by its file name; None if the image cannot be read.
    """

    threshold: float | None
    size_of: Callable[[str], Size | None]


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


def read_fields(
    entry: Mapping[str, Any], where: str, size_of: Callable[[str], Size | None] = lambda _: None
) -> dict[str, Any]:
    """Check the `IMAGE_FIELDS` of a JSON object and return them.

    :param where: name of the object in error messages.
    :param size_of: see `Options`; it gives a size that the object lacks.
    :raises InvalidRequest: a field is missing, has the wrong type, or contradicts the image; the message names it.
    """
    number = as_integer(entry.get('id'), f'{where}.id')
    name = as_text(entry.get('file_name'), f'{where}.file_name')
    size = size_of(name)
    stated = {side: entry.get(side) for side in ('width', 'height')}
    if size is not None and set(stated.values()) == {None}:
        stated = dict(zip(stated, size, strict=True))
    sides = {side: as_integer(value, f'{where}.{side}', least=1, most=MAX_SIDE) for side, value in stated.items()}
    if size is not None and tuple(sides.values()) != size:
        raise InvalidRequest(
            f'{where}: width and height are {sides["width"]} and {sides["height"]}, but the image {name} has '
            f'{size[0]}×{size[1]} pixels when upright: correct the fields and the coordinates, or name another image'
        )
    return {'id': number, 'file_name': name, **sides}


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


def check_has_place(person: Person, image: LabelledImage) -> None:
    """:raises InvalidRequest: the person has neither a box nor a labelled keypoint."""
    if person.is_empty:
        raise InvalidRequest(f'{image.file_name}: a person has neither a box nor a labelled keypoint')


def writable(
    images: Sequence[LabelledImage],
    omissions: Omissions,
    check: Callable[[Person, LabelledImage], None] = check_has_place,
) -> list[LabelledImage]:
    """Return the images with the persons that a format can hold; an image that would lose all of its persons is left
    out, since it would teach that nobody is there.

    :param check: raises InvalidRequest for a person that the format cannot hold.
    """

    def checked(person: Person, image: LabelledImage) -> Person:
        check(person, image)
        return person

    def held(image: LabelledImage) -> LabelledImage:
        persons = omissions.each('person', ((person, image) for person in image.persons), checked)
        if image.persons and not persons:
            count = counted(len(image.persons), 'person')
            raise InvalidRequest(f'{image.file_name}: the format can hold none of its persons ({count})')
        return replace(image, persons=persons)

    return omissions.each('image', ((image,) for image in images), held)


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
    """Write an image file and create its folder.

    :raises InvalidRequest: the file cannot be written.
    """
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(content)
    except OSError as error:
        raise InvalidRequest(f'{path} cannot be written: {error.strerror}') from None


def write_images(
    places: Iterable[tuple[LabelledImage, Path]], image_bytes: Callable[[LabelledImage], bytes], omissions: Omissions
) -> None:
    """Write image files; report those that cannot be written."""
    omissions.each('file of an image', places, lambda image, path: write_image(path, image_bytes(image)))
