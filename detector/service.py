"""Use cases that REST, Socket.IO, the page and Label Studio's routes share. They know nothing of any transport."""

import asyncio
import copy
import logging
from collections.abc import Callable, Hashable, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from typing import Any, Final, ParamSpec, TypeVar

from learning_loop_node.data_classes import (
    AboutResponse,
    ImageMetadata,
    ImagesMetadata,
    ModelVersionResponse,
)
from learning_loop_node.data_classes.general import NodeState
from learning_loop_node.enums import VersionMode
from learning_loop_node.helpers.misc import ImageData

from detector.errors import InvalidRequest, ModelUnavailable
from detector.loop import metadata
from detector.loop.following import Following
from detector.models.embedded import INSTALL_HINT, RESTART_HINT, embedded_notice
from detector.models.library import ModelLibrary
from detector.models.package import ModelPackage
from detector.models.pulling import ModelPull
from detector.models.store import ModelStore
from detector.observability.life import Life
from detector.observability.request_context import encoding
from detector.outbox.collector import AUTOUPLOAD_MODES, Collector
from detector.outbox.outbox import Outbox, OutboxMode
from detector.pose.pose import poses_to_json
from detector.serving.first_model import FirstModel
from detector.serving.inference import Estimate, Inference
from detector.serving.model_serving import ModelServing, ServingModel

P = ParamSpec('P')
T = TypeVar('T')

log = logging.getLogger('wholebody.service')

MAX_BATCH: Final = 64
"""Maximum number of images in one batch."""


async def encoded(convert: Callable[P, T], *args: P.args, **kwargs: P.kwargs) -> T:
    """Convert an answer in a thread; the time counts as encoding."""
    with encoding():
        return await asyncio.to_thread(convert, *args, **kwargs)


# ---------------------------------------------------------------- requests


@dataclass(frozen=True, slots=True, kw_only=True)
class DetectRequest:
    """Options of a client for the images that it sends.

    :param camera_id: camera that took the images; relevance and camera streams are kept per camera.
    :param autoupload: `filtered`, `all` or `disabled`: which images go to the Loop.
    :param creation_date: ISO 8601; None stands for now.
    """

    tags: list[str] = field(default_factory=list)
    camera_id: str | None = None
    source: str | None = None
    autoupload: str = 'filtered'
    creation_date: str | None = None

    @classmethod
    def parse(cls, fields: Mapping[str, Any]) -> 'DetectRequest':
        """Read the fields of the same names.

        :raises InvalidRequest: a field has a wrong type or value.
        """
        tags = fields.get('tags', [])
        if not isinstance(tags, list) or not all(isinstance(tag, str) for tag in tags):
            raise InvalidRequest("'tags' must be a list of strings; leave it out to send none")
        for tag in tags:
            metadata.check_text(tag)
        autoupload = fields.get('autoupload', 'filtered')
        if autoupload not in AUTOUPLOAD_MODES:
            raise InvalidRequest(f"autoupload is {autoupload!r}; send 'filtered', 'all' or 'disabled'")
        return cls(
            tags=tags,
            camera_id=_optional_string(fields, 'camera_id'),
            source=_optional_string(fields, 'source'),
            autoupload=autoupload,
            creation_date=_date(fields),
        )


@dataclass(frozen=True, slots=True, kw_only=True)
class UploadRequest:
    """Options of a client for the images that it uploads.

    :param metadata: metadata of each image.
    :param has_labels: True if the client sent metadata, whose categories may lack their ids.
    :param priority: True to send the images before others.
    """

    metadata: ImageMetadata
    has_labels: bool = False
    priority: bool = False

    @classmethod
    def parse(cls, fields: Mapping[str, Any]) -> 'UploadRequest':
        """Read `metadata`, `upload_priority`, and `source` and `creation_date`, which override the metadata.

        :raises InvalidRequest: a field has a wrong type or value.
        """
        given = metadata.parse(fields.get('metadata'))
        source, created = _optional_string(fields, 'source'), _date(fields)
        given.source = given.source if source is None else source
        given.created = given.created if created is None else created
        priority = fields.get('upload_priority', False)
        if not isinstance(priority, bool):
            raise InvalidRequest(f"'upload_priority' must be true or false, not {str(priority)[:40]!r}")
        return cls(metadata=given, has_labels=fields.get('metadata') is not None, priority=priority)


def _optional_string(fields: Mapping[str, Any], name: str) -> str | None:
    value = fields.get(name)
    if value is not None and not isinstance(value, str):
        raise InvalidRequest(f'{name!r} must be a string, not {type(value).__name__}')
    return value and metadata.check_text(value)


def _date(fields: Mapping[str, Any]) -> str | None:
    value = _optional_string(fields, 'creation_date')
    return None if value is None else metadata.check_date(value)


# ---------------------------------------------------------------- use cases


