"""Images: bytes and Socket.IO payloads to and from upright RGB arrays, within limits.

An image is a uint8 array H×W×3, RGB, with its EXIF orientation applied.
"""

import hashlib
import io
import warnings
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Final

import cv2
import numpy as np
from numpy.typing import NDArray
from PIL import ExifTags, ImageOps, UnidentifiedImageError
from PIL import Image as PillowImage

from detector.errors import ImageTooLarge, InvalidImage, InvalidRequest, UnsupportedImageFormat

Image = NDArray[np.uint8]
"""RGB uint8 array, H×W×3, upright."""

FORMATS: Final = ('JPEG', 'PNG', 'WEBP')
_OTHER_FORMATS: Final = {b'GIF8': 'GIF', b'BM': 'BMP', b'II*\0': 'TIFF', b'MM\0*': 'TIFF', b'%PDF': 'PDF'}
_JPEG_FORMATS: Final = ('JPEG', 'MPO')
_SCAN, _END = b'\xff\xda', b'\xff\xd9'
"""Markers before the pixels and at the end of a JPEG."""
_FILLER: Final = bytes(range(1, 128))
"""Bytes that decode to pixels, if a scan lacks some."""
_MAX_ZEROS: Final = 2
"""Number of zeros at the end of a JPEG without its end marker that may belong to its pixels."""
_TURNED: Final = range(2, 9)
"""Values of the EXIF tag Orientation that ask for a rotation or a reflection."""
_ON_ITS_SIDE: Final = range(5, 9)
"""Values of the EXIF tag Orientation that swap width and height."""
DEFAULT_MAX_PIXELS: Final = 64_000_000
"""Default limit of an image's size, in pixels. The setting MAX_IMAGE_PIXELS has the same default."""
MAX_BYTES: Final = 64 * 1024**2
"""Limit of a received image's size, in bytes; rosys sends no larger messages."""
MIN_SIDE: Final = 8
"""Shortest accepted side, in pixels."""
_MAX_JPEG_SIDE: Final = 65500
"""Longest side that libjpeg encodes, in pixels."""
MAX_ASPECT_RATIO: Final = 64
"""Largest accepted ratio of the sides. A longer strip would vanish in the letterbox of the person detector."""


def decode_image(data: bytes, *, max_pixels: int = DEFAULT_MAX_PIXELS) -> Image:
    """Decode a JPEG, PNG or WebP file of any colour mode into an upright RGB array.

    Greyscale is repeated to three channels, 16 bits are reduced to 8, CMYK is converted, and transparent pixels are
    laid over white. A JPEG may lack its end marker, as frames of some cameras do: browsers show it whole, too. One that
    lacks pixels is broken.

    :param data: the bytes of the file.
    :param max_pixels: largest accepted number of pixels; checked before decoding.
    :return: RGB uint8, H×W×3.
    :raises UnsupportedImageFormat: the format is another one, or the image is animated.
    :raises ImageTooLarge: the image has more than `max_pixels` pixels, or more than 64 MiB.
    :raises InvalidImage: the bytes are not an image, the image is broken, or its size is not accepted.

    >>> from pathlib import Path
    >>> decode_image(Path('photo.jpg').read_bytes()).shape
    (683, 1024, 3)
    """
    with _opened(data, max_pixels) as picture:
        # Pillow calls the multi-picture JPEGs of phones MPO; their first picture is the photograph
        if getattr(picture, 'is_animated', False) and picture.format != 'MPO':
            raise UnsupportedImageFormat('animated images are not accepted; send a single picture')
        _check_size(picture.width, picture.height, max_pixels)
        if picture.format in _JPEG_FORMATS and _lacks_end(data):
            return decode_image(_ended(data), max_pixels=max_pixels)
        try:
            array = _fast_decoded(data, picture)
            if array is None:
                ImageOps.exif_transpose(picture, in_place=True)
                array = np.asarray(_to_rgb(picture))
        except Exception as error:
            raise InvalidImage(f'the image is broken: {error}') from error
    return np.ascontiguousarray(array)


