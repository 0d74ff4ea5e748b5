"""The shutdown of a node: running work is answered, new work is refused, and the process ends in time."""

import asyncio
import base64
import os
import re
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager, suppress
from pathlib import Path

import httpx
import pytest
from starlette.types import Message, Receive, Scope, Send

from benchmarks.support.cards import make_card, poses_of
from benchmarks.support.processes import (
    PROJECT,
    NodeProcess,
    clean_environment,
    free_port,
    running_node,
    running_node_without_model,
)
from benchmarks.support.waiting import PATIENCE, eventually
from detector.api.middleware.drain import CUT_OFF, ENDING, Drain, Draining
from detector.models.embedded import CATALOGUE
from detector.node.server import SAME_SIGNAL_SECONDS
from detector.pose import images
from detector.system.shutdown_budget import ShutdownBudget
from tests.support.sabotage import Sabotage

CARD = images.encode_jpeg(make_card())
END_SECONDS = 8.0


@contextmanager
def ending_node(folder: Path, **settings: object) -> Iterator[NodeProcess]:
    """A node that must end with status 0 in time after the block has sent it a signal."""
    with running_node(folder, **settings) as node:
        yield node
        assert node.process.wait(END_SECONDS + 5) == 0


@contextmanager
def in_time(seconds: float = END_SECONDS) -> Iterator[None]:
    start = time.monotonic()
    yield
    assert time.monotonic() - start < seconds


def end(node: NodeProcess, seconds: float = END_SECONDS) -> None:
    """Send SIGTERM and expect status 0 in time."""
    with in_time(seconds):
        node.process.terminate()
        assert node.process.wait(END_SECONDS + 5) == 0


def wait_until_running(node: NodeProcess, count: int) -> None:
    """Wait until so many requests are being answered."""
    about = f'{node.url}/about'
    eventually(lambda: httpx.get(about, timeout=PATIENCE).json()['requests']['present'] >= count, f'{count} requests')


def wait_until_closed(node: NodeProcess) -> None:
    """Wait until the node, which is shutting down, refuses connections."""

    def closed() -> bool:
        try:
            socket.create_connection(('127.0.0.1', node.port), timeout=PATIENCE).close()
        except ConnectionRefusedError:
            return True
        return False

    eventually(closed, 'the port is closed')


def test_what_runs_is_answered_and_nothing_new_is_begun(tmp_path: Path) -> None:
    """A node that ends answers running requests over REST and Socket.IO, closes its port and refuses new requests."""
    sabotage = Sabotage(tmp_path / 'sabotage')
    with (
        ending_node(tmp_path, **sabotage.settings, DEADLINE=60) as node,
        node.socketio('websocket') as robot,
        node.socketio('polling') as polling,
        httpx.Client(base_url=node.url) as kept,
        ThreadPoolExecutor(3) as pool,
    ):
        assert kept.get('/health').status_code == 200
        sabotage.hold()
        payload = {'image': {'format': 'jpeg', 'bytes': CARD}}
        running = [
            pool.submit(lambda: node.detect(CARD).json()),
            pool.submit(robot.call, 'detect', payload),
            pool.submit(polling.call, 'detect', payload),
        ]
        wait_until_running(node, 3)
        node.process.terminate()
        wait_until_closed(node)
        late = kept.post('/detect', files={'file': CARD})
        assert (late.status_code, late.json()) == (503, {'detail': ENDING})
        assert late.headers['Connection'] == 'close'
        assert robot.call('about') == {'error': ENDING}
        assert not any(answer.done() for answer in running)
        sabotage.end()
        assert [len(poses_of(answer.result(PATIENCE))) for answer in running] == [2, 2, 2]
        assert node.process.wait(10) == 0
    log = node.log.read_text()
    summed_up = r'(\d) running requests were answered, 0 cut off, (\d) new ones refused; 0 images wait in the outbox'
    found = re.search(summed_up, log)
    assert found, log
    answered, refused = map(int, found.groups())
    assert answered >= 3, log  # the last poll of /about may count as well
    assert refused >= 2, log
    assert 'Traceback' not in log


