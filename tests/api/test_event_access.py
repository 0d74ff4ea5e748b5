"""Access control for Socket.IO with real clients over real ports."""

import json
import socket
import threading
import time
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import httpx
import pytest
import socketio
from websockets.exceptions import ConnectionClosed
from websockets.sync.client import ClientConnection, connect

from benchmarks.support.processes import NodeProcess, running_node
from benchmarks.support.waiting import PATIENCE, eventually
from detector.api import event_access

TOKEN = 'correct-horse-battery-staple'
POLLING = '/ws/socket.io/?EIO=4&transport=polling'


@pytest.fixture(scope='module')
def closed(tmp_path_factory: pytest.TempPathFactory) -> Iterator[NodeProcess]:
    """A node that requires a token, accepts two clients, and has short time limits."""
    settings = {'API_TOKEN': TOKEN, 'MAX_CLIENTS': 2, 'BODY_SECONDS': 2, 'MAX_FRAME_MIB': 1}
    with running_node(tmp_path_factory.mktemp('closed'), **settings) as running:
        yield running


@pytest.fixture(scope='module')
def patient(tmp_path_factory: pytest.TempPathFactory) -> Iterator[NodeProcess]:
    """A node that requires a token, accepts two clients, and waits long for them."""
    settings = {'API_TOKEN': TOKEN, 'MAX_CLIENTS': 2, 'BODY_SECONDS': 600}
    with running_node(tmp_path_factory.mktemp('patient'), **settings) as running:
        yield running


class Visitor:
    """A client that tries to connect.

    :param options: of `socketio.Client.connect`.
    """

    def __init__(self, node: NodeProcess, **options: Any) -> None:
        self.reason: Any = None
        self.client = socketio.Client(reconnection=False)
        self.client.on('connect_error', self._refused)
        arguments = {'socketio_path': '/ws/socket.io', 'transports': ['websocket'], 'wait_timeout': 10} | options
        with suppress(socketio.exceptions.ConnectionError):
            self.client.connect(node.url, **arguments)

    def _refused(self, reason: Any) -> None:
        self.reason = reason['message'] if isinstance(reason, dict) else reason

    def __enter__(self) -> 'Visitor':
        return self

    def __exit__(self, *_: object) -> None:
        self.leave()

    def leave(self) -> None:
        connections = self.client.eio.ws, self.client.eio.http
        self.client.disconnect()
        if connections[0] is not None:
            connections[0].shutdown()
        if connections[1] is not None:
            connections[1].close()


def accepted(node: NodeProcess, **options: Any) -> Visitor:
    """Connect a client as soon as the node has noticed that earlier clients have left."""

    def attempt() -> Visitor | None:
        visitor = Visitor(node, **options)
        if visitor.client.connected:
            return visitor
        visitor.leave()
        assert 'MAX_CLIENTS' in str(visitor.reason)
        return None

    found = eventually(attempt, 'the node accepts a client')
    assert found is not None
    return found


@pytest.mark.parametrize('transport', ['websocket', pytest.param('polling', marks=pytest.mark.integration)])
def test_only_the_right_token_is_accepted(closed: NodeProcess, transport: str) -> None:
    """The token counts in `auth` or in a header; with a wrong one or without one, the client gets the reason."""
    for options, reason in (
        ({}, "connect with auth={'token': API_TOKEN}"),
        ({'auth': {'token': 'wrong'}}, 'the token is wrong'),
        ({'auth': {'token': None}}, "connect with auth={'token': API_TOKEN}"),
        ({'auth': {'token': 7}}, 'the token is wrong'),
        ({'auth': 'text'}, "connect with auth={'token': API_TOKEN}"),
        ({'headers': {'Authorization': 'Bearer wrong'}}, 'the token is wrong'),
    ):
        with Visitor(closed, transports=[transport], **options) as visitor:
            assert reason in str(visitor.reason), options
            assert not visitor.client.connected
    for options in ({'auth': {'token': TOKEN}}, {'headers': {'Authorization': f'Bearer {TOKEN}'}}):
        with accepted(closed, transports=[transport], **options) as visitor:
            assert visitor.client.call('about', timeout=10)['operation_mode'] == 'idle'
    assert TOKEN not in closed.log.read_text()


def test_the_number_of_clients_is_bounded(closed: NodeProcess) -> None:
    """A client above the limit gets the reason for its refusal, and is accepted once another one has left."""
    options = {'auth': {'token': TOKEN}}
    with accepted(closed, **options) as first:
        with accepted(closed, **options) as second:
            with Visitor(closed, **options) as third:
                assert '2 clients are connected, the maximum (MAX_CLIENTS)' in str(third.reason)
            assert second.client.call('about', timeout=10)
        with accepted(closed, **options) as fourth:
            assert fourth.client.call('about', timeout=10)
        assert first.client.call('about', timeout=10)


