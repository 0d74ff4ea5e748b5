"""The queue of the outbox: order of sending, limits, retries, and counters of what happened to the images."""

import logging
import threading
from collections.abc import Iterable, Iterator
from dataclasses import asdict, dataclass
from datetime import datetime, timedelta
from pathlib import Path
from typing import Final

from detector.errors import OutboxFault

from .files import Entry, OutboxFiles, reason

log = logging.getLogger('wholebody.outbox')

_MAX_ISOLATION_SECONDS: Final = 600.0
"""Longest pause between retries of an isolated image, in seconds."""
_FUTURE: Final = timedelta(days=1)
"""A name further ahead than this comes from a wrong clock; new names do not continue from it."""
_ATTEMPTS: Final = 10
"""Number of names to try for an image."""


@dataclass(slots=True, kw_only=True)
class Counters:
    """Numbers of images since the start of the process.

    `found + saved = uploaded + set_aside + dropped + vanished + waiting`. Images in `failed` never entered the outbox.

    :param found: images in the folder at the start.
    :param saved: images that were accepted.
    :param failed: images that could not be stored.
    :param uploaded: images that the Loop has taken.
    :param set_aside: images that the Loop refused, or that were incomplete at the start.
    :param dropped: images of normal priority that were dropped to keep the limits, the oldest first.
    :param vanished: images that another program removed from the folder.
    """

    found: int = 0
    saved: int = 0
    failed: int = 0
    uploaded: int = 0
    set_aside: int = 0
    dropped: int = 0
    vanished: int = 0


@dataclass(frozen=True, slots=True, kw_only=True)
class _Isolation:
    """State of an image that fails while others arrive. The queue sends it separately, after growing pauses.

    :param retry_at: time of the next retry, in seconds of a monotonic clock.
    :param pause: pause before that retry, in seconds.
    :param retries: number of retries so far.
    """

    retry_at: float = 0
    pause: float = 0
    retries: int = 0


