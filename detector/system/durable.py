"""Changes of files and folders that survive a kill of the process and a power cut."""

import ctypes
import errno
import os
from functools import cache
from pathlib import Path
from typing import Any, Final

_AT_FDCWD: Final = -100
_RENAME_EXCHANGE: Final = 2
"""Constants of renameat2(2)."""
_NO_EXCHANGE: Final = (errno.EINVAL, errno.ENOSYS, errno.ENOTSUP)
"""Errors of a system or file system that cannot exchange two paths."""
_NO_SYNC: Final = (errno.EINVAL, errno.ENOTSUP, errno.EACCES)
"""Errors of a file system that syncs no folders, and of a folder that this process may not read."""


def write_through(path: Path, content: bytes) -> None:
    """Write a file, and return when its content is on the disk. Its entry in the folder is not synced."""
    with path.open('wb') as file:
        file.write(content)
        file.flush()
        os.fsync(file.fileno())


def sync_folder(folder: Path) -> None:
    """Return when the entries of a folder are on the disk: files that were created, renamed or removed in it.

    :raises OSError: the disk fails. A file system that cannot sync folders raises no error.
    """
    try:
        descriptor = os.open(folder, os.O_RDONLY)
        try:
            os.fsync(descriptor)
        finally:
            os.close(descriptor)
    except OSError as error:
        if error.errno not in _NO_SYNC:
            raise


def make_folder(folder: Path) -> None:
    """Create a folder and its missing parents, and return when their entries are on the disk.

    :raises OSError: a folder cannot be created.
    """
    if not folder.is_dir():
        make_folder(folder.parent)
        folder.mkdir(exist_ok=True)
        sync_folder(folder.parent)


def replace_file(path: Path, content: bytes) -> None:
    """Write a file as a whole, and return when it is on the disk. After a kill, it has its old or its new content.

    :raises OSError: the file cannot be written. It has its old content, unless only the last sync failed.
    """
    partial = path.with_name(f'{path.name}.partial')
    write_through(partial, content)
    partial.replace(path)
    sync_folder(path.parent)


def exchange(first: Path, second: Path) -> bool:
    """Let two existing paths of a file system change places in one step.

    :return: True; False if this system or file system cannot do so, and nothing has changed.
    :raises OSError: a path does not exist, or may not be changed.
    """
    renameat2 = _renameat2()
    if renameat2 is None:
        return False
    if renameat2(_AT_FDCWD, os.fsencode(first), _AT_FDCWD, os.fsencode(second), _RENAME_EXCHANGE) == 0:
        return True
    number = ctypes.get_errno()
    if number in _NO_EXCHANGE:
        return False
    raise OSError(number, os.strerror(number), str(first), None, str(second))


@cache
def _renameat2() -> Any:
    try:
        return ctypes.CDLL(None, use_errno=True).renameat2
    except (AttributeError, OSError, TypeError):  # another C library or system
        return None
