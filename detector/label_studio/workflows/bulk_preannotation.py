"""Bulk preannotation: the tasks of a project that lack a prediction of this model get one.

Label Studio's "Retrieve predictions" does the same, but stores one prediction at a time; here they are pushed in
batches. A run that was stopped or killed is continued by the next one.
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
from detector.wholebody_logic import WholebodyDetectorLogic

_BATCH_TASKS: Final = 32
_BATCH_REGIONS: Final = 10_000
"""Of a batch; 3 MB, and half a second of Label Studio's time."""
_LOOK_SECONDS: Final = 3.0
"""Between two looks whether Label Studio is still there, while images fail."""


class Predictor(Protocol):
    """What makes predictions."""

    def outcomes(self, tasks: Sequence[Json], config: LabelingConfig) -> AsyncGenerator[tuple[int, Outcome]]:
        """The prediction of each task, or why it failed, with the task's place, as they come about."""


class LocalPredictor:
    """Runs a model in this process.

    :param connection: to the Label Studio that has the images.
    :raises RuntimeUnavailable: the runtime, device or precision is missing.
    :raises InvalidPackage: the model fails its trial inference.
    """

    def __init__(self, settings: Settings, package: ModelPackage, connection: Connection | None) -> None:
        engine = PoseEngine(package, EngineOptions.of(settings))
        engine.check()
        logic = WholebodyDetectorLogic(engine, max_pixels=settings.max_image_pixels)
        self._preannotator = Preannotator(Inference(settings, asyncio.Lock(), lambda: logic), settings)
        self._images = TaskImages.of(settings, connection)

    def outcomes(self, tasks: Sequence[Json], config: LabelingConfig) -> AsyncGenerator[tuple[int, Outcome]]:
        return self._preannotator.outcomes(tasks, config, self._images)

    async def close(self) -> None:
        await self._images.close()


@dataclass(kw_only=True)
class Progress:
    """What a run has done so far.

    :param todo: tasks without a prediction of this version when the run began.
    :param stored: predictions.
    :param elsewhere: tasks that got their prediction from somebody else meanwhile.
    :param failed: why, by task id.
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
    """Give predictions to the tasks that lack one of this version.

    :param model_version: of the predictor's model.
    :param limit: of tasks; None: all.
    :param on_progress: called whenever something was stored or has failed.
    :raises InvalidRequest: the project's labeling config offers nothing for a pose.
    :raises LabelStudioFault: Label Studio is not there (any more); what is stored stays.
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
    """Gathers predictions into batches and pushes them, one batch while the next is gathered."""

    def __init__(self, project: Project, progress: Progress, on_progress: Callable[[Progress], None]) -> None:
        self.progress = progress
        self._project = project
        self._on_progress = on_progress
        self._batch: dict[int, Prediction] = {}
        self._regions = 0
        self._pushing: asyncio.Task[None] | None = None
        self._looked = time.monotonic()

    async def take(self, task_id: int, outcome: Outcome) -> None:
        if isinstance(outcome, BaseException):
            await self._look()
            self._fail(task_id, str(outcome) if isinstance(outcome, WholebodyError) else repr(outcome))
            return
        self._batch[task_id] = outcome
        self._regions += len(outcome['result'])
        if len(self._batch) >= _BATCH_TASKS or self._regions >= _BATCH_REGIONS:
            await self.push()

    async def push(self) -> None:
        """Push what was gathered, after the batch before it."""
        await self.finish()
        batch, self._batch, self._regions = self._batch, {}, 0
        if batch:
            self._pushing = asyncio.create_task(self._push(batch))

    async def finish(self) -> None:
        """Wait for the batch that is under way; those in hand are left to the next run if that fails."""
        if self._pushing is not None:
            pushing, self._pushing = self._pushing, None
            await pushing

    async def _push(self, batch: Mapping[int, Prediction]) -> None:
        # A killed run's last batch may have arrived after the list of tasks was made.
        having = await self._having(batch)
        self.progress.elsewhere += len(having)
        await self._store({task_id: prediction for task_id, prediction in batch.items() if task_id not in having})
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
            for task_id in batch.keys() - await self._having(batch):
                self._fail(task_id, 'Label Studio does not store its prediction: it does not fit the labeling config')

    async def _having(self, batch: Mapping[int, Any]) -> set[int]:
        """Those tasks of a batch that have a prediction of this version already."""
        within = min(batch), max(batch)
        return await self._project.tasks_with(self.progress.model_version, within=within) & batch.keys()

    async def _look(self) -> None:
        """Find out whether it is Label Studio that is gone, rather than an image."""
        if time.monotonic() - self._looked > _LOOK_SECONDS:
            await self._project.settings()
            self._looked = time.monotonic()

    def _fail(self, task_id: int, why: str) -> None:
        self.progress.failed[task_id] = why
        self._on_progress(self.progress)
