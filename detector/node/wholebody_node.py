"""WholebodyNode: the app that robots, people and the Learning Loop talk to."""

import asyncio
import logging
from collections.abc import Hashable, Sequence
from typing import Any, Final

from learning_loop_node import DetectorNode
from learning_loop_node.data_classes import ImageMetadata, ImagesMetadata, ModelInformation
from learning_loop_node.detector.rest import about, detect, model_version_control, outbox_mode, upload
from learning_loop_node.enums import OperationMode, VersionMode
from learning_loop_node.helpers import background_tasks
from learning_loop_node.helpers.misc import ImageData
from starlette.types import ASGIApp

from detector import ls_adapter
from detector.api import (
    error_answers,
    openapi,
    routes,
)
from detector.api import (
    events as sio_events,
)
from detector.api import (
    login as routes_login,
)
from detector.api import (
    outbox_routes as routes_outbox,
)
from detector.api.in_flight import InFlight
from detector.api.middleware import access, observation
from detector.api.middleware.drain import Drain, Draining
from detector.api.middleware.limits import MIB, RequestLimits
from detector.api.middleware.observation import EventLoopLag, NodeState, ObservedRequests
from detector.errors import InvalidRequest, LoopFault, NoLearningLoop
from detector.loop import client as loop
from detector.loop import metadata, upstream
from detector.loop.model_updates import INSTALLED, ModelUpdater, Target
from detector.ls_adapter import LabelStudioBackend
from detector.models.package import VERSION, ModelPackage
from detector.models.store import ModelStore
from detector.observability.life import Life
from detector.observability.metrics import Metrics
from detector.observability.request_context import encoding
from detector.outbox.collector import AUTOUPLOAD_MODES, make_collector
from detector.outbox.outbox import Outbox, open_outbox
from detector.serving.inference import Estimate, Inference
from detector.serving.model_serving import ModelServing
from detector.settings import Settings
from detector.system.folder_lock import FolderLock
from detector.system.shutdown_budget import ShutdownBudget
from detector.wholebody_logic import WholebodyLogicFactory

from .shutdown import NodeShutdown

log = logging.getLogger('wholebody.node')

_REPLACED: Final = (detect.router, upload.router, about.router, model_version_control.router, outbox_mode.router)
_STATUS_SECONDS: Final = 8
"""So long the Loop may take to accept a status report."""


