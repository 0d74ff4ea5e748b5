"""The order of the queue by uncertainty, diversity or both, and the ranks in Label Studio."""

import asyncio
import time
from collections.abc import Sequence
from dataclasses import replace
from typing import Any, cast

import numpy as np
import pytest

from detector.datasets.person import Person
from detector.errors import InvalidRequest
from detector.label_studio.backend.preannotation import score
from detector.label_studio.labels.config import LabelingConfig
from detector.label_studio.server.project import Project
from detector.label_studio.workflows.postures import farthest_first
from detector.label_studio.workflows.review_queue import COLUMN, Place, certainty, queue, version_of, write
from detector.pose.pose import Pose
from tests.support.label_studio.evaluated import LEFT_HAND, SIZE, by_hand, make_person, unsure, without
from tests.support.label_studio.review import KEYPOINTS, SKELETON, VERSION, make_waiting, predicted
from tests.support.label_studio.tasks import Json, make_task

STYLES = pytest.mark.parametrize('config', [SKELETON, KEYPOINTS], ids=['skeletons', 'keypoints'])


def tasks_of(places: Sequence[Place]) -> list[int]:
    return [place.candidate.task for place in places]


# ---------------------------------------------------------------- uncertainty


@STYLES
def test_a_hand_alone_makes_a_pose_uncertain(config: LabelingConfig) -> None:
    """A single uncertain hand makes a pose uncertain in either style of regions."""
    persons = [make_person(), unsure(make_person(400, seed=1), 'right_hand', 0.4), make_person(700, seed=2)]
    (found,) = make_waiting([predicted(1, *persons, config=config)], config=config).candidates
    assert (found.certainty, found.part) == (0.4, 'right_hand')


@STYLES
def test_a_box_may_be_the_least_certain(config: LabelingConfig) -> None:
    """The box can be the least certain part, which is then named `person`."""
    person = replace(make_person(), box_score=0.35)
    (found,) = make_waiting([predicted(1, person, config=config)], config=config).candidates
    assert (found.certainty, found.part) == (0.35, 'person')


@pytest.mark.parametrize('threshold', [0.3, 0.6])
def test_skeletons_give_back_the_certainty_that_the_node_computed(threshold: float) -> None:
    """Skeletons hold the scores of all keypoints, so their certainty equals the node's whatever the threshold."""
    rng = np.random.default_rng(0)
    for seed in range(20):
        person = make_person(300, 100, seed=seed)
        assert person.box is not None
        pose = Pose(
            box=person.box,
            box_confidence=0.99,
            keypoints=person.keypoints,
            confidences=rng.uniform(0.16, 1, 133).astype(np.float32),
        )
        task = predicted(1, Person.of(pose, threshold=threshold))
        (found,) = make_waiting([task]).candidates
        assert found.certainty == pytest.approx(score([pose], SIZE), abs=2e-4)


def test_keypoints_below_the_threshold_count_as_absent_where_regions_lack_them() -> None:
    """A part is judged by the keypoints in the regions, and not at all if most are missing."""
    person = unsure(make_person(), 'left_hand', 0.5)
    few, most = (without(person, LEFT_HAND.indices[kept:]) for kept in (5, 15))
    results = [
        make_waiting([predicted(1, found, config=KEYPOINTS)], config=KEYPOINTS).candidates[0] for found in (few, most)
    ]
    assert [(found.certainty, found.part) for found in results] == [(0.8, 'body'), (0.5, 'left_hand')]


def test_only_the_wanted_parts_count() -> None:
    """Only the chosen parts count, and nothing is uncertain if none of them is judged."""
    person = unsure(unsure(make_person(), 'face', 0.2), 'left_hand', 0.5)
    hands = ['left_hand', 'right_hand']
    assert certainty([person], SIZE) == (0.2, 'face')
    assert certainty([person], SIZE, hands) == (0.5, 'left_hand')
    assert certainty([unsure(unsure(person, 'left_hand', 0), 'right_hand', 0)], SIZE, hands) == (1.0, None)


def test_an_empty_image_is_certain_and_a_person_without_a_box_is_judged_by_its_parts() -> None:
    """An image without persons is certain, and a person without a box is judged by the parts."""
    assert certainty([], SIZE) == (1.0, None)
    bare = replace(unsure(make_person(), 'feet', 0.6), box=None, box_score=None)
    assert certainty([bare], SIZE) == (0.6, 'feet')
    assert certainty([without(bare, range(1, 133))], SIZE)[1] != 'person'


# ---------------------------------------------------------------- diversity


def test_what_is_labelled_or_seen_already_comes_late() -> None:
    """Postures equal to labelled or chosen ones come late, whatever their place and size."""
    same, other, again = (
        predicted(1, make_person(500, 300, width=100, height=200, seed=1)),
        predicted(2, make_person(seed=2)),
        predicted(3, make_person(300, 0, seed=2)),
    )
    labelled = make_task(9, SKELETON, people=[by_hand(make_person(seed=1))])
    places = queue(make_waiting([same, other, again, labelled]), by='diversity')
    assert tasks_of(places) == [2, 1, 3]
    assert places[0].diversity is not None
    assert places[0].diversity > 0.1
    assert [place.diversity for place in places[1:]] == pytest.approx([0, 0], abs=2e-3)


