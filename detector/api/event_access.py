"""Access control for Socket.IO: clients need the token, and at most MAX_CLIENTS may connect.

A connection exists before its client has authenticated. Until then it may only send small messages, and not for long.
"""

import asyncio
import logging
import time
from collections import Counter
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import Any, Final
from urllib.parse import parse_qs

import socketio
from socketio.exceptions import ConnectionRefusedError as Refused
from starlette.requests import HTTPConnection
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from detector.api.middleware.access import AUTHORIZED, AccessPolicy, address_of
from detector.errors import Busy, InvalidRequest, RequestTooLarge, WholebodyError

from .error_answers import answer

log = logging.getLogger('wholebody.access')

_SPARE: Final = 16
"""Number of connections beyond MAX_CLIENTS that may be open, so that refused clients receive the reason."""
_HANDSHAKE_SECONDS: Final = 5.0
"""Time limit for a connection without an accepted client, in seconds."""
_CONNECTION: Final = 'wholebody.connection'
"""Key of a WebSocket's ASGI scope; its value is the connection id of the accepted client."""
_MAX_UNANSWERED: Final = 64
"""Number of events of a client that may run or whose answers may wait to be sent, before the node reads no more."""
_PAUSE_SECONDS: Final = 0.05
"""Interval between two checks of a client that is behind, in seconds."""
_AT_ONCE: Final = 8
"""Number of messages of a connection that are handled without a rest."""
_REST_SECONDS: Final = 0.01
"""Time after which the next ones are handled, in seconds. A frame is two messages, so 400 of them pass in a second."""
_MAX_HANDSHAKE_BYTES: Final = 16 * 1024
"""Size limit of a message from an unauthenticated connection, in bytes."""


class ConnectionGuard:
    """Accepts or refuses the clients of a Socket.IO server, and closes connections without a client.

    :param max_clients: maximum number of connected clients.
    :param seconds: time limit for a connection without an accepted client; values above 5 count as 5.
    """

    def __init__(
        self, server: socketio.AsyncServer, access_policy: AccessPolicy, *, max_clients: int, seconds: float
    ) -> None:
        self._server = server
        self._access_policy = access_policy
        self._max_clients = max_clients
        self._seconds = min(seconds, _HANDSHAKE_SECONDS)
        self._clients: dict[str, str] = {}
        """Connection id by client id."""
        self._running: Counter[str] = Counter()
        """Number of running events by connection id."""
        self._closing: set[asyncio.Task[None]] = set()
        self._opened = server.eio.handlers['connect']
        server.eio.on('connect', self._open)

    async def admit(self, client: str, environ: Mapping[str, Any], auth: object = None) -> None:
        """Accept a client.

        :param auth: payload of the client's handshake, `{'token': …}`.
        :raises socketio.exceptions.ConnectionRefusedError: the client is refused; the text gives the reason.
        """
        scope = environ['asgi.scope']
        given = auth.get('token') if isinstance(auth, Mapping) else None
        if not scope[AUTHORIZED] and not (given is not None and self._access_policy.accepts_token(given)):
            connection = HTTPConnection(scope)
            if given is None and 'authorization' not in connection.headers:
                raise Refused("this node requires its token: connect with auth={'token': API_TOKEN}")
            await self._access_policy.delay_failed_attempt(address_of(connection))
            raise Refused('the token is wrong (API_TOKEN)')
        if len(self._clients) >= self._max_clients:
            log.warning('a Socket.IO client is refused: MAX_CLIENTS=%d are connected', self._max_clients)
            raise Refused(f'{len(self._clients)} clients are connected, the maximum (MAX_CLIENTS)')
        self._clients[client] = scope[_CONNECTION] = self._server.manager.eio_sid_from_sid(client, '/')

    def knows(self, client: str) -> bool:
        """Return True if the client has been accepted. Clients may send events earlier, while that is being decided."""
        return client in self._clients

    def leave(self, client: str) -> None:
        """Forget a client that has disconnected. Its connection stays open for a few seconds, for another handshake."""
        connection = self._clients.pop(client, None)
        if connection is not None:
            self._close_if_idle_later(connection)

    def knows_connection(self, scope: Scope) -> bool:
        """Return True if a request or WebSocket belongs to an accepted client."""
        return any(connection in self._clients.values() for connection in (_session_of(scope), scope.get(_CONNECTION)))

    @contextmanager
    def running(self, client: str) -> Iterator[None]:
        """Count an event of a client as running while the context is open."""
        connection = self._clients.get(client, '')
        self._running[connection] += 1
        try:
            yield
        finally:
            self._running[connection] -= 1
            if not self._running[connection]:
                del self._running[connection]

    def is_behind(self, connection: str) -> bool:
        """Return True if too many events of a connection run or have answers that it has not read."""
        session = self._server.eio.sockets.get(connection)
        return session is not None and self._running[connection] + session.queue.qsize() >= _MAX_UNANSWERED

    async def _open(self, connection: str, environ: Mapping[str, Any]) -> Any:
        if len(self._server.environ) >= self._max_clients + _SPARE:
            await self._close_oldest_unauthenticated()
        self._close_if_idle_later(connection)
        return await self._opened(connection, environ)

    def _close_if_idle_later(self, connection: str) -> None:
        asyncio.get_running_loop().call_later(self._seconds, self._close_if_idle, connection)

    def _close_if_idle(self, connection: str) -> None:
        if connection not in self._clients.values():
            task = asyncio.create_task(self._close(connection))
            self._closing.add(task)
            task.add_done_callback(self._closing.discard)

    async def _close_oldest_unauthenticated(self) -> None:
        """Make room for a new connection, so that idle connections cannot lock out clients."""
        clients = set(self._clients.values())
        oldest = next((connection for connection in self._server.environ if connection not in clients), None)
        if oldest is not None:
            await self._close(oldest)

    async def _close(self, connection: str) -> None:
        session = self._server.eio.sockets.get(connection)
        if session is not None:
            await session.close(wait=False, abort=True)
            session.queue.put_nowait(None)  # ends its poll or its WebSocket, which would otherwise wait for a ping
            self._server.eio.sockets.pop(connection, None)


