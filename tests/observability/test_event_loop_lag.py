"""The delay of the event loop."""

import asyncio
import time

from detector.observability.event_loop_lag import EventLoopLag
from detector.observability.metrics import Metrics
from tests.support.scrapes import Scrape


async def test_a_late_event_loop_is_measured() -> None:
    """An event loop that is blocked for a quarter of a second appears in the histogram."""
    metrics = Metrics()
    lag = EventLoopLag(metrics)
    lag.start()
    lag.start()
    await asyncio.sleep(0.4)
    time.sleep(0.4)  # spans the measurement that is due at 0.5 s
    await asyncio.sleep(0.05)
    lag.stop()
    scrape = Scrape.of_registry(metrics.registry)
    assert scrape.total('wholebody_event_loop_lag_seconds_count') >= 1
    assert scrape.total('wholebody_event_loop_lag_seconds_sum') > 0.2
