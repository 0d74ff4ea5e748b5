"""The YAML file that describes a dataset in ultralytics' yolo-pose format."""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import Any, Final

import yaml

from detector.errors import InvalidRequest
from detector.pose.names import canonical_name
from detector.pose.skeleton import FLIP_INDICES, KEYPOINT_COUNT, PART_BY_NAME, PERSON

from .coco_category import read_order
from .fields import as_integer, as_list, as_mapping, as_text, read_text
from .omissions import Omissions

DATA: Final = 'data.yaml'
IMAGE_SUFFIXES: Final = frozenset(
    f'.{kind}'
    for kind in ('avif', 'bmp', 'dng', 'heic', 'heif', 'jp2', 'jpeg', 'jpg', 'mpo', 'png', 'tif', 'tiff', 'webp')
)
_SPLITS: Final = ('train', 'val', 'test')
_COUNTS: Final = (PART_BY_NAME['body'].stop, KEYPOINT_COUNT)


@dataclass(frozen=True, slots=True, kw_only=True)
class Description:
    """What the YAML file says.

    :param file: the YAML file, whose folder is that of the dataset.
    :param classes: names by class.
    :param keypoints: number of keypoints in a line of a label file.
    :param dimensions: number of values per keypoint: 2, or 3 with a visibility.
    :param order: keypoint index of each keypoint of a line, None for unknown keypoints.
    :param places: image folders, relative to the dataset.
    """

    file: Path
    classes: Mapping[int, str]
    keypoints: int
    dimensions: int
    order: Sequence[int | None]
    places: Sequence[str]

    @property
    def folder(self) -> Path:
        return self.file.parent

    @property
    def columns(self) -> int:
        """Number of values in a line of a label file."""
        return 5 + self.keypoints * self.dimensions

    def is_person(self, number: int) -> bool:
        return canonical_name(self.classes[number]) == PERSON


def read_description(path: Path, omissions: Omissions) -> Description:
    """Read the description of a dataset.

    :param path: the YAML file, or the folder of a dataset with only one.
    :param omissions: receives names that are not those of keypoints.
    :raises InvalidRequest: the file cannot be read, or it is unclear which file is meant; the message names the field.
    """
    file = _described_in(path) if path.is_dir() else path
    try:
        data = as_mapping(yaml.safe_load(read_text(file)), 'the file')
        count, dimensions = _shape(data)
        classes = _classes(data.get('names'))
        return Description(
            file=file,
            classes=classes,
            keypoints=count,
            dimensions=dimensions,
            order=_order(data, count, classes, omissions.within(file)),
            places=_places(file.parent, data),
        )
    except yaml.YAMLError as error:
        raise InvalidRequest(f'{file} is not YAML: {" ".join(str(error).split())}') from None
    except InvalidRequest as error:
        raise error if str(file) in str(error) else InvalidRequest(f'{file}: {error}') from None


def _described_in(folder: Path) -> Path:
    """:raises InvalidRequest: several YAML files of the folder describe a dataset."""
    files = sorted(path for path in folder.glob('*.y*ml') if not path.name.startswith('.'))
    usual = folder / DATA
    found = [path for path in files if path == usual or _is_description(path)]
    if len(found) > 1:
        raise InvalidRequest(
            f'{folder} has several datasets, {", ".join(path.name for path in found)}: name one of them'
        )
    return found[0] if found else next(iter(files), usual)


def _is_description(path: Path) -> bool:
    try:
        data = yaml.safe_load(read_text(path))
    except (yaml.YAMLError, InvalidRequest):
        return False
    return isinstance(data, Mapping) and 'names' in data and not data.keys().isdisjoint(_SPLITS)


def _shape(data: Mapping[str, Any]) -> tuple[int, int]:
    shape = data.get('kpt_shape')
    count, dimensions = shape if isinstance(shape, list) and len(shape) == 2 else (0, 0)
    is_known = count in _COUNTS or (isinstance(count, int) and 'kpt_names' in data and 0 < count <= KEYPOINT_COUNT)
    if not is_known or dimensions not in (2, 3):
        raise InvalidRequest(
            f'kpt_shape must be [133, 3], with 17 or 2 as alternatives, not {data.get("kpt_shape")!r}; kpt_names can '
            'name other keypoints'
        )
    return int(count), int(dimensions)


def _classes(names: object) -> dict[int, str]:
    by_class = dict(enumerate(names)) if isinstance(names, list) else as_mapping(names, 'names')
    classes = {as_integer(key, f'the class of {name} in names'): str(name) for key, name in by_class.items()}
    if not any(canonical_name(name) == PERSON for name in classes.values()):
        raise InvalidRequest(f'names has no class {PERSON}, only {", ".join(classes.values())[:100]}')
    return classes


def _order(
    data: Mapping[str, Any], count: int, classes: Mapping[int, str], omissions: Omissions
) -> Sequence[int | None]:
    """Return the keypoint indices: those of `kpt_names`, or else COCO's, which `flip_idx` must not contradict."""
    if 'kpt_names' in data:
        named = as_mapping(data['kpt_names'], 'kpt_names')
        persons = {str(number) for number, name in classes.items() if canonical_name(name) == PERSON}
        lists = {str(names): names for key, names in named.items() if str(key) in persons}
        if len(lists) != 1:
            raise InvalidRequest(f'kpt_names must have one list of names for the class {PERSON}, not {len(lists)}')
        texts = [as_text(name, 'a name in kpt_names') for name in as_list(next(iter(lists.values())), 'kpt_names')]
        if len(texts) != count:
            raise InvalidRequest(f'kpt_names has {len(texts)} names, and kpt_shape {count} keypoints')
        order = read_order(texts, 'kpt_names', omissions)
        return range(count) if order is None else order
    mirrored = data.get('flip_idx')
    if mirrored is not None and mirrored != list(FLIP_INDICES[:count]):
        raise InvalidRequest(
            f"flip_idx is not that of COCO's {count} keypoints, so their order is unknown: name them with kpt_names"
        )
    return range(count)


def _places(folder: Path, data: Mapping[str, Any]) -> list[str]:
    places = [place for split in _SPLITS for place in _image_folders(folder, data, split)]
    if not places:
        raise InvalidRequest('none of train, val and test names a folder of images')
    return places


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
        if split == 'train' and not any((folder / path).is_dir() for path in (place, label_path(PurePosixPath(place)))):
            raise InvalidRequest(f'{split} is {entry}, but there is no such folder')
        yield place


def label_path(image: PurePosixPath) -> PurePosixPath:
    """Return the label file of an image, or the label folder of an image folder: `labels` for the last `images`."""
    parts = list(image.parts)
    if 'images' in parts:
        last = len(parts) - 1 - parts[::-1].index('images')
        parts[last] = 'labels'
    path = PurePosixPath(*parts)
    return path.with_suffix('.txt') if image.suffix.lower() in IMAGE_SUFFIXES else path
