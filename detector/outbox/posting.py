"""Posting images to the Learning Loop, as its own nodes do: multipart, per image its metadata and then its JPEG."""

import asyncio
import email.utils
import io
import ssl
import time
from collections.abc import Mapping, Sequence
from concurrent.futures import Executor
from dataclasses import dataclass
from enum import Enum, auto
from typing import Final

import aiohttp

from .files import Entry, reason

_CONNECT_SECONDS: Final = 10


class Outcome(Enum):
    """What became of a batch."""

    TAKEN = auto()
    REFUSED = auto()
    """The Loop finds an image faulty."""
    TOO_LARGE = auto()
    """The Loop, or a proxy before it, takes no request of this size."""
    FAILED = auto()
    """The batch may have arrived or not, and may be the reason."""
    TOO_SLOW = auto()
    """As FAILED: no answer in time."""
    UNAVAILABLE = auto()
    """The Loop cannot be reached or takes nothing at the moment, whatever it is."""
    VANISHED = auto()
    """A file of the batch is gone: nothing was sent."""


_REFUSALS: Final = {413: Outcome.TOO_LARGE, 422: Outcome.REFUSED}
_NO_FAULT_OF_IMAGES: Final = (401, 403, 404, 405, 407, 429, 502, 503, 504)


@dataclass(frozen=True, slots=True, kw_only=True)
class Answer:
    """:param detail: for the log.
    :param retry_after: seconds that the Loop asks to wait; 0 if it does not say.
    :param missing: the image whose file is gone.
    """

    outcome: Outcome
    detail: str = ''
    retry_after: float = 0
    missing: Entry | None = None


class LoopPoster:
    """Posts batches to a project's images.

    Opens a connection per batch, follows no redirect, sends no credentials: the Loop takes images without a login.

    :param url: `https://…/api/organization/projects/project/images`.
    :param ssl_context: what the Loop's certificate is checked against.
    """

    def __init__(self, url: str, ssl_context: ssl.SSLContext) -> None:
        self.url = url
        self._ssl_context = ssl_context

    async def post(self, entries: Sequence[Entry], *, timeout: float, executor: Executor) -> Answer:
        """Send images in one request.

        :param timeout: seconds for all of it.
        :param executor: where the files are read.
        """
        parts = await asyncio.get_running_loop().run_in_executor(executor, _read, entries)
        if isinstance(parts, Answer):
            return parts
        form = aiohttp.FormData()
        for name, kind, content in parts:
            form.add_field('files', io.BytesIO(content), filename=name, content_type=kind)
        return await self._send(form, timeout)

    async def _send(self, form: aiohttp.FormData, timeout: float) -> Answer:
        try:
            async with (
                aiohttp.ClientSession(
                    timeout=aiohttp.ClientTimeout(total=timeout, sock_connect=_CONNECT_SECONDS),
                    connector=aiohttp.TCPConnector(ssl=self._ssl_context),
                ) as session,
                session.post(self.url, data=form, allow_redirects=False) as response,
            ):
                content = await response.content.read(200)
                return _judge(response.status, response.headers, content)
        except (aiohttp.ClientConnectorError, aiohttp.ConnectionTimeoutError) as error:
            return Answer(outcome=Outcome.UNAVAILABLE, detail=str(error))
        except TimeoutError:
            return Answer(outcome=Outcome.TOO_SLOW, detail=f'no answer within {timeout:.0f} seconds')
        except (aiohttp.ClientError, OSError) as error:
            return Answer(outcome=Outcome.FAILED, detail=f'the connection broke: {error}')


def _read(entries: Sequence[Entry]) -> list[tuple[str, str, bytes]] | Answer:
    """Name, type and content of each part, or why there is nothing to send."""
    parts = []
    for entry in entries:
        for path, kind in ((entry.metadata, 'text/plain; charset=utf-8'), (entry.jpeg, 'image/jpeg')):
            try:
                parts.append((path.name, kind, path.read_bytes()))
            except (FileNotFoundError, NotADirectoryError) as error:
                return Answer(outcome=Outcome.VANISHED, detail=str(error), missing=entry)
            except OSError as error:  # too many open files, say: no reason to give the image up
                return Answer(outcome=Outcome.UNAVAILABLE, detail=f'{path.name} cannot be read: {reason(error)}')
    return parts


def _judge(status: int, headers: Mapping[str, str], content: bytes) -> Answer:
    excerpt = ' '.join(content.decode(errors='replace').split())
    detail = f'the Learning Loop answers {status} {excerpt}'.rstrip()
    is_page = headers.get('Content-Type', '').lower().startswith('text/html')  # of a captive portal, with status 200
    if 200 <= status < 300 and not is_page:
        return Answer(outcome=Outcome.TAKEN)
    if status in _REFUSALS:
        return Answer(outcome=_REFUSALS[status], detail=detail)
    elsewhere = status < 400 or status in _NO_FAULT_OF_IMAGES
    return Answer(
        outcome=Outcome.UNAVAILABLE if elsewhere else Outcome.FAILED,
        detail=detail,
        retry_after=_seconds(headers.get('Retry-After', '')),
    )


def _seconds(retry_after: str) -> float:
    """The header's seconds or date (RFC 9110, 10.2.3) as seconds from now; 0 if it is neither."""
    if retry_after.isascii() and retry_after.isdigit():
        return float(retry_after[:9])
    try:
        return max(0.0, email.utils.parsedate_to_datetime(retry_after).timestamp() - time.time())
    except (TypeError, ValueError):
        return 0.0
