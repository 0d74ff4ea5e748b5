"""A training run: teaches the blocks of the network by themselves, then the network as a whole."""

import logging
import signal
import sys
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Final

import cv2
import numpy as np
import torch
from torch import distributed

from .augmentation import letterboxed
from .blocks import GROUPS, BlockRun, with_blocks
from .evaluation import Detector, measured
from .examples import BOXES, PICTURE, SCORES, WEIGHTS, Example, Examples, stacked
from .grid import Array, Picture, decoded
from .learner import Learner, Means
from .losses import FeatureLoss, RowLoss, feature_losses
from .network import PLACES, PersonDetector, activated_layers
from .photographs import Collection
from .teacher import Teacher

log = logging.getLogger(__name__)

THRESHOLDS: Final = (0.2, 0.3, 0.4, 0.5, 0.6)
"""Thresholds of the figures in the log; the scores are not calibrated yet."""
CHECKPOINT: Final = 'checkpoint.pt'
"""Name of the file of the whole network's state."""
MOSAICS: Final = 0.1
"""Probability of a picture of four photographs while the network learns as a whole."""
WHOLE_RATES: Final = 0.25
"""Factor for the rates while the network learns as a whole."""
ROWS: Final = 0.2
"""Weight of the rows' losses then. With a higher one the network learns the photographs by heart."""


@dataclass(slots=True, kw_only=True)
class Recipe:
    """How to train."""

    minutes: float = 90.0
    """Duration of the run, in minutes. The rates fall to 0 until the end of each of its two parts."""
    blocks: float = 0.7
    """Share of the run in which the blocks learn by themselves."""
    batch: int = 4
    """Pictures in a step of each process while the network learns as a whole."""
    matrix_rate: float = 0.016
    """Highest length of a step of a convolution's weights, as a share of their length."""
    rate: float = 4e-3
    """Highest learning rate of all other parameters."""
    processes: int = 2
    """Processes that train side by side while the network learns as a whole, each on batches of its own."""
    report: float = 5.0
    """Minutes between checkpoints of the whole network."""

    @property
    def rates(self) -> tuple[float, float]:
        return self.matrix_rate, self.rate


class Run:
    """Teaches the whole network after its blocks. Batch normalisations keep their statistics: batches are small."""

    def __init__(self, collection: Collection, teacher: Path, folder: Path, recipe: Recipe) -> None:
        self._collection, self._recipe, self._checkpoint = collection, recipe, folder / CHECKPOINT
        self._teacher = opened(teacher)
        self.learner = Learner(with_blocks(PersonDetector(), folder), *(WHOLE_RATES * one for one in recipe.rates))
        self.network = self.learner.network.eval()  # batch normalisations with their statistics
        self._feature_loss, self._row_loss = FeatureLoss(), RowLoss()
        self._before, self._began = 0.0, time.monotonic()

    @property
    def minutes(self) -> float:
        """Minutes trained so far, those before a resumption included."""
        return self._before + (time.monotonic() - self._began) / 60

    @property
    def _leads(self) -> bool:
        return not distributed.is_initialized() or distributed.get_rank() == 0

    def resume(self) -> None:
        """Go on from the folder's checkpoint, if it has one."""
        if self._checkpoint.is_file():
            self._before = self.learner.load(self._checkpoint)
            log.info('resumed after %.1f minutes and %d steps', self._before, self.learner.steps)

    def train(self) -> None:
        """Train until the recipe's time is over; write a checkpoint every few minutes and at the end."""
        recipe = self._recipe
        rank = distributed.get_rank() if distributed.is_initialized() else 0
        examples = Examples(self._collection, self._teacher, [self.learner.steps, rank])
        means, reported = Means(), time.monotonic()
        while (done := self._done()) < 1:
            batch = stacked([examples.draw(MOSAICS) for _ in range(recipe.batch)])
            means.add(self.step(batch, done))
            if self._leads and time.monotonic() - reported > recipe.report * 60:
                speed = means.steps * recipe.batch * recipe.processes / (time.monotonic() - reported)
                self._report(means, speed)
                self.learner.save(self._checkpoint, self.minutes)
                means, reported = Means(), time.monotonic()
        if self._leads:
            self.learner.save(self._checkpoint, self.minutes)

    def step(self, batch: Example, done: float) -> dict[str, float]:
        """Learn from a batch; return the losses.

        :param done: share of the run that is over.
        """
        with torch.autocast('cpu', torch.bfloat16):
            rows, own = self.network.features(batch[PICTURE].float())
        losses = feature_losses(self._feature_loss, own, batch, batch[WEIGHTS])
        score, box = self._row_loss(rows.float(), batch[BOXES], batch[SCORES])
        return self.learner.learn(losses | {'score': ROWS * score, 'box': ROWS * box}, done)

    def _done(self) -> float:
        """Return the share of the time that is over, by the clock of the first process."""
        done = torch.tensor(self.minutes / (self._recipe.minutes * (1 - self._recipe.blocks)))
        if distributed.is_initialized():
            distributed.broadcast(done, 0)
        return done.item()

    def _report(self, means: Means, speed: float) -> None:
        log.info('%.1f min, %d steps, %.1f pictures a second, %s', self.minutes, self.learner.steps, speed, means)
        for source in ('coco', 'penn_fudan'):
            some = [one for one in self._collection.by_source.get(source, []) if one.held_out and one.boxes is not None]
            if some:
                figures = measured(detector_of(self.learner.average), some, THRESHOLDS)
                log.info(
                    '  %s %s', source, ', '.join(f'{threshold}: {counts}' for threshold, counts in figures.items())
                )