def _lacks_end(data: bytes) -> bool:
    """Return True if no end marker follows the last scan of a JPEG; the marker does not occur within a scan."""
    return data.rfind(_END) < data.rfind(_SCAN)


def _ended(data: bytes) -> bytes:
    """Return a JPEG with the end marker that it lacks.

    Bytes before the marker change the picture only if pixels are missing, since a decoder ignores them after the last
    pixel.

    :raises InvalidImage: pixels are missing, too.
    """
    body = _without_padding(data)
    try:
        whole, longer = (_digest(body + more + _END) for more in (b'', _FILLER))
    except Exception as error:
        raise InvalidImage(f'the image is broken: {error}') from error
    if whole != longer:
        raise InvalidImage('the image is broken: the file is truncated, and pixels are missing')
    return body + _END


def _without_padding(data: bytes) -> bytes:
    """Remove half a marker, or zeros that a camera has added; the last pixels themselves may end in a few zeros."""
    stripped = data.removesuffix(_END[:1]).rstrip(b'\0')
    return data.removesuffix(_END[:1])[: len(stripped) + _MAX_ZEROS]


def _digest(data: bytes) -> bytes:
    """Return a hash of the pixels, so that only one picture is in memory at a time."""
    with PillowImage.open(io.BytesIO(data), formats=_JPEG_FORMATS) as picture:
        return hashlib.sha256(picture.tobytes()).digest()


def pixels(received: Image | bytes, *, max_pixels: int = DEFAULT_MAX_PIXELS) -> int:
    """Return the number of pixels that `decode_any` would give. Of a file only the header is read.

    :raises InvalidImage: see `decode_any`.
    """
    if not isinstance(received, bytes):
        return int(received.shape[0] * received.shape[1])
    with _opened(received, max_pixels) as picture:
        _check_size(picture.width, picture.height, max_pixels)
        return picture.width * picture.height


def upright_size(data: bytes, *, max_pixels: int = DEFAULT_MAX_PIXELS) -> tuple[int, int]:
    """Return the width and height that `decode` would give. Only the header is read; a PNG is decoded.

    :raises InvalidImage: see `decode`.
    """
    with _opened(data, max_pixels) as picture:
        _check_size(picture.width, picture.height, max_pixels)
        try:
            on_its_side = picture.getexif().get(ExifTags.Base.Orientation) in _ON_ITS_SIDE
        except Exception as error:
            raise InvalidImage(f'the image is broken: {error}') from error
        return (picture.height, picture.width) if on_its_side else (picture.width, picture.height)


def _opened(data: bytes, max_pixels: int) -> PillowImage.Image:
    """Open an image and read its header."""
    if not data:
        raise InvalidImage('the image is empty (0 bytes)')
    if len(data) > MAX_BYTES:
        raise ImageTooLarge(f'the image has {len(data)} bytes; the limit is {MAX_BYTES}')
    try:
        with warnings.catch_warnings():
            warnings.simplefilter('ignore', PillowImage.DecompressionBombWarning)  # max_pixels is checked instead
            return PillowImage.open(io.BytesIO(data), formats=FORMATS)
    except UnidentifiedImageError:
        other = next((name for magic, name in _OTHER_FORMATS.items() if data.startswith(magic)), None)
        what = f'{other} images are not accepted' if other else 'these bytes are not an image'
        raise UnsupportedImageFormat(f'{what}; send JPEG, PNG or WebP') from None
    except PillowImage.DecompressionBombError:
        raise ImageTooLarge(f'the image has more than the limit of {max_pixels} pixels') from None
    except Exception as error:
        raise InvalidImage(f'the image is broken: {error}') from error


