"""The metrics that a scrape reads from the parts of a node."""

from pathlib import Path
from typing import Any, cast

from prometheus_client import CollectorRegistry

from detector.errors import ModelUnavailable
from detector.node.state_metrics import StateMetrics
from detector.outbox.outbox import NoOutbox, Outbox
from detector.outbox.queue import OutboxQueue
from detector.serving.admission import Admission
from detector.serving.model_serving import ModelServing
from tests.support.scrapes import Scrape


class NoModel:
    """A node on which no model is loaded."""

    def active(self) -> None:
        raise ModelUnavailable('no model')


def scrape(outbox: Outbox, corrections: Any) -> Scrape:
    """Register the metrics of a node without a model, and scrape them."""
    registry = CollectorRegistry()
    registry.register(
        StateMetrics(
            serving=cast('ModelServing', NoModel()),
            outbox=outbox,
            admission=Admission(max_waiting=1, deadline=1),
            corrections=corrections,
            clients=lambda: 3,
        )
    )
    return Scrape.of_registry(registry)


def failing() -> dict[str, Any]:
    raise OSError('disk')


def test_without_model_and_loop_all_states_are_zero() -> None:
    """Without a model or a Loop all series exist and are zero."""
    found = scrape(NoOutbox(), lambda: None)
    assert found.total('wholebody_ready') == 0
    assert found.total('wholebody_connected_clients') == 3
    assert {'wholebody_outbox_images', 'wholebody_outbox_bytes', 'wholebody_outbox_sent_total'} <= found.names
    assert found.total('wholebody_outbox_images') == 0
    assert found.total('wholebody_corrections_waiting') == 0


def test_waiting_images_are_counted_by_priority(tmp_path: Path) -> None:
    """The metrics of both priorities add up to the waiting images, and the counters are those of the queue."""
    queue = OutboxQueue(tmp_path, max_images=10, max_bytes=1000)
    for priority in (True, False, False):
        queue.save(b'jpeg', b'{}', priority=priority)
    found = scrape(Outbox(queue, cast('Any', None), interval=1), lambda: {'waiting': 2, 'sent': 5})
    assert found.by('wholebody_outbox_images', 'priority') == {('high',): 1, ('normal',): 2}
    assert found.total('wholebody_outbox_bytes') == 18
    assert found.total('wholebody_outbox_saved_total') == 3
    assert found.total('wholebody_corrections_waiting') == 2
    assert found.total('wholebody_corrections_sent_total') == 5


def test_a_failing_disk_of_the_corrections_hides_no_other_metric() -> None:
    """If the database of the corrections fails, only their series are missing."""
    found = scrape(NoOutbox(), failing)
    assert 'wholebody_ready' in found.names
    assert 'wholebody_requests_present' in found.names
    assert not any(name.startswith('wholebody_corrections') for name in found.names)
