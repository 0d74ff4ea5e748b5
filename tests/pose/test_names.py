"""Names of keypoints and parts in other spellings and of other tools."""

import random
import re
import unicodedata
from collections.abc import Callable
from functools import cache

import pytest
from hypothesis import given
from hypothesis import strategies as st
from rtmlib.visualization.skeleton.coco133 import coco133

from detector.pose import names
from detector.pose.names import ALIASES, canonical_name, keypoint_indices, part_named
from detector.pose.skeleton import KEYPOINT_COUNT, KEYPOINT_INDEX, KEYPOINT_NAMES, PARTS

UPSTREAM = tuple(info['name'] for info in coco133['keypoint_info'].values())
SEPARATORS = ('_', '-', ' ', '.', ' - ', '__', '\u00a0', '\u2013', ': ')
CASES: tuple[Callable[[str], str], ...] = (str, str.upper, str.title, str.swapcase)
OPENPOSE = (
    'Nose', 'RShoulder', 'RElbow', 'RWrist', 'LShoulder', 'LElbow', 'LWrist', 'RHip', 'RKnee', 'RAnkle', 'LHip',
    'LKnee', 'LAnkle', 'REye', 'LEye', 'REar', 'LEar', 'LBigToe', 'LSmallToe', 'LHeel', 'RBigToe', 'RSmallToe', 'RHeel',
)  # fmt: skip
MEDIAPIPE_HAND = (
    'WRIST', 'THUMB_CMC', 'THUMB_MCP', 'THUMB_IP', 'THUMB_TIP', 'INDEX_FINGER_MCP', 'INDEX_FINGER_PIP',
    'INDEX_FINGER_DIP', 'INDEX_FINGER_TIP', 'MIDDLE_FINGER_MCP', 'MIDDLE_FINGER_PIP', 'MIDDLE_FINGER_DIP',
    'MIDDLE_FINGER_TIP', 'RING_FINGER_MCP', 'RING_FINGER_PIP', 'RING_FINGER_DIP', 'RING_FINGER_TIP', 'PINKY_MCP',
    'PINKY_PIP', 'PINKY_DIP', 'PINKY_TIP',
)  # fmt: skip
FINGERS = (
    ('thumb',), ('forefinger', 'fore_finger', 'index_finger', 'index'), ('middle_finger', 'middle'),
    ('ring_finger', 'ring'), ('pinky_finger', 'pinky'),
)  # fmt: skip
OTHER_POINTS = (
    # OpenPose, COCO with a neck, Halpe, AI Challenger, Human3.6M, MPII, SMPL-X
    'Neck', 'MidHip', 'mid_hip', 'Background', 'head', 'head_top', 'top_head', 'hip', 'pelvis', 'root', 'spine',
    'thorax', 'upper_neck', 'Neck/Nose', 'neck_base', 'left_foot', 'LFoot', 'left_collar', 'jaw',
    # MediaPipe: other places of the eyes, image sides of the mouth, knuckles that other tools put at the tips
    'left_eye_inner', 'LEFT_EYE_OUTER', 'mouth_left', 'left_pinky', 'left_index', 'left_thumb', 'LEFT_FOOT_INDEX',
    # without a side, a number or a known number
    'eye', 'ear', 'wrist', 'hand', 'thumb1', 'thumb_tip', 'left', 'L', 'left_hand', 'right hand', 'face', 'body',
    'kpt-0', '0', '9', 'point_0', 'hand_0', 'face_68', 'left_hand_21', 'left_thumb0', 'left_thumb5', 'toe', 'left_toe',
    # one letter without a separator is part of a word
    'rear', 'Rear', 'Lear', 'Earl', 'kneel', 'leye', 'LEYE',
    # more than a name
    'left_eye_right_eye', 'left left eye', 'face_1_2', 'face_1.5', 'left_hand_1_2', 'not nose', 'nose 2', 'nose!',
    'nose?', 'left+eye', 'left_eye|right_eye', 'face_\u0661', 'of left eye', 'tail', '', ' ', '_',
    'left_hand_1\u00b2', 'face_\u2460', 'x' * 1000, '9' * 5000,
    # numbers with a sign or a decimal point
    'face_-1', 'face -1', 'face--1', 'face (-1)', 'face_\u20131', 'face\u22121', 'face_\uff0d1',  'left_hand_-0',
    'face_.5', 'face ,5', '-1', 'left_thumb_-1',
    # words in pieces
    'no se', 'n.o.s.e', 'le-ft eye', 'fa ce 1', 'an_kle left', 'left_th_umb1', 'LeftH and 1', 'right_e_ar',
)  # fmt: skip
PIECES = (
    *SEPARATORS, '-', '\u2212', ',', '(', ')', '[', ']', '/', "'", ' of ', 'of', '+', '!', '0', '1', '7', '\u00b9', 'l',
    'r', 'L', 'R', 'left', 'Right', 'hand', 'toe', 'e', 's', 'x', 'tip', 'index', 'person',
)  # fmt: skip


