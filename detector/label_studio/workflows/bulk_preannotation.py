"""Bulk preannotation: store predictions for the tasks of a project that lack one of this model.

Label Studio's "Retrieve predictions" stores one prediction at a time; this workflow stores them in batches. The next
run continues one that was stopped or killed.
"""

import asyncio
import time
from collections.abc import AsyncGenerator, Callable, Mapping, Sequence
from contextlib import aclosing
from dataclasses import dataclass, field
from typing import Any, Final, Protocol

from detector.engine.pose_engine import EngineOptions, PoseEngine
from detector.errors import InvalidRequest, WholebodyError
from detector.label_studio.backend.preannotation import Outcome, Preannotator, Prediction
from detector.label_studio.labels.config import LabelingConfig, parse
from detector.label_studio.server.client import Connection
from detector.label_studio.server.media import TaskImages
from detector.label_studio.server.project import Json, Project
from detector.models.package import ModelPackage
from detector.serving.inference import Inference
from detector.settings import Settings

_BATCH_TASKS: Final = 32
_BATCH_REGIONS: Final = 10_000
"""Maximum number of regions in a batch: 3 MB, and half a second of Label Studio's time."""
_CHECK_SECONDS: Final = 3.0
"""Interval in seconds for checking that Label Studio still answers while images fail."""


class Predictor(Protocol):
    """Computes the predictions of tasks, as `LocalPredictor` and `RayPredictor` do."""

    def outcomes(self, tasks: Sequence[Json], config: LabelingConfig) -> AsyncGenerator[tuple[int, Outcome]]:
        """Yield the index of each task with its prediction or error, in order of completion."""


class LocalPredictor:
    """Runs a model in this process.

    :param connection: connection to the Label Studio that has the images.
    :raises RuntimeUnavailable: the runtime, device or precision is missing.
    :raises InvalidPackage: the model fails its trial inference.
    """

    def __init__(self, settings: Settings, package: ModelPackage, connection: Connection | None) -> None:
        engine = PoseEngine(package, EngineOptions.of(settings))
        engine.check()
        self._preannotator = Preannotator(Inference(settings, lambda: engine), settings)
        self._images = TaskImages.of(settings, connection)

    def outcomes(self, tasks: Sequence[Json], config: LabelingConfig) -> AsyncGenerator[tuple[int, Outcome]]:
        return self._preannotator.outcomes(tasks, config, self._images)

    async def close(self) -> None:
        await self._images.close()


@dataclass(kw_only=True)
class Progress:
    """Progress of a run.

    :param todo: number of tasks without a prediction of this version at the start of the run.
    :param stored: number of stored predictions.
    :param elsewhere: number of tasks that another run gave a prediction in the meantime.
    :param failed: reasons for failures by task id.
    """

    model_version: str
    todo: int = 0
    stored: int = 0
    elsewhere: int = 0
    failed: dict[int, str] = field(default_factory=dict)

    @property
    def done(self) -> int:
        return self.stored + self.elsewhere + len(self.failed)


async def preannotate(
    project: Project,
    predictor: Predictor,
    *,
    model_version: str,
    limit: int | None = None,
    on_progress: Callable[[Progress], None] = lambda _: None,
) -> Progress:
    """Store predictions for the tasks that lack one of this version.

    :param model_version: version of the predictor's model.
    :param limit: maximum number of tasks; None: all.
    :param on_progress: called whenever predictions were stored or have failed.
    :raises InvalidRequest: the project's labeling config offers no control for a pose.
    :raises LabelStudioFault: Label Studio does not answer; stored predictions are kept.
    """
    config = parse(await project.label_config())
    tasks = [task async for task in project.tasks_without(model_version)][:limit]
    run = _Run(project, Progress(model_version=model_version, todo=len(tasks)), on_progress)
    on_progress(run.progress)
    async with aclosing(predictor.outcomes(tasks, config)) as outcomes:
        try:
            async for index, outcome in outcomes:
                await run.take(tasks[index]['id'], outcome)
            await run.push()
        finally:
            await run.finish()
    await project.remove_surplus(model_version)
    return run.progress


class _Run:
    """Gathers predictions into batches, and stores one batch while the next is gathered."""

    def __init__(self, project: Project, progress: Progress, on_progress: Callable[[Progress], None]) -> None:
        self.progress = progress
        self._project = project
        self._on_progress = on_progress
        self._batch: dict[int, Prediction] = {}
        self._regions = 0
        self._pushing: asyncio.Task[None] | None = None
        self._checked_at = time.monotonic()

    async def take(self, task_id: int, outcome: Outcome) -> None:
        if isinstance(outcome, BaseException):
            await self._check_server()
            self._fail(task_id, str(outcome) if isinstance(outcome, WholebodyError) else repr(outcome))
            return
        self._batch[task_id] = outcome
        self._regions += len(outcome['result'])
        if len(self._batch) >= _BATCH_TASKS or self._regions >= _BATCH_REGIONS:
            await self.push()

    async def push(self) -> None:
        """Store the gathered predictions after the previous batch."""
        await self.finish()
        batch, self._batch, self._regions = self._batch, {}, 0
        if batch:
            self._pushing = asyncio.create_task(self._push(batch))

    async def finish(self) -> None:
        """Wait for the batch that is being stored; if it fails, gathered predictions are left to the next run."""
        if self._pushing is not None:
            pushing, self._pushing = self._pushing, None
            await pushing

    async def _push(self, batch: Mapping[int, Prediction]) -> None:
        # the last batch of a killed run may have been stored after the tasks were listed
        predicted = await self._already_predicted(batch)
        self.progress.elsewhere += len(predicted)
        await self._store({task_id: prediction for task_id, prediction in batch.items() if task_id not in predicted})
        self._on_progress(self.progress)

    async def _store(self, batch: Mapping[int, Prediction]) -> None:
        if not batch:
            return
        try:
            stored = await self._project.import_predictions(
                [{'task': task_id, **prediction} for task_id, prediction in batch.items()]
            )
        except InvalidRequest as error:
            if len(batch) == 1:
                self._fail(next(iter(batch)), str(error))
                return
            items = list(batch.items())
            await self._store(dict(items[: len(items) // 2]))
            await self._store(dict(items[len(items) // 2 :]))
            return
        self.progress.stored += stored
        if stored < len(batch):
            for task_id in batch.keys() - await self._already_predicted(batch):
                self._fail(task_id, 'Label Studio does not store its prediction: it does not fit the labeling config')

    async def _already_predicted(self, batch: Mapping[int, Any]) -> set[int]:
        """Return the tasks of a batch that already have a prediction of this version."""
        within = min(batch), max(batch)
        return await self._project.tasks_with(self.progress.model_version, within=within) & batch.keys()

    async def _check_server(self) -> None:
        """Check that Label Studio still answers, so that its failure is not reported as missing images."""
        if time.monotonic() - self._checked_at > _CHECK_SECONDS:
            await self._project.settings()
            self._checked_at = time.monotonic()

    def _fail(self, task_id: int, why: str) -> None:
        self.progress.failed[task_id] = why
        self._on_progress(self.progress)
