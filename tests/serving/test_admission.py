"""Admission: which request has its turn, and which is refused."""

import asyncio
import time
from collections.abc import Hashable

import pytest

from benchmarks.support.waiting import PATIENCE
from detector.errors import Busy, DeadlineExceeded
from detector.serving.admission import LIVE_IN_A_ROW, Admission


def make_admission(*, max_waiting: int = 100, deadline: float = 5) -> Admission:
    return Admission(max_waiting=max_waiting, deadline=deadline)


class Work:
    """Requests that hold their turns until told, and the order of their turns."""

    def __init__(self, admission: Admission) -> None:
        self.admission = admission
        self.order: list[str] = []
        self.gate = asyncio.Event()

    def start(self, name: str, *, live: bool = True, stream: Hashable | None = None) -> 'asyncio.Task[None]':
        return asyncio.create_task(self._run(name, live, stream))

    async def _run(self, name: str, live: bool, stream: Hashable | None) -> None:
        async with self.admission.enter(live=live, stream=stream) as ticket, self.admission.turn(ticket):
            self.order.append(name)
            await self.gate.wait()


async def settle() -> None:
    for _ in range(10):
        await asyncio.sleep(0)


async def test_one_at_a_time_in_the_order_of_arrival() -> None:
    """The next turn begins when the previous one has ended, by success or cancellation."""
    work = Work(make_admission())
    tasks = []
    for name in 'abc':
        tasks.append(work.start(name))
        await settle()
    assert work.order == ['a']
    tasks[0].cancel()
    await settle()
    assert work.order == ['a', 'b']
    work.gate.set()
    await asyncio.gather(*tasks[1:])
    assert work.order == ['a', 'b', 'c']
    assert work.admission.present == 0


async def test_live_frames_go_before_bulk_work_and_neither_starves() -> None:
    """Bulk work gets a turn after a few live ones."""
    work = Work(make_admission())
    first = work.start('first')
    await settle()
    bulk = [work.start(f'bulk{number}', live=False) for number in range(3)]
    await settle()
    live = [work.start(f'live{number}') for number in range(10)]
    await settle()
    work.gate.set()
    await asyncio.gather(first, *bulk, *live)
    turns = ['bulk' if name.startswith('bulk') else 'live' for name in work.order]
    assert turns[: LIVE_IN_A_ROW + 1] == LIVE_IN_A_ROW * ['live'] + ['bulk']
    assert turns.index('bulk') < len(turns) - 1
    assert turns.count('bulk') == 3
    assert [name for name in work.order if name.startswith('live')] == [f'live{number}' for number in range(10)]


async def test_a_full_queue_refuses_at_once() -> None:
    """The refusal says when to try again; the requests that wait keep their places."""
    work = Work(make_admission(max_waiting=2))
    tasks = [work.start(name) for name in 'abc']
    await settle()
    refused = work.start('d')
    await settle()
    assert refused.done(), 'while the others wait'
    with pytest.raises(Busy, match='3 requests are ahead of this one') as refusal:
        await refused
    assert refusal.value.retry_after >= 1
    assert work.admission.refused == 1
    work.gate.set()
    await asyncio.gather(*tasks, return_exceptions=True)
    assert work.order == ['a', 'b', 'c']


async def test_requests_that_would_miss_their_deadline_are_refused_at_once() -> None:
    """A request behind three turns of 2 seconds is refused at once if its deadline is 5 seconds."""
    admission = make_admission(deadline=5)
    admission.took(2)
    work = Work(admission)
    tasks = [work.start(name) for name in 'abc']
    await settle()
    with pytest.raises(Busy) as refusal:
        await work.start('late')
    assert refusal.value.retry_after == pytest.approx(6)
    work.gate.set()
    await asyncio.gather(*tasks)
    await work.start('later')


async def test_the_mean_follows_slowly() -> None:
    """One slow turn does not make admission refuse requests."""
    admission = make_admission(deadline=5)
    for _ in range(20):
        admission.took(0.1)
    admission.took(10)
    assert admission._mean_seconds == pytest.approx(0.1 + 0.2 * 9.9)


async def test_a_deadline_ends_the_waiting() -> None:
    """A request that times out frees its place in the queue."""
    work = Work(make_admission(deadline=0.2))
    first = work.start('a')
    await settle()
    start = time.monotonic()
    with pytest.raises(DeadlineExceeded, match='no turn within 0.2 seconds'):
        await asyncio.wait_for(work.start('b'), 5)
    assert time.monotonic() - start > 0.19
    assert not first.done()
    assert (work.admission.present, work.admission.refused) == (1, 1)
    work.gate.set()
    await first
    await work.start('c')
    assert work.order == ['a', 'c']


async def test_a_newer_frame_replaces_one_that_waits() -> None:
    """Only a waiting frame of the same stream is replaced; the newer frame takes its place in the queue."""
    work = Work(make_admission())
    running = work.start('running', stream='front')
    await settle()
    tasks = {
        name: work.start(name, stream=stream)
        for name, stream in {'old': 'front', 'other': 'rear', 'none': None, 'none too': None}.items()
    }
    await settle()
    tasks['new'] = work.start('new', stream='front')
    await settle()
    with pytest.raises(Busy, match='a newer frame'):
        await asyncio.wait_for(tasks.pop('old'), PATIENCE)
    assert not running.done()
    work.gate.set()
    await asyncio.gather(running, *tasks.values())
    assert work.order == ['running', 'new', 'other', 'none', 'none too']


async def test_a_frame_can_be_replaced_while_it_is_decoded() -> None:
    """A frame replaced before it waits for its turn gets none."""
    admission = make_admission()
    async with admission.enter(stream='front') as old, admission.enter(stream='front') as new:
        with pytest.raises(Busy, match='a newer frame'):
            async with admission.turn(old):
                raise AssertionError('had its turn')
        async with admission.turn(new):
            assert admission.present == 2
    assert admission.present == 0


async def test_replaced_frames_that_do_not_wait_log_nothing(caplog: pytest.LogCaptureFixture) -> None:
    """A replaced request whose decoding failed causes no warning of asyncio."""
    import gc

    admission = make_admission()
    async with admission.enter(stream='front') as ticket, admission.enter(stream='front'):
        pass
    del ticket
    gc.collect()
    assert caplog.text == ''


@pytest.mark.parametrize('when', ['waiting', 'let in'])
async def test_a_client_that_leaves_does_not_block_the_queue(when: str) -> None:
    """A request may be cancelled while it waits, or at the moment its turn comes."""
    work = Work(make_admission())
    first = work.start('a')
    await settle()
    second, third = work.start('b'), work.start('c')
    await settle()
    if when == 'let in':
        work.gate.set()
        work.admission._end_turn()  # b gets its turn, and is cancelled before it runs
    second.cancel()
    work.gate.set()
    await asyncio.gather(first, third, return_exceptions=True)
    assert 'c' in work.order
    await asyncio.wait_for(work.start('d'), PATIENCE)
