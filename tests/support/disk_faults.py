"""Faults of the disk at every operation that changes a folder.

An operation runs in a child process whose functions for changing files are replaced. A first run counts the points:
creations, writes, syncs, renames, removals, statements of SQLite, and the end. Each further run has a fault at one.

The functions are those of `os`, `io` and `sqlite3`, and renameat2 of `detector.system.durable`. Files that C code
changes by itself, such as SQLite's, are not seen.
"""

import builtins
import ctypes
import errno
import io
import os
import pickle
import shutil
import signal
import sqlite3
import tempfile
import threading
import traceback
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass, field
from enum import StrEnum
from functools import partial
from pathlib import Path
from typing import Any, Final

from detector.errors import WholebodyError
from detector.system import durable

Note = Callable[[str], None]
Operation = Callable[[Path, Note], None]
"""Changes a folder. It notes what it has confirmed, at the moment from which a client relies on it."""

_NEEDS_ROOM: Final = ('create', 'mkdir', 'symlink', 'write')
"""Points that fail because the disk is full; the others fail with an error of the device."""
_REPORTED: Final = 3
"""Exit status of a child whose operation has reported an error."""


class Outcome(StrEnum):
    """What happens at a point."""

    FAILS = 'the call fails'
    FAILS_ON = 'it and all later ones fail'
    KILLED = 'SIGKILL'
    POWER_CUT = 'power cut'


@dataclass(frozen=True, slots=True, kw_only=True)
class Fault:
    """An outcome at a point.

    :param number: number of the point, from 0.
    """

    number: int
    outcome: Outcome


@dataclass(slots=True, kw_only=True)
class Run:
    """What an operation did.

    :param points: kind and file name of each point, in their order.
    :param notes: what the operation has confirmed.
    :param errors: the error that it has reported, if it has.
    """

    points: list[str] = field(default_factory=list)
    notes: list[str] = field(default_factory=list)
    errors: list[str] = field(default_factory=list)


def run(operation: Operation, folder: Path, fault: Fault | None = None) -> Run:
    """Run an operation in a child process.

    :param folder: folder that it changes; faults happen only there.
    :param fault: fault to inject; None: only count the points.
    :raises AssertionError: the operation ended with an unexpected error.
    """
    incoming, outgoing = os.pipe()
    child = os.fork()
    if child == 0:
        _run_child(operation, folder, fault, outgoing)
    os.close(outgoing)
    result = Run()
    with os.fdopen(incoming, 'rb') as source, suppress(EOFError):
        while True:
            what, text = pickle.load(source)
            getattr(result, what).append(text)
    _, status = os.waitpid(child, 0)
    if fault is not None and fault.outcome in (Outcome.KILLED, Outcome.POWER_CUT):
        assert os.WIFSIGNALED(status), f'the operation did not reach its point: {result}'
        assert os.WTERMSIG(status) == signal.SIGKILL
    else:
        assert os.waitstatus_to_exitcode(status) in (0, _REPORTED), result.errors
    return result


def _run_child(operation: Operation, folder: Path, fault: Fault | None, outgoing: int) -> None:
    """Run an operation with a fault, and end the process."""
    tell = partial(_tell, os.write, threading.Lock(), outgoing)
    status = 1
    try:
        attic = Path(tempfile.mkdtemp(dir=folder.parent))
        disk = _Disk(folder, attic, fault, partial(tell, 'points'))
        disk.install()
        try:
            operation(folder, partial(tell, 'notes'))
            disk.happens('end', str(folder))
            status = 0
        except (OSError, WholebodyError) as error:
            tell('errors', repr(error))
            status = _REPORTED
    except BaseException:
        tell('errors', traceback.format_exc())
    finally:
        os._exit(status)


def _tell(write: Callable[[int, bytes], int], lock: threading.Lock, outgoing: int, what: str, text: str) -> None:
    with lock:
        write(outgoing, pickle.dumps((what, text)))


