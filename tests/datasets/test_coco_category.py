"""Categories of COCO files: which keypoints annotations have, and in which order."""

from typing import Any

import pytest

from detector.datasets.coco import from_coco
from detector.datasets.omissions import Omissions
from detector.errors import InvalidRequest
from detector.pose.skeleton import KEYPOINT_INDEX, KEYPOINT_NAMES

COCO = list(KEYPOINT_NAMES[:17])
SIDES = ('Shoulder', 'Elbow', 'Wrist', 'Hip', 'Knee', 'Ankle')
RIGHT_FIRST = ['Nose', 'REye', 'LEye', 'REar', 'LEar', *(f'{side}{part}' for part in SIDES for side in 'RL')]
H36M = [
    'root', 'right_hip', 'right_knee', 'right_foot', 'left_hip', 'left_knee', 'left_foot', 'spine', 'thorax',
    'neck_base', 'head', 'left_shoulder', 'left_elbow', 'left_wrist', 'right_shoulder', 'right_elbow', 'right_wrist',
]  # fmt: skip


def coco(names: list[str] | None = None, **changes: Any) -> dict[str, Any]:
    """Make a file with one person, whose keypoint n of `keypoints` lies at (10 + 5 n, 20 + 3 n)."""
    count = len(COCO if names is None else names)
    points = [number for index in range(count) for number in (10 + 5 * index, 20 + 3 * index, 2)]
    annotation = {'id': 1, 'image_id': 1, 'category_id': 1, 'bbox': [5, 5, 150, 90], 'keypoints': points}
    return {
        'images': [{'id': 1, 'file_name': 'a.jpg', 'width': 200, 'height': 100}],
        'annotations': [annotation | changes],
        'categories': [{'id': 1, 'name': 'person', 'keypoints': COCO if names is None else names}],
    }


def places(file: dict[str, Any]) -> tuple[dict[str, list[float]], list[str], str]:
    """Return the keypoints of the first person by name, the lines of the report, and its counts."""
    lines: list[str] = []
    omissions = Omissions(lines.append)
    images = from_coco(file, omissions)
    found = {
        KEYPOINT_NAMES[index]: person.keypoints[index].tolist()
        for image in images
        for person in image.persons
        for index in person.labelled.nonzero()[0].tolist()
    }
    return found, lines, omissions.summary


@pytest.mark.parametrize(
    'names',
    [
        COCO,
        COCO[::-1],
        RIGHT_FIRST,
        [name.replace('_', '-').upper() for name in COCO],
        ['face-3', 'left_thumb1', 'right_heel'],
        ['left ankle', 'Right of knee'],
    ],
)
def test_known_names_decide_the_order(names: list[str]) -> None:
    """Names in any order, number and spelling put each keypoint where the file says, without a line."""
    found, lines, _ = places(coco(names))
    assert lines == []
    assert len(found) == len(names)
    for number, name in enumerate(names):
        assert [10 + 5 * number, 20 + 3 * number] in found.values(), name
    if names == RIGHT_FIRST:
        assert found['right_eye'] == [15, 23]
        assert found['left_ankle'] == [90, 68]


@pytest.mark.parametrize(
    ('names', 'unknown'),
    [
        (H36M, ['root', 'right_foot', 'left_foot', 'spine', 'thorax', 'neck_base', 'head']),
        (['Head', *COCO[1:5], 'right_shoulder', 'left_shoulder', *COCO[7:]], ['Head']),
        (['nose', 'neck'], ['neck']),
        ([*COCO, 'left_hand', 'a_very_long_name' * 20], ['left_hand', 'a_very_long_name']),
    ],
)
def test_unknown_names_are_reported_and_shift_nothing(names: list[str], unknown: list[str]) -> None:
    """Each unknown name has a line with its place, and the known keypoints stay where the file says."""
    found, lines, summary = places(coco(names))
    assert len(lines) == len(unknown)
    for line, name in zip(lines, unknown, strict=True):
        assert line.startswith('categories[0].keypoints[')
        assert name in line
    assert summary.startswith(f'{len(unknown)} name')
    for number, name in enumerate(names):
        if name in KEYPOINT_INDEX:
            assert found[name] == [10 + 5 * number, 20 + 3 * number]
    assert len(found) == len(names) - len(unknown)


