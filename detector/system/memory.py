"""Return of memory to the system after a large object, such as a model, has been freed."""

import ctypes
import gc
import logging
from functools import cache
from typing import Any

log = logging.getLogger('wholebody.memory')


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
