"""Labeling configs, regions, addresses and webhooks of any form, and the round trip of poses."""

import copy
import unicodedata
from typing import Any
from xml.sax.saxutils import quoteattr

import httpx
import numpy as np
from hypothesis import assume, example, given, settings
from hypothesis import strategies as st

from detector.datasets.person import NOT_LABELLED, Person
from detector.errors import InvalidRequest, MediaFault
from detector.label_studio.backend.corrections import hints_in, to_annotations
from detector.label_studio.backend.preannotation import _prompt
from detector.label_studio.labels import config
from detector.label_studio.labels.regions import from_results, read_results, to_results
from detector.label_studio.server.addresses import Addresses, Inline, Inside, Outside, shown
from detector.models.package import categories
from detector.pose.pose import Pose
from detector.pose.skeleton import KEYPOINT_COUNT
from tests.support.strategies import HUGE, JSON, TEXTS, damaged, mutated

STYLES: tuple[config.Style, ...] = ('skeleton', 'parts', 'keypoints')
CONFIGS = {style: config.generate(style) for style in STYLES}
GENERIC = (
    '<View><Image name="image" value="$image"/><RectangleLabels name="bbox" toName="image"><Label value="person"/>'
    '</RectangleLabels><KeyPointLabels name="kp" toName="image"><Label value="point"/></KeyPointLabels></View>'
)
WITHOUT_BOXES = (
    '<View><Image name="image" value="$image"/><VectorLabels name="v" toName="image" skeleton="true">'
    '<Label value="body"/><Label value="face"/></VectorLabels></View>'
)
CATEGORY_IDS = {category['name']: category['id'] for category in categories()}

# ---------------------------------------------------------------- labeling configs

TAGS = st.sampled_from(
    ['View', 'Image', 'RectangleLabels', 'KeyPointLabels', 'VectorLabels', 'Label', 'Choices', 'x', 'Header']
)
VALUES = st.sampled_from(
    [
        'image',
        '$image',
        '$a.b',
        'person',
        'nose',
        'Left_Eye',
        'true',
        'TRUE',
        'body',
        'pose',
        '3',
        '133',
        '٣',
        '9' * 5000,
    ]
) | st.text(st.characters(exclude_categories=('Cs', 'Cc')), max_size=8)
ATTRIBUTES = st.dictionaries(
    st.sampled_from(['name', 'toName', 'value', 'alias', 'predicted_values', 'model_index', 'skeleton']), VALUES
)


def element(tag: str, attributes: dict[str, str], children: list[str]) -> str:
    written = ''.join(f' {name}={quoteattr(value)}' for name, value in attributes.items())
    return f'<{tag}{written}>{"".join(children)}</{tag}>'


XML = st.recursive(
    st.builds(element, TAGS, ATTRIBUTES, st.just([])),
    lambda inner: st.builds(element, TAGS, ATTRIBUTES, st.lists(inner, max_size=4)),
    max_leaves=12,
)


@given(XML | XML.map(lambda inner: GENERIC.replace('</View>', f'{inner}</View>')) | TEXTS)
@example('<View>' * 20_000)
@example(GENERIC.replace('"point"', f'"a" predicted_values="person" model_index="{"9" * 5000}"'))
@example('<?xml version="1.0" encoding="utf-16"?><View/>')
@example('<!DOCTYPE a [<!ENTITY b "c">]><View>&b;</View>')
def test_any_config_is_read_or_refused(xml: str) -> None:
    """A config of any tags and attributes offers controls that can be drawn, or raises InvalidRequest."""
    try:
        found = config.parse(xml)
    except InvalidRequest as error:
        assert str(error)
        return
    person = a_person(np.random.default_rng(0), (64, 48))
    assert isinstance(to_results([person], found, (64, 48)), list)
    assert found.image_key


@given(st.sampled_from(STYLES).flatmap(lambda style: damaged(CONFIGS[style].encode())))
def test_a_damaged_config_is_read_or_refused(content: bytes) -> None:
    """A config with wrong characters is read or raises InvalidRequest."""
    try:
        config.parse(content.decode(errors='surrogateescape'))
    except InvalidRequest as error:
        assert str(error)


