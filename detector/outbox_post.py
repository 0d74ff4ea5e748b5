"""Posting images to the Learning Loop, as its own nodes do: multipart, per image its metadata and then its JPEG."""

import email.utils
import ssl
import time
from collections.abc import Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from enum import Enum, auto
from typing import Final

import aiohttp

from .outbox_files import Entry

_CONNECT_SECONDS: Final = 10


class Outcome(Enum):
    """What became of a batch."""

    TAKEN = auto()
    REFUSED = auto()
    """The Loop finds an image faulty."""
    TOO_LARGE = auto()
    """The Loop, or a proxy before it, takes no request of this size."""
    FAILED = auto()
    """No good answer, or none in time: the batch may have arrived or not."""
    UNREACHABLE = auto()
    """No connection: nothing was sent."""
    VANISHED = auto()
    """A file of the batch is gone: nothing was sent."""


_REFUSALS: Final = {413: Outcome.TOO_LARGE, 422: Outcome.REFUSED}


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

    async def post(self, entries: Sequence[Entry], *, timeout: float) -> Answer:
        """Send images in one request.

        :param timeout: seconds for all of it.
        """
        with ExitStack() as stack:
            form = aiohttp.FormData()
            for entry in entries:
                kinds = ((entry.metadata, 'text/plain; charset=utf-8'), (entry.jpeg, 'image/jpeg'))
                for path, kind in kinds:
                    try:
                        file = stack.enter_context(path.open('rb'))
                    except OSError as error:
                        return Answer(outcome=Outcome.VANISHED, detail=str(error), missing=entry)
                    form.add_field('files', file, filename=path.name, content_type=kind)
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
            return Answer(outcome=Outcome.UNREACHABLE, detail=str(error))
        except TimeoutError:
            return Answer(outcome=Outcome.FAILED, detail=f'no answer within {timeout:g} seconds')
        except (aiohttp.ClientError, OSError) as error:
            return Answer(outcome=Outcome.FAILED, detail=str(error) or type(error).__name__)


def _judge(status: int, headers: Mapping[str, str], content: bytes) -> Answer:
    excerpt = ' '.join(content.decode(errors='replace').split())
    detail = f'the Learning Loop answers {status} {excerpt}'.rstrip()
    is_page = headers.get('Content-Type', '').startswith('text/html')  # what captive portals answer, with status 200
    if 200 <= status < 300 and not is_page:
        return Answer(outcome=Outcome.TAKEN)
    if status in _REFUSALS:
        return Answer(outcome=_REFUSALS[status], detail=detail)
    return Answer(outcome=Outcome.FAILED, detail=detail, retry_after=_seconds(headers.get('Retry-After', '')))


def _seconds(retry_after: str) -> float:
    """The header's seconds or date (RFC 9110, 10.2.3) as seconds from now; 0 if it is neither."""
    if retry_after.isascii() and retry_after.isdigit():
        return float(retry_after[:9])
    try:
        return max(0.0, email.utils.parsedate_to_datetime(retry_after).timestamp() - time.time())
    except (TypeError, ValueError):
        return 0.0