class WholebodyNode(DetectorNode):
    """A Learning Loop detector node for whole-body poses.

    Without LOOP_HOST it contacts nobody and stores no image.

    :param lock: of DATA_FOLDER, held.
    :raises InvalidSettings: DATA_FOLDER cannot be written.
    """

    def __init__(self, settings: Settings, lock: FolderLock | None = None) -> None:
        settings.make_data_folder()
        upstream.apply_settings(settings)
        self.settings = settings
        self.access_policy = access.AccessPolicy(settings)
        self.store = ModelStore(settings.data_folder)
        self.metrics = Metrics()
        self.event_loop_lag = EventLoopLag(self.metrics)
        self.life = Life()
        self.shutdown_budget = ShutdownBudget()
        self.drain = Drain(self.shutdown_budget)
        self.in_flight = InFlight(settings.max_in_flight_mib * MIB)
        factory = WholebodyLogicFactory(settings)
        self.serving = ModelServing(self, factory)
        self._lock = lock
        self._reported: ModelPackage | None = None
        super().__init__(
            settings.node_name,
            factory,
            uuid=upstream.node_id(settings.data_folder, settings.node_name),
        )
        self.repeat_loop_cycle_sec = settings.poll_seconds  # type: ignore[assignment]  # upstream only sleeps by it
        self.title = 'Whole-body pose node'
        project = f'/{settings.loop_organization}/projects/{settings.loop_project}'
        self._loop_project = project
        self.outbox: Outbox = open_outbox(settings, held=lambda: self._skip_repeat_loop)  # type: ignore[assignment]  # replaces upstream's
        self.collector = make_collector(self.outbox, settings)
        self.updates = ModelUpdater(
            self.store,
            files_url=None if settings.loop_url is None else f'/api{project}/models',
            connect=lambda: loop.connected_client(self.loop_communicator),
            switch=self.serving.switch,
            keep=settings.keep_models,
            on_refusal=lambda: self.metrics.switched('refused'),
            is_serving=lambda: self.serving.current() is not None,
        )
        self.inference = Inference(
            settings,
            self.detection_lock,
            lambda: self.serving.active()[0],
            metrics=self.metrics,
            recovery=self.serving.recovery,
        )
        # what is added last is the outermost
        admission = self.inference.admission
        self.add_middleware(RequestLimits, settings=settings, admission=admission, in_flight=self.in_flight)
        access.install(self, settings, self.access_policy)
        self.add_middleware(Draining, drain=self.drain)
        error_answers.install(self)
        self.include_router(routes.router)
        self.include_router(routes_outbox.router)
        self.include_router(routes_login.router)
        self.label_studio = LabelStudioBackend(self)
        self.include_router(ls_adapter.router)
        self.include_router(observation.router)
        self.metrics.registry.register(NodeState(self))
        openapi.install(self)
        self.shutdown = NodeShutdown(
            budget=self.shutdown_budget,
            drain=self.drain,
            serving=self.serving,
            updates=self.updates,
            inference=self.inference,
            outbox=self.outbox,
            collector=self.collector,
            label_studio=self.label_studio,
            sio=self.sio,
        )

    @property
    def has_loop(self) -> bool:
        return self.settings.loop_host is not None

    # ---------------------------------------------------------------- upstream's hooks

    def init_loop_communicator(self) -> None:
        self.loop_communicator = loop.communicator(self.settings)
        self.websocket_url = ''  # of a Socket.IO connection to the Loop, which detectors do not open

    def include_router(self, router: Any, **kwargs: Any) -> None:
        """Leave out the routes of upstream that ours replace."""
        if router not in _REPLACED:
            super().include_router(router, **kwargs)

    def build_middleware_stack(self) -> ASGIApp:
        """Observe what all others answer, also when they fail."""
        return ObservedRequests(super().build_middleware_stack(), self, self.metrics)

    def _setup_sio_server(self) -> None:
        self.sio, app = sio_events.create_server(self)
        self.mount('/ws', app)

    async def on_startup(self) -> None:
        """Answer as soon as the outbox can take images; the model is loaded at the same time, and behind."""
        self.event_loop_lag.start()
        self.serving.start()
        await asyncio.gather(self.outbox.start(), self.label_studio.start())

    async def soft_reload(self) -> None:
        """Begin anew with a DATA_FOLDER that has been emptied; what `POST /reset` does, for tests only."""
        await asyncio.gather(self.serving.stop(), self.updates.stop())
        await self.label_studio.stop()
        await self.outbox.close()
        if self._lock is not None:
            gone, self._lock = self._lock, FolderLock(self._lock.path)
            self._lock.acquire()
            gone.release()
        self.collector.relevance.forget()
        upstream.serve_nothing(self)
        self.updates.forget()
        self.target_model = self.loop_deployment_target = None
        self.version_control = VersionMode(self.settings.version_control_default)
        self.operation_mode = OperationMode.Startup
        await self.on_startup()
        while self.operation_mode == OperationMode.Startup:
            await asyncio.sleep(0.05)

    async def on_shutdown(self) -> None:
        await self.shutdown.end_parts()
        self.event_loop_lag.stop()

    # ---------------------------------------------------------------- following the Loop

    async def on_repeat(self) -> None:
        """One cycle: ask for the target, work towards it, report."""
        if self.drain.begun:
            return
        if self.has_loop:
            await self._poll_target()
        await self.follow()
        changed = self._note('update_model', self.updates.error)
        changed |= self._note('inference', None if self.serving.recovery.package is None else self.serving.unavailable)
        current = self.serving.current()
        changed |= current != self._reported
        self._reported = current
        self._repeat_cycles_to_next_sync -= 1
        if changed or self._repeat_cycles_to_next_sync <= 0:
            self._repeat_cycles_to_next_sync = self._regular_status_sync_cycles
            await self._sync_status_with_loop()

    async def follow(self) -> None:
        """Work towards the target, or stop where that is not wanted now."""
        if self.drain.begun or self.operation_mode != OperationMode.Idle or self.version_control == VersionMode.Pause:
            await self.updates.stop()
            return
        model = self.target_model
        target = None if model is None else Target(version=model.version, model_id=model.id)
        await self.updates.ensure(target, self.serving.current() or self.serving.recovery.package)

    async def _poll_target(self) -> None:
        try:
            target = await loop.deployment_target(self.loop_communicator, self._loop_project)
        except LoopFault as error:
            if self._note('deployment_target', str(error)):
                log.warning('%s', error)
            return
        self._note('deployment_target', None)
        self.loop_deployment_target = self._as_model_information(target)
        if self.version_control == VersionMode.FollowLoop and self.target_model != self.loop_deployment_target:
            log.info('the deployment target is %s', target.version)
            self.target_model = self.loop_deployment_target

    def _note(self, key: str, error: str | None) -> bool:
        """Set or clear an error of the status; whether that changed it."""
        before = self.status.errors.get(key)
        if error is None:
            self.status.reset_error(key)
        else:
            self.status.set_error(key, error)
        return before != error

    def _as_model_information(self, target: Target) -> ModelInformation:
        return ModelInformation(
            id=target.model_id,
            host='',
            organization=self.settings.loop_organization,
            project=self.settings.loop_project,
            version=target.version,
        )

    async def set_model_version_mode(self, version_control_mode: str) -> None:
        """Follow the Loop, pause, or serve one version; installed versions need no Loop.

        :raises InvalidRequest: no such version.
        :raises NoLearningLoop: the version is not installed, and there is no Loop to get it from.
        :raises LoopFault: the Loop does not answer; then nothing changes.
        """
        mode = version_control_mode.strip()
        self.updates.forget()
        if mode in (VersionMode.FollowLoop.value, VersionMode.Pause.value):
            self.version_control = VersionMode(mode)
            if mode == VersionMode.FollowLoop.value and self.loop_deployment_target is not None:
                self.target_model = self.loop_deployment_target
        else:
            target = await self._target_of_version(mode)
            self.version_control = VersionMode.SpecificVersion
            self.target_model = self._as_model_information(target)
        await self.follow()

    async def _target_of_version(self, version: str) -> Target:
        if not VERSION.fullmatch(version):
            raise InvalidRequest(f"{version!r} is no version; send 'follow_loop', 'pause' or a version such as 1.2")
        if self.store.folder(version).is_dir():
            return Target(version=version, model_id=INSTALLED)
        if not self.has_loop:
            raise NoLearningLoop(f'Model {version}, which is not installed,')
        return await loop.find_model(self.loop_communicator, self._loop_project, version)

    async def set_operation_mode(self, mode: OperationMode) -> None:
        """Set the mode at once; the Loop hears of it when it can."""
        self.operation_mode = mode
        background_tasks.create(self._sync_status_with_loop())

    async def _sync_status_with_loop(self) -> None:
        if not self.has_loop:
            return
        try:
            async with asyncio.timeout(_STATUS_SECONDS):
                await super()._sync_status_with_loop()
        except TimeoutError:
            log.warning('the Learning Loop does not take a status report within %d seconds', _STATUS_SECONDS)

    # ---------------------------------------------------------------- detecting

    async def get_detections(
        self,
        image: ImageData,
        tags: list[str],
        *,
        camera_id: str | None = None,
        source: str | None = None,
        autoupload: str = 'filtered',
        creation_date: str | None = None,
        stream: Hashable | None = None,
    ) -> ImageMetadata:
        """Detect on one image, as upstream defines it.

        :param stream: see `Inference.estimate`; images that are to be uploaded in any case are not given up.
        :raises WholebodyError: see `Inference.estimate`; InvalidRequest for an unknown `autoupload`.
        """
        _check_options(autoupload, creation_date)
        estimate = await self.inference.estimate(
            image, camera_id=camera_id, stream=None if autoupload == 'all' else stream
        )
        return await self._finish(image, estimate, tags, camera_id, source, autoupload, creation_date)

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
        :raises WholebodyError: see `Inference.estimate`; InvalidRequest for an unknown `autoupload`.
        """
        _check_options(autoupload, creation_date)
        if len(images) > sio_events.MAX_BATCH:
            raise InvalidRequest(f'a batch of {len(images)} images is too large; send up to {sio_events.MAX_BATCH}')
        items: list[ImageMetadata] = []
        async for estimate in self.inference.estimate_batch(images):
            image = images[len(items)]
            items.append(await self._finish(image, estimate, tags, camera_id, source, autoupload, creation_date))
        return ImagesMetadata(items=items)

    async def _finish(
        self,
        image: ImageData,
        estimate: Estimate,
        tags: list[str],
        camera_id: str | None,
        source: str | None,
        autoupload: str,
        creation_date: str | None,
    ) -> ImageMetadata:
        """Bring an estimate into the Loop's form, and keep the image if it is wanted."""
        with encoding():
            item = await asyncio.to_thread(metadata.to_metadata, estimate.poses, estimate.package)
        item.tags.extend(tags)
        item.source = source
        if creation_date is not None:
            item.created = creation_date
        if autoupload != 'disabled':
            await self.collector.collect(image, estimate, item, camera_id=camera_id, filtered=autoupload == 'filtered')
        return item

    async def upload_images(  # type: ignore[override]  # upstream's returns nothing
        self,
        *,
        images: Sequence[ImageData],
        images_metadata: ImagesMetadata | None = None,
        upload_priority: bool = False,
    ) -> list[str]:
        """Accept images for the Loop; they get the tag `picked_by_system`.

        :return: their names in the outbox.
        :raises NoLearningLoop: there is none to send them to.
        :raises InvalidImage: one of them is broken or not acceptable; then none is accepted.
        :raises OutboxFault: the disk does not take one; those before it are accepted, as the text says.
        :raises Busy: too many uploads are before this one.
        """
        items = [ImageMetadata() for _ in images] if images_metadata is None else images_metadata.items
        return await self.collector.accept(list(zip(images, items, strict=True)), priority=upload_priority)


def _check_options(autoupload: str, creation_date: str | None) -> None:
    if autoupload not in AUTOUPLOAD_MODES:
        raise InvalidRequest(f"autoupload is {autoupload!r}; send 'filtered', 'all' or 'disabled'")
    if creation_date is not None:
        metadata.check_date(creation_date)
