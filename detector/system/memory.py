"""The memory that this process may use, and the return of memory to the system after a large object was freed."""

import ctypes
import gc
import logging
import os
from collections.abc import Iterator
from functools import cache
from pathlib import Path
from typing import Any, Final

log = logging.getLogger('wholebody.memory')

_CGROUPS: Final = Path('/sys/fs/cgroup')
_OWN_CGROUPS: Final = Path('/proc/self/cgroup')
_MEMINFO: Final = Path('/proc/meminfo')


def usable() -> int | None:
    """Return the memory that this process may use, in bytes; None if the system does not say.

    It is the memory of the machine, or the limit of the process's cgroup (as containers and systemd set it) or of a
    cgroup above it.
    """
    limits = [*_cgroup_limits()]
    if hasattr(os, 'sysconf') and 'SC_PHYS_PAGES' in os.sysconf_names:
        limits.append(os.sysconf('SC_PHYS_PAGES') * os.sysconf('SC_PAGE_SIZE'))
    return min(limits, default=None)


def spare() -> int | None:
    """Return the memory that the machine can give without swapping, in bytes; None if the system does not say."""
    try:
        lines = _MEMINFO.read_text(encoding='ascii').splitlines()
        return 1024 * next(int(line.split()[1]) for line in lines if line.startswith('MemAvailable:'))
    except (OSError, ValueError, StopIteration):
        return None


def _cgroup_limits() -> Iterator[int]:
    """Yield the limits of the cgroups that contain this process, of version 2 and of version 1."""
    try:
        lines = _OWN_CGROUPS.read_text(encoding='utf-8', errors='surrogateescape').splitlines()
    except OSError:
        return
    for line in lines:
        _, controllers, path = line.split(':', 2)
        if controllers and 'memory' not in controllers.split(','):
            continue
        root = _CGROUPS / 'memory' if controllers else _CGROUPS
        # In a container the path may be the host's; the container's own limit is then at the root.
        own = Path(path.lstrip('/'))
        for folder in (own, *own.parents):
            limit = root / folder / ('memory.limit_in_bytes' if controllers else 'memory.max')
            try:
                yield int(limit.read_text(encoding='ascii'))
            except (OSError, ValueError):  # no such cgroup, or no limit (`max`)
                continue


def give_back() -> None:
    """Free unreachable objects, and let the C library return free memory to the system.

    glibc keeps freed memory in its arenas, a little more with every switch of models, since runtimes allocate in many
    threads. The call takes a few milliseconds. With other C libraries only Python's own objects are freed.
    """
    gc.collect()
    trim = _malloc_trim()
    if trim is not None:
        trim(0)


@cache
def _malloc_trim() -> Any:
    try:
        return ctypes.CDLL(None).malloc_trim
    except (AttributeError, OSError, TypeError):
        log.debug('the C library has no malloc_trim')
        return None
