"""RTMW (Jiang et al., 2024, arXiv:2407.08634), the whole-body pose estimator, with random weights.

The layers and their sizes follow mmpose's configurations rtmw-{m,l}_8xb1024-270e_cocktail14-256x192 and
rtmw-l_8xb320-270e_cocktail14-384x288.
"""

from typing import Final

import numpy as np

from detector.models.package import IMAGENET_MEAN, IMAGENET_STD
from detector.pose.skeleton import KEYPOINT_COUNT

from .network_layers import Network, Tensor, random_pictures

_TOKEN: Final = 256
_EXPANDED: Final = 2 * _TOKEN
_ATTENTION: Final = 128
"""Widths in the gated attention unit: token of a keypoint; gate and value; query and key."""
_HEAD_KERNEL: Final = 7
_SIMCC_STD: Final = 0.2
"""Standard deviation of SimCC bins. The highest of some hundred bins is then about 0.6, a medium confidence."""


def build_estimator(*, deepen: float, widen: float, width: int, height: int, seed: int = 0) -> Network:
    """Build the pose estimator.

    The input is `input` (N, 3, H, W), normalised RGB. The outputs are `simcc_x` (N, 133, 2·W) and `simcc_y`
    (N, 133, 2·H).

    :param deepen: factor for the number of blocks, 1 in RTMW-l.
    :param widen: factor for the number of channels, 1 in RTMW-l.
    """
    pictures = (random_pictures(4, width=width, height=height, seed=seed) - IMAGENET_MEAN) / IMAGENET_STD
    pixels = np.ascontiguousarray(pictures.transpose(0, 3, 1, 2), dtype=np.float32)
    network = Network('rtmw', pixels, dynamic_batch=True, seed=seed)
    fine, coarse = _features(network, deepen, widen)
    tokens = _attend(network, _tokens(network, fine, coarse))
    network.linear(tokens, 2 * width, std=_SIMCC_STD, output='simcc_x')
    network.linear(tokens, 2 * height, std=_SIMCC_STD, output='simcc_y')
    network.outputs = {'simcc_x': (KEYPOINT_COUNT, 2 * width), 'simcc_y': (KEYPOINT_COUNT, 2 * height)}
    return network


def _features(network: Network, deepen: float, widen: float) -> tuple[Tensor, Tensor]:
    """Add the CSPNeXt backbone and its neck; return the features at strides 16 and 32."""

    def block(x: Tensor) -> Tensor:
        y = network.conv_silu(x, x.channels, 3)
        y = network.conv_silu(y, x.channels, 5, depthwise=True)
        return network.conv_silu(y, x.channels)

    channels = int(64 * widen)
    x = network.conv_silu(network.input, channels // 2, 3, stride=2)
    x = network.conv_silu(x, channels // 2, 3)
    x = network.conv_silu(x, channels, 3)
    levels = []
    for blocks, last in ((3, False), (6, False), (6, False), (3, True)):
        x = network.conv_silu(x, 2 * x.channels, 3, stride=2)
        if last:
            x = network.spp(x)
        x = network.csp(x, x.channels, round(blocks * deepen), block, shortcut=not last, attention=True)
        levels.append(x)
    _, fine, coarse = network.pafpn(levels[1:], lambda x, channels: network.csp(x, channels, 2, block, shortcut=False))
    return fine, coarse


def _tokens(network: Network, fine: Tensor, coarse: Tensor) -> Tensor:
    """Add the first part of the head: one token per keypoint, half from each stride, (N, 133, 256)."""

    def conv_relu(x: Tensor, channels: int) -> Tensor:
        return network.add('Relu', network.conv(x, channels, _HEAD_KERNEL, spread=(0.5, 1.0)))

    decoded = conv_relu(network.add('DepthToSpace', coarse, blocksize=2, mode='CRD'), coarse.channels // 4)
    halves = []
    for x in (coarse, network.add('Concat', decoded, fine, axis=1)):
        maps = conv_relu(x, KEYPOINT_COUNT)
        flat = network.add('Reshape', maps, network.constant([0, 0, -1], np.int64))
        halves.append(network.linear(_scale_norm(network, flat), _TOKEN // 2))
    return network.add('Concat', *halves, axis=2)


def _attend(network: Network, x: Tensor) -> Tensor:
    """Add the gated attention unit between the tokens of the keypoints, with its shortcut."""
    mixed = network.silu(network.linear(_scale_norm(network, x), 2 * _EXPANDED + _ATTENTION))
    gate, value, base = network.add_all('Split', mixed, outputs=3, split=[_EXPANDED, _EXPANDED, _ATTENTION], axis=2)
    query, key = (network.shift(network.scale(base, mean=0.3, std=0.3), mean=0.3, std=0.1) for _ in range(2))
    likeness = network.matmul(query, network.add('Transpose', key, perm=[0, 2, 1]))
    kernel = network.add('Relu', network.add('Div', likeness, network.constant(_ATTENTION**0.5)))
    kernel = network.add('Mul', kernel, kernel)
    attended = network.linear(network.add('Mul', gate, network.matmul(kernel, value)), _TOKEN)
    return network.add('Add', network.scale(x, mean=1, std=0.1), attended)


def _scale_norm(network: Network, x: Tensor) -> Tensor:
    """Scale each token to one length, a parameter of the network."""
    length = network.add('ReduceL2', x, axes=[2], keepdims=1)
    level = network.add('Mul', length, network.constant(x.value.shape[-1] ** -0.5))
    level = network.add('Clip', level, network.constant(1e-5))
    network.parameters += 1
    return network.add('Mul', network.add('Div', x, level), network.constant([1.1]))
