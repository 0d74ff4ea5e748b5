"""Exclusive use of a data folder by one node, and of its models by one process at a time."""

import errno
import fcntl
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from benchmarks.support.packages import make_package
from benchmarks.support.processes import PROJECT, clean_environment, free_port, running_node
from benchmarks.support.waiting import PATIENCE
from detector.cli.main import app
from detector.errors import FolderInUse
from detector.models import store as model_store
from detector.models.store import ModelStore
from detector.system.folder_lock import FolderLock, locked
from tests.support.commands import invoke, succeed


@contextmanager
def held_by_another(path: Path, seconds: float = 60) -> Iterator[subprocess.Popen[str]]:
    """Start a process that holds a lock for a while."""
    code = (
        'import sys, time; from pathlib import Path; from detector.system.folder_lock import FolderLock\n'
        f'lock = FolderLock(Path({str(path)!r})); lock.acquire(); print("held", flush=True); time.sleep({seconds})'
    )
    root = PROJECT
    with subprocess.Popen([sys.executable, '-c', code], stdout=subprocess.PIPE, text=True, cwd=root) as process:
        assert process.stdout is not None
        assert process.stdout.readline() == 'held\n'
        try:
            yield process
        finally:
            process.kill()


@pytest.mark.parametrize('target', ['lock', 'nothing/below', 'file/below'])
def test_a_link_that_leads_nowhere_is_replaced(tmp_path: Path, target: str) -> None:
    """A damaged link in place of the lock file does not stop the start; a link to a file is locked as that file."""
    (tmp_path / 'file').touch()
    (tmp_path / 'lock').symlink_to(target)
    lock = FolderLock(tmp_path / 'lock')
    lock.acquire()
    assert lock.is_held
    assert not lock.path.is_symlink()
    with pytest.raises(FolderInUse):
        FolderLock(tmp_path / 'lock').acquire()
    lock.release()
    lock.path.unlink()
    lock.path.symlink_to('file')
    lock.acquire()
    assert lock.path.is_symlink()
    lock.release()


def test_a_second_node_does_not_start(tmp_path: Path) -> None:
    """A second node on a folder exits with status 2 and names the first one; a killed node leaves the folder free."""
    with running_node(tmp_path) as first:
        environment = clean_environment(
            DATA_FOLDER=first.data_folder,
            NODE_HOST='127.0.0.1',
            BACKEND_PORT=free_port(),
            PYTHONPATH=PROJECT,
        )
        second = subprocess.run(
            [sys.executable, '-m', 'detector', 'serve'],
            env=environment,
            cwd=tmp_path,
            capture_output=True,
            text=True,
            check=False,
        )
        assert second.returncode == 2
        (line,) = second.stderr.splitlines()
        assert line.startswith(f'error: DATA_FOLDER={first.data_folder}: {first.data_folder} is in use by process ')
        assert f'process {first.process.pid} on ' in line
        assert line.endswith('; give each node its own')
        first.process.send_signal(signal.SIGKILL)
        first.process.wait()
    with running_node(tmp_path):
        pass


def test_the_holder_is_named_and_a_kill_frees(tmp_path: Path) -> None:
    """A process that fails to acquire the lock leaves the file unchanged."""
    path = tmp_path / 'folder' / 'node.lock'
    with held_by_another(path) as other:
        before = path.read_bytes()
        with pytest.raises(FolderInUse, match=f'{path.parent} is in use by process {other.pid} on .* since 20'):
            FolderLock(path).acquire()
        assert path.read_bytes() == before
        path.write_text('{"garbage')
        with pytest.raises(FolderInUse, match='is in use by another process'):
            FolderLock(path).acquire()
    lock = FolderLock(path)
    lock.acquire()
    with pytest.raises(FolderInUse):
        FolderLock(path).acquire()
    lock.release()
    FolderLock(path).acquire()


def test_a_file_system_without_locks_gets_a_warning(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    """On a file system without locks, a warning is logged once per folder and the node works."""

    def refuse(*_: object) -> None:
        raise OSError(errno.ENOLCK, 'No locks available')

    monkeypatch.setattr(fcntl, 'flock', refuse)
    for _ in range(2):
        FolderLock(tmp_path / 'node.lock').acquire()
    (record,) = caplog.records
    assert record.levelname == 'WARNING'
    assert record.getMessage().startswith(f'{tmp_path} cannot be locked (No locks available)')


def test_models_are_changed_by_one_process_at_a_time(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A second process that changes models waits, then names the first one, and keeps its unfinished work."""
    store = ModelStore(tmp_path / 'data')
    store.add(make_package(tmp_path / 'p.zip'))
    half_done = store.models / '.install-other'
    half_done.mkdir()
    path = store.data_folder / 'models.lock'
    monkeypatch.setenv('DATA_FOLDER', str(store.data_folder))
    monkeypatch.setattr(model_store, '_LOCK_SECONDS', 0.2)
    with held_by_another(path) as other:
        store.mend()
        assert half_done.is_dir()
        with pytest.raises(FolderInUse, match=f'process {other.pid}'):
            store.remove('1.0')
        failed = invoke(app, 'model', 'install', tmp_path / 'p.zip', '--replace')
        assert isinstance(failed.exception, FolderInUse)
        with pytest.raises(FolderInUse), locked(path, seconds=0):
            pass
    store.mend()
    assert not half_done.exists()
    monkeypatch.setattr(model_store, '_LOCK_SECONDS', 10)
    with held_by_another(path, seconds=0.5):
        start = time.monotonic()
        assert 'is installed' in succeed(app, 'model', 'install', tmp_path / 'p.zip', '--replace')
        assert time.monotonic() - start > 0.2


@pytest.mark.integration
def test_commands_work_beside_a_running_node(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """While a node runs, models can be installed and the outbox can be listed and cleared."""
    with running_node(tmp_path) as node:
        monkeypatch.setenv('DATA_FOLDER', str(node.data_folder))
        assert 'is installed' in succeed(app, 'model', 'install', make_package(tmp_path / 'p.zip'))
        assert '0 images' in succeed(app, 'outbox', 'clear', '--yes')


@pytest.mark.parametrize('loss', ['file', 'folder', 'replaced'])
def test_a_node_that_loses_its_lock_ends(tmp_path: Path, loss: str) -> None:
    """A node whose lock file or data folder is removed or replaced says so and ends with status 1."""
    with running_node(tmp_path) as node:
        lock = node.data_folder / 'node.lock'
        if loss == 'folder':
            node.data_folder.rename(tmp_path / 'elsewhere')
        else:
            lock.unlink()
        if loss == 'replaced':
            lock.touch()
        assert node.process.wait(PATIENCE) == 1
        assert 'was removed or replaced while this node runs' in node.log.read_text()
        assert 'shut down in' in node.log.read_text(), 'the shutdown is orderly'