class Detection:
    """Finds poses in images, and passes the images on to be collected for the Loop.

    :param notice: returns what a client should know while an embedded model serves.
    """

    def __init__(
        self, inference: Inference, collector: Collector, *, notice: Callable[[], str | None] = lambda: None
    ) -> None:
        self._inference = inference
        self._collector = collector
        self._notice = notice

    async def detect(
        self, image: ImageData, request: DetectRequest, *, stream: Hashable | None = None
    ) -> ImageMetadata:
        """Find the persons in an image, in the Loop's form.

        :param image: an encoded image, or an RGB uint8 array H×W×3.
        :param stream: see `Inference.estimate`; ignored if the image is to be uploaded in any case.
        :raises WholebodyError: see `Inference.estimate`.
        """
        estimate = await self._inference.estimate(
            image,
            camera_id=request.camera_id,
            stream=None if request.autoupload == 'all' else stream,
            with_uncertain=self._is_judged(request),
        )
        return await self._finish(image, estimate, request)

    async def detect_batch(self, images: Sequence[ImageData], request: DetectRequest) -> ImagesMetadata:
        """Find the persons in several images of one camera.

        :return: one item per image, in their order.
        :raises InvalidRequest: the batch has more than `MAX_BATCH` images.
        :raises WholebodyError: see `Inference.estimate`.
        """
        if len(images) > MAX_BATCH:
            raise InvalidRequest(f'a batch of {len(images)} images is too large; send up to {MAX_BATCH}')
        items: list[ImageMetadata] = []
        async for estimate in self._inference.estimate_batch(images, with_uncertain=self._is_judged(request)):
            items.append(await self._finish(images[len(items)], estimate, request))
        return ImagesMetadata(items=items)

    def _is_judged(self, request: DetectRequest) -> bool:
        """Return True if relevance decides about the images, so that it should see uncertain boxes, too."""
        return request.autoupload == 'filtered' and self._collector.judges(request.camera_id)

    async def _finish(self, image: ImageData, estimate: Estimate, request: DetectRequest) -> ImageMetadata:
        item = await encoded(metadata.to_metadata, estimate.poses, estimate.package)
        item.tags.extend(request.tags)
        item.source = request.source
        item.created = item.created if request.creation_date is None else request.creation_date
        if request.autoupload != 'disabled':
            filtered = request.autoupload == 'filtered'
            await self._collector.collect(image, estimate, item, camera_id=request.camera_id, filtered=filtered)
        return item

    async def poses(self, image: ImageData) -> dict[str, Any]:
        """Find the persons in an image, grouped by person; nothing is collected.

        :param image: an encoded image, or an RGB uint8 array H×W×3.
        :return: the form of `poses_to_json`, and the timing; while an embedded model serves, also a notice.
        :raises WholebodyError: see `Inference.estimate`.
        """
        estimate = await self._inference.estimate(image)
        height, width = estimate.image.shape[:2]
        version = estimate.package.model_version
        answer = await encoded(poses_to_json, estimate.poses, width=width, height=height, model_version=version)
        notice = {'notice': self._notice()} if estimate.package.is_embedded else {}
        return answer | {'timing': estimate.timing} | notice


class Uploads:
    """Accepts images for the Loop."""

    def __init__(self, serving: ModelServing, collector: Collector) -> None:
        self._serving = serving
        self._collector = collector

    async def upload(self, images: Sequence[ImageData], request: UploadRequest) -> list[str]:
        """Accept images with the same metadata. Categories get the ids of the active model.

        :return: the images' names in the outbox.
        :raises InvalidRequest: the model does not know a category that has no id.
        :raises WholebodyError: see `Collector.accept`.
        """
        if request.has_labels:
            await asyncio.to_thread(self._add_category_ids, request.metadata)
        copies = [copy.deepcopy(request.metadata) for _ in images[1:]]  # one image, as an event has, needs no copy
        items = [request.metadata, *copies][: len(images)]
        return await self._collector.accept(list(zip(images, items, strict=True)), priority=request.priority)

    def _add_category_ids(self, given: ImageMetadata) -> None:
        try:
            model = self._serving.active()
        except ModelUnavailable as error:
            log.warning('an upload gets no category ids: %s', error)
        else:
            metadata.add_category_ids(given, model.package, model.information)


