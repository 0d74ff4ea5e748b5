"""A network that learns: its weights, their average, the optimisers and the length of the steps."""

import copy
import math
import os
from collections import Counter
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Final

import torch
from torch import Tensor, distributed, nn

from .optimizer import optimizers

WARM_STEPS: Final = 50
"""Steps in which the rates rise from 0."""
LONGEST_GRADIENT: Final = 10.0
"""Length to which longer gradients are shortened."""
AVERAGE: Final = 0.998
"""Momentum of the averaged weights."""


class Means:
    """Means of losses over steps; as text, `name 0.123 other 0.456`."""

    def __init__(self) -> None:
        self.steps = 0
        self._sums: Counter[str] = Counter()

    def add(self, losses: Mapping[str, float]) -> None:
        self.steps += 1
        self._sums.update(losses)

    def __str__(self) -> str:
        return ' '.join(f'{name} {value / self.steps:.3f}' for name, value in self._sums.items())


class Learner:
    """Moves the weights of a network, and keeps their running average, which is better than the last ones."""

    def __init__(self, network: nn.Module, matrix_rate: float, rate: float) -> None:
        """Begin with the network as it is.

        :param matrix_rate: highest length of a step of a convolution's weights, as a share of their length.
        :param rate: highest learning rate of all other parameters.
        """
        self.network = network
        self.average = copy.deepcopy(network).eval()
        self.steps = 0
        self._rates = (matrix_rate, rate)
        self._optimizers = optimizers(network, matrix_rate, rate)

    def learn(self, losses: Mapping[str, Tensor], done: float) -> dict[str, float]:
        """Make a step that lowers the sum of the losses; return them.

        :param done: share of the time that is over. The rates fall to 0 until then.
        """
        share = min(1.0, (self.steps + 1) / WARM_STEPS) * (0.005 + 0.995 * 0.5 * (1 + math.cos(math.pi * done)))
        for optimizer, rate in zip(self._optimizers, self._rates, strict=True):
            optimizer.param_groups[0]['lr'] = rate * share
        self.network.zero_grad()
        torch.stack(list(losses.values())).sum().backward()
        self._share_gradients()
        torch.nn.utils.clip_grad_norm_(self.network.parameters(), LONGEST_GRADIENT)
        for optimizer in self._optimizers:
            optimizer.step()
        self.steps += 1
        self._update_average()
        return {name: value.item() for name, value in losses.items()}

    def save(self, path: Path, minutes: float) -> None:
        """Write a checkpoint in one step, so that a kill leaves the one before.

        :param minutes: time of learning so far.
        """
        state = {
            'network': self.network.state_dict(),
            'average': self.average.state_dict(),
            'optimizers': [one.state_dict() for one in self._optimizers],
            'steps': self.steps,
            'minutes': minutes,
        }
        part = path.with_suffix('.part')
        torch.save(state, part)
        os.replace(part, path)

    def load(self, path: Path) -> float:
        """Go on from a checkpoint; return the minutes that were learned before it."""
        state: dict[str, Any] = torch.load(path, weights_only=True)
        self.network.load_state_dict(state['network'])
        self.average.load_state_dict(state['average'])
        for optimizer, one in zip(self._optimizers, state['optimizers'], strict=True):
            optimizer.load_state_dict(one)
        self.steps = state['steps']
        return float(state['minutes'])

    def _share_gradients(self) -> None:
        """Replace the gradients by their means over all processes."""
        if distributed.is_initialized():
            gradients = [one.grad for one in self.network.parameters() if one.grad is not None]
            flat = torch.cat([one.reshape(-1) for one in gradients])
            distributed.all_reduce(flat)
            parts = (flat / distributed.get_world_size()).split([one.numel() for one in gradients])
            for gradient, part in zip(gradients, parts, strict=True):
                gradient.copy_(part.reshape(gradient.shape))

    @torch.no_grad()
    def _update_average(self) -> None:
        momentum = min(AVERAGE, (self.steps + 1) / (self.steps + 10))
        pairs = zip(self.average.state_dict().values(), self.network.state_dict().values(), strict=True)
        kept, new = zip(*(pair for pair in pairs if pair[0].dtype.is_floating_point), strict=True)
        torch._foreach_lerp_(kept, new, 1 - momentum)
