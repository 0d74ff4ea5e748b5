"""Requests for tests of access control."""

from websockets.exceptions import InvalidStatus
from websockets.sync.client import connect
from websockets.typing import Origin

from benchmarks.support.processes import NodeProcess

TOKEN = 'correct-horse-battery-staple'


ALLOWED = 'https://tools.example:8443'


def handshake(node: NodeProcess, path: str, *, origin: str | None = None, headers: dict[str, str] | None = None) -> int:
    """Return the status that answers a WebSocket handshake; 101 if the node accepts it."""
    url = node.url.replace('http', 'ws') + path
    try:
        with connect(url, origin=None if origin is None else Origin(origin), additional_headers=headers, proxy=None):
            return 101
    except InvalidStatus as error:
        return error.response.status_code
