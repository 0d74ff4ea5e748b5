"""Read and write datasets in ultralytics' yolo-pose format.

A dataset has `data.yaml`, `images/{train,val}/NAME.jpg` and `labels/{train,val}/NAME.txt`. A label file has a line per
person: class, centre and size of the box, then x, y and visibility of each keypoint; coordinates are shares of the
image's sides. Label files do not contain the size of the image. `images.json`, which ultralytics ignores, holds it with
the image's id and original name.
"""

import itertools
import json
import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import replace
from pathlib import Path, PurePosixPath
from typing import Any, Final, NamedTuple

import numpy as np
import yaml
from numpy.typing import NDArray
from PIL import ExifTags, Image

from detector.errors import InvalidRequest
from detector.pose.names import canonical_name
from detector.pose.skeleton import FLIP_INDICES, KEYPOINT_COUNT, PART_BY_NAME, PERSON

from .fields import as_integer, as_mapping, as_text, read_json, read_text
from .labelled_image import (
    LabelledImage,
    box_of,
    check_ids,
    fields_of,
    file_names,
    new_folder,
    read_fields,
    split_of,
    write_image,
)
from .person import HIDDEN, NOT_LABELLED, VISIBLE, Person, Size

_DATA: Final = 'data.yaml'
_INDEX: Final = 'images.json'
_DIGITS: Final = 7
_OUTSIDE: Final = 0.5
"""Distance outside the image in pixels beyond which a keypoint is dropped, since the format cannot express it."""
_TURNED: Final = (5, 6, 7, 8)
"""Values of the EXIF orientation that swap width and height."""
_SUFFIXES: Final = frozenset(
    f'.{kind}'
    for kind in ('avif', 'bmp', 'dng', 'heic', 'heif', 'jp2', 'jpeg', 'jpg', 'mpo', 'png', 'tif', 'tiff', 'webp')
)


def write_yolo(
    folder: Path,
    images: Sequence[LabelledImage],
    *,
    val_share: float,
    image_bytes: Callable[[LabelledImage], bytes] | None = None,
) -> None:
    """Write a dataset.

    A person without a box gets the box around the labelled keypoints; empty persons are left out. An image without
    persons has an empty label file.

    :param folder: created if missing; must be empty.
    :param val_share: share of the images that are for validation, 0..1; the image's name decides.
    :param image_bytes: returns the image file to write; None: write labels only.
    :raises InvalidRequest: the folder is not empty or cannot be created, or two images have the same id.
    """
    check_ids(images)
    new_folder(folder)
    index: dict[str, dict[str, Any]] = {}
    for split in ('train', 'val'):
        (folder / 'images' / split).mkdir(parents=True)
        (folder / 'labels' / split).mkdir(parents=True)
    for image, name in zip(images, file_names(images), strict=True):
        split = split_of(image.file_name, val_share)
        lines = [line for person in image.persons if (line := _line(person, image.size)) is not None]
        label = folder / 'labels' / split / PurePosixPath(name).with_suffix('.txt')
        label.write_text(''.join(f'{line}\n' for line in lines), encoding='utf-8')
        index[f'images/{split}/{name}'] = fields_of(image)
        if image_bytes is not None:
            write_image(folder / 'images' / split / name, image_bytes(image))
    (folder / _INDEX).write_text(json.dumps(index, indent=1), encoding='utf-8')
    (folder / _DATA).write_text(_data(folder), encoding='utf-8')


def _data(folder: Path) -> str:
    content = {
        'path': str(folder.resolve()),
        'train': 'images/train',
        'val': 'images/val',
        'kpt_shape': [KEYPOINT_COUNT, 3],
        'flip_idx': list(FLIP_INDICES),
        'names': {0: PERSON},
    }
    text: str = yaml.safe_dump(content, sort_keys=False, allow_unicode=True, default_flow_style=None, width=120)
    return f'# path is the folder that the dataset was written to: change it if you move the dataset\n{text}'


