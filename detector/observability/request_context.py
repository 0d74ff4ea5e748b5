"""Data of one request or event, from its arrival to its answer, on the event loop and in threads.

A context variable carries it. `asyncio.to_thread` passes it on; other executors need `in_this_context`.
"""

import contextvars
import re
import time
import uuid
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial
from typing import Final, ParamSpec, TypeVar

P = ParamSpec('P')
T = TypeVar('T')

_REQUEST_ID: Final = re.compile(r'[\x20-\x7e]{1,128}')


@dataclass(slots=True, kw_only=True)
class RequestContext:
    """Data of one request.

    :param request_id: id from the caller, or a new one.
    :param error: error that the request is answered with, if any.
    :param encode_seconds: time spent on encoding the answer; None if nothing was encoded.
    """

    request_id: str
    error: Exception | None = None
    encode_seconds: float | None = None


_current: contextvars.ContextVar[RequestContext | None] = contextvars.ContextVar('wholebody_request', default=None)


def begin(wanted: object = None) -> RequestContext:
    """Begin a request: log lines of this task and of the tasks it starts carry the id of the request from now on.

    :param wanted: id from the caller; a new one replaces it unless it is 1 to 128 printable ASCII characters.
    """
    valid = isinstance(wanted, str) and _REQUEST_ID.fullmatch(wanted) is not None
    context = RequestContext(request_id=str(wanted) if valid else uuid.uuid4().hex)
    _current.set(context)
    return context


def leave() -> None:
    """Separate this task from its request: its log lines carry no id from now on."""
    _current.set(None)


def request_id() -> str | None:
    """Return the id of the current request, or None."""
    context = _current.get()
    return None if context is None else context.request_id


def note_error(error: Exception) -> None:
    """Store the error that the current request is answered with."""
    context = _current.get()
    if context is not None:
        context.error = error


@contextmanager
def encoding() -> Iterator[None]:
    """Add the time inside the context to the time for encoding the answer of the request."""
    start = time.perf_counter()
    try:
        yield
    finally:
        context = _current.get()
        if context is not None:
            context.encode_seconds = (context.encode_seconds or 0.0) + time.perf_counter() - start


def in_this_context(function: Callable[P, T], *args: P.args, **kwargs: P.kwargs) -> Callable[[], T]:
    """Return a call that runs in the context of the current request, whichever thread makes it."""
    return partial(contextvars.copy_context().run, function, *args, **kwargs)
