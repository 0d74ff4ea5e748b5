"""Checks that values in files of other programs have the expected type. An error names the field."""

import codecs
import json
import math
import re
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, Final, TypeVar

from detector.errors import InvalidRequest

T = TypeVar('T')

MAX_NUMBER: Final = 1e9
"""Largest absolute coordinate or area that is accepted; larger numbers overflow in later computations."""
MAX_SIDE: Final = 1_000_000
"""Largest width or height of an image in pixels."""
MAX_ID: Final = 2**63 - 1


_NUMBER: Final = re.compile(r'\s*[+-]?(\d+\.?\d*|\.\d+)([eE][+-]?\d+)?\s*', re.ASCII)
_MAX_DIGITS: Final = 40
"""Longest text that is read as a number, in characters."""


def read_text(path: Path) -> str:
    """Read a UTF-8 file with or without a byte order mark, or a UTF-16 file with one, as Windows tools save them.

    :raises InvalidRequest: the file is missing, unreadable or in another encoding.
    """
    try:
        content = path.read_bytes()
        is_wide = content.startswith((codecs.BOM_UTF16_LE, codecs.BOM_UTF16_BE))
        text = content.decode('utf-16' if is_wide else 'utf-8-sig')
    except OSError as error:
        raise InvalidRequest(f'{path} cannot be read: {error.strerror}') from None
    except UnicodeDecodeError as error:
        raise InvalidRequest(f'{path} is not UTF-8: {error.reason} at byte {error.start}') from None
    return text.replace('\r\n', '\n').replace('\r', '\n')


def read_json(path: Path) -> Any:
    """Read a JSON file; NaN and infinite numbers, which JSON cannot express, become None.

    :raises InvalidRequest: the file cannot be read, is not JSON, or an object has the same field twice.
    """
    try:
        return json.loads(
            read_text(path), parse_constant=lambda _: None, parse_float=_finite, object_pairs_hook=_distinct
        )
    except (ValueError, RecursionError) as error:
        raise InvalidRequest(f'{path} is not JSON: {error}') from None


def _distinct(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    fields = dict(pairs)
    if len(fields) < len(pairs):
        names = [name for name, _ in pairs]
        repeated = next(name for name in names if names.count(name) > 1)
        raise ValueError(f'an object has the field {repeated!r} twice')
    return fields


def _finite(text: str) -> float | None:
    number = float(text)
    return number if math.isfinite(number) else None


def read_as(path: Path, parse: Callable[[object], T]) -> T:
    """Parse the content of a JSON file with a function, and name the file in its errors.

    :raises InvalidRequest: the file cannot be read, or the function refuses its content.
    """
    try:
        return parse(read_json(path))
    except InvalidRequest as error:
        if str(path) in str(error):
            raise
        raise InvalidRequest(f'{path}: {error}') from None


def as_mapping(value: object, where: str) -> Mapping[str, Any]:
    """:raises InvalidRequest: the value is not a mapping."""
    if not isinstance(value, Mapping):
        raise InvalidRequest(f'{where} must be a mapping, not {_shown(value)}')
    return value


def as_list(value: object, where: str) -> list[Any]:
    """:raises InvalidRequest: the value is not a list."""
    if not isinstance(value, list):
        raise InvalidRequest(f'{where} must be a list, not {_shown(value)}')
    return value


def as_text(value: object, where: str) -> str:
    """:raises InvalidRequest: the value is not a text or is empty."""
    if not isinstance(value, str) or not value.strip():
        raise InvalidRequest(f'{where} must be a text, not {_shown(value)}')
    return value


def as_number(value: object) -> object:
    """Return the number that a text spells, as some programs write numbers; other values unchanged."""
    if not isinstance(value, str) or len(value) > _MAX_DIGITS or not _NUMBER.fullmatch(value):
        return value
    return int(value) if value.strip().lstrip('+-').isdecimal() else float(value)


def as_integer(value: object, where: str, *, least: int = -MAX_ID, most: int = MAX_ID) -> int:
    """Return an integer, also if a text spells it: `7`, `7.0`, `'7'`.

    :raises InvalidRequest: the value is not an integer or is out of range.
    """
    value = as_number(value)
    if isinstance(value, float) and value.is_integer():
        value = int(value)
    if not isinstance(value, int) or isinstance(value, bool) or not least <= value <= most:
        limit = '' if least == -MAX_ID else f' of at least {least}'
        limit += '' if most == MAX_ID else f' and at most {most}'
        raise InvalidRequest(f'{where} must be an integer{limit}, not {_shown(value)}')
    return value


def as_numbers(value: object, where: str, *, count: int | None = None) -> list[float]:
    """Return a list of finite numbers; integers stay integers, and texts that spell numbers become numbers.

    :raises InvalidRequest: the value is not such a list, or has another length.
    """
    numbers = [as_number(number) for number in as_list(value, where)]
    if count is not None and len(numbers) != count:
        raise InvalidRequest(f'{where} must have {count} numbers, not {len(numbers)}')
    for index, number in enumerate(numbers):
        if not isinstance(number, int | float) or isinstance(number, bool) or not abs(number) <= MAX_NUMBER:
            raise InvalidRequest(
                f'{where}[{index}] must be a finite number within ±{MAX_NUMBER:g}, not {_shown(number)}'
            )
    return numbers  # type: ignore[return-value]


def _shown(value: object) -> str:
    return 'missing or null' if value is None else repr(value)[:60]
