"""Measures how late the event loop runs its callbacks."""

import asyncio
import time
from typing import Final

from .metrics import Metrics

_INTERVAL_SECONDS: Final = 0.5
"""Interval between two measurements, in seconds."""


class EventLoopLag:
    """Measures the delay of the event loop."""

    def __init__(self, metrics: Metrics) -> None:
        self._metrics = metrics
        self._task: asyncio.Task[None] | None = None

    def start(self) -> None:
        if self._task is None:
            self._task = asyncio.create_task(self._measure(), name='event loop lag')

    def stop(self) -> None:
        if self._task is not None:
            self._task.cancel()
            self._task = None

    async def _measure(self) -> None:
        while True:
            due = time.perf_counter() + _INTERVAL_SECONDS
            await asyncio.sleep(_INTERVAL_SECONDS)
            self._metrics.lagged(max(0.0, time.perf_counter() - due))
