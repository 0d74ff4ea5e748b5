"""What is kept of the images that come in: those that were uploaded, and those whose poses are relevant."""

import asyncio
import logging
from collections.abc import Sequence
from typing import Final

from learning_loop_node.data_classes import ImageMetadata
from learning_loop_node.helpers.misc import ImageData

from . import images
from .errors import OutboxFault
from .inference import Estimate
from .outbox import Outbox
from .relevance import Relevance, Verdict
from .settings import Settings

log = logging.getLogger('wholebody.collector')

AUTOUPLOAD_MODES: Final = ('filtered', 'all', 'disabled')
PICKED: Final = 'picked_by_system'
"""Tag of images that were uploaded rather than detected on, as upstream's nodes give it."""

MAX_SAVING: Final = 8
"""Images that may be on their way to the disk; each may take as much memory as the largest frame."""
WAIT_SECONDS: Final = 1.0
"""So long an answer is held back while the disk is behind; then the image is given up."""
CLOSE_SECONDS: Final = 2.0


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
        self._slots = asyncio.Semaphore(MAX_SAVING)
        self._saving: set[asyncio.Task[None]] = set()

    async def accept(self, uploads: Sequence[tuple[bytes, ImageMetadata]], *, priority: bool) -> list[str]:
        """Store uploaded images.

        :param uploads: upright JPEGs and what is known of them.
        :return: their names in the outbox.
        :raises OutboxFault: one cannot be stored; those before it are.
        """
        names: list[str] = []
        for jpeg, metadata in uploads:
            if PICKED not in metadata.tags:
                metadata.tags.append(PICKED)
            try:
                entry = await self._outbox.save(jpeg, metadata, priority=priority)
            except OutboxFault as error:
                raise OutboxFault(f'{error}; {len(names)} of {len(uploads)} images are accepted') from error
            names.append(entry.name)
        return names

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
        try:
            await asyncio.wait_for(self._slots.acquire(), WAIT_SECONDS)
        except TimeoutError:
            self._outbox.queue.not_saved()
            self._give_up(verdict, what, f'{MAX_SAVING} others are not on the disk yet')
            return
        task = asyncio.create_task(self._save(received, estimate, metadata, verdict, what))
        self._saving.add(task)
        task.add_done_callback(self._saving.discard)

    async def _save(
        self, received: ImageData, estimate: Estimate, metadata: ImageMetadata, verdict: Verdict, what: str
    ) -> None:
        try:
            jpeg = await asyncio.to_thread(images.as_jpeg, received, estimate.image)
            await self._outbox.save(jpeg, metadata)
        except OutboxFault as error:
            self._give_up(verdict, what, str(error))
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
        """Wait for what is on its way to the disk."""
        if self._saving:
            await asyncio.wait(self._saving, timeout=CLOSE_SECONDS)
