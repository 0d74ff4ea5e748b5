"""The third number of keypoints in datasets: a visibility 0, 1 or 2, or the confidence of a model in its place."""

from collections.abc import Iterable
from dataclasses import dataclass

from detector.errors import InvalidRequest

from .fields import as_number
from .person import VISIBLE


@dataclass(slots=True)
class ThirdNumbers:
    """Finds out which of the two a dataset holds; 0 and 1 occur as both, so that only the whole dataset tells.

    :param visibility: name of the first keypoints with a 2.
    :param confidence: name of the first keypoints with a number between 0 and 1.
    """

    visibility: str | None = None
    confidence: str | None = None

    def note(self, numbers: Iterable[object], where: str) -> None:
        """Note the third numbers of keypoints; values that are not numbers are ignored.

        :param where: name of the keypoints in messages.
        """
        for number in map(as_number, numbers):
            if number == VISIBLE:
                self.visibility = self.visibility or where
            elif isinstance(number, float) and 0 < number < 1:
                self.confidence = self.confidence or where

    def threshold(self, given: float | None) -> float | None:
        """Return the least confidence of a labelled keypoint; None if the dataset holds visibilities.

        :param given: this threshold, if the caller can use confidences.
        :raises InvalidRequest: the dataset holds both, or holds confidences and the caller cannot use them.
        """
        if self.confidence is None:
            return None
        if self.visibility is not None:
            raise InvalidRequest(
                f'{self.visibility} has the visibility 2, and {self.confidence} a confidence between 0 and 1: bring '
                'all keypoints to one of the two'
            )
        if given is None:
            raise InvalidRequest(
                f'{self.confidence} has confidences of a model in place of the visibilities 0, 1 and 2: import them '
                '--as predictions'
            )
        return given
