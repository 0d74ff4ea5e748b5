"""ONNX graphs with random weights, calibrated while they are built, and the layers that YOLOX and RTMW share.

Each node is computed on calibration pictures as soon as it is added. A layer's weights are scaled by its input, so that
activations stay of order 1 through the whole network, for every picture. With activations that vanish, overflow or are
subnormal, the network would not have the speed of a trained one.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from math import prod
from typing import Any, Final

import cv2
import numpy as np
import onnx
import onnxruntime
from numpy.typing import ArrayLike, DTypeLike, NDArray
from onnx import TensorProto, helper, numpy_helper

FloatArray = NDArray[np.float32]

OPSET: Final = 11
IR_VERSION: Final = 6
"""IR and operator set versions of the published networks."""

LEVEL: Final = 3.0
"""Root mean square of the input of an activation."""
BIAS_STD: Final = 0.3
"""Standard deviation of biases. They keep layers active in blank areas; much larger ones would hide the picture."""
_CONTRAST: Final = 50.0
"""Contrast of the calibration pictures; lower than in most photographs, which have flat areas."""


@dataclass(frozen=True, slots=True)
class Tensor:
    """A tensor of the graph.

    :param value: its value for the calibration pictures.
    """

    name: str
    value: NDArray[Any]

    @property
    def channels(self) -> int:
        return int(self.value.shape[1])


class Network:
    """Builder of a graph with random weights. It counts parameters and multiply-adds.

    :param name: name of the graph.
    :param pictures: calibration pictures, (N, 3, H, W), in the form of the network's input.
    :param input_name: name of the graph's input.
    :param dynamic_batch: True if the graph accepts any number of pictures, False if it accepts one.
    :param seed: seed of the weights.
    """

    def __init__(
        self, name: str, pictures: FloatArray, *, input_name: str = 'input', dynamic_batch: bool = False, seed: int = 0
    ) -> None:
        self.name = name
        self.input = Tensor(input_name, pictures)
        self.parameters = 0
        """Parameters as papers count them: weights, biases, and scale and shift of each channel of a batch norm."""
        self.multiply_adds = 0
        """Multiply-adds of convolutions and matrix products for one picture."""
        self.outputs: dict[str, Sequence[str | int]] = {}
        """Shapes of the outputs by name, without the batch. `labels` is int64, all others are float32. Set before
        `model`."""
        self.rng = np.random.default_rng(seed)
        self._batch = 'batch' if dynamic_batch else 1
        self._nodes: list[onnx.NodeProto] = []
        self._constants: list[onnx.TensorProto] = []

    def constant(self, value: ArrayLike, dtype: DTypeLike = np.float32) -> Tensor:
        constant = Tensor(f'constant_{len(self._constants)}', np.asarray(value, dtype))
        self._constants.append(numpy_helper.from_array(constant.value, constant.name))
        return constant

    def add(self, operator: str, *inputs: Tensor, output: str | None = None, **attributes: Any) -> Tensor:
        """Add a node with one output and compute it.

        :param output: name, if it is an output of the graph.
        """
        return self._add(operator, inputs, [output or f'{operator}_{len(self._nodes)}'], attributes)[0]

    def add_all(self, operator: str, *inputs: Tensor, outputs: int, **attributes: Any) -> list[Tensor]:
        """Add a node with several outputs and compute it."""
        names = [f'{operator}_{len(self._nodes)}_{index}' for index in range(outputs)]
        return self._add(operator, inputs, names, attributes)

    def _add(
        self, operator: str, inputs: Sequence[Tensor], outputs: Sequence[str], attributes: dict[str, Any]
    ) -> list[Tensor]:
        names = [tensor.name for tensor in inputs]
        node = helper.make_node(operator, names, outputs, name=outputs[0], **attributes)
        self._nodes.append(node)
        return [Tensor(name, value) for name, value in zip(outputs, _compute(node, inputs), strict=True)]

    def scale(self, x: Tensor, *, mean: float, std: float) -> Tensor:
        """Multiply by a random parameter per element of the last axis."""
        factors = self.constant(self.rng.normal(mean, std, x.value.shape[-1]))
        self.parameters += factors.value.size
        return self.add('Mul', x, factors)

    def shift(self, x: Tensor, *, mean: float, std: float) -> Tensor:
        """Add a random parameter per element of the last axis."""
        offsets = self.constant(self.rng.normal(mean, std, x.value.shape[-1]))
        self.parameters += offsets.value.size
        return self.add('Add', x, offsets)

    def matmul(self, a: Tensor, b: Tensor, *, output: str | None = None) -> Tensor:
        y = self.add('MatMul', a, b, output=output)
        self.multiply_adds += prod(y.value.shape[1:]) * int(a.value.shape[-1])
        return y

    def linear(self, x: Tensor, features: int, *, std: float = 1.0, output: str | None = None) -> Tensor:
        """Multiply by a matrix of parameters; scale the result to a standard deviation."""
        weights = self.rng.standard_normal((x.value.shape[-1], features), np.float32)
        weights *= std / (x.value @ weights).std()
        self.parameters += weights.size
        return self.matmul(x, self.constant(weights), output=output)

    def conv(
        self,
        x: Tensor,
        channels: int,
        kernel: int,
        *,
        stride: int = 1,
        depthwise: bool = False,
        batch_norm: bool = True,
        spread: tuple[ArrayLike, float] | None = None,
    ) -> Tensor:
        """Add a convolution, with its batch norm folded into weights and biases.

        Without `spread`, one factor scales all channels to `LEVEL`. A batch norm would also remove the mean of each
        channel. A deep network with random weights that does so is chaotic: the rounding of different runtimes would
        lead to different keypoints.

        :param batch_norm: True if a batch norm follows, False if the convolution has its own biases.
        :param spread: mean, of all channels or of each, and standard deviation to scale each channel to.
        """
        shape = (channels, 1 if depthwise else x.channels, kernel, kernel)
        weights = self.rng.standard_normal(shape, np.float32)
        attributes: dict[str, Any] = {
            'kernel_shape': [kernel, kernel],
            'strides': [stride, stride],
            'pads': 4 * [kernel // 2],
            'group': channels if depthwise else 1,
        }
        trial = helper.make_node('Conv', [x.name, 'weights'], ['y'], **attributes)
        (y,) = _compute(trial, [x, Tensor('weights', weights)])
        factor, bias = _calibration(y, spread)
        if spread is None:
            bias = self.rng.normal(0, BIAS_STD, channels).astype(np.float32)
        self.parameters += weights.size + channels * (2 if batch_norm else 1)
        self.multiply_adds += weights.size * prod(y.shape[2:])
        folded = [self.constant(weights * factor[:, None, None, None]), self.constant(bias)]
        name = f'Conv_{len(self._nodes)}'
        inputs = [x.name, *(tensor.name for tensor in folded)]
        self._nodes.append(helper.make_node('Conv', inputs, [name], name=name, **attributes))
        return Tensor(name, (y * factor[:, None, None] + bias[:, None, None]).astype(np.float32))

    def silu(self, x: Tensor) -> Tensor:
        return self.add('Mul', x, self.add('Sigmoid', x))

    def hard_sigmoid(self, x: Tensor) -> Tensor:
        """Add a hard sigmoid from simple nodes: OpenCV 5.0.0 reads HardSigmoid before any product as part of a hard
        swish."""
        steep = self.add('Add', self.add('Mul', x, self.constant(1 / 6)), self.constant(0.5))
        return self.add('Clip', steep, self.constant(0), self.constant(1))

    def conv_silu(
        self, x: Tensor, channels: int, kernel: int = 1, *, stride: int = 1, depthwise: bool = False
    ) -> Tensor:
        return self.silu(self.conv(x, channels, kernel, stride=stride, depthwise=depthwise))

    def upsample(self, x: Tensor) -> Tensor:
        """Double width and height by repetition."""
        asymmetric = {'coordinate_transformation_mode': 'asymmetric', 'nearest_mode': 'floor'}
        no_region, scales = self.constant([]), self.constant([1, 1, 2, 2])
        return self.add('Resize', x, no_region, scales, mode='nearest', **asymmetric)

    def spp(self, x: Tensor) -> Tensor:
        """Add the spatial pyramid pooling of both backbones."""
        y = self.conv_silu(x, x.channels // 2)
        pooled = [
            self.add('MaxPool', y, kernel_shape=[size, size], strides=[1, 1], pads=4 * [size // 2])
            for size in (5, 9, 13)
        ]
        return self.conv_silu(self.add('Concat', y, *pooled, axis=1), x.channels)

    def csp(
        self,
        x: Tensor,
        channels: int,
        blocks: int,
        block: Callable[[Tensor], Tensor],
        *,
        shortcut: bool,
        attention: bool = False,
    ) -> Tensor:
        """Add a cross stage partial layer: half of the channels go through blocks.

        :param shortcut: True to add the input of each block to its output.
        :param attention: True to weight each channel by a function of the means of all channels.
        """
        short, main = self.conv_silu(x, channels // 2), self.conv_silu(x, channels // 2)
        for _ in range(blocks):
            main = self.add('Add', block(main), main) if shortcut else block(main)
        both = self.add('Concat', main, short, axis=1)
        if attention:
            weight = self.conv(self.add('GlobalAveragePool', both), channels, 1, batch_norm=False)
            both = self.add('Mul', both, self.hard_sigmoid(weight))
        return self.conv_silu(both, channels)

    def pafpn(self, levels: Sequence[Tensor], csp: Callable[[Tensor, int], Tensor]) -> list[Tensor]:
        """Add the path aggregation network of both necks: from coarse to fine and back.

        :param levels: finest level first.
        :param csp: layer; takes a tensor and the number of output channels.
        """
        top, laterals = levels[-1], []
        for finer in reversed(levels[:-1]):
            laterals.append(self.conv_silu(top, finer.channels))
            top = csp(self.add('Concat', self.upsample(laterals[-1]), finer, axis=1), finer.channels)
        outputs = [top]
        for lateral, level in zip(reversed(laterals), levels[1:], strict=True):
            down = self.conv_silu(outputs[-1], outputs[-1].channels, 3, stride=2)
            outputs.append(csp(self.add('Concat', down, lateral, axis=1), level.channels))
        return outputs

    def model(self) -> onnx.ModelProto:
        shape = [self._batch, *self.input.value.shape[1:]]
        sinks = [
            helper.make_tensor_value_info(
                name, TensorProto.INT64 if name == 'labels' else TensorProto.FLOAT, [self._batch, *sizes]
            )
            for name, sizes in self.outputs.items()
        ]
        source = helper.make_tensor_value_info(self.input.name, TensorProto.FLOAT, shape)
        model = _model(helper.make_graph(self._nodes, self.name, [source], sinks, self._constants))
        onnx.checker.check_model(model, full_check=True)
        return model


def _calibration(y: FloatArray, spread: tuple[ArrayLike, float] | None) -> tuple[FloatArray, FloatArray]:
    """Return factor and bias of each channel; see `Network.conv`."""
    channels = y.shape[1]
    if spread is None:
        level = np.sqrt(np.square(y, dtype=np.float64).mean())
        return np.full(channels, LEVEL / level, np.float32), np.zeros(channels, np.float32)
    mean, std = spread
    stds = y.std(axis=(0, 2, 3), dtype=np.float64)
    factor = std / np.maximum(
        stds, np.median(stds) / 4
    )  # a nearly constant channel would otherwise amplify its rounding errors
    bias = mean - factor * y.mean(axis=(0, 2, 3), dtype=np.float64)
    return factor.astype(np.float32), bias.astype(np.float32)


def _compute(node: onnx.NodeProto, inputs: Sequence[Tensor]) -> list[NDArray[Any]]:
    """Compute the outputs of a node, in one thread, so that sums are reproducible."""
    values = {tensor.name: tensor.value for tensor in inputs}
    sources = [
        helper.make_tensor_value_info(name, helper.np_dtype_to_tensor_dtype(value.dtype), value.shape)
        for name, value in values.items()
    ]
    sinks = [helper.make_empty_tensor_value_info(name) for name in node.output]
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = 1
    options.log_severity_level = 3
    model = _model(helper.make_graph([node], 'node', sources, sinks)).SerializeToString()
    session = onnxruntime.InferenceSession(model, options, providers=['CPUExecutionProvider'])
    return list(session.run(None, values))


def _model(graph: onnx.GraphProto) -> onnx.ModelProto:
    model = helper.make_model(graph, producer_name='wholebody', opset_imports=[helper.make_opsetid('', OPSET)])
    model.ir_version = IR_VERSION
    return model


def random_pictures(count: int, *, width: int, height: int, seed: int = 0) -> NDArray[np.uint8]:
    """Return pictures with less contrast in finer structures, as photographs have: (N, H, W, 3) uint8."""
    rng = np.random.default_rng(seed)
    pictures = np.full((count, height, width, 3), 114, dtype=np.float32)
    for octave in range(1, int(np.log2(min(width, height)))):
        for index in range(count):
            coarse = rng.normal(0, _CONTRAST / octave, (2**octave, 2**octave, 3)).astype(np.float32)
            pictures[index] += cv2.resize(coarse, (width, height), interpolation=cv2.INTER_LINEAR)
    return np.clip(pictures, 0, 255).astype(np.uint8)
