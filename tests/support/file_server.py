"""An HTTP server of one file, with ranges, ETags and faults on demand."""

import hashlib
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any, Final

_CHUNK: Final = 16 * 1024


@dataclass
class FileServer:
    """State and faults of the server.

    :param cuts: number of bytes after which the connection is cut, for each of the next requests.
    :param statuses: statuses that replace the answers to the next requests; 0 closes the connection without an answer.
    :param chunk_seconds: pause before each 16 KiB of an answer, for a slow connection.
    :param ranges: `Range` header of each request so far.
    """

    content: bytes
    etag: bool = True
    cuts: list[int] = field(default_factory=list)
    statuses: list[int] = field(default_factory=list)
    chunk_seconds: float = 0
    ranges: list[str | None] = field(default_factory=list)
    port: int = 0

    @property
    def url(self) -> str:
        return f'http://127.0.0.1:{self.port}/model.zip'


@contextmanager
def serving(content: bytes) -> Iterator[FileServer]:
    state = FileServer(content)

    class Handler(BaseHTTPRequestHandler):
        protocol_version = 'HTTP/1.1'

        def do_GET(self) -> None:
            wanted = self.headers.get('Range')
            state.ranges.append(wanted)
            if state.statuses:
                status = state.statuses.pop(0)
                if status == 0:
                    self.close_connection = True
                    self.connection.close()
                else:
                    self.send_error(status)
                return
            etag = f'"{hashlib.sha256(state.content).hexdigest()}"'
            start = 0
            if wanted and self.headers.get('If-Range') == etag:
                start = int(wanted.removeprefix('bytes=').removesuffix('-'))
            self.send_response(206 if start else 200)
            if state.etag:
                self.send_header('ETag', etag)
            if start:
                size = len(state.content)
                self.send_header('Content-Range', f'bytes {start}-{size - 1}/{size}')
            self.send_header('Content-Length', str(len(state.content) - start))
            self.end_headers()
            body = state.content[start:]
            if state.cuts:
                self.wfile.write(body[: state.cuts.pop(0)])
                self.wfile.flush()
                self.close_connection = True
                self.connection.close()
                return
            while state.chunk_seconds and body:
                time.sleep(state.chunk_seconds)
                self.wfile.write(body[:_CHUNK])
                body = body[_CHUNK:]
            self.wfile.write(body)

        def log_message(self, *_: Any) -> None:
            pass

    class Server(ThreadingHTTPServer):
        def handle_error(self, *_: Any) -> None:
            """Ignore errors of connections that were cut on purpose."""

    with Server(('127.0.0.1', 0), Handler) as server:
        state.port = server.server_port
        thread = threading.Thread(target=server.serve_forever, args=(0.02,), daemon=True)  # ends soon after the test
        thread.start()
        yield state
        server.shutdown()
