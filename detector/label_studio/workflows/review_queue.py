"""The order in which annotators should see predicted tasks, by uncertainty, diversity or both.

The uncertainty is that of the least certain part of the least certain person (see `relevance.confidences`). It is
computed from the scores of the regions and not from the prediction's score, which the queue itself writes.

The diversity order is that of `postures.farthest_first`: the next task has the posture farthest from all annotated and
all previously chosen ones.
"""

import asyncio
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any, Final, Literal

import numpy as np
from numpy.typing import NDArray

from detector.datasets.person import Person, Size
from detector.errors import InvalidRequest, NotInLabelStudio
from detector.label_studio.labels.config import LabelingConfig
from detector.label_studio.labels.tasks import (
    Json,
    annotations_of,
    file_of,
    id_of,
    newest_annotation,
    persons_in,
    predictions_of,
    results_of,
    size_of,
)
from detector.label_studio.server.project import UNCERTAINTY_SAMPLING, Project
from detector.outbox.relevance import confidences
from detector.pose.pose import Pose
from detector.pose.skeleton import PART_BY_NAME, PERSON

from .postures import farthest_first, postures

By = Literal['uncertainty', 'diversity', 'both']

TAB: Final = 'Queue'
AT_ONCE: Final = 8
"""Number of predictions that are changed at the same time."""
LAST: Final = 1.0
"""Score of tasks beyond the limit whose own score would put them before the end of the queue."""
_PLACE_DIGITS: Final = 6
_SCORE_DIGITS: Final = 4
_HIDDEN: Final = (
    'inner_id', 'completed_at', 'total_annotations', 'cancelled_annotations', 'total_predictions', 'annotators',
    'annotations_results', 'annotations_ids', 'predictions_results', 'file_upload', 'storage_filename', 'created_at',
    'updated_at', 'updated_by', 'avg_lead_time', 'draft_exists',
)  # fmt: skip
"""Columns to hide, since they would push the score and the image out of sight."""
_JUDGED: Final = (PERSON, *PART_BY_NAME)
"""Columns of `relevance.confidences`."""
_NO_SIZE: Final = (100, 100)
"""Assumed size of an image whose regions do not state one, since they are in percent."""


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Candidate:
    """A predicted task without an annotation.

    :param predictions: ids of the version's predictions with their scores in Label Studio.
    :param certainty: certainty of the least certain person, 0..1; 1 if no person is judged.
    :param part: least certain part of that person, `person` for the box; None if no person is judged.
    :param postures: postures of its persons, shape (N, 399); see `postures`.
    """

    task: int
    file: str
    predictions: dict[int, float | None]
    certainty: float
    part: str | None
    postures: NDArray[np.float32]


@dataclass(frozen=True, slots=True, kw_only=True)
class Place:
    """A task's place in the queue.

    :param rank: rank, from 1.
    :param diversity: distance of its posture from all previous ones, see `postures`; inf for a first task without
        annotated ones; None: not computed.
    :param changes: scores to write, 0..1, by prediction id; Label Studio sorts the lowest first.
    """

    rank: int
    candidate: Candidate
    diversity: float | None
    changes: dict[int, float]


@dataclass(slots=True, kw_only=True)
class Waiting:
    """The tasks of a project for the queue; `add` takes them one by one and keeps little of each.

    :param model_version: version whose predictions count.
    :param parts: names of the parts whose certainty counts; empty: all of them and the box.
    :param labelled: postures of each annotated task.
    """

    config: LabelingConfig
    model_version: str
    parts: Sequence[str] = ()
    candidates: list[Candidate] = field(default_factory=list)
    labelled: list[NDArray[np.float32]] = field(default_factory=list)

    def add(self, task: Json) -> None:
        """Add a task: a candidate if it is predicted and neither annotated nor skipped.

        :param task: with complete `annotations` and `predictions`, not only their numbers.
        """
        annotation = newest_annotation(task)
        if annotation is not None:
            results = results_of(annotation)
            self.labelled.append(postures(persons_in(results, self.config, size_of(results) or _NO_SIZE)))
            return
        predictions = predictions_of(task).get(self.model_version)
        if predictions is None or annotations_of(task):
            return
        results = results_of(predictions[0])
        size = size_of(results) or _NO_SIZE
        persons = persons_in(results, self.config, size)
        value, part = certainty(persons, size, self.parts)
        self.candidates.append(
            Candidate(
                task=id_of(task),
                file=file_of(task, self.config),
                predictions={id_of(prediction): prediction.get('score') for prediction in predictions},
                certainty=value,
                part=part,
                postures=postures(persons),
            )
        )


