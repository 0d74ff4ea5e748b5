"""Images are decoded where there is room for them, in the order of their arrival."""

import asyncio
import math
import time

import pytest

from detector import images
from detector.decoding import Decoder, Room
from detector.errors import DeadlineExceeded
from detector.metrics import Metrics

from .cards import make_card

CARD = images.encode_jpeg(make_card())
PIXELS = 720 * 480


async def settle() -> None:
    for _ in range(5):
        await asyncio.sleep(0)


async def test_who_comes_first_is_served_first() -> None:
    """A small one does not overtake a large one, which would never be served otherwise."""
    room = Room(10)
    await room.take(8, math.inf)
    large, small = (asyncio.create_task(room.take(pixels, math.inf)) for pixels in (5, 1))
    await settle()
    assert not room.has(1)
    assert room.has(0)
    assert not large.done()
    assert not small.done()
    room.give_back(8)
    await settle()
    assert large.done()
    assert small.done()
    assert room.held == 6


async def test_what_is_larger_than_all_the_room_goes_alone() -> None:
    """And keeps the others waiting."""
    room = Room(10)
    await room.take(25, math.inf)
    assert not room.has(1)
    room.give_back(25)
    assert room.has(1)


async def test_nobody_waits_longer_than_he_wants() -> None:
    """Who gives up, or is cancelled, keeps nobody behind him waiting."""
    room = Room(10)
    await room.take(8, math.inf)
    late = asyncio.create_task(room.take(9, time.monotonic() + 0.1))
    cancelled = asyncio.create_task(room.take(9, math.inf))
    patient = asyncio.create_task(room.take(2, math.inf))
    await settle()
    cancelled.cancel()
    with pytest.raises(DeadlineExceeded, match='no turn in time'):
        await late
    await asyncio.wait_for(patient, 1)
    assert room.held == 10
    with pytest.raises(DeadlineExceeded):
        await room.take(1, time.monotonic() - 1)
    room.give_back(10)
    assert room.held == 0
    assert room.has(10)


async def test_who_is_cancelled_when_it_is_his_turn_gives_it_back() -> None:
    """The room is granted and the task has not gone on yet."""
    room = Room(10)
    await room.take(10, math.inf)
    waiting = asyncio.create_task(room.take(10, math.inf))
    await settle()
    room.give_back(10)
    waiting.cancel()
    with pytest.raises(asyncio.CancelledError):
        await waiting
    assert room.held == 0


def make_decoder(max_pixels: int) -> Decoder:
    return Decoder(max_pixels=max_pixels, metrics=Metrics())


async def test_a_group_is_decoded_and_the_broken_ones_say_why() -> None:
    """In their order; arrays come through as they are, and take no room."""
    decoder = make_decoder(1_000_000)
    array = make_card()
    async with decoder.decoded([CARD, b'no image', array, array[:, :, :1]], deadline=math.inf) as found:
        assert [type(image).__name__ for image in found] == [
            'ndarray',
            'UnsupportedImageFormat',
            'ndarray',
            'InvalidImage',
        ]
        assert found[2] is array
        assert decoder.room.held == PIXELS
    assert decoder.room.held == 0


async def test_decoded_images_are_not_piled_up() -> None:
    """Of ten that wait, four of the largest size are in memory, and the headers of the others are known."""
    decoder = make_decoder(PIXELS)
    most, go, held = 0, asyncio.Event(), 0

    async def hold() -> None:
        nonlocal most, held
        async with decoder.decoded([CARD], deadline=math.inf):
            held += 1
            most = max(most, decoder.room.held)
            await go.wait()

    tasks = [asyncio.create_task(hold()) for _ in range(10)]
    async with asyncio.timeout(10):
        while held < 4:
            await asyncio.sleep(0.01)
    await asyncio.sleep(0.2)
    assert held == 4
    with pytest.raises(DeadlineExceeded):
        async with decoder.decoded([CARD], deadline=time.monotonic() + 0.05):
            raise AssertionError('there was room')
    async with decoder.decoded([make_card()], deadline=time.monotonic()):  # needs none
        go.set()
    await asyncio.gather(*tasks)
    assert (held, most, decoder.room.held) == (10, 4 * PIXELS, 0)


async def test_room_comes_back_from_those_who_fail() -> None:
    """While it is decoded, and after."""
    decoder = make_decoder(PIXELS)
    with pytest.raises(ZeroDivisionError):
        async with decoder.decoded([CARD], deadline=math.inf):
            raise ZeroDivisionError
    task = asyncio.create_task(decoder.decoded([CARD] * 4, deadline=math.inf).__aenter__())
    await settle()
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task
    assert decoder.room.held == 0
