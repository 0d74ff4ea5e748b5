"""Predictions for tasks, in bulk, or interactively for a box or a click."""

import asyncio
import logging
import math
import time
from collections import deque
from collections.abc import AsyncGenerator, Mapping, Sequence
from contextlib import aclosing
from typing import Any, Final

import numpy as np

from detector.datasets.person import Person, Size
from detector.engine.person_detector import MIN_BOX_SIDE
from detector.errors import Busy, InvalidImage, InvalidRequest, WholebodyError
from detector.label_studio.labels.config import LabelingConfig
from detector.label_studio.labels.regions import to_results
from detector.label_studio.labels.values import drawable
from detector.label_studio.server.media import ImageSource
from detector.outbox import relevance
from detector.pose.pose import FloatArray, Pose
from detector.serving.inference import GROUP_IMAGES, Estimate, Inference
from detector.settings import Settings

log = logging.getLogger('wholebody.label_studio')

Prediction = dict[str, Any]
"""`model_version`, `score` and `result`, as Label Studio stores them."""

Outcome = Prediction | BaseException
"""The prediction of a task, or the error that prevented it."""

AHEAD: Final = 4 * GROUP_IMAGES
"""Maximum number of images that are being fetched or are waiting for inference."""
GROUPS_AT_ONCE: Final = 2
"""Groups in progress: one is inferred while the next is decoded and the previous one's predictions are made."""
_MIN_PAUSE_SECONDS: Final = 0.05
_CHECK_SECONDS: Final = 0.5
"""Interval in seconds for checking the deadline while images are fetched, as the node may be shutting down."""


