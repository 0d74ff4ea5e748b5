"""The folder of the outbox: images and their metadata on disk, in upstream's layout.

An image lies in `outbox/normal/<name>/image_<name>.jpg` and `….json`, or below `outbox/priority`; its name is the time
of saving. A rename of its folder puts it into the outbox, and another one takes it out. After a kill or a power cut it
is therefore complete or absent.
"""

import itertools
import json
import logging
import re
import shutil
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path
from typing import Any, Final

from detector.system.durable import make_folder, sync_folder, write_through

log = logging.getLogger('wholebody.outbox')

MAX_SET_ASIDE: Final = 100
"""Number of set-aside images that are kept for inspection; the oldest are deleted first."""
_NAME: Final = re.compile(r'(19|20|21)\d\d-[01]\d-[0-3]\d_[0-2]\d:[0-5]\d:[0-5]\d\.\d{6}', re.ASCII)
_QUEUES: Final = {True: 'priority', False: 'normal'}
_SAVING: Final = '.saving'
_REMOVING: Final = '.removing'
_SET_ASIDE: Final = 'set_aside'


@dataclass(frozen=True, slots=True, kw_only=True)
class Description:
    """Summary of a waiting image, for lists.

    :param bytes: size of image and metadata.
    :param saved_at: time of saving, local, in ISO 8601; None if the name is not a valid time.
    :param persons: number of boxes; None, like the fields below, if the metadata cannot be read.
    """

    name: str
    priority: bool
    bytes: int
    saved_at: str | None
    persons: int | None = None
    tags: list[str] | None = None
    source: str | None = None
    created: str | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Entry:
    """An image in the outbox.

    :param size: size of image and metadata, in bytes.
    """

    name: str
    priority: bool
    size: int
    folder: Path

    @property
    def jpeg(self) -> Path:
        return self.folder / f'image_{self.name}.jpg'

    @property
    def metadata(self) -> Path:
        return self.folder / f'image_{self.name}.json'

    @property
    def saved_at(self) -> datetime | None:
        """Local time of saving; None if the name is not a valid time, such as the 31st of February."""
        try:
            return datetime.fromisoformat(self.name).replace(tzinfo=None)
        except ValueError:
            return None

    def describe(self) -> Description:
        """Read the metadata and return what lists show of the image."""
        saved_at = None if self.saved_at is None else self.saved_at.isoformat()
        known: dict[str, Any] = {'name': self.name, 'priority': self.priority, 'bytes': self.size, 'saved_at': saved_at}
        try:
            content = json.loads(self.metadata.read_bytes())
            tags = content.get('tags')
            return Description(
                **known,
                persons=len(content.get('box_detections') or []),
                tags=None if tags is None else [str(tag) for tag in tags],
                **{field: content.get(field) for field in ('source', 'created')},
            )
        except (OSError, ValueError, AttributeError, TypeError, RecursionError):
            return Description(**known)


