"""Teaches the blocks of the network by themselves: they work on the teacher's features and learn its next ones.

A block learns faster so than within the network, because its input is right from the beginning, and because examples
can be stored: the teacher answers each picture once, and the blocks see it several times, in large batches.
"""

import logging
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Final

import numpy as np
import torch
from torch import Tensor, nn

from .examples import BOXES, PICTURE, SCORES, WEIGHTS, Example, Examples, stacked
from .grid import cells_of
from .learner import Learner
from .losses import FeatureLoss, RowLoss, feature_losses
from .network import Features, PersonDetector, twice
from .photographs import Collection
from .teacher import Teacher

log = logging.getLogger(__name__)

MOSAICS: Final = 0.2
"""Probability of a picture of four photographs."""
BEGIN: Final = 120
"""Stored examples from which the first steps are made."""
STEPS: Final = 2
"""Steps between two renewals of the store."""
NEW: Final = 2
"""Examples that are added to a full store then; a store that is not full gets twice as many."""
REPORT: Final = 120.0
"""Seconds between checkpoints."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Group:
    """Blocks that learn together.

    :param blocks: returns the blocks of a network.
    :param answer: returns the blocks' features for given ones, and the rows of their head, if they have one.
    :param places: the teacher's features on which the blocks work or which they learn.
    :param head: number of their head, from the finest one; None: they have none.
    :param batch: examples in a step.
    :param stored: number of stored examples; they take up to 3 GB.
    """

    blocks: Callable[[PersonDetector], Sequence[nn.Module]]
    answer: Callable[[PersonDetector, Example], tuple[Features, Tensor | None]]
    places: Sequence[str]
    head: int | None = None
    batch: int = 16
    stored: int

    def of(self, network: PersonDetector) -> nn.ModuleList:
        """Return the blocks of a network as one module."""
        return nn.ModuleList(self.blocks(network))

    @property
    def cells(self) -> slice:
        """The cells of the head's rows."""
        return slice(0) if self.head is None else cells_of(self.head)

    def part_of(self, example: Example) -> Example:
        """Return what the blocks need of an example."""
        needed = {place: example[place] for place in (*self.places, WEIGHTS)}
        if self.head is None:
            return needed | {PICTURE: example[PICTURE]}
        return needed | {name: example[name][self.cells] for name in (BOXES, SCORES)}


def stride_4(network: PersonDetector, given: Example) -> tuple[Features, None]:
    return {'dark2': network.dark2(network.stem(given[PICTURE].float()))}, None


def stride_8(network: PersonDetector, given: Example) -> tuple[Features, Tensor]:
    own, rows = headed(network, 3, given)
    return own | {'dark3': network.dark3(given['dark2'])}, rows


def stride_16(network: PersonDetector, given: Example) -> tuple[Features, Tensor]:
    neck, (own, rows) = network.neck, headed(network, 4, given)
    own['dark4'] = network.dark4(given['dark3'])
    lateral = neck.lateral4(given['top4'])
    own['out3'] = neck.top3(torch.cat([twice(lateral), given['dark3']], 1))
    own['out4'] = neck.bottom4(torch.cat([neck.down3(given['out3']), lateral], 1))
    return own, rows


def stride_32(network: PersonDetector, given: Example) -> tuple[Features, Tensor]:
    neck, (own, rows) = network.neck, headed(network, 5, given)
    own['dark5'] = network.dark5(given['dark4'])
    lateral = neck.lateral5(given['dark5'])
    own['top4'] = neck.top4(torch.cat([twice(lateral), given['dark4']], 1))
    own['out5'] = neck.bottom5(torch.cat([neck.down4(given['out4']), lateral], 1))
    return own, rows


def headed(network: PersonDetector, level: int, given: Example) -> tuple[Features, Tensor]:
    """Return the features and the rows of a head."""
    head = network.heads[level - 3]
    classes, boxes = head(given[f'out{level}'])
    return {f'class{level}': classes, f'boxes{level}': boxes}, head.predict(classes, boxes)


