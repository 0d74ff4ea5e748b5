"""Limits on connections, with raw sockets against real processes and a server with short limits."""

import asyncio
import socket
import time
from collections import Counter
from collections.abc import AsyncIterator, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack, suppress
from typing import cast

import httpx
import pytest
import uvicorn
from starlette.types import Receive, Scope, Send

from benchmarks.idle_memory import resident_mib
from benchmarks.support.attackers import connections as opened
from benchmarks.support.attackers import health_seconds, is_closed, open_files, send_until_closed
from benchmarks.support.cards import CARD
from benchmarks.support.processes import NodeProcess, free_port, running_node
from benchmarks.support.waiting import eventually, eventually_async
from detector.node import connections
from detector.node.connections import MAX_HEADER_BYTES, MAX_PIPELINED, Connection, Connections
from tests.support.scrapes import Scrape

GET = b'GET %s HTTP/1.1\r\nHost: 127.0.0.1\r\n\r\n'


@pytest.fixture(scope='module')
def node(tmp_path_factory: pytest.TempPathFactory) -> Iterator[NodeProcess]:
    """A node with few places that was started with the usual limit of 1024 open files."""
    folder = tmp_path_factory.mktemp('node')
    with open_files(1024), running_node(folder, MAX_REQUESTS=5) as running, open_files(4096):
        yield running


def ended(node: NodeProcess, reason: str) -> float:
    return Scrape.of_node(node.url).total('wholebody_connections_ended_total', reason=reason)


@pytest.mark.parametrize('begin', [b'GET / HTTP/1.1\r\nX: ', b'GET /', b'GET / HTTP/1.1\r\n'])
def test_a_header_has_a_limit(node: NodeProcess, begin: bytes) -> None:
    """Six headers of 100 MB are refused after 64 KiB with 431, in one line or in many, and cost no memory."""
    piece = b'a: b\r\n' * 10_000 if begin.endswith(b'\n') else b'a' * 65_536
    before, counted = resident_mib(node.process.pid), ended(node, 'header')
    with opened(node, 6) as attackers, ThreadPoolExecutor(6) as pool:
        for connection in attackers:
            connection.sendall(begin)
        sent = list(pool.map(lambda one: send_until_closed(one, piece, times=1600), attackers))
        assert max(sent) < 20 * 1024**2, 'only what the buffers of the system take'
        assert health_seconds(node) < 5
    eventually(lambda: ended(node, 'header') == counted + 6)
    assert resident_mib(node.process.pid) < before + 30
    assert 'Traceback' not in node.log.read_text()


def test_the_refusal_of_a_header_names_the_limit(node: NodeProcess) -> None:
    """A client whose header is a little too large reads a plain error; one within the limit is answered."""
    answer = httpx.get(f'{node.url}/health', headers={'X': 'a' * (MAX_HEADER_BYTES + 1)})
    assert answer.status_code == 431
    assert str(MAX_HEADER_BYTES) in answer.json()['detail']
    assert httpx.get(f'{node.url}/health', headers={'X': 'a' * (MAX_HEADER_BYTES - 500)}).status_code == 200


def test_trailers_of_a_body_count_as_header(node: NodeProcess) -> None:
    """A body in chunks cannot carry a header of any size behind it."""
    head = b'POST /predict HTTP/1.1\r\nHost: 127.0.0.1\r\nTransfer-Encoding: chunked\r\n\r\n2\r\n{}\r\n0\r\n'
    with opened(node, 1) as (connection,):
        connection.sendall(head)
        send_until_closed(connection, b'a: b\r\n' * 10_000, times=200)
        eventually(lambda: is_closed(connection))


