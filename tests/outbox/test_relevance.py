"""The relevance of images: causes, tags, known poses and limits."""

import itertools
import tracemalloc
from collections.abc import Sequence
from typing import Any

import numpy as np
import pytest

from benchmarks.support.cards import make_card
from detector.engine.pose_engine import PoseEngine
from detector.models.package import ModelPackage
from detector.outbox import relevance
from detector.outbox.relevance import Relevance
from detector.pose.pose import Pose
from detector.pose.similarity import ABSENT
from detector.pose.skeleton import KEYPOINT_INDEX, OKS_SIGMAS, PART_BY_NAME, PARTS
from mock.test_card.cards import Figure
from tests.support.poses import person

SIZE = (1000, 800)


class Clock:
    """A clock that the test advances."""

    def __init__(self) -> None:
        self.now = 1000.0

    def __call__(self) -> float:
        return self.now


def make_relevance(**options: Any) -> Relevance:
    return Relevance(**{'min_uncertain': 0.3, 'max_uncertain': 0.6} | options)


def with_keypoints(pose: Pose, indices: Sequence[int] | slice, points: Any) -> Pose:
    keypoints = pose.keypoints.copy()
    keypoints[indices] = points
    return Pose(box=pose.box, box_confidence=pose.box_confidence, keypoints=keypoints, confidences=pose.confidences)


def tags_of(*poses: Pose, size: tuple[int, int] = SIZE, **options: Any) -> tuple[str, ...]:
    """Return the tags that a new filter gives to an image."""
    return make_relevance(**options).judge(poses, size=size).tags


# ---------------------------------------------------------------- causes


def test_a_confident_person_is_not_relevant() -> None:
    """A confident person, an empty image and a distant person with absent hands are not relevant."""
    assert tags_of() == ()
    assert tags_of(person()) == ()
    assert tags_of(person(left_hand=0.05, right_hand=0.1, face=0.02)) == ()


@pytest.mark.parametrize('part', [part.name for part in PARTS])
def test_an_uncertain_part_is_named(part: str) -> None:
    """An uncertain part gives the tag `uncertain` and one with its name."""
    assert tags_of(person(**{part: 0.45})) == ('uncertain', f'uncertain_{part}')
    assert set(tags_of(person(), person(600, **{part: 0.45}))) == {'uncertain', f'uncertain_{part}'}


def test_an_uncertain_box_is_named() -> None:
    """An uncertain box gives a tag for the confidence of the person detector."""
    assert tags_of(person(box_confidence=0.5)) == ('uncertain', 'uncertain_person')


@pytest.mark.parametrize(('confidence', 'relevant'), [(0.29, False), (0.3, True), (0.6, True), (0.61, False)])
def test_the_thresholds_belong_to_the_range(confidence: float, relevant: bool) -> None:
    """MIN and MAX are both included, for confidences in single precision as the engine gives them."""
    single = float(np.float32(confidence))
    assert bool(tags_of(person(box_confidence=single))) is relevant
    assert bool(tags_of(person(face=single))) is relevant


def test_all_can_be_uncertain_and_nothing() -> None:
    """The range 0..1 makes any pose relevant but names no absent part; 1..1 requires full confidence."""
    tags = tags_of(person(left_hand=0.01), min_uncertain=0, max_uncertain=1)
    assert 'uncertain_body' in tags
    assert 'uncertain_left_hand' not in tags
    assert tags_of(person(), min_uncertain=1, max_uncertain=1) == ()
    assert tags_of(person(confidence=1), min_uncertain=1, max_uncertain=1)[0] == 'uncertain'


def test_parts_outside_the_image_do_not_count() -> None:
    """Parts outside the image do not count, such as the legs of a person who is cut off at the hips."""
    legs = [KEYPOINT_INDEX[f'{side}_{joint}'] for side in ('left', 'right') for joint in ('hip', 'knee', 'ankle')]
    lower = [*legs, *PART_BY_NAME['feet'].indices]
    pose = person(y=500)
    pose = with_keypoints(pose, lower, np.column_stack([pose.keypoints[lower, 0], np.full(len(lower), 799.0)]))
    pose.confidences[lower] = 0.4
    assert tags_of(pose) == ()
    assert 'uncertain_feet' in tags_of(pose, size=(1000, 900)), 'parts inside the image must count'


