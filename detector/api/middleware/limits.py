"""Bounds on what a request may carry, how long it may take to come, and how many there may be, held before any of it
is read.
"""

import asyncio
import logging
from contextlib import suppress
from typing import Final

from starlette.types import ASGIApp, Message, Receive, Scope, Send

from detector.api.error_answers import answer
from detector.api.in_flight import Claim, InFlight
from detector.errors import Busy, InvalidRequest, RequestTooLarge, RequestTooSlow, WholebodyError
from detector.observability.logs import OnceASecond
from detector.serving.admission import Admission
from detector.settings import Settings

from .access import LOGIN_PATHS
from .drain import POLLING

log = logging.getLogger('wholebody.limits')

MIB: Final = 1024**2
MAX_COMMAND_BYTES: Final = 1024
"""Of a PUT: a word or a version."""
_MAX_LOGIN_BYTES: Final = 8 * 1024
"""Of what the login page sends; whoever sends it is not known yet."""
_LOGIN_SECONDS: Final = 5.0
"""That it may take; the form is small."""
_LABEL_STUDIO_PATHS: Final = ('/predict', '/webhook')
_LABEL_STUDIO_SHARE: Final = 2
"""Its requests hold hundreds of tasks with all their annotations and predictions: so many times MAX_BODY_MIB."""
_ENGINE_PATHS: Final = ('/detect', '/poses')
"""Whose requests are refused while the engine's queue is full, rather than parsed first."""
_UNCOUNTED: Final = frozenset({'/health', '/ready', '/metrics', '/about'}) | LOGIN_PATHS
"""Probes: a node that is busy must not look dead. And what strangers may send: they shall take nobody's place."""
_RETRY_SECONDS: Final = 1
_LINGER_SECONDS: Final = 5.0
"""That the rest of a refused body may take to pass."""


class RequestLimits:
    """ASGI middleware: refuses requests that are too many, too large or too slow, and commands that are no text.

    The body of a command (PUT) is read here, since upstream's handlers would decode whatever comes.

    :param admission: of the engine.
    :param in_flight: what all requests and events hold.
    """

    def __init__(self, app: ASGIApp, *, settings: Settings, admission: Admission, in_flight: InFlight) -> None:
        self._app = app
        self._settings = settings
        self._admission = admission
        self._in_flight = in_flight
        self._present = 0
        self._logged = OnceASecond()

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope['type'] != 'http':
            await self._app(scope, receive, send)
        elif scope['path'] in _UNCOUNTED or POLLING in scope['path']:  # MAX_CLIENTS bounds those
            await self._bounded(scope, receive, send)
        elif self._present >= self._settings.max_requests:
            await answer(self._too_many())(scope, receive, send)
        else:
            self._present += 1
            try:
                await self._bounded(scope, receive, send)
            finally:
                self._present -= 1

    def _too_many(self) -> Busy:
        if self._logged.due():
            log.warning('a request is refused: MAX_REQUESTS=%d are under way', self._settings.max_requests)
        return Busy(
            f'{self._present} requests are under way, as many as may be (MAX_REQUESTS); try again later',
            retry_after=_RETRY_SECONDS,
        )

    async def _bounded(self, scope: Scope, receive: Receive, send: Send) -> None:
        limit = self._limit(scope)
        claim = Claim(self._in_flight)
        declared = dict(scope['headers']).get(b'content-length', b'0')
        size = int(declared) if declared.isdigit() else 0
        if size > limit:
            await _refuse(_too_large(limit), scope, receive, send)
            return
        if not claim.has_room(size):
            await answer(claim.refusal())(scope, receive, send)  # uvicorn lets the body pass unread
            return
        if scope['method'] == 'POST' and scope['path'] in _ENGINE_PATHS:
            try:
                self._admission.check()
            except Busy as error:
                await answer(error)(scope, receive, send)
                return
        seconds = self._settings.body_seconds
        if scope['path'] in LOGIN_PATHS:
            seconds = min(seconds, _LOGIN_SECONDS)
        body = _Body(receive, limit=limit, seconds=seconds, claim=claim)
        try:
            if scope['method'] == 'PUT':
                await self._command(body, scope, receive, send)
            else:
                await self._watched(body, scope, receive, send)
        finally:
            claim.release()

    def _limit(self, scope: Scope) -> int:
        limit = self._settings.max_body_mib * MIB
        if scope['method'] == 'PUT':
            return MAX_COMMAND_BYTES
        if scope['path'] in LOGIN_PATHS:
            return _MAX_LOGIN_BYTES
        return _LABEL_STUDIO_SHARE * limit if scope['path'] in _LABEL_STUDIO_PATHS else limit

    async def _command(self, body: '_Body', scope: Scope, receive: Receive, send: Send) -> None:
        content = b''
        more = True
        while more:
            message = await body.receive()
            if body.fault is not None:
                await _refuse(body.fault, scope, receive, send)
                return
            if message['type'] != 'http.request':
                return
            content += message.get('body', b'')
            more = message.get('more_body', False)
        try:
            content.decode()
        except UnicodeDecodeError:
            await _refuse(InvalidRequest('the body is not UTF-8 text'), scope, receive, send)
            return
        messages: list[Message] = [{'type': 'http.request', 'body': content, 'more_body': False}]

        async def replay() -> Message:
            return messages.pop() if messages else await receive()

        await self._app(scope, replay, send)

    async def _watched(self, body: '_Body', scope: Scope, receive: Receive, send: Send) -> None:
        """Pass the body on; to the app, one at fault ends like a connection that breaks."""
        started = False

        async def watching(message: Message) -> None:
            nonlocal started
            if body.fault is None or started:
                started = True
                await send(message)

        try:
            await self._app(scope, body.receive, watching)
        except Exception:
            if body.fault is None:
                raise
        if body.fault is not None and not started:
            await _refuse(body.fault, scope, receive, send)


