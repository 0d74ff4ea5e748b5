"""The outbox stores images and uploads them to the Learning Loop.

It survives kills, broken connections and a Loop that refuses images. This module loads neither FastAPI nor an inference
runtime; importing any part of learning_loop_node would load FastAPI.
"""

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
from enum import StrEnum
from typing import TYPE_CHECKING, Any, Final, TypeVar

from detector.errors import NoLearningLoop, OutboxFault
from detector.loop.tls import ssl_context
from detector.observability.request_context import in_this_context
from detector.settings import Settings

from .files import Entry
from .posting import Answer, LoopPoster, Outcome
from .queue import OutboxQueue

if TYPE_CHECKING:
    from learning_loop_node.data_classes import ImageMetadata

T = TypeVar('T')

log = logging.getLogger('wholebody.outbox')

BATCH_IMAGES: Final = 20
"""Images in one upload request, the same number as in upstream's nodes."""
BATCH_BYTES: Final = 64 * 1024**2
"""Size limit of an upload request with more than one image, in bytes."""
BATCH_SECONDS: Final = 30.0
"""Time limit of an upload request, in seconds. It doubles after a single image was too slow."""
MAX_BATCH_SECONDS: Final = 120.0
"""Upper bound of the doubled time limit, in seconds."""
_BATCH_SECONDS_DECAY: Final = 0.9
"""Factor by which the time limit shrinks after each success, down to `BATCH_SECONDS`."""
MAX_PAUSE_SECONDS: Final = 60.0
"""Upper bound of the pause after a failed upload, in seconds."""
MAX_RETRY_AFTER_SECONDS: Final = 300.0
"""Upper bound of the pause that the Loop may ask for with Retry-After, in seconds."""
_FIRST_ISOLATION_INTERVALS: Final = 4
"""Upload intervals before the first retry of an isolated image; the pause doubles after each retry."""
STOP_SECONDS: Final = 1.5
"""Time limit for a running upload request when uploading stops, in seconds."""


class OutboxMode(StrEnum):
    """State of the upload; the values are those of learning_loop_node's enum of the same name."""

    CONTINUOUS_UPLOAD = 'continuous_upload'
    STOPPED = 'stopped'


def open_outbox(settings: Settings, *, held: Callable[[], bool] = lambda: False) -> 'Outbox':
    """Return the outbox below DATA_FOLDER, not started yet; without a Learning Loop return a `NoOutbox`.

    :param held: see `Outbox`.
    :raises InvalidSettings: LOOP_SSL_CERT_PATH does not name a file of certificates.
    """
    if settings.loop_url is None:
        return NoOutbox()
    queue = OutboxQueue(
        settings.outbox_folder, max_images=settings.max_outbox_size, max_bytes=settings.max_outbox_mib * 1024**2
    )
    project = f'{settings.loop_url}/api/{settings.loop_organization}/projects/{settings.loop_project}'
    poster = LoopPoster(f'{project}/images', ssl_context(settings))
    return Outbox(queue, poster, interval=settings.upload_seconds, held=held)


