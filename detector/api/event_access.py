"""Which Socket.IO clients come in: those with the token, and not more than MAX_CLIENTS."""

import asyncio
import logging
from collections.abc import Mapping
from typing import Any, Final
from urllib.parse import parse_qs

import socketio
from socketio.exceptions import ConnectionRefusedError as Refused
from starlette.requests import HTTPConnection
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from detector.api.middleware.access import AUTHORIZED, AccessPolicy, address_of
from detector.errors import InvalidRequest, RequestTooLarge

from .error_answers import answer

log = logging.getLogger('wholebody.access')

_SPARE: Final = 16
"""Connections beyond MAX_CLIENTS that may be open, so that who is refused hears why."""
_STRANGER_SECONDS: Final = 5.0
"""So long a connection may be open that is no client's."""
_CONNECTION: Final = 'wholebody.connection'
"""Key of a WebSocket's ASGI scope: the connection of the client that came in by it."""
_MAX_STRANGER_BYTES: Final = 16 * 1024
"""Of a message by somebody who has not shown the token."""


class ConnectionGuard:
    """Decides who becomes a client of a Socket.IO server.

    :param max_clients: clients at a time.
    :param seconds: in which a connection must become a client, or be one again; 5 at most.
    """

    def __init__(
        self, server: socketio.AsyncServer, access_policy: AccessPolicy, *, max_clients: int, seconds: float
    ) -> None:
        self._server = server
        self._access_policy = access_policy
        self._max_clients = max_clients
        self._seconds = min(seconds, _STRANGER_SECONDS)
        self._clients: dict[str, str] = {}
        """Client to its connection."""
        self._closing: set[asyncio.Task[None]] = set()
        self._opened = server.eio.handlers['connect']
        server.eio.on('connect', self._open)

    async def admit(self, client: str, environ: Mapping[str, Any], auth: object = None) -> None:
        """Let a client in.

        :param auth: what it has sent to be let in, `{'token': …}`.
        :raises socketio.exceptions.ConnectionRefusedError: says why not.
        """
        scope = environ['asgi.scope']
        given = auth.get('token') if isinstance(auth, Mapping) else None
        if not scope[AUTHORIZED] and not (given is not None and self._access_policy.accepts_token(given)):
            connection = HTTPConnection(scope)
            if given is None and 'authorization' not in connection.headers:
                raise Refused("this node asks for its token: connect with auth={'token': API_TOKEN}")
            await self._access_policy.delay_failed_attempt(address_of(connection))
            raise Refused('the token is wrong (API_TOKEN)')
        if len(self._clients) >= self._max_clients:
            log.warning('a Socket.IO client is refused: there are MAX_CLIENTS=%d', self._max_clients)
            raise Refused(f'{len(self._clients)} clients are connected, as many as may be (MAX_CLIENTS)')
        self._clients[client] = scope[_CONNECTION] = self._server.manager.eio_sid_from_sid(client, '/')

    def knows(self, client: str) -> bool:
        """Whether a client has been let in; it may send events before, while that is decided."""
        return client in self._clients

    def leave(self, client: str) -> None:
        """A client has gone; its connection may stay a little, for another one."""
        connection = self._clients.pop(client, None)
        if connection is not None:
            self._close_if_idle_later(connection)

    def knows_connection(self, scope: Scope) -> bool:
        """Whether a request or WebSocket belongs to a client."""
        return any(connection in self._clients.values() for connection in (_session_of(scope), scope.get(_CONNECTION)))

    async def _open(self, connection: str, environ: Mapping[str, Any]) -> Any:
        if len(self._server.environ) >= self._max_clients + _SPARE:
            await self._close_oldest_stranger()
        self._close_if_idle_later(connection)
        return await self._opened(connection, environ)

    def _close_if_idle_later(self, connection: str) -> None:
        asyncio.get_running_loop().call_later(self._seconds, self._close_if_idle, connection)

    def _close_if_idle(self, connection: str) -> None:
        if connection not in self._clients.values():
            task = asyncio.create_task(self._close(connection))
            self._closing.add(task)
            task.add_done_callback(self._closing.discard)

    async def _close_oldest_stranger(self) -> None:
        """Make room: nobody shall keep clients out by opening connections."""
        clients = set(self._clients.values())
        oldest = next((connection for connection in self._server.environ if connection not in clients), None)
        if oldest is not None:
            await self._close(oldest)

    async def _close(self, connection: str) -> None:
        session = self._server.eio.sockets.get(connection)
        if session is not None:
            await session.close(wait=False, abort=True)
            session.queue.put_nowait(None)  # ends its poll, or its WebSocket, which would wait for a ping else
            self._server.eio.sockets.pop(connection, None)


class HandshakeMiddleware:
    """ASGI app before that of Socket.IO: who is no client sends small messages only, and does not stay.

    :param seconds: that a WebSocket may be open without being a client's; 5 at most.
    """

    def __init__(self, app: ASGIApp, guard: ConnectionGuard, *, seconds: float) -> None:
        self._app = app
        self._guard = guard
        self._seconds = min(seconds, _STRANGER_SECONDS)
        self._posting: set[str] = set()

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope['type'] == 'websocket':
            await self._app(scope, lambda: self._next_message(scope, receive), send)
        elif scope['type'] == 'http' and scope['method'] == 'POST':
            await self._post(scope, receive, send)
        else:
            await self._app(scope, receive, send)

    async def _post(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Messages of a client that polls; Engine.IO has it send one request at a time."""
        declared = dict(scope['headers']).get(b'content-length', b'')
        is_small = declared.isdigit() and int(declared) <= _MAX_STRANGER_BYTES
        if not is_small and self._is_stranger(scope):
            error = RequestTooLarge(f'show the token before you send more than {_MAX_STRANGER_BYTES} bytes')
            await answer(error, Connection='close')(scope, receive, send)
            return
        session = _session_of(scope)
        if session != '' and session in self._posting:
            again = InvalidRequest('this connection is sending messages already: one request after the other')
            await answer(again, Connection='close')(scope, receive, send)
            return
        self._posting.add(session)
        try:
            await self._app(scope, _in_two_parts(receive), send)
        finally:
            self._posting.discard(session)

    async def _next_message(self, scope: Scope, receive: Receive) -> Message:
        """The next message; the end of the connection instead if it is a stranger's, and large or late."""
        while True:
            try:
                async with asyncio.timeout(self._seconds):
                    message = await receive()
            except TimeoutError:
                if not self._guard.knows_connection(scope):
                    return {'type': 'websocket.disconnect', 'code': 1008}
                continue
            content = message.get('bytes') or message.get('text') or b''
            if len(content) > _MAX_STRANGER_BYTES and self._is_stranger(scope):
                return {'type': 'websocket.disconnect', 'code': 1009}
            return message

    def _is_stranger(self, scope: Scope) -> bool:
        return not scope[AUTHORIZED] and not self._guard.knows_connection(scope)


def _session_of(scope: Scope) -> str:
    """What a poll says that its connection is; empty if nothing."""
    query: bytes = scope['query_string']
    return parse_qs(query.decode('latin-1')).get('sid', [''])[0]


def _in_two_parts(receive: Receive) -> Receive:
    """The body of a request as its first part and the rest: Engine.IO copies all that it has for each further part."""
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
