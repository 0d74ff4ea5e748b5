"""A machine learning backend that records Label Studio's requests and gives prepared answers."""

import json
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

Json = dict[str, Any]


@dataclass(frozen=True, kw_only=True)
class Request:
    """A received request.

    :param body: JSON of the body; None if the body was empty.
    """

    method: str
    path: str
    headers: dict[str, str]
    body: Any


@dataclass
class RecordingBackend:
    """A running backend.

    :param predict: function from the body of /predict to the list of results.
    :param version: model version in the answer of /setup.
    """

    predict: Callable[[Json], list[Any]] = lambda body: [[] for _ in body['tasks']]
    version: str = 'stub-v1'
    requests: list[Request] = field(default_factory=list)
    port: int = 0

    @property
    def url(self) -> str:
        return f'http://127.0.0.1:{self.port}'

    def of(self, path: str) -> list[Request]:
        """Return the requests for a path so far, such as `/predict`."""
        return [request for request in list(self.requests) if request.path == path]

    def wait_for(self, path: str, count: int = 1, *, seconds: float = 20) -> list[Request]:
        """Wait for a number of requests for a path, and return them.

        :raises AssertionError: fewer requests arrived in time.
        """
        deadline = time.monotonic() + seconds
        while len(self.of(path)) < count:
            assert time.monotonic() < deadline, f'only {len(self.of(path))} of {count} requests for {path}'
            time.sleep(0.05)
        return self.of(path)

    def answer(self, request: Request) -> Any:
        """Return the answer to a request."""
        match request.path:
            case '/predict':
                return {'results': self.predict(request.body)}
            case '/setup':
                return {'model_version': self.version}
            case '/versions':
                return {'versions': [self.version]}
            case _:
                return {'status': 'UP'}


@contextmanager
def recording_backend(
    predict: Callable[[Json], list[Any]] | None = None, version: str = 'stub-v1'
) -> Iterator[RecordingBackend]:
    """Run a backend in threads of this process.

    :param predict: function from the body of /predict to the list of results; by default, every result is empty.
    """
    backend = RecordingBackend(version=version)
    if predict is not None:
        backend.predict = predict

    class Handler(BaseHTTPRequestHandler):
        def _handle(self) -> None:
            content = self.rfile.read(int(self.headers.get('Content-Length') or 0))
            request = Request(
                method=self.command,
                path=self.path,
                headers=dict(self.headers.items()),
                body=json.loads(content) if content else None,
            )
            backend.requests.append(request)
            answer = json.dumps(backend.answer(request)).encode()
            self.send_response(200)
            self.send_header('Content-Type', 'application/json')
            self.send_header('Content-Length', str(len(answer)))
            self.end_headers()
            self.wfile.write(answer)

        do_GET = do_POST = _handle

        def log_message(self, *_: Any) -> None:
            pass

    class Server(ThreadingHTTPServer):
        def handle_error(self, *_: Any) -> None:
            """Ignore errors, since Label Studio may close the connection before an answer."""

    with Server(('127.0.0.1', 0), Handler) as server:
        backend.port = server.server_port
        thread = threading.Thread(target=server.serve_forever, daemon=True)
        thread.start()
        yield backend
        server.shutdown()
