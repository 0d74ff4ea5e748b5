"""Node processes on ports of the loopback address."""

import os
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import httpx
import socketio

from .waiting import PATIENCE, eventually

START_SECONDS = 180
"""Time limit for the start of a node, in seconds; on a busy machine, building the starter model takes a minute."""
PROJECT = Path(__file__).parents[2]


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(('127.0.0.1', 0))
        return int(probe.getsockname()[1])


@dataclass
class NodeProcess:
    """A running node."""

    process: subprocess.Popen[bytes]
    port: int
    data_folder: Path
    log: Path

    @property
    def url(self) -> str:
        return f'http://127.0.0.1:{self.port}'

    def detect(self, image: bytes, headers: dict[str, str] | None = None) -> httpx.Response:
        return httpx.post(f'{self.url}/detect', files={'file': image}, headers=headers, timeout=30)

    @property
    def version(self) -> str:
        """Return the version of the model in service."""
        return str(httpx.get(f'{self.url}/model_version', timeout=10).json()['current_version'])

    def outbox(self) -> dict[str, Any]:
        """Return the answer of `GET /outbox`."""
        answer = httpx.get(f'{self.url}/outbox', timeout=30)
        answer.raise_for_status()
        return dict(answer.json())

    def wait_for_version(self, version: str, seconds: float = PATIENCE) -> None:
        """Wait until the node serves a version.

        :raises AssertionError: the node does not serve it in time.
        """
        eventually(lambda: self.version == version, f'version {version} serves', seconds)

    @contextmanager
    def socketio(self, transport: str = 'websocket') -> Iterator['SocketClient']:
        """Connect a Socket.IO client.

        :param transport: `websocket` or `polling`.
        """
        client = socketio.Client(reconnection=False)
        client.connect(self.url, socketio_path='/ws/socket.io', transports=[transport])
        connections = client.eio.ws, client.eio.http  # the library leaves it open when the node ends first
        try:
            yield SocketClient(client)
        finally:
            client.disconnect()
            if connections[0] is not None:
                connections[0].shutdown()
            if connections[1] is not None:
                connections[1].close()


class SocketClient:
    """A Socket.IO client with a time limit for answers."""

    def __init__(self, client: socketio.Client) -> None:
        self._client = client

    def call(self, event: str, *payload: Any, timeout: float = 20) -> Any:
        """Send an event and return its acknowledgement.

        :raises socketio.exceptions.TimeoutError: no answer arrived in time.
        """
        return self._client.call(event, payload or None, timeout=timeout)

    def emit(self, event: str, *payload: Any) -> None:
        """Send an event without waiting for an answer."""
        self._client.emit(event, payload or None)


def clean_environment(**settings: object) -> dict[str, str]:
    """Return this process's environment without settings of the node, plus the given ones.

    The embedded test card serves by default, because its poses are known to the pixel.
    """
    from detector.settings import Settings, environment_name

    ours = {environment_name(field) for field in Settings.model_fields}
    ours |= {'PYTHONDONTWRITEBYTECODE'}  # compiled modules let the next node start in a third of the time
    ours |= {'HOST', 'ORGANIZATION', 'PROJECT', 'USERNAME', 'PASSWORD', 'NODE_PORT'}
    environment = {name: value for name, value in os.environ.items() if name not in ours}
    return environment | {'MODE': 'test-card'} | {name: str(value) for name, value in settings.items()}


@contextmanager
def running_node(folder: Path, **settings: object) -> Iterator[NodeProcess]:
    """Start a node with a data folder of its own, wait until it serves, and stop it at the end.

    :param folder: also becomes the working directory, so that the node reads no `.env` of a developer.
    """
    with node_process(folder, **settings) as node:
        _wait(node, '/ready')
        yield node


@contextmanager
def running_node_without_model(folder: Path, **settings: object) -> Iterator[NodeProcess]:
    """Do the same as :func:`running_node`, but wait only until the node has tried to load a model."""
    with node_process(folder, **settings) as node:
        _wait(node, '/about', lambda answer: answer.json()['operation_mode'] != 'startup')
        yield node


@contextmanager
def node_process(folder: Path, **settings: object) -> Iterator[NodeProcess]:
    """Start a node with a data folder of its own, and stop it at the end."""
    folder.mkdir(parents=True, exist_ok=True)
    port = int(str(settings.get('BACKEND_PORT') or free_port()))
    data_folder = folder / 'data'
    environment = clean_environment(
        **{'DATA_FOLDER': data_folder, 'NODE_HOST': '127.0.0.1', 'BACKEND_PORT': port} | settings
    )
    environment['PYTHONPATH'] = os.pathsep.join(filter(None, [str(PROJECT), environment.get('PYTHONPATH')]))
    log = folder / 'node.log'
    with log.open('wb') as sink:
        process = subprocess.Popen(
            [sys.executable, '-m', 'detector', 'serve'], cwd=folder, env=environment, stdout=sink, stderr=sink
        )
    node = NodeProcess(process=process, port=port, data_folder=data_folder, log=log)
    try:
        yield node
    finally:
        process.terminate()
        try:
            process.wait(20)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()


def _wait(node: NodeProcess, route: str, condition: Callable[[httpx.Response], bool] = lambda _: True) -> None:
    deadline = time.monotonic() + START_SECONDS
    while time.monotonic() < deadline:
        assert node.process.poll() is None, f'the node ended: {node.log.read_text()}'
        try:
            answer = httpx.get(node.url + route, timeout=5)
            if answer.status_code == 200 and condition(answer):
                return
        except httpx.TransportError:
            pass
        time.sleep(0.1)
    raise AssertionError(f'the node does not serve {route}: {node.log.read_text()}')
