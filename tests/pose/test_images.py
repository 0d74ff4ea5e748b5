"""Images: decoding, limits, Socket.IO payloads and files."""

import contextlib
import io
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image as PillowImage

from detector.errors import ImageTooLarge, InvalidImage, InvalidRequest, UnsupportedImageFormat
from detector.pose import images
from tests.support.pictures import encoded, png_of_size

RGB = np.random.default_rng(0).integers(0, 256, (30, 40, 3), dtype=np.uint8)


@pytest.mark.parametrize('kind', ['PNG', 'WEBP'])
def test_lossless_formats_are_read_to_the_bit(kind: str) -> None:
    """An RGB image in a lossless format is decoded to identical pixels."""
    data = encoded(PillowImage.fromarray(RGB), kind, lossless=True)
    np.testing.assert_array_equal(images.decode_image(data), RGB)


@pytest.mark.parametrize('orientation', range(1, 9))
def test_exif_orientation_is_applied(orientation: int) -> None:
    """The array is upright for each of the eight orientations."""
    upright = PillowImage.fromarray(np.kron(RGB[:4, :5], np.ones((8, 8, 1), dtype=np.uint8)))
    stored = {
        2: PillowImage.Transpose.FLIP_LEFT_RIGHT,
        3: PillowImage.Transpose.ROTATE_180,
        4: PillowImage.Transpose.FLIP_TOP_BOTTOM,
        5: PillowImage.Transpose.TRANSPOSE,
        6: PillowImage.Transpose.ROTATE_90,
        7: PillowImage.Transpose.TRANSVERSE,
        8: PillowImage.Transpose.ROTATE_270,
    }
    picture = upright.transpose(stored[orientation]) if orientation > 1 else upright
    exif = PillowImage.Exif()
    exif[0x0112] = orientation
    decoded = images.decode_image(encoded(picture, 'JPEG', exif=exif, quality=100, subsampling=0))
    assert decoded.shape == (32, 40, 3)
    assert images.upright_size(encoded(picture, 'JPEG', exif=exif)) == (40, 32)
    assert np.abs(decoded.astype(int) - np.asarray(upright).astype(int)).mean() < 3


def test_every_colour_mode_becomes_rgb() -> None:
    """Grey, 16-bit grey, bilevel, palette and CMYK are converted; alpha is laid over white."""
    picture = PillowImage.fromarray(RGB)
    grey = np.asarray(picture.convert('L'))
    repeated = np.repeat(grey[:, :, None], 3, axis=2)
    np.testing.assert_array_equal(images.decode_image(encoded(picture.convert('L'))), repeated)
    wide = PillowImage.fromarray((grey.astype(np.uint16) << 8) + 77)
    np.testing.assert_array_equal(images.decode_image(encoded(wide)), repeated)
    assert set(np.unique(images.decode_image(encoded(picture.convert('1'))))) <= {0, 255}
    palette = picture.convert('P', palette=PillowImage.Palette.ADAPTIVE)
    np.testing.assert_array_equal(images.decode_image(encoded(palette)), np.asarray(palette.convert('RGB')))
    flat = PillowImage.new('RGB', (40, 30), (200, 40, 90))
    cmyk = images.decode_image(encoded(flat.convert('CMYK'), 'JPEG', quality=95))
    assert np.abs(cmyk.astype(int) - (200, 40, 90)).max() < 12


def test_transparency_is_laid_over_white() -> None:
    """A fully transparent pixel is white whatever its colour; half-transparent black is grey."""
    rgba = np.zeros((16, 16, 4), dtype=np.uint8)
    rgba[:, 8:, 3] = 128
    decoded = images.decode_image(encoded(PillowImage.fromarray(rgba)))
    assert (decoded[:, :8] == 255).all()
    assert np.abs(decoded[:, 8:].astype(int) - 127).max() <= 1
    grey_alpha = PillowImage.new('LA', (16, 16), (0, 0))
    assert (images.decode_image(encoded(grey_alpha)) == 255).all()
    palette = PillowImage.new('P', (16, 16), 3)
    palette.putpalette([0, 0, 0] * 256)
    assert (images.decode_image(encoded(palette, transparency=3)) == 255).all()


def test_a_huge_picture_is_refused_before_it_is_decoded(monkeypatch: pytest.MonkeyPatch) -> None:
    """13000×13000 pixels in a few kilobytes are refused undecoded, and the message names the limit."""
    monkeypatch.setattr('cv2.imdecode', lambda *_: pytest.fail('it was decoded'))
    with pytest.raises(ImageTooLarge, match='13000×13000 pixels; the limit is 64000000'):
        images.decode_image(png_of_size(13000, 13000))
    with pytest.raises(ImageTooLarge, match='the limit of 64000000 pixels'):
        images.decode_image(png_of_size(60000, 60000))
    with pytest.raises(ImageTooLarge, match='40×30'):
        images.decode_image(encoded(PillowImage.fromarray(RGB)), max_pixels=1199)


