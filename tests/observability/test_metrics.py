"""The counters and histograms by themselves."""

import numpy as np
import pytest

from detector.errors import Busy, DeadlineExceeded, InvalidRequest, ModelUnavailable, OutboxFault
from detector.observability.metrics import Metrics, outcome_of, status_of
from detector.observability.request_context import RequestContext
from detector.pose.pose import Pose
from detector.pose.skeleton import PARTS
from tests.support.scrapes import Scrape


def pose(**confidences: float) -> Pose:
    """Return a pose whose parts have these confidences, and 0 elsewhere."""
    values = np.zeros(133, dtype=np.float32)
    for part in PARTS:
        values[part.slice] = confidences.get(part.name, 0)
    return Pose(
        box=np.array([0, 0, 10, 10], dtype=np.float32),
        box_confidence=0.9,
        keypoints=np.zeros((133, 2), dtype=np.float32),
        confidences=values,
    )


def test_nodes_do_not_share_their_metrics() -> None:
    """Each of several nodes in a process counts for itself."""
    one, other = Metrics(), Metrics()
    one.switched('ok')
    assert Scrape.of_registry(one.registry).total('wholebody_model_switches_total') == 1
    assert Scrape.of_registry(other.registry).total('wholebody_model_switches_total') == 0


def test_images_persons_and_parts_are_counted() -> None:
    """Each image counts once, each person's parts count with their mean confidence, and a group shares its time."""
    metrics = Metrics()
    found = [[pose(body=0.85, face=0.25), pose(body=0.15)], []]
    metrics.estimated(found, queue_seconds=0.2, inference_seconds=0.6)
    scrape = Scrape.of_registry(metrics.registry)
    assert scrape.total('wholebody_images_total') == 2
    assert scrape.total('wholebody_persons_count') == 2
    assert scrape.total('wholebody_persons_sum') == 2
    assert scrape.total('wholebody_queue_seconds_sum') == pytest.approx(0.4)
    assert scrape.total('wholebody_inference_seconds_count') == 2
    assert scrape.total('wholebody_inference_seconds_sum') == pytest.approx(0.6)
    assert scrape.by('wholebody_confidence_count', 'part') == {(part.name,): 2 for part in PARTS}
    assert scrape.total('wholebody_confidence_sum', part='body') == pytest.approx(1.0)
    assert scrape.total('wholebody_confidence_bucket', part='face', le='0.3') == 2
    assert scrape.total('wholebody_confidence_bucket', part='face', le='0.2') == 1


def test_boxes_that_are_not_answered_are_counted() -> None:
    """Boxes without a present keypoint and boxes that only relevance judges are counted separately."""
    metrics = Metrics()
    metrics.not_answered(absent=2, uncertain=3)
    metrics.not_answered(absent=0, uncertain=1)
    scrape = Scrape.of_registry(metrics.registry)
    assert scrape.total('wholebody_boxes_without_keypoints_total') == 2
    assert scrape.total('wholebody_uncertain_boxes_total') == 4


@pytest.mark.parametrize(
    ('error', 'outcome', 'reason'),
    [
        (None, 'ok', None),
        (Busy('full', retry_after=1), 'refused', 'queue_full'),
        (Busy('newer', retry_after=0, reason='replaced'), 'refused', 'replaced'),
        (DeadlineExceeded('late', retry_after=1), 'refused', 'deadline'),
        (ModelUnavailable('none'), 'refused', 'no_model'),
        (InvalidRequest('field'), 'refused', 'invalid'),
        (OutboxFault('disk'), 'refused', 'outbox_full'),
        (ZeroDivisionError('bug'), 'failed', None),
    ],
)
def test_outcomes_and_reasons(error: Exception | None, outcome: str, reason: str | None) -> None:
    """Intended refusals have one reason each; faults of the node have failed."""
    metrics = Metrics()
    context = RequestContext(request_id='x', error=error)
    assert metrics.request_ended('/detect', context, status=status_of(error), seconds=0.1) == outcome
    scrape = Scrape.of_registry(metrics.registry)
    assert scrape.by('wholebody_requests_total', 'route', 'outcome') == {('/detect', outcome): 1}
    assert scrape.by('wholebody_refused_total', 'reason') == ({} if reason is None else {(reason,): 1})
    assert scrape.total('wholebody_request_seconds_count', route='/detect') == 1
    assert scrape.total('wholebody_encode_seconds_count') == 0


def test_statuses() -> None:
    """500 is a fault of the node; 502, 503 and 507 are intended answers."""
    assert [outcome_of(status) for status in (200, 204, 307, 400, 413, 418, 500, 502, 503, 507)] == [
        'ok', 'ok', 'ok', 'refused', 'refused', 'refused', 'failed', 'refused', 'refused', 'refused',
    ]  # fmt: skip


def test_fetches_have_times_unless_they_are_refused() -> None:
    """The time of a refused address would distort the histogram."""
    metrics = Metrics()
    for outcome in ('ok', 'failed', 'refused'):
        metrics.fetched(outcome, 0.5)
    scrape = Scrape.of_registry(metrics.registry)
    assert scrape.total('wholebody_label_studio_fetches_total') == 3
    assert scrape.total('wholebody_label_studio_fetch_seconds_count') == 2


def test_the_process_is_watched() -> None:
    """Memory, processor time, file handles and start time are exported."""
    names = Scrape.of_registry(Metrics().registry).names
    assert {
        'process_resident_memory_bytes', 'process_cpu_seconds_total', 'process_open_fds', 'process_start_time_seconds',
    } <= names  # fmt: skip
