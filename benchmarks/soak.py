"""A node under mixed load for long: does it stay as fast and as small as it was, and is nothing left over or lost?

    uv run --extra plot python -m benchmarks.soak [--minutes 30] [-o FILE.json] [--plot FILE.svg]

Linux only: reads /proc. A real node, a mock Learning Loop that fails at random and changes the target between two
versions all the time, and a stand-in for Label Studio. Over REST, Socket.IO (clients that come and go, some without a
word), Label Studio's `/predict` and its webhooks come half as many requests as the node can bear, at a steady pace; so
CPU time per answer is judged as well. Fails if a goal is missed.
"""

import argparse
import asyncio
import os
import random
import sys
import tempfile
import time
from collections import Counter, defaultdict
from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

import httpx
import socketio

from detector import images
from detector.label_studio.config import generate, parse
from detector.label_studio.person import Person
from detector.label_studio.regions import to_results
from tests.cards import make_card
from tests.label_studio.studio import Studio, running_studio
from tests.mock.loops import MockLoopProcess, running_mock_loop
from tests.packages import make_package
from tests.processes import NodeProcess, running_node
from tests.test_following import wait_for_version

from .idle_memory import resident_mib
from .outbox_soak import jpeg_of
from .soak_report import Report, Slice, State, missed, plot, show, write

VERSIONS: Final = ('1.1', '1.2')
SLICES: Final = 10
"""Seconds; shorter where the run is short, so that there are ten."""
SWITCH_SECONDS: Final = 30.0
WARM_SECONDS: Final = 20.0
SETTLE_SECONDS: Final = 15.0
QUIET_SECONDS: Final = 120.0
"""After the load: so long the outbox may take to empty, and descriptors to be closed (a lost client is noticed after
45)."""
PATIENCE: Final = 30.0
SHARE_OF_CAPACITY: Final = 0.5
ANNOTATIONS: Final = 20
SETTINGS: Final[dict[str, Any]] = {
    'POLL_SECONDS': 1, 'UPLOAD_SECONDS': 0.5, 'MAX_OUTBOX_SIZE': 1_000_000, 'KEEP_MODELS': 1, 'IMAGE_HOSTS': 'none',
}  # fmt: skip
MIX: Final = {'POST /detect': 0.3, 'POST /poses': 0.2, 'event detect': 0.3, 'POST /upload': 0.1, 'POST /predict': 0.05,
              'POST /webhook': 0.05}  # fmt: skip
"""Shares of the requests."""
REFUSALS: Final = ('are before this one', 'a newer frame of this camera', 'no inference within')
FAULTS: Final[tuple[tuple[str, str, dict[str, Any]], ...]] = (
    ('images', 'status', {'status': 500}),
    ('images', 'status', {'status': 503}),
    ('images', 'drop', {}),
    ('images', 'delay', {'seconds': 3}),
    ('images', 'lose_response', {}),
    ('target', 'status', {'status': 502}),
    ('target', 'delay', {'seconds': 3}),
    ('target', 'drop', {}),
    ('status', 'status', {'status': 500}),
    ('status', 'drop', {}),
    ('detectors', 'drop', {}),
    ('model_file', 'truncate', {}),
    ('model_file', 'drop', {}),
    ('model_file', 'delay', {'seconds': 3}),
)
SHARE: Final = 0.1
"""Of the requests that meet a fault."""
CARD: Final = images.encode_jpeg(make_card(), quality=80)


@dataclass(frozen=True, slots=True, kw_only=True)
class Outcome:
    kind: str
    at: float
    seconds: float
    refused: bool


