"""The images in the outbox: the order in which they are sent, the limits that hold, and what became of each."""

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
"""Between retries of an image that fails while others arrive."""
_FUTURE: Final = timedelta(days=1)
"""Names that much ahead of the clock are a clock's fault, and are not followed."""
_ATTEMPTS: Final = 10
"""Names that are tried for an image."""


@dataclass(slots=True, kw_only=True)
class Counters:
    """What became of images since the start of the process.

    `found + saved = uploaded + set_aside + dropped + vanished + waiting`; `failed` ones never came in.

    :param found: lay there at the start.
    :param failed: could not be stored.
    :param set_aside: refused by the Loop, or incomplete at the start.
    :param dropped: of normal priority, oldest first, to hold the limits.
    :param vanished: removed from the folder by somebody else.
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
    """When an image that fails while others arrive is tried again, the pause before that, and how often it was.

    Times are seconds.
    """

    retry_at: float = 0
    pause: float = 0
    retries: int = 0


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
        self._failing: set[str] = set()
        self._isolated: dict[str, _Isolation] = {}
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
            self._failing, self._isolated = set(), {}
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
        if size > self._max_bytes:
            raise OutboxFault(f'the image has {size} bytes; the outbox holds {self._max_bytes} (MAX_OUTBOX_MIB)')
        if self._bytes[True] + size > self._max_bytes:
            self._forget_vanished()
        taken = self._bytes[True]
        if taken + size > self._max_bytes:
            raise OutboxFault(
                f'the outbox is full: images of priority take {taken} of {self._max_bytes} bytes (MAX_OUTBOX_MIB), '
                f'and this one needs {size}'
            )

    def _forget_vanished(self) -> None:
        """Make room of what somebody else has deleted."""
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
        raise OutboxFault(f'the outbox cannot store the image: another process writes the same names, {name} at last')

    def _next_name(self) -> str:
        """The time, in upstream's form; later than any before, whatever the clock does."""
        with self._lock:
            now = datetime.now()
            ahead = self._last + timedelta(microseconds=1) if self._last < now + _FUTURE else now
            self._last = max(now, ahead)
            return self._last.isoformat(sep='_', timespec='microseconds')

    def _put_in(self, entry: Entry) -> None:
        self._entries[entry.priority][entry.name] = entry
        self._bytes[entry.priority] += entry.size

    def _take_out(self, entry: Entry) -> bool:
        """:return: whether it was there."""
        if self._entries[entry.priority].pop(entry.name, None) is None:
            return False
        self._bytes[entry.priority] -= entry.size
        self._failing.discard(entry.name)
        self._isolated.pop(entry.name, None)
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

    def next_batch(self, count: int, size: int, now: float) -> list[Entry]:
        """The next images to send; they are on their way until `landed`.

        Images that are to blame for failures go singly, when their time has come; those that are under suspicion let
        the others go first.

        :param count: how many at most.
        :param size: bytes at most, but for a single image.
        :param now: seconds of a clock that does not run backwards.
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

    def landed(self) -> None:
        """Nothing is on its way any more."""
        with self._lock:
            self._in_flight = set()

    def retries(self, entry: Entry) -> int | None:
        """How often an image to blame was tried again; None if it is not to blame for anything."""
        isolation = self._isolated.get(entry.name)
        return None if isolation is None else isolation.retries

    def mark_failing(self, entry: Entry) -> None:
        """It was sent singly and did not arrive, for its own sake or the Loop's: see how the others fare."""
        with self._lock:
            if entry.name in self._entries[entry.priority]:
                self._failing.add(entry.name)

    def clear_failing(self) -> None:
        """It is the Loop that fails."""
        with self._lock:
            self._failing.clear()

    def isolate(self, now: float, pause: float) -> None:
        """Others arrive: one suspect is to blame, and waits; where several failed in a row it was the Loop.

        :param pause: seconds before the first retry.
        """
        with self._lock:
            if len(self._failing) == 1:
                self._isolated[self._failing.pop()] = _Isolation(retry_at=now + pause, pause=pause)
            self._failing.clear()

    def isolate_longer(self, entry: Entry, now: float) -> None:
        """It failed again: the next retry comes later."""
        with self._lock:
            isolation = self._isolated.get(entry.name)
            if isolation is not None:
                pause = min(_MAX_ISOLATION_SECONDS, 2 * isolation.pause)
                self._isolated[entry.name] = _Isolation(
                    retry_at=now + pause, pause=pause, retries=isolation.retries + 1
                )

    def uploaded(self, entries: Iterable[Entry]) -> None:
        """The Loop has them; their files are to be removed with `remove_files`."""
        with self._lock:
            self.counters.uploaded += sum(self._take_out(entry) for entry in entries)

    def remove_files(self, entries: Iterable[Entry]) -> None:
        for entry in entries:
            self._files.remove(entry)

    def vanished(self, entry: Entry) -> None:
        """Its files are gone, or some of them: what is left is set aside."""
        if entry.folder.exists():
            self.set_aside(entry, 'a file of it is gone')
            return
        log.error('the image %s is gone from the outbox', entry.name)
        with self._lock:
            self.counters.vanished += self._take_out(entry)

    def set_aside(self, entry: Entry, why: str) -> None:
        """It can never be sent."""
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
