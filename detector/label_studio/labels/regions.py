"""Convert persons to regions, as Label Studio draws them, and regions back to persons.

Coordinates of regions are in percent of the upright image, from its upper left corner: x_percent = 100 · x / width.
"""

import uuid
from collections.abc import Container, Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any, Final, Literal

import numpy as np
from numpy.typing import NDArray

from detector.datasets.person import HIDDEN, NOT_LABELLED, VISIBLE, Person, Size
from detector.pose.names import canonical_name
from detector.pose.pose import FloatArray
from detector.pose.skeleton import KEYPOINT_INDEX, KEYPOINT_NAMES, PERSON
from detector.wording import counted

from .config import LabelingConfig
from .controls import BoxControl, Label, PointControl, SkeletonControl
from .placing import Piece, claims, place
from .values import (
    Points,
    Region,
    corners_of,
    drawable,
    extra_of,
    labels_of,
    meta_of,
    notes_of,
    place_of,
    score_field,
    score_of,
    size_in,
)
from .vertices import read_vertices, to_vertices

_DIGITS: Final = 6
_POINT_PERCENT: Final = 0.5
"""Diameter with which the editor draws a keypoint, in percent of the image."""
_NOTED: Final = 'person:'
"""Prefix of the keys of persons that regions name in their `meta`."""
_MAX_DEPTH: Final = 8
"""Number of parents above a region that are looked at."""
_HIDDEN_NOTES: Final = ('v=1', 'hidden', 'occluded')
"""Notes in a region's `meta` that say that its point is hidden."""

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
            regions += _skeleton_regions(person, config, config.skeletons, size, person_id, common | group)
        elif config.points is not None:
            regions += _point_regions(person, config, config.points, size, person_id, common | group)
        bearer = regions[0] if box is None and regions else box
        if person.extra and bearer is not None:
            bearer['meta'] = meta_of(bearer) | {'extra': dict(person.extra)}
        points += regions
        boxes += [] if box is None else [box]
    return points + boxes


def _box_region(person: Person, control: BoxControl, size: Size, common: Region) -> Region | None:
    if person.box is None:
        return None
    (x1, y1), (x2, y2) = _percent(person.box.reshape(2, 2), size).tolist()
    value = {'x': x1, 'y': y1, 'width': round(x2 - x1, _DIGITS), 'height': round(y2 - y1, _DIGITS), 'rotation': 0}
    return common | {
        'from_name': control.written.control,
        'type': 'rectanglelabels',
        'value': value | {'rectanglelabels': [control.written.text]},
        **score_field(person.box_score),
    }


def _point_regions(
    person: Person, config: LabelingConfig, control: PointControl, size: Size, person_id: str, common: Region
) -> Iterable[Region]:
    percent = _percent(person.keypoints, size).tolist()
    choice = None if config.visibility is None else config.visibility.written[HIDDEN]
    for index, label in control.written.items():
        if person.visibility[index] == NOT_LABELLED:
            continue
        is_hidden = person.visibility[index] == HIDDEN
        notes = [KEYPOINT_NAMES[index]] if control.is_generic else []
        notes += ['v=1'] if is_hidden and choice is None else []
        meta = common.get('meta', {}) | ({'text': notes} if notes else {})
        x, y = percent[index]
        value = {'x': x, 'y': y, 'width': _POINT_PERCENT}
        region = common | {'id': f'{person_id}-{index}'} | ({'meta': meta} if meta else {})
        yield region | {
            'from_name': label.control,
            'type': 'keypointlabels',
            'value': value | {'keypointlabels': [label.text]},
            **score_field(person.scores[index]),
        }
        if is_hidden and config.visibility is not None:
            named = {'from_name': config.visibility.name, 'type': 'choices'}
            yield region | named | {'value': value | {'choices': [choice]}}


