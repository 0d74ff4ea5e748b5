"""The person detector's network, as torch modules."""

from typing import Final

import torch
from torch import Tensor, nn
from torch.nn import functional

from .grid import STRIDES

WIDTHS: Final = (16, 32, 64, 96, 128)
"""Channels of the backbone at strides 2, 4, 8, 16 and 32."""
NECK: Final = 48
"""Channels of the neck and the heads."""
FEW: Final = -4.0
"""Logit of the score before the training: few cells hold a person."""


class Layer(nn.Sequential):
    """Convolution, batch normalisation and, unless a sum follows, SiLU."""

    def __init__(self, inputs: int, outputs: int, kernel: int = 3, stride: int = 1, activated: bool = True) -> None:
        super().__init__(
            nn.Conv2d(inputs, outputs, kernel, stride, kernel // 2, bias=False),
            nn.BatchNorm2d(outputs),
            nn.SiLU() if activated else nn.Identity(),
        )


class Residual(nn.Module):
    """Two layers around a shortcut, the inner one with half of the channels."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.inner, self.outer = Layer(width, width // 2), Layer(width // 2, width, activated=False)

    def forward(self, x: Tensor) -> Tensor:
        return functional.silu(x + self.outer(self.inner(x)))


class PersonDetector(nn.Module):
    """Finds persons by plain convolutions: backbone, pyramid of maxima, path aggregation, one head for each stride.

    Input: pictures (N, 3, height, width), BGR, 0 to 255. Output: rows (N, cells, 5) of box and score logit.
    """

    def __init__(self) -> None:
        super().__init__()
        two, four, fine, middle, coarse = WIDTHS
        self.stem, self.down4, self.down8 = (
            Layer(3, two, stride=2),
            Layer(two, four, stride=2),
            Layer(four, fine, stride=2),
        )
        self.stage8 = Residual(fine)
        self.down16 = Layer(fine, middle, stride=2)
        self.stage16 = nn.Sequential(Residual(middle), Residual(middle))
        self.down32 = Layer(middle, coarse, stride=2)
        self.stage32 = nn.Sequential(Residual(coarse), Residual(coarse))
        self.pyramid = Layer(coarse * 3, coarse, 1)
        self.lateral32, self.lateral16, self.lateral8 = (Layer(width, NECK, 1) for width in (coarse, middle, fine))
        self.top16, self.top8 = Layer(NECK, NECK), Layer(NECK, NECK)
        self.up16, self.up32 = Layer(NECK, NECK, stride=2), Layer(NECK, NECK, stride=2)
        self.bottom16, self.bottom32 = Layer(NECK, NECK), Layer(NECK, NECK)
        self.heads = nn.ModuleList(Layer(NECK, NECK) for _ in STRIDES)
        self.rows = nn.ModuleList(nn.Conv2d(NECK, 5, 1) for _ in STRIDES)
        for layer in self.rows:
            nn.init.normal_(layer.weight, 0, 0.01)
            nn.init.zeros_(layer.bias)
            layer.bias.data[4] = FEW

    def forward(self, pictures: Tensor) -> Tensor:
        return self.answered(self.features(pictures))

    def features(self, pictures: Tensor) -> list[Tensor]:
        """Return the features (N, NECK, height, width) of the heads, from fine to coarse."""
        fine = self.stage8(self.down8(self.down4(self.stem(pictures / 128 - 1))))
        middle = self.stage16(self.down16(fine))
        coarse = self.stage32(self.down32(middle))
        maxima = functional.max_pool2d(coarse, 5, 1, 2), functional.max_pool2d(coarse, 9, 1, 4)
        coarse = self.lateral32(self.pyramid(torch.cat([coarse, *maxima], 1)))
        middle = self.top16(self.lateral16(middle) + functional.interpolate(coarse, scale_factor=2.0))
        fine = self.top8(self.lateral8(fine) + functional.interpolate(middle, scale_factor=2.0))
        middle = self.bottom16(middle + self.up16(fine))
        coarse = self.bottom32(coarse + self.up32(middle))
        return [head(x) for head, x in zip(self.heads, (fine, middle, coarse), strict=True)]

    def answered(self, features: list[Tensor]) -> Tensor:
        """Return the rows of the heads' features."""
        rows = [layer(x).flatten(2).transpose(1, 2) for layer, x in zip(self.rows, features, strict=True)]
        return torch.cat(rows, 1)


class Hints(nn.Module):
    """Predicts a teacher's features from the student's, so that the student learns to have them; not exported."""

    def __init__(self, widths: list[int]) -> None:
        super().__init__()
        self.layers = nn.ModuleList(nn.Conv2d(NECK, width, 1) for width in widths)

    def forward(self, features: list[Tensor]) -> list[Tensor]:
        return [layer(x) for layer, x in zip(self.layers, features, strict=True)]