@st.composite
def spellings(draw: st.DrawFn) -> tuple[str, str]:
    """Draw a canonical or an upstream name and a spelling of it."""
    position = draw(st.integers(0, KEYPOINT_COUNT - 1))
    written = draw(st.sampled_from((KEYPOINT_NAMES[position], UPSTREAM[position])))
    words = names._WORD.findall(written)
    side = words.pop(0) if words[0] in ('left', 'right') else None
    is_camel = draw(st.booleans())
    is_short = draw(st.booleans())
    if side is not None:
        mark = side[0] if is_short else side
        words.insert(draw(st.integers(0, len(words))), mark)
        if draw(st.booleans()) and words[0] == mark:
            words.insert(1, 'of')
    if is_camel and 'of' not in words:
        return KEYPOINT_NAMES[position], ''.join(map(str.capitalize, words))
    separator = draw(st.sampled_from(SEPARATORS))
    text = draw(st.sampled_from(CASES))(separator.join(words))
    padding = draw(st.sampled_from(('', ' ', '\t')))
    return KEYPOINT_NAMES[position], f'{padding}{text}{padding}'


@given(spellings())
def test_every_spelling_of_a_name_is_that_name(drawn: tuple[str, str]) -> None:
    """A spelling derived from a name gives this name and no other."""
    name, spelling = drawn
    assert canonical_name(spelling) == name
    assert keypoint_indices([spelling]) == [KEYPOINT_INDEX[name]]


@given(st.text(max_size=30))
def test_any_text_is_a_name_or_nothing(text: str) -> None:
    """Any text gives None or a name of the skeleton, and a known name gives itself."""
    found = canonical_name(text)
    assert found is None or canonical_name(found) == found


@given(st.sampled_from(KEYPOINT_NAMES), st.sampled_from('abcdeghijkmnopqstuvwxyz'), st.integers(0, 20))
def test_a_changed_name_is_no_name(name: str, letter: str, place: int) -> None:
    """A name with another letter in it is not taken for the nearest name."""
    changed = name[:place] + letter + name[place:]
    assert canonical_name(changed) is None


@given(spellings(), st.lists(st.tuples(st.sampled_from(PIECES), st.integers(0, 25), st.integers(0, 2)), max_size=3))
def test_a_label_that_is_not_derived_from_a_name_is_none(
    drawn: tuple[str, str], changes: list[tuple[str, int, int]]
) -> None:
    """If a spelling with other pieces in it still is a name, it consists of the words of that name and separators."""
    label = drawn[1]
    for piece, place, removed in changes:
        label = label[:place] + piece + label[place + removed :]
    found = canonical_name(label)
    assert found is None or is_derived(label, found)
    part = part_named(label)
    assert part is None or is_derived(label, part.name)


@given(spellings(), st.sampled_from((*KEYPOINT_NAMES, 'person')))
def test_what_is_derived_is_told_from_what_is_not(drawn: tuple[str, str], other: str) -> None:
    """The measure of the test above accepts each spelling of a name for that name, and for no other."""
    name, spelling = drawn
    assert is_derived(spelling, name)
    assert other == name or not is_derived(spelling, other)


def is_derived(label: str, name: str) -> bool:
    """Return True if a label has the words of one of a name's writings, whole, in order, with the side anywhere."""
    return pattern(name).fullmatch(unicodedata.normalize('NFKC', label)) is not None


@cache
def pattern(name: str) -> re.Pattern[str]:
    mark = "[\\s\\-_./:,'()\\[\\]\u2010-\u2015\u2212]"
    numbered = f'(?<!{mark}[\\-.,\u2010-\u2015])(?<!\u2212)0*{{}}(?![0-9])'
    orders = []
    for written in writings(name):
        first, *rest = written.split('_')
        words = [numbered.format(word) if word.isdigit() else f'(?i:{word})' for word in (first, *rest)]
        if first not in ('left', 'right'):
            orders.append(words)
            continue
        low, end = first[0], f'(?={mark}|[A-Z0-9]|$)'
        letter = f'(?<![A-Za-z]){low}(?={mark}|[0-9]|$)|(?<![A-Z]){low.upper()}{end}'
        side = f'(?:(?i:{first})|{letter})(?:{mark}*(?i:of){end})?'
        orders += [[*words[1:place], side, *words[place:]] for place in range(1, len(words) + 1)]
    return re.compile('|'.join(f'{mark}*'.join(['', *words, '']) for words in orders))


