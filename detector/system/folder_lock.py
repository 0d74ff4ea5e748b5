"""One process at a time in a folder: a lock that the operating system releases however the process ends."""

import json
import logging
import os
import socket
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import datetime
from pathlib import Path

from filelock import FileLock, Timeout

from detector.errors import FolderInUse

log = logging.getLogger('wholebody.folders')

_without_locks: set[Path] = set()


class FolderLock:
    """A lock file that says who holds it.

    On a file system without locks it warns, and locks nothing.

    :param path: of the lock file; it stays there.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        self._lock = FileLock(path, thread_local=False, preserve_lock_file=True, fallback_to_soft=False)

    def acquire(self, *, seconds: float = 0) -> None:
        """Take it.

        :param seconds: to wait for whoever has it.
        :raises FolderInUse: somebody keeps it; says who.
        :raises OSError: the file cannot be made.
        """
        self.path.parent.mkdir(parents=True, exist_ok=True)
        self.path.touch()  # what fails from here on is the locking
        try:
            self._lock.acquire(timeout=seconds, poll_interval=0.05)
        except Timeout:
            raise FolderInUse(f'{self.path.parent} is in use by {self._holder()}') from None
        except OSError as error:
            if self.path not in _without_locks:
                _without_locks.add(self.path)
                log.warning('%s cannot be locked (%s): let no other process use it', self.path.parent, error.strerror)
            return
        self._sign()

    def release(self) -> None:
        self._lock.release()

    def _sign(self) -> None:
        since = datetime.now().astimezone().isoformat(timespec='seconds')
        try:
            self.path.write_text(json.dumps({'pid': os.getpid(), 'host': socket.gethostname(), 'since': since}))
        except OSError as error:  # a full disk is no reason not to serve
            log.warning('%s cannot be written: %s', self.path, error.strerror)

    def _holder(self) -> str:
        try:
            holder = json.loads(self.path.read_bytes())
            return f'process {holder["pid"]} on {holder["host"]} since {holder["since"]}'
        except (OSError, ValueError, KeyError, TypeError):
            return 'another process'


_in_this_process = threading.RLock()


@contextmanager
def locked(path: Path, *, seconds: float) -> Iterator[None]:
    """Hold a lock file, among the threads of this process too.

    :param seconds: to wait for another process.
    :raises FolderInUse: another process keeps it.
    """
    with _in_this_process:
        lock = FolderLock(path)
        lock.acquire(seconds=seconds)
        try:
            yield
        finally:
            lock.release()