@pytest.mark.parametrize(
    ('file', 'named'),
    [
        (coco(['nose', 'Nose']), r"keypoints\[0\] 'nose' and categories\[0\].keypoints\[1\] 'Nose' are both nose"),
        (coco(['a', 'b']), 'categories.0..keypoints has no known keypoint, only a, b'),
        (coco(keypoints=[1, 2, 2] * 16), r'annotations\[0\].keypoints has 48 numbers; the 17 keypoints .* have 51'),
        (coco() | {'categories': [{'id': 1, 'name': 'person'}]}, r'categories\[0\] does not name them'),
        (coco() | {'categories': []}, 'could be any object, since the file has no categories'),
        (coco(category_id=2), r'annotations\[0\].category_id 2 is not the id of a category'),
        (coco(category_id='one'), "annotations.0..category_id must be an integer, not 'one'"),
        (coco(category_id=None), 'category_id must be an integer, not missing'),
        (coco(keypoints=None), r'annotations\[0\].keypoints is missing, although categories\[0\] names keypoints'),
        (coco(keypoints=None, foot_kpts=18 * [1]), r'annotations\[0\].keypoints is missing'),
        (coco(num_keypoints=18), 'num_keypoints is 18, but 17 keypoints are labelled'),
        (coco(keypoints=[1, 2, 3] * 17), 'the visibility of nose must be 0, 1 or 2, not 3'),
        (coco(keypoints=[1, 2, -1] * 17), 'the visibility of nose must be 0, 1 or 2, not -1'),
        (coco(bbox=[5, 5, -3, 4]), 'bbox has the width -3'),
        (coco(foot_valid=True), 'foot_kpts is missing, although foot_valid is true'),
    ],
)
def test_what_is_not_clear_takes_its_image_with_it(file: dict[str, Any], named: str) -> None:
    """An unclear file is refused; an unclear person has a line, and its image is left out instead of being empty."""
    with pytest.raises(InvalidRequest, match=named):
        from_coco(file)
    lines: list[str] = []
    omissions = Omissions(lines.append)
    try:
        assert from_coco(file, omissions) == []
    except InvalidRequest:
        return
    assert 'images[0] (a.jpg) has 1 annotation, 1 of which cannot be read' in lines[-1]
    assert omissions.summary == '1 image, 1 person'


@pytest.mark.parametrize(
    'change',
    [
        {'category_id': '1'},
        {'category_id': 1.0},
        {'image_id': '1'},
        {'bbox': ['5', '5.0', ' 150', '9e1']},
        {'keypoints': [str(number) for number in coco()['annotations'][0]['keypoints']]},
    ],
)
def test_text_that_spells_a_number_is_that_number(change: dict[str, Any]) -> None:
    """Text where a number belongs is taken if it spells one."""
    found, lines, _ = places(coco(**change))
    assert (lines, found['right_ankle']) == ([], [90, 68])
    (image,) = from_coco(coco(**change))
    assert image.persons[0].box is not None
    assert image.persons[0].box.tolist() == [5, 5, 155, 95]


def test_confidences_are_scores_of_predictions() -> None:
    """Confidences in place of visibilities are refused for annotations, and are scores of predictions."""
    points = [number for index in range(17) for number in (10, 20, 1.0 if index == 0 else 0.02 * index)]
    file = coco(keypoints=points, score='0.75')
    with pytest.raises(InvalidRequest, match=r'annotations\[0\] has confidences .* --as predictions'):
        from_coco(file)
    (person,) = from_coco(file, threshold=0.3)[0].persons
    assert person.visibility[:17].tolist() == [2] + 14 * [0] + [2, 2]
    assert person.scores[:3].tolist() == pytest.approx([1.0, 0.02, 0.04])
    assert person.box_score == 0.75
    file['annotations'][0]['keypoints'][5] = 1.07
    with pytest.raises(InvalidRequest, match='left_eye has 1.07, which is not a confidence'):
        from_coco(file, threshold=0.3)


@pytest.mark.parametrize(
    ('size', 'stated', 'named'),
    [
        ((200, 100), (200, 100), None),
        ((200, 100), (None, None), None),
        ((400, 200), (200, 100), r'the image a.jpg has 400×200 pixels'),
        ((100, 200), (200, 100), r'the image a.jpg has 100×200 pixels when upright'),
        (None, (None, None), r'images\[0\].width must be an integer'),
        ((200, 100), (None, 100), r'images\[0\].width must be an integer'),
    ],
)
def test_sizes_come_from_the_image(
    size: tuple[int, int] | None, stated: tuple[int | None, int | None], named: str | None
) -> None:
    """A missing size comes from the image, and a contradicting one leaves the image out."""
    file = coco()
    file['images'][0] |= dict(zip(('width', 'height'), stated, strict=True))
    if named is None:
        assert from_coco(file, size_of=lambda _: size)[0].size == size
        return
    with pytest.raises(InvalidRequest, match=named):
        from_coco(file, size_of=lambda _: size)
