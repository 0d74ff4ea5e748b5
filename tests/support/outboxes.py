"""Outboxes for tests."""

import ssl
from pathlib import Path

from detector.outbox.outbox import Outbox
from detector.outbox.posting import LoopPoster
from detector.outbox.queue import OutboxQueue


def make_outbox(folder: Path, url: str, *, interval: float = 0.02) -> Outbox:
    queue = OutboxQueue(folder, max_images=1000, max_bytes=10**9)
    return Outbox(queue, LoopPoster(url, ssl.create_default_context()), interval=interval)