@pytest.mark.parametrize(('gap', 'inside'), [(1.0, True), (0.99, False)])
@pytest.mark.parametrize('far', [False, True])
@pytest.mark.parametrize('axis', [0, 1])
def test_the_border_of_the_image_is_a_pixel_wide(axis: int, far: bool, gap: float, inside: bool) -> None:
    """A keypoint within one pixel of any border counts as outside, and one at that distance as inside."""
    pose = person(feet=0.45)
    pose.keypoints[PART_BY_NAME['feet'].slice, axis] = SIZE[axis] - 1 - gap if far else gap
    judged = relevance.confidences([pose], size=SIZE)[0, 1:]
    assert {part.name: not np.isnan(value) for part, value in zip(PARTS, judged, strict=True)} == {
        part.name: inside or part.name != 'feet' for part in PARTS
    }
    assert ('uncertain_feet' in tags_of(pose)) is inside


def test_hidden_keypoints_of_a_part_do_not_make_it_uncertain() -> None:
    """A person at a table is not relevant, since the model is certain of the upper body and of the hidden legs."""
    pose = person(feet=0.05)
    pose.confidences[[KEYPOINT_INDEX[f'{s}_{joint}'] for s in ('left', 'right') for joint in ('knee', 'ankle')]] = 0.05
    assert tags_of(pose) == ()


def test_a_box_without_a_body_is_relevant() -> None:
    """A box is relevant if its body has no keypoint or all of them are in one spot."""
    assert tags_of(person(confidence=0.05)) == ('person_without_body',)
    crowded = with_keypoints(person(), slice(0, 17), (370, 350))
    assert tags_of(crowded) == ('person_without_body',)


def test_keypoints_that_leave_the_box_are_relevant() -> None:
    """A hand slightly outside is normal; a body half a box away is relevant."""
    pose = person()
    hand = PART_BY_NAME['left_hand'].slice
    assert tags_of(with_keypoints(pose, hand, pose.keypoints[hand] + np.array([12, 0]))) == ()
    assert tags_of(with_keypoints(pose, slice(None), pose.keypoints + np.array([0, 80]))) == ('keypoints_outside_box',)


@pytest.mark.parametrize('move', [(-1, 0), (1, 0), (0, -1), (0, 1)])
@pytest.mark.parametrize(('count', 'excess', 'leaves'), [(130, 0, False), (13, 1, False), (14, 1, True)])
def test_a_tenth_of_the_keypoints_may_leave_the_box(
    move: tuple[int, int], count: int, excess: float, leaves: bool
) -> None:
    """Keypoints count as outside beyond a margin on any side; more than a tenth of the present ones are relevant."""
    pose = person()
    pose.confidences[130:] = 0.2
    half, centre = np.array([75, 150]), np.array([375, 350])
    pose.keypoints[130 - count : 130] = centre + np.array(move) * (half * 1.2 + excess)
    pose.keypoints[[5, 6, 11, 12]] = centre + np.array([[-30, -60], [30, -60], [-30, 60], [30, 60]])
    outside = relevance._Group([person(700), pose]).leaves_box(
        np.array([person().confidences, pose.confidences]) > 0.25
    )
    assert outside.tolist() == [False, leaves]


@pytest.mark.parametrize(
    ('share', 'count', 'has'), [(0.09, 17, False), (0.11, 17, True), (0.5, 3, True), (0.5, 2, False)]
)
def test_a_body_has_three_keypoints_and_a_tenth_of_the_box(share: float, count: int, has: bool) -> None:
    """The body's present keypoints span a tenth of the box's diagonal, whoever else is in the image."""
    pose = person()
    pose.confidences[count:17] = 0.2
    pose.keypoints[:17] = (375, 350)
    pose.keypoints[count - 1] += np.array([150, 300], dtype=np.float32) * share
    tags = tags_of(pose, person(700))
    assert ('person_without_body' not in tags) is has


