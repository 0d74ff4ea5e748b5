"""The starter model in tests: a condition for those that need the real one, and a double for all others."""

import sys
import tempfile
from pathlib import Path

import pytest

from benchmarks.support.packages import make_package
from detector.models import starter
from detector.models.embedded import STARTER_NAME
from detector.models.package import unpack_package

needs_starter = pytest.mark.skipif(
    sys.version_info >= (3, 13), reason='mediapipe, which the starter model is built from, has no wheel for this Python'
)


def replace_starter(monkeypatch: pytest.MonkeyPatch) -> list[Path]:
    """Let the starter model consist of the test card's networks.

    :return: list of the data folders in which it is built from now on, in order.
    """
    built: list[Path] = []

    def build(data_folder: Path) -> Path:
        folder = data_folder / STARTER_NAME
        if not folder.is_dir():
            built.append(data_folder)
            folder.mkdir(parents=True)
            with tempfile.TemporaryDirectory() as scratch:
                archive = make_package(Path(scratch) / 'starter.zip', version='0.0.1', name=STARTER_NAME)
                unpack_package(archive, folder)
        return folder

    monkeypatch.setattr(starter, 'starter_package', build)
    return built
