"""Images are decoded where there is room for them, in the order of arrival."""

import asyncio
import io
import itertools
import time

import numpy as np
import pytest
from PIL import Image

from benchmarks.support.cards import make_card
from detector.errors import Busy, DeadlineExceeded
from detector.observability.metrics import Metrics
from detector.pose import images
from detector.serving.admission import Admission, Ticket
from detector.serving.decoding import Decoder, Room

CARD = images.encode_jpeg(make_card())
PIXELS = 720 * 480


_numbers = itertools.count()


def make_ticket(*, seconds: float = 60) -> Ticket:
    """Return a ticket that arrived after the previous ones."""
    return Ticket(
        live=True,
        stream=None,
        since=next(_numbers),
        deadline=time.monotonic() + seconds,
        late=lambda: DeadlineExceeded('too late', retry_after=1),
    )


async def settle() -> None:
    for _ in range(5):
        await asyncio.sleep(0)


async def test_room_is_given_out_in_the_order_of_arrival() -> None:
    """A small request does not overtake a large one, which would starve otherwise."""
    room = Room(10)
    await room.take(8, make_ticket())
    large, small = (asyncio.create_task(room.take(pixels, make_ticket())) for pixels in (5, 1))
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


async def test_a_frame_takes_the_place_of_the_one_it_replaces() -> None:
    """The replaced frame leaves at once; a camera faster than the queue would starve otherwise."""
    room, admission = Room(10), Admission(max_waiting=10, deadline=60)
    await room.take(10, make_ticket())
    async with admission.enter(stream='front') as old, admission.enter() as other:
        tasks = [asyncio.create_task(room.take(10, ticket)) for ticket in (old, other)]
        await settle()
        async with admission.enter(stream='front') as new:
            with pytest.raises(Busy, match='a newer frame'):
                await asyncio.wait_for(tasks[0], 1)
            last = asyncio.create_task(room.take(10, new))
            await settle()
            room.give_back(10)
            await asyncio.wait_for(last, 1)
            assert not tasks[1].done()
            room.give_back(10)
            await tasks[1]
    room.give_back(10)
    assert room.held == 0


async def test_a_request_larger_than_all_the_room_goes_alone() -> None:
    """A request larger than the whole room gets it alone, and other requests wait."""
    room = Room(10)
    await room.take(25, make_ticket())
    assert not room.has(1)
    room.give_back(25)
    assert room.has(1)


async def test_a_request_that_leaves_does_not_block_those_behind_it() -> None:
    """A request that times out or is cancelled does not block those behind it."""
    room = Room(10)
    await room.take(8, make_ticket())
    late = asyncio.create_task(room.take(9, make_ticket(seconds=0.1)))
    cancelled = asyncio.create_task(room.take(9, make_ticket()))
    patient = asyncio.create_task(room.take(2, make_ticket()))
    await settle()
    cancelled.cancel()
    with pytest.raises(DeadlineExceeded, match='too late'):
        await late
    await asyncio.wait_for(patient, 1)
    assert room.held == 10
    with pytest.raises(DeadlineExceeded):
        await room.take(1, make_ticket(seconds=-1))
    room.give_back(10)
    assert room.held == 0
    assert room.has(10)


async def test_a_request_cancelled_at_its_turn_gives_the_room_back() -> None:
    """A task that gets its room and is cancelled before it continues gives the room back."""
    room = Room(10)
    await room.take(10, make_ticket())
    waiting = asyncio.create_task(room.take(10, make_ticket()))
    await settle()
    room.give_back(10)
    waiting.cancel()
    with pytest.raises(asyncio.CancelledError):
        await waiting
    assert room.held == 0


def make_decoder(max_pixels: int, *, room: int = 4 * PIXELS) -> Decoder:
    return Decoder(max_pixels=max_pixels, metrics=Metrics(), room=room)


def png(*, orientation: int | None = None) -> bytes:
    buffer, exif = io.BytesIO(), Image.Exif()
    if orientation is not None:
        exif[0x0112] = orientation
    Image.fromarray(make_card()).save(buffer, format='PNG', exif=exif)
    return buffer.getvalue()


async def test_a_group_is_decoded_with_errors_for_broken_images() -> None:
    """Results keep their order; arrays pass unchanged and take no room."""
    decoder = make_decoder(1_000_000)
    array = make_card()
    async with decoder.decoded([CARD, b'no image', array, array[:, :, :1]], make_ticket()) as found:
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
    """Four of ten waiting images of the largest size are in memory, and only the headers of the others are read."""
    decoder = make_decoder(PIXELS)
    most, go, held = 0, asyncio.Event(), 0

    async def hold() -> None:
        nonlocal most, held
        async with decoder.decoded([CARD], make_ticket()):
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
        async with decoder.decoded([CARD], make_ticket(seconds=0.05)):
            raise AssertionError('the image must not get room')
    async with decoder.decoded([make_card()], make_ticket(seconds=-1)):  # an array needs no room
        go.set()
    await asyncio.gather(*tasks)
    assert (held, most, decoder.room.held) == (10, 4 * PIXELS, 0)


@pytest.mark.parametrize('file', [CARD, png(), png(orientation=6)], ids=['jpeg', 'png', 'turned png'])
async def test_only_the_headers_of_waiting_images_are_read(file: bytes, monkeypatch: pytest.MonkeyPatch) -> None:
    """A waiting image is not decoded, not even for its orientation, for which Pillow would decode a PNG."""
    decoder = make_decoder(PIXELS, room=PIXELS)
    async with decoder.decoded([CARD], make_ticket()):
        monkeypatch.setattr('PIL.ImageFile.ImageFile.load', lambda _: pytest.fail('a waiting image is decoded'))
        with pytest.raises(DeadlineExceeded):
            async with decoder.decoded([file], make_ticket(seconds=0.2)):
                raise AssertionError('the image must not get room')
    monkeypatch.undo()
    async with decoder.decoded([file], make_ticket()) as (image,):
        assert decoder.room.held == PIXELS
        assert isinstance(image, np.ndarray)


async def test_failing_requests_give_the_room_back() -> None:
    """A request that fails during or after decoding, or is cancelled, gives its room back."""
    decoder = make_decoder(PIXELS)
    with pytest.raises(ZeroDivisionError):
        async with decoder.decoded([CARD], make_ticket()):
            raise ZeroDivisionError
    task = asyncio.create_task(decoder.decoded([CARD] * 4, make_ticket()).__aenter__())
    await settle()
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task
    assert decoder.room.held == 0