def test_a_part_is_judged_from_a_quarter_of_its_keypoints() -> None:
    """A face with 17 of 68 keypoints that are just not absent is judged, and one with fewer is not."""
    pose = person(face=0.0)
    face = PART_BY_NAME['face']
    pose.confidences[face.start : face.start + 17] = ABSENT
    assert relevance.confidences([pose], size=SIZE)[0, 3] == pytest.approx(ABSENT)
    assert relevance.certainties([pose, person()], size=SIZE).tolist() == pytest.approx([ABSENT, 0.9])
    pose.confidences[face.start] = 0.0
    assert np.isnan(relevance.confidences([pose], size=SIZE)[0, 3])


def test_two_poses_of_one_body_are_relevant() -> None:
    """The same body in a large and a small box is relevant; two persons close together are not."""
    first = person()
    second = Pose(
        box=np.array([300, 200, 450, 420], dtype=np.float32),
        box_confidence=0.8,
        keypoints=first.keypoints + 2,
        confidences=first.confidences,
    )
    assert 'poses_share_body' in tags_of(first, second)
    assert tags_of(person(300), person(370)) == ()


def test_causes_add_up() -> None:
    """Causes of several persons and parts are combined; each tag and `uncertain` occur once."""
    tags = tags_of(person(100, face=0.4), person(400, face=0.5, feet=0.5), person(700, confidence=0.01))
    assert tags == ('person_without_body', 'uncertain', 'uncertain_face', 'uncertain_feet')


def test_a_package_with_raw_scores_from_1_to_8_works_as_well(embedded: ModelPackage) -> None:
    """Mapped confidences count: eightfold scores with a suitable mapping give the same causes."""

    class Scaled(PoseEngine):
        def confidences(self, scores: Any) -> Any:
            return super().confidences(1 + 7 * scores)

    mapping = [(1.0, 0.0), (8.0, 1.0)]
    description = embedded.wholebody.model_copy(update={'score_mapping': mapping})
    package = ModelPackage(
        folder=embedded.folder,
        id=embedded.id,
        version=embedded.version,
        wholebody=description,
        category_ids=embedded.category_ids,
    )
    fading = np.zeros(133, dtype=np.float32)
    fading[PART_BY_NAME['left_hand'].slice] = 0.32
    card = make_card([Figure(x=40, y=30, height=420, fading=fading)])
    engines = PoseEngine(embedded), Scaled(package)
    found = [tags_of(*engine.poses(card), size=(720, 480)) for engine in engines]
    assert found == 2 * [('uncertain', 'uncertain_left_hand')]
    unscaled = PoseEngine(package)
    boxes, confidences = unscaled.detector.detect(card)
    ((pose,),) = unscaled.poses_in_boxes([(card, boxes, confidences)])
    assert pose.confidences.max() == 0, 'raw scores below 1 mean an absent keypoint'


# ---------------------------------------------------------------- news


def test_the_same_pose_is_sent_once_until_it_is_forgotten() -> None:
    """A visible pose stays known; one hour after its last sighting it is relevant again."""
    clock = Clock()
    judge = make_relevance(clock=clock).judge
    rng = np.random.default_rng(0)
    shaky = (
        with_keypoints(pose := person(face=0.45), slice(None), pose.keypoints + rng.normal(0, 2, (133, 2)))
        for _ in itertools.count()
    )
    assert judge([next(shaky)], size=SIZE).tags
    for _ in range(100):
        clock.now += 60
        assert not judge([next(shaky)], size=SIZE).tags
    clock.now += 3601
    assert judge([next(shaky)], size=SIZE).tags


