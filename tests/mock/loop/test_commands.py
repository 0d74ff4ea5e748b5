"""The commands of the mock Learning Loop against a running one."""

import os
import re
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from functools import partial
from pathlib import Path

import httpx
import pytest

from benchmarks.support.cards import CARD
from benchmarks.support.loops import MockLoopProcess, running_mock_loop
from benchmarks.support.packages import make_package
from benchmarks.support.processes import PROJECT, clean_environment, free_port
from mock.loop.commands import app
from tests.support import commands


@pytest.fixture(scope='module')
def loop(tmp_path_factory: pytest.TempPathFactory) -> Iterator[MockLoopProcess]:
    with running_mock_loop(tmp_path_factory.mktemp('mock') / 'loop') as running:
        yield running


@pytest.fixture(autouse=True)
def _fresh(loop: MockLoopProcess, monkeypatch: pytest.MonkeyPatch) -> None:
    loop.reset()
    monkeypatch.setenv('MOCK_LOOP_URL', loop.url)


invoke = partial(commands.invoke, app)
succeed = partial(commands.succeed, app)


def test_upload_list_and_switch(tmp_path: Path) -> None:
    """A second version is uploaded, listed and made the target."""
    package = make_package(tmp_path / 'package.zip')
    assert succeed('upload', package).startswith('version 1.1  ')
    assert succeed('upload', package, '--version', '3.0').startswith('version 3.0  ')
    assert re.search(r'^\* 1\.0 .* rtmlib_wholebody 0\.0 MB$', succeed('models'), re.MULTILINE)
    assert succeed('target', '1.1').startswith('version 1.1')
    assert succeed('target').startswith('version 1.1')
    assert [line[:5] for line in succeed('models').splitlines()] == ['  1.0', '* 1.1', '  3.0']
    package.write_bytes(b'<html>')
    assert succeed('upload', package, '--as-is').startswith('version 3.1')


def test_received_images_and_detectors_are_listed(loop: MockLoopProcess, tmp_path: Path) -> None:
    """Images are listed by tag and written as pictures; detectors are listed with their errors."""
    files = [('files', ('a.jpg', CARD)), ('files', ('a.json', b'{"tags": ["night"]}')), ('files', ('b.jpg', CARD))]
    loop.http.post(f'{loop.api}/images', files=files)
    assert len(succeed('images').splitlines()) == 2
    line = succeed('images', '--tag', 'night', '-o', tmp_path / 'pictures').strip()
    assert '720×480  0 boxes, 0 points  #night' in line
    assert [path.suffix for path in (tmp_path / 'pictures').iterdir()] == ['.jpg']
    assert succeed('detectors') == ''
    loop.login()
    report = {
        'uuid': 'u-1', 'name': 'arm', 'state': 'online', 'uptime': 1, 'model_format': 'f', 'current_model': '1.0',
        'target_model': '1.1', 'errors': {'update_model': 'hash'}, 'operation_mode': 'idle',
    }  # fmt: skip
    loop.http.post(f'{loop.api}/detectors', json=report)
    output = succeed('detectors')
    assert 'arm  online, model 1.0, target 1.1  u-1' in output
    assert '  ! update_model: hash' in output


def test_faults_are_ordered_listed_and_cleared(loop: MockLoopProcess) -> None:
    """The parameters of the command reach the fault."""
    assert re.match(r'fault \d+: target status', succeed('fault', 'target', 'status', '--status', 429, '--count', 2))
    succeed('fault', 'model_file', 'drop', '--at', 0.25)
    loop.http.get(f'{loop.api}/deployment/target')
    lines = succeed('faults').splitlines()
    assert lines[0].endswith('target status  fired 1 of 2')
    assert lines[1].endswith('model_file drop  fired 0 until deleted')
    assert (loop.faults()[0]['status'], loop.faults()[1]['at']) == (429, 0.25)
    assert succeed('faults', '--clear') == ''


def test_refusals_are_one_line_on_standard_error(monkeypatch: pytest.MonkeyPatch) -> None:
    """An unknown version, an impossible fault and a missing mock give one line and exit status 1."""
    for arguments, message in (
        (('target', '9.9'), 'error: no model has the version 9.9'),
        (('fault', 'target', 'truncate'), 'truncate is a fault of the endpoint model_file'),
        (('models', '--project', 'other'), 'error: no project zauberzeug/other'),
        (('models', '--url', f'http://127.0.0.1:{free_port()}'), 'error: no mock Learning Loop answers at'),
    ):
        result = invoke(*arguments)
        assert result.exit_code == 1
        assert message in result.stderr
        assert len(result.stderr.splitlines()) == 1


def test_without_a_command_it_serves(tmp_path: Path) -> None:
    """`python -m mock` serves MOCK_LOOP_FOLDER on MOCK_LOOP_PORT, and exits with status 0 after SIGTERM."""
    port = free_port()
    environment = clean_environment(MOCK_LOOP_FOLDER=tmp_path / 'elsewhere', MOCK_LOOP_PORT=port)
    environment['PYTHONPATH'] = str(PROJECT)
    command = [sys.executable, '-m', 'mock']
    with subprocess.Popen(command, cwd=tmp_path, env=environment, stdout=subprocess.PIPE, text=True) as process:
        try:
            assert process.stdout is not None
            assert f'mock Learning Loop in {tmp_path / "elsewhere"}' in process.stdout.readline()
            assert f'LOOP_HOST=127.0.0.1:{port}' in process.stdout.readline()
            deadline = time.monotonic() + 20
            while time.monotonic() < deadline and process.poll() is None:
                try:
                    assert httpx.get(f'http://127.0.0.1:{port}/api/status').status_code == 200
                    break
                except httpx.TransportError:
                    time.sleep(0.1)
        finally:
            os.kill(process.pid, signal.SIGTERM)
            assert process.wait(10) == 0
    assert (tmp_path / 'elsewhere' / 'projects/zauberzeug/wholebody/project.json').exists()
