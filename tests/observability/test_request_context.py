"""The id and data of a request, on the event loop and in threads."""

import asyncio
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor

import pytest

from detector.observability import request_context
from detector.observability.request_context import begin, encoding, in_this_context, note_error, request_id


@pytest.fixture(autouse=True)
def _leave_the_request() -> Iterator[None]:
    yield
    request_context.leave()


@pytest.mark.parametrize('wanted', ['a', 'robot 7/frame-12', '~' * 128])
def test_a_callers_id_is_kept(wanted: str) -> None:
    """An id is printable ASCII of up to 128 characters."""
    assert begin(wanted).request_id == wanted
    assert request_id() == wanted


@pytest.mark.parametrize('wanted', [None, '', 'x' * 129, 'line\nbreak', 'a\n', 'tab\t', 'ümlaut', b'bytes', 7, ['a']])
def test_what_is_no_id_is_replaced_by_a_fresh_one(wanted: object) -> None:
    """An id that could break a header or a log line is not used."""
    first, second = begin(wanted).request_id, begin(wanted).request_id
    assert first != second
    assert first != wanted
    assert len(first) == 32


async def test_threads_and_tasks_see_the_request_that_started_them() -> None:
    """Two concurrent requests stay separate in `to_thread`, in own executors and in new tasks."""
    with ThreadPoolExecutor(1) as pool:

        async def request(name: str) -> list[str | None]:
            begin(name)
            await asyncio.sleep(0)
            loop = asyncio.get_running_loop()
            return [
                await asyncio.to_thread(request_id),
                await loop.run_in_executor(pool, in_this_context(request_id)),
                await asyncio.create_task(asyncio.to_thread(request_id)),
            ]

        first, second = await asyncio.gather(request('a'), request('b'))
        assert (first, second) == (['a'] * 3, ['b'] * 3)
    assert request_id() is None


async def test_errors_and_encoding_are_noted_in_the_request() -> None:
    """A task that a request has started notes errors and encoding in it; outside a request, notes do nothing."""
    context = begin()
    error = ValueError('no')

    async def work() -> None:
        note_error(error)
        for _ in range(2):
            with encoding():
                await asyncio.sleep(0.02)

    await asyncio.create_task(work())
    assert context.error is error
    assert context.encode_seconds is not None
    assert context.encode_seconds > 0.03
    request_context.leave()
    note_error(error)
    with encoding():
        assert request_id() is None
