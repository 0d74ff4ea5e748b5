"""The outbox's folder: images and their metadata on disk until they are sent, in upstream's form.

`outbox/normal/<name>/image_<name>.jpg` and `….json`, the same below `outbox/priority`; a name is the time of saving.
An image is in the outbox from the moment that its folder has been renamed into place, and leaves it by being renamed
too: a kill or a power cut finds it there whole or not at all.
"""

import itertools
import json
import logging
import os
import re
import shutil
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path
from typing import Any, Final

log = logging.getLogger('wholebody.outbox')

MAX_SET_ASIDE: Final = 100
"""Images that are kept for a look at what is wrong with them; the oldest go first."""
_NAME: Final = re.compile(r'(19|20|21)\d\d-[01]\d-[0-3]\d_[0-2]\d:[0-5]\d:[0-5]\d\.\d{6}', re.ASCII)
_QUEUES: Final = {True: 'priority', False: 'normal'}
_SAVING: Final = '.saving'
_REMOVING: Final = '.removing'
_SET_ASIDE: Final = 'set_aside'


@dataclass(frozen=True, slots=True, kw_only=True)
class Description:
    """An image in the outbox, as lists show it.

    :param saved_at: ISO 8601, local time.
    :param persons: how many boxes it has; None, like what follows, if the metadata cannot be read.
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

    :param size: bytes of image and metadata.
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
        """Local time; None if the name is none, such as the 31st of February."""
        try:
            return datetime.fromisoformat(self.name).replace(tzinfo=None)
        except ValueError:
            return None

    def describe(self) -> Description:
        """Read what it is about."""
        saved_at = None if self.saved_at is None else self.saved_at.isoformat()
        known: dict[str, Any] = {'name': self.name, 'priority': self.priority, 'bytes': self.size, 'saved_at': saved_at}
        try:
            content = json.loads(self.metadata.read_bytes())
            return Description(
                **known,
                persons=len(content.get('box_detections') or []),
                **{field: content.get(field) for field in ('tags', 'source', 'created')},
            )
        except (OSError, ValueError, AttributeError, TypeError, RecursionError):
            return Description(**known)


class OutboxFiles:
    """The folder of an outbox. Whatever is missing of it is made anew when it is needed."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder

    def prepare(self) -> None:
        """Make the folders, and remove the rest of interrupted saves and removals.

        :raises OSError: that cannot be done.
        """
        self._make_folders()
        for name in (_SAVING, _REMOVING):
            for rest in (self.folder / name).iterdir():
                _remove(rest)

    def _make_folders(self) -> None:
        for name in (*_QUEUES.values(), _SAVING, _REMOVING, _SET_ASIDE):
            (self.folder / name).mkdir(parents=True, exist_ok=True)

    def scan(self) -> tuple[list[Entry], list[tuple[Path, str]]]:
        """What the folder holds; changes nothing.

        :return: the images, oldest first; what else lies among them, and what is wrong with it.
        :raises OSError: the folder cannot be read.
        """
        good: list[Entry] = []
        bad: list[tuple[Path, str]] = []
        for priority, queue in _QUEUES.items():
            folder = self.folder / queue
            for path in sorted(folder.iterdir()) if folder.exists() else []:
                entry = _read(path, priority)
                if isinstance(entry, str):
                    bad.append((path, entry))
                else:
                    good.append(entry)
        return good, bad

    def entry(self, name: str, *, priority: bool, size: int = 0) -> Entry:
        """The image of a name, whether it is there or not."""
        return Entry(name=name, priority=priority, size=size, folder=self.folder / _QUEUES[priority] / name)

    def write(self, name: str, jpeg: bytes, metadata: bytes, *, priority: bool) -> Entry | None:
        """Store an image; when this returns, it outlives a kill of the process and a power cut.

        :param metadata: JSON.
        :return: None if the name is taken.
        :raises OSError: the disk does not take it; then nothing is left of it.
        """
        entry = self.entry(name, priority=priority, size=len(jpeg) + len(metadata))
        saving, target = self.folder / _SAVING / name, entry.folder
        try:
            self._make_folders()
            saving.mkdir()
            _write_through(saving / entry.metadata.name, metadata)
            _write_through(saving / entry.jpeg.name, jpeg)
            _sync(saving)
            saving.rename(target)
        except OSError:
            shutil.rmtree(saving, ignore_errors=True)
            if target.exists():
                return None
            raise
        _sync(target.parent)
        return entry

    def remove(self, entry: Entry) -> bool:
        """Remove an image; one that cannot be removed is logged, and is there again after the next start.

        :return: whether it is gone.
        """
        removing = self.folder / _REMOVING / entry.name
        try:
            removing.parent.mkdir(parents=True, exist_ok=True)
            entry.folder.rename(removing)
        except FileNotFoundError:
            return True
        except OSError as error:
            log.error('%s cannot be removed: %s', entry.folder, reason(error))
            return False
        _remove(removing)
        return True

    def set_aside(self, path: Path, why: str) -> None:
        """Move what can never be sent to where it does no harm, if the disk lets us."""
        log.error('%r is set aside: %s', str(path), why)  # by whatever name, in one line
        folder = self.folder / _SET_ASIDE
        try:
            folder.mkdir(parents=True, exist_ok=True)
            names = itertools.chain([path.name], (f'{path.name}-{number}' for number in itertools.count(2)))
            path.rename(next(folder / name for name in names if not (folder / name).exists()))
            for old in sorted(folder.iterdir(), key=lambda kept: kept.lstat().st_ctime_ns)[:-MAX_SET_ASIDE]:
                log.warning('%r was set aside before the last %d, and is deleted', str(old), MAX_SET_ASIDE)
                _remove(old)
        except OSError as error:
            log.error('%r cannot be moved: %s', str(path), reason(error))


def _read(path: Path, priority: bool) -> Entry | str:
    """The image in a folder, or what is wrong with it."""
    if path.is_symlink() or not path.is_dir():
        return 'it is no folder'
    if not _NAME.fullmatch(path.name):
        return 'its name is no time'
    entry = Entry(name=path.name, priority=priority, size=0, folder=path)
    size = 0
    for file in (entry.metadata, entry.jpeg):
        try:
            length = file.stat().st_size
        except OSError as error:
            return f'{file.name}: {reason(error)}'
        if not length or not file.is_file():
            return f'{file.name} is empty'
        size += length
    return Entry(name=path.name, priority=priority, size=size, folder=path)


def _write_through(path: Path, content: bytes) -> None:
    with path.open('xb') as file:
        file.write(content)
        file.flush()
        os.fsync(file.fileno())


def _sync(folder: Path) -> None:
    """Let a rename in a folder outlive a power cut, where the file system knows how."""
    try:
        descriptor = os.open(folder, os.O_RDONLY)
        try:
            os.fsync(descriptor)
        finally:
            os.close(descriptor)
    except OSError as error:
        log.debug('%s cannot be synced: %s', folder, error)


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
    """What the operating system says, without path and number."""
    return error.strerror or str(error)
