"""Limits on connections below the application: their number, headers, silence, and answers that clients do not read.

uvicorn bounds only the pause between two requests. `docs/explanation/decisions.md` names the servers that were tried.
"""

import json
import logging
from collections.abc import Callable, Collection
from http import HTTPStatus
from typing import Any, Final

import httptools
from uvicorn.protocols.http.httptools_impl import HttpToolsProtocol
from uvicorn.protocols.websockets.websockets_sansio_impl import WebSocketsSansIOProtocol

from detector.observability.logs import OnceASecond
from detector.settings import Settings

log = logging.getLogger('wholebody.limits')

MAX_HEADER_BYTES: Final = 64 * 1024
"""Size limit of a request's line and header together, in bytes."""
HEADER_SECONDS: Final = 15.0
"""Time limit for a complete header, counted from the opening of the connection or from the last answer, in seconds."""
MAX_PIPELINED: Final = 16
"""Maximum number of requests that wait on a connection for the answer to an earlier one."""
_SPARE: Final = 256
"""Number of connections beyond those that MAX_REQUESTS and MAX_CLIENTS need."""
FILES: Final = 256
"""Number of open files that the node needs besides its connections."""

_Fault = tuple[HTTPStatus, str, str]
"""Status and text of an answer, and the reason that is counted."""
Connection = HttpToolsProtocol | WebSocketsSansIOProtocol


def connections_needed(settings: Settings) -> int:
    """Return the number of connections that the node accepts; a polling Socket.IO client uses two."""
    return settings.max_requests + 2 * settings.max_clients + _SPARE


class Connections:
    """Ends connections that break a limit. `check` must be called about once a second.

    :param limit: maximum number of connections.
    :param seconds: time limit for a client to read an answer, and for the rest of a refused body, in seconds.
    :param unread_bytes: maximum size of all answers together that clients have not read.
    :param on_end: called with the reason for each connection that is ended: `header`, `idle`, `unread` or `number`.
    """

    def __init__(self, *, limit: int, seconds: float, unread_bytes: int, on_end: Callable[[str], None]) -> None:
        self.limit = limit
        self.seconds = seconds
        self.open: Collection[Connection] = ()
        """All open connections; uvicorn keeps them."""
        self.waiting: dict[HttpConnection, None] = {}
        """Connections without a request in progress, the one that has waited longest first."""
        self.ending: set[Connection] = set()
        """Connections that were ended and are still open for a moment."""
        self._unread_bytes = unread_bytes
        self._on_end = on_end
        self._unread_since: dict[Connection, float] = {}
        self._logged = OnceASecond()

    def protocol(self, *arguments: Any, **named: Any) -> 'HttpConnection':
        """Return the protocol of a new connection; uvicorn calls it in place of its own class."""
        return HttpConnection(self, *arguments, **named)

    def make_room(self, fresh: 'HttpConnection') -> None:
        """Close the connection that has waited longest for a request, or the new one if none waits."""
        if len(self.open) - len(self.ending) > self.limit:
            self.end(next((found for found in self.waiting if found is not fresh), fresh), 'number')

    def check(self, now: float) -> None:
        """End the connections that are late.

        :param now: time of the event loop.
        """
        self.ending.intersection_update(self.open)
        for connection in list(self.open):
            if isinstance(connection, HttpConnection) and (reason := connection.lateness(now)) is not None:
                self.end(connection, reason)
        unread = {connection: _unread_bytes(connection) for connection in self.open}
        since = {connection: self._unread_since.get(connection, now) for connection, size in unread.items() if size}
        self._unread_since = since
        held = sum(unread.values())
        for connection in sorted(since, key=since.__getitem__):
            if now - since[connection] <= self.seconds and held <= self._unread_bytes:
                break
            held -= unread[connection]
            self.end(connection, 'unread')

    def end(self, connection: Connection, reason: str) -> None:
        """Close a connection without waiting for its client."""
        self.count(reason)
        self.ending.add(connection)
        if isinstance(connection, HttpConnection):
            self.waiting.pop(connection, None)
        connection.transport.abort()

    def count(self, reason: str) -> None:
        """Count a connection that ends, and log the reason at most once a second."""
        self._on_end(reason)
        if self._logged.due(reason):
            log.log(_LEVELS[reason], 'one of %d connections is closed: %s', len(self.open), _REASONS[reason])


_REASONS: Final = {
    'header': f'no complete request header within {HEADER_SECONDS:g} seconds, or too large a one',
    'idle': 'the rest of a refused body did not arrive in time (BODY_SECONDS)',
    'unread': 'its client does not read the answers (BODY_SECONDS)',
    'number': 'no more may be open',
}
_LEVELS: Final = {'header': logging.INFO, 'idle': logging.INFO, 'unread': logging.WARNING, 'number': logging.WARNING}