def test_an_inference_without_end_is_given_up(tmp_path: Path) -> None:
    """Clients of an endless inference get 503 or an error, and idle clients do not delay the end."""
    sabotage = Sabotage(tmp_path / 'sabotage')
    with (
        ending_node(tmp_path, **sabotage.settings) as node,
        node.socketio('websocket') as robot,
        node.socketio('polling'),
        ThreadPoolExecutor(2) as pool,
    ):
        sabotage.slow(60)
        request = pool.submit(node.detect, CARD)
        event = pool.submit(robot.call, 'detect', {'image': {'format': 'jpeg', 'bytes': CARD}})
        wait_until_running(node, 2)
        end(node)
        assert (request.result().status_code, request.result().json()) == (503, {'detail': CUT_OFF})
        assert event.result() == {'error': CUT_OFF}
    assert '2 cut off' in node.log.read_text()


@pytest.mark.integration
def test_a_second_signal_ends_at_once(tmp_path: Path) -> None:
    """The process ends although requests from before the first signal still run."""
    sabotage = Sabotage(tmp_path / 'sabotage')
    with ending_node(tmp_path, **sabotage.settings) as node, ThreadPoolExecutor(1) as pool:
        sabotage.slow(60)
        request = pool.submit(node.detect, CARD)
        wait_until_running(node, 1)
        node.process.terminate()
        wait_until_closed(node)
        time.sleep(2 * SAME_SIGNAL_SECONDS)  # an earlier signal would count as the first one, forwarded
        assert node.process.poll() is None
        end(node)
        assert isinstance(request.exception(), httpx.TransportError)
    assert 'forced exit: a second signal arrived' in node.log.read_text()


@pytest.mark.integration
def test_a_body_that_trickles_in_is_cut_off(tmp_path: Path) -> None:
    """A client that sends a byte now and then soon gets 503."""
    with ending_node(tmp_path) as node, socket.create_connection(('127.0.0.1', node.port)) as slow:
        slow.sendall(b'POST /detect HTTP/1.1\r\nHost: node\r\nContent-Length: 100000\r\n')
        slow.sendall(b'Content-Type: multipart/form-data; boundary=x\r\n\r\n--x\r\n')
        ended = threading.Event()

        def trickle() -> None:
            while not ended.wait(0.2):
                try:
                    slow.sendall(b'-')
                except OSError:
                    return

        thread = threading.Thread(target=trickle)
        thread.start()
        time.sleep(0.5)
        with in_time(4):
            node.process.terminate()
            assert slow.recv(1000).startswith(b'HTTP/1.1 503')
            assert node.process.wait(10) == 0
        ended.set()
        thread.join()


@pytest.mark.integration
def test_a_client_that_reads_nothing_is_left_behind(tmp_path: Path) -> None:
    """The node ends in time although a client does not read its answers, which fill the socket's buffers."""
    with ending_node(tmp_path) as node, socket.socket() as deaf:
        deaf.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
        deaf.connect(('127.0.0.1', node.port))
        deaf.sendall(b'GET /openapi.json HTTP/1.1\r\nHost: node\r\n\r\n' * 400)
        time.sleep(1)
        end(node)


@pytest.mark.integration
def test_a_stalled_log_does_not_keep_the_node(tmp_path: Path) -> None:
    """The node ends in time although its log is a full pipe that is not read."""
    port, (reader, writer) = free_port(), os.pipe()
    environment = clean_environment(DATA_FOLDER=tmp_path, NODE_HOST='127.0.0.1', BACKEND_PORT=port, PYTHONPATH=PROJECT)
    with subprocess.Popen([sys.executable, '-m', 'detector', 'serve'], env=environment, stderr=writer) as process:
        node = NodeProcess(process=process, port=port, data_folder=tmp_path, log=tmp_path / 'none')
        try:
            deadline = time.monotonic() + 60
            while time.monotonic() < deadline:
                try:
                    if httpx.get(f'{node.url}/ready').status_code == 200:
                        break
                except httpx.TransportError:
                    time.sleep(0.1)
            os.set_blocking(writer, False)
            with suppress(BlockingIOError):
                while True:
                    os.write(writer, b'x' * 4096)
            os.set_blocking(writer, True)
            end(node)
        finally:
            process.kill()
            os.close(writer)
            os.close(reader)


