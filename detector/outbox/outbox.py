"""The outbox: images on their way to the Learning Loop, through kills, cuts and a Loop that refuses them."""

import asyncio
import contextvars
import json
import logging
import random
import time
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from dataclasses import asdict
from typing import Any, Final, TypeVar

from learning_loop_node.data_classes import ImageMetadata
from learning_loop_node.enums import OutboxMode

from detector.errors import NoLearningLoop, OutboxFault
from detector.loop import client as loop
from detector.observability.request_context import in_this_context
from detector.settings import Settings

from .files import Entry
from .posting import Answer, LoopPoster, Outcome
from .queue import OutboxQueue

T = TypeVar('T')

log = logging.getLogger('wholebody.outbox')

BATCH_IMAGES: Final = 20
"""Of one request, as upstream's nodes send them."""
BATCH_BYTES: Final = 64 * 1024**2
"""Of one request with more than one image."""
BATCH_SECONDS: Final = 30.0
"""So long the Loop may take over a request; twice as long after a single image was too slow, up to …"""
MAX_BATCH_SECONDS: Final = 120.0
_PATIENCE_LOSS: Final = 0.9
"""… and that much less after each success, down to the former."""
MAX_PAUSE_SECONDS: Final = 60.0
"""Between tries, however often they fail."""
MAX_RETRY_AFTER_SECONDS: Final = 300.0
_FIRST_ISOLATION_INTERVALS: Final = 4
"""Before an image that fails while others arrive is tried again; then twice as long each time."""
GRACE_SECONDS: Final = 1.5
"""So long a request that is under way may take when uploading is to stop."""


def open_outbox(settings: Settings, *, held: Callable[[], bool] = lambda: False) -> 'Outbox | NoOutbox':
    """The outbox below DATA_FOLDER, sending to the configured Loop; not started yet.

    :param held: see `Outbox`.
    :raises InvalidSettings: LOOP_SSL_CERT_PATH is no file of certificates.
    """
    if settings.loop_url is None:
        return NoOutbox()
    queue = OutboxQueue(
        settings.outbox_folder, max_images=settings.max_outbox_size, max_bytes=settings.max_outbox_mib * 1024**2
    )
    project = f'{settings.loop_url}/api/{settings.loop_organization}/projects/{settings.loop_project}'
    poster = LoopPoster(f'{project}/images', loop.ssl_context(settings))
    return Outbox(queue, poster, interval=settings.upload_seconds, held=held)


