"""Downloads of large files: streamed to disk, bounded in size, and resumed after an interruption."""

import asyncio
import json
import logging
import os
import re
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import BinaryIO, Final, Self

import httpx
from pydantic import TypeAdapter

from detector.errors import DownloadFailed, text_of
from detector.settings import without_logins
from detector.system.durable import replace_file, sync_folder
from detector.wording import counted

log = logging.getLogger('wholebody.downloads')

Progress = Callable[[int, int | None], None]
"""Called with the number of bytes received and, if the server states it, the size of the file."""

_CHUNK: Final = 256 * 1024
_ATTEMPTS: Final = 4
_PAUSE_SECONDS: Final = 0.5
_NOT_CONNECTED: Final = (httpx.ConnectError, httpx.ConnectTimeout, httpx.ProxyError, httpx.UnsupportedProtocol)
_LENGTH: Final = re.compile(r'[0-9]{1,18}')


@dataclass(frozen=True, slots=True)
class Validators:
    """Values by which a server identifies the version of a file at an address.

    :param etag: header ETag.
    :param last_modified: header Last-Modified.
    :param length: size of the whole file in bytes.
    """

    etag: str | None
    last_modified: str | None
    length: int | None

    @classmethod
    def of(cls, response: httpx.Response) -> Self:
        headers = response.headers
        length = headers.get('Content-Length', '')
        if response.status_code == httpx.codes.PARTIAL_CONTENT:
            length = headers.get('Content-Range', '').rpartition('/')[2]
        return cls(
            headers.get('ETag'), headers.get('Last-Modified'), int(length) if _LENGTH.fullmatch(length) else None
        )

    @property
    def range_condition(self) -> str | None:
        """Value for the header If-Range: a strong ETag, else the date; None if it cannot be sent in a header."""
        is_strong = self.etag is not None and not self.etag.startswith('W/')
        condition = self.etag if is_strong else self.last_modified
        return condition if condition is not None and condition.isascii() and condition.isprintable() else None


_NOTE: Final = TypeAdapter(Validators)


async def probe(client: httpx.AsyncClient, url: str) -> Validators:
    """Return the validators of a file without downloading it.

    :raises DownloadFailed: the server answers with an error.
    :raises httpx.HTTPError: the server does not answer.
    """
    async with _request(client, url, {}) as response:
        return Validators.of(response)


async def download(
    client: httpx.AsyncClient,
    url: str,
    target: Path,
    *,
    max_bytes: int,
    progress: Progress | None = None,
    keep: bool = True,
) -> Validators:
    """Download a file to `target`.

    A download that an earlier call left incomplete is resumed. `discard` removes the file and everything that belongs
    to it.

    :param max_bytes: largest accepted size of the file.
    :param progress: called after each received chunk.
    :param keep: True to keep an existing file if the server still has the same version; False to replace it.
    :return: the validators of the file.
    :raises DownloadFailed: no connection to the server can be made, the server answers with an error, or the transfer
        breaks off several times.
    :raises OSError: the disk is full or cannot be written.
    """
    for attempt in range(1, _ATTEMPTS + 1):
        transfer = _Transfer(client, url, target, max_bytes, progress)
        try:
            kept = await _kept(client, url, target) if keep else None
            return kept or await transfer.run()
        except httpx.HTTPError as error:
            fault = _fault_of(error, begun=transfer.begun)
            if attempt == _ATTEMPTS or isinstance(error, httpx.ConnectTimeout):  # has already waited long enough
                raise DownloadFailed(f'{fault} ({counted(attempt, "attempt")})', url=without_logins(url)) from error
            level = logging.INFO if transfer.begun else logging.DEBUG  # a server that is away must not fill the log
            log.log(level, '%s: %s; trying again', without_logins(url), fault)
            await asyncio.sleep(_PAUSE_SECONDS * attempt)
    raise AssertionError('unreachable')


