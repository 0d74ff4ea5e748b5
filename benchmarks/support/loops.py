"""Real processes of the mock Learning Loop on real ports of the loopback address."""

import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import httpx

from mock.loop.client import LoopClient
from mock.loop.defaults import ORGANIZATION, PROJECT

from .processes import PROJECT as CHECKOUT
from .processes import clean_environment, free_port

START_SECONDS = 30


class MockLoopProcess(LoopClient):
    """A running mock Learning Loop, and a client for it.

    :param folder: what it keeps; `log` lies beside it.
    """

    def __init__(
        self, folder: Path, *, port: int | None = None, username: str | None = None, password: str = ''
    ) -> None:
        self.port = port or free_port()
        self.host = f'127.0.0.1:{self.port}'  # as LOOP_HOST wants it
        self.folder = folder
        self.log = folder.with_name(f'{folder.name}.log')
        self.process: subprocess.Popen[bytes] | None = None
        self._options = ['--username', username, '--password', password] if username is not None else []
        super().__init__(f'http://{self.host}')

    @property
    def settings(self) -> dict[str, str]:
        """Settings with which a node follows this Loop."""
        return {'LOOP_HOST': self.host, 'LOOP_ORGANIZATION': ORGANIZATION, 'LOOP_PROJECT': PROJECT}

    def start(self, **settings: Any) -> None:
        """Start it, on the same port and with the same folder as before, and wait until it serves.

        :param settings: added to its environment.
        """
        environment = clean_environment(**settings)
        environment['PYTHONPATH'] = os.pathsep.join(filter(None, [str(CHECKOUT), environment.get('PYTHONPATH')]))
        self.folder.parent.mkdir(parents=True, exist_ok=True)
        command = [sys.executable, '-m', 'mock', 'serve', '--folder', str(self.folder), '--port', str(self.port)]
        with self.log.open('ab') as sink:
            self.process = subprocess.Popen(
                [*command, *self._options], cwd=self.folder.parent, env=environment, stdout=sink, stderr=sink
            )
        self._wait()

    def _wait(self) -> None:
        deadline = time.monotonic() + START_SECONDS
        while time.monotonic() < deadline:
            assert self.process is not None
            assert self.process.poll() is None, f'the mock Loop ended: {self.log.read_text()}'
            try:
                if httpx.get(f'{self.url}/mock/projects', timeout=5).status_code == 200:
                    return
            except httpx.TransportError:
                pass
            time.sleep(0.05)
        raise AssertionError(f'the mock Loop does not serve: {self.log.read_text()}')

    def stop(self) -> None:
        """End it with SIGTERM, so that it is down until `start` is called again."""
        self._end(signal.SIGTERM)

    def kill(self) -> None:
        """End it with SIGKILL."""
        self._end(signal.SIGKILL)

    def _end(self, number: int) -> None:
        if self.process is None:
            return
        self.process.send_signal(number)
        try:
            self.process.wait(10)
        except subprocess.TimeoutExpired:
            self.process.kill()
            self.process.wait()
        self.process = None


@contextmanager
def running_mock_loop(
    folder: Path, *, port: int | None = None, username: str | None = None, password: str = ''
) -> Iterator[MockLoopProcess]:
    """Start a mock Learning Loop, wait until it serves, end it afterwards.

    :param folder: what it keeps; seeded if it is empty.
    :param username: the only one to be let in; None: everybody is.
    """
    with MockLoopProcess(folder, port=port, username=username, password=password) as loop:
        try:
            loop.start()
            yield loop
        finally:
            loop.stop()
