"""Conversion of pixels to the input of a network: channel order and normalisation, as tables of 256 values."""

from collections.abc import Sequence
from typing import Any

import cv2
import numpy as np
from numpy.typing import NDArray

from detector.models.package import Network
from detector.pose.images import Image
from detector.pose.pose import FloatArray


def value_tables(network: Network) -> FloatArray:
    """Return the input for the values 0..255 of each channel, in the channel order of the network.

    The values are computed in double precision and rounded once, like rtmlib's.

    :return: (3, 256), float32.
    """
    values = np.arange(256, dtype=np.float64)
    if network.mean is None or network.std is None:
        return np.tile(values, (3, 1)).astype(np.float32)
    mean, std = np.array(network.mean)[:, None], np.array(network.std)[:, None]
    return np.asarray((values - mean) / std, dtype=np.float32)


def planes_of(image: Image, network: Network) -> Sequence[NDArray[Any]]:
    """Return the three channels of an RGB image in the channel order of the network, each H×W and contiguous."""
    planes: Sequence[NDArray[Any]] = cv2.split(image)
    return planes if network.color_order == 'RGB' else planes[::-1]
