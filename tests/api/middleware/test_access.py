"""Access control on real nodes: the token, the login page, Label Studio's credentials and foreign origins."""

import base64
import socket
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import httpx
import pytest

from benchmarks.support.cards import CARD
from benchmarks.support.processes import NodeProcess, running_node
from detector.api.route_policy import OPEN_PATHS
from detector.cli.main import app
from tests.support.access import ALLOWED, TOKEN, handshake
from tests.support.commands import invoke, succeed

BEARER = {'Authorization': f'Bearer {TOKEN}'}
FOREIGN = 'http://evil.example'


# ---------------------------------------------------------------- the token


def test_all_but_the_listed_routes_ask_for_the_token(closed: NodeProcess) -> None:
    """All documented, hidden, mounted and unknown paths need the token; open paths answer a GET without it."""
    described = httpx.get(f'{closed.url}/openapi.json').json()['paths']
    routes = [
        (method.upper(), path.replace('{name}', 'x')) for path, methods in described.items() for method in methods
    ]
    assert ('POST', '/detect') in routes
    routes += [
        ('POST', '/reset'),
        ('GET', '/docs'),
        ('GET', '/redoc'),
        ('GET', '/ws/x'),
        ('GET', '/ui'),
        ('GET', '/no'),
    ]
    routes += [('POST', '/health'), ('GET', '//detect'), ('GET', '/health/'), ('OPTIONS', '/detect'), ('DELETE', '/')]
    with httpx.Client() as client:
        for method, path in routes:
            answer = client.request(method, closed.url + path)
            if method == 'GET' and path in OPEN_PATHS:
                assert answer.status_code == 200, path
            else:
                assert answer.status_code == 401, (method, path)
                assert 'API_TOKEN' in answer.json()['detail']
                assert 'WWW-Authenticate' in answer.headers
    assert handshake(closed, '/ui/_nicegui_ws/socket.io/?EIO=4&transport=websocket') == 401


def test_the_token_opens_everything(closed: NodeProcess) -> None:
    """The token counts as a header. It does not count in the query, which appears in logs."""
    answer = httpx.post(f'{closed.url}/detect', files={'file': CARD}, headers=BEARER, timeout=30)
    assert len(answer.json()['box_detections']) == 2
    assert httpx.get(f'{closed.url}/docs', headers={'authorization': f'bearer {TOKEN}'}).status_code == 200
    assert httpx.put(f'{closed.url}/operation_mode', content='idle', headers=BEARER).status_code == 200
    assert httpx.get(f'{closed.url}/model_version', headers=BEARER).status_code == 200
    assert httpx.get(f'{closed.url}/model_version', params={'token': TOKEN}).status_code == 401
    assert handshake(closed, '/ui/_nicegui_ws/socket.io/?EIO=4&transport=websocket', headers=BEARER) == 101


def test_a_wrong_token_waits_and_is_logged_now_and_then(closed: NodeProcess) -> None:
    """A client with a wrong token waits while clients with the right one are served, and the log contains no guess."""
    guesses = [TOKEN[:-1], TOKEN + 'x', TOKEN.upper(), 'x', 'ä', 'guess-in-the-log']
    headers = [[(b'Authorization', b'Bearer ' + guess.encode())] for guess in guesses]
    before = closed.log.read_text().count('a wrong token')
    with ThreadPoolExecutor(len(guesses)) as pool, httpx.Client(base_url=closed.url, headers=BEARER) as known:
        known.get('/model_version')
        start = time.monotonic()
        wrong = [pool.submit(httpx.get, f'{closed.url}/model_version', headers=header) for header in headers]
        for _ in range(5):
            assert known.get('/model_version').status_code == 200
        for future in wrong:
            assert future.result().status_code == 401
            assert 'the token is wrong' in future.result().json()['detail']
        assert time.monotonic() - start > 0.25
    log = closed.log.read_text()
    assert 1 <= log.count('a wrong token') - before <= 3
    assert 'a wrong token or password from 127.0.0.1' in log
    assert 'guess-in-the-log' not in log
    assert TOKEN not in log


