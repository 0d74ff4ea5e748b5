"""A training run: the network learns a teacher's answers and features until the run's time is over."""

import copy
import logging
import math
import os
import signal
import sys
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Final

import cv2
import numpy as np
import torch
from torch import Tensor, distributed, nn

from .augmentation import Pictures, letterboxed
from .evaluation import Detector, measured
from .grid import SIZE, Array, Picture, decoded, mirrored_cells
from .losses import FeatureLoss, RowLoss
from .network import Hints, PersonDetector
from .optimizer import optimizers
from .photographs import Collection
from .targets import persons, targets
from .teacher import Teacher

log = logging.getLogger(__name__)

THRESHOLDS: Final = (0.2, 0.3, 0.4, 0.5, 0.6)
"""Thresholds of the figures in the log; the scores are not calibrated yet."""
CHECKPOINT: Final = 'checkpoint.pt'
"""Name of the file of a run's state."""


@dataclass(slots=True, kw_only=True)
class Recipe:
    """How to train."""

    minutes: float = 90.0
    """Duration of the run, in minutes. The learning rate falls to 0 until then."""
    batch: int = 4
    """Pictures in a step of each process."""
    matrix_rate: float = 0.01
    """Highest length of a step of a convolution's weights, as a share of their length."""
    rate: float = 2e-3
    """Highest learning rate of all other parameters."""
    plain: float = 0.8
    """Share of the run after which few mosaics are drawn."""
    average: float = 0.998
    """Momentum of the averaged weights."""
    processes: int = 2
    """Processes that train side by side, each on batches of its own."""
    report: float = 5.0
    """Minutes between checkpoints."""


@dataclass(slots=True, kw_only=True)
class Batch:
    """Pictures and what the student is to answer."""

    pictures: Tensor
    """(N, 3, SIZE, SIZE), BGR, bytes."""
    boxes: Tensor
    """Target boxes (N, cells, 4), pixels."""
    scores: Tensor
    """Target scores (N, cells)."""
    features: list[Tensor]
    """The teacher's features, from fine to coarse."""

    def mirrored(self) -> 'Batch':
        """Return the mirror images. The teacher need not look again: its answer is about mirrored as well."""
        order = torch.from_numpy(mirrored_cells())
        left, top, right, bottom = self.boxes[:, order].unbind(-1)
        return Batch(
            pictures=self.pictures.flip(-1),
            boxes=torch.stack([SIZE - right, top, SIZE - left, bottom], -1),
            scores=self.scores[:, order],
            features=[one.flip(-1) for one in self.features],
        )


class Batches:
    """Draws pictures and asks the teacher."""

    def __init__(
        self, collection: Collection, teacher: Teacher, number: int, seed: Sequence[int], mosaic: float
    ) -> None:
        self._pictures = Pictures(collection.training(), collection.shares, seed)
        self._teacher, self._number, self._mosaic = teacher, number, mosaic

    def __iter__(self) -> Iterator[Batch]:
        while True:
            batch = self._drawn()
            yield batch
            yield batch.mirrored()

    def _drawn(self) -> Batch:
        drawn = [self._pictures.draw(self._mosaic) for _ in range(self._number)]
        canvas = np.stack([picture for picture, _ in drawn])
        answer = self._teacher(canvas)
        wanted = [targets(rows, persons(boxes)) for rows, (_, boxes) in zip(answer.rows, drawn, strict=True)]
        boxes, scores = (torch.from_numpy(np.stack(some)) for some in zip(*wanted, strict=True))
        return Batch(
            pictures=torch.from_numpy(canvas).permute(0, 3, 1, 2),
            boxes=boxes,
            scores=scores,
            features=[torch.from_numpy(one) for one in answer.features],
        )


