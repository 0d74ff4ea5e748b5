"""What is kept of the images that come in: those that were uploaded, and those whose poses are relevant."""

import asyncio
import logging
from collections.abc import Sequence
from functools import partial
from typing import Final

from learning_loop_node.data_classes import ImageMetadata
from learning_loop_node.helpers.misc import ImageData

from detector.errors import OutboxFault, RequestTooLarge
from detector.pose import images
from detector.serving.admission import Admission
from detector.serving.inference import Estimate
from detector.settings import Settings

from .outbox import Outbox
from .relevance import Relevance, Verdict

log = logging.getLogger('wholebody.collector')

AUTOUPLOAD_MODES: Final = ('filtered', 'all', 'disabled')
PICKED: Final = 'picked_by_system'
"""Tag of images that were uploaded rather than detected on, as upstream's nodes give it."""

MAX_SAVING: Final = 8
"""Images that may be on their way to the disk; each may take as much memory as the largest frame."""
WAIT_SECONDS: Final = 1.0
"""So long an answer is held back while the disk is behind; then the image is given up."""
CLOSE_SECONDS: Final = 2.0
UPLOAD_DEADLINE: Final = 30.0
"""Seconds in which the turn of an upload must come; one is decoded and stored at a time."""
MAX_UPLOAD_PIXELS: Final = 1_000_000_000
"""Of all images of an upload, which have one turn: a few MB of files might keep others waiting for minutes else."""


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

    async def accept(self, uploads: Sequence[tuple[ImageData, ImageMetadata]], *, priority: bool) -> list[str]:
        """Store uploaded images, one request after the other.

        :param uploads: images as they came, and what is known of them.
        :return: their names in the outbox.
        :raises InvalidImage: one of them is broken or not acceptable; then none is stored.
        :raises OutboxFault: one cannot be stored; those before it are.
        :raises RequestTooLarge: they have more than `MAX_UPLOAD_PIXELS`.
        :raises Busy: too many uploads are before this one.
        """
        async with self._uploads.enter() as ticket:
            await asyncio.to_thread(self._check_size, [received for received, _ in uploads])
            async with self._uploads.turn(ticket):
                return await self._store(uploads, priority)

    async def _store(self, uploads: Sequence[tuple[ImageData, ImageMetadata]], priority: bool) -> list[str]:
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

    def _check_size(self, received: Sequence[ImageData]) -> None:
        count = sum(images.pixels(image, max_pixels=self._max_pixels) for image in received)
        if count > MAX_UPLOAD_PIXELS:
            raise RequestTooLarge(
                f'the images have {count} pixels together; the limit is {MAX_UPLOAD_PIXELS}: send fewer at once'
            )

    def _jpeg(self, received: ImageData) -> bytes:
        return images.as_jpeg(received, images.decode_any(received, max_pixels=self._max_pixels))

    async def collect(
        self,
        received: ImageData,
        estimate: Estimate,
        metadata: ImageMetadata,
        *,
        camera_id: str | None,
        filtered: bool,
    ) -> None:
        """Store an image that was detected on, behind the answer; the causes become tags of the metadata.

        Does not fail, since a robot that is to see shall not stumble over a full disk: what cannot be stored is
        counted by the outbox, and the log says which image it was.

        :param received: as it came: an RGB array, or the bytes of an image file.
        :param filtered: only if it is relevant.
        """
        verdict = Verdict(tags=())
        if filtered:
            height, width = estimate.image.shape[:2]
            verdict = await asyncio.to_thread(
                self.relevance.judge, estimate.poses, size=(width, height), camera_id=camera_id
            )
            if not verdict.tags:
                return
            metadata.tags.extend(verdict.tags)
        what = f'an image of camera {camera_id!r:.80}, source {metadata.source!r:.80}, tags {metadata.tags!r:.200}'
        if not await self._take_slot():
            self._outbox.queue.not_saved()
            self._give_up(verdict, what, f'{MAX_SAVING} others are not on the disk yet')
            return
        task = asyncio.create_task(self._save(received, estimate, metadata, verdict, what))
        self._saving.add(task)
        task.add_done_callback(self._saving.discard)

    async def _take_slot(self) -> bool:
        """Wait a moment for the disk, but not with one image after the other."""
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
        self, received: ImageData, estimate: Estimate, metadata: ImageMetadata, verdict: Verdict, what: str
    ) -> None:
        try:
            jpeg = await self._outbox.run(partial(images.as_jpeg, received, estimate.image))
            await self._outbox.save(jpeg, metadata)
        except OutboxFault as error:
            self._give_up(verdict, what, str(error))
        except asyncio.CancelledError:
            self._outbox.queue.not_saved()
            self._give_up(verdict, what, 'the node ends before the disk has it')
            raise
        except Exception as error:
            log.exception('saving failed inside the node')
            self._outbox.queue.not_saved()
            self._give_up(verdict, what, repr(error))
        finally:
            self._slots.release()

    def _give_up(self, verdict: Verdict, what: str, why: str) -> None:
        self.relevance.retract(verdict)
        log.error('%s is lost for the Learning Loop: %s', what, why)

    async def close(self) -> None:
        """Wait for what is on its way to the disk; what does not get there in time is counted and logged."""
        if not self._saving:
            return
        _, late = await asyncio.wait(self._saving, timeout=CLOSE_SECONDS)
        for task in late:
            task.cancel()
        await asyncio.gather(*late, return_exceptions=True)
