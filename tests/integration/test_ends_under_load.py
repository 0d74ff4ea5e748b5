"""Repeated ends of a node by SIGTERM under a mixed load."""

import base64
import json
import random
import threading
import time
from collections import Counter
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path

import httpx
import pytest
import socketio

from benchmarks.support.cards import make_card
from benchmarks.support.loops import MockLoopProcess, running_mock_loop
from benchmarks.support.processes import NodeProcess, running_node
from detector.pose import images

pytestmark = [pytest.mark.integration, pytest.mark.nightly]

ROUNDS = 20
END_SECONDS = 8.0
"""Longest time from SIGTERM to the end of the node, in seconds."""
EVENT_SECONDS = 5.0
"""Time limit for an event in seconds; the library would wait for an answer even after the connection is lost."""
CARD = images.encode_jpeg(make_card())
TASKS = [
    {'id': number, 'data': {'image': 'data:image/jpeg;base64,' + base64.b64encode(CARD).decode()}}
    for number in range(300)
]


class Load:
    """Clients that send requests until the node has ended. Each image has its own `source`.

    :param number: number of the round, which is a part of each source.
    """

    def __init__(self, node: NodeProcess, number: int) -> None:
        self._node = node
        self._number = number
        self._count = 0
        self._lock = threading.Lock()
        self.uploaded: set[str] = set()
        """Sources of images whose upload was answered with 200."""
        self.detected: set[str] = set()
        """Sources of images with `autoupload: all` whose detection was answered."""
        self.answers: Counter[str] = Counter()
        callers = [self._uploads, self._uploads, self._detections, self._events, self._predictions]
        self._threads = [threading.Thread(target=self._until_gone, args=(caller,)) for caller in callers]
        for thread in self._threads:
            thread.start()

    def join(self) -> None:
        for thread in self._threads:
            thread.join(30)
            assert not thread.is_alive()

    def _until_gone(self, caller: Callable[[], None]) -> None:
        with suppress(httpx.TransportError, socketio.exceptions.SocketIOError):
            caller()

    def _source(self) -> str:
        with self._lock:
            self._count += 1
            return f'round-{self._number}-{self._count}'

    def _answered(self, kind: str, status: object) -> None:
        with self._lock:
            self.answers[f'{kind} {status}'] += 1

    def _uploads(self) -> None:
        with httpx.Client(base_url=self._node.url, timeout=20) as client:
            while True:
                source = self._source()
                answer = client.post('/upload', files={'files': CARD}, params={'source': source})
                if answer.status_code == 200:
                    self.uploaded.add(source)
                self._answered('upload', answer.status_code)

    def _detections(self) -> None:
        with httpx.Client(base_url=self._node.url, timeout=20) as client:
            while True:
                source = self._source()
                headers = {'autoupload': 'all', 'source': source}
                answer = client.post('/detect', files={'file': CARD}, headers=headers)
                if answer.status_code == 200:
                    self.detected.add(source)
                self._answered('detect', answer.status_code)

    def _events(self) -> None:
        with self._node.socketio() as client:
            while True:
                source = self._source()
                image = {'format': 'jpeg', 'bytes': CARD}
                answer = client.call('upload', {'image': image, 'source': source}, timeout=EVENT_SECONDS)
                if answer == {'status': 'OK'}:
                    self.uploaded.add(source)
                self._answered('event upload', 'error' if 'error' in answer else 200)
                source = self._source()
                answer = client.call(
                    'detect', {'image': image, 'source': source, 'autoupload': 'all'}, timeout=EVENT_SECONDS
                )
                if 'error' not in answer:
                    self.detected.add(source)
                self._answered('event detect', 'error' if 'error' in answer else 200)

    def _predictions(self) -> None:
        with httpx.Client(base_url=self._node.url, timeout=100) as client:
            while True:
                answer = client.post('/predict', json={'tasks': TASKS})
                self._answered('predict', answer.status_code)
                if answer.status_code == 200:
                    assert len(answer.json()['results']) == len(TASKS)


def waiting(folder: Path) -> set[str]:
    """Return the sources of the images in an outbox."""
    files = (folder / 'outbox').glob('*/*/image_*.json')
    return {json.loads(file.read_bytes())['source'] for file in files if file.parts[-3] in ('normal', 'priority')}


def arrived(loop: MockLoopProcess) -> Counter[str]:
    return Counter(image['source'] for image in loop.images())


def test_no_accepted_image_is_lost(tmp_path: Path) -> None:
    """A node ends with status 0 within 8 seconds, and every accepted image waits in the outbox or has arrived."""
    chance = random.Random(8)
    settings = {'UPLOAD_SECONDS': 0.1, 'MAX_OUTBOX_SIZE': 100_000, 'DEADLINE': 30}
    uploaded: set[str] = set()
    detected: set[str] = set()
    seconds: list[float] = []
    answers: Counter[str] = Counter()
    with running_mock_loop(tmp_path / 'loop') as loop:
        for number in range(ROUNDS):
            loop.clear_faults()
            if number % 4 == 3:
                loop.fault('images', 'delay', seconds=20)  # a request is then in progress at the end
            with running_node(tmp_path, **settings, **loop.settings) as node:
                load = Load(node, number)
                time.sleep(chance.uniform(0.2, 3))
                start = time.monotonic()
                node.process.terminate()
                assert node.process.wait(20) == 0
                seconds.append(time.monotonic() - start)
                load.join()
                log = node.log.read_text()
            assert 'Traceback' not in log
            uploaded |= load.uploaded
            detected |= {
                source for source in load.detected if f'source {source!r}' not in log
            }  # the disk refused the others
            answers += load.answers
            print(f'round {number}: {seconds[-1]:.2f} s, {dict(load.answers)}', flush=True)
            safe = waiting(tmp_path / 'data') | set(arrived(loop))
            assert not uploaded - safe, f'uploads were lost in round {number}'
            assert not detected - safe, f'images of detections were lost in round {number}'
        loop.clear_faults()
        with running_node(tmp_path, **settings, **loop.settings) as node:
            deadline = time.monotonic() + 60
            while httpx.get(f'{node.url}/outbox').json()['waiting'] and time.monotonic() < deadline:
                time.sleep(0.2)
        counts = arrived(loop)
    assert (uploaded | detected) <= set(counts)
    twice = sum(counts[source] > 1 for source in uploaded | detected)
    print(f'\n{len(uploaded)} uploads and {len(detected)} detections arrived, {twice} of them more than once')
    print(f'ended within {max(seconds):.2f} s, {sum(seconds) / ROUNDS:.2f} s on average; answers: {dict(answers)}')
    assert max(seconds) < END_SECONDS
    assert len(uploaded) > 2 * ROUNDS
