"""Convert persons to regions, as Label Studio draws them, and regions back to persons.

Coordinates of regions are in percent of the upright image, from its upper left corner: x_percent = 100 · x / width.
"""

import math
import uuid
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import replace
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray

from detector.datasets.person import HIDDEN, MOVED_PERCENT, NOT_LABELLED, VISIBLE, Person, Size
from detector.pose.names import canonical_name
from detector.pose.pose import FloatArray
from detector.pose.skeleton import KEYPOINT_INDEX, KEYPOINT_NAMES, LIMB_PARENTS

from .config import BoxControl, LabelingConfig, PointControl, SkeletonControl

Region = dict[str, Any]
_Points = dict[int, tuple[float, float, int, float]]
"""x and y in pixels, visibility and score by keypoint index."""

_DIGITS: Final = 6
_POINT_PERCENT: Final = 0.5
"""Diameter with which the editor draws a keypoint, in percent of the image."""
_MARGIN: Final = 0.1
"""Distance outside a person's box at which a point without a parent still belongs to it, in shares of the box's
sides."""
MAX_NUMBER: Final = 1e6
"""Largest absolute number that is read (percent, degrees, pixels of a side); larger ones overflow in computations."""

# ---------------------------------------------------------------- to Label Studio


def to_results(persons: Sequence[Person], config: LabelingConfig, size: Size) -> list[Region]:
    """Return the regions of persons in the style that a labeling config offers, rectangles last.

    The editor draws earlier regions on top, so with rectangles last, a click on a keypoint moves the keypoint. Every
    call makes new ids, since a suggestion with a known id would replace that region.
    """
    points: list[Region] = []
    boxes: list[Region] = []
    common = {'to_name': config.image, 'original_width': size[0], 'original_height': size[1], 'image_rotation': 0}
    for person in persons:
        person_id = uuid.uuid4().hex[:10]
        box = None if config.boxes is None else _box_region(person, config.boxes, size, common | {'id': person_id})
        group = {'meta': {'person': person_id}} if box is None else {'parentID': person_id}
        regions: list[Region] = []
        if config.skeletons is not None:
            regions += _skeleton_regions(person, config.skeletons, size, person_id, common | group)
        elif config.points is not None:
            regions += _point_regions(person, config.points, size, person_id, common | group)
        bearer = regions[0] if box is None and regions else box
        if person.extra and bearer is not None:
            bearer['meta'] = _meta(bearer) | {'extra': dict(person.extra)}
        points += regions
        boxes += [] if box is None else [box]
    return points + boxes


def _box_region(person: Person, control: BoxControl, size: Size, common: Region) -> Region | None:
    if person.box is None:
        return None
    (x1, y1), (x2, y2) = _percent(person.box.reshape(2, 2), size).tolist()
    value = {'x': x1, 'y': y1, 'width': round(x2 - x1, _DIGITS), 'height': round(y2 - y1, _DIGITS), 'rotation': 0}
    return common | {
        'from_name': control.name,
        'type': 'rectanglelabels',
        'value': value | {'rectanglelabels': [control.label]},
        **_score(person.box_score),
    }


def _point_regions(
    person: Person, control: PointControl, size: Size, person_id: str, common: Region
) -> Iterable[Region]:
    percent = _percent(person.keypoints, size).tolist()
    is_generic = not control.indices
    for index, label in control.labels.items():
        if person.visibility[index] == NOT_LABELLED:
            continue
        notes = [KEYPOINT_NAMES[index]] if is_generic else []
        notes += ['v=1'] if person.visibility[index] == HIDDEN else []
        meta = common.get('meta', {}) | ({'text': notes} if notes else {})
        x, y = percent[index]
        yield common | {
            'id': f'{person_id}-{index}',
            'from_name': control.name,
            'type': 'keypointlabels',
            'value': {'x': x, 'y': y, 'width': _POINT_PERCENT, 'keypointlabels': [label]},
            **({'meta': meta} if meta else {}),
            **_score(person.scores[index]),
        }


def _skeleton_regions(
    person: Person, control: SkeletonControl, size: Size, person_id: str, common: Region
) -> Iterable[Region]:
    percent = _percent(person.keypoints, size).tolist()
    for number, (label, indices) in enumerate(control.labels.items()):
        yield common | {
            'id': f'{person_id}-{number}',
            'from_name': control.name,
            'type': 'vectorlabels',
            'value': {
                'vertices': [
                    _vertex(index, percent[index], person, limb_from)
                    for index, limb_from in zip(indices, _tree(indices), strict=True)
                ],
                'closed': False,
                'vectorlabels': [label],
            },
            **_score(person.box_score),
        }


