"""A function in a child process: with limits of time and memory, and without a life of its own.

The child ends with its parent, and when the caller is cancelled (`to_thread`). If memory runs out, the kernel ends the
child and not its parent.
"""

import asyncio
import ctypes
import importlib
import json
import os
import pickle
import resource
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable
from contextlib import suppress
from contextvars import ContextVar
from pathlib import Path
from typing import Any, Final, ParamSpec, TypeVar

_POLL_SECONDS: Final = 0.05
"""Time after which a cancelled caller is noticed, in seconds."""
_PR_SET_PDEATHSIG: Final = 1
"""Constant of prctl(2)."""
_ENTER: Final = f'from {__name__} import _enter; _enter()'

_cancelled: ContextVar[threading.Event | None] = ContextVar('_cancelled', default=None)

P = ParamSpec('P')
R = TypeVar('R')


class ChildFailed(Exception):
    """A child has not answered. The text continues a sentence whose subject is the child.

    :param was_starved: True if it lacked time or, probably, memory, which another machine may have.
    """

    def __init__(self, text: str, *, was_starved: bool = False) -> None:
        super().__init__(text)
        self.was_starved = was_starved


async def to_thread(function: Callable[P, R], *args: P.args, **kwargs: P.kwargs) -> R:
    """Do the same as `asyncio.to_thread`. If the caller is cancelled, the children of the function are killed."""
    cancelled = threading.Event()
    token = _cancelled.set(cancelled)
    try:
        return await asyncio.to_thread(function, *args, **kwargs)
    except asyncio.CancelledError:
        cancelled.set()
        raise
    finally:
        _cancelled.reset(token)


def call(module: str, function: str, *arguments: object, seconds: float, max_bytes: int | None = None) -> Any:
    """Call a function in a child process.

    :param module: module that has the function.
    :param arguments: arguments, which can be pickled.
    :param seconds: time limit, which includes the start of the child and the imports.
    :param max_bytes: limit of the memory that the child allocates; None for no limit.
    :return: result of the function, which can be written as JSON.
    :raises ChildFailed: the child does not answer in time, or it crashes.
    """
    paths = os.pathsep.join(path for path in sys.path if path)
    environment = os.environ | {'PYTHONPATH': paths, 'PYTHONSAFEPATH': '1'}
    request: bytes | None = pickle.dumps((os.getpid(), max_bytes, module, function, arguments))
    deadline, cancelled = time.monotonic() + seconds, _cancelled.get()
    with subprocess.Popen(
        [sys.executable, '-c', _ENTER],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.DEVNULL,
        env=environment,
    ) as child:
        try:
            while True:
                with suppress(subprocess.TimeoutExpired):
                    answer, _ = child.communicate(request, timeout=_POLL_SECONDS)
                    break
                request = None  # it is sent
                if time.monotonic() > deadline:
                    raise ChildFailed(f'has not ended within {seconds:g} seconds', was_starved=True)
                if cancelled is not None and cancelled.is_set():
                    raise ChildFailed('was broken off')
        finally:
            child.kill()
    if child.returncode:
        raise _failure(child.returncode)
    return json.loads(answer)


def _failure(status: int) -> ChildFailed:
    if status == -signal.SIGKILL:
        return ChildFailed('was killed, probably because this machine has too little memory', was_starved=True)
    if status < 0:
        return ChildFailed(f'has crashed ({signal.Signals(-status).name})')
    return ChildFailed(f'has ended with status {status}')


def _enter() -> None:
    """Answer the request on standard input: the main function of the child."""
    answers = os.fdopen(os.dup(1), 'wb')
    os.dup2(2, 1)  # nothing that a library prints becomes part of the answer
    parent, max_bytes, module, function, arguments = pickle.load(sys.stdin.buffer)
    _limit(parent, max_bytes)
    result = getattr(importlib.import_module(module), function)(*arguments)
    answers.write(json.dumps(result).encode())
    answers.flush()
    os._exit(0)  # the threads of a runtime must not delay or crash the end


def _limit(parent: int, max_bytes: int | None) -> None:
    """Bind the life of this process to its parent's, and limit its memory."""
    with suppress(AttributeError, OSError):  # another system than Linux
        ctypes.CDLL(None).prctl(_PR_SET_PDEATHSIG, signal.SIGKILL)
    if os.getppid() != parent:
        os._exit(1)
    with suppress(OSError):
        Path('/proc/self/oom_score_adj').write_text('1000')
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    if max_bytes is not None:  # not RLIMIT_AS: runtimes reserve addresses that they never use
        _, hard = resource.getrlimit(resource.RLIMIT_DATA)
        allowed = max_bytes if hard == resource.RLIM_INFINITY else min(max_bytes, hard)
        resource.setrlimit(resource.RLIMIT_DATA, (allowed, hard))
