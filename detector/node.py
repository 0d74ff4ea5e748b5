"""WholebodyNode: the app that robots, people and the Learning Loop talk to."""

import asyncio
import logging
import time
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import Any, Final

import numpy as np
from fastapi import Request
from fastapi.responses import JSONResponse
from learning_loop_node import DetectorNode
from learning_loop_node.data_classes import ImageMetadata, ImagesMetadata
from learning_loop_node.detector.rest import about as upstream_about
from learning_loop_node.detector.rest import detect as upstream_detect
from learning_loop_node.enums import OperationMode
from learning_loop_node.helpers import background_tasks
from learning_loop_node.helpers.misc import ImageData

from . import images, routes, sio_events, upstream
from .embedded import EMBEDDED_NAME, EMBEDDED_NOTICE
from .errors import InvalidRequest, NoLearningLoop, WholebodyError
from .images import Image
from .model_store import ModelStore
from .poses import Pose
from .settings import Settings
from .wholebody_logic import WholebodyDetectorLogic, WholebodyLogicFactory

log = logging.getLogger('wholebody.node')

AUTOUPLOAD_MODES: Final = ('filtered', 'all', 'disabled')


@dataclass(frozen=True, slots=True, kw_only=True)
class Estimate:
    """The poses of some images, and how they came about.

    :param poses: one list per image.
    :param logic: the logic that found them.
    :param timing: milliseconds by stage.
    """

    images: list[Image]
    poses: list[list[Pose]]
    logic: WholebodyDetectorLogic
    timing: dict[str, float]


