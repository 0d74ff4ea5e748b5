"""Serve many cameras at once; report what became of their frames, the delay of the event loop, and memory.

    uv run python -m benchmarks.cameras [--jpeg 16] [--raw 4] [--replicas 1] [--package ZIP] [--seconds 30]

Linux only, since it reads /proc. Each camera is a Socket.IO client of its own that sends two `detect` events per
second, each at its time regardless of the answers: JPEG files of 1920×1080 pixels, or raw frames of 3840×2160. The
cameras run in a process of their own, which shares the cores with the nodes. `--replicas` starts several nodes and
distributes the cameras over them. The exit status is 1 if a frame fails or an answer comes after its deadline.
"""

import argparse
import asyncio
import json
import math
import multiprocessing
import sys
import tempfile
import time
from collections.abc import Sequence
from concurrent.futures import ProcessPoolExecutor
from contextlib import ExitStack
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Final

import httpx
import socketio
from prometheus_client.parser import text_string_to_metric_families

from detector.models.store import ModelStore
from detector.pose import images

from .idle_memory import resident_mib
from .label_studio_backends import cpu_seconds
from .load import Times
from .network_layers import random_pictures
from .support.processes import NodeProcess, running_node

RATE: Final = 2.0
"""Frames per second of each camera."""
DEADLINE: Final = 1.0
"""`DEADLINE` of the nodes, in seconds."""
TOLERANCE: Final = 1.0
"""Time for the transfer and the inference of a frame whose turn came at the deadline, in seconds."""
SIZES: Final = {'JPEG 1920×1080': (1920, 1080), 'raw 3840×2160': (3840, 2160)}
JPEG, RAW = SIZES
ANSWERED, REPLACED, REFUSED, FAILED = ENDS = ('answered', 'replaced', 'refused', 'failed')
REFUSALS: Final = ('are ahead of this one', 'no turn within', 'other requests in progress hold')
REPLACEMENT: Final = 'a newer frame of this camera'
_MANY_SECONDS: Final = 60


@dataclass(frozen=True, slots=True, kw_only=True)
class Frame:
    """What became of a frame.

    :param kind: one of `SIZES`.
    :param end: one of `ENDS`.
    :param seconds: time from sending to the answer.
    :param late: delay of sending, in seconds.
    """

    kind: str
    end: str
    seconds: float
    late: float


def end_of(answer: Any) -> str:
    """Return which of `ENDS` an answer means."""
    error = answer.get('error') if isinstance(answer, dict) else 'no object'
    if error is None:
        return ANSWERED
    if REPLACEMENT in error:
        return REPLACED
    return REFUSED if any(refusal in error for refusal in REFUSALS) else FAILED


def film(cameras: Sequence[tuple[str, int]], seconds: float, start: float) -> list[Frame]:
    """Send the frames of all cameras.

    :param cameras: kind and port of the node, one per camera.
    :param start: time of the first frame by `time.monotonic`.
    """
    return asyncio.run(_film(cameras, seconds, start))


async def _film(cameras: Sequence[tuple[str, int]], seconds: float, start: float) -> list[Frame]:
    payloads = {kind: _payload(kind) for kind, _ in cameras}
    found = await asyncio.gather(
        *(
            _camera(
                kind, port, payloads[kind] | {'camera_id': f'camera {number}'}, seconds, start + number / len(cameras)
            )
            for number, (kind, port) in enumerate(cameras)
        )
    )
    return [frame for frames in found for frame in frames]


def _payload(kind: str) -> dict[str, Any]:
    width, height = SIZES[kind]
    picture = random_pictures(1, width=width, height=height)[0]
    if kind == JPEG:
        return {'image': {'format': 'jpeg', 'bytes': images.encode_jpeg(picture, quality=90)}}
    return {'image': {'bytes': picture.tobytes(), 'dtype': 'uint8', 'shape': list(picture.shape)}}


async def _camera(kind: str, port: int, payload: dict[str, Any], seconds: float, start: float) -> list[Frame]:
    client = socketio.AsyncClient(reconnection=False)
    await client.connect(f'http://127.0.0.1:{port}', socketio_path='/ws/socket.io', transports=['websocket'])

    async def send(due: float) -> Frame:
        await asyncio.sleep(due - time.monotonic())
        begun = time.monotonic()
        try:
            end = end_of(await client.call('detect', payload, timeout=_MANY_SECONDS))
        except socketio.exceptions.SocketIOError:
            end = FAILED
        return Frame(kind=kind, end=end, seconds=time.monotonic() - begun, late=begun - due)

    try:
        count = math.floor(seconds * RATE)
        return list(await asyncio.gather(*(send(start + number / RATE) for number in range(count))))
    finally:
        await client.disconnect()


