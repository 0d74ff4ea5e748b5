"""What tests of access send."""

from websockets.exceptions import InvalidStatus
from websockets.sync.client import connect
from websockets.typing import Origin

from benchmarks.support.processes import NodeProcess

TOKEN = 'correct-horse-battery-staple'


ALLOWED = 'https://tools.example:8443'


def handshake(node: NodeProcess, path: str, *, origin: str | None = None, headers: dict[str, str] | None = None) -> int:
    """The status that a WebSocket's handshake is answered with; 101 if it is accepted."""
    url = node.url.replace('http', 'ws') + path
    try:
        with connect(url, origin=None if origin is None else Origin(origin), additional_headers=headers, proxy=None):
            return 101
    except InvalidStatus as error:
        return error.response.status_code
