"""The timings of the last minute."""

from unittest.mock import patch

from detector.observability.recent import KEPT_SECONDS, Recent, total

TIMING = {'wait_ms': 1.0, 'decode_ms': 2.0, 'inference_ms': 30.0}


def test_seconds_are_summed_and_gaps_are_there() -> None:
    """There is one entry per complete second, also for seconds without images; the current second is incomplete."""
    recent = Recent()
    with patch('detector.observability.recent.time.monotonic') as now:
        for second, images in ((100.1, 1), (100.9, 3), (103.0, 2)):
            now.return_value = second
            recent.note(TIMING, images)
        assert [second.images for second in recent.seconds(4)] == [0, 4, 0, 0]
        now.return_value = 104.0
        seconds = recent.seconds(4)
    assert [(second.at, second.images) for second in seconds] == [(100, 4), (101, 0), (102, 0), (103, 2)]
    assert seconds[1].mean('wait_ms') is None
    assert seconds[0].mean('inference_ms') == 30
    assert total(seconds).images == 6
    assert total(seconds).mean('decode_ms') == 2


def test_an_hour_takes_no_more_room_than_a_minute() -> None:
    """An hour of images takes as much memory as the seconds that a client can request."""
    recent = Recent()
    with patch('detector.observability.recent.time.monotonic') as now:
        for second in range(3600):
            now.return_value = float(second)
            recent.note(TIMING, 1)
        now.return_value = 3600.0
        seconds = recent.seconds()
    assert len(seconds) == KEPT_SECONDS
    assert {second.images for second in seconds} == {1}
    assert len(recent._seconds) == KEPT_SECONDS + 1