def test_clients_that_do_not_read_take_no_place(node: NodeProcess) -> None:
    """While more clients than there are places read nothing, others are answered: an answer takes no place."""
    before = resident_mib(node.process.pid)
    with opened(node, 8, small=True) as attackers:
        for _ in range(20):  # until the buffers of the system are full, too
            for connection in attackers:
                send_until_closed(connection, GET % b'/openapi.json' * 8, times=1)
            time.sleep(0.3)
        assert node.detect(CARD).status_code == 200
        assert health_seconds(node) < 5
        assert Scrape.of_node(node.url).total('wholebody_connections') > 8
        assert httpx.get(f'{node.url}/openapi.json').status_code == 200
        assert resident_mib(node.process.pid) < before + 150
    assert httpx.get(f'{node.url}/about').status_code == 200


def test_a_connection_has_few_requests_at_a_time(node: NodeProcess) -> None:
    """A connection with more requests than it may have is closed, and costs no memory for those behind."""
    before = resident_mib(node.process.pid)
    with opened(node, 20, small=True) as attackers:
        for connection in attackers:
            send_until_closed(connection, GET % b'/openapi.json' * 10_000, times=1)
        for connection in attackers:
            eventually(lambda connection=connection: is_closed(connection))  # type: ignore[misc]
    assert resident_mib(node.process.pid) < before + 100
    with opened(node, 1) as (connection,):
        connection.sendall(GET % b'/health' * MAX_PIPELINED)
        received = b''
        while received.count(b'HTTP/1.1 200 OK') < MAX_PIPELINED:
            received += connection.recv(65536)


def test_idle_connections_make_room(node: NodeProcess) -> None:
    """While 1,100 clients connect and send nothing, others are answered at once; the oldest idle one goes."""
    before = ended(node, 'number')
    with opened(node, 1100) as attackers:
        assert health_seconds(node) < 5
        assert node.detect(CARD).status_code == 200
        assert is_closed(attackers[0])
        assert not is_closed(attackers[-1])
        assert ended(node, 'number') > before + 500
    assert 'Too many open files' not in node.log.read_text()


# ---------------------------------------------------------------- a server with short limits


ANSWER = 16 * 1024**2


async def app(scope: Scope, receive: Receive, send: Send) -> None:
    """Answer 16 MiB, or greet a WebSocket with as much."""
    if scope['type'] == 'websocket':
        await receive()
        await send({'type': 'websocket.accept'})
        while True:
            await send({'type': 'websocket.send', 'bytes': bytes(ANSWER)})
    headers = [(b'content-length', b'%d' % ANSWER)]
    await send({'type': 'http.response.start', 'status': 200, 'headers': headers})
    await send({'type': 'http.response.body', 'body': bytes(ANSWER)})


class Server(uvicorn.Server):
    """Checks its connections at every tick."""

    def __init__(self, bounds: Connections) -> None:
        http = cast(type[asyncio.Protocol], bounds.protocol)
        config = uvicorn.Config(
            app, port=free_port(), http=http, ws='websockets-sansio', lifespan='off', log_config=None
        )
        super().__init__(config)
        self.bounds = bounds
        bounds.open = cast(set[Connection], self.server_state.connections)

    async def on_tick(self, counter: int) -> bool:
        self.bounds.check(asyncio.get_running_loop().time())
        return await super().on_tick(counter)

    async def connect(self, first: bytes = b'', *, small: bool = True) -> socket.socket:
        connection = socket.socket()
        if small:
            connection.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
        connection.setblocking(False)
        await asyncio.get_running_loop().sock_connect(connection, ('127.0.0.1', self.config.port))
        await asyncio.get_running_loop().sock_sendall(connection, first)
        return connection


@pytest.fixture
def reasons() -> Counter[str]:
    return Counter()


@pytest.fixture
async def server(reasons: Counter[str], monkeypatch: pytest.MonkeyPatch) -> AsyncIterator[Server]:
    monkeypatch.setattr(connections, 'HEADER_SECONDS', 0.6)
    bounds = Connections(limit=3, seconds=1.2, unread_bytes=2 * ANSWER, on_end=lambda why: reasons.update([why]))
    running = Server(bounds)
    task = asyncio.create_task(running.serve())
    await eventually_async(lambda: running.started)
    yield running
    running.should_exit = True
    await task


