"""The metrics that are not counted as events happen, but read from the node at a scrape."""

from collections.abc import Callable, Iterable
from typing import Any, Final

from prometheus_client import Metric
from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, InfoMetricFamily
from prometheus_client.registry import Collector

from detector.errors import ModelUnavailable
from detector.outbox.outbox import Outbox
from detector.serving.admission import Admission
from detector.serving.model_serving import ModelServing

_OUTBOX_COUNTERS: Final = {
    'found': ('found', 'Images in the outbox at the start'),
    'saved': ('saved', 'Accepted images'),
    'sent': ('uploaded', 'Images that the Learning Loop has taken'),
    'failed': ('failed', 'Images that could not be stored'),
    'dropped': ('dropped', 'Images of normal priority that were dropped to keep the limits'),
    'quarantined': ('set_aside', 'Images that were set aside: refused by the Learning Loop, or incomplete'),
    'vanished': ('vanished', 'Images that another program has removed'),
}
"""Key in the outbox's `about` and description, by name of the metric."""
_CORRECTIONS: Final = {
    'sent': 'sent',
    'given_up': 'given up',
    'missed': 'reported by no webhook, but found later',
}
"""What has happened to the annotations that a metric counts, by its name."""


class StateMetrics(Collector):
    """Reads metrics from the parts of the node at each scrape.

    :param admission: queue of the engine.
    :param corrections: returns the counters of the corrections, or None if none are taken.
    :param clients: returns the number of Socket.IO clients.
    """

    def __init__(
        self,
        *,
        serving: ModelServing,
        outbox: Outbox,
        admission: Admission,
        corrections: Callable[[], dict[str, Any] | None],
        clients: Callable[[], int],
    ) -> None:
        self._serving = serving
        self._outbox_state = outbox
        self._admission = admission
        self._corrections_state = corrections
        self._clients = clients

    def describe(self) -> Iterable[Metric]:
        """Announce no metrics, so that registering does not read the unfinished node."""
        return ()

    def collect(self) -> Iterable[Metric]:
        yield from self._model()
        yield from self._outbox()
        yield from self._corrections()
        clients = self._clients()
        yield GaugeMetricFamily('wholebody_connected_clients', 'Connected Socket.IO clients', value=clients)
        present = self._admission.present
        yield GaugeMetricFamily(
            'wholebody_requests_present', 'Requests that wait for the engine or use it', value=present
        )

    def _model(self) -> Iterable[Metric]:
        info = InfoMetricFamily('wholebody_model', 'The active model')
        try:
            model = self._serving.active()
        except ModelUnavailable:
            yield GaugeMetricFamily('wholebody_ready', '1 if a model is loaded, else 0', value=0)
        else:
            package = model.package
            info.add_metric([], {'name': package.name, 'version': package.version, 'runtime': model.engine.runtime})
            yield GaugeMetricFamily('wholebody_ready', '1 if a model is loaded, else 0', value=1)
        yield info

    def _outbox(self) -> Iterable[Metric]:
        about = self._outbox_state.about()
        waiting, high = about.get('waiting', 0), about.get('waiting_priority', 0)
        images = GaugeMetricFamily('wholebody_outbox_images', 'Images that wait in the outbox', labels=['priority'])
        images.add_metric(['high'], high)
        images.add_metric(['normal'], waiting - high)
        yield images
        yield GaugeMetricFamily('wholebody_outbox_bytes', 'Size of the waiting images', value=about.get('bytes', 0))
        for name, (counter, documentation) in _OUTBOX_COUNTERS.items():
            yield CounterMetricFamily(f'wholebody_outbox_{name}', documentation, value=about.get(counter, 0))

    def _corrections(self) -> Iterable[Metric]:
        try:
            about = self._corrections_state() or {}
        except OSError:  # the disk of the queue fails; the other metrics matter all the more
            return
        waiting = about.get('waiting', 0)
        yield GaugeMetricFamily('wholebody_corrections_waiting', 'Annotations that wait to be processed', value=waiting)
        for name, what in _CORRECTIONS.items():
            documentation = f'Annotations that were {what} since the data folder was created'
            yield CounterMetricFamily(f'wholebody_corrections_{name}', documentation, value=about.get(name, 0))
