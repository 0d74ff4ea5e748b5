"""Ends connections whose client breaks the Engine.IO protocol, before the library fails with a traceback."""

import base64
from typing import Final

from starlette.types import ASGIApp, Message, Receive, Scope, Send

_PACKET_TYPES: Final = '0123456'
_BASE64: Final = 'b'
_PROTOCOL_ERROR: Final = 1002


class EngineIoGuard:
    """ASGI middleware directly before an Engine.IO server, on which Socket.IO is built."""

    def __init__(self, app: ASGIApp) -> None:
        self._app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope['type'] == 'websocket':
            await self._app(scope, _only_packets(receive), send)
            return
        first = await receive()
        if first['type'] != 'http.disconnect':  # the library takes an interrupted request for an empty one
            await self._app(scope, _beginning_with(first, receive), send)


def _beginning_with(first: Message, receive: Receive) -> Receive:
    pending = [first]

    async def next_message() -> Message:
        return pending.pop() if pending else await receive()

    return next_message


def _only_packets(receive: Receive) -> Receive:
    """Return the messages of a WebSocket; a text that is not a packet becomes the end of the connection."""

    async def next_message() -> Message:
        message = await receive()
        text = message.get('text')
        if message['type'] == 'websocket.receive' and text is not None and not _is_packet(text):
            return {'type': 'websocket.disconnect', 'code': _PROTOCOL_ERROR}
        return message

    return next_message


def _is_packet(text: str) -> bool:
    if not text.startswith(_BASE64):
        return text[:1] in _PACKET_TYPES and text != ''
    try:
        base64.b64decode(text[1:])
    except ValueError:
        return False
    return True
