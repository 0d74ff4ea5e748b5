"""Socket.IO messages as they arrive, read so that every event with an id can be answered.

The library drops a message that it cannot read, and the client waits for its time-out; after an event whose binary
part is not as announced it never hears that client again.
"""

import json
from collections.abc import Sequence
from typing import Any, Final

from socketio import packet

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
    """A message that becomes the event `UNREADABLE` where the library would give up."""

    json = TolerantJson
    packet_type: int
    data: Any

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

    @classmethod
    def reconstruct_binary(cls, data: Any, attachments: Sequence[Any]) -> Any:
        """Put the binary parts where they belong."""
        try:
            return super().reconstruct_binary(data, attachments)
        except (LookupError, TypeError):
            return [UNREADABLE, 'a placeholder names a binary part that is not there']
