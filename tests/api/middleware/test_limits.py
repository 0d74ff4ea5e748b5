"""Limits on size, number and speed of requests, over raw sockets where a client library sends only valid bytes."""

import json
import socket
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack, contextmanager, suppress
from pathlib import Path

import httpx
import pytest

from benchmarks.support.cards import CARD
from benchmarks.support.processes import NodeProcess, running_node
from benchmarks.support.waiting import PATIENCE, eventually
from tests.support.sabotage import Sabotage
from tests.support.scrapes import Scrape

SECONDS = 1.5
MIB = 1024**2


@pytest.fixture(scope='module')
def strict(tmp_path_factory: pytest.TempPathFactory) -> Iterator[NodeProcess]:
    """A node with low limits."""
    settings = {'MAX_REQUESTS': 3, 'MAX_BODY_MIB': 1, 'BODY_SECONDS': SECONDS, 'MAX_TASKS': 3}
    with running_node(tmp_path_factory.mktemp('strict'), **settings) as running:
        yield running


@pytest.fixture(scope='module')
def patient(tmp_path_factory: pytest.TempPathFactory) -> Iterator[NodeProcess]:
    """A node with few places that waits long for bodies."""
    with running_node(tmp_path_factory.mktemp('patient'), MAX_REQUESTS=3, BODY_SECONDS=600) as running:
        yield running


@contextmanager
def request(node: NodeProcess, head: str, body: bytes = b'') -> Iterator[socket.socket]:
    """Send a request whose body does not end on its own, and yield the connection.

    :param head: request line and headers, without Host.
    """
    with socket.create_connection(('127.0.0.1', node.port), timeout=PATIENCE) as connection:
        connection.sendall(f'{head}\r\nHost: 127.0.0.1:{node.port}\r\n\r\n'.encode() + body)
        yield connection


@contextmanager
def request_in_progress(node: NodeProcess, head: str, body: bytes = b'') -> Iterator[socket.socket]:
    """Do the same as :func:`request`, and wait until the node has begun to read the body."""
    with request(node, f'{head}\r\nExpect: 100-continue') as connection:
        assert connection.recv(1000) == b'HTTP/1.1 100 Continue\r\n\r\n'
        connection.sendall(body)
        yield connection


def refusal(node: NodeProcess, head: str) -> tuple[int, str]:
    """Send a request without its body until the node refuses it at once; return status and text.

    A node that still has room waits for the body; then the connection is closed and the request repeated.
    """

    def attempt() -> tuple[int, str] | None:
        with request(node, head) as connection, suppress(TimeoutError):
            connection.settimeout(1)
            return answer_of(connection)
        return None

    found = eventually(attempt, 'the node refuses a request')
    assert found is not None
    return found


def answer_of(connection: socket.socket) -> tuple[int, str]:
    """Return the status and all received bytes."""
    received = b''
    while b'\r\n\r\n' not in received or b'"detail"' not in received:
        piece = connection.recv(65536)
        if not piece:
            break
        received += piece
    text = received.decode()
    return int(text.split()[1]), text


SLOW = 'POST /poses HTTP/1.1\r\nContent-Type: multipart/form-data; boundary=x\r\nContent-Length: 1000'
CHUNKED = 'POST /poses HTTP/1.1\r\nContent-Type: multipart/form-data; boundary=x\r\nTransfer-Encoding: chunked'
TASKS = 'POST /predict HTTP/1.1\r\nContent-Length: 1000'
COMMAND = 'PUT /operation_mode HTTP/1.1\r\nContent-Length: 9'


@pytest.mark.parametrize('head', [SLOW, CHUNKED, TASKS, COMMAND])
def test_a_body_that_does_not_come_is_not_waited_for(strict: NodeProcess, head: str) -> None:
    """A client whose body does not arrive gets 408 after BODY_SECONDS, and the connection ends."""
    start = time.monotonic()
    with request(strict, head, b'5\r\n--x\r\n\r\n' if head == CHUNKED else b'--x') as connection:
        status, text = answer_of(connection)
        assert status == 408, text
        assert 'BODY_SECONDS' in text
        assert time.monotonic() - start > SECONDS - 0.01
        assert connection.recv(10) == b''
    assert strict.detect(CARD).status_code == 200


