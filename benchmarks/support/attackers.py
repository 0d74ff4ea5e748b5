"""Clients that hold a node up: raw sockets that send too much, too slowly, or never read."""

import resource
import socket
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress

from .processes import NodeProcess
from .waiting import PATIENCE

SMALL_BUFFER = 4096
"""Size of the receive buffer of a client that does not read, in bytes."""


def frame(text: str) -> bytes:
    """Return a WebSocket frame with a text of 126 to 65,535 bytes; its mask of zeros changes nothing."""
    content = text.encode()
    return b'\x81\xfe' + len(content).to_bytes(2, 'big') + bytes(4) + content


EVENTS = 1000 * frame('421["about"' + ' ' * 200 + ']')
"""A thousand Socket.IO events, as frames of a WebSocket."""


def become_client(connection: socket.socket) -> None:
    """Become a Socket.IO client over a WebSocket."""
    connection.sendall(
        b'GET /ws/socket.io/?EIO=4&transport=websocket HTTP/1.1\r\nHost: 127.0.0.1\r\nConnection: Upgrade\r\n'
        b'Upgrade: websocket\r\nSec-WebSocket-Version: 13\r\nSec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\n\r\n'
    )
    connection.recv(4096)
    connection.sendall(frame('40' + ' ' * 200))


@contextmanager
def open_files(soft: int) -> Iterator[None]:
    """Set the limit on open files of this process and of processes that it starts."""
    before, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_NOFILE, (before, hard))


@contextmanager
def connections(node: NodeProcess, count: int, *, small: bool = False) -> Iterator[list[socket.socket]]:
    """Open connections to a node, and close them at the end.

    :param small: True for a small receive buffer, so that an unread answer stays in the node.
    """
    opened: list[socket.socket] = []
    try:
        for _ in range(count):
            connection = socket.socket()
            opened.append(connection)
            if small:
                connection.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, SMALL_BUFFER)
            connection.settimeout(PATIENCE)
            connection.connect(('127.0.0.1', node.port))
        yield opened
    finally:
        for connection in opened:
            connection.close()


def send_until_closed(connection: socket.socket, piece: bytes, *, times: int) -> int:
    """Send a piece again and again until the node closes the connection or reads no more for a second.

    :return: number of bytes that were sent.
    """
    connection.settimeout(1)
    sent = 0
    with suppress(OSError):
        for _ in range(times):
            sent += connection.send(piece)
    return sent


def is_closed(connection: socket.socket) -> bool:
    """Read what has arrived, and return True if the node has closed the connection."""
    connection.setblocking(False)
    try:
        while connection.recv(65536):
            pass
    except BlockingIOError:
        return False
    except OSError:
        pass
    return True


def health_seconds(node: NodeProcess) -> float:
    """Return how long a new client waits for the answer to `GET /health`.

    :raises OSError: there is none.
    """
    begun = time.monotonic()
    with socket.create_connection(('127.0.0.1', node.port), timeout=PATIENCE) as connection:
        connection.sendall(b'GET /health HTTP/1.1\r\nHost: 127.0.0.1\r\nConnection: close\r\n\r\n')
        answer = connection.recv(1000)
    assert answer.startswith(b'HTTP/1.1 200 '), answer
    return time.monotonic() - begun
