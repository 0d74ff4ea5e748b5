"""The two networks of the test card model. They read test cards and have no learned weights.

Their inputs and outputs are exactly those of the published networks, so all code around them is exercised: the person
detector has those of YOLOX exported with NMS, the pose estimator those of RTMW. Only operators with equal results on
ONNX Runtime, OpenVINO and OpenCV DNN are used.
"""

from collections.abc import Mapping, Sequence
from typing import Any, Final

import numpy as np
import onnx
from numpy.typing import NDArray
from onnx import TensorProto, helper, numpy_helper

from detector.models.package import IMAGENET_MEAN, IMAGENET_STD
from detector.pose.skeleton import KEYPOINT_COUNT

from .cards import FRAME_COLOURS, dot_colours

FloatArray = NDArray[np.float64]

OPSET: Final = 11
"""Opset of the published networks."""

DETECTOR_SIDE: Final = 640
DETECTOR_SIZE: Final = (DETECTOR_SIDE, DETECTOR_SIDE)
ESTIMATOR_SIZE: Final = (192, 256)
"""Width, height of the inputs in pixels."""

MAPS: Final = 16
"""Layers have a multiple of this number of maps. ONNX Runtime would copy other maps before they are averaged."""
FRAME_TOLERANCE: Final = 80.0
DOT_TOLERANCE: Final = 44.0
"""Euclidean distance in RGB (0..255) from which a pixel no longer matches a colour; dot colours are 51 apart."""
LINE_CELL: Final = 8
"""Length of a cell along the side of a frame, in pixels."""
LINE_CELLS: Final = 3
"""Length of the shortest line in cells; the mean match of its cells with the colour must exceed 0.6."""
MAX_THICKNESS: Final = 24
"""Largest thickness of a frame's side, in pixels of the detector's input. A thicker one is an area, not a line."""
DOT_CELL: Final = 2
"""Side of the cells in which dots are searched, in pixels: a quarter of the width of a dot."""
DOT_GAIN: Final = 1.6
"""Match of a cell in exactly the colour of a dot, before it is clipped to 1."""
BIN_SIGMA: Final = 2.0
"""Sigma of the peaks in the SimCC rows, in pixels."""
PEAK_GAIN: Final = 0.302
"""Peak of a dot that fills one cell of its column. It scales the peaks of full-size dots to 0.75 … 1; the value varies
with the dot's place in the cells."""
MIN_FRAME_SIZE: Final = 36.0
"""Smallest side of a frame with a full score, in pixels of the detector's input. Smaller ones score lower."""


def build_detector() -> onnx.ModelProto:
    """Build the person detector, which finds the frames.

    Input `input` (1, 3, 640, 640) BGR 0..255. Outputs `dets` (1, K, 5), x1, y1, x2, y2 in input pixels and score, and
    `labels` (1, K), all 0: one row per frame colour, with a score near 0 if the image has no such frame. The score is
    the covered share of the four sides of the frame.
    """
    graph = _Graph()
    cells, side = DETECTOR_SIDE // LINE_CELL, DETECTOR_SIDE
    # means as ReduceMean, since OpenVINO copies an image of three channels into sixteen before an AveragePool
    pixels = graph.reshape('input', (1, 3, cells, LINE_CELL, side), output='column_pixels')
    upright = graph.add('ReduceMean', pixels, output='upright', axes=[3], keepdims=0)
    columns = _lines(graph, graph.add('Transpose', upright, output='column_cells', perm=[0, 1, 3, 2]), prefix='column')
    pixels = graph.reshape('input', (1, 3, side, cells, LINE_CELL), output='row_pixels')
    rows = _lines(graph, graph.add('ReduceMean', pixels, output='row_cells', axes=[4], keepdims=0), prefix='row')
    lines = graph.add('Concat', columns, rows, output='lines', axis=0)
    first, last, fullness = _sides(graph, lines)
    lengths = graph.add('Sub', last, first, output='lengths')
    others = graph.add('Concat', *_split(graph, lengths, 'length')[::-1], output='other_lengths', axis=0)
    at_least = graph.constant('smallest', np.array([MIN_FRAME_SIZE]))
    bounded = graph.add('Max', others, at_least, output='bounded')
    covered = graph.clip(graph.add('Div', fullness, bounded, output='share'), output='covered')
    score = graph.add('Mul', *_split(graph, covered, 'covered'), output='score')
    (x1, y1), (x2, y2) = _split(graph, first, 'first'), _split(graph, last, 'last')
    dets = graph.add('Concat', x1, y1, x2, y2, score, output='dets', axis=2)
    nothing = graph.add('Mul', score, graph.constant('none', np.zeros(1)), output='nothing')
    label = graph.add('ReduceMax', nothing, output='label', axes=[2], keepdims=0)
    labels = graph.add('Cast', label, output='labels', to=TensorProto.INT64)
    count = len(FRAME_COLOURS)
    return graph.model(
        'test_card_detector',
        inputs=[helper.make_tensor_value_info('input', TensorProto.FLOAT, [1, 3, DETECTOR_SIDE, DETECTOR_SIDE])],
        outputs=[
            helper.make_tensor_value_info(dets, TensorProto.FLOAT, [1, count, 5]),
            helper.make_tensor_value_info(labels, TensorProto.INT64, [1, count]),
        ],
    )


