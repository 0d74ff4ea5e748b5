"""The files of the distribution are found without importing it, and anything but these files is refused."""

import shutil
import sys
from importlib.metadata import distribution
from pathlib import Path

import pytest

from detector.errors import StarterUnavailable
from detector.models.starter import sources
from detector.models.starter.sources import HAND, NETWORKS, read_licence, read_network
from tests.support.starter import needs_starter


@needs_starter
def test_the_installed_distribution_holds_every_network() -> None:
    """All five networks are read, and the distribution is not imported."""
    for network in NETWORKS:
        assert read_network(network)[4:8] == b'TFL3'
    assert 'Apache License' in read_licence()
    assert 'mediapipe' not in sys.modules


@pytest.fixture
def copy(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Return a folder on sys.path that holds a copy of the distribution's smallest files."""
    installed = distribution(sources.DISTRIBUTION)
    for name in ('METADATA', 'LICENSE'):
        target = tmp_path / f'mediapipe-{installed.version}.dist-info' / name
        target.parent.mkdir(exist_ok=True)
        text = installed.read_text(name)
        assert text is not None
        target.write_text(text)
    target = tmp_path / 'mediapipe' / 'modules' / HAND.path
    target.parent.mkdir(parents=True)
    shutil.copy(str(installed.locate_file(f'mediapipe/modules/{HAND.path}')), target)
    monkeypatch.setattr(sys, 'path', [str(tmp_path)])
    return target


@needs_starter
def test_a_file_with_another_hash_is_refused(copy: Path) -> None:
    """A changed file is refused with its path, both hashes and the command that installs the right one."""
    content = bytearray(read_network(HAND))
    content[-1] ^= 1
    copy.write_bytes(content)
    with pytest.raises(StarterUnavailable) as caught:
        read_network(HAND)
    for part in (str(copy), HAND.sha256, 'uv sync --reinstall-package mediapipe'):
        assert part in str(caught.value)


@needs_starter
def test_another_version_without_the_files_is_refused(copy: Path) -> None:
    """A distribution that lacks a file is refused with its version and the version that is needed."""
    version = distribution(sources.DISTRIBUTION).version
    copy.unlink()
    with pytest.raises(
        StarterUnavailable, match=rf'No such file.*mediapipe {version} is installed, 0\.10\.21 is neede'
    ):
        read_network(HAND)


def test_a_missing_distribution_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Without the distribution the error names it, and the command that installs it or a Python that has it."""
    monkeypatch.setattr(sys, 'path', [str(tmp_path)])
    with pytest.raises(StarterUnavailable, match='mediapipe, which is not installed; .*`uv '):
        read_network(HAND)
    with pytest.raises(StarterUnavailable, match='not installed'):
        read_licence()


def test_a_python_without_wheels_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """On Python 3.13 the remedy is another Python, since no wheel can be installed."""
    monkeypatch.setattr(sys, 'path', [str(tmp_path)])
    monkeypatch.setattr(sources, '_NO_WHEEL_FROM', sys.version_info[:2])
    with pytest.raises(StarterUnavailable, match=r'no wheel for Python 3\.\d+: run `uv run --python 3.12'):
        read_network(HAND)
