"""A training run: teaches the network block by block, then as a whole, until its time is over."""

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
from torch import Tensor, distributed

from .augmentation import Pictures, letterboxed
from .evaluation import Detector, measured
from .grid import SIZE, Array, Picture, decoded
from .losses import FeatureLoss, RowLoss, feature_losses
from .network import PLACES, Features, PersonDetector, activated_layers
from .optimizer import optimizers
from .photographs import Collection
from .targets import persons, targets
from .teacher import Teacher

log = logging.getLogger(__name__)

THRESHOLDS: Final = (0.2, 0.3, 0.4, 0.5, 0.6)
"""Thresholds of the figures in the log; the scores are not calibrated yet."""
CHECKPOINT: Final = 'checkpoint.pt'
"""Name of the file of a run's state."""
PATCH: Final = SIZE // 2
"""Side of the part of each picture on which the first block learns, in pixels."""
STRIDE: Final = 4
"""Stride of the first block's features, in pixels."""
EDGE: Final = 4
"""Cells at a part's edge that see the padding instead of the picture."""


@dataclass(slots=True, kw_only=True)
class Recipe:
    """How to train."""

    minutes: float = 90.0
    """Duration of the run, in minutes. The learning rate falls to 0 until then."""
    batch: int = 3
    """Pictures in a step of each process."""
    matrix_rate: float = 0.016
    """Highest length of a step of a convolution's weights, as a share of their length."""
    rate: float = 4e-3
    """Highest learning rate of all other parameters."""
    blocks: float = 0.7
    """Share of the run in which each block learns by itself, on the teacher's features."""
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
    weights: Tensor
    """Weights (N, 1, 104, 104) of the features' pixels."""
    features: Features
    """The teacher's features."""


class Batches:
    """Draws pictures and asks the teacher."""

    def __init__(
        self, collection: Collection, teacher: Teacher, number: int, seed: Sequence[int], mosaic: float
    ) -> None:
        self._pictures = Pictures(collection.training(), collection.shares, seed)
        self._teacher, self._number, self._mosaic = teacher, number, mosaic

    def __iter__(self) -> Iterator[Batch]:
        while True:
            yield self._drawn()

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
            weights=torch.from_numpy(pixel_weights(boxes.numpy(), scores.numpy())),
            features={place: torch.from_numpy(one).bfloat16() for place, one in answer.features.items()},
        )


def pixel_weights(boxes: np.ndarray, scores: np.ndarray) -> np.ndarray:
    """Return weights (N, 1, 104, 104): 4 within the boxes of persons, 1 elsewhere."""
    side = SIZE // STRIDE
    weights = np.ones((len(boxes), 1, side, side), np.float32)
    for picture, some, sure in zip(weights[:, 0], boxes / STRIDE, scores > 0.3, strict=True):
        for left, top, right, bottom in some[sure].clip(0, side).astype(int):
            picture[top : bottom + 1, left : right + 1] = 4
    return weights


class Run:
    """One training run: network, averaged network, optimiser and the folder of its checkpoints."""

    def __init__(self, collection: Collection, teacher: Path, folder: Path, recipe: Recipe) -> None:
        torch.manual_seed(0)
        self._collection, self._folder, self._recipe = collection, folder, recipe
        self._teacher = opened(teacher)
        self.network = PersonDetector()
        self.average = copy.deepcopy(self.network).eval()
        self._optimizers = optimizers(self.network, recipe.matrix_rate, recipe.rate)
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
            self.network.load_state_dict(state['network'])
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
            for name, value in self.step(next(batches), done).items():
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
            'network': self.network.state_dict(),
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

    def step(self, batch: Batch, done: float) -> dict[str, float]:
        """Learn from a batch; return the losses.

        :param done: share of the run that is over.
        """
        warm = min(1.0, (self._steps + 1) / 200)
        share = warm * (0.005 + 0.995 * 0.5 * (1 + math.cos(math.pi * done)))
        for optimizer, rate in zip(self._optimizers, (self._recipe.matrix_rate, self._recipe.rate), strict=True):
            optimizer.param_groups[0]['lr'] = rate * share
        losses = self._losses(batch, done)
        self.network.zero_grad()
        torch.stack(list(losses.values())).sum().backward()
        self._share_gradients()
        torch.nn.utils.clip_grad_norm_(self.network.parameters(), 10.0)
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
            gradients = [one.grad for one in self.network.parameters() if one.grad is not None]
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
        blocks, pictures = self._recipe.blocks, batch.pictures.float()
        alone = done < blocks
        given = batch.features if alone else self._frozen(pictures)
        with torch.autocast('cpu', torch.bfloat16):
            rows, own = self.network.features(pictures, given)
        losses = feature_losses(self._feature_loss, own, batch.features, batch.weights)
        if alone:
            losses['dark2'] = self._first_block(pictures, batch.features['dark2'])
        late = max(0.0, (done - blocks) / (1 - blocks))
        losses = {place: value * (1.0 - 0.9 * late) for place, value in losses.items()}
        losses['score'], losses['box'] = self._row_loss(rows.float(), batch.boxes, batch.scores)
        return losses

    def _frozen(self, pictures: Tensor) -> Features:
        """Return the first block's features. It has learned by itself, and its gradients are the most expensive."""
        network = self.network
        network.stem.eval()
        network.dark2.eval()
        with torch.no_grad(), torch.autocast('cpu', torch.bfloat16):
            return {'dark2': network.dark2(network.stem(pictures))}

    def _first_block(self, pictures: Tensor, taught: Tensor) -> Tensor:
        """Return the loss of the first block on a part of each picture: its features are many and alike."""
        y, x = (int(torch.randint(0, (SIZE - PATCH) // STRIDE, ()).item()) for _ in range(2))
        part = pictures[..., y * STRIDE : y * STRIDE + PATCH, x * STRIDE : x * STRIDE + PATCH]
        with torch.autocast('cpu', torch.bfloat16):
            own = self.network.dark2(self.network.stem(part))
        side = PATCH // STRIDE
        taught = taught[..., y : y + side, x : x + side]
        inner = slice(EDGE, -EDGE)
        return self._feature_loss('dark2', own[..., inner, inner], taught[..., inner, inner])

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
    """Train, or go on from the folder's checkpoint, until the recipe's time is over.

    :raises ValueError: the teacher's structure is not the person detector's.
    """
    opened(teacher)  # refused here instead of in each process
    rendezvous = folder / 'rendezvous'
    rendezvous.unlink(missing_ok=True)
    arguments = (rendezvous, collection, teacher, folder, recipe)
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(128 + signal.SIGTERM))  # ends the processes too
    torch.multiprocessing.spawn(_work, arguments, recipe.processes, daemon=True)


def opened(teacher: Path) -> Teacher:
    """Return a teacher whose features the person detector can learn.

    :raises ValueError: its structure is not the person detector's.
    """
    return Teacher(teacher, PLACES, activated_layers())


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
