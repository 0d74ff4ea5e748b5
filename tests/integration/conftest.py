from collections.abc import Iterator
from pathlib import Path

import pytest

from benchmarks.support.label_studio_api import LabelStudio
from benchmarks.support.label_studio_server import STRICT, running_label_studio
from tests.support.integration.browser import Browser, chromium_executable, signed_in


@pytest.fixture(scope='session')
def label_studio(tmp_path_factory: pytest.TempPathFactory) -> Iterator[LabelStudio]:
    """Start a Label Studio that accepts backends on the loopback address."""
    with running_label_studio(tmp_path_factory.mktemp('label-studio')) as server:
        yield server


@pytest.fixture(scope='session')
def strict_label_studio(tmp_path_factory: pytest.TempPathFactory) -> Iterator[LabelStudio]:
    """Start another Label Studio, which also refuses predictions that do not fit the labeling config."""
    with running_label_studio(tmp_path_factory.mktemp('strict-label-studio'), **STRICT) as server:
        yield server


@pytest.fixture(scope='session')
def chromium() -> Path:
    """Return the executable for `signed_in`."""
    return chromium_executable()


@pytest.fixture(scope='module')
def browser(chromium: Path, label_studio: LabelStudio) -> Iterator[Browser]:
    """Open a Chromium that is signed in to `label_studio`; modules with asynchronous tests cannot use it."""
    with signed_in(chromium, label_studio) as running:
        yield running
