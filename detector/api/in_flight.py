"""How much memory the requests and events hold together that are under way: numbers and sizes of each alone do not
bound it.
"""

from typing import Final

from detector.errors import Busy

_RETRY_SECONDS: Final = 1


class InFlight:
    """The bytes that have come and are not answered yet.

    :param limit: bytes. One sender alone may have more, if its own limit is higher.
    """

    def __init__(self, limit: int) -> None:
        self.limit = limit
        self.held = 0


class Claim:
    """What one sender has sent so far; given back with the last reference to it, if not before."""

    def __init__(self, all_: InFlight) -> None:
        self.held = 0
        self._all = all_

    def has_room(self, size: int) -> bool:
        """Whether so many bytes more may come."""
        return not size or self._all.held == self.held or self._all.held + size <= self._all.limit

    def refusal(self) -> Busy:
        """What the sender hears for whose bytes there is no room."""
        return Busy(
            f'other requests under way hold {self._all.held - self.held} bytes, of {self._all.limit} that all may '
            'have (MAX_IN_FLIGHT_MIB); try again later',
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
