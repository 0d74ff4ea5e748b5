"""Zip files of model packages: written reproducibly, and checked before they are unpacked.

A package may come from an untrusted source. No entry may be written outside the target folder or fill the disk.
"""

import errno
import os
import re
import shutil
import stat
import struct
import zipfile
import zlib
from collections.abc import Mapping
from pathlib import Path
from typing import Final

from detector.errors import DamagedPackage, InvalidPackage

MAX_FILES: Final = 32
MAX_UNPACKED_BYTES: Final = 2 * 1024**3
MAX_COMPRESSION_RATIO: Final = 50
"""Largest ratio of unpacked to packed size. Networks hardly compress; even the embedded package is below it."""
RATIO_FREE_BYTES: Final = 8 * 1024**2
"""Size up to which a file may have any compression ratio, in bytes."""
_PLAIN_NAME: Final = re.compile(r'[A-Za-z0-9][A-Za-z0-9._-]{0,99}')


def write_archive(archive: Path, files: Mapping[str, Path | bytes]) -> None:
    """Write files into a flat zip. Its bytes depend only on the names and contents of the files."""
    with zipfile.ZipFile(archive, 'w') as target:
        for name, content in files.items():
            entry = zipfile.ZipInfo(name)  # its date is always the same
            entry.compress_type = zipfile.ZIP_DEFLATED
            entry.external_attr = 0o644 << 16
            if isinstance(content, bytes):
                target.writestr(entry, content)
                continue
            entry.file_size = content.stat().st_size
            with content.open('rb') as source, target.open(entry, 'w') as sink:
                shutil.copyfileobj(source, sink)


def unpack_archive(archive: Path, folder: Path) -> None:
    """Unpack a flat zip into an existing folder.

    :raises InvalidPackage: the file is not a sound zip, or an entry is a folder or link, leads out of the folder, or is
        too large.
    """
    try:
        with zipfile.ZipFile(archive) as source:
            entries = source.infolist()
            _check(entries)
            for entry in entries:
                _extract(source, entry, folder / entry.filename)
    except (zipfile.BadZipFile, zlib.error, struct.error, ValueError, EOFError, RuntimeError, OSError) as error:
        if isinstance(error, OSError) and error.errno != errno.EINVAL:  # EINVAL: the file names an impossible offset
            raise
        raise DamagedPackage(f'{archive.name} is not a readable zip file: {error}') from error


def _check(entries: list[zipfile.ZipInfo]) -> None:
    if len(entries) > MAX_FILES:
        raise InvalidPackage(f'the zip holds {len(entries)} files; {MAX_FILES} are allowed')
    names = [entry.filename for entry in entries]
    for name in names:
        if names.count(name) > 1:
            raise InvalidPackage(f'{name!r} is in the zip twice')
    for entry in entries:
        _check_entry(entry)
    total = sum(entry.file_size for entry in entries)
    if total > MAX_UNPACKED_BYTES:
        raise InvalidPackage(f'the zip unpacks to {total} bytes; {MAX_UNPACKED_BYTES} are allowed')


def _check_entry(entry: zipfile.ZipInfo) -> None:
    name = entry.filename
    if not name:
        raise InvalidPackage('an entry of the zip has no name')
    if stat.S_ISLNK(entry.external_attr >> 16):
        raise InvalidPackage(f'{name!r} is a link; a package holds plain files only')
    if name.startswith(('/', '\\')) or '..' in name.replace('\\', '/').split('/') or ':' in name:
        raise InvalidPackage(f'{name!r} leads out of the package')
    if entry.is_dir() or '/' in name or '\\' in name:
        raise InvalidPackage(f'{name!r} is in a folder; a package is flat, with model.json at the top of the zip')
    if not _PLAIN_NAME.fullmatch(name):
        raise InvalidPackage(f'{name[:100]!r} is not a plain file name: use letters, digits, ".", "_" and "-"')
    if entry.compress_type not in (zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED):
        raise InvalidPackage(f'{name!r} is not compressed with deflate')
    ratio = entry.file_size / max(entry.compress_size, 1)
    if entry.file_size > RATIO_FREE_BYTES and ratio > MAX_COMPRESSION_RATIO:
        raise InvalidPackage(f'{name!r} unpacks to {ratio:.0f} times its size; {MAX_COMPRESSION_RATIO} is the limit')


def _extract(source: zipfile.ZipFile, entry: zipfile.ZipInfo, target: Path) -> None:
    """Copy one entry. zipfile stops at the declared size and checks the CRC."""
    with source.open(entry) as content, target.open('xb') as sink:
        shutil.copyfileobj(content, sink)
        sink.flush()
        os.fsync(sink.fileno())  # a robot may lose power at any moment
