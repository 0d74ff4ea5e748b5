"""Writes the network as ONNX in YOLOX's raw form, with weights stored as float16."""

import warnings
from pathlib import Path
from typing import Final

import numpy as np
import onnx
import torch
from onnx import TensorProto, helper, numpy_helper
from torch import Tensor, nn

from .calibration import Calibration
from .grid import SIZE
from .network import PersonDetector

OPSET: Final = 17
"""Version of ONNX's operators."""
SMALL: Final = 256
"""Number of values up to which weights stay float32."""


class RawForm(nn.Module):
    """Rows of box, calibrated person score and a class score that is always 1."""

    def __init__(self, network: PersonDetector, calibration: Calibration) -> None:
        super().__init__()
        self.network, self.slope, self.shift = network, calibration.slope, calibration.shift

    def forward(self, images: Tensor) -> Tensor:
        rows = self.network(images)
        inverse = (-rows[..., 4:6].clamp(-15, 15)).exp()
        objectness, person = inverse[..., :1], inverse[..., 1:]
        logit = -(objectness + person + objectness * person).log()  # of the product of both probabilities
        score = (logit * self.slope + self.shift).sigmoid()
        return torch.cat([rows[..., :4], score, torch.ones_like(score)], -1)


def export(network: PersonDetector, path: Path, calibration: Calibration) -> None:
    """Write a network to an ONNX file: input `images` (1, 3, SIZE, SIZE), output `output` (1, cells, 6)."""
    with warnings.catch_warnings():
        # The exporter that is not deprecated needs onnxscript, and keeps batch normalisations apart.
        warnings.simplefilter('ignore', DeprecationWarning)
        torch.onnx.export(
            RawForm(network, calibration).eval(),
            (torch.zeros(1, 3, SIZE, SIZE),),
            str(path),
            input_names=['images'],
            output_names=['output'],
            opset_version=OPSET,
            dynamo=False,
        )
    model = onnx.load(path)
    store_as_half(model)
    onnx.checker.check_model(model)
    onnx.save(model, path)


def store_as_half(model: onnx.ModelProto) -> None:
    """Store large weights as float16 behind a Cast, which halves the file; the network computes in float32."""
    graph, casts = model.graph, []
    for weights in list(graph.initializer):
        values = numpy_helper.to_array(weights)
        if values.dtype == np.float32 and values.size > SMALL:
            graph.initializer.remove(weights)
            graph.initializer.append(numpy_helper.from_array(values.astype(np.float16), f'{weights.name}_f16'))
            casts.append(helper.make_node('Cast', [f'{weights.name}_f16'], [weights.name], to=TensorProto.FLOAT))
    nodes = [*casts, *graph.node]
    del graph.node[:]
    graph.node.extend(nodes)
