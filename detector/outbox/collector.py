"""The collector stores received images in the outbox: all uploaded ones, and those that `relevance` selects."""

import asyncio
import logging
from collections.abc import Sequence
from dataclasses import replace
from functools import partial
from typing import TYPE_CHECKING, Any, Final

from detector.errors import NoLearningLoop, OutboxFault, RequestTooLarge
from detector.pose import images
from detector.pose.images import Image
from detector.serving.admission import Admission
from detector.settings import Settings

from .outbox import Outbox
from .relevance import UNCERTAIN_PERSON, Relevance, Verdict

if TYPE_CHECKING:
    from learning_loop_node.data_classes import ImageMetadata

    from detector.models.package import ModelPackage
    from detector.pose.pose import Pose
    from detector.serving.inference import Estimate

log = logging.getLogger('wholebody.collector')

AUTOUPLOAD_MODES: Final = ('filtered', 'all', 'disabled')
PICKED: Final = 'picked_by_system'
"""Tag that upstream's nodes give to uploaded images, in contrast to images for detection."""

MAX_SAVING: Final = 8
"""Maximum number of images that are being saved at once; each may take as much memory as the largest frame."""
WAIT_SECONDS: Final = 1.0
"""Longest delay of an answer while the disk is behind, in seconds; after it the image is dropped."""
UPLOAD_DEADLINE: Final = 30.0
"""Time limit for an upload to get its turn, in seconds; uploads are decoded and stored one at a time."""
MAX_UPLOAD_PIXELS: Final = 1_000_000_000
"""Limit of the pixels of one upload. Without it a few MB of files could block other uploads for minutes."""


def make_collector(outbox: Outbox, settings: Settings) -> 'Collector':
    """Return the collector of a node; without a Learning Loop return a `NoCollector`."""
    return NoCollector(outbox, settings) if settings.loop_url is None else Collector(outbox, settings)


