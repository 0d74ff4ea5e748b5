"""Labeling configs: the controls for poses that a project's XML offers, and the recommended configs."""

import re
from collections.abc import Iterable
from dataclasses import dataclass, replace
from typing import Final, Literal
from xml.etree.ElementTree import Element, ParseError, SubElement, indent, tostring

from defusedxml import DefusedXmlException
from defusedxml.ElementTree import fromstring

from detector.errors import InvalidRequest
from detector.pose.skeleton import KEYPOINT_NAMES, PART_BY_NAME, PARTS, PERSON, part_of

from .controls import (
    WHOLE_SKELETON,
    BoxControl,
    PointControl,
    SkeletonControl,
    VisibilityControl,
    find_controls,
)

Style = Literal['skeleton', 'parts', 'keypoints']

_COLOURS: Final = {
    PERSON: '#0b6bcb',
    WHOLE_SKELETON: '#7b3fe4',
    'body': '#7b3fe4',
    'feet': '#8a6d00',
    'face': '#00838f',
    'left_hand': '#d6246e',
    'right_hand': '#2e7d32',
}
"""Colours of boxes and skeletons. Their contrast to white and to black is at least 3, as WCAG requires of graphics, so
that they can be seen on photographs and in lists. Red is missing, since the editor draws the selected region in it."""
_HOTKEYS: Final = {'visible': 'y', 'hidden': 'x', 'outside': 'n'}
"""Keys of the choices of visibility, which no tool of the editor uses."""
_HINT: Final = (
    'First click on a point to select its region. Then Shift+click on a point: hidden, shown as a curve. '
    'Alt+click on a point: outside the image.'
)
_MAX_CHARACTERS: Final = 1_000_000
_MAX_DEPTH: Final = 64
"""Maximum nesting of tags; the time to search the labels grows with it."""
_VARIABLE: Final = re.compile(r'\$([\w.-]+)')


@dataclass(frozen=True, slots=True, kw_only=True)
class LabelingConfig:
    """The controls for poses of a labeling config; with both skeletons and points, predictions use skeletons.

    :param image: name of the image tag, `to_name` of the regions.
    :param image_key: field of a task's data that holds the address of the image.
    """

    image: str
    image_key: str
    boxes: BoxControl | None = None
    skeletons: SkeletonControl | None = None
    points: PointControl | None = None
    visibility: VisibilityControl | None = None


def parse(xml: str | None) -> LabelingConfig:
    """Read a labeling config.

    A label stands for a keypoint if its value, its alias or one of its `predicted_values` names the keypoint in any
    spelling, or if `predicted_values` names `person` and `model_index` is the keypoint's index. A label that names
    several keypoints stands for none. The only label of the only control of a kind may have any name and stands for all
    that the control can express.

    :param xml: None or empty: use the recommended keypoint config.
    :raises InvalidRequest: the config is not XML or offers no control for a pose; the message names the tag.
    """
    if xml is None or not xml.strip():
        xml = generate('keypoints')
    root = _read(xml)
    found = find_controls(root)
    if not found.used:
        raise InvalidRequest(
            'the labeling config has no RectangleLabels with a label for a person, no KeyPointLabels with names of '
            'keypoints, and no VectorLabels skeleton="true"'
        )
    image = _image(root, {control.get('toName', '') for control in found.used})
    return LabelingConfig(
        image=image.get('name', ''),
        image_key=_image_key(image),
        boxes=found.boxes,
        points=found.points,
        skeletons=found.skeletons,
        visibility=found.visibility,
    )


def _read(xml: str) -> Element:
    if len(xml) > _MAX_CHARACTERS:
        raise InvalidRequest(f'the labeling config has {len(xml)} characters; the limit is {_MAX_CHARACTERS}')
    try:
        root: Element = fromstring(xml, forbid_dtd=True)
    except ParseError as error:
        raise InvalidRequest(f'the labeling config is not XML: {error}') from None
    except (DefusedXmlException, ValueError, RecursionError) as error:
        raise InvalidRequest(f'the labeling config is refused: {error}') from None
    if _depth(root) > _MAX_DEPTH:
        raise InvalidRequest(f'the labeling config has more than {_MAX_DEPTH} nested tags')
    return root


