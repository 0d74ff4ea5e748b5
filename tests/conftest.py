import importlib
import os
import ssl
import tempfile
from collections.abc import Iterator
from datetime import timedelta
from pathlib import Path
from typing import Any

import httpx
import hypothesis
import pytest

from benchmarks.support.processes import PROJECT, NodeProcess, running_node
from detector.engine.pose_engine import PoseEngine
from detector.models import package as model_package
from detector.models.embedded import EMBEDDED_PACKAGE, TEST_CARD_NAME
from detector.models.package import ModelPackage
from detector.system import child_process
from tests.support.child_processes import replace_call
from tests.support.fuzz_budget import FUZZ_SECONDS
from tests.support.starter import replace_starter

_CALM: dict[str, Any] = {
    'deadline': timedelta(seconds=4),  # hypothesis adds a quarter, so an example of over 5 s counts as a hang
    'suppress_health_check': list(hypothesis.HealthCheck),
    'print_blob': True,
}
hypothesis.configuration.set_hypothesis_home_dir(PROJECT / '.hypothesis')  # tests change the working directory
hypothesis.settings.register_profile('ci', max_examples=25, derandomize=True, database=None, **_CALM)
hypothesis.settings.register_profile('long', max_examples=max(1000, 10 * FUZZ_SECONDS), **_CALM)
hypothesis.settings.load_profile('long' if FUZZ_SECONDS else 'ci')

_DEFAULT_CONTEXT = httpx.create_ssl_context()


def _shared_context(
    verify: ssl.SSLContext | str | bool = True, cert: Any = None, trust_env: bool = True
) -> ssl.SSLContext:
    """Return one TLS context for all clients with the default certificates: loading these takes 24 ms of CPU."""
    is_default = verify is True and cert is None and not {'SSL_CERT_FILE', 'SSL_CERT_DIR'} & os.environ.keys()
    return _DEFAULT_CONTEXT if is_default else httpx.create_ssl_context(verify=verify, cert=cert, trust_env=trust_env)


importlib.import_module('httpx._transports.default').__dict__['create_ssl_context'] = _shared_context


def pytest_xdist_auto_num_workers() -> int:
    """Run one worker more than there are cores, since most tests wait for processes."""
    return len(os.sched_getaffinity(0)) + 1 if hasattr(os, 'sched_getaffinity') else (os.cpu_count() or 1) + 1


def pytest_addoption(parser: pytest.Parser) -> None:
    parser.addoption('--integration', action='store_true', help='also run what must be installed first')
    parser.addoption('--nightly', action='store_true', help='also run what takes minutes and rarely fails')


def pytest_ignore_collect(collection_path: Path, config: pytest.Config) -> bool | None:
    """Leave out `tests/integration` if no option asks for it: it imports packages of the group `integration`."""
    asked = config.getoption('--integration') or config.getoption('--nightly')
    return True if collection_path == Path(__file__).with_name('integration') and not asked else None


def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    """Deselect the tests that no option asks for."""
    if config.getoption('--nightly'):
        return
    markers = ['nightly'] if config.getoption('--integration') else ['nightly', 'integration']
    left_out = [item for item in items if any(item.get_closest_marker(marker) for marker in markers)]
    items[:] = [item for item in items if all(item.get_closest_marker(marker) is None for marker in markers)]
    config.hook.pytest_deselected(items=left_out)


@pytest.fixture(autouse=True)
def _own_settings(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Run each test in an empty folder, so that it reads no developer's `.env`, and with the test card."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv('MODE', TEST_CARD_NAME)


@pytest.fixture(scope='session')
def embedded() -> Iterator[ModelPackage]:
    """Unpack the embedded package."""
    with tempfile.TemporaryDirectory() as folder:
        yield model_package.unpack_package(EMBEDDED_PACKAGE, Path(folder))


@pytest.fixture(autouse=True)
def _trials_in_process(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> None:
    """Try packages out in this process, which saves a second per package, unless a test asks for `child_processes`."""
    if 'child_processes' not in request.fixturenames:
        monkeypatch.setattr(child_process, 'call', replace_call)


@pytest.fixture
def child_processes() -> None:
    """Let trials run in child processes, as outside of tests."""


@pytest.fixture
def starter(monkeypatch: pytest.MonkeyPatch) -> list[Path]:
    """Replace the starter model by a double; see `replace_starter`."""
    return replace_starter(monkeypatch)


@pytest.fixture(scope='session')
def engine(embedded: ModelPackage) -> PoseEngine:
    """Open an engine with the embedded package."""
    return PoseEngine(embedded)


@pytest.fixture(scope='session')
def node(tmp_path_factory: pytest.TempPathFactory) -> Iterator[NodeProcess]:
    """Start a node with the embedded model and without a Learning Loop."""
    with running_node(tmp_path_factory.mktemp('node'), DEADLINE=60) as running:
        yield running
