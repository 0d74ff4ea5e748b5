"""The 133 keypoints of COCO-WholeBody: names, parts, edges, mirrored indices, OKS sigmas and colours.

The order is that of COCO-WholeBody (Jin et al., ECCV 2020) and of every rtmlib whole-body model: 17 body, 6 feet,
68 face (iBUG 300-W order), 21 left hand, 21 right hand.
"""

import uuid
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import pairwise
from typing import Final

import numpy as np
from numpy.typing import NDArray

KEYPOINT_COUNT: Final = 133
"""Number of keypoints of a pose."""
PERSON: Final = 'person'
"""Category name of person boxes."""


@dataclass(frozen=True, slots=True)
class Part:
    """A part of the body: a contiguous range of keypoint indices.

    :param name: `body`, `feet`, `face`, `left_hand` or `right_hand`.
    :param start: first index.
    :param stop: index after the last one.
    :param colour: RGB, 0..255, of the part in overlays and labeling configs.
    """

    name: str
    start: int
    stop: int
    colour: tuple[int, int, int]

    @property
    def indices(self) -> range:
        """Keypoint indices of the part."""
        return range(self.start, self.stop)

    @property
    def slice(self) -> slice:
        """Slice of the part in arrays of keypoints."""
        return slice(self.start, self.stop)

    @property
    def hex_colour(self) -> str:
        """Colour of the part as `#rrggbb`."""
        return '#{:02x}{:02x}{:02x}'.format(*self.colour)


PARTS: Final = (
    Part('body', 0, 17, (230, 25, 75)),
    Part('feet', 17, 23, (245, 130, 48)),
    Part('face', 23, 91, (60, 180, 75)),
    Part('left_hand', 91, 112, (0, 130, 200)),
    Part('right_hand', 112, 133, (145, 30, 180)),
)
"""The five parts of the body, in index order."""
PART_BY_NAME: Final = {part.name: part for part in PARTS}

_BODY: Final = (
    'nose', 'left_eye', 'right_eye', 'left_ear', 'right_ear', 'left_shoulder', 'right_shoulder', 'left_elbow',
    'right_elbow', 'left_wrist', 'right_wrist', 'left_hip', 'right_hip', 'left_knee', 'right_knee', 'left_ankle',
    'right_ankle',
)  # fmt: skip
_FEET: Final = ('left_big_toe', 'left_small_toe', 'left_heel', 'right_big_toe', 'right_small_toe', 'right_heel')

KEYPOINT_NAMES: Final = (
    *_BODY,
    *_FEET,
    *(f'face_{i}' for i in range(68)),
    *(f'left_hand_{i}' for i in range(21)),
    *(f'right_hand_{i}' for i in range(21)),
)
"""Canonical names of the 133 keypoints, in index order."""
KEYPOINT_INDEX: Final = {name: index for index, name in enumerate(KEYPOINT_NAMES)}

_NAMESPACE: Final = uuid.UUID('6f1d2c1e-3f0a-5b57-9d3c-8a4f6f0c1330')


def category_id(name: str) -> str:
    """Return the category id of a name. It is a uuid5 of a fixed namespace, so all packages have the same ids."""
    return str(uuid.uuid5(_NAMESPACE, name))


def part_of(index: int) -> Part:
    """Return the part that a keypoint index (0..132) belongs to."""
    return next(part for part in PARTS if part.start <= index < part.stop)


def _hand_edges(root: int) -> Iterator[tuple[int, int]]:
    for finger in range(5):
        first = root + 1 + 4 * finger
        yield root, first
        yield from ((first + joint, first + joint + 1) for joint in range(3))


BODY_EDGES: Final = (
    (15, 13), (13, 11), (16, 14), (14, 12), (11, 12), (5, 11), (6, 12), (5, 6), (5, 7), (6, 8), (7, 9), (8, 10),
    (1, 2), (0, 1), (0, 2), (1, 3), (2, 4), (3, 5), (4, 6),
)  # fmt: skip
FEET_EDGES: Final = ((15, 17), (15, 18), (15, 19), (16, 20), (16, 21), (16, 22))
HAND_EDGES: Final = (*_hand_edges(91), *_hand_edges(112))
SKELETON_EDGES: Final = (*BODY_EDGES, *FEET_EDGES, *HAND_EDGES)
"""The 65 limbs of COCO-WholeBody, as pairs of keypoint indices."""


