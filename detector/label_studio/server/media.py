"""Fetch the images of tasks from the untrusted addresses in their data.

Credentials go to LABEL_STUDIO_URL only, and only with the paths under which Label Studio keeps images. Other hosts are
requested without credentials if IMAGE_HOSTS allows them and their IP address is public or listed; the proxies of the
environment are not used for them (see `network`). Local files are never read.
"""

import asyncio
import base64
import binascii
import re
import time
from collections import OrderedDict
from collections.abc import Callable
from contextlib import AbstractAsyncContextManager
from typing import Final, Protocol, Self
from urllib.parse import unquote, unquote_to_bytes

import httpx

from detector.errors import LabelStudioFault, MediaFault
from detector.pose.images import MAX_BYTES
from detector.settings import Settings

from .addresses import Addresses, Inline, Inside, Outside, shown
from .client import Connection
from .network import AllowedHosts, PublicClient, read_at_most

_MAX_REDIRECTS: Final = 5
_BATCH_BYTES: Final = 256 * 1024**2
_DATA_URI: Final = re.compile(
    r'data:image/[\w.+-]+(?P<parameters>(;[^;,]*)*),(?P<content>.*)', re.DOTALL | re.IGNORECASE
)
_PICTURES: Final = (b'\xff\xd8', b'\x89PNG', b'RIFF')
"""First bytes of JPEG, PNG and WebP files."""


class ImageSource(Protocol):
    """A source of tasks' images: `TaskImages`, or a `Batch` of it."""

    async def fetch(self, address: object, *, task_id: int | None) -> bytes:
        """Return the bytes of an image file.

        :raises MediaFault: the image cannot be fetched.
        """


class TaskImages:
    """Fetches the images of tasks.

    :param connection: connection to Label Studio; None: accept only other hosts and `data:` URIs.
    :param allowed_hosts: other hosts as `host`, `host:port` or `*`, comma separated; see IMAGE_HOSTS.
    :param hostnames: Label Studio's other names, comma separated; see LABEL_STUDIO_HOSTNAMES.
    :param seconds: time limit for one image, without the wait for its turn.
    :param connect_seconds: time limit for name resolution and connection.
    :param concurrency: number of images that are fetched at the same time.
    :param max_bytes: size limit for an image.
    """

    def __init__(
        self,
        connection: Connection | None,
        *,
        allowed_hosts: str = '*',
        hostnames: str = '',
        seconds: float = 20,
        connect_seconds: float = 5,
        concurrency: int = 8,
        max_bytes: int = MAX_BYTES,
    ) -> None:
        self._connection = connection
        self._addresses = Addresses(None if connection is None else connection.url, filter(None, hostnames.split(',')))
        self._others = PublicClient(
            AllowedHosts.parse(allowed_hosts), connections=concurrency, connect_seconds=connect_seconds
        )
        self._seconds = seconds
        self._turns = asyncio.Semaphore(concurrency)
        self._max_bytes = max_bytes
        self.observe: Callable[[str, float], object] = lambda outcome, seconds: None
        """Called for each image with its outcome (`ok`, `failed` or `refused`) and the duration in seconds."""

    @classmethod
    def of(cls, settings: Settings, connection: Connection | None) -> Self:
        return cls(
            connection,
            allowed_hosts=settings.image_hosts,
            hostnames=settings.label_studio_hostnames,
            seconds=settings.image_seconds,
        )

    def learn_hostname(self, hostname: object) -> None:
        """Accept the `hostname` in a `/setup` request as another name of Label Studio.

        Any client may call `/setup`; a name only has the effect that addresses with it are requested at
        LABEL_STUDIO_URL.
        """
        self._addresses.learn(hostname)

    async def fetch(self, address: object, *, task_id: int | None) -> bytes:
        """Return the bytes of an image file, not decoded.

        :param address: address in a task's data: `/data/…`, `http(s)://`, `s3://` and similar, or `data:image/…`.
        :param task_id: id of the task, required for files of cloud storages.
        :raises MediaFault: the address is refused or does not lead to an image; the message names the setting to
            change.
        """
        try:
            place = self._addresses.place(address, task_id)
        except MediaFault:
            self.observe('refused', 0.0)
            raise
        if isinstance(place, Inline):
            return await asyncio.to_thread(_decode, place.uri, self._max_bytes)
        async with self._turns:
            start = time.perf_counter()
            try:
                data = await self._in_time(place, shown(str(address)))
            except MediaFault:
                self.observe('failed', time.perf_counter() - start)
                raise
            self.observe('ok', time.perf_counter() - start)
            return data

    async def _in_time(self, place: Inside | Outside, text: str) -> bytes:
        try:
            async with asyncio.timeout(self._seconds):
                return await self._download(place, text)
        except TimeoutError:
            raise MediaFault(f'{text}: not received within {self._seconds:g} s (IMAGE_SECONDS)') from None
        except (LabelStudioFault, httpx.HTTPError) as error:
            raise MediaFault(f'{text}: {error}') from None

    async def close(self) -> None:
        """Close the connections to other hosts; the caller closes the connection to Label Studio."""
        await self._others.close()

    async def _download(self, place: Inside | Outside, text: str) -> bytes:
        for _ in range(_MAX_REDIRECTS + 1):
            async with self._open(place) as response:
                if not response.has_redirect_location:
                    return await self._read(response, place, text)
                place = self._addresses.redirected(place, response.headers['Location'])
        raise MediaFault(f'{text}: more than {_MAX_REDIRECTS} redirects')

    def _open(self, place: Inside | Outside) -> AbstractAsyncContextManager[httpx.Response]:
        if isinstance(place, Outside):
            return self._others.get(place.url, any_public=place.by_label_studio)
        assert self._connection is not None
        return self._connection.stream(place.path)

    async def _read(self, response: httpx.Response, place: Inside | Outside, text: str) -> bytes:
        if response.status_code != httpx.codes.OK:
            raise MediaFault(f'{text}: {_explanation(response.status_code, place)}')
        data = await read_at_most(response, self._max_bytes)
        if data is None:
            raise MediaFault(f'{text}: larger than the limit of {self._max_bytes} bytes')
        if not data:
            raise MediaFault(f'{text}: the file is empty (0 bytes)')
        kind = _kind_of_text(response.headers.get('Content-Type', ''), data)
        if kind is not None:
            what = 'LABEL_STUDIO_URL and LABEL_STUDIO_API_TOKEN' if isinstance(place, Inside) else 'the address'
            raise MediaFault(f'{text}: {kind} instead of an image, possibly a login page; check {what}')
        return data


