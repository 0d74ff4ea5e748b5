"""Temporary folders that are removed even if their process was killed."""

import os
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from detector.system import scratch
from detector.system.folder_lock import FolderLock
from detector.system.scratch import scratch_folder

HOLDING = """
from detector.system.scratch import scratch_folder

with scratch_folder() as folder:
    (folder / 'pose.onnx').write_bytes(bytes(1000))
    print(folder, flush=True)
    input()
"""


@pytest.fixture(autouse=True)
def temporary(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """An empty folder in place of that of temporary files, for this process and for those that it starts."""
    monkeypatch.setattr(tempfile, 'tempdir', str(tmp_path))
    monkeypatch.setenv('TMPDIR', str(tmp_path))
    return tmp_path


@contextmanager
def holder() -> Iterator[tuple[subprocess.Popen[str], Path]]:
    """Start a process that holds a temporary folder; yield both."""
    pipe = subprocess.PIPE
    with subprocess.Popen([sys.executable, '-c', HOLDING], stdin=pipe, stdout=pipe, text=True) as process:
        assert process.stdout is not None
        try:
            yield process, Path(process.stdout.readline().strip())
        finally:
            process.kill()


def age(folder: Path) -> None:
    """Let the lock file of a folder look like one of yesterday."""
    yesterday = time.time() - 86400
    os.utime(folder.parent / 'in-use.lock', (yesterday, yesterday))


def test_the_folder_is_empty_and_ends_with_its_use(temporary: Path) -> None:
    """The caller gets an empty folder; after its use, also after an error, nothing is left."""
    with scratch_folder() as folder:
        assert list(folder.iterdir()) == []
        (folder / 'file').write_text('content')
    with pytest.raises(ValueError, match='a fault'), scratch_folder():
        raise ValueError('a fault')
    assert list(temporary.iterdir()) == []


def test_leftovers_of_killed_processes_are_removed(temporary: Path) -> None:
    """The folder of a killed process goes when another one is created; that of a running process stays."""
    with holder() as (killed, leftover), holder() as (_, used):
        killed.send_signal(signal.SIGKILL)
        killed.wait()
        age(leftover)
        age(used)
        with scratch_folder():
            assert not leftover.parent.exists()
            assert (used / 'pose.onnx').is_file()


def test_new_and_foreign_folders_stay(temporary: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A folder whose process may be about to lock it stays, and so does one that this module did not create."""
    new, foreign = temporary / 'wholebody-new', temporary / 'wholebody-notes'
    new.mkdir()
    (new / 'in-use.lock').touch()
    foreign.mkdir()
    with scratch_folder():
        assert new.is_dir()
    monkeypatch.setattr(scratch, '_NEW_SECONDS', 0)
    with scratch_folder():
        assert not new.exists()
    assert foreign.is_dir()


def test_without_locks_no_folder_is_removed(temporary: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """On a file system without locks, a folder may be in use, so it stays."""
    old = temporary / 'wholebody-old'
    old.mkdir()
    (old / 'in-use.lock').touch()
    monkeypatch.setattr(scratch, '_NEW_SECONDS', 0)
    monkeypatch.setattr(FolderLock, 'acquire', lambda _: None)
    with scratch_folder():
        pass
    assert old.is_dir()