class Outbox:
    """Stores images, and sends them in batches while its mode is `continuous_upload`.

    An image is accepted when `save` returns, and arrives at least once: a batch that was under way at a kill or a cut
    is sent again, under the same file names. Disks may stall, so the outbox has threads of its own.

    :param interval: seconds between batches while less than a batch waits, and before the first retry.
    :param held: whether nothing may be sent for now, whatever the mode.
    """

    def __init__(
        self, queue: OutboxQueue, poster: LoopPoster, *, interval: float, held: Callable[[], bool] = lambda: False
    ) -> None:
        self.queue = queue
        self.executor = ThreadPoolExecutor(2, thread_name_prefix='outbox')
        self._poster = poster
        self._interval = interval
        self._held = held
        self._batch_images = BATCH_IMAGES
        self._batch_seconds = BATCH_SECONDS
        self._failures = 0
        self._error: str | None = None
        self._task: asyncio.Task[None] | None = None
        self._stopping = asyncio.Event()
        self._switching = asyncio.Lock()

    async def run(self, work: Callable[[], T]) -> T:
        """Do what reads, writes or encodes in a thread of the outbox; it goes on if nobody waits for it any more."""
        return await asyncio.shield(asyncio.get_running_loop().run_in_executor(self.executor, in_this_context(work)))

    async def start(self) -> None:
        """Take over what waits on disk, and begin to send; what cannot be read now waits for the next start."""
        try:
            await self.run(self.queue.load)
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
        return await self.run(
            lambda: self.queue.save(jpeg, json.dumps(asdict(metadata), allow_nan=False).encode(), priority=priority)
        )

    def about(self) -> dict[str, Any]:
        """Mode, counters (see `outbox_queue.Counters`), what waits, and why the last request failed, if it did."""
        return {'mode': self.get_mode().value} | self.queue.about() | {'error': self._error}

    # ---------------------------------------------------------------- mode

    def get_mode(self) -> OutboxMode:
        running = self._task is not None and not self._task.done()
        return OutboxMode.CONTINUOUS_UPLOAD if running else OutboxMode.STOPPED

    async def set_mode(self, mode: OutboxMode | str) -> None:
        """Send, or stop; the call that came last wins, and when it returns the mode is that.

        A request that is under way gets 1.5 seconds to end; then it is cut.
        """
        async with self._switching:
            if OutboxMode(mode) == OutboxMode.STOPPED:
                await self._stop()
            elif self.get_mode() == OutboxMode.STOPPED:
                self._stopping.clear()
                self._task = asyncio.create_task(self._run(), context=contextvars.Context())  # belongs to no request

    async def _stop(self) -> None:
        if self._task is None:
            return
        self._stopping.set()
        try:
            await asyncio.wait([self._task], timeout=GRACE_SECONDS)
        finally:
            self._task.cancel()
            await asyncio.wait([self._task])
            self._task = None

    # ---------------------------------------------------------------- sending

    async def _run(self) -> None:
        while not self._stopping.is_set():
            pause = self._interval if self._held() else await self._upload_once()
            with suppress(TimeoutError):
                await asyncio.wait_for(self._stopping.wait(), pause)

    async def _upload_once(self) -> float:
        """Send one batch.

        :return: seconds until the next.
        """
        batch = self.queue.next_batch(self._batch_images, BATCH_BYTES, time.monotonic())
        if not batch:
            return self._interval
        retries = self.queue.retries(batch[0])
        try:
            answer = await self._upload(batch, self._batch_seconds if retries is None else _seconds_of(retries))
        except Exception as error:
            log.exception('an upload failed inside the node')
            answer = Answer(outcome=Outcome.FAILED, detail=repr(error))
        finally:
            self.queue.landed()
        if answer.outcome is Outcome.TAKEN:
            return self._pause_after_success()
        if retries is not None:
            self.queue.isolate_longer(batch[0], time.monotonic())
            log.warning('the image %s fails while others arrive: %s', batch[0].name, answer.detail)
            return 0
        return self._pause_after(answer, batch)

    async def _upload(self, batch: Sequence[Entry], seconds: float) -> Answer:
        """Send images, in halves and halves of halves where the Loop refuses some of them.

        :param seconds: that a request may take.
        :return: the first failure, or that all is done.
        """
        answer = await self._poster.post(batch, timeout=seconds, executor=self.executor)
        match answer.outcome:
            case Outcome.TAKEN:
                self.queue.uploaded(batch)  # at once, so that nobody who cuts in here sends them again
                await self.run(lambda: self.queue.remove_files(batch))
                return answer
            case Outcome.VANISHED:
                missing = answer.missing
                assert missing is not None
                await self.run(lambda: self.queue.vanished(missing))
                rest = [entry for entry in batch if entry is not missing]
                return await self._upload(rest, seconds) if rest else Answer(outcome=Outcome.TAKEN)
            case Outcome.REFUSED | Outcome.TOO_LARGE if len(batch) == 1:
                await self.run(lambda: self.queue.set_aside(batch[0], answer.detail))
                return Answer(outcome=Outcome.TAKEN)
            case Outcome.REFUSED | Outcome.TOO_LARGE:
                if answer.outcome is Outcome.TOO_LARGE:
                    self._batch_images = max(1, len(batch) // 2)
                for half in (batch[: len(batch) // 2], batch[len(batch) // 2 :]):
                    answer = await self._upload(half, seconds)
                    if answer.outcome is not Outcome.TAKEN or self._stopping.is_set():
                        break
                return answer
            case _:
                return answer

    def _pause_after_success(self) -> float:
        self.queue.isolate(time.monotonic(), _FIRST_ISOLATION_INTERVALS * self._interval)
        self._failures = 0
        self._error = None
        self._batch_images = min(BATCH_IMAGES, self._batch_images + 1)
        self._batch_seconds = max(BATCH_SECONDS, _PATIENCE_LOSS * self._batch_seconds)
        return 0 if self.queue.count >= self._batch_images else self._interval

    def _pause_after(self, answer: Answer, batch: Sequence[Entry]) -> float:
        """Learn from a failure: smaller batches, another image first, a longer pause with some chance in it."""
        if answer.outcome is Outcome.UNAVAILABLE:
            self.queue.clear_failing()
        elif len(batch) > 1:
            self._batch_images = max(1, len(batch) // 2)
        else:
            self.queue.mark_failing(batch[0])
            if answer.outcome is Outcome.TOO_SLOW:
                self._batch_seconds = min(MAX_BATCH_SECONDS, 2 * self._batch_seconds)
        doubled = self._interval * 2.0 ** min(self._failures, 16)
        self._failures += 1
        pause = min(MAX_PAUSE_SECONDS, doubled) * random.uniform(0.5, 1)
        pause = max(pause, min(answer.retry_after, MAX_RETRY_AFTER_SECONDS))
        self._error = answer.detail
        log.warning('%d images stay in the outbox for %.1f s more: %s', self.queue.count, pause, answer.detail)
        return pause


def _seconds_of(retries: int) -> float:
    """That an image which was tried so often may take: it may just be large."""
    return min(MAX_BATCH_SECONDS, BATCH_SECONDS * 2.0 ** (retries + 1))


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
