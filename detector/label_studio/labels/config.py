"""Labeling configs: the controls for poses that a project's XML offers, and the recommended configs."""

import re
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Final, Literal, TypeVar
from xml.etree.ElementTree import Element, ParseError, SubElement, indent, tostring

from defusedxml import DefusedXmlException
from defusedxml.ElementTree import fromstring

from detector.errors import InvalidRequest
from detector.pose.names import canonical_name
from detector.pose.skeleton import (
    KEYPOINT_COUNT,
    KEYPOINT_INDEX,
    KEYPOINT_NAMES,
    PART_BY_NAME,
    PARTS,
    PERSON,
    part_of,
)

Style = Literal['skeleton', 'keypoints']
T = TypeVar('T')

WHOLE_SKELETON: Final = 'pose'
"""Label of a skeleton with all keypoints in the recommended config."""
_PERSON_COLOUR: Final = '#ffe119'
_SKELETON_COLOUR: Final = '#3cb44b'
_MAX_CHARACTERS: Final = 1_000_000
_MAX_DEPTH: Final = 64
"""Maximum nesting of tags; the time to search the labels grows with it."""
_VARIABLE: Final = re.compile(r'\$([\w.-]+)')


@dataclass(frozen=True, slots=True, kw_only=True)
class BoxControl:
    """A `RectangleLabels` with a label for persons.

    :param name: `from_name` of its regions.
    :param label: label of a person.
    """

    name: str
    label: str


@dataclass(frozen=True, slots=True, kw_only=True)
class PointControl:
    """A `KeyPointLabels`.

    :param name: `from_name` of its regions.
    :param labels: label by keypoint index (0..132); a generic label is the same for all of them.
    """

    name: str
    labels: Mapping[int, str]

    @property
    def indices(self) -> Mapping[str, int]:
        """Keypoint index by label; empty if the label is generic."""
        return {} if len(set(self.labels.values())) < len(self.labels) else {v: k for k, v in self.labels.items()}


@dataclass(frozen=True, slots=True, kw_only=True)
class SkeletonControl:
    """A `VectorLabels skeleton="true"`.

    :param name: `from_name` of its regions.
    :param labels: keypoint indices of a region by its label: all 133, or those of a part.
    """

    name: str
    labels: Mapping[str, Sequence[int]]


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


