"""Convert between an annotation of COCO-WholeBody and a person.

The third number of a keypoint is a visibility for body and feet: 0 not labelled, 1 hidden, 2 visible. For face and
hands the dataset puts a reliability there, 0..1, and does not say which keypoints are hidden. Files of this project
hold a visibility for these parts, too. A part with visibilities is recognised by a 2 among its flags, or else by the
field `kpts_flags`.
"""

from collections.abc import Iterator, Mapping, Sequence
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray

from detector.errors import InvalidRequest
from detector.pose.pose import FloatArray
from detector.pose.skeleton import KEYPOINT_COUNT, KEYPOINT_NAMES, PART_BY_NAME, Part

from .fields import as_integer, as_mapping, as_numbers
from .labelled_image import box_of
from .person import HIDDEN, MOVED_PERCENT, NOT_LABELLED, VISIBLE, Person, Size

BODY: Final = PART_BY_NAME['body']
_PARTS: Final = {
    'foot': PART_BY_NAME['feet'],
    'face': PART_BY_NAME['face'],
    'lefthand': PART_BY_NAME['left_hand'],
    'righthand': PART_BY_NAME['right_hand'],
}
"""Parts other than the body by the prefix of their fields."""
PART_FIELDS: Final = tuple(f'{name}_kpts' for name in _PARTS)
"""Fields with the keypoints of the parts other than the body."""
_POINT_FIELDS: Final = ('keypoints', *PART_FIELDS)
_RELIABILITY_START: Final = PART_BY_NAME['face'].start
"""Index from which COCO-WholeBody gives keypoints a reliability."""
_FLAGGED: Final = tuple(part for name, part in _PARTS.items() if name != 'foot')
_MARK: Final = 'kpts_flags'
_IS_VISIBILITY: Final = 'visibility'
_EXTRA: Final = 'coco'
_DIGITS: Final = 2
"""Decimals of pixel coordinates, as in COCO; integers and hundredths survive the way through Label Studio."""

Triples = dict[int, list[float]]
"""x, y and flag by keypoint index, exactly as in the file."""


def third_numbers(annotation: Mapping[str, Any], order: Sequence[int | None] | None) -> Iterator[object]:
    """Yield the third numbers of body and feet, unchecked; those of face and hands may be reliabilities.

    :param order: keypoint index of each point of `keypoints`, None for unknown points; None: the standard order.
    """
    for name, indices in (('keypoints', order or range(KEYPOINT_COUNT)), ('foot_kpts', PART_BY_NAME['feet'].indices)):
        numbers = annotation.get(name)
        for index, number in zip(indices, numbers[2::3] if isinstance(numbers, list) else (), strict=False):
            if index is not None and index < _RELIABILITY_START:
                yield number


def read_person(
    annotation: Mapping[str, Any],
    where: str,
    order: Sequence[int | None] | None = None,
    *,
    threshold: float | None = None,
) -> Person:
    """Return the person of an annotation.

    :param where: name of the annotation in error messages.
    :param order: keypoint index of each point of `keypoints`, None for unknown points; None: the standard order of 17
        or 133.
    :param threshold: least confidence of a labelled keypoint, if the third numbers are confidences.
    :raises InvalidRequest: a field has the wrong type, length or value; the message names it.
    """
    triples = _triples(annotation, where, order)
    _check_is_complete(annotation, triples, where)
    table = _table(triples)
    kept = {key: value for key, value in annotation.items() if key not in ('image_id', 'category_id')}
    kept |= {key: as_numbers(kept[key], f'{where}.{key}') for key in ('bbox', *_POINT_FIELDS) if kept.get(key)}
    if order is not None and 'keypoints' in kept:
        kept['keypoints'] = [number for index in range(KEYPOINT_COUNT) for number in triples.get(index, [0, 0, 0])]
        kept = {key: value for key, value in kept.items() if not key.endswith('_kpts')}
    corners = _corners(annotation, where)
    if threshold is not None:
        score = annotation.get('score')
        score = None if score is None else as_numbers([score], f'{where}.score')[0]
        return Person.predicted(table, where, threshold=threshold, box=corners, box_score=score)
    is_marked = annotation.get(_MARK) == _IS_VISIBILITY
    _check_flags(table[:, 2], where, is_marked=is_marked)
    visibility = _visibility(table[:, 2], is_marked=is_marked)
    return Person(
        box=corners,
        box_score=None,
        keypoints=np.where((visibility == NOT_LABELLED)[:, None], 0, table[:, :2]).astype(np.float32),
        visibility=visibility,
        scores=np.full(KEYPOINT_COUNT, np.nan, dtype=np.float32),
        extra={_EXTRA: kept},
    )


