"""A real Label Studio server in its own environment, on a port of the loopback address."""

import fcntl
import os
import shutil
import signal
import subprocess
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import httpx
from platformdirs import user_cache_path

from .environments import python_with
from .label_studio_api import LabelStudio
from .processes import free_port

VERSION = '1.23.2'
EMAIL = 'ann@example.com'
PASSWORD = 'ann-pass-123'
TOKEN = '0123456789abcdef0123456789abcdef01234567'
"""Legacy token of the user."""
STRICT = {'fflag_feat_utc_210_prediction_validation_15082025': 'true'}
"""Environment with which Label Studio refuses predictions that do not fit the labeling config."""

START_SECONDS = 120
_NAME = f'label-studio-{VERSION}'


@contextmanager
def running_label_studio(folder: Path, **environment: str | None) -> Iterator[LabelStudio]:
    """Start a server with one user and no projects, wait until it answers, and stop it at the end.

    The server allows backends and webhooks on the loopback address, and serves files in `LabelStudio.files`.

    :param folder: folder for database, uploads and log.
    :param environment: additional environment variables, such as `**STRICT`; None removes a variable
        (`LABEL_STUDIO_HOST=None`).
    """
    data = folder / 'data'
    files = folder / 'files'
    files.mkdir(parents=True)
    executable = _executable()
    shutil.copytree(_template(executable), data)
    port = free_port()
    url = f'http://127.0.0.1:{port}'
    settings = {
        'LABEL_STUDIO_HOST': url,
        'LABEL_STUDIO_LOCAL_FILES_SERVING_ENABLED': 'true',
        'LABEL_STUDIO_LOCAL_FILES_DOCUMENT_ROOT': str(files),
        'ML_BLOCK_LOCAL_IP': 'false',
        'SSRF_PROTECTION_ENABLED': 'false',
    }
    log = folder / 'label_studio.log'
    with log.open('wb') as sink:
        process = subprocess.Popen(
            [executable, 'start', '--no-browser', '--internal-host', '127.0.0.1', '--port', str(port)],
            cwd=folder,
            env=_environment(data, **settings | environment),
            stdin=subprocess.DEVNULL,
            stdout=sink,
            stderr=sink,
            start_new_session=True,
        )
    try:
        _wait(process, url, log)
        with LabelStudio(url, email=EMAIL, password=PASSWORD, token=TOKEN, files=files, log=log) as server:
            yield server
    finally:
        _stop(process)


def _executable() -> Path:
    """Return Label Studio's command; its installation takes half a minute."""
    with _only_one_process():
        return python_with(_NAME, f'label-studio=={VERSION}').parent / 'label-studio'


def _template(executable: Path) -> Path:
    """Return a data folder with a migrated database and a user. Made once, since migrations take half a minute."""
    template = user_cache_path('wholebody-tests') / f'{_NAME}-data'
    with _only_one_process():
        if not template.exists():
            unfinished = template.with_suffix('.unfinished')
            shutil.rmtree(unfinished, ignore_errors=True)
            user = ['--username', EMAIL, '--password', PASSWORD, '--user-token', TOKEN, '--enable-legacy-api-token']
            subprocess.run(
                [executable, 'init', '--quiet', *user],
                env=_environment(unfinished),
                stdin=subprocess.DEVNULL,
                capture_output=True,
                timeout=500,
                check=True,
            )
            unfinished.rename(template)
    return template


@contextmanager
def _only_one_process() -> Iterator[None]:
    """Hold a lock, so that of several test runs only one creates the environment."""
    path = user_cache_path('wholebody-tests', ensure_exists=True) / f'{_NAME}.lock'
    with path.open('w') as file:
        fcntl.flock(file, fcntl.LOCK_EX)
        yield


def _environment(data: Path, **settings: str | None) -> dict[str, str]:
    """Return an environment with only the search path of ours, since Label Studio reads names like HOST and PORT."""
    environment = {
        'PATH': os.environ['PATH'],
        'HOME': str(data / 'home'),  # folder for its configuration and caches
        'LABEL_STUDIO_BASE_DATA_DIR': str(data),
        'SENTRY_DSN': '',
        'FRONTEND_SENTRY_DSN': '',
        'COLLECT_ANALYTICS': 'false',
        'LATEST_VERSION_CHECK': 'false',
        **settings,
    }
    return {name: value for name, value in environment.items() if value is not None}


def _wait(process: subprocess.Popen[bytes], url: str, log: Path) -> None:
    deadline = time.monotonic() + START_SECONDS
    while time.monotonic() < deadline:
        assert process.poll() is None, f'Label Studio ended: {log.read_text()}'
        try:
            if httpx.get(f'{url}/health', timeout=5).status_code == 200:
                return
        except httpx.TransportError:
            pass
        time.sleep(0.1)
    raise AssertionError(f'Label Studio does not serve {url}: {log.read_text()}')


def _stop(process: subprocess.Popen[bytes]) -> None:
    """Stop a process and its children."""
    for number in (signal.SIGTERM, signal.SIGKILL):
        try:
            os.killpg(process.pid, number)
            process.wait(10)
        except ProcessLookupError:
            break
        except subprocess.TimeoutExpired:
            continue
    process.wait(10)