def test_another_place_or_posture_is_news() -> None:
    """Several steps or raised arms are new; one step, or coming closer in the same posture, is not."""
    judge = make_relevance().judge
    pose = person(face=0.45)
    assert judge([pose], size=SIZE).tags
    assert not judge([person(315, face=0.45)], size=SIZE).tags
    assert judge([person(500, face=0.45)], size=SIZE).tags
    arms = [KEYPOINT_INDEX[f'{side}_{joint}'] for side in ('left', 'right') for joint in ('elbow', 'wrist')]
    raised = with_keypoints(pose, arms, pose.keypoints[arms] - (0, 150))
    assert judge([raised], size=SIZE).tags
    assert not judge([raised], size=SIZE).tags
    assert not judge([person(292, 185, width=165, height=330, face=0.45)], size=SIZE).tags


@pytest.mark.parametrize(('visible', 'is_news'), [(8, False), (7, True)])
def test_postures_need_half_of_the_keypoints_in_common(visible: int, is_news: bool) -> None:
    """A posture with half of the known keypoints can be the same; with fewer it is new."""
    judge = make_relevance().judge
    first, second = person(face=0.45), person(face=0.45)
    first.confidences[16] = second.confidences[visible:17] = 0.2
    assert judge([person(700, face=0.45), first], size=SIZE).tags
    assert bool(judge([second], size=SIZE).tags) is is_news


@pytest.mark.parametrize(('visible', 'is_news'), [(2, False), (3, True)])
def test_without_a_body_the_place_decides(visible: int, is_news: bool) -> None:
    """A pose with fewer than three body keypoints is known at a known place, whatever its posture is."""
    judge = make_relevance().judge
    first = person(face=0.45)
    first.confidences[visible:17] = 0.2
    moved = with_keypoints(first, slice(0, visible), first.keypoints[:visible] + np.array([0, 100]))
    assert judge([first], size=SIZE).tags
    assert bool(judge([moved], size=SIZE).tags) is is_news


@pytest.mark.parametrize(('x', 'y'), [(345, 200), (255, 200), (300, 290), (300, 110)])
def test_a_step_in_any_direction_keeps_the_posture(x: float, y: float) -> None:
    """A pose that has moved by less than a third of its box is known, since postures are relative to the box."""
    judge = make_relevance().judge
    assert judge([person(face=0.45)], size=SIZE).tags
    assert not judge([person(x, y, face=0.45)], size=SIZE).tags


def test_a_pose_is_known_until_the_time_has_passed() -> None:
    """A pose that was last seen an hour ago to the second is known, and forgetting makes every pose relevant."""
    clock = Clock()
    filter_ = make_relevance(clock=clock)
    cameras = (None, 'front')
    for known in (False, True):
        for camera_id in cameras:
            assert bool(filter_.judge([person(face=0.45)], size=SIZE, camera_id=camera_id).tags) is not known
        clock.now += 3600
    filter_.forget()
    for camera_id in cameras:
        assert filter_.judge([person(face=0.45)], size=SIZE, camera_id=camera_id).tags


def test_a_change_of_mind_about_the_same_pose_is_no_news() -> None:
    """The same person in the same pose is sent once, even if first the face and later a hand is uncertain."""
    judge = make_relevance().judge
    assert judge([person(face=0.45)], size=SIZE).tags
    assert not judge([person(left_hand=0.45)], size=SIZE).tags


def test_confident_poses_are_not_remembered() -> None:
    """A person who becomes uncertain without having moved is relevant."""
    judge = make_relevance().judge
    assert not judge([person()], size=SIZE).tags
    assert judge([person(face=0.45)], size=SIZE).tags


def test_a_new_person_beside_a_known_pose_is_news_with_their_own_tags() -> None:
    """A new person beside a known pose makes the image relevant, with the tags of the new pose only."""
    judge = make_relevance().judge
    assert judge([person(face=0.45)], size=SIZE).tags
    assert judge([person(face=0.45), person(600, feet=0.5)], size=SIZE).tags == ('uncertain', 'uncertain_feet')


def test_a_neighbour_is_news_and_both_keep_their_tags() -> None:
    """Two uncertain persons who are close together are both relevant, and both keep their tags."""
    both = [person(300, face=0.45), person(345, left_hand=0.45)]
    assert tags_of(*both) == ('uncertain', 'uncertain_face', 'uncertain_left_hand')