class Run:
    """One training run: network, averaged network, optimiser and the folder of its checkpoints."""

    def __init__(self, collection: Collection, teacher: Path, folder: Path, recipe: Recipe) -> None:
        torch.manual_seed(0)
        self._collection, self._folder, self._recipe = collection, folder, recipe
        self._teacher = Teacher(teacher)
        self.network = PersonDetector().to(memory_format=torch.channels_last)
        self.average = copy.deepcopy(self.network).eval()
        self._hints = Hints(self._teacher.widths())
        self._trained = nn.ModuleList([self.network, self._hints])
        self._optimizers = optimizers(self._trained, recipe.matrix_rate, recipe.rate)
        self._feature_loss, self._row_loss = FeatureLoss(), RowLoss()
        self._steps, self._before, self._began = 0, 0.0, time.monotonic()

    @property
    def minutes(self) -> float:
        """Minutes trained so far, those before a resumption included."""
        return self._before + (time.monotonic() - self._began) / 60

    @property
    def _leads(self) -> bool:
        return not distributed.is_initialized() or distributed.get_rank() == 0

    @property
    def _checkpoint(self) -> Path:
        return self._folder / CHECKPOINT

    def resume(self) -> None:
        """Go on from the folder's checkpoint, if it has one."""
        if self._checkpoint.is_file():
            state = torch.load(self._checkpoint, weights_only=True)
            self._trained.load_state_dict(state['trained'])
            self.average.load_state_dict(state['average'])
            for optimizer, one in zip(self._optimizers, state['optimizers'], strict=True):
                optimizer.load_state_dict(one)
            self._steps, self._before = state['steps'], state['minutes']
            log.info('resumed after %.1f minutes and %d steps', self._before, self._steps)

    def train(self) -> None:
        """Train until the recipe's time is over; write a checkpoint every few minutes and at the end."""
        recipe = self._recipe
        batches, plain = self._batches(0.45), False
        sums: dict[str, float] = {}
        reported, seen = time.monotonic(), 0
        self.network.train()
        while (done := self._done()) < 1:
            if done > recipe.plain and not plain:
                batches, plain = self._batches(0.1), True
            for name, value in self._step(next(batches), done).items():
                sums[name] = sums.get(name, 0.0) + value
            seen += 1
            if self._leads and time.monotonic() - reported > recipe.report * 60:
                speed = seen * recipe.batch * recipe.processes / (time.monotonic() - reported)
                self._report({name: value / seen for name, value in sums.items()}, speed)
                self.save()
                sums = {}
                reported, seen = time.monotonic(), 0
        if self._leads:
            self.save()

    def save(self) -> None:
        """Write the checkpoint in one step, so that a kill leaves the one before."""
        state = {
            'trained': self._trained.state_dict(),
            'average': self.average.state_dict(),
            'optimizers': [one.state_dict() for one in self._optimizers],
            'steps': self._steps,
            'minutes': self.minutes,
        }
        part = self._checkpoint.with_suffix('.part')
        torch.save(state, part)
        os.replace(part, self._checkpoint)

    def _batches(self, mosaic: float) -> Iterator[Batch]:
        rank = distributed.get_rank() if distributed.is_initialized() else 0
        return iter(Batches(self._collection, self._teacher, self._recipe.batch, [self._steps, rank], mosaic))

    def _step(self, batch: Batch, done: float) -> dict[str, float]:
        warm = min(1.0, (self._steps + 1) / 200)
        share = warm * (0.005 + 0.995 * 0.5 * (1 + math.cos(math.pi * done)))
        for optimizer, rate in zip(self._optimizers, (self._recipe.matrix_rate, self._recipe.rate), strict=True):
            optimizer.param_groups[0]['lr'] = rate * share
        losses = self._losses(batch, done)
        self._trained.zero_grad()
        torch.stack(list(losses.values())).sum().backward()
        self._share_gradients()
        torch.nn.utils.clip_grad_norm_(self._trained.parameters(), 10.0)
        for optimizer in self._optimizers:
            optimizer.step()
        self._steps += 1
        momentum = min(self._recipe.average, (self._steps + 1) / (self._steps + 10))
        with torch.no_grad():
            pairs = zip(self.average.state_dict().values(), self.network.state_dict().values(), strict=True)
            kept, new = zip(*(pair for pair in pairs if pair[0].dtype.is_floating_point), strict=True)
            torch._foreach_lerp_(kept, new, 1 - momentum)
        return {name: value.item() for name, value in losses.items()}

    def _share_gradients(self) -> None:
        """Replace the gradients by their means over all processes."""
        if distributed.is_initialized():
            gradients = [one.grad for one in self._trained.parameters() if one.grad is not None]
            flat = torch.cat([one.reshape(-1) for one in gradients])
            distributed.all_reduce(flat)
            parts = (flat / distributed.get_world_size()).split([one.numel() for one in gradients])
            for gradient, part in zip(gradients, parts, strict=True):
                gradient.copy_(part.reshape(gradient.shape))

    def _done(self) -> float:
        """Return the share of the run that is over, by the clock of the first process."""
        done = torch.tensor(self.minutes / self._recipe.minutes)
        if distributed.is_initialized():
            distributed.broadcast(done, 0)
        return done.item()

    def _losses(self, batch: Batch, done: float) -> dict[str, Tensor]:
        pictures = batch.pictures.float().contiguous(memory_format=torch.channels_last)
        with torch.autocast('cpu', torch.bfloat16):
            features = self.network.features(pictures)
            rows, hints = self.network.answered(features), self._hints(features)
        score, box = self._row_loss(rows.float(), batch.boxes, batch.scores)
        return {'score': score, 'box': box, 'hints': self._feature_loss(hints, batch.features) * (1.0 - 0.9 * done)}

    def _report(self, losses: dict[str, float], speed: float) -> None:
        text = ' '.join(f'{name} {value:.3f}' for name, value in losses.items())
        log.info('%.1f min, %d steps, %.1f pictures a second, %s', self.minutes, self._steps, speed, text)
        for source in ('coco', 'penn_fudan'):
            some = [one for one in self._collection.by_source.get(source, []) if one.held_out and one.boxes is not None]
            if some:
                figures = measured(detector_of(self.average), some, THRESHOLDS)
                log.info(
                    '  %s %s', source, ', '.join(f'{threshold}: {counts}' for threshold, counts in figures.items())
                )