def _check_is_complete(annotation: Mapping[str, Any], triples: Triples, where: str) -> None:
    """:raises InvalidRequest: the annotation states keypoints that it does not have, or says nothing about a box."""
    if 'bbox' not in annotation:
        raise InvalidRequest(f'{where}.bbox is missing; null says that the person has no box')
    for name, part in _PARTS.items():
        has_points = annotation.get(f'{name}_kpts') is not None or all(index in triples for index in part.indices)
        if annotation.get(f'{name}_valid') and not has_points:
            raise InvalidRequest(f'{where}.{name}_kpts is missing, although {name}_valid is true')
    stated = annotation.get('num_keypoints')
    if stated is not None:
        number = as_integer(stated, f'{where}.num_keypoints')
        points = [as_numbers(annotation.get(name) or [], f'{where}.{name}') for name in _POINT_FIELDS]
        count = sum(flag > 0 for numbers in points for flag in numbers[2::3])
        if number > count:
            raise InvalidRequest(f'{where}.num_keypoints is {number}, but {count} keypoints are labelled')


def _check_flags(flags: NDArray[np.float64], where: str, *, is_marked: bool) -> None:
    """:raises InvalidRequest: a flag is neither a visibility nor, for face and hands, a reliability."""
    is_visibility = np.isin(flags, (NOT_LABELLED, HIDDEN, VISIBLE))
    for part in () if is_marked else _FLAGGED:
        if _is_reliability(flags, part):
            is_visibility[part.slice] |= (flags[part.slice] >= 0) & (flags[part.slice] <= 1)
    for index in np.flatnonzero(~is_visibility)[:1].tolist():
        raise InvalidRequest(
            f'{where}: the visibility of {KEYPOINT_NAMES[index]} must be 0, 1 or 2, not {flags[index]:g}'
        )


def _triples(annotation: Mapping[str, Any], where: str, order: Sequence[int | None] | None = None) -> Triples:
    parts = {f'{name}_kpts': part for name, part in _PARTS.items() if annotation.get(f'{name}_kpts') is not None}
    numbers = as_numbers(annotation.get('keypoints') or [], f'{where}.keypoints')
    count = len(numbers) // 3
    if order is None or not numbers:
        order = range(count)
        if count not in ((0, BODY.stop) if parts else (0, BODY.stop, KEYPOINT_COUNT)) or len(numbers) % 3:
            raise InvalidRequest(
                f'{where}.keypoints has {len(numbers)} numbers; the 17 keypoints of COCO have 51, the 133 of '
                'COCO-WholeBody 399'
            )
    triples = {index: numbers[3 * n : 3 * n + 3] for n, index in enumerate(order) if index is not None}
    for name, part in parts.items():
        if not triples.keys().isdisjoint(part.indices):
            raise InvalidRequest(f'{where} has the same keypoints in keypoints and in {name}')
        numbers = as_numbers(annotation[name], f'{where}.{name}', count=3 * len(part.indices))
        triples |= {index: numbers[3 * n : 3 * n + 3] for n, index in enumerate(part.indices)}
    return triples


