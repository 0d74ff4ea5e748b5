"""Throughput and stage times of the last minute, by second, for the page."""

import time
from collections import deque
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Final

KEPT_SECONDS: Final = 60
STAGES: Final = ('wait_ms', 'decode_ms', 'inference_ms')


@dataclass(slots=True)
class Second:
    """One second of the node's work.

    :param at: seconds of the monotonic clock.
    :param images: number of images processed in it.
    :param milliseconds: sums over these images, by stage.
    """

    at: int
    images: int = 0
    milliseconds: dict[str, float] = field(default_factory=lambda: dict.fromkeys(STAGES, 0.0))

    def mean(self, stage: str) -> float | None:
        """Milliseconds per image; None if there was no image."""
        return self.milliseconds[stage] / self.images if self.images else None


class Recent:
    """Sums per second over the last minute; their memory does not depend on the number of images."""

    def __init__(self) -> None:
        self._seconds: deque[Second] = deque(maxlen=KEPT_SECONDS + 1)

    def note(self, timing: Mapping[str, float], images: int) -> None:
        """Add processed images.

        :param timing: milliseconds per image by stage, as in `Estimate`.
        :param images: number of images.
        """
        now = int(time.monotonic())
        if not self._seconds or self._seconds[-1].at != now:
            self._seconds.append(Second(now))
        second = self._seconds[-1]
        second.images += images
        for stage in STAGES:
            second.milliseconds[stage] += images * timing[stage]

    def seconds(self, count: int = KEPT_SECONDS) -> list[Second]:
        """Return the last complete seconds, oldest first, including those without an image."""
        now = int(time.monotonic())
        known = {second.at: second for second in self._seconds}
        return [known.get(at) or Second(at) for at in range(now - count, now)]


def total(seconds: list[Second]) -> Second:
    """Return the sum of several seconds."""
    return Second(
        at=seconds[0].at if seconds else 0,
        images=sum(second.images for second in seconds),
        milliseconds={stage: sum(second.milliseconds[stage] for second in seconds) for stage in STAGES},
    )
