"""Middleware of the mock: records requests and produces the faults that do not belong to one route."""

import asyncio
import re
import socket
import struct
from collections.abc import Awaitable, Callable, MutableMapping
from contextlib import suppress
from datetime import UTC, datetime
from http import HTTPStatus
from typing import Any, Final

from starlette.datastructures import Headers
from starlette.responses import HTMLResponse, JSONResponse, Response
from uvicorn.protocols.http.httptools_impl import HttpToolsProtocol

from .faults import Fault
from .state import Loop

Message = MutableMapping[str, Any]
Scope = MutableMapping[str, Any]
Receive = Callable[[], Awaitable[Message]]
Send = Callable[[Message], Awaitable[None]]
App = Callable[[Scope, Receive, Send], Awaitable[None]]

HTML_PAGE: Final = '<!DOCTYPE html><html><head><title>Welcome</title></head><body><h1>Please log in</h1></body></html>'

_ENDPOINTS: Final = tuple(
    (name, method, re.compile(path))
    for name, method, path in (
        ('login', 'POST', r'/api/login'),
        ('status', 'GET', r'/api/status'),
        ('detectors', 'POST', r'/api/[^/]+/projects/[^/]+/detectors'),
        ('target', 'GET', r'/api/[^/]+/projects/[^/]+/deployment/target'),
        ('models', 'GET', r'/api/[^/]+/projects/[^/]+/models'),
        ('model_file', 'GET', r'/api/[^/]+/projects/[^/]+/models/[^/]+/[^/]+/file'),
        ('images', 'POST', r'/api/[^/]+/projects/[^/]+/images'),
    )
)
_ABORT: Final = 'mock.abort'
_TICKS_PER_SECOND: Final = 20


def endpoint_of(method: str, path: str) -> str | None:
    """Return the name that faults use for the endpoint of a request; None for other paths."""
    for name, its_method, pattern in _ENDPOINTS:
        if method == its_method and pattern.fullmatch(path):
            return name
    return None


class AbortableProtocol(HttpToolsProtocol):
    """uvicorn's HTTP protocol, with a function in the scope that resets the TCP connection."""

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
        super().connection_made(transport)
        app = self.app

        def abort() -> None:
            # With a linger time of 0 the kernel sends RST instead of FIN, like an interruption.
            with suppress(OSError, ValueError):  # the client may have closed the connection
                connection = transport.get_extra_info('socket')
                connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack('ii', 1, 0))
            transport.abort()

        async def with_abort(scope: Any, receive: Any, send: Any) -> None:
            scope[_ABORT] = abort
            await app(scope, receive, send)

        self.app = with_abort


class LoopMiddleware:
    """Records requests to /api and applies the faults that are due."""

    def __init__(self, app: App, loop: Loop) -> None:
        self._app = app
        self._loop = loop

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope['type'] != 'http' or not scope['path'].startswith('/api/'):
            await self._app(scope, receive, send)
            return
        headers = Headers(scope=scope)
        endpoint = endpoint_of(scope['method'], scope['path'])
        entry = self._loop.requests.add(
            time=datetime.now(UTC).isoformat(timespec='milliseconds'),
            endpoint=endpoint,
            method=scope['method'],
            path=scope['path'],
            range=headers.get('range'),
            status=None,
        )

        async def noting(message: Message) -> None:
            if message['type'] == 'http.response.start':
                entry['status'] = message['status']
            await send(message)

        await self._with_faults(endpoint, scope, receive, noting)

    async def _with_faults(self, endpoint: str | None, scope: Scope, receive: Receive, send: Send) -> None:
        faults = self._loop.faults
        delay = faults.take(endpoint, 'delay')
        if delay and delay.at is None:
            await asyncio.sleep(delay.seconds)
        if fault := faults.take(endpoint, 'status'):
            await _answer(_refusal(fault.status), scope, receive, send)
            return
        if faults.take(endpoint, 'html'):
            await _answer(HTMLResponse(HTML_PAGE), scope, receive, send)
            return
        drop = faults.take(endpoint, 'drop')
        if drop and _has_body(scope):
            await _read(scope, receive, drop.part)
            await _abort(scope, receive)
            return
        body = _Body(scope, receive, send)
        body.delay = delay if delay and delay.at is not None else None
        body.drop = drop
        body.lose = faults.take(endpoint, 'lose_response') is not None
        throttle = faults.take(endpoint, 'throttle')
        body.bytes_per_second = throttle.bytes_per_second if throttle else None
        await self._app(scope, receive, body.send)


