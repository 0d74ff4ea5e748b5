"""Socket.IO messages as they arrive, read so that every event with an id can be answered.

The library drops a message that it cannot read, and the client waits for its time-out; after an event whose binary
part is not as announced it never hears that client again.
"""

import json
import sys
from collections.abc import Sequence
from typing import Any, ClassVar, Final

from socketio import packet

from .in_flight import Claim, InFlight

UNREADABLE: Final = '\0unreadable'
"""The event that stands for a message which cannot be read; its payload says why."""
MAX_ATTACHMENTS: Final = 128
"""Binary parts of one event."""


class TolerantJson:
    """The json module, but for numbers so long that the Socket.IO library would drop the message without a word."""

    dumps = staticmethod(json.dumps)

    @staticmethod
    def loads(text: str | bytes, **_: Any) -> Any:
        """:raises ValueError: it is no JSON, or is nested too deeply."""
        try:
            return json.loads(text, parse_int=lambda digits: int(digits) if len(digits) < 30 else float(digits))
        except RecursionError:
            raise ValueError('it is nested too deeply') from None


class TolerantPacket(packet.Packet):  # type: ignore[misc]  # the library has no types
    """A message that becomes the event `UNREADABLE` where the library would give up, or where there is no room for it.

    :param in_flight: counts the binary parts of events, until these are answered.
    """

    json = TolerantJson
    in_flight: ClassVar[InFlight] = InFlight(sys.maxsize)
    packet_type: int
    data: Any
    attachments: list[Any]
    _claim: Claim | None = None
    _fault: str | None = None

    @classmethod
    def counted_by(cls, in_flight: InFlight) -> 'type[TolerantPacket]':
        """Packets of a server of its own."""
        return type(cls.__name__, (cls,), {'in_flight': in_flight})

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
        """Take a binary part; those for which there is no room are let pass.

        :return: whether it was the last one.
        """
        claim = self._claim = self._claim or Claim(self.in_flight)
        if self._fault is None:
            if claim.held + len(attachment) > self.in_flight.limit:
                self._fault = f'its binary parts have more than {self.in_flight.limit} bytes (MAX_IN_FLIGHT_MIB)'
            elif not claim.has_room(len(attachment)):
                self._fault = str(claim.refusal())
            else:
                claim.add(len(attachment))
        if self._fault is not None:
            attachment = b''
            self.attachments = [b''] * len(self.attachments)
            claim.release()
        complete = bool(super().add_attachment(attachment))
        if complete:
            self.data = [UNREADABLE, self._fault] if self._fault is not None else _Counted(self.data, claim)
        return complete

    @classmethod
    def reconstruct_binary(cls, data: Any, attachments: Sequence[Any]) -> Any:
        """Put the binary parts where they belong."""
        try:
            return super().reconstruct_binary(data, attachments)
        except (LookupError, TypeError):
            return [UNREADABLE, 'a placeholder names a binary part that is not there']


class _Counted(list[Any]):
    """An event's name and payload, for as long as somebody holds them."""

    def __init__(self, data: Sequence[Any], claim: Claim) -> None:
        super().__init__(data)
        self._claim = claim
