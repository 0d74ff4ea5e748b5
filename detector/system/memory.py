"""Giving memory back to the system after something large has gone, such as a model."""

import ctypes
import gc
import logging
from functools import cache
from typing import Any

log = logging.getLogger('wholebody.memory')


def give_back() -> None:
    """Free what nobody refers to, and let the C library return what is free.

    glibc keeps freed memory in its arenas, a little more with every switch of models, since runtimes allocate in many
    threads. Takes some milliseconds; elsewhere than with glibc only Python's own part is done.
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
        log.debug('this C library has no malloc_trim')
        return None
