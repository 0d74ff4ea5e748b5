"""Reading labeling configs and generating the recommended ones."""

import re
from pathlib import Path

import pytest

from detector.cli.main import app
from detector.errors import InvalidRequest
from detector.label_studio.labels.config import Style, generate, parse
from detector.models.embedded import MODEL_FILES
from detector.pose.names import ALIASES
from detector.pose.skeleton import KEYPOINT_INDEX, KEYPOINT_NAMES, PART_BY_NAME, PARTS
from tests.support.commands import invoke, succeed

IMAGE = '<Image name="image" value="$image"/>'
BOXES = '<RectangleLabels name="bbox" toName="image"><Label value="person"/></RectangleLabels>'


def points(*labels: str, name: str = 'kp', target: str = 'image') -> str:
    return f'<KeyPointLabels name="{name}" toName="{target}">{"".join(labels)}</KeyPointLabels>'


def view(*tags: str) -> str:
    return f'<View>{"".join(tags)}</View>'


@pytest.mark.parametrize('xml', [generate('keypoints'), None, '  '])
def test_the_recommended_keypoints_are_all_133(xml: str | None) -> None:
    """An empty config means the recommended keypoint config, which offers all 133."""
    config = parse(xml)
    assert config.boxes is not None
    assert (config.image, config.image_key, config.boxes.written) == ('image', 'image', ('bbox', 'person'))
    assert config.skeletons is None
    assert config.points is not None
    assert config.points.written == {index: ('kp', name) for index, name in enumerate(KEYPOINT_NAMES)}
    assert config.points.read == {('kp', name): index for name, index in KEYPOINT_INDEX.items()}


def test_the_recommended_skeleton_holds_all_keypoints_in_a_region() -> None:
    """The recommended skeleton config has one region for all keypoints, or one per part if only some are chosen."""
    assert skeletons_of(generate('skeleton')) == {'pose': list(range(133))}
    parts = skeletons_of(generate('skeleton', ['left_hand', 'body']))
    assert parts == {'body': list(range(17)), 'left_hand': list(range(91, 112))}


def skeletons_of(xml: str) -> dict[str, list[int]]:
    """Return the keypoints of each skeleton that a config offers."""
    control = parse(xml).skeletons
    assert control is not None
    assert control.unknown == []
    return {label.text: list(indices) for label, indices in control.written.items()}


def test_parts_are_regions_of_their_own() -> None:
    """The style `parts` has a region for each part, as has a skeleton for which all five parts are named."""
    expected = {name: list(part.indices) for name, part in PART_BY_NAME.items()}
    assert skeletons_of(generate('parts')) == skeletons_of(generate('skeleton', PART_BY_NAME)) == expected
    assert sorted(skeletons_of(generate('parts', ['face', 'feet']))) == ['face', 'feet']


@pytest.mark.parametrize('parts', [['body'], ['left_hand', 'right_hand'], ['face']])
def test_parts_are_chosen(parts: list[str]) -> None:
    """The generated config has the labels of the chosen parts in their colours."""
    xml = generate('keypoints', parts)
    control = parse(xml).points
    assert control is not None
    assert list(control.written) == sorted(index for name in parts for index in PART_BY_NAME[name].indices)
    assert all(PART_BY_NAME[name].hex_colour in xml for name in parts)


@pytest.mark.parametrize('parts', [['tail'], []])
def test_unknown_parts_are_named(parts: list[str]) -> None:
    """An unknown part is refused with the list of valid ones."""
    with pytest.raises(InvalidRequest, match='choose from body, feet, face, left_hand, right_hand'):
        generate('skeleton', parts)


