"""Parses JSON from clients by the number of its values: `[{},{},…]` takes 30 times its size in memory.

Label Studio sends tasks with all their annotations and predictions. In a large body, those are skipped as it is read.
"""

import json
from collections.abc import Iterable
from typing import Any, Final

import ijson

from detector.errors import InvalidRequest, RequestTooLarge

MAX_VALUES: Final = 1_000_000
"""Maximum number of values of a body that are kept; parsed, they take up to 150 MB."""
_ITEM: Final = 0
"""Stands for every index of a list in a path."""
_UNUSED: Final = frozenset(
    {
        *(('tasks', _ITEM, key) for key in ('annotations', 'drafts', 'predictions')),
        *(('task', key) for key in ('annotations', 'drafts', 'predictions')),
        *(('annotation', key) for key in ('prediction', 'result')),
        *(('annotations', _ITEM, key) for key in ('prediction', 'result')),
    }
)
"""Paths in the bodies of Label Studio that no route reads."""
_MAX_DEPTH: Final = 200
"""Maximum depth of nesting in a large body."""
_MARKS: Final = '{[,:'
_COUNTED: Final = 256 * 1024
"""Number of characters that are counted at a time, since counting blocks the interpreter."""
_PARSED: Final = 8 * 1024
"""Number of bytes that are parsed at a time, since that blocks it too."""


def parse_object(body: bytes | bytearray) -> dict[str, Any]:
    """Return the JSON object of a body. The unused parts of a large one are null.

    :raises InvalidRequest: the body is not a JSON object.
    :raises RequestTooLarge: more than `MAX_VALUES` values would be kept.
    """
    try:
        found = json.loads(body) if has_few_values(body, MAX_VALUES) else _parse_large(body)
    except (ValueError, RecursionError, ijson.JSONError):
        found = None
    if not isinstance(found, dict):
        raise InvalidRequest('the body is not a JSON object')
    return found


def has_few_values(text: str | bytes | bytearray, limit: int) -> bool:
    """Return True if a JSON text has at most so many values, keys included.

    Punctuation within strings counts too, so that the answer may be False for a text with fewer.
    """
    found = 0
    for start in range(0, len(text), _COUNTED):
        end = start + _COUNTED
        if isinstance(text, str):
            found += sum(text.count(mark, start, end) for mark in _MARKS)
        else:
            found += sum(text.count(ord(mark), start, end) for mark in _MARKS)
        if found > limit:
            return False
    return True


def _parse_large(body: bytes | bytearray) -> Any:
    kept = 0
    for event, _ in _used_events(body):  # without keeping any: freeing a million values stops all threads for 50 ms
        kept += event not in ('end_map', 'end_array')
        if kept > MAX_VALUES:
            raise RequestTooLarge(f'the JSON body has more than {MAX_VALUES} values; send them in several requests')
    builder = ijson.ObjectBuilder()
    for event, value in _used_events(body):
        builder.event(event, value)
    return builder.value


def _used_events(body: bytes | bytearray) -> Iterable[tuple[str, Any]]:
    return _used(ijson.basic_parse(_Reader(body), use_float=True, buf_size=_PARSED))


class _Reader:
    """Reads a body in parts; `io.BytesIO` would copy it first."""

    def __init__(self, body: bytes | bytearray) -> None:
        self._left = memoryview(body)

    def read(self, size: int) -> bytes:
        part, self._left = self._left[:size], self._left[size:]
        return bytes(part)


def _used(events: Iterable[tuple[str, Any]]) -> Iterable[tuple[str, Any]]:
    """Yield the events of ijson, with null in the place of each unused part.

    :raises InvalidRequest: the text is nested too deeply.
    """
    path: list[Any] = []
    skipping = 0
    for event, value in events:
        if skipping:
            skipping += event.startswith('start_') - event.startswith('end_')
            continue
        if event == 'map_key':
            path[-1] = value
        elif event.startswith('start_'):
            if len(path) <= 3 and tuple(path) in _UNUSED:
                skipping = 1
                yield 'null', None
                continue
            if len(path) >= _MAX_DEPTH:
                raise InvalidRequest(f'the body is nested more than {_MAX_DEPTH} levels deep')
            path.append(_ITEM)  # replaced by the key in an object
        elif event.startswith('end_'):
            path.pop()
        yield event, value