def build_estimator() -> onnx.ModelProto:
    """Build the pose estimator, which finds the dots.

    Input `input` (N, 3, 256, 192) RGB, normalised as for RTMW. Outputs `simcc_x` (N, 133, 384) and `simcc_y` (N, 133,
    512), two bins per pixel. A row is the number of cells of the dot's colour in each column or row of cells, smoothed
    so that a dot has one peak. The peak of a full-size dot is 0.75 to 1, and falls with its area. Only dots in the
    person's box count; the crop of the estimator is 1.25 times as large.
    """
    width, height = ESTIMATOR_SIZE
    graph = _Graph()
    (left, right), (top, bottom) = _middle(width), _middle(height)
    inside = graph.slice('input', {2: (top, bottom), 3: (left, right)}, output='inside')
    features = graph.with_squares(inside, prefix='pixel')
    match = graph.colour_match(
        graph.add(
            'AveragePool', features, output='cells', kernel_shape=[DOT_CELL, DOT_CELL], strides=[DOT_CELL, DOT_CELL]
        ),
        dot_colours().astype(np.float64),
        DOT_TOLERANCE,
        gain=DOT_GAIN,
        mean=IMAGENET_MEAN,
        std=IMAGENET_STD,
        prefix='dot',
    )
    high, wide = (bottom - top) // DOT_CELL, (right - left) // DOT_CELL
    outputs = []
    for axis, cells, size, name in ((2, high, width, 'simcc_x'), (3, wide, height, 'simcc_y')):
        profile = graph.profile(match, axis, cells, KEYPOINT_COUNT, prefix=name)
        rows = graph.add('MatMul', profile, graph.constant(f'{name}_bins', cells * _bins(size)), output=f'{name}_rows')
        graph.clip(rows, output=name)
        outputs.append(helper.make_tensor_value_info(name, TensorProto.FLOAT, ['batch', KEYPOINT_COUNT, 2 * size]))
    return graph.model(
        'test_card_estimator',
        inputs=[helper.make_tensor_value_info('input', TensorProto.FLOAT, ['batch', 3, height, width])],
        outputs=outputs,
    )