def _skeleton_regions(
    person: Person, config: LabelingConfig, control: SkeletonControl, size: Size, person_id: str, common: Region
) -> Iterable[Region]:
    percent = _percent(person.keypoints, size).tolist()
    for number, (label, indices) in enumerate(control.written.items()):
        yield common | {
            'id': f'{person_id}-{number}',
            'from_name': label.control,
            'type': 'vectorlabels',
            'value': {
                'vertices': to_vertices(person, indices, percent, curved=hides_by_curve(config, label)),
                'closed': False,
                'vectorlabels': [label.text],
            },
            **score_field(_mean_score(person, indices)),
        }


def _mean_score(person: Person, indices: Sequence[int]) -> float | None:
    """Return the mean confidence of the labelled keypoints among some, or of all of them if none is labelled.

    :return: None if these have no confidence.
    """
    chosen = np.array(indices)
    scores = person.scores[chosen]
    labelled = person.labelled[chosen]
    considered = scores[labelled] if labelled.any() else scores
    known = considered[np.isfinite(considered)]
    return float(known.mean()) if known.size else None


def hides_by_curve(config: LabelingConfig, label: Label) -> bool:
    """Return True if a curve means a hidden point; elsewhere, annotators may have drawn it for its own sake."""
    return config.visibility is not None and config.skeletons is not None and label.control in config.skeletons.curved


def _percent(points: FloatArray, size: Size) -> NDArray[np.float64]:
    """Convert pixels, shape (N, 2), to percent, clipped to the image."""
    percent = np.clip(points.astype(np.float64) * 100 / np.array(size, dtype=np.float64), 0, 100)
    return np.round(percent, _DIGITS)


# ---------------------------------------------------------------- from Label Studio

Kind = Literal['box', 'point', 'skeleton', 'choice']


@dataclass(frozen=True, slots=True, kw_only=True)
class Reading:
    """The persons in the regions of an annotation or a prediction.

    :param unread: a phrase for each region of a pose that cannot be read, or only in part.
    """

    persons: list[Person]
    unread: list[str]

    @property
    def is_lost(self) -> bool:
        """True if regions describe persons, but none of them can be read."""
        return bool(self.unread) and not self.persons


def from_results(
    results: Iterable[Mapping[str, Any]], config: LabelingConfig, size: Size | None = None
) -> list[Person]:
    """Return the persons in the regions of an annotation or a prediction, see `read_results`."""
    return read_results(results, config, size).persons


def read_results(results: Iterable[Mapping[str, Any]], config: LabelingConfig, size: Size | None = None) -> Reading:
    """Read the regions of an annotation or a prediction; regions of other controls are ignored.

    Points belong to the person that their `parentID` or the `person` in their `meta` names, or else to the only person
    that they can belong to, see `placing`. The choice of visibility for a region counts for all of its points, that for
    a box for all points of its person. Each box and each labelled point of the regions is in a person or reported.

    :param size: size of the image in pixels; None: take it from the regions.
    """
    reader = _Reader(config, size)
    regions = [region for region in results if isinstance(region, Mapping) and isinstance(region.get('value'), Mapping)]
    kinds = [(region, kind_of(region, config)) for region in regions]
    known = {str(region.get('id')) for region, kind in kinds if kind != 'choice'}
    for region, kind in kinds:
        if kind == 'choice':
            reader.read_choice(region, known)
        elif kind == 'box':
            reader.read_box(region)
    reader.read_points([(region, kind) for region, kind in kinds if kind in ('point', 'skeleton')], known)
    return Reading(persons=reader.persons(), unread=reader.unread)


def kind_of(region: Mapping[str, Any], config: LabelingConfig) -> Kind | None:
    """Return what a region with a value describes; None if it does not belong to a pose.

    :param region: its labels need not be known.
    """
    name = str(region.get('from_name'))
    boxes, points, skeletons = config.boxes, config.points, config.skeletons
    if boxes is not None and name in {label.control for label in boxes.read}:
        labels = labels_of(region, 'rectanglelabels')
        return 'box' if labels is None or any(_is_person(boxes, name, label) for label in labels) else None
    if points is not None and name in {label.control for label in (*points.written.values(), *points.unknown)}:
        return 'point'
    if skeletons is not None and name in {label.control for label in (*skeletons.read, *skeletons.unknown)}:
        return 'skeleton'
    return 'choice' if config.visibility is not None and name == config.visibility.name else None