def test_commands_send_the_token_of_their_settings(
    closed: NodeProcess, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """`detect --url` and `outbox --url` send API_TOKEN; without it they report that the node requires a token."""
    (tmp_path / 'card.jpg').write_bytes(CARD)
    refused = invoke(app, 'detect', tmp_path / 'card.jpg', '--url', closed.url)
    assert refused.exit_code == 1
    assert 'answers 401: this node requires its token' in refused.output
    monkeypatch.setenv('API_TOKEN', TOKEN)
    assert '2 persons' in succeed(app, 'detect', tmp_path / 'card.jpg', '--url', closed.url)
    outbox = invoke(app, 'outbox', 'list', '--url', closed.url)
    assert 'answers 409' in str(outbox.exception), 'accepted by a node without a Learning Loop'


# ---------------------------------------------------------------- Label Studio


def basic(user: str, password: str) -> dict[str, str]:
    return {'Authorization': 'Basic ' + base64.b64encode(f'{user}:{password}'.encode()).decode()}


def test_label_studio_sends_the_token_as_a_password(closed: NodeProcess) -> None:
    """Label Studio's routes accept the token as a basic auth password, and other routes do not."""
    for path in ('/setup', '/predict', '/validate', '/train', '/webhook'):
        body = {'tasks': [], 'config': '<View/>'}
        assert httpx.post(closed.url + path, json=body).headers['WWW-Authenticate'].startswith('Basic')
        for headers in (basic('any', TOKEN), basic('', TOKEN), BEARER):
            assert httpx.post(closed.url + path, json=body, headers=headers).status_code in (200, 422), path
    for headers in (basic('any', 'wrong'), basic(TOKEN, ''), {'Authorization': 'Basic !'}, {'Authorization': 'Basic'}):
        assert httpx.post(f'{closed.url}/predict', json={'tasks': []}, headers=headers).status_code == 401
    assert httpx.get(f'{closed.url}/versions', headers=basic('any', TOKEN)).status_code == 200
    assert httpx.get(f'{closed.url}/model_version', headers=basic('any', TOKEN)).status_code == 401
    assert 'a webhook arrived without' in closed.log.read_text()


@pytest.fixture(scope='module')
def mixed(tmp_path_factory: pytest.TempPathFactory) -> Iterator[NodeProcess]:
    """A node with a token and a password that allows all origins."""
    settings = {'API_TOKEN': TOKEN, 'BASIC_AUTH_USER': 'ann', 'BASIC_AUTH_PASS': 'sésame', 'CORS_ORIGINS': '*'}
    with running_node(tmp_path_factory.mktemp('mixed'), **settings) as running:
        yield running


def test_with_both_the_password_is_label_studios_and_the_token_opens_all(mixed: NodeProcess) -> None:
    """Label Studio's routes and `/health` accept the password or the token, but not the token as a password."""
    for path in ('/versions', '/health'):
        assert httpx.get(mixed.url + path, headers=basic('ann', 'sésame')).status_code == 200
        assert httpx.get(mixed.url + path, headers=BEARER).status_code == 200
        for headers in ({}, basic('ann', TOKEN)):
            assert httpx.get(mixed.url + path, headers=headers).status_code == 401
    assert httpx.get(f'{mixed.url}/model_version', headers=basic('ann', 'sésame')).status_code == 401


# ---------------------------------------------------------------- origins


def test_pages_of_other_origins_cannot_drive_the_node(node: NodeProcess) -> None:
    """Simple requests, which browsers send without a preflight, and WebSockets of other origins are refused."""
    port = node.port
    for origin in (
        FOREIGN,
        'null',
        f'http://127.0.0.1:{port + 1}',
        f'http://127.0.0.1:{port}.evil.example',
        'http://[',
    ):
        for method, path in (
            ('POST', '/poses'),
            ('PUT', '/outbox_mode'),
            ('GET', '/ws/socket.io/?EIO=4&transport=polling'),
        ):
            answer = httpx.request(method, node.url + path, headers={'Origin': origin})
            assert answer.status_code == 403, (origin, path)
            assert 'CORS_ORIGINS' in answer.json()['detail']
            assert 'access-control-allow-origin' not in answer.headers
        assert handshake(node, '/ws/socket.io/?EIO=4&transport=websocket', origin=origin) == 403
    asked = {'Origin': FOREIGN, 'Access-Control-Request-Method': 'PUT'}
    assert httpx.options(f'{node.url}/outbox_mode', headers=asked).status_code == 403
    assert httpx.get(f'{node.url}/health', headers={'Origin': FOREIGN}).status_code == 200


def test_the_nodes_own_pages_and_programs_can(node: NodeProcess) -> None:
    """Pages of the same host count, also behind a proxy that ends TLS; a client without Origin is not a browser."""
    host = f'127.0.0.1:{node.port}'
    for headers in (
        {},
        {'Origin': f'http://{host}'},
        {'Host': 'node.example'},
        {'Origin': 'https://robot', 'Host': 'robot'},
        {'Origin': 'https://robot.local', 'Host': 'robot.local:443'},
        {'Origin': 'https://10.1.2.3', 'X-Forwarded-Host': '10.1.2.3'},
        {'Origin': 'http://[::1]:8004', 'Host': '[::1]:8004'},
    ):
        assert httpx.put(f'{node.url}/operation_mode', content='idle', headers=headers).status_code == 200, headers
    assert handshake(node, '/ws/socket.io/?EIO=4&transport=websocket', origin=f'http://{host}') == 101
    assert handshake(node, '/ws/socket.io/?EIO=4&transport=websocket') == 101


def test_a_foreign_name_of_the_node_opens_nothing(node: NodeProcess, tmp_path: Path) -> None:
    """The node refuses names that are not its own or in CORS_ORIGINS, since DNS rebinding could forge them."""
    rebound = {'Host': f'evil.example:{node.port}'}
    for origin in ({}, {'Origin': f'http://evil.example:{node.port}'}):
        for path in ('/ui', '/ui/', '/ui/outbox/x/image', '/outbox/x/image'):
            refused = httpx.get(node.url + path, headers=rebound | origin)
            assert refused.status_code == 403
            assert 'CORS_ORIGINS' in refused.json()['detail']
    refused = httpx.put(f'{node.url}/operation_mode', content='idle', headers=rebound | origin)
    assert refused.status_code == 403
    assert handshake(node, '/ws/socket.io/?EIO=4&transport=websocket', origin=FOREIGN, headers={'Host': FOREIGN}) == 403
    assert httpx.get(f'{node.url}/outbox/x/image').status_code == 409, 'accepted; the node has no Learning Loop'
    with running_node(tmp_path, CORS_ORIGINS='https://node.example:443') as named:
        for headers in (
            {'Host': 'node.example'},
            {'Host': 'node.example:443'},
            {'Origin': 'https://node.example', 'Host': 'node.example'},
            {'Origin': 'https://node.example', 'X-Forwarded-Host': 'node.example'},
        ):
            assert httpx.get(f'{named.url}/outbox/x/image', headers=headers).status_code == 409, headers
            assert httpx.put(f'{named.url}/operation_mode', content='idle', headers=headers).status_code == 200, headers
        assert httpx.get(f'{named.url}/outbox/x/image', headers={'Host': 'evil.example'}).status_code == 403


def test_with_a_token_any_name_will_do(closed: NodeProcess) -> None:
    """A node with a token accepts any name, since a foreign page has neither the token nor a session cookie."""
    own = {'Origin': 'https://node.example'}
    for headers in (own | {'Host': 'node.example:443'}, own | {'X-Forwarded-Host': 'node.example'}):
        answer = httpx.put(f'{closed.url}/operation_mode', content='idle', headers=BEARER | headers)
        assert answer.status_code == 200


def test_listed_origins_may_use_it_from_a_browser(closed: NodeProcess) -> None:
    """Preflights and answers, refusals included, carry each CORS header exactly once, or the browser rejects them."""
    asked = {'Origin': ALLOWED, 'Access-Control-Request-Method': 'POST'}
    asked['Access-Control-Request-Headers'] = 'authorization,camera_id'
    allowed = httpx.options(f'{closed.url}/detect', headers=asked)
    assert allowed.status_code == 200
    assert allowed.headers['access-control-allow-origin'] == ALLOWED
    assert 'authorization' in allowed.headers['access-control-allow-headers']
    for path, headers, status in (
        ('/model_version', BEARER, 200),
        ('/model_version', {}, 401),
        ('/ws/socket.io/?EIO=4&transport=polling', {}, 200),
    ):
        answer = httpx.get(closed.url + path, headers=headers | {'Origin': ALLOWED})
        assert answer.status_code == status
        assert answer.headers.get_list('access-control-allow-origin') == [ALLOWED]
        assert 'access-control-allow-credentials' not in answer.headers
    assert handshake(closed, '/ws/socket.io/?EIO=4&transport=websocket', origin=ALLOWED) == 101
    refused = httpx.get(f'{closed.url}/model_version', headers=BEARER | {'Origin': FOREIGN})
    assert refused.status_code == 403
    assert 'access-control-allow-origin' not in refused.headers


def test_where_all_origins_may_ask_they_still_need_the_token(mixed: NodeProcess) -> None:
    """A foreign page may send the token as a header; the cookie, which the browser sends by itself, does not count."""
    foreign = {'Origin': FOREIGN}
    with httpx.Client(base_url=mixed.url) as client:
        assert client.post('/login', data={'token': TOKEN}).status_code == 303
        assert client.put('/operation_mode', content='idle').status_code == 200
        assert client.put('/operation_mode', content='idle', headers=foreign).status_code == 401
        allowed = client.put('/operation_mode', content='idle', headers=foreign | BEARER)
        assert allowed.status_code == 200
        assert allowed.headers.get_list('access-control-allow-origin') == ['*']
        cookie = '; '.join('='.join(item) for item in client.cookies.items())
    assert handshake(mixed, '/ui/x', origin=FOREIGN, headers={'Cookie': cookie}) == 401
    assert handshake(mixed, '/ui/x', headers={'Cookie': cookie}) == 403, 'accepted, for a path that does not exist'


@pytest.mark.parametrize('host', ['[', 'a b', '', '127.0.0.1:99999', 'ä'])
def test_a_strange_host_is_no_fault_of_the_node(closed: NodeProcess, host: str) -> None:
    """A malformed Host, with and without an origin, never leads to a 500."""
    for origin in ('', f'Origin: http://{host}\r\n'):
        with socket.create_connection(('127.0.0.1', closed.port), timeout=10) as connection:
            head = f'GET /outbox?x HTTP/1.1\r\nHost: {host}\r\n{origin}Accept: text/html\r\nConnection: close\r\n\r\n'
            connection.sendall(head.encode())
            assert connection.recv(65536).split()[1] in (b'303', b'400', b'403')


@pytest.mark.parametrize('path', ['/ws/x', '/ws/socket.iox', '/ui/x', '/ui/_nicegui/x', '/detect', '/', '/outbox/x'])
def test_a_websocket_to_nowhere_is_refused_quietly(node: NodeProcess, path: str) -> None:
    """A handshake with a path that takes no WebSocket gets 403, without a traceback in the log."""
    before = len(node.log.read_text())
    assert handshake(node, path) == 403
    assert 'Traceback' not in node.log.read_text()[before:]


@pytest.mark.parametrize('path', ['/ui/', '/login', '/outbox', '/docs', '/about', '/nothing'])
def test_no_answer_may_be_framed_or_guessed(node: NodeProcess, path: str) -> None:
    """Pages cannot be shown in a frame, and browsers do not guess the type of an answer, such as a stored image."""
    answer = httpx.get(f'{node.url}{path}', timeout=60)
    assert "frame-ancestors 'none'" in answer.headers['content-security-policy']
    assert answer.headers['x-content-type-options'] == 'nosniff'
