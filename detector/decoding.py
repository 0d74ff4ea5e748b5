"""Decoding of received images: in threads, few at a time, and not more of them in memory than there is room for.

A file of a few hundred KB may decode to hundreds of MB, so what waits for its inference must not be bounded by
numbers of requests only.
"""

import asyncio
import math
import time
from collections import deque
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from typing import Final

import numpy as np
from learning_loop_node.helpers.misc import ImageData

from . import images
from .errors import DeadlineExceeded, InvalidImage
from .images import Image
from .metrics import Metrics

_THREADS: Final = 2
"""Images that may be decoded at the same time."""
_LARGEST_IMAGES: Final = 4
"""Decoded images of MAX_IMAGE_PIXELS for which there is room; a group of images that is larger goes alone."""


class Decoder:
    """Decodes groups of images.

    :param max_pixels: of one image.
    :param metrics: where the times are counted.
    """

    def __init__(self, *, max_pixels: int, metrics: Metrics) -> None:
        self.room = Room(_LARGEST_IMAGES * max_pixels)
        self._max_pixels = max_pixels
        self._metrics = metrics
        self._threads = asyncio.Semaphore(_THREADS)

    @asynccontextmanager
    async def decoded(
        self, received: Sequence[ImageData], *, deadline: float
    ) -> AsyncIterator[list[Image | InvalidImage]]:
        """Hold images in memory, in the order of arrival where there is no room for all that come.

        :param received: of a group: encoded images, or RGB arrays, which take no room.
        :param deadline: of `time.monotonic`, when there must be room.
        :return: upright RGB arrays, in the order of `received`; instead of one that is broken or not acceptable, why.
        :raises DeadlineExceeded: there is no room in time.
        """
        files = sum(not isinstance(image, np.ndarray) for image in received)
        most = files * self._max_pixels
        if self.room.has(most):  # nobody needs to look how large they are
            room = most
        else:
            room = await asyncio.to_thread(self._pixels, received)
        await self.room.take(room, deadline)
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
                    width, height = images.upright_size(image, max_pixels=self._max_pixels)
                except InvalidImage:  # decoding will say so
                    continue
                count += width * height
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
    """A number of pixels that may be held at the same time; who comes first is served first.

    :param pixels: who needs more has all of it.
    """

    def __init__(self, pixels: int) -> None:
        self._pixels = pixels
        self._held = 0
        self._waiting: deque[tuple[int, asyncio.Future[None]]] = deque()

    @property
    def held(self) -> int:
        """Pixels."""
        return self._held

    def has(self, pixels: int) -> bool:
        """Whether `take` would not wait."""
        return not pixels or (not self._waiting and (not self._held or self._held + pixels <= self._pixels))

    async def take(self, pixels: int, deadline: float) -> None:
        """Wait until there is room, and take it.

        :param deadline: of `time.monotonic`.
        :raises DeadlineExceeded: there is none in time.
        """
        if self.has(pixels):
            self._held += pixels
            return
        granted: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        self._waiting.append((pixels, granted))
        seconds = None if deadline == math.inf else max(0.0, deadline - time.monotonic())
        try:
            async with asyncio.timeout(seconds):
                await granted
        except BaseException as error:
            self.give_back(0 if granted.cancelled() else pixels)
            if isinstance(error, TimeoutError):
                raise DeadlineExceeded('no turn in time: images of others come first', retry_after=1) from None
            raise

    def give_back(self, pixels: int) -> None:
        self._held -= pixels
        self._serve()

    def _serve(self) -> None:
        while self._waiting:
            pixels, granted = self._waiting[0]
            if granted.cancelled():
                self._waiting.popleft()
                continue
            if self._held and self._held + pixels > self._pixels:
                return
            self._waiting.popleft()
            self._held += pixels
            granted.set_result(None)
