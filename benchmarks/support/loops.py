"""Processes of the mock Learning Loop on ports of the loopback address."""

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
    """A running mock Learning Loop and a client for it.

    :param folder: its data folder; `log` is beside it.
    """

    def __init__(
        self, folder: Path, *, port: int | None = None, username: str | None = None, password: str = ''
    ) -> None:
        self.port = port or free_port()
        self.host = f'127.0.0.1:{self.port}'  # the form of LOOP_HOST
        self.folder = folder
        self.log = folder.with_name(f'{folder.name}.log')
        self.process: subprocess.Popen[bytes] | None = None
        self._options = ['--username', username, '--password', password] if username is not None else []
        super().__init__(f'http://{self.host}')

    @property
    def settings(self) -> dict[str, str]:
        """Settings of a node that follows this Loop."""
        return {'LOOP_HOST': self.host, 'LOOP_ORGANIZATION': ORGANIZATION, 'LOOP_PROJECT': PROJECT}

    def start(self, **settings: Any) -> None:
        """Start the Loop, on the same port and with the same folder as before, and wait until it serves.

        :param settings: additional environment variables.
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
        """End the Loop with SIGTERM, so that it is down until the next `start`."""
        self._end(signal.SIGTERM)

    def kill(self) -> None:
        """End the Loop with SIGKILL."""
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
    """Start a mock Learning Loop, wait until it serves, and end it afterwards.

    :param folder: its data folder; an empty one gets the initial content.
    :param username: the only user who may log in; all users if None.
    """
    with MockLoopProcess(folder, port=port, username=username, password=password) as loop:
        try:
            loop.start()
            yield loop
        finally:
            loop.stop()