def test_a_body_that_trickles_is_not_waited_for_either(strict: NodeProcess) -> None:
    """The time limit applies to the whole body, however many bytes keep arriving."""
    part = b'--x\r\nContent-Disposition: form-data; name="file"; filename="a"\r\n\r\n'
    with request(strict, SLOW, part) as connection:
        start = time.monotonic()
        connection.settimeout(0.1)
        while True:
            assert time.monotonic() - start < SECONDS + PATIENCE
            try:
                connection.sendall(b'-')
                received = connection.recv(1000)
                break
            except TimeoutError:
                pass
        assert b' 408 ' in received


def test_requests_beyond_the_limit_are_refused_at_once(patient: NodeProcess) -> None:
    """Surplus requests are refused before their bodies arrive, probes are answered, and ended requests free places."""
    with ExitStack() as stack:
        for _ in range(3):
            stack.enter_context(request_in_progress(patient, SLOW, b'--x'))
        with request(patient, SLOW) as connection:
            status, text = answer_of(connection)
        assert status == 503
        assert 'retry-after: 1' in text.lower()
        assert 'MAX_REQUESTS' in text
        for path in ('/health', '/ready', '/about'):
            assert httpx.get(patient.url + path, timeout=PATIENCE).status_code == 200
        with patient.socketio() as client:
            assert client.call('about')['operation_mode'] == 'idle'
        refused = patient.detect(CARD)  # its body is sent and discarded
        assert refused.status_code == 503
    eventually(lambda: patient.detect(CARD).status_code == 200, 'the ended requests free their places')


def test_slow_logins_take_no_place(strict: NodeProcess) -> None:
    """A login comes from a client without a token, so it does not count and has a short time limit."""
    login = 'POST /login HTTP/1.1\r\nContent-Type: application/x-www-form-urlencoded\r\nContent-Length: 1000'
    with ExitStack() as stack:
        slow = [stack.enter_context(request_in_progress(strict, login, b'token=')) for _ in range(6)]
        assert strict.detect(CARD).status_code == 200
        assert {answer_of(connection)[0] for connection in slow} == {408}