@pytest.mark.integration
def test_a_stalled_disk_does_not_keep_the_node(tmp_path: Path) -> None:
    """The node ends in time although every sync hangs, and the client learns that its image was not accepted."""
    settings = {'LOOP_HOST': '127.0.0.1:9', 'LOOP_ORGANIZATION': 'o', 'LOOP_PROJECT': 'p'}
    sabotage = tmp_path / 'slow-disk'
    sabotage.mkdir()
    (sabotage / 'sitecustomize.py').write_text(
        'import os, time, pathlib\n'
        'sync = os.fsync\n'
        'def fsync(descriptor):\n'
        f'    while pathlib.Path({str(sabotage / "stalled")!r}).exists():\n'
        '        time.sleep(0.1)\n'
        '    sync(descriptor)\n'
        'os.fsync = fsync\n'
    )
    with ending_node(tmp_path, PYTHONPATH=sabotage, **settings) as node, ThreadPoolExecutor(4) as pool:
        (sabotage / 'stalled').touch()
        uploads = [
            pool.submit(httpx.post, f'{node.url}/upload', files={'files': CARD}, timeout=30),
            pool.submit(node.detect, CARD, {'autoupload': 'all'}),
        ]
        time.sleep(1)
        end(node)
        assert uploads[0].result().status_code == 503
        assert uploads[1].result().status_code == 200
    assert 'the node shut down before it was written' in node.log.read_text()


@pytest.mark.integration
def test_label_studio_gets_what_is_done(tmp_path: Path) -> None:
    """A request with hundreds of tasks gets predictions for some; Label Studio requests the others again later."""
    address = 'data:image/jpeg;base64,' + base64.b64encode(CARD).decode()
    tasks = [{'id': number, 'data': {'image': address}} for number in range(400)]
    sabotage = Sabotage(tmp_path / 'sabotage')
    with ending_node(tmp_path, **sabotage.settings) as node, ThreadPoolExecutor(1) as pool:
        sabotage.slow(0.05)
        predict = pool.submit(httpx.post, f'{node.url}/predict', json={'tasks': tasks}, timeout=60)
        while httpx.get(f'{node.url}/about').json()['requests']['present'] == 0:
            time.sleep(0.05)
        time.sleep(2)
        end(node)
        assert predict.result().status_code == 200, predict.result().text
        results = predict.result().json()['results']
    assert len(results) == 400
    assert 0 < sum(result != [] for result in results) < 400
    assert 'of 400 tasks were done in' in node.log.read_text()


@pytest.mark.integration
def test_a_download_that_hangs_is_broken_off(tmp_path: Path) -> None:
    """The node ends in time although the server of its first model sends nothing."""
    with socket.socket() as mute:
        mute.bind(('127.0.0.1', 0))
        mute.listen()
        address = f'http://127.0.0.1:{mute.getsockname()[1]}/'
        catalogue = tmp_path / 'catalogue.json'
        catalogue.write_text(CATALOGUE.read_text().replace('https://', address))
        settings = {'MODE': 'lightweight', 'MODEL_CATALOGUE': catalogue, 'BACKEND_TYPE': 'onnxruntime'}
        with running_node_without_model(tmp_path, **settings) as node:
            assert 'is being downloaded' in httpx.get(f'{node.url}/ready').text
            end(node, 4)


@pytest.mark.integration
@pytest.mark.parametrize('moment', [0.0, 0.1, 0.3, 0.6, 1.0])
def test_a_signal_while_the_node_starts(tmp_path: Path, moment: float) -> None:
    """The node ends in each phase of its start: while it imports, loads the model, or already serves."""
    environment = clean_environment(
        DATA_FOLDER=tmp_path / 'data',
        NODE_HOST='127.0.0.1',
        BACKEND_PORT=free_port(),
        PYTHONPATH=PROJECT,
    )
    command = [sys.executable, '-m', 'detector', 'serve']
    with subprocess.Popen(command, env=environment, stderr=subprocess.PIPE, text=True) as process:
        assert process.stderr is not None
        time.sleep(moment)
        while not _handles_sigterm(process.pid):
            time.sleep(0.001)
        with in_time():
            process.terminate()
            assert process.wait(20) == 0
        assert 'Traceback' not in process.stderr.read()


