"""The proxy in front of two replicas: Debian's HAProxy with the configuration that docker-compose.yml mounts."""

import itertools
import json
import re
import signal
import subprocess
import threading
import time
from collections import Counter
from collections.abc import Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import httpx
import pytest
import socketio

from benchmarks.support.attackers import connections, health_seconds, open_files
from benchmarks.support.cards import CARD, assert_read, poses_of
from benchmarks.support.packages import make_package
from benchmarks.support.processes import PROJECT, NodeProcess, free_port, running_node
from benchmarks.support.waiting import eventually
from detector.api.middleware.limits import MIB
from detector.engine.verification import verify
from detector.models.store import ModelStore
from tests.support.integration.debian import program

pytestmark = pytest.mark.integration

VERSIONS = ('1.1', '1.2')
"""Model versions of the two nodes, so that each answer shows which node gave it."""


@pytest.fixture(scope='session')
def haproxy() -> Path:
    return program('haproxy', 'haproxy')


@contextmanager
def running_proxy(
    haproxy: Path, folder: Path, first: int, second: int, *, changes: Mapping[str, str] | None = None
) -> Iterator[str]:
    """Start HAProxy in front of two ports, and yield its address. Its configuration gets other addresses only.

    :param changes: further texts of the configuration to replace, for shorter times.
    """
    port = free_port()
    text = (PROJECT / 'deploy' / 'proxy' / 'haproxy.cfg').read_text()
    for old, new in ((' node:8004', first), (' node-2:8004', second), ('bind :8080', port)):
        assert old in text
        text = text.replace(old, f'{old[: -len(old.lstrip())]}{"bind " if "bind" in old else ""}127.0.0.1:{new}')
    for old, replacement in (changes or {}).items():
        assert old in text
        text = text.replace(old, replacement)
    configuration = folder / 'haproxy.cfg'
    configuration.write_text(text)
    checked = subprocess.run([haproxy, '-c', '-f', configuration], capture_output=True, text=True, check=False)
    assert checked.returncode == 0, checked.stderr
    assert 'WARNING' not in checked.stderr.upper(), checked.stderr
    log = folder / 'haproxy.log'
    with log.open('wb') as sink:
        process = subprocess.Popen([haproxy, '-W', '-db', '-f', configuration], stdout=sink, stderr=sink)
    try:
        eventually(lambda: process.poll() is None and _answers(f'http://127.0.0.1:{port}'))
        yield f'http://127.0.0.1:{port}'
    finally:
        process.send_signal(signal.SIGTERM)
        process.wait(20)


def _answers(url: str) -> bool:
    try:
        httpx.get(f'{url}/health', timeout=5)
    except httpx.TransportError:
        return False
    return True


# ---------------------------------------------------------------- real nodes


@contextmanager
def replica(folder: Path, version: str) -> Iterator[NodeProcess]:
    """Start a node with a model of this version."""
    package = make_package(folder.with_suffix('.zip'), version=version)
    ModelStore(folder / 'data').install(package, verify=verify)
    with running_node(folder, DEADLINE=60) as node:
        yield node


@pytest.fixture(scope='module')
def replicas(tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[NodeProcess, NodeProcess]]:
    folder = tmp_path_factory.mktemp('replicas')
    with replica(folder / 'first', VERSIONS[0]) as first, replica(folder / 'second', VERSIONS[1]) as second:
        yield first, second


@pytest.fixture(scope='module')
def proxy(
    haproxy: Path, replicas: tuple[NodeProcess, NodeProcess], tmp_path_factory: pytest.TempPathFactory
) -> Iterator[str]:
    first, second = replicas
    with running_proxy(haproxy, tmp_path_factory.mktemp('proxy'), first.port, second.port) as url:
        yield url


def version(proxy: str) -> str:
    """Return the model version of the node that reads the card."""
    answer = httpx.post(f'{proxy}/poses', files={'file': CARD}, timeout=30)
    assert answer.status_code == 200, answer.text
    return str(answer.json()['model_version'])


