"""Converting persons to regions and back."""

import json
from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import numpy as np
import pytest

from detector.datasets.person import HIDDEN, NOT_LABELLED, VISIBLE, Person
from detector.label_studio.labels.config import LabelingConfig, generate, parse
from detector.label_studio.labels.regions import Region, from_results, to_results
from detector.pose.pose import Pose
from detector.pose.skeleton import KEYPOINT_NAMES, PART_BY_NAME

SIZE = (640, 480)
POINTS_ONLY = '<View><Image name="image" value="$image"/>{}</View>'
CONFIGS = {
    'keypoints': generate('keypoints'),
    'skeleton': generate('skeleton'),
    'hands': generate('skeleton', ['left_hand', 'right_hand']),
    'no boxes': POINTS_ONLY.format(
        '<KeyPointLabels name="kp" toName="image">'
        + ''.join(f'<Label value="{name}"/>' for name in KEYPOINT_NAMES)
        + '</KeyPointLabels>'
    ),
    'generic': POINTS_ONLY.format('<KeyPointLabels name="kp" toName="image"><Label value="p"/></KeyPointLabels>'),
}


def config_of(name: str) -> LabelingConfig:
    return parse(CONFIGS[name])


def make_persons(count: int, seed: int = 0) -> list[Person]:
    """Make persons anywhere in the image, with all visibilities."""
    rng = np.random.default_rng(seed)
    persons = []
    for _ in range(count):
        corner = rng.uniform(0, 300, 2)
        box = np.concatenate([corner, corner + rng.uniform(50, 150, 2)]).astype(np.float32)
        persons.append(
            Person(
                box=box,
                box_score=round(float(rng.uniform()), 4),
                keypoints=rng.uniform((0, 0), SIZE, (133, 2)).astype(np.float32),
                visibility=rng.integers(0, 3, 133).astype(np.int8),
                scores=rng.uniform(0, 1, 133).round(4).astype(np.float32),
            )
        )
    return persons


def assert_equal(
    found: Sequence[Person], expected: Sequence[Person], *, indices: Sequence[int], boxes: bool = True
) -> None:
    """Compare persons in any order; coordinates of unlabelled keypoints do not count."""
    assert len(found) == len(expected)
    for person in expected:
        seen = np.array([index for index in indices if person.visibility[index] != NOT_LABELLED])
        other = min(found, key=lambda candidate: np.abs(candidate.keypoints[seen] - person.keypoints[seen]).max())
        np.testing.assert_allclose(other.keypoints[seen], person.keypoints[seen], atol=0.001)
        np.testing.assert_array_equal(other.visibility[list(indices)], person.visibility[list(indices)])
        np.testing.assert_allclose(other.scores[seen], person.scores[seen], atol=1e-4)
        assert (other.box is not None) == boxes
        if boxes:
            assert other.box is not None
            assert person.box is not None
            np.testing.assert_allclose(other.box, person.box, atol=0.001)
            assert other.box_score == pytest.approx(person.box_score)


@pytest.mark.parametrize('count', [0, 1, 2, 8])
@pytest.mark.parametrize('style', CONFIGS)
def test_nothing_is_lost_on_the_way(style: str, count: int) -> None:
    """Coordinates, visibility, scores, boxes and grouping survive JSON and another order of regions."""
    config, persons = config_of(style), make_persons(count)
    results = json.loads(json.dumps(to_results(persons, config, SIZE)))
    np.random.default_rng(1).shuffle(results)
    hands = [*PART_BY_NAME['left_hand'].indices, *PART_BY_NAME['right_hand'].indices]
    indices = hands if style == 'hands' else list(range(133))
    found = from_results(results, config)
    assert_equal(found, persons, indices=indices, boxes=config.boxes is not None)


