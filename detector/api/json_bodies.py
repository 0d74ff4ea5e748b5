"""Parses JSON from clients by the number of its values: `[{},{},…]` takes 30 times its size in memory.

Label Studio sends tasks with all their annotations and predictions. In a large body, those are skipped as it is read.
"""

import json
from collections.abc import Iterable
from io import BytesIO
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
_SLICE: Final = 4 * 1024**2
"""Number of characters that are counted at a time, since counting blocks the interpreter."""


def parse_object(body: bytes) -> dict[str, Any]:
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


def has_few_values(text: str | bytes, limit: int) -> bool:
    """Return True if a JSON text has at most so many values, keys included.

    Punctuation within strings counts too, so that the answer may be False for a text with fewer.
    """
    found = 0
    for start in range(0, len(text), _SLICE):
        end = start + _SLICE
        if isinstance(text, str):
            found += sum(text.count(mark, start, end) for mark in _MARKS)
        else:
            found += sum(text.count(ord(mark), start, end) for mark in _MARKS)
        if found > limit:
            return False
    return True


def _parse_large(body: bytes) -> Any:
    builder = ijson.ObjectBuilder()
    kept = 0
    for event, value in _used(ijson.basic_parse(BytesIO(body), use_float=True)):
        kept += event not in ('end_map', 'end_array')
        if kept > MAX_VALUES:
            raise RequestTooLarge(f'the JSON body has more than {MAX_VALUES} values; send them in several requests')
        builder.event(event, value)
    return builder.value


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
