"""The image's RUN steps, and containers as in docker-compose.yml, without a Docker engine.

These tests cover neither the base image, which this machine replaces, nor Docker itself.
"""

import os
import subprocess
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path

import httpx
import pytest
import yaml

from benchmarks.support.processes import PROJECT, free_port
from detector.models.embedded import EXAMPLE_CARD
from detector.pose import images
from tests.support.integration.image_build import Image, build

pytestmark = pytest.mark.integration

START_SECONDS = 60
STOP_SECONDS = 8


@pytest.fixture(scope='module')
def image() -> Iterator[Image]:
    """Build the default variant of this checkout's image."""
    with tempfile.TemporaryDirectory(prefix='wholebody-image-', dir='/dev/shm') as folder:
        yield build(Path(folder))


def test_it_serves_from_a_read_only_root_without_privileges(image: Image, tmp_path: Path) -> None:
    """A container becomes healthy, reads the example card, writes only to /data, and ends with 0 on STOPSIGNAL."""
    port, data = free_port(), tmp_path / 'node'
    environment = {'NODE_HOST': '127.0.0.1', 'BACKEND_PORT': port, 'MODE': 'test-card'}
    with image.running(data, **environment) as process:
        _wait(f'http://127.0.0.1:{port}/ready', process, image.log(data))
        assert image.is_healthy(data, **environment)
        answer = httpx.post(
            f'http://127.0.0.1:{port}/poses', files={'file': EXAMPLE_CARD.read_bytes()}, timeout=30
        ).json()
        assert len(answer['poses']) == 2
        assert answer['model_version'] == 'test-card 0.0'
        status = Path(f'/proc/{process.pid}/status').read_text()
        mounts = Path(f'/proc/{process.pid}/mountinfo').read_text()
        assert image.stop(process, STOP_SECONDS) == 0
    assert not image.is_healthy(data, **environment)
    facts = dict(line.split(':\t') for line in status.splitlines() if ':\t' in line)
    assert facts['Uid'].split() == ['1000'] * 4
    assert {int(facts[name], 16) for name in ('CapInh', 'CapPrm', 'CapEff', 'CapBnd')} == {0}
    assert facts['NoNewPrivs'] == '1'
    assert any(' / / ro,' in line for line in mounts.splitlines())
    assert {path.stat().st_uid for path in data.rglob('*')} == {1000}
    assert (data / 'uuids.json').is_file()


def test_it_carries_the_starter_model(image: Image, tmp_path: Path) -> None:
    """A new container serves the starter model, which it neither builds nor writes, and holds no file of its source."""
    port, data = free_port(), tmp_path / 'node'
    environment = {'NODE_HOST': '127.0.0.1', 'BACKEND_PORT': port, 'BACKEND_TYPE': 'onnxruntime'}  # not measured
    with image.running(data, **environment) as process:
        _wait(f'http://127.0.0.1:{port}/ready', process, image.log(data))
        assert httpx.get(f'http://127.0.0.1:{port}/ready').json()['model_version'].startswith('starter 0.')
        assert image.stop(process, STOP_SECONDS) == 0
    assert not (data / 'starter').exists()
    (package,) = (_venv(image) / 'lib/python3.11/site-packages/detector/model_files/starter').iterdir()
    assert {file.name for file in package.iterdir()} >= {'model.json', 'det.onnx', 'pose.onnx', 'LICENSE', 'NOTICE'}
    assert not list((_venv(image) / 'lib/python3.11/site-packages').glob('mediapipe*'))


def test_nothing_but_data_and_tmp_can_be_written(image: Image, tmp_path: Path) -> None:
    """A program in the container can create files in /data and /tmp only."""
    program = """
import os
for folder in ('/', '/app', '/venv', '/usr/local', '/data', '/tmp'):
    try:
        open(os.path.join(folder, 'probe'), 'w').close()
        print(folder)
    except OSError as error:
        assert error.errno in (13, 30), error
"""
    line = image.command_line(['-c', program], tmp_path / 'probe', entrypoint=['python'])
    written = subprocess.run(line, capture_output=True, text=True, check=True).stdout
    assert written.split() == ['/data', '/tmp']


