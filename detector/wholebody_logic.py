"""The Learning Loop's door to the engine: DetectorLogic and its factory."""

import asyncio
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
from learning_loop_node import DetectorLogic, DetectorLogicFactory
from learning_loop_node.data_classes import (
    BoxDetection,
    ImageMetadata,
    ImagesMetadata,
    ModelInformation,
    PointDetection,
)
from numpy.typing import NDArray

from . import images
from .engine import PoseEngine
from .model_package import MODEL_FORMAT, ModelPackage, open_package
from .poses import Pose
from .settings import Settings
from .skeleton import KEYPOINT_NAMES, PERSON


class WholebodyDetectorLogic(DetectorLogic):
    """Evaluates images with one model package.

    In its results `box_detections[i]` is person i, best first, and `point_detections[133 * i : 133 * i + 133]` are
    that person's points in schema order: always all 133, so that persons stay apart in a flat list.
    """

    def __init__(self, engine: PoseEngine, *, max_pixels: int = images.DEFAULT_MAX_PIXELS) -> None:
        self.engine = engine
        self._max_pixels = max_pixels

    @property
    def package(self) -> ModelPackage:
        return self.engine.package

    def poses(self, image: NDArray[Any]) -> list[Pose]:
        """Find the poses in an image.

        :param image: RGB uint8, H×W×3.
        :raises InvalidImage: another array.
        """
        return self.engine.poses(images.check(image, max_pixels=self._max_pixels))

    def evaluate(self, image: NDArray[Any]) -> ImageMetadata:
        """Find the poses in an image, in the Loop's form.

        :param image: RGB uint8, H×W×3.
        :raises InvalidImage: another array.
        """
        return to_metadata(self.poses(image), self.package)

    def batch_evaluate(self, images: Sequence[NDArray[Any]]) -> ImagesMetadata:
        """As `evaluate`, for several images; as many results, in their order."""
        return ImagesMetadata(items=[self.evaluate(image) for image in images])


def to_metadata(poses: Sequence[Pose], package: ModelPackage) -> ImageMetadata:
    """Poses in the Loop's form: boxes in whole pixels, points in pixels to 0.01.

    :param package: gives category ids and the version.
    """
    metadata = ImageMetadata()
    ids, version = package.category_ids, package.version
    for pose in poses:
        x1, y1, x2, y2 = np.round(pose.box).astype(int).tolist()
        metadata.box_detections.append(
            BoxDetection(
                category_name=PERSON,
                category_id=ids[PERSON],
                x=x1,
                y=y1,
                width=x2 - x1,
                height=y2 - y1,
                model_name=version,
                confidence=round(pose.box_confidence, 4),
            )
        )
        points = np.round(pose.keypoints.astype(np.float64), 2).tolist()
        confidences = np.round(pose.confidences.astype(np.float64), 4).tolist()
        metadata.point_detections.extend(
            PointDetection(
                category_name=name, category_id=ids[name], x=x, y=y, model_name=version, confidence=confidence
            )
            for name, (x, y), confidence in zip(KEYPOINT_NAMES, points, confidences, strict=True)
        )
    return metadata


class WholebodyLogicFactory(DetectorLogicFactory):
    """Builds a logic from an installed package, in a thread."""

    def __init__(self, settings: Settings) -> None:
        self._settings = settings

    @property
    def model_format(self) -> str:
        return MODEL_FORMAT

    async def build(self, model_info: ModelInformation) -> WholebodyDetectorLogic:
        """Open the package in `model_info.model_root_path`, load its networks and try them on a blank image.

        :raises InvalidPackage: names the file or field and the reason.
        :raises RuntimeUnavailable: the runtime or device is missing or rejects a network.
        """
        assert model_info.model_root_path is not None
        return await asyncio.to_thread(self._build, Path(model_info.model_root_path))

    def _build(self, folder: Path) -> WholebodyDetectorLogic:
        settings = self._settings
        engine = PoseEngine(
            open_package(folder),
            backend_type=settings.backend_type,
            device=settings.device,
            max_persons=settings.max_persons,
        )
        engine.check()
        return WholebodyDetectorLogic(engine, max_pixels=settings.max_image_pixels)