class WholebodyNode(DetectorNode):
    """A Learning Loop detector node for whole-body poses.

    Without LOOP_HOST it contacts nobody and stores no image.
    """

    def __init__(self, settings: Settings) -> None:
        upstream.apply_settings(settings)
        self.settings = settings
        self.store = ModelStore(settings.data_folder)
        self.build_error: str | None = None
        self._inference = ThreadPoolExecutor(1, thread_name_prefix='inference')
        super().__init__(settings.node_name, WholebodyLogicFactory(settings))
        self.title = 'Whole-body pose node'
        if not self.has_loop:
            self.outbox = upstream.NoOutbox()
        self.add_exception_handler(WholebodyError, _answer_error)
        self.include_router(routes.router)

    @property
    def has_loop(self) -> bool:
        return self.settings.loop_host is not None

    # ---------------------------------------------------------------- upstream's hooks

    def init_loop_communicator(self) -> None:
        if self.has_loop:
            super().init_loop_communicator()
        else:
            self.loop_communicator = upstream.NoLoopCommunicator()
            self.websocket_url = ''

    def include_router(self, router: Any, **kwargs: Any) -> None:
        """Leave out the routes of upstream that ours replace."""
        if router not in (upstream_detect.router, upstream_about.router):
            super().include_router(router, **kwargs)

    def _setup_sio_server(self) -> None:
        self.sio = sio_events.create_server(self)
        self.mount('/ws', sio_events.as_app(self.sio))

    async def on_startup(self) -> None:
        try:
            if self.has_loop:
                self.outbox.ensure_continuous_upload()
            folder = await asyncio.to_thread(self.store.current_or_embedded)
            await self._build_and_swap_detector(str(folder))
            logic, _ = upstream.active_detector(self)
            log.info('serving %s with %s', logic.package.model_version, logic.engine.runtime)
            if logic.package.name == EMBEDDED_NAME:
                log.warning(EMBEDDED_NOTICE)
        except Exception as error:
            self.build_error = str(error)
            log.exception('no model serves: %s', error)
        self.operation_mode = OperationMode.Idle

    async def on_shutdown(self) -> None:
        if self.has_loop:
            await super().on_shutdown()
        await self.sio.shutdown()
        self._inference.shutdown(wait=False, cancel_futures=True)

    async def on_repeat(self) -> None:
        if self.has_loop:
            await super().on_repeat()

    async def set_model_version_mode(self, version_control_mode: str) -> None:
        if not self.has_loop and version_control_mode not in ('follow_loop', 'pause'):
            raise NoLearningLoop('A model version')
        await super().set_model_version_mode(version_control_mode)

    async def _sync_status_with_loop(self) -> None:
        if self.has_loop:
            await super()._sync_status_with_loop()

    # ---------------------------------------------------------------- from images to poses

    async def decode(self, image: ImageData) -> Image:
        """The upright RGB array of an image, decoded in a thread.

        :raises InvalidImage: broken or not acceptable.
        """
        limit = self.settings.max_image_pixels
        if isinstance(image, np.ndarray):
            return images.check(image, max_pixels=limit)
        return await asyncio.to_thread(images.decode, image, max_pixels=limit)

    async def estimate(self, received: Sequence[ImageData]) -> Estimate:
        """Find the poses in images, one inference at a time, off the event loop.

        :param received: encoded images, or RGB arrays.
        :raises InvalidImage: one of them is broken or not acceptable.
        :raises ModelUnavailable: no model serves.
        """
        upstream.active_detector(self)  # fails fast, before the decoding
        start = time.perf_counter()
        decoded = await asyncio.gather(*(self.decode(image) for image in received))
        waiting = time.perf_counter()
        async with self.detection_lock:
            running = time.perf_counter()
            logic, _ = upstream.active_detector(self)
            poses = await self._in_inference_thread(lambda: [logic.poses(image) for image in decoded])
        timing = {
            'decode_ms': waiting - start,
            'wait_ms': running - waiting,
            'inference_ms': time.perf_counter() - running,
        }
        return Estimate(
            images=list(decoded),
            poses=poses,
            logic=logic,
            timing={stage: round(1000 * seconds, 2) for stage, seconds in timing.items()},
        )

    async def _in_inference_thread(self, work: Any) -> Any:
        return await asyncio.get_running_loop().run_in_executor(self._inference, work)

    async def get_detections(
        self,
        image: ImageData,
        tags: list[str],
        *,
        camera_id: str | None = None,
        source: str | None = None,
        autoupload: str = 'filtered',
        creation_date: str | None = None,
    ) -> ImageMetadata:
        """Detect on one image, as upstream defines it.

        :raises WholebodyError: see `estimate`; InvalidRequest for an unknown `autoupload`.
        """
        results = await self.get_batch_detections(
            [image], tags, camera_id=camera_id, source=source, autoupload=autoupload, creation_date=creation_date
        )
        return results.items[0]

    async def get_batch_detections(
        self,
        images: Sequence[ImageData],
        tags: list[str],
        *,
        camera_id: str | None = None,
        source: str | None = None,
        autoupload: str = 'filtered',
        creation_date: str | None = None,
    ) -> ImagesMetadata:
        """Detect on several images of one camera, as upstream defines it.

        :return: one item per image, in their order.
        :raises WholebodyError: see `estimate`; InvalidRequest for an unknown `autoupload`.
        """
        if autoupload not in AUTOUPLOAD_MODES:
            raise InvalidRequest(f"autoupload is {autoupload!r}; send 'filtered', 'all' or 'disabled'")
        estimate = await self.estimate(images)
        items = await asyncio.to_thread(lambda: [estimate.logic.metadata(poses) for poses in estimate.poses])
        for image, metadata in zip(images, items, strict=True):
            metadata.tags.extend(tags)
            metadata.source = source
            if creation_date is not None:
                metadata.created = creation_date
            self._maybe_upload(image, metadata, camera_id, autoupload)
        return ImagesMetadata(items=items)

    def _maybe_upload(self, image: ImageData, metadata: ImageMetadata, camera_id: str | None, autoupload: str) -> None:
        if not self.has_loop:
            return
        if autoupload == 'filtered':
            background_tasks.create(self.relevance_filter.may_upload_detections(metadata, camera_id, image))
        elif autoupload == 'all':
            background_tasks.create(self.outbox.save(image, metadata))

    async def upload_images(
        self,
        *,
        images: Sequence[ImageData],
        images_metadata: ImagesMetadata | None = None,
        upload_priority: bool = False,
    ) -> None:
        """Queue images for the Loop.

        :raises NoLearningLoop: there is none to send them to.
        :raises InvalidImage: one of them is broken or not acceptable; then none is queued.
        """
        if not self.has_loop:
            raise NoLearningLoop('An upload')
        for image in images:
            await self.decode(image)
        await super().upload_images(images=images, images_metadata=images_metadata, upload_priority=upload_priority)

    # ---------------------------------------------------------------- about

    def about(self) -> dict[str, Any]:
        """Upstream's answer, plus what serves and how to get a real model."""
        answer: dict[str, Any] = routes.as_dict(self.get_about_response())
        try:
            logic, _ = upstream.active_detector(self)
        except WholebodyError as error:
            answer['wholebody'] = {'model_version': None, 'notice': self.build_error or str(error)}
            return answer
        package = logic.package
        embedded = package.name == EMBEDDED_NAME
        answer['wholebody'] = {
            'model_version': package.model_version,
            'runtime': logic.engine.runtime,
            'embedded': embedded,
            'origin': package.wholebody.origin,
            'licence': package.wholebody.licence,
            'notice': EMBEDDED_NOTICE if embedded else None,
        }
        return answer


async def _answer_error(_: Request, error: Exception) -> JSONResponse:
    assert isinstance(error, WholebodyError)
    return JSONResponse({'detail': str(error)}, status_code=error.status)
