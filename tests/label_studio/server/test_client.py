"""Label Studio's API, asked over real connections."""

import json
import socket
import time
from collections.abc import AsyncIterator, Iterator
from typing import Any

import pytest
import pytest_asyncio

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
    """A legacy token goes as it is; the address ends in a slash, since redirects are not followed."""
    assert await connection.annotation(3) == {'path': '/api/annotations/3/'}
    assert await connection.task(4) == {'path': '/api/tasks/4/'}
    assert await connection.project(5) == {'path': '/api/projects/5/'}
    assert await connection.get_json('/api/tasks', project=5, fields='a b') == {
        'path': '/api/tasks?project=5&fields=a+b'
    }
    assert {request.authorization for request in studio.requests} == {f'Token {LEGACY}'}


async def test_an_address_with_a_path_keeps_it(studio: Recorder) -> None:
    """LABEL_STUDIO_URL=https://host/ls, with or without a slash at its end."""
    for url in (f'{studio.url}/ls', f'{studio.url}/ls/'):
        connection = Connection(url, LEGACY)
        assert await connection.task(4) == {'path': '/ls/api/tasks/4/'}
        await connection.close()


async def test_settings_make_a_connection_or_none(studio: Recorder) -> None:
    """Without LABEL_STUDIO_URL there is none; a token in blanks is still that token."""
    assert Connection.of(Settings(label_studio_api_token=LEGACY)) is None
    connection = Connection.of(Settings(label_studio_url=studio.url, label_studio_api_token=f' {LEGACY}\n'))
    assert connection is not None
    await connection.task(4)
    assert studio.requests[0].authorization == f'Token {LEGACY}'
    await connection.close()


@pytest.mark.parametrize('url', ['localhost:8080', 'ftp://ls', 'http://', 'http://ann:pw@ls', 'http://ls/?a=b'])
def test_an_address_that_cannot_be_used_is_named(url: str) -> None:
    """No scheme, no host, user name or query: the setting is named, the text is not repeated."""
    with pytest.raises(InvalidSettings, match='^LABEL_STUDIO_URL: ') as caught:
        Connection(url, LEGACY)
    assert 'pw' not in str(caught.value)


@pytest.mark.parametrize('token', ['two words', 'two\nlines', 'naïve'])
def test_a_token_that_cannot_stand_in_a_header_is_refused_unseen(token: str) -> None:
    """Else the HTTP library would show it in its error."""
    with pytest.raises(InvalidSettings, match='LABEL_STUDIO_API_TOKEN') as caught:
        Connection('http://ls', token)
    assert token not in str(caught.value)


async def test_without_a_token_nothing_is_sent(studio: Recorder) -> None:
    """The setting is named instead."""
    connection = Connection(studio.url, None)
    with pytest.raises(LabelStudioFault, match='set LABEL_STUDIO_API_TOKEN'):
        await connection.task(4)
    assert studio.requests == []
    await connection.close()


async def test_what_is_not_there_can_be_told_from_a_fault(studio: Recorder, connection: Connection) -> None:
    """404 has a class of its own, so that a deleted annotation needs no second try; a page that says 404 has not."""
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
        (Reply(403, b'{}'), 'answers 403: may the user of LABEL_STUDIO_API_TOKEN'),
        (Reply(403, b'{"detail": "Not yours"}'), r'answers 403 \(Not yours\): may the user of LABEL_STUDIO_API_TOKEN'),
        (Reply(403, b'Serving is off'), r'answers 403 \(Serving is off\): '),
        (Reply(403, b'<html>Log in</html>'), 'answers 403: '),
        (Reply(500, b'{}'), 'answers 500'),
        (Reply(200, b'<html>Log in</html>'), 'is LABEL_STUDIO_URL Label Studio'),
        (Reply(200, b'[1]'), 'no JSON object'),
        (Reply(200, b'\x1f\x8b', {'Content-Encoding': 'gzip'}), 'compressed'),
    ],
)
async def test_other_answers_are_faults_that_say_what_to_check(
    studio: Recorder, connection: Connection, reply: Reply, text: str
) -> None:
    """Each once: they would not change."""
    studio.answer = lambda _: reply
    with pytest.raises(LabelStudioFault, match=text):
        await connection.task(4)
    assert len(studio.requests) == 1


