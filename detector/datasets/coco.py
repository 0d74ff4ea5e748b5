"""Read and write COCO-WholeBody files.

Files are written in the form of COCO-WholeBody: `keypoints` (17 of the body), `foot_kpts`, `face_kpts`, `lefthand_kpts`
and `righthand_kpts` hold x, y and a flag per keypoint, beside the boxes and valid flags of the parts. The flat form has
all 133 in `keypoints`.

An imported annotation is kept whole in the person's `extra['coco']`. Unchanged fields are exported as they were;
changed fields and all that depends on them are computed again.
"""

import itertools
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any, Final

from detector.errors import InvalidRequest
from detector.pose.names import canonical_name
from detector.pose.skeleton import (
    BODY_EDGES,
    KEYPOINT_COUNT,
    KEYPOINT_INDEX,
    KEYPOINT_NAMES,
    PERSON,
    SKELETON_EDGES,
)

from .coco_person import BODY, read_person, write_person
from .fields import as_integer, as_list, as_mapping, read_as
from .labelled_image import IMAGE_FIELDS, LabelledImage, check_ids, fields_of, read_fields, unique_ids
from .person import Person

_CATEGORY: Final = 1
_LICENSE: Final = 'license_entry'
"""Key in an image's `extra`: the entry of the file's `licenses` that the image's `license` refers to."""
_IDS_PER_IMAGE: Final = 1000
"""Factor between an image's id and the new ids of its persons, which therefore do not depend on other images."""


def to_coco(images: Sequence[LabelledImage], *, flat: bool = False) -> dict[str, Any]:
    """Return the content of a COCO-WholeBody file, ready for JSON.

    Coordinates are in pixels, rounded to 0.01 as in COCO. A person without a box gets the box around the labelled
    keypoints; empty persons are left out. Imported ids are kept; equal input gives equal ids.

    :param flat: True to put all 133 keypoints into `keypoints` (399 numbers) instead of one field per part.
    :raises InvalidRequest: two images have the same id.
    """
    check_ids(images)
    licenses = _Licenses()
    pairs = [
        (image, annotation)
        for image in images
        for person in image.persons
        if (annotation := write_person(person, image.size, flat=flat)) is not None
    ]
    ids = unique_ids(
        [annotation.get('id') for _, annotation in pairs],
        [itertools.count(image.id * _IDS_PER_IMAGE + 1) for image, _ in pairs],
    )
    annotations = [
        annotation | {'image_id': image.id, 'category_id': _CATEGORY, 'id': number}
        for (image, annotation), number in zip(pairs, ids, strict=True)
    ]
    return {
        'info': {'description': 'Whole-body poses', 'version': '1.0'},
        'licenses': licenses.entries,
        'categories': [_category(flat)],
        'images': [_image(image, licenses) for image in images],
        'annotations': annotations,
    }


def _category(flat: bool) -> dict[str, Any]:
    names, edges = (KEYPOINT_NAMES, SKELETON_EDGES) if flat else (KEYPOINT_NAMES[BODY.slice], BODY_EDGES)
    return {
        'supercategory': PERSON,
        'id': _CATEGORY,
        'name': PERSON,
        'keypoints': list(names),
        'skeleton': [[first + 1, second + 1] for first, second in edges],
    }


class _Licenses:
    """The licenses of a dataset; entries from different files may have had the same id."""

    def __init__(self) -> None:
        self.entries: list[dict[str, Any]] = []

    def id_of(self, entry: Mapping[str, Any]) -> Any:
        for known in self.entries:
            if {**known, 'id': None} == {**entry, 'id': None}:
                return known['id']
        taken = {known['id'] for known in self.entries}
        number = entry.get('id')
        if not isinstance(number, int) or number in taken:
            number = next(candidate for candidate in range(1, len(taken) + 2) if candidate not in taken)
        self.entries.append({**entry, 'id': number})
        self.entries.sort(key=lambda known: int(known['id']))
        return number


