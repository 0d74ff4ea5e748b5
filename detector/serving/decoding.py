"""Decoding of received images: in threads, few at a time, and not more of them in memory than there is room for.

A file of a few hundred KB may decode to hundreds of MB, so what waits for its inference must not be bounded by
numbers of requests only.
"""

import asyncio
import time
from bisect import insort
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from typing import Final

import numpy as np
from learning_loop_node.helpers.misc import ImageData

from detector.errors import InvalidImage
from detector.observability.metrics import Metrics
from detector.pose import images
from detector.pose.images import Image

from .admission import Ticket

_THREADS: Final = 2
"""Images that may be decoded at the same time."""
ROOM_PIXELS: Final = 256_000_000
"""For decoded images, 768 MB; a group of images that has more goes alone."""


class Decoder:
    """Decodes groups of images.

    :param max_pixels: of one image.
    :param metrics: where the times are counted.
    :param room: pixels of decoded images.
    """

    def __init__(self, *, max_pixels: int, metrics: Metrics, room: int = ROOM_PIXELS) -> None:
        self.room = Room(room)
        self._max_pixels = max_pixels
        self._metrics = metrics
        self._threads = asyncio.Semaphore(_THREADS)

    @asynccontextmanager
    async def decoded(self, received: Sequence[ImageData], ticket: Ticket) -> AsyncIterator[list[Image | InvalidImage]]:
        """Hold images in memory, in the order of arrival where there is no room for all that come.

        :param received: of a group: encoded images, or RGB arrays, which take no room.
        :param ticket: the request that they belong to.
        :return: upright RGB arrays, in the order of `received`; instead of one that is broken or not acceptable, why.
        :raises DeadlineExceeded: there is no room in time.
        :raises Busy: a newer frame of the same stream has come while this one waited for room.
        """
        files = sum(not isinstance(image, np.ndarray) for image in received)
        most = files * self._max_pixels
        if self.room.has(most):  # nobody needs to look how large they are
            room = most
        else:
            room = await asyncio.to_thread(self._pixels, received)
        await self.room.take(room, ticket)
        try:
            decoded = await asyncio.gather(*(self._decode(image) for image in received))
            needed = sum(
                image.shape[0] * image.shape[1]
                for image, came in zip(decoded, received, strict=True)
                if isinstance(image, np.ndarray) and not isinstance(came, np.ndarray)
            )
            self.room.give_back(room - needed)
            room = needed
            yield decoded
        finally:
            self.room.give_back(room)

    def _pixels(self, received: Sequence[ImageData]) -> int:
        """That the files will have, as their headers say."""
        count = 0
        for image in received:
            if not isinstance(image, np.ndarray):
                try:
                    count += images.pixels(image, max_pixels=self._max_pixels)
                except InvalidImage:  # decoding will say so
                    continue
        return count

    async def _decode(self, received: ImageData) -> Image | InvalidImage:
        try:
            if isinstance(received, np.ndarray):
                return images.check(received, max_pixels=self._max_pixels)
            async with self._threads:
                start = time.perf_counter()
                decoded = await asyncio.to_thread(images.decode, received, max_pixels=self._max_pixels)
        except InvalidImage as error:
            return error
        self._metrics.decoded(time.perf_counter() - start)
        return decoded


class Room:
    """A number of pixels that may be held at the same time; who came first is served first.

    :param pixels: who needs more has all of it.
    """

    def __init__(self, pixels: int) -> None:
        self._pixels = pixels
        self._held = 0
        self._waiting: list[_Waiting] = []

    @property
    def held(self) -> int:
        """Pixels."""
        return self._held

    def has(self, pixels: int) -> bool:
        """Whether `take` would not wait."""
        return not pixels or (not self._waiting and (not self._held or self._held + pixels <= self._pixels))

    async def take(self, pixels: int, ticket: Ticket) -> None:
        """Wait until there is room, and take it.

        :raises DeadlineExceeded: there is none in time.
        :raises Busy: the ticket has been replaced.
        """
        if self.has(pixels):
            self._held += pixels
            return
        waiting = _Waiting(ticket.since, pixels, asyncio.get_running_loop().create_future())
        insort(self._waiting, waiting)
        seconds = max(0.0, ticket.deadline - time.monotonic())
        try:
            await asyncio.wait((waiting.granted, ticket.go), timeout=seconds, return_when=asyncio.FIRST_COMPLETED)
            if ticket.go.done():
                ticket.go.result()
            if not waiting.granted.done():
                raise ticket.late()
        except BaseException:
            self._leave(waiting)
            raise

    def _leave(self, waiting: '_Waiting') -> None:
        if waiting.granted.done():
            self.give_back(waiting.pixels)
        else:
            self._waiting.remove(waiting)
            self._serve()

    def give_back(self, pixels: int) -> None:
        self._held -= pixels
        self._serve()

    def _serve(self) -> None:
        while self._waiting:
            first = self._waiting[0]
            if self._held and self._held + first.pixels > self._pixels:
                return
            del self._waiting[0]
            self._held += first.pixels
            first.granted.set_result(None)


@dataclass(slots=True, order=True)
class _Waiting:
    since: float
    pixels: int = field(compare=False)
    granted: asyncio.Future[None] = field(compare=False)
