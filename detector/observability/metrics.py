"""The counters and histograms of a node, for Prometheus.

Labels come from fixed sets only, never from images, cameras, callers or credentials. All times are in seconds.
"""

from collections.abc import Callable, Sequence
from http import HTTPStatus
from typing import Final

import numpy as np
from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram, ProcessCollector, disable_created_metrics

from detector.errors import Busy, InferenceFailed, WholebodyError
from detector.pose.pose import Pose
from detector.pose.skeleton import PARTS

from .request_context import RequestContext

disable_created_metrics()  # a second series per counter, which no dashboard uses

_STAGE_SECONDS: Final = (0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0)
_REQUEST_SECONDS: Final = (0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 30.0, 100.0)
_LAG_SECONDS: Final = (0.001, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0)
_PERSONS: Final = (0, 1, 2, 3, 4, 5, 7, 10, 15, 20, 30, 50)
_CONFIDENCES: Final = tuple(round(0.1 * step, 1) for step in range(1, 10))

_PART_STARTS: Final = [part.start for part in PARTS]
_PART_SIZES: Final = [len(part.indices) for part in PARTS]

ENDS: Final = ('header', 'idle', 'unread', 'number')
"""Reasons for which the node ends a connection."""
CLIENT_GONE: Final = 499
"""Status of a request whose client disconnected before the answer."""
_REASONS: Final = {
    400: 'bad_request',
    401: 'unauthorized',
    403: 'forbidden',
    404: 'not_found',
    405: 'method',
    408: 'too_slow',
    409: 'no_loop',
    413: 'too_large',
    415: 'image_format',
    422: 'invalid',
    429: 'too_many',
    CLIENT_GONE: 'caller_gone',
    502: 'no_answer',
    503: 'no_model',
    507: 'outbox_full',
}


