"""End a node: running requests finish while uploads and model updates stop; then the connections close (server.py);
then the remaining parts end.
"""

import asyncio
import logging

import socketio

from .parts import Parts

log = logging.getLogger('wholebody.node')

_MIN_SECONDS = 0.1
"""Time that the parts get even if the requests have used up the budget, in seconds."""


class NodeShutdown:
    """Ends the parts of a node within the time limits of the budget; `server` ends the process if they are late."""

    def __init__(self, parts: Parts, sio: socketio.AsyncServer) -> None:
        self.budget = parts.shutdown_budget
        self._parts = parts
        self._sio = sio
        self._drain = parts.drain

    async def finish_requests(self) -> None:
        """Wait for running requests. Meanwhile stop uploads and model updates."""
        self._drain.begin()
        self._parts.label_studio.preannotator.end_by(self._drain.deadline(self.budget.requests / 2))
        stopping = asyncio.create_task(self._stop_background())
        await self._drain.finish()
        if not stopping.done():
            log.debug('the outbox or the model is still being stopped')

    async def end_parts(self) -> None:
        """End the other parts. Images that are being saved reach the disk unless it stalls."""
        self._drain.begin()
        ends = [
            self._stop_background(),
            self._parts.label_studio.close(),
            self._sio.shutdown(),
            self._parts.collector.close(seconds=self.budget.saving),
        ]
        seconds = max(_MIN_SECONDS, min(self.budget.parts, self.budget.orderly - self._drain.seconds))
        done, late = await asyncio.wait([asyncio.create_task(end) for end in ends], timeout=seconds)
        for task in done:
            if (error := task.exception()) is not None:
                log.error('a part of the node failed to stop', exc_info=error)
        if late:
            log.warning('not all parts ended within %.1f seconds; the disk may be stalled', seconds)
        self._parts.inference.close()
        text = 'shut down in %.1f s; %s; %d images wait in the outbox'
        log.info(text, self._drain.seconds, self._drain.report(), self._parts.outbox.count)

    async def _stop_background(self) -> None:
        await asyncio.gather(
            self._parts.first.stop(),
            self._parts.pull.stop(),
            self._parts.serving.stop(),
            self._parts.updates.stop(),
            self._parts.outbox.close(seconds=self.budget.upload),
        )