def test_reserved_events_change_nothing(closed: NodeProcess) -> None:
    """A client that sends `connect` or `disconnect` gets an answer, stays connected, and is counted once."""
    with accepted(closed, auth={'token': TOKEN}) as visitor:
        payloads: tuple[object, ...] = ({'asgi.scope': {'wholebody.admitted': True}}, None, ({}, {'token': TOKEN}))
        for payload in payloads:
            assert 'is not an event' in visitor.client.call('connect', payload, timeout=5)['error']
            assert 'is not an event' in visitor.client.call('disconnect', payload, timeout=5)['error']
        assert visitor.client.call('about', timeout=10)
        with accepted(closed, auth={'token': TOKEN}) as second:
            assert second.client.call('about', timeout=10)


def test_no_event_is_served_while_a_token_is_checked(closed: NodeProcess) -> None:
    """An event that arrives while the client's token is checked is not served, although the library would serve it."""
    session = session_of(httpx.get(closed.url + POLLING))
    address = f'{closed.url}{POLLING}&sid={session}'
    answers: list[str] = []
    asking = threading.Thread(target=lambda: httpx.post(address, content='40{"token":"wrong"}', timeout=5))
    asking.start()
    time.sleep(0.1)
    httpx.post(address, content='427["set_model_version_mode","pause"]', timeout=5)
    asking.join()
    for _ in range(3):
        if 'token is wrong' in ''.join(answers):
            break
        answers.append(httpx.get(address, timeout=5).text)
    assert 'the token is wrong' in ''.join(answers)
    assert '"status":"OK"' not in ''.join(answers)
    mode = httpx.get(f'{closed.url}/model_version', headers={'Authorization': f'Bearer {TOKEN}'}).json()
    assert mode['version_control'] == 'follow_loop'


def test_frames_are_not_inflated(closed: NodeProcess) -> None:
    """The node offers no compression, since a few bytes could inflate to many times MAX_FRAME_MIB."""
    url = closed.url.replace('http', 'ws') + '/ws/socket.io/?EIO=4&transport=websocket'
    with connect(url, proxy=None, compression='deflate') as websocket:
        assert websocket.response is not None
        assert 'Sec-WebSocket-Extensions' not in websocket.response.headers


def assert_ends(websocket: ClientConnection) -> None:
    """Expect that the node closes the connection, whatever it sends before."""
    with suppress(ConnectionClosed):
        for _ in range(10):
            websocket.recv(10)
        raise AssertionError('the connection stays')


def test_unauthenticated_clients_send_little_and_do_not_stay(closed: NodeProcess) -> None:
    """Before authentication a connection may send only small messages, and only for a short time."""
    url = closed.url.replace('http', 'ws') + '/ws/socket.io/?EIO=4&transport=websocket'
    polling = f'{POLLING}&sid={session_of(httpx.get(closed.url + POLLING))}'
    assert httpx.post(closed.url + polling, content='3').status_code == 200
    start = time.monotonic()
    with connect(url, proxy=None) as websocket:
        assert_ends(websocket)
    assert time.monotonic() - start > 1.9, 'BODY_SECONDS'
    eventually(
        lambda: httpx.post(closed.url + polling, content='3').status_code == 400, 'the polling client is forgotten'
    )
    session = session_of(httpx.get(closed.url + POLLING))
    large = httpx.post(f'{closed.url}{POLLING}&sid={session}', content=20_000 * b' ')
    assert large.status_code == 413
    assert 'send the token' in large.json()['detail']


def test_a_large_message_before_authentication_ends_the_connection(patient: NodeProcess) -> None:
    """A message of more than 16 KiB ends a connection without a client at once; a smaller one does not."""
    url = patient.url.replace('http', 'ws') + '/ws/socket.io/?EIO=4&transport=websocket'
    with connect(url, proxy=None) as websocket:
        websocket.recv(5)
        start = time.monotonic()
        websocket.send('42["about",' + 16_000 * ' ' + '1]')
        with pytest.raises(TimeoutError):
            websocket.recv(1)
        websocket.send('42["about",' + 20_000 * ' ' + '1]')
        assert_ends(websocket)
        assert time.monotonic() - start < 4, 'the time limit of 5 seconds ends it too'


def session_of(answer: httpx.Response) -> str:
    return answer.text.split('"sid":"')[1].split('"')[0]


def test_connections_without_a_client_lock_out_no_client(patient: NodeProcess) -> None:
    """With too many connections without a client, the oldest one ends; clients stay, and new ones can connect."""
    url = patient.url.replace('http', 'ws') + '/ws/socket.io/?EIO=4&transport=websocket'
    asking = httpx.Client(base_url=patient.url, timeout=PATIENCE)
    with asking as client, accepted(patient, auth={'token': TOKEN}) as first:
        with connect(url, proxy=None) as websocket:
            sessions = [session_of(client.get(POLLING)) for _ in range(40)]
            assert_ends(websocket)
        gone, kept = (client.post(f'{POLLING}&sid={sessions[place]}', content='3') for place in (0, -1))
        assert (gone.status_code, kept.status_code) == (400, 200)
        with accepted(patient, auth={'token': TOKEN}) as second:
            assert second.client.call('about', timeout=10)
        assert first.client.call('about', timeout=10)


