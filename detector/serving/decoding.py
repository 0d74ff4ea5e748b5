"""Decodes received images in threads, and bounds the memory of decoded images that wait for their inference.

A file of a few hundred KB may decode to hundreds of MB, so a bound on the number of requests is not enough.
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
"""Number of images that are decoded at the same time."""
ROOM_PIXELS: Final = 256_000_000
"""Room for decoded images in pixels, which is 768 MB. A larger group of images waits until it is alone."""


class Decoder:
    """Decodes groups of images.

    :param max_pixels: limit for one image.
    :param metrics: receives the decoding times.
    :param room: limit for all decoded images together, in pixels.
    """

    def __init__(self, *, max_pixels: int, metrics: Metrics, room: int = ROOM_PIXELS) -> None:
        self.room = Room(room)
        self._max_pixels = max_pixels
        self._metrics = metrics
        self._threads = asyncio.Semaphore(_THREADS)

    @asynccontextmanager
    async def decoded(self, received: Sequence[ImageData], ticket: Ticket) -> AsyncIterator[list[Image | InvalidImage]]:
        """Decode a group of images and hold them in memory. Groups that find no room wait in the order of arrival.

        :param received: encoded images, or RGB uint8 arrays H×W×3, which take no room.
        :param ticket: the request that the images belong to.
        :return: upright RGB arrays in the order of `received`; an error for an image that is broken or not acceptable.
        :raises DeadlineExceeded: there is no room in time.
        :raises Busy: a newer frame of the same stream has arrived while this one waited for room.
        """
        files = sum(not isinstance(image, np.ndarray) for image in received)
        most = files * self._max_pixels
        if self.room.has(most):  # the images fit whatever their sizes are
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
        """Return the pixels that the files will have, according to their headers."""
        count = 0
        for image in received:
            if not isinstance(image, np.ndarray):
                try:
                    count += images.pixels(image, max_pixels=self._max_pixels)
                except InvalidImage:  # decoding reports it
                    continue
        return count

    async def _decode(self, received: ImageData) -> Image | InvalidImage:
        try:
            if isinstance(received, np.ndarray):
                return images.check(received, max_pixels=self._max_pixels)
            async with self._threads:
                start = time.perf_counter()
                decoded = await asyncio.to_thread(images.decode_image, received, max_pixels=self._max_pixels)
        except InvalidImage as error:
            return error
        self._metrics.decoded(time.perf_counter() - start)
        return decoded


class Room:
    """A number of pixels that may be held at the same time, given out in the order of arrival.

    :param pixels: the total; a caller that needs more gets all of it.
    """

    def __init__(self, pixels: int) -> None:
        self._pixels = pixels
        self._held = 0
        self._waiting: list[_Waiting] = []

    @property
    def held(self) -> int:
        """Number of pixels that are held now."""
        return self._held

    def has(self, pixels: int) -> bool:
        """Return True if `take` would not wait."""
        return not pixels or (not self._waiting and (not self._held or self._held + pixels <= self._pixels))

    async def take(self, pixels: int, ticket: Ticket) -> None:
        """Wait until there is room, and take it.

        :raises DeadlineExceeded: there is no room in time.
        :raises Busy: a newer frame has replaced the request.
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
