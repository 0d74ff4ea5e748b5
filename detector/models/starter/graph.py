"""An ONNX graph that is written as expressions: `centre + side * (offsets @ axes)` adds three nodes.

The published builders are no alternative: spox overloads operators only in its experimental part, and onnxscript reads
the source of functions and needs an intermediate representation of its own.
"""

from collections.abc import Sequence
from typing import Any, Final, TypeAlias

import numpy as np
import onnx
from numpy.typing import NDArray
from onnx import TensorProto, helper, numpy_helper

OPSET: Final = 17
"""Opset of the graph; GridSample exists from opset 16 on."""
_IR_VERSION: Final = 8
"""Version of ONNX's file format that belongs to the opset."""

Array: TypeAlias = NDArray[Any]
Operand: TypeAlias = 'Tensor | float'


class Graph:
    """Collects the nodes and constants of an ONNX graph."""

    def __init__(self) -> None:
        self._nodes: list[onnx.NodeProto] = []
        self._constants: dict[tuple[str, tuple[int, ...], bytes], onnx.TensorProto] = {}
        self._inputs: list[onnx.ValueInfoProto] = []
        self._outputs: list[onnx.ValueInfoProto] = []

    def input(self, name: str, shape: Sequence[int | str]) -> 'Tensor':
        """Add an input of the graph.

        :param shape: sizes; a text names a size that is free.
        """
        self._inputs.append(helper.make_tensor_value_info(name, TensorProto.FLOAT, shape))
        return Tensor(self, name)

    def output(self, name: str, tensor: 'Tensor', shape: Sequence[int | str]) -> None:
        """Make a tensor an output of the graph."""
        self._nodes.append(helper.make_node('Identity', [tensor.name], [name]))
        self._outputs.append(helper.make_tensor_value_info(name, TensorProto.FLOAT, shape))

    def constant(self, value: Array) -> 'Tensor':
        """Add a constant. Equal constants are stored once."""
        key = (value.dtype.str, value.shape, value.tobytes())
        if key not in self._constants:
            self._constants[key] = numpy_helper.from_array(value, f'constant_{len(self._constants)}')
        return Tensor(self, self._constants[key].name)

    def weights(self, value: Array) -> 'Tensor':
        """Add a float32 constant that is stored in the precision of the array: float16 or float32."""
        stored = self.constant(np.ascontiguousarray(value))
        return stored if value.dtype == np.float32 else self.add('Cast', stored, to=TensorProto.FLOAT)

    def integers(self, values: Sequence[int]) -> 'Tensor':
        return self.constant(np.array(values, dtype=np.int64))

    def floats(self, values: Any) -> 'Tensor':
        return self.constant(np.array(values, dtype=np.float32))

    def add(self, operator: str, *inputs: 'Tensor', **attributes: Any) -> 'Tensor':
        """Add a node with one output."""
        name = f'{operator}_{len(self._nodes)}'
        self._nodes.append(helper.make_node(operator, [tensor.name for tensor in inputs], [name], name, **attributes))
        return Tensor(self, name)

    def resize(self, tensor: 'Tensor', scales: Sequence[float]) -> 'Tensor':
        """Resize bilinearly, with the centres of pixels at halves."""
        name = f'Resize_{len(self._nodes)}'
        inputs = [tensor.name, '', self.floats(scales).name]
        self._nodes.append(
            helper.make_node('Resize', inputs, [name], name, mode='linear', coordinate_transformation_mode='half_pixel')
        )
        return Tensor(self, name)

    def model(self, name: str) -> onnx.ModelProto:
        """Return the model; `onnx.checker` has checked it, with the shapes of all tensors."""
        constants = list(self._constants.values())
        graph = helper.make_graph(self._nodes, name, self._inputs, self._outputs, constants)
        model = helper.make_model(graph, producer_name='wholebody', opset_imports=[helper.make_opsetid('', OPSET)])
        model.ir_version = _IR_VERSION
        onnx.checker.check_model(model, full_check=True)
        return model


