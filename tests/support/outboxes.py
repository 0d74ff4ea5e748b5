"""Outboxes and a scripted Learning Loop for tests."""

import asyncio
import ssl
import time
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from urllib.parse import unquote

from aiohttp import web
from learning_loop_node.data_classes import ImageMetadata

from benchmarks.support.waiting import eventually_async
from detector.outbox.files import Entry
from detector.outbox.outbox import Outbox
from detector.outbox.posting import LoopPoster
from detector.outbox.queue import OutboxQueue


def make_outbox(folder: Path, url: str, *, interval: float = 0.02) -> Outbox:
    queue = OutboxQueue(folder, max_images=1000, max_bytes=10**9)
    return Outbox(queue, LoopPoster(url, ssl.create_default_context()), interval=interval)


Answer = Callable[[list[str]], Awaitable[web.Response]]
"""Function from the names of a request's images to the answer."""


async def accept(_: list[str]) -> web.Response:
    """Accept all images."""
    return web.json_response({})


@dataclass
class Script:
    """A Learning Loop with prepared answers.

    :param batches: names of the images of each request, and its time of arrival.
    :param answer: function that answers the next requests, or raises ConnectionResetError to break the connection; by
        default, it accepts them.
    :param parts: file name, content type and content of each received part.
    """

    url: str = ''
    batches: list[list[str]] = field(default_factory=list)
    times: list[float] = field(default_factory=list)
    parts: list[tuple[str, str, bytes]] = field(default_factory=list)
    taken: list[str] = field(default_factory=list)
    answer: Answer = accept

    def hold(self) -> tuple[asyncio.Event, asyncio.Event]:
        """Keep the next requests without an answer.

        :return: an event that the first of them sets, and an event that lets them be answered.
        """
        begun, go = asyncio.Event(), asyncio.Event()

        async def answer(_: list[str]) -> web.Response:
            begun.set()
            await go.wait()
            return web.json_response({})

        self.answer = answer
        return begun, go

    async def handle(self, request: web.Request) -> web.Response:
        form = await request.post()
        files = [part for part in form.getall('files') if isinstance(part, web.FileField)]
        self.parts += [(part.filename, part.content_type, part.file.read()) for part in files]
        for part in files:
            part.file.close()
        names = [unquote(part.filename)[6:-4] for part in files if part.filename.endswith('.jpg')]
        self.batches.append(names)
        self.times.append(time.monotonic())
        try:
            response = await self.answer(names)
        except ConnectionResetError:
            assert request.transport is not None
            request.transport.abort()
            return web.Response(status=500)
        if response.status == 200 and response.content_type == 'application/json':
            self.taken += names
        return response


async def fill(outbox: Outbox, count: int, *, priority: bool = False) -> list[Entry]:
    return [await outbox.save(b'jpeg', ImageMetadata(tags=['t']), priority=priority) for _ in range(count)]


def names(entries: Sequence[Entry]) -> list[str]:
    return [entry.name for entry in entries]


async def until_empty(outbox: Outbox) -> None:
    await eventually_async(lambda: outbox.queue.count == 0)
