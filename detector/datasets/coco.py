"""Read and write COCO-WholeBody files.

Files are written in the form of COCO-WholeBody: `keypoints` (17 of the body), `foot_kpts`, `face_kpts`, `lefthand_kpts`
and `righthand_kpts` hold x, y and a flag per keypoint, beside the boxes and valid flags of the parts. The flat form has
all 133 in `keypoints`.

An imported annotation is kept whole in the person's `extra['coco']`. Unchanged fields are exported as they were;
changed fields and all that depends on them are computed again.
"""

import itertools
from collections import defaultdict
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Final, Unpack

from detector.errors import InvalidRequest
from detector.pose.skeleton import BODY_EDGES, KEYPOINT_NAMES, PERSON, SKELETON_EDGES
from detector.wording import counted

from .coco_category import Category, check_has_form, read_categories
from .coco_person import BODY, read_person, third_numbers, write_person
from .fields import as_integer, as_list, as_mapping, as_number, read_as
from .labelled_image import (
    IMAGE_FIELDS,
    LabelledImage,
    Options,
    check_ids,
    fields_of,
    read_fields,
    unique_ids,
    writable,
)
from .omissions import Omissions, numbered
from .person import Person, Size
from .third_numbers import ThirdNumbers

_CATEGORY: Final = 1
_LICENSE: Final = 'license_entry'
"""Key in an image's `extra`: the entry of the file's `licenses` that the image's `license` refers to."""
_IDS_PER_IMAGE: Final = 1000
"""Factor between an image's id and the new ids of its persons, which therefore do not depend on other images."""


def to_coco(
    images: Sequence[LabelledImage], omissions: Omissions | None = None, *, flat: bool = False
) -> dict[str, Any]:
    """Return the content of a COCO-WholeBody file, ready for JSON.

    Coordinates are in pixels, rounded to 0.01 as in COCO. A person without a box gets the box around the labelled
    keypoints; empty persons are left out. Imported ids are kept; equal input gives equal ids.

    :param omissions: receives what is left out; None: raise it.
    :param flat: True to put all 133 keypoints into `keypoints` (399 numbers) instead of one field per part.
    :raises InvalidRequest: two images have the same id.
    """
    check_ids(images)
    images = writable(images, omissions or Omissions())
    licenses = _Licenses()
    pairs = [(image, write_person(person, image.size, flat=flat)) for image in images for person in image.persons]
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


def read_coco(path: Path, omissions: Omissions | None = None, **options: Unpack[Options]) -> list[LabelledImage]:
    """Read a COCO file; see `from_coco`.

    :raises InvalidRequest: the file cannot be read, is not JSON, or is not a COCO file with persons; the message names
        the field.
    """
    report = (omissions or Omissions()).within(path)
    return read_as(path, lambda content: from_coco(content, report, **options))


def from_coco(content: object, omissions: Omissions | None = None, **options: Unpack[Options]) -> list[LabelledImage]:
    """Return the images and persons of a COCO file.

    It may have the form of COCO-WholeBody, all 133 keypoints in `keypoints`, or other keypoints that the category
    names. An image is left out if one of its persons cannot be read, since it would teach that nobody is there.
    Annotations of categories other than persons are left out.

    :param content: the parsed JSON.
    :param omissions: receives what is left out; None: raise it.
    :raises InvalidRequest: the content is not a COCO file with persons; the message names the field.
    """
    report = omissions or Omissions()
    file = as_mapping(content, 'the file')
    entries = list(numbered(as_list(file.get('images'), 'images'), 'images'))
    labels = _labels_by_image(file)
    reader = _Reader(
        labels=labels,
        categories=read_categories(file, report),
        licenses=_license_entries(file),
        report=report,
        size_of=options.get('size_of', lambda _: None),
    )
    reader.find_scores(options.get('threshold'))
    images = report.each('image', entries, reader.image)
    check_ids(images)
    stray = labels.keys() - reader.ids
    for image_id in sorted(stray):
        where = labels[image_id][0][1]
        count = len(labels[image_id])
        report.add(
            'person', f'{where}.image_id {image_id} is not the id of an image ({counted(count, "annotation")})', count
        )
    report.add_classes(reader.others)
    return images


