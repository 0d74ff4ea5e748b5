"""Functions in child processes."""

import asyncio
import json
import mmap
import os
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pytest

from benchmarks.support.processes import PROJECT
from benchmarks.support.waiting import eventually
from detector.system import child_process
from detector.system.child_process import ChildFailed, call

pytestmark = pytest.mark.usefixtures('child_processes')
HERE = __name__


def add(first: int, second: int) -> dict[str, int]:
    print('a library prints')
    return {'sum': first + second, 'pid': os.getpid()}


def sleep(file: Path | None = None) -> None:
    if file is not None:
        file.write_text(str(os.getpid()))
    time.sleep(600)


def crash() -> None:
    os.abort()


def kill() -> None:
    os.kill(os.getpid(), signal.SIGKILL)


def fail() -> None:
    raise ValueError('a fault of the function')


def allocate() -> int:
    block = mmap.mmap(-1, 3 * 1024**3, flags=mmap.MAP_PRIVATE)  # the kernel counts it before it is written
    return len(block)


def imported() -> list[str]:
    return [name for name in ('fastapi', 'uvicorn', 'learning_loop_node') if name in sys.modules]


def is_alive(pid: int) -> bool:
    try:
        return 'zombie' not in Path(f'/proc/{pid}/status').read_text()
    except FileNotFoundError:
        return False


def test_a_function_runs_in_another_process() -> None:
    """Its result comes back, and what libraries print does not become part of it."""
    answer = call(HERE, 'add', 2, 3, seconds=60)
    assert answer['sum'] == 5
    assert answer['pid'] != os.getpid()


@pytest.mark.parametrize(
    ('function', 'reason', 'was_starved'),
    [
        ('crash', r'has crashed \(SIGABRT\)', False),
        ('kill', 'was killed, probably because this machine has too little memory', True),
        ('fail', 'has ended with status 1', False),
    ],
)
def test_a_child_that_ends_without_an_answer_is_a_fault(function: str, reason: str, was_starved: bool) -> None:
    """The error says how the child has ended."""
    with pytest.raises(ChildFailed, match=reason) as caught:
        call(HERE, function, seconds=60)
    assert caught.value.was_starved == was_starved


def test_a_child_has_a_time_limit(monkeypatch: pytest.MonkeyPatch) -> None:
    """After that it no longer exists."""
    children: list[int] = []

    class Recorded(subprocess.Popen[bytes]):
        def __init__(self, *arguments: Any, **options: Any) -> None:
            super().__init__(*arguments, **options)
            children.append(self.pid)

    monkeypatch.setattr(subprocess, 'Popen', Recorded)
    with pytest.raises(ChildFailed, match='has not ended within 1.5 seconds') as caught:
        call(HERE, 'sleep', seconds=1.5)
    assert caught.value.was_starved
    (child,) = children
    assert not is_alive(child)


def test_a_child_has_a_limit_of_memory() -> None:
    """An allocation beyond the limit fails in the child; one below it does not."""
    with pytest.raises(ChildFailed, match='has ended with status 1'):
        call(HERE, 'allocate', seconds=60, max_bytes=2 * 1024**3)
    assert call(HERE, 'allocate', seconds=60, max_bytes=6 * 1024**3) == 3 * 1024**3


async def test_a_cancelled_caller_leaves_no_child(tmp_path: Path) -> None:
    """The child of a cancelled task is killed at once, although its thread cannot be cancelled."""
    file = tmp_path / 'pid'
    task = asyncio.create_task(child_process.to_thread(call, HERE, 'sleep', file, seconds=300))
    async with asyncio.timeout(60):
        while not file.exists() or not file.read_text():
            await asyncio.sleep(0.05)
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task
        while is_alive(int(file.read_text())):
            await asyncio.sleep(0.05)


def test_a_child_ends_with_its_parent(tmp_path: Path) -> None:
    """The kernel ends the child even if its parent is killed."""
    file = tmp_path / 'pid'
    code = f'from pathlib import Path; from {child_process.__name__} import call; '
    code += f'call({HERE!r}, "sleep", Path({str(file)!r}), seconds=300)'
    with subprocess.Popen([sys.executable, '-c', code], cwd=PROJECT) as parent:
        eventually(lambda: file.exists() and file.read_text(), 'the child runs', 60)
        parent.kill()
    eventually(lambda: not is_alive(int(file.read_text())), 'the child ends')


def test_a_child_is_the_first_that_the_kernel_ends() -> None:
    """If memory runs out, the node survives; no dump of the core fills the disk."""
    assert json.loads(call(HERE, 'limits', seconds=60)) == {'oom_score_adj': 1000, 'core': 0}


def limits() -> str:
    import resource

    score = int(Path('/proc/self/oom_score_adj').read_text())
    return json.dumps({'oom_score_adj': score, 'core': resource.getrlimit(resource.RLIMIT_CORE)[0]})
