"""Checks that values in files of other programs have the expected type. An error names the field."""

import json
import math
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


def read_text(path: Path) -> str:
    """Read a UTF-8 file.

    :raises InvalidRequest: the file is missing, unreadable or not UTF-8.
    """
    try:
        return path.read_text(encoding='utf-8')
    except OSError as error:
        raise InvalidRequest(f'{path} cannot be read: {error.strerror}') from None
    except UnicodeDecodeError as error:
        raise InvalidRequest(f'{path} is not UTF-8: {error.reason} at byte {error.start}') from None


def read_json(path: Path) -> Any:
    """Read a JSON file; NaN and infinite numbers, which JSON cannot express, become None.

    :raises InvalidRequest: the file cannot be read or is not JSON.
    """
    try:
        return json.loads(read_text(path), parse_constant=lambda _: None, parse_float=_finite)
    except (ValueError, RecursionError) as error:
        raise InvalidRequest(f'{path} is not JSON: {error}') from None


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


def as_integer(value: object, where: str, *, least: int = -MAX_ID, most: int = MAX_ID) -> int:
    """:raises InvalidRequest: the value is not an integer or is out of range."""
    if isinstance(value, float) and value.is_integer():
        value = int(value)
    if not isinstance(value, int) or isinstance(value, bool) or not least <= value <= most:
        limit = '' if least == -MAX_ID else f' of at least {least}'
        limit += '' if most == MAX_ID else f' and at most {most}'
        raise InvalidRequest(f'{where} must be an integer{limit}, not {_shown(value)}')
    return value


def as_numbers(value: object, where: str, *, count: int | None = None) -> list[float]:
    """Return a list of finite numbers unchanged; integers stay integers.

    :raises InvalidRequest: the value is not such a list, or has another length.
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
    return 'missing or null' if value is None else repr(value)[:60]
