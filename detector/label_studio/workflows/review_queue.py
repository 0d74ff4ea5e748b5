"""The order in which annotators should see predicted tasks, by uncertainty, diversity or both.

The uncertainty is that of the least certain part of the least certain person (see `relevance.confidences`), computed
from the scores of the regions.

The diversity order is that of `postures.farthest_first`: the next task has the posture farthest from all annotated and
all previously chosen ones.

The order is written into the column `COLUMN` of the tasks' data, by which the tab sorts. Predictions keep their scores.
"""

from collections import defaultdict
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Final, Literal

import numpy as np
from numpy.typing import NDArray

from detector.datasets.person import Person, Size
from detector.errors import InvalidRequest
from detector.label_studio.labels.config import LabelingConfig
from detector.label_studio.labels.tasks import (
    Json,
    address_of,
    annotations_of,
    file_of,
    id_of,
    newest_annotation,
    persons_in,
    predictions_of,
    results_of,
    size_of,
)
from detector.label_studio.server.data_manager import all_of, condition
from detector.label_studio.server.project import UNCERTAINTY_SAMPLING, Project
from detector.outbox.relevance import confidences
from detector.pose.pose import Pose
from detector.pose.skeleton import PART_BY_NAME, PERSON

from .postures import farthest_first, postures

By = Literal['uncertainty', 'diversity', 'both']

TAB: Final = 'Queue'
COLUMN: Final = 'wholebody_rank'
"""Field of a task's data with its rank in the queue: a text with leading zeros, since Label Studio sorts texts."""
_OPEN: Final = '_'
"""End of a rank whose further digits are still to be written."""
_SCORE_DIGITS: Final = 4
_HIDDEN: Final = (
    'inner_id', 'completed_at', 'total_annotations', 'cancelled_annotations', 'total_predictions', 'annotators',
    'annotations_results', 'annotations_ids', 'predictions_results', 'file_upload', 'storage_filename', 'created_at',
    'updated_at', 'updated_by', 'avg_lead_time', 'draft_exists',
)  # fmt: skip
"""Columns to hide, since they would push the rank and the image out of sight."""
_JUDGED: Final = (PERSON, *PART_BY_NAME)
"""Columns of `relevance.confidences`."""
_NO_SIZE: Final = (100, 100)
"""Assumed size of an image whose regions do not state one, since they are in percent."""


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Candidate:
    """A predicted task without an annotation.

    :param certainty: certainty of the least certain person, 0..1; 1 if no person is judged.
    :param part: least certain part of that person, `person` for the box; None if no person is judged.
    :param postures: postures of its persons, shape (N, 399); see `postures`.
    """

    task: int
    file: str
    certainty: float
    part: str | None
    postures: NDArray[np.float32]


@dataclass(frozen=True, slots=True, kw_only=True)
class Place:
    """A task's place in the queue.

    :param rank: rank, from 1.
    :param diversity: distance of its posture from all previous ones, see `postures`; inf for a first task without
        annotated ones; None: not computed.
    """

    rank: int
    candidate: Candidate
    diversity: float | None


@dataclass(slots=True, kw_only=True)
class Waiting:
    """The tasks of a project for the queue; `add` takes them one by one and keeps little of each.

    :param model_version: version whose predictions count.
    :param parts: names of the parts whose certainty counts; empty: all of them and the box.
    :param labelled: postures of each annotated task.
    :param ranks: what `COLUMN` holds, by task; tasks without it are left out.
    """

    config: LabelingConfig
    model_version: str
    parts: Sequence[str] = ()
    candidates: list[Candidate] = field(default_factory=list)
    labelled: list[NDArray[np.float32]] = field(default_factory=list)
    ranks: dict[int, str] = field(default_factory=dict)

    def add(self, task: Json) -> None:
        """Add a task: a candidate if it is predicted and neither annotated nor skipped.

        :param task: with complete `annotations` and `predictions`, not only their numbers.
        """
        rank = address_of(task, COLUMN)
        if rank not in (None, ''):
            self.ranks[id_of(task)] = str(rank)
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
    """Return the candidates in the order of the queue.

    `both` sorts by the sum of a task's ranks by uncertainty and by diversity; equal sums put the more uncertain task
    first. A low rank in either order puts a task late, and the two scales need no relative weight.

    :param limit: number of tasks to queue; None: all.
    :return: the queued tasks.
    """
    found = sorted(waiting.candidates, key=lambda candidate: candidate.task)
    wanted = len(found) if limit is None else min(limit, len(found))
    order, diversity = _order(found, waiting.labelled, by, wanted)
    return [
        Place(rank=rank, candidate=found[index], diversity=diversity.get(index))
        for rank, index in enumerate(order[:wanted], start=1)
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
    project: Project, places: Sequence[Place], waiting: Waiting, *, stream: bool = False
) -> tuple[int, Json]:
    """Write the ranks, and a tab that lists the queued tasks without annotations in their order.

    :param stream: True to set the project to uncertainty sampling and to the model version of the queue, so that the
        label stream ("Label All Tasks") begins with the predictions of the lowest score.
    :return: the number of tasks with another rank than before, and the tab.
    :raises LabelStudioFault: see `Connection.request`; the next run completes the ranks.
    """
    digits = len(str(len(places)))
    ranks = {place.candidate.task: f'{place.rank:0{digits}}' for place in places}
    dropped = waiting.ranks.keys() - ranks.keys()
    changed = {task for task, rank in ranks.items() if waiting.ranks.get(task) != rank}
    if dropped:
        await project.set_data(sorted(dropped), COLUMN, '')
    if changed:
        await _write_ranks(project, ranks)
    if stream:
        wanted = {'model_version': waiting.model_version, 'sampling': UNCERTAINTY_SAMPLING}
        settings = await project.settings()
        if any(settings.get(name) != value for name, value in wanted.items()):
            await project.change(**wanted)
    return len(changed) + len(dropped), await project.save_view(_tab())


async def _write_ranks(project: Project, ranks: Mapping[int, str]) -> None:
    """Write the ranks digit by digit: ten requests per digit, however many tasks there are.

    A request can only write one text to many tasks, or replace a part of their texts. A request per task would take
    0.1 s each.
    """
    width = len(next(iter(ranks.values())))
    for position in range(width):
        rest = _OPEN if position < width - 1 else ''
        groups: defaultdict[str, list[int]] = defaultdict(list)
        for task, rank in ranks.items():
            groups[rank[position]].append(task)
        for digit, tasks in sorted(groups.items()):
            if position == 0:
                await project.set_data(tasks, COLUMN, digit + rest)
            else:
                await project.replace_data(tasks, COLUMN, _OPEN, digit + rest)


def _tab() -> dict[str, Any]:
    filters = [condition(f'{counted}_annotations', 'equal', 'Number', 0) for counted in ('total', 'cancelled')]
    # "not empty" keeps empty texts as soon as the project's first task has no rank at all (Label Studio 1.23)
    filters.append(condition(f'data.{COLUMN}', 'regex', 'String', '[0-9]'))
    return {
        'title': TAB,
        'type': 'list',
        'target': 'tasks',
        'ordering': [f'tasks:data.{COLUMN}'],
        'filters': all_of(filters),
        'hiddenColumns': {'explore': [f'tasks:{name}' for name in _HIDDEN], 'labeling': []},
    }
