"""Messages that break the Engine.IO or the Socket.IO protocol, sent to a real node."""

import json
import socket
from contextlib import suppress
from typing import Final

import httpx
import pytest
from websockets.exceptions import ConnectionClosed
from websockets.sync.client import ClientConnection, connect

from benchmarks.support.processes import NodeProcess
from benchmarks.support.waiting import PATIENCE, eventually

POLLING: Final = '/ws/socket.io/?EIO=4&transport=polling'
WEBSOCKET: Final = '/ws/socket.io/?EIO=4&transport=websocket'
HOSTILE: Final[list[str | bytes]] = [
    *('', 'x', '9', 'é', '²', 'd=', 'd=5', 'b===', 'bé', '\x1e'),  # Engine.IO
    *('4', '4x', '49', '44', '40{', '40[1', '4[1]', '451-["a"]', '461-7[]', '40\x1e4{'),  # Socket.IO
    *(b'', b'\xff\xfe', b'abc'),
]


def lines(node: NodeProcess) -> str:
    return node.log.read_text()


def session(node: NodeProcess, client: httpx.Client | None = None) -> str:
    """Open a connection that polls, and return its path."""
    get = httpx.get if client is None else client.get
    opened = json.loads(get(node.url + POLLING, timeout=PATIENCE).text[1:])
    return f'{POLLING}&sid={opened["sid"]}'


def websocket(node: NodeProcess, path: str = WEBSOCKET) -> ClientConnection:
    return connect(node.url.replace('http', 'ws') + path, proxy=None, open_timeout=PATIENCE)


def assert_ends(connection: ClientConnection) -> None:
    """Expect that the node closes a connection, whatever it sends before."""
    with suppress(ConnectionClosed):
        for _ in range(10):
            connection.recv(PATIENCE)
        pytest.fail('the connection stays')


@pytest.mark.parametrize('is_client', [False, True])
def test_no_message_makes_the_node_log_a_traceback(node: NodeProcess, is_client: bool) -> None:
    """A malformed message is ignored or ends its connection, before and after the handshake, on both transports."""
    before = len(lines(node))
    with httpx.Client(base_url=node.url, timeout=PATIENCE) as client:
        for message in HOSTILE:
            path = session(node, client)
            with websocket(node) as connection, suppress(ConnectionClosed):
                if is_client:
                    client.post(path, content='40')
                    connection.send('40')
                content = message.encode() if isinstance(message, str) else message
                assert client.post(path, content=content).status_code in (200, 400)
                connection.send(message)  # the node has read it when it confirms the end of the connection
        assert client.get('/about').status_code == 200
    assert 'Traceback' not in lines(node)[before:]


def test_text_that_is_not_a_packet_ends_its_connection(node: NodeProcess) -> None:
    """The node closes the connection of such a client; a client with a packet of each type stays."""
    with websocket(node) as kept, websocket(node) as ended:
        for kind in '356':
            kept.send(kind)
        ended.send('x')
        assert_ends(ended)
        kept.send('40')
        assert [kept.recv(PATIENCE)[:1] for _ in range(2)] == ['0', '6']
        assert str(kept.recv(PATIENCE)).startswith('40{')


@pytest.mark.parametrize('messages', [['x'], [''], ['²'], ['2probe', 'x'], ['2probe', ''], ['2probe', '²'], [b'\xff']])
def test_an_upgrade_that_fails_is_no_fault_of_the_node(node: NodeProcess, messages: list[str | bytes]) -> None:
    """A polling client that sends anything else than a probe and its confirmation gets no WebSocket."""
    before = len(lines(node))
    path = session(node)
    with websocket(node, path.replace('polling', 'websocket')) as connection, suppress(ConnectionClosed):
        for message in messages:
            connection.send(message)
        while True:
            connection.recv(PATIENCE)
    assert 'Traceback' not in lines(node)[before:]


@pytest.mark.parametrize('body', ['Content-Length: 10\r\n\r\n', 'Transfer-Encoding: chunked\r\n\r\n1\r\n4\r\n'])
@pytest.mark.parametrize('method', ['GET', 'POST'])
def test_a_request_that_is_cut_off_is_no_fault_of_the_node(node: NodeProcess, method: str, body: str) -> None:
    """A client may close its connection before the body of its request is complete."""
    before = len(lines(node))
    path = session(node)
    with socket.create_connection(('127.0.0.1', node.port), timeout=PATIENCE) as connection:
        connection.sendall(f'{method} {path} HTTP/1.1\r\nHost: 127.0.0.1\r\nExpect: 100-continue\r\n{body}'.encode())
    eventually(lambda: httpx.post(node.url + path, content='3', timeout=PATIENCE).status_code in (200, 400))
    assert 'Traceback' not in lines(node)[before:]


def test_text_that_is_not_utf8_is_one_line(node: NodeProcess) -> None:
    """The log names the fault in a line of the usual format, without a traceback, and at most once a second."""
    before = len(lines(node))

    def is_named() -> bool:
        with websocket(node) as connection:
            connection.recv(PATIENCE)
            connection.socket.sendall(b'\x81\x81\0\0\0\0\xff')
            assert_ends(connection)
        return 'a message of a client is ignored: UnicodeDecodeError' in lines(node)[before:]

    eventually(is_named, 'the log names the fault')  # a line of an earlier test may have taken this second
    added = lines(node)[before:].splitlines()
    named = [line for line in added if 'a message of a client is ignored: UnicodeDecodeError' in line]
    assert all('WARNING' in line for line in named)
    assert not any(line.startswith(('Traceback', 'UnicodeDecodeError')) for line in added)
