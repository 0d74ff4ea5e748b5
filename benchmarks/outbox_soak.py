"""Send many images to a node that is killed, while the Learning Loop fails at random, and check that none is lost.

    uv run python -m benchmarks.outbox_soak --images 5000 --kills 5

The benchmark starts real processes. Every image shows its number, which identifies it wherever it is found. The last
images are sent after the faults of the Loop have ended, and none of them may arrive twice.
"""

import argparse
import json
import random
import sys
import tempfile
import threading
import time
from collections import Counter, defaultdict
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any, Final

import httpx
import numpy as np
import socketio

from detector.api.middleware.drain import ENDING
from detector.errors import InvalidImage
from detector.outbox.outbox import BATCH_IMAGES
from detector.pose import images

from .support.loops import MockLoopProcess, running_mock_loop
from .support.processes import NodeProcess, SocketClient, running_node
from .support.waiting import eventually

CLIENTS: Final = 8
CALM_PART: Final = 0.05
MOST_WAITING: Final = 200
FEWEST_WAITING: Final = 50
"""Numbers of waiting images at which the clients continue and pause. The faults then meet all images, not only the
last."""
BEHIND_SECONDS: Final = 2.0
"""Time after the answer of `detect` until its image is on the disk at the latest, in seconds."""
PATIENCE_SECONDS: Final = 1800
SETTINGS: Final[dict[str, Any]] = {'UPLOAD_SECONDS': 0.1, 'MAX_OUTBOX_SIZE': 1_000_000, 'DEADLINE': 60}
FAULTS: Final[tuple[dict[str, Any], ...]] = (
    {'kind': 'delay', 'seconds': 0.3},
    {'kind': 'throttle', 'bytes_per_second': 2000},
    {'kind': 'status', 'status': 500},
    {'kind': 'status', 'status': 413},
    {'kind': 'status', 'status': 429, 'share': 0.05},
    {'kind': 'status', 'status': 503, 'share': 0.05},
    {'kind': 'html'},
    {'kind': 'drop'},
    {'kind': 'lose_response'},
)
SHARE: Final = 0.1
"""Share of requests affected by a fault, unless the fault states its own."""


@dataclass(kw_only=True)
class Sent:
    """A sent image.

    :param raw: True if sent as an array, so that the node encodes the JPEG.
    :param behind: True if the node stores it after its answer.
    :param name: name under which it arrives, if the answer states it.
    :param answered: time of the answer by `time.monotonic`; None without an answer, and then the image may arrive or
        not.
    """

    source: str
    raw: bool = False
    behind: bool = False
    name: str | None = None
    answered: float | None = None

    def accepted(self, kills: list[float]) -> bool:
        """Return True if the image must arrive."""
        if self.answered is None:
            return False
        return not self.behind or all(not -1 < kill - self.answered < BEHIND_SECONDS for kill in kills)


@dataclass(kw_only=True)
class Report:
    """Counts of images, and what went wrong.

    :param duplicates: arrivals beyond the first of each image.
    :param violations: descriptions of what must not happen; empty if all is well.
    """

    sent: int = 0
    accepted: int = 0
    unknown: int = 0
    arrived: int = 0
    duplicates: int = 0
    set_aside: int = 0
    corrupt: int = 0
    kills: int = 0
    seconds: float = 0
    fired: dict[str, int] = field(default_factory=dict)
    violations: list[str] = field(default_factory=list)


# ---------------------------------------------------------------- images


def draw(number: int) -> images.Image:
    """Draw 64×48 pixels of noise; the upper half shows the number in 24 bits, each a black or white block."""
    picture = np.random.default_rng(number).integers(0, 256, (48, 64, 3), dtype=np.uint8)
    bits = np.array([number >> bit & 1 for bit in range(24)], dtype=np.uint8).reshape(3, 8)
    picture[:24] = np.kron(255 * bits, np.ones((8, 8), dtype=np.uint8))[..., None]
    return picture


def jpeg_of(number: int) -> bytes:
    return images.encode_jpeg(draw(number), quality=90)