class Outbox:
    """Stores images and sends them in batches while its mode is `continuous_upload`.

    An image is accepted when `save` returns. It arrives at the Loop at least once: if a batch is interrupted by a kill
    or a power cut, the outbox sends it again under the same file names. The outbox has its own threads because a disk
    may stall.

    :param interval: seconds between batches while less than a batch waits, and before the first retry.
    :param held: returns True while the outbox must not send, whatever its mode.
    """

    def __init__(
        self, queue: OutboxQueue, poster: LoopPoster, *, interval: float, held: Callable[[], bool] = lambda: False
    ) -> None:
        self._queue = queue
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
        """Run disk access or encoding in a thread of the outbox; the work continues if the caller is cancelled."""
        return await asyncio.shield(asyncio.get_running_loop().run_in_executor(self.executor, in_this_context(work)))

    async def start(self) -> None:
        """Load the images on disk and start to send.

        If the folder cannot be read, the error is logged and its images wait until the next start.
        """
        try:
            await self.run(self.queue.load)
        except OutboxFault as error:
            log.error('%s', error)
        await self.set_mode(OutboxMode.CONTINUOUS_UPLOAD)

    async def close(self, *, seconds: float = STOP_SECONDS) -> None:
        """Stop sending.

        :param seconds: time limit for a running upload request.
        """
        async with self._switching:
            await self._stop(seconds)

    async def save(self, jpeg: bytes, metadata: 'ImageMetadata', *, priority: bool = False) -> Entry:
        """Accept an image.

        :param jpeg: upright image; the metadata's coordinates are its pixels.
        :raises OutboxFault: the image cannot be stored.
        """
        return await self.run(
            lambda: self.queue.save(jpeg, json.dumps(asdict(metadata), allow_nan=False).encode(), priority=priority)
        )

    @property
    def count(self) -> int:
        """Number of waiting images."""
        return self.queue.count

    @property
    def queue(self) -> OutboxQueue:
        """The waiting images; a node without a Learning Loop raises NoLearningLoop."""
        return self._queue

    def about(self) -> dict[str, Any]:
        """Return the mode, the queue's counters (see `OutboxQueue.about`), and the last upload's error or None."""
        return {'mode': self.get_mode().value} | self.queue.about() | {'error': self._error}

    def get_mode(self) -> OutboxMode:
        running = self._task is not None and not self._task.done()
        return OutboxMode.CONTINUOUS_UPLOAD if running else OutboxMode.STOPPED

    async def set_mode(self, mode: OutboxMode | str) -> None:
        """Start or stop sending. The latest call wins; the mode is in effect when the call returns.

        A running upload request is cancelled after `STOP_SECONDS`.

        :raises NoLearningLoop: the node has no Loop to send to.
        """
        async with self._switching:
            if OutboxMode(mode) == OutboxMode.STOPPED:
                await self._stop(STOP_SECONDS)
            elif self.get_mode() == OutboxMode.STOPPED:
                self._stopping.clear()
                self._task = asyncio.create_task(self._run(), context=contextvars.Context())  # without a request id

    async def _stop(self, seconds: float) -> None:
        if self._task is None:
            return
        self._stopping.set()
        try:
            await asyncio.wait([self._task], timeout=seconds)
        finally:
            self._task.cancel()
            await asyncio.wait([self._task])
            self._task = None

    async def _run(self) -> None:
        while not self._stopping.is_set():
            pause = self._interval if self._held() else await self._upload_once()
            with suppress(TimeoutError):
                await asyncio.wait_for(self._stopping.wait(), pause)

    async def _upload_once(self) -> float:
        """Send one batch.

        :return: seconds until the next batch.
        """
        batch = self.queue.next_batch(self._batch_images, BATCH_BYTES, time.monotonic())
        if not batch:
            return self._interval
        retries = self.queue.retries(batch[0])
        try:
            answer = await self._upload(batch, self._batch_seconds if retries is None else _seconds_after(retries))
        except Exception as error:
            log.exception('an upload failed inside the node')
            answer = Answer(outcome=Outcome.FAILED, detail=repr(error))
        finally:
            self.queue.clear_in_flight()
        if answer.outcome is Outcome.TAKEN:
            return self._pause_after_success()
        if retries is not None:
            self.queue.isolate_longer(batch[0], time.monotonic())
            log.warning('the image %s fails while others arrive: %s', batch[0].name, answer.detail)
            return 0
        return self._pause_after_failure(answer, batch)

    async def _upload(self, batch: Sequence[Entry], seconds: float) -> Answer:
        """Send a batch; if the Loop refuses it, send its halves separately, recursively.

        :param seconds: time limit of each request.
        :return: the first failure, or TAKEN if every image is done with.
        """
        answer = await self._poster.post(batch, timeout=seconds, executor=self.executor)
        match answer.outcome:
            case Outcome.TAKEN:
                self.queue.uploaded(batch)  # before the first await, so that a cancellation here sends nothing twice
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
        self._batch_seconds = max(BATCH_SECONDS, _BATCH_SECONDS_DECAY * self._batch_seconds)
        return 0 if self.queue.count >= self._batch_images else self._interval

    def _pause_after_failure(self, answer: Answer, batch: Sequence[Entry]) -> float:
        """Shrink the batch, or send another image first, and pause for a randomised, growing time."""
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


def _seconds_after(retries: int) -> float:
    """Return the time limit for an isolated image, in seconds; it grows with the retries, as the image may be large."""
    return min(MAX_BATCH_SECONDS, BATCH_SECONDS * 2.0 ** (retries + 1))


class NoOutbox(Outbox):
    """The outbox of a node without a Learning Loop: it stores and sends nothing."""

    def __init__(self) -> None:
        """Open no folder and start no thread."""

    async def start(self) -> None:
        pass

    async def close(self, *, seconds: float = STOP_SECONDS) -> None:
        pass

    async def save(self, *_: Any, **__: Any) -> Entry:
        raise NoLearningLoop('The outbox')

    @property
    def count(self) -> int:
        return 0

    @property
    def queue(self) -> OutboxQueue:
        raise NoLearningLoop('The outbox')

    def about(self) -> dict[str, Any]:
        return {'mode': self.get_mode().value}

    def get_mode(self) -> OutboxMode:
        return OutboxMode.STOPPED

    async def set_mode(self, mode: OutboxMode | str) -> None:
        if OutboxMode(mode) == OutboxMode.CONTINUOUS_UPLOAD:
            raise NoLearningLoop('An upload')
