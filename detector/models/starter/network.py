"""Conversion of a tflite network into nodes of an ONNX graph, one function per operator.

Tensors of tflite have the layout NHWC, those of the graph NCHW.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, Final

import numpy as np
import tflite
from tflite import ActivationFunctionType, Padding

from detector.errors import StarterUnavailable

from .graph import Array, Graph, Tensor, concat
from .tflite_file import Operator, TfliteFile, options_of, read_tflite

_TO_NHWC: Final = (0, 2, 3, 1)
_OHWI_TO_OIHW: Final = (0, 3, 1, 2)
_IHWO_TO_OIHW: Final = (3, 0, 1, 2)


class Network:
    """A tflite network in a graph. Each call adds its nodes once more; the weights are shared.

    :param content: the tflite file.
    :param outputs: numbers of the outputs that are wanted; what only the others need is left out.
    :raises StarterUnavailable: the file contains something that has no conversion.
    """

    def __init__(self, graph: Graph, content: bytes, *, outputs: Sequence[int]) -> None:
        self._graph = graph
        self._file = read_tflite(content)
        self._outputs = [self._file.outputs[number] for number in outputs]
        self._operators = _needed(self._file.operators, self._outputs)
        unknown = sorted({operator.name for operator in self._operators} - set(_CONVERSIONS))
        if unknown:
            raise StarterUnavailable(f'the tflite operators {", ".join(unknown)} have no conversion')
        self._weights: dict[tuple[int, tuple[int, ...]], Tensor] = {}

    @property
    def size(self) -> int:
        """Width and height of the input in pixels."""
        return self._file.shapes[self._file.input][1]

    def __call__(self, image: Tensor) -> list[Tensor]:
        """Apply the network.

        :param image: (N, 3, size, size), RGB, in the range that the network expects.
        :return: the wanted outputs, in the order of their numbers.
        """
        tensors = {self._file.input: image}
        for operator in self._operators:
            node = _Node(operator=operator, file=self._file, tensors=tensors, graph=self._graph, weights=self._weights)
            tensors[operator.outputs[0]] = _CONVERSIONS[operator.name](node)
        return [tensors[number] for number in self._outputs]


def _needed(operators: Sequence[Operator], outputs: Sequence[int]) -> list[Operator]:
    """Return the operators that some outputs depend on."""
    wanted = set(outputs)
    needed = []
    for operator in reversed(operators):
        if wanted & set(operator.outputs):
            needed.append(operator)
            wanted |= set(operator.inputs)
    return needed[::-1]


@dataclass(frozen=True, slots=True, kw_only=True)
class _Node:
    """An operator with what its conversion needs."""

    operator: Operator
    file: TfliteFile
    tensors: dict[int, Tensor]
    graph: Graph
    weights: dict[tuple[int, tuple[int, ...]], Tensor]

    def input(self, number: int = 0) -> Tensor:
        return self.tensors[self.operator.inputs[number]]

    def constant(self, number: int) -> Array:
        return self.file.constants[self.operator.inputs[number]]

    def weight(self, number: int, *axes: int) -> Tensor:
        """Return a constant input as float32, with its axes in the given order."""
        key = (self.operator.inputs[number], axes)
        if key not in self.weights:
            value = self.constant(number)
            self.weights[key] = self.graph.weights(value.transpose(axes) if axes else value)
        return self.weights[key]

    @property
    def input_shape(self) -> tuple[int, ...]:
        return self.file.shapes[self.operator.inputs[0]]

    @property
    def output_shape(self) -> tuple[int, ...]:
        return self.file.shapes[self.operator.outputs[0]]

    def options(self, kind: Callable[[], Any]) -> Any:
        return options_of(self.operator, kind)

    def require(self, condition: bool) -> None:
        if not condition:
            raise StarterUnavailable(f'the tflite operator {self.operator.name} has options without a conversion')

    def activated(self, tensor: Tensor, function: int) -> Tensor:
        """Apply the activation function that tflite fuses into an operator."""
        match function:
            case ActivationFunctionType.NONE:
                return tensor
            case ActivationFunctionType.RELU:
                return self.graph.add('Relu', tensor)
            case ActivationFunctionType.RELU6:
                return tensor.clip(0, 6)
        raise StarterUnavailable(f'the tflite activation function {function} has no conversion')

    def pads(self, padding: int, kernel: Sequence[int], strides: Sequence[int]) -> list[int]:
        """Return ONNX's pads (top, left, bottom, right) of a window; SAME puts the odd pixel at the end."""
        if padding == Padding.VALID:
            return [0, 0, 0, 0]
        sizes = zip(self.input_shape[1:3], self.output_shape[1:3], kernel, strides, strict=True)
        totals = [max((out - 1) * stride + side - into, 0) for into, out, side, stride in sizes]
        return [total // 2 for total in totals] + [total - total // 2 for total in totals]


def _conv_2d(node: _Node) -> Tensor:
    options = node.options(tflite.Conv2DOptions)
    node.require(options.DilationHFactor() == options.DilationWFactor() == 1)
    return _convolution(node, options, _OHWI_TO_OIHW, groups=1)


def _depthwise_conv_2d(node: _Node) -> Tensor:
    options = node.options(tflite.DepthwiseConv2DOptions)
    node.require(options.DilationHFactor() == options.DilationWFactor() == options.DepthMultiplier() == 1)
    return _convolution(node, options, _IHWO_TO_OIHW, groups=node.input_shape[3])


def _convolution(node: _Node, options: Any, axes: Sequence[int], *, groups: int) -> Tensor:
    kernel = node.constant(1).shape[1:3]
    strides = [options.StrideH(), options.StrideW()]
    result = node.graph.add(
        'Conv',
        node.input(),
        node.weight(1, *axes),
        node.weight(2),
        kernel_shape=kernel,
        strides=strides,
        pads=node.pads(options.Padding(), kernel, strides),
        group=groups,
    )
    return node.activated(result, options.FusedActivationFunction())


def _add(node: _Node) -> Tensor:
    return node.activated(node.input(0) + node.input(1), node.options(tflite.AddOptions).FusedActivationFunction())


def _logistic(node: _Node) -> Tensor:
    return node.input().sigmoid()


def _relu(node: _Node) -> Tensor:
    return node.graph.add('Relu', node.input())


def _prelu(node: _Node) -> Tensor:
    return node.graph.add('PRelu', node.input(), node.weight(1, 2, 0, 1))


def _pad(node: _Node) -> Tensor:
    batch, *image, channels = node.constant(1).tolist()
    before, after = zip(batch, channels, *image, strict=True)
    return node.graph.add('Pad', node.input(), node.graph.integers([*before, *after]))


def _max_pool_2d(node: _Node) -> Tensor:
    options = node.options(tflite.Pool2DOptions)
    kernel = [options.FilterHeight(), options.FilterWidth()]
    strides = [options.StrideH(), options.StrideW()]
    pads = node.pads(options.Padding(), kernel, strides)
    pooled = node.graph.add('MaxPool', node.input(), kernel_shape=kernel, strides=strides, pads=pads)
    return node.activated(pooled, options.FusedActivationFunction())


def _resize_bilinear(node: _Node) -> Tensor:
    options = node.options(tflite.ResizeBilinearOptions)
    node.require(options.HalfPixelCenters() and not options.AlignCorners())
    scales = [1, 1, *np.divide(node.output_shape[1:3], node.input_shape[1:3])]
    return node.graph.resize(node.input(), scales)


def _reshape(node: _Node) -> Tensor:
    tensor = node.input()
    if len(node.input_shape) == 4:
        tensor = tensor.transpose(*_TO_NHWC)
    node.require(len(node.output_shape) < 4)
    return tensor.reshape(-1, *node.output_shape[1:])


def _concatenation(node: _Node) -> Tensor:
    options = node.options(tflite.ConcatenationOptions)
    node.require(len(node.input_shape) < 4)
    joined = concat([node.input(number) for number in range(len(node.operator.inputs))], axis=options.Axis())
    return node.activated(joined, options.FusedActivationFunction())


def _depth_to_space(node: _Node) -> Tensor:
    block = node.options(tflite.DepthToSpaceOptions).BlockSize()
    return node.graph.add('DepthToSpace', node.input(), blocksize=block, mode='DCR')


def _mean(node: _Node) -> Tensor:
    node.require(node.constant(1).tolist() == [1, 2])
    return node.graph.add('GlobalAveragePool', node.input())


def _fully_connected(node: _Node) -> Tensor:
    options = node.options(tflite.FullyConnectedOptions)
    flat = node.graph.add('Flatten', node.input())
    result = node.graph.add('Gemm', flat, node.weight(1), node.weight(2), transB=1)
    return node.activated(result, options.FusedActivationFunction())


def _strided_slice(node: _Node) -> Tensor:
    """Cut channels; the other axes stay whole."""
    begin, end, strides = (node.constant(number).tolist() for number in (1, 2, 3))
    node.require(strides == [1, 1, 1, 1] and node.input_shape[:3] == node.output_shape[:3])
    node.require(end[3] - begin[3] == node.output_shape[3])
    return node.input().slice(1, begin[3], end[3])


_CONVERSIONS: Final[dict[str, Callable[[_Node], Tensor]]] = {
    'ADD': _add,
    'CONCATENATION': _concatenation,
    'CONV_2D': _conv_2d,
    'DEPTHWISE_CONV_2D': _depthwise_conv_2d,
    'DEPTH_TO_SPACE': _depth_to_space,
    'FULLY_CONNECTED': _fully_connected,
    'LOGISTIC': _logistic,
    'MAX_POOL_2D': _max_pool_2d,
    'MEAN': _mean,
    'PAD': _pad,
    'PRELU': _prelu,
    'RELU': _relu,
    'RESHAPE': _reshape,
    'RESIZE_BILINEAR': _resize_bilinear,
    'STRIDED_SLICE': _strided_slice,
}
"""Conversions by name in the schema. Weights are unpacked by `read_tflite`, not by DEQUANTIZE and DENSIFY."""
