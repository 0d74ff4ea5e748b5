"""Categories of COCO files, which say what an annotation shows and which keypoints it has in which order."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Final

from detector.errors import InvalidRequest
from detector.pose.names import canonical_name, keypoint_indices
from detector.pose.skeleton import KEYPOINT_COUNT, KEYPOINT_NAMES, PERSON

from .coco_person import BODY, PART_FIELDS
from .fields import as_integer, as_list, as_mapping, as_text
from .omissions import Omissions, numbered

_STANDARD: Final = (list(range(BODY.stop)), list(range(KEYPOINT_COUNT)))


@dataclass(frozen=True, slots=True, kw_only=True)
class Category:
    """A category.

    :param where: name of the category in error messages.
    :param is_person: True if its annotations are persons.
    :param count: number of keypoints that it names; 0 if it names none.
    :param order: keypoint index of each point of `keypoints`, None for an unknown point; None: the standard order.
    """

    where: str
    name: str
    is_person: bool
    count: int
    order: Sequence[int | None] | None

    def check(self, annotation: Mapping[str, Any], where: str) -> None:
        """Check that the category says which keypoints an annotation has.

        :raises InvalidRequest: it does not.
        """
        numbers = annotation.get('keypoints')
        length = len(numbers) if isinstance(numbers, list) else 0
        has_parts = any(annotation.get(name) is not None for name in PART_FIELDS)
        if self.count == 0:
            if length == 3 * BODY.stop and not has_parts:
                raise InvalidRequest(
                    f'{where}.keypoints has {BODY.stop} points, and {self.where} does not name them: add their names '
                    'in their order as the field keypoints'
                )
        elif numbers is None:
            raise InvalidRequest(
                f'{where}.keypoints is missing, although {self.where} names keypoints; [] says that none is labelled'
            )
        elif length not in (0, 3 * self.count) and not (self.order is None and length == 3 * KEYPOINT_COUNT):
            raise InvalidRequest(
                f'{where}.keypoints has {length} numbers; the {self.count} keypoints that {self.where} names have '
                f'{3 * self.count}'
            )


def check_has_form(annotation: Mapping[str, Any], where: str) -> None:
    """Check that an annotation is a person's although its file has no categories.

    :raises InvalidRequest: it could be another object, or its keypoints those of another skeleton.
    """
    numbers = annotation.get('keypoints')
    has_all = isinstance(numbers, list) and len(numbers) == 3 * KEYPOINT_COUNT
    if not has_all and not any(annotation.get(name) is not None for name in PART_FIELDS):
        raise InvalidRequest(
            f'{where} could be any object, since the file has no categories: add the category {PERSON} with the names '
            'of its keypoints'
        )


def read_categories(file: Mapping[str, Any], omissions: Omissions) -> dict[int, Category] | None:
    """Return the categories by id; None if the file has none.

    :param omissions: receives the names that are not those of keypoints.
    :raises InvalidRequest: a category cannot be read, or none is that of persons.
    """
    if 'categories' not in file:
        return None
    found: dict[int, Category] = {}
    for value, where in numbered(as_list(file['categories'], 'categories'), 'categories'):
        entry = as_mapping(value, where)
        number = as_integer(entry.get('id'), f'{where}.id')
        if number in found:
            raise InvalidRequest(f'{where} has the id {number} of {found[number].where}')
        found[number] = _read_category(entry, where, omissions)
    if found and not any(category.is_person for category in found.values()):
        names = ', '.join(category.name for category in found.values())
        raise InvalidRequest(f'categories has no entry named {PERSON}, only {names[:100]}')
    return found or None


def _read_category(entry: Mapping[str, Any], where: str, omissions: Omissions) -> Category:
    name = as_text(entry.get('name'), f'{where}.name')
    is_person = canonical_name(name) == PERSON
    names = entry.get('keypoints')
    if not is_person or names is None:
        return Category(where=where, name=name, is_person=is_person, count=0, order=None)
    texts = [
        as_text(text, place) for text, place in numbered(as_list(names, f'{where}.keypoints'), f'{where}.keypoints')
    ]
    return Category(
        where=where,
        name=name,
        is_person=True,
        count=len(texts),
        order=read_order(texts, f'{where}.keypoints', omissions),
    )


def read_order(names: Sequence[str], where: str, omissions: Omissions) -> Sequence[int | None] | None:
    """Return the keypoint index of each name, None for an unknown name; None instead of the list for the standard.

    :param where: name of the list in messages.
    :param omissions: receives the unknown names.
    :raises InvalidRequest: no name is known, or two names stand for the same keypoint.
    """
    order = keypoint_indices(names)
    places = {index: number for number, index in reversed(list(enumerate(order)))}
    for number, index in enumerate(order):
        if index is not None and places[index] != number:
            raise InvalidRequest(
                f'{where}[{places[index]}] {names[places[index]]!r} and {where}[{number}] {names[number]!r} are both '
                f'{KEYPOINT_NAMES[index]}'
            )
    if names and not any(index is not None for index in order):
        raise InvalidRequest(f'{where} has no known keypoint, only {", ".join(names)[:100]}')
    for number, index in enumerate(order):
        if index is None:
            omissions.add(
                'name of a keypoint', f'{where}[{number}] {names[number][:60]!r} is not one of the 133 keypoints'
            )
    return None if order in _STANDARD else order
