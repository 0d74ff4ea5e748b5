"""To which person points belong that name no parent, where only one answer is possible.

Label Studio's editor gives regions that annotators draw no parent. Such points go to the only person that they can
belong to. If there are several or none, they are reported: a person is never made of a stray point.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Final

import numpy as np

from detector.datasets.person import Person
from detector.pose.pose import FloatArray
from detector.pose.skeleton import PART_BY_NAME

from .values import Points

_MARGIN: Final = 0.1
"""Distance outside a person's box at which a point still belongs to it, in shares of the box's sides."""
_BODY: Final = PART_BY_NAME['body'].indices
_REMEDY: Final = 'draw a box around the person and drag the region below it in the list of regions'


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Piece:
    """The points of a region.

    :param region: id of the region, or another unique key.
    :param what: the region in words, for messages.
    :param is_skeleton: True if it is a skeleton with limbs.
    :param is_chosen: True if an annotator has chosen the visibility for the region.
    :param extra: fields of a dataset about the person.
    """

    region: str
    what: str
    points: Points
    is_skeleton: bool
    is_chosen: bool = False
    extra: Mapping[str, Any] = field(default_factory=dict)

    @property
    def places(self) -> FloatArray:
        """Places of the points in pixels, shape (N, 2), float32."""
        return np.array([(x, y) for x, y, _, _ in self.points.values()], dtype=np.float32)

    def fits(self, person: Person) -> bool:
        """Return True if the person has none of the points yet."""
        return not any(person.visibility[index] for index in self.points)

    @property
    def is_person(self) -> bool:
        """True if the region is a person of its own: a skeleton with at least two points of the body."""
        return self.is_skeleton and sum(index in _BODY for index in self.points) > 1


def place(loose: Sequence[Piece], persons: Mapping[str, Person]) -> tuple[list[tuple[str, Piece]], list[str]]:
    """Find the persons that points without a parent certainly belong to.

    :param persons: the persons found so far by key; they have boxes or groups of points.
    :return: the pieces with the keys of their persons, old or new, and a phrase for each piece that is left.
    """
    found = {piece.region: claims(piece, persons) for piece in loose}
    placed: list[tuple[str, Piece]] = []
    rest: list[Piece] = []
    for piece in loose:
        own = found[piece.region]
        rivals = [other for other in loose if other is not piece and found[other.region] == own]
        if len(own) == 1 and all(piece.points.keys().isdisjoint(rival.points) for rival in rivals):
            placed.append((own[0], piece))
        else:
            rest.append(piece)
    if not persons and _is_one_person(rest):
        return [(rest[0].region, piece) for piece in rest], []
    new = [piece for piece in rest if piece.is_person and not found[piece.region]]
    placed += [(piece.region, piece) for piece in new]
    left = [piece for piece in rest if piece not in new]
    return placed, [f'{piece.what} that belongs to no person for certain; {_REMEDY}' for piece in left]


def claims(piece: Piece, persons: Mapping[str, Person]) -> list[str]:
    """Return the persons that the points may belong to: those whose box contains them, and that lack them."""
    boxes = [(key, person.box) for key, person in persons.items() if piece.fits(person)]
    centre = piece.places.mean(axis=0, keepdims=True)
    around = [(key, box) for key, box in boxes if box is not None and _contains(box, centre)]
    if len(around) > 1:
        around = [(key, box) for key, box in around if _contains(box, piece.places)] or around
    if around:
        return [key for key, _ in around]
    # a group of points without a box can be anywhere; it is certain only if it is the only person
    return [key for key, box in boxes if box is None and len(persons) == 1]


def _is_one_person(pieces: Sequence[Piece]) -> bool:
    """Return True if pieces, in an image without any box or group, are one person: several points, each once."""
    count = sum(len(piece.points) for piece in pieces)
    return count > 1 and len({index for piece in pieces for index in piece.points}) == count


def _contains(box: FloatArray, points: FloatArray) -> bool:
    margin = _MARGIN * (box[2:] - box[:2])
    return bool((points >= box[:2] - margin).all() and (points <= box[2:] + margin).all())
