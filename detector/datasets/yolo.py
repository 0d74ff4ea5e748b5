"""Read and write datasets in ultralytics' yolo-pose format.

A dataset has `data.yaml`, `images/{train,val}/NAME.jpg` and `labels/{train,val}/NAME.txt`. A label file has a line per
person: class, centre and size of the box, then x, y and visibility of each keypoint; coordinates are shares of the
image's sides. Label files do not contain the size of the image. `images.json`, which ultralytics ignores, holds it with
the image's id and original name.
"""

import json
from collections import Counter
from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import Any, Final, Unpack

import numpy as np
import yaml
from numpy.typing import NDArray

from detector.errors import InvalidRequest
from detector.pose.skeleton import FLIP_INDICES, KEYPOINT_COUNT, KEYPOINT_NAMES, PERSON

from .fields import as_mapping, read_json, read_text
from .image_folder import upright_size
from .labelled_image import (
    LabelledImage,
    Options,
    box_of,
    check_has_place,
    check_ids,
    fields_of,
    file_names,
    new_folder,
    read_fields,
    split_of,
    writable,
    write_images,
)
from .omissions import Omissions
from .person import Person, Size
from .yolo_description import DATA, IMAGE_SUFFIXES, Description, label_path, read_description
from .yolo_labels import Labels

_INDEX: Final = 'images.json'
_CLASSES: Final = 'classes.txt'
"""File that annotation tools write beside the labels; it lists the classes again."""
_DIGITS: Final = 7
_OUTSIDE: Final = 0.5
"""Distance outside the image in pixels beyond which a keypoint is dropped, since the format cannot express it."""


def write_yolo(
    folder: Path,
    images: Sequence[LabelledImage],
    omissions: Omissions | None = None,
    *,
    val_share: float,
    image_bytes: Callable[[LabelledImage], bytes] | None = None,
) -> list[LabelledImage]:
    """Write a dataset, and return the images with the persons that it contains.

    A person without a box gets the box around the labelled keypoints. Persons without a place in the image and
    keypoints outside it are left out. An image without persons has an empty label file.

    :param folder: created if missing; must be empty.
    :param omissions: receives what is left out; None: raise it.
    :param val_share: share of the images that are for validation, 0..1; the image's name decides.
    :param image_bytes: returns the image file to write; None: write labels only.
    :raises InvalidRequest: the folder is not empty or cannot be created, or two images have the same id.
    """
    check_ids(images)
    new_folder(folder)
    report = omissions or Omissions()
    written = writable(images, report, _check_place)
    index: dict[str, dict[str, Any]] = {}
    for split in ('train', 'val'):
        (folder / 'images' / split).mkdir(parents=True)
        (folder / 'labels' / split).mkdir(parents=True)
    files: list[tuple[LabelledImage, Path]] = []
    for image, name in zip(written, file_names(written), strict=True):
        split = split_of(image.file_name, val_share)
        label = folder / 'labels' / split / PurePosixPath(name).with_suffix('.txt')
        lines = [_line(person, image, report) for person in image.persons]
        label.write_text(''.join(f'{line}\n' for line in lines), encoding='utf-8')
        index[f'images/{split}/{name}'] = fields_of(image)
        files.append((image, folder / 'images' / split / name))
    (folder / _INDEX).write_text(json.dumps(index, indent=1), encoding='utf-8')
    (folder / DATA).write_text(_data(folder), encoding='utf-8')
    if image_bytes is not None:
        write_images(files, image_bytes, report)
    return written


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


def _check_place(person: Person, image: LabelledImage) -> None:
    """:raises InvalidRequest: the person has no place, or its box has no area inside the image."""
    check_has_place(person, image)
    low, high = _corners(person, image.size)
    if (high <= low).any():
        raise InvalidRequest(f'{image.file_name}: the box of a person has no area inside the image')


def _corners(person: Person, size: Size) -> NDArray[np.float64]:
    """Return the corners of a person's box in shares of the image, clipped to it, shape (2, 2)."""
    corners = box_of(person, size)
    assert corners is not None
    return (corners.reshape(2, 2).astype(np.float64) / np.array(size, dtype=np.float64)).clip(0, 1)


def _line(person: Person, image: LabelledImage, report: Omissions) -> str:
    low, high = _corners(person, image.size)
    sides = np.array(image.size, dtype=np.float64)
    beyond: NDArray[np.float64] = np.abs(person.keypoints - sides / 2).astype(np.float64) - sides / 2
    is_inside = beyond.max(axis=1) <= _OUTSIDE
    is_written = is_inside & person.labelled
    outside = person.labelled & ~is_inside
    if outside.any():
        names = ', '.join(KEYPOINT_NAMES[index] for index in np.flatnonzero(outside)[:3].tolist())
        line = f'{image.file_name}: keypoints outside the image, which YOLO cannot express: {names}'
        report.add('keypoint', line, int(outside.sum()))
    points = (person.keypoints.astype(np.float64) / sides).clip(0, 1)
    numbers = [_written(number) for number in (*(low + high) / 2, *(high - low))]
    for (x, y), visibility, has_place in zip(points, person.visibility, is_written.tolist(), strict=True):
        numbers += [_written(x), _written(y), str(int(visibility))] if has_place else ['0', '0', '0']
    return ' '.join(['0', *numbers])


def _written(number: float) -> str:
    return f'{number:.{_DIGITS}f}'.rstrip('0').rstrip('.')