def test_both_nodes_work(proxy: str) -> None:
    """The proxy distributes requests over both nodes."""
    assert len({version(proxy) for _ in range(6)}) == 2


def test_the_backend_of_label_studio_answers_through_it(proxy: str) -> None:
    """Health, setup and predictions for Label Studio work through the proxy."""
    assert httpx.get(f'{proxy}/health').json()['status'] == 'UP'
    answer = httpx.post(f'{proxy}/setup', json={'project': '1', 'schema': '<View></View>'}, timeout=30)
    assert answer.status_code == 200, answer.text
    answer = httpx.post(f'{proxy}/predict', json=_tasks(), timeout=60)
    assert answer.status_code == 200, answer.text
    assert len(answer.json()['results'][0]['result']) > 2


def _tasks(padding: int = 0) -> dict[str, object]:
    import base64

    image = 'data:image/jpeg;base64,' + base64.b64encode(CARD).decode()
    return {'tasks': [{'id': 1, 'data': {'image': image}, 'meta': 'x' * padding}], 'project': '1.1'}


def test_large_bodies_go_through(proxy: str) -> None:
    """A body of 100 MiB reaches the node, since the proxy has no lower limit than the node."""
    answer = httpx.post(f'{proxy}/predict', json=_tasks(padding=100 * 1024**2), timeout=120)
    assert answer.status_code == 200, answer.text
    assert len(answer.json()['results'][0]['result']) > 2


def test_the_nodes_limits_apply_through_it(proxy: str) -> None:
    """The client gets the node's own refusal of a body that is too large, even while it is still sending."""
    answer = httpx.post(f'{proxy}/predict', content=bytes(2 * 65 * MIB + 1), timeout=120)
    assert answer.status_code == 413
    assert 'limit' in answer.json()['detail']


@pytest.mark.parametrize(
    ('count', 'sent'),
    [(1100, b''), (1000, b'GET /health HTTP/1.1\r\nX: '), (300, b'GET /openapi.json HTTP/1.1\r\nHost: x\r\n\r\n')],
    ids=['silent', 'half a header', 'unread answers'],
)
def test_connections_that_hold_the_proxy_do_not_keep_others_out(
    proxy: str, replicas: tuple[NodeProcess, NodeProcess], count: int, sent: bytes
) -> None:
    """While connections send nothing, half a header, or read no answer, others are answered within seconds."""
    front = replace(replicas[0], port=int(proxy.rpartition(':')[2]))
    with open_files(4096), connections(front, count, small=True) as attackers:
        for connection in attackers:
            connection.sendall(sent)
        for _ in range(5):
            assert health_seconds(front) < 5
            answer = httpx.post(f'{proxy}/detect', files={'file': CARD}, timeout=9)  # before the proxy gives them up
            assert answer.status_code == 200, answer.text


@pytest.mark.parametrize('transport', ['websocket', 'polling'])
def test_socketio_goes_through_it(proxy: str, transport: str) -> None:
    """All requests of a Socket.IO client reach the same node, with either transport."""
    client = socketio.Client(reconnection=False)
    client.connect(proxy, socketio_path='/ws/socket.io', transports=[transport])
    connections = client.eio.ws, client.eio.http
    try:
        image = {'format': 'jpeg', 'bytes': CARD}
        for _ in range(5):
            assert_read(poses_of(client.call('detect', {'image': image}, timeout=30)))
        versions = {client.call('poses', {'image': image}, timeout=30)['model_version'] for _ in range(5)}
        assert len(versions) == 1
    finally:
        client.disconnect()
        for connection in filter(None, connections):
            connection.close()


def test_routes_about_a_single_node_are_refused(proxy: str) -> None:
    """The proxy answers 421 for routes about a single node, such as its outbox, since it could not tell which node."""
    for path in (
        '/about',
        '/model_version',
        '/outbox',
        '/outbox/x/image',
        '/metrics',
        '/ui',
        '/ui/x',
        '/operation_mode',
    ):
        answer = httpx.get(proxy + path)
        assert answer.status_code == 421, path
        assert 'send the request to a node' in answer.json()['detail']
    assert httpx.put(f'{proxy}/model_version', content='pause').status_code == 421