def _fast_decoded(data: bytes, picture: PillowImage.Image) -> Image | None:
    """Decode an upright JPEG with OpenCV, which gives the same pixels as Pillow in three quarters of the time.

    :return: None for other images, and for broken ones: Pillow's errors say what is wrong.
    """
    if not _is_upright_jpeg(picture):
        return None
    flags = cv2.IMREAD_COLOR_RGB | cv2.IMREAD_IGNORE_ORIENTATION
    decoded: Image | None = cv2.imdecode(np.frombuffer(data, dtype=np.uint8), flags)  # type: ignore[assignment]
    size = picture.height, picture.width
    return decoded if decoded is not None and decoded.shape[:2] == size else None


def decode_any(received: Image | bytes, *, max_pixels: int = DEFAULT_MAX_PIXELS) -> Image:
    """Return a received image as an upright RGB array.

    :param received: an RGB array, or the bytes of an image file.
    :raises InvalidImage: see `decode` and `check`.
    """
    if isinstance(received, bytes):
        return decode_image(received, max_pixels=max_pixels)
    return check(received, max_pixels=max_pixels)


def _to_rgb(picture: PillowImage.Image) -> PillowImage.Image:
    if picture.mode == 'RGB':
        return picture
    if picture.mode.startswith('I'):  # 16-bit greyscale of any byte order
        return PillowImage.fromarray((np.asarray(picture) >> 8).clip(0, 255).astype(np.uint8)).convert('RGB')
    if picture.has_transparency_data:
        layers = picture.convert('RGBA')
        opaque = PillowImage.new('RGB', picture.size, 'white')
        opaque.paste(layers, mask=layers.getchannel('A'))
        return opaque
    return picture.convert('RGB')


def check(array: NDArray[Any], *, max_pixels: int = DEFAULT_MAX_PIXELS) -> Image:
    """Return the array if it is an image.

    :raises InvalidImage: the array is not uint8, not H×W×3, or its size is not accepted.
    :raises ImageTooLarge: the array has more than `max_pixels` pixels.
    """
    if array.dtype != np.uint8:
        raise InvalidImage(f'the image array is {array.dtype}; send uint8, 0..255')
    if array.ndim != 3 or array.shape[2] != 3:
        raise InvalidImage(f'the image array has the shape {array.shape}; send (height, width, 3), RGB')
    _check_size(array.shape[1], array.shape[0], max_pixels)
    return array


def _check_size(width: int, height: int, max_pixels: int) -> None:
    if width * height > max_pixels:
        raise ImageTooLarge(f'the image is {width}×{height} pixels; the limit is {max_pixels} (MAX_IMAGE_PIXELS)')
    if min(width, height) < MIN_SIDE:
        raise InvalidImage(f'the image is {width}×{height} pixels; each side needs at least {MIN_SIDE}')
    if max(width, height) > MAX_ASPECT_RATIO * min(width, height):
        raise InvalidImage(
            f'the image is {width}×{height} pixels; the ratio of its sides is limited to {MAX_ASPECT_RATIO}'
        )


def from_payload(payload: object, *, max_pixels: int = DEFAULT_MAX_PIXELS) -> Image | bytes:
    """Read the image of a Socket.IO event.

    :param payload: `{'bytes': …, 'dtype': 'uint8', 'shape': (height, width, 3)}`, RGB in C order, or
        `{'format': 'jpeg', 'bytes': …}` with the bytes of an image file.
    :return: the array, or the undecoded bytes of the file.
    :raises InvalidRequest: the payload does not have this form.
    :raises InvalidImage: the array is not acceptable, see `check`.
    """
    if not isinstance(payload, Mapping):
        raise InvalidRequest("'image' must be an object with bytes, dtype and shape, or with format 'jpeg' and bytes")
    data = payload.get('bytes')
    if not isinstance(data, bytes | bytearray | memoryview):
        raise InvalidRequest("'image' lacks its binary field 'bytes'")
    match payload.get('format', 'raw'):
        case 'jpeg':
            return bytes(data)
        case 'raw':
            return _from_raw(data, payload.get('dtype'), payload.get('shape'), max_pixels)
        case other:
            raise InvalidRequest(f"the image's format is {str(other)[:40]!r}; send 'raw' or 'jpeg'")


