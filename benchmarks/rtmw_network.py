"""RTMW (Jiang et al., 2024, arXiv:2407.08634) as an ONNX graph with random weights.

Channels, depths and kernels are those of mmpose's configurations rtmw-{m,l}_8xb1024-270e_cocktail14-256x192 and
rtmw-l_8xb320-270e_cocktail14-384x288.
"""

from typing import Final

import numpy as np
import onnx
from onnx import TensorProto

from detector.model_package import IMAGENET_MEAN, IMAGENET_STD
from detector.skeleton import KEYPOINT_COUNT

from .network_layers import Network, Tensor, random_pictures

TOKEN: Final = 256
ATTENTION: Final = 128
EXPANDED: Final = 2 * TOKEN
"""Widths of the gated attention unit."""
HEAD_KERNEL: Final = 7
SIMCC_STD: Final = 0.2
"""Brings the peaks to about 0.6."""


def build_estimator(*, deepen: float, widen: float, width: int, height: int, seed: int = 0) -> tuple[onnx.ModelProto, Network]:
    """The pose estimator."""
    pictures = random_pictures(4, width=width, height=height, seed=seed)
    normalised = ((pictures - IMAGENET_MEAN) / IMAGENET_STD).transpose(0, 3, 1, 2)
    net = Network('rtmw', np.ascontiguousarray(normalised, dtype=np.float32), dynamic_batch=True, seed=seed)

    def block(x: Tensor) -> Tensor:
        y = net.conv_silu(x, x.channels, 3)
        y = net.conv_silu(y, x.channels, 5, depthwise=True)
        return net.conv_silu(y, x.channels)

    base = int(64 * widen)
    x = net.conv_silu(net.input, base // 2, 3, stride=2)
    x = net.conv_silu(x, base // 2, 3)
    x = net.conv_silu(x, base, 3)
    levels = []
    for stage, blocks in enumerate((3, 6, 6, 3)):
        last = stage == 3
        x = net.conv_silu(x, 2 * x.channels, 3, stride=2)
        if last:
            x = net.spp(x)
        x = net.csp(x, x.channels, round(blocks * deepen), block, shortcut=not last, attention=True)
        levels.append(x)
    _, fine, coarse = net.pafpn(levels[1:], lambda x, channels: net.csp(x, channels, 2, block, shortcut=False))
    tokens = _attention(net, _tokens(net, fine, coarse))
    for name, features in (('simcc_x', 2 * width), ('simcc_y', 2 * height)):
        y = net.linear(tokens, features, std=SIMCC_STD)
        net._nodes[-1].output[0] = name
    return net.model({
        'simcc_x': (TensorProto.FLOAT, (KEYPOINT_COUNT, 2 * width)),
        'simcc_y': (TensorProto.FLOAT, (KEYPOINT_COUNT, 2 * height)),
    }), net


def _tokens(net: Network, fine: Tensor, coarse: Tensor) -> Tensor:
    def relu(x, channels):
        return net.add('Relu', net.conv(x, channels, HEAD_KERNEL, mean=0.5))

    shuffled = net.add('DepthToSpace', coarse, blocksize=2, mode='CRD')
    decoded = relu(shuffled, coarse.channels // 4)
    halves = []
    for features in (coarse, net.add('Concat', decoded, fine, axis=1)):
        maps = relu(features, KEYPOINT_COUNT)
        flat = net.add('Reshape', maps, net.constant([0, 0, -1], np.int64))
        halves.append(net.linear(_scale_norm(net, flat), TOKEN // 2))
    return net.add('Concat', *halves, axis=2)


def _scale_norm(net: Network, x: Tensor) -> Tensor:
    norm = net.add('ReduceL2', x, axes=[2], keepdims=1)
    norm = net.add('Mul', norm, net.constant(x.value.shape[-1] ** -0.5))
    norm = net.add('Clip', norm, net.constant(1e-5))
    net.parameters += 1
    return net.add('Mul', net.add('Div', x, norm), net.constant([1.1]))


def _attention(net: Network, x: Tensor) -> Tensor:
    uv = net.silu(net.linear(_scale_norm(net, x), 2 * EXPANDED + ATTENTION))
    name = net._name('split')
    u, v, base = net.add_many('Split', uv, outputs=[name, name + '_v', name + '_base'], axis=2, split=[EXPANDED, EXPANDED, ATTENTION])
    def aff():
        net.parameters += 2 * ATTENTION
        return net.add('Add', net.add('Mul', base, net.constant(net.rng.normal(0, 1, ATTENTION))), net.constant(net.rng.normal(0, .5, ATTENTION)))
    q, k = aff(), aff()
    qk = net.matmul(q, net.add('Transpose', k, perm=[0, 2, 1]))
    kernel = net.add('Relu', net.add('Div', qk, net.constant(ATTENTION**0.5)))
    kernel = net.add('Mul', kernel, kernel)
    y = net.linear(net.add('Mul', u, net.matmul(kernel, v)), TOKEN)
    net.parameters += TOKEN
    scaled = net.add('Mul', x, net.constant(net.rng.normal(1, 0.1, TOKEN)))
    return net.add('Add', scaled, y)
