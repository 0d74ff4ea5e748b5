"""Text in request headers: clients such as curl send UTF-8, and HTTP libraries read all headers as Latin-1."""

from typing import Annotated

from fastapi import Request
from pydantic import BeforeValidator

from detector.errors import InvalidRequest


def decoded(value: object) -> object:
    """Return a header's text read as UTF-8 if it is valid UTF-8, else unchanged; other values unchanged.

    :param value: header that was read as Latin-1.
    """
    if not isinstance(value, str):
        return value
    try:
        return value.encode('latin-1').decode('utf-8')
    except UnicodeError:
        return value


HeaderText = Annotated[str, BeforeValidator(decoded)]
"""Type of a header with text."""


def listed(request: Request, name: str) -> list[str]:
    """Return the items of a header whose items are separated by commas; a repeated header continues the list."""
    lines = [str(decoded(line)) for line in request.headers.getlist(name)]
    return [item.strip() for line in lines for item in line.split(',') if item.strip()]


def check_single(request: Request, *names: str) -> None:
    """Check that spellings and repetitions of a header agree.

    :param names: spellings of the header.
    :raises InvalidRequest: they have different values, so it is unclear which one counts.
    """
    values = {str(decoded(value)) for name in names for value in request.headers.getlist(name)}
    if len(values) > 1:
        shown = ', '.join(repr(value[:40]) for value in sorted(values))
        raise InvalidRequest(f'the header {names[0]} has several values, {shown}: send one')