def test_bodies_are_bounded_by_a_setting(strict: NodeProcess) -> None:
    """Bodies are limited to the byte, with and without declared size; Label Studio's may be twice as large."""
    head = b'--x\r\nContent-Disposition: form-data; name="file"; filename="a"\r\n\r\n'
    tail = b'\r\n--x--\r\n'
    headers = {'Content-Type': 'multipart/form-data; boundary=x'}
    for extra, status in ((0, 415), (1, 413)):
        content = head + bytes(MIB - len(head) - len(tail) + extra) + tail
        assert httpx.post(f'{strict.url}/poses', content=content, headers=headers).status_code == status
        chunks = (content[start : start + 60_000] for start in range(0, len(content), 60_000))
        assert httpx.post(f'{strict.url}/poses', content=chunks, headers=headers).status_code == status
    for size, status in ((3 * MIB // 2, 200), (2 * MIB, 413)):
        body = json.dumps({'tasks': [], 'padding': size * 'x'})
        assert httpx.post(f'{strict.url}/predict', content=body).status_code == status


def test_the_refusal_arrives_while_the_body_is_still_sent(strict: NodeProcess) -> None:
    """A client that sends everything before it reads gets the whole answer and no reset; then the connection ends."""
    size = 20 * MIB
    head = f'POST /poses HTTP/1.1\r\nContent-Type: multipart/form-data; boundary=x\r\nContent-Length: {size}'
    for _ in range(5):
        with request(strict, head) as connection:
            connection.sendall(bytes(size))
            time.sleep(0.1)
            status, text = answer_of(connection)
            assert status == 413
            assert text.endswith('}')
            assert connection.recv(10) == b''


def test_what_all_have_sent_together_is_bounded(tmp_path: Path) -> None:
    """While requests have used up the common limit, a further one gets 503, at once if it declares its size."""
    part = b'--x\r\nContent-Disposition: form-data; name="file"; filename="a"\r\n\r\n' + bytes(700_000)
    head = SLOW.replace('1000', str(MIB))
    with running_node(tmp_path, MAX_IN_FLIGHT_MIB=1, MAX_BODY_MIB=1, MAX_FRAME_MIB=4) as node:
        with request_in_progress(node, head, part), node.socketio() as client:
            status, text = refusal(node, head)
            assert node.detect(CARD).status_code == 200
            assert (status, 'MAX_IN_FLIGHT_MIB' in text, 'retry-after: 1' in text.lower()) == (503, True, True)
            chunk = f'{len(part):x}\r\n'.encode() + part + b'\r\n'
            with request(node, CHUNKED, chunk) as connection:
                assert answer_of(connection)[0] == 503
            image = {'bytes': bytes(480_000), 'dtype': 'uint8', 'shape': (400, 400, 3)}
            assert 'MAX_IN_FLIGHT_MIB' in client.call('poses', {'image': image})['error']
            assert 'error' not in client.call('about')
            refused = Scrape.of_node(node.url).total('wholebody_refused_total', reason='memory')
            assert refused == 3
            assert 'poses is answered with an error: ' in node.log.read_text()
        with node.socketio() as client:
            assert len(client.call('poses', {'image': image})['poses']) == 0
            batch = client.call('batch_detect', {'images': [image, image, image]})
            assert '(MAX_IN_FLIGHT_MIB)' in batch['error']
            assert len(client.call('batch_detect', {'images': [image, image]})['items']) == 2
        content = part + b'\r\n--x--\r\n'
        answer = httpx.post(
            f'{node.url}/poses', content=content, headers={'Content-Type': 'multipart/form-data; boundary=x'}
        )
        assert answer.status_code == 415


def test_tasks_are_bounded_by_a_setting(strict: NodeProcess) -> None:
    """A request with too many tasks is refused as a whole."""
    tasks = [{'id': number, 'data': {'image': 'data:,'}} for number in range(4)]
    answer = httpx.post(f'{strict.url}/predict', json={'tasks': tasks})
    assert answer.status_code == 413
    assert '4 tasks are more than 3 (MAX_TASKS)' in answer.json()['detail']
    assert len(httpx.post(f'{strict.url}/predict', json={'tasks': tasks[:3]}).json()['results']) == 3


def test_while_the_queue_is_full_forms_are_not_even_read(tmp_path: Path) -> None:
    """While the queue is full, the head of a request already gets 503, and each refusal is counted once."""
    sabotage = Sabotage(tmp_path / 'runtime')
    settings = {'MAX_WAITING': 1, 'DEADLINE': 60}
    with running_node(tmp_path / 'node', **settings, **sabotage.settings) as node, ThreadPoolExecutor(2) as pool:
        sabotage.hold()
        detections = [pool.submit(node.detect, CARD) for _ in range(2)]
        sabotage.wait_until_held()
        for _ in range(3):
            status, text = refusal(node, SLOW)
            assert status == 503
            assert 'are ahead of this one; try again later' in text
            assert 'retry-after: ' in text.lower()
        sabotage.end()
        assert [detection.result().status_code for detection in detections] == [200, 200]
        assert node.detect(CARD).status_code == 200
        assert httpx.get(f'{node.url}/about').json()['requests']['refused'] == 3


def test_the_body_of_a_login_has_a_limit_of_its_own(patient: NodeProcess) -> None:
    """A login whose body does not arrive gets 408 after 5 seconds, however long other bodies may take."""
    head = 'POST /login HTTP/1.1\r\nContent-Type: application/x-www-form-urlencoded\r\nContent-Length: 20'
    start = time.monotonic()
    with request(patient, head, b'token=') as connection:
        status, text = answer_of(connection)
    assert status == 408, text
    assert time.monotonic() - start > 4.9