@pytest.mark.parametrize(
    ('label', 'index'),
    [
        ('<Label value="left_wrist"/>', 9),
        ('<Label value=" Left_Wrist "/>', 9),
        ('<Label value="lw" alias="left_wrist"/>', 9),
        ('<Label value="Handgelenk links" predicted_values="left_wrist"/>', 9),
        ('<Label value="Handgelenk links" predicted_values="person" model_index="9"/>', 9),
        ('<Label value="left_hand_root"/>', 91),
        ('<Label value="left_wrist" predicted_values="person" model_index="42"/>', 9),
    ],
)
def test_labels_are_matched_by_what_they_are_called(label: str, index: int) -> None:
    """A label is recognised by name, alias, spelling, `predicted_values` or `model_index`, and a known name takes
    precedence."""
    control = parse(view(IMAGE, points(label, '<Label value="foo"/>', '<Label value="bar"/>'))).points
    assert control is not None
    assert list(control.written) == [index]


def test_upstream_names_are_known() -> None:
    """A config with COCO-WholeBody's own names offers all keypoints."""
    labels = [f'<Label value="{alias}"/>' for alias in ALIASES]
    control = parse(view(IMAGE, BOXES, points(*labels))).points
    assert control is not None
    assert {KEYPOINT_NAMES[index] for index in control.written} == set(ALIASES.values())


def test_the_first_label_of_a_keypoint_counts() -> None:
    """The first label of a keypoint is written, and all are read."""
    control = parse(view(IMAGE, points('<Label value="nose"/>', '<Label value="Nose"/>'))).points
    assert control is not None
    assert control.written == {0: ('kp', 'nose')}
    assert control.read == {('kp', 'nose'): 0, ('kp', 'Nose'): 0}


def test_one_label_of_another_name_stands_for_all() -> None:
    """The only label of a control stands for all keypoints, or for a person, under any name."""
    human = '<RectangleLabels name="b" toName="image"><Label value="Mensch"/></RectangleLabels>'
    config = parse(view(IMAGE, human, points('<Label value="Punkt"/>')))
    assert config.boxes is not None
    assert config.boxes.written == ('b', 'Mensch')
    assert config.boxes.is_guess
    assert config.points is not None
    assert set(config.points.written.values()) == {('kp', 'Punkt')}
    assert len(config.points.written) == 133
    assert config.points.is_generic


def test_a_config_without_boxes_offers_points_only() -> None:
    """A config without a rectangle for persons offers points only."""
    cars = '<RectangleLabels name="c" toName="image"><Label value="car"/><Label value="bus"/></RectangleLabels>'
    for others in ((), (cars,)):
        config = parse(view(IMAGE, *others, points('<Label value="nose"/>')))
        assert config.boxes is None
        assert config.points is not None


def test_persons_are_found_among_other_labels() -> None:
    """A person label is found in any rectangle control and among other labels."""
    cars = '<RectangleLabels name="c" toName="image"><Label value="car"/><Label value="bus"/></RectangleLabels>'
    both = '<RectangleLabels name="d" toName="image"><Label value="dog"/><Label value="Person"/></RectangleLabels>'
    boxes = parse(view(IMAGE, cars, both)).boxes
    assert boxes is not None
    assert boxes.written == ('d', 'Person')
    assert not boxes.is_guess


def test_polygons_are_no_skeletons() -> None:
    """VectorLabels without `skeleton` are not used, since they hold outlines."""
    outline = '<VectorLabels name="v" toName="image"><Label value="pose"/></VectorLabels>'
    assert parse(view(IMAGE, BOXES, outline)).skeletons is None


