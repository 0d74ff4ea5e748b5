"""WholebodyNode: the application that robots, people and the Learning Loop talk to."""

import asyncio
from collections.abc import Sequence
from typing import Any, Final

from learning_loop_node import DetectorNode
from learning_loop_node.data_classes import ImageMetadata, ImagesMetadata
from learning_loop_node.detector.rest import about, detect, model_version_control, outbox_mode, upload
from learning_loop_node.enums import OperationMode
from learning_loop_node.helpers import background_tasks
from learning_loop_node.helpers.misc import ImageData
from starlette.types import ASGIApp

from detector import ls_adapter
from detector.api import error_answers, events, login, metrics_route, openapi, outbox_routes, routes
from detector.api.middleware import access
from detector.api.middleware.drain import Draining
from detector.api.middleware.limits import RequestLimits
from detector.api.middleware.observation import ObservedRequests
from detector.loop import upstream
from detector.service import DetectRequest
from detector.serving.model_serving import ServingModel
from detector.settings import Settings
from detector.system.folder_lock import FolderLock
from detector.wholebody_logic import WholebodyDetectorLogic, WholebodyLogicFactory

from .parts import Parts
from .shutdown import NodeShutdown
from .state_metrics import StateMetrics

_REPLACED: Final = (detect.router, upload.router, about.router, model_version_control.router, outbox_mode.router)
"""Upstream's routes that our own replace."""


