"""Observation: every request is counted, timed and gets an id; `GET /metrics` tells what the node is like now."""

import asyncio
import logging
import re
import time
from collections.abc import Awaitable, Callable, Iterable, Mapping, Sequence
from http import HTTPStatus
from typing import Any, Final

from fastapi import APIRouter, FastAPI, Request
from fastapi.responses import PlainTextResponse, Response
from fastapi.routing import iter_route_contexts
from prometheus_client import CollectorRegistry, Metric, generate_latest
from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, InfoMetricFamily
from prometheus_client.exposition import CONTENT_TYPE_PLAIN_0_0_4, choose_encoder
from prometheus_client.registry import Collector
from starlette.routing import Mount, compile_path
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from detector.api.route_policy import policy_of
from detector.errors import ModelUnavailable, WholebodyError
from detector.observability import request_context
from detector.observability.logs import OnceASecond
from detector.observability.metrics import CLIENT_GONE, Metrics, status_of
from detector.outbox.outbox import Outbox
from detector.serving.admission import Admission
from detector.serving.model_serving import ModelServing

log = logging.getLogger('wholebody.requests')

HEADER: Final = b'x-request-id'
OTHER: Final = 'other'
"""Label of whatever is no known route or event, so that callers cannot make labels."""
LAG_SECONDS: Final = 0.5
"""Between two looks at the event loop."""


def create_router(registry: CollectorRegistry) -> APIRouter:
    """Return the route `/metrics`."""
    router = APIRouter()

    @router.get(
        '/metrics',
        tags=['operation'],
        response_class=PlainTextResponse,
        responses={200: {'content': {'application/openmetrics-text': {}}}},
    )
    async def metrics(request: Request) -> Response:
        """The metrics, in Prometheus' text format, or in OpenMetrics if the caller accepts that."""
        text, content_type = await asyncio.to_thread(_exposition, registry, request.headers.get('Accept', ''))
        return Response(text, headers={'Content-Type': content_type})

    return router


def _exposition(registry: CollectorRegistry, accept: str) -> tuple[bytes, str]:
    """:return: the metrics, and their content type."""
    try:
        encode, content_type = choose_encoder(accept)
        return encode(registry), content_type
    except (TypeError, ValueError):  # a version that is none, which the library trips over
        return generate_latest(registry), CONTENT_TYPE_PLAIN_0_0_4


# ---------------------------------------------------------------- requests


class ObservedRequests:
    """ASGI middleware around all others: counts and times requests, and gives each an id.

    The id of the caller's header X-Request-ID, or a fresh one, is in the answer's header and in every line of the log.
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
                end()  # before the last byte goes out: who has the answer finds it counted
            await send(message)

        try:
            await self._app(scope, receive, observing)
        except Exception as error:
            status = HTTPStatus.INTERNAL_SERVER_ERROR
            if not ended:
                raise
            # the caller has the answer: the server need not hear of it, and cut the connection
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
        return 'the caller has gone'
    try:
        return HTTPStatus(status).phrase
    except ValueError:
        return 'no reason is given'


class RouteLabels:
    """The template of the route that a path belongs to, e.g. `/outbox/{name}/image`."""

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


# ---------------------------------------------------------------- events

Answer = dict[str, Any]
EventHandler = Callable[..., Awaitable[Answer]]
"""Takes the id of the connection and the payloads."""


def observed_event(metrics: Metrics, name: str | None, handler: EventHandler) -> EventHandler:
    """Count and time an event; a `request_id` in its payload is in the answer too, and in every line of the log.

    :param name: None for whatever is no known event.
    :param handler: notes errors that it answers (`request_context.note_error`).
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
    """Count an event that reaches no handler, and answer it.

    :param name: of the event; None if it is none of the known ones.
    """
    context = request_context.begin()
    context.error = error
    metrics.request_ended(_route_of(name), context, status=status_of(error), seconds=0.0)
    return {'error': str(error)}


def _route_of(event: str | None) -> str:
    return OTHER if event is None else f'sio:{event}'


# ---------------------------------------------------------------- the event loop


