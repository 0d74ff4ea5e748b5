"""Names of keypoints, parts and persons in other spellings and of other tools, matched without guessing.

A name is read as words, whatever their case and separators: `left_eye`, `Left Eye`, `left-eye`, `LeftEye`, `l.eye`,
`eye (L)` and `left of eye` are the same. The names of COCO-WholeBody, COCO, MMPose, OpenPose, MediaPipe and Human3.6M
are known where they mean the same point. Other names match nothing, for example `neck`, or `left_foot`, which is the
ankle in Human3.6M.
"""

import re
import unicodedata
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from itertools import accumulate, pairwise
from typing import Final

from .skeleton import KEYPOINT_INDEX, KEYPOINT_NAMES, PART_BY_NAME, PERSON, Part

_SIDES: Final = {'l': 'left', 'r': 'right', 'left': 'left', 'right': 'right'}
_FINGERS: Final = ('thumb', 'forefinger', 'middle_finger', 'ring_finger', 'pinky_finger')
_FINGER_SYNONYMS: Final = {
    'forefinger': ('fore_finger', 'index_finger', 'index'),
    'middle_finger': ('middle',),
    'ring_finger': ('ring',),
    'pinky_finger': ('pinky',),
}
_THUMB_JOINTS: Final = ('cmc', 'mcp', 'ip', 'tip')
_FINGER_JOINTS: Final = ('mcp', 'pip', 'dip', 'tip')
_OTHER_POINTS: Final = frozenset({
    'ankle', 'background', 'chest', 'collar', 'ear', 'elbow', 'eye', 'foot', 'head', 'heel', 'hip', 'hips', 'jaw',
    'knee', 'midhip', 'mouth', 'neck', 'nose', 'pelvis', 'shoulder', 'spine', 'thorax', 'toe', 'torso', 'wrist',
})  # fmt: skip
"""Words of names that stand for one point of the body."""
_DASHES: Final = r'\-\u2010-\u2015'
_PUNCTUATION: Final = rf"\s_./:,'()\[\]\u2212{_DASHES}"
_READABLE: Final = re.compile(f'[A-Za-z0-9{_PUNCTUATION}]+')
_SIGN: Final = re.compile(rf'(?:^|[{_PUNCTUATION}])[{_DASHES}.,][0-9]|\u2212[0-9]')
"""A number with a sign or a decimal point: in `face_-1`, unlike in `face-1`, the dash does not join two words."""
_CAMEL: Final = re.compile(r'(?<=[a-z0-9])(?=[A-Z])|(?<=[A-Z])(?=[A-Z][a-z])')
_WORD: Final = re.compile(r'[a-z]+|[0-9]+')
_MAX_CHARACTERS: Final = 100
"""Length from which a text is not read as a name."""


def canonical_name(name: str) -> str | None:
    """Return the canonical name of a keypoint, or `person`; None if the name is unknown or ambiguous."""
    if name in _EXACT:
        return _EXACT[name]
    if any(words == (PERSON,) for words in _readings(name)):
        return PERSON
    index = _found(name)[0]
    return None if index is None else KEYPOINT_NAMES[index]


def keypoint_indices(names: Sequence[str]) -> list[int | None]:
    """Return the keypoint index of each of the names that describe one skeleton, in their order; None for no keypoint.

    Numbered names count together: with `face_68` among them, `face_1` to `face_67` match nothing either, since the
    numbers start from 1 or count other points. Two names of the same keypoint have the same index.
    """
    found = [_found(name) for name in names]
    foreign = {family for index, family in found if index is None and family is not None}
    return [None if family in foreign else index for index, family in found]


def part_named(name: str) -> Part | None:
    """Return the part of the body that a name in any spelling stands for; None if it is unknown."""
    found = {part.name: part for words in _readings(name) if (part := _PARTS.get(_stem(words))) is not None}
    return next(iter(found.values())) if len(found) == 1 else None


def names_another_point(name: str) -> bool:
    """Return True if a name stands for a single point of the body, but for none of the 133, or not clearly for one."""
    return canonical_name(name) is None and not all(map(_OTHER_POINTS.isdisjoint, _readings(name)))


# ---------------------------------------------------------------- the normaliser


def _readings(name: str) -> Iterator[tuple[str, ...]]:
    """Yield the words of a name, with and without splitting camel case; numbers lose leading zeros."""
    text = unicodedata.normalize('NFKC', name[: _MAX_CHARACTERS + 1])
    # a superscript would become a further digit of the number before it
    has_raised = any(letter.isdigit() and not letter.isdecimal() for letter in name[: _MAX_CHARACTERS + 1])
    if len(text) > _MAX_CHARACTERS or has_raised or not _READABLE.fullmatch(text) or _SIGN.search(text):
        return
    for spaced in dict.fromkeys((text, _CAMEL.sub(' ', text))):
        words: list[str] = []
        for before, word in pairwise(['', *_WORD.findall(spaced.lower())]):
            if word == 'of' and before in _SIDES:
                continue
            words.append((word.lstrip('0') or '0') if word.isdigit() else _SIDES.get(word, word))
        yield tuple(words)