# ---------------------------------------------------------------- regions


def a_person(rng: np.random.Generator, size: tuple[int, int], *, box: bool = True) -> Person:
    """Draw a person anywhere in the image, with keypoints of all visibilities."""
    low, high = np.sort(rng.uniform((0, 0), size, (2, 2)), axis=0)
    visibility = rng.integers(0, 3, KEYPOINT_COUNT).astype(np.int8)
    visibility[:17] = 2  # without a box, only labelled keypoints make a person
    return Person(
        box=np.concatenate([low, high]).astype(np.float32) if box else None,
        box_score=round(float(rng.uniform()), 4) if box else None,
        keypoints=rng.uniform((0, 0), size, (KEYPOINT_COUNT, 2)).astype(np.float32),
        visibility=visibility,
        scores=rng.uniform(0, 1, KEYPOINT_COUNT).round(4).astype(np.float32),
    )


@given(
    seed=st.integers(0, 2**32 - 1),
    size=st.tuples(st.integers(8, 12_000), st.integers(8, 12_000)),
    boxed=st.integers(0, 3),
    without=st.integers(0, 2),
    xml=st.sampled_from([*CONFIGS.values(), GENERIC, WITHOUT_BOXES]),
)
def test_people_come_back_as_they_went(seed: int, size: tuple[int, int], boxed: int, without: int, xml: str) -> None:
    """Boxes, coordinates, visibilities and scores survive Label Studio's percent in every style."""
    rng = np.random.default_rng(seed)
    found = config.parse(xml)
    people = [a_person(rng, size) for _ in range(boxed)] + [a_person(rng, size, box=False) for _ in range(without)]
    results = to_results(people, found, size)
    assert len({(region['id'], region['type']) for region in results}) == len(results)
    back = from_results(results, found, size)
    offered = [*range(17), *range(23, 91)] if xml == WITHOUT_BOXES else list(range(KEYPOINT_COUNT))
    assert len(back) == len(people)
    for person, other in zip(people, back, strict=True):
        np.testing.assert_array_equal(other.visibility[offered], person.visibility[offered])
        labelled = [index for index in offered if person.visibility[index] != NOT_LABELLED]
        np.testing.assert_allclose(other.keypoints[labelled], person.keypoints[labelled], atol=0.002)
        np.testing.assert_allclose(other.scores[labelled], person.scores[labelled], atol=1e-4)
        if found.boxes is None:
            assert other.box is None
        elif person.box is not None:
            assert other.box is not None
            np.testing.assert_allclose(other.box, person.box, atol=0.002)
            assert other.box_score == person.box_score


@given(seed=st.integers(0, 2**32 - 1), threshold=st.floats(0, 1), style=st.sampled_from(STYLES))
def test_poses_come_back_as_they_went(seed: int, threshold: float, style: config.Style) -> None:
    """An annotator who accepts a prediction returns the pose that it shows."""
    rng, size = np.random.default_rng(seed), (640, 480)
    pose = Pose(
        box=np.array([10, 20, 300, 400], dtype=np.float32),
        box_confidence=0.75,
        keypoints=rng.uniform((0, 0), size, (KEYPOINT_COUNT, 2)).astype(np.float32),
        confidences=rng.uniform(0, 1, KEYPOINT_COUNT).astype(np.float32),
    )
    found = config.parse(CONFIGS[style])
    (back,) = from_results(to_results([Person.of(pose, threshold=threshold)], found, size), found, size)
    shown_points = pose.confidences >= threshold
    np.testing.assert_array_equal(back.visibility != NOT_LABELLED, shown_points)
    np.testing.assert_allclose(back.keypoints[shown_points], pose.keypoints[shown_points], atol=0.002)
    np.testing.assert_allclose(back.scores[shown_points], pose.confidences[shown_points], atol=1e-4)


REGIONS = {
    xml: to_results([a_person(np.random.default_rng(1), (64, 48))], config.parse(xml), (64, 48))[-3:]
    for xml in (*CONFIGS.values(), GENERIC)
}
POSES = {
    xml: to_results(
        [a_person(np.random.default_rng(seed), (64, 48), box=seed > 0) for seed in range(3)], found, (64, 48)
    )
    for xml, found in ((xml, config.parse(xml)) for xml in (*CONFIGS.values(), GENERIC, WITHOUT_BOXES))
}