class WholebodyNode(DetectorNode):
    """A Learning Loop detector node for whole-body poses: the methods that upstream calls.

    Without LOOP_HOST it contacts no other machine and stores no image.

    :param lock: lock of DATA_FOLDER, acquired.
    :raises InvalidSettings: DATA_FOLDER cannot be written, or another setting cannot be used.
    """

    def __init__(self, settings: Settings, lock: FolderLock | None = None) -> None:
        settings.make_data_folder()
        upstream.apply_settings(settings)
        upstream.make_way_for_outbox(settings.data_folder)
        self.parts = Parts(
            settings,
            on_model=self._mirror_model,
            on_state=lambda following: upstream.mirror_state(self, following),
            send_status=lambda: upstream.send_status(self),
            is_muted=lambda: upstream.is_muted(self),
        )
        self._lock = lock
        node_id = upstream.node_id(settings.data_folder, settings.node_name)
        super().__init__(settings.node_name, WholebodyLogicFactory(settings), uuid=node_id)
        self.repeat_loop_cycle_sec = settings.poll_seconds  # type: ignore[assignment]  # upstream only sleeps by it
        self.title = 'Whole-body pose node'
        self.detection_lock = self.parts.serving.lock
        self.outbox = self.parts.outbox  # type: ignore[assignment]  # replaces upstream's
        self.shutdown = NodeShutdown(self.parts, self.sio)
        self._add_middlewares()
        self._add_routes()

    def _add_middlewares(self) -> None:
        """Add the middlewares, the innermost first."""
        own = self.parts
        self.add_middleware(
            RequestLimits, settings=own.settings, admission=own.inference.admission, in_flight=own.in_flight
        )
        access.install(self, own.settings, own.access_policy)
        self.add_middleware(Draining, drain=own.drain)
        error_answers.install(self)

    def _add_routes(self) -> None:
        own = self.parts
        state = StateMetrics(
            serving=own.serving,
            outbox=own.outbox,
            admission=own.inference.admission,
            corrections=own.label_studio.about_corrections,
            clients=lambda: len(self.connected_clients),
        )
        own.metrics.registry.register(state)
        for router in (
            routes.create_router(own.service),
            outbox_routes.create_router(own.service.uploads, own.service.outbox, own.outbox, own.settings),
            login.create_router(own.access_policy),
            ls_adapter.create_router(own.label_studio, own.service.models, own.access_policy, own.settings),
            metrics_route.create_router(own.metrics.registry),
        ):
            self.include_router(router)
        openapi.install(self)

    def _mirror_model(self, model: ServingModel | None) -> None:
        if model is None:
            upstream.mirror_model(self, None, None)
        else:
            logic = WholebodyDetectorLogic(model.engine, max_pixels=self.parts.settings.max_image_pixels)
            upstream.mirror_model(self, logic, model.information)

    # ---------------------------------------------------------------- construction

    def init_loop_communicator(self) -> None:
        self.loop_communicator = self.parts.communicator
        self.websocket_url = ''  # address of a Socket.IO connection to the Loop, which detectors do not open

    def include_router(self, router: Any, **kwargs: Any) -> None:
        """Leave out the routes of upstream that our own replace."""
        if router not in _REPLACED:
            super().include_router(router, **kwargs)

    def build_middleware_stack(self) -> ASGIApp:
        """Observe the answers of all middlewares, including failures."""
        return ObservedRequests(super().build_middleware_stack(), self, self.parts.metrics)

    def _setup_sio_server(self) -> None:
        own = self.parts
        server = events.EventServer(
            own.service,
            own.settings,
            access_policy=own.access_policy,
            drain=own.drain,
            in_flight=own.in_flight,
            metrics=own.metrics,
            clients=self.connected_clients,
        )
        self.sio = server.sio
        self.mount('/ws', server.app)

    # ---------------------------------------------------------------- start and end of life

    async def on_startup(self) -> None:
        """Return as soon as the outbox can take images; the model is loaded in the background."""
        self.parts.event_loop_lag.start()
        self.parts.first.start()
        await asyncio.gather(self.parts.outbox.start(), self.parts.label_studio.start())

    async def soft_reload(self) -> None:
        """Start again with an emptied DATA_FOLDER. `POST /reset` calls this, in tests only."""
        own = self.parts
        await asyncio.gather(own.first.stop(), own.pull.stop(), own.serving.stop(), own.updates.stop())
        await own.label_studio.stop()
        await own.outbox.close()
        if self._lock is not None:
            gone, self._lock = self._lock, FolderLock(self._lock.path)
            self._lock.acquire()
            gone.release()
        own.collector.relevance.forget()
        own.serving.reset()
        own.following.reset()
        await self.on_startup()
        while own.following.operation_mode == OperationMode.Startup:
            await asyncio.sleep(0.05)

    async def on_shutdown(self) -> None:
        await self.shutdown.end_parts()
        self.parts.event_loop_lag.stop()

    # ---------------------------------------------------------------- the Learning Loop

    async def on_repeat(self) -> None:
        await self.parts.following.cycle()

    async def set_model_version_mode(self, version_control_mode: str) -> None:
        await self.parts.service.models.set_mode(version_control_mode)

    async def set_operation_mode(self, mode: OperationMode) -> None:
        """Set the mode at once; the status report follows in the background."""
        self.parts.following.set_operation_mode(mode)
        background_tasks.create(self.parts.following.report())

    # ---------------------------------------------------------------- images

    async def get_detections(self, image: ImageData, tags: list[str], **options: Any) -> ImageMetadata:
        """Detect on one image.

        :param options: the other fields of `DetectRequest`.
        :raises WholebodyError: see `Detection.detect`.
        """
        return await self.parts.service.detection.detect(image, DetectRequest.parse({'tags': tags, **options}))

    async def get_batch_detections(
        self, images: Sequence[ImageData], tags: list[str], **options: Any
    ) -> ImagesMetadata:
        """Detect on several images of one camera.

        :param options: the other fields of `DetectRequest`.
        :raises WholebodyError: see `Detection.detect_batch`.
        """
        request = DetectRequest.parse({'tags': tags, **options})
        return await self.parts.service.detection.detect_batch(images, request)

    async def upload_images(
        self,
        *,
        images: Sequence[ImageData],
        images_metadata: ImagesMetadata | None = None,
        upload_priority: bool = False,
    ) -> None:
        """Accept images for the Loop.

        :raises WholebodyError: see `Collector.accept`.
        """
        items = [ImageMetadata() for _ in images] if images_metadata is None else images_metadata.items
        await self.parts.collector.accept(list(zip(images, items, strict=True)), priority=upload_priority)
