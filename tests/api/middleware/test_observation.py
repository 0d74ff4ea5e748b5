"""Requests and events are counted, timed and identified."""

import asyncio
import os
from pathlib import Path
from typing import Any
from unittest.mock import patch

import httpx
import pytest
from fastapi import FastAPI, HTTPException
from fastapi.responses import StreamingResponse
from starlette.types import Message, Receive, Scope, Send

from detector.api import error_answers
from detector.api.middleware.observation import (
    ObservedRequests,
    RouteLabels,
    observed_event,
    refused_event,
)
from detector.errors import Busy, InvalidRequest
from detector.observability import request_context
from detector.observability.metrics import Metrics
from detector.observability.request_context import note_error
from detector.settings import Settings
from tests.support.scrapes import Scrape


class Observed:
    """A small app behind the middleware."""

    def __init__(self) -> None:
        self.metrics = Metrics()
        self.app = FastAPI()
        error_answers.install(self.app)
        self.seen: list[str | None] = []

        @self.app.get('/good')
        async def good() -> str:
            self.seen.append(await asyncio.to_thread(request_context.request_id))
            return 'good'

        @self.app.get('/items/{name}/image')
        async def busy(name: str) -> None:
            raise Busy(f'no turn for {name}', retry_after=1, reason='replaced')

        @self.app.get('/teapot')
        async def teapot() -> None:
            raise HTTPException(418)

        @self.app.get('/bug')
        async def bug() -> None:
            raise ZeroDivisionError

        @self.app.get('/stream')
        async def stream() -> StreamingResponse:
            async def pieces() -> Any:
                yield b'a'
                yield b'b'

            return StreamingResponse(pieces())

        async def inner(scope: Scope, receive: Receive, send: Send) -> None:
            await send({'type': 'http.response.start', 'status': 204, 'headers': []})
            await send({'type': 'http.response.body'})

        self.app.mount('/ws', inner)
        self.observed = ObservedRequests(self.app, self.app, self.metrics)

    async def get(self, path: str, **headers: str) -> httpx.Response:
        transport = httpx.ASGITransport(self.observed)
        async with httpx.AsyncClient(transport=transport, base_url='http://node') as client:
            return await client.get(path, headers=headers)

    def counts(self) -> dict[tuple[str, ...], float]:
        return Scrape.of_registry(self.metrics.registry).by('wholebody_requests_total', 'route', 'outcome')


async def test_every_answer_carries_an_id() -> None:
    """Every answer, errors included, has the caller's id or a new one."""
    observed = Observed()
    for path in ('/good', '/items/a/image', '/teapot', '/bug', '/nowhere', '/stream', '/ws/socket.io/'):
        answer = await observed.get(path, **{'X-Request-ID': 'robot 7'})
        assert answer.headers.get_list('X-Request-ID') == ['robot 7'], path
    assert observed.seen == ['robot 7']
    fresh = {(await observed.get('/good')).headers['X-Request-ID'] for _ in range(3)}
    assert len(fresh) == 3
    assert fresh == set(observed.seen[1:])
    replaced = (await observed.get('/good', **{'X-Request-ID': 'x' * 129})).headers['X-Request-ID']
    assert len(replaced) == 32


async def test_requests_are_counted_by_route_and_outcome() -> None:
    """Each request counts once; unknown paths count as `other`, and a template stands for its paths."""
    observed = Observed()
    for path in ('/good', '/good', '/items/a/image', '/items/b/image', '/teapot', '/bug', '/stream', '/ws/socket.io/'):
        await observed.get(path)
    for path in ('/nowhere', '/items/a', '/%00', '/good/x', '/ws'):
        await observed.get(path)
    assert observed.counts() == {
        ('/good', 'ok'): 2,
        ('/items/{name}/image', 'refused'): 2,
        ('/teapot', 'refused'): 1,
        ('/bug', 'failed'): 1,
        ('/stream', 'ok'): 1,
        ('/ws', 'ok'): 2,
        ('other', 'refused'): 4,
    }
    scrape = Scrape.of_registry(observed.metrics.registry)
    assert scrape.by('wholebody_refused_total', 'reason') == {('replaced',): 2, ('other',): 1, ('not_found',): 4}
    assert scrape.total('wholebody_request_seconds_count') == 13


async def test_a_bug_is_answered_and_logged_with_the_same_id(caplog: pytest.LogCaptureFixture) -> None:
    """A bug is logged with the id of its answer, which reveals nothing about the bug."""
    answer = await Observed().get('/bug', **{'X-Request-ID': 'robot-7'})
    assert answer.status_code == 500
    assert answer.json() == {
        'detail': 'the request failed inside the node; its log gives the reason under the request id robot-7'
    }
    (record,) = [record for record in caplog.records if record.levelname == 'ERROR']
    assert record.getMessage() == 'GET /bug fails inside the node'
    assert record.exc_info is not None
    assert record.exc_info[0] is ZeroDivisionError


