"""From received images to poses: admission, decoding, inference; never on the event loop."""

import asyncio
import time
from collections.abc import AsyncIterator, Callable, Hashable, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import asynccontextmanager
from dataclasses import dataclass
from functools import partial
from typing import Final

import numpy as np
from learning_loop_node.helpers.misc import ImageData

from detector.engine.streams import Streams
from detector.errors import DeadlineExceeded, InferenceFailed, InvalidImage, ModelUnavailable
from detector.models.package import ModelPackage
from detector.observability.metrics import Metrics
from detector.observability.recent import Recent
from detector.observability.request_context import in_this_context
from detector.pose.images import Image
from detector.pose.pose import FloatArray, Pose
from detector.settings import Settings
from detector.wholebody_logic import WholebodyDetectorLogic

from .admission import Admission, Ticket
from .decoding import Decoder
from .recovery import Recovery

GROUP_IMAGES: Final = 4
"""Of a batch, that share a turn, so that others get theirs in between."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Estimate:
    """The poses of an image, and how they came about.

    :param package: the model that found them.
    :param timing: milliseconds by stage; images that shared an inference have equal parts of it.
    """

    image: Image
    poses: list[Pose]
    package: ModelPackage
    timing: dict[str, float]


class Inference:
    """Runs one inference at a time, in a thread of its own.

    :param lock: held during an inference, and by whoever replaces the model without keeping the old one.
    :param active: gives the logic that serves, or raises ModelUnavailable.
    :param metrics: where images, persons and times are counted.
    :param recovery: is told how inferences end.
    """

    def __init__(
        self,
        settings: Settings,
        lock: asyncio.Lock,
        active: Callable[[], WholebodyDetectorLogic],
        metrics: Metrics | None = None,
        recovery: Recovery | None = None,
    ) -> None:
        self._settings = settings
        self._metrics = Metrics() if metrics is None else metrics
        self._recovery = recovery
        self._lock = lock
        self._active = active
        self._thread = ThreadPoolExecutor(1, thread_name_prefix='inference')
        self.decoder = Decoder(max_pixels=settings.max_image_pixels, metrics=self._metrics)
        self._streams: tuple[WholebodyDetectorLogic, Streams] | None = None
        self.admission = Admission(max_waiting=settings.max_waiting, deadline=settings.deadline)
        self.recent = Recent()
        self.unloading = False
        """While a model is replaced that had to be unloaded first: requests wait for the new one."""

    async def estimate(
        self,
        received: ImageData,
        *,
        camera_id: str | None = None,
        stream: Hashable | None = None,
        boxes: Callable[[int, int], FloatArray] | None = None,
    ) -> Estimate:
        """Find the poses in an image.

        :param received: an encoded image, or an RGB array.
        :param camera_id: whose frames may do without a detection each (DETECTION_INTERVAL).
        :param stream: an earlier frame of the same stream that still waits is given up for this one.
        :param boxes: gives (N, 4), x1, y1, x2, y2 in pixels, for width and height: the poses of the persons in these,
            found by somebody else.
        :raises InvalidImage: it is broken or not acceptable.
        :raises ModelUnavailable: no model serves.
        :raises Busy: other work keeps this from starting in time, or a newer frame has come.
        """
        self._fail_fast()
        async with self.admission.enter(stream=stream) as ticket:
            run = partial(self._frame, camera_id=camera_id) if boxes is None else partial(_in_boxes, boxes=boxes)
            (estimate,) = _sound(await self._estimate_group([received], ticket, run))
            return estimate

    async def estimate_batch(self, received: Sequence[ImageData]) -> AsyncIterator[Estimate]:
        """Find the poses in several images, which share inferences; others have their turns in between.

        :raises WholebodyError: see `estimate`; before any of the images that share an inference is given.
        """
        self._fail_fast()
        for start in range(0, len(received), GROUP_IMAGES):
            async with self.admission.enter() as ticket:
                group = _sound(await self._estimate_group(received[start : start + GROUP_IMAGES], ticket, _together))
            for estimate in group:
                yield estimate

    async def estimate_bulk(self, received: Sequence[ImageData]) -> list[Estimate | InvalidImage]:
        """Find the poses in a few images, when nobody waits for an answer now.

        :param received: up to `GROUP_IMAGES`.
        :return: in the order of `received`; for an image that is broken or not acceptable, why.
        :raises ModelUnavailable: see `estimate`.
        """
        self._fail_fast()
        async with self.admission.enter(live=False) as ticket:
            return await self._estimate_group(received, ticket, _together)

    def _fail_fast(self) -> None:
        """Before the decoding, if no model is there."""
        if not self.unloading:
            self._active()

    async def _estimate_group(
        self, received: Sequence[ImageData], ticket: Ticket, run: 'Run'
    ) -> list[Estimate | InvalidImage]:
        """:param run: what is done in the inference thread."""
        start = time.perf_counter()
        async with self.decoder.decoded(received, ticket) as decoded:
            group = [image for image in decoded if not isinstance(image, InvalidImage)]
            if not group:
                return [image for image in decoded if isinstance(image, InvalidImage)]
            waiting = time.perf_counter()
            async with self.admission.turn(ticket), self._model(ticket):
                running = time.perf_counter()
                logic = self._active()
                found = await self._watched(logic, in_this_context(run, logic, group))
            done = time.perf_counter()
        self.admission.took(done - running)
        self._metrics.estimated(found, queue_seconds=running - waiting, inference_seconds=done - running)
        stages = {
            'decode_ms': waiting - start,
            'wait_ms': running - waiting,
            'inference_ms': (done - running) / len(group),
        }
        timing = {stage: round(1000 * seconds, 2) for stage, seconds in stages.items()}
        self.recent.note(timing, len(group))
        poses = iter(found)
        return [
            image
            if isinstance(image, InvalidImage)
            else Estimate(image=image, poses=next(poses), package=logic.package, timing=timing)
            for image in decoded
        ]

    async def _watched(self, logic: WholebodyDetectorLogic, run: Callable[[], list[list[Pose]]]) -> list[list[Pose]]:
        """:raises InferenceFailed: the runtime does; whoever can help knows of it."""
        try:
            found = await asyncio.get_running_loop().run_in_executor(self._thread, run)
        except InferenceFailed as error:
            self.forget_streams()
            if self._recovery is not None and self._serves(logic):
                self._recovery.failed(logic, error)
            raise
        if self._recovery is not None:
            self._recovery.inferred()
        return found

    def forget_streams(self) -> None:
        """Let go of the model that they belong to."""
        self._streams = None

    def _serves(self, logic: WholebodyDetectorLogic) -> bool:
        try:
            return self._active() is logic
        except ModelUnavailable:
            return False

    def _frame(self, logic: WholebodyDetectorLogic, group: Sequence[Image], camera_id: str | None) -> list[list[Pose]]:
        interval = self._settings.detection_interval
        if interval == 1 or camera_id is None:
            return _together(logic, group)
        if self._streams is None or self._streams[0] is not logic:
            self._streams = logic, Streams(logic.engine, interval=interval)
        return [self._streams[1].poses(image, camera_id) for image in group]

    @asynccontextmanager
    async def _model(self, ticket: Ticket) -> AsyncIterator[None]:
        """Keep the model in place.

        :raises DeadlineExceeded: it is being replaced, and that takes too long.
        """
        try:
            async with asyncio.timeout(max(0.0, ticket.deadline - time.monotonic())):
                await self._lock.acquire()
        except TimeoutError:
            seconds = self._settings.deadline
            raise DeadlineExceeded(
                f'no turn within {seconds:g} seconds: the model is being replaced', retry_after=seconds
            ) from None
        try:
            yield
        finally:
            self._lock.release()

    def close(self) -> None:
        """Start no more inferences; one that runs is not waited for."""
        self._thread.shutdown(wait=False, cancel_futures=True)


Run = Callable[[WholebodyDetectorLogic, Sequence[Image]], list[list[Pose]]]
"""What happens to a group of images in the inference thread."""


def _sound(found: Sequence[Estimate | InvalidImage]) -> list[Estimate]:
    """:raises InvalidImage: one of the images is; a new error, since one that is kept would keep all that led to it."""
    for one in found:
        if isinstance(one, InvalidImage):
            raise type(one)(str(one))
    return [one for one in found if isinstance(one, Estimate)]


def _together(logic: WholebodyDetectorLogic, group: Sequence[Image]) -> list[list[Pose]]:
    return logic.engine.poses_of_images(group)


def _in_boxes(
    logic: WholebodyDetectorLogic, group: Sequence[Image], boxes: Callable[[int, int], FloatArray]
) -> list[list[Pose]]:
    found = [(image, boxes(image.shape[1], image.shape[0])) for image in group]
    return logic.engine.poses_in_boxes(
        [(image, given, np.ones(len(given), dtype=np.float32)) for image, given in found]
    )
