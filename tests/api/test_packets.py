"""Socket.IO messages that the library would drop become events that are answered."""

import json

import pytest
from socketio import packet

from benchmarks.support.waiting import eventually_async
from detector.api.in_flight import Claim, InFlight
from detector.api.packets import MAX_ATTACHMENTS, MAX_EVENT_VALUES, MAX_TEXT, UNREADABLE, TolerantJson, TolerantPacket
from detector.errors import Busy, InvalidRequest, RequestTooLarge, RequestTooSlow

PACKETS = TolerantPacket.counted_by(InFlight(10**9), seconds=5)


@pytest.mark.parametrize(
    'message',
    [
        '27["info"',
        '27' + '[' * 100_000,
        '27',
        '27[]',
        '27{}',
        '27[{}]',
        '27[["info"]]',
        '27[5]',
        f'5{MAX_ATTACHMENTS + 1}-7["info"]',
        '59999999999-7["info"]',
    ],
)
def test_an_event_that_cannot_be_read_keeps_its_id(message: str) -> None:
    """An unreadable event keeps its id, so that the waiting client gets an answer that names the fault."""
    received = TolerantPacket(encoded_packet=message)
    assert (received.packet_type, received.id, received.data[0]) == (packet.EVENT, 7, UNREADABLE)
    assert received.data[1]
    assert received.attachment_count == 0


def test_an_event_without_the_binary_parts_that_it_announces_does_not_wait_for_them() -> None:
    """An event without its announced parts ends at once; the library would take later messages for its parts."""
    received = TolerantPacket(encoded_packet='50-7["info"]')
    assert (received.packet_type, received.id, received.data) == (packet.EVENT, 7, ['info'])


@pytest.mark.parametrize('number', ['5', '"a"', 'null', '[]', '-7'])
async def test_a_placeholder_of_nothing_is_an_error(number: str) -> None:
    """A placeholder without a part makes the event invalid, and the next message is a new event."""
    received = PACKETS(encoded_packet=f'51-7["detect",{{"_placeholder":true,"num":{number}}}]')
    assert received.add_attachment(b'bytes')
    assert received.data[0] == UNREADABLE


async def test_a_good_event_is_as_it_was() -> None:
    """Text, numbers and binary parts of a valid event are unchanged."""
    assert TolerantPacket(encoded_packet='27["info",1]').data == ['info', 1]
    assert TolerantPacket(encoded_packet='2["a",' + '9' * 5000 + ']').data == ['a', float('inf')]
    received = PACKETS(encoded_packet='51-7["detect",{"_placeholder":true,"num":0}]')
    assert received.add_attachment(b'bytes')
    assert received.data == ['detect', b'bytes']


@pytest.mark.parametrize('message', ['60-7["a"]', '6999999-7["a"]', 'x7["a"]', '9'])
def test_what_is_no_event_waits_for_nothing(message: str) -> None:
    """A message that is not an event is refused, or waits for no binary parts."""
    try:
        received = TolerantPacket(encoded_packet=message)
    except ValueError:
        return
    assert received.attachment_count == 0


def binary_event(kind: type[TolerantPacket], count: int) -> TolerantPacket:
    parts = ','.join(f'{{"_placeholder":true,"num":{number}}}' for number in range(count))
    return kind(encoded_packet=f'5{count}-7["a",{parts}]')


async def test_binary_parts_are_counted_until_the_event_is_answered() -> None:
    """Binary parts count as long as the handler has the payload, or as long as an incomplete packet exists."""
    in_flight = InFlight(100)
    kind = TolerantPacket.counted_by(in_flight, seconds=5)
    event = binary_event(kind, 2)
    event.add_attachment(bytes(30))
    assert in_flight.held == 30
    assert event.add_attachment(bytes(20))
    data = event.data
    del event
    assert data == ['a', bytes(30), bytes(20)]
    assert in_flight.held == 50
    del data
    assert in_flight.held == 0
    binary_event(kind, 2).add_attachment(bytes(30))
    assert in_flight.held == 0


@pytest.mark.parametrize(
    ('others', 'part', 'error'),
    [(0, bytes(40), RequestTooLarge), (30, bytes(40), Busy), (0, None, InvalidRequest), (0, 'text', InvalidRequest)],
)
async def test_an_event_that_cannot_be_taken_is_let_pass_and_answered(others: int, part: object, error: type) -> None:
    """An event with invalid or too large parts is received completely, discarded and answered with an error."""
    in_flight = InFlight(100)
    other = Claim(in_flight)
    other.add(others)
    event = binary_event(TolerantPacket.counted_by(in_flight, seconds=5), 4)
    assert [event.add_attachment(part) for _ in range(4)] == [False, False, False, True]
    assert event.data[0] == UNREADABLE
    assert type(event.data[1]) is error
    assert event.data[2] == 'a'
    assert in_flight.held == others


async def test_parts_that_do_not_come_hold_no_room_for_ever() -> None:
    """Parts that arrive after the time limit are discarded, and the event is answered."""
    in_flight = InFlight(100)
    event = binary_event(TolerantPacket.counted_by(in_flight, seconds=0.05), 2)
    event.add_attachment(bytes(60))
    await eventually_async(lambda: in_flight.held == 0, 'the room is free')
    assert event.add_attachment(bytes(30))
    assert isinstance(event.data[1], RequestTooSlow)


async def test_an_answer_with_parts_that_are_none_comes_to_nothing() -> None:
    """An answer of a client, which the node never requests, gives an empty packet."""
    event = TolerantPacket.counted_by(InFlight(100), seconds=5)(encoded_packet='61-7')
    assert event.add_attachment(None)
    assert event.data == []


def test_an_endless_text_is_not_read() -> None:
    """A long text is not parsed, which would take many times its length; the event keeps its id and is answered."""
    received = TolerantPacket(encoded_packet='27["a"' + ',[]' * (MAX_TEXT // 3) + ']')
    assert (received.id, received.data[0]) == (7, UNREADABLE)
    assert 'characters' in received.data[1]


def test_an_event_of_many_values_is_unreadable() -> None:
    """Text that is short but has too many values is refused before it is parsed; metadata with 100 persons is read."""
    with pytest.raises(ValueError, match='more than 250000 values'):
        TolerantJson.loads('["upload",[' + '{},' * MAX_EVENT_VALUES + '{}]]')
    point = {'category_name': 'nose', 'model_name': 'm', 'confidence': 0.5, 'category_id': 'i', 'x': 1.5, 'y': 2.5}
    text = json.dumps(['upload', {'metadata': {'point_annotations': [point] * 13_300}}])
    assert len(TolerantJson.loads(text)[1]['metadata']['point_annotations']) == 13_300
