"""The vertices of skeleton regions: keypoints by name, their limbs, and their visibility.

The editor keeps ids and further fields of vertices. A limb leads to the vertex that `prevPointId` names; a name that
the region lacks draws no limb, whereas an empty one joins the vertex to the one before it. With curves allowed,
Shift+click turns a vertex into a curve and back (`isBezier`), which marks it as hidden.
"""

import math
from collections.abc import Iterator, Mapping, Sequence
from typing import Any, Final

from detector.datasets.person import HIDDEN, MOVED_PERCENT, NOT_LABELLED, VISIBLE, Person
from detector.pose.names import canonical_name
from detector.pose.skeleton import KEYPOINT_INDEX, KEYPOINT_NAMES, LIMB_PARENTS
from detector.wording import counted

from .values import Points, Region, drawable, place_of, score_field, score_of

_CURVE_PERCENT: Final = 3.0
"""Length of the handles of a hidden vertex, in percent of the image."""


def to_vertices(
    person: Person, indices: Sequence[int], percent: Sequence[Sequence[float]], *, curved: bool
) -> list[Region]:
    """Return the vertices of a region with some keypoints of a person.

    :param percent: places of all 133 keypoints in percent of the image.
    :param curved: True to mark hidden keypoints as curves.
    """
    vertices = []
    for index, limb_from in zip(indices, _limbs(indices), strict=True):
        x, y = percent[index]
        visibility = int(person.visibility[index])
        vertex = {
            'id': KEYPOINT_NAMES[index],
            'x': x,
            'y': y,
            'prevPointId': None if limb_from is None else KEYPOINT_NAMES[limb_from],
            'isBezier': False,
            'v': visibility,
            **score_field(person.scores[index]),
        }
        if visibility == NOT_LABELLED:
            # where the point was put: the editor keeps v = 0 when the annotator moves the point to its place
            vertex |= {'unseen': [x, y]}
        elif visibility == HIDDEN and curved:
            # a vertex that is no curve any more is visible, so v must not say that it is hidden
            vertex |= {'v': VISIBLE} | _curve(percent[index], percent[limb_from or 0])
        vertices.append(vertex)
    return vertices


def _limbs(indices: Sequence[int]) -> Iterator[int | None]:
    """Yield the keypoint that the limb of each keypoint leads to; one outside the region if it has no limb.

    Keypoints with the same parent outside the region, such as those of a foot, are joined to the first of them.
    """
    first: dict[int | None, int] = {}
    for index in indices:
        parent = LIMB_PARENTS[index]
        yield parent if parent in indices else first.get(parent, parent)
        first.setdefault(parent, index)


def _curve(place: Sequence[float], parent: Sequence[float]) -> Region:
    """Return the handles of a curve across the limb, so that the limb has a wave."""
    x, y = place
    along = x - parent[0], y - parent[1]
    length = math.hypot(*along)
    dx, dy = (-along[1] / length, along[0] / length) if length else (1.0, 0.0)
    handles = (
        {axis: round(min(max(middle + sign * step * _CURVE_PERCENT, 0), 100), 6)
         for axis, middle, step in (('x', x, dx), ('y', y, dy))}
        for sign in (-1, 1)
    )  # fmt: skip
    return {'isBezier': True} | dict(zip(('controlPoint1', 'controlPoint2'), handles, strict=True))


def read_vertices(
    value: Mapping[str, Any],
    indices: Sequence[int],
    size: tuple[int, int],
    *,
    is_hidden_by_curve: bool,
    choice: int | None = None,
) -> tuple[Points, list[str]]:
    """Return the keypoints of a skeleton region, and one phrase per group of vertices that cannot be read.

    Vertices are read by their names. An annotator's own skeleton has random ids; its vertices are read in their order
    if there are as many as the label has keypoints.

    :param indices: keypoints of the region's label; empty if the label is unknown.
    :param size: width and height of the image in pixels.
    :param is_hidden_by_curve: True if a curve means a hidden keypoint.
    :param choice: visibility that an annotator has chosen for the region; None: the vertices state their own.
    """
    listed = value.get('vertices')
    found = listed if isinstance(listed, list) else []
    mappings = (vertex for vertex in found if isinstance(vertex, Mapping))
    placed = [(vertex, place) for vertex in mappings if (place := place_of(vertex, size)) is not None]
    lost = len(found) - len(placed)
    complaints = [f'{counted(lost, "point")} without coordinates'] if lost else []
    named = [KEYPOINT_INDEX.get(canonical_name(str(vertex.get('id'))) or '') for vertex, _ in placed]
    if not any(index is not None for index in named):
        placed = _without_repeats(placed)
        if len(placed) != len(indices):
            expected = f'{len(indices)} of its label' if indices else 'a label that names a part'
            return {}, [*complaints, f'{counted(len(placed), "point")} drawn by hand instead of {expected}']
        named = list(indices)
    points: Points = {}
    twice = {index for index in named if index is not None and named.count(index) > 1}
    for index, (vertex, place) in zip(named, placed, strict=True):
        if index is not None and index not in twice:
            points[index] = (*place, _visibility(vertex, choice, is_hidden_by_curve), score_of(vertex))
    extra = named.count(None)
    complaints += [f'{counted(extra, "point")} more than the skeleton has'] if extra else []
    complaints += [f'the point {KEYPOINT_NAMES[index]} more than once' for index in sorted(twice)]
    return points, complaints


def _without_repeats(
    placed: Sequence[tuple[Mapping[str, Any], tuple[float, float]]],
) -> list[tuple[Mapping[str, Any], tuple[float, float]]]:
    """Leave out vertices at the place of the one before; the editor makes two of the first click."""
    return [pair for before, pair in zip([None, *placed], placed, strict=False) if not before or before[1] != pair[1]]


def _visibility(vertex: Mapping[str, Any], choice: int | None, is_hidden_by_curve: bool) -> int:
    if is_hidden_by_curve and vertex.get('isBezier') is True and choice != NOT_LABELLED:
        return HIDDEN
    if choice is not None:
        return choice
    visibility = vertex.get('v', VISIBLE)
    before = vertex.get('unseen')
    if visibility == NOT_LABELLED and isinstance(before, list) and len(before) == 2:
        moved = max(abs(float(vertex[axis]) - (drawable(old) or 0.0)) for axis, old in zip('xy', before, strict=True))
        return VISIBLE if moved > MOVED_PERCENT else NOT_LABELLED
    return visibility if visibility in (NOT_LABELLED, HIDDEN) else VISIBLE
