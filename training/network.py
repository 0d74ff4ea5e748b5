"""The person detector's network, as torch modules."""

from collections.abc import Mapping
from itertools import pairwise
from typing import Final

import torch
from torch import Tensor, nn
from torch.nn import functional

WIDTHS: Final = (16, 32, 64, 128, 256)
"""Channels of the stem and of the stages at strides 4, 8, 16 and 32."""
HEAD: Final = 64
"""Channels of the heads."""
PLACES: Final[Mapping[str, str]] = {
    'dark2': 'dark2.csp.merge',
    'dark3': 'dark3.csp.merge',
    'dark4': 'dark4.csp.merge',
    'dark5': 'dark5.csp.merge',
    'top4': 'neck.top4.merge',
    'out3': 'neck.top3.merge',
    'out4': 'neck.bottom4.merge',
    'out5': 'neck.bottom5.merge',
    'class3': 'heads.0.classes.1.point',
    'boxes3': 'heads.0.boxes.1.point',
    'class4': 'heads.1.classes.1.point',
    'boxes4': 'heads.1.boxes.1.point',
    'class5': 'heads.2.classes.1.point',
    'boxes5': 'heads.2.boxes.1.point',
}
"""Places where the network's features can be compared with a teacher's, and the layer whose output each one is."""

Features = dict[str, Tensor]


