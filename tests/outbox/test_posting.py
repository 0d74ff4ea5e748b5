"""Requests that carry images to the Loop, and the meaning of their answers."""

import asyncio
import email.utils
import os
import shutil
import ssl
import time
from pathlib import Path

import pytest
import trustme
from aiohttp import web
from aiohttp.test_utils import TestServer

from benchmarks.support.waiting import eventually_async
from detector.outbox import posting as outbox_post
from detector.outbox.outbox import Outbox
from detector.outbox.posting import LoopPoster, Outcome
from tests.support.outboxes import Script, fill, until_empty


async def test_requests_are_those_of_upstream(
    tmp_path: Path, script: Script, outbox: Outbox, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Requests have the same parts as those of learning_loop_node, with the same order, names, types and contents."""
    from learning_loop_node.detector.outbox import Outbox as UpstreamOutbox
    from learning_loop_node.globals import GLOBALS

    await fill(outbox, 3)
    shutil.copytree(tmp_path / 'outbox', tmp_path / 'data' / 'outbox')
    monkeypatch.setattr(GLOBALS, 'data_folder', str(tmp_path / 'data'))
    for name in ('LOOP_HOST', 'LOOP_ORGANIZATION', 'LOOP_PROJECT'):
        monkeypatch.setenv(name, 'x')
    theirs = UpstreamOutbox()
    theirs.target_uri = script.url
    await theirs.upload()
    parts, script.parts = script.parts, []
    assert len(parts) == 6
    await outbox.start()
    await until_empty(outbox)
    pairs, theirs_in_pairs = ([tuple(found[i : i + 2]) for i in range(0, 6, 2)] for found in (script.parts, parts))
    assert sorted(pairs) == sorted(theirs_in_pairs), 'metadata first, then its image'


@pytest.mark.parametrize('status', [200, 201, 204])
async def test_success_is_any_2xx(script: Script, outbox: Outbox, status: int) -> None:
    """Every 2xx counts as success; upstream would repeat forever a request that a Loop answers with 201."""

    async def answer(_: list[str]) -> web.Response:
        return web.Response(status=status)

    script.answer = answer
    await fill(outbox, 2)
    await outbox.start()
    await until_empty(outbox)
    assert outbox.about()['uploaded'] == 2


async def test_a_captive_portal_does_not_swallow_images(script: Script, outbox: Outbox) -> None:
    """Status 200 with an HTML page does not count as success, and redirects are not followed."""

    async def page(_: list[str]) -> web.Response:
        return web.Response(text='<html>Welcome to our hotel</html>', content_type='text/html')

    async def elsewhere(_: list[str]) -> web.Response:
        return web.Response(status=307, headers={'Location': script.url})

    await fill(outbox, 2)
    for answer in (page, elsewhere):
        script.answer = answer
        seen = len(script.batches)
        await outbox.start()
        await eventually_async(lambda seen=seen: len(script.batches) >= seen + 3)  # type: ignore[misc]
        await outbox.close()
    about = outbox.about()
    assert (about['found'], about['uploaded'], about['waiting']) == (2, 0, 2)
    assert 'answers 307' in about['error']


@pytest.mark.parametrize(
    ('outcome', 'statuses'),
    [
        (Outcome.TAKEN, [200, 201, 204, 299]),
        (Outcome.TOO_LARGE, [413]),
        (Outcome.REFUSED, [422]),
        (Outcome.UNAVAILABLE, [300, 307, 399, 401, 403, 404, 405, 407, 429, 502, 503, 504]),
        (Outcome.FAILED, [400, 402, 409, 500, 501, 505]),
    ],
)
def test_a_status_tells_whether_the_images_are_the_cause(outcome: Outcome, statuses: list[int]) -> None:
    """Answers of a proxy or of a Loop without access are not caused by images; the log shows what it answers."""
    for status in statuses:
        answer = outbox_post._interpret(status, {'Retry-After': '9'}, b'not\n  \xff so')
        assert answer.outcome is outcome, status
        if outcome is not Outcome.TAKEN:
            assert answer.detail == f'the Learning Loop answers {status} not \N{REPLACEMENT CHARACTER} so'
        assert answer.retry_after == (9 if outcome in (Outcome.UNAVAILABLE, Outcome.FAILED) else 0)
    bare = outbox_post._interpret(503, {}, b'')
    assert (bare.detail, bare.retry_after) == ('the Learning Loop answers 503', 0)
    page = outbox_post._interpret(200, {'Content-Type': 'Text/HTML; charset=utf-8'}, b'')
    assert page.outcome is Outcome.UNAVAILABLE


async def test_files_that_cannot_be_read_are_named(outbox: Outbox, monkeypatch: pytest.MonkeyPatch) -> None:
    """A missing file belongs to its image; another error of the disk does not, and names the file."""
    first, second = await fill(outbox, 2)
    second.jpeg.unlink()
    missing = outbox_post._read([first, second])
    assert isinstance(missing, outbox_post.Answer)
    assert (missing.outcome, missing.missing) == (Outcome.VANISHED, second)
    assert second.jpeg.name in missing.detail

    def exhausted(_: Path) -> bytes:
        raise OSError(24, os.strerror(24))

    monkeypatch.setattr(Path, 'read_bytes', exhausted)
    unreadable = outbox_post._read([first])
    assert isinstance(unreadable, outbox_post.Answer)
    assert (unreadable.outcome, unreadable.missing) == (Outcome.UNAVAILABLE, None)
    assert unreadable.detail == f'{first.metadata.name} cannot be read: Too many open files'


async def test_connections_that_fail_tell_how(script: Script, outbox: Outbox) -> None:
    """A Loop that does not answer in time, breaks the connection or cannot be reached gives three outcomes."""
    answered = asyncio.Event()

    async def hang(_: list[str]) -> web.Response:
        await answered.wait()
        return web.json_response({})

    async def reset(_: list[str]) -> web.Response:
        raise ConnectionResetError

    entries = await fill(outbox, 1)

    async def post(url: str) -> tuple[Outcome, str]:
        poster = LoopPoster(url, ssl.create_default_context())
        answer = await poster.post(entries, timeout=1, executor=outbox.executor)
        return answer.outcome, answer.detail

    script.answer = hang
    assert await post(script.url) == (Outcome.TOO_SLOW, 'no answer within 1 seconds')
    answered.set()
    script.answer = reset
    outcome, detail = await post(script.url)
    assert (outcome, detail.partition(': ')[0]) == (Outcome.FAILED, 'the connection broke')
    outcome, detail = await post('http://127.0.0.1:9/images')
    assert (outcome, '127.0.0.1:9' in detail) == (Outcome.UNAVAILABLE, True)


async def test_images_go_through_the_proxy_of_the_loop(
    script: Script, outbox: Outbox, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The proxy that the environment names for the Loop receives the request."""
    monkeypatch.setenv('http_proxy', script.url.removesuffix('/images'))
    poster = LoopPoster('http://loop.example.org/images', ssl.create_default_context())
    entries = await fill(outbox, 1)
    answer = await poster.post(entries, timeout=5, executor=outbox.executor)
    assert answer.outcome is Outcome.TAKEN
    assert script.taken == [entries[0].name]


async def test_a_redirect_is_not_followed(outbox: Outbox) -> None:
    """The images do not go to another address, whatever that would answer."""
    asked: list[str] = []

    async def answer(request: web.Request) -> web.Response:
        asked.append(request.path)
        if request.path == '/elsewhere':
            return web.json_response({})
        return web.Response(status=302, headers={'Location': '/elsewhere'})

    app = web.Application()
    app.router.add_route('*', '/{path}', answer)
    async with TestServer(app, shutdown_timeout=0.1) as server:
        poster = LoopPoster(str(server.make_url('/images')), ssl.create_default_context())
        posted = await poster.post(await fill(outbox, 1), timeout=5, executor=outbox.executor)
    assert (posted.outcome, asked) == (Outcome.UNAVAILABLE, ['/images'])


async def test_the_certificate_of_the_loop_is_verified(script: Script, outbox: Outbox) -> None:
    """Images are sent only to a Loop that the given certificates vouch for."""
    authority = trustme.CA()
    theirs, ours = (
        ssl.create_default_context(purpose) for purpose in (ssl.Purpose.CLIENT_AUTH, ssl.Purpose.SERVER_AUTH)
    )
    authority.issue_cert('localhost').configure_cert(theirs)
    authority.configure_trust(ours)
    app = web.Application()
    app.router.add_post('/images', script.handle)
    entries = await fill(outbox, 1)
    server = TestServer(app, scheme='https', host='localhost', shutdown_timeout=0.1)
    await server.start_server(ssl=theirs)
    try:
        url = f'https://localhost:{server.port}/images'
        outcomes = [
            (await LoopPoster(url, context).post(entries, timeout=5, executor=outbox.executor)).outcome
            for context in (ssl.create_default_context(), ours)
        ]
    finally:
        await server.close()
    assert outcomes == [Outcome.UNAVAILABLE, Outcome.TAKEN]
    assert script.taken == [entries[0].name]


@pytest.mark.parametrize(
    ('header', 'seconds'), [('9' * 400, 999_999_999), ('7', 7), ('0', 0), ('soon', 0), ('-5', 0), ('', 0), ('٣', 0)]
)
async def test_retry_after_is_read(header: str, seconds: float) -> None:
    """Seconds in Retry-After are read, and a value that is neither seconds nor a date counts as 0."""
    assert outbox_post._seconds(header) == seconds


async def test_retry_after_may_be_a_date() -> None:
    """A future date in Retry-After gives the seconds until then, and a past one gives 0."""
    assert 50 < outbox_post._seconds(email.utils.formatdate(time.time() + 60, usegmt=True)) <= 60
    assert outbox_post._seconds(email.utils.formatdate(time.time() - 60, usegmt=True)) == 0