def test_requests_go_on_when_a_node_is_killed(haproxy: Path, tmp_path: Path) -> None:
    """Predictions in progress on a killed node are repeated on the other one, and the node is used again later."""
    with (
        replica(tmp_path / 'first', VERSIONS[0]) as first,
        replica(tmp_path / 'second', VERSIONS[1]) as second,
        running_proxy(haproxy, tmp_path, first.port, second.port) as proxy,
    ):
        assert len({version(proxy) for _ in range(6)}) == 2
        outcomes: Counter[int] = Counter()
        stop = threading.Event()

        def ask() -> None:
            while not stop.is_set():
                outcomes[httpx.post(f'{proxy}/predict', json=_tasks(), timeout=60).status_code] += 1

        with ThreadPoolExecutor(4) as pool:
            asking = [pool.submit(ask) for _ in range(4)]
            eventually(lambda: outcomes[200] >= 10, seconds=60)
            before = outcomes[200]
            first.process.kill()
            try:
                eventually(lambda: outcomes[200] >= before + 30, seconds=90)
            finally:
                stop.set()
            for answer in asking:
                answer.result()
        assert set(outcomes) == {200}
        assert {version(proxy) for _ in range(4)} == {f'test-card {VERSIONS[1]}'}
        with running_node(first.data_folder.parent, DEADLINE=60, BACKEND_PORT=first.port):
            eventually(lambda: version(proxy) == f'test-card {VERSIONS[0]}')


# ---------------------------------------------------------------- servers that answer with their name


@dataclass
class Echo:
    """A server that answers with its name and records the requested paths except `/ready`.

    :param status: status of the answers; 0 closes the connection without an answer.
    :param seconds: time until the answers begin.
    :param ready: status of the answer to `/ready`.
    :param asked: requested paths so far.
    """

    name: str
    status: int = 200
    seconds: float = 0
    ready: int = 200
    asked: list[str] = field(default_factory=list)
    port: int = 0

    @contextmanager
    def running(self) -> Iterator['Echo']:
        echo = self

        class Handler(BaseHTTPRequestHandler):
            protocol_version = 'HTTP/1.1'

            def do_GET(self) -> None:
                self.rfile.read(int(self.headers.get('Content-Length', 0)))
                if self.path == '/ready':
                    status = echo.ready
                else:
                    status = echo.status
                    echo.asked.append(self.path)
                    time.sleep(echo.seconds)
                if not status:
                    self.close_connection = True
                    return
                body = json.dumps({'name': echo.name, 'for': self.headers.get('X-Forwarded-For')}).encode()
                self.send_response(status)
                self.send_header('Content-Length', str(len(body)))
                self.end_headers()
                self.wfile.write(body)

            do_POST = do_GET

            def log_message(self, *_: object) -> None:
                pass

        with ThreadingHTTPServer(('127.0.0.1', 0), Handler) as server:
            self.port = server.server_port
            threading.Thread(target=server.serve_forever, daemon=True).start()
            yield self
            server.shutdown()


@pytest.fixture
def echoes(haproxy: Path, tmp_path: Path) -> Iterator[tuple[str, Echo, Echo]]:
    with (
        Echo('first').running() as first,
        Echo('second').running() as second,
        running_proxy(haproxy, tmp_path, first.port, second.port) as proxy,
    ):
        yield proxy, first, second


def names(proxy: str, path: str, count: int = 8) -> Counter[str]:
    return Counter(httpx.post(proxy + path, content=b'x').json()['name'] for _ in range(count))


