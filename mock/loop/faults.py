"""Faults of the mock Learning Loop on demand: what they are, which are due, and the broken files that some serve.

Faults of different kinds add up: a delay, then a status, say. Of the same kind the oldest that is left fires, so that a
sequence can be set in advance; where chance spares a request, the next of the kind has its turn. They live as long as
the process.
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
_CHUNK: Final = 1024**2


class Fault(BaseModel):
    """A fault as it is ordered.

    - `delay`: wait `seconds`; before answering, or with `at` when that part of the answer's body is sent.
    - `throttle`: send the answer's body at `bytes_per_second`.
    - `status`: answer with `status`, once the request is read.
    - `html`: answer 200 with a page of HTML.
    - `drop`: reset the TCP connection when part `at` (0.5) of the body is through: of the request's body where it has
      one, which then has no effect, else of the answer's.
    - `lose_response`: do what is asked, then reset the connection in place of the answer.
    - `truncate`: serve only part `at` (0.5) of the model file, with the Content-Length of that.
    - `corrupt`: serve the model file with 64 bytes inverted from part `at` (0.5) on; the ETag is that of these bytes.
    - `no_disposition`: serve the model file without Content-Disposition.
    - `filename`: serve it with `filename="…"` in its Content-Disposition.
    - `reject_image`: 422 for every batch that holds the image of this name; without a name, for the first image of the
      first batch from now on, whose name is then filled in.

    All but `reject_image` can be left to chance: with `share` 0.1, every tenth request or so meets the fault. `count`
    and `fired` are those that met it.
    """

    endpoint: Endpoint
    kind: Kind
    count: int | None = Field(None, ge=1, description='How many requests; until deleted without')
    share: float = Field(1.0, gt=0, le=1, description='Part of the requests that meet it, by chance, 0..1')
    seconds: float = Field(1.0, ge=0, le=600)
    at: float | None = Field(None, ge=0, le=1, description='Part of a body, 0..1')
    bytes_per_second: int = Field(100_000, ge=1)
    status: int = Field(500, ge=200, le=599)
    filename: str = ''
    image: str | None = Field(None, description='File name without its ending, decoded')

    @model_validator(mode='after')
    def _fits(self) -> Self:
        if self.kind in FILE_KINDS and self.endpoint != 'model_file':
            raise ValueError(f'{self.kind} is a fault of model_file')
        if self.kind == 'reject_image' and self.endpoint != 'images':
            raise ValueError('reject_image is a fault of images')
        if self.kind == 'reject_image' and self.share < 1:
            raise ValueError('reject_image meets every batch that holds its image; it takes no share')
        if not (self.filename.isascii() and self.filename.isprintable()):
            raise ValueError('the filename must fit into a header')
        return self

    @property
    def part(self) -> float:
        """`at`, or the middle."""
        return 0.5 if self.at is None else self.at


class OrderedFault(Fault):
    """:param fired: how many requests it has met."""

    id: int
    fired: int = 0

    @property
    def active(self) -> bool:
        return self.count is None or self.fired < self.count


class Faults:
    """The faults that were ordered."""

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
        """All faults, those that have ended too, with `fired` and `active`."""
        with self._lock:
            return [fault.model_dump() | {'active': fault.active} for fault in self._faults]

    def delete(self, fault_id: int | None = None) -> int:
        """Delete one fault, or all.

        :return: how many there were.
        """
        with self._lock:
            kept = [fault for fault in self._faults if fault_id is not None and fault.id != fault_id]
            deleted = len(self._faults) - len(kept)
            self._faults = kept
            return deleted

    def take(self, endpoint: str | None, kind: Kind) -> Fault | None:
        """The fault of this kind that a request meets; counts it."""
        with self._lock:
            for fault in self._faults:
                its_turn = fault.endpoint == endpoint and fault.kind == kind and fault.active
                if its_turn and random.random() < fault.share:
                    fault.fired += 1
                    return fault.model_copy()
        return None

    def rejected_image(self, names: list[str]) -> str | None:
        """The name of the image for which a batch is to be rejected; counts it.

        :param names: of the images of the batch.
        """
        with self._lock:
            for fault in self._faults:
                if fault.kind != 'reject_image' or not fault.active or not names:
                    continue
                if fault.image is None:
                    fault.image = names[0]  # the same again when the batch comes in halves
                if fault.image in names:
                    fault.fired += 1
                    return fault.image
        return None


def broken_copy(source: Path, fault: Fault, folder: Path) -> Path:
    """A truncated or corrupted copy of a file, the same for the same fault.

    :param folder: where copies are kept; created if need be.
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
