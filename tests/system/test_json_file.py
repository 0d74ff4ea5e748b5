"""Small JSON files that anything may have happened to."""

import os
from pathlib import Path

import pytest

from detector.system.json_file import MAX_BYTES, read_object, write_object


def test_what_is_written_is_read(tmp_path: Path) -> None:
    """The folder is created, and no partial file remains."""
    path = tmp_path / 'cache' / 'file.json'
    write_object(path, {'a': 1})
    write_object(path, {'a': 2})
    assert read_object(path) == {'a': 2}
    assert list(path.parent.iterdir()) == [path]


@pytest.mark.parametrize(
    'content',
    [
        b'',
        b'null',
        b'[]',
        b'"text"',
        b'{"a": 1',
        bytes(100),
        200_000 * b'[',
        b'\xff\xfe',
        b'{"a": "\\ud800"}',
        b'1' * 9999,
    ],
)
def test_anything_else_is_no_object(tmp_path: Path, content: bytes) -> None:
    """Truncated, foreign, deeply nested and otherwise damaged files are like missing ones."""
    path = tmp_path / 'file.json'
    path.write_bytes(content)
    assert read_object(path) is None


def test_what_is_no_file_is_no_object(tmp_path: Path) -> None:
    """Neither a folder, nor a pipe, nor a file that is too large is read."""
    (tmp_path / 'folder').mkdir()
    os.mkfifo(tmp_path / 'pipe')
    (tmp_path / 'large').write_bytes(b'{}' + MAX_BYTES * b' ')
    for name in ('missing', 'folder', 'pipe', 'large'):
        assert read_object(tmp_path / name) is None


def test_a_file_stays_if_it_cannot_be_replaced(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The old content remains."""
    path = tmp_path / 'file.json'
    write_object(path, {'a': 1})

    def refuse(*_: object) -> None:
        raise OSError('no space left')

    monkeypatch.setattr(Path, 'replace', refuse)
    with pytest.raises(OSError, match='no space left'):
        write_object(path, {'a': 2})
    assert read_object(path) == {'a': 1}
