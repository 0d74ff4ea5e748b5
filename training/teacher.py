"""A teacher: any detector of YOLOX's raw form, and the features of its heads."""

from dataclasses import dataclass
from pathlib import Path
from typing import Final

import numpy as np
import onnx
import onnxruntime
from onnx import TensorProto, helper

from .grid import SIZE, Array

LOG_ERRORS_ONLY: Final = 3
"""ONNX Runtime's severity from which it logs; it warns of shapes that its own inference derives differently."""


@dataclass(slots=True, kw_only=True)
class Answer:
    """A teacher's answer to a batch of pictures."""

    rows: Array
    """(N, cells, 6): box in raw form, objectness and person score, each 0 to 1."""
    features: list[Array]
    """Features (N, channels, height, width) of the heads, from fine to coarse."""


class Teacher:
    """Runs a detector of YOLOX's raw form on one CPU core."""

    def __init__(self, path: Path) -> None:
        """Load the network and find the features of its heads.

        :raises ValueError: the network is not of YOLOX's raw form.
        """
        model = onnx.load(path)
        outputs = [output.name for output in model.graph.output]
        columns = model.graph.output[0].type.tensor_type.shape.dim[-1].dim_value
        if len(outputs) != 1 or columns < 6:
            raise ValueError(f'{path}: one output with 6 or more columns expected (YOLOX raw form), found {outputs}')
        self._features = head_features(model.graph)
        known = {value.name: value for value in model.graph.value_info}
        for name in self._features:
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

    def widths(self) -> list[int]:
        """Return the numbers of channels of the features, from fine to coarse."""
        return [one.shape[1] for one in self(np.zeros((1, SIZE, SIZE, 3), np.uint8)).features]

    def __call__(self, pictures: np.ndarray) -> Answer:
        """Return the answer to pictures (N, height, width, 3), BGR."""
        answers = [self._one(picture) for picture in pictures]
        rows, *maps = (np.concatenate(some) for some in zip(*answers, strict=True))
        heights = sorted({one.shape[2] for one in maps}, reverse=True)
        features = [np.concatenate([one for one in maps if one.shape[2] == height], 1) for height in heights]
        return Answer(rows=rows[..., :6], features=features)

    def _one(self, picture: np.ndarray) -> list[Array]:
        values = picture.transpose(2, 0, 1)[None].astype(np.float32)
        return self._session.run([self._output, *self._features], {self._input: values})


def head_features(graph: onnx.GraphProto) -> list[str]:
    """Return the inputs of the convolutions that no activation (SiLU) follows: those of the predictions."""
    gates = {node.input[0]: node.output[0] for node in graph.node if node.op_type == 'Sigmoid'}
    products = {frozenset(node.input) for node in graph.node if node.op_type == 'Mul'}
    convolutions = [node for node in graph.node if node.op_type == 'Conv']
    last = [node for node in convolutions if frozenset((node.output[0], gates.get(node.output[0], ''))) not in products]
    return list(dict.fromkeys(node.input[0] for node in last))