class Preannotator:
    """Makes predictions with the active model."""

    def __init__(self, inference: Inference, settings: Settings) -> None:
        self._inference = inference
        self._threshold = settings.confidence_threshold
        self._seconds = settings.predict_seconds
        self._latest = math.inf

    def end_by(self, latest: float) -> None:
        """Make running and later requests end by a given time, with the predictions computed by then.

        :param latest: time of `time.monotonic`.
        """
        self._latest = latest

    def _seconds_until(self, deadline: float) -> float:
        return min(deadline, self._latest) - time.monotonic()

    async def predict(
        self, tasks: Sequence[Any], config: LabelingConfig, source: ImageSource
    ) -> list[Prediction | list[Prediction]]:
        """Return a prediction per task, in their order; `[]` for a task that fails or is not done in time.

        Label Studio requests tasks with `[]` again, and only these. The reason for a failure is logged with the task's
        id.

        :param tasks: as Label Studio sends them.
        :raises ModelUnavailable: no model is active.
        """
        results: list[Prediction | list[Prediction]] = [[] for _ in tasks]
        start = time.monotonic()
        deadline = start + self._seconds
        done = 0
        async with aclosing(self.outcomes(tasks, config, source, deadline)) as outcomes:
            async for index, outcome in outcomes:
                done += 1
                if isinstance(outcome, BaseException):
                    log_failure(tasks[index], outcome)
                else:
                    results[index] = outcome
        if done < len(tasks):
            seconds = time.monotonic() - start
            text = '%d of %d tasks were done in %.0f s; Label Studio has to request the rest again'
            log.warning(text, done, len(tasks), seconds)
        return results

    async def outcomes(
        self, tasks: Sequence[Any], config: LabelingConfig, source: ImageSource, deadline: float = math.inf
    ) -> AsyncGenerator[tuple[int, Outcome]]:
        """Yield the index of each task with its prediction or error, in order of completion.

        :param deadline: time of `time.monotonic`; tasks that are not done by then are left out.
        :raises ModelUnavailable: no model is active.
        """
        running: deque[asyncio.Task[list[tuple[int, Outcome]]]] = deque()
        try:
            async with aclosing(self._fetched(tasks, config, source, deadline)) as groups:
                async for group in groups:
                    running.append(asyncio.create_task(self._predict_group(group, config, deadline)))
                    if len(running) == GROUPS_AT_ONCE:
                        for outcome in await running.popleft():
                            yield outcome
            while running:
                for outcome in await running.popleft():
                    yield outcome
        finally:
            for task in running:
                task.cancel()
            await asyncio.gather(*running, return_exceptions=True)

    async def _fetched(
        self, tasks: Sequence[Any], config: LabelingConfig, source: ImageSource, deadline: float
    ) -> AsyncGenerator[list[tuple[int, bytes | BaseException]]]:
        """Yield groups of images or errors with the indices of their tasks, in order of arrival.

        :param deadline: time of `time.monotonic` at which to stop.
        """
        fetching: dict[asyncio.Task[bytes], int] = {}
        ready: list[tuple[int, bytes | BaseException]] = []
        left = iter(range(len(tasks)))
        try:
            while (seconds := self._seconds_until(deadline)) > 0:
                while len(fetching) + len(ready) < AHEAD and (index := next(left, None)) is not None:
                    fetching[asyncio.create_task(_fetch(tasks[index], config, source))] = index
                if ready:
                    yield ready[:GROUP_IMAGES]
                    del ready[:GROUP_IMAGES]
                elif fetching:
                    await asyncio.wait(
                        fetching, timeout=min(seconds, _CHECK_SECONDS), return_when=asyncio.FIRST_COMPLETED
                    )
                else:
                    return
                for task in [task for task in fetching if task.done()]:
                    ready.append((fetching.pop(task), task.exception() or task.result()))
        finally:
            for task in fetching:
                task.cancel()
            await asyncio.gather(*fetching, return_exceptions=True)

    async def _predict_group(
        self, group: Sequence[tuple[int, bytes | BaseException]], config: LabelingConfig, deadline: float
    ) -> list[tuple[int, Outcome]]:
        outcomes: list[tuple[int, Outcome]] = []
        files: list[tuple[int, bytes]] = []
        for index, received in group:
            if isinstance(received, BaseException):
                outcomes.append((index, received))
            else:
                files.append((index, received))
        estimates = await self._estimates([file for _, file in files], deadline) if files else []
        made = await asyncio.to_thread(
            lambda: [one if isinstance(one, InvalidImage) else self._prediction(one, config) for one in estimates]
        )
        return outcomes + [(index, outcome) for (index, _), outcome in zip(files, made, strict=False)]

    async def _estimates(self, files: Sequence[bytes], deadline: float) -> list[Estimate | InvalidImage]:
        """Return the estimates of all images, or none if the deadline passes; retry until the inference has a turn."""
        while True:
            try:
                return await self._inference.estimate_bulk(files)
            except Busy as error:
                pause = max(error.retry_after, _MIN_PAUSE_SECONDS)
                if pause >= self._seconds_until(deadline):
                    return []
                await asyncio.sleep(pause)

    async def interactive(
        self, task: Any, config: LabelingConfig, context: Mapping[str, Any], source: ImageSource
    ) -> Prediction:
        """Return the person in the drawn box or nearest to the click; no person if there is no such prompt.

        :param context: its `result` holds the regions of the prompt's label, the prompt last.
        :raises WholebodyError: the image cannot be fetched, or no model is active in time.
        """
        prompt = _prompt(context, config)
        if prompt is None:
            return {'result': []}
        file = await _fetch(task, config, source)
        if 'width' in prompt and prompt['type'] == 'rectanglelabels':
            estimate = await self._inference.estimate(file, boxes=lambda *size: _boxes(prompt, size))
            if not estimate.poses:
                return {'result': []}
            return await asyncio.to_thread(self._prediction, estimate, config)
        estimate = await self._inference.estimate(file)
        height, width = estimate.image.shape[:2]
        click = np.array([prompt['x'] * width / 100, prompt['y'] * height / 100])
        nearest = min(estimate.poses, key=lambda pose: self._distance(pose, click), default=None)
        return await asyncio.to_thread(self._prediction, estimate, config, [] if nearest is None else [nearest])

    def _distance(self, pose: Pose, point: FloatArray) -> float:
        """Return the distance in pixels from a point to the nearest keypoint shown, or to the box if none is shown."""
        shown = pose.keypoints[pose.confidences >= self._threshold]
        if len(shown):
            return float(np.linalg.norm(shown - point, axis=1).min())
        return float(np.linalg.norm(np.maximum(np.maximum(pose.box[:2] - point, point - pose.box[2:]), 0)))

    def _prediction(self, estimate: Estimate, config: LabelingConfig, poses: list[Pose] | None = None) -> Prediction:
        """:param poses: poses of the estimate to include; None: all."""
        poses = estimate.poses if poses is None else poses
        size = estimate.image.shape[1], estimate.image.shape[0]
        persons = [Person.of(pose, threshold=self._threshold) for pose in poses]
        return {
            'model_version': estimate.package.model_version,
            'score': score(poses, size),
            'result': to_results(persons, config, size),
        }


