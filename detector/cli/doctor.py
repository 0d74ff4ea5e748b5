"""`wholebody doctor`: check what is installed, what works and what can be reached."""

import asyncio
import platform
import tempfile
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import partial
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Final, Literal

import httpx

from detector.engine.pose_engine import EngineOptions, PoseEngine
from detector.engine.runtimes import Backend, installed_version, usable_cpus
from detector.errors import WholebodyError
from detector.label_studio.server.client import Connection
from detector.models.embedded import EMBEDDED_PACKAGE, EXAMPLE_CARD, INSTALL_HINT, embedded_notice
from detector.models.package import unpack_package
from detector.models.store import ModelStore
from detector.pose import images
from detector.settings import Settings
from detector.system.opencv import opencv_distributions, opencv_fault
from detector.system.proxies import ProxyTransport
from detector.system.scratch import scratch_folder

_PACKAGES: Final = ('learning-loop-node', 'rtmlib')
_RUNTIMES: Final[tuple[Backend, ...]] = ('onnxruntime', 'openvino', 'opencv')
_TIMEOUT_SECONDS: Final = 5
"""Time limit for an answer from the Learning Loop and from Label Studio."""


@dataclass(frozen=True, slots=True)
class Check:
    """Result of one check.

    :param detail: text of the finding; for a fault, with its remedy.
    """

    name: str
    state: Literal['ok', 'warning', 'failed', 'skipped']
    detail: str

    @property
    def mark(self) -> str:
        return {'ok': '✓', 'warning': '!', 'failed': '✗', 'skipped': '-'}[self.state]


def examine(settings: Settings) -> Iterator[Check]:
    """Run the checks one after the other and yield their results."""
    yield _checked('packages', _packages)
    yield _checked('opencv', _single_opencv)
    yield Check('cpus', 'ok', f'{usable_cpus()} usable, {platform.machine()}')
    yield _checked('data folder', lambda: _data_folder(settings.data_folder))
    for runtime in _RUNTIMES:
        yield _checked(f'runtime {runtime}', partial(_runtime, runtime))
    yield _checked('devices', _devices)
    yield _checked('model', lambda: _model(settings))
    if settings.loop_url is None:
        yield Check('Learning Loop', 'skipped', 'LOOP_HOST is not set: the node sends no data')
    else:
        yield _checked('Learning Loop', lambda: _learning_loop(settings))
    if settings.label_studio_url is None:
        yield Check('Label Studio', 'skipped', 'LABEL_STUDIO_URL is not set')
    else:
        yield _checked('Label Studio', lambda: _label_studio(settings))


class _Failed(Exception):
    """A check found a fault, which the text describes."""


def _checked(name: str, check: Callable[[], str]) -> Check:
    try:
        return Check(name, 'ok', check())
    except (_Failed, WholebodyError, OSError, ValueError, KeyError) as error:
        return Check(name, 'failed', str(error))
    except httpx.HTTPError as error:
        return Check(name, 'failed', f'{error.request.url.host} does not answer: {error}')


def _packages() -> str:
    found = []
    for name in _PACKAGES:
        try:
            found.append(f'{name} {version(name)}')
        except PackageNotFoundError:
            raise _Failed(f'{name} is not installed') from None
    return ', '.join([*found, *map(installed_version, _RUNTIMES)])


def _single_opencv() -> str:
    fault = opencv_fault()
    if fault is not None:
        raise _Failed(fault)
    return ', '.join(opencv_distributions()) or 'cv2 of a system package'


def _data_folder(folder: Path) -> str:
    existing = next(path for path in (folder, *folder.parents) if path.exists())
    try:
        with tempfile.TemporaryFile(dir=existing):
            pass
    except OSError as error:
        raise _Failed(f'{folder} is not writable: {error.strerror}; set DATA_FOLDER') from None
    return str(folder)


def _runtime(backend_type: Backend) -> str:
    """Read the example card with one runtime on the CPU."""
    with scratch_folder() as folder:
        engine = PoseEngine(unpack_package(EMBEDDED_PACKAGE, folder), EngineOptions(backend_type=backend_type))
        found = len(engine.poses(images.read_image(EXAMPLE_CARD)))
    if found != 2:
        raise _Failed(f'finds {found} persons on the example card, not 2')
    return 'reads the example card'


def _devices() -> str:
    import onnxruntime
    import openvino

    providers = [name.removesuffix('ExecutionProvider') for name in onnxruntime.get_available_providers()]
    return f'onnxruntime: {", ".join(providers)}; openvino: {", ".join(openvino.Core().available_devices)}'


def _model(settings: Settings) -> str:
    package = ModelStore(settings.data_folder).current_or_embedded(settings.mode)
    engine = PoseEngine(package, EngineOptions.of(settings))
    engine.check()
    note = f'. {embedded_notice(package.name, INSTALL_HINT)}' if package.is_embedded else ''
    return f'{package.model_version} works with {engine.runtime} ({engine.runtime_reason}){note}'


def _learning_loop(settings: Settings) -> str:
    transport = ProxyTransport(verify=_certificate(settings))
    with httpx.Client(transport=transport, base_url=str(settings.loop_url), timeout=_TIMEOUT_SECONDS) as client:
        response = client.get('/api/status')
        if response.status_code != httpx.codes.OK:
            raise _Failed(f'{settings.loop_url} answers {response.status_code} to /api/status')
        password = settings.loop_password.get_secret_value()
        response = client.post('/api/login', data={'username': settings.loop_username, 'password': password})
    if response.status_code != httpx.codes.OK:
        raise _Failed(
            f'{settings.loop_url} refuses the login ({response.status_code}): check LOOP_USERNAME and LOOP_PASSWORD'
        )
    return f'{settings.loop_url} answers, and the login works'


def _certificate(settings: Settings) -> str | bool:
    return True if settings.loop_ssl_cert_path is None else str(settings.loop_ssl_cert_path)


def _label_studio(settings: Settings) -> str:
    """Connect to Label Studio and try the token."""
    connection = Connection.of(settings, seconds=_TIMEOUT_SECONDS)
    assert connection is not None
    return asyncio.run(_whoami(connection))


async def _whoami(connection: Connection) -> str:
    try:
        user = await connection.get_json('/api/current-user/whoami')
    finally:
        await connection.close()
    if not isinstance(user, dict) or 'email' not in user:
        raise _Failed(
            f'{connection.url} does not name the user of the token: check that LABEL_STUDIO_URL is a Label Studio'
        )
    return f'{connection.url} answers, and the token belongs to {user["email"]}'
