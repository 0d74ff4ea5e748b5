"""Clients of `benchmarks.soak`: their requests, and their records of the answers."""

import asyncio
import random
import time
from collections import Counter
from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from typing import Any, Final

import httpx
import socketio

from detector.datasets.person import Person
from detector.label_studio.labels.config import generate, parse
from detector.label_studio.labels.regions import to_results
from detector.pose import images

from .outbox_soak import jpeg_of
from .support.cards import make_card
from .support.processes import NodeProcess
from .support.studio import Studio

PATIENCE: Final = 30.0
ANNOTATIONS: Final = 20
MIX: Final = {'POST /detect': 0.3, 'POST /poses': 0.2, 'event detect': 0.3, 'POST /upload': 0.1, 'POST /predict': 0.05,
              'POST /webhook': 0.05}  # fmt: skip
"""Shares of the kinds of requests."""
REFUSALS: Final = ('are ahead of this one', 'a newer frame of this camera', 'no turn within')
CARD: Final = images.encode_jpeg(make_card(), quality=80)


@dataclass(frozen=True, slots=True, kw_only=True)
class Outcome:
    kind: str
    at: float
    seconds: float
    refused: bool


class Load:
    """The clients and their records.

    :param outcomes: outcomes of all requests except the failed ones, which are in `errors`.
    :param accepted: sources of images that the node has accepted for the Loop.
    :param rude: True if every third Socket.IO client disconnects without a message.
    """

    def __init__(self, node: NodeProcess, studio: Studio) -> None:
        self.node = node
        self.studio = studio
        self.outcomes: list[Outcome] = []
        self.errors: Counter[str] = Counter()
        self.accepted: set[str] = set()
        self.connections = 0
        self.rude = False
        self._numbers = iter(range(10**9))
        self._http = httpx.AsyncClient(base_url=node.url, timeout=PATIENCE, limits=httpx.Limits(keepalive_expiry=3))
        self._tasks = self._make_tasks()

    def _make_tasks(self) -> list[dict[str, Any]]:
        config = parse(generate('keypoints'))
        person = Person.empty()
        person.visibility[:17] = 2
        for number in range(1, ANNOTATIONS + 1):
            address = self.studio.add_image(f'{number}.jpg', CARD)
            self.studio.add_annotation(number, to_results([person], config, (720, 480)), image=address)
        return [{'id': n, 'data': {'image': f'/data/upload/1/{n}.jpg'}} for n in range(1, ANNOTATIONS + 1)]

    async def close(self) -> None:
        await self._http.aclose()

    async def capacity(self, seconds: float) -> float:
        """Return the detections a second of four clients that send without a pause."""
        end = time.monotonic() + seconds
        count = 0

        async def ask() -> None:
            nonlocal count
            while time.monotonic() < end:
                await self._post('POST /detect', self._detect)
                count += 1

        await asyncio.gather(*(ask() for _ in range(4)))
        return count / seconds

    async def burst(self) -> None:
        """Send enough requests at once to fill all thread pools."""
        doors = (('POST /detect', self._detect), ('POST /predict', self._predict), ('POST /upload', self._upload))
        await asyncio.gather(*(self._post(kind, door) for kind, door in doors for _ in range(12)))

    async def run(self, rate: float, seconds: float) -> None:
        """Send requests at a steady rate, in requests a second."""
        doors: dict[str, Callable[[], Awaitable[httpx.Response]]] = {
            'POST /detect': self._detect,
            'POST /poses': lambda: self._http.post('/poses', files={'file': CARD}),
            'POST /upload': self._upload,
            'POST /predict': self._predict,
            'POST /webhook': self._webhook,
        }
        end = time.monotonic() + seconds
        async with asyncio.TaskGroup() as group:
            for kind, door in doors.items():
                for _ in range(clients := 4 if kind == 'POST /detect' else 2):
                    period = clients / (rate * MIX[kind])
                    group.create_task(_paced(period, end, lambda k=kind, d=door: self._post(k, d)))  # type: ignore[misc]
            for number in range(4):
                group.create_task(self._robots(f'robot {number}', 4 / (rate * MIX['event detect']), end))

    # ---------------------------------------------------------------- REST

    async def _post(self, kind: str, door: Callable[[], Awaitable[httpx.Response]]) -> None:
        sent = time.monotonic()
        try:
            response = await door()
        except (httpx.HTTPError, OSError) as error:
            self.errors[f'{kind}: {error!r}'[:200]] += 1
            return
        refused = response.status_code == 503 and 'retry-after' in response.headers
        if response.status_code != 200 and not refused:
            self.errors[f'{kind}: {response.status_code} {response.text}'[:200]] += 1
            return
        self._note(kind, sent, refused)

    def _note(self, kind: str, sent: float, refused: bool) -> None:
        now = time.monotonic()
        self.outcomes.append(Outcome(kind=kind, at=now, seconds=now - sent, refused=refused))

    async def _detect(self) -> httpx.Response:
        number = next(self._numbers)
        source = f'detected-{number}'
        headers = {'source': source, 'camera_id': f'camera {number % 3}', 'autoupload': 'filtered'}
        if number % 10 == 0:
            headers['autoupload'] = 'all'
        response = await self._http.post('/detect', files={'file': CARD}, headers=headers)
        if response.status_code == 200 and number % 10 == 0:
            self.accepted.add(source)
        return response

    async def _upload(self) -> httpx.Response:
        number = next(self._numbers)
        source = f'uploaded-{number}'
        files = [('files', jpeg_of(number))]
        response = await self._http.post('/upload', files=files, params={'source': source})
        if response.status_code == 200:
            self.accepted.add(source)
        return response

    async def _predict(self) -> httpx.Response:
        tasks = random.sample(self._tasks, 3)
        response = await self._http.post('/predict', json={'tasks': tasks})
        if response.status_code == 200:
            empty = [result for result in response.json()['results'] if not result]
            if empty:
                self.errors['POST /predict: a task without prediction'] += 1
        return response

    async def _webhook(self) -> httpx.Response:
        number = random.randint(1, ANNOTATIONS)
        self.studio.objects[f'/api/annotations/{number}/']['updated_at'] = str(next(self._numbers))
        body = {'action': 'ANNOTATION_UPDATED', 'annotation': {'id': number}, 'project': {'id': 1}}
        return await self._http.post('/webhook', json=body)

    # ---------------------------------------------------------------- Socket.IO

    async def _robots(self, camera: str, period: float, end: float) -> None:
        """Connect one robot after the other for some seconds each; every third disconnects without a message."""
        array = make_card()
        frame = {'bytes': array.tobytes(), 'dtype': 'uint8', 'shape': array.shape}
        while time.monotonic() < end:
            client = socketio.AsyncClient(reconnection=False)
            until = min(end, time.monotonic() + random.uniform(4, 12))
            try:
                await client.connect(self.node.url, socketio_path='/ws/socket.io', transports=['websocket'])
                self.connections += 1
                await _paced(period, until, lambda c=client: self._call(c, {'image': frame, 'camera_id': camera}))  # type: ignore[misc]
                if self.rude and self.connections % 3 == 0:
                    client.eio.ws._response.connection.transport.abort()
                    await client.eio.http.close()
                else:
                    await client.disconnect()
            except (OSError, socketio.exceptions.SocketIOError) as error:
                self.errors[f'Socket.IO: {error!r}'[:200]] += 1
                await asyncio.sleep(1)

    async def _call(self, client: socketio.AsyncClient, payload: dict[str, Any]) -> None:
        sent = time.monotonic()
        answer = await client.call('detect', payload, timeout=PATIENCE)
        said = str(answer.get('error', ''))
        if said and not any(text in said for text in REFUSALS):
            self.errors[f'event detect: {said}'[:200]] += 1
        else:
            self._note('event detect', sent, bool(said))


async def _paced(period: float, end: float, action: Callable[[], Awaitable[None]]) -> None:
    """Act once per period, without catching up after a delay."""
    due = time.monotonic() + random.uniform(0, period)
    while due < end:
        await asyncio.sleep(max(0.0, due - time.monotonic()))
        await action()
        due = max(due + period, time.monotonic())