def _face_edges() -> Iterator[tuple[int, int]]:
    """Yield the contours of the 68 points: jaw, brows, bridge and base of the nose, eyes, lips (iBUG 300-W)."""
    face = PART_BY_NAME['face'].start
    for start, stop, closed in (
        (0, 17, False), (17, 22, False), (22, 27, False), (27, 31, False), (31, 36, False), (36, 42, True),
        (42, 48, True), (48, 60, True), (60, 68, True),
    ):  # fmt: skip
        yield from ((face + i, face + i + 1) for i in range(start, stop - 1))
        if closed:
            yield face + stop - 1, face + start


FACE_EDGES: Final = tuple(_face_edges())
DRAWN_EDGES: Final = (*SKELETON_EDGES, *FACE_EDGES)
"""Edges that overlays draw: the limbs and the contours of the face."""


def _limb_parents() -> tuple[int | None, ...]:
    chains: list[Sequence[int]] = [
        (0, 1, 3), (0, 2, 4), (0, 5, 7, 9, 91), (0, 6, 8, 10, 112), (5, 11, 13, 15), (6, 12, 14, 16),
        *FEET_EDGES, *HAND_EDGES,
    ]  # fmt: skip
    face: tuple[tuple[int, Sequence[int]], ...] = (
        (4, range(17)),
        (0, range(30, 26, -1)),
        (23 + 30, (33, 32, 31)),
        (23 + 33, (34, 35)),
        (2, range(36, 42)),
        (1, range(42, 48)),
        (23 + 36, range(17, 22)),
        (23 + 45, range(26, 21, -1)),
        (23 + 33, (51, 50, 49, 48, *range(60, 68))),
        (23 + 51, range(52, 60)),
    )
    chains += [(start, *(23 + point for point in points)) for start, points in face]
    parents: list[int | None] = [None] * KEYPOINT_COUNT
    for chain in chains:
        for parent, child in pairwise(chain):
            parents[child] = parent
    return tuple(parents)


LIMB_PARENTS: Final = _limb_parents()
"""Parent of each keypoint in a tree with the nose as its root, since Label Studio requires a skeleton to be a tree.
Most pairs are edges of COCO-WholeBody; a tree cannot close the trunk, and it attaches the contours to the body.
"""


def _swapped_face() -> Iterator[tuple[int, int]]:
    """Yield pairs of face points (0..67) that a reflection swaps (iBUG 300-W)."""
    for first, last in ((0, 16), (17, 26), (31, 35), (48, 54), (60, 64)):
        yield from ((first + i, last - i) for i in range((last - first + 1) // 2))
    yield from ((36, 45), (37, 44), (38, 43), (39, 42), (40, 47), (41, 46))
    yield from ((59, 55), (58, 56), (67, 65))


def _flip_indices() -> tuple[int, ...]:
    flip = list(range(KEYPOINT_COUNT))
    for index, name in enumerate((*_BODY, *_FEET)):
        if name.startswith('left_'):
            other = KEYPOINT_INDEX['right_' + name.removeprefix('left_')]
            flip[index], flip[other] = other, index
    for a, b in _swapped_face():
        flip[23 + a], flip[23 + b] = 23 + b, 23 + a
    for i in range(21):
        flip[91 + i], flip[112 + i] = 112 + i, 91 + i
    return tuple(flip)


FLIP_INDICES: Final = _flip_indices()
"""Index of each keypoint in the mirrored image."""

OKS_SIGMAS: Final[NDArray[np.float32]] = np.array([
    # body
    .026, .025, .025, .035, .035, .079, .079, .072, .072, .062, .062, .107, .107, .087, .087, .089, .089,
    # feet
    .068, .066, .066, .092, .094, .094,
    # face
    .042, .043, .044, .043, .040, .035, .031, .025, .020, .023, .029, .032, .037, .038, .043, .041, .045,
    .013, .012, .011, .011, .012, .012, .011, .011, .013, .015, .009, .007, .007, .007, .012, .009, .008, .016, .010,
    .017, .011, .009, .011, .009, .007, .013, .008, .011, .012, .010, .034, .008, .008, .009, .008, .008, .007, .010,
    .008, .009, .009, .009, .007, .007, .008, .011, .008, .008, .008, .010, .008,
    # hands
    *(2 * (.029, .022, .035, .037, .047, .026, .025, .024, .035, .018, .024, .022, .026, .017, .021, .021, .032, .020,
           .019, .022, .031)),
], dtype=np.float32)  # fmt: skip
"""OKS sigma of each keypoint, shape (133,), float32, from evaluation/myeval_wholebody.py of COCO-WholeBody."""
