"""The bytes of unanswered requests are counted, and released whatever happens to their senders."""

import gc

from detector.api.in_flight import Claim, InFlight


def test_what_others_hold_leaves_less_room() -> None:
    """All claims together stay within the limit to the byte."""
    in_flight = InFlight(100)
    one, other = Claim(in_flight), Claim(in_flight)
    one.add(60)
    assert other.has_room(40)
    assert not other.has_room(41)
    assert 'hold 60 bytes; the limit for all is 100' in str(other.refusal())
    other.add(40)
    assert not one.has_room(1)
    assert one.has_room(0)


def test_who_is_alone_may_have_more() -> None:
    """A single sender is bounded only by its own limit."""
    in_flight = InFlight(100)
    alone = Claim(in_flight)
    alone.add(99)
    assert alone.has_room(1000)
    alone.add(1000)
    assert not Claim(in_flight).has_room(1)
    assert Claim(in_flight).has_room(0)  # a request without a body needs no room


def test_claims_are_given_back() -> None:
    """A claim is released once, explicitly or with its last reference."""
    in_flight = InFlight(100)
    claim = Claim(in_flight)
    claim.add(50)
    claim.release()
    claim.release()
    assert in_flight.held == 0
    claim.add(20)
    del claim
    gc.collect()
    assert in_flight.held == 0