@pytest.mark.parametrize(
    ('xml', 'message'),
    [
        ('<View', 'is not XML'),
        ('hello', 'is not XML'),
        (view(IMAGE), 'no RectangleLabels with a label for a person'),
        (view(BOXES), 'has no Image tag'),
        (view(IMAGE, points('<Label value="foo"/>', '<Label value="bar"/>')), 'no KeyPointLabels with names'),
        (view(IMAGE, BOXES.replace('toName="image"', 'toName="picture"')), '<Image name="image">'),
        (
            view(IMAGE, IMAGE.replace('name="image"', 'name="b"'), BOXES, points('<Label value="nose"/>', target='b')),
            '<Image name="image">, <Image name="b">; the toName of boxes, keypoints and skeletons must all name',
        ),
        (view('<Image name="image" value="http://x/y.jpg"/>', BOXES), 'the value must name one field'),
        (view('<Image name="image" valueList="$images"/>', BOXES), '<Image name="image" value="">'),
        (view(IMAGE, BOXES) + ' ' * 1_000_000, 'the limit is 1000000'),
        ('<!DOCTYPE x [<!ENTITY a "aaaa"><!ENTITY b "&a;&a;">]><View>&b;</View>', 'labeling config is refused'),
        ('<!DOCTYPE x [<!ENTITY a SYSTEM "file:///etc/passwd">]><View>&a;</View>', 'labeling config is refused'),
        ('<!DOCTYPE x SYSTEM "http://127.0.0.1/x.dtd"><View/>', 'labeling config is refused'),
    ],
)
def test_unusable_configs_are_explained(xml: str, message: str) -> None:
    """An unusable config is refused with the tag or the reason; entities are neither expanded nor fetched."""
    with pytest.raises(InvalidRequest, match=message.replace('[', r'\[').replace('.', r'\.')):
        parse(xml)


def test_a_second_image_without_controls_does_not_matter() -> None:
    """A second image without controls is ignored."""
    config = parse(view('<Image name="example" value="$example"/>', IMAGE, BOXES))
    assert (config.image, config.image_key) == ('image', 'image')


def test_colours_can_be_seen_on_light_and_dark_pictures() -> None:
    """The colours of boxes and skeletons differ, and their contrast to white and to black is at least 3."""
    colours = set()
    for style in ('skeleton', 'parts'):
        colours |= set(re.findall(r'background="(#[0-9a-f]{6})"', generate(style)))
    assert len(colours) == 6
    for colour in colours:
        channels = [int(colour[place : place + 2], 16) / 255 for place in (1, 3, 5)]
        linear = [value / 12.92 if value <= 0.04045 else ((value + 0.055) / 1.055) ** 2.4 for value in channels]
        luminance = 0.2126 * linear[0] + 0.7152 * linear[1] + 0.0722 * linear[2]
        assert 1.05 / (luminance + 0.05) >= 3, colour
        assert (luminance + 0.05) / 0.05 >= 3, colour


@pytest.mark.parametrize('style', ['skeleton', 'parts'])
def test_labels_of_skeletons_explain_the_clicks(style: Style) -> None:
    """The hint of each label says to select the region before Shift+click, which the editor otherwise ignores."""
    hints = re.findall(r'<Label [^>]*hint="([^"]*)"', generate(style))
    assert len(hints) == (1 if style == 'skeleton' else len(PARTS))
    for hint in hints:
        assert hint.index('select') < hint.index('Shift+click') < hint.index('Alt+click')


def test_the_shipped_config_is_the_generated_one() -> None:
    """The shipped config equals the output of `wholebody labelstudio config` and has all labels of existing
    projects."""
    shipped = (MODEL_FILES / 'labeling-config.xml').read_text()
    assert shipped == generate('keypoints')
    assert all(f'value="{name}"' in shipped for name in ('person', *KEYPOINT_NAMES))


def test_the_command_prints_and_writes_configs(tmp_path: Path) -> None:
    """`wholebody labelstudio config` prints or writes configs, by default with skeletons of all parts."""
    assert succeed(app, 'labelstudio', 'config') == generate('skeleton')
    path = tmp_path / 'new' / 'hands.xml'
    succeed(app, 'labelstudio', 'config', '--style', 'keypoints', '--parts', 'left_hand, face', '-o', path)
    assert path.read_text() == generate('keypoints', ['left_hand', 'face'])
    result = invoke(app, 'labelstudio', 'config', '--parts', 'tail')
    assert result.exit_code != 0
    assert 'choose from body' in f'{result.output}{result.exception}'
