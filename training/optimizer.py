"""The optimiser: orthogonalised steps for the weights of convolutions, AdamW for everything else."""

from collections import defaultdict
from collections.abc import Iterable

import torch
from torch import Tensor, nn

from .network import Layer


class Orthogonal(torch.optim.Optimizer):
    """Moves each weight matrix along its orthogonalised momentum (Muon, Jordan et al., 2024).

    The length of a step is a share of the length of the weights, since a batch normalisation follows each of them.
    """

    def __init__(self, weights: Iterable[Tensor], rate: float, momentum: float = 0.9) -> None:
        super().__init__(weights, {'lr': rate, 'momentum': momentum})

    @torch.no_grad()
    def step(self) -> None:
        """Move the weights."""
        for group in self.param_groups:
            alike: dict[torch.Size, list[tuple[Tensor, Tensor]]] = defaultdict(list)
            for weights in (one for one in group['params'] if one.grad is not None):
                state = self.state[weights]
                mean = state.setdefault('mean', torch.zeros_like(weights))
                mean.lerp_(weights.grad, 1 - group['momentum'])
                direction = weights.grad.lerp(mean, group['momentum']).flatten(1)
                alike[direction.shape].append((weights, direction))
            for some in alike.values():
                steps = orthogonalised(torch.stack([direction for _, direction in some]))
                for (weights, _), step in zip(some, steps, strict=True):
                    length = group['lr'] * weights.norm() / step.norm().clamp(min=1e-12)
                    weights.sub_(length * step.reshape(weights.shape))


def orthogonalised(matrices: Tensor, iterations: int = 5) -> Tensor:
    """Return matrices (N, rows, columns) with about the same singular vectors, and singular values about 1.

    The iteration of Newton and Schulz, with the coefficients of Jordan et al.
    """
    high = matrices.shape[1] > matrices.shape[2]
    x = (matrices.mT if high else matrices).bfloat16()
    x = x / x.norm(dim=(1, 2), keepdim=True).clamp(min=1e-12)
    for _ in range(iterations):
        square = x @ x.mT
        x = 3.4445 * x + (-4.7750 * square + 2.0315 * square @ square) @ x
    return (x.mT if high else x).float()


def optimizers(network: nn.Module, matrix_rate: float, rate: float) -> tuple[torch.optim.Optimizer, ...]:
    """Return the optimisers of a network: of the convolutions before normalisations, and of all other parameters.

    Depthwise convolutions are among the others: their weights are no matrices.
    """
    layers = [layer for layer in network.modules() if isinstance(layer, Layer)]
    matrices = [layer.conv.weight for layer in layers if layer.conv.groups == 1]
    known = {id(weights) for weights in matrices}
    others = [one for one in network.parameters() if id(one) not in known]
    return Orthogonal(matrices, matrix_rate), torch.optim.AdamW(others, rate, weight_decay=0.0, fused=True)
