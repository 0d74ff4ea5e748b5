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
    body = await request.body()
    return PlainTextResponse(body or str(request.scope[AUTHORIZED]))


async def ask(
    settings: dict[str, Any],
    path: str = '/detect',
    method: str = 'POST',
    *,
    policy: AccessPolicy | None = None,
    headers: dict[str, str] | None = None,
    body: bytes = b'',
) -> httpx.Response:
    """Send a request to an app whose routes answer with its body, or with True if an empty request is authorized."""
    read = load_settings(**settings)
    app = Starlette(routes=[Route('/{path:path}', ok, methods=['GET', 'HEAD', 'POST', 'PUT', 'OPTIONS'])])
    install(app, read, policy or AccessPolicy(read))
    transport = httpx.ASGITransport(app)
    async with httpx.AsyncClient(transport=transport, base_url='http://robot') as client:
        return await client.request(method, path, headers={'Host': 'robot'} | (headers or {}), content=body)


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
        assert answer.json()['detail'] == 'the token is wrong, or not sent as a bearer token (API_TOKEN)'


@pytest.mark.parametrize(
    ('settings', 'authorization', 'status'),
    [
        ({}, '', 200),
        ({'api_token': TOKEN}, '', 401),
        ({'api_token': TOKEN}, f'Bearer {TOKEN}', 200),
        ({'api_token': TOKEN}, basic('any', TOKEN), 200),
        ({'api_token': TOKEN}, basic('', TOKEN), 200),
        ({'api_token': TOKEN}, basic(TOKEN, ''), 401),
        ({'api_token': TOKEN}, basic('any', TOKEN).upper()[:5] + f'  {basic("any", TOKEN)[6:]} ', 200),
        ({'api_token': TOKEN}, basic('any', f'{TOKEN}:'), 401),
        ({'api_token': TOKEN}, 'Basic %%%', 401),
        ({'api_token': TOKEN}, basic('any', TOKEN).replace(' ', ' %'), 401),
        ({'api_token': TOKEN}, basic('any', TOKEN).replace('Basic', 'Digest'), 401),
        (NAMED, basic('ann', 'sésame'), 200),
        (NAMED, basic('ann', 'sésame', 'latin-1'), 200),
        (NAMED, basic('ann', 'sésame').replace(' ', '  ') + ' ', 200),
        (NAMED | {'basic_auth_user': '安'}, basic('安', 'sésame'), 200),
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
    assert AccessPolicy(load_settings()).allows_label_studio(HTTPConnection({'type': 'http', 'headers': []}))


@pytest.mark.parametrize(
    ('method', 'path', 'settings', 'headers'),
    [
        ('GET', '/health', {'api_token': TOKEN}, {}),
        ('POST', '/login', {'api_token': TOKEN}, {}),
        ('POST', '/detect', {}, {}),
        ('POST', '/detect', {'api_token': TOKEN}, BEARER),
        ('POST', '/predict', NAMED, {'Authorization': basic('ann', 'sésame')}),
    ],
)
async def test_the_app_reads_the_body(
    method: str, path: str, settings: dict[str, Any], headers: dict[str, str]
) -> None:
    """A request that may pass reaches the app with its body."""
    answer = await ask(settings, path, method, headers=headers, body=b'an image')
    assert answer.content == b'an image'


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
    if status == 401:
        scheme = 'Basic' if path == '/health' else 'Bearer'
        assert answer.headers['WWW-Authenticate'] == f'{scheme} realm="wholebody"'
    elif method != 'HEAD':
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
    for _ in range(2):  # a second logout changes nothing
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
        ('https://10.1.2.3', {'X-Forwarded-Host': '10.1.2.3 ,proxy'}, 200),
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
        remedy = 'CORS_ORIGINS lists the allowed ones'
        assert answer.json()['detail'] == f'a page of another origin may not use this node; {remedy}'


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
    answer = await ask(settings, path, 'GET', headers=headers)
    assert answer.status_code == status
    if status == 403:
        detail = answer.json()['detail']
        assert detail.startswith('without API_TOKEN, pages may use this node by its IP address, a name without a dot')
        assert detail.endswith('; CORS_ORIGINS lists other names, such as https://node.example')


@pytest.mark.parametrize('origin', [ALLOWED, 'https://other.example', 'https://evil.example'])
@pytest.mark.parametrize('cors', [f'{ALLOWED},https://other.example', '*'])
@pytest.mark.parametrize('token', [None, TOKEN])
async def test_each_of_several_origins_may_use_the_node(origin: str, cors: str, token: str | None) -> None:
    """A page of a listed origin may send any method and header and read Retry-After; `*` lists all origins."""
    settings: dict[str, Any] = {'cors_origins': cors, 'api_token': token}
    asked = {'Access-Control-Request-Method': 'PUT', 'Access-Control-Request-Headers': 'authorization, x-camera'}
    preflight = await ask(settings, method='OPTIONS', headers=asked | {'Origin': origin})
    answer = await ask(settings, headers={'Origin': origin} | (BEARER if token else {}))
    if cors != '*' and origin not in cors:
        assert (preflight.status_code, answer.status_code) == (400, 403)
        assert 'access-control-allow-origin' not in preflight.headers
        return
    assert (preflight.status_code, answer.status_code) == (200, 200)
    assert {'DELETE', 'GET', 'PATCH', 'POST', 'PUT'} <= set(
        preflight.headers['access-control-allow-methods'].split(', ')
    )
    assert {'authorization', 'x-camera'} <= set(preflight.headers['access-control-allow-headers'].split(', '))
    assert answer.headers['access-control-allow-origin'] == ('*' if cors == '*' else origin)
    assert answer.headers['access-control-expose-headers'] == 'Retry-After'


async def test_without_cors_origins_a_preflight_is_refused() -> None:
    """A browser that asks for another origin's page learns nothing but that the origin is foreign."""
    headers = {'Origin': ALLOWED, 'Access-Control-Request-Method': 'PUT'}
    answer = await ask({}, method='OPTIONS', headers=headers)
    assert answer.status_code == 403
    assert not [name for name in answer.headers if name.startswith('access-control')]


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
        assert answer.json()['detail'].startswith('this node requires its token')
    if status == 303:
        answer = await ask({'api_token': TOKEN}, '/outbox/é', method, headers=headers)
        assert answer.headers['location'] == '/login?next=/outbox/%C3%A9', 'without a query'


async def test_a_wrong_token_is_answered_late_and_logged_once_a_second(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    """The answer to a guess is delayed; the log names the address and the number of guesses, and no guess."""
    monkeypatch.setattr(access, '_ATTEMPT_SECONDS', 0.1)
    clock = [0.0]
    monkeypatch.setattr('detector.observability.logs.time', SimpleNamespace(monotonic=lambda: clock[-1]))
    policy = AccessPolicy(load_settings(api_token=TOKEN))
    asked: dict[str, Any] = {'settings': {'api_token': TOKEN}, 'policy': policy}
    start = time.monotonic()
    for guess in ('guess-1', 'guess-2'):
        assert (await ask(**asked, headers={'Authorization': f'Bearer {guess}'})).status_code == 401
    assert time.monotonic() - start >= 0.2
    assert caplog.text.count('a wrong token or password from 127.0.0.1 (1 since the last such line)') == 1
    assert caplog.text.count('a wrong token') == 1
    assert 'guess' not in caplog.text
    clock.append(1.5)
    assert (await ask(**asked, headers={'Authorization': 'Bearer guess-3'})).status_code == 401
    assert caplog.text.count('(2 since the last such line)') == 1
    assert policy.accepts_token(TOKEN)
    assert not policy.accepts_token('\ud800'), 'JSON may contain half a character'
    assert not policy.sessions.knows('\ud800')
    assert not policy.accepts_token(None)
    assert AccessPolicy(load_settings()).accepts_token(None), 'a node without a token'


async def test_a_webhook_without_credentials_names_the_remedy(caplog: pytest.LogCaptureFixture) -> None:
    """Label Studio shows nobody the answer to a webhook, so the log says how credentials are added."""
    await ask({'api_token': TOKEN}, '/predict')
    assert caplog.text == ''
    await ask({'api_token': TOKEN}, '/webhook')
    assert '`wholebody labelstudio init` adds them' in caplog.text


async def websocket(
    settings: Settings, path: str, *headers: tuple[bytes, bytes], extensions: dict[str, Any] | None
) -> list[Message]:
    """Return what is sent to a WebSocket.

    :param extensions: what the server can do, such as answering a handshake with an HTTP response; None: not said.
    """
    sent: list[Message] = []
    received: list[Message] = [{'type': 'websocket.connect'}]

    async def accept(_: Scope, receive: Any, send: Any) -> None:
        await receive()
        await send({'type': 'websocket.accept'})

    async def receive() -> Message:
        return received.pop()

    async def send(message: Message) -> None:
        assert not received or message.get('code') == 1000, 'a refusal follows the handshake'
        sent.append(message)

    scope: Scope = {'type': 'websocket', 'path': path, 'headers': list(headers), 'query_string': b'', 'client': None}
    if extensions is not None:
        scope['extensions'] = extensions
    await AccessControl(accept, settings=settings, access_policy=AccessPolicy(settings))(scope, receive, send)
    return sent


@pytest.mark.parametrize(
    ('path', 'token', 'status'),
    [
        ('/ws/socket.io/', '', 101),
        ('/ui/_nicegui_ws/socket.io/', '', 401),
        ('/ui/_nicegui_ws/socket.io/', 'wrong', 401),
        ('/ui/_nicegui_ws/socket.io/', TOKEN, 101),
        ('/health', '', 401),
        ('/health', TOKEN, 403),
        ('/detect', TOKEN, 403),
    ],
)
async def test_a_websocket_needs_the_token_and_an_endpoint(
    path: str, token: str, status: int, caplog: pytest.LogCaptureFixture
) -> None:
    """Socket.IO checks the tokens of its clients itself; other paths need the token, and most take no WebSocket."""
    settings = load_settings(api_token=TOKEN)
    headers = [(b'accept', b'text/html'), *([(b'authorization', f'Bearer {token}'.encode())] if token else [])]
    first, *_ = await websocket(settings, path, *headers, extensions={'websocket.http.response': {}})
    if status != 401:
        assert first['type'] == ('websocket.accept' if status == 101 else 'websocket.close')
        return
    assert (first['type'], first['status']) == ('websocket.http.response.start', 401)
    silent: tuple[dict[str, Any] | None, ...] = ({}, None)
    for extensions in silent:
        (closed,) = await websocket(settings, path, *headers, extensions=extensions)
        assert (closed['type'], closed['code']) == ('websocket.close', 1008)
        reason = {'': 'this node requires its token: ', 'wrong': 'the token is wrong, or not sent as a bearer token'}
        assert closed['reason'].startswith('user name or' if path == '/health' else reason[token])
    assert ('a wrong token or password from an unknown address' in caplog.text) == bool(token)


async def test_the_reason_of_a_closed_websocket_fits_into_its_frame() -> None:
    """A control frame has room for 123 bytes, so a longer reason is cut."""
    headers = [(b'host', b'evil.example'), (b'origin', b'http://evil.example')]
    (closed,) = await websocket(load_settings(), '/ws/socket.io/', *headers, extensions={})
    assert closed['reason'].startswith('without API_TOKEN, pages may use this node by its IP address')
    assert len(closed['reason']) == 100


async def test_an_answer_keeps_its_own_protection() -> None:
    """A header of the answer is not sent twice, whatever its case; an answer may have no headers at all."""
    sent: list[Message] = []
    starts: list[Message] = [{}, {'headers': [(b'Content-Security-Policy', b'sandbox'), (b'x-other', b'1')]}]

    async def app(_scope: Scope, _receive: Any, send: Any) -> None:
        await send({'type': 'http.response.start', 'status': 200} | dict(starts[len(sent) // 2]))
        await send({'type': 'http.response.body', 'body': b'x'})

    async def send(message: Message) -> None:
        sent.append(message)

    settings = load_settings()
    control = AccessControl(app, settings=settings, access_policy=AccessPolicy(settings))
    for _ in starts:
        await control({'type': 'http', 'path': '/health', 'method': 'GET', 'headers': []}, None, send)  # type: ignore[arg-type]
    guard = (b'content-security-policy', b"frame-ancestors 'none'")
    nosniff = (b'x-content-type-options', b'nosniff')
    body = {'type': 'http.response.body', 'body': b'x'}
    start = {'type': 'http.response.start', 'status': 200}
    assert sent == [
        start | {'headers': [guard, nosniff]},
        body,
        start | {'headers': [*starts[1]['headers'], nosniff]},
        body,
    ]


async def test_a_part_that_is_no_request_passes() -> None:
    """The start and end of the app are not requests."""
    seen: list[Any] = []

    async def app(*given: Any) -> None:
        seen.extend(given)

    settings = load_settings(api_token=TOKEN)
    control = AccessControl(app, settings=settings, access_policy=AccessPolicy(settings))
    lifespan: tuple[Any, ...] = ({'type': 'lifespan'}, object(), object())
    await control(*lifespan)
    assert tuple(seen) == lifespan