class Tensor:
    """A tensor of a graph. Operators and methods add nodes; operands broadcast as in numpy."""

    __slots__ = ('graph', 'name')

    def __init__(self, graph: Graph, name: str) -> None:
        self.graph = graph
        self.name = name

    def _add(self, operator: str, *others: Operand, **attributes: Any) -> 'Tensor':
        return self.graph.add(operator, self, *(self._operand(other) for other in others), **attributes)

    def _operand(self, value: Operand) -> 'Tensor':
        return value if isinstance(value, Tensor) else self.graph.floats(value)

    def __add__(self, other: Operand) -> 'Tensor':
        return self._add('Add', other)

    __radd__ = __add__

    def __sub__(self, other: Operand) -> 'Tensor':
        return self._add('Sub', other)

    def __rsub__(self, other: float) -> 'Tensor':
        return self._operand(other) - self

    def __mul__(self, other: Operand) -> 'Tensor':
        return self._add('Mul', other)

    __rmul__ = __mul__

    def __truediv__(self, other: Operand) -> 'Tensor':
        return self._add('Div', other)

    def __rtruediv__(self, other: float) -> 'Tensor':
        return self._operand(other) / self

    def __matmul__(self, other: 'Tensor') -> 'Tensor':
        return self._add('MatMul', other)

    def __neg__(self) -> 'Tensor':
        return self._add('Neg')

    def __gt__(self, other: Operand) -> 'Tensor':
        return self._add('Greater', other)

    def __lt__(self, other: Operand) -> 'Tensor':
        return self._add('Less', other)

    def __and__(self, other: 'Tensor') -> 'Tensor':
        return self._add('And', other)

    def abs(self) -> 'Tensor':
        return self._add('Abs')

    def exp(self) -> 'Tensor':
        return self._add('Exp')

    def log(self) -> 'Tensor':
        return self._add('Log')

    def sigmoid(self) -> 'Tensor':
        return self._add('Sigmoid')

    def clip(self, lowest: float, highest: float) -> 'Tensor':
        return self._add('Clip', lowest, highest)

    def at_least(self, lowest: Operand) -> 'Tensor':
        return self._add('Max', lowest)

    def length(self) -> 'Tensor':
        """Return the Euclidean length of the vectors in the last axis, which stays with size 1."""
        return self._add('ReduceL2', axes=[-1], keepdims=1)

    def max(self, axis: int) -> 'Tensor':
        """Return the largest value along an axis, which stays with size 1."""
        return self._add('ReduceMax', axes=[axis], keepdims=1)

    def min(self, axis: int) -> 'Tensor':
        """Return the smallest value along an axis, which stays with size 1."""
        return self._add('ReduceMin', axes=[axis], keepdims=1)

    def mean(self, axis: int) -> 'Tensor':
        """Return the mean along an axis, which stays with size 1."""
        return self._add('ReduceMean', axes=[axis], keepdims=1)

    def argmax(self, axis: int) -> 'Tensor':
        """Return the index of the largest value along an axis, which stays with size 1."""
        return self._add('ArgMax', axis=axis, keepdims=1)

    def reshape(self, *shape: int) -> 'Tensor':
        """Change the shape; one size may be -1."""
        return self.graph.add('Reshape', self, self.graph.integers(shape))

    def transpose(self, *axes: int) -> 'Tensor':
        return self._add('Transpose', perm=list(axes))

    def slice(self, axis: int, start: int, stop: int) -> 'Tensor':
        """Return the positions from `start` up to `stop` along an axis."""
        limits = (self.graph.integers([value]) for value in (start, stop, axis))
        return self.graph.add('Slice', self, *limits)

    def take(self, axis: int, indices: Sequence[int]) -> 'Tensor':
        """Return the given positions along an axis."""
        return self.graph.add('Gather', self, self.graph.integers(indices), axis=axis)

    def point(self, index: int) -> 'Tensor':
        """Return one of the points (N, K, …), with shape (N, 1, …)."""
        return self.slice(1, index, index + 1)


def concat(tensors: Sequence[Tensor], axis: int) -> Tensor:
    """Concatenate tensors along an axis."""
    return tensors[0].graph.add('Concat', *tensors, axis=axis)


def where(condition: Tensor, chosen: Tensor, otherwise: Tensor) -> Tensor:
    """Return `chosen` where the condition holds, else `otherwise`."""
    return condition.graph.add('Where', condition, chosen, otherwise)