@pytest.mark.parametrize('style', CONFIGS)
def test_regions_are_what_label_studio_accepts(style: str) -> None:
    """Regions have new unique ids, values inside the image and existing parents, and rectangles come last."""
    config = config_of(style)
    persons = make_persons(3)
    outside = Person(
        box=np.array([-50, -20, 700, 500], dtype=np.float32),
        box_score=1.5,
        keypoints=np.full((133, 2), 1e6, dtype=np.float32),
        visibility=np.full(133, VISIBLE, dtype=np.int8),
        scores=np.full(133, np.nan, dtype=np.float32),
    )
    results = to_results([*persons, outside], config, SIZE)
    ids = [region['id'] for region in results]
    assert len(set(ids)) == len(ids)
    assert not set(ids) & {region['id'] for region in to_results(persons, config, SIZE)}
    json.dumps(results, allow_nan=False)
    kinds = [region['type'] for region in results]
    assert kinds == sorted(kinds, key=lambda kind: kind == 'rectanglelabels')
    for region in results:
        assert region.get('parentID', ids[0]) in ids
        assert 0 <= region.get('score', 0) <= 1
        value = region['value']
        for place in value.get('vertices', [value]):
            assert 0 <= place['x'] <= 100
            assert 0 <= place['y'] <= 100
            assert place['x'] + (place.get('width', 0) if region['type'] == 'rectanglelabels' else 0) <= 100 + 1e-6


@pytest.mark.parametrize('style', CONFIGS)
def test_what_a_dataset_says_of_a_person_stays_with_it(style: str) -> None:
    """A person's extra is kept in the `meta` of one region, beside other entries; without extra there is none."""
    extra = {'coco': {'id': 7, 'segmentation': [[1.5, 2.25]], 'face_valid': True}}
    config, (one, other) = config_of(style), make_persons(2)
    for person in (replace(one, extra=extra), replace(one, extra=extra, box=None)):
        results = json.loads(json.dumps(to_results([person, other], config, SIZE)))
        bearers = [region for region in results if 'extra' in region.get('meta', {})]
        assert len(bearers) == 1
        assert (bearers[0]['type'] == 'rectanglelabels') == (config.boxes is not None and person.box is not None)
        np.random.default_rng(1).shuffle(results)
        found = from_results(results, config)
        assert sorted((person.extra for person in found), key=len) == [{}, extra]
    for broken in ('x', None, ['x']):
        bearers[0]['meta']['extra'] = broken
        assert [person.extra for person in from_results(results, config)] == [{}, {}]


def test_keypoints_below_the_threshold_are_not_shown() -> None:
    """Keypoints below the threshold are left out as points and marked in skeletons."""
    confidences = np.linspace(0, 1, 133, dtype=np.float32)
    pose = Pose(
        box=np.array([0, 0, 100, 100], dtype=np.float32),
        box_confidence=0.9,
        keypoints=np.full((133, 2), 50, dtype=np.float32),
        confidences=confidences,
    )
    person = Person.of(pose, threshold=0.5)
    shown = {
        region['value']['keypointlabels'][0]
        for region in to_results([person], config_of('keypoints'), SIZE)
        if region['type'] == 'keypointlabels'
    }
    assert shown == {name for name, value in zip(KEYPOINT_NAMES, confidences, strict=True) if value >= 0.5}
    skeleton, _ = to_results([person], config_of('skeleton'), SIZE)
    visible = {vertex['id'] for vertex in skeleton['value']['vertices'] if vertex['v'] == VISIBLE}
    assert visible == shown
    assert len(skeleton['value']['vertices']) == 133


def test_a_moved_point_becomes_visible() -> None:
    """A vertex that was moved becomes visible, although the editor keeps its `v`."""
    person = make_persons(1)[0]
    (skeleton, box) = to_results([person], config_of('skeleton'), SIZE)
    unseen = [vertex for vertex in skeleton['value']['vertices'] if vertex['v'] == NOT_LABELLED]
    unseen[0]['x'] = 37.5
    unseen[1]['x'] += 1e-9
    (read,) = from_results([skeleton, box], config_of('skeleton'))
    index, untouched = (KEYPOINT_NAMES.index(vertex['id']) for vertex in unseen[:2])
    assert read.visibility[index] == VISIBLE
    assert read.keypoints[index][0] == pytest.approx(0.375 * 640)
    assert read.visibility[untouched] == NOT_LABELLED


def test_a_skeleton_is_one_tree() -> None:
    """The limbs of a skeleton form one tree for any choice of parts."""
    for style in ('skeleton', 'hands'):
        for region in to_results(make_persons(1), config_of(style), SIZE)[:-1]:
            before = {vertex['id']: vertex['prevPointId'] for vertex in region['value']['vertices']}
            roots = [name for name, previous in before.items() if previous is None]
            assert len(roots) == 1
            for name in before:
                steps, at = 0, name
                while before[at] is not None:
                    at, steps = before[at], steps + 1
                    assert steps < 133
                assert at == roots[0]


