"""The controls of a labeling config that describe poses, and the meaning of their labels.

Label Studio writes a label's `alias` into results if it has one, and its `value` otherwise. Predictions follow it;
regions are read with either.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Final, NamedTuple, TypeVar
from xml.etree.ElementTree import Element

from detector.datasets.person import HIDDEN, NOT_LABELLED, VISIBLE
from detector.pose.names import canonical_name, keypoint_indices, names_another_point, part_named
from detector.pose.skeleton import KEYPOINT_COUNT, KEYPOINT_INDEX, PERSON

T = TypeVar('T')

WHOLE_SKELETON: Final = 'pose'
"""Label of a skeleton with all keypoints in the recommended config."""
_ALL: Final = range(KEYPOINT_COUNT)
_INDICES: Final = {str(index): index for index in _ALL}
_VISIBILITIES: Final = {'visible': VISIBLE, 'hidden': HIDDEN, 'occluded': HIDDEN, 'outside': NOT_LABELLED}


class Label(NamedTuple):
    """A label in a region.

    :param control: `from_name` of the region.
    :param text: the label itself.
    """

    control: str
    text: str


@dataclass(frozen=True, slots=True, kw_only=True)
class BoxControl:
    """The `RectangleLabels` for persons.

    :param written: label of predicted persons.
    :param read: all labels that stand for a person.
    :param is_guess: True if the label does not name a person, but is the only one of the only control.
    """

    written: Label
    read: frozenset[Label]
    is_guess: bool = False


@dataclass(frozen=True, slots=True, kw_only=True)
class PointControl:
    """The `KeyPointLabels`.

    :param written: label of predicted points by keypoint index (0..132); a generic label is the same for all of them.
    :param read: keypoint index by label; empty if the label is generic.
    :param unknown: labels that stand for no keypoint.
    :param refused: all forms of these labels.
    """

    written: Mapping[int, Label]
    read: Mapping[Label, int]
    unknown: Sequence[Label] = ()
    refused: frozenset[Label] = frozenset()

    @property
    def is_generic(self) -> bool:
        """True if one label stands for all keypoints."""
        return not self.read

    def index_of(self, label: Label) -> int | None:
        """Return the keypoint that a label of a region stands for, in any spelling; None if it is none."""
        if label in self.read:
            return self.read[label]
        if self.is_generic or label in self.refused:
            return None
        index = KEYPOINT_INDEX.get(canonical_name(label.text) or '')
        return index if index in self.written else None


@dataclass(frozen=True, slots=True, kw_only=True)
class SkeletonControl:
    """The `VectorLabels skeleton="true"`.

    :param written: keypoint indices of predicted regions by label: all 133, or those of a part.
    :param read: keypoint indices by each label that stands for a skeleton.
    :param unknown: labels that stand for no skeleton.
    :param curved: names of the controls in which annotators can curve a vertex.
    """

    written: Mapping[Label, Sequence[int]]
    read: Mapping[Label, Sequence[int]]
    unknown: Sequence[Label] = ()
    curved: frozenset[str] = frozenset()


@dataclass(frozen=True, slots=True, kw_only=True)
class VisibilityControl:
    """The `Choices perRegion="true"` with which annotators say whether points are visible, hidden or outside.

    :param name: `from_name` of the choices.
    :param written: choice by visibility.
    :param read: visibility by choice.
    """

    name: str
    written: Mapping[int, str]
    read: Mapping[str, int]


@dataclass(slots=True)
class Controls:
    """The controls that a config offers, and their tags.

    :param used: tags of the controls that describe poses.
    """

    boxes: BoxControl | None = None
    points: PointControl | None = None
    skeletons: SkeletonControl | None = None
    visibility: VisibilityControl | None = None
    used: list[Element] = field(default_factory=list)


def find_controls(root: Element) -> Controls:
    """Return the controls for poses of a labeling config. All controls of a kind count, those of one image or not."""
    found = Controls()
    vectors = [tag for tag in root.iter('VectorLabels') if tag.get('skeleton', '').lower() == 'true']
    found.boxes = _boxes(list(root.iter('RectangleLabels')), found.used)
    found.points = _points(list(root.iter('KeyPointLabels')), found.used)
    found.skeletons = _skeletons(vectors, found.used)
    choices = [tag for tag in root.iter('Choices') if tag.get('perRegion', '').lower() == 'true']
    found.visibility = next((made for tag in choices if (made := _visibility(tag)) is not None), None)
    return found


# ---------------------------------------------------------------- boxes


def _boxes(tags: Sequence[Element], used: list[Element]) -> BoxControl | None:
    persons = [(tag, label) for tag in tags for label in _labels(tag) if any(map(_is_person, _names(label)))]
    is_guess = not persons
    if is_guess and len(tags) == 1 and len(_labels(tags[0])) == 1:
        persons = [(tags[0], _labels(tags[0])[0])]
    if not persons:
        return None
    used += dict.fromkeys(tag for tag, _ in persons)
    read = frozenset(form for tag, label in persons for form in _forms(tag, label))
    return BoxControl(written=_written(*persons[0]), read=read, is_guess=is_guess)


def _is_person(name: str) -> bool:
    return canonical_name(name) == PERSON


# ---------------------------------------------------------------- keypoints


def _points(tags: Sequence[Element], used: list[Element]) -> PointControl | None:
    pairs = [(tag, label) for tag in tags for label in _labels(tag)]
    indices = _keypoints([label for _, label in pairs])
    known = [(pair, index) for pair, index in zip(pairs, indices, strict=True) if index is not None]
    if known:
        used += dict.fromkeys(tag for (tag, _), _ in known)
        unknown = [pair for pair, index in zip(pairs, indices, strict=True) if index is None]
        written: dict[int, Label] = {}
        for pair, index in known:
            written.setdefault(index, _written(*pair))
        return PointControl(
            written=dict(sorted(written.items())),
            read=_by_form(known),
            unknown=[_written(*pair) for pair in unknown],
            refused=frozenset(form for pair in unknown for form in _forms(*pair)),
        )
    if len(pairs) != 1 or any(map(_names_one_thing, _names(pairs[0][1]))):
        return None
    used.append(pairs[0][0])
    return PointControl(written=dict.fromkeys(_ALL, _written(*pairs[0])), read={})


def _names_one_thing(name: str) -> bool:
    return names_another_point(name) or part_named(name) is not None


def _keypoints(labels: Sequence[Element]) -> list[int | None]:
    """Return the keypoint that each label stands for; None if it names none, or several."""
    groups = [_names(label) for label in labels]
    flat = iter(keypoint_indices([name for names in groups for name in names]))
    named = [{index for _, index in zip(names, flat, strict=False) if index is not None} for names in groups]
    found = [next(iter(indices)) if len(indices) == 1 else None for indices in named]
    # other models count other keypoints
    counts_ours = all(
        index is None or _INDICES.get(label.get('model_index', str(index))) == index
        for label, index in zip(labels, found, strict=True)
    )
    if counts_ours:
        for position, label in enumerate(labels):
            if not named[position] and not any(map(names_another_point, groups[position])):
                found[position] = _counted(label)
    return found


def _counted(label: Element) -> int | None:
    """Return the `model_index` of a label that a person's keypoints are predicted with."""
    is_of_person = any(map(_is_person, _split(label.get('predicted_values'))))
    return _INDICES.get(label.get('model_index', '')) if is_of_person else None