@dataclass(slots=True, kw_only=True)
class _Reader:
    """Reads the images of a file.

    :param labels: annotations with their names, by image id.
    :param categories: categories by id; None if the file has none.
    :param ids: ids of the entries of `images`, also of those that are left out.
    :param threshold: least confidence of a labelled keypoint, if the file holds confidences.
    :param others: names of the annotations by category other than persons.
    """

    labels: Mapping[int, list[tuple[Mapping[str, Any], str]]]
    categories: Mapping[int, Category] | None
    licenses: Mapping[int, Mapping[str, Any]]
    report: Omissions
    size_of: Callable[[str], Size | None]
    ids: set[int] = field(default_factory=set)
    threshold: float | None = None
    others: dict[str, list[str]] = field(default_factory=lambda: defaultdict(list))

    def find_scores(self, threshold: float | None) -> None:
        """Find out if the file holds confidences.

        :raises InvalidRequest: see `ThirdNumbers.threshold`.
        """
        found = ThirdNumbers()
        for annotation, where in (label for labels in self.labels.values() for label in labels):
            number = as_number(annotation.get('category_id'))
            category = (self.categories or {}).get(number) if isinstance(number, int) else None
            found.note(third_numbers(annotation, None if category is None else category.order), where)
        self.threshold = found.threshold(threshold)

    def image(self, value: object, where: str) -> LabelledImage:
        """:raises InvalidRequest: a field has the wrong type or value, or a person of the image cannot be read."""
        entry = as_mapping(value, where)
        number = as_integer(entry.get('id'), f'{where}.id')
        self.ids.add(number)
        labels = self.labels.get(number, [])
        owner = f'{where} ({entry.get("file_name")})'
        read = self.report.whole('person', labels, self._person, owner=owner, noun='annotation')
        persons = [person for person in read if person is not None]
        return _read_image(entry, where, persons, self.licenses, self.size_of)

    def _person(self, annotation: Mapping[str, Any], where: str) -> Person | None:
        """Return the person of an annotation; None, and note it, if its category is not a person's."""
        if self.categories is None:
            check_has_form(annotation, where)
            return read_person(annotation, where, threshold=self.threshold)
        number = as_integer(annotation.get('category_id'), f'{where}.category_id')
        category = self.categories.get(number)
        if category is None:
            raise InvalidRequest(f'{where}.category_id {number} is not the id of a category')
        if not category.is_person:
            self.others[category.name].append(f'{where}.category_id {number}')
            return None
        category.check(annotation, where)
        return read_person(annotation, where, category.order, threshold=self.threshold)


def _labels_by_image(file: Mapping[str, Any]) -> dict[int, list[tuple[Mapping[str, Any], str]]]:
    """:raises InvalidRequest: an annotation has no image, so that no image is sure to have all of its persons."""
    labels: dict[int, list[tuple[Mapping[str, Any], str]]] = defaultdict(list)
    for entry, where in numbered(as_list(file.get('annotations'), 'annotations'), 'annotations'):
        annotation = as_mapping(entry, where)
        labels[as_integer(annotation.get('image_id'), f'{where}.image_id')].append((annotation, where))
    return dict(labels)


def _read_image(
    entry: Mapping[str, Any],
    where: str,
    persons: list[Person],
    licenses: Mapping[Any, Mapping[str, Any]],
    size_of: Callable[[str], Size | None],
) -> LabelledImage:
    extra = {key: value for key, value in entry.items() if key not in IMAGE_FIELDS}
    number = extra.get('license')
    if isinstance(number, int) and number in licenses:
        extra[_LICENSE] = dict(licenses[number])
    return LabelledImage(**read_fields(entry, where, size_of), persons=persons, extra=extra)


def _license_entries(file: Mapping[str, Any]) -> dict[int, Mapping[str, Any]]:
    entries = file.get('licenses')
    entries = entries if isinstance(entries, list) else []
    return {entry['id']: entry for entry in entries if isinstance(entry, Mapping) and isinstance(entry.get('id'), int)}
