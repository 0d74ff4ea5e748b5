"""Put a node under overload; check `/health`, immediate refusals, deadlines and memory.

    uv run python -m benchmarks.load [--package ZIP] [--seconds 30] [-o FILE.json]

Linux only, since it reads /proc. The benchmark starts a real node. Four clients keep it busy, which gives its capacity.
Then frames arrive at ten times that rate, each at its time regardless of the answers to others, in turn over
`POST /detect`, `POST /poses` and the Socket.IO events with these names. The clients and the prober of `/health` run in
their own processes, which share the node's cores. The exit status is 1 if a goal is missed.
"""

import argparse
import asyncio
import gc
import http.client
import json
import math
import multiprocessing
import os
import sys
import tempfile
import time
from collections import Counter, deque
from collections.abc import Sequence
from concurrent.futures import ProcessPoolExecutor, ThreadPoolExecutor
from dataclasses import asdict, dataclass, field
from pathlib import Path
from statistics import median
from typing import Any, Final

import httpx
import socketio

from detector.models.store import ModelStore
from detector.pose import images

from .idle_memory import resident_mib
from .network_layers import random_pictures
from .support.processes import running_node

CLIENTS: Final = 4
OVERLOAD: Final = 10.0
DEADLINE: Final = 2.0
GOAL_MS: Final = 50.0
"""Largest permitted 99th percentile of `/health` and of immediate refusals, in milliseconds."""
GROWTH: Final = 1.1
"""Largest permitted ratio of the memory in the last third of the overload to that in the first third."""
LOOP_SECONDS: Final = 0.05
"""Tolerance for the end of a wait at the deadline, in seconds."""
OTHER_SECONDS: Final = 0.5
"""Time limit for transfer, form and JSON of an answer, excluding waiting and inference, on shared cores, in seconds."""

_PROBE_SECONDS: Final = 0.05
_PATIENCE: Final = 30.0
_WEB_SOCKETS: Final = 8

PHASES: Final = ('idle', 'full load', 'overload')
DOORS: Final = ('POST /detect', 'event detect', 'POST /poses', 'event poses')
ANSWERED, AT_ONCE, AT_DEADLINE, FAILED = ENDS = ('answered', 'refused at once', 'refused at the deadline', 'failed')
_SAID: Final = {'are ahead of this one': AT_ONCE, 'no turn within': AT_DEADLINE}


@dataclass(frozen=True, slots=True, kw_only=True)
class Outcome:
    """Outcome of a frame.

    :param end: one of `ENDS`.
    :param seconds: from sending to the last byte of the answer.
    :param late: delay of sending, in seconds.
    :param timing: milliseconds by stage, if the answer states them.
    :param said: error in the answer.
    """

    door: str
    end: str
    seconds: float
    late: float
    timing: dict[str, float] | None
    said: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Times:
    """Statistics of times in milliseconds; 0 without times."""

    count: int
    median: float
    p99: float
    max: float

    @classmethod
    def of(cls, seconds: Sequence[float]) -> 'Times':
        ordered = [round(1000 * value, 2) for value in sorted(seconds)] or [0.0]
        p99 = ordered[math.ceil(0.99 * len(ordered)) - 1]
        return cls(count=len(seconds), median=round(median(ordered), 2), p99=p99, max=ordered[-1])


@dataclass(kw_only=True)
class Report:
    """Figures of a run.

    :param deadline: time in which a turn must begin, in seconds.
    :param capacity: frames a second answered to `CLIENTS` clients.
    :param offered: frames a second during the overload.
    :param answered: answered frames a second during the overload.
    :param ends: number of frames of the overload by interface and end.
    :param slow_refusals: share of the immediate refusals that took longer than `GOAL_MS`.
    :param memory: resident memory of the node during the overload in MiB, once per second.
    :param requests: the node's own counts of present and refused requests at the end.
    :param sending: cores used for sending the overload.
    :param others: cores used by other programs during the overload, which make the figures less reliable.
    :param missed: missed goals; empty if all is well.
    """

    seconds: float
    deadline: float
    capacity: float = 0
    offered: float = 0
    answered: float = 0
    ends: dict[str, dict[str, int]] = field(default_factory=dict)
    times: dict[str, Times] = field(default_factory=dict)
    slow_refusals: float = 0
    memory: list[float] = field(default_factory=list)
    requests: dict[str, int] = field(default_factory=dict)
    sending: float = 0
    others: float = 0
    missed: list[str] = field(default_factory=list)


# ---------------------------------------------------------------- processes beside the node


