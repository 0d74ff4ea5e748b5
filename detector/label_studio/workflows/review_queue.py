"""The order in which people should see predicted tasks: what the model is unsure of, and what is unlike all the rest.

Uncertainty is that of the least certain part of the least certain person (see `relevance.confidences`). It is computed
from the scores in the regions and never from the score of the prediction, which the queue itself writes.

Diversity is the order of `postures.farthest_first`: always the task comes next that has the posture farthest from all
that people have labelled and from those that were chosen before.
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
from detector.label_studio.server.project import Project
from detector.outbox.relevance import confidences
from detector.pose.pose import Pose
from detector.pose.skeleton import PART_BY_NAME, PERSON

from .postures import farthest_first, postures

By = Literal['uncertainty', 'diversity', 'both']

TAB: Final = 'Queue'
UNCERTAINTY_SAMPLING: Final = 'Uncertainty sampling'
AT_ONCE: Final = 8
"""Predictions that are changed at the same time."""
LAST: Final = 1.0
"""Score of tasks beyond the limit that would come before its end."""
_PLACE_DIGITS: Final = 6
_SCORE_DIGITS: Final = 4
_HIDDEN: Final = (
    'inner_id', 'completed_at', 'total_annotations', 'cancelled_annotations', 'total_predictions', 'annotators',
    'annotations_results', 'annotations_ids', 'predictions_results', 'file_upload', 'storage_filename', 'created_at',
    'updated_at', 'updated_by', 'avg_lead_time', 'draft_exists',
)  # fmt: skip
"""Columns that would push the score and the image out of sight."""
_JUDGED: Final = (PERSON, *PART_BY_NAME)
"""What `relevance.confidences` has in its columns."""
_NO_SIZE: Final = (100, 100)
"""Of an image whose regions do not say it: they are in percent."""


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Candidate:
    """A task that waits for people.

    :param predictions: ids of the version's predictions, and their scores in Label Studio.
    :param certainty: of its least certain person, 0..1; 1 if nobody is judged.
    :param part: which part of that person is the least certain, `person` for the box; None if nobody is judged.
    :param postures: of its persons, shape (N, 399); see `postures`.
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

    :param rank: from 1.
    :param diversity: distance of its posture from all before, see `postures`; inf: it is the first of all; None: not
        asked for.
    :param changes: scores to be written, 0..1, by the id of the prediction; Label Studio brings the lowest first.
    """

    rank: int
    candidate: Candidate
    diversity: float | None
    changes: dict[int, float]


@dataclass(slots=True, kw_only=True)
class Waiting:
    """What a project has for the queue; `add` takes its tasks one by one and keeps little of each.

    :param model_version: whose predictions count.
    :param parts: names of the parts whose certainty counts; empty: all of them and the box.
    """

    config: LabelingConfig
    model_version: str
    parts: Sequence[str] = ()
    candidates: list[Candidate] = field(default_factory=list)
    labelled: list[NDArray[np.float32]] = field(default_factory=list)

    def add(self, task: Json) -> None:
        """Take a task: a candidate if it is predicted and nobody has annotated or skipped it.

        :param task: with `annotations` and `predictions`, these whole.
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


# ---------------------------------------------------------------- uncertainty


def certainty(persons: Sequence[Person], size: Size, parts: Sequence[str] = ()) -> tuple[float, str | None]:
    """How certain the least certain part of the least certain person is.

    Parts are judged as the node judges them (see `relevance.confidences`): by the mean over the keypoints that can be
    there. Where regions hold only the keypoints above the model's threshold, the others count as absent.

    :param parts: names of those that count; empty: all of them and the box.
    :return: 0..1, and the part's name, `person` for the box; 1 and None if nothing is judged.
    """
    judged = confidences([_pose(person) for person in persons], size=size) if persons else np.zeros((0, len(_JUDGED)))
    columns = [_JUDGED.index(part) for part in parts or _JUDGED]
    values = np.round(np.nan_to_num(judged[:, columns], nan=np.inf), _SCORE_DIGITS)
    if not np.isfinite(values).any():
        return 1.0, None
    lowest = int(values.argmin())
    return round(float(values.flat[lowest]), _SCORE_DIGITS), _JUDGED[columns[lowest % len(columns)]]


def _pose(person: Person) -> Pose:
    """The pose that a person was made of, as far as its regions tell: nan if no score of the box is known."""
    extent = person.extent
    assert extent is not None
    return Pose(
        box=extent,
        box_confidence=np.nan if person.box_score is None else person.box_score,
        keypoints=person.keypoints,
        confidences=np.nan_to_num(person.scores),
    )


# ---------------------------------------------------------------- the queue


def queue(waiting: Waiting, *, by: By, limit: int | None = None) -> list[Place]:
    """All candidates in the order of the queue.

    `both` adds a task's rank by uncertainty and its rank by diversity, and puts the lowest sum first, of equal sums the
    more uncertain. So one that either ranks low comes late, and neither scale has to be weighed against the other.

    The score that goes to Label Studio is the certainty if that alone orders, else the place, as a share of all. Those
    beyond the limit keep theirs, or get 1 if that would bring them before the end of the queue.

    :param limit: how many are queued; None: all.
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
    """The indices of candidates in the order of the queue, and the diversity of those for which it was computed."""
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
    """:param last: score of the end of the queue."""
    before = candidate.predictions.items()
    return {prediction: LAST for prediction, score in before if score != LAST and (score is None or score <= last)}


async def version_of(project: Project, wanted: str | None) -> str:
    """The model version whose predictions are queued.

    :param wanted: None: the newest that has predictions.
    :raises InvalidRequest: there are no predictions, or none of the wanted version; names those there.
    """
    versions = await project.model_versions()
    if not versions:
        raise InvalidRequest(f'project {project.id} has no predictions: retrieve some first')
    if wanted is not None and wanted not in versions:
        raise InvalidRequest(
            f'project {project.id} has no predictions of {wanted!r}; there are those of {", ".join(versions)}'
        )
    return next(iter(versions)) if wanted is None else wanted


async def read(project: Project, waiting: Waiting, *, on_progress: Callable[[int], None] = lambda _: None) -> None:
    """Add a project's tasks.

    :param on_progress: told how many are read.
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
    """Write scores, and a tab that lists what is not annotated in their order.

    Label Studio orders by the scores of the project's `model_version` alone, in tabs and in the label stream ("Label
    All Tasks"): the project's becomes that of the queue.

    :param stream: set the project to uncertainty sampling, so that the label stream has the order as well.
    :param on_progress: told how many predictions are changed, of how many.
    :return: how many scores have changed, and the tab.
    :raises LabelStudioFault: see `Connection.request`; what is written stays, and another run completes it.
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
                continue  # deleted in the meantime
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