def test_ten_thousand_tasks_take_seconds() -> None:
    """The first hundred of ten thousand tasks with a thousand labelled ones are chosen within seconds."""
    rng = np.random.default_rng(0)
    rows = rng.normal(size=(11_000, 1, 399)).astype(np.float32)
    started = time.monotonic()
    order, _ = farthest_first(list(rows[:10_000]), list(rows[10_000:]), 100)
    assert len(set(order)) == 100
    assert time.monotonic() - started < 20


# ---------------------------------------------------------------- the queue


def crowd() -> list[Json]:
    """Make tasks 1 … 6, each less certain than the one before; 2 and 3 are alike, 5 has no person."""
    people = [unsure(make_person(seed=min(n, 5) if n != 3 else 2), 'face', 1 - n / 10) for n in range(1, 7)]
    return [predicted(n, *([] if n == 5 else [person])) for n, person in enumerate(people, start=1)]


def test_uncertainty_begins_with_the_least_certain_task() -> None:
    """The order by uncertainty begins with the least certain task, and equal ones keep the order of their ids."""
    places = queue(make_waiting(crowd()), by='uncertainty')
    assert tasks_of(places) == [6, 4, 3, 1, 2, 5]
    assert [place.candidate.certainty for place in places] == [0.4, 0.6, 0.7, 0.8, 0.8, 1.0]
    assert {place.diversity for place in places} == {None}
    assert [place.rank for place in places] == [1, 2, 3, 4, 5, 6]


def test_both_adds_the_ranks() -> None:
    """`both` adds the ranks, and equal sums put the more uncertain task first."""
    waiting = make_waiting(crowd())
    uncertain = tasks_of(queue(waiting, by='uncertainty'))
    diverse = tasks_of(queue(waiting, by='diversity'))
    sums = {task: (uncertain.index(task) + diverse.index(task), uncertain.index(task)) for task in range(1, 7)}
    assert tasks_of(queue(waiting, by='both')) == sorted(range(1, 7), key=lambda task: sums[task])


@pytest.mark.parametrize('by', ['uncertainty', 'diversity', 'both'])
def test_a_limit_cuts_the_queue(by: Any) -> None:
    """A limit keeps the first tasks in their order, and a limit beyond the number of tasks keeps all."""
    waiting = make_waiting(crowd())
    full = tasks_of(queue(waiting, by=by))
    assert sorted(full) == [1, 2, 3, 4, 5, 6]
    assert tasks_of(queue(waiting, by=by, limit=2)) == full[:2]
    assert tasks_of(queue(waiting, by=by, limit=99)) == full


@pytest.mark.parametrize('by', ['uncertainty', 'diversity', 'both'])
def test_the_order_does_not_depend_on_scores_or_on_the_order_of_tasks(by: Any) -> None:
    """The order is the same with other scores of predictions and with the tasks in another order."""
    tasks = crowd()
    first = tasks_of(queue(make_waiting(tasks), by=by))
    for task in tasks:
        task['predictions'][0]['score'] = 1 / task['id']
    assert tasks_of(queue(make_waiting(tasks[::-1]), by=by)) == first


def test_predicted_and_unannotated_tasks_are_queued() -> None:
    """Tasks with a prediction of the version are queued unless they are annotated or skipped, and the newest prediction
    counts."""
    person = make_person()
    other = make_task(2, SKELETON, predicted={'other': [person]})
    skipped = predicted(3, person)
    skipped['annotations'] = [{'id': 1, 'was_cancelled': True, 'result': []}]
    annotated = make_task(4, SKELETON, people=[person], predicted={VERSION: [person]})
    twice = make_task(5, SKELETON, predicted={'first': [unsure(person, 'face', 0.3)], 'second': [person]})
    for prediction in twice['predictions']:
        prediction['model_version'] = VERSION
    waiting = make_waiting([predicted(1, person), other, skipped, annotated, twice, {}])
    assert [candidate.task for candidate in waiting.candidates] == [1, 5]
    assert waiting.candidates[1].certainty == 0.8
    assert waiting.candidates[0].file == 'image1.jpg'
    assert len(waiting.labelled) == 1


def test_an_empty_queue_is_one() -> None:
    """An empty queue of any kind is empty."""
    for by in ('uncertainty', 'diversity', 'both'):
        assert queue(make_waiting([]), by=cast(Any, by)) == []


# ---------------------------------------------------------------- Label Studio


