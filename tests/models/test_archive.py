"""Zip files of model packages."""

import zipfile
from pathlib import Path

import numpy as np
import pytest

from detector.errors import InvalidPackage
from detector.models import archive as archive_module
from detector.models.archive import unpack_archive, write_archive


def unpack(source: Path, tmp_path: Path, name: str = 'out') -> list[str]:
    folder = tmp_path / name
    folder.mkdir()
    unpack_archive(source, folder)
    return sorted(file.name for file in folder.iterdir())


def zip_of(path: Path, *names: str, content: bytes = b'x') -> Path:
    with zipfile.ZipFile(path, 'w', zipfile.ZIP_DEFLATED) as archive:
        for name in names:
            archive.writestr(name, content)
    return path


def test_what_is_written_is_read(tmp_path: Path) -> None:
    """Bytes and files survive a round trip, and writing them twice gives the same bytes."""
    source = tmp_path / 'network'
    source.write_bytes(bytes(range(256)) * 5000)
    files: dict[str, Path | bytes] = {'model.json': b'{}', 'det.onnx': source}
    for name in ('a.zip', 'b.zip'):
        write_archive(tmp_path / name, files)
    assert (tmp_path / 'a.zip').read_bytes() == (tmp_path / 'b.zip').read_bytes()
    assert unpack(tmp_path / 'a.zip', tmp_path) == ['det.onnx', 'model.json']
    assert (tmp_path / 'out' / 'det.onnx').read_bytes() == source.read_bytes()
    with zipfile.ZipFile(tmp_path / 'a.zip') as archive:
        assert {entry.external_attr >> 16 for entry in archive.infolist()} == {0o644}, 'what `unzip` gives files'
        assert sum(entry.compress_size for entry in archive.infolist()) < source.stat().st_size / 10


@pytest.mark.parametrize(
    ('name', 'message'),
    [
        ('../evil', 'leads out'),
        ('/etc/evil', 'leads out'),
        ('C:/evil', 'leads out'),
        ('..\\evil', 'leads out'),
        ('\\evil', 'leads out'),
        ('folder/model.json', 'is in a folder'),
        ('folder/', 'is in a folder'),
        ('folder\\model.json', 'is in a folder'),
        ('.', 'not a plain file name'),
        ('.hidden', 'not a plain file name'),
        ('é.onnx', 'not a plain file name'),
        (300 * 'a', "^'a{100}' is not a plain file name"),
    ],
)
def test_nothing_leads_out_of_the_folder(tmp_path: Path, name: str, message: str) -> None:
    """Folders, and paths that lead out of the package, are refused before anything is written."""
    archive = zip_of(tmp_path / 'bad.zip', 'model.json', name)
    with pytest.raises(InvalidPackage, match=message):
        unpack(archive, tmp_path)
    assert not list((tmp_path / 'out').iterdir())
    assert not (tmp_path / 'evil').exists()


def test_links_are_refused(tmp_path: Path) -> None:
    """A symbolic link in the zip is refused, since it could point anywhere."""
    archive = tmp_path / 'link.zip'
    with zipfile.ZipFile(archive, 'w') as target:
        entry = zipfile.ZipInfo('det.onnx')
        entry.external_attr = 0o120777 << 16
        target.writestr(entry, '/etc/passwd')
    with pytest.raises(InvalidPackage, match="'det.onnx' is a link"):
        unpack(archive, tmp_path)


def test_a_bomb_is_refused_unopened(tmp_path: Path) -> None:
    """A zip that would unpack to more than fifty times its size is refused by its directory; nothing is unpacked."""
    archive = tmp_path / 'bomb.zip'
    with (
        zipfile.ZipFile(archive, 'w', zipfile.ZIP_DEFLATED, compresslevel=1) as target,
        target.open('det.onnx', 'w') as sink,
    ):
        for _ in range(64):
            sink.write(bytes(1024**2))
    with pytest.raises(InvalidPackage, match='times its size'):
        unpack(archive, tmp_path)
    assert not list((tmp_path / 'out').iterdir())