def number_on(jpeg: bytes) -> int:
    """Read the number from an image.

    :raises InvalidImage: the image is broken.
    """
    blocks = images.decode_image(jpeg)[:24].reshape(3, 8, 8, 8, 3).mean(axis=(1, 3, 4)).flatten()
    return sum(1 << bit for bit, brightness in enumerate(blocks.tolist()) if brightness > 127)


# ---------------------------------------------------------------- sending


class Soak:
    """State that the clients share: the running node, the sent images, and observations of the outbox."""

    def __init__(self) -> None:
        self.node: NodeProcess | None = None
        self.kills: list[float] = []
        self.sent: dict[int, Sent] = {}
        self.set_aside: dict[str, int] = {}
        self.violations: set[str] = set()
        self.room = threading.Event()
        self.limit = 0
        self._lock = threading.Lock()

    def take(self, count: int) -> list[int]:
        """Return numbers of images to send next; an empty list when all are sent."""
        with self._lock:
            first = len(self.sent)
            numbers = list(range(first, min(first + count, self.limit)))
            self.sent |= {number: Sent(source=f'soak-{first:06}') for number in numbers}
            return numbers

    def start(self, limit: int, rng: random.Random) -> list['Client']:
        """Start clients that send until `limit` images are sent in all."""
        self.limit = limit
        return [Client(self, rng.getrandbits(32)) for _ in range(CLIENTS)]

    def wait_until_sent(self, count: int) -> None:
        eventually(lambda: len(self.sent) >= count, f'{count} images sent', PATIENCE_SECONDS)

    def kill(self, node: NodeProcess) -> None:
        """End the node with SIGKILL while the clients use it."""
        self.kills.append(time.monotonic())
        node.process.kill()
        self.room.clear()
        node.process.wait()
        node.log.rename(node.log.with_name(f'node-{len(self.kills)}.log'))

    def look(self) -> int:
        """Check the counters of the outbox; pause or continue the clients.

        :return: number of waiting images.
        """
        if self.node is None:
            return 0
        answer = httpx.get(f'{self.node.url}/outbox', params={'limit': 0}, timeout=20)
        if ENDING in answer.text:  # the node drains at the end of the run
            return MOST_WAITING
        about = answer.json()
        ends = ('uploaded', 'set_aside', 'dropped', 'vanished', 'waiting')
        if about['found'] + about['saved'] != sum(about[end] for end in ends):
            self.violations.add(f'the counters do not add up: {about}')
        self.violations |= {f'an image is {end}' for end in ('failed', 'dropped', 'vanished') if about[end]}
        waiting = int(about['waiting'])
        if waiting >= MOST_WAITING:
            self.room.clear()
        elif waiting <= FEWEST_WAITING:
            self.room.set()
        return waiting

    def look_aside(self, data_folder: Path) -> None:
        """Record the images set aside before the node deletes them; it keeps the last 100."""
        for folder in (data_folder / 'outbox' / 'set_aside').glob('*'):
            name = folder.name
            if name in self.set_aside:
                continue
            try:
                metadata = json.loads((folder / f'image_{name}.json').read_bytes())
                self.set_aside[name] = number = number_on((folder / f'image_{name}.jpg').read_bytes())
                assert self.sent[number].source == metadata['source']
            except (OSError, ValueError, LookupError, InvalidImage, AssertionError) as error:
                self.violations.add(f'set aside and corrupt: {name}: {error!r}')

    @contextmanager
    def watched(self, data_folder: Path) -> Iterator[None]:
        """Observe the outbox until the context ends."""
        ended = threading.Event()

        def watch() -> None:
            while not ended.wait(0.2):
                try:
                    self.look_aside(data_folder)
                    self.look()
                except httpx.TransportError:
                    pass  # the node was killed
                except Exception as error:
                    self.violations.add(f'GET /outbox: {error!r}')

        thread = threading.Thread(target=watch)
        thread.start()
        try:
            yield
        finally:
            self.limit = 0  # ends the clients after a failure
            ended.set()
            thread.join()


