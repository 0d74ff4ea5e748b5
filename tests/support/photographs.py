"""Photographs that installed packages ship, with and without people."""

from pathlib import Path
from typing import Final

import numpy as np
from matplotlib.cbook import get_sample_data
from skimage import data

from detector.pose import images
from detector.pose.images import Image

WITHOUT_PEOPLE: Final = (
    'brick',
    'cat',
    'cell',
    'clock',
    'coffee',
    'coins',
    'colorwheel',
    'grass',
    'gravel',
    'horse',
    'hubble_deep_field',
    'immunohistochemistry',
    'logo',
    'microaneurysms',
    'moon',
    'page',
    'retina',
    'rocket',
    'shepp_logan_phantom',
    'text',
)
"""Pictures of scikit-image that show no person, by the names of their functions."""


def portrait() -> Image:
    """Return the portrait of Grace Hopper from matplotlib's sample data, 512×600 pixels."""
    return images.read_image(Path(str(get_sample_data('grace_hopper.jpg', asfileobj=False))))


def astronaut() -> Image:
    """Return NASA's portrait of Eileen Collins, 512×512 pixels, which is in the public domain."""
    return picture('astronaut')


def cameraman() -> Image:
    """Return the photograph of a man behind a camera, 512×512 pixels, grey."""
    return picture('camera')


def picture(name: str) -> Image:
    """Return a picture of scikit-image in colours, without transparency.

    :param name: the name of its function in `skimage.data`.
    """
    array = np.asarray(getattr(data, name)())
    if array.dtype != np.uint8:
        array = (array * 255).astype(np.uint8)
    if array.ndim == 2:
        array = np.repeat(array[..., None], 3, axis=2)
    return np.ascontiguousarray(array[..., :3])
