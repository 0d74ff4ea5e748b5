"""Label files of ultralytics' yolo-pose format: a line per object."""

import math
from collections import defaultdict
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Final

import numpy as np
from numpy.typing import NDArray

from detector.errors import InvalidRequest
from detector.pose.pose import FloatArray
from detector.pose.skeleton import KEYPOINT_COUNT

from .fields import read_text
from .omissions import Omissions
from .person import HIDDEN, NOT_LABELLED, VISIBLE, Person, Size
from .third_numbers import ThirdNumbers
from .yolo_description import Description

_MARGIN: Final = 0.01
"""Distance outside the image, in shares of its sides, that rounding and models' outputs may have."""


@dataclass(slots=True, kw_only=True)
class Labels:
    """Reads the label files of a dataset.

    :param threshold: least confidence of a labelled keypoint, if the third numbers are confidences.
    :param others: names of the lines by class other than persons.
    """

    form: Description
    threshold: float | None = None
    others: dict[str, list[str]] = field(default_factory=lambda: defaultdict(list))

    def read(self, path: Path, size: Size, omissions: Omissions) -> list[Person]:
        """Return the persons of an image.

        :param size: size of the upright image in pixels.
        :param omissions: receives the lines that cannot be read.
        :raises InvalidRequest: the file, or a line of it, cannot be read.
        """
        lines = list(_lines(path))
        read = omissions.whole(
            'person', lines, lambda line, where: self._person(line, where, size), owner=str(path), noun='line'
        )
        return [person for person in read if person is not None]

    def find_scores(self, paths: Sequence[Path], threshold: float | None) -> None:
        """Find out if the label files hold confidences; `read` refuses files that cannot be read.

        :raises InvalidRequest: see `ThirdNumbers.threshold`.
        """
        found = ThirdNumbers()
        persons = {str(number) for number in self.form.classes if self.form.is_person(number)}
        for path in paths if self.form.dimensions == 3 else ():
            if path.is_file():
                for line in path.read_bytes().decode(errors='replace').splitlines():
                    kind, *words = line.lstrip('\ufeff').split() or ['']
                    if kind in persons and len(words) + 1 >= self.form.columns:
                        found.note(words[6 : self.form.columns - 1 : 3], str(path))
        self.threshold = found.threshold(threshold)

    def _person(self, line: str, where: str, size: Size) -> Person | None:
        """Return the person of a line; None, and note it, if its class is not a person's."""
        word = line.split(maxsplit=1)[0]
        number = _number(word, line, where)
        if number not in self.form.classes:
            raise InvalidRequest(f'{where}: {word} is not the number of a class in {self.form.file.name}')
        if not self.form.is_person(int(number)):
            self.others[self.form.classes[int(number)]].append(where)
            return None
        values = [_number(word, line, where) for word in line.split()]
        score = values.pop() if self.threshold is not None and len(values) == self.form.columns + 1 else None
        if len(values) != self.form.columns:
            shape = f'[{self.form.keypoints}, {self.form.dimensions}]'
            raise InvalidRequest(
                f'{where} has {len(values)} numbers; kpt_shape {shape} requires {self.form.columns}: {line[:40]}'
            )
        return self._read_person(values, where, size, score)

    def _read_person(self, values: Sequence[float], where: str, size: Size, score: float | None) -> Person:
        sides = np.array(size, dtype=np.float64)
        box = _box(values[1:5], where, sides)
        table = self._table(values[5:])
        outside = np.flatnonzero((np.abs(table[:, :2] - 0.5) > 0.5 + _MARGIN).any(axis=1) & (table[:, 2] > 0))
        for index in outside[:1].tolist():
            raise InvalidRequest(
                f'{where}: keypoint {index} lies at {table[index, 0]:g} {table[index, 1]:g}; coordinates are shares of '
                "the image's sides, 0..1"
            )
        table[:, :2] *= sides
        if self.threshold is not None:
            return Person.predicted(table, where, threshold=self.threshold, box=box, box_score=score)
        for index in np.flatnonzero(~np.isin(table[:, 2], (NOT_LABELLED, HIDDEN, VISIBLE)))[:1].tolist():
            raise InvalidRequest(
                f'{where}: the visibility of keypoint {index} must be 0, 1 or 2, not {table[index, 2]:g}'
            )
        visibility = table[:, 2].astype(np.int8)
        places = np.where(visibility[:, None] == NOT_LABELLED, 0, table[:, :2]).astype(np.float32)
        return replace(Person.empty(), box=box, keypoints=places, visibility=visibility)

    def _table(self, values: Sequence[float]) -> NDArray[np.float64]:
        """Return x and y in shares and the third number of the 133 keypoints, shape (133, 3)."""
        given = np.array(values).reshape(self.form.keypoints, self.form.dimensions)
        if self.form.dimensions == 2:
            is_there = (given != 0).any(axis=1, keepdims=True)
            given = np.concatenate([given, np.where(is_there, VISIBLE, NOT_LABELLED)], axis=1)
        table = np.zeros((KEYPOINT_COUNT, 3))
        for row, index in zip(given, self.form.order, strict=True):
            if index is not None:
                table[index] = row
        return table


def _lines(path: Path) -> Iterator[tuple[str, str]]:
    """Yield the lines of a label file with their names in messages."""
    for number, line in enumerate(read_text(path).splitlines(), 1):
        if line.strip():
            yield line, f'{path}, line {number}'


def _number(word: str, line: str, where: str) -> float:
    try:
        number = float(word)
    except ValueError:
        raise InvalidRequest(f'{where}: not all values are numbers: {line[:60]}') from None
    if not math.isfinite(number):
        raise InvalidRequest(f'{where}: not all numbers are finite')
    return number


def _box(values: Sequence[float], where: str, sides: NDArray[np.float64]) -> FloatArray:
    centre, half = np.array(values[:2]), np.array(values[2:]) / 2
    if (half <= 0).any() or (np.abs(centre - 0.5) + half > 0.5 + _MARGIN).any():
        raise InvalidRequest(
            f'{where}: the box {" ".join(f"{value:g}" for value in values)} must have a width and a height and lie in '
            "the image; coordinates are shares of the image's sides, 0..1"
        )
    return np.concatenate([(centre - half) * sides, (centre + half) * sides]).astype(np.float32)
