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

DETECTOR_SIZE: Final = (640, 640)
ESTIMATOR_SIZE: Final = (192, 256)
"""Width, height of the inputs in pixels."""

FRAME_TOLERANCE: Final = 80.0
DOT_TOLERANCE: Final = 44.0
"""Euclidean distance in RGB (0..255) from which a pixel no longer matches a colour; dot colours are 51 apart."""
LINE_CELL: Final = 8
"""Length of a cell along the side of a frame, in pixels."""
LINE_CELLS: Final = 3
"""Length of a line in cells; their mean match with the colour must exceed 0.6."""
MAX_THICKNESS: Final = 24
"""Largest thickness of a frame's side, in pixels of the detector's input. A thicker one is an area, not a line."""
DOT_CELL: Final = 2
"""Side of the cells in which dots are searched, in pixels: a quarter of the width of a dot."""
BLUR: Final = 3
"""Side of the box blur, in cells; it is applied twice."""
BIN_SIGMA: Final = 2.0
"""Sigma of the peaks in the SimCC rows, in pixels."""
PEAK_GAIN: Final = 1.62
"""Factor that scales the peaks of full-size dots to 0.75 … 1. The value varies with the dot's place in the cells."""
MIN_FRAME_SIZE: Final = 24.0
"""Smallest side of a frame with a full score, in pixels of the detector's input. Smaller ones score lower."""


def build_detector() -> onnx.ModelProto:
    """Build the person detector, which finds the frames.

    Input `input` (1, 3, 640, 640) BGR 0..255. Outputs `dets` (1, K, 5), x1, y1, x2, y2 in input pixels and score, and
    `labels` (1, K), all 0: one row per frame colour, with a score near 0 if the image has no such frame. The score is
    the covered share of the four sides of the frame.
    """
    width, height = DETECTOR_SIZE
    graph = _Graph()
    colours = np.array(FRAME_COLOURS, dtype=np.float64)[:, ::-1]  # BGR
    columns = _lines(graph, colours, vertical=True)
    rows = _lines(graph, colours, vertical=False)
    x1, x2, left, right = _sides(graph, columns, width, prefix='x')
    y1, y2, top, bottom = _sides(graph, rows, height, prefix='y')
    sides = [
        _coverage(graph, left, right, y1, y2, prefix='vertical'),
        _coverage(graph, top, bottom, x1, x2, prefix='horizontal'),
    ]
    score = graph.clip(graph.add('Mul', *sides, output='raw_score'), output='score')
    dets = graph.add('Concat', x1, y1, x2, y2, score, output='dets', axis=2)
    nothing = graph.add('Mul', columns, graph.constant('none', np.zeros(1)), output='nothing')
    label = graph.add('ReduceMax', nothing, output='label', axes=[2], keepdims=0)
    labels = graph.add('Cast', label, output='labels', to=TensorProto.INT64)
    count = len(FRAME_COLOURS)
    return graph.model(
        'test_card_detector',
        inputs=[helper.make_tensor_value_info('input', TensorProto.FLOAT, [1, 3, height, width])],
        outputs=[
            helper.make_tensor_value_info(dets, TensorProto.FLOAT, [1, count, 5]),
            helper.make_tensor_value_info(labels, TensorProto.INT64, [1, count]),
        ],
    )