class OutboxFiles:
    """The folder of an outbox. Missing subfolders are created when they are needed."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder

    def prepare(self) -> None:
        """Create the subfolders, and delete the remains of interrupted saves and removals.

        :raises OSError: a folder cannot be created or read.
        """
        self._make_folders()
        for name in (_SAVING, _REMOVING):
            for rest in (self.folder / name).iterdir():
                _remove(rest)

    def _make_folders(self) -> None:
        for name in (*_QUEUES.values(), _SAVING, _REMOVING, _SET_ASIDE):
            make_folder(self.folder / name)

    def scan(self) -> tuple[list[Entry], list[tuple[Path, str]]]:
        """List the content of the folder without changing it. What cannot be read now is logged and left out.

        :return: images, oldest first; paths that are not complete images, each with the reason.
        :raises OSError: the folder cannot be read.
        """
        good: list[Entry] = []
        bad: list[tuple[Path, str]] = []
        for priority, queue in _QUEUES.items():
            folder = self.folder / queue
            for path in sorted(folder.iterdir()) if folder.exists() else []:
                try:
                    entry = _read(path, priority)
                except OSError as error:
                    log.error('%r stays where it is until the next start: %s', str(path), reason(error))
                    continue
                if isinstance(entry, str):
                    bad.append((path, entry))
                else:
                    good.append(entry)
        return good, bad

    def entry(self, name: str, *, priority: bool, size: int = 0) -> Entry:
        """Return the entry for a name, even if no such image exists."""
        return Entry(name=name, priority=priority, size=size, folder=self.folder / _QUEUES[priority] / name)

    def write(self, name: str, jpeg: bytes, metadata: bytes, *, priority: bool) -> Entry | None:
        """Store an image. Once this returns, the image survives a kill of the process and a power cut.

        :param metadata: JSON text.
        :return: entry of the image; None if the name is taken.
        :raises OSError: the disk refuses a file, and the image is removed again.
        """
        entry = self.entry(name, priority=priority, size=len(jpeg) + len(metadata))
        saving, target = self.folder / _SAVING / name, entry.folder
        try:
            self._make_folders()
            saving.mkdir()
            write_through(saving / entry.metadata.name, metadata)
            write_through(saving / entry.jpeg.name, jpeg)
            sync_folder(saving)
            saving.rename(target)
        except OSError:
            shutil.rmtree(saving, ignore_errors=True)
            if target.exists():
                return None
            raise
        try:
            sync_folder(target.parent)
        except OSError:
            self.remove(entry)
            raise
        return entry

    def remove(self, entry: Entry) -> bool:
        """Remove an image. If that fails, the error is logged and the image reappears after the next start.

        :return: True if the image is gone.
        """
        removing = self.folder / _REMOVING / entry.name
        try:
            make_folder(removing.parent)
            entry.folder.rename(removing)
        except FileNotFoundError:
            return True
        except OSError as error:
            log.error('%s cannot be removed: %s', entry.folder, reason(error))
            return False
        _remove(removing)
        return True

    def set_aside(self, path: Path, why: str) -> None:
        """Move an unsendable file or folder to the folder of set-aside images. A failure is logged."""
        log.error('%r is set aside: %s', str(path), why)  # %r keeps any name on one line
        folder = self.folder / _SET_ASIDE
        try:
            make_folder(folder)
            names = itertools.chain([path.name], (f'{path.name}-{number}' for number in itertools.count(2)))
            path.rename(next(folder / name for name in names if not (folder / name).exists()))
            for old in sorted(folder.iterdir(), key=lambda kept: kept.lstat().st_ctime_ns)[:-MAX_SET_ASIDE]:
                log.warning('%r is deleted: only the last %d set aside are kept', str(old), MAX_SET_ASIDE)
                _remove(old)
        except OSError as error:
            log.error('%r cannot be moved: %s', str(path), reason(error))


def _read(path: Path, priority: bool) -> Entry | str:
    """Return the image in a folder, or the reason why it is not one.

    :raises OSError: the disk does not say.
    """
    if path.is_symlink() or not path.is_dir():
        return 'it is not a folder'
    if not _NAME.fullmatch(path.name):
        return 'its name is not a time'
    entry = Entry(name=path.name, priority=priority, size=0, folder=path)
    size = 0
    for file in (entry.metadata, entry.jpeg):
        try:
            length = file.stat().st_size
        except FileNotFoundError as error:
            return f'{file.name}: {reason(error)}'
        if not length or not file.is_file():
            return f'{file.name} is empty'
        size += length
    return Entry(name=path.name, priority=priority, size=size, folder=path)


def _remove(path: Path) -> None:
    try:
        if path.is_dir() and not path.is_symlink():
            shutil.rmtree(path)
        else:
            path.unlink()
    except FileNotFoundError:
        pass
    except OSError as error:
        log.error('%s cannot be removed: %s', path, reason(error))


def reason(error: OSError) -> str:
    """Return the message of the operating system, without path or error number."""
    return error.strerror or str(error)
