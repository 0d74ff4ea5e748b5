"""Ends a node in order: first the requests, then the outbox and the other parts."""

import asyncio
import logging
from dataclasses import dataclass

import socketio

from detector.api.middleware.drain import Drain
from detector.loop.model_updates import ModelUpdater
from detector.ls_adapter import LabelStudioBackend
from detector.outbox.collector import Collector
from detector.outbox.outbox import Outbox
from detector.serving.inference import Inference
from detector.serving.model_serving import ModelServing
from detector.system.shutdown_budget import ShutdownBudget

log = logging.getLogger('wholebody.node')

_MIN_SECONDS = 0.1
"""Time that the parts get even if the requests have used up the budget, in seconds."""


@dataclass(frozen=True, slots=True, kw_only=True)
class NodeShutdown:
    """Ends the parts of a node within the time limits of the budget; `server` ends the process if they are late."""

    budget: ShutdownBudget
    drain: Drain
    serving: ModelServing
    updates: ModelUpdater
    inference: Inference
    outbox: Outbox
    collector: Collector
    label_studio: LabelStudioBackend
    sio: socketio.AsyncServer

    async def finish_requests(self) -> None:
        """Wait for running requests. Meanwhile stop uploads and model updates."""
        self.drain.begin()
        self.label_studio.preannotator.end_by(self.drain.deadline(self.budget.requests / 2))
        stopping = asyncio.create_task(self._stop_background())
        await self.drain.finish()
        if not stopping.done():
            log.debug('the outbox or the model is still being stopped')

    async def end_parts(self) -> None:
        """End the other parts; images on their way to the disk arrive unless the disk stalls."""
        self.drain.begin()
        ends = [
            self._stop_background(),
            self.label_studio.close(),
            self.sio.shutdown(),
            self.collector.close(seconds=self.budget.saving),
        ]
        seconds = max(_MIN_SECONDS, min(self.budget.parts, self.budget.orderly - self.drain.seconds))
        done, late = await asyncio.wait([asyncio.create_task(end) for end in ends], timeout=seconds)
        for task in done:
            if (error := task.exception()) is not None:
                log.error('a part of the node failed to end', exc_info=error)
        if late:
            log.warning('not all parts ended within %.1f seconds; the disk may be stalled', seconds)
        self.inference.close()
        log.info(
            'ended in %.1f s; %s; %d images wait in the outbox',
            self.drain.seconds,
            self.drain.report(),
            self.outbox.count,
        )

    async def _stop_background(self) -> None:
        await asyncio.gather(self.serving.stop(), self.updates.stop(), self.outbox.close(seconds=self.budget.upload))
