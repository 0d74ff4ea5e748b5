"""The order of the queue by uncertainty, diversity or both, and its scores."""

import asyncio
import time
from collections.abc import Sequence
from dataclasses import replace
from typing import Any, cast

import numpy as np
import pytest

from detector.datasets.person import Person
from detector.errors import InvalidRequest, LabelStudioFault, NotInLabelStudio
from detector.label_studio.backend.preannotation import score
from detector.label_studio.labels.config import LabelingConfig
from detector.label_studio.server.project import Project
from detector.label_studio.workflows.postures import farthest_first
from detector.label_studio.workflows.review_queue import AT_ONCE, Place, certainty, queue, version_of, write
from detector.pose.pose import Pose
from tests.support.label_studio.evaluated import LEFT_HAND, SIZE, by_hand, make_person, unsure, without
from tests.support.label_studio.review import KEYPOINTS, SKELETON, VERSION, make_waiting, predicted
from tests.support.label_studio.tasks import Json, make_task

STYLES = pytest.mark.parametrize('config', [SKELETON, KEYPOINTS], ids=['skeletons', 'keypoints'])


def scores_of(places: Sequence[Place]) -> list[float | None]:
    """Return the scores after writing, for tasks with one prediction each."""
    predictions = [(place, prediction) for place in places for prediction in place.candidate.predictions.items()]
    return [place.changes.get(number, before) for place, (number, before) in predictions]


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


def test_uncertainty_keeps_the_certainty_as_the_score() -> None:
    """The order by uncertainty keeps the certainty as score, of which Label Studio sorts the lowest first."""
    places = queue(make_waiting(crowd()), by='uncertainty')
    assert tasks_of(places) == [6, 4, 3, 1, 2, 5]
    assert scores_of(places) == [0.4, 0.6, 0.7, 0.8, 0.8, 1.0]
    assert {place.diversity for place in places} == {None}
    assert [place.rank for place in places] == [1, 2, 3, 4, 5, 6]


@pytest.mark.parametrize('by', ['diversity', 'both'])
def test_other_orders_have_places_as_scores(by: Any) -> None:
    """Other orders use places as scores: ascending, distinct, in 0..1."""
    assert scores_of(queue(make_waiting(crowd()), by=by)) == pytest.approx(
        [0, 1 / 6, 2 / 6, 3 / 6, 4 / 6, 5 / 6], abs=1e-6
    )


def test_both_adds_the_ranks() -> None:
    """`both` adds the ranks, and equal sums put the more uncertain task first."""
    waiting = make_waiting(crowd())
    uncertain = tasks_of(queue(waiting, by='uncertainty'))
    diverse = tasks_of(queue(waiting, by='diversity'))
    sums = {task: (uncertain.index(task) + diverse.index(task), uncertain.index(task)) for task in range(1, 7)}
    assert tasks_of(queue(waiting, by='both')) == sorted(range(1, 7), key=lambda task: sums[task])


@pytest.mark.parametrize('by', ['uncertainty', 'diversity', 'both'])
@pytest.mark.parametrize('before', [0.0, 0.5, 0.9, None])
def test_a_limit_cuts_the_queue_and_puts_the_others_behind_it(by: Any, before: float | None) -> None:
    """A limit keeps the order within it and puts other tasks behind, changing only scores that would come earlier."""
    tasks = crowd()
    for task in tasks:
        task['predictions'][0]['score'] = before
    waiting = make_waiting(tasks)
    limited, full = queue(waiting, by=by, limit=2), queue(waiting, by=by)
    assert tasks_of(limited)[:2] == tasks_of(full)[:2]
    assert sorted(tasks_of(limited)) == [1, 2, 3, 4, 5, 6]
    scores = scores_of(limited)
    assert scores[:2] == ([0.4, 0.6] if by == 'uncertainty' else pytest.approx([0, 1 / 6], abs=1e-6))
    keeps = before is not None and before > (scores[1] or 0)
    assert scores[2:] == [before if keeps else 1.0] * 4
    assert any(place.changes for place in limited[2:]) != keeps
    assert tasks_of(queue(waiting, by=by, limit=99)) == tasks_of(full)


@pytest.mark.parametrize('by', ['uncertainty', 'diversity', 'both'])
def test_a_second_run_gives_the_same_order(by: Any) -> None:
    """A second run gives the same order, independent of written scores and of the order of tasks."""
    tasks = crowd()
    first = queue(make_waiting(tasks), by=by)
    scores = dict(zip(tasks_of(first), scores_of(first), strict=True))
    for task in tasks:
        task['predictions'][0]['score'] = scores[task['id']]
    again = queue(make_waiting(tasks[::-1]), by=by)
    assert tasks_of(again) == tasks_of(first)
    assert not any(place.changes for place in again)


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
    assert waiting.candidates[1].predictions == {52: 0.5, 51: 0.5}
    assert waiting.candidates[0].file == 'image1.jpg'
    assert len(waiting.labelled) == 1