def lags(node: NodeProcess) -> dict[float, float]:
    """Return how many samples of the event loop's delay were at most so many seconds, cumulated."""
    families = text_string_to_metric_families(httpx.get(f'{node.url}/metrics', timeout=_MANY_SECONDS).text)
    return {
        float(sample.labels['le']): sample.value
        for family in families
        for sample in family.samples
        if sample.name == 'wholebody_event_loop_lag_seconds_bucket'
    }


def lag_p99(before: dict[float, float], after: dict[float, float]) -> float:
    """Return the upper bound of the bucket that holds the 99th percentile, in seconds."""
    added = {bound: after[bound] - before[bound] for bound in sorted(after)}
    return next(bound for bound, count in added.items() if count >= 0.99 * added[math.inf])


def run(
    folder: Path, *, jpeg: int, raw: int, replicas: int, archive: Path | None, seconds: float
) -> tuple[list[Frame], dict[str, Any]]:
    """Start the nodes, and send them the frames of all cameras.

    :return: the frames, and figures of the nodes: `lag_p99` in seconds, and `memory`, at most, in MiB, of each node;
        `cores`, the number of cores that all nodes together used.
    """
    with ExitStack() as stack:
        nodes = []
        for number in range(replicas):
            place = folder / str(number)
            if archive is not None:
                store = ModelStore(place / 'data')
                store.select(store.add(archive).version)
            nodes.append(stack.enter_context(running_node(place, DEADLINE=DEADLINE)))
        kinds = [JPEG] * jpeg + [RAW] * raw
        cameras = [(kind, nodes[number % replicas].port) for number, kind in enumerate(kinds)]
        pool = stack.enter_context(ProcessPoolExecutor(1, multiprocessing.get_context('spawn')))
        pool.submit(film, cameras, 2, time.monotonic() + 10).result()
        before, spent = [lags(node) for node in nodes], sum(cpu_seconds(node.process.pid) for node in nodes)
        begun = time.monotonic()
        filming = pool.submit(film, cameras, seconds, begun + 5)
        memory = [0.0] * replicas
        while not filming.done():
            memory = [max(most, resident_mib(node.process.pid)) for most, node in zip(memory, nodes, strict=True)]
            time.sleep(0.2)
        used = (sum(cpu_seconds(node.process.pid) for node in nodes) - spent) / seconds
        found = [lag_p99(*pair) for pair in zip(before, map(lags, nodes), strict=True)]
    figures = {'lag_p99': found, 'memory': [round(most) for most in memory], 'cores': round(used, 2)}
    return filming.result(), figures


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument('--jpeg', type=int, default=16, help='number of cameras that send JPEG files')
    parser.add_argument('--raw', type=int, default=4, help='number of cameras that send raw frames')
    parser.add_argument('--replicas', type=int, default=1, help='number of nodes')
    parser.add_argument('--package', type=Path, help='package to serve; by default the test card model')
    parser.add_argument('--seconds', type=float, default=30, help='duration')
    parser.add_argument('-o', '--output', type=Path, help='JSON file for all frames and figures')
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        frames, figures = run(
            Path(folder),
            jpeg=options.jpeg,
            raw=options.raw,
            replicas=options.replicas,
            archive=options.package,
            seconds=options.seconds,
        )
    late = 0
    print('| frames | sent | answered | replaced | refused | failed | answer, median | p99 |')
    print('|---|---|---|---|---|---|---|---|')
    for kind in SIZES:
        ours = [frame for frame in frames if frame.kind == kind]
        counts = [str(sum(frame.end == end for frame in ours)) for end in ENDS]
        times = Times.of([frame.seconds for frame in ours if frame.end == ANSWERED])
        late += sum(frame.seconds > DEADLINE + TOLERANCE for frame in ours if frame.end == ANSWERED)
        print(f'| {kind} | {len(ours)} | {" | ".join(counts)} | {times.median:.0f} ms | {times.p99:.0f} ms |')
    print(f'{late} answers came later than {DEADLINE + TOLERANCE:g} s')
    print(f'frames were sent {1000 * max(frame.late for frame in frames):.0f} ms late at most')
    print(json.dumps(figures))
    if options.output is not None:
        options.output.write_text(
            json.dumps(figures | {'frames': [asdict(frame) for frame in frames]}, indent=1) + '\n'
        )
    return int(late > 0 or any(frame.end == FAILED for frame in frames))


if __name__ == '__main__':
    sys.exit(main())
