"""What the labels of a config stand for: values, aliases, predicted values, several controls of a kind."""

from xml.sax.saxutils import quoteattr

import pytest
from hypothesis import given
from hypothesis import strategies as st

from detector.datasets.person import HIDDEN, NOT_LABELLED, VISIBLE
from detector.label_studio.labels.config import LabelingConfig, parse
from detector.label_studio.labels.regions import from_results, read_results, to_results
from detector.pose.names import canonical_name
from detector.pose.skeleton import KEYPOINT_INDEX, KEYPOINT_NAMES, PARTS
from tests.support.label_studio.regions import SIZE, make_persons

IMAGE = '<Image name="image" value="$image"/>'
COCO_WITH_NECK = (
    'nose', 'neck', 'right_shoulder', 'right_elbow', 'right_wrist', 'left_shoulder', 'left_elbow', 'left_wrist',
    'right_hip', 'right_knee', 'right_ankle', 'left_hip', 'left_knee', 'left_ankle', 'right_eye', 'left_eye',
    'right_ear', 'left_ear',
)  # fmt: skip


def label(value: str, **attributes: str) -> str:
    written = ''.join(f' {name}={quoteattr(text)}' for name, text in ({'value': value} | attributes).items())
    return f'<Label{written}/>'


def control(tag: str, name: str, *labels: str, **attributes: str) -> str:
    written = ''.join(f' {key}={quoteattr(text)}' for key, text in attributes.items())
    return f'<{tag} name="{name}" toName="image"{written}>{"".join(labels)}</{tag}>'


def config_of(*controls: str) -> LabelingConfig:
    return parse(f'<View>{IMAGE}{"".join(controls)}</View>')


def points_of(*labels: str) -> dict[str, str]:
    """Return the keypoints of a control by the labels that predictions use."""
    points = config_of(
        control('RectangleLabels', 'b', label('person')), control('KeyPointLabels', 'kp', *labels)
    ).points
    return {} if points is None else {text: KEYPOINT_NAMES[index] for index, (_, text) in points.written.items()}


def test_the_alias_is_written_and_both_are_read() -> None:
    """Predictions carry the alias, as Label Studio expects; regions are read with the alias and with the value."""
    found = config_of(
        control('RectangleLabels', 'bbox', label('Person', alias='P')),
        control('KeyPointLabels', 'kp', label('Nase', alias='nose'), label('Left Eye', alias='LE')),
    )
    assert found.boxes is not None
    assert found.points is not None
    assert found.boxes.written == ('bbox', 'P')
    assert found.points.written == {0: ('kp', 'nose'), 1: ('kp', 'LE')}
    (person,) = make_persons(1)
    results = to_results([person], found, SIZE)
    swapped = {'P': 'Person', 'nose': 'Nase', 'LE': 'Left Eye'}
    for region in results:
        kind = region['type']
        region['value'][kind] = [swapped[text] for text in region['value'][kind]]
    for read in (from_results(to_results([person], found, SIZE), found), from_results(results, found)):
        assert read[0].box is not None
        assert (read[0].visibility[:2] > 0).tolist() == (person.visibility[:2] > 0).tolist()


@pytest.mark.parametrize(
    'spelled',
    [
        ['Nose', 'Left Eye', 'Right Eye', 'Left Shoulder', 'Right Shoulder'],
        ['nose', 'left-eye', 'right-eye', 'left-shoulder', 'right-shoulder'],
        ['Nose', 'LEye', 'REye', 'LShoulder', 'RShoulder'],
        ['NOSE', 'eye (L)', 'eye (R)', 'l. shoulder', 'r. shoulder'],
    ],
)
def test_all_spellings_of_a_config_are_matched(spelled: list[str]) -> None:
    """Labels in other spellings stand for their keypoints, and none is left."""
    expected = ['nose', 'left_eye', 'right_eye', 'left_shoulder', 'right_shoulder']
    assert points_of(*map(label, spelled)) == dict(zip(spelled, expected, strict=True))


@given(st.permutations(range(133)), st.sampled_from([str.upper, str.title, lambda name: name.replace('_', '-')]))
def test_any_config_of_spelled_names_offers_all_keypoints(order: list[int], spell: object) -> None:
    """A config of all names in any order and spelling offers each keypoint under its own label."""
    assert callable(spell)
    labels = [spell(KEYPOINT_NAMES[index]) for index in order]
    found = points_of(*map(label, labels))
    assert len(found) == 133
    assert all(canonical_name(text) == name for text, name in found.items())


def test_labels_that_are_not_clear_stand_for_nothing() -> None:
    """Unknown and contradictory labels, and those with other numbers, are listed and not guessed."""
    found = config_of(
        control(
            'KeyPointLabels',
            'kp',
            label('nose'),
            label('neck'),
            label('left_eye', alias='right_eye'),
            label('x', predicted_values='left_ear,right_ear'),
            *(label(f'face_{number}') for number in range(1, 69)),
        )
    )
    assert found.points is not None
    assert found.points.written == {0: ('kp', 'nose')}
    assert [text for _, text in found.points.unknown][:3] == ['neck', 'right_eye', 'x']
    assert len(found.points.unknown) == 71


def test_the_numbers_of_another_model_do_not_count() -> None:
    """`model_index` counts only if the known names have our numbers, and never for the name of another point."""
    theirs = [label(name, predicted_values='person', model_index=str(i)) for i, name in enumerate(COCO_WITH_NECK)]
    assert points_of(*theirs, label('Zeh', predicted_values='person', model_index='18')) == {
        name: name for name in COCO_WITH_NECK if name != 'neck'
    }
    ours = [label(name, predicted_values='person', model_index=str(i)) for i, name in enumerate(KEYPOINT_NAMES[:17])]
    others = [label(name, predicted_values='person', model_index='17') for name in ('neck', 'Zeh')]
    assert points_of(*ours, *others) == {name: name for name in KEYPOINT_NAMES[:17]} | {'Zeh': 'left_big_toe'}