@st.composite
def confused(draw: st.DrawFn, results: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """Draw regions of which some are repeated, and some have the ids, parents or vertices of others."""
    results = copy.deepcopy(results)
    ids = st.sampled_from([region['id'] for region in results] + [None, 'gone'])
    for _ in range(draw(st.integers(1, 4))):
        region = draw(st.sampled_from(results))
        vertices = region['value'].get('vertices', [])
        match draw(st.sampled_from(['again', 'id', 'parentID', 'meta', 'vertex', 'no vertex', 'name'])):
            case 'again':
                results.append(copy.deepcopy(region))
            case 'meta':
                region['meta'] = {'person': draw(ids)}
            case 'vertex' if vertices:
                vertices.append(dict(draw(st.sampled_from(vertices))))
            case 'no vertex' if vertices:
                vertices[draw(st.integers(0, len(vertices) - 1))] = draw(st.sampled_from([None, 'x', {}, {'v': 2}]))
            case 'name' if vertices:
                draw(st.sampled_from(vertices))['id'] = draw(st.sampled_from(['nose', 'tail', 'left_hand_3']))
            case field:
                region[field] = draw(ids)
    return draw(st.permutations(results))


def given_in(results: list[dict[str, Any]]) -> tuple[int, int]:
    """Return the number of boxes, and of points that are not marked as not labelled."""
    values = [region['value'] for region in results if region['type'] != 'choices']
    vertices = [vertex for value in values for vertex in value.get('vertices', [])]
    points = sum('keypointlabels' in value for value in values)
    points += sum(not isinstance(vertex, dict) or vertex.get('v') != NOT_LABELLED for vertex in vertices)
    return sum('rectanglelabels' in value for value in values), points


@settings(deadline=None)
@given(st.sampled_from(sorted(POSES)).flatmap(lambda xml: st.tuples(st.just(xml), confused(POSES[xml]))))
def test_no_box_or_point_gets_lost_without_a_word(drawn: tuple[str, list[dict[str, Any]]]) -> None:
    """All boxes and labelled points of regions arrive in persons, or something is reported."""
    xml, results = drawn
    reading = read_results(results, config.parse(xml), (64, 48))
    boxes = sum(person.box is not None for person in reading.persons)
    arrived = boxes, sum(int(person.labelled.sum()) for person in reading.persons)
    assert reading.unread or arrived == given_in(results)


NUMBERS = st.integers() | st.floats() | st.sampled_from(HUGE) | st.none()


@st.composite
def rectangles(draw: st.DrawFn) -> dict[str, Any]:
    """Draw rectangles with numbers of any size."""
    value = {name: draw(NUMBERS) for name in ('x', 'y', 'width', 'height', 'rotation')}
    sides = {f'original_{side}': draw(NUMBERS) for side in ('width', 'height')}
    return {
        'from_name': 'bbox',
        'id': 'a',
        'type': 'rectanglelabels',
        'value': value | {'rectanglelabels': ['person']},
    } | sides


@given(
    st.sampled_from(sorted(REGIONS)).flatmap(
        lambda xml: st.tuples(
            st.just(xml), st.lists(rectangles(), max_size=2), mutated(REGIONS[xml]) | st.lists(JSON, max_size=3)
        )
    ),
    st.sampled_from([None, (64, 48)]),
)
@example((GENERIC, [], [{'from_name': [], 'value': {}}]), None)
def test_any_regions_are_people_or_nothing(drawn: tuple[str, list[Any], Any], size: tuple[int, int] | None) -> None:
    """Regions of any form raise nothing, and the persons found have finite coordinates and can go to the Loop."""
    xml, boxes, results = drawn
    assume(isinstance(results, list))
    for person in from_results([*boxes, *results], config.parse(xml), size):
        assert person.box is None or np.isfinite(person.box).all()
        assert np.isfinite(person.keypoints).all()
        for box in to_annotations([person], CATEGORY_IDS).box_annotations:
            assert max(map(abs, (box.x, box.y, box.width, box.height))) < 2**40


@given(rectangles() | JSON | mutated(REGIONS[GENERIC][-1]))
@example({'value': {'x': 10**400, 'y': 1, 'width': 1, 'height': 1, 'rectanglelabels': ['person']}})
@example({'value': {'x': 2**70, 'y': 1, 'keypointlabels': ['point']}})
def test_any_prompt_is_a_place_or_nothing(region: Any) -> None:
    """The region that was drawn last gives finite numbers or no prompt."""
    prompt = _prompt({'result': [region]}, config.parse(GENERIC))
    assert prompt is None or all(np.isfinite(value) for side, value in prompt.items() if side != 'type')


# ---------------------------------------------------------------- addresses

HOSTS = st.sampled_from(
    ['label-studio', 'localhost:8080', '[::1]', 'user:secret@host', 'host:99999', 'hóst', '', '.', '[', 'a b']
)
PATHS = st.text(st.sampled_from('/.%2eEfF?#=&;\\\x00 ad\ud800'), max_size=20).map(lambda tail: f'/data/{tail}')
ADDRESSES = (
    st.builds('{}://{}{}'.format, st.sampled_from(['http', 'HTTPS', 's3', 'gs', 'ftp', 'file', '']), HOSTS, PATHS)
    | PATHS
    | TEXTS
    | JSON
)


@example('\x9b2J', None, [])
@example('://user:secret@host/data/', None, [])
@example('//user:secret@host/a.jpg', None, [])
@example('user:secret@host/a.jpg', None, [])
@given(ADDRESSES, st.none() | st.integers() | TEXTS, st.lists(ADDRESSES, max_size=3))
def test_any_address_has_a_place_or_is_refused(address: Any, task_id: Any, learnt: list[Any]) -> None:
    """An address lies inside Label Studio below the media paths, or outside, or raises MediaFault."""
    addresses = Addresses(httpx.URL('http://label-studio/base'), ['localhost:8080'])
    for name in learnt:
        addresses.learn(name)
    try:
        place = addresses.place(address, task_id)
    except MediaFault as error:
        assert 'secret' not in str(error)
        assert not any(unicodedata.category(character) == 'Cc' for character in str(error))
        return
    assert isinstance(place, Inside | Outside | Inline)
    if isinstance(place, Inside):
        assert place.path.isascii()
        assert place.path.startswith(('/data/', '/storage-data/', '/tasks/', '/api/', '/projects/'))
        assert '..' not in place.path.partition('?')[0].split('/')


@given(PATHS | TEXTS | st.builds('{}://{}{}'.format, st.sampled_from(['http', 'https']), HOSTS, PATHS))
def test_any_redirect_has_a_place_or_is_refused(location: str) -> None:
    """A redirect leads to an address or raises MediaFault, and never back into Label Studio."""
    addresses = Addresses(httpx.URL('http://label-studio'))
    for place in (Inside('/data/upload/1/a.jpg'), Outside(httpx.URL('https://elsewhere/a.jpg'))):
        try:
            found = addresses.redirected(place, location)
        except MediaFault as error:
            assert 'secret' not in str(error)
            continue
        assert isinstance(found, Outside) or isinstance(place, Inside)


@given(TEXTS)
def test_any_address_can_be_shown(address: str) -> None:
    """The text that messages show for an address is short."""
    assert len(shown(address)) <= 120


# ---------------------------------------------------------------- webhooks

WEBHOOK = {
    'action': 'ANNOTATIONS_CREATED',
    'project': {'id': 1},
    'annotations': [{'id': 5, 'task': 6, 'project': 1}, {'id': 7}],
    'task': [{'id': 6}],
}


@given(st.dictionaries(TEXTS, JSON, max_size=4) | mutated(WEBHOOK))
def test_any_webhook_gives_hints_that_fit_the_database(body: Any) -> None:
    """All ids that are taken from a webhook fit the database."""
    assume(isinstance(body, dict))
    for hint in hints_in(body):
        assert 0 < hint.annotation < 2**63
        assert 0 < hint.project < 2**63
