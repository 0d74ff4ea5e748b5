"""Read and write this project's own JSON format, which loses nothing.

    {"format": "wholebody-poses", "version": 1,
     "images": [{"id": 1, "file_name": "a.jpg", "width": 640, "height": 480, "extra": {…},
                 "origin": {"task": 12, "project": 3, "data": {…}, "annotation": 5, "annotator": 1, "updated_at": "…"},
                 "persons": [{"box": [x1, y1, x2, y2], "box_score": null, "extra": {…},
                              "keypoints": {"nose": [x, y, visibility, score], …}}]}]}

Coordinates are pixels of the upright image. `box` is null for a person without a box. The visibility is 0 not labelled,
1 hidden or 2 visible. The score is the model's, null for points that an annotator set. Keypoints without any
information are left out. `origin` is null for an unlabelled image; for a prediction it has `prediction` and
`model_version` instead of `annotation`, `annotator` and `updated_at`.
"""

import math
from collections.abc import Callable, Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any, Final, TypeVar, Unpack

import numpy as np

from detector.errors import InvalidRequest
from detector.pose.names import keypoint_indices
from detector.pose.pose import FloatArray
from detector.pose.skeleton import KEYPOINT_NAMES

from .fields import as_list, as_mapping, as_numbers, read_as
from .labelled_image import IMAGE_FIELDS, LabelledImage, Options, check_ids, fields_of, read_fields
from .omissions import Omissions, numbered
from .person import HIDDEN, NOT_LABELLED, VISIBLE, Person, Size

T = TypeVar('T')

FORMAT: Final = 'wholebody-poses'
_VERSION: Final = 1
_FILE_FIELDS: Final = ('format', 'version', 'images')
_PERSON_FIELDS: Final = ('box', 'box_score', 'keypoints', 'extra')


def to_poses_json(
    images: Sequence[LabelledImage], origins: Mapping[int, Mapping[str, Any] | None] | None = None
) -> dict[str, Any]:
    """Return the content of a file, ready for JSON.

    :param origins: origin of the labels of each image, by image id.
    :raises InvalidRequest: two images have the same id.
    """
    check_ids(images)
    known = origins or {}
    return {
        'format': FORMAT,
        'version': _VERSION,
        'images': [
            {
                **fields_of(image),
                'origin': known.get(image.id),
                **({'extra': dict(image.extra)} if image.extra else {}),
                'persons': [_person(person) for person in image.persons],
            }
            for image in images
        ],
    }


def _person(person: Person) -> dict[str, Any]:
    rows = zip(KEYPOINT_NAMES, person.keypoints, person.visibility.tolist(), person.scores, strict=True)
    return {
        'box': None if person.box is None else [_shortest(number) for number in person.box],
        'box_score': None if person.box_score is None else _shortest(person.box_score),
        'keypoints': {
            name: [*map(_shortest, place), visibility, _shortest(score) if math.isfinite(score) else None]
            for name, place, visibility, score in rows
            if visibility != NOT_LABELLED or place.any() or math.isfinite(score)
        },
        **({'extra': dict(person.extra)} if person.extra else {}),
    }


def _shortest(number: float) -> float:
    """Drop the digits that a float32 does not need to be restored exactly."""
    return float(str(np.float32(number)))


def read_poses_json(path: Path, omissions: Omissions | None = None, **options: Unpack[Options]) -> list[LabelledImage]:
    """Read a file; see `from_poses_json`.

    :raises InvalidRequest: the file cannot be read or does not have this format; the message names the field.
    """
    report = (omissions or Omissions()).within(path)
    return read_as(path, lambda content: from_poses_json(content, report, **options))


