"""The YOLOX person detector: finds boxes of persons in an image."""

from collections.abc import Sequence
from typing import Any, Final

import cv2
import numpy as np
from numpy.typing import NDArray
from rtmlib.tools.object_detection.post_processings import nms

from detector.errors import InvalidPackage
from detector.models.package import Detector
from detector.pose.images import Image
from detector.pose.pose import FloatArray
from detector.pose.skeleton import KEYPOINT_COUNT

from .pixels import planes_of, value_tables
from .runtimes import Runtime
from .thresholds import Thresholds

MIN_BOX_SIDE: Final = 2.0
"""Shortest side of a person's box, in pixels."""
MIN_BOX_AREA: Final = KEYPOINT_COUNT
"""Smallest area of a person's box, in pixels: with fewer pixels than keypoints it shows no pose."""
_PERSON_CLASS: Final = 0
_STRIDES: Final = (8, 16, 32)
"""Strides of YOLOX's three output levels, in input pixels (Ge et al., 2021)."""
_PADDING: Final = 114
"""Grey level around the image in YOLOX's letterbox."""


class PersonDetector:
    """Runs a YOLOX network. Its input is identical to that of rtmlib, bit for bit."""

    def __init__(self, runtime: Runtime, spec: Detector, thresholds: Thresholds) -> None:
        self.runtime = runtime
        self.spec = spec
        self.thresholds = thresholds
        self._tables = value_tables(spec)
        width, height = spec.input_size
        self._input = np.empty((1, 3, height, width), dtype=np.float32)
        self._filled = (0, 0)
        self._cells, self._strides = _grid(height, width)

    def detect(self, image: Image, *, with_uncertain: bool = False) -> tuple[FloatArray, FloatArray]:
        """Find the persons in an image.

        :param image: RGB uint8, H×W×3.
        :param with_uncertain: True to keep the boxes that only relevance sees, see `Thresholds`. They follow those of
            the persons, which stay the same.
        :return: boxes (N, 4), x1, y1, x2, y2 in pixels, best first, which may extend beyond the image; confidences
            (N,).
        """
        ratio = self._letterbox(image)
        lowest = self.thresholds.lowest(with_uncertain=with_uncertain)
        boxes, scores = self._persons(self.runtime.run(self._input), ratio, lowest)
        return _tidy(boxes, scores, image.shape[:2])

    def _letterbox(self, image: Image) -> float:
        """Scale the image to fit into the upper left corner of the input, and fill the rest with grey.

        :return: input pixels per image pixel.
        """
        height, width = self._input.shape[2:]
        ratio: float = min(height / image.shape[0], width / image.shape[1])
        inner = int(image.shape[0] * ratio), int(image.shape[1] * ratio)
        if inner != self._filled:
            for plane, table in zip(self._input[0], self._tables, strict=True):
                plane[:] = table[_PADDING]
            self._filled = inner
        if image.shape[:2] != inner:
            image = np.asarray(cv2.resize(image, inner[::-1], interpolation=cv2.INTER_LINEAR), dtype=np.uint8)
        for plane, table, values in zip(self._input[0], self._tables, planes_of(image, self.spec), strict=True):
            # most networks take the values unchanged: a plain copy is faster
            plane[: inner[0], : inner[1]] = values if self.spec.mean is None else cv2.LUT(values, table)
        return ratio

    def _persons(self, outputs: Sequence[NDArray[Any]], ratio: float, lowest: float) -> tuple[FloatArray, FloatArray]:
        """Return boxes in pixels of the image, and scores from the lowest one up, of persons only."""
        if self.spec.output == 'raw':
            return self._decode_raw(outputs[0][0], ratio, lowest)
        detections = outputs[0][0]
        is_person = outputs[1][0] == _PERSON_CLASS if len(outputs) > 1 else True
        kept = detections[(detections[:, 4] >= lowest) & is_person]
        return kept[:, :4] / ratio, kept[:, 4]

    def _decode_raw(self, rows: FloatArray, ratio: float, lowest: float) -> tuple[FloatArray, FloatArray]:
        """Decode YOLOX's anchor-free head: centre offset and log size per cell, objectness, class scores."""
        scores = rows[:, 4] * rows[:, 5 + _PERSON_CLASS]
        kept = scores >= lowest
        centre = (rows[kept, :2] + self._cells[kept]) * self._strides[kept]
        half = np.exp(rows[kept, 2:4]) * self._strides[kept] / 2
        boxes = np.concatenate([centre - half, centre + half], axis=1) / ratio
        scores = scores[kept]
        # in pixels of the image, like rtmlib, since its nms adds a pixel to each side
        chosen = nms(boxes, scores, self.thresholds.nms)
        return boxes[chosen], scores[chosen]

    def check(self) -> None:
        """Run the network on a grey image, which also warms it up.

        :raises InvalidPackage: the shapes of the outputs differ from those that `spec` implies.
        """
        self._letterbox(np.full((480, 640, 3), _PADDING, dtype=np.uint8))
        shapes = [output.shape for output in self.runtime.run(self._input)]
        first = shapes[0]
        if self.spec.output == 'raw':
            anchors = len(self._cells)
            if len(first) != 3 or first[:2] != (1, anchors) or first[2] < 6:
                raise InvalidPackage(f'{self.spec.file}: output is {first}; (1, {anchors}, 5 + classes) is expected')
        elif len(first) != 3 or first[2] != 5 or (len(shapes) > 1 and shapes[1] != first[:2]):
            raise InvalidPackage(f'{self.spec.file}: outputs are {shapes}; dets (1, N, 5), labels (1, N) are expected')