def _table(triples: Triples) -> NDArray[np.float64]:
    """Return x, y and flag of all keypoints, shape (133, 3); zeros for those that are missing."""
    table = np.zeros((KEYPOINT_COUNT, 3))
    for index, triple in triples.items():
        table[index] = triple
    return table


def _visibility(flags: NDArray[np.float64], *, is_marked: bool) -> NDArray[np.int8]:
    visibility = np.select([flags <= 0, flags == 1], [NOT_LABELLED, HIDDEN], VISIBLE).astype(np.int8)
    for part in _FLAGGED:
        if not is_marked and _is_reliability(flags, part):
            visibility[part.slice] = np.where(flags[part.slice] > 0, VISIBLE, NOT_LABELLED)
    return visibility


def _is_reliability(flags: NDArray[np.float64], part: Part) -> bool:
    return part in _FLAGGED and not (flags[part.slice] >= VISIBLE).any()


def _corners(annotation: Mapping[str, Any], where: str) -> FloatArray | None:
    """Return the box; None if the annotation has none, which it says with null or with zeros."""
    if annotation.get('bbox') is None:
        return None
    x, y, width, height = as_numbers(annotation['bbox'], f'{where}.bbox', count=4)
    if not any((x, y, width, height)):
        return None
    if width <= 0 or height <= 0:
        raise InvalidRequest(f'{where}.bbox has the width {width} and the height {height}; both must be above 0')
    return np.array([x, y, x + width, y + height], dtype=np.float32)


def write_person(person: Person, size: Size, *, flat: bool) -> dict[str, Any]:
    """Return the annotation of a person without image id or category id.

    It has an `id` only if the import had one.

    :param person: has a box or a labelled keypoint.
    """
    corners = box_of(person, size)
    assert corners is not None
    original, triples = _original(person)
    is_same = _unchanged(person, original, triples, size)
    flags, is_marked = _flags(person, original, triples, is_same)
    places = [triples[n][:2] if is_same[n] and n in triples else _place(person, n) for n in range(KEYPOINT_COUNT)]
    values = {index: [*places[index], flags[index]] for index in range(KEYPOINT_COUNT)}
    has_its_box = _has_its_box(person, original, size)
    annotation = original | _box_fields(corners, original if has_its_box else {})
    annotation |= _body_fields(original, values, is_same, flat)
    for name, part in _PARTS.items():
        fields = _part_fields(name, part, values)
        if not flat and is_same[part.slice].all():
            kept = (f'{name}_box', f'{name}_valid')
            fields |= {key: original[key] for key in kept if original.get(key) is not None}
        annotation |= fields
    omitted = {_MARK} if not is_marked else set()
    omitted |= {f'{name}_{field}' for name in _PARTS for field in ('box', 'kpts', 'valid')} if flat else set()
    omitted |= set() if has_its_box else {'segmentation'}
    marks = {_MARK: _IS_VISIBILITY} if is_marked else {}
    return {key: value for key, value in (annotation | marks).items() if key not in omitted}


def _place(person: Person, index: int) -> list[float]:
    if person.visibility[index] == NOT_LABELLED:
        return [0.0, 0.0]
    return [round(float(coordinate), _DIGITS) for coordinate in person.keypoints[index]]


def _original(person: Person) -> tuple[dict[str, Any], Triples]:
    """Return the imported annotation and its keypoints; empty if damaged, since Label Studio lets users edit them."""
    try:
        original = dict(as_mapping(person.extra.get(_EXTRA), _EXTRA))
        _corners(original, _EXTRA)
        return original, _triples(original, _EXTRA)
    except InvalidRequest:
        return {}, {}


def _unchanged(person: Person, original: Mapping[str, Any], triples: Triples, size: Size) -> NDArray[np.bool_]:
    """Return the mask of keypoints that have not moved since the import beyond the editor's rounding, shape (133,)."""
    table = _table(triples)
    before = _visibility(table[:, 2], is_marked=original.get(_MARK) == _IS_VISIBILITY)
    is_near = _near(person.keypoints, table[:, :2], size).all(axis=1)
    is_same: NDArray[np.bool_] = (before == person.visibility) & (is_near | (before == NOT_LABELLED))
    return is_same