async def _kept(client: httpx.AsyncClient, url: str, target: Path) -> Validators | None:
    """Return the validators of the file that is there, if the server still has the same version; otherwise None."""
    if not target.is_file():
        return None
    validators = await probe(client, url)
    is_same = validators.range_condition is not None and validators == noted_validators(target)
    return validators if is_same else None


def _fault_of(error: httpx.HTTPError, *, begun: bool) -> str:
    if isinstance(error, _NOT_CONNECTED):
        return f'could not connect: {text_of(error)}'
    return f'{"the transfer broke off" if begun else "the server did not answer"}: {text_of(error)}'


def noted_validators(target: Path) -> Validators | None:
    """Return the recorded validators of a complete or partial download; None if there are no valid ones."""
    try:
        return _NOTE.validate_json(_note(target).read_bytes(), strict=True)
    except (OSError, ValueError):
        return None


def discard(target: Path) -> None:
    """Remove a downloaded file, its partial download and its recorded validators."""
    for path in (target, _part(target), _note(target)):
        path.unlink(missing_ok=True)


def _sync(sink: BinaryIO) -> None:
    sink.flush()
    os.fsync(sink.fileno())


def _part(target: Path) -> Path:
    return target.with_name(f'{target.name}.part')


def _note(target: Path) -> Path:
    return target.with_name(f'{target.name}.json')


@dataclass(slots=True)
class _Transfer:
    """One attempt to download a file, or the rest of it.

    :param begun: True once the server has begun to send the file.
    """

    client: httpx.AsyncClient
    url: str
    target: Path
    max_bytes: int
    progress: Progress | None
    begun: bool = False

    async def run(self) -> Validators:
        start, condition = self._resumable()
        headers = {'Range': f'bytes={start}-', 'If-Range': condition} if condition else {}
        async with _request(self.client, self.url, headers) as response:
            self.begun = True
            validators = Validators.of(response)
            if response.status_code != httpx.codes.PARTIAL_CONTENT:
                start = 0
            if validators.length is not None:
                self._check_size(validators.length)
            if not start:
                await asyncio.to_thread(self._begin, validators)
            with _part(self.target).open('ab') as sink:
                size = await self._receive(response, sink, start, validators.length)
                await asyncio.to_thread(_sync, sink)
        if validators.length is not None and size != validators.length:
            raise httpx.RemoteProtocolError(f'{size} of {validators.length} bytes were received')
        _part(self.target).replace(self.target)
        sync_folder(self.target.parent)
        return validators

    def _begin(self, validators: Validators) -> None:
        """Record what the next bytes belong to. A file of another version must not remain beside that record."""
        discard(self.target)
        sync_folder(self.target.parent)
        replace_file(_note(self.target), json.dumps(asdict(validators)).encode())

    def _resumable(self) -> tuple[int, str | None]:
        """Return the number of bytes that exist already, and the condition under which the rest belongs to them."""
        validators = noted_validators(self.target)
        size = _part(self.target).stat().st_size if _part(self.target).is_file() else 0
        if validators is None or not 0 < size < (validators.length or size + 1):
            return 0, None
        return size, validators.range_condition

    async def _receive(self, response: httpx.Response, sink: BinaryIO, size: int, total: int | None) -> int:
        async for chunk in response.aiter_bytes(_CHUNK):
            size += len(chunk)
            self._check_size(size)
            await asyncio.to_thread(sink.write, chunk)
            if self.progress is not None:
                self.progress(size, total)
        return size

    def _check_size(self, size: int) -> None:
        if size > self.max_bytes:
            raise DownloadFailed(
                f'the file is larger than the limit of {self.max_bytes} bytes', url=without_logins(self.url)
            )


@asynccontextmanager
async def _request(client: httpx.AsyncClient, url: str, headers: dict[str, str]) -> AsyncIterator[httpx.Response]:
    identity = {'Accept-Encoding': 'identity'}  # a range of a compressed transfer would be useless
    async with client.stream('GET', url, headers=identity | headers) as response:
        if response.status_code not in (httpx.codes.OK, httpx.codes.PARTIAL_CONTENT):
            raise DownloadFailed(f'the server answers {response.status_code}', url=without_logins(url))
        yield response
