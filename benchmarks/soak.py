"""Put a node under mixed load for a long time; check speed, memory, open resources and lost images.

    uv run --extra plot python -m benchmarks.soak [--minutes 30] [-o FILE.json] [--plot FILE.svg]

Linux only, since it reads /proc. The benchmark starts a real node, a mock Learning Loop that fails at random and keeps
changing the target between two versions, and a replacement for Label Studio. Requests arrive over REST, Socket.IO
(clients connect and disconnect, some without a message), Label Studio's `/predict` and webhooks, at half the rate that
the node can serve. The rate is steady, so that CPU time per answer can be judged too. The exit status is 1 if a goal is
missed.
"""

import argparse
import asyncio
import os
import sys
import tempfile
import time
from collections import defaultdict
from pathlib import Path
from typing import Any, Final

import httpx

from .idle_memory import resident_mib
from .soak_load import PATIENCE, Load
from .soak_report import Report, Slice, State, missed, plot, show, write
from .support.loops import MockLoopProcess, running_mock_loop
from .support.packages import make_package
from .support.processes import NodeProcess, running_node
from .support.studio import Studio, running_studio

VERSIONS: Final = ('1.1', '1.2')
SLICE_SECONDS: Final = 10
"""Length of a slice in seconds; shorter in short runs, so that there are ten slices."""
SWITCH_SECONDS: Final = 30.0
WARM_SECONDS: Final = 20.0
SETTLE_SECONDS: Final = 15.0
QUIET_SECONDS: Final = 120.0
"""Time limit after the load for emptying the outbox and closing descriptors, in seconds. The node notices a lost client
after 45 s."""
SHARE_OF_CAPACITY: Final = 0.5
SETTINGS: Final[dict[str, Any]] = {
    'POLL_SECONDS': 1, 'UPLOAD_SECONDS': 0.5, 'MAX_OUTBOX_SIZE': 1_000_000, 'KEEP_MODELS': 1, 'IMAGE_HOSTS': 'none',
}  # fmt: skip
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
"""Share of requests affected by a fault."""


# ---------------------------------------------------------------- what is seen of the node


class Observer:
    """Observer that reads the state of the node's process every second."""

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
    """Return the recorded figures by slices of time."""
    count = 10 * max(1, round(seconds / SLICE_SECONDS / 10))
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
    """Put a node under load, wait until all images have arrived, and judge.

    :param folder: empty folder for logs and data.
    :param rate: requests a second; half of the node's capacity if None.
    :param warm: seconds of load before the idle state of the node is recorded.
    """
    folder.mkdir(parents=True, exist_ok=True)
    tasks_file = folder / 'tasks'
    probe = {'PYTHONPATH': Path(__file__).parent / 'soak_probe', 'SOAK_TASKS_FILE': tasks_file}
    with running_mock_loop(folder / 'loop') as loop, running_studio() as studio:
        for version in VERSIONS:
            loop.upload_package(make_package(folder / f'{version}.zip', version=version), version)
        loop.set_target(VERSIONS[0])
        with running_node(folder / 'node', **SETTINGS, **loop.settings, **studio.settings, **probe) as node:
            node.wait_for_version(VERSIONS[0])
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
    """Change the Loop's target to the other version, again and again."""
    pause = min(SWITCH_SECONDS, report.seconds / 6)
    while True:
        await asyncio.sleep(pause)
        report.switches += 1
        await asyncio.to_thread(loop.set_target, VERSIONS[report.switches % len(VERSIONS)])


async def _settled(node: NodeProcess) -> dict[str, int]:
    """Wait until nothing is left to send.

    :return: counts of corrections by outcome.
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
    """Make the node fetch a task image: HTTP clients close idle connections only at their next use."""
    async with httpx.AsyncClient(timeout=PATIENCE) as client:
        tasks = [{'id': 1, 'data': {'image': '/data/upload/1/1.jpg'}}]
        (await client.post(f'{node.url}/predict', json={'tasks': tasks})).raise_for_status()


async def _quiet(observer: Observer, before: State) -> State:
    """Return the state of the node when it is idle again, or after `QUIET_SECONDS`."""
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
    parser.add_argument('--rate', type=float, help='requests a second; by default half of what the node can serve')
    parser.add_argument('--folder', type=Path, help='folder for logs and data; a temporary folder if omitted')
    parser.add_argument('-o', '--output', type=Path, help='JSON file for the report')
    parser.add_argument('--plot', type=Path, help='file for the plot, .svg or .png; needs the extra `plot`')
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