def _is_person(boxes: BoxControl, control: str, text: str) -> bool:
    return Label(control, text) in boxes.read or canonical_name(text) == PERSON


class _Reader:
    def __init__(self, config: LabelingConfig, size: Size | None) -> None:
        self.unread: list[str] = []
        self._config = config
        self._size = size
        self._persons: dict[str, Person] = {}
        self._choices: dict[str, int] = {}
        self._keys: set[str] = set()

    def persons(self) -> list[Person]:
        return [person for person in self._persons.values() if not person.is_empty]

    def read_choice(self, region: Mapping[str, Any], known: Container[str]) -> None:
        """Note the visibility that was chosen for a region.

        :param known: ids of the regions that a choice can be for.
        """
        control, choices = self._config.visibility, labels_of(region, 'choices') or []
        found = {control.read[choice] for choice in choices if choice in control.read} if control is not None else set()
        if len(found) != 1:
            shown = ', '.join(choices)[:60] or 'of nothing'
            self.unread.append(f'the choice {shown}{_of(region)}, which is no visibility')
        elif str(region.get('id')) not in known:
            self.unread.append(f'the choice {choices[0][:60]}{_of(region)} for a region that is not there')
        elif self._choices.setdefault(str(region.get('id')), seen := found.pop()) != seen:
            self.unread.append(f'the choice {choices[0][:60]}{_of(region)}, which contradicts another for the region')

    def read_box(self, region: Mapping[str, Any]) -> None:
        """Make a person of a box."""
        corners = corners_of(region['value'], self._size_of(region))
        if corners is None:
            self.unread.append(f'a box without coordinates{_of(region)}')
            return
        self._persons[self._new_key(region)] = replace(
            Person.empty(), box=corners, box_score=drawable(region.get('score')), extra=extra_of(region)
        )

    def read_points(self, regions: Sequence[tuple[Mapping[str, Any], Kind | None]], known: Container[str]) -> None:
        """Give the points of regions to the persons that their parents or groups name, or else to the only possible.

        :param known: ids of the regions that can be parents.
        """
        parents = {str(region.get('id')): region.get('parentID') for region, _ in regions}
        groups: dict[str, list[Piece]] = {}
        loose: list[Piece] = []
        for region, kind in regions:
            piece = self._skeleton(region) if kind == 'skeleton' else self._point(region)
            if piece is None:
                continue
            key = self._key_of(region, parents)
            if key is None or not piece.fits(self._persons.get(key, Person.empty())):
                loose.append(piece)
                continue
            self._give(key, piece)
            groups.setdefault(key, []).append(piece)
        for key, pieces in groups.items():
            if self._persons[key].box is not None or key.startswith(_NOTED):
                continue
            if sum(len(piece.points) for piece in pieces) == 1:
                del self._persons[key]
                loose += pieces
            elif key not in known:
                self._adopt(key, pieces)
        placed, left = place(loose, self._persons)
        self.unread += left
        for key, piece in placed:
            self._give(key, piece)

    def _adopt(self, key: str, pieces: Sequence[Piece]) -> None:
        """Give points whose parent is not there to the only box that they can belong to, else report them."""
        whole = replace(pieces[0], points={index: point for piece in pieces for index, point in piece.points.items()})
        owners = claims(whole, {other: person for other, person in self._persons.items() if person.box is not None})
        if len(owners) == 1:
            del self._persons[key]
            for piece in pieces:
                self._give(owners[0], piece)
        else:
            count = counted(len(whole.points), 'point')
            self.unread.append(f'{count} below the region {key[:40]}, which is not there; they are taken as a person')

    def _key_of(self, region: Mapping[str, Any], parents: Mapping[str, Any]) -> str | None:
        """Return the key of the person that a region names: its box, or the topmost region above it."""
        parent, top = region.get('parentID'), None
        for _ in range(_MAX_DEPTH):
            if not isinstance(parent, str) or parent == top:
                break
            if parent in self._persons:
                return parent
            parent, top = parents.get(parent), parent
        group = meta_of(region).get('person')
        return f'{_NOTED}{group}' if isinstance(group, str) else top

    def _new_key(self, region: Mapping[str, Any]) -> str:
        """Return the region's id, or a new key if it has no id or another region has the same."""
        key = str(region.get('id') or uuid.uuid4().hex)
        key = uuid.uuid4().hex if key in self._keys else key
        self._keys.add(key)
        return key

    def _give(self, key: str, piece: Piece) -> None:
        """Add points to a person; a point that the person already has is reported, not replaced."""
        person = self._persons.get(key, Person.empty())
        keypoints, visibility, scores = person.keypoints.copy(), person.visibility.copy(), person.scores.copy()
        choice = None if piece.is_chosen else self._choices.get(key)
        taken = [KEYPOINT_NAMES[index] for index in piece.points if person.visibility[index] != NOT_LABELLED]
        if taken:
            self.unread.append(f'{piece.what}, but its person already has {", ".join(taken)[:60]}')
        for index, (x, y, seen, score) in piece.points.items():
            if person.visibility[index] != NOT_LABELLED:
                continue
            keypoints[index] = x, y
            visibility[index] = seen if choice is None or (choice, seen) == (VISIBLE, HIDDEN) else choice
            scores[index] = score
        self._persons[key] = replace(
            person, keypoints=keypoints, visibility=visibility, scores=scores, extra=person.extra or piece.extra
        )

    def _point(self, region: Mapping[str, Any]) -> Piece | None:
        control, value = self._config.points, region['value']
        labels, notes = labels_of(region, 'keypointlabels') or [], notes_of(region)
        name = ', '.join(labels)[:60]
        indices = set() if control is None else {control.index_of(_label(region, text)) for text in labels}
        if control is not None and control.is_generic:  # the note names the keypoint
            indices = {KEYPOINT_INDEX[known] for note in notes if (known := canonical_name(note)) in KEYPOINT_INDEX}
        index = indices.pop() if len(indices) == 1 else None
        spot = place_of(value, self._size_of(region))
        if index is None or spot is None:
            fault = 'without coordinates' if spot is None else 'of no known keypoint'
            self.unread.append(f'a point {name}{_of(region)} {fault}')
            return None
        noted = HIDDEN if any(note.strip().lower() in _HIDDEN_NOTES for note in notes) else VISIBLE
        choice = self._choices.get(str(region.get('id')))
        seen = noted if choice is None else choice
        return self._piece(region, f'a point {name}', {index: (*spot, seen, score_of(region))}, is_skeleton=False)

    def _skeleton(self, region: Mapping[str, Any]) -> Piece | None:
        control, name = self._config.skeletons, ', '.join(labels_of(region, 'vectorlabels') or [])[:60]
        label = _label(region, name)
        indices = () if control is None else control.read.get(label, ())
        curved, choice = hides_by_curve(self._config, label), self._choices.get(str(region.get('id')))
        points, faults = read_vertices(
            region['value'], indices, self._size_of(region), is_hidden_by_curve=curved, choice=choice
        )
        self.unread += [f'a skeleton {name}{_of(region)} with {fault}' for fault in faults]
        if not points and not faults:
            self.unread.append(f'a skeleton {name}{_of(region)} without points')
        return self._piece(region, f'a skeleton {name}', points, is_skeleton=True) if points else None

    def _piece(self, region: Mapping[str, Any], what: str, points: Points, *, is_skeleton: bool) -> Piece:
        return Piece(
            region=self._new_key(region),
            what=f'{what}{_of(region)}',
            points=points,
            is_skeleton=is_skeleton,
            is_chosen=str(region.get('id')) in self._choices,
            extra=extra_of(region),
        )

    def _size_of(self, region: Mapping[str, Any]) -> Size:
        return self._size or size_in(region, 'original_width', 'original_height') or (100, 100)


def _of(region: Mapping[str, Any]) -> str:
    return f' (region {str(region.get("id"))[:40]})'


def _label(region: Mapping[str, Any], text: str) -> Label:
    return Label(str(region.get('from_name')), text)
