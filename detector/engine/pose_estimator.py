"""The RTMW or RTMPose pose estimator: finds the keypoints of persons in boxes, several persons per inference."""

import logging
from collections.abc import Sequence
from typing import Final

import cv2
import numpy as np
from numpy.typing import NDArray
from rtmlib.tools.pose_estimation.post_processings import get_simcc_maximum
from rtmlib.tools.pose_estimation.pre_processings import bbox_xyxy2cs, top_down_affine

from detector.errors import InvalidPackage
from detector.models.package import Estimator, Wholebody
from detector.pose.images import Image
from detector.pose.pose import FloatArray
from detector.pose.skeleton import KEYPOINT_COUNT

from .pixels import planes_of, value_tables
from .runtimes import Precision, Runtime

log = logging.getLogger('wholebody.engine')

BATCH_SIZES: Final = (8, 4, 2, 1)
"""Persons per inference. More than 8 gain nothing, and runtimes keep memory for each size that they have seen."""
PADDING: Final = 1.25
"""Side of the crop in sides of the box, as in the training of RTMPose."""
_BINS_PER_PIXEL: Final = 2
"""SimCC bins per input pixel (Li et al., 2022), the same in every published whole-body model."""
_TOLERANCES: Final[dict[Precision, float]] = {'f32': 1e-3, 'bf16': 5e-2, 'f16': 1e-2}
"""Accepted difference of the outputs of a batch from those of single persons, relative to the largest output."""

Crop = tuple[Image, FloatArray]
"""An image (RGB uint8, H×W×3) and a box in it: x1, y1, x2, y2 in pixels."""


def confidences_of(scores: FloatArray, wholebody: Wholebody) -> FloatArray:
    """Map raw SimCC scores of any shape to confidences, 0..1, with the mapping of the package."""
    mapped = np.interp(np.nan_to_num(scores), *np.array(wholebody.score_mapping, dtype=np.float64).T)
    return np.clip(mapped, 0, 1).astype(np.float32)


class PoseEstimator:
    """Runs a SimCC network. Its input and the reading of its output are identical to rtmlib's, bit for bit.

    Persons run singly until `check` has found that the network can batch them.

    :param largest_batch: persons per inference, at most; None: as many as gain speed.
    """

    def __init__(self, runtime: Runtime, spec: Estimator, *, largest_batch: int | None = None) -> None:
        self.runtime = runtime
        self.spec = spec
        self.batch_sizes: tuple[int, ...] = (1,)
        self._allowed_sizes = tuple(size for size in BATCH_SIZES if largest_batch is None or size <= largest_batch)
        self._tables = value_tables(spec)
        width, height = spec.input_size
        self._input = np.zeros((BATCH_SIZES[0], 3, height, width), dtype=np.float32)

    def estimate(self, crops: Sequence[Crop]) -> tuple[FloatArray, FloatArray]:
        """Estimate the keypoints of the person in each box.

        :return: keypoints (N, 133, 2), x, y in pixels of the image, not clipped; raw scores (N, 133).
        """
        keypoints = np.zeros((len(crops), KEYPOINT_COUNT, 2), dtype=np.float32)
        scores = np.zeros((len(crops), KEYPOINT_COUNT), dtype=np.float32)
        start = 0
        while start < len(crops):
            size = next(size for size in self.batch_sizes if size <= len(crops) - start)
            part = slice(start, start + size)
            keypoints[part], scores[part] = self._estimate_batch(crops[part])
            start += size
        return keypoints, scores

    def _estimate_batch(self, crops: Sequence[Crop]) -> tuple[NDArray[np.float64], FloatArray]:
        frames = [self._fill(slot, *crop) for slot, crop in zip(self._input, crops, strict=False)]
        centres, scales = (np.stack(values)[:, None] for values in zip(*frames, strict=True))
        simcc_x, simcc_y = self.runtime.run(self._input[: len(crops)])
        bins, scores = get_simcc_maximum(simcc_x, simcc_y)
        keypoints = bins / _BINS_PER_PIXEL / np.array(self.spec.input_size) * scales + centres - scales / 2
        return keypoints, scores

    def _fill(self, slot: FloatArray, image: Image, box: FloatArray) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
        """Copy the surroundings of a box into a slot (3, H, W) of the input.

        :return: centre and size of the copied region, in pixels of the image.
        """
        centre, scale = bbox_xyxy2cs(np.asarray(box), padding=PADDING)
        pixels, scale = top_down_affine(self.spec.input_size, scale, centre, image)
        for plane, table, values in zip(slot, self._tables, planes_of(pixels, self.spec), strict=True):
            cv2.LUT(values, table, dst=plane)
        return centre, scale

    def check(self) -> None:
        """Run the network on noise, and find out whether a batch gives the same outputs as single persons.

        A network may be exported for single persons, and a runtime may compute batches wrongly. Runtimes that prepare
        for each batch size do so now, and free the memory for the largest one.

        :raises InvalidPackage: the shapes of the outputs for one person are not those of whole-body SimCC.
        """
        self._input[:] = np.random.default_rng(0).normal(0, 1, self._input.shape)
        width, height = self.spec.input_size
        single = [self.runtime.run(self._input[index : index + 1]) for index in range(2)]
        shapes = [output.shape for output in single[0]]
        expected = [(1, KEYPOINT_COUNT, _BINS_PER_PIXEL * side) for side in (width, height)]
        if shapes != expected:
            raise InvalidPackage(f'{self.spec.file}: outputs are {shapes}; {expected} are expected')
        reference = [np.concatenate(outputs) for outputs in zip(*single, strict=True)]
        self.batch_sizes = self._allowed_sizes if self._can_batch(reference) else (1,)
        if self.runtime.prepares_sizes:
            for size in self.batch_sizes:
                self.runtime.run(self._input[:size])
        self.runtime.release()

    def _can_batch(self, reference: Sequence[FloatArray]) -> bool:
        """Return True if a batch of the first two persons gives the same outputs as the persons singly.

        :param reference: the outputs for the two persons, concatenated.
        """
        try:
            outputs = self.runtime.run(self._input[:2])
        except Exception as error:
            log.info('%s accepts no batches: %s', self.spec.file, str(error).splitlines()[:1])
            return False
        for output, expected in zip(outputs, reference, strict=True):
            limit = _TOLERANCES[self.runtime.precision] * np.abs(expected).max()
            if output.shape != expected.shape or np.abs(output - expected).max() > limit:
                log.warning('%s computes batches wrongly: persons are run singly', self.runtime.name)
                return False
        return True
