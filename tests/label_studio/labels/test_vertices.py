"""Vertices of skeletons: limbs, names, order, curves."""

from dataclasses import replace
from typing import Any

import numpy as np
import pytest

from detector.datasets.person import HIDDEN, NOT_LABELLED, VISIBLE
from detector.label_studio.labels.config import generate, parse
from detector.label_studio.labels.regions import from_results, read_results, to_results
from detector.pose.skeleton import KEYPOINT_NAMES, PART_BY_NAME
from tests.support.label_studio.regions import SIZE, box_region, drawn_skeleton, make_persons

SKELETON = parse(generate('skeleton'))
PARTS = parse(generate('parts'))
STYLES = {'skeleton': SKELETON, 'parts': PARTS, 'hands': parse(generate('parts', ['left_hand', 'right_hand']))}
PLAIN = parse(
    '<View><Image name="image" value="$image"/><RectangleLabels name="b" toName="image"><Label value="Mensch" '
    'alias="person"/></RectangleLabels><VectorLabels name="s" toName="image" skeleton="true" curves="true"><Label '
    'value="pose"/></VectorLabels></View>'
)
"""Skeletons with curves, but without choices of visibility."""


@pytest.mark.parametrize('style', ['skeleton', 'parts', 'hands'])
def test_limbs_stay_within_their_part(style: str) -> None:
    """The limbs of a region form trees along the skeleton, and no limb joins the two feet or the contours of a face."""
    for region in to_results(make_persons(1), STYLES[style], SIZE)[:-1]:
        ids = [vertex['id'] for vertex in region['value']['vertices']]
        before = {vertex['id']: vertex['prevPointId'] for vertex in region['value']['vertices']}
        # the editor joins a vertex without a predecessor to the one before it
        assert all(before[name] for name in ids[1:])
        limbs = {(name, other) for name, other in before.items() if other in before}
        for name in ids:
            at, steps = name, 0
            while before.get(at) in before:
                at, steps = before[at], steps + 1
                assert steps < 133
        match region['value']['vectorlabels']:
            case ['feet']:
                assert len(limbs) == 4
                assert all(name.split('_')[0] == other.split('_')[0] for name, other in limbs)
            case ['face']:
                assert len(limbs) == 64
            case _:
                assert len(limbs) == len(ids) - 1


def test_hidden_points_of_a_skeleton_are_curves() -> None:
    """A hidden point is a curve, which Shift+click ends; a curve means nothing where annotators cannot choose."""
    config, plain = SKELETON, PLAIN
    person = replace(make_persons(1)[0], visibility=np.full(133, HIDDEN, dtype=np.int8))
    results = to_results([person], config, SIZE)
    for vertex in results[0]['value']['vertices']:
        assert vertex['isBezier']
        for handle in ('controlPoint1', 'controlPoint2'):
            assert all(0 <= vertex[handle][axis] <= 100 for axis in 'xy')
    results[0]['value']['vertices'][9] |= {'isBezier': False, 'controlPoint1': None, 'controlPoint2': None}
    (read,) = from_results(results, config, SIZE)
    assert read.visibility[9] == VISIBLE
    assert (np.delete(read.visibility, 9) == HIDDEN).all()
    (skeleton, rectangle) = to_results([replace(person, visibility=np.full(133, VISIBLE, dtype=np.int8))], plain, SIZE)
    assert rectangle['value']['rectanglelabels'] == ['person']
    skeleton['value']['vertices'][9] |= {'isBezier': True}
    (read,) = from_results([skeleton, rectangle], plain, SIZE)
    assert (read.visibility == VISIBLE).all()


@pytest.mark.parametrize(('label', 'part'), [('body', 'body'), ('feet', 'feet'), ('left_hand', 'left_hand')])
def test_a_skeleton_drawn_by_hand_is_read_in_its_order(label: str, part: str) -> None:
    """A drawn skeleton with as many points as its part is read in their order, alone or in a person's box."""
    indices = PART_BY_NAME[part].indices
    for boxes in ([], [box_region('a', 10, 10, 40, 40)]):
        reading = read_results([drawn_skeleton(label, len(indices)), *boxes], PARTS, SIZE)
        assert reading.unread == []
        (person,) = reading.persons
        assert np.flatnonzero(person.visibility).tolist() == list(indices)
        assert person.keypoints[indices[1]].tolist() == pytest.approx([21 * 6.4, 20 * 4.8])
        assert (person.box is None) == (not boxes)


@pytest.mark.parametrize('count', [0, 1, 16, 18])
def test_another_number_of_drawn_points_is_reported(count: int) -> None:
    """A drawn skeleton with more or fewer points than its part is not read, and its region and its part are named."""
    reading = read_results([drawn_skeleton('body', count)], PARTS, SIZE)
    assert reading.persons == []
    assert reading.is_lost
    assert reading.unread[0].startswith('a skeleton body (region drawn) with')
    assert 'instead of 17' in reading.unread[0]


def test_vertices_are_read_by_name_and_others_are_reported() -> None:
    """A deleted vertex is not labelled, an added one is reported, and one that occurs twice is not read."""
    config, (person,) = SKELETON, make_persons(1)
    person = replace(person, visibility=np.full(133, VISIBLE, dtype=np.int8))
    (skeleton, rectangle) = to_results([person], config, SIZE)
    vertices = skeleton['value']['vertices']
    del vertices[7]
    reading = read_results([skeleton, rectangle], config, SIZE)
    assert reading.unread == []
    assert np.flatnonzero(reading.persons[0].visibility == NOT_LABELLED).tolist() == [7]
    vertices += [{'id': 'fJLKnxk9UUHnA', 'x': 5, 'y': 5}, dict(vertices[0])]
    reading = read_results([skeleton, rectangle], config, SIZE)
    assert np.flatnonzero(reading.persons[0].visibility == NOT_LABELLED).tolist() == [0, 7]
    assert [phrase.partition(' with ')[2] for phrase in reading.unread] == [
        '1 point more than the skeleton has',
        'the point nose more than once',
    ]


def test_a_moved_point_becomes_visible() -> None:
    """A vertex that was moved becomes visible, although the editor keeps its `v`."""
    person = make_persons(1)[0]
    (skeleton, box) = to_results([person], SKELETON, SIZE)
    unseen = [vertex for vertex in skeleton['value']['vertices'] if vertex['v'] == NOT_LABELLED]
    unseen[0]['x'] = 37.5
    unseen[1]['x'] += 1e-9
    (read,) = from_results([skeleton, box], SKELETON)
    index, untouched = (KEYPOINT_NAMES.index(vertex['id']) for vertex in unseen[:2])
    assert read.visibility[index] == VISIBLE
    assert read.keypoints[index][0] == pytest.approx(0.375 * 640)
    assert read.visibility[untouched] == NOT_LABELLED


@pytest.mark.parametrize('vertices', [None, 'x', [None, {'id': 'nose'}, {'id': 'tail', 'x': 1, 'y': 1}]])
def test_broken_skeletons_are_passed_over(vertices: Any) -> None:
    """Vertices without coordinates or with unknown names are ignored."""
    region = {'from_name': 'skeleton', 'value': {'vertices': vertices, 'vectorlabels': ['pose']}}
    assert from_results([region], SKELETON) == []