def _is_unread(connection: 'HttpConnection') -> bool:
    return connection.transport.get_write_buffer_size() > 0


def _unread_bytes(connection: Connection) -> int:
    """Return the size of an answer that the client does not read at the moment; 0 if all is sent.

    A WebSocket may carry one message after the other all the time, so that only a paused one counts.
    """
    is_reading = isinstance(connection, WebSocketsSansIOProtocol) and connection.writable.is_set()
    if is_reading and not connection.transport.is_closing():
        return 0
    return int(connection.transport.get_write_buffer_size())


class HttpConnection(HttpToolsProtocol):
    """A connection of uvicorn's with limits on the header and on pipelined requests.

    :param bounds: the limits of the server.
    """

    def __init__(self, bounds: Connections, *arguments: Any, **named: Any) -> None:
        super().__init__(*arguments, **named)
        self.waiting_since = self.loop.time()
        """Time of the opening or of the last complete answer, on the clock of the event loop."""
        self._bounds = bounds
        self._header_bytes = 0
        self._unparsed_bytes = 0
        self._has_body = False
        self._fault: _Fault | None = None

    @property
    def waits(self) -> bool:
        """True if no request is in progress."""
        return self.cycle is None or self.cycle.response_complete

    def lateness(self, now: float) -> str | None:
        """Return the reason why the connection must end, or None."""
        if not self.waits or self.transport.is_closing():
            return None
        if _is_unread(self):
            self.waiting_since = now
            return None
        limit = self._bounds.seconds if self._has_body else HEADER_SECONDS
        if now - self.waiting_since <= limit:
            return None
        return 'idle' if self._has_body else 'header'

    def connection_made(self, transport: Any) -> None:
        super().connection_made(transport)
        self._bounds.waiting[self] = None
        self._bounds.make_room(self)

    def connection_lost(self, exc: Exception | None) -> None:
        self._bounds.waiting.pop(self, None)
        self._bounds.ending.discard(self)
        super().connection_lost(exc)

    def data_received(self, data: bytes) -> None:
        self._unparsed_bytes += len(data)
        super().data_received(data)
        if self._unparsed_bytes > MAX_HEADER_BYTES and not self.transport.is_closing():
            self._fault = _TOO_LARGE  # a single line, which the parser keeps until it is complete
            self.send_400_response('')

    def on_message_begin(self) -> None:
        self._header_bytes = self._unparsed_bytes = 0
        super().on_message_begin()

    def on_url(self, url: bytes) -> None:
        self._count(url)
        super().on_url(url)

    def on_header(self, name: bytes, value: bytes) -> None:
        self._count(name, value)  # also the trailers of a body in chunks
        super().on_header(name, value)

    def on_headers_complete(self) -> None:
        self._has_body = True
        if len(self.pipeline) >= MAX_PIPELINED:
            self._refuse(_TOO_MANY)
        self._bounds.waiting.pop(self, None)  # also before it becomes a WebSocket, which never waits
        super().on_headers_complete()

    def on_body(self, body: bytes) -> None:
        self._unparsed_bytes = 0
        super().on_body(body)

    def on_message_complete(self) -> None:
        self._has_body = False
        self._unparsed_bytes = 0
        super().on_message_complete()

    def on_response_complete(self) -> None:
        self.waiting_since = self.loop.time()
        super().on_response_complete()
        if self.waits and self not in self._bounds.ending:
            self._bounds.waiting[self] = None

    def send_400_response(self, msg: str) -> None:
        """Answer a request that cannot be parsed, and close the connection; uvicorn calls it too."""
        if self._fault is None:
            super().send_400_response(msg)
            return
        status, detail, reason = self._fault
        self._bounds.count(reason)
        body = json.dumps({'detail': detail}).encode()
        head = f'HTTP/1.1 {status.value} {status.phrase}\r\ncontent-type: application/json\r\nconnection: close\r\n'
        self.transport.write(f'{head}content-length: {len(body)}\r\n\r\n'.encode() + body)
        self.transport.close()

    def _count(self, *pieces: bytes) -> None:
        self._unparsed_bytes = 0
        self._header_bytes += sum(map(len, pieces))
        if self._header_bytes > MAX_HEADER_BYTES:
            self._refuse(_TOO_LARGE)

    def _refuse(self, fault: _Fault) -> None:
        self._fault = fault
        raise httptools.HttpParserError(fault[1])


_TOO_LARGE: Final = (
    HTTPStatus.REQUEST_HEADER_FIELDS_TOO_LARGE,
    f'the request line and the header together have more than {MAX_HEADER_BYTES} bytes',
    'header',
)
_TOO_MANY: Final = (
    HTTPStatus.TOO_MANY_REQUESTS,
    f'more than {MAX_PIPELINED} requests wait on this connection; read the answers first',
    'unread',
)