def _image(image: LabelledImage, licenses: _Licenses) -> dict[str, Any]:
    extra = dict(image.extra)
    entry = extra.pop(_LICENSE, None)
    if isinstance(entry, Mapping):
        extra['license'] = licenses.id_of(entry)
    return extra | fields_of(image)


def read_coco(path: Path) -> list[LabelledImage]:
    """Read a COCO file.

    :raises InvalidRequest: the file cannot be read, is not JSON, or is not a COCO file with persons; the message names
        the field.
    """
    return read_as(path, from_coco)


def from_coco(content: object) -> list[LabelledImage]:
    """Return the images and persons of a COCO file.

    It may have the form of COCO-WholeBody, all 133 keypoints in `keypoints`, or the 17 of COCO. Annotations of
    categories other than persons are left out.

    :param content: the parsed JSON.
    :raises InvalidRequest: the content is not a COCO file with persons; the message names the field.
    """
    file = as_mapping(content, 'the file')
    entries = [as_mapping(entry, f'images[{n}]') for n, entry in enumerate(as_list(file.get('images'), 'images'))]
    licenses = _license_entries(file)
    images = [_read_image(entry, f'images[{number}]', licenses) for number, entry in enumerate(entries)]
    check_ids(images)
    orders = _orders(file)
    persons: dict[int, list[Person]] = {image.id: [] for image in images}
    for number, entry in enumerate(as_list(file.get('annotations'), 'annotations')):
        where = f'annotations[{number}]'
        annotation = as_mapping(entry, where)
        category = annotation.get('category_id')
        if orders is not None and not (isinstance(category, int | float) and category in orders):
            continue
        image_id = as_integer(annotation.get('image_id'), f'{where}.image_id')
        if image_id not in persons:
            raise InvalidRequest(f'{where}.image_id {image_id} is not the id of an image')
        order = None if orders is None else orders[as_integer(category, f'{where}.category_id')]
        persons[image_id].append(read_person(annotation, where, order))
    return [replace(image, persons=persons[image.id]) for image in images]


def _read_image(entry: Mapping[str, Any], where: str, licenses: Mapping[Any, Mapping[str, Any]]) -> LabelledImage:
    extra = {key: value for key, value in entry.items() if key not in IMAGE_FIELDS}
    number = extra.get('license')
    if isinstance(number, int) and number in licenses:
        extra[_LICENSE] = dict(licenses[number])
    return LabelledImage(**read_fields(entry, where), persons=[], extra=extra)


def _license_entries(file: Mapping[str, Any]) -> dict[int, Mapping[str, Any]]:
    entries = file.get('licenses')
    entries = entries if isinstance(entries, list) else []
    return {entry['id']: entry for entry in entries if isinstance(entry, Mapping) and isinstance(entry.get('id'), int)}


def _orders(file: Mapping[str, Any]) -> dict[int, Sequence[int] | None] | None:
    """Return the keypoint indices by category id; None instead of indices for the standard order.

    :return: None if the file has no categories.
    """
    if 'categories' not in file:
        return None
    orders: dict[int, Sequence[int] | None] = {}
    names: list[str] = []
    for number, entry in enumerate(as_list(file['categories'], 'categories')):
        category = as_mapping(entry, f'categories[{number}]')
        names.append(str(category.get('name')))
        if canonical_name(names[-1]) == PERSON:
            orders[as_integer(category.get('id'), f'categories[{number}].id')] = _order(category.get('keypoints'))
    if names and not orders:
        raise InvalidRequest(f'categories has no entry named {PERSON}, only {", ".join(names)[:100]}')
    return orders or None


def _order(names: object) -> Sequence[int] | None:
    if not isinstance(names, list):
        return None
    order = [KEYPOINT_INDEX.get(canonical_name(str(name)) or '', -1) for name in names]
    is_usual = order == list(range(len(order))) and len(order) in (BODY.stop, KEYPOINT_COUNT)
    return order if min(order, default=-1) >= 0 and len(set(order)) == len(order) and not is_usual else None