class Client(threading.Thread):
    """Client that sends JPEGs over REST and arrays over Socket.IO. It does not repeat requests without an answer."""

    def __init__(self, soak: Soak, seed: int) -> None:
        super().__init__()
        self.soak = soak
        self.rng = random.Random(seed)
        self.http = httpx.Client(timeout=60)
        self.sockets = ExitStack()
        self.socket: tuple[NodeProcess, SocketClient] | None = None
        self.start()

    def run(self) -> None:
        with self.http, self.sockets:
            while len(self.soak.sent) < self.soak.limit:
                raw, detect = self.rng.random() < 0.5, self.rng.random() < 0.4
                if self.soak.room.wait(0.2):
                    self.send(self.soak.take(1 if raw or detect else self.rng.randint(1, 4)), raw, detect)

    def send(self, numbers: list[int], raw: bool, detect: bool) -> None:
        """Send some images in one request and record the answer."""
        sent = [self.soak.sent[number] for number in numbers]
        if not sent:
            return
        for image in sent:
            image.raw, image.behind = raw, detect
        event = 'detect' if detect else 'upload'
        options = {'source': sent[0].source, 'autoupload': 'all', 'upload_priority': self.rng.random() < 0.3}
        try:
            answer = self.over_socket(event, numbers, options) if raw else self.over_rest(event, numbers, options)
            assert not answer.keys() & {'error', 'detail'}, f'{event} is answered with {answer}'
            for image, name in zip(sent, answer.get('names', [None] * len(sent)), strict=True):
                image.name, image.answered = name, time.monotonic()
        except (httpx.TransportError, socketio.exceptions.SocketIOError):
            pass  # the node was killed
        except Exception as error:
            self.soak.violations.add(repr(error))

    def over_rest(self, event: str, numbers: list[int], options: dict[str, Any]) -> dict[str, Any]:
        assert self.soak.node is not None
        files = [('file' if event == 'detect' else 'files', jpeg_of(number)) for number in numbers]
        headers = {name: str(value) for name, value in options.items()}
        return dict(self.http.post(f'{self.soak.node.url}/{event}', files=files, headers=headers).json())

    def over_socket(self, event: str, numbers: list[int], options: dict[str, Any]) -> dict[str, Any]:
        node = self.soak.node
        assert node is not None
        if self.socket is None or self.socket[0] is not node:
            self.sockets.close()
            self.socket = node, self.sockets.enter_context(node.socketio())
        picture = draw(numbers[0])
        image = {'bytes': picture.tobytes(), 'dtype': 'uint8', 'shape': picture.shape}
        return dict(self.socket[1].call(event, {'image': image} | options, timeout=5))


# ---------------------------------------------------------------- the run