def test_the_only_label_is_not_taken_for_all_if_it_names_one_point() -> None:
    """A control whose only label is another point of the body offers nothing, whereas any other word is generic."""
    for name in ('neck', 'eye', 'left hand', 'Head'):
        assert points_of(label(name)) == {}
    assert len(config_of(control('KeyPointLabels', 'kp', label('Punkt'))).points.written) == 133  # type: ignore[union-attr]


def test_keypoints_come_from_all_controls() -> None:
    """Keypoints of several controls are written and read with the name of their control."""
    found = config_of(
        control('KeyPointLabels', 'body', *(label(KEYPOINT_NAMES[index]) for index in PARTS[0].indices)),
        control('KeyPointLabels', 'rest', *(label(name) for name in KEYPOINT_NAMES[17:]), label('nose')),
    )
    assert found.points is not None
    assert found.points.written[16] == ('body', 'right_ankle')
    assert found.points.written[17] == ('rest', 'left_big_toe')
    (person,) = make_persons(1)
    results = to_results([person], found, SIZE)
    assert {region['from_name'] for region in results} == {'body', 'rest'}
    (read,) = from_results(results, found)
    assert (read.visibility == person.visibility).all()
    results[0] |= {'from_name': 'rest'} if results[0]['value']['keypointlabels'] == ['nose'] else {}
    assert len(from_results(results, found)) == 1


def test_an_explicit_person_comes_first() -> None:
    """A label that names a person is used, whatever stands before it; several controls leave no only label."""
    car = control('RectangleLabels', 'c', label('car'))
    found = config_of(car, control('RectangleLabels', 'p', label('dog'), label('Person'))).boxes
    assert found is not None
    assert (found.written, found.is_guess) == (('p', 'Person'), False)
    points = control('KeyPointLabels', 'kp', label('nose'), label('left_eye'))
    assert config_of(car, control('RectangleLabels', 'b', label('ball')), points).boxes is None
    both = config_of(car, *(control('RectangleLabels', name, label('person')) for name in 'ab')).boxes
    assert both is not None
    assert both.written == ('a', 'person')
    assert both.read == {('a', 'person'), ('b', 'person')}


def test_skeletons_are_parts_or_the_whole() -> None:
    """Parts are found by any spelling; a label that is neither a part nor the whole stands for nothing."""
    found = config_of(
        control('VectorLabels', 'v', label('LeftHand'), label('pose'), label('dog'), skeleton='true', curves='true')
    ).skeletons
    assert found is not None
    assert {text: list(indices) for (_, text), indices in found.written.items()} == {'LeftHand': list(range(91, 112))}
    assert {text: len(indices) for (_, text), indices in found.read.items()} == {'LeftHand': 21, 'pose': 133}
    assert found.unknown == [('v', 'dog')]
    assert found.curved == {'v'}
    animals = control('VectorLabels', 'v', label('dog'), label('cat'), skeleton='true')
    assert config_of(control('RectangleLabels', 'b', label('person')), animals).skeletons is None


def test_choices_that_can_say_hidden_are_the_visibility() -> None:
    """Choices per region with `hidden` are read by value and alias, and written as Label Studio expects."""
    boxes = control('RectangleLabels', 'b', label('person'))
    choices = (
        '<Choice value="Visible"/><Choice value="verdeckt" alias="hidden"/><Choice value="?"/><Choice value="Outside"/>'
    )
    found = config_of(boxes, control('Choices', 'v', choices, perRegion='true')).visibility
    assert found is not None
    assert found.written == {VISIBLE: 'Visible', HIDDEN: 'hidden', NOT_LABELLED: 'Outside'}
    assert found.read == {'Visible': VISIBLE, 'hidden': HIDDEN, 'verdeckt': HIDDEN, 'Outside': NOT_LABELLED}
    assert config_of(boxes, control('Choices', 'v', choices)).visibility is None
    assert config_of(boxes, control('Choices', 'v', '<Choice value="good"/>', perRegion='true')).visibility is None


def test_a_region_may_spell_its_label_otherwise() -> None:
    """The label of a region is matched in any spelling, among the keypoints that the config offers."""
    found = config_of(control('KeyPointLabels', 'kp', label('Nose'), label('left_eye')))
    regions = [
        {'id': text, 'from_name': 'kp', 'value': {'x': 5, 'y': 5, 'keypointlabels': [text]}}
        for text in ('nose', 'LEFT-EYE', 'left_ear')
    ]
    (person,) = from_results(regions, found)
    assert [index for index in range(133) if person.visibility[index]] == [KEYPOINT_INDEX['nose'], 1]


def test_a_region_with_an_unclear_label_is_no_keypoint() -> None:
    """A label that the config offers, and that stands for nothing, is not read by its name."""
    unclear = control('KeyPointLabels', 'old', label('left_eye', alias='right_eye'))
    found = config_of(unclear, control('KeyPointLabels', 'kp', label('left_eye'), label('right_eye')))
    for text in ('left_eye', 'right_eye'):
        region = {'id': text, 'from_name': 'old', 'value': {'x': 5, 'y': 5, 'keypointlabels': [text]}}
        assert read_results([region], found).unread == [f'a point {text} (region {text}) of no known keypoint']
