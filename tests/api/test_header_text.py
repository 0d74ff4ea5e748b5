"""Text in request headers."""

import pytest
from fastapi import Request
from hypothesis import given
from hypothesis import strategies as st

from detector.api.header_text import check_single, decoded, listed
from detector.errors import InvalidRequest


def request(*headers: tuple[str, bytes]) -> Request:
    return Request({'type': 'http', 'headers': [(name.encode(), value) for name, value in headers]})


@given(st.text(st.characters(codec='utf-8'), max_size=20))
def test_utf_8_is_read_as_it_was_sent(text: str) -> None:
    """Any text that a client sends as UTF-8 arrives unchanged."""
    assert decoded(text.encode().decode('latin-1')) == text


@pytest.mark.parametrize(('sent', 'read'), [(b'caf\xe9', 'café'), (b'\xc3\x28', 'Ã('), (b'plain', 'plain'), (b'', '')])
def test_other_bytes_are_latin_1(sent: bytes, read: str) -> None:
    """Bytes that are not UTF-8 are read as Latin-1, as before."""
    assert decoded(sent.decode('latin-1')) == read


def test_other_values_stay() -> None:
    """Values that are not text stay as they are."""
    assert decoded(None) is None
    assert decoded('日本') == '日本'


@pytest.mark.parametrize(
    ('lines', 'items'),
    [
        ([b'a,b'], ['a', 'b']),
        ([b'a', b'b'], ['a', 'b']),
        ([b' a , ,', 'ü'.encode(), b'b,c'], ['a', 'ü', 'b', 'c']),
        ([b''], []),
        ([], []),
    ],
)
def test_repeated_lists_are_joined(lines: list[bytes], items: list[str]) -> None:
    """The items of all lines of a header count, in their order."""
    assert listed(request(*(('tags', line) for line in lines)), 'tags') == items


def test_single_values_must_agree() -> None:
    """Repeated headers and spellings are accepted if they agree, and refused if they do not."""
    check_single(request(('camera_id', b'a'), ('camera-id', b'a'), ('camera_id', b'a')), 'camera_id', 'camera-id')
    check_single(request(), 'camera_id')
    with pytest.raises(InvalidRequest, match="the header camera_id has several values, 'a', 'b': send one"):
        check_single(request(('camera_id', b'b'), ('camera-id', b'a')), 'camera_id', 'camera-id')