class _Body:
    """A body on its way, until there is a `fault` with it.

    :param limit: bytes that it may have; its size need not have been declared.
    :param seconds: from now on, in which it must have come.
    :param claim: counts its bytes.
    """

    def __init__(self, receive: Receive, *, limit: int, seconds: float, claim: Claim) -> None:
        self.fault: WholebodyError | None = None
        self._receive = receive
        self._limit = limit
        self._claim = claim
        self._seconds = seconds
        self._deadline = asyncio.get_running_loop().time() + seconds
        self._complete = False

    async def receive(self) -> Message:
        if self._complete:
            return await self._receive()
        if self.fault is not None:
            return {'type': 'http.disconnect'}
        try:
            async with asyncio.timeout_at(self._deadline):
                message = await self._receive()
        except TimeoutError:
            self.fault = RequestTooSlow(f'the body did not come within {self._seconds:g} seconds (BODY_SECONDS)')
            return {'type': 'http.disconnect'}
        self._complete = not message.get('more_body', False)
        size = len(message.get('body', b''))
        if self._claim.held + size > self._limit:
            self.fault = _too_large(self._limit)
        elif not self._claim.has_room(size):
            self.fault = self._claim.refusal()
        if self.fault is not None:
            return {'type': 'http.disconnect'}
        self._claim.add(size)
        return message


def _too_large(limit: int) -> RequestTooLarge:
    return RequestTooLarge(f'the body has more than the limit of {limit} bytes')


async def _refuse(error: WholebodyError, scope: Scope, receive: Receive, send: Send) -> None:
    """Answer, let pass for a while what still comes, and close the connection.

    One that is closed with data unread is reset, and the answer may be lost on its way, above all through a proxy.
    """

    async def lingering(message: Message) -> None:
        if message['type'] == 'http.response.body':
            await send({**message, 'more_body': True})
            if not isinstance(error, RequestTooSlow):
                await _let_pass(receive)
            message = {'type': 'http.response.body', 'body': b''}
        await send(message)

    await answer(error, Connection='close')(scope, receive, lingering)


async def _let_pass(receive: Receive) -> None:
    with suppress(TimeoutError):
        async with asyncio.timeout(_LINGER_SECONDS):
            while (await receive()).get('more_body', False):
                pass