async def test_a_client_that_leaves_before_the_answer_is_counted_as_refused() -> None:
    """A request without an answer is counted as refused, even if the application ends silently."""
    metrics = Metrics()

    async def silent(scope: Scope, receive: Receive, send: Send) -> None:
        await receive()

    async def gone() -> Message:
        return {'type': 'http.disconnect'}

    async def send(message: Message) -> None:
        raise AssertionError('the client has left')

    observed = ObservedRequests(silent, FastAPI(), metrics)
    await observed({'type': 'http', 'method': 'GET', 'path': '/good', 'headers': []}, gone, send)
    scrape = Scrape.of_registry(metrics.registry)
    assert scrape.by('wholebody_requests_total', 'route', 'outcome') == {('other', 'refused'): 1}
    assert scrape.by('wholebody_refused_total', 'reason') == {('caller_gone',): 1}


async def test_refusals_are_logged_with_their_reason_once_a_second(caplog: pytest.LogCaptureFixture) -> None:
    """Refusals are logged once a second per route, with the reason and without the requested path."""
    caplog.set_level('INFO', 'wholebody.requests')
    observed = Observed()
    for path in ('/items/secret/image', '/items/secret/image', '/teapot', '/nowhere', '/good'):
        await observed.get(path)
    assert [(record.levelname, record.getMessage()) for record in caplog.records] == [
        ('WARNING', 'GET /items/{name}/image is answered with 503: no turn for secret'),
        ('INFO', "GET /teapot is answered with 418: I'm a Teapot"),
        ('INFO', 'GET other is answered with 404: Not Found'),
    ]


def test_every_route_of_the_node_has_its_label(tmp_path: Path) -> None:
    """Every route has a label, also in included routers, with parameters, and for the mounted Socket.IO server."""
    from detector.node.wholebody_node import WholebodyNode

    with patch.dict(os.environ):
        node = WholebodyNode(Settings(data_folder=tmp_path))
    labels = RouteLabels(node)
    for path in node.openapi()['paths']:
        assert labels.of(path.replace('{name}', '2026-01-01_00:00:00.000000')) == path
    assert labels.of('/ws/socket.io/') == '/ws'
    assert labels.of('/docs') == '/docs'
    assert labels.of('/outbox/a/b/image') == 'other'
    assert labels.of('/detect/') == 'other'


# ---------------------------------------------------------------- events


async def refuse(sid: str, *payload: Any) -> dict[str, Any]:
    note_error(InvalidRequest('no'))
    return {'error': 'no'}


async def fail(sid: str, *payload: Any) -> dict[str, Any]:
    note_error(ZeroDivisionError())
    return {'error': 'bug'}


async def succeed(sid: str, *payload: Any) -> dict[str, Any]:
    return {'seen': request_context.request_id()}


async def test_events_are_counted_by_name_and_outcome() -> None:
    """Every unknown event counts as `other`, whatever its name."""
    metrics = Metrics()
    for handler in (succeed, refuse, fail, succeed):
        await observed_event(metrics, 'detect', handler)('sid', {})
    assert refused_event(metrics, InvalidRequest('unknown event')) == {'error': 'unknown event'}
    scrape = Scrape.of_registry(metrics.registry)
    assert scrape.by('wholebody_requests_total', 'route', 'outcome') == {
        ('sio:detect', 'ok'): 2,
        ('sio:detect', 'refused'): 1,
        ('sio:detect', 'failed'): 1,
        ('other', 'refused'): 1,
    }
    assert scrape.by('wholebody_refused_total', 'reason') == {('invalid',): 2}


async def test_events_give_their_id_back() -> None:
    """An event's answer has the id that the client sent; without an id the answer is unchanged."""
    answer = observed_event(Metrics(), 'detect', succeed)
    assert await answer('sid', {'request_id': 'r1'}) == {'seen': 'r1', 'request_id': 'r1'}
    refused = await observed_event(Metrics(), 'detect', refuse)('sid', {'request_id': 'r2'})
    assert refused == {'error': 'no', 'request_id': 'r2'}
    for payload in ((), ({},), ({'request_id': None},), ('text',), (None,)):
        assert set(await answer('sid', *payload)) == {'seen'}
    replaced = await answer('sid', {'request_id': 'two\nlines'})
    assert replaced['request_id'] == replaced['seen']
    assert len(replaced['seen']) == 32