GROUPS: Final[Mapping[str, Group]] = {
    'stride_32': Group(
        blocks=lambda one: [
            one.dark5,
            *(getattr(one.neck, name) for name in ('lateral5', 'top4', 'down4', 'bottom5')),
            one.heads[2],
        ],
        answer=stride_32,
        places=('dark4', 'dark5', 'top4', 'out4', 'out5', 'class5', 'boxes5'),
        head=2,
        stored=3000,
    ),
    'stride_16': Group(
        blocks=lambda one: [
            one.dark4,
            *(getattr(one.neck, name) for name in ('lateral4', 'top3', 'down3', 'bottom4')),
            one.heads[1],
        ],
        answer=stride_16,
        places=('dark3', 'dark4', 'top4', 'out3', 'out4', 'class4', 'boxes4'),
        head=1,
        stored=1800,
    ),
    'stride_8': Group(
        blocks=lambda one: [one.dark3, one.heads[0]],
        answer=stride_8,
        places=('dark2', 'dark3', 'out3', 'class3', 'boxes3'),
        head=0,
        batch=8,
        stored=900,
    ),
    'stride_4': Group(
        blocks=lambda one: [one.stem, one.dark2], answer=stride_4, places=('dark2',), batch=4, stored=600
    ),
}
"""All blocks of the network, by the stride at which most of them work."""


class Lessons:
    """Stores examples and renews them, for a group of blocks."""

    def __init__(self, examples: Examples, group: Group, seed: Sequence[int]) -> None:
        self._examples, self._group = examples, group
        self._random = np.random.default_rng(seed)
        self._stored: list[Example] = []

    def renew(self) -> None:
        """Add some examples; in a full store they replace older ones."""
        missing = self._group.stored - len(self._stored)
        for _ in range(BEGIN if not self._stored else 2 * NEW if missing > 0 else NEW):
            example = self._group.part_of(self._examples.draw(MOSAICS))
            if len(self._stored) < self._group.stored:
                self._stored.append(example)
            else:
                self._stored[self._random.integers(len(self._stored))] = example

    def batch(self) -> Example:
        """Return a batch of stored examples."""
        chosen = self._random.integers(len(self._stored), size=self._group.batch)
        return stacked([self._stored[index] for index in chosen])


class BlockRun:
    """Teaches a group of blocks, with checkpoints."""

    def __init__(self, group: Group, rates: tuple[float, float]) -> None:
        self.network = PersonDetector().train()
        self.learner = Learner(group.of(self.network), *rates)
        self._group = group
        self._feature_loss, self._row_loss = FeatureLoss(), RowLoss(group.cells)

    def train(self, path: Path, minutes: float, collection: Collection, teacher: Teacher) -> None:
        """Train until the time is over.

        :param path: checkpoint; if it exists, the run goes on from it.
        """
        before = self.learner.load(path) if path.is_file() else 0.0
        seed = [self.learner.steps, list(GROUPS.values()).index(self._group)]
        lessons = Lessons(Examples(collection, teacher, seed), self._group, seed)
        began = saved = time.monotonic()
        sums: dict[str, float] = {}
        seen = 0
        while (so_far := before + (time.monotonic() - began) / 60) < minutes:
            lessons.renew()
            for _ in range(STEPS):
                for name, value in self.step(lessons.batch(), so_far / minutes).items():
                    sums[name] = sums.get(name, 0.0) + value
                seen += 1
            if time.monotonic() - saved > REPORT:
                self.learner.save(path, so_far)
                text = ' '.join(f'{name} {value / seen:.3f}' for name, value in sums.items())
                log.info('%s, %.1f min, %d steps, %s', path.stem, so_far, self.learner.steps, text)
                sums, seen, saved = {}, 0, time.monotonic()
        self.learner.save(path, so_far)

    def step(self, batch: Example, done: float) -> dict[str, float]:
        """Learn from a batch; return the losses.

        :param done: share of the time that is over.
        """
        with torch.autocast('cpu', torch.bfloat16):
            own, rows = self._group.answer(self.network, batch)
        losses = feature_losses(self._feature_loss, own, batch, batch[WEIGHTS])
        if rows is not None:
            losses['score'], losses['box'] = self._row_loss(rows.float(), batch[BOXES], batch[SCORES])
        return self.learner.learn(losses, done)


def with_blocks(network: PersonDetector, folder: Path) -> PersonDetector:
    """Give a network the averaged blocks of the checkpoints in a folder, and return it."""
    for name, group in GROUPS.items():
        state = torch.load(folder / f'{name}.pt', weights_only=True)
        group.of(network).load_state_dict(state['average'])
    return network
