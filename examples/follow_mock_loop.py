"""Start a mock Learning Loop and a node that follows it, switch the version, and let the Loop receive an image.

    uv run python examples/follow_mock_loop.py

Both servers run on free ports, keep their files in a temporary folder and stop at the end.
"""

import os
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import httpx

from mock.loop.client import LoopClient

CHECKOUT = Path(__file__).parents[1]
SECONDS = 60


def main() -> None:
    loop_port, node_port = free_port(), free_port()
    with tempfile.TemporaryDirectory() as folder:
        settings = {
            'LOOP_HOST': f'127.0.0.1:{loop_port}',
            'LOOP_ORGANIZATION': 'zauberzeug',
            'LOOP_PROJECT': 'wholebody',
            'NODE_HOST': '127.0.0.1',
            'BACKEND_PORT': str(node_port),
            'DATA_FOLDER': f'{folder}/node',
            'MODE': 'test-card',  # until the Loop's model serves; the starter model takes longer to build
            'POLL_SECONDS': '1',  # both are 5 by default
            'UPLOAD_SECONDS': '1',
        }
        servers = [
            start('mock-loop', 'serve', '--port', str(loop_port), '--folder', f'{folder}/loop'),
            start('serve', **settings),
        ]
        try:
            follow(LoopClient(f'http://127.0.0.1:{loop_port}'), f'http://127.0.0.1:{node_port}')
        finally:
            for server in servers:
                server.terminate()
            for server in servers:
                server.wait()


def follow(loop: LoopClient, node: str) -> None:
    def version() -> Any:
        return httpx.get(f'{node}/model_version').json()['current_version']

    wait_until(lambda: version() == '1.0')
    print('the node serves version', version())
    loop.upload_package(CHECKOUT / 'model_files' / 'test-card.zip', '1.1')
    loop.set_target('1.1')
    wait_until(lambda: version() == '1.1')
    print('the node serves version', version())
    card = (CHECKOUT / 'model_files' / 'test-card.jpg').read_bytes()
    httpx.post(f'{node}/detect', files={'file': card}, headers={'autoupload': 'all'}, timeout=30).raise_for_status()
    wait_until(lambda: bool(loop.images()))
    print('the Loop received', loop.images()[0]['name'])


def start(*command: str, **settings: str) -> subprocess.Popen[bytes]:
    environment = os.environ | {'PYTHONPATH': str(CHECKOUT)} | settings
    return subprocess.Popen([sys.executable, '-m', 'detector', *command], env=environment)


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(('127.0.0.1', 0))
        return int(probe.getsockname()[1])


def wait_until(condition: Callable[[], bool]) -> None:
    deadline = time.monotonic() + SECONDS
    while time.monotonic() < deadline:
        try:
            if condition():
                return
        except httpx.TransportError:
            pass  # the server is still starting
        time.sleep(0.2)
    sys.exit(f'nothing happened for {SECONDS} s')


if __name__ == '__main__':
    main()