def _depth(root: Element) -> int:
    """Return how deep tags are nested, at most `_MAX_DEPTH` + 1."""
    level, depth = [root], 0
    while level and depth <= _MAX_DEPTH:
        level, depth = [child for element in level for child in element], depth + 1
    return depth


def _image(root: Element, targets: set[str]) -> Element:
    images = list(root.iter('Image'))
    chosen = [image for image in images if image.get('name') in targets]
    if len(chosen) == 1 and len(targets) == 1:
        return chosen[0]
    if not images:
        raise InvalidRequest('the labeling config has no Image tag')
    found = ', '.join(f'<Image name="{image.get("name", "")}">' for image in images[:5])
    raise InvalidRequest(
        f'the labeling config has {found}; the toName of boxes, keypoints and skeletons must all name the same one '
        'of them'
    )


def _image_key(image: Element) -> str:
    value = image.get('value', '')
    variable = _VARIABLE.fullmatch(value.strip())
    if variable is None:
        raise InvalidRequest(
            f'<Image name="{image.get("name", "")}" value="{value[:80]}">: the value must name one field of a task\'s '
            'data, such as $image'
        )
    return variable[1]


# ---------------------------------------------------------------- recommended configs


def generate(style: Style, parts: Iterable[str] | None = None) -> str:
    """Return a recommended labeling config with the controls `image`, `bbox`, `skeleton` or `kp`, and `visibility`.

    :param style: `skeleton`: one region per person with limbs, or one per part if parts are chosen; `parts`: one region
        per part; `keypoints`: one region per keypoint, which Label Studio's own export formats support.
    :param parts: names of body parts; None: all.
    :raises InvalidRequest: a part is unknown.
    """
    wanted = set(PART_BY_NAME if parts is None else parts)
    chosen = [part for part in PARTS if part.name in wanted]
    unknown = wanted - set(PART_BY_NAME)
    if unknown or not chosen:
        raise InvalidRequest(f'parts: {", ".join(sorted(unknown)) or "none"}; choose from {", ".join(PART_BY_NAME)}')
    view = Element('View')
    SubElement(view, 'Image', name='image', value='$image', zoom='true', zoomControl='true', rotateControl='false')
    boxes = SubElement(view, 'RectangleLabels', name='bbox', toName='image', smart='true')
    _label(boxes, PERSON, _COLOURS[PERSON], predicted_values=PERSON)
    if style == 'keypoints':
        control = SubElement(
            view, 'KeyPointLabels', name='kp', toName='image', smart='true', strokeWidth='1', opacity='0.9'
        )
        for index in (index for part in chosen for index in part.indices):
            name, colour = KEYPOINT_NAMES[index], part_of(index).hex_colour
            _label(control, name, colour, predicted_values=PERSON, model_index=str(index))
    else:
        form = {'skeleton': 'true', 'closable': 'false', 'curves': 'true'}
        look = {'pointSize': 'small', 'strokeWidth': '1', 'opacity': '1'}
        control = SubElement(view, 'VectorLabels', {'name': 'skeleton', 'toName': 'image', **form, **look})
        is_whole = style == 'skeleton' and parts is None
        for name in [WHOLE_SKELETON] if is_whole else [part.name for part in chosen]:
            _label(control, name, _COLOURS[name], hint=_HINT)
    _add_visibility(view)
    indent(view)
    return tostring(view, encoding='unicode') + '\n'


def _add_visibility(view: Element) -> None:
    form = {'perRegion': 'true', 'visibleWhen': 'region-selected', 'choice': 'single', 'showInline': 'true'}
    choices = SubElement(view, 'Choices', {'name': 'visibility', 'toName': 'image', **form})
    for value, key in _HOTKEYS.items():
        SubElement(choices, 'Choice', value=value, hotkey=key)


def any_style() -> LabelingConfig:
    """Return the recommended controls of all styles, for exports whose config is unknown."""
    whole, parts = parse(generate('skeleton')).skeletons, parse(generate('parts')).skeletons
    assert whole is not None
    assert parts is not None
    return replace(parse(generate('keypoints')), skeletons=replace(whole, read={**whole.read, **parts.read}))


def _label(control: Element, value: str, colour: str, **attributes: str) -> None:
    SubElement(control, 'Label', {'value': value, 'background': colour, **attributes})