def run(folder: Path, *, count: int, kills: int, seed: int) -> Report:
    """Send images, kill the node at random times, wait until all have arrived, and check.

    :param folder: empty folder for logs and data.
    """
    start = time.monotonic()
    rng = random.Random(seed)
    soak = Soak()
    calm = count - int(count * CALM_PART)
    data_folder = folder / 'node' / 'data'
    with running_mock_loop(folder / 'loop') as loop, soak.watched(data_folder):
        for fault in FAULTS:
            loop.fault('images', **({'share': SHARE} | fault))
        settings = SETTINGS | loop.settings
        clients = soak.start(calm, rng)
        for moment in sorted(rng.sample(range(calm // 10, calm * 9 // 10), kills)):
            with running_node(folder / 'node', **settings) as soak.node:
                loop.fault('images', 'reject_image')
                soak.wait_until_sent(moment)
                time.sleep(rng.uniform(0, 2))
                soak.kill(soak.node)
        with running_node(folder / 'node', **settings) as soak.node:
            loop.fault('images', 'reject_image')
            drain(soak, clients)
            faults = loop.faults()
            for fault in faults:
                if fault['image'] is None:  # refusals of single images are permanent
                    loop.delete_fault(fault['id'])
            drain(soak, soak.start(count, rng))
        soak.look_aside(data_folder)
        report = Report(sent=len(soak.sent), kills=kills, set_aside=len(soak.set_aside), fired=fired(faults))
        check_arrivals(report, soak, loop, calm)
    check_rest(report, soak, faults, folder)
    report.violations += sorted(soak.violations)
    report.seconds = round(time.monotonic() - start, 1)
    return report


def drain(soak: Soak, clients: list[Client]) -> None:
    """Wait until all images are sent and the outbox is empty."""
    soak.wait_until_sent(soak.limit)
    for client in clients:
        client.join()
    time.sleep(BEHIND_SECONDS)
    eventually(lambda: soak.look() == 0, 'an empty outbox', PATIENCE_SECONDS)


def fired(faults: list[dict[str, Any]]) -> dict[str, int]:
    """Count the requests that met each kind of fault."""
    counts: Counter[str] = Counter()
    for fault in faults:
        counts[fault['kind'] + f' {fault["status"]}' * (fault['kind'] == 'status')] += fault['fired']
    return dict(counts)


def check_arrivals(report: Report, soak: Soak, loop: MockLoopProcess, calm: int) -> None:
    """Check that every accepted image is unchanged at the Loop or set aside, and that every duplicate has a cause.

    :param calm: number of the first image sent after all faults ended.
    """
    names: dict[int, list[str]] = defaultdict(list)
    for received in loop.images(metadata=False):
        try:
            number = number_on(jpeg := loop.jpeg(received['id']))
            image = soak.sent[number]
            assert image.source == received['source']
            assert image.raw or jpeg == jpeg_of(number)
        except (InvalidImage, LookupError, AssertionError) as error:
            report.corrupt += 1
            report.violations.append(f'corrupt: {received["name"]}, {received["source"]}: {error!r}')
        else:
            names[number].append(received['name'])
    set_aside = set(soak.set_aside.values())
    for number, image in soak.sent.items():
        came = names[number]
        accepted = image.accepted(soak.kills)
        report.accepted += accepted
        report.unknown += not accepted
        report.arrived += bool(came)
        report.duplicates += max(0, len(came) - 1)
        if accepted and not came and number not in set_aside:
            report.violations.append(f'lost: {number}, {image}')
        if came and set(came) != {f'image_{image.name}' if image.name else came[0]}:
            report.violations.append(f'arrived under other names: {number}, {image}, {came}')
        if number >= calm and len(came) != 1:
            report.violations.append(f'sent while all was well, arrived {len(came)} times: {number}, {image}')
    if report.duplicates > BATCH_IMAGES * (report.fired['lose_response'] + report.kills):
        report.violations.append('more duplicates than lost answers and kills account for')


def check_rest(report: Report, soak: Soak, faults: list[dict[str, Any]], folder: Path) -> None:
    """Check that refused images are set aside, the outbox is empty, and the logs have no traceback."""
    refused = {fault['image'] for fault in faults if fault['image'] is not None}
    refused -= {f'image_{name}' for name in soak.set_aside}
    report.violations += [f'refused, not set aside: {name}' for name in refused]
    for name in ('normal', 'priority', '.saving', '.removing'):
        left = sorted((folder / 'node' / 'data' / 'outbox' / name).rglob('*'))
        report.violations += [f'left behind: {path}' for path in left]
    logs = [folder / 'loop.log', *(folder / 'node').glob('*.log')]
    report.violations += [f'a traceback in {log}' for log in logs if 'Traceback' in log.read_text()]


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument('--images', type=int, default=5000)
    parser.add_argument('--kills', type=int, default=5)
    parser.add_argument('--seed', type=int, default=random.randrange(1_000_000))
    parser.add_argument('--folder', type=Path, help='folder for logs and data; a temporary folder if omitted')
    options = parser.parse_args()
    print(f'seed {options.seed}', flush=True)
    with tempfile.TemporaryDirectory() as temporary:
        folder = options.folder or Path(temporary)
        report = run(folder, count=options.images, kills=options.kills, seed=options.seed)
    for name, value in asdict(report).items():
        if name != 'violations':
            print(f'{name.replace("_", " "):<10}  {value}')
    print('\n'.join(report.violations) or 'every accepted image has arrived intact or is set aside')
    return 1 if report.violations else 0


if __name__ == '__main__':
    sys.exit(main())
