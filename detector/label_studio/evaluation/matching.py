"""The persons of images as arrays: how alike they are, who is whom, how far apart their keypoints are."""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray

from detector.datasets.person import Person
from detector.pose.similarity import BOX_TO_OKS_AREA, box_ious, oks
from detector.pose.skeleton import KEYPOINT_COUNT, OKS_SIGMAS, PARTS, Part

Floats = NDArray[np.float64]
Bools = NDArray[np.bool_]

WHOLE_BODY: Final = Part('whole_body', 0, KEYPOINT_COUNT, (70, 70, 70))
EVALUATED_PARTS: Final = (*PARTS, WHOLE_BODY)
SAME_PERSON: Final = 0.5
"""OKS or IoU from which two may be the same person: the lowest threshold of COCO's AP."""
PCK_THRESHOLDS: Final = tuple(step / 200 for step in range(21))
"""Of the longer side of a person's box, 0 … 0.1: the points of a PCK curve."""
MOVED_PIXELS: Final = 2.0
MOVED_SHARE: Final = 0.005
"""Of the diagonal of a person's box: a point that lies no farther away than this or the pixels above counts as left
where it was. An untouched one comes back to a fraction of a pixel, one that somebody means to move goes farther."""
_NO_SMALLER: Final = 1.0
"""Pixels of a box's side: a box without extent would allow no distance at all."""


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Crowd:
    """The N persons of an image as annotators or a model see them, in pixels.

    :param boxes: shape (N, 4): x1, y1, x2, y2, no side shorter than a pixel.
    :param keypoints: shape (N, 133, 2).
    :param labelled: shape (N, 133), also the hidden ones, as in COCO.
    :param scores: shape (N,), of the model.
    """

    boxes: Floats
    keypoints: Floats
    labelled: Bools
    scores: Floats

    @classmethod
    def of(cls, persons: Iterable[Person]) -> 'Crowd':
        """All who have a box or a labelled keypoint; without a box they get that of their labelled keypoints."""
        present = [person for person in persons if not person.is_empty]
        return cls(
            boxes=np.array([_box(person) for person in present], dtype=np.float64).reshape(-1, 4),
            keypoints=np.array([person.keypoints for person in present], np.float64).reshape(-1, KEYPOINT_COUNT, 2),
            labelled=np.array([person.labelled for person in present], np.bool_).reshape(-1, KEYPOINT_COUNT),
            scores=np.array([_score(person) for person in present], dtype=np.float64),
        )

    def __len__(self) -> int:
        return len(self.boxes)

    @property
    def sides(self) -> Floats:
        """Width and height of the boxes, shape (N, 2)."""
        return self.boxes[:, 2:] - self.boxes[:, :2]

    @property
    def areas(self) -> Floats:
        """Of the persons' outlines as the OKS takes it, shape (N,)."""
        areas: Floats = BOX_TO_OKS_AREA * self.sides.prod(axis=1)
        return areas

    def with_any_of(self, part: Part) -> Bools:
        """Who has a labelled keypoint of a part, shape (N,)."""
        return np.asarray(self.labelled[:, part.slice].any(axis=1))

    @classmethod
    def together(cls, crowds: Sequence['Crowd']) -> 'Crowd':
        return cls(
            boxes=np.concatenate([crowd.boxes for crowd in crowds]),
            keypoints=np.concatenate([crowd.keypoints for crowd in crowds]),
            labelled=np.concatenate([crowd.labelled for crowd in crowds]),
            scores=np.concatenate([crowd.scores for crowd in crowds]),
        )

    def take(self, chosen: NDArray[Any]) -> 'Crowd':
        """Some of them, by mask or indices."""
        return Crowd(
            boxes=self.boxes[chosen],
            keypoints=self.keypoints[chosen],
            labelled=self.labelled[chosen],
            scores=self.scores[chosen],
        )


def _box(person: Person) -> Floats:
    box = np.array(person.extent, dtype=np.float64)
    lacking = np.maximum(_NO_SMALLER - (box[2:] - box[:2]), 0) / 2
    return np.concatenate([box[:2] - lacking, box[2:] + lacking])


def _score(person: Person) -> float:
    """Box score times mean keypoint score, where known: how mmpose ranks persons (`score_mode='bbox_keypoint'`)."""
    scores = person.scores[person.labelled]
    scores = scores[np.isfinite(scores)]
    box_score = 1.0 if person.box_score is None else float(person.box_score)
    return box_score * (float(scores.mean()) if scores.size else 1.0)