def certainty(persons: Sequence[Person], size: Size, parts: Sequence[str] = ()) -> tuple[float, str | None]:
    """Return the certainty of the least certain part of the least certain person.

    Parts are judged as in the node (see `relevance.confidences`): by the mean over the keypoints that can be present.
    If regions hold only the keypoints above the model's threshold, the others count as absent.

    :param parts: names of the parts that count; empty: all of them and the box.
    :return: certainty, 0..1, and the part's name, `person` for the box; 1 and None if nothing is judged.
    """
    judged = confidences([_pose(person) for person in persons], size=size) if persons else np.zeros((0, len(_JUDGED)))
    columns = [_JUDGED.index(part) for part in parts or _JUDGED]
    values = np.round(np.nan_to_num(judged[:, columns], nan=np.inf), _SCORE_DIGITS)
    if not np.isfinite(values).any():
        return 1.0, None
    lowest = int(values.argmin())
    return round(float(values.flat[lowest]), _SCORE_DIGITS), _JUDGED[columns[lowest % len(columns)]]


def _pose(person: Person) -> Pose:
    """Restore the pose from a person's regions; the box confidence is nan if its score is unknown."""
    extent = person.extent
    assert extent is not None
    return Pose(
        box=extent,
        box_confidence=np.nan if person.box_score is None else person.box_score,
        keypoints=person.keypoints,
        confidences=np.nan_to_num(person.scores),
    )


def queue(waiting: Waiting, *, by: By, limit: int | None = None) -> list[Place]:
    """Return all candidates in the order of the queue.

    `both` sorts by the sum of a task's ranks by uncertainty and by diversity; equal sums put the more uncertain task
    first. A low rank in either order puts a task late, and the two scales need no relative weight.

    The score for Label Studio is the certainty for `uncertainty`, and otherwise the place as a share of all. Tasks
    beyond the limit keep their score, or get 1 if it would put them before the end of the queue.

    :param limit: number of tasks to queue; None: all.
    """
    found = sorted(waiting.candidates, key=lambda candidate: candidate.task)
    count = len(found)
    wanted = count if limit is None else min(limit, count)
    order, diversity = _order(found, waiting.labelled, by, wanted)
    scores = [
        found[index].certainty if by == 'uncertainty' else round(rank / count, _PLACE_DIGITS)
        for rank, index in enumerate(order[:wanted])
    ]
    return [
        Place(
            rank=rank + 1,
            candidate=found[index],
            diversity=diversity.get(index),
            changes=_changes(found[index], scores[rank]) if rank < wanted else _pushed(found[index], scores[-1]),
        )
        for rank, index in enumerate(order)
    ]


def _order(
    candidates: Sequence[Candidate], labelled: Sequence[NDArray[np.float32]], by: By, wanted: int
) -> tuple[list[int], dict[int, float]]:
    """Return the candidates' indices in queue order, and the diversity by index where it is computed."""
    by_certainty = list(np.argsort([candidate.certainty for candidate in candidates], kind='stable'))
    if by == 'uncertainty':
        return by_certainty, {}
    rows = [candidate.postures for candidate in candidates]
    chosen, distances = farthest_first(rows, labelled, wanted if by == 'diversity' else None)
    diversity = dict(zip(chosen, distances, strict=True))
    if by == 'diversity':
        return chosen + [index for index in by_certainty if index not in diversity], diversity
    certain, diverse = np.argsort(by_certainty), np.argsort(chosen)
    return list(np.lexsort((certain, certain + diverse))), diversity


