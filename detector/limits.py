"""Bounds on what a request may carry, held before anything reads it."""

from typing import Any, Final

from starlette.responses import JSONResponse
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from .images import MAX_BYTES

MAX_BODY_BYTES: Final = MAX_BYTES + 1024**2
"""Of a request: an image of the largest size and the form around it."""
MAX_LABEL_STUDIO_BYTES: Final = 256 * 1024**2
"""Of Label Studio's requests, which hold hundreds of tasks with all their annotations and predictions."""
_LABEL_STUDIO_PATHS: Final = ('/predict', '/webhook')
MAX_COMMAND_BYTES: Final = 1024
"""Of a PUT: a word or a version."""


class RequestLimits:
    """ASGI middleware: refuses bodies that are too large, and commands that are no text.

    The body of a command (PUT) is read here, since upstream's handlers would decode whatever comes.
    """

    def __init__(self, app: ASGIApp) -> None:
        self._app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope['type'] != 'http':
            await self._app(scope, receive, send)
            return
        limit = _limit(scope)
        declared = dict(scope['headers']).get(b'content-length', b'0')
        if declared.isdigit() and int(declared) > limit:
            await _refuse(413, _too_large(limit), scope, receive, send)
        elif scope['method'] == 'PUT':
            await self._command(scope, receive, send)
        else:
            await self._counted(scope, receive, send, limit)

    async def _command(self, scope: Scope, receive: Receive, send: Send) -> None:
        body = b''
        more = True
        while more:
            message = await receive()
            if message['type'] != 'http.request':
                return
            body += message.get('body', b'')
            more = message.get('more_body', False)
            if len(body) > MAX_COMMAND_BYTES:
                await _refuse(413, _too_large(MAX_COMMAND_BYTES), scope, receive, send)
                return
        try:
            body.decode()
        except UnicodeDecodeError:
            await _refuse(422, 'the body is not UTF-8 text', scope, receive, send)
            return
        messages: list[Message] = [{'type': 'http.request', 'body': body, 'more_body': False}]

        async def replay() -> Message:
            return messages.pop() if messages else await receive()

        await self._app(scope, replay, send)

    async def _counted(self, scope: Scope, receive: Receive, send: Send, limit: int) -> None:
        """Count a body whose size was not declared; one that grows too large ends like a connection that breaks."""
        seen = 0

        async def counting() -> Message:
            nonlocal seen
            message = await receive()
            seen += len(message.get('body', b''))
            if seen > limit:
                return {'type': 'http.disconnect'}
            return message

        started = False

        async def watching(message: Message) -> None:
            nonlocal started
            if seen <= limit or started:
                started = True
                await send(message)

        try:
            await self._app(scope, counting, watching)
        except Exception:
            if seen <= limit:
                raise
        if seen > limit and not started:
            await _refuse(413, _too_large(limit), scope, receive, send)


def _limit(scope: Scope) -> int:
    if scope['method'] == 'PUT':
        return MAX_COMMAND_BYTES
    return MAX_LABEL_STUDIO_BYTES if scope['path'] in _LABEL_STUDIO_PATHS else MAX_BODY_BYTES


def _too_large(limit: int) -> str:
    return f'the body has more than the limit of {limit} bytes'


async def _refuse(status: int, detail: str, scope: Scope, receive: Receive, send: Send) -> None:
    response: Any = JSONResponse({'detail': detail}, status_code=status, headers={'Connection': 'close'})
    await response(scope, receive, send)