def train(collection: Collection, teacher: Path, folder: Path, recipe: Recipe) -> None:
    """Train, or go on from the folder's checkpoint, until the recipe's time is over."""
    rendezvous = folder / 'rendezvous'
    rendezvous.unlink(missing_ok=True)
    arguments = (rendezvous, collection, teacher, folder, recipe)
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(128 + signal.SIGTERM))  # ends the processes too
    torch.multiprocessing.spawn(_work, arguments, recipe.processes, daemon=True)


def _work(rank: int, rendezvous: Path, collection: Collection, teacher: Path, folder: Path, recipe: Recipe) -> None:
    logging.basicConfig(level=logging.INFO, format='%(asctime)s %(message)s', filename=folder / 'train.log')
    torch.set_num_threads(1)
    cv2.setNumThreads(1)
    distributed.init_process_group('gloo', f'file://{rendezvous}', rank=rank, world_size=recipe.processes)
    run = Run(collection, teacher, folder, recipe)
    run.resume()
    run.train()
    distributed.destroy_process_group()


def detector_of(network: PersonDetector) -> Detector:
    """Return a network in evaluation mode as a detector."""

    @torch.no_grad()
    def detect(picture: Picture) -> tuple[Array, Array]:
        canvas, scale = letterboxed(picture)
        with torch.autocast('cpu', torch.bfloat16):
            rows = network(torch.from_numpy(canvas).permute(2, 0, 1)[None].float())[0].float()
        return decoded(rows.numpy()) / np.float32(scale), rows[:, 4].sigmoid().numpy()

    return detect


def averaged(folder: Path) -> PersonDetector:
    """Return the averaged network of a folder's checkpoint.

    :raises FileNotFoundError: the folder has no checkpoint.
    """
    network = PersonDetector().eval()
    network.load_state_dict(torch.load(folder / CHECKPOINT, weights_only=True)['average'])
    return network
