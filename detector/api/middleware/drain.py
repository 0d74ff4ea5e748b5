"""The end of a node: no new work, what runs is answered, and all of it takes a few seconds at most.

Requests and events are counted while they run. When the end begins, new ones are refused; those that run have
`RUNNING_SECONDS`, and those whose body is still coming in have `BODY_SECONDS`. Then they are cut off, and answered with
an error rather than with a connection that breaks.
"""

import asyncio
import time
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Final

from starlette.types import ASGIApp, Message, Receive, Scope, Send

from detector.api.error_answers import answer
from detector.errors import Busy

ENDING: Final = 'the node is shutting down; try again when it is back'
CUT_OFF: Final = 'the node is shutting down and this took too long; try again when it is back'
_RETRY_SECONDS: Final = 5
BODY_SECONDS: Final = 1.0
"""So long a body that comes in when the end begins may take."""
RUNNING_SECONDS: Final = 3.0
"""So long running requests and events may take."""
ANSWER_SECONDS: Final = 0.4
"""So long it may take to answer those that were cut off."""
_FLUSH_SECONDS: Final = 0.1
"""For answers that are on their way to Socket.IO clients."""
_LOOK_SECONDS: Final = 0.02
_STAY_OPEN: Final = ('/health', '/metrics')
POLLING: Final = '/socket.io/'
"""In the path of a poll, which waits for news; polls bring the answers of events, and end last."""


class Work:
    """A request or an event that runs, in the task that made it.

    :param reading: its body is still coming in.
    :param idle: it waits for news only, as the polls of Socket.IO do.
    """

    def __init__(self, *, reading: bool, idle: bool) -> None:
        self.reading = reading
        self.idle = idle
        self.is_cut_off = False
        self._task = asyncio.current_task()

    def cut_off(self) -> None:
        if not self.is_cut_off and self._task is not None:
            self.is_cut_off = True
            self._task.cancel()

    def survive(self) -> bool:
        """Whether a CancelledError came of `cut_off`; then the task goes on, to answer."""
        if self.is_cut_off and self._task is not None:
            self._task.uncancel()
        return self.is_cut_off


class Drain:
    """What runs, and whether the end has begun."""

    def __init__(self) -> None:
        self.begun_at: float | None = None
        """Seconds of `time.monotonic`."""
        self.answered = 0
        """Of what ran when the end began."""
        self.cut = 0
        self.refused = 0
        self._running: set[Work] = set()

    @property
    def begun(self) -> bool:
        return self.begun_at is not None

    @property
    def seconds(self) -> float:
        """Since the end began."""
        return 0.0 if self.begun_at is None else time.monotonic() - self.begun_at

    def begin(self) -> None:
        """Refuse new work from now on; may be called by a signal handler."""
        if self.begun_at is None:
            self.begun_at = time.monotonic()

    def deadline(self, seconds: float) -> float:
        """So many seconds after the beginning of the end, as a time of `time.monotonic`."""
        return (self.begun_at or time.monotonic()) + seconds

    def refusal(self) -> Busy:
        """What new work hears, which is counted."""
        self.refused += 1
        return Busy(ENDING, retry_after=_RETRY_SECONDS, reason='ending')

    def report(self) -> str:
        return f'{self.answered} running requests were answered, {self.cut} cut off, {self.refused} new ones refused'

    @contextmanager
    def work(self, *, reading: bool = False, idle: bool = False) -> Iterator[Work]:
        """Count what the current task does."""
        work = Work(reading=reading, idle=idle)
        self._running.add(work)
        try:
            yield work
        finally:
            self._running.discard(work)
            if self.begun and not work.idle:
                self.cut += work.is_cut_off
                self.answered += not work.is_cut_off

    async def finish(self) -> None:
        """Wait until what runs has ended or is cut off."""
        while self._busy() and self.seconds < RUNNING_SECONDS + ANSWER_SECONDS:
            for work in self._busy():
                if self.seconds > RUNNING_SECONDS or (work.reading and self.seconds > BODY_SECONDS):
                    work.cut_off()
            await asyncio.sleep(_LOOK_SECONDS)
        await asyncio.sleep(_FLUSH_SECONDS)
        for work in list(self._running):
            work.cut_off()
        await asyncio.sleep(_LOOK_SECONDS)

    def _busy(self) -> list[Work]:
        return [work for work in self._running if not work.idle]


def cut_off() -> Busy:
    """What work hears that takes too long."""
    return Busy(CUT_OFF, retry_after=_RETRY_SECONDS, reason='ending')


class Draining:
    """ASGI middleware, outside all that do work: counts requests; refuses and cuts off when the end has begun."""

    def __init__(self, app: ASGIApp, drain: Drain) -> None:
        self._app = app
        self._drain = drain

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope['type'] != 'http':
            await self._app(scope, receive, send)
            return
        idle = POLLING in scope['path']
        if self._drain.begun and not idle and scope['path'] not in _STAY_OPEN:
            await _refuse(self._drain.refusal(), scope, receive, send)
            return
        with self._drain.work(reading=_has_body(scope), idle=idle) as work:
            started = False

            async def reading() -> Message:
                message = await receive()
                work.reading = work.reading and message.get('more_body', False)
                return message

            async def sending(message: Message) -> None:
                nonlocal started
                started = True
                await send(message)

            try:
                await self._app(scope, reading, sending)
            except asyncio.CancelledError:
                if not work.survive():
                    raise
                if not started:
                    await _refuse(cut_off(), scope, receive, send)


def _has_body(scope: Scope) -> bool:
    headers = dict(scope['headers'])
    return b'transfer-encoding' in headers or headers.get(b'content-length', b'0') != b'0'


async def _refuse(error: Busy, scope: Scope, receive: Receive, send: Send) -> None:
    await answer(error, Connection='close')(scope, receive, send)