class _Body:
    """Forwards a response and applies the faults that happen during its body."""

    def __init__(self, scope: Scope, receive: Receive, send: Send) -> None:
        self._scope, self._receive, self._send = scope, receive, send
        self._length = 0
        self._sent = 0
        self._ended = False
        self.delay: Fault | None = None
        self.drop: Fault | None = None
        self.lose = False
        self.bytes_per_second: int | None = None

    async def send(self, message: Message) -> None:
        if self._ended:
            return
        if message['type'] != 'http.response.body':
            if self.lose:
                await self._abort()
                return
            self._length = int(Headers(raw=message['headers']).get('content-length', 0))
            await self._send(message)
            return
        content = message.get('body', b'')
        while content and not self._ended:
            step = min(len(content), self._next_stop())
            if step:
                await self._send({'type': 'http.response.body', 'body': content[:step], 'more_body': True})
            content, self._sent = content[step:], self._sent + step
            await self._reached()
        if not self._ended and not message.get('more_body', False):
            await self._send({'type': 'http.response.body', 'body': b'', 'more_body': False})

    def _next_stop(self) -> int:
        """Return the number of bytes until the next fault or pause."""
        stops = [int(self._length * fault.part) - self._sent for fault in (self.delay, self.drop) if fault]
        if self.bytes_per_second:
            stops.append(max(1, self.bytes_per_second // _TICKS_PER_SECOND))
        return max(0, min(stops)) if stops else self._length + 1

    async def _reached(self) -> None:
        if self.delay and self._sent >= int(self._length * self.delay.part):
            seconds, self.delay = self.delay.seconds, None
            await asyncio.sleep(seconds)
        if self.drop and self._sent >= int(self._length * self.drop.part):
            await asyncio.sleep(0.05)  # the client reads what was sent before the reset
            await self._abort()
        if self.bytes_per_second and not self._ended:
            await asyncio.sleep(1 / _TICKS_PER_SECOND)

    async def _abort(self) -> None:
        self._ended = True
        await _abort(self._scope, self._receive)


async def _answer(response: Response, scope: Scope, receive: Receive, send: Send) -> None:
    await _read(scope, receive, 1.0)
    await response(scope, receive, send)


def _refusal(status: int) -> Response:
    if status in {HTTPStatus.NO_CONTENT, HTTPStatus.RESET_CONTENT, HTTPStatus.NOT_MODIFIED}:
        return Response(status_code=status)
    return JSONResponse({'detail': f'status {status}, as ordered by a fault'}, status_code=status)


def _has_body(scope: Scope) -> bool:
    headers = Headers(scope=scope)
    return int(headers.get('content-length', 0)) > 0 or 'transfer-encoding' in headers


async def _read(scope: Scope, receive: Receive, part: float) -> None:
    """Read a share of a request's body, 0..1."""
    length = int(Headers(scope=scope).get('content-length', 0))
    read = 0
    while part > 0:
        message = await receive()
        read += len(message.get('body', b''))
        if message['type'] == 'http.disconnect' or not message.get('more_body', False):
            return
        if length and part < 1 and read >= length * part:
            return


async def _abort(scope: Scope, receive: Receive) -> None:
    """Reset the connection, and wait until uvicorn has noticed."""
    abort = scope.get(_ABORT)
    if abort is None:
        raise ConnectionAbortedError('served without AbortableProtocol: the connection cannot be reset')
    abort()
    while (await receive())['type'] != 'http.disconnect':
        pass
