"""Bulk preannotation with a project in memory; tests/integration uses a real one."""

from collections.abc import AsyncGenerator, AsyncIterator, Sequence
from typing import Any, cast

import pytest

from detector.errors import InvalidRequest, LabelStudioFault, MediaFault
from detector.label_studio.backend.preannotation import Outcome
from detector.label_studio.labels.config import LabelingConfig, generate
from detector.label_studio.server.project import Json, Project
from detector.label_studio.workflows import bulk_preannotation as bulk
from detector.label_studio.workflows.bulk_preannotation import Progress, preannotate

VERSION = 'm 1.0'


class ProjectInMemory:
    """Has the tasks 1 to `count`.

    :param refused: tasks for which Label Studio refuses a whole batch.
    :param dropped: tasks whose prediction Label Studio silently drops.
    """

    def __init__(self, count: int, *, refused: Sequence[int] = (), dropped: Sequence[int] = ()) -> None:
        self.stored: dict[int, Json] = {}
        self.batches: list[int] = []
        self.is_down = False
        self._tasks = range(1, count + 1)
        self._refused = refused
        self._dropped = dropped

    async def settings(self) -> Json:
        if self.is_down:
            raise LabelStudioFault('it does not answer')
        return {}

    async def label_config(self) -> str:
        return generate('keypoints')

    async def tasks_without(self, version: str) -> AsyncIterator[Json]:
        assert version == VERSION
        for task in self._tasks:
            if task not in self.stored:
                yield {'id': task, 'data': {'image': f'{task}.jpg'}}

    async def tasks_with(self, version: str, *, within: tuple[int, int]) -> set[int]:
        assert version == VERSION
        return {task for task in self.stored if within[0] <= task <= within[1]}

    async def remove_surplus(self, version: str) -> int:
        return 0

    async def import_predictions(self, predictions: Sequence[Json]) -> int:
        await self.settings()
        self.batches.append(len(predictions))
        if any(prediction['task'] in self._refused for prediction in predictions):
            raise InvalidRequest('Label Studio refuses it: invalid task')
        kept = [prediction for prediction in predictions if prediction['task'] not in self._dropped]
        assert not self.stored.keys() & {prediction['task'] for prediction in kept}, 'a duplicate'
        self.stored |= {prediction['task']: prediction for prediction in kept}
        return len(kept)


class PredictorInMemory:
    """:param outcomes: outcomes by task; other tasks get a prediction without regions."""

    def __init__(self, outcomes: dict[int, Outcome] | None = None, *, regions: int = 0) -> None:
        self._outcomes = outcomes or {}
        self._regions = regions

    async def outcomes(self, tasks: Sequence[Json], config: LabelingConfig) -> AsyncGenerator[tuple[int, Outcome]]:
        for index, task in enumerate(tasks):
            usual: Outcome = {'model_version': VERSION, 'score': 0.5, 'result': [{}] * self._regions}
            yield index, self._outcomes.get(task['id'], usual)


async def run(project: ProjectInMemory, predictor: PredictorInMemory, **options: Any) -> Progress:
    return await preannotate(cast(Project, project), predictor, model_version=VERSION, **options)


async def test_every_task_gets_its_prediction_in_batches() -> None:
    project = ProjectInMemory(70)
    progress = await run(project, PredictorInMemory())
    assert (progress.todo, progress.stored, progress.elsewhere, progress.failed) == (70, 70, 0, {})
    assert project.batches == [32, 32, 6]
    assert project.stored[70]['score'] == 0.5


async def test_a_second_run_has_nothing_to_do() -> None:
    project = ProjectInMemory(5)
    await run(project, PredictorInMemory())
    assert (await run(project, PredictorInMemory())).todo == 0
    assert project.batches == [5]


async def test_large_predictions_make_small_batches() -> None:
    project = ProjectInMemory(8)
    await run(project, PredictorInMemory(regions=4000))
    assert project.batches == [3, 3, 2]


async def test_a_limit_leaves_tasks_for_the_next_run() -> None:
    project = ProjectInMemory(8)
    assert (await run(project, PredictorInMemory(), limit=3)).stored == 3
    assert (await run(project, PredictorInMemory())).stored == 5


async def test_failures_are_named_and_the_others_go_on() -> None:
    project = ProjectInMemory(40)
    failures: dict[int, Outcome] = {7: MediaFault('no such file'), 9: ValueError('a fault of ours')}
    progress = await run(project, PredictorInMemory(failures))
    assert progress.failed == {7: 'no such file', 9: "ValueError('a fault of ours')"}
    assert progress.stored == 38
    assert progress.done == progress.todo == 40


async def test_a_task_that_spoils_its_batch_is_found() -> None:
    project = ProjectInMemory(32, refused=[20])
    progress = await run(project, PredictorInMemory())
    assert progress.stored == 31
    assert progress.failed == {20: 'Label Studio refuses it: invalid task'}


async def test_what_label_studio_drops_in_silence_is_found() -> None:
    progress = await run(ProjectInMemory(10, dropped=[3, 4]), PredictorInMemory())
    assert progress.stored == 8
    assert progress.failed.keys() == {3, 4}
    assert 'does not fit the labeling config' in progress.failed[3]


async def test_what_another_run_stored_meanwhile_is_not_stored_twice() -> None:
    project = ProjectInMemory(10)

    def meanwhile(progress: Progress) -> None:
        if not project.batches:  # at the first call, when the tasks are listed
            project.stored |= {4: {}, 5: {}}

    progress = await run(project, PredictorInMemory(), on_progress=meanwhile)
    assert (progress.stored, progress.elsewhere) == (8, 2)


async def test_a_label_studio_that_stops_ends_the_run_and_keeps_what_is_stored() -> None:
    project = ProjectInMemory(100)

    def stop(progress: Progress) -> None:
        project.is_down = progress.stored >= 32

    with pytest.raises(LabelStudioFault, match='does not answer'):
        await run(project, PredictorInMemory(), on_progress=stop)
    assert len(project.stored) == 32
    project.is_down = False
    assert (await run(project, PredictorInMemory())).stored == 68


async def test_images_that_fail_because_label_studio_stops_end_the_run(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(bulk, '_CHECK_SECONDS', 0)
    project = ProjectInMemory(100)
    project.is_down = True
    failures: dict[int, Outcome] = {task: MediaFault('no answer') for task in range(1, 101)}
    with pytest.raises(LabelStudioFault):
        await run(project, PredictorInMemory(failures))