@pytest.mark.parametrize('status', [301, 302, 307, 308])
async def test_no_redirect_is_followed(studio: Recorder, connection: Connection, status: int) -> None:
    """The token would go along; the address in the text helps to correct the setting, without its query."""
    with recording() as other:
        studio.answer = redirecting(f'{other.url}/api/tasks/4/?sig=secret', status)
        with pytest.raises(LabelStudioFault, match=f'redirects .* to {other.url}/api/tasks/4/: ') as caught:
            await connection.task(4)
        assert other.requests == []
        assert 'secret' not in str(caught.value)


async def test_cookies_are_not_kept(studio: Recorder, connection: Connection) -> None:
    """A session would outlive the token."""
    studio.answer = lambda _: Reply(body=b'{}', headers={'Set-Cookie': 'sessionid=secret; Path=/'})
    await connection.task(4)
    await connection.task(4)
    assert all('cookie' not in request.headers for request in studio.requests)


@pytest.mark.parametrize('status', [502, 503, 504])
async def test_answers_of_a_proxy_that_waits_for_label_studio_are_tried_again(
    studio: Recorder, connection: Connection, status: int
) -> None:
    """Twice, then the status is reported."""
    studio.answer = lambda _: Reply(200 if len(studio.requests) == 3 else status, b'{}')
    assert await connection.task(4) == {}
    assert len(studio.requests) == 3
    studio.answer = lambda _: Reply(status, b'{}')
    with pytest.raises(LabelStudioFault, match=f'answers {status}'):
        await connection.task(4)
    assert len(studio.requests) == 6


async def test_a_broken_connection_is_tried_again(studio: Recorder, connection: Connection) -> None:
    """As a restart of Label Studio breaks them."""

    def answer(_: Request) -> Reply:
        if len(studio.requests) < 3:
            raise ConnectionError
        return Reply(body=b'{}')

    studio.answer = answer
    assert await connection.task(4) == {}


async def test_no_answer_at_all_names_the_address() -> None:
    """After a few tries, soon."""
    with socket.socket() as taken:
        taken.bind(('127.0.0.1', 0))
        url = f'http://127.0.0.1:{taken.getsockname()[1]}'
        connection = Connection(url, LEGACY)
        started = time.monotonic()
        with pytest.raises(LabelStudioFault, match=f'LABEL_STUDIO_URL={url}.* does not answer') as caught:
            await connection.task(4)
        assert time.monotonic() - started < 10
        assert LEGACY not in str(caught.value)
        await connection.close()


async def test_an_answer_that_drips_ends(studio: Recorder) -> None:
    """The time is that of the whole answer, not of each byte."""

    def drip() -> Iterator[bytes]:
        while True:
            yield b' '
            time.sleep(0.05)

    studio.answer = lambda _: Reply(body=drip())
    connection = Connection(studio.url, LEGACY, seconds=0.5)
    started = time.monotonic()
    with pytest.raises(LabelStudioFault, match='takes longer than 0.5 s'):
        await connection.task(4)
    assert time.monotonic() - started < 10
    await connection.close()


async def test_the_token_shows_nowhere(studio: Recorder, connection: Connection, caplog: Any) -> None:
    """Not in representations, not in the log at its most talkative, not in what is raised."""
    caplog.set_level('DEBUG')
    studio.answer = lambda _: Reply(401, b'{}')
    with pytest.raises(LabelStudioFault) as caught:
        await connection.task(4)
    shown = f'{connection!r} {vars(connection)!r} {caught.value!r} {caplog.text}'
    assert LEGACY not in shown
    assert studio.url in shown