def test_every_command_finds_its_packages(image: Image, tmp_path: Path) -> None:
    """`wholebody doctor` succeeds: every runtime reads the card, OpenCV is installed once, and /data is writable."""
    ended = subprocess.run(
        image.command_line(['doctor'], tmp_path / 'doctor'), capture_output=True, text=True, check=False, timeout=120
    )
    assert ended.returncode == 0, ended.stdout + ended.stderr
    assert ended.stdout.count('✓') >= 8


def test_the_mock_loop_runs_in_it(image: Image, tmp_path: Path) -> None:
    """The mock Loop runs in the image with the command and the health check of docker-compose.yml."""
    service = yaml.safe_load((PROJECT / 'docker-compose.yml').read_text())['services']['mock-loop']
    port, data = free_port(), tmp_path / 'mock-loop'
    command = [{'0.0.0.0': '127.0.0.1', '5005': str(port)}.get(word, word) for word in service['command']]
    _, *check = [word.replace('5005', str(port)) for word in service['healthcheck']['test']]
    probe = image.command_line(check[1:], data, entrypoint=check[:1])
    assert subprocess.run(probe, capture_output=True, check=False).returncode != 0
    with image.running(data, *command) as process:
        _wait(f'http://127.0.0.1:{port}/api/status', process, image.log(data))
        assert subprocess.run(probe, capture_output=True, check=False).returncode == 0
        assert image.stop(process, STOP_SECONDS) == 0


def test_its_environment_holds_the_project_and_no_pip(image: Image) -> None:
    """The environment has the project, the embedded model's files and no pip, which only the build needs."""
    found = {path.name for path in (_venv(image) / 'bin').iterdir()}
    assert 'wholebody' in found
    assert not {name for name in found if name.startswith('pip')}
    assert images.read_image(_venv(image) / 'lib/python3.11/site-packages/detector/model_files/test-card.jpg').size


@pytest.mark.parametrize('platform', ['x86_64-manylinux_2_36', 'aarch64-manylinux_2_36'])
@pytest.mark.parametrize(
    ('lock', 'python'),
    [
        ('requirements.lock', '3.11'),
        ('requirements.lock', '3.12'),
        ('requirements.lock', '3.13'),
        ('requirements-cuda.lock', '3.11'),
    ],
)
def test_every_pin_has_a_wheel(lock: str, python: str, platform: str, tmp_path: Path) -> None:
    """The registry has a wheel of each pinned package for the base image's glibc and each supported Python."""
    command = ['uv', 'pip', 'install', '--dry-run', '--target', str(tmp_path / 'nothing'), '--python-version', python]
    command += ['--python-platform', platform, '--only-binary', ':all:', '--no-deps', '--require-hashes']
    ended = subprocess.run(
        [*command, '-r', str(PROJECT / lock)], capture_output=True, text=True, check=False, timeout=300, env=os.environ
    )
    assert ended.returncode == 0, ended.stderr
    assert 'Would install' in ended.stderr


def _venv(image: Image) -> Path:
    return next(path for layer in image.layers if (path := layer / 'venv').is_dir())


def _wait(url: str, process: subprocess.Popen[bytes], log: Path) -> None:
    deadline = time.monotonic() + START_SECONDS
    while time.monotonic() < deadline and process.poll() is None:
        try:
            if httpx.get(url, timeout=5).status_code == 200:
                return
        except httpx.TransportError:
            pass
        time.sleep(0.2)
    assert process.poll() is None, f'the process ended with {process.returncode}: {log.read_text()}'
    raise AssertionError(f'{url} does not answer: {log.read_text()}')