def test_limits_may_be_reached_and_not_exceeded(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The size of a package and the compression ratio of a large file have limits; a small file has no ratio limit."""
    whole, zeros = zip_of(tmp_path / 'a.zip', 'model.json', 'det.onnx', content=bytes(500)), tmp_path / 'b.zip'
    monkeypatch.setattr(archive_module, 'RATIO_FREE_BYTES', 500)
    monkeypatch.setattr(archive_module, 'MAX_UNPACKED_BYTES', 1000)
    assert unpack(whole, tmp_path, 'fits') == ['det.onnx', 'model.json']
    monkeypatch.setattr(archive_module, 'MAX_UNPACKED_BYTES', 999)
    with pytest.raises(InvalidPackage, match='unpacks to 1000 bytes; 999 are allowed'):
        unpack(whole, tmp_path, 'too large')
    with pytest.raises(InvalidPackage, match="'det.onnx' unpacks to [1-9][0-9] times its size; 50 is the limit"):
        unpack(zip_of(zeros, 'det.onnx', content=bytes(900)), tmp_path, 'bomb')
    monkeypatch.setattr(archive_module, 'MAX_COMPRESSION_RATIO', 1)
    with zipfile.ZipFile(zeros, 'w', zipfile.ZIP_STORED) as stored:
        stored.writestr('det.onnx', bytes(900))
    assert unpack(zeros, tmp_path, 'stored') == ['det.onnx']


def test_a_file_without_a_name_is_refused(tmp_path: Path) -> None:
    """Such an entry stands for the folder itself."""
    nameless = tmp_path / 'nameless.zip'
    with zipfile.ZipFile(nameless, 'w') as target:
        target.writestr(zipfile.ZipInfo(''), b'x')
    with pytest.raises(InvalidPackage, match='an entry of the zip has no name'):
        unpack(nameless, tmp_path)


def test_a_directory_that_lies_about_a_size_is_refused(tmp_path: Path) -> None:
    """No more bytes than the declared size are written, and the checksum reveals the false size."""
    archive = zip_of(tmp_path / 'lie.zip', 'det.onnx', content=bytes(5_000_000))
    data = archive.read_bytes()
    size = (5_000_000).to_bytes(4, 'little')
    assert data.count(size) == 2
    archive.write_bytes(data.replace(size, (1000).to_bytes(4, 'little')))
    with pytest.raises(InvalidPackage, match='not a readable zip'):
        unpack(archive, tmp_path)
    assert sum(file.stat().st_size for file in (tmp_path / 'out').iterdir()) <= 1000


def test_damaged_bytes_raise_no_other_error(tmp_path: Path) -> None:
    """A package with flipped bytes is either unpacked or refused with InvalidPackage."""
    whole = zip_of(tmp_path / 'whole.zip', 'model.json', 'det.onnx', content=bytes(range(256)) * 8).read_bytes()
    rng = np.random.default_rng(2)
    refused = 0
    for number in range(300):
        damaged = bytearray(whole)
        for position in rng.integers(0, len(damaged), 3):
            damaged[position] = rng.integers(0, 256)
        archive, folder = tmp_path / 'damaged.zip', tmp_path / f'out{number}'
        archive.write_bytes(damaged)
        folder.mkdir()
        try:
            unpack_archive(archive, folder)
        except InvalidPackage:
            refused += 1
    assert refused > 100


def test_other_compressions_are_refused(tmp_path: Path) -> None:
    """Only deflate is accepted: other decoders raise errors of their own."""
    archive = tmp_path / 'lzma.zip'
    with zipfile.ZipFile(archive, 'w', zipfile.ZIP_LZMA) as target:
        target.writestr('det.onnx', bytes(1000))
    with pytest.raises(InvalidPackage, match='not compressed with deflate'):
        unpack(archive, tmp_path)


def test_too_many_or_doubled_files_are_refused(tmp_path: Path) -> None:
    """A package with too many files, or with one file twice, is refused."""
    assert len(unpack(zip_of(tmp_path / 'most.zip', *(f'f{i}' for i in range(32))), tmp_path, 'most')) == 32
    with pytest.raises(InvalidPackage, match='33 files'):
        unpack(zip_of(tmp_path / 'many.zip', *(f'f{i}' for i in range(33))), tmp_path)
    with pytest.warns(UserWarning, match='Duplicate'):
        archive = zip_of(tmp_path / 'twice.zip', 'det.onnx', 'det.onnx')
    (tmp_path / 'out').rmdir()
    with pytest.raises(InvalidPackage, match='twice'):
        unpack(archive, tmp_path)


@pytest.mark.parametrize('content', [b'', b'<html>not found</html>', b'PK\x03\x04 truncated'])
def test_a_file_that_is_not_a_zip_is_refused(tmp_path: Path, content: bytes) -> None:
    """An empty file, a truncated zip and an error page saved as a zip are refused."""
    archive = tmp_path / 'page.zip'
    archive.write_bytes(content)
    with pytest.raises(InvalidPackage, match='not a readable zip'):
        unpack(archive, tmp_path)