def _near(points: FloatArray, others: NDArray[np.float64], size: Size) -> NDArray[np.bool_]:
    """Compare points of shape (N, 2), both clipped to the image as Label Studio does."""
    moved: NDArray[np.float64] = np.abs(points.clip(0, size).astype(np.float64) - others.clip(0, size))
    is_near: NDArray[np.bool_] = moved <= np.array(size) * MOVED_PERCENT / 100
    return is_near


def _flags(
    person: Person, original: Mapping[str, Any], triples: Triples, is_same: NDArray[np.bool_]
) -> tuple[list[float], bool]:
    """Return the flag of each keypoint, and True if the annotation must be marked as holding visibilities.

    Imported flags are kept, and new ones follow their kind as long as that kind can express the visibility.
    """
    is_marked = original.get(_MARK) == _IS_VISIBILITY
    before = _table(triples)[:, 2]
    flags: list[float] = person.visibility.tolist()
    for part in (BODY, *_PARTS.values()):
        has_reliability = not is_marked and _is_reliability(before, part) and (before[part.slice] > 0).any()
        for index in part.indices:
            if is_same[index] and index in triples:
                flags[index] = triples[index][2]
            elif has_reliability:
                flags[index] = min(flags[index], 1)
    if np.array_equal(_visibility(np.array(flags, dtype=np.float64), is_marked=is_marked), person.visibility):
        return flags, is_marked
    plain = person.visibility.astype(np.float64)
    return person.visibility.tolist(), not np.array_equal(_visibility(plain, is_marked=False), person.visibility)


def _has_its_box(person: Person, original: Mapping[str, Any], size: Size) -> bool:
    before = _corners(original, _EXTRA)
    if before is None or person.box is None:
        return before is None and person.box is None
    return bool(_near(person.box.reshape(2, 2), before.reshape(2, 2).astype(np.float64), size).all())


def _box_fields(corners: FloatArray, original: Mapping[str, Any]) -> dict[str, Any]:
    bbox = _xywh(corners) if _corners(original, _EXTRA) is None else original['bbox']
    area = original.get('area')
    return {'bbox': bbox, 'area': round(bbox[2] * bbox[3], 2 * _DIGITS) if area is None else area}


def _body_fields(
    original: Mapping[str, Any], values: Triples, is_same: NDArray[np.bool_], flat: bool
) -> dict[str, Any]:
    shown = KEYPOINT_COUNT if flat else BODY.stop
    keypoints = [number for index in range(shown) for number in values[index]]
    count = sum(values[index][2] > 0 for index in range(shown))
    is_kept = len(keypoints) == len(original.get('keypoints') or []) and is_same[:shown].all()
    if is_kept and original.get('num_keypoints') is not None:
        count = original['num_keypoints']
    return {'keypoints': keypoints, 'num_keypoints': count, 'iscrowd': original.get('iscrowd', 0)}


def _xywh(corners: Sequence[float] | NDArray[Any]) -> list[float]:
    x1, y1, x2, y2 = (round(float(number), _DIGITS) for number in corners)
    return [x1, y1, round(x2 - x1, _DIGITS), round(y2 - y1, _DIGITS)]


def _part_fields(name: str, part: Part, values: Triples) -> dict[str, Any]:
    triples = [values[index] for index in part.indices]
    places = np.array([triple[:2] for triple in triples if triple[2] > 0]).reshape(-1, 2)
    box = _xywh(np.concatenate([places.min(axis=0), places.max(axis=0)])) if len(places) else [0.0, 0.0, 0.0, 0.0]
    fields = {
        f'{name}_box': box,
        f'{name}_kpts': [number for triple in triples for number in triple],
        f'{name}_valid': bool(len(places)),
    }
    return {key: value for key, value in fields.items() if key != 'foot_box'}