class Collector:
    """Puts images into the outbox."""

    def __init__(self, outbox: Outbox, settings: Settings) -> None:
        self.relevance = Relevance(
            min_uncertain=settings.min_uncertain_threshold,
            max_uncertain=settings.max_uncertain_threshold,
            reset_seconds=settings.relevance_reset_seconds,
            random_share=settings.random_upload_share,
        )
        self._outbox = outbox
        self._max_pixels = settings.max_image_pixels
        self._uploads = Admission(max_waiting=settings.max_waiting, deadline=UPLOAD_DEADLINE)
        self._slots = asyncio.Semaphore(MAX_SAVING)
        self._behind = False
        self._saving: set[asyncio.Task[None]] = set()

    async def accept(self, uploads: Sequence[tuple[Image | bytes, 'ImageMetadata']], *, priority: bool) -> list[str]:
        """Store uploaded images, one request after the other.

        :param uploads: images as received, each with its metadata.
        :return: names of the images in the outbox.
        :raises NoLearningLoop: the node has no Loop to send them to.
        :raises InvalidImage: an image is broken or not acceptable; none is stored.
        :raises OutboxFault: an image cannot be stored; the images before it are.
        :raises RequestTooLarge: the images have more than `MAX_UPLOAD_PIXELS` together.
        :raises Busy: too many uploads are ahead of this one.
        """
        async with self._uploads.enter() as ticket:
            await asyncio.to_thread(self._check_size, [received for received, _ in uploads])
            async with self._uploads.turn(ticket):
                return await self._store(uploads, priority)

    async def _store(self, uploads: Sequence[tuple[Image | bytes, 'ImageMetadata']], priority: bool) -> list[str]:
        jpegs = [await self._outbox.run(partial(self._jpeg, received)) for received, _ in uploads]
        names: list[str] = []
        for jpeg, (_, metadata) in zip(jpegs, uploads, strict=True):
            if PICKED not in metadata.tags:
                metadata.tags.append(PICKED)
            try:
                entry = await self._outbox.save(jpeg, metadata, priority=priority)
            except OutboxFault as error:
                raise OutboxFault(f'{error}; {len(names)} of {len(uploads)} images are accepted') from error
            names.append(entry.name)
        return names

    def _check_size(self, received: Sequence[Image | bytes]) -> None:
        count = sum(images.pixels(image, max_pixels=self._max_pixels) for image in received)
        if count > MAX_UPLOAD_PIXELS:
            raise RequestTooLarge(
                f'the images have {count} pixels together; the limit is {MAX_UPLOAD_PIXELS}: send fewer at once'
            )

    def _jpeg(self, received: Image | bytes) -> bytes:
        return images.as_jpeg(received, images.decode_any(received, max_pixels=self._max_pixels))

    def judges(self, camera_id: str | None) -> bool:
        """Return True if an image of the camera may be stored, so that uncertain boxes are worth a pose each."""
        return self.relevance.may_send(camera_id)

    async def collect(
        self,
        received: Image | bytes,
        estimate: 'Estimate',
        metadata: 'ImageMetadata',
        *,
        camera_id: str | None,
        filtered: bool,
    ) -> None:
        """Store an image after detection, in the background, and add the reasons to the metadata's tags.

        An image with an uncertain person is stored with the boxes that are not answered, so that annotators see them.
        The method does not fail, because a full disk must not stop a robot's detections. The outbox counts images that
        cannot be stored, and the log names them.

        :param received: image as received: an RGB array, or the bytes of an image file.
        :param filtered: True to store the image only if it is relevant.
        """
        verdict = Verdict(tags=())
        if filtered:
            height, width = estimate.image.shape[:2]
            poses = [*estimate.poses, *estimate.uncertain]
            verdict = await asyncio.to_thread(self.relevance.judge, poses, size=(width, height), camera_id=camera_id)
            if not verdict.tags:
                return
            metadata.tags.extend(verdict.tags)
            if estimate.uncertain and UNCERTAIN_PERSON in verdict.tags:
                metadata = await asyncio.to_thread(_with_detections, metadata, poses, estimate.package)
        what = f'an image of camera {camera_id!r:.80}, source {metadata.source!r:.80}, tags {metadata.tags!r:.200}'
        if not await self._take_slot():
            self._outbox.queue.not_saved()
            self._drop(verdict, what, f'{MAX_SAVING} others are not on the disk yet')
            return
        task = asyncio.create_task(self._save(received, estimate, metadata, verdict, what))
        self._saving.add(task)
        task.add_done_callback(self._saving.discard)

    async def _take_slot(self) -> bool:
        """Wait up to `WAIT_SECONDS` for the disk; while it is behind, only the first image waits."""
        if self._behind and self._slots.locked():
            return False
        try:
            await asyncio.wait_for(self._slots.acquire(), WAIT_SECONDS)
        except TimeoutError:
            self._behind = True
            return False
        self._behind = False
        return True

    async def _save(
        self, received: Image | bytes, estimate: 'Estimate', metadata: 'ImageMetadata', verdict: Verdict, what: str
    ) -> None:
        try:
            jpeg = await self._outbox.run(partial(images.as_jpeg, received, estimate.image))
            await self._outbox.save(jpeg, metadata)
        except OutboxFault as error:
            self._drop(verdict, what, str(error))
        except asyncio.CancelledError:
            self._outbox.queue.not_saved()
            self._drop(verdict, what, 'the node shut down before it was written')
            raise
        except Exception as error:
            log.exception('saving failed inside the node')
            self._outbox.queue.not_saved()
            self._drop(verdict, what, repr(error))
        finally:
            self._slots.release()

    def _drop(self, verdict: Verdict, what: str, why: str) -> None:
        self.relevance.retract(verdict)
        log.error('%s was not saved and will not reach the Learning Loop: %s', what, why)

    async def close(self, *, seconds: float) -> None:
        """Wait until pending images are saved. Those not saved in time are dropped, counted and logged.

        :param seconds: time limit for the wait.
        """
        if not self._saving:
            return
        _, late = await asyncio.wait(self._saving, timeout=seconds)
        for task in late:
            task.cancel()
        await asyncio.gather(*late, return_exceptions=True)


def _with_detections(metadata: 'ImageMetadata', poses: Sequence['Pose'], package: 'ModelPackage') -> 'ImageMetadata':
    """Return a copy of the metadata with the detections of the given poses."""
    from detector.loop.metadata import to_metadata  # its web framework is slow to load, and other users need none

    found = to_metadata(poses, package)
    return replace(metadata, box_detections=found.box_detections, point_detections=found.point_detections)


class NoCollector(Collector):
    """The collector of a node without a Learning Loop: it judges and stores nothing."""

    async def accept(self, *_: Any, **__: Any) -> list[str]:
        raise NoLearningLoop('An upload')

    def judges(self, camera_id: str | None) -> bool:
        return False

    async def collect(self, *_: Any, **__: Any) -> None:
        pass