class Load:
    """The clients, and what they note.

    :param outcomes: of all requests but those that failed; `errors` are those.
    :param accepted: sources of images that the node has promised to send.
    :param rude: whether every third client of Socket.IO leaves without a word.
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
        """Detections a second that four clients get who ask again at once."""
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
        """So much at once that all pools of threads are as large as they get."""
        doors = (('POST /detect', self._detect), ('POST /predict', self._predict), ('POST /upload', self._upload))
        await asyncio.gather(*(self._post(kind, door) for kind, door in doors for _ in range(12)))

    async def run(self, rate: float, seconds: float) -> None:
        """Send so many requests a second."""
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
        """One robot after the other: each stays some seconds, and every third leaves without a word."""
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
    """Act once a period; what is late is not made up for."""
    due = time.monotonic() + random.uniform(0, period)
    while due < end:
        await asyncio.sleep(max(0.0, due - time.monotonic()))
        await action()
        due = max(due + period, time.monotonic())


# ---------------------------------------------------------------- what is seen of the node


class Observer:
    """Looks at the node's process each second."""

    def __init__(self, pid: int, tasks_file: Path) -> None:
        self._pid = pid
        self._tasks_file = tasks_file
        self.states: list[tuple[float, State, float]] = []

    def look(self) -> State:
        status = Path(f'/proc/{self._pid}/status').read_text()
        return State(
            rss=round(resident_mib(self._pid), 1),
            files=len(os.listdir(f'/proc/{self._pid}/fd')),
            threads=int(status.split('Threads:')[1].split()[0]),
            tasks=int(self._tasks_file.read_text()),
        )

    async def watch(self) -> None:
        while True:
            its = Path(f'/proc/{self._pid}/stat').read_text().rpartition(')')[2].split()[11:13]
            self.states.append((time.monotonic(), self.look(), sum(map(int, its)) / os.sysconf('SC_CLK_TCK')))
            await asyncio.sleep(1)

    def files(self) -> list[str]:
        folder = Path(f'/proc/{self._pid}/fd')
        return sorted(os.readlink(folder / name) for name in os.listdir(folder))


