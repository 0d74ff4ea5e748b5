"""YOLOX (Ge et al., 2021, arXiv:2107.08430), the person detector, with random weights.

The layers and their sizes are those of Megvii's yolox_tiny and yolox_m. mmdetection's detectors share them, and so do
the published Human-Art detectors. With `persons`, the detector reports that number of persons in every picture, and
still computes the whole network: the last layers are damped to `_DAMPING` of their strength, and constants are added to
their outputs, so that boxes and scores hardly vary. Without it, the boxes are random.
"""

from math import ceil, log
from typing import Final, Literal

import numpy as np

from .network_layers import FloatArray, Network, Tensor, random_pictures

Form = Literal['nms', 'raw']

_STRIDES: Final = (8, 16, 32)
_DAMPING: Final = 0.05
_SURE: Final = 6.0
_SURELY_NOT: Final = -20.0
"""Logits of persons and of empty cells, with `persons`."""
_BOX_STD: Final = 0.3
_OBJECTNESS: Final = (-6.0, 2.0)
_CLASS_STD: Final = 1.5
"""Standard deviation of the class logits without damping. Most cells are empty, as in a trained network, but scores of
all sizes occur."""
_BEFORE_NMS: Final = 5000
_AFTER_NMS: Final = 200
_NMS_IOU: Final = 0.5
_NMS_SCORE: Final = 0.05
"""Thresholds of mmdeploy, as in the published networks."""


