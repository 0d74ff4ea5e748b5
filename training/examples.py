"""Pictures with the teacher's answers, from which the network learns."""

from collections.abc import Sequence
from typing import Final

import numpy as np
import torch
from torch import Tensor

from .augmentation import Pictures
from .grid import SIZE, Array
from .photographs import Collection
from .targets import persons, targets
from .teacher import Teacher

Example = dict[str, Tensor]
"""The teacher's features by place, and what the following names stand for; stacked, a batch of N pictures."""
PICTURE: Final = 'picture'
"""(3, SIZE, SIZE), BGR, bytes."""
BOXES: Final = 'boxes'
"""Target boxes (cells, 4), pixels."""
SCORES: Final = 'scores'
"""Target scores (cells,)."""
WEIGHTS: Final = 'weights'
"""Weights (1, 104, 104) of the features' pixels."""

_STRIDE: Final = 4
"""Stride of the weights, in pixels."""
_PERSON_WEIGHT: Final = 4.0
"""Weight of the pixels within the boxes of persons; that of the others is 1."""


class Examples:
    """Draws pictures and asks the teacher."""

    def __init__(self, collection: Collection, teacher: Teacher, seed: Sequence[int]) -> None:
        self._pictures = Pictures(collection.training(), collection.shares, seed)
        self._teacher = teacher

    def draw(self, mosaic: float) -> Example:
        """Return an example.

        :param mosaic: probability of a picture of four photographs.
        """
        picture, annotated = self._pictures.draw(mosaic)
        answer = self._teacher(picture[None])
        boxes, scores = targets(answer.rows[0], persons(annotated))
        features = {place: torch.from_numpy(one[0]).bfloat16() for place, one in answer.features.items()}
        return features | {
            PICTURE: torch.from_numpy(picture).permute(2, 0, 1),
            BOXES: torch.from_numpy(boxes),
            SCORES: torch.from_numpy(scores),
            WEIGHTS: torch.from_numpy(pixel_weights(boxes, scores)),
        }


def stacked(examples: Sequence[Example]) -> Example:
    """Return examples as a batch."""
    return {name: torch.stack([one[name] for one in examples]) for name in examples[0]}


def pixel_weights(boxes: Array, scores: Array) -> Array:
    """Return the weights (1, 104, 104) of the features' pixels."""
    side = SIZE // _STRIDE
    weights = np.ones((1, side, side), np.float32)
    for left, top, right, bottom in (boxes / _STRIDE)[scores > 0.3].clip(0, side).astype(int):
        weights[0, top : bottom + 1, left : right + 1] = _PERSON_WEIGHT
    return weights
