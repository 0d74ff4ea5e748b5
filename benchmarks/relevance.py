"""Compare the cost of our relevance with that of upstream's filter, in one run.

    uv run python -m benchmarks.relevance [--minutes 60]

A person with swinging arms and legs walks through a 1920×1080 picture, 12 pixels per frame, at 10 frames a second of
simulated time. The model is uncertain of a hand. Upstream's filter gets the same poses in the Loop's form. It stops
after a fixed real time, since its cost grows with the number of frames. The figures are medians over frames. The frames
of both filters alternate, so that a busy machine slows both.
"""

import argparse
import asyncio
import os
import tempfile
import time
from collections.abc import Iterator
from datetime import datetime, timedelta, tzinfo
from pathlib import Path
from statistics import median
from unittest.mock import patch

import numpy as np
from learning_loop_node.data_classes import ImageMetadata
from learning_loop_node.detector.outbox import Outbox
from learning_loop_node.helpers.misc import ImageData

from detector.loop.metadata import to_metadata
from detector.loop.upstream import apply_settings
from detector.models.embedded import EMBEDDED_PACKAGE
from detector.models.package import unpack_package
from detector.outbox.relevance import Relevance
from detector.pose.pose import Pose
from detector.pose.skeleton import KEYPOINT_COUNT, PART_BY_NAME
from detector.settings import Settings
from mock.test_card.cards import PANEL_HEIGHT, PANEL_WIDTH, layout

SIZE = (1920, 1080)
FRAMES_PER_SECOND = 10
PIXELS_PER_FRAME = 12
PERSON = np.array([300.0, 600.0])
UPSTREAM_SECONDS = 120.0
"""Real time for upstream's filter, in seconds."""


def walk(frames: int) -> Iterator[Pose]:
    """Yield the poses of a person who walks to and fro, a little lower each time, with a noise of 1 pixel."""
    rng = np.random.default_rng(0)
    standing = layout() / (PANEL_WIDTH, PANEL_HEIGHT) * PERSON
    way = SIZE[0] - PERSON[0]
    confidences = np.full(KEYPOINT_COUNT, 0.9, dtype=np.float32)
    confidences[PART_BY_NAME['left_hand'].slice] = 0.45
    for frame in range(frames):
        walked = frame * PIXELS_PER_FRAME
        lap, along = divmod(walked, way)
        x = along if lap % 2 == 0 else way - along
        y = (lap * 37) % (SIZE[1] - PERSON[1])
        swing = 20 * np.sin(2 * np.pi * frame / FRAMES_PER_SECOND) * np.linspace(-1, 1, KEYPOINT_COUNT)[:, None]
        keypoints = standing + np.array([x, y]) + swing + rng.normal(0, 1, (KEYPOINT_COUNT, 2))
        yield Pose(
            box=np.array([x, y, x + PERSON[0], y + PERSON[1]], dtype=np.float32),
            box_confidence=0.9,
            keypoints=np.clip(keypoints, 0, np.array(SIZE) - 1).astype(np.float32),
            confidences=confidences,
        )


class _Ours:
    def __init__(self) -> None:
        self._now = 0.0
        self._relevance = Relevance(min_uncertain=0.3, max_uncertain=0.6, clock=lambda: self._now)
        self.seconds: list[float] = []
        self.relevant = 0

    def judge(self, pose: Pose) -> None:
        self._now += 1 / FRAMES_PER_SECOND
        start = time.perf_counter()
        verdict = self._relevance.judge([pose], size=SIZE, camera_id='camera')
        self.seconds.append(time.perf_counter() - start)
        self.relevant += bool(verdict.tags)


class _Upstream:
    """Filter of learning_loop_node, with an outbox that stores nothing and a simulated clock."""

    def __init__(self, folder: Path) -> None:
        from learning_loop_node.detector.inbox_filter.relevance_filter import RelevanceFilter

        self._package = unpack_package(EMBEDDED_PACKAGE, folder)
        self._filter = RelevanceFilter(_NoStore())
        self._loop = asyncio.new_event_loop()
        self.seconds: list[float] = []
        self.relevant = 0

    def judge(self, pose: Pose) -> None:
        _SimulatedTime.current += timedelta(seconds=1 / FRAMES_PER_SECOND)
        metadata = to_metadata([pose], self._package)
        start = time.perf_counter()
        causes = self._loop.run_until_complete(self._filter.may_upload_detections(metadata, 'camera', b''))
        self.seconds.append(time.perf_counter() - start)
        self.relevant += bool(causes)


class _SimulatedTime(datetime):
    """Replacement for `datetime` in upstream's module of observations."""

    current = datetime(2026, 1, 1)

    @classmethod
    def now(cls, tz: tzinfo | None = None) -> 'datetime':  # type: ignore[override]
        return cls.current


class _NoStore(Outbox):
    def __init__(self) -> None:
        """Create no folder and read no environment."""

    async def save(
        self, image: ImageData, image_metadata: ImageMetadata | None = None, upload_priority: bool = False
    ) -> None:
        pass


def report(name: str, seconds: list[float], relevant: int) -> None:
    """Print frames, relevant frames, milliseconds per frame in the first and last minute, and their ratio."""
    minute = 60 * FRAMES_PER_SECOND
    first, last = (1000 * median(part) for part in (seconds[:minute], seconds[-minute:]))
    print(
        f'{name:9} {len(seconds):6} frames, {relevant:6} relevant; per frame {first:8.3f} ms in the first minute, '
        f'{last:8.3f} ms in the last: × {last / first:.2f}'
    )


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.partition('\n')[0])
    parser.add_argument('--minutes', type=int, default=60)
    frames = parser.parse_args().minutes * 60 * FRAMES_PER_SECOND
    with (
        tempfile.TemporaryDirectory() as folder,
        patch.dict(os.environ),
        patch('learning_loop_node.data_classes.detections.datetime', _SimulatedTime),
    ):
        apply_settings(Settings(data_folder=Path(folder)))
        ours, upstream = _Ours(), _Upstream(Path(folder))
        for pose in walk(frames):
            ours.judge(pose)
            if sum(upstream.seconds) < UPSTREAM_SECONDS:
                upstream.judge(pose)
    report('ours', ours.seconds, ours.relevant)
    report('upstream', upstream.seconds, upstream.relevant)
    compared = len(upstream.seconds)
    if compared < frames:
        last = 1000 * upstream.seconds[-1]
        print(
            f'upstream was stopped after {compared / 60 / FRAMES_PER_SECOND:.1f} minutes; its last frame: {last:.0f} ms'
        )
    ratio = sum(upstream.seconds) / sum(ours.seconds[:compared])
    print(f'over the frames that both have seen, upstream takes {ratio:.0f} times as long')


if __name__ == '__main__':
    main()
