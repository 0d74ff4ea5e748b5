"""PoseEngine: images in, poses out.

rtmlib's own YOLOX and RTMPose classes prepare the networks' inputs and read their outputs; what they lack is added
here: the runtime is opened once by `runtimes`, detector scores are kept, nobody detected means no pose.
"""

from collections.abc import Sequence
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray
from rtmlib import YOLOX, RTMPose
from rtmlib.tools.object_detection.post_processings import nms

from .errors import InvalidPackage
from .images import Image
from .model_package import Detector, Estimator, ModelPackage, Network
from .poses import Pose
from .runtimes import BackendType, Runtime, open_runtime
from .skeleton import KEYPOINT_COUNT

FloatArray = NDArray[np.float32]

MIN_BOX_SIDE: Final = 2.0
"""Smaller boxes, in pixels, are no persons."""
_PERSON_CLASS: Final = 0
_STRIDES: Final = (8, 16, 32)
"""Of YOLOX's three output levels (Ge et al., 2021)."""


class PoseEngine:
    """Runs a package's person detector and pose estimator.

    Calls must not overlap: the runtimes are not all re-entrant.

    :raises RuntimeUnavailable: the runtime or device is missing or rejects a network.
    """

    def __init__(
        self,
        package: ModelPackage,
        *,
        backend_type: BackendType = 'auto',
        device: str = 'cpu',
        max_persons: int = 50,
    ) -> None:
        self.package = package
        self.max_persons = max_persons
        wholebody = package.wholebody
        self.detector = PersonDetector(
            open_runtime(package.detector_path, backend_type=backend_type, device=device), wholebody.detector
        )
        self.estimator = PoseEstimator(
            open_runtime(package.estimator_path, backend_type=backend_type, device=device), wholebody.estimator
        )
        self._score_mapping = np.array(wholebody.score_mapping, dtype=np.float64).T

    @property
    def runtime(self) -> str:
        return self.detector.runtime.name

    def poses(self, image: Image) -> list[Pose]:
        """Find the persons in an image and their keypoints, best box first.

        :param image: RGB uint8, H×W×3.
        """
        boxes, confidences = self.detector.detect(image)
        return self.poses_in_boxes(image, boxes[: self.max_persons], confidences[: self.max_persons])

    def poses_in_boxes(self, image: Image, boxes: FloatArray, confidences: FloatArray) -> list[Pose]:
        """Estimate one pose per given box.

        :param image: RGB uint8, H×W×3.
        :param boxes: (N, 4), x1, y1, x2, y2 in pixels.
        :param confidences: (N,), 0..1.
        """
        height, width = image.shape[:2]
        corner = np.array([width - 1, height - 1], dtype=np.float32)
        poses = []
        estimates = self.estimator.estimate(image, boxes)
        for box, confidence, keypoints, scores in zip(boxes, confidences, *estimates, strict=True):
            poses.append(
                Pose(
                    box=box,
                    box_confidence=float(confidence),
                    keypoints=np.clip(np.nan_to_num(keypoints), 0, corner),
                    confidences=np.where(np.isfinite(keypoints).all(axis=1), self.confidences(scores), np.float32(0)),
                )
            )
        return poses

    def confidences(self, scores: FloatArray) -> FloatArray:
        """Map raw SimCC scores of any shape to confidences in 0..1 with the package's mapping."""
        mapped = np.interp(np.nan_to_num(scores), *self._score_mapping)
        return np.clip(mapped, 0, 1).astype(np.float32)

    def check(self) -> None:
        """Run both networks on a blank image and check what comes out.

        :raises InvalidPackage: names the network and its faulty output.
        """
        blank = np.full((480, 640, 3), 114, dtype=np.uint8)
        for network, path in (
            (self.detector, self.package.detector_path),
            (self.estimator, self.package.estimator_path),
        ):
            try:
                network.check(blank)
            except InvalidPackage:
                raise
            except Exception as error:
                reason = ' '.join(str(error).split())[:300]
                raise InvalidPackage(f'{path.name}: a trial inference failed: {reason}') from error


def _prepared(image: Image, network: Network) -> NDArray[np.uint8]:
    """The image in the channel order of a network, contiguous as OpenCV wants it."""
    return np.ascontiguousarray(image[..., ::-1]) if network.color_order == 'BGR' else image


def _as_batch(pixels: NDArray[Any]) -> FloatArray:
    """H×W×3 → (1, 3, H, W), float32."""
    return np.ascontiguousarray(pixels.transpose(2, 0, 1)[None], dtype=np.float32)


