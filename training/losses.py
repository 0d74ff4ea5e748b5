"""Losses: features against the teacher's features, rows against the targets."""

import torch
from torch import Tensor
from torch.nn import functional

from .grid import cells
from .network import Features


class FeatureLoss:
    """Mean squared error of features, as a share of the variance of each of the teacher's channels."""

    def __init__(self, looks: int = 50) -> None:
        """Estimate the variances on the first batches.

        :param looks: number of batches.
        """
        self._looks = looks
        self._seen: dict[str, int] = {}
        self._variances: dict[str, Tensor] = {}

    def __call__(self, place: str, own: Tensor, taught: Tensor, weights: Tensor | None = None) -> Tensor:
        """Return the share of the variance that the student misses: 0 is equal, 1 is no better than the mean.

        :param own: the student's features (N, channels, height, width).
        :param weights: weights (N, 1, height', width') of the pixels; resized to the features' grid.
        """
        taught = taught.float()
        error = ((own.float() - taught).square() * self._scale(place, taught)).mean(1, keepdim=True)
        if weights is None:
            return error.mean()
        weights = functional.adaptive_max_pool2d(weights, own.shape[-2:])
        return (error * weights).sum() / weights.sum()

    @torch.no_grad()
    def _scale(self, place: str, taught: Tensor) -> Tensor:
        """Return the inverse variances (channels, 1, 1). A channel that hardly varies counts as one that varies."""
        seen = self._seen.get(place, 0)
        if seen < self._looks:
            variance = taught.var((0, 2, 3))
            self._variances[place] = self._variances.get(place, variance).lerp(variance, 1 / (seen + 1))
            self._seen[place] = seen + 1
        known = self._variances[place]
        return 1 / known.clamp(min=known.mean() * 0.01)[:, None, None]


class RowLoss:
    """Losses of the rows: person scores of all cells, boxes of the cells that hold a person."""

    def __init__(self, part: slice = slice(None)) -> None:
        """Compare the rows of a part of the cells.

        :param part: the cells; by default all.
        """
        self._cells, self._strides = (torch.from_numpy(array[part]) for array in cells())

    def decoded(self, rows: Tensor) -> Tensor:
        """Return the boxes (N, cells, 4) of rows (N, cells, 6)."""
        centre = (rows[..., :2] + self._cells) * self._strides
        sides = rows[..., 2:4].clamp(-6, 6).exp() * self._strides
        return torch.cat([centre - sides / 2, centre + sides / 2], -1)

    def __call__(self, rows: Tensor, boxes: Tensor, scores: Tensor) -> tuple[Tensor, Tensor]:
        """Return the losses of the scores and of the boxes.

        :param rows: the student's rows (N, cells, 6).
        :param boxes: target boxes (N, cells, 4), pixels.
        :param scores: target scores (N, cells).
        """
        yes, no = log_probabilities(rows)
        likely = yes.detach().exp()
        weights = ((scores - likely).abs() + 0.02) * (1 + 3 * scores)
        score = -((scores * yes + (1 - scores) * no) * weights).sum() / scores.sum().clamp(min=4.0)
        held = scores > 0.2
        if not held.any():
            return score, rows.sum() * 0
        shares = scores[held] / scores[held].sum()
        got, wanted = self.decoded(rows)[held], boxes[held]
        # Sides in cells, so that small persons count as much as large ones.
        off = ((got - wanted).abs().mean(1) / self._strides[:, 0].expand_as(scores)[held]).clamp(max=8)
        return score, (((1 - generalized_iou(got, wanted)) * 2 + 0.2 * off) * shares).sum()


def log_probabilities(rows: Tensor) -> tuple[Tensor, Tensor]:
    """Return the logarithms of the person score (objectness times person) and of one minus it."""
    objectness, person = rows[..., 4], rows[..., 5]
    yes = functional.logsigmoid(objectness) + functional.logsigmoid(person)
    no = torch.logsumexp(torch.stack([-objectness, -person, -objectness - person]), 0) + yes
    return yes, no


def generalized_iou(some: Tensor, others: Tensor) -> Tensor:
    """Return the generalised intersection over union of pairs of boxes (Rezatofighi et al., CVPR 2019)."""
    common = (torch.minimum(some[:, 2:], others[:, 2:]) - torch.maximum(some[:, :2], others[:, :2])).clamp(0).prod(1)
    union = (some[:, 2:] - some[:, :2]).prod(1) + (others[:, 2:] - others[:, :2]).prod(1) - common
    hull = (torch.maximum(some[:, 2:], others[:, 2:]) - torch.minimum(some[:, :2], others[:, :2])).prod(1)
    return common / union - (hull - union) / hull


def feature_losses(
    loss: FeatureLoss, own: Features, taught: Features, weights: Tensor | None = None
) -> dict[str, Tensor]:
    """Return the loss of each place that both have."""
    return {place: loss(place, own[place], taught[place], weights) for place in own if place in taught}
