"""ONNX graphs with random weights, calibrated while they are built, and the layers that YOLOX and RTMW share.

Each node is computed as soon as it is added, on calibration pictures. So a convolution knows what reaches it, and its
weights can be scaled as a batch norm with those pictures' statistics, folded, would scale them: nothing vanishes,
overflows or is subnormal anywhere in the network, which would falsify its speed.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from math import prod
from pathlib import Path
from typing import Any, Final

import cv2
import numpy as np
import onnx
import onnxruntime
from numpy.typing import NDArray
from onnx import TensorProto, helper, numpy_helper

FloatArray = NDArray[np.float32]

OPSET: Final = 11
IR_VERSION: Final = 6
"""Those of the published networks."""
BIAS_STD: Final = 0.3
CENTRE = 0.
RMS = 1.5
"""Of what reaches an activation, whose own standard deviation is 1."""


@dataclass(frozen=True, slots=True)
class Tensor:
    """A tensor of the graph.

    :param value: what it holds for the calibration pictures.
    """

    name: str
    value: NDArray[Any]

    @property
    def channels(self) -> int:
        return int(self.value.shape[1])


class Network:
    """Collects nodes and random weights; counts both.

    :param name: of the graph.
    :param pictures: what to calibrate with, (N, 3, H, W), as the network gets it.
    :param input_name: of the graph's input.
    :param dynamic_batch: whether the graph takes any number of pictures; else one.
    :param seed: of the weights.
    """

    def __init__(
        self, name: str, pictures: FloatArray, *, input_name: str = 'input', dynamic_batch: bool = False, seed: int = 0
    ) -> None:
        self.name = name
        self.input = Tensor(input_name, pictures)
        self.parameters = 0
        """As the papers count them: weights, biases, and a scale and a shift per channel of a batch norm."""
        self.multiply_adds = 0
        """Of convolutions and matrix products, for one picture."""
        self.rng = np.random.default_rng(seed)
        self._batch: str | int = 'batch' if dynamic_batch else 1
        self._nodes: list[onnx.NodeProto] = []
        self._constants: list[onnx.TensorProto] = []

    def constant(self, value: Any, dtype: type[np.generic] = np.float32) -> Tensor:
        constant = Tensor(f'constant_{len(self._constants)}', np.asarray(value, dtype))
        self._constants.append(numpy_helper.from_array(constant.value, constant.name))
        return constant

    def add(self, operator: str, *inputs: Tensor, output: str | None = None, **attributes: Any) -> Tensor:
        """Add a node with one output, and compute it."""
        (tensor,) = self.add_many(operator, *inputs, outputs=[output or self._name(operator)], **attributes)
        return tensor

    def add_many(self, operator: str, *inputs: Tensor, outputs: Sequence[str], **attributes: Any) -> list[Tensor]:
        node = helper.make_node(operator, [tensor.name for tensor in inputs], outputs, name=outputs[0], **attributes)
        self._nodes.append(node)
        return [Tensor(name, value) for name, value in zip(outputs, _compute(node, inputs), strict=True)]

    def conv(
        self, x: Tensor, channels: int, kernel: int, *, stride: int = 1, depthwise: bool = False, batch_norm: bool = True,
        mean: float | None = None, std: float = 1.0,
    ) -> Tensor:  # fmt: skip
        """A convolution, of which each channel is shifted and scaled to a mean and a standard deviation.

        :param batch_norm: whether it stands for a convolution and a batch norm, folded.
        :param mean: by default random: these are the biases of a trained network.
        """
        shape = (channels, 1 if depthwise else x.channels, kernel, kernel)
        weights = self.rng.normal(0, prod(shape[1:]) ** -0.5, shape).astype(np.float32)
        attributes = {
            'kernel_shape': [kernel, kernel],
            'strides': [stride, stride],
            'pads': [kernel // 2] * 4,
            'group': channels if depthwise else 1,
        }
        name = self._name('Conv')
        trial = helper.make_node('Conv', [x.name, 'weights'], ['y'], **attributes)
        (y,) = _compute(trial, [x, Tensor('weights', weights)])
        means = y.mean(axis=(0, 2, 3), dtype=np.float64)
        if mean is None:
            kept = (1 - CENTRE) * means
            rms = np.sqrt(y.var() + ((y.mean(axis=(0,2,3)) - CENTRE * means) ** 2).mean())
            rms = np.sqrt(((y - (CENTRE*means)[:, None, None])**2).mean())
            scale = np.full(channels, RMS / rms)
            shift = -CENTRE * means * scale + self.rng.normal(0, BIAS_STD, channels)
        else:
            spread = y.std(axis=(0, 2, 3), dtype=np.float64)
            scale = std / np.maximum(spread, np.median(spread) / 4)
            shift = mean - scale * means
        self.parameters += weights.size + channels * (2 if batch_norm else 1)
        self.multiply_adds += weights.size * prod(y.shape[2:])
        folded = self.constant(weights * scale[:, None, None, None])
        bias = self.constant(shift)
        self._nodes.append(helper.make_node('Conv', [x.name, folded.name, bias.name], [name], name=name, **attributes))
        return Tensor(name, (y * scale[:, None, None] + shift[:, None, None]).astype(np.float32))

    def linear(self, x: Tensor, features: int, *, std: float = 1.0) -> Tensor:
        """A product with a matrix, without bias, scaled to a standard deviation."""
        weights = self.rng.normal(0, 1, (x.value.shape[-1], features)).astype(np.float32)
        weights *= std / (x.value @ weights).std()
        self.parameters += weights.size
        return self.matmul(x, self.constant(weights))

    def matmul(self, a: Tensor, b: Tensor) -> Tensor:
        y = self.add('MatMul', a, b)
        self.multiply_adds += prod(y.value.shape[1:]) * int(a.value.shape[-1])
        return y

    def silu(self, x: Tensor) -> Tensor:
        return self.add('Mul', x, self.add('Sigmoid', x))

    def conv_silu(
        self, x: Tensor, channels: int, kernel: int = 1, *, stride: int = 1, depthwise: bool = False
    ) -> Tensor:
        return self.silu(self.conv(x, channels, kernel, stride=stride, depthwise=depthwise))

    def spp(self, x: Tensor) -> Tensor:
        """The spatial pyramid pooling bottleneck of both backbones."""
        y = self.conv_silu(x, x.channels // 2)
        pooled = [
            self.add('MaxPool', y, kernel_shape=[size, size], strides=[1, 1], pads=[size // 2] * 4)
            for size in (5, 9, 13)
        ]
        return self.conv_silu(self.add('Concat', y, *pooled, axis=1), x.channels)

    def csp(
        self, x: Tensor, channels: int, blocks: int, block: Callable[[Tensor], Tensor], *, shortcut: bool,
        attention: bool = False,
    ) -> Tensor:  # fmt: skip
        """A cross stage partial layer: half of the channels go through blocks.

        :param shortcut: whether each block's input is added to its output.
        """
        main, short = self.conv_silu(x, channels // 2), self.conv_silu(x, channels // 2)
        for _ in range(blocks):
            main = self.add('Add', main, block(main)) if shortcut else block(main)
        both = self.add('Concat', main, short, axis=1)
        if attention:
            mean = self.add('GlobalAveragePool', both)
            weight = self.conv(mean, channels, 1, batch_norm=False)
            both = self.add('Mul', both, self.add('HardSigmoid', weight, alpha=1 / 6, beta=0.5))
        return self.conv_silu(both, channels)

    def pafpn(self, levels: Sequence[Tensor], csp: Callable[[Tensor, int], Tensor]) -> list[Tensor]:
        """The path aggregation network of both necks: from coarse to fine and back.

        :param levels: of three strides, finest first.
        :param csp: makes a tensor one of so many channels.
        """
        top, lateral = levels[-1], []
        for finer in reversed(levels[:-1]):
            lateral.append(self.conv_silu(top, finer.channels))
            top = csp(self.add('Concat', self.upsample(lateral[-1]), finer, axis=1), finer.channels)
        outputs = [top]
        for coarser, level in zip(reversed(lateral), levels[1:], strict=True):
            down = self.conv_silu(outputs[-1], coarser.channels, 3, stride=2)
            outputs.append(csp(self.add('Concat', down, coarser, axis=1), level.channels))
        return outputs

    def upsample(self, x: Tensor) -> Tensor:
        """Twice as wide and high, by repetition."""
        scales = self.constant([1, 1, 2, 2])
        return self.add(
            'Resize', x, self.constant([]), scales, mode='nearest', coordinate_transformation_mode='asymmetric',
            nearest_mode='floor',
        )  # fmt: skip

    def model(self, outputs: dict[str, tuple[int, Sequence[str | int]]]) -> onnx.ModelProto:
        """The finished model.

        :param outputs: element types and shapes after the batch by name.
        """
        source = helper.make_tensor_value_info(
            self.input.name, TensorProto.FLOAT, [self._batch, *self.input.value.shape[1:]]
        )
        sinks = [
            helper.make_tensor_value_info(name, kind, [self._batch, *shape]) for name, (kind, shape) in outputs.items()
        ]
        graph = helper.make_graph(self._nodes, self.name, [source], sinks, self._constants)
        model = helper.make_model(
            graph, producer_name='wholebody random weights', opset_imports=[helper.make_opsetid('', OPSET)]
        )
        model.ir_version = IR_VERSION
        onnx.checker.check_model(model, full_check=True)
        return model

    def _name(self, operator: str) -> str:
        return f'{operator.lower()}_{len(self._nodes)}'


def _compute(node: onnx.NodeProto, inputs: Sequence[Tensor]) -> list[NDArray[Any]]:
    """The outputs of one node; by one thread, which adds in the same order each time."""
    values = {tensor.name: tensor.value for tensor in inputs}
    sources = [
        helper.make_tensor_value_info(name, helper.np_dtype_to_tensor_dtype(value.dtype), value.shape)
        for name, value in values.items()
    ]
    sinks = [helper.make_empty_tensor_value_info(name) for name in node.output]
    model = helper.make_model(
        helper.make_graph([node], 'node', sources, sinks), opset_imports=[helper.make_opsetid('', OPSET)]
    )
    model.ir_version = IR_VERSION
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = 1
    options.log_severity_level = 3
    session = onnxruntime.InferenceSession(model.SerializeToString(), options, providers=['CPUExecutionProvider'])
    return list(session.run(None, values))


def random_pictures(count: int, *, width: int, height: int, seed: int = 0) -> NDArray[np.uint8]:
    """Pictures whose contrast falls with its fineness as that of photographs does, (N, H, W, 3)."""
    rng = np.random.default_rng(seed)
    pictures = np.full((count, height, width, 3), 114, dtype=np.float32)
    for picture in pictures:
        for octave in range(1, int(np.log2(max(width, height)))):
            coarse = rng.normal(0, 60 / octave, (2**octave, 2**octave, 3)).astype(np.float32)
            picture += cv2.resize(coarse, (width, height), interpolation=cv2.INTER_LINEAR)
    return np.clip(pictures, 0, 255).astype(np.uint8)