def similarities(people: Crowd, predicted: Crowd, part: Part) -> Floats:
    """The OKS of each person and each predicted one over the keypoints of a part that people labelled.

    A keypoint that was not predicted is nowhere: its similarity is 0.

    :return: shape (G, D), 0..1; 0 where nothing is labelled.
    """
    return oks(
        people.keypoints[:, None, part.slice],
        _places(predicted)[None, :, part.slice],
        people.labelled[:, None, part.slice],
        area=people.areas[:, None],
        sigmas=OKS_SIGMAS[part.slice],
    )


def one_by_one(people: Crowd, predicted: Crowd, part: Part) -> Floats:
    """`similarities` of the first with the first, and so on, shape (N,)."""
    return oks(
        people.keypoints[:, part.slice],
        _places(predicted)[:, part.slice],
        people.labelled[:, part.slice],
        area=people.areas,
        sigmas=OKS_SIGMAS[part.slice],
    )


def _places(predicted: Crowd) -> Floats:
    places: Floats = np.where(predicted.labelled[..., None], predicted.keypoints, np.inf)
    return places


def pair(people: Crowd, predicted: Crowd, likeness: Floats) -> list[tuple[int, int]]:
    """Who is whom: greedy, the most alike first, each at most once.

    Candidates are pairs with an OKS or a box IoU of at least `SAME_PERSON`; the sum of both says how alike they are.
    Boxes alone would mix up persons who embrace, OKS alone would lose those whom people had to correct a lot, whose
    corrections are to be counted.

    :param likeness: OKS, shape (G, D).
    :return: index of the person, index of the predicted one.
    """
    ious = box_ious(people.boxes[:, None], predicted.boxes[None])
    alike = likeness + ious
    rows, columns = np.nonzero((likeness >= SAME_PERSON) | (ious >= SAME_PERSON))
    order = np.argsort(-alike[rows, columns], kind='stable')
    pairs: dict[int, int] = {}
    taken: set[int] = set()
    for row, column in zip(rows[order].tolist(), columns[order].tolist(), strict=True):
        if row not in pairs and column not in taken:
            pairs[row] = column
            taken.add(column)
    return sorted(pairs.items())


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Compared:
    """An image: people, predicted, and who is whom.

    :param likeness: OKS of the whole body, shape (people, predicted).
    :param pairs: see `pair`.
    """

    people: Crowd
    predicted: Crowd
    likeness: Floats
    pairs: list[tuple[int, int]]

    @classmethod
    def of(cls, people: Crowd, predicted: Crowd) -> 'Compared':
        likeness = similarities(people, predicted, WHOLE_BODY)
        return cls(people=people, predicted=predicted, likeness=likeness, pairs=pair(people, predicted, likeness))


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Matched:
    """The M persons of all images whom the model found.

    :param labelled: by people, shape (M, 133).
    :param predicted: shape (M, 133).
    :param distances: in shares of the longer side of people's box, shape (M, 133); inf where not predicted.
    :param moved: whether people have a predicted keypoint elsewhere, shape (M, 133).
    :param similarities: OKS by the name of the part, shape (M,).
    """

    labelled: Bools
    predicted: Bools
    distances: Floats
    moved: Bools
    similarities: Mapping[str, Floats]

    @classmethod
    def of(cls, images: Sequence[Compared]) -> 'Matched':
        people = Crowd.together([image.people.take(_column(image.pairs, 0)) for image in images])
        predicted = Crowd.together([image.predicted.take(_column(image.pairs, 1)) for image in images])
        pixels = np.linalg.norm(people.keypoints - predicted.keypoints, axis=2)
        least = np.maximum(MOVED_PIXELS, MOVED_SHARE * np.linalg.norm(people.sides, axis=1))
        return cls(
            labelled=people.labelled,
            predicted=predicted.labelled,
            distances=np.where(predicted.labelled, pixels / people.sides.max(axis=1)[:, None], np.inf),
            moved=people.labelled & predicted.labelled & (pixels > least[:, None]),
            similarities={part.name: one_by_one(people, predicted, part) for part in EVALUATED_PARTS},
        )

    def pck(self, part: slice) -> tuple[float, ...] | None:
        """Of all labelled keypoints of a part together, for each of `PCK_THRESHOLDS`; None without any."""
        distances = self.distances[:, part][self.labelled[:, part]]
        if not distances.size:
            return None
        shares: Floats = (distances[:, None] <= np.array(PCK_THRESHOLDS)).mean(axis=0)
        return tuple(shares.tolist())


def _column(pairs: Sequence[tuple[int, int]], side: int) -> NDArray[np.intp]:
    return np.array([found[side] for found in pairs], dtype=np.intp)
