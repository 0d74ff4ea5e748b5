"""Fields of files that somebody else has written: each has the type that it should have, or an error names it."""

import json
import math
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, Final, TypeVar

from detector.errors import InvalidRequest

T = TypeVar('T')

MAX_NUMBER: Final = 1e9
"""Of coordinates and areas; larger ones overflow somewhere."""
MAX_SIDE: Final = 1_000_000
"""Pixels of an image."""
MAX_ID: Final = 2**63 - 1


def read_text(path: Path) -> str:
    """:raises InvalidRequest: the file is missing, unreadable or no UTF-8."""
    try:
        return path.read_text(encoding='utf-8')
    except OSError as error:
        raise InvalidRequest(f'{path} cannot be read: {error.strerror}') from None
    except UnicodeDecodeError as error:
        raise InvalidRequest(f'{path} is no UTF-8: {error.reason} at byte {error.start}') from None


def read_json(path: Path) -> Any:
    """A JSON file; NaN and infinite numbers, which JSON cannot hold, are None.

    :raises InvalidRequest: the file cannot be read, or is no JSON.
    """
    try:
        return json.loads(read_text(path), parse_constant=lambda _: None, parse_float=_finite)
    except (ValueError, RecursionError) as error:
        raise InvalidRequest(f'{path} is no JSON: {error}') from None


def _finite(text: str) -> float | None:
    number = float(text)
    return number if math.isfinite(number) else None


def read_as(path: Path, parse: Callable[[object], T]) -> T:
    """What a JSON file says, by a function that makes something of its content.

    :raises InvalidRequest: the file cannot be read, or the function refuses its content; names the file.
    """
    try:
        return parse(read_json(path))
    except InvalidRequest as error:
        if str(path) in str(error):
            raise
        raise InvalidRequest(f'{path}: {error}') from None


def as_mapping(value: object, where: str) -> Mapping[str, Any]:
    """:raises InvalidRequest: the value is no mapping."""
    if not isinstance(value, Mapping):
        raise InvalidRequest(f'{where} must be a mapping, not {_shown(value)}')
    return value


def as_list(value: object, where: str) -> list[Any]:
    """:raises InvalidRequest: the value is no list."""
    if not isinstance(value, list):
        raise InvalidRequest(f'{where} must be a list, not {_shown(value)}')
    return value


def as_text(value: object, where: str) -> str:
    """:raises InvalidRequest: the value is no text, or empty."""
    if not isinstance(value, str) or not value.strip():
        raise InvalidRequest(f'{where} must be a text, not {_shown(value)}')
    return value


def as_integer(value: object, where: str, *, least: int = -MAX_ID, most: int = MAX_ID) -> int:
    """:raises InvalidRequest: the value is no integer, or too small or too large."""
    if isinstance(value, float) and value.is_integer():
        value = int(value)
    if not isinstance(value, int) or isinstance(value, bool) or not least <= value <= most:
        limit = '' if least == -MAX_ID else f' of at least {least}'
        limit += '' if most == MAX_ID else f', and {most} at most'
        raise InvalidRequest(f'{where} must be an integer{limit}, not {_shown(value)}')
    return value


def as_side(value: object, where: str) -> int:
    """Width or height of an image in pixels.

    :raises InvalidRequest: the value is none.
    """
    return as_integer(value, where, least=1, most=MAX_SIDE)


def as_numbers(value: object, where: str, *, count: int | None = None) -> list[float]:
    """The values as they are: integers stay integers.

    :raises InvalidRequest: the value is no list of finite numbers, or of another length.
    """
    numbers = as_list(value, where)
    if count is not None and len(numbers) != count:
        raise InvalidRequest(f'{where} must have {count} numbers, not {len(numbers)}')
    for index, number in enumerate(numbers):
        if not isinstance(number, int | float) or isinstance(number, bool) or not abs(number) <= MAX_NUMBER:
            raise InvalidRequest(
                f'{where}[{index}] must be a finite number within ±{MAX_NUMBER:g}, not {_shown(number)}'
            )
    return numbers


def _shown(value: object) -> str:
    if value is None:
        return 'missing or null'
    return repr(value)[:60]