def build_detector(
    *,
    deepen: float,
    widen: float,
    size: int,
    form: Form,
    classes: int = 80,
    persons: int | None = None,
    seed: int = 0,
) -> Network:
    """Build the person detector.

    The input is (1, 3, size, size), BGR in 0..255. In the form `raw`, which is Megvii's export without decoding, the
    input is named `images`, and the output `output` is (1, anchors, 5 + classes): offset of the centre from its cell
    and logarithm of the size, both in strides, objectness, scores of the classes. In the form `nms`, which is
    mmdeploy's export, the input is named `input`, and the outputs are `dets` (1, N, 5), x1, y1, x2, y2 in pixels and
    score, best first, with a last row of zeros, and `labels` (1, N).

    :param deepen: factor for the number of blocks, 1 in YOLOX-l.
    :param widen: factor for the number of channels, 1 in YOLOX-l.
    :param classes: 80 for COCO, 1 for the Human-Art detectors; class 0 is a person.
    :param persons: number of persons to report; see the module.
    :raises ValueError: there are too many persons for the input.
    """
    found = None if persons is None else _found(persons, size)
    pictures = random_pictures(1, width=size, height=size, seed=seed)
    pictures[:, size - size // 4 :] = 114  # the padding of a wide picture
    pixels = np.ascontiguousarray(pictures.transpose(0, 3, 1, 2), dtype=np.float32)
    network = Network('yolox', pixels, input_name='images' if form == 'raw' else 'input', seed=seed)
    levels = _features(network, deepen, widen)
    rows = [
        _head(network, x, int(256 * widen), classes, found=found if x is levels[-1] else None, damped=found is not None)
        for x in levels
    ]
    anchors = sum((size // stride) ** 2 for stride in _STRIDES)
    together = network.add('Concat', *rows, axis=2)
    if form == 'raw':
        network.add('Transpose', together, perm=[0, 2, 1], output='output')
        network.outputs = {'output': (anchors, 5 + classes)}
    else:
        _suppress(network, network.add('Transpose', together, perm=[0, 2, 1]), size, classes)
        network.outputs = {'dets': ('detections', 5), 'labels': ('detections',)}
    return network


def person_boxes(persons: int, size: int) -> FloatArray:
    """Return the boxes of the reported persons, (persons, 4): x1, y1, x2, y2 in input pixels.

    They fill the upper left quarter of the input, which a picture covers if it is at most twice as wide as high.

    :raises ValueError: there are more persons than cells of stride 32.
    """
    columns = max(1, ceil((2 * persons) ** 0.5))
    rows = max(1, ceil(persons / columns))
    width, height = size / 2 / columns, size / 2 / rows
    if min(width, height) < _STRIDES[-1]:
        raise ValueError(f'{persons} persons are too many for an input of {size}×{size}')
    row, column = np.divmod(np.arange(persons), columns)
    corners = np.stack([column + 0.1, row + 0.1, column + 0.9, row + 0.9], axis=1)
    return np.asarray(corners * [width, height, width, height], dtype=np.float32)


def _found(persons: int, size: int) -> FloatArray:
    """Return the constants to add to box and objectness at stride 32, (5, rows, columns)."""
    stride = _STRIDES[-1]
    added = np.zeros((5, size // stride, size // stride), dtype=np.float32)
    for x1, y1, x2, y2 in person_boxes(persons, size) / stride:
        x, y = (x1 + x2) / 2, (y1 + y2) / 2
        added[:, int(y), int(x)] = x % 1, y % 1, log(x2 - x1), log(y2 - y1), _SURE - _SURELY_NOT
    return added


def _features(network: Network, deepen: float, widen: float) -> list[Tensor]:
    """Add the CSPDarknet backbone and its neck; return the features at strides 8, 16 and 32."""

    def block(x: Tensor) -> Tensor:
        return network.conv_silu(network.conv_silu(x, x.channels), x.channels, 3)

    x = network.conv_silu(_focus(network, network.input), int(64 * widen), 3)
    levels = []
    for blocks, last in ((3, False), (9, False), (9, False), (3, True)):
        x = network.conv_silu(x, 2 * x.channels, 3, stride=2)
        if last:
            x = network.spp(x)
        x = network.csp(x, x.channels, round(blocks * deepen), block, shortcut=not last)
        levels.append(x)
    depth = round(3 * deepen)
    return network.pafpn(levels[1:], lambda x, channels: network.csp(x, channels, depth, block, shortcut=False))


def _focus(network: Network, x: Tensor) -> Tensor:
    """Halve width and height, and quadruple the channels."""

    def every_second(x: Tensor, axis: int, start: int) -> Tensor:
        bounds = [network.constant([value], np.int64) for value in (start, np.iinfo(np.int64).max, axis, 2)]
        return network.add('Slice', x, *bounds)

    rows = [every_second(x, 2, start) for start in (0, 1)]
    return network.add('Concat', *(every_second(row, 3, start) for start in (0, 1) for row in rows), axis=1)


def _head(network: Network, x: Tensor, width: int, classes: int, *, found: FloatArray | None, damped: bool) -> Tensor:
    """Add the decoupled head of one stride: (1, 5 + classes, cells)."""
    strength = _DAMPING if damped else 1.0
    mean, std = _OBJECTNESS

    def twice(x: Tensor) -> Tensor:
        return network.conv_silu(network.conv_silu(x, width, 3), width, 3)

    def predict(x: Tensor, channels: int, mean: float | FloatArray, std: float) -> Tensor:
        return network.conv(x, channels, 1, batch_norm=False, spread=(mean, strength * std))

    stem = network.conv_silu(x, width)
    of_class, of_box = twice(stem), twice(stem)
    is_person = np.where(np.arange(classes) == 0, _SURE, -_SURE) if damped else 0.0
    box = predict(of_box, 4, 0.0, _BOX_STD)
    objectness = predict(of_box, 1, _SURELY_NOT if damped else mean, std)
    scores = predict(of_class, classes, is_person, _CLASS_STD)
    if found is not None:
        box = network.add('Add', box, network.constant(found[None, :4]))
        objectness = network.add('Add', objectness, network.constant(found[None, 4:]))
    row = network.add('Concat', box, network.add('Sigmoid', objectness), network.add('Sigmoid', scores), axis=1)
    return network.add('Reshape', row, network.constant([0, 0, -1], np.int64))


def _suppress(network: Network, rows: Tensor, size: int, classes: int) -> None:
    """Decode (1, anchors, 5 + classes) and keep the best of overlapping boxes, like mmdeploy's export."""
    add, constant = network.add, network.constant

    def indices(*values: int) -> Tensor:
        return constant(values, np.int64)

    centre, extent, objectness, scores = network.add_all('Split', rows, outputs=4, split=[2, 2, 1, classes], axis=2)
    cells = [np.indices((size // stride, size // stride))[::-1].reshape(2, -1).T for stride in _STRIDES]
    strides = np.concatenate([np.full((len(level), 1), stride) for level, stride in zip(cells, _STRIDES, strict=True)])
    stride = constant(strides[None])
    centre = add('Mul', add('Add', centre, constant(np.concatenate(cells)[None])), stride)
    half = add('Mul', add('Mul', add('Exp', extent), stride), constant(0.5))
    boxes = add('Concat', add('Sub', centre, half), add('Add', centre, half), axis=2)
    scores = add('Mul', objectness, scores)

    count = min(_BEFORE_NMS, len(strides))
    _, likeliest = network.add_all('TopK', add('ReduceMax', scores, axes=[0, 2], keepdims=0), indices(count), outputs=2)
    boxes = add('Gather', boxes, likeliest, axis=1)
    scores = add('Transpose', add('Gather', scores, likeliest, axis=1), perm=[0, 2, 1])
    kept = add('NonMaxSuppression', boxes, scores, indices(_AFTER_NMS), constant([_NMS_IOU]), constant([_NMS_SCORE]))
    label, box = (add('Gather', kept, constant(column, np.int64), axis=1) for column in (1, 2))
    position = add('Add', add('Mul', label, indices(count)), box)
    score = add('Gather', add('Reshape', scores, indices(1, -1, 1)), position, axis=1)
    dets = add('Concat', add('Gather', boxes, box, axis=1), score, axis=2)
    dets = add('Concat', dets, constant(np.zeros((1, 1, 5))), axis=1)
    labels = add('Concat', add('Unsqueeze', label, axes=[0]), constant([[0]], np.int64), axis=1)

    score = add('Reshape', add('Gather', dets, indices(4), axis=2), indices(-1))
    _, order = network.add_all('TopK', score, add('Shape', score), outputs=2)
    add('Gather', dets, order, axis=1, output='dets')
    add('Gather', labels, order, axis=1, output='labels')
