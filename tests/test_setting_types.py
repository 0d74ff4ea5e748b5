"""Types of settings."""

from datetime import UTC, datetime, timedelta, timezone
from typing import Any

import pytest
from pydantic import SecretStr, TypeAdapter, ValidationError

from detector.setting_types import Fraction, HeaderToken, Hosts, HostsOrAny, LoopHost, Moment, Origins


@pytest.mark.parametrize(
    ('kind', 'text', 'expected'),
    [
        (Fraction, '0', 0.0),
        (Fraction, '1', 1.0),
        (LoopHost, 'https://loop.example:8443/', 'https://loop.example:8443'),
        (LoopHost, None, None),
        (Hosts, ' A.example:80 ,, [::1], b ', 'a.example:80,[::1],b'),
        (Hosts, '', ''),
        (HostsOrAny, '*, B.example', '*,b.example'),
        (Origins, 'HTTPS://a.example:443/, http://b:443', 'https://a.example,http://b:443'),
        (Origins, '*', '*'),
        (Moment, None, None),
        (Moment, ' 2026-01-31 ', datetime(2026, 1, 31, tzinfo=UTC)),
        (Moment, '2026-01-31T12:00+01:00', datetime(2026, 1, 31, 12, tzinfo=timezone(timedelta(hours=1)))),
        (HeaderToken, 'a-b_c.~!', SecretStr('a-b_c.~!')),
        (HeaderToken, None, None),
    ],
)
def test_a_value_is_brought_into_one_form(kind: Any, text: Any, expected: object) -> None:
    """Spaces, cases, default ports and slashes that mean nothing are removed; unset values stay unset."""
    assert TypeAdapter(kind).validate_python(text) == expected


@pytest.mark.parametrize(
    ('kind', 'text', 'reason'),
    [
        (Fraction, '1.01', 'less than or equal to 1'),
        (LoopHost, 'loop/path', 'give a host name'),
        (Hosts, '*', r"'\*' is neither a host nor host:port"),
        (Hosts, 'a, -b', "'-b' is neither a host nor host:port"),
        (HostsOrAny, 'a, *b', r"'\*b' is neither a host nor host:port"),
        (HostsOrAny, 'a:123456', "'a:123456' is neither a host nor host:port"),
        (Origins, 'a.example', 'give origins like'),
        (Moment, 'yesterday', 'give a date in ISO 8601'),
        (HeaderToken, 'two words', 'use ASCII letters, digits and punctuation only'),
        (HeaderToken, 'schlüssel', 'use ASCII letters, digits and punctuation only'),
        (HeaderToken, 'line\n', 'use ASCII letters, digits and punctuation only'),
    ],
)
def test_a_value_of_another_form_is_refused(kind: Any, text: str, reason: str) -> None:
    """A value that would silently mean something else is refused, and the error says what to write."""
    with pytest.raises(ValidationError, match=reason):
        TypeAdapter(kind).validate_python(text)