def from_poses_json(
    content: object, omissions: Omissions | None = None, **options: Unpack[Options]
) -> list[LabelledImage]:
    """Return the images and persons of a file.

    An image is left out if one of its persons cannot be read, since it would teach that nobody is there.

    :param content: the parsed JSON.
    :param omissions: receives what is left out; None: raise it.
    :raises InvalidRequest: the content does not have this format; the message names the field.
    """
    report = omissions or Omissions()
    size_of = options.get('size_of', lambda _: None)
    file = as_mapping(content, 'the file')
    if file.get('format') != FORMAT or file.get('version') != _VERSION:
        raise InvalidRequest(f'format and version must be {FORMAT} and {_VERSION}')
    _name_unknown(file, _FILE_FIELDS, 'the file', report)
    entries = numbered(as_list(file.get('images'), 'images'), 'images')
    images = report.each('image', entries, lambda value, where: _read_image(value, where, report, size_of))
    check_ids(images)
    return images


def _name_unknown(entry: Mapping[str, Any], known: Iterable[str], where: str, report: Omissions) -> None:
    for name in entry.keys() - set(known):
        report.add('field', f'{where}.{name[:60]} is not a field of this format')


def _read_image(value: object, where: str, report: Omissions, size_of: Callable[[str], Size | None]) -> LabelledImage:
    entry = as_mapping(value, where)
    _name_unknown(entry, (*IMAGE_FIELDS, 'origin', 'persons', 'extra'), where, report)
    entries = list(numbered(as_list(entry.get('persons'), f'{where}.persons'), f'{where}.persons'))
    owner = f'{where} ({entry.get("file_name")})'
    persons = report.whole(
        'person', entries, lambda person, place: _read_person(person, place, report), owner=owner, noun='person'
    )
    return LabelledImage(
        **read_fields(entry, where, size_of),
        persons=persons,
        extra=as_mapping(entry.get('extra', {}), f'{where}.extra'),
    )


def _read_person(value: object, where: str, report: Omissions) -> Person:
    entry = as_mapping(value, where)
    _name_unknown(entry, _PERSON_FIELDS, where, report)
    for name in ('box', 'box_score'):
        if name not in entry:
            raise InvalidRequest(f'{where}.{name} is missing; null says that the person has none')
    empty = Person.empty()
    places: dict[int, str] = {}
    rows = as_mapping(entry.get('keypoints'), f'{where}.keypoints')
    for (name, row), index in zip(rows.items(), keypoint_indices(list(rows)), strict=True):
        place = f'{where}.keypoints.{name}'
        if index is None:
            raise InvalidRequest(f'{place}: there is no keypoint of this name')
        if index in places:
            raise InvalidRequest(f'{place} and {places[index]} are the same keypoint {KEYPOINT_NAMES[index]}')
        places[index] = place
        numbers = as_list(row, place)
        if len(numbers) not in (3, 4):
            raise InvalidRequest(f'{place} must be x, y, visibility and score, not {len(numbers)} values')
        x, y, visibility = as_numbers(numbers[:3], place, count=3)
        if visibility not in (NOT_LABELLED, HIDDEN, VISIBLE):
            raise InvalidRequest(f'{place}: the visibility must be 0, 1 or 2, not {visibility}')
        empty.keypoints[index] = x, y
        empty.visibility[index] = visibility
        empty.scores[index] = _read_score(numbers[3] if len(numbers) == 4 else None, place, math.nan)
    return Person(
        box=_read_box(entry['box'], f'{where}.box'),
        box_score=_read_score(entry['box_score'], f'{where}.box_score', None),
        keypoints=empty.keypoints,
        visibility=empty.visibility,
        scores=empty.scores,
        extra=as_mapping(entry.get('extra', {}), f'{where}.extra'),
    )


def _read_score(value: object, where: str, unknown: T) -> float | T:
    return unknown if value is None else as_numbers([value], where)[0]


def _read_box(value: object, where: str) -> FloatArray | None:
    if value is None:
        return None
    x1, y1, x2, y2 = as_numbers(value, where, count=4)
    if x2 < x1 or y2 < y1:
        raise InvalidRequest(f'{where} must be x1, y1, x2, y2 with x1 ≤ x2 and y1 ≤ y2')
    return np.array([x1, y1, x2, y2], dtype=np.float32)
