"""Downloading large files: streamed to disk, bounded, resumed after an interruption."""

import asyncio
import json
import logging
import re
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import BinaryIO, Final, Self

import httpx
from pydantic import TypeAdapter

from detector.errors import DownloadFailed

log = logging.getLogger('wholebody.downloads')

Progress = Callable[[int, int | None], None]
"""Called with the bytes there are so far and, where the server says it, the bytes there will be."""

_CHUNK: Final = 256 * 1024
_ATTEMPTS: Final = 4
_PAUSE_SECONDS: Final = 0.5
_LENGTH: Final = re.compile(r'[0-9]{1,18}')


@dataclass(frozen=True, slots=True)
class Validators:
    """What a server says about a file without sending it; another file of the same address has others."""

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
        """What If-Range may carry: a strong ETag, else the date; None if that cannot be sent back as it came."""
        is_strong = self.etag is not None and not self.etag.startswith('W/')
        condition = self.etag if is_strong else self.last_modified
        return condition if condition is not None and condition.isascii() and condition.isprintable() else None


_NOTE: Final = TypeAdapter(Validators)


async def probe(client: httpx.AsyncClient, url: str) -> Validators:
    """Ask what a server would send, without reading it.

    :raises DownloadFailed: it answers with an error or not at all.
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
) -> Validators:
    """Download into `target`.

    What an earlier, interrupted call left behind is built upon; a file that is there already is not fetched again
    while the server says that it is the same. `discard` removes all traces.

    :param max_bytes: a larger file is refused.
    :return: what the server said of the file.
    :raises DownloadFailed: the server answers with an error, or the transfer breaks off several times.
    :raises OSError: the disk is full or cannot be written.
    """
    if target.is_file():
        validators = await probe(client, url)
        if validators.range_condition is not None and validators == noted_validators(target):
            return validators
    for attempt in range(1, _ATTEMPTS + 1):
        try:
            return await _Transfer(client, url, target, max_bytes, progress).run()
        except httpx.HTTPError as error:
            if attempt == _ATTEMPTS:
                raise DownloadFailed(f'{url}: the transfer broke off {attempt} times: {_text(error)}') from error
            log.info('%s: the transfer broke off (%s), going on', url, _text(error))
            await asyncio.sleep(_PAUSE_SECONDS * attempt)
    raise AssertionError('unreachable')


def noted_validators(target: Path) -> Validators | None:
    """What the server said of a file that was downloaded, or begun; None if nothing is known."""
    try:
        return _NOTE.validate_json(_note(target).read_bytes(), strict=True)
    except (OSError, ValueError):
        return None


def discard(target: Path) -> None:
    """Remove a downloaded file and everything that belongs to it."""
    for path in (target, _part(target), _note(target)):
        path.unlink(missing_ok=True)


def _part(target: Path) -> Path:
    return target.with_name(f'{target.name}.part')


def _note(target: Path) -> Path:
    return target.with_name(f'{target.name}.json')


class _Transfer:
    """One attempt: what is there already, what comes now."""

    def __init__(
        self, client: httpx.AsyncClient, url: str, target: Path, max_bytes: int, progress: Progress | None
    ) -> None:
        self._client = client
        self._url = url
        self._target = target
        self._max_bytes = max_bytes
        self._progress = progress
        self._part, self._note = _part(target), _note(target)

    async def run(self) -> Validators:
        start, condition = self._resumable()
        headers = {'Range': f'bytes={start}-', 'If-Range': condition} if condition else {}
        async with _request(self._client, self._url, headers) as response:
            validators = Validators.of(response)
            if response.status_code != httpx.codes.PARTIAL_CONTENT:
                start = 0
            if validators.length is not None:
                self._check_size(validators.length)
            self._note.write_text(json.dumps(asdict(validators)))
            with self._part.open('ab' if start else 'wb') as sink:
                size = await self._receive(response, sink, start, validators.length)
        if validators.length is not None and size != validators.length:
            raise httpx.RemoteProtocolError(f'{size} of {validators.length} bytes came')
        self._part.replace(self._target)
        return validators

    def _resumable(self) -> tuple[int, str | None]:
        """How many bytes are there, and the condition under which the rest belongs to them."""
        validators = noted_validators(self._target)
        size = self._part.stat().st_size if self._part.is_file() else 0
        if validators is None or not 0 < size < (validators.length or size + 1):
            return 0, None
        return size, validators.range_condition

    async def _receive(self, response: httpx.Response, sink: BinaryIO, size: int, total: int | None) -> int:
        async for chunk in response.aiter_bytes(_CHUNK):
            size += len(chunk)
            self._check_size(size)
            await asyncio.to_thread(sink.write, chunk)
            if self._progress is not None:
                self._progress(size, total)
        return size

    def _check_size(self, size: int) -> None:
        if size > self._max_bytes:
            raise DownloadFailed(f'{self._url} is larger than the limit of {self._max_bytes} bytes')


@asynccontextmanager
async def _request(client: httpx.AsyncClient, url: str, headers: dict[str, str]) -> AsyncIterator[httpx.Response]:
    identity = {'Accept-Encoding': 'identity'}  # a range of a compressed transfer would be of no use
    async with client.stream('GET', url, headers=identity | headers) as response:
        if response.status_code not in (httpx.codes.OK, httpx.codes.PARTIAL_CONTENT):
            raise DownloadFailed(f'{url}: the server answers {response.status_code}')
        yield response


def _text(error: Exception) -> str:
    return str(error) or type(error).__name__
