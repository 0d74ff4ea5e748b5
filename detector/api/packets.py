"""Socket.IO messages as they arrive, read so that every event with an id can be answered.

The library drops a message that it cannot read, and the client waits for its time-out; after an event whose binary
part is not as announced it never hears that client again.
"""

import asyncio
import json
import weakref
from collections.abc import Sequence
from typing import Any, ClassVar, Final

from socketio import packet

from detector.errors import InvalidRequest, RequestTooLarge, RequestTooSlow, WholebodyError

from .in_flight import Claim, InFlight

UNREADABLE: Final = '\0unreadable'
"""The event that stands for a message which cannot be read; its payload says why."""
MAX_ATTACHMENTS: Final = 128
"""Binary parts of one event."""
MAX_TEXT: Final = 8 * 1024**2
"""Characters of an event beside its binary parts; as Python's objects they take many times as much."""


class TolerantJson:
    """The json module, but for numbers so long that the Socket.IO library would drop the message without a word."""

    dumps = staticmethod(json.dumps)

    @staticmethod
    def loads(text: str | bytes, **_: Any) -> Any:
        """:raises ValueError: it is no JSON, too long, or nested too deeply."""
        if len(text) > MAX_TEXT:
            raise ValueError(f'it has more than {MAX_TEXT} characters beside its binary parts')
        try:
            return json.loads(text, parse_int=lambda digits: int(digits) if len(digits) < 30 else float(digits))
        except RecursionError:
            raise ValueError('it is nested too deeply') from None


class TolerantPacket(packet.Packet):  # type: ignore[misc]  # the library has no types
    """A message that becomes the event `UNREADABLE` where the library would give up, or where there is no room for it.

    :param in_flight: counts the binary parts of events, until these are answered.
    :param seconds: in which they must have come.
    """

    json = TolerantJson
    in_flight: ClassVar[InFlight]
    seconds: ClassVar[float]
    packet_type: int
    data: Any
    _parts: '_Parts | None' = None

    @classmethod
    def counted_by(cls, in_flight: InFlight, *, seconds: float) -> 'type[TolerantPacket]':
        """Packets of a server of its own."""
        return type(cls.__name__, (cls,), {'in_flight': in_flight, 'seconds': seconds})

    def decode(self, encoded_packet: Any) -> int:
        """:return: how many binary parts follow."""
        if not isinstance(encoded_packet, str):
            raise ValueError('a binary part without a message before')
        try:
            count = int(super().decode(encoded_packet) or 0)
        except ValueError as error:
            if self.packet_type not in (packet.EVENT, packet.BINARY_EVENT):
                raise
            return self._give_up(str(error))
        if self.packet_type not in (packet.EVENT, packet.BINARY_EVENT):
            if self.packet_type == packet.BINARY_ACK and not 0 < count <= MAX_ATTACHMENTS:
                raise ValueError('an answer with binary parts has none, or too many')
            return count
        if not (isinstance(self.data, list) and self.data and isinstance(self.data[0], str)):
            return self._give_up('an event is a list that begins with a name')
        if count > MAX_ATTACHMENTS:
            return self._give_up(f'{count} binary parts are announced; {MAX_ATTACHMENTS} is the limit')
        if count == 0:
            self.packet_type = packet.EVENT
        return count

    def _give_up(self, why: str) -> int:
        self.packet_type = packet.EVENT
        self.data = [UNREADABLE, why]
        return 0

    def add_attachment(self, attachment: Any) -> bool:
        """Take a binary part; all parts of an event that cannot be taken are let pass.

        :return: whether it was the last one.
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
        """Put the binary parts where they belong."""
        try:
            return super().reconstruct_binary(data, attachments)
        except (LookupError, TypeError):
            return [UNREADABLE, 'a placeholder names a binary part that is not there']


class _Parts:
    """The binary parts of an event, until it is complete.

    :param seconds: from now on, in which they must have come.
    """

    def __init__(self, in_flight: InFlight, *, seconds: float) -> None:
        self.content: list[Any] = []
        """Bytes; None for each that is let pass."""
        self.claim = Claim(in_flight)
        self.fault: WholebodyError | None = None
        self._limit = in_flight.limit
        self._seconds = seconds
        me = weakref.ref(self)  # who has gone shall not be kept until the time is up
        self.timer = asyncio.get_running_loop().call_later(seconds, _expire, me)

    def check(self, part: Any) -> None:
        """Count what has come last, or let all pass."""
        if not isinstance(part, bytes):
            self.give_up(InvalidRequest('it has a binary part that is none'))
        elif self.fault is not None:
            self.give_up(self.fault)
        elif self.claim.held + len(part) > self._limit:
            self.give_up(RequestTooLarge(f'its binary parts have more than {self._limit} bytes (MAX_IN_FLIGHT_MIB)'))
        elif not self.claim.has_room(len(part)):
            self.give_up(self.claim.refusal())
        else:
            self.claim.add(len(part))

    def give_up(self, fault: WholebodyError) -> None:
        self.fault = self.fault or fault
        self.content = [None] * len(self.content)
        self.claim.release()

    def expire(self) -> None:
        self.give_up(RequestTooSlow(f'its binary parts did not come within {self._seconds:g} seconds (BODY_SECONDS)'))


def _expire(parts: 'weakref.ref[_Parts]') -> None:
    found = parts()
    if found is not None:
        found.expire()


class _Counted(list[Any]):
    """An event's name and payload, for as long as somebody holds them."""

    def __init__(self, data: Sequence[Any], claim: Claim) -> None:
        super().__init__(data)
        self._claim = claim