def test_corrections_have_one_addressee(echoes: tuple[str, Echo, Echo]) -> None:
    """All webhooks reach the first node, or the second one while the first is not ready."""
    proxy, first, _ = echoes
    assert names(proxy, '/webhook') == {'first': 8}
    first.ready = 503
    eventually(lambda: names(proxy, '/webhook', 1) == {'second': 1})
    first.ready = 200
    eventually(lambda: names(proxy, '/webhook', 1) == {'first': 1})


def test_polling_clients_come_back_to_their_node(echoes: tuple[str, Echo, Echo]) -> None:
    """Polls of a client's address reach one node, and other requests are distributed."""
    proxy, _, _ = echoes
    assert len(names(proxy, '/ws/socket.io/?EIO=4&transport=polling')) == 1
    assert len(names(proxy, '/detect')) == 2
    assert httpx.post(f'{proxy}/detect').json()['for'] == '127.0.0.1'


@pytest.mark.parametrize('size', [10, 200_000])
def test_what_one_node_refuses_the_other_is_asked(echoes: tuple[str, Echo, Echo], size: int) -> None:
    """A refused prediction is repeated on the other node; a frame, which may already be in an outbox, is not."""
    proxy, first, second = echoes
    first.status = 503
    for _ in range(4):
        assert httpx.post(f'{proxy}/predict', content=b'x' * size).json()['name'] == 'second'
    assert {httpx.post(f'{proxy}/detect').status_code for _ in range(4)} == {200, 503}
    assert first.asked.count('/detect') == second.asked.count('/detect') == 2


def test_requests_that_cannot_be_sent_again_end_with_an_answer(echoes: tuple[str, Echo, Echo]) -> None:
    """Frames, and requests that are too large to repeat, get 502 in JSON if their node closes the connection."""
    proxy, first, second = echoes
    first.status = 0
    for _ in range(4):
        assert httpx.post(f'{proxy}/predict', content=b'x' * 1000).json()['name'] == 'second'
    for path, size in (('/detect', 1000), ('/predict', 1_000_000)):
        answers = [httpx.post(proxy + path, content=b'x' * size) for _ in range(4)]
        lost = [answer.json() for answer in answers if answer.status_code == 502]
        assert lost == [{'detail': 'the node closed the connection: try again'}] * 2, path
    assert second.asked.count('/detect') == 2


def test_a_client_may_wait_longer_for_an_answer_than_it_may_pause(haproxy: Path, tmp_path: Path) -> None:
    """The time limit for a pause of the client does not count while it waits for the node, as Label Studio does."""
    with (
        Echo('first', seconds=3).running() as first,
        Echo('second', seconds=3).running() as second,
        running_proxy(
            haproxy, tmp_path, first.port, second.port, changes={'timeout client 120s': 'timeout client 1s'}
        ) as proxy,
    ):
        for path in ('/predict', '/detect', '/ws/socket.io/?EIO=4&transport=polling'):
            assert httpx.post(proxy + path, content=b'x', timeout=20).status_code == 200, path


def test_a_node_without_a_model_is_asked_nothing(echoes: tuple[str, Echo, Echo]) -> None:
    """A node that is not ready gets no requests; without a ready node, the proxy answers 503 with Retry-After."""
    proxy, first, second = echoes
    first.ready = 503
    eventually(lambda: names(proxy, '/detect', 4) == {'second': 4})
    second.ready = 503
    eventually(lambda: httpx.post(f'{proxy}/detect').status_code == 503)
    answer = httpx.post(f'{proxy}/predict')
    assert answer.status_code == 503
    assert answer.json() == {'detail': 'no node is ready'}
    assert answer.headers['Retry-After'] == '5'


def test_time_outs_are_longer_than_label_studios() -> None:
    """The proxy's time limits exceed the 100 s after which Label Studio stops waiting."""
    text = (PROJECT / 'deploy' / 'proxy' / 'haproxy.cfg').read_text()
    found = {name: int(value) for name, value in re.findall(r'timeout (\w+) +(\d+)s', text)}
    assert min(found['client'], found['server']) > 100
    assert all(value for value in itertools.chain(found.values()))