def writings(name: str) -> list[str]:
    """Return the words of a name, and those of other tools for it."""
    found = [name, *(upstream for upstream in UPSTREAM if ALIASES.get(upstream) == name)]
    side, _, number = name.partition('_hand_')
    if number == '0':
        found += [f'{side}_hand_wrist']
    elif number.isdigit():
        finger, joint = divmod(int(number) - 1, 4)
        joints = ('cmc', 'mcp', 'ip', 'tip') if finger == 0 else ('mcp', 'pip', 'dip', 'tip')
        for word in FINGERS[finger]:
            found += [f'{side}_{hand}{word}_{end}' for hand in ('', 'hand_') for end in (joints[joint], joint + 1)]
    return found


def test_no_two_keypoints_share_a_spelling() -> None:
    """The table holds each spelling once, or several times for the same keypoint."""
    for table in (names._plain_names, names._numbered_names):
        seen: dict[str, object] = {}
        for written, found in table():
            for stem in names._stems(written):
                assert seen.setdefault(stem, found) == found, stem


def test_every_upstream_name_maps_to_a_canonical_name() -> None:
    """rtmlib's table of 133 names maps to the canonical names one to one."""
    assert tuple(map(canonical_name, UPSTREAM)) == KEYPOINT_NAMES
    assert keypoint_indices(UPSTREAM) == list(range(KEYPOINT_COUNT))
    assert len(set(KEYPOINT_NAMES)) == KEYPOINT_COUNT
    assert len(ALIASES) == 68 + 42


@pytest.mark.parametrize(
    ('name', 'expected'),
    [
        (' Left_Thumb1 ', 'left_hand_1'),
        ('Person', 'person'),
        ('PERSON', 'person'),
        ('eye (left)', 'left_eye'),
        ('Left of Eye', 'left_eye'),
        ('l.eye', 'left_eye'),
        ('L-Ear', 'left_ear'),
        ('REar', 'right_ear'),
        ('face_007', 'face_7'),
        ('handLeft3', 'left_hand_3'),
        ('left_index1', 'left_hand_5'),
        ('Right Hand: pinky tip', 'right_hand_20'),
        ('\uff2c\uff45\uff46\uff54 Eye', 'left_eye'),
    ],
)
def test_names_are_read_in_any_spelling(name: str, expected: str) -> None:
    """Case, separators, camel case, place and abbreviation of the side, and leading zeros do not matter."""
    assert canonical_name(name) == expected


def test_names_of_other_tools_are_known_where_they_mean_the_same() -> None:
    """OpenPose's body and feet, and MediaPipe's hands with a side, name the same points."""
    found = [canonical_name(name) for name in OPENPOSE]
    assert None not in found
    assert sorted(KEYPOINT_INDEX[str(name)] for name in found) == list(range(23))
    assert found[:3] == ['nose', 'right_shoulder', 'right_elbow']
    for side in ('left', 'right'):
        hand = [canonical_name(f'{side}_hand_{name}') for name in MEDIAPIPE_HAND]
        assert hand == [f'{side}_hand_{index}' for index in range(21)]
        assert canonical_name(f'{side.upper()}_WRIST') == f'{side}_wrist'


@pytest.mark.parametrize('name', OTHER_POINTS)
def test_names_that_mean_something_else_match_nothing(name: str) -> None:
    """A name of another point, an incomplete name, and a text that is more than a name give None."""
    assert canonical_name(name) is None
    assert keypoint_indices([name]) == [None]


def test_other_numbers_are_not_shifted() -> None:
    """Names that are numbered from 1, or that count other points, match nothing; other families are not concerned."""
    others = ['nose', 'left_hand_3', 'right_thumb1']
    for foreign in ([f'face_{i}' for i in range(1, 69)], [f'face_{i}' for i in range(70)]):
        assert keypoint_indices([*foreign, *others]) == [None] * len(foreign) + [0, 94, 113]
    thumb = [f'left_thumb{i}' for i in range(4)]
    assert keypoint_indices([*thumb, 'left_forefinger1', 'left_hand_1']) == [None] * 4 + [96, 92]


def test_equal_spellings_have_the_same_index() -> None:
    """Two names of a keypoint in a list both have its index, so that the caller can decide."""
    assert keypoint_indices(['left_eye', 'Left Eye', 'neck']) == [1, 1, None]


def test_parts_are_known_in_any_spelling() -> None:
    """A part is found by any spelling of its name, and other names are unknown."""
    for part in PARTS:
        shuffled = random.Random(part.name).choice([part.name.upper(), part.name.replace('_', '-').title()])
        assert part_named(part.name) == part_named(shuffled) == part
    assert part_named('LeftHand') == part_named('hand (L)') == part_named('left_hand')
    assert part_named('foot') is None
    assert part_named('left_hand_3') is None
    assert part_named('pose') is None
