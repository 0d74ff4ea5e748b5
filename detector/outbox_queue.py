"""The images in the outbox: the order in which they are sent, the limits that hold, and what became of each."""

import itertools
import logging
import threading
from collections.abc import Iterable, Iterator
from dataclasses import asdict, dataclass
from datetime import datetime, timedelta
from pathlib import Path
from typing import Final

from .errors import OutboxFault
from .outbox_files import Entry, OutboxFiles, reason

log = logging.getLogger('wholebody.outbox')

_RETRY_EVERY: Final = 10
"""One batch in so many is an image that failed before, as long as others wait."""
_ATTEMPTS: Final = 10
"""Names that are tried for an image."""


@dataclass(slots=True, kw_only=True)
class Counters:
    """What became of images since the start of the process.

    `found + saved = uploaded + set_aside + dropped + vanished + cleared + waiting`; `failed` ones never came in.

    :param found: lay there at the start.
    :param failed: could not be stored.
    :param set_aside: refused by the Loop, or incomplete at the start.
    :param dropped: of normal priority, oldest first, to hold the limits.
    :param vanished: removed from the folder by somebody else.
    :param cleared: removed on request.
    """

    found: int = 0
    saved: int = 0
    failed: int = 0
    uploaded: int = 0
    set_aside: int = 0
    dropped: int = 0
    vanished: int = 0
    cleared: int = 0