def _changes(candidate: Candidate, score: float) -> dict[int, float]:
    return {prediction: score for prediction, before in candidate.predictions.items() if before != score}


def _pushed(candidate: Candidate, last: float) -> dict[int, float]:
    """:param last: score at the end of the queue."""
    before = candidate.predictions.items()
    return {prediction: LAST for prediction, score in before if score != LAST and (score is None or score <= last)}


async def version_of(project: Project, wanted: str | None) -> str:
    """Return the model version whose predictions are queued.

    :param wanted: version to queue; None: the newest with predictions.
    :raises InvalidRequest: there are no predictions, or none of this version; the message names the existing ones.
    """
    versions = await project.model_versions()
    if not versions:
        raise InvalidRequest(f'project {project.id} has no predictions: retrieve some first')
    if wanted is not None and wanted not in versions:
        raise InvalidRequest(f'project {project.id} has no predictions of {wanted!r}, only of {", ".join(versions)}')
    return next(iter(versions)) if wanted is None else wanted


async def read(project: Project, waiting: Waiting, *, on_progress: Callable[[int], None] = lambda _: None) -> None:
    """Add the tasks of a project.

    :param on_progress: called with the number of tasks read.
    :raises LabelStudioFault: see `Connection.request`.
    """
    count = 0
    async for task in project.tasks(full=True):
        waiting.add(task)
        count += 1
        on_progress(count)


async def write(
    project: Project,
    places: Sequence[Place],
    model_version: str,
    *,
    stream: bool = False,
    on_progress: Callable[[int, int], None] = lambda _done, _all: None,
) -> tuple[int, Json]:
    """Write the scores, and a tab that lists the tasks without annotations in their order.

    Label Studio sorts by the scores of the project's `model_version` only, in tabs and in the label stream ("Label All
    Tasks"), so the project gets the version of the queue.

    :param stream: True to set the project to uncertainty sampling, so that the label stream follows the order as well.
    :param on_progress: called with the numbers of changed and of all predictions.
    :return: the number of changed scores, and the tab.
    :raises LabelStudioFault: see `Connection.request`; written scores are kept, and another run completes them.
    """
    done = await _write_scores(project, [change for place in places for change in place.changes.items()], on_progress)
    wanted = {'model_version': model_version} | ({'sampling': UNCERTAINTY_SAMPLING} if stream else {})
    settings = await project.settings()
    if any(settings.get(name) != value for name, value in wanted.items()):
        await project.change(**wanted)
    return done, await project.save_view(_tab())


async def _write_scores(
    project: Project, changes: Sequence[tuple[int, float]], on_progress: Callable[[int, int], None]
) -> int:
    left = iter(changes)
    done = 0

    async def work() -> None:
        nonlocal done
        for prediction, score in left:
            try:
                await project.change_prediction(prediction, score=score)
            except NotInLabelStudio:
                continue  # the prediction was deleted in the meantime
            done += 1
            on_progress(done, len(changes))

    workers = [asyncio.create_task(work()) for _ in range(AT_ONCE)]
    try:
        await asyncio.gather(*workers)
    finally:
        for worker in workers:
            worker.cancel()
        await asyncio.gather(*workers, return_exceptions=True)
    return done


def _tab() -> dict[str, Any]:
    filters = [
        {'filter': f'filter:tasks:{counted}_annotations', 'operator': 'equal', 'type': 'Number', 'value': 0}
        for counted in ('total', 'cancelled')
    ]
    return {
        'title': TAB,
        'type': 'list',
        'target': 'tasks',
        'ordering': ['tasks:predictions_score'],
        'filters': {'conjunction': 'and', 'items': filters},
        'hiddenColumns': {'explore': [f'tasks:{name}' for name in _HIDDEN], 'labeling': []},
    }
