"""Socket.IO messages that the library would drop become events that are answered."""

import pytest
from socketio import packet

from detector.sio_packets import MAX_ATTACHMENTS, UNREADABLE, TolerantPacket


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
    """So that whoever waits for the answer gets one, which says what is wrong."""
    received = TolerantPacket(encoded_packet=message)
    assert (received.packet_type, received.id, received.data[0]) == (packet.EVENT, 7, UNREADABLE)
    assert received.data[1]
    assert received.attachment_count == 0


def test_an_event_without_the_binary_parts_that_it_announces_does_not_wait_for_them() -> None:
    """Else it would take every later message of the connection for one."""
    received = TolerantPacket(encoded_packet='50-7["info"]')
    assert (received.packet_type, received.id, received.data) == (packet.EVENT, 7, ['info'])


@pytest.mark.parametrize('number', ['5', '"a"', 'null', '[]', '-7'])
def test_a_placeholder_of_nothing_is_an_error(number: str) -> None:
    """The event ends with it, and the next message is one of its own."""
    received = TolerantPacket(encoded_packet=f'51-7["detect",{{"_placeholder":true,"num":{number}}}]')
    assert received.add_attachment(b'bytes')
    assert received.data[0] == UNREADABLE


def test_a_good_event_is_as_it_was() -> None:
    """Text, numbers of any length and binary parts."""
    assert TolerantPacket(encoded_packet='27["info",1]').data == ['info', 1]
    assert TolerantPacket(encoded_packet='2["a",' + '9' * 5000 + ']').data == ['a', float('inf')]
    received = TolerantPacket(encoded_packet='51-7["detect",{"_placeholder":true,"num":0}]')
    assert received.add_attachment(b'bytes')
    assert received.data == ['detect', b'bytes']


@pytest.mark.parametrize('message', ['60-7["a"]', '6999999-7["a"]', 'x7["a"]', '9'])
def test_what_is_no_event_waits_for_nothing(message: str) -> None:
    """It is refused, or comes to nothing at once."""
    try:
        received = TolerantPacket(encoded_packet=message)
    except ValueError:
        return
    assert received.attachment_count == 0