class Models:
    """Reports the active, target and installed models, and switches between them."""

    def __init__(self, serving: ModelServing, store: ModelStore, following: Following, first: FirstModel) -> None:
        self._serving = serving
        self._store = store
        self._following = following
        self._first = first

    def versions(self) -> ModelVersionResponse:
        """Return the active, target and installed versions in upstream's form. Reads the disk."""
        serving, following = self._serving.current(), self._following
        return ModelVersionResponse(
            current_version='None' if serving is None else serving.reported_version,
            target_version='None' if following.target is None else following.target.version,
            loop_version='None' if following.loop_target is None else following.loop_target.version,
            local_versions=self._store.versions(),
            version_control=following.version_control.value,
        )

    def names(self) -> list[str]:
        """Return name and version of every installed model, the active one first. Reads the disk."""
        serving = self._serving.current()
        first = [] if serving is None else [serving.model_version]
        others = {package.model_version for package in self._store.installed() if isinstance(package, ModelPackage)}
        return [*first, *sorted(others.difference(first))]

    def notice(self) -> str | None:
        """Return why no installed model serves, and what is being done or can be done about it; None if one does."""
        package, first = self._serving.current(), self._first
        if package is None:
            return f'no model is loaded: {self._serving.unavailable}'
        if not package.is_embedded:
            return None
        awaited = [] if first.awaited is None else [str(first.awaited)]
        awaited += filter(None, [first.fault, self._following.awaited()])
        hint = RESTART_HINT if self._store.has_current else INSTALL_HINT
        return embedded_notice(package.name, *(awaited or [hint]))

    async def set_mode(self, mode: str) -> None:
        """Follow the Loop, pause, or serve one version or embedded model.

        This choice takes precedence over the model that MODE names and that is not installed yet.

        :raises WholebodyError: see `Following.set_mode`.
        """
        await self._following.set_mode(mode)
        if self._following.version_control == VersionMode.FollowLoop:
            await self._first.resume()
        else:
            await self._first.set_aside()

    def active(self) -> ServingModel:
        """Return the active model.

        :raises ModelUnavailable: no model is loaded; the error says why.
        """
        return self._serving.active()


class OutboxControl:
    """Lists the images that wait for the Loop, and starts and stops sending."""

    def __init__(self, outbox: Outbox) -> None:
        self._outbox = outbox

    def mode(self) -> str:
        """Return `continuous_upload` or `stopped`."""
        return str(self._outbox.get_mode().value)

    async def set_mode(self, mode: str) -> None:
        """Start or stop sending.

        :raises InvalidRequest: the mode is unknown.
        :raises NoLearningLoop: sending is to start, and no Loop is configured.
        """
        mode = mode.strip()
        if mode not in {known.value for known in OutboxMode}:
            raise InvalidRequest(f"the outbox mode {mode[:40]!r} is unknown; send 'continuous_upload' or 'stopped'")
        await self._outbox.set_mode(mode)

    def listing(self, *, limit: int, offset: int) -> dict[str, Any]:
        """Return counters and one page of the waiting images, in the order of sending. Reads the disk.

        :raises NoLearningLoop: no Loop is configured.
        """
        waiting = self._outbox.queue.waiting()
        oldest = min((entry.saved_at for entry in waiting if entry.saved_at is not None), default=None)
        return self._outbox.about() | {
            'oldest': None if oldest is None else oldest.isoformat(),
            'images': [asdict(entry.describe()) for entry in waiting[offset : offset + limit]],
        }


class About:
    """Describes the node.

    :param sections: further parts of the description, by key.
    """

    def __init__(
        self,
        models: Models,
        first: FirstModel,
        serving: ModelServing,
        following: Following,
        life: Life,
        sections: Mapping[str, Callable[[], dict[str, Any] | None]],
    ) -> None:
        self._models = models
        self._first = first
        self._serving = serving
        self._following = following
        self._life = life
        self._sections = sections

    def about(self) -> dict[str, Any]:
        """Return upstream's description of a node, the sections, and `wholebody`: the active model and its state."""
        answer = AboutResponse(
            operation_mode=self._following.operation_mode.value,
            state=NodeState.Online,
            model_info=None if self._serving.current() is None else self._serving.active().information,
            target_model=None if (target := self._following.target) is None else target.version,
            version_control=self._following.version_control.value,
        )
        sections = {name: section() for name, section in self._sections.items()}
        return asdict(answer) | sections | {'wholebody': self._wholebody()}

    def _wholebody(self) -> dict[str, Any]:
        notice, awaited = self._models.notice(), self._first.awaited
        state = {'notice': notice, 'awaited': None if awaited is None else awaited.describe()}
        if self._serving.current() is None:
            return {'model_version': None, **state}
        model = self._serving.active()
        return {
            'model_version': model.package.model_version,
            'runtime': model.engine.runtime,
            'runtime_reason': model.engine.runtime_reason,
            'since': self._life.model_since,
            'embedded': model.package.is_embedded,
            'thresholds': model.engine.thresholds.about(),
            'origin': model.package.wholebody.origin,
            'licence': model.package.wholebody.licence,
            **state,
        }


@dataclass(frozen=True, slots=True, kw_only=True)
class Service:
    """All use cases of a node.

    :param library: lists published and installed models; the command `wholebody model` uses it too.
    :param pull: downloads, installs and uses a published model in the background.
    """

    detection: Detection
    uploads: Uploads
    models: Models
    library: ModelLibrary
    pull: ModelPull
    outbox: OutboxControl
    about: About
