"""Checks of values in files of other programs."""

from pathlib import Path

import pytest

from detector.datasets.fields import as_integer, as_list, as_mapping, as_numbers, as_text, read_json, read_text
from detector.errors import InvalidRequest


def test_good_values_come_back_as_they_are() -> None:
    """Valid values are returned unchanged, and a whole float becomes an integer."""
    assert as_numbers([1, 2.5], 'x', count=2) == [1, 2.5]
    assert type(as_numbers([1], 'x')[0]) is int
    assert as_integer(7.0, 'x') == 7
    assert as_text('ü', 'x') == 'ü'
    assert as_list([1], 'x') == [1]
    assert as_mapping({'a': 1}, 'x') == {'a': 1}


@pytest.mark.parametrize('value', [None, True, 'seven', 7.5, float('nan'), [], {}])
def test_an_error_names_the_field(value: object) -> None:
    """An error names the field and shows its value."""
    with pytest.raises(InvalidRequest, match='images.3..id must be an integer of at least 1'):
        as_integer(value, 'images[3].id', least=1)
    if not isinstance(value, str):
        with pytest.raises(InvalidRequest, match='the name must be a text'):
            as_text(value, 'the name')
    with pytest.raises(InvalidRequest, match=r'box.1. must be a finite number'):
        as_numbers([1, None if value == 7.5 else value], 'box')


@pytest.mark.parametrize('content', [b'', b'{', b'\xff\xfe', b'[' * 100_000])
def test_a_file_that_is_no_json_is_named(tmp_path: Path, content: bytes) -> None:
    """A file that is truncated, in another encoding, nested too deeply or missing is named in the error."""
    path = tmp_path / 'annotations.json'
    path.write_bytes(content)
    with pytest.raises(InvalidRequest, match='annotations.json'):
        read_json(path)
    with pytest.raises(InvalidRequest, match='missing.json cannot be read: No such file'):
        read_json(tmp_path / 'missing.json')


@pytest.mark.parametrize('encoding', ['utf-8', 'utf-8-sig', 'utf-16'])
def test_text_is_read_with_and_without_a_byte_order_mark(tmp_path: Path, encoding: str) -> None:
    """A byte order mark, as Windows tools write it, is not part of the text, and names the encoding."""
    path = tmp_path / 'a.json'
    path.write_bytes('{"name":\r\n "Küche"}'.encode(encoding))
    assert read_json(path) == {'name': 'Küche'}
    assert read_text(path) == '{"name":\n "Küche"}'


@pytest.mark.parametrize(
    ('text', 'number'), [('1', 1), (' 7 ', 7), ('-3', -3), ('1.50', 1.5), ('.5', 0.5), ('1e2', 100)]
)
def test_text_spells_numbers(text: str, number: float) -> None:
    """Text that spells a number is that number."""
    assert as_numbers([text], 'x') == [number]
    assert type(as_numbers(['1'], 'x')[0]) is int


@pytest.mark.parametrize('text', ['', 'x', '1,5', '0x10', '1_000', 'nan', 'inf', '٣', '1 2', '9' * 5000, '1e400'])
def test_other_text_is_not_a_number(text: str) -> None:
    """Text that only resembles a number is refused with its place."""
    with pytest.raises(InvalidRequest, match=r'x\[0\] must be a finite number'):
        as_numbers([text], 'x')
    with pytest.raises(InvalidRequest, match='y must be an integer'):
        as_integer(text, 'y')


def test_a_field_that_occurs_twice_is_refused(tmp_path: Path) -> None:
    """An object with the same field twice is refused, since one of the two values would be dropped."""
    path = tmp_path / 'a.json'
    path.write_text('{"a": {"nose": 1, "nose": 2}}')
    with pytest.raises(InvalidRequest, match="a.json is not JSON: an object has the field 'nose' twice"):
        read_json(path)
