"""Replacement for a Label Studio server, which takes long to start: files, tasks, annotations, projects, a token.

Tests in tests/integration use the real server.
"""

import json
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

from detector.label_studio.labels.config import generate

TOKEN = '0123456789abcdef0123456789abcdef01234567'


@dataclass
class Studio:
    """Contents of the server, below `/data/upload` and `/api`.

    :param files: files by path.
    :param objects: JSON objects by path, such as `/api/tasks/1/`.
    :param seconds: delay of an answer in seconds, by path.
    :param asked: paths of the requests so far, in their order.
    :param down: True to answer all requests with 503.
    """

    files: dict[str, bytes] = field(default_factory=dict)
    objects: dict[str, Any] = field(default_factory=dict)
    seconds: dict[str, float] = field(default_factory=dict)
    asked: list[str] = field(default_factory=list)
    down: bool = False
    port: int = 0

    @property
    def url(self) -> str:
        return f'http://127.0.0.1:{self.port}'

    @property
    def settings(self) -> dict[str, str]:
        """Settings of a node that uses this server."""
        return {'LABEL_STUDIO_URL': self.url, 'LABEL_STUDIO_API_TOKEN': TOKEN}

    def add_image(self, name: str, content: bytes, *, seconds: float = 0) -> str:
        """Add an uploaded image and return its address, as tasks contain it."""
        path = f'/data/upload/1/{name}'
        self.files[path] = content
        self.seconds[path] = seconds
        return path

    def add_annotation(
        self, annotation: int, results: list[dict[str, Any]], *, image: str, project: int = 1, **fields: Any
    ) -> None:
        """Add an annotation with its task, which has the same id, and its project."""
        self.objects[f'/api/annotations/{annotation}/'] = {
            'id': annotation,
            'task': annotation,
            'result': results,
            'was_cancelled': False,
            'updated_at': '2026-11-20T15:45:40.415935Z',
            'completed_by': 7,
        } | fields
        self.objects[f'/api/tasks/{annotation}/'] = {'id': annotation, 'project': project, 'data': {'image': image}}
        self.objects[f'/api/projects/{project}/'] = {'id': project, 'label_config': generate('keypoints')}


@contextmanager
def running_studio() -> Iterator[Studio]:
    """Serve until the end of the context."""
    state = Studio()

    class Handler(BaseHTTPRequestHandler):
        protocol_version = 'HTTP/1.1'

        def do_GET(self) -> None:
            state.asked.append(self.path)
            time.sleep(state.seconds.get(self.path, 0))
            if state.down:
                self._answer(503, b'down', 'text/plain')
            elif self.headers.get('Authorization') != f'Token {TOKEN}':
                self._answer(401, b'{"detail": "no"}', 'application/json')
            elif self.path in state.files:
                self._answer(200, state.files[self.path], 'image/jpeg')
            elif self.path in state.objects:
                self._answer(200, json.dumps(state.objects[self.path]).encode(), 'application/json')
            else:
                self._answer(404, b'{"detail": "not found"}', 'application/json')

        def _answer(self, status: int, body: bytes, kind: str) -> None:
            self.send_response(status)
            self.send_header('Content-Type', kind)
            self.send_header('Content-Length', str(len(body)))
            self.end_headers()
            self.wfile.write(body)

        def log_message(self, *_: Any) -> None:
            pass

    class Server(ThreadingHTTPServer):
        daemon_threads = True

        def handle_error(self, *_: Any) -> None:
            """Ignore errors: a client that gives up waiting is not a fault."""

    with Server(('127.0.0.1', 0), Handler) as server:
        state.port = server.server_port
        threading.Thread(target=server.serve_forever, daemon=True).start()
        yield state
        server.shutdown()
