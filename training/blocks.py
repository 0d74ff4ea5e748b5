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
from .learner import Learner, Means
from .losses import FeatureLoss, RowLoss, feature_losses
from .network import Features, PersonDetector
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


def headed(network: PersonDetector, level: int, given: Example) -> tuple[Features, Tensor]:
    """Return the features and the rows of a head."""
    head = network.heads[level - 3]
    classes, boxes = head(given[f'out{level}'])
    return {f'class{level}': classes, f'boxes{level}': boxes}, head.predict(classes, boxes)


def coarse_group(level: int, above: str, top: str, *, stored: int) -> Group:
    """Return the group of the blocks at the stride 2 ** level, with those of the neck.

    :param above: place of the features that the neck takes to this level.
    :param top: place of the features that the neck brings to the next finer level.
    """
    finer = level - 1

    def blocks(network: PersonDetector) -> list[nn.Module]:
        parts = (f'lateral{level}', f'top{finer}', f'down{finer}', f'bottom{level}')
        neck: list[nn.Module] = [getattr(network.neck, part) for part in parts]
        return [getattr(network, f'dark{level}'), *neck, network.heads[level - 3]]

    def answer(network: PersonDetector, given: Example) -> tuple[Features, Tensor]:
        own, rows = headed(network, level, given)
        stage = given[f'dark{finer}']
        own[f'dark{level}'] = getattr(network, f'dark{level}')(stage)
        lateral, own[top] = network.neck.refined(level, given[above], stage)
        own[f'out{level}'] = network.neck.gathered(level, given[f'out{finer}'], lateral)
        return own, rows

    numbered = (f'dark{finer}', f'dark{level}', f'out{finer}', f'out{level}', f'class{level}', f'boxes{level}')
    return Group(blocks=blocks, answer=answer, places=(*numbered, 'top4'), head=level - 3, stored=stored)


GROUPS: Final[Mapping[str, Group]] = {
    'stride_32': coarse_group(5, 'dark5', 'top4', stored=3000),
    'stride_16': coarse_group(4, 'top4', 'out3', stored=1800),
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
        means = Means()
        while (so_far := before + (time.monotonic() - began) / 60) < minutes:
            lessons.renew()
            for _ in range(STEPS):
                means.add(self.step(lessons.batch(), so_far / minutes))
            if time.monotonic() - saved > REPORT:
                self.learner.save(path, so_far)
                log.info('%s, %.1f min, %d steps, %s', path.stem, so_far, self.learner.steps, means)
                means, saved = Means(), time.monotonic()
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
