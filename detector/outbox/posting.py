"""Posts images to the Learning Loop as upstream's nodes do: multipart, for each image its metadata, then its JPEG."""

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

from detector.system.proxies import http_proxy_of

from .files import Entry, reason

_CONNECT_SECONDS: Final = 10
"""Time limit for a connection to the Loop, in seconds."""


class Outcome(Enum):
    """Result of posting a batch."""

    TAKEN = auto()
    REFUSED = auto()
    """The Loop rejects an image of the batch."""
    TOO_LARGE = auto()
    """The Loop, or a proxy in front of it, refuses a request of this size."""
    FAILED = auto()
    """The batch may or may not have arrived, and may have caused the failure."""
    TOO_SLOW = auto()
    """FAILED because no answer arrived in time."""
    UNAVAILABLE = auto()
    """The Loop cannot be reached, or accepts no request at the moment; the images are not the cause."""
    VANISHED = auto()
    """A file of the batch is missing, so nothing was sent."""


_REFUSALS: Final = {413: Outcome.TOO_LARGE, 422: Outcome.REFUSED}
_NOT_CAUSED_BY_IMAGES: Final = (401, 403, 404, 405, 407, 429, 502, 503, 504)


@dataclass(frozen=True, slots=True, kw_only=True)
class Answer:
    """The Loop's answer to a batch.

    :param detail: explanation for the log.
    :param retry_after: pause that the Loop asks for, in seconds; 0 if it asks for none.
    :param missing: image of the missing file, if the outcome is VANISHED.
    """

    outcome: Outcome
    detail: str = ''
    retry_after: float = 0
    missing: Entry | None = None


class LoopPoster:
    """Posts batches to a project's images.

    It opens a connection per batch, follows no redirect, and sends no credentials: the Loop accepts images without a
    login.

    :param url: `https://…/api/organization/projects/project/images`.
    :param ssl_context: verifies the certificate of the Loop.
    :raises InvalidSettings: the proxy for the Loop cannot be used.
    """

    def __init__(self, url: str, ssl_context: ssl.SSLContext) -> None:
        self.url = url
        self._ssl_context = ssl_context
        self._proxy = http_proxy_of(url)

    async def post(self, entries: Sequence[Entry], *, timeout: float, executor: Executor) -> Answer:
        """Send images in one request.

        :param timeout: time limit for the whole request, in seconds.
        :param executor: reads the files.
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
                session.post(self.url, data=form, allow_redirects=False, proxy=self._proxy) as response,
            ):
                content = await response.content.read(200)
                return _interpret(response.status, response.headers, content)
        except (aiohttp.ClientConnectorError, aiohttp.ConnectionTimeoutError) as error:
            return Answer(outcome=Outcome.UNAVAILABLE, detail=str(error))
        except TimeoutError:
            return Answer(outcome=Outcome.TOO_SLOW, detail=f'no answer within {timeout:.0f} seconds')
        except (aiohttp.ClientError, OSError) as error:
            return Answer(outcome=Outcome.FAILED, detail=f'the connection broke: {error}')


def _read(entries: Sequence[Entry]) -> list[tuple[str, str, bytes]] | Answer:
    """Return name, content type and content of each part, or the reason why the batch cannot be sent."""
    parts = []
    for entry in entries:
        for path, kind in ((entry.metadata, 'text/plain; charset=utf-8'), (entry.jpeg, 'image/jpeg')):
            try:
                parts.append((path.name, kind, path.read_bytes()))
            except (FileNotFoundError, NotADirectoryError) as error:
                return Answer(outcome=Outcome.VANISHED, detail=str(error), missing=entry)
            except OSError as error:  # e.g. too many open files, which does not concern the image
                return Answer(outcome=Outcome.UNAVAILABLE, detail=f'{path.name} cannot be read: {reason(error)}')
    return parts


def _interpret(status: int, headers: Mapping[str, str], content: bytes) -> Answer:
    excerpt = ' '.join(content.decode(errors='replace').split())
    detail = f'the Learning Loop answers {status} {excerpt}'.rstrip()
    is_page = headers.get('Content-Type', '').lower().startswith('text/html')  # a captive portal answers 200
    if 200 <= status < 300 and not is_page:
        return Answer(outcome=Outcome.TAKEN)
    if status in _REFUSALS:
        return Answer(outcome=_REFUSALS[status], detail=detail)
    elsewhere = status < 400 or status in _NOT_CAUSED_BY_IMAGES
    return Answer(
        outcome=Outcome.UNAVAILABLE if elsewhere else Outcome.FAILED,
        detail=detail,
        retry_after=_seconds(headers.get('Retry-After', '')),
    )


def _seconds(retry_after: str) -> float:
    """Convert a Retry-After header, seconds or a date (RFC 9110, 10.2.3), to seconds from now; 0 if it is neither."""
    if retry_after.isascii() and retry_after.isdigit():
        return float(retry_after[:9])
    try:
        return max(0.0, email.utils.parsedate_to_datetime(retry_after).timestamp() - time.time())
    except (TypeError, ValueError):
        return 0.0