def _vertex(index: int, place: Sequence[float], person: Person, limb_from: int | None) -> Region:
    x, y = place
    vertex = {
        'id': KEYPOINT_NAMES[index],
        'x': x,
        'y': y,
        'prevPointId': None if limb_from is None else KEYPOINT_NAMES[limb_from],
        'isBezier': False,
        'v': int(person.visibility[index]),
        **_score(person.scores[index]),
    }
    # where the point was put: the editor keeps v = 0 when the annotator moves the point to its place
    return vertex | {'unseen': [x, y]} if person.visibility[index] == NOT_LABELLED else vertex


def _tree(indices: Sequence[int]) -> list[int | None]:
    """Return the preceding keypoint of each keypoint of a region; None for the root."""
    known = set(indices)
    parents: list[int | None] = []
    for index in indices:
        parent = LIMB_PARENTS[index]
        while parent is not None and parent not in known:
            parent = LIMB_PARENTS[parent]
        parents.append(parent if parent is not None or index == indices[0] else indices[0])
    return parents


def _percent(points: FloatArray, size: Size) -> NDArray[np.float64]:
    """Convert pixels, shape (N, 2), to percent, clipped to the image."""
    percent = np.clip(points.astype(np.float64) * 100 / np.array(size, dtype=np.float64), 0, 100)
    return np.round(percent, _DIGITS)


def _score(score: float | np.floating[Any] | None) -> Region:
    if score is None or not math.isfinite(score):
        return {}
    return {'score': round(min(max(float(score), 0.0), 1.0), 4)}


# ---------------------------------------------------------------- from Label Studio


def from_results(
    results: Iterable[Mapping[str, Any]], config: LabelingConfig, size: Size | None = None
) -> list[Person]:
    """Return the persons in the regions of an annotation or a prediction; other regions are ignored.

    Points belong to the person that their `parentID` or the `person` in their `meta` names. A point without either,
    which an annotator has added, goes to the smallest box around it whose person lacks this keypoint, or else to a
    person without a box.

    :param size: size of the image in pixels; None: take it from the regions.
    """
    reader = _Reader(config, size)
    regions = [region for region in results if isinstance(region, Mapping) and isinstance(region.get('value'), Mapping)]
    for region in regions:
        reader.read_box(region)
    loose = [read for region in regions for read in reader.read_points(region)]
    for placed in loose:
        reader.adopt(*placed)
    return [person for person in reader.persons.values() if not person.is_empty]


class _Reader:
    def __init__(self, config: LabelingConfig, size: Size | None) -> None:
        self.persons: dict[str, Person] = {}
        self._config = config
        self._size = size

    def read_box(self, region: Mapping[str, Any]) -> None:
        control, value = self._config.boxes, region['value']
        if control is None or region.get('from_name') != control.name:
            return
        labels = value.get('rectanglelabels')
        if isinstance(labels, list) and control.label not in labels:
            return
        corners = _corners(value, self._size_of(region))
        if corners is None:
            return
        self.persons[str(region.get('id'))] = replace(
            Person.empty(), box=corners, box_score=drawable(region.get('score')), extra=_extra(region)
        )

    def read_points(self, region: Mapping[str, Any]) -> Iterable[tuple[_Points, Mapping[str, Any]]]:
        """Give the points of a region to their person, or yield them with its extra fields if the region names none."""
        points = self._points_of(region)
        if not points:
            return
        parent = region.get('parentID')
        group = _meta(region).get('person')
        if isinstance(parent, str) and parent in self.persons:
            self._give(parent, points, _extra(region))
        elif isinstance(group, str):
            self._give(group, points, _extra(region))
        else:
            yield points, _extra(region)

    def adopt(self, points: _Points, extra: Mapping[str, Any]) -> None:
        """Give points without a parent to the person that they most likely belong to."""
        centre = np.mean([(x, y) for x, y, _, _ in points.values()], axis=0)
        lacking = {
            key: person for key, person in self.persons.items() if not any(person.visibility[index] for index in points)
        }
        around = [(key, person.box) for key, person in lacking.items() if person.box is not None]
        around = [(key, box) for key, box in around if box is not None and _contains(box, centre)]
        loose = [key for key, person in lacking.items() if person.box is None]
        key = min(around, key=lambda pair: _area(pair[1]))[0] if around else next(iter(loose), uuid.uuid4().hex)
        self._give(key, points, extra)

    def _give(self, key: str, points: _Points, extra: Mapping[str, Any]) -> None:
        person = self.persons.get(key, Person.empty())
        keypoints, visibility, scores = person.keypoints.copy(), person.visibility.copy(), person.scores.copy()
        for index, (x, y, seen, score) in points.items():
            keypoints[index] = x, y
            visibility[index] = seen
            scores[index] = score
        self.persons[key] = replace(
            person, keypoints=keypoints, visibility=visibility, scores=scores, extra=person.extra or extra
        )

    def _points_of(self, region: Mapping[str, Any]) -> _Points:
        points, skeletons = self._config.points, self._config.skeletons
        if points is not None and region.get('from_name') == points.name:
            return _read_point(region, points, self._size_of(region))
        if skeletons is not None and region.get('from_name') == skeletons.name:
            return _read_skeleton(region, self._size_of(region))
        return {}

    def _size_of(self, region: Mapping[str, Any]) -> Size:
        return self._size or size_in(region, 'original_width', 'original_height') or (100, 100)


