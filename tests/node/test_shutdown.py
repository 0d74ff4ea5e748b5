"""The order and the time limits in which a node ends its parts."""

import asyncio
from types import SimpleNamespace
from typing import Any, cast

import pytest

from detector.api.middleware.drain import Drain
from detector.node.parts import Parts
from detector.node.shutdown import NodeShutdown
from detector.system.shutdown_budget import ShutdownBudget

BUDGET = ShutdownBudget(requests=0.4, answers=0.1, flush=0.01, saving=0.1, reserve=0.05)


class Recorder:
    """Parts that record in which order and with which time limit they are ended.

    :param hanging: names of parts that never end.
    :param failing: names of parts that raise an error.
    """

    def __init__(self, *, hanging: tuple[str, ...] = (), failing: tuple[str, ...] = ()) -> None:
        self.ended: list[str] = []
        self.seconds: dict[str, float] = {}
        self._hanging = hanging
        self._failing = failing
        self.drain = Drain(BUDGET)
        self.parts = SimpleNamespace(
            shutdown_budget=BUDGET,
            drain=self.drain,
            first=SimpleNamespace(stop=self._ending('first')),
            pull=SimpleNamespace(stop=self._ending('pull')),
            serving=SimpleNamespace(stop=self._ending('serving')),
            updates=SimpleNamespace(stop=self._ending('updates')),
            outbox=SimpleNamespace(close=self._ending('outbox'), count=7),
            collector=SimpleNamespace(close=self._ending('collector')),
            label_studio=SimpleNamespace(
                close=self._ending('label_studio'),
                preannotator=SimpleNamespace(end_by=lambda at: self.seconds.update(predictions=at)),
            ),
            inference=SimpleNamespace(close=lambda: self.ended.append('inference')),
        )
        self.shutdown = NodeShutdown(cast('Parts', self.parts), SimpleNamespace(shutdown=self._ending('sio')))

    def _ending(self, name: str) -> Any:
        async def end(seconds: float | None = None) -> None:
            assert self.drain.begun, 'new work is refused before a part ends'
            if seconds is not None:
                self.seconds[name] = seconds
            if name in self._failing:
                raise RuntimeError(f'{name} is broken')
            if name in self._hanging:
                await asyncio.Event().wait()
            self.ended.append(name)

        return end


async def test_requests_finish_while_uploads_and_updates_stop() -> None:
    """Background work ends first; predictions of Label Studio end with half of the time left to answer."""
    recorder = Recorder()
    with recorder.drain.work():
        finishing = asyncio.create_task(recorder.shutdown.finish_requests())
        await asyncio.sleep(0.05)
        assert sorted(recorder.ended) == ['first', 'outbox', 'pull', 'serving', 'updates']
        assert not finishing.done()
    await finishing
    assert sorted(recorder.ended) == ['first', 'outbox', 'pull', 'serving', 'updates']
    assert recorder.seconds['outbox'] == BUDGET.upload
    assert recorder.drain.begun_at is not None
    assert recorder.seconds['predictions'] == pytest.approx(recorder.drain.begun_at + BUDGET.requests / 2)


async def test_all_parts_end_and_inference_is_last(caplog: pytest.LogCaptureFixture) -> None:
    """Each part gets its share of the budget, and the log has a summary."""
    caplog.set_level('INFO', 'wholebody.node')
    recorder = Recorder()
    await recorder.shutdown.end_parts()
    parts = {'first', 'pull', 'serving', 'updates', 'outbox', 'collector', 'label_studio', 'sio', 'inference'}
    assert set(recorder.ended) == parts
    assert recorder.ended[-1] == 'inference'
    assert recorder.seconds == {'outbox': BUDGET.upload, 'collector': BUDGET.saving}
    assert '7 images wait in the outbox' in caplog.text


@pytest.mark.parametrize('name', ['outbox', 'collector', 'label_studio', 'sio'])
async def test_a_part_that_never_ends_delays_no_other(name: str, caplog: pytest.LogCaptureFixture) -> None:
    """A part that never ends is given up with a warning after the time limit."""
    recorder = Recorder(hanging=(name,))
    async with asyncio.timeout(10):
        await recorder.shutdown.end_parts()
    assert 'not all parts ended within' in caplog.text
    assert name not in recorder.ended
    assert recorder.ended[-1] == 'inference'


async def test_a_part_that_fails_is_logged(caplog: pytest.LogCaptureFixture) -> None:
    """The failure of a part is logged, and the other parts end."""
    recorder = Recorder(failing=('label_studio',))
    await recorder.shutdown.end_parts()
    assert 'a part of the node failed to stop' in caplog.text
    assert 'label_studio is broken' in caplog.text
    assert {'collector', 'sio', 'inference'} <= set(recorder.ended)
