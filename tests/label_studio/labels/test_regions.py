"""Converting persons to regions and back."""

import json
from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import numpy as np
import pytest

from detector.datasets.person import HIDDEN, NOT_LABELLED, VISIBLE, Person
from detector.label_studio.labels.config import LabelingConfig, Style, generate, parse
from detector.label_studio.labels.regions import from_results, kind_of, read_results, to_results
from detector.pose.pose import Pose
from detector.pose.skeleton import KEYPOINT_NAMES, PART_BY_NAME
from tests.support.label_studio.regions import (
    SIZE,
    box_region,
    choice_region,
    drawn_skeleton,
    keypoint_region,
    make_persons,
)

POINTS_ONLY = '<View><Image name="image" value="$image"/>{}</View>'
CONFIGS = {
    'keypoints': generate('keypoints'),
    'skeleton': generate('skeleton'),
    'parts': generate('parts'),
    'skeleton without choices': '<View><Image name="image" value="$image"/><RectangleLabels name="b" toName="image">'
    '<Label value="Mensch" alias="person"/></RectangleLabels><VectorLabels name="s" toName="image" skeleton="true">'
    '<Label value="pose"/></VectorLabels></View>',
    'aliases': '<View><Image name="image" value="$image"/><RectangleLabels name="b" toName="image"><Label value="P" '
    'alias="person"/></RectangleLabels>'
    + ''.join(
        f'<KeyPointLabels name="kp{number}" toName="image">'
        + ''.join(f'<Label value="{name.title()}" alias="{name}!" predicted_values="{name}"/>' for name in names)
        + '</KeyPointLabels>'
        for number, names in enumerate((KEYPOINT_NAMES[:60], KEYPOINT_NAMES[60:]))
    )
    + '</View>',
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


def test_a_region_has_the_fields_of_the_editor() -> None:
    """A point and a box state where they are drawn, on which image, and which label and score they have."""
    person = replace(
        Person.empty(),
        box=np.array([64, 48, 320, 240], dtype=np.float32),
        box_score=0.75,
        keypoints=np.full((133, 2), (160, 120), dtype=np.float32),
        visibility=np.array([VISIBLE, *[NOT_LABELLED] * 132], dtype=np.int8),
        scores=np.full(133, 0.5, dtype=np.float32),
    )
    point, box = to_results([person], config_of('keypoints'), SIZE)
    common = {'to_name': 'image', 'original_width': 640, 'original_height': 480, 'image_rotation': 0}
    assert point == common | {
        'id': f'{box["id"]}-0',
        'parentID': box['id'],
        'from_name': 'kp',
        'type': 'keypointlabels',
        'value': {'x': 25, 'y': 25, 'width': 0.5, 'keypointlabels': ['nose']},
        'score': 0.5,
    }
    value = {'x': 10, 'y': 10, 'width': 40, 'height': 40, 'rotation': 0, 'rectanglelabels': ['person']}
    assert box == common | {
        'id': box['id'],
        'from_name': 'bbox',
        'type': 'rectanglelabels',
        'value': value,
        'score': 0.75,
    }


def test_a_skeleton_has_the_fields_of_the_editor() -> None:
    """A skeleton is an open line with a label, on the image and below the box of its person."""
    skeleton, box = to_results(make_persons(1), config_of('skeleton'), SIZE)
    assert len(skeleton['value'].pop('vertices')) == 133
    assert 0 <= skeleton.pop('score') <= 1
    common = {'to_name': 'image', 'original_width': 640, 'original_height': 480, 'image_rotation': 0}
    assert skeleton == common | {
        'id': f'{box["id"]}-0',
        'parentID': box['id'],
        'from_name': 'skeleton',
        'type': 'vectorlabels',
        'value': {'closed': False, 'vectorlabels': ['pose']},
    }


def test_a_note_names_what_the_config_cannot() -> None:
    """The note of a point names its keypoint if the label does not, and `v=1` if it is hidden."""
    hidden = replace(make_persons(1)[0], visibility=np.full(133, HIDDEN, dtype=np.int8))
    for style, notes in (('no boxes', ['v=1']), ('generic', ['nose', 'v=1'])):
        assert to_results([hidden], config_of(style), SIZE)[0]['meta']['text'] == notes
    assert all('meta' not in region for region in to_results([hidden], config_of('keypoints'), SIZE))


def test_without_a_size_coordinates_stay_in_percent() -> None:
    """Points of regions that state no image size are read in an image of 100 x 100 pixels."""
    points = [keypoint_region('nose', 50, 25), keypoint_region('left_eye', 20, 80)]
    for point in points:
        del point['original_width'], point['original_height']
    (person,) = from_results(points, config_of('no boxes'))
    assert person.keypoints[:2].tolist() == [[50, 25], [20, 80]]


@pytest.mark.parametrize(
    ('style', 'name', 'value', 'kind'),
    [
        ('keypoints', 'bbox', {'rectanglelabels': ['person']}, 'box'),
        ('keypoints', 'bbox', {'rectanglelabels': ['car', 'Person']}, 'box'),
        ('keypoints', 'bbox', {}, 'box'),
        ('keypoints', 'bbox', {'rectanglelabels': ['car']}, None),
        ('keypoints', 'bbox', {'rectanglelabels': []}, None),
        ('skeleton without choices', 'b', {'rectanglelabels': ['Mensch']}, 'box'),
        ('skeleton without choices', 'b', {'rectanglelabels': ['Auto']}, None),
        ('keypoints', 'kp', {'keypointlabels': ['tail']}, 'point'),
        ('keypoints', 'skeleton', {'vectorlabels': ['pose']}, None),
        ('skeleton', 'skeleton', {'vectorlabels': ['tail']}, 'skeleton'),
        ('skeleton', 'kp', {'keypointlabels': ['nose']}, None),
        ('keypoints', 'visibility', {'choices': ['hidden']}, 'choice'),
        ('keypoints', 'quality', {'choices': ['good']}, None),
        ('skeleton without choices', 'visibility', {'choices': ['hidden']}, None),
    ],
)
def test_a_region_is_known_by_its_control(style: str, name: str, value: dict[str, Any], kind: str | None) -> None:
    """Points and skeletons with unknown labels belong to poses, boxes of other things do not."""
    assert kind_of({'from_name': name, 'value': value}, config_of(style)) == kind


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
    ids = [region['id'] for region in results if region['type'] != 'choices']
    assert len(set(ids)) == len(ids)
    assert {region['id'] for region in results} == set(ids)
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


@pytest.mark.parametrize('style', ['skeleton', 'parts'])
def test_the_score_of_a_skeleton_is_that_of_its_own_points(style: Style) -> None:
    """A region has the mean confidence of its labelled points, or of all if none is labelled; the box keeps its own."""
    scores = np.linspace(0, 1, 133, dtype=np.float32)
    scores[[5, 6]] = np.nan
    visibility = np.full(133, VISIBLE, dtype=np.int8)
    visibility[[0, *PART_BY_NAME['face'].indices]] = NOT_LABELLED
    visibility[3] = HIDDEN
    (person,) = make_persons(1)
    person = replace(person, box_score=0.9, scores=scores, visibility=visibility)
    *skeletons, box = to_results([person], parse(generate(style)), SIZE)
    assert box['score'] == 0.9
    for region in skeletons:
        (label,) = region['value']['vectorlabels']
        indices = list(range(133)) if label == 'pose' else list(PART_BY_NAME[label].indices)
        counted = [n for n in indices if visibility[n] != NOT_LABELLED] or indices
        assert region['score'] == pytest.approx(np.nanmean(scores[counted]), abs=1e-4)
    unscored = replace(person, box_score=None, scores=np.full(133, np.nan, dtype=np.float32))
    assert all('score' not in region for region in to_results([unscored], parse(generate(style)), SIZE))


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


def test_notes_tell_hidden_points() -> None:
    """A note marks a point as hidden, in this project's spelling and in those of annotators."""
    for note in ('v=1', 'Occluded', 'hidden'):
        points = [keypoint_region('nose', 5, 5, meta={'text': [note]}), keypoint_region('left_eye', 6, 5)]
        (person,) = from_results(points, config_of('keypoints'))
        assert person.visibility[:2].tolist() == [HIDDEN, VISIBLE]


@pytest.mark.parametrize(
    ('chosen', 'expected'), [('visible', VISIBLE), ('hidden', HIDDEN), ('outside', NOT_LABELLED), (None, HIDDEN)]
)
def test_the_choice_for_a_point_is_its_visibility(chosen: str | None, expected: int) -> None:
    """The choice for a point counts before its note."""
    nose = keypoint_region('nose', 20, 20, parentID='a', meta={'text': ['v=1']})
    results = [nose, keypoint_region('left_eye', 21, 20, parentID='a'), box_region('a', 0, 0, 40, 40)]
    results += [choice_region(nose, chosen)] if chosen else []
    (person,) = from_results(results, config_of('keypoints'), SIZE)
    assert person.visibility[:2].tolist() == [expected, VISIBLE]


@pytest.mark.parametrize('style', ['skeleton', 'parts', 'keypoints'])
def test_the_choice_for_a_region_counts_for_all_its_points(style: str) -> None:
    """The choice for a skeleton or a box counts for all of its points, except those that were chosen themselves."""
    config, (person,) = config_of(style), make_persons(1)
    results = to_results([replace(person, visibility=np.full(133, VISIBLE, dtype=np.int8))], config, SIZE)
    part, rectangle = results[0], results[-1]
    indices = {'skeleton': range(133), 'parts': range(17), 'keypoints': range(1)}[style]
    for chosen, visibility in (('hidden', HIDDEN), ('outside', NOT_LABELLED), ('visible', VISIBLE)):
        (read,) = from_results([*results, choice_region(part, chosen)], config, SIZE)
        expected = np.full(133, VISIBLE)
        expected[list(indices)] = visibility
        np.testing.assert_array_equal(read.visibility, expected)
        (read,) = from_results(
            [choice_region(rectangle, chosen), *results, choice_region(part, 'visible')], config, SIZE
        )
        expected = np.full(133, visibility)
        expected[list(indices)] = VISIBLE
        np.testing.assert_array_equal(read.visibility, expected)


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
    good = [keypoint_region('nose', 5, 5), keypoint_region('left_eye', 6, 5)]
    assert len(from_results([region, *good], config_of('keypoints'))) == 1
    assert from_results([region], config_of('keypoints')) == []


@pytest.mark.parametrize('fault', ['no choice', 'no region'])
def test_a_choice_that_says_nothing_is_reported(fault: str) -> None:
    """A choice of visibility without a value, or for a region that is not there, is reported."""
    config = config_of('keypoints')
    person = make_persons(1)[0]
    person.visibility[person.labelled] = HIDDEN
    results = to_results([person], config, SIZE)
    assert read_results(results, config, SIZE).unread == []
    choice = next(region for region in results if region['type'] == 'choices')
    if fault == 'no choice':
        del choice['value']['choices']
    else:
        choice['id'] = 'other'
    (complaint,) = read_results(results, config, SIZE).unread
    where = f'(region {choice["id"]})'
    assert (
        complaint
        == {
            'no choice': f'the choice of nothing {where}, which is no visibility',
            'no region': f'the choice hidden {where} for a region that is not there',
        }[fault]
    )
    choice['value']['choices'] = ['hidden', 'visible']
    assert f'the choice hidden, visible {where}, which is no visibility' in read_results(results, config, SIZE).unread


def test_a_point_below_another_belongs_to_the_box_above_both() -> None:
    """The parent of a region's parent counts, although the place alone would allow two boxes."""
    boxes = [box_region('a', 0, 0, 40, 40), box_region('b', 0, 0, 40, 40)]
    eye = keypoint_region('left_eye', 20, 20, id='eye', parentID='a')
    nose = keypoint_region('nose', 21, 20, parentID='eye')
    reading = read_results([*boxes, eye, nose], config_of('keypoints'), SIZE)
    assert reading.unread == []
    assert [np.flatnonzero(person.visibility).tolist() for person in reading.persons] == [[0, 1], []]


def test_single_points_below_missing_regions_join_the_box_around_them() -> None:
    """Each of several such points is given to the box, beside points without a parent; none is lost."""
    points = [
        keypoint_region('nose', 20, 20),
        keypoint_region('left_eye', 21, 20, parentID='gone'),
        keypoint_region('right_eye', 22, 20, parentID='gone too'),
    ]
    reading = read_results([box_region('a', 0, 0, 40, 40), *points], config_of('keypoints'), SIZE)
    assert reading.unread == []
    assert [np.flatnonzero(person.visibility).tolist() for person in reading.persons] == [[0, 1, 2]]


def test_a_point_that_cannot_be_read_is_named() -> None:
    """The phrase says what is missing: its coordinates, or a keypoint of its label."""
    nowhere, tail = keypoint_region('nose', 5, 5, id='n'), keypoint_region('tail', 5, 5, id='t')
    del nowhere['value']['x']
    assert read_results([nowhere, tail], config_of('keypoints'), SIZE).unread == [
        'a point nose (region n) without coordinates',
        'a point tail (region t) of no known keypoint',
    ]


def test_a_skeleton_that_cannot_be_read_is_named() -> None:
    """A skeleton of no single known label is reported once, with all of its labels, and so is an empty one."""
    empty, two, tail = (drawn_skeleton('body', 0, id=name) for name in ('e', 'b', 't'))
    for region, labels in ((empty, ['body']), (two, ['body', 'face']), (tail, ['tail'])):
        region['value'] |= {'vertices': [], 'vectorlabels': labels}
    assert read_results([empty, two, tail], config_of('parts'), SIZE).unread == [
        'a skeleton body (region e) with 0 points drawn by hand instead of 17 of its label',
        'a skeleton body, face (region b) without points',
        'a skeleton tail (region t) without points',
    ]


def test_contradicting_choices_are_reported() -> None:
    """A second choice for a region is reported if it differs from the first."""
    nose, eye = keypoint_region('nose', 20, 20), keypoint_region('left_eye', 21, 20)
    results = [nose, eye, choice_region(nose, 'hidden')]
    assert read_results([*results, choice_region(nose, 'hidden')], config_of('keypoints'), SIZE).unread == []
    (complaint,) = read_results([*results, choice_region(nose, 'visible')], config_of('keypoints'), SIZE).unread
    assert complaint == 'the choice visible (region nose20), which contradicts another for the region'


def test_regions_with_the_same_id_or_none_stay_apart() -> None:
    """Boxes without ids are persons of their own, and a point that a person already has is reported."""
    boxes = [box_region('a', 0, 0, 20, 20), box_region('a', 50, 50, 20, 20)]
    for results in (boxes, [box | {'id': None} for box in boxes]):
        assert len(from_results(results, config_of('keypoints'), SIZE)) == 2
    drawn = [drawn_skeleton('body', 17, id='top'), drawn_skeleton('body', 17, id='below', parentID='top')]
    reading = read_results(drawn, config_of('parts'), SIZE)
    assert len(reading.persons) == 1
    (complaint,) = reading.unread
    assert complaint.startswith('a skeleton body (region top), but its person already has nose, left_eye, ')