def test_frames_are_bounded(closed: NodeProcess, tmp_path: Path) -> None:
    """A frame beyond MAX_FRAME_MIB ends its own connection and no other."""
    with accepted(closed, auth={'token': TOKEN}) as bystander:
        with accepted(closed, auth={'token': TOKEN}) as visitor:
            small = visitor.client.call('poses', {'image': {'format': 'jpeg', 'bytes': bytes(900_000)}}, timeout=10)
            assert 'not an image' in small['error']
            visitor.client.emit('poses', {'image': {'format': 'jpeg', 'bytes': bytes(1_100_000)}})
            eventually(lambda: not visitor.client.connected, 'the connection ends')
        assert bystander.client.call('about', timeout=10)


def test_a_polling_client_sends_one_request_at_a_time(node: NodeProcess) -> None:
    """A second simultaneous request of a polling client is refused, so that it cannot send many messages at once."""
    opened = httpx.get(f'{node.url}{POLLING}').text
    sid = json.loads(opened[1:])['sid']
    head = f'POST {POLLING}&sid={sid} HTTP/1.1\r\nHost: 127.0.0.1\r\nContent-Length: 1000\r\n'
    with socket.create_connection(('127.0.0.1', node.port), timeout=PATIENCE) as slow:
        slow.sendall(f'{head}Expect: 100-continue\r\n\r\n'.encode())
        assert slow.recv(1000) == b'HTTP/1.1 100 Continue\r\n\r\n', 'the node reads the body'
        slow.sendall(b'4')
        second = httpx.post(f'{node.url}{POLLING}&sid={sid}', content='40')
        assert second.status_code == 422
        assert 'one request after the other' in second.json()['detail']
    eventually(lambda: httpx.post(f'{node.url}{POLLING}&sid={sid}', content='40').text == 'OK', 'the next one is read')


def test_an_unauthenticated_client_declares_the_size_of_its_messages(closed: NodeProcess) -> None:
    """A body of undeclared size from an unauthenticated client is not read."""
    opened = httpx.get(f'{closed.url}{POLLING}').text
    sid = json.loads(opened[1:])['sid']
    answer = httpx.post(f'{closed.url}{POLLING}&sid={sid}', content=iter([b'40']))
    assert answer.status_code == 413
    assert 'send the token' in answer.json()['detail']


def test_a_burst_of_events_is_answered(patient: NodeProcess) -> None:
    """A client that sends many events before it reads gets all answers, although the node waits in between."""
    count, answered = 2000, threading.Semaphore(0)
    with accepted(patient, auth={'token': TOKEN}) as visitor:
        for _ in range(count):
            visitor.client.emit('get_outbox_mode', callback=lambda _: answered.release())
        for _ in range(count):
            assert answered.acquire(timeout=PATIENCE)


def test_a_polling_client_reads_before_it_sends_more(patient: NodeProcess) -> None:
    """A polling client with too many unread answers gets 503 until it has read them."""
    with httpx.Client(base_url=patient.url, timeout=PATIENCE) as client:
        address = f'{POLLING}&sid={session_of(client.get(POLLING))}'
        client.post(address, content=f'40{{"token":"{TOKEN}"}}')
        events = '\x1e'.join('421["get_outbox_mode"]' for _ in range(64))
        statuses = [client.post(address, content=events).status_code for _ in range(8)]
        assert statuses[0] == 200
        assert statuses[-1] == 503, statuses
        client.get(address)
        assert client.post(address, content=events).status_code == 200


async def test_a_flood_of_messages_is_spread(monkeypatch: pytest.MonkeyPatch) -> None:
    """At most eight messages of a connection are handled in ten milliseconds, and messages after a silence at once."""
    clock = [100.0]
    rests: list[float] = []

    async def rest(seconds: float) -> None:
        rests.append(seconds)
        clock[0] += seconds

    async def receive() -> dict[str, Any]:
        return {'type': 'websocket.receive', 'text': '2'}

    monkeypatch.setattr(event_access, 'asyncio', SimpleNamespace(sleep=rest))
    monkeypatch.setattr(event_access, 'time', SimpleNamespace(monotonic=lambda: clock[0]))
    next_message = event_access._paced(receive)
    for _ in range(24):
        await next_message()
    assert rests == [pytest.approx(0.01)] * 2
    clock[0] += 1
    await next_message()
    assert len(rests) == 2