class PersonDetector(YOLOX):  # type: ignore[misc]
    """rtmlib's YOLOX that keeps the scores and returns persons only."""

    def __init__(self, runtime: Runtime, spec: Detector) -> None:
        # BaseTool.__init__ would load the network a second time; these are the attributes that it sets.
        width, height = spec.input_size
        self.model_input_size = (height, width)  # rtmlib's order for detectors, unlike that for pose estimators
        self.mean = spec.mean
        self.std = spec.std
        self.runtime = runtime
        self.spec = spec

    def detect(self, image: Image) -> tuple[FloatArray, FloatArray]:
        """Find persons.

        :param image: RGB uint8, H×W×3.
        :return: boxes (N, 4): x1, y1, x2, y2 in pixels, clipped to the image, best first; confidences (N,).
        """
        pixels, ratio = self.preprocess(_prepared(image, self.spec))
        outputs = self._infer(pixels)
        boxes, scores = self._persons(outputs)
        return _tidy(boxes / ratio, scores, image.shape[:2])

    def _infer(self, pixels: NDArray[Any]) -> list[NDArray[Any]]:
        if self.spec.mean is not None and self.spec.std is not None:
            pixels = (pixels - np.array(self.spec.mean)) / np.array(self.spec.std)
        return self.runtime.run(_as_batch(pixels))

    def _persons(self, outputs: Sequence[NDArray[Any]]) -> tuple[FloatArray, FloatArray]:
        """Boxes in input pixels and scores above the threshold, of persons only."""
        if self.spec.output == 'raw':
            return self._decode_raw(outputs[0][0])
        detections = outputs[0][0]
        is_person = outputs[1][0] == _PERSON_CLASS if len(outputs) > 1 else True
        kept = detections[(detections[:, 4] >= self.spec.score_threshold) & is_person]
        return kept[:, :4], kept[:, 4]

    def _decode_raw(self, rows: FloatArray) -> tuple[FloatArray, FloatArray]:
        """YOLOX's anchor-free head: centre offset and log size per cell, objectness, class scores."""
        scores = rows[:, 4] * rows[:, 5 + _PERSON_CLASS]
        kept = scores >= self.spec.score_threshold
        cells, strides = _grid(self.model_input_size)
        centre = (rows[kept, :2] + cells[kept]) * strides[kept]
        half = np.exp(rows[kept, 2:4]) * strides[kept] / 2
        boxes = np.concatenate([centre - half, centre + half], axis=1)
        scores = scores[kept]
        chosen = nms(boxes, scores, self.spec.nms_threshold)
        return boxes[chosen], scores[chosen]

    def check(self, blank: Image) -> None:
        pixels, _ = self.preprocess(blank)
        shapes = [output.shape for output in self._infer(pixels)]
        first = shapes[0]
        if self.spec.output == 'raw':
            anchors = len(_grid(self.model_input_size)[0])
            if len(first) != 3 or first[:2] != (1, anchors) or first[2] < 6:
                raise InvalidPackage(f'{self.spec.file}: output is {first}; (1, {anchors}, 5 + classes) is expected')
        elif len(first) != 3 or first[2] != 5 or (len(shapes) > 1 and shapes[1] != first[:2]):
            raise InvalidPackage(f'{self.spec.file}: outputs are {shapes}; dets (1, N, 5), labels (1, N) are expected')


def _grid(input_size: tuple[int, int]) -> tuple[FloatArray, FloatArray]:
    """Cell coordinates (anchors, 2) and strides (anchors, 1) of YOLOX's output rows, for an input (height, width)."""
    cells, strides = [], []
    for stride in _STRIDES:
        rows, columns = input_size[0] // stride, input_size[1] // stride
        x, y = np.meshgrid(np.arange(columns), np.arange(rows))
        cells.append(np.stack([x, y], axis=-1).reshape(-1, 2))
        strides.append(np.full((rows * columns, 1), stride))
    return np.concatenate(cells).astype(np.float32), np.concatenate(strides).astype(np.float32)


def _tidy(boxes: FloatArray, scores: FloatArray, shape: tuple[int, ...]) -> tuple[FloatArray, FloatArray]:
    """Clip boxes to the image, drop what is no box, sort by score."""
    finite = np.isfinite(boxes).all(axis=1) & np.isfinite(scores)
    height, width = shape
    boxes = np.clip(boxes[finite], 0, np.array([width, height, width, height])).astype(np.float32)
    scores = np.clip(scores[finite], 0, 1).astype(np.float32)
    order = np.argsort(-scores, kind='stable')
    boxes, scores = boxes[order], scores[order]
    large = ((boxes[:, 2:] - boxes[:, :2]) >= MIN_BOX_SIDE).all(axis=1)
    return boxes[large], scores[large]


class PoseEstimator(RTMPose):  # type: ignore[misc]
    """rtmlib's RTMPose on a runtime of ours; no box means no pose, never the whole image."""

    def __init__(self, runtime: Runtime, spec: Estimator) -> None:
        # BaseTool.__init__ would load the network a second time; these are the attributes that it sets.
        self.model_input_size = spec.input_size
        self.mean = spec.mean
        self.std = spec.std
        self.to_openpose = False
        self.runtime = runtime
        self.spec = spec

    def estimate(self, image: Image, boxes: FloatArray) -> tuple[FloatArray, FloatArray]:
        """Estimate the keypoints of the person in each box.

        :param image: RGB uint8, H×W×3.
        :param boxes: (N, 4): x1, y1, x2, y2 in pixels.
        :return: keypoints (N, 133, 2) in pixels, not clipped; raw scores (N, 133).
        """
        keypoints = np.zeros((len(boxes), KEYPOINT_COUNT, 2), dtype=np.float32)
        scores = np.zeros((len(boxes), KEYPOINT_COUNT), dtype=np.float32)
        pixels = _prepared(image, self.spec)
        for index, box in enumerate(boxes):
            crop, centre, scale = self.preprocess(pixels, box)
            simcc = self.runtime.run(_as_batch(crop))
            points, point_scores = self.postprocess(simcc, centre, scale)
            keypoints[index], scores[index] = points[0], point_scores[0]
        return keypoints, scores

    def check(self, blank: Image) -> None:
        crop, _, _ = self.preprocess(blank, np.array([0, 0, blank.shape[1], blank.shape[0]], dtype=np.float32))
        shapes = [output.shape for output in self.runtime.run(_as_batch(crop))]
        width, height = self.spec.input_size
        expected = [(1, KEYPOINT_COUNT, 2 * width), (1, KEYPOINT_COUNT, 2 * height)]
        if shapes != expected:
            raise InvalidPackage(f'{self.spec.file}: outputs are {shapes}; {expected} are expected')
