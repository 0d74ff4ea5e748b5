"""A limit on the memory that all unanswered requests and events hold together.

Limits on the number of requests and on the size of each do not bound their sum.
"""

from typing import Final

from detector.errors import Busy

_RETRY_SECONDS: Final = 1


class InFlight:
    """The bytes of all requests and events that are not answered yet.

    :param limit: limit in bytes. A single sender may exceed it if no other holds bytes.
    """

    def __init__(self, limit: int) -> None:
        self.limit = limit
        self.held = 0


class Claim:
    """Bytes that one request or event holds until `release` is called or the claim is garbage-collected."""

    def __init__(self, all_: InFlight) -> None:
        self.held = 0
        self._all = all_

    def has_room(self, size: int) -> bool:
        """Return True if the sender may hold this many more bytes."""
        return not size or self._all.held == self.held or self._all.held + size <= self._all.limit

    def refusal(self) -> Busy:
        """Return the error for a sender whose bytes exceed the limit."""
        return Busy(
            f'other requests in progress hold {self._all.held - self.held} bytes; the limit for all is '
            f'{self._all.limit} (MAX_IN_FLIGHT_MIB); try again later',
            retry_after=_RETRY_SECONDS,
            reason='memory',
        )

    def add(self, size: int) -> None:
        self.held += size
        self._all.held += size

    def release(self) -> None:
        self._all.held -= self.held
        self.held = 0

    def __del__(self) -> None:
        self.release()