class Metrics:
    """The metrics of one node, in a registry of their own."""

    def __init__(self) -> None:
        self.registry = registry = CollectorRegistry()
        ProcessCollector(registry=registry)
        self._requests = Counter(
            'wholebody_requests',
            'Answered requests and Socket.IO events',
            ['route', 'outcome'],
            registry=registry,
        )
        self._request_seconds = Histogram(
            'wholebody_request_seconds',
            'Time from the arrival of a request to its answer',
            ['route'],
            buckets=_REQUEST_SECONDS,
            registry=registry,
        )
        self._refused = Counter('wholebody_refused', 'Refused requests and events', ['reason'], registry=registry)
        self._images = Counter('wholebody_images', 'Images that were searched for persons', registry=registry)
        self._queue = self._stage('queue', 'Waiting time from the decoded image to its turn, per image')
        self._decode = self._stage('decode', 'Decoding time of an image file')
        self._inference = self._stage('inference', 'Inference time per image: an equal share of the time of its group')
        self._encode = self._stage('encode', 'Encoding time of an answer with poses')
        self._persons = Histogram('wholebody_persons', 'Persons per image', buckets=_PERSONS, registry=registry)
        self._absent = Counter(
            'wholebody_boxes_without_keypoints', 'Boxes that are no person: no keypoint is present', registry=registry
        )
        self._uncertain = Counter(
            'wholebody_uncertain_boxes', 'Boxes below the threshold whose pose relevance judged', registry=registry
        )
        self._confidence = Histogram(
            'wholebody_confidence',
            "Mean confidence of a part's keypoints, per person",
            ['part'],
            buckets=_CONFIDENCES,
            registry=registry,
        )
        self._switches = Counter(
            'wholebody_model_switches', 'Attempts to switch to another model', ['outcome'], registry=registry
        )
        self._fetches = Counter(
            'wholebody_label_studio_fetches', 'Fetched images of Label Studio tasks', ['outcome'], registry=registry
        )
        self._fetch_seconds = self._stage('label_studio_fetch', 'Fetching time of an image of a Label Studio task')
        self._lag = Histogram(
            'wholebody_event_loop_lag_seconds',
            'Delay of the event loop, sampled twice a second',
            buckets=_LAG_SECONDS,
            registry=registry,
        )
        self._ended = Counter(
            'wholebody_connections_ended', 'Connections that the node ended for a limit', ['reason'], registry=registry
        )
        self._connections = Gauge('wholebody_connections', 'Open connections', registry=registry)
        self._parts = [self._confidence.labels(part.name) for part in PARTS]
        others = ('runtime_fails', 'queue_full', 'memory', 'deadline', 'replaced', 'ending', 'other')
        for reason in (*_REASONS.values(), *others):
            self._refused.labels(reason)  # creates the series, so that a rate exists before the first refusal
        for reason in ENDS:
            self._ended.labels(reason)
        for outcome in ('ok', 'failed', 'refused'):
            self._switches.labels(outcome)
            self._fetches.labels(outcome)

    def _stage(self, name: str, documentation: str) -> Histogram:
        return Histogram(f'wholebody_{name}_seconds', documentation, buckets=_STAGE_SECONDS, registry=self.registry)

    def request_ended(self, route: str, context: RequestContext, *, status: int, seconds: float) -> str:
        """Count an answered request.

        :param route: label of the route, from a fixed set.
        :param status: HTTP status; for an event the status of its error, or 200.
        :return: outcome: `ok`, `refused` or `failed`.
        """
        outcome = outcome_of(status)
        self._requests.labels(route, outcome).inc()
        self._request_seconds.labels(route).observe(seconds)
        if outcome == 'refused':
            self._refused.labels(_reason(status, context.error)).inc()
        if context.encode_seconds is not None:
            self._encode.observe(context.encode_seconds)
        return outcome

    def decoded(self, seconds: float) -> None:
        self._decode.observe(seconds)

    def estimated(self, found: Sequence[Sequence[Pose]], *, queue_seconds: float, inference_seconds: float) -> None:
        """Count the images of an inference.

        :param found: poses of each image.
        :param queue_seconds: waiting time of the group.
        :param inference_seconds: duration of the inference for the whole group.
        """
        for poses in found:
            self._images.inc()
            self._queue.observe(queue_seconds)
            self._inference.observe(inference_seconds / len(found))
            self._persons.observe(len(poses))
        persons = [pose.confidences for poses in found for pose in poses]
        if persons:
            sums = np.add.reduceat(np.stack(persons), _PART_STARTS, axis=1)
            for part, means in zip(self._parts, (sums / _PART_SIZES).T.tolist(), strict=True):
                for mean in means:
                    part.observe(mean)

    def not_answered(self, *, absent: int, uncertain: int) -> None:
        """Count boxes that are not answered.

        :param absent: boxes without a present keypoint.
        :param uncertain: boxes whose pose was estimated for relevance only.
        """
        self._absent.inc(absent)
        self._uncertain.inc(uncertain)

    def switched(self, outcome: str) -> None:
        """Count an attempt to switch to a model.

        :param outcome: `ok`; `failed` if the model cannot be built; `refused` if its package is not valid.
        """
        self._switches.labels(outcome).inc()

    def fetched(self, outcome: str, seconds: float) -> None:
        """Count a fetched image of a Label Studio task.

        :param outcome: `ok`; `failed`; `refused` if its address is not allowed.
        """
        self._fetches.labels(outcome).inc()
        if outcome != 'refused':
            self._fetch_seconds.observe(seconds)

    def count_connections(self, count: Callable[[], int]) -> None:
        """Report the number of open connections.

        :param count: returns it; called at each scrape.
        """
        self._connections.set_function(count)

    def connection_ended(self, reason: str) -> None:
        """Count a connection that the node ended.

        :param reason: one of `ENDS`.
        """
        self._ended.labels(reason).inc()

    def lagged(self, seconds: float) -> None:
        self._lag.observe(seconds)


def outcome_of(status: int) -> str:
    """Return the outcome of a request: `ok`, `refused` on purpose, or `failed` through a fault of the node."""
    if status < 400:
        return 'ok'
    return 'failed' if status == HTTPStatus.INTERNAL_SERVER_ERROR else 'refused'


def status_of(error: Exception | None) -> int:
    """Return the HTTP status of an error, or 200 for None."""
    if error is None:
        return HTTPStatus.OK
    return error.status if isinstance(error, WholebodyError) else HTTPStatus.INTERNAL_SERVER_ERROR


def _reason(status: int, error: Exception | None) -> str:
    if isinstance(error, Busy):
        return error.reason
    if isinstance(error, InferenceFailed):
        return 'runtime_fails'
    return _REASONS.get(status, 'other')
