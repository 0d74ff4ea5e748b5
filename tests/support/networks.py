"""Replacements for networks, for tests of their callers."""

from dataclasses import replace
from typing import Any, Literal

from detector.engine.person_detector import PersonDetector
from detector.engine.runtimes import Runtime
from detector.engine.thresholds import Thresholds
from detector.models.package import Detector
from detector.pose.pose import FloatArray


class Canned(Runtime):
    """A runtime that returns given outputs."""

    name = 'canned'

    def __init__(self, *outputs: FloatArray) -> None:
        self.outputs = list(outputs)

    def _infer(self, batch: FloatArray) -> list[FloatArray]:
        return [output.copy() for output in self.outputs]


def detector_spec(output: Literal['nms', 'raw'], size: int = 416) -> Detector:
    return Detector(file='det.onnx', sha256=64 * '0', input_size=(size, size), color_order='BGR', output=output)


def canned_detector(
    *outputs: FloatArray, output: Literal['nms', 'raw'], thresholds: Thresholds | None = None, size: int = 416
) -> PersonDetector:
    """Return a person detector whose network returns the given outputs."""
    return PersonDetector(Canned(*outputs), detector_spec(output, size), thresholds or make_thresholds())


def make_thresholds(**changes: Any) -> Thresholds:
    """Return thresholds that answer boxes from 0.3, except for the given changes."""
    usual = Thresholds(person=0.3, person_from='default', uncertain=(0.3, 0.6), nms=0.45, presence=0.15)
    return replace(usual, **changes)
