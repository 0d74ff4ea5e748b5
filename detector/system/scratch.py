"""Temporary folders that are removed even if the process that created them was killed.

Each folder contains a lock file that its process holds. Whoever creates such a folder removes those that are not held.
"""

import shutil
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Final

from detector.errors import FolderInUse

from .folder_lock import FolderLock

_PREFIX: Final = 'wholebody-'
_LOCK: Final = 'in-use.lock'
_NEW_SECONDS: Final = 60.0
"""Age in seconds up to which a lock file may be about to be locked."""


@contextmanager
def scratch_folder() -> Iterator[Path]:
    """Create an empty folder among the temporary files, and remove it at the end.

    :raises OSError: the folder cannot be created.
    """
    _remove_leftovers(Path(tempfile.gettempdir()))
    with tempfile.TemporaryDirectory(prefix=_PREFIX) as parent:
        lock = FolderLock(Path(parent) / _LOCK)
        lock.acquire()
        try:
            folder = Path(parent) / 'files'
            folder.mkdir()
            yield folder
        finally:
            lock.release()


def _remove_leftovers(parent: Path) -> None:
    """Remove the folders of processes that no longer run; folders of other origin and of other users stay."""
    for path in parent.glob(f'{_PREFIX}*/{_LOCK}'):
        lock = FolderLock(path)
        try:
            if time.time() - path.stat().st_mtime < _NEW_SECONDS:
                continue
            lock.acquire()
        except (FolderInUse, OSError):  # it is in use, or another user's, or just removed by another process
            continue
        try:
            if lock.is_held:  # otherwise the file system has no locks
                shutil.rmtree(path.parent, ignore_errors=True)
        finally:
            lock.release()
