"""Decisions of access control on an app in memory; test_access.py asks real nodes."""

import base64
import time
from types import SimpleNamespace
from typing import Any

import httpx
import pytest
from starlette.applications import Starlette
from starlette.requests import HTTPConnection, Request
from starlette.responses import PlainTextResponse
from starlette.routing import Route
from starlette.types import Message, Scope

from detector.api.middleware import access
from detector.api.middleware.access import AUTHORIZED, AccessControl, AccessPolicy, install
from detector.settings import Settings, load_settings
from tests.support.access import ALLOWED, TOKEN

BEARER = {'Authorization': f'Bearer {TOKEN}'}
NAMED = {'api_token': TOKEN, 'basic_auth_user': 'ann', 'basic_auth_pass': 'sésame'}


@pytest.fixture(autouse=True)
def _no_delay(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(access, '_ATTEMPT_SECONDS', 0)


async def ok(request: Request) -> PlainTextResponse:
    return PlainTextResponse(str(request.scope[AUTHORIZED]))


async def ask(
    settings: dict[str, Any],
    path: str = '/detect',
    method: str = 'POST',
    *,
    policy: AccessPolicy | None = None,
    headers: dict[str, str] | None = None,
) -> httpx.Response:
    """Send a request to an app whose every route answers if it is reached, with True if the request is authorized."""
    read = load_settings(**settings)
    app = Starlette(routes=[Route('/{path:path}', ok, methods=['GET', 'HEAD', 'POST', 'PUT', 'OPTIONS'])])
    install(app, read, policy or AccessPolicy(read))
    transport = httpx.ASGITransport(app)
    async with httpx.AsyncClient(transport=transport, base_url='http://robot') as client:
        return await client.request(method, path, headers={'Host': 'robot'} | (headers or {}))


def basic(user: str, password: str, encoding: str = 'utf-8') -> str:
    return 'Basic ' + base64.b64encode(f'{user}:{password}'.encode(encoding)).decode()


@pytest.mark.parametrize(
    ('authorization', 'status'),
    [
        (f'Bearer {TOKEN}', 200),
        (f'bearer  {TOKEN} ', 200),
        (f'Bearer {TOKEN}x', 401),
        (f'Bearer {TOKEN[:-1]}', 401),
        ('Bearer', 401),
        (f'Basic {TOKEN}', 401),
        (basic('any', TOKEN), 401),
        (TOKEN, 401),
    ],
)
async def test_only_the_whole_token_opens_a_route(authorization: str, status: int) -> None:
    """The token counts as a bearer token, in any case and with spaces around it."""
    answer = await ask({'api_token': TOKEN}, headers={'Authorization': authorization})
    assert answer.status_code == status
    if status == 401:
        assert answer.headers['WWW-Authenticate'] == 'Bearer realm="wholebody"'
        assert 'the token is wrong' in answer.json()['detail']


@pytest.mark.parametrize(
    ('settings', 'authorization', 'status'),
    [
        ({}, '', 200),
        ({'api_token': TOKEN}, '', 401),
        ({'api_token': TOKEN}, f'Bearer {TOKEN}', 200),
        ({'api_token': TOKEN}, basic('any', TOKEN), 200),
        ({'api_token': TOKEN}, basic('', TOKEN), 200),
        ({'api_token': TOKEN}, basic(TOKEN, ''), 401),
        ({'api_token': TOKEN}, 'Basic %%%', 401),
        ({'api_token': TOKEN}, basic('any', TOKEN).replace('Basic', 'Digest'), 401),
        (NAMED, basic('ann', 'sésame'), 200),
        (NAMED, basic('ann', 'sésame', 'latin-1'), 200),
        (NAMED, basic('ann', 'sesame'), 401),
        (NAMED, basic('bob', 'sésame'), 401),
        (NAMED, '', 401),
        (NAMED, f'Bearer {TOKEN}', 200),
        (NAMED, basic('any', TOKEN), 401),
    ],
)
async def test_label_studio_uses_its_password_or_the_token(
    settings: dict[str, Any], authorization: str, status: int
) -> None:
    """Without BASIC_AUTH_* the token is the password of any user; the answer to a failure asks for a password."""
    headers = {'Authorization': authorization} if authorization else {}
    answer = await ask(settings, '/predict', headers=headers)
    assert answer.status_code == status
    if status == 401:
        assert answer.headers['WWW-Authenticate'] == 'Basic realm="wholebody"'
        names = 'BASIC_AUTH_USER, BASIC_AUTH_PASS' if 'basic_auth_user' in settings else 'any user name, API_TOKEN'
        assert names in answer.json()['detail']


def test_without_a_token_the_password_is_required_as_well() -> None:
    """Where no token is required, Label Studio's routes ask the policy for the user name and password."""
    policy = AccessPolicy(load_settings(**NAMED | {'api_token': None}))
    for authorization, expected in ((basic('ann', 'sésame'), True), (basic('ann', 'x'), False), ('Bearer x', False)):
        headers = [(b'authorization', authorization.encode())]
        assert policy.allows_label_studio(HTTPConnection({'type': 'http', 'headers': headers})) is expected


@pytest.mark.parametrize(
    ('method', 'path', 'status'),
    [
        ('GET', '/health', 200),
        ('HEAD', '/about', 200),
        ('POST', '/health', 401),
        ('POST', '/login', 200),
        ('GET', '/login', 200),
        ('GET', '/ws/socket.io/', 200),
        ('GET', '/outbox/x', 401),
        ('POST', '/poses', 401),
    ],
)
async def test_some_routes_need_no_token(method: str, path: str, status: int) -> None:
    """Probes answer a GET, the login page and the handshake of Socket.IO any request, and no other route."""
    answer = await ask({'api_token': TOKEN}, path, method)
    assert answer.status_code == status
    assert answer.headers['x-content-type-options'] == 'nosniff'
    assert answer.headers['content-security-policy'] == "frame-ancestors 'none'"
    if status == 200 and method != 'HEAD':
        assert answer.text == 'False', 'the route sees that the request carries no token'


async def test_a_session_counts_in_the_nodes_own_pages_only() -> None:
    """The cookie opens the node until the logout; a page of another port, to which it is sent too, is refused."""
    settings = load_settings(api_token=TOKEN, cors_origins=ALLOWED)
    policy = AccessPolicy(settings)
    asked: dict[str, Any] = {'settings': {'api_token': TOKEN, 'cors_origins': ALLOWED}, 'policy': policy}
    value = policy.sessions.open()
    cookie = f'{policy.cookie}={value}'
    assert policy.cookie == 'wholebody_8004', 'browsers send a cookie to all ports of a host'
    assert (await ask(**asked, headers={'Cookie': cookie})).text == 'True'
    assert (await ask(**asked, headers={'Cookie': cookie, 'Origin': 'http://robot'})).status_code == 200
    assert (await ask(**asked, headers={'Cookie': f'wholebody_8005={value}'})).status_code == 401
    assert (await ask(**asked, headers={'Cookie': cookie, 'Origin': ALLOWED})).status_code == 401
    assert (await ask(**asked, headers={'Cookie': cookie, 'Origin': 'http://robot:8005'})).status_code == 403
    policy.sessions.close(value)
    assert (await ask(**asked, headers={'Cookie': cookie})).status_code == 401


def test_sessions_end_and_are_few(monkeypatch: pytest.MonkeyPatch) -> None:
    """A session counts for its time and no longer, and the oldest of too many is forgotten."""
    now = [1000.0]
    monkeypatch.setattr(access, 'time', SimpleNamespace(monotonic=lambda: now[0]))
    policy = access.AccessPolicy(load_settings(api_token=TOKEN))
    first = policy.sessions.open()
    now[0] += access.SESSION_SECONDS - 1
    assert policy.sessions.knows(first)
    now[0] += 2
    assert not policy.sessions.knows(first)
    values = [policy.sessions.open() for _ in range(access._MAX_SESSIONS)]
    assert all(policy.sessions.knows(value) for value in values)
    last = policy.sessions.open()
    assert policy.sessions.knows(last)
    assert [policy.sessions.knows(value) for value in values[:2]] == [False, True]


@pytest.mark.parametrize(
    ('origin', 'headers', 'status'),
    [
        ('http://robot', {}, 200),
        ('HTTP://ROBOT:80', {}, 200),
        ('https://robot', {'Host': 'Robot:443'}, 200),
        ('http://robot:443', {'Host': 'robot'}, 403),
        ('https://10.1.2.3', {'X-Forwarded-Host': '10.1.2.3, proxy'}, 200),
        ('https://proxy', {'X-Forwarded-Host': '10.1.2.3, proxy'}, 403),
        ('http://robot:8004', {'Host': 'robot'}, 403),
        ('null', {}, 403),
        ('null', {'Host': ''}, 403),
        ('http://[', {}, 403),
        ('http://evil.example', {}, 403),
        (ALLOWED, {}, 200),
        (ALLOWED.upper(), {}, 200),
    ],
)
async def test_a_page_of_another_origin_is_refused(origin: str, headers: dict[str, str], status: int) -> None:
    """Pages count by scheme, host and port; a proxy may have put the public name into X-Forwarded-Host."""
    answer = await ask({'cors_origins': ALLOWED}, headers={'Origin': origin} | headers)
    assert answer.status_code == status
    if status == 403:
        assert 'a page of another origin may not use this node' in answer.json()['detail']


@pytest.mark.parametrize(
    ('settings', 'path', 'headers', 'status'),
    [
        ({}, '/ui', {'Host': 'evil.example'}, 403),
        ({}, '/ui', {'Host': 'evil.example:8004'}, 403),
        ({}, '/detect', {'Host': 'evil.example'}, 200),
        ({}, '/detect', {'Host': 'evil.example', 'Origin': 'http://evil.example'}, 403),
        ({}, '/ui', {'Host': 'robot.local'}, 200),
        ({}, '/ui', {'Host': 'robot.local.'}, 200),
        ({}, '/ui', {'Host': 'robot'}, 200),
        ({}, '/ui', {'Host': '10.1.2.3:8004'}, 200),
        ({}, '/ui', {'Host': '[::1]:8004'}, 200),
        ({}, '/ui', {'Host': ''}, 403),
        ({}, '/ui', {'Host': '['}, 403),
        ({'cors_origins': 'https://node.example'}, '/ui', {'Host': 'node.example'}, 200),
        ({'cors_origins': 'https://node.example'}, '/ui', {'Host': 'NODE.example:443'}, 200),
        ({'cors_origins': 'http://node.example'}, '/ui', {'Host': 'node.example:80'}, 200),
        ({'cors_origins': 'https://node.example'}, '/ui', {'Host': 'node.example:81'}, 403),
        ({'cors_origins': '*'}, '/ui', {'Host': 'evil.example'}, 200),
        ({'api_token': TOKEN}, '/ui', {'Host': 'evil.example', **BEARER}, 200),
    ],
)
async def test_a_name_that_a_stranger_controls_is_refused(
    settings: dict[str, Any], path: str, headers: dict[str, str], status: int
) -> None:
    """Without a token, images are shown and pages served only under an address or a local or listed name."""
    assert (await ask(settings, path, 'GET', headers=headers)).status_code == status


async def test_a_machine_may_be_named_by_its_own_name(monkeypatch: pytest.MonkeyPatch) -> None:
    """The name of this machine is its own even if it has a dot."""
    monkeypatch.setattr('socket.gethostname', lambda: 'Node7.Factory.example')
    assert (await ask({}, '/ui', 'GET', headers={'Host': 'node7.factory.example'})).status_code == 200


@pytest.mark.parametrize(
    ('method', 'headers', 'status'),
    [
        ('GET', {'Accept': 'text/html,*/*'}, 303),
        ('POST', {'Accept': 'text/html,*/*'}, 401),
        ('GET', {'Accept': 'application/json'}, 401),
        ('GET', {}, 401),
        ('GET', {'Accept': 'text/html', 'Authorization': 'Bearer wrong'}, 401),
    ],
)
async def test_a_browser_is_led_to_the_login_page(method: str, headers: dict[str, str], status: int) -> None:
    """Only a page that a browser opens is redirected, and its path and query are kept."""
    answer = await ask({'api_token': TOKEN}, '/outbox?limit=5', method, headers=headers)
    assert answer.status_code == status
    assert answer.headers.get('location') == ('/login?next=/outbox%3Flimit%3D5' if status == 303 else None)
    if 'Authorization' not in headers and status == 401:
        assert 'this node requires its token' in answer.json()['detail']


async def test_a_wrong_token_is_answered_late_and_logged_once_a_second(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    """The answer to a guess is delayed; the log names the address and the number of guesses, and no guess."""
    monkeypatch.setattr(access, '_ATTEMPT_SECONDS', 0.1)
    policy = AccessPolicy(load_settings(api_token=TOKEN))
    asked: dict[str, Any] = {'settings': {'api_token': TOKEN}, 'policy': policy}
    start = time.monotonic()
    for guess in ('guess-1', 'guess-2'):
        assert (await ask(**asked, headers={'Authorization': f'Bearer {guess}'})).status_code == 401
    assert time.monotonic() - start >= 0.2
    assert caplog.text.count('a wrong token or password from 127.0.0.1 (1 since the last such line)') == 1
    assert caplog.text.count('a wrong token') == 1
    assert 'guess' not in caplog.text
    assert policy.accepts_token(TOKEN)
    assert not policy.accepts_token(None)
    assert AccessPolicy(load_settings()).accepts_token(None), 'a node without a token'


async def test_a_webhook_without_credentials_names_the_remedy(caplog: pytest.LogCaptureFixture) -> None:
    """Label Studio shows nobody the answer to a webhook, so the log says how credentials are added."""
    await ask({'api_token': TOKEN}, '/predict')
    assert caplog.text == ''
    await ask({'api_token': TOKEN}, '/webhook')
    assert '`wholebody labelstudio init` adds them' in caplog.text


async def websocket(settings: Settings, path: str, *headers: tuple[bytes, bytes], answers: bool) -> list[Message]:
    """Return what is sent to a WebSocket.

    :param answers: True if the server can answer a handshake with an HTTP response.
    """
    sent: list[Message] = []

    async def accept(_: Scope, receive: Any, send: Any) -> None:
        await receive()
        await send({'type': 'websocket.accept'})

    async def receive() -> Message:
        return {'type': 'websocket.connect'}

    async def send(message: Message) -> None:
        sent.append(message)

    scope: Scope = {'type': 'websocket', 'path': path, 'headers': list(headers), 'query_string': b'', 'client': None}
    scope['extensions'] = {'websocket.http.response': {}} if answers else {}
    await AccessControl(accept, settings=settings, access_policy=AccessPolicy(settings))(scope, receive, send)
    return sent


@pytest.mark.parametrize(
    ('path', 'token', 'status'),
    [
        ('/ws/socket.io/', '', 101),
        ('/ui/_nicegui_ws/socket.io/', '', 401),
        ('/ui/_nicegui_ws/socket.io/', TOKEN, 101),
        ('/health', '', 401),
        ('/health', TOKEN, 403),
        ('/detect', TOKEN, 403),
    ],
)
async def test_a_websocket_needs_the_token_and_an_endpoint(path: str, token: str, status: int) -> None:
    """Socket.IO checks the tokens of its clients itself; other paths need the token, and most take no WebSocket."""
    settings = load_settings(api_token=TOKEN)
    headers = [(b'authorization', f'Bearer {token}'.encode())] if token else []
    first, *_ = await websocket(settings, path, *headers, answers=True)
    if status == 401:
        assert (first['type'], first['status']) == ('websocket.http.response.start', 401)
    else:
        assert first['type'] == ('websocket.accept' if status == 101 else 'websocket.close')
    if status == 401:
        (closed,) = await websocket(settings, path, *headers, answers=False)
        assert (closed['type'], closed['code']) == ('websocket.close', 1008)
        assert 'this node requires its token' in closed['reason'] or 'user name or password' in closed['reason']


async def test_a_part_that_is_no_request_passes() -> None:
    """The start and end of the app are not requests."""
    seen: list[str] = []

    async def app(scope: Scope, *_: Any) -> None:
        seen.append(scope['type'])

    settings = load_settings(api_token=TOKEN)
    control = AccessControl(app, settings=settings, access_policy=AccessPolicy(settings))
    await control({'type': 'lifespan'}, None, None)  # type: ignore[arg-type]
    assert seen == ['lifespan']
