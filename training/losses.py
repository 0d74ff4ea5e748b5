"""Losses: features against the teacher's features, rows against the targets."""

import torch
from torch import Tensor
from torch.nn import functional

from .grid import cells


class FeatureLoss:
    """Mean squared error of features, as a share of the variance of each of the teacher's channels."""

    def __init__(self, looks: int = 50) -> None:
        """Estimate the variances on the first batches.

        :param looks: number of batches.
        """
        self._looks, self._seen = looks, 0
        self._variances: list[Tensor] = []

    def __call__(self, own: list[Tensor], taught: list[Tensor]) -> Tensor:
        """Return the share of the variance that the student misses: 0 is equal, 1 is no better than the mean.

        :param own: the student's prediction of the features (N, channels, height, width) of each stride.
        """
        taught = [one.float() for one in taught]
        if self._seen < self._looks:
            self._look([one.var((0, 2, 3)) for one in taught])
        # A channel that hardly varies counts as one that varies a little.
        scales = [1 / known.clamp(min=known.mean() * 0.01)[:, None, None] for known in self._variances]
        errors = [((x.float() - y).square() * scale).mean() for x, y, scale in zip(own, taught, scales, strict=True)]
        return torch.stack(errors).mean()

    def _look(self, variances: list[Tensor]) -> None:
        self._seen += 1
        before = self._variances or variances
        self._variances = [old.lerp(new, 1 / self._seen) for old, new in zip(before, variances, strict=True)]


class RowLoss:
    """Losses of the rows: person scores of all cells, boxes of the cells that hold a person."""

    def __init__(self) -> None:
        self._cells, self._strides = (torch.from_numpy(array) for array in cells())

    def decoded(self, rows: Tensor) -> Tensor:
        """Return the boxes (N, cells, 4) of rows (N, cells, 5)."""
        centre = (rows[..., :2] + self._cells) * self._strides
        sides = rows[..., 2:4].clamp(-6, 6).exp() * self._strides
        return torch.cat([centre - sides / 2, centre + sides / 2], -1)

    def __call__(self, rows: Tensor, boxes: Tensor, scores: Tensor) -> tuple[Tensor, Tensor]:
        """Return the losses of the scores and of the boxes.

        :param rows: the student's rows (N, cells, 5).
        :param boxes: target boxes (N, cells, 4), pixels.
        :param scores: target scores (N, cells).
        """
        logits = rows[..., 4]
        weights = ((scores - logits.detach().sigmoid()).abs() + 0.02) * (1 + 3 * scores)
        entropy = functional.binary_cross_entropy_with_logits(logits, scores, reduction='none')
        score = (entropy * weights).sum() / scores.sum().clamp(min=4.0)
        held = scores > 0.2
        if not held.any():
            return score, rows.sum() * 0
        shares = scores[held] / scores[held].sum()
        got, wanted = self.decoded(rows)[held], boxes[held]
        # Sides in cells, so that small persons count as much as large ones.
        off = ((got - wanted).abs().mean(1) / self._strides[:, 0].expand_as(scores)[held]).clamp(max=8)
        return score, (((1 - generalized_iou(got, wanted)) * 2 + 0.2 * off) * shares).sum()


def generalized_iou(some: Tensor, others: Tensor) -> Tensor:
    """Return the generalised intersection over union of pairs of boxes (Rezatofighi et al., CVPR 2019)."""
    common = (torch.minimum(some[:, 2:], others[:, 2:]) - torch.maximum(some[:, :2], others[:, :2])).clamp(0).prod(1)
    union = (some[:, 2:] - some[:, :2]).prod(1) + (others[:, 2:] - others[:, :2]).prod(1) - common
    hull = (torch.maximum(some[:, 2:], others[:, 2:]) - torch.minimum(some[:, :2], others[:, :2])).prod(1)
    return common / union - (hull - union) / hull
