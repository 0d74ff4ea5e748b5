"""The cells of YOLOX's grids, and boxes in them."""

from typing import Final

import numpy as np
from numpy.typing import NDArray

STRIDES: Final = (8, 16, 32)
"""Sides of the cells of the three grids, in pixels."""
SIZE: Final = 416
"""Side of the network's input, in pixels."""
Array = NDArray[np.float32]
Picture = NDArray[np.uint8]
"""Pixels (height, width, 3), BGR."""


def cells(size: int = SIZE) -> tuple[Array, Array]:
    """Return the positions (cells, 2) of all cells in their grids, x first, and their strides (cells, 1)."""
    sides = [size // stride for stride in STRIDES]
    places = [np.stack(np.meshgrid(np.arange(side), np.arange(side)), -1).reshape(-1, 2) for side in sides]
    strides = [np.full((side * side, 1), stride) for side, stride in zip(sides, STRIDES, strict=True)]
    return np.concatenate(places).astype(np.float32), np.concatenate(strides).astype(np.float32)


def cells_of(level: int, size: int = SIZE) -> slice:
    """Return the cells of one grid among all.

    :param level: number of the grid, from the finest one.
    """
    counts = [(size // stride) ** 2 for stride in STRIDES]
    return slice(sum(counts[:level]), sum(counts[: level + 1]))


def decoded(rows: Array, size: int = SIZE) -> Array:
    """Return the boxes (…, cells, 4: left, top, right, bottom; pixels) of raw rows (…, cells, 4 or more)."""
    places, strides = cells(size)
    centre, sides = (rows[..., :2] + places) * strides, np.exp(rows[..., 2:4].clip(-6, 6)) * strides
    return np.concatenate([centre - sides / 2, centre + sides / 2], -1)


def overlaps(some: Array, others: Array) -> Array:
    """Return the intersection over union of every box of `some` (N, 4) with every box of `others` (M, 4): (N, M)."""
    corners = np.minimum(some[:, None, 2:4], others[None, :, 2:4]) - np.maximum(some[:, None, :2], others[None, :, :2])
    common = corners.clip(0).prod(-1)
    return common / (areas(some)[:, None] + areas(others)[None] - common + np.float32(1e-9))


def areas(boxes: Array) -> Array:
    """Return the areas (N,) of boxes (N, 4 or more)."""
    return (boxes[:, 2:4] - boxes[:, :2]).clip(0).prod(-1)
