"""Wait until something becomes true."""

import asyncio
import time
from collections.abc import Callable
from typing import Final, TypeVar

PATIENCE: Final = 30.0
"""Default time limit, in seconds. It is generous because the machine may be busy with other work."""

_PAUSE: Final = 0.05

T = TypeVar('T')


def eventually(condition: Callable[[], T], what: str = 'the awaited state', seconds: float = PATIENCE) -> T:
    """Call the condition until it returns a true value, and return that value.

    :param what: names the awaited state in the error message.
    :raises AssertionError: the condition did not become true in time.
    """
    deadline = time.monotonic() + seconds
    while not (value := condition()):
        assert time.monotonic() < deadline, f'{what}: not within {seconds} s'
        time.sleep(_PAUSE)
    return value


async def eventually_async(condition: Callable[[], T], what: str = 'the awaited state', seconds: float = PATIENCE) -> T:
    """Do the same as :func:`eventually` without blocking the event loop."""
    deadline = time.monotonic() + seconds
    while not (value := condition()):
        assert time.monotonic() < deadline, f'{what}: not within {seconds} s'
        await asyncio.sleep(_PAUSE)
    return value
