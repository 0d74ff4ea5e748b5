"""An HTTP server that records all requests and gives the answers of a test."""

import socket
import ssl
import threading
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

PICTURE = b'\xff\xd8 as good as a photograph'


@dataclass(frozen=True)
class Request:
    """A recorded request; header names are in lower case."""

    method: str
    path: str
    headers: dict[str, str]
    body: bytes

    @property
    def authorization(self) -> str | None:
        return self.headers.get('authorization')


@dataclass(frozen=True)
class Reply:
    """An answer.

    :param body: chunks are sent one by one, without Content-Length.
    """

    status: int = 200
    body: bytes | Iterable[bytes] = PICTURE
    headers: dict[str, str] = field(default_factory=dict)


@dataclass
class Recorder:
    """Records requests and answers them."""

    host: str
    scheme: str
    port: int = 0
    requests: list[Request] = field(default_factory=list)
    answer: Callable[[Request], Reply] = lambda _: Reply()

    @property
    def place(self) -> str:
        return f'[{self.host}]:{self.port}' if ':' in self.host else f'{self.host}:{self.port}'

    @property
    def url(self) -> str:
        return f'{self.scheme}://{self.place}'

    @property
    def paths(self) -> list[str]:
        return [request.path for request in self.requests]


@contextmanager
def recording(host: str = '127.0.0.1', context: ssl.SSLContext | None = None) -> Iterator[Recorder]:
    recorder = Recorder(host, 'http' if context is None else 'https')

    class Handler(BaseHTTPRequestHandler):
        protocol_version = 'HTTP/1.1'

        def _answer(self) -> None:
            body = self.rfile.read(int(self.headers.get('Content-Length', 0)))
            headers = {name.lower(): value for name, value in self.headers.items()}
            request = Request(self.command, self.path, headers, body)
            recorder.requests.append(request)
            reply = recorder.answer(request)
            self.send_response(reply.status)
            for name, value in reply.headers.items():
                self.send_header(name, value)
            if isinstance(reply.body, bytes):
                self.send_header('Content-Length', str(len(reply.body)))
                self.end_headers()
                self.wfile.write(reply.body)
                return
            self.send_header('Connection', 'close')
            self.end_headers()
            for chunk in reply.body:
                self.wfile.write(chunk)
                self.wfile.flush()

        do_GET = do_POST = do_PATCH = do_DELETE = _answer

        def log_message(self, *_: Any) -> None:
            pass

    class Server(ThreadingHTTPServer):
        address_family = socket.AF_INET6 if ':' in host else socket.AF_INET
        request_queue_size = 64

        def handle_error(self, *_: Any) -> None:
            """Ignore clients that close the connection."""

    server = Server((host, 0), Handler)
    with server:
        if context is not None:
            server.socket = context.wrap_socket(server.socket, server_side=True)
        recorder.port = server.server_port
        threading.Thread(target=lambda: server.serve_forever(poll_interval=0.01), daemon=True).start()
        yield recorder
        server.shutdown()


def redirecting(location: str, status: int = 303) -> Callable[[Request], Reply]:
    """Return a handler that redirects every request."""
    return lambda _: Reply(status, b'', {'Location': location, 'Set-Cookie': 'sessionid=secret; Path=/'})