class StandIn:
    """A project in memory.

    :param tasks: tasks whose data `set_data` and `replace_data` change.
    """

    id = 7

    def __init__(self, tasks: Sequence[Json] = (), versions: Sequence[str] = ()) -> None:
        self.changed: Json = {}
        self.requests = 0
        self._tasks = {task['id']: task for task in tasks}
        self._versions = list(versions)

    async def model_versions(self) -> list[str]:
        return self._versions

    async def set_data(self, tasks: Sequence[int], name: str, value: str) -> None:
        self.requests += 1
        for task in tasks:
            self._tasks[task]['data'][name] = value

    async def replace_data(self, tasks: Sequence[int], name: str, old: str, new: str) -> None:
        self.requests += 1
        for task in tasks:
            data = self._tasks[task]['data']
            data[name] = data[name].replace(old, new)

    async def settings(self) -> Json:
        return {'model_version': VERSION, 'sampling': 'Sequential sampling'} | self.changed

    async def change(self, **fields: Any) -> None:
        self.changed |= fields

    async def save_view(self, data: Json) -> Json:
        return {'id': 3, 'data': data}


def written(project: StandIn, tasks: Sequence[Json], **options: Any) -> tuple[int, Any]:
    """Queue the tasks by diversity and write their ranks.

    :param options: `limit` of the queue, `stream` of the writing.
    """
    waiting = make_waiting(tasks)
    places = queue(waiting, by='diversity', limit=options.pop('limit', None))
    return asyncio.run(write(cast(Project, project), places, waiting, **options))


def ranks_of(tasks: Sequence[Json]) -> list[str]:
    return [task['data'].get(COLUMN, '') for task in tasks]


@pytest.mark.parametrize(('count', 'requests'), [(1, 1), (9, 9), (10, 2 + 10), (101, 2 + 10 + 10)])
def test_ranks_are_written_in_few_requests(count: int, requests: int) -> None:
    """Each task gets its rank with leading zeros, in at most ten requests per digit, and its other data stay."""
    tasks = [predicted(number, make_person(seed=number)) for number in range(1, count + 1)]
    images = [task['data']['image'] for task in tasks]
    order = tasks_of(queue(make_waiting(tasks), by='diversity'))
    project = StandIn(tasks)
    changed, tab = written(project, tasks)
    assert (changed, project.requests) == (count, requests)
    ranks = {task['id']: rank for task, rank in zip(tasks, ranks_of(tasks), strict=True)}
    assert sorted(ranks, key=lambda task: ranks[task]) == order
    assert sorted(map(int, ranks.values())) == list(range(1, count + 1))
    assert {len(rank) for rank in ranks.values()} == {len(str(count))}
    assert [task['data']['image'] for task in tasks] == images
    assert tab['data']['ordering'] == [f'tasks:data.{COLUMN}']
    assert project.changed == {}


def test_a_second_run_writes_only_what_has_changed() -> None:
    """A second run writes nothing, and a smaller queue removes the ranks of the tasks that have left it."""
    tasks = crowd()
    written(StandIn(tasks), tasks)
    again = StandIn(tasks)
    assert (written(again, tasks)[0], again.requests) == (0, 0)
    tasks[0]['annotations'] = [{'id': 1, 'was_cancelled': True, 'result': []}]
    changed, _ = written(StandIn(tasks), tasks, limit=2)
    assert changed >= 4
    assert sorted(ranks_of(tasks)) == ['', '', '', '', '1', '2']
    assert ranks_of(tasks)[0] == ''
    assert {prediction['score'] for task in tasks for prediction in task['predictions']} == {0.5}


def test_an_interrupted_run_is_completed() -> None:
    """Ranks that an interrupted run has left unfinished are written anew."""
    tasks = [predicted(number, make_person(seed=number)) for number in range(1, 12)]
    expected = StandIn(tasks)
    written(expected, tasks)
    ranks = ranks_of(tasks)
    for task in tasks[::2]:
        task['data'][COLUMN] = '0_'
    written(StandIn(tasks), tasks)
    assert ranks_of(tasks) == ranks


def test_the_label_stream_follows_if_it_is_wanted() -> None:
    """The project gets the queue's model version and uncertainty sampling only if the label stream is wanted."""
    project = StandIn()
    written(project, [], stream=True)
    assert project.changed == {'model_version': VERSION, 'sampling': 'Uncertainty sampling'}
    project = StandIn()
    written(project, [])
    assert project.changed == {}


async def test_the_version_is_the_newest_or_one_that_is_there() -> None:
    """The version is the newest or the wanted one, and a missing one is refused with the existing ones."""
    project = cast(Project, StandIn(versions=['m 1.1', 'm 1.0']))
    assert await version_of(project, None) == 'm 1.1'
    assert await version_of(project, 'm 1.0') == 'm 1.0'
    with pytest.raises(InvalidRequest, match="no predictions of 'x', only of m 1.1, m 1.0"):
        await version_of(project, 'x')
    with pytest.raises(InvalidRequest, match='project 7 has no predictions'):
        await version_of(cast(Project, StandIn()), None)