def score(poses: Sequence[Pose], size: Size) -> float:
    """Return the certainty of the least certain pose, 0..1; 1 without poses.

    Label Studio sorts the lowest score first.
    """
    if not poses:
        return 1.0
    return round(float(relevance.certainties(poses, size=size).min()), 4)


async def _fetch(task: Any, config: LabelingConfig, source: ImageSource) -> bytes:
    data = task.get('data') if isinstance(task, Mapping) else None
    if not isinstance(data, Mapping):
        raise InvalidRequest("it has no 'data'")
    address = data.get(config.image_key)
    if not isinstance(address, str):
        raise InvalidRequest(f'its data has no image in the field {config.image_key!r}')
    task_id = task.get('id')
    return await source.fetch(address, task_id=task_id if isinstance(task_id, int) else None)


def log_failure(task: Any, error: BaseException) -> None:
    task_id = task.get('id') if isinstance(task, Mapping) else None
    if isinstance(error, WholebodyError):
        log.warning('task %.40r: %s', task_id, error)
    else:
        log.error('task %.40r failed inside the node', task_id, exc_info=error)


def _prompt(context: Mapping[str, Any], config: LabelingConfig) -> dict[str, Any] | None:
    """Return the region that was drawn last: its `type`, and x, y, width, height in percent of the image."""
    results = context.get('result')
    regions = [region for region in results if isinstance(region, Mapping)] if isinstance(results, list) else []
    manual = [region for region in regions if region.get('origin') == 'manual'] or regions
    value = manual[-1].get('value') if manual else None
    if not isinstance(value, Mapping) or manual[-1].get('is_positive') is False:
        return None
    kind = 'rectanglelabels' if 'height' in value else 'keypointlabels'
    labels = value.get(kind)
    labels = labels if isinstance(labels, list) else []
    known = None if config.boxes is None or kind != 'rectanglelabels' else {label.text for label in config.boxes.read}
    if known is not None and known.isdisjoint(map(str, labels)):
        return None
    sides = ('x', 'y', 'width', 'height') if kind == 'rectanglelabels' else ('x', 'y')
    numbers = {side: drawable(value.get(side)) for side in sides}
    return None if None in numbers.values() else {'type': kind} | numbers


def _boxes(prompt: Mapping[str, Any], size: Size) -> FloatArray:
    """Return the part of a drawn box inside the image: x1, y1, x2, y2 in pixels, shape (1, 4), or (0, 4) if too
    small."""
    corners = np.array([prompt['x'], prompt['y'], prompt['x'] + prompt['width'], prompt['y'] + prompt['height']])
    scale = np.array([*size, *size]) / 100
    box = np.clip(corners * scale, 0, np.array([*size, *size])).astype(np.float32)
    return box[None] if ((box[2:] - box[:2]) >= MIN_BOX_SIDE).all() else np.empty((0, 4), dtype=np.float32)