def size_in(item: Mapping[str, Any], width: str, height: str) -> Size | None:
    """Return the image size from two fields; None if they do not hold it."""
    sides = item.get(width), item.get(height)
    return sides if all(type(side) is int and 0 < side <= MAX_NUMBER for side in sides) else None  # type: ignore[return-value]


def _corners(value: Mapping[str, Any], size: Size) -> FloatArray | None:
    """Return the upright box around a rectangle that is turned clockwise about its upper left corner."""
    numbers = [drawable(value.get(key)) for key in ('x', 'y', 'width', 'height')]
    if any(side is None for side in numbers):
        return None
    x, y, width, height = (side or 0.0 for side in numbers)
    scale = np.array(size) / 100
    angle = math.radians(drawable(value.get('rotation')) or 0.0)
    along = np.array([math.cos(angle), math.sin(angle)]) * width * scale[0]
    down = np.array([-math.sin(angle), math.cos(angle)]) * height * scale[1]
    origin = np.array([x, y]) * scale
    corners = np.stack([origin, origin + along, origin + down, origin + along + down])
    return np.concatenate([corners.min(axis=0), corners.max(axis=0)]).astype(np.float32)


def _read_point(region: Mapping[str, Any], control: PointControl, size: Size) -> _Points:
    value, notes = region['value'], _meta(region).get('text')
    notes = [str(note) for note in notes] if isinstance(notes, list) else [str(notes)]
    labels = value.get('keypointlabels')
    index = control.indices.get(str(labels[0])) if isinstance(labels, list) and labels else None
    if index is None:  # with a generic label, the note names the keypoint
        index = next((KEYPOINT_INDEX[note] for note in notes if note in KEYPOINT_INDEX), None)
    place = _place(value, size)
    if index is None or place is None:
        return {}
    visibility = HIDDEN if any(note.strip().lower() in ('v=1', 'hidden', 'occluded') for note in notes) else VISIBLE
    return {index: (*place, visibility, _score_of(region))}


def _read_skeleton(region: Mapping[str, Any], size: Size) -> _Points:
    found: _Points = {}
    vertices = region['value'].get('vertices')
    for vertex in vertices if isinstance(vertices, list) else ():
        if not isinstance(vertex, Mapping):
            continue
        index = KEYPOINT_INDEX.get(canonical_name(str(vertex.get('id'))) or '')
        place = _place(vertex, size)
        if index is not None and place is not None:
            found[index] = (*place, _visibility(vertex), _score_of(vertex))
    return found


def _visibility(vertex: Mapping[str, Any]) -> int:
    visibility = vertex.get('v', VISIBLE)
    before = vertex.get('unseen')
    if visibility == NOT_LABELLED and isinstance(before, list) and len(before) == 2:
        moved = max(abs(float(vertex[axis]) - (drawable(old) or 0.0)) for axis, old in zip('xy', before, strict=True))
        return VISIBLE if moved > MOVED_PERCENT else NOT_LABELLED
    return visibility if visibility in (NOT_LABELLED, HIDDEN) else VISIBLE


def _place(value: Mapping[str, Any], size: Size) -> tuple[float, float] | None:
    """Convert a point from percent to pixels."""
    x, y = drawable(value.get('x')), drawable(value.get('y'))
    return None if x is None or y is None else (x * size[0] / 100, y * size[1] / 100)


def _score_of(item: Mapping[str, Any]) -> float:
    score = drawable(item.get('score'))
    return math.nan if score is None else score


def drawable(value: object) -> float | None:
    """Return the value if it is a number within ±`MAX_NUMBER`, else None."""
    return float(value) if isinstance(value, int | float) and abs(value) <= MAX_NUMBER else None


def _meta(region: Mapping[str, Any]) -> dict[str, Any]:
    meta = region.get('meta')
    return meta if isinstance(meta, dict) else {}


def _extra(region: Mapping[str, Any]) -> dict[str, Any]:
    extra = _meta(region).get('extra')
    return extra if isinstance(extra, dict) else {}


def _contains(box: FloatArray, point: NDArray[Any]) -> bool:
    margin = _MARGIN * (box[2:] - box[:2])
    return bool((point >= box[:2] - margin).all() and (point <= box[2:] + margin).all())


def _area(box: FloatArray) -> float:
    return float((box[2:] - box[:2]).prod())