def _handles_sigterm(pid: int) -> bool:
    status = Path(f'/proc/{pid}/status').read_text()
    (caught,) = (line.split()[1] for line in status.splitlines() if line.startswith('SigCgt'))
    return bool(int(caught, 16) & 1 << 14)


# ---------------------------------------------------------------- the middleware alone


def _scope(path: str = '/detect', *, body: bool = True) -> Scope:
    headers = [(b'content-length', b'5')] if body else []
    return {'type': 'http', 'method': 'POST', 'path': path, 'headers': headers}


class Caller:
    """Calls an app with a body that may never arrive, and records the answer."""

    def __init__(self, app: Draining, path: str = '/detect', *, body: bool = True) -> None:
        self.messages: list[Message] = []
        self.body: asyncio.Future[Message] = asyncio.get_running_loop().create_future()
        self.task = asyncio.create_task(app(_scope(path, body=body), self._receive, self._send))

    async def _receive(self) -> Message:
        return await self.body

    async def _send(self, message: Message) -> None:
        self.messages.append(message)

    @property
    def status(self) -> int:
        return int(self.messages[0]['status'])


QUICK = ShutdownBudget(bodies=0.1, requests=0.3, answers=0.1)


async def test_bodies_have_less_time_than_what_runs() -> None:
    """Requests whose body is late are cut off first, slow requests later, and polls of Socket.IO last."""
    hurry = asyncio.Event()

    async def app(scope: Scope, receive: Receive, send: Send) -> None:
        if scope['path'].startswith('/ws/'):
            await asyncio.sleep(60)
        if scope['headers']:
            await receive()
        await hurry.wait()
        await send({'type': 'http.response.start', 'status': 200, 'headers': []})
        await send({'type': 'http.response.body', 'body': b''})

    drain = Drain(QUICK)
    draining = Draining(app, drain)
    sending, running, poll = Caller(draining), Caller(draining), Caller(draining, '/ws/socket.io/', body=False)
    running.body.set_result({'type': 'http.request', 'body': b'12345', 'more_body': False})
    await asyncio.sleep(0)
    drain.begin()
    finish = asyncio.create_task(drain.finish())
    await asyncio.sleep(0.2)
    assert sending.status == 503
    assert not running.messages
    assert not poll.messages
    late = Caller(draining, body=False)
    health = Caller(draining, '/health', body=False)
    await late.task
    assert late.status == 503
    hurry.set()
    await asyncio.gather(health.task, running.task)
    assert (running.status, health.status) == (200, 200)
    await finish
    assert poll.status == 503
    assert drain.report() == '2 running requests were answered, 1 cut off, 1 new ones refused'


async def test_an_answer_that_has_begun_is_not_begun_again() -> None:
    """An answer that has begun is cut, and an app that ignores its cancellation does not delay the end."""

    async def begun(scope: Scope, receive: Receive, send: Send) -> None:
        await send({'type': 'http.response.start', 'status': 200, 'headers': []})
        await asyncio.sleep(60)

    async def stubborn(scope: Scope, receive: Receive, send: Send) -> None:
        for _ in range(2):
            try:
                await asyncio.sleep(60)
            except asyncio.CancelledError:
                continue

    drain = Drain(QUICK)
    first, second = Caller(Draining(begun, drain), body=False), Caller(Draining(stubborn, drain), body=False)
    await asyncio.sleep(0)
    drain.begin()
    await asyncio.wait_for(drain.finish(), 2)
    assert [message['type'] for message in first.messages] == ['http.response.start']
    assert not second.task.done()
    second.task.cancel()
    await asyncio.gather(second.task, return_exceptions=True)


async def test_a_cancellation_that_is_none_of_ours_goes_on() -> None:
    """A cancellation from outside, such as uvicorn's for a lost connection, is passed on."""

    async def app(scope: Scope, receive: Receive, send: Send) -> None:
        await asyncio.sleep(60)

    caller = Caller(Draining(app, Drain(QUICK)), body=False)
    await asyncio.sleep(0)
    caller.task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await caller.task
