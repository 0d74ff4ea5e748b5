"""Thresholds that decide which boxes are persons: where they come from, and the values that apply to a model."""

from dataclasses import asdict, dataclass
from typing import Any, Final, Protocol

import numpy as np
from numpy.typing import NDArray

from detector.models.package import ModelPackage
from detector.pose.pose import FloatArray

DEFAULT_PERSON: Final = 0.5
"""Confidence from which a box is answered if neither a setting nor the package states one."""


class ThresholdOptions(Protocol):
    """The options of the engine that concern thresholds; see `EngineOptions`."""

    @property
    def person_threshold(self) -> float | None: ...
    @property
    def nms_threshold(self) -> float | None: ...
    @property
    def min_uncertain_threshold(self) -> float: ...
    @property
    def max_uncertain_threshold(self) -> float: ...


@dataclass(frozen=True, slots=True, kw_only=True)
class Thresholds:
    """The thresholds in effect for one model.

    :param person: confidence from which a box is answered, 0..1.
    :param person_from: origin of `person`: `PERSON_THRESHOLD`, a field of model.json, or `default`.
    :param uncertain: lowest and highest confidence of a box that counts as uncertain, 0..1. Boxes from the lowest
        one up to `person` are not answered, but relevance sees them.
    :param nms: IoU above which the less certain of two boxes is dropped, 0..1; None if the network itself does it.
    :param presence: confidence from which a keypoint is present, 0..1. A box without a present keypoint is no person.
    """

    person: float
    person_from: str
    uncertain: tuple[float, float]
    nms: float | None
    presence: float

    @classmethod
    def of(cls, package: ModelPackage, options: ThresholdOptions) -> 'Thresholds':
        """Return the thresholds of a package under the given options.

        The first stated value counts: the option, the object `wholebody` of model.json, the Loop's field
        `conf_threshold` of model.json, the default.
        """
        wholebody = package.wholebody
        stated = {
            'PERSON_THRESHOLD': options.person_threshold,
            'score_threshold': wholebody.detector.score_threshold,
            'conf_threshold': package.conf_threshold,
            'default': DEFAULT_PERSON,
        }
        person_from, person = next((origin, value) for origin, value in stated.items() if value is not None)
        nms = wholebody.detector.nms_threshold if options.nms_threshold is None else options.nms_threshold
        return cls(
            person=person,
            person_from=person_from,
            uncertain=(options.min_uncertain_threshold, options.max_uncertain_threshold),
            nms=nms if wholebody.detector.output == 'raw' else None,
            presence=wholebody.presence_threshold,
        )

    def lowest(self, *, with_uncertain: bool) -> float:
        """Return the lowest confidence of a box that the person detector keeps."""
        return min(self.person, self.uncertain[0]) if with_uncertain else self.person

    def answers(self, confidences: FloatArray | float) -> NDArray[np.bool_]:
        """Return whether boxes of these confidences are answered; compared in single precision, as networks give them.

        :param confidences: 0..1, of any shape.
        """
        answered: NDArray[np.bool_] = np.asarray(confidences, dtype=np.float32) >= np.float32(self.person)
        return answered

    def about(self) -> dict[str, Any]:
        """Return the thresholds for `/about`."""
        return asdict(self)

    def __str__(self) -> str:
        overlap = 'in the network' if self.nms is None else f'above IoU {self.nms:g}'
        return f'persons from {self.person:g} ({self.person_from}), overlapping boxes dropped {overlap}'
