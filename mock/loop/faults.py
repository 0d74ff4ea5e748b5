"""Faults of the mock Learning Loop: what they are, which are due, and the broken files that some of them serve.

Faults of different kinds add up, for instance a delay and a status. Of several faults of one kind, the oldest active
one applies, so a test can set up a sequence in advance. A fault with a share affects only that share of the requests,
chosen at random; for the others, the next fault of the kind is tried. Faults are kept in memory only.
"""

import hashlib
import itertools
import random
import threading
from pathlib import Path
from typing import Any, Final, Literal, Self

from pydantic import BaseModel, Field, model_validator

Endpoint = Literal['login', 'status', 'detectors', 'target', 'models', 'model_file', 'images']
Kind = Literal[
    'delay', 'throttle', 'status', 'html', 'drop', 'lose_response',
    'truncate', 'corrupt', 'no_disposition', 'filename', 'reject_image',
]  # fmt: skip

FILE_KINDS: Final = ('truncate', 'corrupt', 'no_disposition', 'filename')
FLIPPED_BYTES: Final = 64
"""Number of bytes that `corrupt` inverts."""
_CHUNK: Final = 1024**2


class Fault(BaseModel):
    """An ordered fault.

    - `delay`: wait `seconds` before the answer, or with `at` when that share of the answer's body has been sent.
    - `throttle`: send the answer's body at `bytes_per_second`.
    - `status`: read the request and answer with `status`.
    - `html`: answer 200 with an HTML page.
    - `drop`: reset the TCP connection when share `at` (0.5) of a body has been transferred. If the request has a body,
      it is that one, and the request has no effect; otherwise it is the answer's.
    - `lose_response`: process the request, then reset the connection instead of answering.
    - `truncate`: serve only share `at` (0.5) of the model file, with the matching Content-Length.
    - `corrupt`: serve the model file with 64 bytes inverted from share `at` (0.5) on; the ETag matches these bytes.
    - `no_disposition`: serve the model file without Content-Disposition.
    - `filename`: serve the model file with `filename="…"` in its Content-Disposition.
    - `reject_image`: answer 422 to every batch that holds the image of this name. Without a name, the first image of
      the next batch is rejected, and its name is filled in.

    All faults except `reject_image` may be random: with `share` 0.1, about every tenth request is affected. `count` and
    `fired` are numbers of affected requests.
    """

    endpoint: Endpoint
    kind: Kind
    count: int | None = Field(None, ge=1, description='Number of affected requests. Unset: until deleted')
    share: float = Field(1.0, gt=0, le=1, description='Share of the affected requests, at random, 0..1')
    seconds: float = Field(1.0, ge=0, le=600)
    at: float | None = Field(None, ge=0, le=1, description='Share of a body, 0..1')
    bytes_per_second: int = Field(100_000, ge=1)
    status: int = Field(500, ge=200, le=599)
    filename: str = ''
    image: str | None = Field(None, description='File name without its ending, decoded')

    @model_validator(mode='after')
    def _fits(self) -> Self:
        if self.kind in FILE_KINDS and self.endpoint != 'model_file':
            raise ValueError(f'{self.kind} is a fault of the endpoint model_file')
        if self.kind == 'reject_image' and self.endpoint != 'images':
            raise ValueError('reject_image is a fault of the endpoint images')
        if self.kind == 'reject_image' and self.share < 1:
            raise ValueError('reject_image affects every batch that holds its image; it has no share')
        if not (self.filename.isascii() and self.filename.isprintable()):
            raise ValueError('the filename must consist of printable ASCII characters')
        return self

    @property
    def part(self) -> float:
        """`at`, or 0.5."""
        return 0.5 if self.at is None else self.at


class OrderedFault(Fault):
    """A fault with its id.

    :param fired: number of requests that it has affected.
    """

    id: int
    fired: int = 0

    @property
    def active(self) -> bool:
        return self.count is None or self.fired < self.count


class Faults:
    """The ordered faults."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._ids = itertools.count(1)
        self._faults: list[OrderedFault] = []

    def add(self, fault: Fault) -> OrderedFault:
        with self._lock:
            ordered = OrderedFault(id=next(self._ids), **fault.model_dump())
            self._faults.append(ordered)
            return ordered.model_copy()

    def listed(self) -> list[dict[str, Any]]:
        """Return all faults, including those that have ended, with `fired` and `active`."""
        with self._lock:
            return [fault.model_dump() | {'active': fault.active} for fault in self._faults]

    def delete(self, fault_id: int | None = None) -> int:
        """Delete one fault, or all.

        :return: the number of deleted faults.
        """
        with self._lock:
            kept = [fault for fault in self._faults if fault_id is not None and fault.id != fault_id]
            deleted = len(self._faults) - len(kept)
            self._faults = kept
            return deleted

    def take(self, endpoint: str | None, kind: Kind) -> Fault | None:
        """Return the fault of a kind that affects a request, and count it."""
        with self._lock:
            for fault in self._faults:
                applies = fault.endpoint == endpoint and fault.kind == kind and fault.active
                if applies and random.random() < fault.share:
                    fault.fired += 1
                    return fault.model_copy()
        return None

    def rejected_image(self, names: list[str]) -> str | None:
        """Return the name of the image for which a batch is to be rejected, and count the fault.

        :param names: names of the images of the batch.
        """
        with self._lock:
            for fault in self._faults:
                if fault.kind != 'reject_image' or not fault.active or not names:
                    continue
                if fault.image is None:
                    fault.image = names[0]  # rejected again when the client halves the batch
                if fault.image in names:
                    fault.fired += 1
                    return fault.image
        return None


def broken_copy(source: Path, fault: Fault, folder: Path) -> Path:
    """Return a truncated or corrupted copy of a file; the same fault gives the same copy.

    :param folder: keeps the copies; created if it is missing.
    """
    size = source.stat().st_size
    kept = int(size * fault.part) if fault.kind == 'truncate' else size
    first = min(int(size * fault.part), max(size - FLIPPED_BYTES, 0))
    key = hashlib.sha256(f'{source} {source.stat().st_mtime_ns} {fault.kind} {kept} {first}'.encode()).hexdigest()[:24]
    target = folder / f'{key}.zip'
    if target.exists():
        return target
    folder.mkdir(parents=True, exist_ok=True)
    partial = folder / f'.partial-{key}-{threading.get_ident()}'
    with source.open('rb') as content, partial.open('wb') as sink:
        for offset in range(0, kept, _CHUNK):
            sink.write(content.read(min(_CHUNK, kept - offset)))
    if fault.kind == 'corrupt':
        with partial.open('r+b') as file:
            file.seek(first)
            original = file.read(FLIPPED_BYTES)
            file.seek(first)
            file.write(bytes(byte ^ 0xFF for byte in original))
    return partial.replace(target)
