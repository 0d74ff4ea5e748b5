"""Sizes of batches, time limits and pauses of the outbox, one upload after the other."""

import asyncio
import random
import time
from pathlib import Path

import pytest
from aiohttp import web

from detector.outbox import outbox as outbox_module
from detector.outbox.files import Entry
from detector.outbox.outbox import BATCH_IMAGES, BATCH_SECONDS, MAX_BATCH_SECONDS, MAX_PAUSE_SECONDS, Outbox
from detector.outbox.posting import Answer, Outcome
from tests.support.outboxes import Script, fill, make_outbox, names

INTERVAL = 7.0
FAILED = Answer(outcome=Outcome.FAILED, detail='broken')
UNAVAILABLE = Answer(outcome=Outcome.UNAVAILABLE, detail='away')
TOO_SLOW = Answer(outcome=Outcome.TOO_SLOW, detail='slow')


@pytest.fixture
def outbox(tmp_path: Path, script: Script) -> Outbox:
    """An outbox that does not send by itself."""
    made = make_outbox(tmp_path / 'outbox', script.url, interval=INTERVAL)
    made.queue.load()
    return made


@pytest.mark.parametrize(('draw', 'share'), [(max, 1.0), (min, 0.5)])
async def test_pauses_double_between_half_and_the_whole(
    outbox: Outbox, monkeypatch: pytest.MonkeyPatch, draw: object, share: float
) -> None:
    """Pauses begin with an interval, double up to a minute, and last half of that or more; success begins anew."""
    monkeypatch.setattr(random, 'uniform', draw)
    (entry,) = await fill(outbox, 1)
    whole = [INTERVAL, 14, 28, 56, MAX_PAUSE_SECONDS, MAX_PAUSE_SECONDS]
    assert [outbox._pause_after_failure(UNAVAILABLE, [entry]) for _ in whole] == [share * pause for pause in whole]
    outbox._failures = 5000
    assert outbox._pause_after_failure(UNAVAILABLE, [entry]) == share * MAX_PAUSE_SECONDS, 'after days of failures'
    assert outbox.about()['error'] == 'away'
    outbox._pause_after_success()
    assert outbox.about()['error'] is None
    assert outbox._pause_after_failure(UNAVAILABLE, [entry]) == share * INTERVAL


async def test_a_failed_batch_is_halved_until_one_image_is_left(outbox: Outbox) -> None:
    """Only an image that fails alone is marked as failing, and success makes batches longer by one image."""
    entries = await fill(outbox, 20)
    sizes = []
    while (size := outbox._batch_images) > 1:
        sizes.append(size)
        outbox._pause_after_failure(FAILED, entries[:size])
        assert outbox.queue._failing == set()
    assert sizes == [20, 10, 5, 2]
    outbox._pause_after_failure(FAILED, entries[:1])
    assert outbox.queue._failing == {entries[0].name}
    for size in [*range(2, BATCH_IMAGES + 1), BATCH_IMAGES]:
        outbox._pause_after_success()
        assert outbox._batch_images == size


async def test_an_unreachable_loop_neither_halves_batches_nor_marks_images(outbox: Outbox) -> None:
    """If no request arrives, the images are not the cause, and an earlier mark is cleared."""
    entries = await fill(outbox, 3)
    outbox.queue.mark_failing(entries[0])
    outbox._pause_after_failure(UNAVAILABLE, entries)
    outbox._pause_after_failure(UNAVAILABLE, entries[:1])
    assert (outbox._batch_images, outbox.queue._failing) == (BATCH_IMAGES, set())


async def test_a_slow_image_gets_more_time(outbox: Outbox) -> None:
    """The time limit doubles up to its bound while one image is too slow, and shrinks slowly after success."""
    entries = await fill(outbox, 2)
    outbox._pause_after_failure(FAILED, entries[:1])
    outbox._pause_after_failure(TOO_SLOW, entries)
    assert outbox._batch_seconds == BATCH_SECONDS, 'another failure, or a batch, does not change it'
    limits = []
    for _ in range(3):
        outbox._pause_after_failure(TOO_SLOW, entries[:1])
        limits.append(outbox._batch_seconds)
    assert limits == [2 * BATCH_SECONDS, MAX_BATCH_SECONDS, MAX_BATCH_SECONDS]
    outbox._pause_after_success()
    assert outbox._batch_seconds == pytest.approx(0.9 * MAX_BATCH_SECONDS)
    for _ in range(20):
        outbox._pause_after_success()
    assert outbox._batch_seconds == BATCH_SECONDS


async def test_only_a_full_batch_follows_at_once(outbox: Outbox) -> None:
    """After success the next batch follows without a pause if it is full, and otherwise after an interval."""
    await fill(outbox, BATCH_IMAGES - 1)
    assert outbox._pause_after_success() == INTERVAL
    await fill(outbox, 1)
    assert outbox._pause_after_success() == 0