class Layer(nn.Module):
    """Convolution, batch normalisation and SiLU."""

    def __init__(self, inputs: int, outputs: int, kernel: int = 1, stride: int = 1, groups: int = 1) -> None:
        super().__init__()
        self.conv = nn.Conv2d(inputs, outputs, kernel, stride, kernel // 2, groups=groups, bias=False)
        self.norm = nn.BatchNorm2d(outputs, eps=1e-3, momentum=0.03)

    def forward(self, x: Tensor) -> Tensor:
        return functional.silu(self.norm(self.convolved(x)))

    def convolved(self, x: Tensor) -> Tensor:
        conv = self.conv
        if conv.groups > 1 and conv.stride[0] > 1 and torch.is_grad_enabled() and not torch.jit.is_tracing():
            # The same result; gradients of depthwise convolutions with strides are several times slower on CPUs.
            return functional.conv2d(x, conv.weight, None, 1, conv.padding, 1, conv.groups)[..., ::2, ::2]
        return conv(x)


class Separable(nn.Module):
    """Depthwise 3×3 layer, then a pointwise layer."""

    def __init__(self, inputs: int, outputs: int, stride: int = 1) -> None:
        super().__init__()
        self.depth = Layer(inputs, inputs, 3, stride, groups=inputs)
        self.point = Layer(inputs, outputs)

    def forward(self, x: Tensor) -> Tensor:
        return self.point(self.depth(x))


class Bottleneck(nn.Module):
    """Pointwise and separable layer, optionally around a shortcut."""

    def __init__(self, width: int, shortcut: bool) -> None:
        super().__init__()
        self.reduce, self.separable, self.shortcut = Layer(width, width), Separable(width, width), shortcut

    def forward(self, x: Tensor) -> Tensor:
        y: Tensor = self.separable(self.reduce(x))
        return x + y if self.shortcut else y


class Csp(nn.Module):
    """Cross-stage partial block: half of the channels pass the bottlenecks."""

    def __init__(self, inputs: int, outputs: int, depth: int = 1, shortcut: bool = False) -> None:
        super().__init__()
        half = outputs // 2
        self.main, self.side = Layer(inputs, half), Layer(inputs, half)
        self.bottlenecks = nn.Sequential(*(Bottleneck(half, shortcut) for _ in range(depth)))
        self.merge = Layer(2 * half, outputs)

    def forward(self, x: Tensor) -> Tensor:
        main, side = self.main(x), self.side(x)
        return self.merge(torch.cat([self.bottlenecks(main), side], 1))


class Pyramid(nn.Module):
    """Maxima over windows of 5, 9 and 13 cells beside the cell itself."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.reduce, self.merge = Layer(width, width // 2), Layer(width * 2, width)

    def forward(self, x: Tensor) -> Tensor:
        x = self.reduce(x)
        five = functional.max_pool2d(x, 5, 1, 2)
        nine = functional.max_pool2d(five, 5, 1, 2)
        return self.merge(torch.cat([x, five, nine, functional.max_pool2d(nine, 5, 1, 2)], 1))


class Stage(nn.Module):
    """Halves the resolution, then a cross-stage partial block."""

    def __init__(self, inputs: int, outputs: int, depth: int, last: bool = False) -> None:
        super().__init__()
        self.down = Separable(inputs, outputs, stride=2)
        self.pyramid = Pyramid(outputs) if last else nn.Identity()
        self.csp = Csp(outputs, outputs, depth, shortcut=not last)

    def forward(self, x: Tensor) -> Tensor:
        return self.csp(self.pyramid(self.down(x)))


class Stem(nn.Module):
    """Folds 2×2 pixels into channels, then a 3×3 layer. Beside the picture it sees black, as YOLOX does."""

    def __init__(self, outputs: int) -> None:
        super().__init__()
        self.layer = Layer(12, outputs, 3)

    def forward(self, x: Tensor) -> Tensor:
        corners = [x[..., ::2, ::2], x[..., 1::2, ::2], x[..., ::2, 1::2], x[..., 1::2, 1::2]]
        return self.layer(torch.cat(corners, 1) / 128)


class Neck(nn.Module):
    """Path aggregation: from coarse to fine and back, at strides 8, 16 and 32."""

    def __init__(self) -> None:
        super().__init__()
        fine, middle, coarse = WIDTHS[2:]
        self.lateral5, self.top4 = Layer(coarse, middle), Csp(2 * middle, middle)
        self.lateral4, self.top3 = Layer(middle, fine), Csp(2 * fine, fine)
        self.down3, self.bottom4 = Separable(fine, fine, stride=2), Csp(2 * fine, middle)
        self.down4, self.bottom5 = Separable(middle, middle, stride=2), Csp(2 * middle, coarse)

    def forward(self, stages: Features) -> Features:
        """Return the features of every place of the neck for those of the stages."""
        lateral5, top4 = self.refined(5, stages['dark5'], stages['dark4'])
        lateral4, out3 = self.refined(4, top4, stages['dark3'])
        out4 = self.gathered(4, out3, lateral4)
        return {'top4': top4, 'out3': out3, 'out4': out4, 'out5': self.gathered(5, out4, lateral5)}

    def refined(self, level: int, coarse: Tensor, fine: Tensor) -> tuple[Tensor, Tensor]:
        """Return the lateral features of a level, and the features of the next finer level that receives them.

        :param level: 5 or 4; the stride is 2 ** level.
        :param coarse: features of the level.
        :param fine: features of the stage of the next finer level.
        """
        lateral: Tensor = getattr(self, f'lateral{level}')(coarse)
        return lateral, getattr(self, f'top{level - 1}')(torch.cat([twice(lateral), fine], 1))

    def gathered(self, level: int, fine: Tensor, lateral: Tensor) -> Tensor:
        """Return the output of a level.

        :param level: 4 or 5.
        :param fine: output of the next finer level.
        :param lateral: lateral features of the level.
        """
        down = getattr(self, f'down{level - 1}')(fine)
        output: Tensor = getattr(self, f'bottom{level}')(torch.cat([down, lateral], 1))
        return output


def twice(x: Tensor) -> Tensor:
    return functional.interpolate(x, scale_factor=2.0)


class Head(nn.Module):
    """Decoupled head of one stride: a branch for the class, a branch for the box and the objectness."""

    def __init__(self, inputs: int) -> None:
        super().__init__()
        self.stem = Layer(inputs, HEAD)
        self.classes = nn.Sequential(Separable(HEAD, HEAD), Separable(HEAD, HEAD))
        self.boxes = nn.Sequential(Separable(HEAD, HEAD), Separable(HEAD, HEAD))
        self.person, self.box, self.object = (nn.Conv2d(HEAD, outputs, 1) for outputs in (1, 4, 1))
        for layer in (self.person, self.object):
            nn.init.constant_(layer.bias, -3.0)  # few cells hold a person

    def forward(self, x: Tensor) -> tuple[Tensor, Tensor]:
        x = self.stem(x)
        return self.classes(x), self.boxes(x)

    def predict(self, classes: Tensor, boxes: Tensor) -> Tensor:
        """Return box, objectness and person as logits for each cell, (N, cells, 6)."""
        rows = torch.cat([self.box(boxes), self.object(boxes), self.person(classes)], 1)
        return rows.flatten(2).transpose(1, 2)


class PersonDetector(nn.Module):
    """YOLOX-nano's structure for one class (Ge et al., YOLOX, 2021), with weights of its own.

    Input: pictures (N, 3, height, width), BGR, 0 to 255. Output: rows (N, cells, 6) of box, objectness logit and person
    logit.
    """

    def __init__(self) -> None:
        super().__init__()
        stem, *widths = WIDTHS
        self.stem = Stem(stem)
        self.dark2 = Stage(stem, widths[0], 1)
        self.dark3 = Stage(widths[0], widths[1], 3)
        self.dark4 = Stage(widths[1], widths[2], 3)
        self.dark5 = Stage(widths[2], widths[3], 1, last=True)
        self.neck = Neck()
        self.heads = nn.ModuleList(Head(width) for width in widths[1:])

    def forward(self, pictures: Tensor) -> Tensor:
        return self.features(pictures)[0]

    def features(self, pictures: Tensor) -> tuple[Tensor, Features]:
        """Return the rows, and the features of every place."""
        own: Features = {'dark2': self.dark2(self.stem(pictures))}
        for below, place in pairwise(('dark2', 'dark3', 'dark4', 'dark5')):
            own[place] = getattr(self, place)(own[below])
        own |= self.neck(own)
        rows = []
        for level, head in zip((3, 4, 5), self.heads, strict=True):
            own[f'class{level}'], own[f'boxes{level}'] = head(own[f'out{level}'])
            rows.append(head.predict(own[f'class{level}'], own[f'boxes{level}']))
        return torch.cat(rows, 1), own


def activated_layers() -> dict[str, tuple[int, ...]]:
    """Return the activated convolutions in the order of execution, and the shapes of their weights."""
    network = PersonDetector().eval()
    shapes: dict[str, tuple[int, ...]] = {}

    def note(name: str, layer: Layer) -> None:
        layer.register_forward_hook(lambda *_: shapes.update({name: tuple(layer.conv.weight.shape)}))

    for name, layer in network.named_modules():
        if isinstance(layer, Layer):
            note(name, layer)
    network(torch.zeros(1, 3, 64, 64))
    return shapes
