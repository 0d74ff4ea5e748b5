"""Counts and times requests and events, and gives each an id."""

import logging
import re
import time
from collections.abc import Awaitable, Callable, Mapping, Sequence
from http import HTTPStatus
from typing import Any, Final

from fastapi import FastAPI
from fastapi.routing import iter_route_contexts
from starlette.routing import Mount, compile_path
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from detector.api.route_policy import policy_of
from detector.errors import WholebodyError
from detector.observability import request_context
from detector.observability.logs import OnceASecond
from detector.observability.metrics import CLIENT_GONE, Metrics, status_of

log = logging.getLogger('wholebody.requests')

HEADER: Final = b'x-request-id'
OTHER: Final = 'other'
"""Label of all unknown routes and events, so that clients cannot create labels."""


class ObservedRequests:
    """ASGI middleware around all others that counts and times requests, and gives each an id.

    The id comes from the header X-Request-ID of the request, or is new. The answer's header and all log lines of the
    request contain it.

    :param owner: app whose routes become labels.
    """

    def __init__(self, app: ASGIApp, owner: FastAPI, metrics: Metrics) -> None:
        self._app = app
        self._owner = owner
        self._metrics = metrics
        self._labels: RouteLabels | None = None
        self._logged = OnceASecond()

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope['type'] != 'http':
            request_context.leave()
            await self._app(scope, receive, send)
            return
        arrival = time.perf_counter()
        if self._labels is None:
            self._labels = RouteLabels(self._owner)
        route = self._labels.of(scope['path'])
        wanted = next((value for name, value in scope['headers'] if name == HEADER), None)
        context = request_context.begin(None if wanted is None else wanted.decode('latin-1'))
        given = context.request_id.encode()
        status: int | None = None
        ended = False

        def end() -> None:
            nonlocal ended
            if not ended:
                ended = True
                self._end(scope['method'], route, context, CLIENT_GONE if status is None else status, arrival)

        async def observing(message: Message) -> None:
            nonlocal status
            if message['type'] == 'http.response.start':
                status = message['status']
                message = {**message, 'headers': [*message.get('headers', ()), (HEADER, given)]}
            elif message['type'] == 'http.response.body' and not message.get('more_body', False):
                end()  # before the last byte: a client that has the answer finds it counted
            await send(message)

        try:
            await self._app(scope, receive, observing)
        except Exception as error:
            status = HTTPStatus.INTERNAL_SERVER_ERROR
            if not ended:
                raise
            # the client has the whole answer, so do not let the server break the connection
            log.error('%s %s fails inside the node', scope['method'], route, exc_info=error)
        finally:
            end()

    def _end(
        self, method: str, route: str, context: request_context.RequestContext, status: int, arrival: float
    ) -> None:
        now = time.perf_counter()
        outcome = self._metrics.request_ended(route, context, status=status, seconds=now - arrival)
        if outcome == 'ok' or policy_of(route).is_probe:
            log.debug('%s %s is answered with %d in %.3f s', method, route, status, now - arrival)
        elif self._logged.due(route):
            level = logging.WARNING if status >= HTTPStatus.INTERNAL_SERVER_ERROR else logging.INFO
            log.log(level, '%s %s is answered with %d: %s', method, route, status, context.error or _phrase(status))


def _phrase(status: int) -> str:
    if status == CLIENT_GONE:
        return 'the client disconnected'
    try:
        return HTTPStatus(status).phrase
    except ValueError:
        return 'no reason given'


class RouteLabels:
    """Maps a path to the template of its route, e.g. `/outbox/{name}/image`."""

    def __init__(self, app: FastAPI) -> None:
        self._fixed: set[str] = set()
        self._patterns: list[tuple[re.Pattern[str], str]] = []
        for route in iter_route_contexts(app.routes):
            path = route.path
            if not path:
                continue
            if isinstance(route.original_route, Mount):
                self._patterns.append((compile_path(f'{path}/{{path:path}}')[0], path))
            elif '{' in path:
                self._patterns.append((compile_path(path)[0], path))
            self._fixed.add(path)

    def of(self, path: str) -> str:
        if path in self._fixed:
            return path
        return next((label for pattern, label in self._patterns if pattern.match(path)), OTHER)


Answer = dict[str, Any]
EventHandler = Callable[..., Awaitable[Answer]]
"""Takes the id of the client and the payloads of the event."""


def observed_event(metrics: Metrics, name: str | None, handler: EventHandler) -> EventHandler:
    """Return a handler that counts and times an event.

    A `request_id` in the payload becomes part of the answer and of all log lines.

    :param name: name of the event; None for an unknown one.
    :param handler: records the errors that it answers with `request_context.note_error`.
    """
    route = _route_of(name)

    async def answer(*arguments: Any) -> Answer:
        arrival = time.perf_counter()
        wanted = _wanted_id(arguments)
        context = request_context.begin(wanted)
        found = await handler(*arguments)
        metrics.request_ended(route, context, status=status_of(context.error), seconds=time.perf_counter() - arrival)
        return found if wanted is None else found | {'request_id': context.request_id}

    return answer


def _wanted_id(arguments: Sequence[Any]) -> object:
    payload = arguments[-1] if arguments else None
    return payload.get('request_id') if isinstance(payload, Mapping) else None


def refused_event(metrics: Metrics, error: WholebodyError, name: str | None = None) -> Answer:
    """Count an event that reaches no handler, and return the answer.

    :param name: name of the event; None for an unknown one.
    """
    context = request_context.begin()
    context.error = error
    metrics.request_ended(_route_of(name), context, status=status_of(error), seconds=0.0)
    return {'error': str(error)}


def _route_of(event: str | None) -> str:
    return OTHER if event is None else f'sio:{event}'
