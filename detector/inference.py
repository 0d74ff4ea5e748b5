"""From received images to poses: decoding, waiting for one's turn, inference; never on the event loop."""

import asyncio
import time
from collections.abc import AsyncIterator, Callable
from concurrent.futures import ThreadPoolExecutor
from contextlib import asynccontextmanager
from dataclasses import dataclass
from typing import Final

import numpy as np
from learning_loop_node.helpers.misc import ImageData

from . import images
from .errors import DeadlineExceeded
from .images import Image
from .model_package import ModelPackage
from .poses import Pose
from .settings import Settings
from .wholebody_logic import WholebodyDetectorLogic

_DECODERS: Final = 2
"""Images that may be decoded at the same time."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Estimate:
    """The poses of an image, and how they came about.

    :param package: the model that found them.
    :param timing: milliseconds by stage.
    """

    image: Image
    poses: list[Pose]
    package: ModelPackage
    timing: dict[str, float]


class Inference:
    """Runs one inference at a time, in a thread of its own.

    :param lock: held during an inference, and by whoever replaces the model without keeping the old one.
    :param active: gives the logic that serves, or raises ModelUnavailable.
    """

    def __init__(self, settings: Settings, lock: asyncio.Lock, active: Callable[[], WholebodyDetectorLogic]) -> None:
        self._settings = settings
        self._lock = lock
        self._active = active
        self._thread = ThreadPoolExecutor(1, thread_name_prefix='inference')
        self._decoding = asyncio.Semaphore(_DECODERS)
        self.unloading = False
        """While a model is replaced that had to be unloaded first: requests wait for the new one."""

    async def decode(self, image: ImageData) -> Image:
        """The upright RGB array of an image, decoded in a thread, few at a time, since each may be large.

        :raises InvalidImage: broken or not acceptable.
        """
        limit = self._settings.max_image_pixels
        if isinstance(image, np.ndarray):
            return images.check(image, max_pixels=limit)
        async with self._decoding:
            return await asyncio.to_thread(images.decode, image, max_pixels=limit)

    async def jpeg(self, image: ImageData) -> bytes:
        """The upright JPEG of an image; see `images.as_jpeg`.

        :raises InvalidImage: broken or not acceptable.
        """
        return await asyncio.to_thread(images.as_jpeg, image, await self.decode(image))

    async def estimate(self, received: ImageData) -> Estimate:
        """Find the poses in an image.

        :param received: an encoded image, or an RGB array.
        :raises InvalidImage: it is broken or not acceptable.
        :raises ModelUnavailable: no model serves.
        :raises DeadlineExceeded: other work kept this from starting in time.
        """
        if not self.unloading:
            self._active()  # fails fast, before the decoding
        start = time.perf_counter()
        image = await self.decode(received)
        waiting = time.perf_counter()
        async with self._turn(start + self._settings.deadline):
            running = time.perf_counter()
            logic = self._active()
            poses = await asyncio.get_running_loop().run_in_executor(self._thread, logic.poses, image)
        stages = {
            'decode_ms': waiting - start,
            'wait_ms': running - waiting,
            'inference_ms': time.perf_counter() - running,
        }
        timing = {stage: round(1000 * seconds, 2) for stage, seconds in stages.items()}
        return Estimate(image=image, poses=poses, package=logic.package, timing=timing)

    @asynccontextmanager
    async def _turn(self, deadline: float) -> AsyncIterator[None]:
        """Hold the lock.

        :param deadline: until when to wait for it, in seconds of `time.perf_counter`.
        :raises DeadlineExceeded: others held it for too long.
        """
        try:
            async with asyncio.timeout(max(0.0, deadline - time.perf_counter())):
                await self._lock.acquire()
        except TimeoutError:
            reason = 'the model is being replaced' if self.unloading else 'other requests come first'
            raise DeadlineExceeded(f'no inference within {self._settings.deadline:g} seconds: {reason}') from None
        try:
            yield
        finally:
            self._lock.release()

    def close(self) -> None:
        """Start no more inferences; one that runs is not waited for."""
        self._thread.shutdown(wait=False, cancel_futures=True)