def _stem(words: Iterable[str]) -> str:
    """Return the table's key for words; empty if one of them is divided, as in `no se` for `nose`."""
    listed = list(words)
    stem = ''.join(listed)
    return stem if _ends(listed) <= _ENDS.get(stem, frozenset()) else ''


def _ends(words: Iterable[str]) -> frozenset[int]:
    return frozenset(accumulate(map(len, words)))


@dataclass(frozen=True, slots=True)
class _Family:
    """Keypoints whose names end in consecutive numbers.

    :param start: index of the keypoint with the first number.
    :param numbers: their numbers.
    """

    start: int
    numbers: range


def _found(name: str) -> tuple[int | None, _Family | None]:
    """Return the index of a keypoint and the family of its number; with a family only, the number is none of its."""
    if name in KEYPOINT_INDEX and not name[-1].isdigit():
        return KEYPOINT_INDEX[name], None
    found = {read for words in _readings(name) if (read := _read(words)) != (None, None)}
    return found.pop() if len(found) == 1 else (None, None)


def _read(words: Sequence[str]) -> tuple[int | None, _Family | None]:
    numbers = [word for word in words if word.isdigit()]
    stem = _stem('#' if word.isdigit() else word for word in words)
    if not numbers:
        return _PLAIN.get(stem), None
    family = _NUMBERED.get(stem)
    if len(numbers) > 1 or family is None:
        return None, None
    position = {str(number): index for index, number in enumerate(family.numbers)}.get(numbers[0])
    return None if position is None else family.start + position, family


# ---------------------------------------------------------------- the table


def _upstream_names() -> Iterator[str]:
    """Yield the names that COCO-WholeBody tools (mmpose, rtmlib) use, in index order."""
    yield from KEYPOINT_NAMES[: PART_BY_NAME['feet'].stop]
    yield from (f'face-{i}' for i in range(68))
    for side in ('left', 'right'):
        yield f'{side}_hand_root'
        yield from (f'{side}_{finger}{joint}' for finger in _FINGERS for joint in range(1, 5))


ALIASES: Final = {alias: name for alias, name in zip(_upstream_names(), KEYPOINT_NAMES, strict=True) if alias != name}
"""Canonical name by upstream name, for the keypoints whose names differ."""
_EXACT: Final = {PERSON: PERSON} | {name: name for name in KEYPOINT_NAMES} | ALIASES
"""Canonical names by the names that are looked up most."""


def _orders(name: str) -> Iterator[list[str]]:
    """Yield the words of a name with underscores, with the side at each place."""
    first, *rest = name.split('_')
    if first not in _SIDES:
        yield [first, *rest]
        return
    for place in range(len(rest) + 1):
        yield [*rest[:place], first, *rest[place:]]


def _stems(name: str) -> Iterator[str]:
    """Yield the table's keys for a name with underscores."""
    yield from map(''.join, _orders(name))


def _plain_names() -> Iterator[tuple[str, int]]:
    for index, name in enumerate(KEYPOINT_NAMES[: PART_BY_NAME['feet'].stop]):
        yield name, index
    for side, start in _hands():
        yield f'{side}_hand_root', start
        yield f'{side}_hand_wrist', start
        for finger, first, words in _fingers(start):
            for joint, joint_name in enumerate(_THUMB_JOINTS if finger == 'thumb' else _FINGER_JOINTS):
                yield f'{side}_{words}_{joint_name}', first + joint
                yield f'{side}_hand_{words}_{joint_name}', first + joint


def _numbered_names() -> Iterator[tuple[str, _Family]]:
    face = PART_BY_NAME['face']
    yield 'face_#', _Family(face.start, range(len(face.indices)))
    for side, start in _hands():
        yield f'{side}_hand_#', _Family(start, range(len(PART_BY_NAME[f'{side}_hand'].indices)))
        for _, first, words in _fingers(start):
            yield f'{side}_{words}_#', _Family(first, range(1, 5))
            yield f'{side}_hand_{words}_#', _Family(first, range(1, 5))


def _hands() -> Iterable[tuple[str, int]]:
    return ((side, PART_BY_NAME[f'{side}_hand'].start) for side in ('left', 'right'))


def _fingers(start: int) -> Iterator[tuple[str, int, str]]:
    """Yield each finger of the hand that starts at an index, the index of its first joint, and its words."""
    for number, finger in enumerate(_FINGERS):
        for words in (finger, *_FINGER_SYNONYMS.get(finger, ())):
            yield finger, start + 1 + 4 * number, words


def _word_ends() -> dict[str, frozenset[int]]:
    """Return the positions in each key at which a word may end."""
    ends: dict[str, frozenset[int]] = {}
    for name in [*dict(_plain_names()), *dict(_numbered_names()), *PART_BY_NAME]:
        for words in _orders(name):
            stem = ''.join(words)
            ends[stem] = ends.get(stem, frozenset()) | _ends(words)
    return ends


_PLAIN: Final = {stem: index for name, index in _plain_names() for stem in _stems(name)}
_NUMBERED: Final = {stem: family for name, family in _numbered_names() for stem in _stems(name)}
_PARTS: Final = {stem: part for part in PART_BY_NAME.values() for stem in _stems(part.name)}
_ENDS: Final = _word_ends()
