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
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Final

import numpy as np

from detector.errors import InvalidRequest
from detector.pose.names import canonical_name
from detector.pose.pose import FloatArray
from detector.pose.skeleton import KEYPOINT_INDEX, KEYPOINT_NAMES

from .fields import as_list, as_mapping, as_numbers, read_as
from .labelled_image import LabelledImage, check_ids, fields_of, read_fields
from .person import HIDDEN, NOT_LABELLED, VISIBLE, Person

FORMAT: Final = 'wholebody-poses'
_VERSION: Final = 1


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


def read_poses_json(path: Path) -> list[LabelledImage]:
    """Read a file.

    :raises InvalidRequest: the file cannot be read or does not have this format; the message names the field.
    """
    return read_as(path, from_poses_json)


def from_poses_json(content: object) -> list[LabelledImage]:
    """Return the images and persons of a file.

    :param content: the parsed JSON.
    :raises InvalidRequest: the content does not have this format; the message names the field.
    """
    file = as_mapping(content, 'the file')
    if file.get('format') != FORMAT or file.get('version') != _VERSION:
        raise InvalidRequest(f'format and version must be {FORMAT} and {_VERSION}')
    images = [_read_image(entry, f'images[{n}]') for n, entry in enumerate(as_list(file.get('images'), 'images'))]
    check_ids(images)
    return images


def _read_image(value: object, where: str) -> LabelledImage:
    entry = as_mapping(value, where)
    persons = as_list(entry.get('persons'), f'{where}.persons')
    return LabelledImage(
        **read_fields(entry, where),
        persons=[_read_person(person, f'{where}.persons[{number}]') for number, person in enumerate(persons)],
        extra=as_mapping(entry.get('extra', {}), f'{where}.extra'),
    )


def _read_person(value: object, where: str) -> Person:
    entry = as_mapping(value, where)
    empty = Person.empty()
    for name, row in as_mapping(entry.get('keypoints'), f'{where}.keypoints').items():
        place = f'{where}.keypoints.{name}'
        index = KEYPOINT_INDEX.get(canonical_name(name) or '')
        if index is None:
            raise InvalidRequest(f'{place}: there is no keypoint of this name')
        numbers = as_list(row, place)
        score = numbers[3] if len(numbers) == 4 else None
        x, y, visibility = as_numbers(numbers[:3], place, count=3)
        if visibility not in (NOT_LABELLED, HIDDEN, VISIBLE):
            raise InvalidRequest(f'{place}: the visibility must be 0, 1 or 2, not {visibility}')
        empty.keypoints[index] = x, y
        empty.visibility[index] = visibility
        empty.scores[index] = math.nan if score is None else as_numbers([score], place)[0]
    score = entry.get('box_score')
    return Person(
        box=_read_box(entry.get('box'), f'{where}.box'),
        box_score=None if score is None else as_numbers([score], f'{where}.box_score')[0],
        keypoints=empty.keypoints,
        visibility=empty.visibility,
        scores=empty.scores,
        extra=as_mapping(entry.get('extra', {}), f'{where}.extra'),
    )


def _read_box(value: object, where: str) -> FloatArray | None:
    if value is None:
        return None
    x1, y1, x2, y2 = as_numbers(value, where, count=4)
    if x2 < x1 or y2 < y1:
        raise InvalidRequest(f'{where} must be x1, y1, x2, y2 with x1 ≤ x2 and y1 ≤ y2')
    return np.array([x1, y1, x2, y2], dtype=np.float32)