def read_yolo(path: Path, omissions: Omissions | None = None, **options: Unpack[Options]) -> list[LabelledImage]:
    """Read the images and persons of all splits of a dataset.

    Image sizes come from the image files, or else from `images.json`. An image is left out if a line of its label file
    cannot be read or if it has none, since it would teach that nobody is there. Objects of other classes and hidden
    files are left out.

    :param path: the folder of the dataset, or its YAML file.
    :param omissions: receives what is left out; None: raise it.
    :raises InvalidRequest: the dataset cannot be read; the message names the file and the fault.
    """
    report = omissions or Omissions()
    form = read_description(path, report)
    files = _Files.of(form, report)
    labels = Labels(form=form)
    labels.find_scores([files.label(name) for name in files.names], options.get('threshold'))
    images = report.each('image', ((name,) for name in files.names), lambda name: files.read(name, labels))
    report.add_classes(labels.others)
    check_ids(images)
    return images


@dataclass(slots=True, kw_only=True)
class _Files:
    """The files of a dataset.

    :param index: entries of `images.json` by image path.
    :param names: paths of the images, relative to the dataset.
    :param new_ids: ids of the images that the index lacks, by path.
    :param shared: label files that belong to several images.
    """

    folder: Path
    report: Omissions
    index: Mapping[str, Mapping[str, Any]]
    names: Sequence[str]
    new_ids: Mapping[str, int]
    shared: Mapping[Path, int]

    @classmethod
    def of(cls, form: Description, report: Omissions) -> '_Files':
        """Find the files of a dataset, and report those that belong to none of its images."""
        index, damaged = _index(form.folder, report)
        found = {name for name in _visible(form.folder, IMAGE_SUFFIXES) if _is_below(name, form.places)}
        listed = {name for name in index if _is_below(name, form.places) and '..' not in name.split('/')}
        names = sorted((found | listed) - damaged)
        first = 1 + max((entry['id'] for entry in index.values()), default=0)
        new_ids = {name: number for number, name in enumerate((n for n in names if n not in index), first)}
        labels = Counter(form.folder / label_path(PurePosixPath(name)) for name in names)
        files = cls(folder=form.folder, report=report, index=index, names=names, new_ids=new_ids, shared=labels)
        files.report_elsewhere(form, index)
        files.report_stray(form, damaged)
        return files

    def label(self, name: str) -> Path:
        return self.folder / label_path(PurePosixPath(name))

    def read(self, name: str, labels: Labels) -> LabelledImage:
        """Return an image.

        :raises InvalidRequest: the image, its size or its label file cannot be read.
        """
        path, label, known = self.folder / name, self.label(name), self.index.get(name)
        size = upright_size(path) if path.exists() or known is None else (known['width'], known['height'])
        fields = {'id': self.new_ids.get(name), 'file_name': PurePosixPath(name).name} if known is None else dict(known)
        if known is not None and (known['width'], known['height']) != size:
            stated = f'{known["width"]}×{known["height"]}'
            self.report.add(
                'size of an image', f'{_INDEX} says {stated} for {path}, which has {size[0]}×{size[1]} pixels'
            )
        if self.shared[label] > 1:
            raise InvalidRequest(f'{path} shares {label} with another image; rename one of the two, with a label file')
        if not label.exists():
            raise InvalidRequest(f'{path} has no label file {label}; an image without persons has an empty one')
        persons = labels.read(label, size, self.report)
        return LabelledImage(**fields | {'width': size[0], 'height': size[1]}, persons=persons)

    def report_elsewhere(self, form: Description, index: Iterable[str]) -> None:
        """Report images that no split names."""
        images = {*_visible(self.folder, IMAGE_SUFFIXES), *index}
        folders = Counter(str(PurePosixPath(name).parent) for name in images if not _is_below(name, form.places))
        for folder, count in sorted(folders.items()):
            self.report.add('image', f'{form.file}: train, val and test do not name the folder {folder}', count)

    def report_stray(self, form: Description, damaged: set[str]) -> None:
        """Report label files without an image, except lists of the classes that agree with the description."""
        known = {self.label(name) for name in (*self.names, *damaged)}
        for place in form.places:
            labels = label_path(PurePosixPath(place)).as_posix()
            for name in _visible(self.folder, {'.txt'}) if labels != place else ():
                path = self.folder / name
                if not _is_below(name, [labels]) or path in known:
                    continue
                if path.name == _CLASSES and read_text(path).split('\n') == [*form.classes.values(), '']:
                    continue
                image = PurePosixPath(place) / PurePosixPath(name).relative_to(labels).with_suffix('.*')
                self.report.add('file', f'{path} has no image {image}, so the size of the image is unknown')


def _index(folder: Path, report: Omissions) -> tuple[dict[str, dict[str, Any]], set[str]]:
    """Return the checked entries of `images.json` by image path, and the paths of entries that cannot be read."""
    path = folder / _INDEX
    if not path.exists():
        return {}, set()
    entries = as_mapping(read_json(path), str(path))

    def read(name: str, value: object) -> tuple[str, dict[str, Any]]:
        return name, read_fields(as_mapping(value, f'{path}: {name}'), f'{path}: {name}')

    index = dict(report.each('image', entries.items(), read))
    return index, entries.keys() - index.keys()


def _visible(folder: Path, suffixes: Collection[str]) -> list[str]:
    """Return the paths of the files with these suffixes below a folder, relative to it, without hidden files."""
    found = (path.relative_to(folder) for path in sorted(folder.rglob('*')) if path.suffix.lower() in suffixes)
    return [
        name.as_posix()
        for name in found
        if not any(part.startswith('.') for part in name.parts) and (folder / name).is_file()
    ]


def _is_below(name: str, places: Iterable[str]) -> bool:
    return any(place in ('', '.') or name.startswith(f'{place}/') for place in places)
