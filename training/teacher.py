"""A teacher: a detector of YOLOX's raw form, and its features, if it has the student's structure."""

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from types import MappingProxyType
from typing import Any, Final

import numpy as np
import onnx
import onnxruntime
from onnx import TensorProto, helper

from .grid import Array

LOG_ERRORS_ONLY: Final = 3
"""ONNX Runtime's severity from which it logs; it warns of shapes that its own inference derives differently."""
EMPTY: Final[Mapping[str, Any]] = MappingProxyType({})
Shape = tuple[int, ...]


@dataclass(slots=True, kw_only=True)
class Answer:
    """A teacher's answer to a batch of pictures."""

    rows: Array
    """(N, cells, 6): box in raw form, objectness and person score, each 0 to 1."""
    features: dict[str, Array]
    """Features (N, channels, height, width) by place."""


class Teacher:
    """Runs a detector of YOLOX's raw form on one CPU core."""

    def __init__(self, path: Path, places: Mapping[str, str] = EMPTY, shapes: Mapping[str, Shape] = EMPTY) -> None:
        """Load the network and find its features.

        :param places: places, and the convolution of the student whose activation each place is.
        :param shapes: the student's activated convolutions in the order of execution, and the shapes of their weights.
        :raises ValueError: the network is not of YOLOX's raw form, or it has other convolutions than the student.
        """
        model = onnx.load(path)
        outputs = [output.name for output in model.graph.output]
        columns = model.graph.output[0].type.tensor_type.shape.dim[-1].dim_value
        if len(outputs) != 1 or columns < 6:
            raise ValueError(f'{path}: one output with 6 or more columns expected (YOLOX raw form), found {outputs}')
        self._places = found_places(model.graph, places, shapes, path) if places else {}
        known = {value.name: value for value in model.graph.value_info}
        for name in self._places.values():
            if name in known:
                model.graph.value_info.remove(known[name])
            model.graph.output.append(helper.make_tensor_value_info(name, TensorProto.FLOAT, None))
        options = onnxruntime.SessionOptions()
        options.intra_op_num_threads = 1
        options.log_severity_level = LOG_ERRORS_ONLY
        self._session = onnxruntime.InferenceSession(
            model.SerializeToString(), options, providers=['CPUExecutionProvider']
        )
        self._input, self._output = self._session.get_inputs()[0].name, outputs[0]

    def __call__(self, pictures: np.ndarray) -> Answer:
        """Return the answer to pictures (N, height, width, 3), BGR."""
        answers = [self._one(picture) for picture in pictures]
        rows, *maps = (np.concatenate(some) for some in zip(*answers, strict=True))
        return Answer(rows=rows[..., :6], features=dict(zip(self._places, maps, strict=True)))

    def _one(self, picture: np.ndarray) -> list[Array]:
        values = picture.transpose(2, 0, 1)[None].astype(np.float32)
        return self._session.run([self._output, *self._places.values()], {self._input: values})


def found_places(
    graph: onnx.GraphProto, places: Mapping[str, str], shapes: Mapping[str, Shape], path: Path
) -> dict[str, str]:
    """Return the tensor of the graph at each place.

    :raises ValueError: the graph has other convolutions than the student.
    """
    found = activations(graph)
    if [shape for _, shape in found] != list(shapes.values()):
        raise ValueError(
            f'{path}: its {len(found)} convolutions with SiLU differ in number, order or shape from the '
            f'{len(shapes)} of the person detector, which learns their outputs; give a YOLOX-nano as the teacher'
        )
    tensors = dict(zip(shapes, [name for name, _ in found], strict=True))
    return {place: tensors[layer] for place, layer in places.items()}


def activations(graph: onnx.GraphProto) -> list[tuple[str, Shape]]:
    """Return the activations (SiLU) of convolutions in the graph's order, with the shapes of the weights."""
    shapes = {weights.name: tuple(weights.dims) for weights in graph.initializer}
    casts = {node.input[0]: node.output[0] for node in graph.node if node.op_type == 'Cast'}  # of float16 weights
    shapes |= {casts[name]: shape for name, shape in shapes.items() if name in casts}
    gates = {node.input[0]: node.output[0] for node in graph.node if node.op_type == 'Sigmoid'}
    products = {tuple(node.input): node.output[0] for node in graph.node if node.op_type == 'Mul'}
    found = []
    for node in graph.node:
        if node.op_type == 'Conv' and (gate := gates.get(node.output[0])):
            product = products.get((node.output[0], gate)) or products.get((gate, node.output[0]))
            if product:
                found.append((product, shapes[node.input[1]]))
    return found
