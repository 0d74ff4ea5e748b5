"""Backends that `label_studio` compares, and the server of their images.

The usual backend is `usual_backend`: label-studio-ml's API around `rtmlib.Wholebody`, in its own environment with our
versions of rtmlib, ONNX Runtime, OpenCV and NumPy. label-studio-ml is the latest version on PyPI, 1.0.9 of 2022. It is
set up by `label-studio-ml init` and started like its Dockerfile does, by gunicorn with one process and eight threads.
Later versions are on GitHub only. By their source they are not faster: their examples loop over tasks in the same way,
and pydantic checks the answers in addition.
"""

import hashlib
import os
import subprocess
import threading
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from importlib.metadata import version
from pathlib import Path
from typing import Any, Final

import httpx

from detector.engine.runtimes import is_installed
from detector.engine.runtimes import precisions as supported
from detector.label_studio.labels import config
from detector.models.package import ModelPackage
from detector.models.store import ModelStore

from .support.environments import python_with
from .support.processes import clean_environment, free_port, running_node

USUAL: Final = 'usual backend'
LATENCY: Final = 0.05
"""Time to fetch an image, in seconds."""
CONFIG: Final = config.generate('keypoints')
PATIENCE: Final = 600.0
"""Time limit for an answer, in seconds."""

_SCRIPT: Final = Path(__file__).with_name('usual_backend.py')
_REQUIREMENTS: Final = (
    'label-studio-ml==1.0.9',
    'rq==1.10.1',  # label-studio-ml imports rq but does not require it
    'gunicorn==22.0.0',
    *(f'{name}=={version(name)}' for name in ('rtmlib', 'onnxruntime', 'numpy', 'opencv-python-headless')),
)
_START_SECONDS: Final = 60.0


@dataclass(frozen=True, slots=True, kw_only=True)
class Backend:
    """A running backend.

    :param pid: id of the process, which may have children.
    """

    name: str
    port: int
    pid: int
    runtime: str

    @property
    def url(self) -> str:
        return f'http://127.0.0.1:{self.port}'

    def post(self, route: str, content: Mapping[str, Any]) -> bytes:
        with httpx.Client(timeout=PATIENCE, trust_env=False) as client:
            return client.post(self.url + route, json=content).raise_for_status().content


@contextmanager
def serving(pictures: Sequence[bytes]) -> Iterator[int]:
    """Serve JPEGs as `/anything/NUMBER.jpg`, each after `LATENCY`; yield the port."""

    class Handler(BaseHTTPRequestHandler):
        protocol_version = 'HTTP/1.1'
        disable_nagle_algorithm = True

        def do_GET(self) -> None:
            time.sleep(LATENCY)
            picture = pictures[int(Path(self.path).stem)]
            self.send_response(200)
            self.send_header('Content-Type', 'image/jpeg')
            self.send_header('Content-Length', str(len(picture)))
            self.end_headers()
            self.wfile.write(picture)

        def log_message(self, *_: Any) -> None:
            pass

    with ThreadingHTTPServer(('127.0.0.1', 0), Handler) as server:
        thread = threading.Thread(target=server.serve_forever, daemon=True)
        thread.start()
        yield server.server_port
        server.shutdown()


def cpu_seconds(pid: int) -> float:
    """Return the CPU seconds of a process and its children."""
    ticks = Path(f'/proc/{pid}/stat').read_text().rpartition(')')[2].split()[11:13]
    children = Path(f'/proc/{pid}/task/{pid}/children').read_text().split()
    return _seconds(ticks) + sum(cpu_seconds(int(child)) for child in children)


def machine_seconds() -> float:
    """Return the CPU seconds of all processes, and of other virtual machines on the host."""
    user, nice, system, _, _, *interrupts_and_steal = Path('/proc/stat').read_text().partition('\n')[0].split()[1:9]
    return _seconds([user, nice, system, *interrupts_and_steal])


def _seconds(ticks: Sequence[str]) -> float:
    return sum(map(int, ticks)) / os.sysconf('SC_CLK_TCK')


@contextmanager
def running_ours(folder: Path, archive: Path, image_port: int, precision: str) -> Iterator[Backend]:
    """Run our node.

    :param folder: folder for log and data.
    """
    store = ModelStore(folder / 'data')
    store.select(store.add(archive).version)
    settings: dict[str, Any] = {
        'PRECISION': precision,
        'IMAGE_HOSTS': f'127.0.0.1:{image_port}',
        'PREDICT_SECONDS': PATIENCE,
    }
    with running_node(folder, **settings) as node:
        runtime = httpx.get(f'{node.url}/about', timeout=PATIENCE).json()['wholebody']['runtime']
        yield Backend(name=precision, port=node.port, pid=node.process.pid, runtime=runtime)


@contextmanager
def running_usual(folder: Path, package: ModelPackage) -> Iterator[Backend]:
    """Run the usual backend with the networks of an unpacked package.

    :param folder: folder for log and caches.
    """
    digest = hashlib.sha256(' '.join(_REQUIREMENTS).encode()).hexdigest()[:8]
    commands = python_with(f'usual-backend-{digest}', *_REQUIREMENTS).parent
    folder.mkdir(parents=True)
    networks = {'DETECTOR': package.wholebody.detector, 'ESTIMATOR': package.wholebody.estimator}
    sizes = {f'{role}_SIZE': ','.join(map(str, network.input_size)) for role, network in networks.items()}
    files = {role: package.folder / network.file for role, network in networks.items()}
    homes = {'HOME': folder, 'XDG_CACHE_HOME': folder / 'cache', 'XDG_DATA_HOME': folder / 'share'}
    environment = clean_environment(**files, **sizes, **homes, NO_PROXY='127.0.0.1')
    port = free_port()
    init: list[str | Path] = [commands / 'label-studio-ml', 'init', 'backend', '--script', f'{_SCRIPT}:UsualBackend']
    serve: list[str | Path] = [
        commands / 'gunicorn',
        '_wsgi:app',
        '--preload',
        '--bind',
        f'127.0.0.1:{port}',
        '--workers',
        '1',
        '--threads',
        '8',
    ]
    log = folder / 'log'
    with log.open('wb') as sink:
        subprocess.run(init, cwd=folder, env=environment, check=True, stdout=sink, stderr=sink)
        process = subprocess.Popen(
            [*serve, '--timeout', '0'], cwd=folder / 'backend', env=environment, stdout=sink, stderr=sink
        )
    runtime = f'rtmlib {version("rtmlib")}, onnxruntime on CPU, f32'
    backend = Backend(name=USUAL, port=port, pid=process.pid, runtime=runtime)
    try:
        _wait(backend, process, log)
        backend.post('/setup', {'project': '1.1', 'schema': CONFIG, 'hostname': '', 'access_token': ''})
        yield backend
    finally:
        process.terminate()
        process.wait()


def _wait(backend: Backend, process: subprocess.Popen[bytes], log: Path) -> None:
    deadline = time.monotonic() + _START_SECONDS
    while time.monotonic() < deadline:
        assert process.poll() is None, f'the usual backend ended: {log.read_text()}'
        try:
            if httpx.get(f'{backend.url}/health', timeout=5, trust_env=False).status_code == 200:
                return
        except httpx.TransportError:
            pass
        time.sleep(0.2)
    raise AssertionError(f'the usual backend does not serve: {log.read_text()}')


def precisions(package: ModelPackage) -> list[str]:
    """Return the precisions in which to measure our node on this machine."""
    may_be_lower = package.wholebody.precision == 'any' and is_installed('openvino')
    return [one for one in supported('openvino', 'cpu') if one != 'f16'] if may_be_lower else ['f32']
