"""The metrics of a node process agree with the requests sent, and its log names the request of each line."""

import json
import threading
import time
from collections import Counter
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from datetime import UTC, datetime, timedelta
from itertools import pairwise
from pathlib import Path
from typing import Any

import httpx
import pytest

from benchmarks.support.cards import CARD, FIGURES, make_card
from benchmarks.support.processes import NodeProcess, SocketClient, free_port, running_node
from detector.pose.skeleton import PARTS
from tests.support.scrapes import Scrape

SINGLE = make_card(FIGURES[:1])
JPEG = {'format': 'jpeg', 'bytes': CARD}
RAW = {'bytes': SINGLE.tobytes(), 'dtype': 'uint8', 'shape': SINGLE.shape}
ROUNDS = 3
CALLERS = 4


class Sent:
    """Counts of what the callers sent and of the answers."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self.answers: Counter[tuple[str, str]] = Counter()
        self.refusals: Counter[int] = Counter()
        self.images = self.files = self.persons = 0

    def note(self, route: str, *, status: int, found: list[int] | None = None, files: int = 0) -> None:
        """Count an answer.

        :param found: persons in each of the images, of which `files` had to be decoded.
        """
        outcome = 'ok' if status < 400 else 'refused'
        with self._lock:
            self.answers[route, outcome] += 1
            if outcome == 'refused':
                self.refusals[status] += 1
            if outcome == 'ok' and found is not None:
                self.images += len(found)
                self.files += files
                self.persons += sum(found)


def rest(url: str, sent: Sent) -> None:
    """Send one round of a caller: two images, and requests that are refused for five reasons."""
    with httpx.Client(base_url=url, timeout=60) as client:
        answer = client.post('/detect', files={'file': CARD})
        boxes = [] if answer.is_error else answer.json()['box_detections']
        sent.note('/detect', status=answer.status_code, found=[len(boxes)], files=1)
        answer = client.post('/poses', files={'file': CARD})
        poses = [] if answer.is_error else answer.json()['poses']
        sent.note('/poses', status=answer.status_code, found=[len(poses)], files=1)
        for route, answer in (
            ('/detect', client.post('/detect', files={'file': b'no image'})),
            ('/detect', client.post('/detect')),
            ('/upload', client.post('/upload', files={'files': CARD})),
            ('/detect', client.get('/detect')),
            ('other', client.get(f'/camera-7-{id(client)}')),
            ('/outbox/{name}/image', client.get(f'/outbox/{id(client)}/image')),
            ('/about', client.get('/about')),
        ):
            sent.note(route, status=answer.status_code)


def events(client: SocketClient, sent: Sent) -> None:
    """Send one round over Socket.IO: two single images, a batch, and four events that are refused."""

    def call(event: str, payload: Any, *, name: str | None = None, files: int = 0) -> None:
        answer = client.call(event, payload, timeout=60)
        found = None
        if 'error' not in answer:
            items = answer.get('items', [answer])
            found = [len(item.get('poses', item.get('box_detections', ()))) for item in items]
        status = 200 if found is not None else 503 if 'are ahead of this one' in answer['error'] else 422
        sent.note(name or f'sio:{event}', status=status, found=found, files=files)

    call('detect', {'image': RAW, 'camera_id': 'secret-camera', 'request_id': 'r'})
    call('poses', {'image': JPEG}, files=1)
    call('batch_detect', {'images': [JPEG, RAW, JPEG]}, files=2)
    call('detect', {'image': 5})
    call('poses', None)
    call('batch_detect', {'images': [JPEG] * 65})
    call('detekt-secret-camera', {}, name='other')


@contextmanager
def scraping(url: str) -> Iterator[list[Scrape]]:
    """Scrape continuously, in both formats in turn."""
    scrapes: list[Scrape] = []
    over = threading.Event()

    def run() -> None:
        while not over.is_set():
            scrapes.append(Scrape.of_node(url, open_metrics=len(scrapes) % 2 == 1))
            over.wait(0.02)

    with ThreadPoolExecutor(1) as pool:
        task = pool.submit(run)
        try:
            yield scrapes
        finally:
            over.set()
            task.result()


def at_once(calls: list[Callable[[], None]]) -> None:
    with ThreadPoolExecutor(len(calls)) as pool:
        for task in [pool.submit(call) for call in calls]:
            task.result()


def test_metrics_agree_with_the_load_that_was_sent(tmp_path: Path) -> None:
    """Requests per route and outcome, reasons, images, persons and confidences add up, with scrapes during the load."""
    sent = Sent()
    with running_node(tmp_path, MAX_WAITING=2, DEADLINE=60) as node:
        before = Scrape.of_node(node.url)

        def socket_caller() -> None:
            with node.socketio() as client:
                for _ in range(ROUNDS):
                    events(client, sent)

        def rest_caller() -> None:
            for _ in range(ROUNDS):
                rest(node.url, sent)

        with scraping(node.url) as scrapes:
            at_once([rest_caller] * CALLERS + [socket_caller] * CALLERS)
        after = Scrape.of_node(node.url)
    answers = {
        (route, outcome): count
        for (route, outcome), count in after.by('wholebody_requests_total', 'route', 'outcome').items()
        if route not in ('/metrics', '/ready', '/ws')
    }
    assert answers == dict(sent.answers)
    assert sum(answers.values()) == CALLERS * ROUNDS * (9 + 7)
    assert sent.answers['/detect', 'ok'] > 0
    assert (
        after.total('wholebody_requests_total', route='/metrics') == len(scrapes) + 1
    )  # `before`; `after` is not over yet

    by_reason = after.by('wholebody_refused_total', 'reason')
    ready = after.total('wholebody_requests_total', route='/ready', outcome='refused')
    statuses = {'queue_full': 503, 'image_format': 415, 'invalid': 422, 'method': 405, 'no_loop': 409, 'not_found': 404}
    assert {statuses[reason]: count for (reason,), count in by_reason.items() if reason != 'no_model'} == sent.refusals
    assert by_reason.get(('no_model',), 0) == ready
    assert sent.refusals[503] > 0, 'the load must exceed the capacity at times'

    for name in ('images_total', 'persons_count', 'queue_seconds_count', 'inference_seconds_count'):
        assert after.total(f'wholebody_{name}') == sent.images, name
    assert after.total('wholebody_decode_seconds_count') == sent.files
    assert after.total('wholebody_persons_sum') == sent.persons
    assert after.by('wholebody_confidence_count', 'part') == {(part.name,): sent.persons for part in PARTS}
    encoded = sum(sent.answers[route, 'ok'] for route in
                  ('/detect', '/poses', 'sio:detect', 'sio:poses', 'sio:batch_detect'))  # fmt: skip
    assert after.total('wholebody_encode_seconds_count') == encoded
    assert 0 < after.total('wholebody_inference_seconds_sum') < 600

    assert len(scrapes) > 5
    assert_rising([before, *scrapes, after])
    assert 0 < max(scrape.total('wholebody_connected_clients') for scrape in scrapes) <= CALLERS
    assert after.by('wholebody_model_info', 'name', 'version').keys() == {('test-card', '0.0')}
    assert after.total('wholebody_model_switches_total', outcome='ok') == 1
    assert not [key for key in after.samples if 'camera' in str(key)]


def assert_rising(scrapes: list[Scrape]) -> None:
    """Check that no counter decreases, and that no request has more outcomes than durations."""
    for earlier, later in pairwise(scrapes):
        for key, value in earlier.samples.items():
            if key[0].endswith(('_total', '_count', '_bucket')):
                assert later.samples[key] >= value, key


# ---------------------------------------------------------------- log and ids


@pytest.fixture(scope='module')
def logging_node(tmp_path_factory: pytest.TempPathFactory) -> Iterator[NodeProcess]:
    """A node that logs JSON and stores one image at most for a Loop that does not exist."""
    with running_node(
        tmp_path_factory.mktemp('logging'),
        LOG_FORMAT='json',
        LOOP_HOST=f'127.0.0.1:{free_port()}',
        LOOP_ORGANIZATION='zauberzeug',
        LOOP_PROJECT='wholebody',
        MAX_OUTBOX_SIZE=1,
    ) as node:
        yield node


def lines(node: NodeProcess) -> list[dict[str, Any]]:
    return [json.loads(line) for line in node.log.read_text().splitlines()]


def test_every_line_of_the_log_is_an_object(logging_node: NodeProcess) -> None:
    """Every line of the log is a JSON object, from the first one on, also of learning_loop_node and uvicorn."""
    found = lines(logging_node)
    assert {'wholebody.node', 'uvicorn.error'} <= {line['logger'] for line in found}
    for line in found:
        assert {'time', 'level', 'logger', 'message'} <= set(line)
        assert datetime.fromisoformat(line['time']).tzinfo == UTC
        assert 'request_id' not in line or line['logger'].startswith('wholebody')


def test_the_id_is_in_the_lines_of_its_request(logging_node: NodeProcess) -> None:
    """Each log line of a request has its id, also from the thread that stores images; background work has none."""
    for name in ('first', 'second'):
        answer = httpx.post(f'{logging_node.url}/upload', files={'files': CARD}, headers={'X-Request-ID': name})
        assert (answer.status_code, answer.headers['X-Request-ID']) == (200, name)
    refused = httpx.post(f'{logging_node.url}/poses', files={'file': b'GIF89a'}, headers={'X-Request-ID': 'third'})
    assert (refused.status_code, refused.headers['X-Request-ID']) == (415, 'third')
    with logging_node.socketio() as client:
        answer = client.call('poses', {'image': {'format': 'jpeg', 'bytes': b'GIF89a'}, 'request_id': 'fourth'})
        assert answer['request_id'] == 'fourth'
        assert 'GIF' in answer['error']
        answer = client.call('upload', {'image': JPEG, 'request_id': 'fifth'})
        assert answer == {'status': 'OK', 'request_id': 'fifth'}
    said = {line['request_id']: line['message'] for line in lines(logging_node) if 'request_id' in line}
    assert set(said) == {'second', 'third', 'fourth', 'fifth'}
    assert said['second'] == 'the outbox is full: its 1 oldest images are dropped'
    assert said['third'].startswith('POST /poses is answered with 415: GIF')
    assert said['fourth'].startswith('poses is answered with an error: GIF')
    scrape = Scrape.of_node(logging_node.url)
    about = httpx.get(f'{logging_node.url}/about').json()['outbox']
    assert about['saved'] == 3
    for name, key in (('saved', 'saved'), ('dropped', 'dropped'), ('sent', 'uploaded'), ('failed', 'failed')):
        assert scrape.total(f'wholebody_outbox_{name}_total') == about[key], name
    assert scrape.total('wholebody_outbox_images') == about['waiting'] == 1
    assert scrape.total('wholebody_outbox_images', priority='high') == 0
    assert scrape.total('wholebody_outbox_bytes') == about['bytes'] > len(CARD)


def test_modes_that_are_set_by_a_request_do_not_keep_its_id(logging_node: NodeProcess) -> None:
    """An outbox started by a request logs without the id of that request."""
    httpx.post(f'{logging_node.url}/upload', files={'files': CARD}).raise_for_status()
    set_mode(logging_node, 'stopped')
    before = len(failed_uploads(logging_node))
    set_mode(logging_node, 'continuous_upload')
    deadline = time.monotonic() + 15
    while not (told := failed_uploads(logging_node)[before:]):
        assert time.monotonic() < deadline, 'no upload has failed'
        time.sleep(0.05)
    assert [line.get('request_id') for line in told] == [None] * len(told)


def set_mode(node: NodeProcess, mode: str) -> None:
    httpx.put(f'{node.url}/outbox_mode', content=mode, headers={'X-Request-ID': 'mode'}).raise_for_status()


def failed_uploads(node: NodeProcess) -> list[dict[str, Any]]:
    """Return the lines of the outbox's task about failed uploads."""
    return [line for line in lines(node) if line['logger'] == 'wholebody.outbox' and 'stay in' in line['message']]


def test_about_tells_why_the_runtime_was_chosen(logging_node: NodeProcess) -> None:
    """`/about` has the runtime, its precision and the reason for both."""
    model = httpx.get(f'{logging_node.url}/about').json()['wholebody']
    assert model['runtime'] == 'onnxruntime on CPUExecutionProvider, f32'
    assert model['runtime_reason'] == 'the default; the package requires f32'


def test_about_tells_since_when(logging_node: NodeProcess) -> None:
    """`/about` has the start of the process, the start of the model, and the version of the software."""
    about = httpx.get(f'{logging_node.url}/about').json()
    process, model = about['process'], about['wholebody']
    now = datetime.now(UTC)
    started, since = (datetime.fromisoformat(text) for text in (process['started'], model['since']))
    assert timedelta(0) <= now - started < timedelta(minutes=5)
    assert started <= since <= now
    assert abs((now - started).total_seconds() - process['uptime_seconds']) < 2
    assert process['version']
