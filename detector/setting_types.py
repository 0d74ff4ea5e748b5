"""Types of settings: what a value may be, and how its text is brought into one form."""

import re
from datetime import UTC, datetime
from typing import Annotated, Final

from pydantic import AfterValidator, BeforeValidator, Field, SecretStr

DEFAULT_PORTS: Final = {'http': ':80', 'https': ':443'}
"""Port that an origin omits, by scheme."""
_HOST: Final = re.compile(r'(\[[0-9a-f:.]+\]|[a-z0-9]([\w.-]*[a-z0-9])?)(:\d{1,5})?', re.ASCII)


def _lower(value: object) -> object:
    return value.lower() if isinstance(value, str) else value


def _upper(value: object) -> object:
    return value.upper() if isinstance(value, str) else value


def _loop_host(host: str | None) -> str | None:
    if host is not None and not re.fullmatch(r'(https?://)?[^/?#@\s]+/?', host):
        raise ValueError('give a host name, optionally with http:// or https:// and a port')
    return host and host.rstrip('/')


def _hosts(text: str) -> str:
    return ','.join(_checked_host(entry) for entry in _entries(text))


def _hosts_or_any(text: str) -> str:
    return ','.join(entry if entry == '*' else _checked_host(entry) for entry in _entries(text))


def _entries(text: str) -> list[str]:
    return [entry.strip().lower() for entry in text.split(',') if entry.strip()]


def _checked_host(entry: str) -> str:
    if not _HOST.fullmatch(entry):
        raise ValueError(f'{entry!r} is neither a host nor host:port')
    return entry


def _origins(text: str) -> str:
    entries = [entry.rstrip('/') for entry in _entries(text)]
    for entry in entries:
        scheme, _, host = entry.partition('://')
        if entry != '*' and not (scheme in ('http', 'https') and _HOST.fullmatch(host)):
            raise ValueError('give origins like https://host:8080, comma separated, or *')
    return ','.join(entry.removesuffix(DEFAULT_PORTS.get(entry.partition(':')[0], ',')) for entry in entries)


def _moment(value: object) -> object:
    if not isinstance(value, str):
        return value
    try:
        moment = datetime.fromisoformat(value.strip())
    except ValueError:
        raise ValueError('give a date in ISO 8601, such as 2026-01-31 or 2026-01-31T12:00+01:00') from None
    return moment if moment.tzinfo is not None else moment.replace(tzinfo=UTC)


def _fits_into_a_header(token: SecretStr | None) -> SecretStr | None:
    text = '' if token is None else token.get_secret_value()
    if not text.isascii() or not text.isprintable() or ' ' in text:
        raise ValueError('use ASCII letters, digits and punctuation only, for instance from `openssl rand -hex 24`')
    return token


Fraction = Annotated[float, Field(ge=0, le=1)]
IN_LOWER_CASE: Final = BeforeValidator(_lower)
IN_UPPER_CASE: Final = BeforeValidator(_upper)
LoopHost = Annotated[str | None, AfterValidator(_loop_host)]
"""A host, optionally with a scheme and a port."""
Hosts = Annotated[str, AfterValidator(_hosts)]
"""Hosts with or without a port, comma separated, in lower case."""
HostsOrAny = Annotated[str, AfterValidator(_hosts_or_any)]
"""Hosts as in `Hosts`, or `*` for any."""
Origins = Annotated[str, AfterValidator(_origins)]
"""Origins of web pages without their default ports, or `*` for any; comma separated, in lower case."""
Moment = Annotated[datetime | None, BeforeValidator(_moment)]
"""A date or a date with a time, in UTC unless it has an offset."""
HeaderToken = Annotated[SecretStr | None, AfterValidator(_fits_into_a_header)]
"""A secret that can be sent in an HTTP header."""
