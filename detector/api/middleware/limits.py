"""Limits on the number, size and duration of requests; they are checked before a body is read."""

import asyncio
import logging
import math
from contextlib import suppress
from typing import Final

from starlette.types import ASGIApp, Message, Receive, Scope, Send

from detector.api.error_answers import answer
from detector.api.in_flight import Claim, InFlight
from detector.api.route_policy import MAX_COMMAND_BYTES, RoutePolicy, policy_of
from detector.errors import Busy, InvalidRequest, RequestTooLarge, RequestTooSlow, WholebodyError
from detector.observability.logs import OnceASecond
from detector.serving.admission import Admission
from detector.settings import Settings

log = logging.getLogger('wholebody.limits')

MIB: Final = 1024**2
_RETRY_SECONDS: Final = 1
_LINGER_SECONDS: Final = 5.0
"""How long to keep reading a refused body before closing the connection, in seconds."""


class RequestLimits:
    """ASGI middleware that refuses requests beyond the limits, and commands that are not text.

    It reads the body of a command (PUT) itself, because upstream's handlers decode any bytes without a check.

    :param admission: queue of the engine.
    :param in_flight: bytes held by all requests and events.
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
            return
        policy = policy_of(scope['path'])
        if not policy.counted:
            await self._bounded(policy, scope, receive, send)
        elif self._present >= self._settings.max_requests:
            await answer(self._too_many())(scope, receive, send)
        else:
            await self._counted(policy, scope, receive, send)

    async def _counted(self, policy: RoutePolicy, scope: Scope, receive: Receive, send: Send) -> None:
        """Count the request until its answer begins: a client that does not read it must not keep a place."""
        self._present += 1
        counted = True

        def leave() -> None:
            nonlocal counted
            self._present -= counted
            counted = False

        async def leaving(message: Message) -> None:
            leave()
            await send(message)

        try:
            await self._bounded(policy, scope, receive, leaving)
        finally:
            leave()

    def _too_many(self) -> Busy:
        if self._logged.due():
            log.warning('a request is refused: MAX_REQUESTS=%d are in progress', self._settings.max_requests)
        return Busy(
            f'{self._present} requests are in progress, the maximum (MAX_REQUESTS); try again later',
            retry_after=_RETRY_SECONDS,
        )

    async def _bounded(self, policy: RoutePolicy, scope: Scope, receive: Receive, send: Send) -> None:
        limit = self._limit(policy, scope['method'])
        claim = Claim(self._in_flight)
        declared = dict(scope['headers']).get(b'content-length', b'0')
        size = int(declared) if declared.isdigit() else 0
        if size > limit:
            await _refuse(_too_large(limit), scope, receive, send)
            return
        if not claim.has_room(size):
            await answer(claim.refusal())(scope, receive, send)  # uvicorn discards the body
            return
        if policy.needs_engine and scope['method'] == 'POST':
            try:
                self._admission.check()
            except Busy as error:
                await answer(error)(scope, receive, send)
                return
        seconds = min(self._settings.body_seconds, policy.max_body_seconds or math.inf)
        body = _Body(receive, limit=limit, seconds=seconds, claim=claim)
        try:
            if scope['method'] == 'PUT':
                await self._command(body, scope, receive, send)
            else:
                await self._watched(body, scope, receive, send)
        finally:
            claim.release()

    def _limit(self, policy: RoutePolicy, method: str) -> int:
        """Return the size limit of the body in bytes."""
        if method == 'PUT':
            return MAX_COMMAND_BYTES
        return policy.max_body_bytes or policy.body_factor * self._settings.max_body_mib * MIB

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
        """Pass the body to the app. A body beyond the limits looks to the app like a broken connection."""
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
    """A body that is being received; `fault` is set when it exceeds a limit.

    :param limit: size limit in bytes; it applies to bodies of undeclared size too.
    :param seconds: time limit for receiving the body, counted from now.
    :param claim: counts the received bytes.
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
            self.fault = RequestTooSlow(f'the body did not arrive within {self._seconds:g} seconds (BODY_SECONDS)')
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
    """Answer, discard the rest of the body for up to `_LINGER_SECONDS`, and close the connection.

    A connection that is closed with unread data is reset, and the answer may be lost, in particular behind a proxy.
    """

    async def lingering(message: Message) -> None:
        if message['type'] == 'http.response.body':
            await send({**message, 'more_body': True})
            if not isinstance(error, RequestTooSlow):
                await _discard_body(receive)
            message = {'type': 'http.response.body', 'body': b''}
        await send(message)

    await answer(error, Connection='close')(scope, receive, lingering)


async def _discard_body(receive: Receive) -> None:
    with suppress(TimeoutError):
        async with asyncio.timeout(_LINGER_SECONDS):
            while (await receive()).get('more_body', False):
                pass
