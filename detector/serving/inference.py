"""From received images to poses: admission, decoding and inference, all off the event loop."""

import asyncio
import time
from collections.abc import AsyncIterator, Callable, Hashable, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from functools import partial
from typing import Final

import numpy as np
from learning_loop_node.helpers.misc import ImageData

from detector.engine.pose_engine import Found, PoseEngine
from detector.engine.streams import Streams
from detector.errors import DeadlineExceeded, InferenceFailed, InvalidImage, ModelUnavailable
from detector.models.package import ModelPackage
from detector.observability.metrics import Metrics
from detector.observability.recent import Recent
from detector.observability.request_context import in_this_context
from detector.pose.images import Image
from detector.pose.pose import FloatArray, Pose
from detector.settings import Settings

from .admission import Admission, Ticket
from .decoding import Decoder
from .recovery import Recovery

GROUP_IMAGES: Final = 4
"""Number of images of a batch that share a turn; other requests get their turns in between."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Estimate:
    """The poses in an image, and how they were found.

    :param image: RGB uint8, H×W×3, upright.
    :param package: the model that found the poses.
    :param timing: milliseconds by stage; images that shared an inference get equal parts of its time.
    :param uncertain: poses whose box is too uncertain to be answered, for relevance only.
    """

    image: Image
    poses: list[Pose]
    package: ModelPackage
    timing: dict[str, float]
    uncertain: list[Pose] = field(default_factory=list)


class Inference:
    """Runs one inference at a time, in its own thread.

    :param engine: returns the engine of the active model, or raises ModelUnavailable.
    :param lock: held during an inference; `ModelServing` holds it while it exchanges models.
    :param metrics: counts images, persons and times.
    :param recovery: receives the outcome of each inference.
    :param is_exchanging: returns True while requests should wait for a model that is being loaded.
    """

    def __init__(
        self,
        settings: Settings,
        engine: Callable[[], PoseEngine],
        *,
        lock: asyncio.Lock | None = None,
        metrics: Metrics | None = None,
        recovery: Recovery | None = None,
        is_exchanging: Callable[[], bool] = lambda: False,
    ) -> None:
        self._settings = settings
        self._metrics = Metrics() if metrics is None else metrics
        self._recovery = recovery
        self._lock = asyncio.Lock() if lock is None else lock
        self._engine = engine
        self._is_exchanging = is_exchanging
        self._thread = ThreadPoolExecutor(1, thread_name_prefix='inference')
        self.decoder = Decoder(max_pixels=settings.max_image_pixels, metrics=self._metrics)
        self._streams: tuple[PoseEngine, Streams] | None = None
        self.admission = Admission(max_waiting=settings.max_waiting, deadline=settings.deadline)
        self.recent = Recent()

    async def estimate(
        self,
        received: ImageData,
        *,
        camera_id: str | None = None,
        stream: Hashable | None = None,
        boxes: Callable[[int, int], FloatArray] | None = None,
        with_uncertain: bool = False,
    ) -> Estimate:
        """Find the poses in an image.

        :param received: an encoded image, or an RGB uint8 array H×W×3.
        :param camera_id: with it, the person detector need not run on every frame (DETECTION_INTERVAL).
        :param stream: this image replaces an earlier one of the same stream that still waits.
        :param boxes: returns boxes (N, 4), x1, y1, x2, y2 in pixels, for width and height. The persons in these boxes
            are estimated, and the person detector does not run.
        :param with_uncertain: True to find the poses that only relevance sees, too; see `PoseEngine.find`.
        :raises InvalidImage: the image is broken or not acceptable.
        :raises ModelUnavailable: no model is loaded.
        :raises Busy: the turn would come too late, or a newer image of the stream has arrived.
        """
        self._fail_fast()
        async with self.admission.enter(stream=stream) as ticket:
            run: Run
            if boxes is None:
                run = partial(self._frame, camera_id=camera_id, with_uncertain=with_uncertain)
            else:
                run = partial(_in_boxes, boxes=boxes)
            (estimate,) = _sound(await self._estimate_group([received], ticket, run))
            return estimate

    async def estimate_batch(
        self, received: Sequence[ImageData], *, with_uncertain: bool = False
    ) -> AsyncIterator[Estimate]:
        """Find the poses in several images. Images share inferences; other requests get their turns in between.

        :param with_uncertain: see `estimate`.
        :raises WholebodyError: see `estimate`; raised before any image of the same inference is returned.
        """
        self._fail_fast()
        find = partial(PoseEngine.find, with_uncertain=with_uncertain)
        for start in range(0, len(received), GROUP_IMAGES):
            async with self.admission.enter() as ticket:
                group = _sound(await self._estimate_group(received[start : start + GROUP_IMAGES], ticket, find))
            for estimate in group:
                yield estimate

    async def estimate_bulk(self, received: Sequence[ImageData]) -> list[Estimate | InvalidImage]:
        """Find the poses in a few images with low priority: live requests go first.

        :param received: up to `GROUP_IMAGES` images.
        :return: one item per image, in their order; an error for an image that is broken or not acceptable.
        :raises ModelUnavailable: see `estimate`.
        """
        self._fail_fast()
        async with self.admission.enter(live=False) as ticket:
            return await self._estimate_group(received, ticket, PoseEngine.find)

    def _fail_fast(self) -> None:
        """Refuse the request before its image is decoded if no model is loaded."""
        if not self._is_exchanging():
            self._engine()

    async def _estimate_group(
        self, received: Sequence[ImageData], ticket: Ticket, run: 'Run'
    ) -> list[Estimate | InvalidImage]:
        start = time.perf_counter()
        async with self.decoder.decoded(received, ticket) as decoded:
            group = [image for image in decoded if not isinstance(image, InvalidImage)]
            if not group:
                return [image for image in decoded if isinstance(image, InvalidImage)]
            waiting = time.perf_counter()
            async with self.admission.turn(ticket), self._model(ticket):
                running = time.perf_counter()
                engine = self._engine()
                found = await self._watched(engine, in_this_context(run, engine, group))
            done = time.perf_counter()
        self.admission.took(done - running)
        self._metrics.estimated(
            [one.poses for one in found], queue_seconds=running - waiting, inference_seconds=done - running
        )
        self._metrics.not_answered(
            absent=sum(one.absent for one in found), uncertain=sum(len(one.uncertain) for one in found)
        )
        stages = {
            'decode_ms': waiting - start,
            'wait_ms': running - waiting,
            'inference_ms': (done - running) / len(group),
        }
        timing = {stage: round(1000 * seconds, 2) for stage, seconds in stages.items()}
        self.recent.note(timing, len(group))
        ready = (
            Estimate(image=image, poses=one.poses, package=engine.package, timing=timing, uncertain=one.uncertain)
            for image, one in zip(group, found, strict=True)
        )
        return [image if isinstance(image, InvalidImage) else next(ready) for image in decoded]

    async def _watched(self, engine: PoseEngine, run: Callable[[], list[Found]]) -> list[Found]:
        """Run an inference, and tell the recovery how it ends.

        :raises InferenceFailed: the runtime fails.
        """
        try:
            found = await asyncio.get_running_loop().run_in_executor(self._thread, run)
        except InferenceFailed as error:
            self.forget_streams()
            if self._recovery is not None and self._serves(engine):
                self._recovery.failed(engine.package, error)
            raise
        if self._recovery is not None:
            self._recovery.inferred()
        return found

    def forget_streams(self) -> None:
        """Release the engine that the camera streams use."""
        self._streams = None

    def _serves(self, engine: PoseEngine) -> bool:
        try:
            return self._engine() is engine
        except ModelUnavailable:
            return False

    def _frame(
        self, engine: PoseEngine, group: Sequence[Image], camera_id: str | None, with_uncertain: bool
    ) -> list[Found]:
        interval = self._settings.detection_interval
        if interval == 1 or camera_id is None:
            return engine.find(group, with_uncertain=with_uncertain)
        if self._streams is None or self._streams[0] is not engine:
            self._streams = engine, Streams(engine, interval=interval)
        return [self._streams[1].find(image, camera_id, with_uncertain=with_uncertain) for image in group]

    @asynccontextmanager
    async def _model(self, ticket: Ticket) -> AsyncIterator[None]:
        """Keep the model from being replaced.

        :raises DeadlineExceeded: the model is being replaced, and that takes too long.
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
        """Start no more inferences; a running one is not awaited."""
        self._thread.shutdown(wait=False, cancel_futures=True)


Run = Callable[[PoseEngine, Sequence[Image]], list[Found]]
"""Work on a group of images in the inference thread."""


def _sound(found: Sequence[Estimate | InvalidImage]) -> list[Estimate]:
    """Return the estimates of images that are all sound.

    :raises InvalidImage: one of the images is broken; a copy of its error, whose traceback keeps nothing alive.
    """
    for one in found:
        if isinstance(one, InvalidImage):
            raise type(one)(str(one))
    return [one for one in found if isinstance(one, Estimate)]


def _in_boxes(engine: PoseEngine, group: Sequence[Image], boxes: Callable[[int, int], FloatArray]) -> list[Found]:
    given = [(image, boxes(image.shape[1], image.shape[0])) for image in group]
    queries = [(image, wanted, np.ones(len(wanted), dtype=np.float32)) for image, wanted in given]
    return [engine.sorted_out(poses) for poses in engine.poses_in_boxes(queries)]