def _line(person: Person, size: Size) -> str | None:
    corners = box_of(person, size)
    if corners is None:
        return None
    sides = np.array(size, dtype=np.float64)
    low, high = (corners.reshape(2, 2).astype(np.float64) / sides).clip(0, 1)
    if (high <= low).any():
        return None
    beyond: NDArray[np.float64] = np.abs(person.keypoints - sides / 2).astype(np.float64) - sides / 2
    is_inside: list[bool] = (beyond.max(axis=1) <= _OUTSIDE).tolist()
    points = (person.keypoints.astype(np.float64) / sides).clip(0, 1)
    numbers = [_written(number) for number in (*(low + high) / 2, *(high - low))]
    for (x, y), visibility, is_written in zip(points, person.visibility, is_inside, strict=True):
        has_place = is_written and visibility != NOT_LABELLED
        numbers += [_written(x), _written(y), str(int(visibility))] if has_place else ['0', '0', '0']
    return ' '.join(['0', *numbers])


def _written(number: float) -> str:
    return f'{number:.{_DIGITS}f}'.rstrip('0').rstrip('.')


def read_yolo(folder: Path) -> list[LabelledImage]:
    """Read the images and persons of all splits of a dataset with 17 (COCO) or 133 keypoints.

    Image sizes come from `images.json` or from the image files. Objects of other classes are left out.

    :raises InvalidRequest: a file is missing or damaged; the message names the file and the fault.
    """
    form, places = _description(folder)
    index = _index(folder)
    names = sorted({name for place in places for name in _names(folder, place, index)})
    new_ids = itertools.count(1 + max((entry['id'] for entry in index.values()), default=0))
    images: list[LabelledImage] = []
    for name in names:
        known = index.get(name)
        if known is None:
            width, height = _size_of(folder / name)
            known = {'id': next(new_ids), 'file_name': PurePosixPath(name).name, 'width': width, 'height': height}
        label = folder / _label_path(PurePosixPath(name))
        size = (known['width'], known['height'])
        persons = list(_read_label(label, size, form)) if label.exists() else []
        images.append(LabelledImage(**known, persons=persons))
    check_ids(images)
    return images


class _Form(NamedTuple):
    """Numbers of keypoints and of values per keypoint (2 or 3), and the classes that are persons."""

    keypoints: int
    dimensions: int
    classes: set[int]


def _description(folder: Path) -> tuple[_Form, list[str]]:
    """Return the form of the label files and the image folders."""
    path = folder / _DATA
    if not path.exists():
        path = next(iter(sorted(folder.glob('*.y*ml'))), path)
    try:
        data = as_mapping(yaml.safe_load(read_text(path)), 'the file')
        form = _Form(*_shape(data), _person_classes(data.get('names')))
        return form, [place for split in ('train', 'val', 'test') for place in _image_folders(folder, data, split)]
    except yaml.YAMLError as error:
        raise InvalidRequest(f'{path} is not YAML: {" ".join(str(error).split())}') from None
    except InvalidRequest as error:
        raise error if str(path) in str(error) else InvalidRequest(f'{path}: {error}') from None


def _shape(data: Mapping[str, Any]) -> tuple[int, int]:
    shape = data.get('kpt_shape')
    shape = shape if isinstance(shape, list) else []
    if len(shape) != 2 or shape[0] not in (PART_BY_NAME['body'].stop, KEYPOINT_COUNT) or shape[1] not in (2, 3):
        raise InvalidRequest(f'kpt_shape must be [133, 3], with 17 or 2 as alternatives, not {data.get("kpt_shape")!r}')
    return int(shape[0]), int(shape[1])


def _person_classes(names: object) -> set[int]:
    by_class = dict(enumerate(names)) if isinstance(names, list) else as_mapping(names, 'names')
    persons = {
        as_integer(key, f'the class of {name} in names')
        for key, name in by_class.items()
        if canonical_name(str(name)) == PERSON
    }
    if not persons:
        raise InvalidRequest(f'names has no class {PERSON}, only {", ".join(map(str, by_class.values()))[:100]}')
    return persons


def _image_folders(folder: Path, data: Mapping[str, Any], split: str) -> Iterator[str]:
    """Yield the image folders of a split, relative to the dataset."""
    value = data.get(split)
    for entry in value if isinstance(value, list) else [value] if value else []:
        path = PurePosixPath(as_text(entry, split).replace('\\', '/'))
        # some exporters write ../train/images for a folder beside data.yaml, and ultralytics accepts it
        parts = [part for number, part in enumerate(path.parts) if part != '..' or number > 0]
        if path.is_absolute() or '..' in parts:
            raise InvalidRequest(f'{split} must be a folder of the dataset, not {entry}')
        if path.suffix == '.txt':
            raise InvalidRequest(f'{split} is {entry}: lists of images are not supported, only folders')
        place = '/'.join(parts)
        if split == 'train' and not any(
            (folder / path).is_dir() for path in (place, _label_path(PurePosixPath(place)))
        ):
            raise InvalidRequest(f'{split} is {entry}, but there is no such folder')
        yield place


