"""A labelled person, the common form of poses, regions and dataset entries."""

from collections import Counter
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray

from detector.errors import InvalidRequest
from detector.pose.pose import FloatArray, Pose
from detector.pose.skeleton import KEYPOINT_COUNT, KEYPOINT_NAMES

Size = tuple[int, int]
"""Width and height of the upright image in pixels."""

NOT_LABELLED, HIDDEN, VISIBLE = 0, 1, 2
"""Visibility of a keypoint, as in COCO."""

MOVED_PERCENT: Final = 0.01
"""Distance in percent of the image beyond which a point counts as moved; Label Studio's editor rounds coordinates."""


def counts_of(persons: Iterable['Person']) -> Counter[str]:
    """Count `persons`, those `without a box`, and their labelled `keypoints`."""
    counts: Counter[str] = Counter()
    for person in persons:
        counts.update({'persons': 1, 'without a box': person.box is None, 'keypoints': int(person.labelled.sum())})
    return counts


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Person:
    """A person as annotators label it, in pixels of the upright image.

    :param box: shape (4,), float32: x1, y1, x2, y2; None if the person has no box.
    :param box_score: the model's box confidence, 0..1; None if an annotator drew the box.
    :param keypoints: shape (133, 2), float32.
    :param visibility: shape (133,), int8: 0 not labelled, 1 labelled but hidden, 2 visible.
    :param scores: the model's keypoint confidences, shape (133,), float32, 0..1; nan for points that an annotator set.
    :param extra: further fields of the dataset about the person, as JSON; Label Studio keeps it in a region's `meta`.
    """

    box: FloatArray | None
    box_score: float | None
    keypoints: FloatArray
    visibility: NDArray[np.int8]
    scores: FloatArray
    extra: Mapping[str, Any] = field(default_factory=dict)

    @property
    def labelled(self) -> NDArray[np.bool_]:
        """Mask of the labelled keypoints, hidden ones included, shape (133,)."""
        return np.not_equal(self.visibility, NOT_LABELLED)

    @property
    def is_empty(self) -> bool:
        """True if the person has neither a box nor a labelled keypoint."""
        return self.box is None and not self.visibility.any()

    @property
    def extent(self) -> FloatArray | None:
        """The box, or the smallest box around the labelled keypoints; None if the person is empty.

        :return: shape (4,), float32: x1, y1, x2, y2 in pixels.
        """
        if self.box is not None or self.is_empty:
            return self.box
        points = self.keypoints[self.labelled]
        return np.concatenate([points.min(axis=0), points.max(axis=0)])

    @classmethod
    def of(cls, pose: Pose, *, threshold: float) -> 'Person':
        """Convert a pose; keypoints below the confidence threshold count as not labelled."""
        visible = pose.confidences >= threshold
        return cls(
            box=pose.box,
            box_score=pose.box_confidence,
            keypoints=pose.keypoints,
            visibility=np.where(visible, VISIBLE, NOT_LABELLED).astype(np.int8),
            scores=pose.confidences,
        )

    @classmethod
    def predicted(
        cls,
        table: NDArray[np.float64],
        where: str,
        *,
        threshold: float,
        box: FloatArray | None,
        box_score: float | None = None,
    ) -> 'Person':
        """Return a person that a model has found.

        :param table: shape (133, 3): x, y in pixels, and the confidence; 0 for keypoints that the model does not know.
        :param where: name of the person in error messages.
        :param threshold: keypoints with a lower confidence count as not labelled, as those of the node's own models.
        :raises InvalidRequest: a confidence is not in 0..1.
        """
        scores = table[:, 2]
        for index in np.flatnonzero((scores < 0) | (scores > 1))[:1].tolist():
            raise InvalidRequest(
                f'{where}: {KEYPOINT_NAMES[index]} has {scores[index]:g}, which is not a confidence in 0..1, although '
                'other keypoints have confidences'
            )
        if box_score is not None and not 0 <= box_score <= 1:
            raise InvalidRequest(f'{where}: the score must be in 0..1, not {box_score:g}')
        return cls(
            box=box,
            box_score=box_score,
            keypoints=table[:, :2].astype(np.float32),
            visibility=np.where((scores >= threshold) & (scores > 0), VISIBLE, NOT_LABELLED).astype(np.int8),
            scores=np.where(scores > 0, scores, np.nan).astype(np.float32),
        )

    @classmethod
    def empty(cls) -> 'Person':
        return cls(
            box=None,
            box_score=None,
            keypoints=np.zeros((KEYPOINT_COUNT, 2), dtype=np.float32),
            visibility=np.zeros(KEYPOINT_COUNT, dtype=np.int8),
            scores=np.full(KEYPOINT_COUNT, np.nan, dtype=np.float32),
        )
