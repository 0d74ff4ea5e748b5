"""Images of arbitrary bytes: each gives an upright RGB array or raises InvalidImage."""

from typing import Any

import numpy as np
from hypothesis import given
from hypothesis import strategies as st

from detector.errors import InvalidImage, WholebodyError
from detector.pose import images
from tests.support.seeds import FRAME, SEEDS
from tests.support.strategies import JSON, damaged, mutated

MAX_PIXELS = 100_000


@given(st.sampled_from(sorted(SEEDS)).flatmap(lambda name: damaged(SEEDS[name])))
def test_a_damaged_image_is_an_array_or_refused(data: bytes) -> None:
    """Decoding gives an array within the limits or raises InvalidImage; a decoded image can be encoded as JPEG."""
    try:
        array = images.decode_image(data, max_pixels=MAX_PIXELS)
    except InvalidImage as error:
        assert str(error)
        return
    assert array.dtype == np.uint8
    assert array.ndim == 3
    assert array.shape[2] == 3
    assert array.shape[0] * array.shape[1] <= MAX_PIXELS
    sent = images.decode_image(images.as_jpeg(data, array))
    assert sent.shape == array.shape


@given(st.binary(max_size=200))
def test_any_bytes_are_an_image_or_refused(data: bytes) -> None:
    """Arbitrary bytes raise nothing but InvalidImage."""
    try:
        images.decode_image(data, max_pixels=MAX_PIXELS)
    except InvalidImage as error:
        assert str(error)


@given(JSON | mutated(FRAME) | mutated({'format': 'jpeg', 'bytes': SEEDS['jpeg']}))
def test_any_payload_is_an_image_or_refused(payload: Any) -> None:
    """A Socket.IO payload of any form gives an array, bytes, or one of our errors."""
    try:
        received = images.from_payload(payload, max_pixels=MAX_PIXELS)
    except WholebodyError as error:
        assert str(error)
        return
    assert isinstance(received, bytes | np.ndarray)