class OutboxQueue:
    """The images of an outbox folder in their order of sending.

    Several threads may use a queue, but only one process may use its folder.

    :param max_images: maximum number of images of normal priority.
    :param max_bytes: maximum size of all images, in bytes.
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
        self._failing: set[str] = set()
        self._isolated: dict[str, _Isolation] = {}
        self._last = datetime.min

    def load(self) -> None:
        """Load the images in the folder, and set aside everything that is not an image with metadata.

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
            self._failing, self._isolated = set(), {}
            self.counters = Counters(found=len(good) + len(bad), set_aside=len(bad))
            for entry in good:
                self._put_in(entry)
            self._last = max(filter(None, (entry.saved_at for entry in good)), default=datetime.min)
            excess = self._take_excess()
        for path, why in bad:
            self._files.set_aside(path, why)
        self._remove_excess(excess)

    def save(self, jpeg: bytes, metadata: bytes, *, priority: bool) -> Entry:
        """Store an image, and drop the oldest images of normal priority if the limits require it.

        :param metadata: JSON text.
        :raises OutboxFault: the disk refuses the image, or priority images fill the outbox.
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
        """Count an image that could not be stored."""
        with self._lock:
            self.counters.failed += 1

    def _check_room(self, size: int) -> None:
        if size > self._max_bytes:
            raise OutboxFault(f'the image has {size} bytes; the outbox holds {self._max_bytes} (MAX_OUTBOX_MIB)')
        if self._bytes[True] + size > self._max_bytes:
            self._forget_vanished()
        taken = self._bytes[True]
        if taken + size > self._max_bytes:
            raise OutboxFault(
                f'the outbox is full: priority images take {taken} of {self._max_bytes} bytes (MAX_OUTBOX_MIB), '
                f'and this one needs {size}'
            )

    def _forget_vanished(self) -> None:
        """Free the space of images that another program has deleted."""
        for entry in self.waiting():
            if not entry.folder.exists():
                self.vanished(entry)

    def _write(self, jpeg: bytes, metadata: bytes, priority: bool) -> Entry:
        for _ in range(_ATTEMPTS):
            name = self._next_name()
            try:
                entry = self._files.write(name, jpeg, metadata, priority=priority)
            except OSError as error:
                raise OutboxFault(f'the outbox cannot store the image: {reason(error)}') from error
            if entry is not None:
                return entry
        raise OutboxFault(f'the outbox cannot store the image: another process writes the same names, last {name}')

    def _next_name(self) -> str:
        """Return the time in upstream's format; it is later than all earlier names even if the clock was set back."""
        with self._lock:
            now = datetime.now()
            ahead = self._last + timedelta(microseconds=1) if self._last < now + _FUTURE else now
            self._last = max(now, ahead)
            return self._last.isoformat(sep='_', timespec='microseconds')

    def _put_in(self, entry: Entry) -> None:
        self._entries[entry.priority][entry.name] = entry
        self._bytes[entry.priority] += entry.size

    def _take_out(self, entry: Entry) -> bool:
        """Remove an image from the queue; return False if it was not there."""
        if self._entries[entry.priority].pop(entry.name, None) is None:
            return False
        self._bytes[entry.priority] -= entry.size
        self._failing.discard(entry.name)
        self._isolated.pop(entry.name, None)
        return True

    def _take_excess(self) -> list[Entry]:
        """Remove the oldest images of normal priority beyond the limits. Images in flight neither count nor go."""
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
            log.warning('the outbox is full: its %d oldest images are dropped', len(entries))
        for entry in entries:
            self._files.remove(entry)

    def waiting(self) -> list[Entry]:
        """Return all images in the order of sending."""
        with self._lock:
            return list(self._in_order())

    def _in_order(self) -> Iterator[Entry]:
        """Yield the images in upstream's order: priority images, oldest first, then normal images, newest first."""
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
        """Size of all waiting images, in bytes."""
        return self._bytes[True] + self._bytes[False]

    def about(self) -> dict[str, int]:
        """Return the counters and the numbers of waiting images, waiting priority images, and waiting bytes."""
        with self._lock:
            waiting = {'waiting': self.count, 'waiting_priority': len(self._entries[True]), 'bytes': self.size}
            return asdict(self.counters) | waiting

    def next_batch(self, count: int, size: int, now: float) -> list[Entry]:
        """Return the next images to send; they count as in flight until `clear_in_flight`.

        An isolated image is sent alone when its retry is due. Failing images are sent after the others.

        :param count: maximum number of images.
        :param size: maximum size in bytes; a single image may exceed it.
        :param now: seconds of a monotonic clock.
        """
        with self._lock:
            due = [entry for entry in self._in_order() if self._isolated.get(entry.name, _Isolation()).retry_at <= now]
            isolated = next((entry for entry in due if entry.name in self._isolated), None)
            if isolated is not None:
                batch = [isolated]
            else:
                batch = _fill((entry for entry in due if entry.name not in self._failing), count, size)
                if not batch:
                    self._failing.clear()
                    batch = _fill(iter(due), count, size)
            self._in_flight = {entry.name for entry in batch}
            return batch

    def clear_in_flight(self) -> None:
        """Mark the images in flight as no longer in flight."""
        with self._lock:
            self._in_flight = set()

    def retries(self, entry: Entry) -> int | None:
        """Return the number of retries of an isolated image; None if the image is not isolated."""
        isolation = self._isolated.get(entry.name)
        return None if isolation is None else isolation.retries

    def mark_failing(self, entry: Entry) -> None:
        """Mark an image that failed when sent alone; `isolate` and `clear_failing` decide on the cause."""
        with self._lock:
            if entry.name in self._entries[entry.priority]:
                self._failing.add(entry.name)

    def clear_failing(self) -> None:
        """Clear all marks, because the Loop is the cause of the failures."""
        with self._lock:
            self._failing.clear()

    def isolate(self, now: float, pause: float) -> None:
        """Isolate the failing image after another one has arrived.

        If several images failed in a row, the Loop was the cause, and all marks are cleared.

        :param pause: pause before the first retry, in seconds.
        """
        with self._lock:
            if len(self._failing) == 1:
                self._isolated[self._failing.pop()] = _Isolation(retry_at=now + pause, pause=pause)
            self._failing.clear()

    def isolate_longer(self, entry: Entry, now: float) -> None:
        """Double the pause of an isolated image that has failed again."""
        with self._lock:
            isolation = self._isolated.get(entry.name)
            if isolation is not None:
                pause = min(_MAX_ISOLATION_SECONDS, 2 * isolation.pause)
                self._isolated[entry.name] = _Isolation(
                    retry_at=now + pause, pause=pause, retries=isolation.retries + 1
                )

    def uploaded(self, entries: Iterable[Entry]) -> None:
        """Count images that the Loop has taken; the caller then removes their files with `remove_files`."""
        with self._lock:
            self.counters.uploaded += sum(self._take_out(entry) for entry in entries)

    def remove_files(self, entries: Iterable[Entry]) -> None:
        for entry in entries:
            self._files.remove(entry)

    def vanished(self, entry: Entry) -> None:
        """Count an image whose files have disappeared; if some are left, set them aside."""
        if entry.folder.exists():
            self.set_aside(entry, 'one of its files is missing')
            return
        log.error('the image %s has disappeared from the outbox', entry.name)
        with self._lock:
            self.counters.vanished += self._take_out(entry)

    def set_aside(self, entry: Entry, why: str) -> None:
        """Count an image that can never be sent, and move its files out of the queue."""
        with self._lock:
            self.counters.set_aside += self._take_out(entry)
        self._files.set_aside(entry.folder, why)


def _fill(entries: Iterable[Entry], count: int, size: int) -> list[Entry]:
    batch: list[Entry] = []
    for entry in entries:
        if len(batch) == count or (batch and size < entry.size):
            break
        size -= entry.size
        batch.append(entry)
    return batch
