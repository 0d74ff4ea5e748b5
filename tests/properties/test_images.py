"""Images of whatever bytes: an upright RGB array, or an InvalidImage."""

import io
from typing import Any

import numpy as np
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image

from detector.errors import InvalidImage, WholebodyError
from detector.pose import images
from tests.support.strategies import JSON, damaged, mutated

MAX_PIXELS = 100_000


def encoded(kind: str, mode: str = 'RGB', **options: Any) -> bytes:
    noise = np.random.default_rng(0).integers(0, 256, (24, 32, 3), dtype=np.uint8)
    buffer = io.BytesIO()
    Image.fromarray(noise).convert(mode).save(buffer, format=kind, **options)
    return buffer.getvalue()


def turned() -> bytes:
    exif = Image.Exif()
    exif[0x0112] = 6
    exif[0x010E] = 'a description'
    return encoded('JPEG', exif=exif)


def deep() -> bytes:
    buffer = io.BytesIO()
    Image.fromarray(np.arange(24 * 32, dtype=np.uint16).reshape(24, 32) * 80).save(buffer, format='PNG')
    return buffer.getvalue()


SEEDS = {
    'jpeg': encoded('JPEG'),
    'progressive': encoded('JPEG', progressive=True),
    'grey jpeg': encoded('JPEG', 'L'),
    'cmyk jpeg': encoded('JPEG', 'CMYK'),
    'exif': turned(),
    'png': encoded('PNG'),
    'palette': encoded('PNG', 'P', transparency=3),
    'alpha': encoded('PNG', 'LA'),
    '16 bit': deep(),
    'webp': encoded('WEBP', quality=80),
    'lossless webp': encoded('WEBP', 'RGBA', lossless=True),
}


@given(st.sampled_from(sorted(SEEDS)).flatmap(lambda name: damaged(SEEDS[name])))
def test_a_damaged_image_is_an_array_or_refused(data: bytes) -> None:
    """Decoding gives an array within the limits or raises InvalidImage; what decodes can be sent on as a JPEG."""
    try:
        array = images.decode(data, max_pixels=MAX_PIXELS)
    except InvalidImage as error:
        assert str(error)
        return
    assert array.dtype == np.uint8
    assert array.ndim == 3
    assert array.shape[2] == 3
    assert array.shape[0] * array.shape[1] <= MAX_PIXELS
    sent = images.decode(images.as_jpeg(data, array))
    assert sent.shape == array.shape


@given(st.binary(max_size=200))
def test_any_bytes_are_an_image_or_refused(data: bytes) -> None:
    """No bytes raise anything but InvalidImage."""
    try:
        images.decode(data, max_pixels=MAX_PIXELS)
    except InvalidImage as error:
        assert str(error)


FRAME = {'bytes': bytes(16 * 16 * 3), 'dtype': 'uint8', 'shape': [16, 16, 3]}


@given(JSON | mutated(FRAME) | mutated({'format': 'jpeg', 'bytes': SEEDS['jpeg']}))
def test_any_payload_is_an_image_or_refused(payload: Any) -> None:
    """A Socket.IO payload of any form gives an array or bytes, or one of our errors."""
    try:
        received = images.from_payload(payload, max_pixels=MAX_PIXELS)
    except WholebodyError as error:
        assert str(error)
        return
    assert isinstance(received, bytes | np.ndarray)
