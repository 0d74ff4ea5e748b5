"""Attacks on a real node with the figures of the reviews that found them; each leaves other clients unharmed."""

import json
import threading
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import httpx
import pytest

from benchmarks.idle_memory import resident_mib
from benchmarks.support.attackers import (
    EVENTS,
    become_client,
    connections,
    health_seconds,
    is_closed,
    open_files,
    send_until_closed,
)
from benchmarks.support.cards import CARD
from benchmarks.support.processes import NodeProcess, running_node
from benchmarks.support.waiting import PATIENCE, eventually

pytestmark = pytest.mark.integration

MIB = 1024**2


@pytest.fixture
def node(tmp_path: Path) -> Iterator[NodeProcess]:
    """A node with default limits."""
    with open_files(1024), running_node(tmp_path) as running, open_files(4096):
        for _ in range(3):
            running.detect(CARD)
        yield running


class Neighbour:
    """A client that asks for `/health` and sends images all the time.

    :ivar slowest: longest time of an answer of `/health` so far, in seconds.
    """

    def __init__(self, node: NodeProcess) -> None:
        self.slowest = 0.0
        self.answers = 0
        self._node = node
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._ask)
        self._error: BaseException | None = None

    def _ask(self) -> None:
        try:
            while not self._stop.wait(0.05):
                self.slowest = max(self.slowest, health_seconds(self._node))
                assert self._node.detect(CARD).status_code == 200
                self.answers += 1
        except BaseException as error:
            self._error = error

    def __enter__(self) -> 'Neighbour':
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        seen = self.answers
        eventually(lambda: self.answers > seen + 1 or self._error, seconds=120)  # while the attack still holds
        self._stop.set()
        self._thread.join()
        assert self._error is None, self._error


def test_headers_of_600_megabytes(node: NodeProcess) -> None:
    """Six connections that send 100 MB of header each cost no memory; before, they cost 600 MB."""
    before = resident_mib(node.process.pid)
    with connections(node, 6) as attackers, Neighbour(node), ThreadPoolExecutor(6) as pool:
        for connection in attackers:
            connection.sendall(b'GET / HTTP/1.1\r\nX: ')
        list(pool.map(lambda one: send_until_closed(one, bytes(MIB).replace(b'\0', b'a'), times=100), attackers))
        assert resident_mib(node.process.pid) < before + 50


def test_headers_that_stop(node: NodeProcess) -> None:
    """A connection with half a header, and one with nothing, are closed after 15 seconds."""
    with connections(node, 2) as attackers, Neighbour(node):
        attackers[0].sendall(b'GET / HTTP/1.1\r\nX: ')
        start = time.monotonic()
        for attacker in attackers:
            eventually(lambda attacker=attacker: is_closed(attacker))  # type: ignore[misc]
        assert time.monotonic() - start > 14


def test_clients_that_never_read(node: NodeProcess) -> None:
    """While 105 clients read nothing, others are answered; before, they all got 503. The 105 are closed in time."""
    with connections(node, 105, small=True) as attackers:
        with Neighbour(node):
            for _ in range(8):
                for connection in attackers:
                    send_until_closed(connection, b'GET /openapi.json HTTP/1.1\r\nHost: 127.0.0.1\r\n\r\n' * 8, times=1)
        assert httpx.get(f'{node.url}/openapi.json', timeout=PATIENCE).status_code == 200
        for connection in attackers:
            eventually(lambda connection=connection: is_closed(connection), seconds=120)  # type: ignore[misc]


def test_idle_connections(node: NodeProcess) -> None:
    """While 1,100 connections are idle, others are answered; before, `/health` ended with 1,024 open files."""
    with connections(node, 1100), Neighbour(node):
        assert health_seconds(node) < PATIENCE


def test_events_whose_answers_are_not_read(node: NodeProcess) -> None:
    """A client that sends 256,000 `about` events and reads no answer costs little memory; before, it cost 316 MB."""
    before = resident_mib(node.process.pid)
    with connections(node, 1, small=True) as (attacker,), Neighbour(node), node.socketio() as client:
        become_client(attacker)
        assert send_until_closed(attacker, EVENTS, times=256) > len(EVENTS)
        assert client.call('about')['operation_mode']
        assert resident_mib(node.process.pid) < before + 60


def test_a_body_of_many_values(node: NodeProcess) -> None:
    """A body of 127 MiB of `{}` is refused and its memory returned; before, it took 3.5 GB and kept 3.2."""
    body = b'{"x":[' + b'{},' * (127 * MIB // 3 - 10) + b'{}]}'
    before, peak = resident_mib(node.process.pid), 0.0
    with Neighbour(node) as neighbour, ThreadPoolExecutor(1) as pool:
        answer = pool.submit(httpx.post, f'{node.url}/predict', content=body, timeout=300)
        while not answer.done():
            peak = max(peak, resident_mib(node.process.pid))
            time.sleep(0.02)
        assert answer.result().status_code == 413
        assert 'values' in answer.result().json()['detail']
    assert peak < before + 600
    eventually(lambda: resident_mib(node.process.pid) < before + 100)
    print(f'memory {before:.0f}, {peak:.0f}, {resident_mib(node.process.pid):.0f} MiB; {neighbour.slowest:.2f} s')


def test_tasks_with_old_predictions_pass(node: NodeProcess) -> None:
    """A body of 100 MiB of tasks with old predictions is answered, and costs little more than its bytes."""
    region = {'id': 'p0-1', 'type': 'keypointlabels', 'value': {'x': 1.5, 'y': 2, 'keypointlabels': ['nose']}}
    prediction = {'id': 7, 'score': 0.5, 'result': [region] * 266}
    task = {'id': 1, 'data': {'image': 'data:image/jpeg;base64,'}, 'predictions': [prediction] * 20}
    body = json.dumps({'tasks': [task] * (100 * MIB // len(json.dumps(task)))}).encode()
    before = resident_mib(node.process.pid)
    with Neighbour(node):
        answer = httpx.post(f'{node.url}/predict', content=body, timeout=300)
    assert answer.status_code == 200, answer.text[:500]
    assert len(answer.json()['results']) > 50
    eventually(lambda: resident_mib(node.process.pid) < before + 100)
