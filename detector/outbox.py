"""The outbox: images on their way to the Learning Loop, through kills, cuts and a Loop that refuses them."""

import asyncio
import json
import logging
import random
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import asdict
from typing import Any, Final

from learning_loop_node.data_classes import ImageMetadata
from learning_loop_node.enums import OutboxMode

from . import loop
from .errors import NoLearningLoop, OutboxFault
from .outbox_files import Entry
from .outbox_post import Answer, LoopPoster, Outcome
from .outbox_queue import OutboxQueue
from .settings import Settings

log = logging.getLogger('wholebody.outbox')

BATCH_IMAGES: Final = 20
"""Of one request, as upstream's nodes send them."""
BATCH_BYTES: Final = 64 * 1024**2
"""Of one request with more than one image."""
BATCH_SECONDS: Final = 30.0
"""So long the Loop may take over a request; an image that was too slow on its own gets twice the time next."""
MAX_SECONDS: Final = 600.0
MAX_PAUSE_SECONDS: Final = 60.0
"""Between tries, however often they fail."""
MAX_RETRY_AFTER_SECONDS: Final = 300.0
GRACE_SECONDS: Final = 2.0
"""So long a request that is under way may take when uploading is to stop."""


def open_outbox(settings: Settings) -> 'Outbox | NoOutbox':
    """The outbox below DATA_FOLDER, sending to the configured Loop; not started yet.

    :raises InvalidSettings: LOOP_SSL_CERT_PATH is no file of certificates.
    """
    if settings.loop_url is None:
        return NoOutbox()
    queue = OutboxQueue(
        settings.outbox_folder, max_images=settings.max_outbox_size, max_bytes=settings.max_outbox_mib * 1024**2
    )
    project = f'{settings.loop_url}/api/{settings.loop_organization}/projects/{settings.loop_project}'
    poster = LoopPoster(f'{project}/images', loop.ssl_context(settings))
    return Outbox(queue, poster, interval=settings.upload_seconds)