def build_estimator() -> onnx.ModelProto:
    """Build the pose estimator, which finds the dots.

    Input `input` (N, 3, 256, 192) RGB, normalised as for RTMW. Outputs `simcc_x` (N, 133, 384) and `simcc_y` (N, 133,
    512), two bins per pixel. The peak of a full-size dot is 0.75 to 1, and falls with its area. Only dots in the
    person's box count; the crop of the estimator is 1.25 times as large.
    """
    width, height = ESTIMATOR_SIZE
    graph = _Graph()
    (left, right), (top, bottom) = _middle(width), _middle(height)
    inside = graph.slice('input', {2: (top, bottom), 3: (left, right)}, output='inside')
    blurred = graph.colour_match(
        inside,
        dot_colours().astype(np.float64),
        DOT_TOLERANCE,
        gain=1.6,
        mean=IMAGENET_MEAN,
        std=IMAGENET_STD,
        cell=(DOT_CELL, DOT_CELL),
    )
    for step in range(2):  # two box blurs give a pyramid: a dot has one peak, not a plateau
        blurred = graph.add(
            'AveragePool',
            blurred,
            output=f'blurred_{step}',
            kernel_shape=[BLUR, BLUR],
            pads=[BLUR // 2] * 4,
            count_include_pad=1,
        )
    outputs = []
    for axis, size, name in ((2, width, 'simcc_x'), (3, height, 'simcc_y')):
        profile = graph.add('ReduceMax', blurred, output=f'{name}_profile', axes=[axis], keepdims=0)
        graph.add('MatMul', profile, graph.constant(f'{name}_bins', _bins(size)), output=name)
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


def _lines(graph: '_Graph', colours: FloatArray, *, vertical: bool) -> str:
    """Measure the straight, thin lines in each column (or row). Areas of a frame's colour do not count.

    :param colours: colours of the frames, BGR.
    :return: pixels, (1, K, W) for vertical lines, (1, K, H) for horizontal ones.
    """
    name = 'columns' if vertical else 'rows'
    across, cell = ((1, 3), (LINE_CELL, 1)) if vertical else ((3, 1), (1, LINE_CELL))
    along = (LINE_CELLS, 1) if vertical else (1, LINE_CELLS)
    match = graph.colour_match(
        'input', colours, FRAME_TOLERANCE, gain=2.0, mean=np.zeros(3), std=np.ones(3), cell=cell, prefix=f'{name}_'
    )
    count = len(FRAME_COLOURS)
    taps = np.broadcast_to(np.array([-1.0, 1.0, -1.0]).reshape(1, 1, *across), (count, 1, *across))
    pad = [(size // 2) * MAX_THICKNESS for size in across]
    thin = graph.add(
        'Conv', match, graph.constant(f'{name}_taps', taps), output=f'{name}_contrast', kernel_shape=across,
        dilations=[MAX_THICKNESS, MAX_THICKNESS], pads=[*pad, *pad], group=count,
    )  # fmt: skip
    thin = graph.clip(thin, output=f'{name}_thin')
    pad = [size // 2 for size in along]
    taps = np.full((count, 1, *along), 5 / LINE_CELLS)
    straight = graph.add(
        'Conv', thin, graph.constant(f'{name}_run_taps', taps), graph.constant(f'{name}_bar', np.full(count, -3.0)),
        output=f'{name}_run', kernel_shape=along, pads=[*pad, *pad], group=count,
    )  # fmt: skip
    straight = graph.clip(straight, output=f'{name}_straight')
    on_line = graph.add('Mul', thin, straight, output=f'{name}_lines')
    cells = graph.add('ReduceSum', on_line, output=f'{name}_cells', axes=[2 if vertical else 3], keepdims=0)
    length = graph.constant(f'{name}_length', np.array([float(LINE_CELL)]))
    return graph.add('Mul', cells, length, output=name)


def _sides(graph: '_Graph', profile: str, size: int, *, prefix: str) -> tuple[str, str, str, str]:
    """Find the two parallel sides of a frame in a profile (1, K, size) of matching pixels.

    A column belongs to a side if it holds more than 0.6 of the pixels of the fullest column.

    :return: first and last position (edges in pixels) and the fullest profile near each, all (1, K, 1).
    """
    index = np.arange(size, dtype=np.float64)
    fullest = graph.add('ReduceMax', profile, output=f'{prefix}_fullest', axes=[2], keepdims=1)
    level = graph.add('Mul', fullest, graph.constant(f'{prefix}_share', np.array([0.6])), output=f'{prefix}_level')
    above = graph.add('Sub', profile, level, output=f'{prefix}_above')
    steep = graph.add('Mul', above, graph.constant(f'{prefix}_steepness', np.array([1e4])), output=f'{prefix}_steep')
    is_side = graph.clip(steep, output=f'{prefix}_is_side')

    from_start = graph.constant(f'{prefix}_from_start', (index + 1)[None, None])
    to_end = graph.constant(f'{prefix}_to_end', (size - index)[None, None])
    weighted = graph.add('Mul', is_side, from_start, output=f'{prefix}_weighted')
    last = graph.add('ReduceMax', weighted, output=f'{prefix}2', axes=[2], keepdims=1)
    weighted = graph.add('Mul', is_side, to_end, output=f'{prefix}_weighted_back')
    remaining = graph.add('ReduceMax', weighted, output=f'{prefix}_remaining', axes=[2], keepdims=1)
    first = graph.add('Sub', graph.constant(f'{prefix}_size', np.array([[[size]]])), remaining, output=f'{prefix}1')

    positions = graph.constant(f'{prefix}_centres', (index + 0.5)[None, None])
    fullness = []
    for side, position in (('low', first), ('high', last)):
        offset = graph.add('Sub', positions, position, output=f'{prefix}_{side}_offset')
        distance = graph.add('Abs', offset, output=f'{prefix}_{side}_distance')
        nearness = graph.clip(
            graph.add('Sub', graph.constant(f'{prefix}_{side}_reach', np.array([4.0])), distance,
                      output=f'{prefix}_{side}_reach_left'),
            output=f'{prefix}_{side}_near',
        )  # fmt: skip
        near = graph.add('Mul', profile, nearness, output=f'{prefix}_{side}_profile')
        fullness.append(graph.add('ReduceMax', near, output=f'{prefix}_{side}_fullness', axes=[2], keepdims=1))
    return first, last, fullness[0], fullness[1]


def _coverage(graph: '_Graph', one: str, other: str, start: str, stop: str, *, prefix: str) -> str:
    """Return the covered share of two parallel sides, the smaller of the two, (1, K, 1)."""
    lesser = graph.add('Min', one, other, output=f'{prefix}_lesser')
    length = graph.add('Sub', stop, start, output=f'{prefix}_length')
    at_least = graph.constant(f'{prefix}_at_least', np.array([MIN_FRAME_SIZE]))
    bounded = graph.add('Max', length, at_least, output=f'{prefix}_bounded')
    return graph.clip(graph.add('Div', lesser, bounded, output=f'{prefix}_share_'), output=f'{prefix}_coverage')


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

    def _integers(self, name: str, values: Sequence[int]) -> str:
        self.constants.append(numpy_helper.from_array(np.array(values, dtype=np.int64), name))
        return name

    def clip(self, value: str, *, output: str) -> str:
        """Clip to 0..1."""
        return self.add('Clip', value, 'zero', 'one', output=output)

    def colour_match(
        self,
        pixels: str,
        colours: FloatArray,
        tolerance: float,
        *,
        gain: float,
        mean: FloatArray,
        std: FloatArray,
        cell: tuple[int, int],
        prefix: str = '',
    ) -> str:
        """Measure how well each cell matches each colour: gain · (1 - distance² / tolerance²), clipped to 0..1.

        The distance² is the mean over the pixels of the cell. So a cell on a rim, with pixels of two colours, matches
        neither of them nor a colour between them. It is linear in [x, x²], so one convolution computes it; OpenCV DNN
        gives the difference of two convolutions a wrong shape.

        :param pixels: name of a tensor (N, 3, H, W) that holds (colour - mean) / std.
        :param colours: (K, 3), 0..255, in the channel order of `pixels`.
        :param cell: height, width in pixels.
        :return: name of a tensor (N, K, H / cell height, W / cell width).
        """
        features = self._with_squares(pixels)
        # |std·x + mean - c|² = Σ std²·x² + 2·std·(mean - c)·x + (mean - c)²
        offset = mean - colours
        scale = -gain / tolerance**2
        weights = np.concatenate([2 * std * offset, np.broadcast_to(std**2, colours.shape)], axis=1) * scale
        bias = gain + scale * (offset**2).sum(axis=1)
        height, width = cell
        taps = np.tile(weights[:, :, None, None], (1, 1, height, width)) / (height * width)
        match = self.add(
            'Conv', features, self.constant(f'{prefix}weights', taps), self.constant(f'{prefix}bias', bias),
            output=f'{prefix}match', kernel_shape=[height, width], strides=[height, width],
        )  # fmt: skip
        return self.clip(match, output=f'{prefix}clipped_match')

    def _with_squares(self, pixels: str) -> str:
        """Return the name of a tensor (N, 6, H, W): the pixels and their squares."""
        if not any(node.name == 'pixels_and_squares' for node in self.nodes):
            squares = self.add('Mul', pixels, pixels, output='squares')
            self.add('Concat', pixels, squares, output='pixels_and_squares', axis=1)
        return 'pixels_and_squares'

    def model(
        self, name: str, *, inputs: list[onnx.ValueInfoProto], outputs: list[onnx.ValueInfoProto]
    ) -> onnx.ModelProto:
        graph = helper.make_graph(self.nodes, name, inputs, outputs, self.constants)
        model = helper.make_model(graph, producer_name='wholebody', opset_imports=[helper.make_opsetid('', OPSET)])
        model.ir_version = 6  # belongs to opset 11
        onnx.checker.check_model(model, full_check=True)
        return model