@dataclass(frozen=True, slots=True, kw_only=True)
class _Entry:
    """A change of an entry of a folder that is not synced yet.

    :param parent: inode of the folder.
    :param old: inode of the folder and name before a rename; None for an entry that is new or was removed.
    :param backup: what the name stood for before; None if it is new.
    """

    parent: int
    name: str
    old: tuple[int, str] | None = None
    backup: Path | None = None


class _Disk:
    """Functions that change files below a folder, with a fault at one call.

    A power cut undoes everything that is not synced: contents of files, and entries of folders except removed folders.
    Most file systems keep more, but none promises it.

    :param attic: folder on the same disk, for removed files that may come back.
    :param tell: called at each point.
    """

    def __init__(self, folder: Path, attic: Path, fault: Fault | None, tell: Callable[[str], None]) -> None:
        self._folder = str(folder)
        self._attic = attic
        self._fault = fault
        self._tell = tell
        self._count = 0
        self._lock = threading.RLock()
        self._unsynced: dict[int, int] = {}  # synced size by inode of a file
        self._entries: list[_Entry] = []
        self._is_off = False

    def install(self) -> None:
        """Replace the functions of this process for good."""

        def patched(name: str, method: Callable[..., Any]) -> dict[str, Any]:
            return {name: partial(method, getattr(os, name))}

        functions: dict[str, Any] = patched('open', self._open_descriptor) | patched('write', self._write_descriptor)
        functions |= patched('mkdir', self._mkdir) | patched('symlink', self._symlink)
        functions |= patched('unlink', self._unlink) | patched('remove', self._unlink) | patched('rmdir', self._rmdir)
        functions |= patched('rename', self._rename) | patched('replace', self._rename)
        functions |= patched('fsync', self._sync) | patched('fdatasync', self._sync)
        exchange = durable._renameat2()
        vars(os).update(functions)
        vars(io)['open'] = vars(builtins)['open'] = self._open
        vars(sqlite3)['connect'] = partial(sqlite3.connect, factory=partial(_Connection, self))
        vars(durable)['_renameat2'] = lambda: partial(self._exchange, exchange)

    # ---------------------------------------------------------------- points

    def happens(self, kind: str, path: str, partly: Callable[[], object] = lambda: None) -> None:
        """Pass a point, or end here.

        :param partly: does a part of the work before the fault.
        :raises OSError: the fault is that this call fails.
        """
        number, self._count = self._count, self._count + 1
        self._tell(f'{kind} {os.path.relpath(path, self._folder)}')
        fault = self._fault
        if fault is None or number < fault.number:
            return
        if fault.outcome in (Outcome.KILLED, Outcome.POWER_CUT):
            partly()
            if fault.outcome is Outcome.POWER_CUT:
                self._is_off = True
                self._lose_what_is_not_synced()
            os.kill(os.getpid(), signal.SIGKILL)
        if fault.outcome is Outcome.FAILS_ON or number == fault.number:
            partly()
            code = errno.ENOSPC if kind in _NEEDS_ROOM else errno.EIO
            raise OSError(code, os.strerror(code), path)

    def _is_inside(self, path: str) -> bool:
        return (not self._is_off and path.startswith(f'{self._folder}/')) or path == self._folder

    def _lose_what_is_not_synced(self) -> None:
        for entry in reversed(self._entries):
            parent = self._folder_of(entry.parent)
            if parent is None:
                continue
            path = parent / entry.name
            with suppress(OSError):
                if entry.old is not None:
                    old = self._folder_of(entry.old[0])
                    os.rename(path, self._attic / 'lost' if old is None else old / entry.old[1])
                elif path.is_dir() and not path.is_symlink():
                    shutil.rmtree(path)
                else:
                    path.unlink(missing_ok=True)
            if entry.backup is not None:
                os.rename(entry.backup, path)
        for path in Path(self._folder).rglob('*'):
            if (size := self._unsynced.get(path.lstat().st_ino)) is not None and path.is_file():
                os.truncate(path, size)

    def _folder_of(self, inode: int) -> Path | None:
        folders = [Path(self._folder), *(path for path in Path(self._folder).rglob('*') if path.is_dir())]
        return next((path for path in folders if path.stat().st_ino == inode), None)

    # ---------------------------------------------------------------- entries of folders

    def _mkdir(self, mkdir: Callable[..., None], path: Any, *args: Any, dir_fd: int | None = None) -> None:
        self._create('mkdir', _name(path, dir_fd), partial(mkdir, path, *args, dir_fd=dir_fd))

    def _symlink(self, symlink: Callable[..., None], source: Any, path: Any, *args: Any, **options: Any) -> None:
        self._create('symlink', _name(path, options.get('dir_fd')), partial(symlink, source, path, *args, **options))

    def _create(self, kind: str, path: str, create: Callable[[], Any]) -> Any:
        if not self._is_inside(path) or os.path.lexists(path):
            return create()
        with self._lock:
            self.happens(kind, path)
            result = create()
            self._entries.append(_Entry(parent=_parent(path), name=os.path.basename(path)))
            return result

    def _unlink(self, unlink: Callable[..., None], path: Any, *, dir_fd: int | None = None) -> None:
        found = _name(path, dir_fd)
        if not self._is_inside(found) or not os.path.lexists(found):
            return unlink(path, dir_fd=dir_fd)
        with self._lock:
            self.happens('unlink', found)
            entry = _Entry(parent=_parent(found), name=os.path.basename(found), backup=self._backup(found))
            unlink(path, dir_fd=dir_fd)
            self._entries.append(entry)

    def _rmdir(self, rmdir: Callable[..., None], path: Any, *, dir_fd: int | None = None) -> None:
        found = _name(path, dir_fd)
        if not self._is_inside(found):
            return rmdir(path, dir_fd=dir_fd)
        with self._lock:
            self.happens('rmdir', found)
            inode = os.stat(found).st_ino
            rmdir(path, dir_fd=dir_fd)
            self._entries = [entry for entry in self._entries if entry.parent != inode]

    def _rename(self, rename: Callable[..., None], source: Any, target: Any) -> None:
        old, new = _name(source), _name(target)
        if not self._is_inside(new):
            return rename(source, target)
        with self._lock:
            self.happens('rename', new)
            backup = self._backup(new) if os.path.isfile(new) or os.path.islink(new) else None
            before = (_parent(old), os.path.basename(old))
            rename(source, target)
            entry = _Entry(parent=_parent(new), name=os.path.basename(new), old=before, backup=backup)
            self._entries.append(entry)

    def _exchange(self, exchange: Callable[..., int], _: int, first: bytes, *arguments: Any) -> int:
        """Exchange two paths; an exchange is not undone, since a power cut leaves both paths complete in any case."""
        with self._lock:
            try:
                self.happens('exchange', _name(first))
            except OSError as error:
                ctypes.set_errno(error.errno or 0)
                return -1
            return exchange(_, first, *arguments)

    def _backup(self, path: str) -> Path:
        backup = self._attic / str(self._count)
        os.link(path, backup, follow_symlinks=False)
        return backup

    # ---------------------------------------------------------------- contents of files

    def _open_descriptor(
        self, open_: Callable[..., int], path: Any, flags: int, *args: Any, dir_fd: int | None = None
    ) -> int:
        opening = partial(open_, path, flags, *args, dir_fd=dir_fd)
        return int(self._create('create', _name(path, dir_fd), opening)) if flags & os.O_CREAT else opening()

    def _write_descriptor(self, write: Callable[[int, Any], int], descriptor: int, data: Any) -> int:
        return self.write(descriptor, data, partial(write, descriptor))

    def write(self, descriptor: int, data: Any, write: Callable[[Any], int]) -> int:
        path = _name(descriptor)
        if not self._is_inside(path):
            return write(data)
        with self._lock:
            self.happens('write', path, lambda: write(bytes(data)[: len(data) // 2]))
            state = os.fstat(descriptor)
            self._unsynced.setdefault(state.st_ino, state.st_size)
            return write(data)

    def _open(
        self,
        file: Any,
        mode: str = 'r',
        buffering: int = -1,
        encoding: str | None = None,
        errors: str | None = None,
        newline: str | None = None,
        closefd: bool = True,
        opener: Any = None,
    ) -> Any:
        if not set('wax+') & set(mode):
            return _builtin_open(file, mode, buffering, encoding, errors, newline, closefd, opener)
        opening = partial(_File, file, mode.replace('b', '').replace('t', ''), closefd, opener, disk=self)
        raw = opening() if isinstance(file, int) else self._create('create', _name(file), opening)
        if 'w' in mode and self._is_inside(_name(raw.fileno())):
            self._unsynced[os.fstat(raw.fileno()).st_ino] = 0
        if buffering == 0:
            return raw
        buffered = io.BufferedRandom(raw) if '+' in mode else io.BufferedWriter(raw)
        return buffered if 'b' in mode else io.TextIOWrapper(buffered, encoding, errors, newline)

    def _sync(self, sync: Callable[[int], None], file: Any) -> None:
        descriptor = file if isinstance(file, int) else file.fileno()
        path = _name(descriptor)
        if not self._is_inside(path):
            return sync(descriptor)
        with self._lock:
            self.happens('sync', path)
            sync(descriptor)
            inode = os.fstat(descriptor).st_ino
            self._unsynced.pop(inode, None)
            self._entries = [entry for entry in self._entries if entry.parent != inode]


_builtin_open: Final = open


def _name(path: Any, dir_fd: int | None = None) -> str:
    """Return the absolute path of a path or file descriptor; a link at its end is not followed."""
    if isinstance(path, int):
        return os.readlink(f'/proc/self/fd/{path}')
    text = os.fsdecode(path)
    return os.path.abspath(text if dir_fd is None else os.path.join(os.readlink(f'/proc/self/fd/{dir_fd}'), text))


def _parent(path: str) -> int:
    return os.stat(os.path.dirname(path)).st_ino


class _File(io.FileIO):
    """A file without a buffer whose writes are points."""

    def __init__(self, file: Any, mode: str, closefd: bool, opener: Any, *, disk: _Disk) -> None:
        super().__init__(file, mode, closefd, opener)
        self._disk = disk

    def write(self, data: Any) -> int:
        return self._disk.write(self.fileno(), data, super().write)


class _Connection(sqlite3.Connection):
    """A connection whose statements and commits are points."""

    def __init__(self, disk: _Disk, path: Any, *arguments: Any, **options: Any) -> None:
        super().__init__(path, *arguments, **options)
        self._point = partial(self._pass, disk, os.fsdecode(path))

    def _pass(self, disk: _Disk, path: str, kind: str) -> None:
        if path == ':memory:':
            return
        try:
            disk.happens(kind, path)
        except OSError as error:
            failure = sqlite3.OperationalError('disk I/O error')
            failure.sqlite_errorcode, failure.sqlite_errorname = sqlite3.SQLITE_IOERR, 'SQLITE_IOERR'
            raise failure from error

    def execute(self, *arguments: Any) -> sqlite3.Cursor:
        self._point('statement')
        return super().execute(*arguments)

    def executescript(self, script: str) -> sqlite3.Cursor:
        self._point('statement')
        return super().executescript(script)

    def __exit__(self, kind: Any, error: Any, trace: Any) -> Any:
        if kind is None:
            try:
                self._point('commit')
            except sqlite3.Error:
                self.rollback()
                raise
        return super().__exit__(kind, error, trace)
