"""Frames of a camera between two runs of the person detector."""

from collections.abc import Callable, Sequence

import numpy as np
import pytest

from benchmarks.support.cards import assert_read, make_card
from detector.engine import streams as streams_module
from detector.engine.pose_engine import EngineOptions, PoseEngine
from detector.engine.streams import Streams
from detector.models.package import ModelPackage
from detector.pose.images import Image
from mock.test_card.cards import Figure


class Counting:
    """Counts the runs of an engine's detector."""

    def __init__(self, engine: PoseEngine, monkeypatch: pytest.MonkeyPatch) -> None:
        self.detections = 0
        detect = engine.detector.detect

        def counting(image: Image, **options: bool) -> object:
            self.detections += 1
            return detect(image, **options)

        monkeypatch.setattr(engine.detector, 'detect', counting)


@pytest.fixture
def counter(engine: PoseEngine, monkeypatch: pytest.MonkeyPatch) -> Counting:
    return Counting(engine, monkeypatch)


def frame(*figures: Figure, width: int = 1000, height: int = 600) -> Image:
    return make_card(figures, width=width, height=height)


def walk(streams: Streams, figures: Sequence[Figure], camera_id: str = 'c') -> None:
    """Process frames of one figure each, and check that all are read correctly."""
    for figure in figures:
        assert_read(streams.find(frame(figure), camera_id).poses, [figure])


def test_the_detector_runs_on_every_nth_frame(engine: PoseEngine, counter: Counting) -> None:
    """Box and keypoints of a walking figure are correct to the pixel in all frames."""
    streams = Streams(engine, interval=5)
    walk(streams, [Figure(x=50 + 6 * step, y=40 + 2 * step, height=420) for step in range(20)])
    assert counter.detections == 4


def test_two_persons_are_followed(engine: PoseEngine, counter: Counting) -> None:
    """Two persons that move differently are followed with one detection."""
    streams = Streams(engine, interval=10)
    for step in range(10):
        figures = [Figure(x=30 + 5 * step, y=40, height=420), Figure(x=600 - 3 * step, y=100, height=330 + 2 * step)]
        assert_read(streams.find(frame(*figures), 'c').poses, figures)
    assert counter.detections == 1


def test_a_person_who_leaves_is_noticed_at_once(engine: PoseEngine, counter: Counting) -> None:
    """An empty frame gives no pose, and a person who returns is found in the first frame."""
    streams = Streams(engine, interval=100)
    figure = Figure(x=50, y=40, height=420)
    walk(streams, [figure, figure])
    assert streams.find(frame(), 'c').poses == []
    assert streams.find(frame(), 'c').poses == []
    walk(streams, [Figure(x=500, y=40, height=420)])
    assert counter.detections == 4


def test_one_of_two_who_leaves_is_noticed_at_once(engine: PoseEngine, counter: Counting) -> None:
    """When one of two persons leaves, the other one stays."""
    streams = Streams(engine, interval=100)
    pair = [Figure(x=30, y=40, height=420), Figure(x=600, y=100, height=330)]
    assert_read(streams.find(frame(*pair), 'c').poses, pair)
    assert_read(streams.find(frame(pair[0]), 'c').poses, pair[:1])
    assert counter.detections == 2


def test_a_newcomer_is_found_within_the_interval(engine: PoseEngine) -> None:
    """A new person is found at the next run of the detector."""
    streams = Streams(engine, interval=3)
    pair = [Figure(x=30, y=40, height=420), Figure(x=600, y=100, height=330)]
    counts = [
        len(streams.find(frame(pair[0]), 'c').poses),
        *(len(streams.find(frame(*pair), 'c').poses) for _ in range(3)),
    ]
    assert counts[0] == 1
    assert counts[-1] == 2


@pytest.mark.parametrize('change', ['scene', 'size', 'jump'])
def test_a_changed_picture_is_detected_again(engine: PoseEngine, counter: Counting, change: str) -> None:
    """The detector runs after a change of background or frame size, or a jump of the person."""
    streams = Streams(engine, interval=100)
    figure = Figure(x=50, y=40, height=420)
    walk(streams, [figure])
    frames: dict[str, Callable[[], Image]] = {
        'scene': lambda: np.where(frame(figure) == 200, 90, frame(figure)).astype(np.uint8),
        'size': lambda: frame(figure, width=900),
        'jump': lambda: frame(Figure(x=600, y=100, height=420)),
    }
    after = frames[change]()
    expected = Figure(x=600, y=100, height=420) if change == 'jump' else figure
    assert_read(streams.find(after, 'c').poses, [expected])
    assert counter.detections == 2


def test_cameras_are_independent_and_bounded(
    engine: PoseEngine, counter: Counting, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Each camera has its own persons, and the least recently used camera is dropped."""
    monkeypatch.setattr(streams_module, 'MAX_STREAMS', 4)
    streams = Streams(engine, interval=100)
    left, right = Figure(x=50, y=40, height=420), Figure(x=600, y=40, height=420)
    for _ in range(3):
        walk(streams, [left], 'left')
        walk(streams, [right], 'right')
    assert counter.detections == 2
    for number in range(8):
        streams.find(frame(width=64, height=64), f'{number}')
    assert len(streams._streams) == 4
    walk(streams, [left], 'left')
    assert counter.detections == 3 + 8


def test_uncertain_persons_are_found_when_the_detector_runs(embedded: ModelPackage) -> None:
    """Persons below the threshold are not followed: they are found in the frames in which the detector runs."""
    engine = PoseEngine(embedded, EngineOptions(person_threshold=0.99, max_uncertain_threshold=0.98))
    streams = Streams(engine, interval=3)
    for _ in range(2):
        found = streams.find(frame(Figure(x=50, y=40, height=420)), 'c', with_uncertain=True)
        assert found.poses == []
        assert_read(found.uncertain, [Figure(x=50, y=40, height=420)])
    assert streams.find(frame(Figure(x=50, y=40, height=420)), 'c').uncertain == []


def test_an_interval_of_one_detects_always(engine: PoseEngine, counter: Counting) -> None:
    """With an interval of 1, the default, the detector runs on every frame."""
    streams = Streams(engine, interval=1)
    walk(streams, 3 * [Figure(x=50, y=40, height=420)])
    assert counter.detections == 3
