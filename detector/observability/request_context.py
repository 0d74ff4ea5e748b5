"""What belongs to one request or event, from its arrival to its answer, on the event loop and in threads.

A context variable carries it; `asyncio.to_thread` hands it on by itself, other executors need `in_this_context`.
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
    """One request.

    :param request_id: the caller's, or a fresh one.
    :param error: why it is refused or fails.
    :param encode_seconds: spent on writing the answer; None if there was nothing to convert.
    """

    request_id: str
    error: Exception | None = None
    encode_seconds: float | None = None


_current: contextvars.ContextVar[RequestContext | None] = contextvars.ContextVar('wholebody_request', default=None)


def begin(wanted: object = None) -> RequestContext:
    """Enter a request; what is logged from here on, in this task and what it starts, carries its id.

    :param wanted: the caller's id; replaced unless it is text of 1 to 128 printable ASCII characters.
    """
    valid = isinstance(wanted, str) and _REQUEST_ID.fullmatch(wanted) is not None
    context = RequestContext(request_id=str(wanted) if valid else uuid.uuid4().hex)
    _current.set(context)
    return context


def leave() -> None:
    """What this task does from here on belongs to no request."""
    _current.set(None)


def request_id() -> str | None:
    """The id of the request that is being worked on, if there is one."""
    context = _current.get()
    return None if context is None else context.request_id


def note_error(error: Exception) -> None:
    """Remember why the request is answered with an error."""
    context = _current.get()
    if context is not None:
        context.error = error


@contextmanager
def encoding() -> Iterator[None]:
    """Count the time inside as spent on writing the answer of the request."""
    start = time.perf_counter()
    try:
        yield
    finally:
        context = _current.get()
        if context is not None:
            context.encode_seconds = (context.encode_seconds or 0.0) + time.perf_counter() - start


def in_this_context(function: Callable[P, T], *args: P.args, **kwargs: P.kwargs) -> Callable[[], T]:
    """A call that sees this request, whichever thread makes it."""
    return partial(contextvars.copy_context().run, function, *args, **kwargs)