class OutboxQueue:
    """The images of an outbox folder, and where each of them ends.

    May be called from several threads, but by one process only.

    :param max_images: of normal priority.
    :param max_bytes: of all.
    """

    def __init__(self, folder: Path, *, max_images: int, max_bytes: int) -> None:
        self.counters = Counters()
        self._files = OutboxFiles(folder)
        self._max_images = max_images
        self._max_bytes = max_bytes
        self._lock = threading.Lock()
        self._entries: dict[bool, dict[str, Entry]] = {True: {}, False: {}}  # by priority; oldest first
        self._bytes = {True: 0, False: 0}
        self._in_flight: set[str] = set()
        self._failures: dict[str, int] = {}
        self._batches = itertools.count(1)
        self._last = datetime.min

    def load(self) -> None:
        """Begin with what the folder holds; what is no image with metadata is set aside.

        :raises OutboxFault: the folder cannot be used.
        """
        try:
            self._files.prepare()
            good, bad = self._files.scan()
        except OSError as error:
            raise OutboxFault(f'the outbox {self._files.folder} cannot be used: {reason(error)}') from error
        with self._lock:
            self._entries = {True: {}, False: {}}
            self._bytes = {True: 0, False: 0}
            self._failures = {}
            self.counters = Counters(found=len(good) + len(bad), set_aside=len(bad))
            for entry in good:
                self._put_in(entry)
            self._last = max(filter(None, (entry.saved_at for entry in good)), default=datetime.min)
            excess = self._take_excess()
        for path, why in bad:
            self._files.set_aside(path, why)
        self._remove_excess(excess)

    # ---------------------------------------------------------------- in

    def save(self, jpeg: bytes, metadata: bytes, *, priority: bool) -> Entry:
        """Store an image; where the limits demand it, the oldest of normal priority go.

        :param metadata: JSON.
        :raises OutboxFault: the disk does not take it, or images of priority fill the outbox.
        """
        try:
            self._check_room(len(jpeg) + len(metadata))
            entry = self._write(jpeg, metadata, priority)
        except OutboxFault:
            self.not_saved()
            raise
        with self._lock:
            self._put_in(entry)
            self.counters.saved += 1
            excess = self._take_excess()
        self._remove_excess(excess)
        return entry

    def not_saved(self) -> None:
        """Count an image that should have come in and could not."""
        with self._lock:
            self.counters.failed += 1

    def _check_room(self, size: int) -> None:
        with self._lock:
            taken = self._bytes[True]
        if taken + size > self._max_bytes:
            raise OutboxFault(
                f'the outbox is full: images of priority take {taken} of {self._max_bytes} bytes (MAX_OUTBOX_MIB), '
                f'and this one needs {size}'
            )

    def _write(self, jpeg: bytes, metadata: bytes, priority: bool) -> Entry:
        for _ in range(_ATTEMPTS):
            name = self._next_name()
            try:
                entry = self._files.write(name, jpeg, metadata, priority=priority)
            except OSError as error:
                raise OutboxFault(f'the outbox cannot store the image: {reason(error)}') from error
            if entry is not None:
                return entry
        raise OutboxFault(f'the outbox cannot store the image: another process writes the same names, {name} at last')

    def _next_name(self) -> str:
        """The time, in upstream's form; later than any before, whatever the clock does."""
        with self._lock:
            self._last = max(datetime.now(), self._last + timedelta(microseconds=1))
            return self._last.isoformat(sep='_', timespec='microseconds')

    def _put_in(self, entry: Entry) -> None:
        self._entries[entry.priority][entry.name] = entry
        self._bytes[entry.priority] += entry.size

    def _take_out(self, entry: Entry) -> bool:
        """:return: whether it was there."""
        if self._entries[entry.priority].pop(entry.name, None) is None:
            return False
        self._bytes[entry.priority] -= entry.size
        self._failures.pop(entry.name, None)
        return True

    def _take_excess(self) -> list[Entry]:
        """Take out what is beyond the limits: the oldest of normal priority. What is on its way does not count."""
        normal = [entry for entry in self._entries[False].values() if entry.name not in self._in_flight]
        count, size = len(normal), self._bytes[True] + sum(entry.size for entry in normal)
        excess = []
        for entry in normal:
            if count <= self._max_images and size <= self._max_bytes:
                break
            excess.append(entry)
            count -= 1
            size -= entry.size
        for entry in excess:
            self._take_out(entry)
        self.counters.dropped += len(excess)
        return excess

    def _remove_excess(self, entries: list[Entry]) -> None:
        if entries:
            log.warning('the outbox is full: %d of its oldest images are dropped', len(entries))
        for entry in entries:
            self._files.remove(entry)

    # ---------------------------------------------------------------- waiting

    def waiting(self) -> list[Entry]:
        """All images, in the order in which they are to be sent."""
        with self._lock:
            return list(self._in_order())

    def _in_order(self) -> Iterator[Entry]:
        """Upstream's order: priority as it came, then normal, the newest first."""
        yield from self._entries[True].values()
        yield from reversed(self._entries[False].values())

    def find(self, name: str) -> Entry | None:
        with self._lock:
            return self._entries[True].get(name) or self._entries[False].get(name)

    @property
    def count(self) -> int:
        return len(self._entries[True]) + len(self._entries[False])

    @property
    def size(self) -> int:
        """Bytes of all images that wait."""
        return self._bytes[True] + self._bytes[False]

    def about(self) -> dict[str, int]:
        """The counters, and what waits: images, those of priority among them, bytes."""
        with self._lock:
            waiting = {'waiting': self.count, 'waiting_priority': len(self._entries[True]), 'bytes': self.size}
            return asdict(self.counters) | waiting

    # ---------------------------------------------------------------- out

    def next_batch(self, count: int, size: int) -> list[Entry]:
        """The next images to send; they are on their way until `landed`.

        Images that failed on their own go singly, behind the others but not for ever.

        :param count: how many at most.
        :param size: bytes at most, but for a single image.
        """
        with self._lock:
            batch = _fill((entry for entry in self._in_order() if entry.name not in self._failures), count, size)
            if self._failures and (not batch or next(self._batches) % _RETRY_EVERY == 0):
                name = min(self._failures, key=self._failures.__getitem__)
                batch = [self._entries[True].get(name) or self._entries[False][name]]
            self._in_flight = {entry.name for entry in batch}
            return batch

    def landed(self) -> None:
        """Nothing is on its way any more."""
        with self._lock:
            self._in_flight = set()

    def failures(self, entry: Entry) -> int:
        """How often it failed on its own."""
        return self._failures.get(entry.name, 0)

    def failed_alone(self, entry: Entry) -> None:
        """It was sent singly and did not arrive: others come first."""
        with self._lock:
            if entry.name in self._entries[entry.priority]:
                self._failures[entry.name] = self._failures.get(entry.name, 0) + 1

    def uploaded(self, entries: Iterable[Entry]) -> None:
        """The Loop has them."""
        for entry in entries:
            with self._lock:
                self.counters.uploaded += self._take_out(entry)
            self._files.remove(entry)

    def vanished(self, entry: Entry) -> None:
        """Its files are gone, or some of them."""
        log.error('the image %s is gone from the outbox', entry.name)
        with self._lock:
            self.counters.vanished += self._take_out(entry)
        self._files.remove(entry)

    def set_aside(self, entry: Entry, why: str) -> None:
        """It can never be sent."""
        with self._lock:
            self.counters.set_aside += self._take_out(entry)
        self._files.set_aside(entry.folder, why)

    def clear(self) -> int:
        """Remove all that waits, but for what is on its way.

        :return: how many.
        """
        with self._lock:
            entries = [entry for entry in self._in_order() if entry.name not in self._in_flight]
            for entry in entries:
                self._take_out(entry)
            self.counters.cleared += len(entries)
        for entry in entries:
            self._files.remove(entry)
        return len(entries)


def _fill(entries: Iterable[Entry], count: int, size: int) -> list[Entry]:
    batch: list[Entry] = []
    for entry in entries:
        if len(batch) == count or (batch and size < entry.size):
            break
        size -= entry.size
        batch.append(entry)
    return batch