def keypoint(label: str, x: float, y: float, **more: Any) -> Region:
    value = {'x': x, 'y': y, 'width': 0.5, 'keypointlabels': [label]}
    size = {'original_width': 640, 'original_height': 480}
    return {'id': f'{label}{x}', 'from_name': 'kp', 'type': 'keypointlabels', 'value': value, **size, **more}


def test_points_that_an_annotator_adds_find_their_person() -> None:
    """An added point goes to the smallest box around it that lacks the keypoint; outside all boxes it makes a
    person."""
    wide = {'x': 0, 'y': 0, 'width': 60, 'height': 60, 'rectanglelabels': ['person']}
    small = {'x': 10, 'y': 10, 'width': 10, 'height': 10, 'rectanglelabels': ['person']}
    boxes = [
        {'id': name, 'from_name': 'bbox', 'type': 'rectanglelabels', 'value': value}
        for name, value in (('wide', wide), ('small', small))
    ]
    added = [keypoint('nose', 15, 15), keypoint('nose', 16, 16), keypoint('nose', 90, 90), keypoint('left_ear', 91, 90)]
    persons = from_results([*boxes, *added], config_of('keypoints'), SIZE)
    assert [person.keypoints[0].tolist() for person in persons] == [
        pytest.approx([16 * 6.4, 16 * 4.8]),
        pytest.approx([15 * 6.4, 15 * 4.8]),
        pytest.approx([90 * 6.4, 90 * 4.8]),
    ]
    assert [person.visibility.nonzero()[0].tolist() for person in persons] == [[0], [0], [0, 3]]
    assert [person.box is None for person in persons] == [False, False, True]
    assert np.isnan(persons[0].scores[0])


def test_notes_tell_hidden_points() -> None:
    """A note marks a point as hidden, in this project's spelling and in those of annotators."""
    for note in ('v=1', 'Occluded', 'hidden'):
        (person,) = from_results([keypoint('nose', 5, 5, meta={'text': [note]})], config_of('keypoints'))
        assert person.visibility[0] == HIDDEN


def test_a_turned_rectangle_is_enclosed() -> None:
    """A turned rectangle is read as the upright box around it."""
    value = {'x': 50, 'y': 50, 'width': 20, 'height': 10, 'rotation': 90, 'rectanglelabels': ['person']}
    region = {'id': 'r', 'from_name': 'bbox', 'type': 'rectanglelabels', 'value': value}
    (person,) = from_results([region], config_of('keypoints'), (200, 100))
    assert person.box is not None
    np.testing.assert_allclose(person.box, [90, 50, 100, 90], atol=1e-4)


@pytest.mark.parametrize(
    'region',
    [
        None,
        'text',
        {},
        {'value': None, 'from_name': 'kp'},
        {'value': {}, 'from_name': 'kp'},
        {'value': {'x': 'a', 'y': 2, 'keypointlabels': ['nose']}, 'from_name': 'kp'},
        {'value': {'x': 1, 'y': 2, 'keypointlabels': ['tail']}, 'from_name': 'kp'},
        {'value': {'x': 1, 'y': 2, 'keypointlabels': 'nose'}, 'from_name': 'kp', 'meta': 'x'},
        {'value': {'x': 1, 'y': 2, 'width': None, 'height': 1, 'rectanglelabels': ['person']}, 'from_name': 'bbox'},
        {'value': {'x': 1, 'y': 2, 'width': 1, 'height': 1, 'rectanglelabels': ['car']}, 'from_name': 'bbox'},
        {'value': {'x': 1, 'y': 2, 'keypointlabels': ['nose']}, 'from_name': 'other'},
        {'value': {'choices': ['yes']}, 'from_name': 'kp', 'type': 'choices'},
    ],
)
def test_foreign_regions_are_passed_over(region: Any) -> None:
    """Regions that do not belong to poses are ignored."""
    good = keypoint('nose', 5, 5)
    assert len(from_results([region, good], config_of('keypoints'))) == 1
    assert from_results([region], config_of('keypoints')) == []


@pytest.mark.parametrize('vertices', [None, 'x', [None, {'id': 'nose'}, {'id': 'tail', 'x': 1, 'y': 1}]])
def test_broken_skeletons_are_passed_over(vertices: Any) -> None:
    """Vertices without coordinates or with unknown names are ignored."""
    region = {'from_name': 'skeleton', 'value': {'vertices': vertices, 'vectorlabels': ['pose']}}
    assert from_results([region], config_of('skeleton')) == []