@pytest.mark.parametrize('jitter', [0.01, 0.03, 0.05])
def test_jitter_is_no_news(jitter: float) -> None:
    """An uncertain pose varies by a share of its height from frame to frame; its place sends a few postures only."""
    judge = make_relevance(clock=Clock()).judge
    rng = np.random.default_rng(0)
    sent = 0
    for _ in range(500):
        pose = person(face=0.45)
        wavering = with_keypoints(pose, slice(None), pose.keypoints + rng.normal(0, jitter * 300, (133, 2)))
        sent += bool(judge([wavering], size=SIZE).tags)
    assert 1 <= sent <= relevance.MAX_POSTURES


def test_a_camera_that_finds_news_all_the_time_is_slowed_down() -> None:
    """A small person who walks and is uncertain at every step causes a burst, then one image per interval."""
    clock = Clock()
    judge = make_relevance(clock=clock).judge
    sent = 0
    for step in range(3000):
        clock.now += 0.1
        x, y = 13 * (step % 70), 25 * (step // 70 % 30)
        sent += bool(judge([person(x, y, width=12, height=24, face=0.45)], size=SIZE).tags)
    assert relevance.BURST <= sent <= relevance.BURST + 300 / relevance.REFILL_SECONDS + 1
    clock.now += 3600
    assert judge([person(face=0.45)], size=SIZE).tags
    assert judge([person(face=0.45)], size=SIZE, camera_id='another').tags


@pytest.mark.parametrize('camera_id', [None, 'front', 'x' * 100])
def test_a_camera_without_budget_may_not_send(camera_id: str | None) -> None:
    """After a burst the camera may send again when an interval has passed; asking uses nothing up."""
    clock = Clock()
    filter_ = make_relevance(clock=clock)
    assert filter_.may_send(camera_id)
    for step in range(relevance.BURST):
        assert filter_.may_send(camera_id)
        place = person(13 * (step % 70), 25 * (step // 70), width=12, height=24, face=0.45)
        assert filter_.judge([place], size=SIZE, camera_id=camera_id).tags
    assert not filter_.may_send(camera_id)
    assert filter_.may_send('another')
    clock.now += relevance.REFILL_SECONDS - 1
    assert not filter_.may_send(camera_id)
    clock.now += 1
    assert filter_.may_send(camera_id)


def test_cameras_do_not_know_of_each_other() -> None:
    """Each id, also a very long one, has its own history, and images without an id share one."""
    judge = make_relevance().judge
    for camera_id in (None, '', 'front', 'rear', 'x' * 10_000_000, 'x' * 9_999_999 + 'y', '\ud800' * 100):
        assert judge([person(face=0.45)], size=SIZE, camera_id=camera_id).tags
        assert not judge([person(face=0.45)], size=SIZE, camera_id=camera_id).tags


def test_as_many_cameras_as_the_limit_are_remembered() -> None:
    """The camera that was used least recently is forgotten when there is one more than the limit, and no earlier."""
    judge = make_relevance().judge
    for number in range(relevance.MAX_CAMERAS):
        assert judge([person(face=0.45)], size=SIZE, camera_id=f'{number}').tags
    assert not judge([person(face=0.45)], size=SIZE, camera_id='0').tags
    assert judge([person(face=0.45)], size=SIZE, camera_id='another').tags
    assert not judge([person(face=0.45)], size=SIZE, camera_id='0').tags
    assert judge([person(face=0.45)], size=SIZE, camera_id='1').tags


def test_what_could_not_be_kept_is_news_again() -> None:
    """Retracting a verdict makes its pose relevant again and no other one."""
    filter_ = make_relevance()
    first = filter_.judge([person(face=0.45)], size=SIZE)
    filter_.judge([person(600, face=0.45)], size=SIZE)
    filter_.retract(first)
    assert filter_.judge([person(face=0.45)], size=SIZE).tags
    assert not filter_.judge([person(600, face=0.45)], size=SIZE).tags
    filter_.retract(first)
    assert not filter_.judge([person(face=0.45)], size=SIZE).tags, 'the slot of the verdict has another pose by now'


def test_a_random_share_is_relevant_whatever_it_shows() -> None:
    """A random share of images gets the tag `random` besides their causes, independently of known poses."""
    draws = itertools.cycle([0.05, 0.1])
    judge = make_relevance(random_share=0.1, chance=lambda: next(draws)).judge
    assert judge([], size=SIZE).tags == ('random',)
    assert judge([], size=SIZE).tags == ()
    assert judge([person(face=0.45)], size=SIZE).tags == ('uncertain', 'uncertain_face', 'random')
    assert judge([person(face=0.45)], size=SIZE).tags == ()
    assert judge([person(face=0.45)], size=SIZE).tags == ('random',)
    certain = make_relevance(random_share=1).judge
    assert all(certain([person()], size=SIZE).tags == ('random',) for _ in range(50))


# ---------------------------------------------------------------- bounds


@pytest.mark.parametrize('cameras', [1000, pytest.param(100_000, marks=pytest.mark.integration)])
def test_invented_camera_ids_take_bounded_memory(cameras: int) -> None:
    """Camera ids that are used once take bounded memory, and do not displace a camera that sends continuously."""
    filter_ = make_relevance()
    pose = person(face=0.45)
    assert filter_.judge([pose], size=SIZE, camera_id='real').tags
    tracemalloc.start()
    try:
        for number in range(cameras):
            assert filter_.judge([pose], size=SIZE, camera_id=str(number)).tags
            if number % 100 == 0:
                assert not filter_.judge([pose], size=SIZE, camera_id='real').tags
        grown, _ = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    assert grown < relevance.MAX_CAMERAS * relevance.MAX_REMEMBERED * 250


def test_thousands_of_places_are_forgotten_oldest_first() -> None:
    """Memory per camera is bounded, and the latest poses are known."""
    clock = Clock()
    filter_ = make_relevance(clock=clock, reset_seconds=1e6)
    places = [(x, y) for y in range(0, 4000, 400) for x in range(0, 40000, 400)]
    assert len(places) > relevance.MAX_REMEMBERED
    for x, y in places:
        clock.now += relevance.REFILL_SECONDS
        assert filter_.judge([person(x, y, face=0.45)], size=(50000, 5000)).tags
    assert not filter_.judge([person(*places[-1], face=0.45)], size=(50000, 5000)).tags
    assert not filter_.judge([person(*places[-relevance.MAX_REMEMBERED], face=0.45)], size=(50000, 5000)).tags
    clock.now += relevance.REFILL_SECONDS
    assert filter_.judge([person(*places[0], face=0.45)], size=(50000, 5000)).tags


def test_a_crowd_is_judged_in_bounded_time_and_without_warnings() -> None:
    """Only the best poses of a thousand are judged, which bounds the time."""
    crowd = [person(300 + index % 7) for index in range(relevance.MAX_POSES)]
    assert tags_of(*crowd) == ('poses_share_body',)
    assert tags_of(*crowd, *(person(face=0.45) for _ in range(1000))) == ('poses_share_body',)


def test_degenerate_poses_are_judged() -> None:
    """A pose with an empty box, all keypoints in one corner and zero confidence gets a verdict."""
    nothing = Pose(
        box=np.zeros(4, dtype=np.float32),
        box_confidence=0.9,
        keypoints=np.zeros((133, 2), dtype=np.float32),
        confidences=np.zeros(133, dtype=np.float32),
    )
    judge = make_relevance().judge
    assert judge([nothing, nothing], size=(8, 8)).tags == ('person_without_body',)


def test_sigmas_of_the_body_are_cocos() -> None:
    """The sigmas of the 17 body keypoints, which weight the comparison of postures, are those of COCO."""
    assert OKS_SIGMAS[:17].tolist() == pytest.approx(
        [.026, .025, .025, .035, .035, .079, .079, .072, .072, .062, .062, .107, .107, .087, .087, .089, .089]
    )  # fmt: skip
