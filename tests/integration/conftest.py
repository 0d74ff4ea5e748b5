from collections.abc import Iterator
from pathlib import Path

import pytest

from .browser import chromium_executable
from .label_studio_api import LabelStudio
from .label_studio_server import STRICT, running_label_studio


@pytest.fixture(scope='session')
def label_studio(tmp_path_factory: pytest.TempPathFactory) -> Iterator[LabelStudio]:
    """A Label Studio that accepts backends on the loopback address."""
    with running_label_studio(tmp_path_factory.mktemp('label-studio')) as server:
        yield server


@pytest.fixture(scope='session')
def strict_label_studio(tmp_path_factory: pytest.TempPathFactory) -> Iterator[LabelStudio]:
    """Another, which also refuses predictions that do not fit the labeling config."""
    with running_label_studio(tmp_path_factory.mktemp('strict-label-studio'), **STRICT) as server:
        yield server


@pytest.fixture(scope='session')
def chromium() -> Path:
    """The executable for `signed_in`."""
    return chromium_executable()