def test_too_many_bytes_are_refused() -> None:
    """An image with more bytes than the limit is refused without being opened."""
    with pytest.raises(ImageTooLarge, match='bytes; the limit is 67108864'):
        images.decode_image(bytes(images.MAX_BYTES + 1))


@pytest.mark.parametrize('size', [(1, 1), (7, 100), (8, 600)])
def test_impossible_sizes_are_refused(size: tuple[int, int]) -> None:
    """Images of one pixel or one row are refused, since letterboxing cannot handle them."""
    with pytest.raises(InvalidImage, match=f'{size[0]}×{size[1]}'):
        images.decode_image(png_of_size(*size))


def test_different_faults_get_different_messages() -> None:
    """Empty bytes, text, another format, an animation and a truncated file get different messages."""
    with pytest.raises(InvalidImage, match='empty'):
        images.decode_image(b'')
    with pytest.raises(UnsupportedImageFormat, match='not an image'):
        images.decode_image(b'hello')
    with pytest.raises(UnsupportedImageFormat, match='BMP'):
        images.decode_image(encoded(PillowImage.fromarray(RGB), 'BMP'))
    frames = [PillowImage.fromarray(np.roll(RGB, shift, axis=0)) for shift in range(3)]
    for kind in ('GIF', 'WEBP', 'PNG'):
        with pytest.raises(UnsupportedImageFormat, match='GIF|animated'):
            images.decode_image(encoded(frames[0], kind, save_all=True, append_images=frames[1:]))
    jpeg = encoded(PillowImage.fromarray(np.tile(RGB, (5, 5, 1))), 'JPEG')
    with pytest.raises(InvalidImage, match='broken'):
        images.decode_image(jpeg[: len(jpeg) // 2])
    with pytest.raises(InvalidImage):
        images.decode_image(jpeg[:30])


def test_random_damage_raises_no_other_error() -> None:
    """Flipped bytes give an image or an InvalidImage and no other error."""
    rng = np.random.default_rng(3)
    for kind in ('JPEG', 'PNG', 'WEBP'):
        whole = bytearray(encoded(PillowImage.fromarray(RGB), kind))
        for _ in range(150):
            damaged = bytearray(whole)
            for position in rng.integers(0, len(damaged), 4):
                damaged[position] = rng.integers(0, 256)
            with contextlib.suppress(InvalidImage):
                assert images.decode_image(bytes(damaged)).ndim == 3
            with contextlib.suppress(InvalidImage):
                assert len(images.upright_size(bytes(damaged))) == 2


def test_raw_payloads_are_read() -> None:
    """The bytes of an RGB array in C order are read as rosys sends them; the array may be read-only."""
    array = images.from_payload({'bytes': RGB.tobytes(), 'dtype': 'uint8', 'shape': [30, 40, 3]})
    np.testing.assert_array_equal(array, RGB)
    jpeg = images.encode_jpeg(RGB)
    assert images.from_payload({'format': 'jpeg', 'bytes': jpeg}) == jpeg


@pytest.mark.parametrize(
    ('change', 'message'),
    [
        ({'dtype': 'float64'}, "dtype is 'float64'; send 'uint8'"),
        ({'dtype': None}, "send 'uint8'"),
        ({'shape': [30, 40]}, r'shape is \(30, 40\); send \(height, width, 3\)'),
        ({'shape': [30, 40, 4]}, 'send .height, width, 3'),
        ({'shape': [0, 0, 3]}, '0×0'),
        ({'shape': [1, 1, 3]}, '1×1'),
        ({'shape': [31, 40, 3]}, '3600 bytes; its shape .31, 40, 3. needs 3720'),
        ({'shape': [-30, -40, 3]}, 'shape is'),
        ({'shape': '30x40x3'}, 'shape is'),
        ({'shape': [30.0, 40, 3]}, 'shape is'),
        ({'shape': None}, 'shape is None'),
        ({'shape': [100000, 100000, 3]}, 'the limit is'),
        ({'bytes': 'text'}, "binary field 'bytes'"),
        ({'format': 'gif'}, "format is 'gif'"),
    ],
)
def test_faulty_payloads_say_what_to_change(change: dict[str, Any], message: str) -> None:
    """Each fault of a Socket.IO image has its own message."""
    payload = {'bytes': RGB.tobytes(), 'dtype': 'uint8', 'shape': [30, 40, 3]} | change
    with pytest.raises((InvalidImage, InvalidRequest), match=message):
        images.from_payload(payload)


def test_a_payload_that_is_not_an_object_is_refused() -> None:
    """Bare bytes, which old nodes accepted, are refused with a message that shows the expected form."""
    with pytest.raises(InvalidRequest, match='must be an object'):
        images.from_payload(RGB.tobytes())


def test_arrays_are_checked() -> None:
    """Arrays from Python callers are checked in the same way."""
    assert images.check(RGB) is RGB
    for array in (RGB.astype(np.float64), RGB[..., 0], np.dstack([RGB, RGB])):
        with pytest.raises(InvalidImage):
            images.check(array)


def test_files_are_written_by_their_ending(tmp_path: Path) -> None:
    """PNG, WebP and JPEG files can be read back; another ending is refused."""
    for name in ('a.png', 'sub/a.webp', 'a.jpg'):
        images.write_image(tmp_path / name, RGB)
        assert images.read_image(tmp_path / name).shape == RGB.shape
    np.testing.assert_array_equal(images.read_image(tmp_path / 'a.png'), RGB)
    with pytest.raises(UnsupportedImageFormat, match='is not supported'):
        images.write_image(tmp_path / 'a.bmp', RGB)
    with pytest.raises(InvalidImage, match='No such file'):
        images.read_image(tmp_path / 'missing.png')


@pytest.mark.parametrize('options', [{}, {'subsampling': '4:2:0'}, {'progressive': True}, {'quality': 30}])
@pytest.mark.parametrize('mode', ['RGB', 'L'])
def test_jpegs_are_decoded_as_pillow_does(mode: str, options: dict[str, Any]) -> None:
    """The fast decoder gives Pillow's pixels exactly."""
    noise = np.random.default_rng(0).integers(0, 256, (61, 83, 3), dtype=np.uint8)
    picture = PillowImage.fromarray(noise).convert(mode)
    data = encoded(picture, 'JPEG', **options)
    with PillowImage.open(io.BytesIO(data)) as stored:
        expected = np.asarray(stored.convert('RGB'))
    np.testing.assert_array_equal(images.decode_image(data), expected)


def smooth(mode: str = 'RGB') -> PillowImage.Image:
    """Make a picture that compresses well, as photographs do."""
    ramp = np.add.outer(np.arange(64), np.arange(80)) + np.random.default_rng(1).integers(0, 9, (64, 80))
    return PillowImage.fromarray(ramp.clip(0, 255).astype(np.uint8)).convert(mode)


FORMS = pytest.mark.parametrize(
    ('mode', 'options'),
    [
        ('RGB', {}),
        ('L', {}),
        ('RGB', {'progressive': True}),
        ('RGB', {'quality': 100}),
        ('CMYK', {}),
        ('RGB', {'exif': 6}),
    ],
)


def without_end(mode: str, options: dict[str, Any]) -> tuple[bytes, bytes]:
    """Return a JPEG, and the same file without its end marker."""
    if 'exif' in options:
        exif = PillowImage.Exif()
        exif[0x0112] = options['exif']
        options = {'exif': exif}
    data = encoded(smooth(mode), 'JPEG', **options)
    return data, data.removesuffix(b'\xff\xd9')


@FORMS
@pytest.mark.parametrize('tail', [b'', b'\xff', bytes(1000)])
def test_a_jpeg_may_lack_its_end_marker(mode: str, options: dict[str, Any], tail: bytes) -> None:
    """A JPEG without its end marker, with half of it, or with zeros in its place, has all its pixels."""
    data, cut = without_end(mode, options)
    assert cut != data
    decoded = images.decode_image(cut + tail)
    np.testing.assert_array_equal(decoded, images.decode_image(data))
    with PillowImage.open(io.BytesIO(images.as_jpeg(cut + tail, decoded))) as picture:
        assert picture.size == decoded.shape[1::-1]
        picture.load()


@FORMS
@pytest.mark.parametrize('missing', [8, 40, 200])
@pytest.mark.parametrize('tail', [b'', bytes(5000)])
def test_a_jpeg_without_some_of_its_pixels_is_broken(
    mode: str, options: dict[str, Any], missing: int, tail: bytes
) -> None:
    """A JPEG that lacks pixels is refused, however many are there: the persons may be in the missing part."""
    _, cut = without_end(mode, options)
    if 'progressive' in options:
        missing = max(missing, 200)  # the last scans refine pixels that are all there
    with pytest.raises(InvalidImage, match='broken'):
        images.decode_image(cut[:-missing] + tail)