def _index(folder: Path) -> dict[str, dict[str, Any]]:
    """Return the checked entries of `images.json` by image path."""
    path = folder / _INDEX
    if not path.exists():
        return {}
    entries = as_mapping(read_json(path), str(path)).items()
    return {name: read_fields(as_mapping(value, f'{path}: {name}'), f'{path}: {name}') for name, value in entries}


def _names(folder: Path, place: str, index: Mapping[str, Any]) -> Iterator[str]:
    """Yield the paths of the images in an image folder, relative to the dataset."""
    found = [path for path in (folder / place).rglob('*') if path.suffix.lower() in _SUFFIXES]
    yield from (path.relative_to(folder).as_posix() for path in found)
    yield from (name for name in index if name.startswith(f'{place}/') and '..' not in name.split('/'))
    stems = {path.relative_to(folder).with_suffix('').as_posix() for path in found}
    stems |= {str(PurePosixPath(name).with_suffix('')) for name in index}
    labels = folder / _label_path(PurePosixPath(place))
    for label in labels.rglob('*.txt') if labels != folder / place else ():
        stem = f'{place}/{label.relative_to(labels).with_suffix("").as_posix()}'
        if stem not in stems:
            raise InvalidRequest(f'{label} has no image {stem}.*, so the size of the image is unknown')


def _label_path(image: PurePosixPath) -> PurePosixPath:
    """Replace the last `images` in the path of an image or image folder by `labels`."""
    parts = list(image.parts)
    if 'images' in parts:
        last = len(parts) - 1 - parts[::-1].index('images')
        parts[last] = 'labels'
    path = PurePosixPath(*parts)
    return path.with_suffix('.txt') if image.suffix.lower() in _SUFFIXES else path


def _size_of(path: Path) -> Size:
    try:
        with Image.open(path) as image:
            is_turned = image.getexif().get(ExifTags.Base.Orientation) in _TURNED
            return (image.height, image.width) if is_turned else image.size
    except (OSError, ValueError, Image.DecompressionBombError) as error:
        raise InvalidRequest(f'{path} is not an image: {error}') from None


def _read_label(path: Path, size: Size, form: _Form) -> Iterator[Person]:
    for number, line in enumerate(read_text(path).splitlines(), 1):
        if line.strip():
            values = _values(line, f'{path}, line {number}', form)
            if values[0] in form.classes:
                yield _read_person(values, size, form)


def _values(line: str, where: str, form: _Form) -> list[float]:
    try:
        values = [float(word) for word in line.split()]
    except ValueError:
        raise InvalidRequest(f'{where}: not all values are numbers: {line[:60]}') from None
    if not all(map(math.isfinite, values)):
        raise InvalidRequest(f'{where}: not all numbers are finite')
    expected = 5 + form.keypoints * form.dimensions
    if len(values) != expected:
        shape = f'[{form.keypoints}, {form.dimensions}]'
        raise InvalidRequest(f'{where} has {len(values)} numbers; kpt_shape {shape} requires {expected}')
    return values


def _read_person(values: Sequence[float], size: Size, form: _Form) -> Person:
    sides = np.array(size, dtype=np.float64)
    centre, half = np.array(values[1:3]), np.array(values[3:5]) / 2
    table = np.array(values[5:]).reshape(form.keypoints, form.dimensions)
    is_there = (table[:, :2] != 0).any(axis=1)
    seen = table[:, 2] if form.dimensions == 3 else np.where(is_there, VISIBLE, NOT_LABELLED)
    visibility = np.select([seen <= 0, seen == HIDDEN], [NOT_LABELLED, HIDDEN], VISIBLE)
    person = Person.empty()
    person.keypoints[: form.keypoints] = np.where(visibility[:, None] == NOT_LABELLED, 0, table[:, :2] * sides)
    person.visibility[: form.keypoints] = visibility
    box = np.concatenate([(centre - half) * sides, (centre + half) * sides]).astype(np.float32)
    return replace(person, box=box if (half > 0).all() else None)