def health_seconds(connection: http.client.HTTPConnection, due: float) -> tuple[float, float]:
    """Request `/health` when it is due, or at once if that time is over.

    :param due: time by `time.monotonic`.
    :return: seconds from the due time to the answer, and the due time.
    """
    if due > time.monotonic():
        time.sleep(due - time.monotonic())
        due = time.monotonic()
    connection.request('GET', '/health')
    answer = connection.getresponse()
    content = answer.read()
    assert answer.status == 200, content
    return time.monotonic() - due, due


def probe(port: int, seconds: float, start: float) -> dict[str, list[float]]:
    """Request `/health` at a steady rate, over one kept connection and over new ones.

    :param start: time by `time.monotonic`.
    :return: seconds of each answer; a time starts when the request is due, even if the previous answer was late.
    """

    def ask(kept: bool) -> list[float]:
        connection = http.client.HTTPConnection('127.0.0.1', port, timeout=_PATIENCE)
        taken = []
        for number in range(int(seconds / _PROBE_SECONDS)):
            taken.append(health_seconds(connection, start + (number + 0.5 * kept) * _PROBE_SECONDS)[0])
            if not kept:
                connection.close()
        connection.close()
        return taken

    with ThreadPoolExecutor(2) as threads:
        return dict(zip(('kept', 'fresh'), threads.map(ask, (True, False)), strict=True))


def keep_busy(port: int, jpeg: bytes, seconds: float, start: float) -> list[tuple[int, float]]:
    """Post frames to `/detect` from several clients without a pause.

    :return: status and seconds of each answer; on a busy machine the node may refuse some.
    """

    def post(_: int) -> list[tuple[int, float]]:
        taken = []
        with httpx.Client(base_url=f'http://127.0.0.1:{port}', timeout=_PATIENCE) as client:
            time.sleep(max(0.0, start - time.monotonic()))
            while (sent := time.monotonic()) < start + seconds:
                answer = client.post('/detect', files={'file': jpeg})
                taken.append((answer.status_code, time.monotonic() - sent))
                assert 'box_detections' in answer.json() or 'retry-after' in answer.headers, answer.text
                time.sleep(int(answer.headers.get('retry-after', 0)))
        return taken

    with ThreadPoolExecutor(CLIENTS) as threads:
        return [answer for taken in threads.map(post, range(CLIENTS)) for answer in taken]


def overload(port: int, jpeg: bytes, seconds: float, start: float, rate: float) -> tuple[list[Outcome], float]:
    """Send `rate` frames a second.

    :return: outcomes of the frames, and the cores used for sending.
    """
    before = time.process_time()
    outcomes = asyncio.run(_overload(port, jpeg, int(seconds * rate), start, rate))
    return outcomes, (time.process_time() - before) / seconds


