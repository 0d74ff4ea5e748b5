"""Training pictures: crops, mirror images, scales, mosaics and colours of photographs."""

from collections.abc import Mapping, Sequence
from typing import Final

import cv2
import numpy as np

from .grid import SIZE, Array, Picture, areas
from .photographs import Photograph

GREY: Final = 114
"""Value of the pixels beside a photograph, as YOLOX pads."""
REDUCTIONS: Final = (cv2.INTER_AREA, cv2.INTER_LINEAR, cv2.INTER_NEAREST)
"""Ways to reduce a picture; large photographs reach a detector unfiltered."""
NOISE: Final = 0.03
"""Share of the pictures that are noise."""


class Pictures:
    """Draws training pictures of SIZE × SIZE pixels, with the boxes annotated in them."""

    def __init__(
        self, photographs: Mapping[str, Sequence[Photograph]], shares: Mapping[str, float], seed: Sequence[int]
    ) -> None:
        self._photographs = [photographs[source] for source in photographs]
        weights = np.array([shares[source] for source in photographs])
        self._weights = weights / weights.sum()
        self._random = np.random.default_rng(seed)

    def draw(self, mosaic: float) -> tuple[Picture, Array]:
        """Return a picture (BGR) and its boxes (N, 5: left, top, right, bottom, 1 person or 0 crowd).

        :param mosaic: probability of a picture of four photographs.
        """
        random = self._random
        if random.random() < NOISE:
            return self._noise(), np.zeros((0, 5), np.float32)
        canvas = np.full((SIZE, SIZE, 3), GREY, np.uint8)
        boxes = self._mosaic(canvas) if random.random() < mosaic else self._single(canvas)
        if random.random() < 0.5:
            gain = random.uniform(0.6, 1.4, 3 if random.random() < 0.4 else 1)
            canvas = (canvas * gain + random.uniform(-20, 20)).clip(0, 255).astype(np.uint8)
        if random.random() < 0.1:
            canvas = np.repeat(cv2.cvtColor(canvas, cv2.COLOR_BGR2GRAY)[..., None], 3, 2)
        return canvas, boxes

    def _noise(self) -> Picture:
        """Return a plain colour with noise of any grain, in which a detector must find nobody."""
        random = self._random
        side = int(2 ** random.uniform(1, np.log2(SIZE)))
        noise = random.normal(0, random.uniform(0, 80), (side, side, 3)) + random.uniform(0, 255, 3)
        small = noise.clip(0, 255).astype(np.uint8)
        return np.asarray(cv2.resize(small, (SIZE, SIZE), interpolation=REDUCTIONS[random.integers(1, 3)]), np.uint8)

    def _mosaic(self, canvas: Picture) -> Array:
        random = self._random
        middle_y, middle_x = (int(part * SIZE) for part in random.uniform(0.3, 0.7, 2))
        found = []
        for top, bottom in ((0, middle_y), (middle_y, SIZE)):
            for left, right in ((0, middle_x), (middle_x, SIZE)):
                height, width = bottom - top, right - left
                picture, boxes = self._photograph()
                scale = max((height + 1) / picture.shape[0], (width + 1) / picture.shape[1])
                picture, boxes = scaled(picture, boxes, scale, self._reduction())
                y = int(random.integers(picture.shape[0] - height + 1))
                x = int(random.integers(picture.shape[1] - width + 1))
                picture, boxes = cropped(picture, boxes, x, y, width, height)
                canvas[top:bottom, left:right] = picture
                found.append(moved(boxes, left, top))
        return np.concatenate(found)

    def _single(self, canvas: Picture) -> Array:
        random = self._random
        picture, boxes = self._photograph()
        side = SIZE if random.random() < 0.7 else int(random.integers(150, SIZE))
        picture, boxes = scaled(picture, boxes, side / max(picture.shape[:2]), self._reduction())
        picture = picture[:SIZE, :SIZE]
        height, width = picture.shape[:2]
        corner = random.random() < 0.6  # where detectors put a photograph
        top = 0 if corner else int(random.integers(SIZE - height + 1))
        left = 0 if corner else int(random.integers(SIZE - width + 1))
        canvas[top : top + height, left : left + width] = picture
        return moved(boxes, left, top)

    def _photograph(self) -> tuple[Picture, Array]:
        random = self._random
        source = self._photographs[random.choice(len(self._photographs), p=self._weights)]
        picture, boxes = source[int(random.integers(len(source)))].read()
        height, width = picture.shape[:2]
        if random.random() < 0.5:
            part_height, part_width = (max(16, int(side * random.uniform(0.45, 1))) for side in (height, width))
            x, y = random.integers(max(1, width - part_width + 1)), random.integers(max(1, height - part_height + 1))
            picture, boxes = cropped(picture, boxes, int(x), int(y), part_width, part_height)
        if random.random() < 0.5:
            picture = picture[:, ::-1]
            boxes[:, [0, 2]] = picture.shape[1] - boxes[:, [2, 0]]
        return picture, boxes

    def _reduction(self) -> int:
        return REDUCTIONS[self._random.integers(len(REDUCTIONS))]


def letterboxed(picture: Picture, size: int = SIZE) -> tuple[Picture, float]:
    """Return the picture at the top left of a grey square, as detectors see it, and its scale."""
    scale = size / max(picture.shape[:2])
    small, _ = scaled(picture, np.zeros((0, 5), np.float32), scale, cv2.INTER_LINEAR)
    canvas = np.full((size, size, 3), GREY, np.uint8)
    small = small[:size, :size]
    canvas[: small.shape[0], : small.shape[1]] = small
    return canvas, scale


def cropped(picture: Picture, boxes: Array, x: int, y: int, width: int, height: int) -> tuple[Picture, Array]:
    """Return a part of the picture, and the boxes of which more than 35 % lie in it."""
    part = picture[y : y + height, x : x + width]
    whole = areas(boxes)
    boxes = moved(boxes, -x, -y)
    boxes[:, [0, 2]] = boxes[:, [0, 2]].clip(0, part.shape[1])
    boxes[:, [1, 3]] = boxes[:, [1, 3]].clip(0, part.shape[0])
    return part, boxes[areas(boxes) > 0.35 * whole]


def scaled(picture: Picture, boxes: Array, scale: float, reduction: int) -> tuple[Picture, Array]:
    """Return the picture and its boxes at another size; enlarged pictures are interpolated."""
    width, height = (max(1, round(side * scale)) for side in (picture.shape[1], picture.shape[0]))
    interpolation = reduction if scale < 1 else cv2.INTER_LINEAR
    result = np.asarray(cv2.resize(picture, (width, height), interpolation=interpolation), np.uint8)
    x, y = width / picture.shape[1], height / picture.shape[0]
    return result, boxes * np.array([x, y, x, y, 1], np.float32)


def moved(boxes: Array, x: int, y: int) -> Array:
    return boxes + np.array([x, y, x, y, 0], np.float32)
