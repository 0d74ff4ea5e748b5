"""Model zips of the mock Learning Loop, which writes its own identity into their model.json."""

import hashlib
import json
import shutil
import zipfile
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import BinaryIO, Final

MODEL_JSON: Final = 'model.json'
_CHUNK: Final = 1024**2


def copy_with_identity(source: Path, target: Path, identity: Mapping[str, str]) -> None:
    """Copy a zip and write an identity into its model.json. Folders and all other files are copied unchanged.

    :param identity: `id`, `version`, `organization`, `project`, `format`.
    :raises ValueError: the file is not a zip, or holds no model.json that is an object.
    """
    try:
        with zipfile.ZipFile(source) as archive, zipfile.ZipFile(target, 'w') as copy:
            entries = archive.infolist()
            if not any(_is_description(entry) for entry in entries):
                raise ValueError('the zip holds no model.json')
            for entry in entries:
                if _is_description(entry):
                    copy.writestr(entry, with_identity(archive.read(entry), identity))
                    continue
                with archive.open(entry) as content, copy.open(_fresh(entry), 'w') as sink:
                    shutil.copyfileobj(content, sink, _CHUNK)
    except (zipfile.BadZipFile, EOFError, NotImplementedError) as error:
        raise ValueError(f'not a readable zip file: {error}') from error


def with_identity(description: bytes, identity: Mapping[str, str]) -> bytes:
    """Return a model.json with an identity written into it.

    :raises ValueError: the description is not a JSON object.
    """
    try:
        content = json.loads(description)
    except ValueError as error:
        raise ValueError(f'model.json is not JSON: {error}') from None
    if not isinstance(content, dict):
        raise ValueError('model.json is not an object')
    return json.dumps({'host': '', 'categories': []} | content | dict(identity), indent=1).encode()


def pack_parts(target: Path, parts: Sequence[tuple[str, BinaryIO]]) -> str:
    """Pack the parts of an upload into a flat zip.

    :param parts: file name and content of each part; the content is read from its current position.
    :return: a hash of names and contents that does not depend on their order.
    """
    hashes = []
    with zipfile.ZipFile(target, 'w') as archive:
        for name, content in parts:
            digest = hashlib.sha256(name.encode())
            with archive.open(name, 'w', force_zip64=True) as sink:
                while chunk := content.read(_CHUNK):
                    digest.update(chunk)
                    sink.write(chunk)
            hashes.append(digest.hexdigest())
    return hashlib.sha256(''.join(sorted(hashes)).encode()).hexdigest()


def _is_description(entry: zipfile.ZipInfo) -> bool:
    return Path(entry.filename).name == MODEL_JSON and not entry.is_dir()


def _fresh(entry: zipfile.ZipInfo) -> zipfile.ZipInfo:
    fresh = zipfile.ZipInfo(entry.filename, entry.date_time)
    fresh.compress_type, fresh.external_attr, fresh.file_size = (
        entry.compress_type,
        entry.external_attr,
        entry.file_size,
    )
    return fresh