async def test_an_isolated_image_waits_for_four_intervals(
    outbox: Outbox, script: Script, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Retries of an isolated image have growing time limits, and do not delay the other images."""
    (entry,) = await fill(outbox, 1)
    outbox.queue.mark_failing(entry)
    outbox._pause_after_success()
    isolation = outbox.queue._isolated[entry.name]
    assert isolation.pause == 4 * INTERVAL
    assert isolation.retry_at == pytest.approx(time.monotonic() + 4 * INTERVAL, abs=5)
    limits: list[float] = []

    async def post(_: object, *, timeout: float, executor: object) -> Answer:
        assert executor is outbox.executor
        limits.append(timeout)
        return FAILED

    monkeypatch.setattr(outbox._poster, 'post', post)
    monkeypatch.setattr(time, 'monotonic', lambda: outbox.queue._isolated[entry.name].retry_at)
    assert [await outbox._upload_once() for _ in range(3)] == [0, 0, 0]
    assert limits == [2 * BATCH_SECONDS, MAX_BATCH_SECONDS, MAX_BATCH_SECONDS]
    assert (outbox.queue.retries(entry), outbox._batch_seconds, outbox._failures) == (3, BATCH_SECONDS, 0)
    assert outbox.queue._in_flight == set()


async def test_a_refused_size_halves_the_batches_that_follow(
    outbox: Outbox, script: Script, caplog: pytest.LogCaptureFixture
) -> None:
    """A request that is too large is sent in halves, and the next batches begin with that size."""

    async def answer(received: list[str]) -> web.Response:
        return web.json_response({}, status=413 if len(received) > 10 else 200)

    script.answer = answer
    entries = await fill(outbox, 40)
    while outbox.queue.count:
        await outbox._upload_once()
    assert [len(batch) for batch in script.batches] == [20, 10, 10, 11, 5, 6, 6, 3]
    assert 'disappeared' not in caplog.text, 'the halves have no image in common'
    assert sorted(script.taken) == sorted(names(entries))


async def test_a_loop_that_takes_single_images_gets_them(outbox: Outbox, monkeypatch: pytest.MonkeyPatch) -> None:
    """Batches shrink to one image, and each request has the whole time limit."""
    requests: list[tuple[int, float]] = []

    async def post(batch: list[Entry], *, timeout: float, executor: object) -> Answer:
        requests.append((len(batch), timeout))
        return Answer(outcome=Outcome.TOO_LARGE if len(batch) > 1 else Outcome.TAKEN)

    monkeypatch.setattr(outbox._poster, 'post', post)
    await fill(outbox, 5)
    outbox._batch_images = 3
    for _ in range(2):
        await outbox._upload_once()
    sizes = [3, 1, 2, 1, 1, 2, 1, 1]
    assert requests == [(size, BATCH_SECONDS) for size in sizes]
    assert outbox._batch_images == 2


@pytest.mark.parametrize('status', [413, 422])
async def test_the_second_half_waits_if_the_first_one_fails(outbox: Outbox, script: Script, status: int) -> None:
    """After a failure of the first half, the second one is sent with a later batch."""

    async def answer(received: list[str]) -> web.Response:
        return web.json_response({}, status=status if len(received) == 4 else 503)

    script.answer = answer
    entries = await fill(outbox, 4)
    assert (await outbox._upload(entries, 30)).outcome is Outcome.UNAVAILABLE
    assert [len(batch) for batch in script.batches] == [4, 2]
    assert outbox.queue.count == 4
    assert outbox._batch_images == (2 if status == 413 else BATCH_IMAGES)


async def test_the_second_half_is_not_sent_while_the_outbox_stops(outbox: Outbox, script: Script) -> None:
    """An outbox that is told to stop ends after the request that is under way."""

    async def answer(received: list[str]) -> web.Response:
        outbox._stopping.set()
        return web.json_response({}, status=413 if len(received) == 4 else 200)

    script.answer = answer
    entries = await fill(outbox, 4)
    assert (await outbox._upload(entries, 30)).outcome is Outcome.TAKEN
    assert script.batches == [names(entries), names(entries[:2])]
    assert outbox.queue.waiting() == entries[:1:-1]


async def test_the_rest_of_a_batch_is_sent_without_the_vanished_image(
    outbox: Outbox, script: Script, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The other images go at once with the same time limit, and without any image no request is sent."""
    entries = await fill(outbox, 3)
    entries[1].jpeg.unlink()
    entries[1].metadata.unlink()
    entries[1].folder.rmdir()
    post = outbox._poster.post
    limits: list[float] = []

    async def measured(batch: list[object], *, timeout: float, executor: object) -> Answer:
        limits.append(timeout)
        return await post(batch, timeout=timeout, executor=executor)  # type: ignore[arg-type]

    monkeypatch.setattr(outbox._poster, 'post', measured)
    assert (await outbox._upload(entries, 30)).outcome is Outcome.TAKEN
    assert script.batches == [names([entries[0], entries[2]])]
    assert limits == [30, 30]
    (last,) = await fill(outbox, 1)
    last.jpeg.unlink()
    assert (await outbox._upload([last], 30)).outcome is Outcome.TAKEN
    assert len(script.batches) == 1
    assert outbox.about() | {'uploaded': 2, 'vanished': 1, 'set_aside': 1, 'waiting': 0} == outbox.about()


async def test_a_fault_inside_is_the_error_of_the_upload(outbox: Outbox, monkeypatch: pytest.MonkeyPatch) -> None:
    """An exception is reported like a failure, and the batch is no longer in flight."""

    async def post(*_: object, **__: object) -> Answer:
        raise RuntimeError('unforeseen')

    monkeypatch.setattr(outbox._poster, 'post', post)
    await fill(outbox, 2)
    assert await outbox._upload_once() >= INTERVAL / 2
    assert outbox.about()['error'] == "RuntimeError('unforeseen')"
    assert (outbox._batch_images, outbox.queue._in_flight) == (1, set())


async def test_closing_cuts_a_hanging_request(outbox: Outbox, script: Script) -> None:
    """The time limit of closing holds for a request that is under way."""
    hanging, answered = script.hold()
    await fill(outbox, 1)
    await outbox.start()
    await hanging.wait()
    async with asyncio.timeout(outbox_module.STOP_SECONDS):
        await outbox.close(seconds=0.05)
    answered.set()
    assert outbox.queue.count == 1
