"""Measure how well annotators agree with each other on images that several of them have labelled.

The OKS of two annotations of a person is the mean of the OKS in both directions, since neither annotator is the truth.
A keypoint that only one of them has labelled counts as 0 in the direction from that one. As for models, it covers the
persons whom both have labelled: see `matching.pair`.
"""

from collections import defaultdict
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from itertools import combinations
from typing import Any

import numpy as np

from detector.datasets.person import Person
from detector.pose.skeleton import Part

from .matching import EVALUATED_PARTS, Compared, PersonArrays, one_by_one


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Labelled:
    """One annotator's persons in an image."""

    annotator: str
    people: Sequence[Person]


@dataclass(frozen=True, slots=True, kw_only=True)
class PairFigures:
    """Figures of two annotators.

    :param annotators: in alphabetical order.
    :param images: number of images that both have labelled.
    :param people: number of persons whom both have labelled.
    :param only_first: number of persons whom only the first one has labelled.
    :param only_second: number of persons whom only the second one has labelled.
    :param oks: mean OKS by name of the part, 0..1; None if neither has labelled a keypoint of it.
    """

    annotators: tuple[str, str]
    images: int
    people: int
    only_first: int
    only_second: int
    oks: dict[str, float | None]


@dataclass(frozen=True, slots=True, kw_only=True)
class AnnotatorFigures:
    """Figures of one annotator over all pairs with others; a person counts once for each other annotator.

    :param images: number of images that others have labelled as well.
    :param people: number of persons whom the other one of a pair has labelled as well.
    :param missed: number of persons whom only the other one has labelled.
    :param alone: number of persons whom only this one has labelled.
    :param oks: mean OKS by name of the part, 0..1; None if no keypoint of it is labelled.
    """

    annotator: str
    images: int
    people: int
    missed: int
    alone: int
    oks: dict[str, float | None]


@dataclass(frozen=True, slots=True, kw_only=True)
class Agreement:
    """Figures of all annotators with common images.

    :param images: number of images that more than one annotator has labelled.
    :param annotators: the one with the lowest OKS of the whole body first.
    :param pairs: likewise.
    """

    images: int
    annotators: tuple[AnnotatorFigures, ...]
    pairs: tuple[PairFigures, ...]


@dataclass(slots=True)
class _Sums:
    """What is known of a pair or an annotator.

    :param likenesses: OKS of persons by name of the part.
    """

    images: set[int] = field(default_factory=set)
    people: int = 0
    only_own: int = 0
    only_other: int = 0
    likenesses: defaultdict[str, list[float]] = field(default_factory=lambda: defaultdict(list))

    def add(self, image: int, compared: Compared, likenesses: dict[str, list[float]], *, is_first: bool = True) -> None:
        """:param is_first: True if the first annotator of the comparison is the own one."""
        own, other = len(compared.people), len(compared.predicted)
        common = len(compared.pairs)
        self.images.add(image)
        self.people += common
        self.only_own += (own if is_first else other) - common
        self.only_other += (other if is_first else own) - common
        for part, values in likenesses.items():
            self.likenesses[part] += values

    @property
    def oks(self) -> dict[str, float | None]:
        found = {part.name: self.likenesses[part.name] for part in EVALUATED_PARTS}
        return {name: sum(values) / len(values) if values else None for name, values in found.items()}


def agreement(images: Iterable[Sequence[Labelled]]) -> Agreement | None:
    """Compare each annotator with each other one.

    :param images: the annotations of each image, at most one of each annotator.
    :return: None if no image has been labelled by more than one annotator.
    """
    pairs: defaultdict[tuple[str, str], _Sums] = defaultdict(_Sums)
    single: defaultdict[str, _Sums] = defaultdict(_Sums)
    common: set[int] = set()
    for number, image in enumerate(images):
        for first, second in combinations(sorted(image, key=lambda labelled: labelled.annotator), 2):
            common.add(number)
            compared = Compared.of(PersonArrays.of(first.people), PersonArrays.of(second.people))
            likenesses = {part.name: _likenesses(compared, part) for part in EVALUATED_PARTS}
            pairs[first.annotator, second.annotator].add(number, compared, likenesses)
            single[first.annotator].add(number, compared, likenesses)
            single[second.annotator].add(number, compared, likenesses, is_first=False)
    if not common:
        return None
    return Agreement(
        images=len(common),
        annotators=tuple(sorted((_annotator(name, sums) for name, sums in single.items()), key=_worst)),
        pairs=tuple(sorted((_pair(names, sums) for names, sums in pairs.items()), key=_worst)),
    )


def _likenesses(compared: Compared, part: Part) -> list[float]:
    """Return the OKS of each common person with a labelled keypoint of the part."""
    indices = np.array(compared.pairs, dtype=np.intp).reshape(-1, 2)
    first, second = compared.people.take(indices[:, 0]), compared.predicted.take(indices[:, 1])
    directions = np.stack([one_by_one(first, second, part), one_by_one(second, first, part)])
    known = np.stack([first.with_any_of(part), second.with_any_of(part)])
    labelled = known.any(axis=0)
    sums = np.where(known, directions, 0).sum(axis=0)[labelled]
    found: list[float] = (sums / known.sum(axis=0)[labelled]).tolist()
    return found


def _pair(names: tuple[str, str], sums: _Sums) -> PairFigures:
    return PairFigures(
        annotators=names,
        images=len(sums.images),
        people=sums.people,
        only_first=sums.only_own,
        only_second=sums.only_other,
        oks=sums.oks,
    )


def _annotator(name: str, sums: _Sums) -> AnnotatorFigures:
    return AnnotatorFigures(
        annotator=name,
        images=len(sums.images),
        people=sums.people,
        missed=sums.only_other,
        alone=sums.only_own,
        oks=sums.oks,
    )


def _worst(figures: PairFigures | AnnotatorFigures) -> tuple[Any, ...]:
    value = figures.oks['whole_body']
    name = figures.annotators if isinstance(figures, PairFigures) else (figures.annotator,)
    return (value is not None, value, name)
