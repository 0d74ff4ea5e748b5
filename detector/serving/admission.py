"""Admission: who may use the engine next, and who hears at once that it is no use to wait.

Requests are let in one at a time: live ones (robots, people) before bulk work, but bulk work has a turn after
`LIVE_IN_A_ROW` live ones, so that neither starves. Times are seconds of `time.monotonic`.
"""

import asyncio
import time
from collections.abc import AsyncIterator, Callable, Hashable
from contextlib import asynccontextmanager
from typing import Final

from detector.errors import Busy, DeadlineExceeded

LIVE_IN_A_ROW: Final = 4
_SMOOTHING: Final = 0.2
"""Weight of the latest turn in the mean duration of turns."""


class Ticket:
    """A request's place in the queue, from its arrival to the end of its turn.

    :param stream: of the frames that replace each other; None if this one must not be replaced.
    :param since: when it came in, or the first of the frames whose place it has taken.
    :param deadline: when the turn must have begun.
    :param late: counts a request that is later than that, and gives what it hears.
    """

    def __init__(
        self,
        *,
        live: bool,
        stream: Hashable | None,
        since: float,
        deadline: float,
        late: Callable[[], DeadlineExceeded],
    ) -> None:
        self.late = late
        self.live = live
        self.stream = stream
        self.since = since
        self.deadline = deadline
        self.go: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        self.go.add_done_callback(_seen)


def _seen(future: asyncio.Future[None]) -> None:
    """Keep asyncio from complaining of an error that nobody waited for."""
    if not future.cancelled():
        future.exception()


class Admission:
    """A bounded queue before a single place.

    :param max_waiting: requests that may wait.
    :param deadline: seconds after its arrival in which a request's turn must begin.
    """

    def __init__(self, *, max_waiting: int, deadline: float) -> None:
        self.refused = 0
        """Requests that got no turn: too many before them, too late, or replaced."""
        self._max_waiting = max_waiting
        self._deadline = deadline
        self._waiting: dict[bool, list[Ticket]] = {True: [], False: []}
        self._arrived: dict[Hashable, Ticket] = {}
        self._present = 0
        self._running = False
        self._live_in_a_row = 0
        self._mean_seconds = 0.0

    @property
    def present(self) -> int:
        """Requests that are in: preparing, waiting, or at their turn."""
        return self._present

    def about(self) -> dict[str, int]:
        """How many requests are in, and how many have been refused since the start."""
        return {'present': self._present, 'refused': self.refused}

    @asynccontextmanager
    async def enter(self, *, live: bool = True, stream: Hashable | None = None) -> AsyncIterator[Ticket]:
        """Come in, and be counted until the end; the turn itself is `turn`.

        :param stream: this request replaces an earlier one of the same stream that still waits, and takes its place
            in the queue: a camera that is faster than the queue would never have its turn otherwise.
        :raises Busy: the queue is full, or so slow that the turn would come too late.
        """
        older = self._replaceable(stream)
        self.check(leaving=int(older is not None))
        since = now = time.monotonic()
        if older is not None:
            self.refused += 1
            older.go.set_exception(Busy('a newer frame of this camera has come', retry_after=0, reason='replaced'))
            since = older.since
        ticket = Ticket(live=live, stream=stream, since=since, deadline=now + self._deadline, late=self._late)
        if stream is not None:
            self._arrived[stream] = ticket
        self._present += 1
        try:
            yield ticket
        finally:
            self._present -= 1
            if self._arrived.get(stream) is ticket:
                del self._arrived[stream]

    def check(self, *, leaving: int = 0) -> None:
        """Whether there is any use in coming in now; who hears `Busy` is counted as refused.

        :param leaving: requests that are in and give up their places for this one.
        :raises Busy: the queue is full, or so slow that the turn would come too late.
        """
        present = self._present - leaving
        seconds = present * self._mean_seconds
        if present > self._max_waiting or seconds > self._deadline:
            self.refused += 1
            raise Busy(
                f'{present} requests are before this one; try again later',
                retry_after=max(1.0, seconds),
                reason='queue_full' if present > self._max_waiting else 'deadline',
            )

    def _replaceable(self, stream: Hashable | None) -> Ticket | None:
        older = None if stream is None else self._arrived.get(stream)
        return None if older is None or older.go.done() else older

    def _late(self) -> DeadlineExceeded:
        self.refused += 1
        return DeadlineExceeded(
            f'no turn within {self._deadline:g} seconds: other requests come first',
            retry_after=max(1.0, self._present * self._mean_seconds),
        )

    @asynccontextmanager
    async def turn(self, ticket: Ticket) -> AsyncIterator[None]:
        """Wait for the turn, and hold it.

        :raises DeadlineExceeded: it does not come in time.
        :raises Busy: a newer frame of the same stream has come.
        """
        queue = self._waiting[ticket.live]
        queue.append(ticket)
        self._let_next_in()
        try:
            async with asyncio.timeout_at(asyncio.get_running_loop().time() + ticket.deadline - time.monotonic()):
                await asyncio.shield(ticket.go)
        except TimeoutError:
            if not _was_let_in(ticket):
                raise self._late() from None
        except asyncio.CancelledError:
            if _was_let_in(ticket):
                self._end_turn()
            raise
        finally:
            if ticket in queue:
                queue.remove(ticket)
        try:
            yield
        finally:
            self._end_turn()

    def took(self, seconds: float) -> None:
        """Learn how long the work of a turn takes."""
        self._mean_seconds += _SMOOTHING * (seconds - self._mean_seconds) if self._mean_seconds else seconds

    def _end_turn(self) -> None:
        self._running = False
        self._let_next_in()

    def _let_next_in(self) -> None:
        if self._running:
            return
        live, bulk = self._waiting[True], self._waiting[False]
        bulk_is_due = self._live_in_a_row >= LIVE_IN_A_ROW
        for queue in (bulk, live) if bulk_is_due else (live, bulk):
            waiting = [ticket for ticket in queue if not ticket.go.done()]  # the others are replaced, or given up
            if waiting:
                ticket = min(waiting, key=lambda ticket: ticket.since)
                self._live_in_a_row = self._live_in_a_row + 1 if ticket.live else 0
                self._running = True
                ticket.go.set_result(None)
                return


def _was_let_in(ticket: Ticket) -> bool:
    """Whether the turn has come; if not, it never will."""
    if ticket.go.done():
        return not ticket.go.cancelled() and ticket.go.exception() is None
    ticket.go.cancel()
    return False