def alive(server: Server) -> int:
    """Return the number of open connections."""
    return len(server.bounds.open)


@pytest.mark.parametrize('first', [b'', b'GET / HTTP/1.1\r\nX: ', b'\r\n'])
async def test_a_header_has_a_time_limit(server: Server, reasons: Counter[str], first: bytes) -> None:
    """A connection without a complete header ends after the time limit, however many bytes trickle in."""
    connection = await server.connect(first, small=False)
    loop = asyncio.get_running_loop()
    begun = loop.time()
    with connection:
        while not is_closed(connection):
            assert loop.time() - begun < 10
            await asyncio.sleep(0.1)
            if first.startswith(b'GET'):
                with suppress(OSError):
                    await loop.sock_sendall(connection, b'T')
    assert loop.time() - begun > 0.5
    assert reasons == {'header': 1}


async def test_an_answer_is_read_in_time(server: Server, reasons: Counter[str]) -> None:
    """A client that does not read its answer is disconnected after the time limit, also when the node has closed."""
    for head in (GET % b'/', b'GET / HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n'):
        with await server.connect(head):
            await eventually_async(lambda: alive(server) == 1)
            await asyncio.sleep(0.5)
            assert alive(server) == 1
            await eventually_async(lambda: alive(server) == 0)
    assert reasons == {'unread': 2}


async def test_a_websocket_that_is_not_read_ends(server: Server, reasons: Counter[str]) -> None:
    """A WebSocket whose client reads nothing is closed, although its messages never end."""
    upgrade = (
        b'GET / HTTP/1.1\r\nHost: x\r\nConnection: Upgrade\r\nUpgrade: websocket\r\n'
        b'Sec-WebSocket-Version: 13\r\nSec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\n\r\n'
    )
    with await server.connect(upgrade):
        await eventually_async(lambda: alive(server) == 1)
        await eventually_async(lambda: alive(server) == 0)
    assert reasons == {'unread': 1}


async def test_unread_answers_together_have_a_limit(server: Server, reasons: Counter[str]) -> None:
    """The client that has not read for the longest time is disconnected when all unread answers are too large."""
    with ExitStack() as stack:
        for _ in range(3):
            stack.enter_context(await server.connect(GET % b'/'))
        await eventually_async(lambda: reasons['unread'] == 1)
        await eventually_async(lambda: alive(server) == 2)
        await asyncio.sleep(0.3)
        assert reasons == {'unread': 1}, 'the others are within the limit'


async def test_a_refused_body_has_a_time_limit(server: Server, reasons: Counter[str]) -> None:
    """After an early answer, the rest of the body may arrive for the time of a body, and not for ever."""
    loop = asyncio.get_running_loop()
    connection = await server.connect(b'POST / HTTP/1.1\r\nHost: x\r\nContent-Length: 99999999\r\n\r\n', small=False)
    begun = loop.time()
    with connection:
        while not is_closed(connection):
            assert loop.time() - begun < 10
            try:
                await loop.sock_sendall(connection, b'x')
            except OSError:
                break
            await asyncio.sleep(0.1)
    assert loop.time() - begun > 1.1
    assert reasons == {'idle': 1}


async def test_a_client_that_reads_is_left_alone(
    server: Server, reasons: Counter[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """A client that sends requests and reads answers for longer than the time limit of one keeps its connection."""
    monkeypatch.setattr(connections, 'HEADER_SECONDS', 10.0)  # the client shares the event loop of the server
    address = f'http://127.0.0.1:{server.config.port}/'
    async with httpx.AsyncClient() as client:
        for _ in range(15):
            assert len((await client.get(address)).content) == ANSWER
            await asyncio.sleep(0.1)
    assert not reasons


async def test_busy_connections_refuse_a_new_one(server: Server, reasons: Counter[str]) -> None:
    """If all connections have requests in progress, the new one is closed."""
    server.bounds.limit = 0
    with await server.connect() as connection:
        await eventually_async(lambda: is_closed(connection))
    assert reasons == {'number': 1}
