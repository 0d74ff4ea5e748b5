"""Requests to Label Studio's API over real connections."""

import json
import socket
import time
from collections.abc import AsyncIterator, Iterator
from typing import Any

import pytest
import pytest_asyncio

from benchmarks.support.waiting import PATIENCE
from detector.errors import InvalidSettings, LabelStudioFault, NotInLabelStudio
from detector.label_studio.server import client
from detector.label_studio.server.client import Connection
from detector.settings import Settings
from tests.support.label_studio.recorder import Recorder, Reply, Request, recording, redirecting

LEGACY = '0123456789abcdef0123456789abcdef01234567'


@pytest.fixture(autouse=True)
def _short_pauses(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(client, '_PAUSE_SECONDS', 0.02)


@pytest.fixture
def studio() -> Iterator[Recorder]:
    with recording() as recorder:
        recorder.answer = lambda request: Reply(body=json.dumps({'path': request.path}).encode())
        yield recorder


@pytest_asyncio.fixture
async def connection(studio: Recorder) -> AsyncIterator[Connection]:
    connection = Connection(studio.url, LEGACY)
    yield connection
    await connection.close()


async def test_annotations_tasks_and_projects_are_asked_for_with_the_token(
    studio: Recorder, connection: Connection
) -> None:
    """A legacy token is sent unchanged, and addresses end in a slash, which avoids redirects."""
    assert await connection.annotation(3) == {'path': '/api/annotations/3/'}
    assert await connection.task(4) == {'path': '/api/tasks/4/'}
    assert await connection.project(5) == {'path': '/api/projects/5/'}
    assert await connection.get_json('/api/tasks', project=5, fields='a b') == {
        'path': '/api/tasks?project=5&fields=a+b'
    }
    assert {request.authorization for request in studio.requests} == {f'Token {LEGACY}'}


async def test_an_address_with_a_path_keeps_it(studio: Recorder) -> None:
    """The path of LABEL_STUDIO_URL is kept, with or without a trailing slash."""
    for url in (f'{studio.url}/ls', f'{studio.url}/ls/'):
        connection = Connection(url, LEGACY)
        assert await connection.task(4) == {'path': '/ls/api/tasks/4/'}
        await connection.close()


async def test_settings_make_a_connection_or_none(studio: Recorder) -> None:
    """Without LABEL_STUDIO_URL there is no connection, and blanks around a token are ignored."""
    assert Connection.of(Settings(label_studio_api_token=LEGACY)) is None
    connection = Connection.of(Settings(label_studio_url=studio.url, label_studio_api_token=f' {LEGACY}\n'))
    assert connection is not None
    await connection.task(4)
    assert studio.requests[0].authorization == f'Token {LEGACY}'
    await connection.close()


@pytest.mark.parametrize('url', ['localhost:8080', 'ftp://ls', 'http://', 'http://ann:pw@ls', 'http://ls/?a=b'])
def test_an_address_that_cannot_be_used_is_named(url: str) -> None:
    """An invalid address is refused with the name of the setting and without its value."""
    with pytest.raises(InvalidSettings, match='^LABEL_STUDIO_URL: ') as caught:
        Connection(url, LEGACY)
    assert 'pw' not in str(caught.value)


@pytest.mark.parametrize('token', ['two words', 'two\nlines', 'naïve'])
def test_a_token_that_cannot_stand_in_a_header_is_refused_unseen(token: str) -> None:
    """A token that a header cannot hold is refused without being shown."""
    with pytest.raises(InvalidSettings, match='LABEL_STUDIO_API_TOKEN') as caught:
        Connection('http://ls', token)
    assert token not in str(caught.value)


async def test_without_a_token_nothing_is_sent(studio: Recorder) -> None:
    """Without a token nothing is sent, and the error names the setting."""
    connection = Connection(studio.url, None)
    with pytest.raises(LabelStudioFault, match='set LABEL_STUDIO_API_TOKEN'):
        await connection.task(4)
    assert studio.requests == []
    await connection.close()


async def test_what_is_not_there_can_be_told_from_a_fault(studio: Recorder, connection: Connection) -> None:
    """A 404 in JSON raises NotInLabelStudio, and a 404 page raises LabelStudioFault."""
    studio.answer = lambda _: Reply(404, b'{}', {'Content-Type': 'application/json'})
    with pytest.raises(NotInLabelStudio, match='/api/annotations/9/'):
        await connection.annotation(9)
    assert len(studio.requests) == 1
    studio.answer = lambda _: Reply(404, b'<html>', {'Content-Type': 'text/html'})
    with pytest.raises(LabelStudioFault, match='is LABEL_STUDIO_URL its address') as caught:
        await connection.annotation(9)
    assert not isinstance(caught.value, NotInLabelStudio)


@pytest.mark.parametrize(
    ('reply', 'text'),
    [
        (Reply(403, b'{}'), 'answers 403: has the user of LABEL_STUDIO_API_TOKEN permission'),
        (
            Reply(403, b'{"detail": "Not yours"}'),
            r'answers 403 \(Not yours\): has the user of LABEL_STUDIO_API_TOKEN permission',
        ),
        (Reply(403, b'Serving is off'), r'answers 403 \(Serving is off\): '),
        (Reply(403, b'<html>Log in</html>'), 'answers 403: '),
        (Reply(500, b'{}'), 'answers 500'),
        (Reply(200, b'<html>Log in</html>'), 'is LABEL_STUDIO_URL the address of Label Studio'),
        (Reply(200, b'[1]'), 'not a JSON object'),
        (Reply(200, b'\x1f\x8b', {'Content-Encoding': 'gzip'}), 'compressed'),
    ],
)
async def test_other_answers_are_faults_that_say_what_to_check(
    studio: Recorder, connection: Connection, reply: Reply, text: str
) -> None:
    """Other answers raise a fault that says what to check, after one request."""
    studio.answer = lambda _: reply
    with pytest.raises(LabelStudioFault, match=text):
        await connection.task(4)
    assert len(studio.requests) == 1


@pytest.mark.parametrize('status', [301, 302, 307, 308])
async def test_no_redirect_is_followed(studio: Recorder, connection: Connection, status: int) -> None:
    """Redirects are not followed, since the token would be sent along; the error shows the target without its query."""
    with recording() as other:
        studio.answer = redirecting(f'{other.url}/api/tasks/4/?sig=secret', status)
        with pytest.raises(LabelStudioFault, match=f'redirects .* to {other.url}/api/tasks/4/: ') as caught:
            await connection.task(4)
        assert other.requests == []
        assert 'secret' not in str(caught.value)


async def test_cookies_are_not_kept(studio: Recorder, connection: Connection) -> None:
    """Cookies are not kept, since a session would outlive the token."""
    studio.answer = lambda _: Reply(body=b'{}', headers={'Set-Cookie': 'sessionid=secret; Path=/'})
    await connection.task(4)
    await connection.task(4)
    assert all('cookie' not in request.headers for request in studio.requests)


@pytest.mark.parametrize('status', [502, 503, 504])
async def test_answers_of_a_proxy_that_waits_for_label_studio_are_tried_again(
    studio: Recorder, connection: Connection, status: int
) -> None:
    """A proxy's errors are retried twice before the status is reported."""
    studio.answer = lambda _: Reply(200 if len(studio.requests) == 3 else status, b'{}')
    assert await connection.task(4) == {}
    assert len(studio.requests) == 3
    studio.answer = lambda _: Reply(status, b'{}')
    with pytest.raises(LabelStudioFault, match=f'answers {status}'):
        await connection.task(4)
    assert len(studio.requests) == 6


async def test_a_broken_connection_is_tried_again(studio: Recorder, connection: Connection) -> None:
    """A broken connection is tried again."""

    def answer(_: Request) -> Reply:
        if len(studio.requests) < 3:
            raise ConnectionError
        return Reply(body=b'{}')

    studio.answer = answer
    assert await connection.task(4) == {}


async def test_no_answer_at_all_names_the_address() -> None:
    """An unreachable Label Studio is reported with its address after a few quick tries."""
    with socket.socket() as taken:
        taken.bind(('127.0.0.1', 0))
        url = f'http://127.0.0.1:{taken.getsockname()[1]}'
        connection = Connection(url, LEGACY)
        started = time.monotonic()
        with pytest.raises(LabelStudioFault, match=f'LABEL_STUDIO_URL={url}.* does not answer') as caught:
            await connection.task(4)
        assert time.monotonic() - started < PATIENCE
        assert LEGACY not in str(caught.value)
        await connection.close()


async def test_an_answer_that_drips_ends(studio: Recorder) -> None:
    """The time limit holds for the whole answer, not for each byte."""

    def drip() -> Iterator[bytes]:
        while True:
            yield b' '
            time.sleep(0.05)

    studio.answer = lambda _: Reply(body=drip())
    connection = Connection(studio.url, LEGACY, seconds=0.5)
    started = time.monotonic()
    with pytest.raises(LabelStudioFault, match='takes longer than 0.5 s'):
        await connection.task(4)
    assert time.monotonic() - started < PATIENCE
    await connection.close()


async def test_the_token_shows_nowhere(studio: Recorder, connection: Connection, caplog: Any) -> None:
    """The token appears in no representation, log message or error."""
    caplog.set_level('DEBUG')
    studio.answer = lambda _: Reply(401, b'{}')
    with pytest.raises(LabelStudioFault) as caught:
        await connection.task(4)
    shown = f'{connection!r} {vars(connection)!r} {caught.value!r} {caplog.text}'
    assert LEGACY not in shown
    assert studio.url in shown
