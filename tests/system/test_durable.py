"""Changes of files and folders that survive a kill of the process and a power cut."""

import ctypes
import errno
import os
from pathlib import Path

import pytest

from detector.system import durable
from detector.system.durable import exchange, make_folder, replace_file, sync_folder, write_through


def test_paths_of_any_kind_change_places(tmp_path: Path) -> None:
    """A folder and a link are exchanged in one step, also by paths relative to the working directory."""
    (tmp_path / 'folder').mkdir()
    (tmp_path / 'folder' / 'file').touch()
    (tmp_path / 'link').symlink_to('nowhere')
    assert exchange(tmp_path / 'folder', tmp_path / 'link')
    assert (tmp_path / 'folder').readlink() == Path('nowhere')
    assert (tmp_path / 'link' / 'file').exists()
    assert exchange(Path('folder'), Path('link'))  # each test runs in tmp_path
    assert (tmp_path / 'folder' / 'file').exists()


def test_a_path_that_does_not_exist_is_named(tmp_path: Path) -> None:
    """The error is that of a rename, and nothing changes."""
    (tmp_path / 'folder').mkdir()
    with pytest.raises(FileNotFoundError, match='No such file or directory') as caught:
        exchange(tmp_path / 'folder', tmp_path / 'other')
    assert (caught.value.filename, caught.value.filename2) == (str(tmp_path / 'folder'), str(tmp_path / 'other'))
    assert [path.name for path in tmp_path.iterdir()] == ['folder']


@pytest.mark.parametrize('number', [None, errno.EINVAL, errno.ENOSYS])
def test_a_system_that_cannot_exchange_says_so(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, number: int | None
) -> None:
    """Without the call, or on a file system that refuses it, the caller has to find another way."""
    monkeypatch.setattr(durable, '_renameat2', lambda: None if number is None else lambda *_: -1)
    monkeypatch.setattr(ctypes, 'get_errno', lambda: number)
    assert not exchange(tmp_path, tmp_path)


def test_only_a_file_system_without_syncs_is_excused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A disk that fails raises its error."""
    number = errno.EINVAL

    def fail(_: int) -> None:
        raise OSError(number, os.strerror(number))

    monkeypatch.setattr(os, 'fsync', fail)
    sync_folder(tmp_path)
    number = errno.EIO
    with pytest.raises(OSError, match='Input/output error'):
        sync_folder(tmp_path)
    with pytest.raises(OSError, match='Input/output error'):
        write_through(tmp_path / 'file', b'content')


def test_a_written_file_is_synced(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The whole content has reached the operating system when the sync begins."""
    sizes: list[int] = []
    monkeypatch.setattr(os, 'fsync', lambda descriptor: sizes.append(os.fstat(descriptor).st_size))
    write_through(tmp_path / 'file', b'content')
    assert sizes == [7]


def test_new_folders_are_synced_from_the_top(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The folder above each new folder is synced after it was created; for an existing one nothing is."""
    synced: list[str] = []
    monkeypatch.setattr(durable, 'sync_folder', lambda folder: synced.append(f'{folder.name} {os.listdir(folder)}'))
    for _ in range(2):
        make_folder(tmp_path / 'a' / 'b')
    assert synced == [f"{tmp_path.name} ['a']", "a ['b']"]


def test_a_folder_that_another_process_creates_first_is_taken(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A folder that appears between the check and its creation is not an error."""
    folder, is_dir = tmp_path / 'folder', Path.is_dir

    def late(path: Path) -> bool:
        if path == folder and not is_dir(path):
            folder.mkdir()
            return False
        return is_dir(path)

    monkeypatch.setattr(Path, 'is_dir', late)
    make_folder(folder)
    assert folder.exists()


def test_a_file_is_replaced_as_a_whole(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A file whose new content cannot be written keeps its old content."""
    path = tmp_path / 'file.json'
    replace_file(path, b'old')
    with monkeypatch.context() as patched:
        patched.setattr(os, 'fsync', lambda _: (_ for _ in ()).throw(OSError(28, os.strerror(28))))
        with pytest.raises(OSError, match='No space left'):
            replace_file(path, b'new')
    assert path.read_bytes() == b'old'
    replace_file(path, b'new')
    assert {path.name: path.read_bytes() for path in tmp_path.iterdir()} == {'file.json': b'new'}