class Batch:
    """Images of several tasks, a context manager; each address is fetched once, even if it is requested concurrently.

    The latest 256 MiB of images are kept until the end. A failed address is not tried again.
    """

    def __init__(self, images: TaskImages) -> None:
        self._images = images
        self._fetches: OrderedDict[str, asyncio.Task[bytes]] = OrderedDict()

    async def fetch(self, address: object, *, task_id: int | None) -> bytes:
        """Fetch an image as `TaskImages.fetch` does; cancelling one caller does not affect the others."""
        if not isinstance(address, str):
            return await self._images.fetch(address, task_id=task_id)
        fetch = self._fetches.get(address)
        if fetch is None:
            fetch = asyncio.create_task(self._images.fetch(address, task_id=task_id))
            self._fetches[address] = fetch
        self._fetches.move_to_end(address)
        data = await asyncio.shield(fetch)
        self._forget_oldest()
        return data

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(self, *_: object) -> None:
        """Cancel the fetches that are still running."""
        for fetch in self._fetches.values():
            fetch.cancel()
        await asyncio.gather(*self._fetches.values(), return_exceptions=True)
        self._fetches.clear()

    def _forget_oldest(self) -> None:
        kept = 0
        for address, fetch in reversed(list(self._fetches.items())):
            if fetch.done() and not fetch.cancelled() and fetch.exception() is None:
                kept += len(fetch.result())
                if kept > _BATCH_BYTES:
                    del self._fetches[address]


def _explanation(status: int, place: Inside | Outside) -> str:
    if isinstance(place, Outside):
        hint = ', which is requested without credentials' if status in (401, 403) else ''
        return f'{place.url.raw_host.decode()} answers {status}{hint}'
    if status == httpx.codes.INTERNAL_SERVER_ERROR and place.path.startswith('/data/upload/'):
        return 'Label Studio answers 500, as version 1.23 does if the upload is missing'
    if status != httpx.codes.NOT_FOUND:
        return f'Label Studio answers {status}'
    if 'fileuri=' in place.path:
        return 'Label Studio finds no such file (404): is its bucket among the cloud storages of the project?'
    return 'Label Studio has no such file (404), or not for the user of LABEL_STUDIO_API_TOKEN'


def _kind_of_text(content_type: str, data: bytes) -> str | None:
    """Return `an HTML page` or `JSON` if the data is one of these instead of an image, else None."""
    if data.startswith(_PICTURES):
        return None
    start = data[:512].lstrip(b'\xef\xbb\xbf \t\r\n').lower()
    if 'html' in content_type or start.startswith((b'<!doctype html', b'<html')):
        return 'an HTML page'
    if 'json' in content_type or start.startswith((b'{', b'[')):
        return 'JSON'
    return None


def _decode(uri: str, max_bytes: int) -> bytes:
    """Return the bytes of a `data:` URI.

    :raises MediaFault: the URI is damaged, not an image, or too large.
    """
    parts = _DATA_URI.fullmatch(uri)
    if parts is None:
        raise MediaFault(f'{shown(uri[:40])}: data: addresses must be data:image/…')
    too_large = MediaFault(f'{shown(uri[:40])}…: larger than the limit of {max_bytes} bytes')
    if len(parts['content']) > 3 * max_bytes:
        raise too_large
    if parts['parameters'].lower().endswith(';base64'):
        try:
            data = base64.b64decode(re.sub(r'\s', '', unquote(parts['content'])), validate=True)
        except (binascii.Error, ValueError):
            raise MediaFault(f'{shown(uri[:40])}…: invalid base64') from None
    else:
        data = unquote_to_bytes(parts['content'])
    if len(data) > max_bytes:
        raise too_large
    if not data:
        raise MediaFault('the data: address of the image is empty')
    return data