def _middle(size: int) -> tuple[int, int]:
    """Return the first and last edge of the box in the crop (its middle 0.8), in whole cells."""
    first = -(-(size // 10) // DOT_CELL) * DOT_CELL
    return first, size - first


def _bins(size: int) -> FloatArray:
    """Return the matrix from the cells of a profile to 2·size bins: a Gaussian of 2 px resolves half pixels."""
    centres = np.arange(*_middle(size), DOT_CELL) + (DOT_CELL - 1) / 2
    distance = centres[:, None] - np.arange(2 * size)[None] / 2
    kernel = np.exp(-(distance**2) / (2 * BIN_SIGMA**2))
    kernel[kernel < 1e-6] = 0  # zeros compress well
    return np.asarray(PEAK_GAIN * kernel / kernel.sum(axis=0).max())


def _split(graph: '_Graph', value: str, name: str) -> tuple[str, str]:
    """Return the parts of a tensor (2, K, 1) that belong to the columns and to the rows, (1, K, 1) each."""
    parts = [graph.slice(value, {0: (index, index + 1)}, output=f'{name}_{index}') for index in range(2)]
    return parts[0], parts[1]


def _lines(graph: '_Graph', cells: str, *, prefix: str) -> str:
    """Measure the straight, thin lines along each column or row. Areas of a frame's colour do not count.

    :param cells: mean colours of the cells of each column or row, (1, 3, SIDE, SIDE / LINE_CELL), BGR 0..255.
    :return: pixels of the line, (1, K, SIDE).
    """
    match = graph.colour_match(
        graph.with_squares(cells, prefix=prefix),
        np.array(FRAME_COLOURS, dtype=np.float64)[:, ::-1],  # BGR
        FRAME_TOLERANCE,
        gain=2.0,
        mean=np.zeros(3),
        std=np.ones(3),
        prefix=prefix,
    )
    # A cell of a line matches with its neighbours, and the places to both sides do not: from 0.6 on, fully from 0.8 on.
    count = _padded(len(FRAME_COLOURS))
    taps = np.broadcast_to(np.array([[-5.0], [5.0], [-5.0]]) / LINE_CELLS, (count, 1, 3, LINE_CELLS))
    pads = [MAX_THICKNESS, LINE_CELLS // 2]
    line = graph.add(
        'Conv', match, graph.constant(f'{prefix}_taps', taps), graph.constant(f'{prefix}_bar', np.full(count, -3.0)),
        output=f'{prefix}_contrast', kernel_shape=[3, LINE_CELLS], dilations=[MAX_THICKNESS, 1], pads=[*pads, *pads],
        group=count,
    )  # fmt: skip
    on_line = graph.clip(line, output=f'{prefix}_on_line')
    share = graph.profile(on_line, 3, DETECTOR_SIDE // LINE_CELL, len(FRAME_COLOURS), prefix=prefix)
    length = graph.constant(f'{prefix}_length', np.array([float(DETECTOR_SIDE)]))
    return graph.add('Mul', share, length, output=f'{prefix}_lines')


def _sides(graph: '_Graph', profiles: str) -> tuple[str, str, str]:
    """Find the two parallel sides of each frame in profiles (2, K, size) of matching pixels.

    A column belongs to a side if it holds more than 0.6 of the pixels of the fullest column.

    :return: first and last position (edges in pixels), and the fullest profile near the less full one, all (2, K, 1).
    """
    size = DETECTOR_SIDE
    index = np.arange(size, dtype=np.float64)
    fullest = graph.add('ReduceMax', profiles, output='fullest', axes=[2], keepdims=1)
    level = graph.add('Mul', fullest, graph.constant('share_of_fullest', np.array([0.6])), output='level')
    above = graph.add('Sub', profiles, level, output='above')
    steep = graph.add('Mul', above, graph.constant('steepness', np.array([1e4])), output='steep')
    is_side = graph.clip(steep, output='is_side')

    from_start = graph.constant('from_start', (index + 1)[None, None])
    to_end = graph.constant('to_end', (size - index)[None, None])
    weighted = graph.add('Mul', is_side, from_start, output='weighted')
    last = graph.add('ReduceMax', weighted, output='last', axes=[2], keepdims=1)
    weighted = graph.add('Mul', is_side, to_end, output='weighted_back')
    remaining = graph.add('ReduceMax', weighted, output='remaining', axes=[2], keepdims=1)
    first = graph.add('Sub', graph.constant('size', np.array([[[size]]])), remaining, output='first')

    positions = graph.constant('centres', (index + 0.5)[None, None])
    reach = graph.constant('reach', np.array([4.0]))
    fullness = []
    for side, position in (('low', first), ('high', last)):
        offset = graph.add('Sub', positions, position, output=f'{side}_offset')
        distance = graph.add('Abs', offset, output=f'{side}_distance')
        nearness = graph.clip(graph.add('Sub', reach, distance, output=f'{side}_reach_left'), output=f'{side}_near')
        near = graph.add('Mul', profiles, nearness, output=f'{side}_profile')
        fullness.append(graph.add('ReduceMax', near, output=f'{side}_fullness', axes=[2], keepdims=1))
    return first, last, graph.add('Min', *fullness, output='lesser_fullness')


def _padded(count: int) -> int:
    """Return the number of maps for a number of colours: a multiple of `MAPS`."""
    return -(-count // MAPS) * MAPS


class _Graph:
    """Collects the nodes and constants of an ONNX graph."""

    def __init__(self) -> None:
        self.nodes: list[onnx.NodeProto] = []
        self.constants: list[onnx.TensorProto] = []
        self.constant('zero', np.array(0.0))
        self.constant('one', np.array(1.0))

    def constant(self, name: str, value: FloatArray) -> str:
        self.constants.append(numpy_helper.from_array(value.astype(np.float32), name))
        return name

    def add(self, operator: str, *inputs: str, output: str, **attributes: Any) -> str:
        self.nodes.append(helper.make_node(operator, list(inputs), [output], name=output, **attributes))
        return output

    def slice(self, value: str, ranges: Mapping[int, tuple[int, int]], *, output: str) -> str:
        """Slice a tensor.

        :param ranges: first and last edge by axis.
        """
        starts, ends = zip(*ranges.values(), strict=True)
        limits = [
            self._integers(f'{output}_{name}', values)
            for name, values in (('starts', starts), ('ends', ends), ('axes', tuple(ranges)))
        ]
        return self.add('Slice', value, *limits, output=output)

    def reshape(self, value: str, shape: Sequence[int], *, output: str) -> str:
        return self.add('Reshape', value, self._integers(f'{output}_shape', shape), output=output)

    def _integers(self, name: str, values: Sequence[int]) -> str:
        self.constants.append(numpy_helper.from_array(np.array(values, dtype=np.int64), name))
        return name

    def clip(self, value: str, *, output: str) -> str:
        """Clip to 0..1."""
        return self.add('Clip', value, 'zero', 'one', output=output)

    def colour_match(
        self,
        features: str,
        colours: FloatArray,
        tolerance: float,
        *,
        gain: float,
        mean: FloatArray,
        std: FloatArray,
        prefix: str,
    ) -> str:
        """Measure how well each cell matches each colour: gain · (1 - distance² / tolerance²), clipped to 0..1.

        The distance² is linear in [x, x²], so one convolution computes it; OpenCV DNN gives the difference of two
        convolutions a wrong shape. If x and x² are means over the pixels of a cell, it is the mean of their
        distances². So a cell on a rim, with pixels of two colours, matches neither of them nor a colour between them.

        :param features: name of a tensor (N, 6, H, W): x = (colour - mean) / std, and x².
        :param colours: (K, 3), 0..255, in the channel order of `features`.
        :return: name of a tensor (N, K padded to a multiple of `MAPS`, H, W).
        """
        # |std·x + mean - c|² = Σ std²·x² + 2·std·(mean - c)·x + (mean - c)²
        offset = mean - colours
        scale = -gain / tolerance**2
        weights = np.concatenate([2 * std * offset, np.broadcast_to(std**2, colours.shape)], axis=1) * scale
        bias = gain + scale * (offset**2).sum(axis=1)
        unused = _padded(len(colours)) - len(colours)
        weights, bias = np.pad(weights, ((0, unused), (0, 0))), np.pad(bias, (0, unused))
        match = self.add(
            'Conv', features, self.constant(f'{prefix}_weights', weights[:, :, None, None]),
            self.constant(f'{prefix}_bias', bias), output=f'{prefix}_match', kernel_shape=[1, 1],
        )  # fmt: skip
        return self.clip(match, output=f'{prefix}_clipped_match')

    def with_squares(self, values: str, *, prefix: str) -> str:
        """Return the name of a tensor (N, 6, H, W): three channels and their squares."""
        squares = self.add('Mul', values, values, output=f'{prefix}_squares')
        return self.add('Concat', values, squares, output=f'{prefix}_features', axis=1)

    def profile(self, maps: str, axis: int, size: int, count: int, *, prefix: str) -> str:
        """Return the means along one axis of the first `count` maps.

        :param axis: 2 for the means of columns, 3 for those of rows.
        :param size: number of cells along the axis.
        """
        window = [size, 1] if axis == 2 else [1, size]
        pooled = self.add('AveragePool', maps, output=f'{prefix}_means', kernel_shape=window, strides=window)
        kept = self.slice(pooled, {1: (0, count)}, output=f'{prefix}_kept')
        return self.add('Squeeze', kept, output=f'{prefix}_profile', axes=[axis])

    def model(
        self, name: str, *, inputs: list[onnx.ValueInfoProto], outputs: list[onnx.ValueInfoProto]
    ) -> onnx.ModelProto:
        graph = helper.make_graph(self.nodes, name, inputs, outputs, self.constants)
        model = helper.make_model(graph, producer_name='wholebody', opset_imports=[helper.make_opsetid('', OPSET)])
        model.ir_version = 6  # belongs to opset 11
        onnx.checker.check_model(model, full_check=True)
        return model