async def _overload(port: int, jpeg: bytes, frames: int, start: float, rate: float) -> list[Outcome]:
    rest = Rest(port, jpeg)
    sockets = [socketio.AsyncClient(reconnection=False) for _ in range(_WEB_SOCKETS)]
    for socket in sockets:
        await socket.connect(f'http://127.0.0.1:{port}', socketio_path='/ws/socket.io', transports=['websocket'])

    async def ask(number: int, kind: str, name: str) -> dict[str, Any]:
        if kind == 'POST':
            return await rest.post(name)
        socket = sockets[number // len(DOORS) % _WEB_SOCKETS]
        return dict(await socket.call(name, {'image': {'format': 'jpeg', 'bytes': jpeg}}, timeout=_PATIENCE))

    async def send(number: int, due: float) -> Outcome:
        sent = time.monotonic()
        door = DOORS[number % len(DOORS)]
        try:
            async with asyncio.timeout(_PATIENCE):
                answer = await ask(number, *door.split(' '))
        except (OSError, EOFError, ValueError, socketio.exceptions.SocketIOError) as error:
            answer = {'error': repr(error)}
        said = str(answer.get('error'))
        end = next((end for text, end in _SAID.items() if text in said), FAILED)
        if 'box_detections' in answer or 'poses' in answer:
            end = ANSWERED
        seconds = time.monotonic() - sent
        return Outcome(door=door, end=end, seconds=seconds, late=sent - due, timing=answer.get('timing'), said=said)

    await asyncio.sleep(start - time.monotonic())
    tasks = []
    for number in range(frames):
        due = start + number / rate
        await asyncio.sleep(max(0.0, due - time.monotonic()))
        tasks.append(asyncio.create_task(send(number, due)))
    outcomes = await asyncio.gather(*tasks)
    await asyncio.gather(*(socket.disconnect() for socket in sockets))
    return list(outcomes)


class Rest:
    """Pool of HTTP connections. It uses the one idle longest first, since uvicorn closes idle connections after 5 s."""

    def __init__(self, port: int, jpeg: bytes) -> None:
        self._port = port
        self._idle: deque[tuple[asyncio.StreamReader, asyncio.StreamWriter]] = deque()
        form = b'--of-a-load\r\nContent-Disposition: form-data; name="file"; filename="f.jpg"\r\n\r\n'
        form += jpeg + b'\r\n--of-a-load--\r\n'
        head = f'Content-Type: multipart/form-data; boundary=of-a-load\r\nContent-Length: {len(form)}'
        self._request = f' HTTP/1.1\r\nHost: 127.0.0.1:{port}\r\n{head}\r\n\r\n'.encode() + form

    async def post(self, route: str) -> dict[str, Any]:
        """Post the frame.

        :return: the answer; for a refusal, an object with the field `error`.
        :raises ValueError: the answer has neither status 200 nor is a 503 with `Retry-After`.
        """
        while self._idle and self._idle[0][0].at_eof():
            self._idle.popleft()[1].close()
        connection = self._idle.popleft() if self._idle else await asyncio.open_connection('127.0.0.1', self._port)
        reader, writer = connection
        writer.write(f'POST {route}'.encode() + self._request)
        head = (await reader.readuntil(b'\r\n\r\n')).decode().lower()
        answer = json.loads(await reader.readexactly(int(head.partition('\ncontent-length:')[2].partition('\r')[0])))
        self._idle.append(connection)
        if head.startswith('http/1.1 503 ') and '\nretry-after: ' in head:
            return {'error': answer['detail']}
        if not head.startswith('http/1.1 200 '):
            raise ValueError(f'{head[9:12]}: {answer}')
        return dict(answer)


# ---------------------------------------------------------------- the run


def run(folder: Path, *, archive: Path | None, seconds: float, factor: float = OVERLOAD, **settings: Any) -> Report:
    """Put a node under load.

    :param folder: empty folder for log and data.
    :param archive: package to serve; the test card model if None.
    :param seconds: duration of each phase.
    :param factor: ratio of the offered rate to the capacity.
    :param settings: settings of the node.
    """
    if archive is not None:
        store = ModelStore(folder / 'data')
        store.select(store.add(archive).version)
    settings = {'DEADLINE': DEADLINE} | settings
    report = Report(seconds=seconds, deadline=float(settings['DEADLINE']))
    jpeg = images.encode_jpeg(random_pictures(1, width=640, height=480)[0], quality=90)
    spawning = multiprocessing.get_context('spawn')
    # No garbage collection: it would delay these processes, and the delay would count as the node's.
    with running_node(folder, **settings) as node, ProcessPoolExecutor(2, spawning, gc.disable) as pool:
        list(pool.map(time.sleep, (0.5, 0.5)))  # until both processes have started
        for phase in PHASES:
            start = time.monotonic() + 0.5
            probed = pool.submit(probe, node.port, seconds, start)
            if phase == 'full load':
                answers = pool.submit(keep_busy, node.port, jpeg, seconds, start).result()
                for end, code in (('answered', 200), ('refused', 503)):
                    report.times[f'full load: {end}'] = Times.of([taken for status, taken in answers if status == code])
                report.capacity = round(report.times['full load: answered'].count / seconds, 2)
            elif phase == 'overload':
                offered = pool.submit(overload, node.port, jpeg, seconds, start, factor * report.capacity)
                report.memory, others = watch(node.process.pid, start, seconds)
                outcomes, report.sending = offered.result()
                report.others = round(others - report.sending, 2)
            for connection, found in probed.result().items():
                report.times[f'{phase}: /health, {connection} connection'] = Times.of(found)
        assert httpx.get(f'{node.url}/ready', timeout=_PATIENCE).status_code == 200
        report.requests = httpx.get(f'{node.url}/about', timeout=_PATIENCE).json()['requests']
    note_overload(report, outcomes)
    report.missed = missed(report, outcomes)
    return report


def watch(pid: int, start: float, seconds: float) -> tuple[list[float], float]:
    """Return the resident MiB of a process, once per second, and the cores used by all other processes."""

    def spent() -> int:
        everything = Path('/proc/stat').read_text().partition('\n')[0].split()[1:9]
        its = Path(f'/proc/{pid}/stat').read_text().rpartition(')')[2].split()[11:13]
        return sum(map(int, everything[:3] + everything[5:])) - sum(map(int, its))

    samples, before = [], spent()
    for second in range(math.ceil(seconds)):
        time.sleep(max(0.0, start + second + 0.5 - time.monotonic()))
        samples.append(round(resident_mib(pid), 1))
    return samples, (spent() - before) / os.sysconf('SC_CLK_TCK') / seconds


def note_overload(report: Report, outcomes: list[Outcome]) -> None:
    """Record the outcomes of the frames and their times."""
    counts = Counter((outcome.door, outcome.end) for outcome in outcomes)
    report.ends = {door: {end: counts[door, end] for end in ENDS} for door in DOORS}
    report.offered = round(len(outcomes) / report.seconds, 2)
    report.answered = round(sum(counts[door, ANSWERED] for door in DOORS) / report.seconds, 2)

    def note(what: str, seconds: list[float]) -> None:
        report.times[f'overload: {what}'] = Times.of(seconds)

    for end in ENDS[:3]:
        note(end, [outcome.seconds for outcome in outcomes if outcome.end == end])
    at_once = [outcome for outcome in outcomes if outcome.end == AT_ONCE]
    for kind in ('POST', 'event'):
        note(f'{AT_ONCE}, {kind}', [outcome.seconds for outcome in at_once if outcome.door.startswith(kind)])
    report.slow_refusals = sum(1000 * outcome.seconds > GOAL_MS for outcome in at_once) / max(1, len(at_once))
    told = [(outcome.seconds, outcome.timing) for outcome in outcomes if outcome.timing is not None]
    note('answered, until the turn', [(timing['decode_ms'] + timing['wait_ms']) / 1000 for _, timing in told])
    note('answered, the turn', [timing['inference_ms'] / 1000 for _, timing in told])
    note('answered, the rest of it', [seconds - sum(timing.values()) / 1000 for seconds, timing in told])
    note('sent late by', [outcome.late for outcome in outcomes])


def missed(report: Report, outcomes: list[Outcome]) -> list[str]:
    """Return the missed goals with their figures."""
    found = []

    def check(what: str, value: float, limit: float) -> None:
        if value > limit:
            found.append(f'{what}: {value:.1f}, not {limit:.1f}')

    for name, times in report.times.items():
        if '/health' in name or name == f'overload: {AT_ONCE}':
            check(f'{name}, 99th percentile in ms', times.p99, GOAL_MS)
    longest = {name.removeprefix('overload: '): times.max / 1000 for name, times in report.times.items()}
    check('seconds until a turn', longest['answered, until the turn'], report.deadline + LOOP_SECONDS)
    check('seconds until an answer', longest[ANSWERED], report.deadline + longest['answered, the turn'] + OTHER_SECONDS)
    before, after = thirds(report.memory)
    check('MiB of memory at the end', after, GROWTH * before)
    return found + sorted({f'{outcome.door}: {outcome.said}' for outcome in outcomes if outcome.end == FAILED})


def thirds(memory: list[float]) -> tuple[float, float]:
    """Return the medians of the first and of the last third."""
    size = math.ceil(len(memory) / 3)
    return median(memory[:size]), median(memory[-size:])


def show(report: Report) -> None:
    print(f'capacity {report.capacity:.1f} frames/s; offered {report.offered:.1f}, answered {report.answered:.1f}')
    print(f'{"":44} {"count":>7} {"median":>8} {"p99":>8} {"max":>8} ms')
    for name, times in report.times.items():
        print(f'{name:44} {times.count:7} {times.median:8.1f} {times.p99:8.1f} {times.max:8.1f}')
    idle, full, over = (report.times[f'{phase}: /health, kept connection'].p99 for phase in PHASES)
    print(f'p99 of /health against idle: {full / idle:.1f}× under full load, {over / idle:.1f}× under overload')
    for door, ends in report.ends.items():
        print(f'{door:14} ' + ', '.join(f'{count} {end}' for end, count in ends.items()))
    before, after = thirds(report.memory)
    print(f'{report.slow_refusals:.2%} of the refusals at once took more than {GOAL_MS:.0f} ms')
    print(f'memory {before:.0f} MiB, then {after:.0f}; cores: sending {report.sending:.2f}, others {report.others:.2f}')
    print('\n'.join(f'MISSED {goal}' for goal in report.missed) or 'every goal is met')


def main() -> int:
    from .random_weights import pack

    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument(
        '--package', type=Path, help='package to serve; by default lightweight with random weights and one person'
    )
    parser.add_argument('--seconds', type=float, default=30, help='duration of each phase: idle, full load, overload')
    parser.add_argument('-o', '--output', type=Path, help='JSON file for the report')
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        archive = options.package or pack(Path(folder), 'lightweight', persons=1)
        report = run(Path(folder) / 'node', archive=archive, seconds=options.seconds)
    show(report)
    if options.output is not None:
        options.output.write_text(json.dumps(asdict(report), indent=1) + '\n')
    return 1 if report.missed else 0


if __name__ == '__main__':
    sys.exit(main())
