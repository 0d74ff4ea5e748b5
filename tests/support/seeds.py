"""Small images that fuzz tests damage."""

import io
from typing import Any

import numpy as np
from PIL import Image


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


FRAME = {'bytes': bytes(16 * 16 * 3), 'dtype': 'uint8', 'shape': [16, 16, 3]}
