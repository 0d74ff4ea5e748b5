"""Reading of tflite files with their published schema. Weights are returned dense, in the precision of the file."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Final

import numpy as np
import tflite

from detector.errors import StarterUnavailable

from .graph import Array

_DTYPES: Final[dict[int, np.dtype[Any]]] = {
    tflite.TensorType.FLOAT32: np.dtype('<f4'),
    tflite.TensorType.FLOAT16: np.dtype('<f2'),
    tflite.TensorType.INT32: np.dtype('<i4'),
    tflite.TensorType.INT64: np.dtype('<i8'),
}
_OPERATOR_NAMES: Final = {code: name for name, code in vars(tflite.BuiltinOperator).items() if isinstance(code, int)}
_INDEX_VECTORS: Final = {
    tflite.SparseIndexVector.Int32Vector: tflite.Int32Vector,
    tflite.SparseIndexVector.Uint16Vector: tflite.Uint16Vector,
    tflite.SparseIndexVector.Uint8Vector: tflite.Uint8Vector,
}


@dataclass(frozen=True, slots=True, kw_only=True)
class Operator:
    """An operator of a network.

    :param name: name in the schema, e.g. `CONV_2D`.
    :param inputs: numbers of its input tensors; -1 for an input that is not given.
    :param outputs: numbers of its output tensors.
    :param options: table of its options, see `options_of`.
    """

    name: str
    inputs: list[int]
    outputs: list[int]
    options: Any


@dataclass(frozen=True, slots=True, kw_only=True)
class TfliteFile:
    """The only graph of a tflite file.

    :param operators: operators in the order of execution, without those that only unpack weights.
    :param constants: constant tensors by number, in the layout of tflite.
    :param shapes: shapes of all tensors by number, in the layout of tflite.
    :param input: number of the input tensor.
    :param outputs: numbers of the output tensors.
    """

    operators: list[Operator]
    constants: dict[int, Array]
    shapes: list[tuple[int, ...]]
    input: int
    outputs: list[int]


def read_tflite(content: bytes) -> TfliteFile:
    """Read a tflite file.

    :raises StarterUnavailable: it has a form that is not known.
    """
    model = tflite.Model.GetRootAs(content, 0)
    graph = model.Subgraphs(0)
    tensors = [graph.Tensors(index) for index in range(graph.TensorsLength())]
    constants = {}
    for index, tensor in enumerate(tensors):
        if model.Buffers(tensor.Buffer()).DataLength():
            constants[index] = (
                _dense(tensor, model) if tensor.Sparsity() else _values(tensor, model).reshape(_shape(tensor))
            )
    operators = []
    for index in range(graph.OperatorsLength()):
        operator = _operator(graph.Operators(index), model)
        if operator.name in ('DEQUANTIZE', 'DENSIFY') and operator.inputs[0] in constants:
            constants[operator.outputs[0]] = constants[operator.inputs[0]]
        else:
            operators.append(operator)
    return TfliteFile(
        operators=operators,
        constants=constants,
        shapes=[_shape(tensor) for tensor in tensors],
        input=int(graph.Inputs(0)),
        outputs=[int(graph.Outputs(index)) for index in range(graph.OutputsLength())],
    )


def options_of(operator: Operator, kind: Callable[[], Any]) -> Any:
    """Return the options of an operator.

    :param kind: class of the schema, e.g. `tflite.Conv2DOptions`.
    """
    options = kind()
    options.Init(operator.options.Bytes, operator.options.Pos)
    return options


def _operator(operator: Any, model: Any) -> Operator:
    code = model.OperatorCodes(operator.OpcodeIndex())
    number = max(code.BuiltinCode(), code.DeprecatedBuiltinCode())  # the older field holds numbers below 127 only
    return Operator(
        name=_OPERATOR_NAMES[number],
        inputs=operator.InputsAsNumpy().tolist(),
        outputs=operator.OutputsAsNumpy().tolist(),
        options=operator.BuiltinOptions(),
    )


def _shape(tensor: Any) -> tuple[int, ...]:
    return tuple(tensor.ShapeAsNumpy().tolist()) if tensor.ShapeLength() else ()


def _values(tensor: Any, model: Any) -> Array:
    """Return the stored values of a constant tensor."""
    try:
        dtype = _DTYPES[tensor.Type()]
    except KeyError:
        raise StarterUnavailable(f'the tflite type {tensor.Type()} of {tensor.Name().decode()} is not known') from None
    stored: Array = model.Buffers(tensor.Buffer()).DataAsNumpy()
    return np.frombuffer(stored.tobytes(), dtype)


def _dense(tensor: Any, model: Any) -> Array:
    """Return a sparse constant as a dense array.

    The schema describes sparse tensors as TACO does (Kjolstad et al., 2017): a dimension is dense, or lists for each
    position of the dimensions before it the indices with values (compressed sparse rows).

    :raises StarterUnavailable: the dimensions are stored in another order, or in blocks.
    """
    sparsity = tensor.Sparsity()
    shape = _shape(tensor)
    if sparsity.TraversalOrderAsNumpy().tolist() != list(range(len(shape))) or sparsity.BlockMapLength():
        raise StarterUnavailable(f'{tensor.Name().decode()} is stored in a sparse form that is not known')
    position = np.zeros(1, dtype=np.int64)  # of each stored value, among the values of the dimensions so far
    flat = np.zeros(1, dtype=np.int64)  # its index in the dense array of these dimensions
    for axis, size in enumerate(shape):
        dimension = sparsity.DimMetadata(axis)
        if dimension.Format() == tflite.DimensionType.DENSE:
            position, flat = (np.add.outer(values * size, np.arange(size)).ravel() for values in (position, flat))
            continue
        segments = _indices(dimension.ArraySegments(), dimension.ArraySegmentsType())
        indices = _indices(dimension.ArrayIndices(), dimension.ArrayIndicesType())
        counts = np.diff(segments)[position]
        flat = np.repeat(flat, counts) * size
        position = np.concatenate([np.arange(segments[at], segments[at + 1]) for at in position])
        flat += indices[position]
    values = _values(tensor, model)
    dense = np.zeros(int(np.prod(shape)), dtype=values.dtype)
    dense[flat] = values[position]
    return dense.reshape(shape)


def _indices(table: Any, kind: int) -> Array:
    vector = _INDEX_VECTORS[kind]()
    vector.Init(table.Bytes, table.Pos)
    return np.asarray(vector.ValuesAsNumpy(), dtype=np.int64)