def test_an_empty_queue_is_one() -> None:
    """An empty queue of any kind is empty."""
    for by in ('uncertainty', 'diversity', 'both'):
        assert queue(make_waiting([]), by=cast(Any, by)) == []


# ---------------------------------------------------------------- Label Studio


class StandIn:
    """A project that takes its time.

    :param faults: errors raised on changing a prediction, by its id.
    """

    id = 7

    def __init__(self, versions: Sequence[str] = (), faults: dict[int, Exception] | None = None) -> None:
        self.scores: dict[int, float] = {}
        self.busy = self.most = 0
        self.changed: Json = {}
        self._versions = list(versions)
        self._faults = faults or {}

    async def model_versions(self) -> list[str]:
        return self._versions

    async def change_prediction(self, prediction_id: int, **fields: float) -> None:
        self.busy += 1
        self.most = max(self.most, self.busy)
        await asyncio.sleep(0.001)
        self.busy -= 1
        if prediction_id in self._faults:
            raise self._faults[prediction_id]
        self.scores[prediction_id] = fields['score']

    async def settings(self) -> Json:
        return {'model_version': VERSION, 'sampling': 'Sequential sampling'} | self.changed

    async def change(self, **fields: Any) -> None:
        self.changed |= fields

    async def save_view(self, data: Json) -> Json:
        return {'id': 3, 'data': data}


def written(project: StandIn, places: Sequence[Place], **options: Any) -> tuple[int, Any]:
    return asyncio.run(write(cast(Project, project), places, VERSION, **options))


def test_scores_are_written_a_few_at_a_time_and_only_where_they_change() -> None:
    """Scores are written a few at a time and only if they change, for all predictions of the version."""
    tasks = [predicted(number, make_person(seed=number)) for number in range(1, 51)]
    places = queue(make_waiting(tasks), by='diversity')
    project, told = StandIn(), []
    changed, tab = written(project, places, on_progress=lambda done, total: told.append((done, total)))
    unchanged = [place for place in places if not place.changes]
    assert len(unchanged) == 1, 'the one in the middle'
    assert changed == len(project.scores) == 50 - len(unchanged)
    assert project.most == AT_ONCE
    assert told[-1] == (changed, changed)
    assert tab['data']['ordering'] == ['tasks:predictions_score']
    assert project.changed == {}
    for task in tasks:
        prediction = task['predictions'][0]
        prediction['score'] = project.scores.get(prediction['id'], 0.5)
    assert written(StandIn(), queue(make_waiting(tasks), by='diversity'))[0] == 0


def test_the_label_stream_follows_if_it_is_wanted() -> None:
    """The project gets the queue's model version, and uncertainty sampling only if the label stream is wanted."""
    project = StandIn()
    written(project, [], stream=True)
    assert project.changed == {'model_version': VERSION, 'sampling': 'Uncertainty sampling'}
    project = StandIn()
    project.changed = {'model_version': 'other'}
    written(project, [])
    assert project.changed == {'model_version': VERSION}


def test_a_prediction_that_is_gone_is_left_out_and_a_fault_ends_it_all() -> None:
    """A deleted prediction is skipped, and another fault ends the run with its message and without further requests."""
    places = queue(make_waiting(crowd()), by='both')
    gone = StandIn(faults={11: NotInLabelStudio('gone')})
    written(gone, places)
    assert 11 not in gone.scores
    assert gone.scores
    broken = StandIn(faults={11: LabelStudioFault('down')})
    with pytest.raises(LabelStudioFault, match='down'):
        written(broken, places)
    assert broken.busy <= AT_ONCE


async def test_the_version_is_the_newest_or_one_that_is_there() -> None:
    """The version is the newest or the wanted one, and a missing one is refused with the existing ones."""
    project = cast(Project, StandIn(['m 1.1', 'm 1.0']))
    assert await version_of(project, None) == 'm 1.1'
    assert await version_of(project, 'm 1.0') == 'm 1.0'
    with pytest.raises(InvalidRequest, match="no predictions of 'x', only of m 1.1, m 1.0"):
        await version_of(project, 'x')
    with pytest.raises(InvalidRequest, match='project 7 has no predictions'):
        await version_of(cast(Project, StandIn()), None)