def slices_of(start: float, seconds: float, load: Load, observer: Observer) -> list[Slice]:
    """What was noted, by time."""
    count = 10 * max(1, round(seconds / SLICES / 10))
    width = seconds / count
    found = [Slice(start=round(number * width, 1)) for number in range(count)]
    taken: list[dict[str, list[float]]] = [defaultdict(list) for _ in found]
    for outcome in load.outcomes:
        number = int((outcome.at - start) // width)
        if not 0 <= number < count:
            continue
        if outcome.refused:
            found[number].refused[outcome.kind] = found[number].refused.get(outcome.kind, 0) + 1
        else:
            taken[number][outcome.kind].append(1000 * outcome.seconds)
    for part, by_kind in zip(found, taken, strict=True):
        for kind, times in by_kind.items():
            times.sort()
            part.answered[kind] = len(times)
            part.p50[kind], part.p99[kind] = (round(times[int(q * (len(times) - 1))], 1) for q in (0.5, 0.99))
    for (at, state, before), (_, _, after) in zip(observer.states, observer.states[1:], strict=False):
        number = int((at - start) // width)
        if 0 <= number < count:
            found[number].states.append(state)
            found[number].cpu = round(found[number].cpu + after - before, 2)
    return found


# ---------------------------------------------------------------- the run


def run(folder: Path, *, seconds: float, rate: float | None = None, warm: float = WARM_SECONDS) -> Report:
    """Put a node under load, let all arrive, and judge.

    :param folder: empty; keeps the logs.
    :param rate: requests a second; None: half of what the node can bear.
    :param warm: seconds of load before the node's idle state is noted.
    """
    folder.mkdir(parents=True, exist_ok=True)
    tasks_file = folder / 'tasks'
    probe = {'PYTHONPATH': Path(__file__).parent / 'soak_probe', 'SOAK_TASKS_FILE': tasks_file}
    with running_mock_loop(folder / 'loop') as loop, running_studio() as studio:
        for version in VERSIONS:
            loop.upload_package(make_package(folder / f'{version}.zip', version=version), version)
        loop.set_target(VERSIONS[0])
        with running_node(folder / 'node', **SETTINGS, **loop.settings, **studio.settings, **probe) as node:
            wait_for_version(node, VERSIONS[0])
            report = asyncio.run(_run(node, loop, studio, tasks_file, Report(seconds=seconds, rate=rate or 0.0), warm))
    report.missed = missed(report)
    log = node.log.read_text()
    report.missed += ['a traceback in the log of the node'] if 'Traceback' in log else []
    return report


async def _run(
    node: NodeProcess, loop: MockLoopProcess, studio: Studio, tasks_file: Path, report: Report, warm: float
) -> Report:
    load, observer = Load(node, studio), Observer(node.process.pid, tasks_file)
    watching = asyncio.create_task(observer.watch())
    report.rate = report.rate or SHARE_OF_CAPACITY * await load.capacity(max(3.0, warm / 2))
    await load.burst()
    switching = asyncio.create_task(_switch(loop, report))
    await load.run(report.rate, warm)
    await _settled(node)
    await asyncio.sleep(SETTLE_SECONDS / 2)
    await _touch(node)
    await asyncio.sleep(SETTLE_SECONDS / 2)
    report.idle['before'] = _most([state for _, state, _ in observer.states[-5:]])
    faults = [await asyncio.to_thread(loop.fault, at, kind, share=SHARE, **more) for at, kind, more in FAULTS]
    load.outcomes.clear()
    load.rude = True
    start = time.monotonic()
    await load.run(report.rate, report.seconds)
    report.slices = slices_of(start, report.seconds, load, observer)
    switching.cancel()
    fired = {fault['id']: fault for fault in await asyncio.to_thread(loop.faults)}
    report.faults = {
        f'{fired[n]["endpoint"]} {fired[n]["kind"]} {fired[n]["status"]}': fired[n]['fired'] for n in faults
    }
    await asyncio.to_thread(loop.clear_faults)
    await load.close()
    report.corrections = await _settled(node)
    await asyncio.sleep(SETTLE_SECONDS / 2)
    await _touch(node)
    report.idle['after'] = await _quiet(observer, report.idle['before'])
    if report.idle['after'].files > report.idle['before'].files:
        report.left_files = observer.files()
    watching.cancel()
    arrived = {image['source'] for image in await asyncio.to_thread(loop.images, metadata=False)}
    report.accepted, report.lost = len(load.accepted), sorted(load.accepted - arrived)
    report.errors, report.connections = dict(load.errors), load.connections
    return report


async def _switch(loop: MockLoopProcess, report: Report) -> None:
    """Let the Loop want the other version, again and again."""
    pause = min(SWITCH_SECONDS, report.seconds / 6)
    while True:
        await asyncio.sleep(pause)
        report.switches += 1
        await asyncio.to_thread(loop.set_target, VERSIONS[report.switches % len(VERSIONS)])


async def _settled(node: NodeProcess) -> dict[str, int]:
    """Wait until nothing is left to send.

    :return: what became of corrections.
    """
    end = time.monotonic() + QUIET_SECONDS
    async with httpx.AsyncClient(timeout=PATIENCE) as client:
        while True:
            about = (await client.get(f'{node.url}/about')).json()
            corrections: dict[str, int] = about['label_studio']['corrections']
            if time.monotonic() > end or (about['outbox']['waiting'] == 0 and corrections['waiting'] == 0):
                return corrections
            await asyncio.sleep(1)


async def _touch(node: NodeProcess) -> None:
    """Ask once for a task's image: HTTP clients close idle connections only when they are used again."""
    async with httpx.AsyncClient(timeout=PATIENCE) as client:
        tasks = [{'id': 1, 'data': {'image': '/data/upload/1/1.jpg'}}]
        (await client.post(f'{node.url}/predict', json={'tasks': tasks})).raise_for_status()


async def _quiet(observer: Observer, before: State) -> State:
    """The state of the node when it is idle again, or after `QUIET_SECONDS`."""
    end = time.monotonic() + QUIET_SECONDS
    while True:
        state = observer.look()
        is_idle = all(getattr(state, name) <= getattr(before, name) for name in ('files', 'threads', 'tasks'))
        if is_idle or time.monotonic() > end:
            return state
        await asyncio.sleep(1)


def _most(states: list[State]) -> State:
    return State(**{name: max(getattr(state, name) for state in states) for name in State.__slots__})


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument('--minutes', type=float, default=30)
    parser.add_argument('--rate', type=float, help='requests a second; by default half of what the node can bear')
    parser.add_argument('--folder', type=Path, help='for logs and all that is stored; a temporary one without')
    parser.add_argument('-o', '--output', type=Path, help='for the report as JSON')
    parser.add_argument('--plot', type=Path, help='for the figure, .svg or .png; needs the extra `plot`')
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as temporary:
        report = run(options.folder or Path(temporary), seconds=60 * options.minutes, rate=options.rate)
    if options.output is not None:
        write(report, options.output)
    if options.plot is not None:
        plot(report, options.plot)
    show(report)
    return 1 if report.missed else 0


if __name__ == '__main__':
    sys.exit(main())