class EventLoopLag:
    """Measures how late the event loop is with what is due."""

    def __init__(self, metrics: Metrics) -> None:
        self._metrics = metrics
        self._task: asyncio.Task[None] | None = None

    def start(self) -> None:
        if self._task is None:
            self._task = asyncio.create_task(self._measure(), name='event loop lag')

    def stop(self) -> None:
        if self._task is not None:
            self._task.cancel()
            self._task = None

    async def _measure(self) -> None:
        while True:
            due = time.perf_counter() + LAG_SECONDS
            await asyncio.sleep(LAG_SECONDS)
            self._metrics.lagged(max(0.0, time.perf_counter() - due))


# ---------------------------------------------------------------- the state at a scrape


class NodeState(Collector):
    """Metrics that are read from the parts of the node at a scrape, rather than counted as things happen.

    :param corrections: returns the counters of the corrections, or None.
    :param clients: returns the number of Socket.IO clients.
    """

    def __init__(
        self,
        *,
        serving: ModelServing,
        outbox: Outbox,
        admission: Admission,
        corrections: Callable[[], dict[str, Any] | None],
        clients: Callable[[], int],
    ) -> None:
        self._serving = serving
        self._outbox_state = outbox
        self._admission = admission
        self._corrections_state = corrections
        self._clients = clients

    def describe(self) -> Iterable[Metric]:
        """None in advance, since the node is not complete when this is registered."""
        return ()

    def collect(self) -> Iterable[Metric]:
        yield from self._model()
        yield from self._outbox()
        yield from self._corrections()
        clients = self._clients()
        yield GaugeMetricFamily('wholebody_connected_clients', 'Socket.IO clients that are connected', value=clients)
        present = self._admission.present
        yield GaugeMetricFamily('wholebody_requests_present', 'Requests that wait or are at their turn', value=present)

    def _model(self) -> Iterable[Metric]:
        info = InfoMetricFamily('wholebody_model', 'The model that serves')
        try:
            model = self._serving.active()
        except ModelUnavailable:
            yield GaugeMetricFamily('wholebody_ready', 'Whether a model serves', value=0)
        else:
            package = model.package
            info.add_metric([], {'name': package.name, 'version': package.version, 'runtime': model.engine.runtime})
            yield GaugeMetricFamily('wholebody_ready', 'Whether a model serves', value=1)
        yield info

    def _outbox(self) -> Iterable[Metric]:
        about = self._outbox_state.about()
        waiting, high = about.get('waiting', 0), about.get('waiting_priority', 0)
        images = GaugeMetricFamily(
            'wholebody_outbox_images', 'Images that wait for the Learning Loop', labels=['priority']
        )
        images.add_metric(['high'], high)
        images.add_metric(['normal'], waiting - high)
        yield images
        yield GaugeMetricFamily('wholebody_outbox_bytes', 'Bytes of the images that wait', value=about.get('bytes', 0))
        for name, (counter, documentation) in _OUTBOX_COUNTERS.items():
            yield CounterMetricFamily(f'wholebody_outbox_{name}', documentation, value=about.get(counter, 0))

    def _corrections(self) -> Iterable[Metric]:
        try:
            about = self._corrections_state() or {}
        except OSError:  # the disk of the queue; the rest is wanted all the more
            return
        waiting = about.get('waiting', 0)
        yield GaugeMetricFamily('wholebody_corrections_waiting', 'Annotations that are to be looked at', value=waiting)
        for name in ('sent', 'given_up'):
            documentation = f'Annotations that were {name.replace("_", " ")}, since the data folder was made'
            yield CounterMetricFamily(f'wholebody_corrections_{name}', documentation, value=about.get(name, 0))


_OUTBOX_COUNTERS: Final = {
    'found': ('found', 'Images that lay in the outbox at the start'),
    'saved': ('saved', 'Images that were accepted'),
    'sent': ('uploaded', 'Images that the Learning Loop has taken'),
    'failed': ('failed', 'Images that could not be stored'),
    'dropped': ('dropped', 'Images of normal priority that were dropped to hold the limits'),
    'quarantined': ('set_aside', 'Images that the Learning Loop refuses, or that are incomplete, set aside'),
    'vanished': ('vanished', 'Images that somebody else has removed'),
}
"""Metric name: key in the outbox's `about`, and meaning."""