def train(collection: Collection, teacher: Path, folder: Path, recipe: Recipe) -> None:
    """Train, or go on from the folder's checkpoints, until the recipe's time is over.

    :raises ValueError: the teacher's structure is not the person detector's, or no time is left for the whole network.
    """
    if not 0 <= recipe.blocks < 1:
        raise ValueError(f'--blocks {recipe.blocks:g}: a share of the run from 0 to less than 1 is expected')
    opened(teacher)  # refused here instead of in each process
    rendezvous = folder / 'rendezvous'
    rendezvous.unlink(missing_ok=True)
    arguments = (collection, teacher, folder, recipe)
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(128 + signal.SIGTERM))  # ends the processes too
    torch.multiprocessing.spawn(_teach_blocks, arguments, len(GROUPS), daemon=True)
    torch.multiprocessing.spawn(_teach_whole, (rendezvous, *arguments), recipe.processes, daemon=True)


def opened(teacher: Path) -> Teacher:
    """Return a teacher whose features the person detector can learn.

    :raises ValueError: its structure is not the person detector's.
    """
    return Teacher(teacher, PLACES, activated_layers())


def _teach_blocks(rank: int, collection: Collection, teacher: Path, folder: Path, recipe: Recipe) -> None:
    _prepare(folder, rank)
    name = list(GROUPS)[rank]
    run = BlockRun(GROUPS[name], recipe.rates)
    run.train(folder / f'{name}.pt', recipe.minutes * recipe.blocks, collection, opened(teacher))


def _teach_whole(
    rank: int, rendezvous: Path, collection: Collection, teacher: Path, folder: Path, recipe: Recipe
) -> None:
    _prepare(folder, rank)
    distributed.init_process_group('gloo', f'file://{rendezvous}', rank=rank, world_size=recipe.processes)
    run = Run(collection, teacher, folder, recipe)
    run.resume()
    run.train()
    distributed.destroy_process_group()


def _prepare(folder: Path, rank: int) -> None:
    logging.basicConfig(level=logging.INFO, format='%(asctime)s %(message)s', filename=folder / 'train.log')
    torch.manual_seed(rank)
    torch.set_num_threads(1)
    cv2.setNumThreads(1)


def detector_of(network: PersonDetector) -> Detector:
    """Return a network in evaluation mode as a detector."""

    @torch.no_grad()
    def detect(picture: Picture) -> tuple[Array, Array]:
        canvas, scale = letterboxed(picture)
        with torch.autocast('cpu', torch.bfloat16):
            rows = network(torch.from_numpy(canvas).permute(2, 0, 1)[None].float())[0].float()
        scores = rows[:, 4].sigmoid() * rows[:, 5].sigmoid()
        return decoded(rows.numpy()) / np.float32(scale), scores.numpy()

    return detect


def averaged(folder: Path) -> PersonDetector:
    """Return the averaged network of a folder's checkpoint.

    :raises FileNotFoundError: the folder has no checkpoint.
    """
    network = PersonDetector().eval()
    network.load_state_dict(torch.load(folder / CHECKPOINT, weights_only=True)['average'])
    return network