class HandshakeMiddleware:
    """ASGI middleware before Socket.IO that limits connections without an accepted client.

    It also reads no further events of a client that does not read its answers.

    :param seconds: time limit for a WebSocket without an accepted client, in which values above 5 count as 5, and for a
        client that does not read its answers.
    """

    def __init__(self, app: ASGIApp, guard: ConnectionGuard, *, seconds: float) -> None:
        self._app = app
        self._guard = guard
        self._answer_seconds = seconds
        self._seconds = min(seconds, _HANDSHAKE_SECONDS)
        self._posting: set[str] = set()

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope['type'] == 'websocket':
            paced = _paced(receive)
            await self._app(scope, lambda: self._next_message(scope, paced), send)
        elif scope['type'] == 'http' and scope['method'] == 'POST':
            await self._post(scope, receive, send)
        else:
            await self._app(scope, receive, send)

    async def _post(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Pass on the messages of a polling client. Engine.IO requires that it sends one request at a time."""
        declared = dict(scope['headers']).get(b'content-length', b'')
        is_small = declared.isdigit() and int(declared) <= _MAX_HANDSHAKE_BYTES
        if not is_small and self._is_unauthenticated(scope):
            error: WholebodyError = RequestTooLarge(
                f'send the token before a message of more than {_MAX_HANDSHAKE_BYTES} bytes'
            )
            await answer(error, Connection='close')(scope, receive, send)
            return
        session = _session_of(scope)
        if session != '' and session in self._posting:
            again = InvalidRequest('this connection is already sending messages; send one request after the other')
            await answer(again, Connection='close')(scope, receive, send)
            return
        if self._guard.is_behind(session):
            error = Busy('read the answers to the earlier events first', retry_after=1, reason='memory')
            await answer(error, Connection='close')(scope, receive, send)
            return
        self._posting.add(session)
        try:
            await self._app(scope, _in_two_parts(receive), send)
        finally:
            self._posting.discard(session)

    async def _next_message(self, scope: Scope, receive: Receive) -> Message:
        """Return the next message, or a disconnect if an unauthenticated connection sends a large message or none.

        Wait while the client is behind, so that its messages stay in the buffers of the connection.
        """
        try:
            async with asyncio.timeout(self._answer_seconds):
                while self._guard.is_behind(scope.get(_CONNECTION, '')):
                    await asyncio.sleep(_PAUSE_SECONDS)
        except TimeoutError:
            log.warning('a Socket.IO client is disconnected: it does not read its answers')
            return {'type': 'websocket.disconnect', 'code': 1008}
        while True:
            try:
                async with asyncio.timeout(self._seconds):
                    message = await receive()
            except TimeoutError:
                if not self._guard.knows_connection(scope):
                    return {'type': 'websocket.disconnect', 'code': 1008}
                continue
            content = message.get('bytes') or message.get('text') or b''
            if len(content) > _MAX_HANDSHAKE_BYTES and self._is_unauthenticated(scope):
                return {'type': 'websocket.disconnect', 'code': 1009}
            return message

    def _is_unauthenticated(self, scope: Scope) -> bool:
        return not scope[AUTHORIZED] and not self._guard.knows_connection(scope)


def _paced(receive: Receive) -> Receive:
    """Spread the messages of a connection over time, so that a flood of them leaves the event loop to other clients."""
    begun = 0.0
    count = 0

    async def next_message() -> Message:
        nonlocal begun, count
        message = await receive()
        now = time.monotonic()
        if now - begun >= _REST_SECONDS:
            begun, count = now, 0
        elif count >= _AT_ONCE:
            await asyncio.sleep(begun + _REST_SECONDS - now)
            begun, count = time.monotonic(), 0
        count += 1
        return message

    return next_message


def _session_of(scope: Scope) -> str:
    """Return the connection id in the query of a poll, or an empty string."""
    query: bytes = scope['query_string']
    return parse_qs(query.decode('latin-1')).get('sid', [''])[0]


def _in_two_parts(receive: Receive) -> Receive:
    """Deliver a body as its first part and the rest, because Engine.IO copies all received bytes for each part."""
    is_first = True

    async def receive_parts() -> Message:
        nonlocal is_first
        message = await receive()
        if is_first:
            is_first = False
            return message
        parts = [message.get('body', b'')]
        while message.get('more_body', False):
            message = await receive()
            parts.append(message.get('body', b''))
        if message['type'] != 'http.request':
            return message
        return {'type': 'http.request', 'body': b''.join(parts), 'more_body': False}

    return receive_parts
