"""Replacements for networks, for tests of their callers."""

from typing import Literal

from detector.engine.runtimes import Runtime
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
    return Detector(
        file='det.onnx', sha256=64 * '0', input_size=(size, size), color_order='BGR', output=output, score_threshold=0.3
    )
