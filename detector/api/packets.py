"""Parses Socket.IO messages so that every event with an id can be answered.

The Socket.IO library drops a message that it cannot parse, and the client waits until it times out. After an event
with fewer or more binary parts than announced, it ignores all further messages of that client.
"""

import asyncio
import json
import weakref
from collections.abc import Sequence
from typing import Any, ClassVar, Final

from socketio import packet

from detector.errors import InvalidRequest, RequestTooLarge, RequestTooSlow, WholebodyError

from .in_flight import Claim, InFlight
from .json_bodies import has_few_values

UNREADABLE: Final = '\0unreadable'
"""Name of the event that replaces an unreadable message; its payload is the reason."""
MAX_ATTACHMENTS: Final = 128
"""Maximum number of binary parts of one event."""
MAX_TEXT: Final = 8 * 1024**2
"""Maximum number of characters of an event without its binary parts."""
MAX_EVENT_VALUES: Final = 250_000
"""Maximum number of values of an event: those of metadata with 100 persons. The event loop parses them."""


class TolerantJson:
    """The json module, except for long integers: the library would silently drop a message that contains one."""

    dumps = staticmethod(json.dumps)

    @staticmethod
    def loads(text: str | bytes, **_: Any) -> Any:
        """Parse a JSON text; integers of 30 digits and more become floats.

        :raises ValueError: the text is not JSON, too long, or nested too deeply.
        """
        if len(text) > MAX_TEXT:
            raise ValueError(f'it has more than {MAX_TEXT} characters besides its binary parts')
        if not has_few_values(text, MAX_EVENT_VALUES):
            raise ValueError(f'it has more than {MAX_EVENT_VALUES} values')
        try:
            return json.loads(text, parse_int=lambda digits: int(digits) if len(digits) < 30 else float(digits))
        except RecursionError:
            raise ValueError('it is nested too deeply') from None


class TolerantPacket(packet.Packet):  # type: ignore[misc]  # the library has no types
    """A message that becomes the event `UNREADABLE` if it is malformed, late or beyond the limits.

    :param in_flight: counts the binary parts of unanswered events.
    :param seconds: time limit for receiving the binary parts of an event.
    """

    json = TolerantJson
    in_flight: ClassVar[InFlight]
    seconds: ClassVar[float]
    packet_type: int
    data: Any
    _parts: '_Parts | None' = None

    @classmethod
    def counted_by(cls, in_flight: InFlight, *, seconds: float) -> 'type[TolerantPacket]':
        """Return a subclass that is bound to these limits; a Socket.IO server takes a class, not an instance."""
        return type(cls.__name__, (cls,), {'in_flight': in_flight, 'seconds': seconds})

    def decode(self, encoded_packet: Any) -> int:
        """Parse the text of a message.

        :return: number of binary parts that follow.
        """
        if not isinstance(encoded_packet, str):
            raise ValueError('a binary part without a preceding message')
        try:
            count = int(super().decode(encoded_packet) or 0)
        except ValueError as error:
            if self.packet_type not in (packet.EVENT, packet.BINARY_EVENT):
                raise
            return self._give_up(str(error))
        if self.packet_type not in (packet.EVENT, packet.BINARY_EVENT):
            if self.packet_type == packet.BINARY_ACK and not 0 < count <= MAX_ATTACHMENTS:
                raise ValueError('an answer announces no binary parts, or too many')
            return count
        if not (isinstance(self.data, list) and self.data and isinstance(self.data[0], str)):
            return self._give_up('an event is a list that begins with a name')
        if count > MAX_ATTACHMENTS:
            return self._give_up(f'it announces {count} binary parts; the limit is {MAX_ATTACHMENTS}')
        if count == 0:
            self.packet_type = packet.EVENT
        return count

    def _give_up(self, why: str) -> int:
        self.packet_type = packet.EVENT
        self.data = [UNREADABLE, why]
        return 0

    def add_attachment(self, attachment: Any) -> bool:
        """Add a binary part; the parts of an event beyond the limits are discarded.

        :return: True if it was the last one.
        """
        if self._parts is None:
            self._parts = _Parts(self.in_flight, seconds=self.seconds)
        parts = self._parts
        parts.content.append(attachment)
        parts.check(attachment)
        if self.attachment_count > len(parts.content):
            return False
        parts.timer.cancel()
        if parts.fault is not None:
            self.data = [UNREADABLE, parts.fault, *self.data[:1]] if isinstance(self.data, list) else []
        else:
            self.data = _Counted(self.reconstruct_binary(self.data, parts.content), parts.claim)
        return True

    @classmethod
    def reconstruct_binary(cls, data: Any, attachments: Sequence[Any]) -> Any:
        """Replace the placeholders of the payload by the binary parts."""
        try:
            return super().reconstruct_binary(data, attachments)
        except (LookupError, TypeError):
            return [UNREADABLE, 'a placeholder names a binary part that does not exist']


class _Parts:
    """The binary parts of an event that is being received.

    :param seconds: time limit for receiving all parts, counted from now.
    """

    def __init__(self, in_flight: InFlight, *, seconds: float) -> None:
        self.content: list[Any] = []
        """The received parts; None for each discarded one."""
        self.claim = Claim(in_flight)
        self.fault: WholebodyError | None = None
        self._limit = in_flight.limit
        self._seconds = seconds
        me = weakref.ref(self)  # the timer must not keep the parts of a disconnected client alive
        self.timer = asyncio.get_running_loop().call_later(seconds, _expire, me)

    def check(self, part: Any) -> None:
        """Count the latest part, or discard all parts if it is beyond the limits."""
        if not isinstance(part, bytes):
            self.give_up(InvalidRequest('a binary part of the event is not binary data'))
        elif self.fault is not None:
            self.give_up(self.fault)
        elif self.claim.held + len(part) > self._limit:
            self.give_up(RequestTooLarge(f'the binary parts have more than {self._limit} bytes (MAX_IN_FLIGHT_MIB)'))
        elif not self.claim.has_room(len(part)):
            self.give_up(self.claim.refusal())
        else:
            self.claim.add(len(part))

    def give_up(self, fault: WholebodyError) -> None:
        self.fault = self.fault or fault
        self.content = [None] * len(self.content)
        self.claim.release()

    def expire(self) -> None:
        self.give_up(RequestTooSlow(f'the binary parts did not arrive within {self._seconds:g} seconds (BODY_SECONDS)'))


def _expire(parts: 'weakref.ref[_Parts]') -> None:
    found = parts()
    if found is not None:
        found.expire()


class _Counted(list[Any]):
    """Name and payload of an event; its bytes count as held until it is garbage-collected."""

    def __init__(self, data: Sequence[Any], claim: Claim) -> None:
        super().__init__(data)
        self._claim = claim