# ---------------------------------------------------------------- skeletons


def _skeletons(tags: Sequence[Element], used: list[Element]) -> SkeletonControl | None:
    pairs = [(tag, label) for tag in tags for label in _labels(tag)]
    known = [((tag, label), part) for tag, label in pairs if (part := _part(label)) is not None]
    whole = [pair for pair in pairs if any(map(_is_whole, _names(pair[1])))] or (pairs if len(pairs) == 1 else [])
    whole = [pair for pair in whole if pair not in [taken for taken, _ in known]]
    meanings = [*known, *((pair, _ALL) for pair in whole)]
    if not meanings:
        return None
    used += dict.fromkeys(tag for (tag, _), _ in meanings)
    written: dict[Label, Sequence[int]] = {}
    for pair, indices in known or meanings[:1]:
        if indices not in written.values():
            written[_written(*pair)] = indices
    taken = [pair for pair, _ in meanings]
    return SkeletonControl(
        written=written,
        read=_by_form(meanings),
        unknown=[_written(*pair) for pair in pairs if pair not in taken],
        curved=frozenset(tag.get('name', '') for tag in tags if tag.get('curves', '').lower() == 'true'),
    )


def _part(label: Element) -> Sequence[int] | None:
    """Return the keypoint indices of the part that a label names; None if it names none, or several."""
    found = {part.name: part.indices for name in _names(label) if (part := part_named(name)) is not None}
    return next(iter(found.values())) if len(found) == 1 else None


def _is_whole(name: str) -> bool:
    return name.strip().lower() == WHOLE_SKELETON or _is_person(name)


# ---------------------------------------------------------------- visibility


def _visibility(tag: Element) -> VisibilityControl | None:
    """Return the meaning of choices that can say `hidden`; None for other choices."""
    written: dict[int, str] = {}
    read: dict[str, int] = {}
    for choice in tag.iter('Choice'):
        found = {_VISIBILITIES[name] for name in map(_plain, _names(choice)) if name in _VISIBILITIES}
        if len(found) == 1:
            visibility = found.pop()
            written.setdefault(visibility, _written(tag, choice).text)
            read |= {text: visibility for _, text in _forms(tag, choice)}
    return VisibilityControl(name=tag.get('name', ''), written=written, read=read) if HIDDEN in written else None


def _plain(name: str) -> str:
    return name.strip().lower()


# ---------------------------------------------------------------- labels


def _labels(tag: Element) -> list[Element]:
    return [label for label in tag.iter('Label') if label.get('value')]


def _names(label: Element) -> list[str]:
    return [*_texts(label), *_split(label.get('predicted_values'))]


def _split(names: str | None) -> list[str]:
    return [name.strip() for name in (names or '').split(',') if name.strip()]


def _texts(label: Element) -> list[str]:
    """Return alias and value, as far as the label has them."""
    return [text for key in ('alias', 'value') if (text := label.get(key))]


def _written(tag: Element, label: Element) -> Label:
    return _forms(tag, label)[0]


def _forms(tag: Element, label: Element) -> list[Label]:
    """Return the forms in which a region may name a label, Label Studio's own first."""
    return [Label(tag.get('name', ''), text) for text in _texts(label)]


def _by_form(meanings: Sequence[tuple[tuple[Element, Element], T]]) -> dict[Label, T]:
    """Return the meanings by each form of their labels; what Label Studio writes takes precedence."""
    found: dict[Label, T] = {}
    for take in (slice(1), slice(1, None)):
        for pair, meaning in meanings:
            for form in _forms(*pair)[take]:
                found.setdefault(form, meaning)
    return found
