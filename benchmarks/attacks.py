"""Attack a node, and compare what a well-behaved client sees beside each attack with what it sees without one.

    uv run python -m benchmarks.attacks [--seconds 15]

Linux only, since it reads /proc. The benchmark starts a real node with default limits. A client requests `/health` and
`/detect` in turn, while another process attacks again and again. The exit status is 1 if a goal is missed. Attackers,
client and node share the cores, so the benchmark needs an otherwise idle machine.
"""

import argparse
import math
import multiprocessing
import os
import sys
import tempfile
import time
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Final

import httpx

from .idle_memory import resident_mib
from .support.attackers import EVENTS, become_client, connections, open_files, send_until_closed
from .support.cards import CARD
from .support.processes import NodeProcess, running_node

GOAL: Final = 2.0
"""Largest permitted ratio of the 99th percentile beside an attack to that without one."""
FLOOR_MS: Final = 25.0
"""99th percentiles below this time meet the goal, in milliseconds: on shared cores they vary by that much."""
MIB: Final = 1024**2
_PAUSE_SECONDS: Final = 0.5
"""Pause between two attacks, in seconds."""


def send_headers(node: NodeProcess) -> None:
    with connections(node, 6) as attackers:
        for connection in attackers:
            connection.sendall(b'GET / HTTP/1.1\r\nX: ')
            send_until_closed(connection, b'a' * MIB, times=100)


def keep_silent(node: NodeProcess) -> None:
    with connections(node, 1100):
        time.sleep(2)


def never_read(node: NodeProcess) -> None:
    with connections(node, 105, small=True) as attackers:
        for connection in attackers:
            send_until_closed(connection, b'GET /openapi.json HTTP/1.1\r\nHost: 127.0.0.1\r\n\r\n', times=1)
        time.sleep(2)


def never_read_events(node: NodeProcess) -> None:
    with connections(node, 1, small=True) as (connection,):
        become_client(connection)
        send_until_closed(connection, EVENTS, times=256)


def send_values(node: NodeProcess) -> None:
    body = b'{"x":[' + b'{},' * (127 * MIB // 3 - 10) + b'{}]}'
    with suppress(httpx.TransportError):
        httpx.post(f'{node.url}/predict', content=body, timeout=120)


ATTACKS: Final[dict[str, Callable[[NodeProcess], None]]] = {
    '6 headers of 100 MB': send_headers,
    '1,100 silent connections': keep_silent,
    '105 clients that do not read': never_read,
    '256,000 events whose answers are not read': never_read_events,
    '127 MiB of `{}`': send_values,
}


@dataclass(frozen=True, slots=True, kw_only=True)
class Figures:
    """What the client has seen.

    :param health: 99th percentile of `/health`, in milliseconds.
    :param detect: 99th percentile of `/detect`, in milliseconds.
    :param memory: resident memory of the node before, at most during, and after the attack, in MiB.
    :param failed: number of requests that got no answer or an error.
    """

    health: float
    detect: float
    memory: tuple[float, float, float]
    failed: int

    def meets(self, usual: 'Figures') -> bool:
        """Return True if this is no worse than the goal permits."""
        pairs = ((self.health, usual.health), (self.detect, usual.detect))
        return not self.failed and all(beside <= max(FLOOR_MS, GOAL * alone) for beside, alone in pairs)


def _attack(attack: Callable[[NodeProcess], None], node_port: int) -> None:
    os.nice(19)  # an attacker has a machine of its own
    node = NodeProcess(process=None, port=node_port, data_folder=Path(), log=Path())  # type: ignore[arg-type]
    with open_files(4096):
        while True:
            with suppress(OSError):
                attack(node)
            time.sleep(_PAUSE_SECONDS)


def measure(node: NodeProcess, attack: Callable[[NodeProcess], None] | None, seconds: float) -> Figures:
    """Request in turn for some seconds beside an attack, or without one."""
    pid = node.process.pid
    before = peak = resident_mib(pid)
    attacking = None
    if attack is not None:
        attacking = multiprocessing.get_context('spawn').Process(target=_attack, args=(attack, node.port), daemon=True)
        attacking.start()
        time.sleep(3)  # the new process imports its modules
    times: dict[str, list[float]] = {'health': [], 'detect': []}
    failed = 0
    end = time.monotonic() + seconds
    with httpx.Client(base_url=node.url, timeout=10, headers={'Connection': 'close'}) as client:
        while time.monotonic() < end:
            for what, taken in times.items():
                begun = time.perf_counter()
                try:
                    answer = client.get('/health') if what == 'health' else client.post('/detect', files={'file': CARD})
                    failed += answer.status_code != 200
                except httpx.TransportError:
                    failed += 1
                taken.append(1000 * (time.perf_counter() - begun))
            peak = max(peak, resident_mib(pid))
    if attacking is not None:
        attacking.terminate()
        attacking.join()
    time.sleep(3)
    return Figures(
        health=_p99(times['health']),
        detect=_p99(times['detect']),
        memory=(before, peak, resident_mib(pid)),
        failed=failed,
    )


def _p99(values: list[float]) -> float:
    return sorted(values)[math.ceil(0.99 * len(values)) - 1]


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument('--seconds', type=float, default=15, help='time of each measurement')
    seconds = parser.parse_args().seconds
    missed = 0
    with tempfile.TemporaryDirectory() as folder, open_files(1024), running_node(Path(folder)) as node:
        measure(node, None, 3)
        usual = measure(node, None, seconds)
        print('| attack | `/health`, p99 | `/detect`, p99 | memory before, during, after | failed |')
        print('|---|---|---|---|---|')
        for name, attack in (('none', None), *ATTACKS.items()):
            found = usual if attack is None else measure(node, attack, seconds)
            memory = ', '.join(f'{value:.0f}' for value in found.memory)
            print(
                f'| {name} | {found.health:.0f} ms | {found.detect:.0f} ms | {memory} MiB | {found.failed} |',
                flush=True,
            )
            missed += not found.meets(usual)
    if missed:
        print(f'{missed} attacks miss the goal: at most {GOAL:g} times the usual 99th percentile')
    return int(missed > 0)


if __name__ == '__main__':
    sys.exit(main())