def parse(xml: str | None) -> LabelingConfig:
    """Read a labeling config.

    A label stands for a keypoint if its value or alias is the keypoint's name in any spelling, or if its
    `predicted_values` name the keypoint, or if they name `person` and `model_index` is the keypoint's index. The only
    label of a control may have any name and stands for all that the control can express.

    :param xml: None or empty: use the recommended keypoint config.
    :raises InvalidRequest: the config is not XML or offers no control for a pose; the message names the tag.
    """
    if xml is None or not xml.strip():
        xml = generate('keypoints')
    root = _read(xml)
    boxes = _first(root.iter('RectangleLabels'), _person_label)
    points = _first(root.iter('KeyPointLabels'), _keypoint_labels)
    vectors = (tag for tag in root.iter('VectorLabels') if tag.get('skeleton', '').lower() == 'true')
    skeletons = _first(vectors, _skeleton_labels)
    controls = [found[0] for found in (boxes, points, skeletons) if found is not None]
    if not controls:
        raise InvalidRequest(
            'the labeling config has no RectangleLabels with a label for a person, no KeyPointLabels with names of '
            'keypoints, and no VectorLabels skeleton="true"'
        )
    image = _image(root, {control.get('toName', '') for control in controls})
    return LabelingConfig(
        image=image.get('name', ''),
        image_key=_image_key(image),
        boxes=boxes and BoxControl(name=boxes[0].get('name', ''), label=boxes[1]),
        skeletons=skeletons and SkeletonControl(name=skeletons[0].get('name', ''), labels=skeletons[1]),
        points=points and PointControl(name=points[0].get('name', ''), labels=points[1]),
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


def _first(controls: Iterable[Element], labels_of: Callable[[Element], T | None]) -> tuple[Element, T] | None:
    """Return the first control with usable labels, and these labels."""
    found = ((control, labels_of(control)) for control in controls)
    return next(((control, labels) for control, labels in found if labels), None)


def _person_label(control: Element) -> str | None:
    labels = list(control.iter('Label'))
    for label in labels:
        if any(canonical_name(name) == PERSON for name in _names(label)):
            return label.get('value')
    return labels[0].get('value') if len(labels) == 1 else None


def _keypoint_labels(control: Element) -> dict[int, str]:
    found: dict[int, str] = {}
    labels = [label for label in control.iter('Label') if label.get('value')]
    for label in labels:
        index = _keypoint(label)
        if index is not None:
            found.setdefault(index, label.get('value', ''))
    if not found and len(labels) == 1:
        return dict.fromkeys(range(KEYPOINT_COUNT), labels[0].get('value', ''))
    return dict(sorted(found.items()))


def _keypoint(label: Element) -> int | None:
    """Return the index of the keypoint that a label stands for.

    A known name takes precedence, since `model_index` may count the labels of another model.
    """
    for name in map(canonical_name, _names(label)):
        if name in KEYPOINT_INDEX:
            return KEYPOINT_INDEX[name]
    if any(canonical_name(name) == PERSON for name in _split(label.get('predicted_values'))):
        return _INDICES.get(label.get('model_index', ''))
    return None


_INDICES: Final = {str(index): index for index in range(KEYPOINT_COUNT)}


def _names(label: Element) -> Iterator[str]:
    for name in (label.get('value'), label.get('alias')):
        if name:
            yield name
    yield from _split(label.get('predicted_values'))


def _split(names: str | None) -> list[str]:
    return [name.strip() for name in (names or '').split(',') if name.strip()]


def _skeleton_labels(control: Element) -> dict[str, Sequence[int]]:
    """Return the labels of body parts, or else one label for all keypoints: that of a person, or the first."""
    labels = [label for label in control.iter('Label') if label.get('value')]
    parts: dict[str, Sequence[int]] = {}
    for label in labels:
        part = next((PART_BY_NAME[name.lower()] for name in _names(label) if name.lower() in PART_BY_NAME), None)
        if part is not None:
            parts[label.get('value', '')] = part.indices
    if parts or not labels:
        return parts
    whole = next((label for label in labels if WHOLE_SKELETON in map(str.lower, _names(label))), None)
    value = _person_label(control) if whole is None else whole.get('value')
    return {str(value or labels[0].get('value')): range(KEYPOINT_COUNT)}


# ---------------------------------------------------------------- recommended configs


def generate(style: Style, parts: Iterable[str] = tuple(PART_BY_NAME)) -> str:
    """Return a recommended labeling config with the controls `image`, `bbox`, and `skeleton` or `kp`.

    :param style: `skeleton`: one region per person with limbs, or one per part if only some parts are chosen;
        `keypoints`: one region per keypoint, which Label Studio's own export formats support.
    :param parts: names of body parts.
    :raises InvalidRequest: a part is unknown.
    """
    chosen = [part for part in PARTS if part.name in set(parts)]
    unknown = set(parts) - set(PART_BY_NAME)
    if unknown or not chosen:
        raise InvalidRequest(f'parts: {", ".join(sorted(unknown)) or "none"}; choose from {", ".join(PART_BY_NAME)}')
    view = Element('View')
    SubElement(view, 'Image', name='image', value='$image', zoom='true', zoomControl='true', rotateControl='false')
    boxes = SubElement(view, 'RectangleLabels', name='bbox', toName='image', smart='true')
    SubElement(boxes, 'Label', value=PERSON, background=_PERSON_COLOUR, predicted_values=PERSON)
    if style == 'keypoints':
        control = SubElement(
            view, 'KeyPointLabels', name='kp', toName='image', smart='true', strokeWidth='1', opacity='0.9'
        )
        for index in (index for part in chosen for index in part.indices):
            name, colour = KEYPOINT_NAMES[index], part_of(index).hex_colour
            _label(control, name, colour, predicted_values=PERSON, model_index=str(index))
    else:
        form = {'skeleton': 'true', 'closable': 'false', 'curves': 'false'}
        look = {'pointSize': 'small', 'strokeWidth': '1', 'opacity': '1'}
        control = SubElement(view, 'VectorLabels', {'name': 'skeleton', 'toName': 'image', **form, **look})
        if len(chosen) == len(PARTS):
            _label(control, WHOLE_SKELETON, _SKELETON_COLOUR)
        for part in chosen if len(chosen) < len(PARTS) else ():
            _label(control, part.name, part.hex_colour)
    indent(view)
    return tostring(view, encoding='unicode') + '\n'


def any_style() -> LabelingConfig:
    """Return the recommended controls of both styles, for exports whose config is unknown."""
    return replace(parse(generate('keypoints')), skeletons=parse(generate('skeleton')).skeletons)


def _label(control: Element, value: str, colour: str, **attributes: str) -> None:
    SubElement(control, 'Label', {'value': value, 'background': colour, **attributes})
