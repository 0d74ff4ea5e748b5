"""Lets running requests end before the node shuts down.

Requests and events are counted while they run. Once the shutdown begins, new ones are refused. The running ones have a
time limit, and a shorter one while their body is still arriving. Late ones are cancelled and answered with an error,
so that the client does not see a broken connection.
"""

import asyncio
import time
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Final

from starlette.types import ASGIApp, Message, Receive, Scope, Send

from detector.api.error_answers import answer
from detector.api.route_policy import policy_of
from detector.errors import Busy
from detector.system.shutdown_budget import ShutdownBudget

ENDING: Final = 'the node is shutting down; try again when it is back'
CUT_OFF: Final = 'the node is shutting down and this took too long; try again when it is back'
_RETRY_SECONDS: Final = 5
_CHECK_SECONDS: Final = 0.02
"""Interval between two checks of the running requests, in seconds."""


class Work:
    """A request or an event that runs in the current task.

    :param reading: True while the body of the request is still arriving.
    :param idle: True for Socket.IO polls. They wait for news and deliver the answers of events, so they end last.
    """

    def __init__(self, *, reading: bool, idle: bool) -> None:
        self.reading = reading
        self.idle = idle
        self.is_cut_off = False
        self._task = asyncio.current_task()

    def cut_off(self) -> None:
        """Cancel the task."""
        if not self.is_cut_off and self._task is not None:
            self.is_cut_off = True
            self._task.cancel()

    def resume_if_cut_off(self) -> bool:
        """Return True if `cut_off` caused a CancelledError, and let the task go on so that it can answer."""
        if self.is_cut_off and self._task is not None:
            self._task.uncancel()
        return self.is_cut_off


class Drain:
    """The running requests and events, and the state of the shutdown.

    :param budget: gives the time limits of bodies, requests, answers and the flush.
    """

    def __init__(self, budget: ShutdownBudget) -> None:
        self.begun_at: float | None = None
        """Start of the shutdown in seconds of `time.monotonic`; None before it."""
        self.answered = 0
        """Number of requests that were running at the start of the shutdown and have been answered."""
        self.cut = 0
        """Number of those that were cut off."""
        self.refused = 0
        """Number of requests and events that arrived after the start of the shutdown."""
        self._budget = budget
        self._running: set[Work] = set()

    @property
    def begun(self) -> bool:
        return self.begun_at is not None

    @property
    def seconds(self) -> float:
        """Seconds since the start of the shutdown; 0 before it."""
        return 0.0 if self.begun_at is None else time.monotonic() - self.begun_at

    def begin(self) -> None:
        """Start the shutdown: refuse new work from now on. Signal handlers may call this."""
        if self.begun_at is None:
            self.begun_at = time.monotonic()

    def deadline(self, seconds: float) -> float:
        """Return the time that lies this many seconds after the start of the shutdown, on the clock `time.monotonic`.

        Before the shutdown it counts from now.
        """
        return (self.begun_at or time.monotonic()) + seconds

    def refusal(self) -> Busy:
        """Return the error for new work, and count it."""
        self.refused += 1
        return Busy(ENDING, retry_after=_RETRY_SECONDS, reason='ending')

    def report(self) -> str:
        return f'{self.answered} running requests were answered, {self.cut} cut off, {self.refused} new ones refused'

    @contextmanager
    def work(self, *, reading: bool = False, idle: bool = False) -> Iterator[Work]:
        """Count the current task as running while the context is open."""
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
        """Wait until all running work has ended or has been cut off."""
        budget = self._budget
        while self._busy() and self.seconds < budget.requests + budget.answers:
            for work in self._busy():
                if self.seconds > budget.requests or (work.reading and self.seconds > budget.bodies):
                    work.cut_off()
            await asyncio.sleep(_CHECK_SECONDS)
        await asyncio.sleep(budget.flush)
        for work in list(self._running):
            work.cut_off()
        await asyncio.sleep(_CHECK_SECONDS)

    def _busy(self) -> list[Work]:
        return [work for work in self._running if not work.idle]


def cut_off() -> Busy:
    """Return the error for work that was cut off."""
    return Busy(CUT_OFF, retry_after=_RETRY_SECONDS, reason='ending')


class Draining:
    """ASGI middleware that counts running requests, and refuses or cuts them off during the shutdown.

    It must be outside the middlewares that do work for a request.
    """

    def __init__(self, app: ASGIApp, drain: Drain) -> None:
        self._app = app
        self._drain = drain

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope['type'] != 'http':
            await self._app(scope, receive, send)
            return
        policy = policy_of(scope['path'])
        if self._drain.begun and not policy.polls and not policy.open_while_draining:
            await _refuse(self._drain.refusal(), scope, receive, send)
            return
        with self._drain.work(reading=_has_body(scope), idle=policy.polls) as work:
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
                if not work.resume_if_cut_off():
                    raise
                if not started:
                    await _refuse(cut_off(), scope, receive, send)


def _has_body(scope: Scope) -> bool:
    headers = dict(scope['headers'])
    return b'transfer-encoding' in headers or headers.get(b'content-length', b'0') != b'0'


async def _refuse(error: Busy, scope: Scope, receive: Receive, send: Send) -> None:
    await answer(error, Connection='close')(scope, receive, send)