def _grid(height: int, width: int) -> tuple[FloatArray, FloatArray]:
    """Return cell coordinates (anchors, 2) and strides (anchors, 1) of YOLOX's output rows."""
    cells, strides = [], []
    for stride in _STRIDES:
        rows, columns = height // stride, width // stride
        x, y = np.meshgrid(np.arange(columns), np.arange(rows))
        cells.append(np.stack([x, y], axis=-1).reshape(-1, 2))
        strides.append(np.full((rows * columns, 1), stride))
    return np.concatenate(cells).astype(np.float32), np.concatenate(strides).astype(np.float32)


def _tidy(boxes: FloatArray, scores: FloatArray, shape: tuple[int, ...]) -> tuple[FloatArray, FloatArray]:
    """Drop boxes that are not finite, too small or hardly in the image, and sort the others by score."""
    finite = np.isfinite(boxes).all(axis=1) & np.isfinite(scores)
    boxes, scores = boxes[finite].astype(np.float32), np.clip(scores[finite], 0, 1).astype(np.float32)
    order = np.argsort(-scores, kind='stable')
    boxes, scores = boxes[order], scores[order]
    inside = clip_boxes(boxes, shape)
    large = are_large(inside)
    return boxes[large], scores[large]


def are_large(boxes: FloatArray) -> NDArray[np.bool_]:
    """Return for each box whether it is large enough to show a person.

    :param boxes: (N, 4), x1, y1, x2, y2 in pixels of the image, clipped to it.
    """
    sides = boxes[:, 2:] - boxes[:, :2]
    large: NDArray[np.bool_] = (sides >= MIN_BOX_SIDE).all(axis=1) & (sides.prod(axis=1) >= MIN_BOX_AREA)
    return large


def clip_boxes(boxes: FloatArray, shape: tuple[int, ...]) -> FloatArray:
    """Clip boxes to an image.

    :param boxes: (…, 4), x1, y1, x2, y2 in pixels.
    :param shape: height and width of the image in pixels.
    """
    height, width = shape[:2]
    return np.clip(boxes, 0, np.array([width, height, width, height], dtype=np.float32))
