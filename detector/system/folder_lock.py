"""Exclusive use of a folder by one process. The operating system releases the lock when the process ends."""

import errno
import json
import logging
import os
import socket
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import datetime
from pathlib import Path
from typing import Final

from filelock import FileLock, Timeout

from detector.errors import FolderInUse

log = logging.getLogger('wholebody.folders')

NODE_LOCK: Final = 'node.lock'
"""Lock file in DATA_FOLDER, which a running node holds."""

_DEAD_ENDS: Final = (errno.ELOOP, errno.ENOENT, errno.ENOTDIR)
"""Errors of a link through which no process can have locked a file."""
_without_locks: set[Path] = set()


class FolderLock:
    """A lock file that names its holder.

    On a file system without locks, `acquire` logs a warning and locks nothing.

    :param path: path of the lock file; the file is never removed.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        self._lock = FileLock(path, thread_local=False, preserve_lock_file=True, fallback_to_soft=False)
        self._file: tuple[int, int] | None = None

    def acquire(self, *, seconds: float = 0) -> None:
        """Acquire the lock.

        :param seconds: how long to wait for another holder.
        :raises FolderInUse: another process holds the lock; the text names it.
        :raises OSError: the file cannot be created.
        """
        self.path.parent.mkdir(parents=True, exist_ok=True)
        self._create()  # later errors concern the lock
        try:
            self._lock.acquire(timeout=seconds, poll_interval=0.05)
        except Timeout:
            raise FolderInUse(f'{self.path.parent} is in use by {self.holder()}') from None
        except OSError as error:
            if self.path not in _without_locks:
                _without_locks.add(self.path)
                log.warning(
                    '%s cannot be locked (%s): make sure that no other process uses it',
                    self.path.parent,
                    error.strerror,
                )
            return
        self._file = _identity(self.path)
        self._sign()

    def _create(self) -> None:
        try:
            self.path.touch()
        except OSError as error:
            if error.errno not in _DEAD_ENDS or not self.path.is_symlink():
                raise
            log.warning('%s is replaced: it is a link that leads nowhere', self.path)
            self.path.unlink()
            self.path.touch()

    def is_lost(self) -> bool:
        """Return True if the file that this process has locked is no longer the one at the path.

        Another process can then lock the path too. False if the lock is not acquired or the disk cannot be read.
        """
        if self._file is None:
            return False
        try:
            return _identity(self.path) != self._file
        except FileNotFoundError:
            return True
        except OSError:
            return False

    def release(self) -> None:
        self._file = None
        self._lock.release()

    @property
    def is_held(self) -> bool:
        """True if this object holds the lock; False after `acquire` on a file system without locks."""
        return self._lock.is_locked

    def _sign(self) -> None:
        since = datetime.now().astimezone().isoformat(timespec='seconds')
        try:
            self.path.write_text(json.dumps({'pid': os.getpid(), 'host': socket.gethostname(), 'since': since}))
        except OSError as error:  # the node serves even if the disk is full
            log.warning('%s cannot be written: %s', self.path, error.strerror)

    def holder(self) -> str:
        """Return the process that acquired the lock last."""
        try:
            holder = json.loads(self.path.read_bytes())
            return f'process {holder["pid"]} on {holder["host"]} since {holder["since"]}'
        except (OSError, ValueError, KeyError, TypeError):
            return 'another process'


def _identity(path: Path) -> tuple[int, int]:
    """Return what distinguishes a file from all others: device and inode."""
    status = path.stat()
    return status.st_dev, status.st_ino


def holder_of(path: Path) -> str | None:
    """Return the process that holds a lock file, such as `process 7 on robot since …`; None if no process does."""
    if not path.is_file():
        return None
    lock = FolderLock(path)
    try:
        lock.acquire()
    except FolderInUse:
        return lock.holder()
    lock.release()
    return None


_in_this_process = threading.RLock()


@contextmanager
def locked(path: Path, *, seconds: float) -> Iterator[None]:
    """Hold a lock file. It also excludes the other threads of this process.

    :param path: path of the lock file.
    :param seconds: how long to wait for another process.
    :raises FolderInUse: another process holds the lock.
    """
    with _in_this_process:
        lock = FolderLock(path)
        lock.acquire(seconds=seconds)
        try:
            yield
        finally:
            lock.release()
