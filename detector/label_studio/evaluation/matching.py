"""Persons of images as arrays: their similarity, their pairing, and the distances of their keypoints."""

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
"""OKS or IoU from which two persons may be the same: the lowest threshold of COCO's AP."""
PCK_THRESHOLDS: Final = tuple(step / 200 for step in range(21))
"""Thresholds of a PCK curve in shares of the longer side of a person's box, 0 … 0.1."""
MOVED_PIXELS: Final = 2.0
MOVED_SHARE: Final = 0.005
"""Movement within which a keypoint counts as unmoved: this share of the box's diagonal, or `MOVED_PIXELS` if larger.
Untouched keypoints return within a fraction of a pixel."""
_MIN_SIDE: Final = 1.0
"""Smallest side of a box in pixels; a box without extent would tolerate no distance at all."""


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class PersonArrays:
    """The N annotated or predicted persons of an image, in pixels.

    :param boxes: shape (N, 4): x1, y1, x2, y2, no side shorter than a pixel.
    :param keypoints: shape (N, 133, 2).
    :param labelled: mask of labelled keypoints, hidden ones included as in COCO, shape (N, 133).
    :param scores: the model's scores, shape (N,).
    """

    boxes: Floats
    keypoints: Floats
    labelled: Bools
    scores: Floats

    @classmethod
    def of(cls, persons: Iterable[Person]) -> 'PersonArrays':
        """Convert persons that are not empty; those without a box get the box around their labelled keypoints."""
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
        """Areas of the persons for the OKS, shape (N,)."""
        areas: Floats = BOX_TO_OKS_AREA * self.sides.prod(axis=1)
        return areas

    def with_any_of(self, part: Part) -> Bools:
        """Return the mask of persons with a labelled keypoint of a part, shape (N,)."""
        return np.asarray(self.labelled[:, part.slice].any(axis=1))

    @classmethod
    def concatenate(cls, arrays: Sequence['PersonArrays']) -> 'PersonArrays':
        return cls(
            boxes=np.concatenate([one.boxes for one in arrays]),
            keypoints=np.concatenate([one.keypoints for one in arrays]),
            labelled=np.concatenate([one.labelled for one in arrays]),
            scores=np.concatenate([one.scores for one in arrays]),
        )

    def take(self, chosen: NDArray[Any]) -> 'PersonArrays':
        """Select persons by mask or indices."""
        return PersonArrays(
            boxes=self.boxes[chosen],
            keypoints=self.keypoints[chosen],
            labelled=self.labelled[chosen],
            scores=self.scores[chosen],
        )


def _box(person: Person) -> Floats:
    box = np.array(person.extent, dtype=np.float64)
    lacking = np.maximum(_MIN_SIDE - (box[2:] - box[:2]), 0) / 2
    return np.concatenate([box[:2] - lacking, box[2:] + lacking])


def _score(person: Person) -> float:
    """Return box score times mean keypoint score where known, as mmpose ranks persons
    (`score_mode='bbox_keypoint'`)."""
    scores = person.scores[person.labelled]
    scores = scores[np.isfinite(scores)]
    box_score = 1.0 if person.box_score is None else float(person.box_score)
    return box_score * (float(scores.mean()) if scores.size else 1.0)


def similarities(people: PersonArrays, predicted: PersonArrays, part: Part) -> Floats:
    """Return the OKS of each annotated and each predicted person over the labelled keypoints of a part.

    A keypoint that was not predicted has a similarity of 0.

    :return: shape (G, D), 0..1; 0 without labelled keypoints.
    """
    return oks(
        people.keypoints[:, None, part.slice],
        _places(predicted)[None, :, part.slice],
        people.labelled[:, None, part.slice],
        area=people.areas[:, None],
        sigmas=OKS_SIGMAS[part.slice],
    )


def one_by_one(people: PersonArrays, predicted: PersonArrays, part: Part) -> Floats:
    """Return the OKS of persons pair by pair, shape (N,); see `similarities`."""
    return oks(
        people.keypoints[:, part.slice],
        _places(predicted)[:, part.slice],
        people.labelled[:, part.slice],
        area=people.areas,
        sigmas=OKS_SIGMAS[part.slice],
    )


def _places(predicted: PersonArrays) -> Floats:
    places: Floats = np.where(predicted.labelled[..., None], predicted.keypoints, np.inf)
    return places


def pair(people: PersonArrays, predicted: PersonArrays, likeness: Floats) -> list[tuple[int, int]]:
    """Pair annotated with predicted persons greedily, the most similar first, each at most once.

    Candidates have an OKS or a box IoU of at least `SAME_PERSON`; their sum is the similarity. Boxes alone would
    confuse persons who embrace. OKS alone would lose persons with many corrections, which are to be counted.

    :param likeness: OKS, shape (G, D).
    :return: indices of the annotated and the predicted person.
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
    """An image with its annotated and predicted persons and their pairs.

    :param likeness: OKS of the whole body, shape (people, predicted).
    :param pairs: see `pair`.
    """

    people: PersonArrays
    predicted: PersonArrays
    likeness: Floats
    pairs: list[tuple[int, int]]

    @classmethod
    def of(cls, people: PersonArrays, predicted: PersonArrays) -> 'Compared':
        likeness = similarities(people, predicted, WHOLE_BODY)
        return cls(people=people, predicted=predicted, likeness=likeness, pairs=pair(people, predicted, likeness))


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Matched:
    """The M persons of all images whom the model found.

    :param labelled: mask of annotated keypoints, shape (M, 133).
    :param predicted: mask of predicted keypoints, shape (M, 133).
    :param distances: distances in shares of the longer side of the annotated box, shape (M, 133); inf where not
        predicted.
    :param moved: mask of predicted keypoints that are annotated elsewhere, shape (M, 133).
    :param similarities: OKS by name of the part, shape (M,).
    """

    labelled: Bools
    predicted: Bools
    distances: Floats
    moved: Bools
    similarities: Mapping[str, Floats]

    @classmethod
    def of(cls, images: Sequence[Compared]) -> 'Matched':
        people = PersonArrays.concatenate([image.people.take(_column(image.pairs, 0)) for image in images])
        predicted = PersonArrays.concatenate([image.predicted.take(_column(image.pairs, 1)) for image in images])
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
        """Return the PCK of a part at each of `PCK_THRESHOLDS`; None without labelled keypoints."""
        distances = self.distances[:, part][self.labelled[:, part]]
        if not distances.size:
            return None
        shares: Floats = (distances[:, None] <= np.array(PCK_THRESHOLDS)).mean(axis=0)
        return tuple(shares.tolist())


def _column(pairs: Sequence[tuple[int, int]], side: int) -> NDArray[np.intp]:
    return np.array([found[side] for found in pairs], dtype=np.intp)
