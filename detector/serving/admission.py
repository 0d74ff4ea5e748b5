"""Admission: decides which request uses the engine next, and refuses requests that would wait too long.

One request at a time has its turn. Live requests (robots, people) go before bulk work, but bulk work gets a turn after
`LIVE_IN_A_ROW` live ones, so that neither starves. Times are seconds of `time.monotonic`.
"""

import asyncio
import time
from collections.abc import AsyncIterator, Callable, Hashable
from contextlib import asynccontextmanager
from typing import Final

from detector.errors import Busy, DeadlineExceeded

LIVE_IN_A_ROW: Final = 4
"""Number of live turns after which bulk work gets a turn."""
_SMOOTHING: Final = 0.2
"""Weight of the latest turn in the mean duration of turns, 0..1."""


class Ticket:
    """A request's place in the queue, from its arrival to the end of its turn.

    :param stream: stream whose frames replace each other; None if this request must not be replaced.
    :param since: time of arrival, or that of the first frame whose place it has taken.
    :param deadline: time by which the turn must have begun.
    :param late: counts a request that misses its deadline, and returns the error.
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
        self.go.add_done_callback(retrieve_error)


def retrieve_error(future: asyncio.Future[None]) -> None:
    """Keep asyncio from logging an error as never retrieved: the waiting caller may have ended already."""
    if not future.cancelled():
        future.exception()


class Admission:
    """A bounded queue for a single place.

    :param max_waiting: maximum number of requests that wait.
    :param deadline: time limit for a request to get its turn, in seconds after its arrival.
    """

    def __init__(self, *, max_waiting: int, deadline: float) -> None:
        self.refused = 0
        """Number of requests without a turn: the queue was full, they were too late, or a newer frame replaced them."""
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
        """Number of requests that are being prepared, wait, or have their turn."""
        return self._present

    def about(self) -> dict[str, int]:
        """Return how many requests are present, and how many have been refused since the start."""
        return {'present': self._present, 'refused': self.refused}

    @asynccontextmanager
    async def enter(self, *, live: bool = True, stream: Hashable | None = None) -> AsyncIterator[Ticket]:
        """Count a request as present until it ends. `turn` then waits for its turn.

        :param stream: this request replaces an earlier one of the same stream that still waits, and takes its place in
            the queue. Otherwise a camera that is faster than the queue would never have its turn.
        :raises Busy: the queue is full, or the turn would come too late.
        """
        older = self._replaceable(stream)
        self.check(leaving=int(older is not None))
        since = now = time.monotonic()
        if older is not None:
            self.refused += 1
            older.go.set_exception(Busy('a newer frame of this camera has arrived', retry_after=0, reason='replaced'))
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
        """Refuse and count a request that would not get its turn in time.

        :param leaving: number of present requests that this one replaces.
        :raises Busy: the queue is full, or the turn would come too late.
        """
        present = self._present - leaving
        seconds = present * self._mean_seconds
        if present > self._max_waiting or seconds > self._deadline:
            self.refused += 1
            raise Busy(
                f'{present} requests are ahead of this one; try again later',
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

        :raises DeadlineExceeded: the turn does not come in time.
        :raises Busy: a newer frame of the same stream has arrived.
        """
        queue = self._waiting[ticket.live]
        queue.append(ticket)
        self._begin_next_turn()
        try:
            async with asyncio.timeout_at(asyncio.get_running_loop().time() + ticket.deadline - time.monotonic()):
                await asyncio.shield(ticket.go)
        except TimeoutError:
            if not _has_turn(ticket):
                raise self._late() from None
        except asyncio.CancelledError:
            if _has_turn(ticket):
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
        """Note how long the work of a turn took."""
        self._mean_seconds += _SMOOTHING * (seconds - self._mean_seconds) if self._mean_seconds else seconds

    def _end_turn(self) -> None:
        self._running = False
        self._begin_next_turn()

    def _begin_next_turn(self) -> None:
        if self._running:
            return
        live, bulk = self._waiting[True], self._waiting[False]
        bulk_is_due = self._live_in_a_row >= LIVE_IN_A_ROW
        for queue in (bulk, live) if bulk_is_due else (live, bulk):
            waiting = [ticket for ticket in queue if not ticket.go.done()]  # the others were replaced or timed out
            if waiting:
                ticket = min(waiting, key=lambda ticket: ticket.since)
                self._live_in_a_row = self._live_in_a_row + 1 if ticket.live else 0
                self._running = True
                ticket.go.set_result(None)
                return


def _has_turn(ticket: Ticket) -> bool:
    """Return True if the turn has come; otherwise make sure that it never does."""
    if ticket.go.done():
        return not ticket.go.cancelled() and ticket.go.exception() is None
    ticket.go.cancel()
    return False