class Outbox:
    """Stores images, and sends them in batches while its mode is `continuous_upload`.

    An image is accepted when `save` returns, and arrives at least once: a batch that was under way at a kill or a cut
    is sent again, under the same file names.

    :param interval: seconds between batches while less than a batch waits, and before the first retry.
    """

    def __init__(self, queue: OutboxQueue, poster: LoopPoster, *, interval: float) -> None:
        self.queue = queue
        self._poster = poster
        self._interval = interval
        self._batch_images = BATCH_IMAGES
        self._failures = 0
        self._error: str | None = None
        self._task: asyncio.Task[None] | None = None
        self._stopping = asyncio.Event()
        self._switching = asyncio.Lock()

    async def start(self) -> None:
        """Take over what waits on disk, and begin to send; what cannot be read now waits for the next start."""
        try:
            await asyncio.to_thread(self.queue.load)
        except OutboxFault as error:
            log.error('%s', error)
        await self.set_mode(OutboxMode.CONTINUOUS_UPLOAD)

    async def close(self) -> None:
        """Send no more."""
        await self.set_mode(OutboxMode.STOPPED)

    async def save(self, jpeg: bytes, metadata: ImageMetadata, *, priority: bool = False) -> Entry:
        """Accept an image.

        :param jpeg: upright; the metadata's coordinates are its pixels.
        :raises OutboxFault: it cannot be stored.
        """
        return await asyncio.to_thread(self._save, jpeg, metadata, priority)

    def _save(self, jpeg: bytes, metadata: ImageMetadata, priority: bool) -> Entry:
        return self.queue.save(jpeg, json.dumps(asdict(metadata), allow_nan=False).encode(), priority=priority)

    def about(self) -> dict[str, Any]:
        """Mode, counters (see `outbox_queue.Counters`), what waits, and why the last request failed, if it did."""
        return {'mode': self.get_mode().value} | self.queue.about() | {'error': self._error}

    # ---------------------------------------------------------------- mode

    def get_mode(self) -> OutboxMode:
        running = self._task is not None and not self._task.done()
        return OutboxMode.CONTINUOUS_UPLOAD if running else OutboxMode.STOPPED

    async def set_mode(self, mode: OutboxMode | str) -> None:
        """Send, or stop; the call that came last wins, and when it returns the mode is that.

        A request that is under way gets 2 seconds to end; then it is cut.
        """
        async with self._switching:
            if OutboxMode(mode) == OutboxMode.STOPPED:
                await self._stop()
            elif self.get_mode() == OutboxMode.STOPPED:
                self._stopping.clear()
                self._task = asyncio.create_task(self._run())

    async def _stop(self) -> None:
        if self._task is None:
            return
        self._stopping.set()
        await asyncio.wait([self._task], timeout=GRACE_SECONDS)
        self._task.cancel()
        with suppress(asyncio.CancelledError):
            await self._task
        self._task = None

    # ---------------------------------------------------------------- sending

    async def _run(self) -> None:
        while not self._stopping.is_set():
            try:
                pause: float = await self._upload_once()
            except Exception:
                log.exception('an upload failed inside the node')
                pause = MAX_PAUSE_SECONDS
            finally:
                self.queue.landed()
            with suppress(TimeoutError):
                await asyncio.wait_for(self._stopping.wait(), pause)

    async def _upload_once(self) -> float:
        """Send one batch.

        :return: seconds until the next.
        """
        batch = self.queue.next_batch(self._batch_images, BATCH_BYTES)
        if not batch:
            return self._interval
        answer = await self._upload(batch)
        if answer.outcome is not Outcome.TAKEN:
            return self._pause_after(answer, batch)
        self._failures = 0
        self._error = None
        self._batch_images = min(BATCH_IMAGES, self._batch_images + 1)
        return 0 if self.queue.count >= min(BATCH_IMAGES, self._batch_images) else self._interval

    async def _upload(self, batch: Sequence[Entry]) -> Answer:
        """Send images, in halves and halves of halves where the Loop refuses some of them.

        :return: the first failure, or that all is done.
        """
        answer = await self._poster.post(batch, timeout=self._timeout(batch))
        match answer.outcome:
            case Outcome.TAKEN:
                await asyncio.to_thread(self.queue.uploaded, batch)
                return answer
            case Outcome.VANISHED:
                assert answer.missing is not None
                await asyncio.to_thread(self.queue.vanished, answer.missing)
                rest = [entry for entry in batch if entry is not answer.missing]
                return await self._upload(rest) if rest else Answer(outcome=Outcome.TAKEN)
            case Outcome.REFUSED | Outcome.TOO_LARGE if len(batch) == 1:
                await asyncio.to_thread(self.queue.set_aside, batch[0], answer.detail)
                return Answer(outcome=Outcome.TAKEN)
            case Outcome.REFUSED | Outcome.TOO_LARGE:
                if answer.outcome is Outcome.TOO_LARGE:
                    self._batch_images = max(1, len(batch) // 2)
                for half in (batch[: len(batch) // 2], batch[len(batch) // 2 :]):
                    answer = await self._upload(half)
                    if answer.outcome is not Outcome.TAKEN or self._stopping.is_set():
                        break
                return answer
            case _:
                return answer

    def _timeout(self, batch: Sequence[Entry]) -> float:
        failures = self.queue.failures(batch[0]) if len(batch) == 1 else 0
        return min(MAX_SECONDS, BATCH_SECONDS * 2.0**failures)

    def _pause_after(self, answer: Answer, batch: Sequence[Entry]) -> float:
        """Learn from a failure: smaller batches, another image first, a longer pause with some chance in it."""
        if answer.outcome is Outcome.FAILED:
            if len(batch) == 1:
                self.queue.failed_alone(batch[0])
            self._batch_images = max(1, len(batch) // 2)
        doubled = self._interval * 2.0 ** min(self._failures, 16)
        self._failures += 1
        pause = min(MAX_PAUSE_SECONDS, doubled) * random.uniform(0.5, 1)
        pause = max(pause, min(answer.retry_after, MAX_RETRY_AFTER_SECONDS))
        self._error = answer.detail
        log.warning('%d images stay in the outbox for %.1f s more: %s', self.queue.count, pause, answer.detail)
        return pause


class NoOutbox:
    """The outbox of a node without a Loop: nothing is stored, nothing is sent."""

    async def start(self) -> None:
        pass

    async def close(self) -> None:
        pass

    async def save(self, jpeg: bytes, metadata: ImageMetadata, *, priority: bool = False) -> Entry:
        raise NoLearningLoop('The outbox')

    def about(self) -> dict[str, Any]:
        return {'mode': self.get_mode().value}

    def get_mode(self) -> OutboxMode:
        return OutboxMode.STOPPED

    async def set_mode(self, mode: OutboxMode | str) -> None:
        if OutboxMode(mode) == OutboxMode.CONTINUOUS_UPLOAD:
            raise NoLearningLoop('An upload')
