"""Square, turned regions of an image: their crops, and the way back from a crop to the image.

Points of the image are tensors (N, K, 2), x and y in pixels, with the centre of the first pixel at (0, 0). Points of a
crop have the outer corner of its first pixel at (0, 0), as MediaPipe's networks answer them. Scalars of a sample are
(N, 1, 1).
"""

from dataclasses import dataclass

import numpy as np

from .graph import Operand, Tensor, concat, where

_QUARTER_TURN = np.array([[0, 1], [-1, 0]], dtype=np.float32)
"""Matrix that turns row vectors by 90 degrees: up becomes right, since y points down."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Region:
    """A square around a part of a person.

    :param centre: its centre, (N, 1, 2).
    :param side: length of its sides in pixels, (N, 1, 1).
    :param up: unit vector of the image that points up in the crop, (N, 1, 2).
    """

    centre: Tensor
    side: Tensor
    up: Tensor

    def crop(self, image: Tensor, size: int, *, image_size: tuple[int, int], beyond: str) -> Tensor:
        """Return the bilinearly sampled content of the region, (N, 3, size, size).

        :param image: (N, 3, height, width).
        :param size: width and height of the crop in pixels.
        :param image_size: width and height of the image.
        :param beyond: what lies outside the image: `zeros`, or the `border` pixel that is nearest.
        """
        graph = image.graph
        middles = (np.arange(size) + 0.5) / size - 0.5
        x, y = np.meshgrid(middles, middles)
        pixels = self._place(graph.floats(np.stack([x, y], axis=-1).reshape(1, -1, 2)))
        # GridSample has -1 and 1 at the outer edges of the image, half a pixel from the centres of the outer pixels.
        grid = (pixels * 2 + 1) / graph.floats(image_size) - 1
        grid = grid.reshape(-1, size, size, 2)
        return graph.add('GridSample', image, grid, mode='bilinear', padding_mode=beyond, align_corners=0)

    def to_image(self, points: Tensor, size: int) -> Tensor:
        """Return points of a crop as points of the image.

        :param points: (N, K, 2), in pixels of the crop.
        :param size: width and height of the crop in pixels.
        """
        return self._place(points / size - 0.5)

    def _place(self, points: Tensor) -> Tensor:
        """Return points of the image for points relative to the centre, in sides of the region: right and down."""
        return self.centre + self.side * (points @ concat([turned_right(self.up), -self.up], axis=1))

    def scaled(self, factor: float) -> 'Region':
        """Return a region with the same centre and other sides."""
        return Region(centre=self.centre, side=self.side * factor, up=self.up)

    def widened(self, pixels: float) -> 'Region':
        """Return a region with the same centre and sides that are longer by some pixels."""
        return Region(centre=self.centre, side=self.side + pixels, up=self.up)

    def if_(self, condition: Tensor, *, otherwise: 'Region') -> 'Region':
        """Return this region where a condition (N, 1, 1) holds, else the other one."""
        return Region(
            centre=where(condition, self.centre, otherwise.centre),
            side=where(condition, self.side, otherwise.side),
            up=where(condition, self.up, otherwise.up),
        )


def direction(start: Tensor, end: Tensor) -> Tensor:
    """Return the unit vector from one point to another, (N, 1, 2); nearly zero if they are the same."""
    difference = end - start
    return difference / (difference.length() + 1e-6)


def turned_right(vector: Tensor) -> Tensor:
    """Return a vector (N, 1, 2) turned by 90 degrees: up becomes right."""
    return vector @ vector.graph.constant(_QUARTER_TURN)


def middle(one: Tensor, other: Tensor) -> Tensor:
    return (one + other) / 2


def bounds(points: Tensor) -> tuple[Tensor, Tensor]:
    """Return centre (N, 1, 2) and longer side (N, 1, 1) of the box around points (N, K, 2)."""
    lowest, highest = points.min(1), points.max(1)
    return middle(lowest, highest), (highest - lowest).max(2)


def between(value: Tensor, lowest: Operand, highest: Operand) -> Tensor:
    """Return whether a value lies between two others, exclusively."""
    return (value > lowest) & (value < highest)


def dot(points: Tensor, vector: Tensor) -> Tensor:
    """Return the extent of points (N, K, 2) along a unit vector (N, 1, 2), as (N, K, 1)."""
    return points @ vector.transpose(0, 2, 1)