def _from_raw(data: bytes | bytearray | memoryview, dtype: object, shape: object, max_pixels: int) -> Image:
    if dtype != 'uint8':
        raise InvalidImage(f"the image's dtype is {str(dtype)[:40]!r}; send 'uint8', 0..255")
    if not (isinstance(shape, list | tuple) and all(type(size) is int and size >= 0 for size in shape)):
        raise InvalidRequest(f"the image's shape is {str(shape)[:40]}; send (height, width, 3)")
    if len(shape) != 3 or shape[2] != 3:
        raise InvalidImage(f"the image's shape is {tuple(shape)}; send (height, width, 3), RGB")
    _check_size(shape[1], shape[0], max_pixels)
    expected = shape[0] * shape[1] * 3
    if len(data) != expected:
        raise InvalidImage(f'the image has {len(data)} bytes; its shape {tuple(shape)} needs {expected}')
    return np.frombuffer(data, dtype=np.uint8).reshape(shape)


def encode_jpeg(image: Image, *, quality: int = 95) -> bytes:
    """Encode an RGB array as JPEG.

    :param image: RGB uint8, H×W×3.
    :param quality: 1..100.
    :raises ImageTooLarge: a side is longer than the format allows.
    """
    if max(image.shape[:2]) > _MAX_JPEG_SIDE:
        raise ImageTooLarge(
            f'the image is {image.shape[1]}×{image.shape[0]} pixels; JPEG allows {_MAX_JPEG_SIDE} on each side'
        )
    buffer = io.BytesIO()
    PillowImage.fromarray(image).save(buffer, format='JPEG', quality=quality, subsampling=0)
    return buffer.getvalue()


def as_jpeg(received: Image | bytes, decoded: Image) -> bytes:
    """Return an image as an upright JPEG, for readers that ignore EXIF or know no other format.

    :param received: an RGB array, or the bytes of an image file. An upright JPEG is returned unchanged, except that
        it gets the end marker that it lacks.
    :param decoded: the image that `decode` makes of it.
    """
    if isinstance(received, bytes):
        with PillowImage.open(io.BytesIO(received), formats=FORMATS) as picture:
            if _is_upright_jpeg(picture):
                return _without_padding(received) + _END if _lacks_end(received) else received
    return encode_jpeg(decoded)


def _is_upright_jpeg(picture: PillowImage.Image) -> bool:
    turned = picture.getexif().get(ExifTags.Base.Orientation) in _TURNED
    return picture.format in _JPEG_FORMATS and picture.mode in ('RGB', 'L') and not turned


def read_image(path: Path | str, *, max_pixels: int = DEFAULT_MAX_PIXELS) -> Image:
    """Read a JPEG, PNG or WebP file into an upright RGB array.

    :param path: image file.
    :param max_pixels: largest accepted number of pixels; checked before decoding.
    :return: RGB uint8, H×W×3.
    :raises InvalidImage: the file cannot be read or is not acceptable, see `decode_image`.

    >>> image = read_image('photo.jpg')
    >>> image.shape, image.dtype
    ((683, 1024, 3), dtype('uint8'))
    """
    try:
        data = Path(path).read_bytes()
    except OSError as error:
        raise InvalidImage(f'{path}: {error.strerror}') from error
    return decode_image(data, max_pixels=max_pixels)


def write_image(path: Path | str, image: Image) -> None:
    """Write an RGB array as JPEG, PNG or WebP, as the ending of the file name says.

    Missing folders are created.

    :param path: image file; the ending is .jpg, .jpeg, .png or .webp.
    :param image: RGB uint8, H×W×3.
    :raises UnsupportedImageFormat: the ending is another one.

    >>> write_image('copy.png', read_image('photo.jpg'))
    """
    path = Path(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    match path.suffix.lower():
        case '.jpg' | '.jpeg':
            path.write_bytes(encode_jpeg(image))
        case '.png' | '.webp':
            PillowImage.fromarray(image).save(path)
        case other:
            raise UnsupportedImageFormat(f'{path.name}: the ending {other!r} is not supported; use .jpg, .png or .webp')
