"""The Learning Loop's interface to the engine: its DetectorLogic and the factory of it."""

import asyncio
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from learning_loop_node import DetectorLogic, DetectorLogicFactory
from learning_loop_node.data_classes import ImageMetadata, ImagesMetadata, ModelInformation
from numpy.typing import NDArray

from detector.engine.pose_engine import PoseEngine
from detector.loop.metadata import to_metadata
from detector.models.package import MODEL_FORMAT
from detector.pose import images
from detector.pose.pose import Pose
from detector.serving.model_serving import load_model
from detector.settings import Settings


class WholebodyDetectorLogic(DetectorLogic):
    """Evaluates images with one model package.

    In its results `box_detections[i]` is person i, best first. `point_detections[133 * i : 133 * i + 133]` are that
    person's points in schema order. All 133 points are always present, so persons stay apart in a flat list.
    """

    def __init__(self, engine: PoseEngine, *, max_pixels: int = images.DEFAULT_MAX_PIXELS) -> None:
        self.engine = engine
        self._max_pixels = max_pixels

    def poses(self, image: NDArray[Any]) -> list[Pose]:
        """Find the poses in an image.

        :param image: RGB uint8, H×W×3.
        :raises InvalidImage: the array has another type or shape, or too many pixels.
        """
        return self.engine.poses(images.check(image, max_pixels=self._max_pixels))

    def evaluate(self, image: NDArray[Any]) -> ImageMetadata:
        """Find the poses in an image, in the Loop's form.

        :param image: RGB uint8, H×W×3.
        :raises InvalidImage: the array has another type or shape, or too many pixels.
        """
        return to_metadata(self.poses(image), self.engine.package)

    def batch_evaluate(self, images: Sequence[NDArray[Any]]) -> ImagesMetadata:
        """Evaluate several images; the result has one item per image, in their order."""
        return ImagesMetadata(items=[self.evaluate(image) for image in images])


class WholebodyLogicFactory(DetectorLogicFactory):
    """Builds a logic from an installed package, in a thread."""

    def __init__(self, settings: Settings) -> None:
        self._settings = settings

    @property
    def model_format(self) -> str:
        return MODEL_FORMAT

    async def build(self, model_info: ModelInformation) -> WholebodyDetectorLogic:
        """Open the package in `model_info.model_root_path`, load its networks and run them once on a blank image.

        :raises InvalidPackage: the package is not valid; the error names the file or field and the reason.
        :raises RuntimeUnavailable: the runtime or device is missing or rejects a network.
        """
        assert model_info.model_root_path is not None
        model = await asyncio.to_thread(load_model, Path(model_info.model_root_path), self._settings)
        return WholebodyDetectorLogic(model.engine, max_pixels=self._settings.max_image_pixels)
