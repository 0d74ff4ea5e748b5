"""Saying what a labeling config offers."""

from pathlib import Path

from detector.cli.main import app
from detector.label_studio.labels.config import generate, parse
from detector.label_studio.labels.config_report import offer, report, unmatched
from detector.pose.skeleton import KEYPOINT_NAMES
from tests.support.commands import invoke, succeed

SOME = (
    '<View><Image name="image" value="$image"/><RectangleLabels name="b" toName="image"><Label value="Mensch"/>'
    '</RectangleLabels><KeyPointLabels name="kp" toName="image"><Label value="Nose"/><Label value="left_eye"/>'
    '<Label value="neck"/><Label value="MidHip"/></KeyPointLabels></View>'
)


def test_matched_and_other_labels_are_told_apart() -> None:
    """The report says which labels stand for which keypoints, which for none, and which keypoints have no label."""
    assert report(parse(SOME)) == [
        'boxes: the label Mensch stands for a person, since it is the only label of the only RectangleLabels',
        '2 labels for keypoints: Nose = nose, left_eye',
        '2 labels stand for no keypoint; they are neither predicted nor read: neck, MidHip',
        '131 keypoints without a label: right_eye, left_ear, right_ear, left_shoulder, right_shoulder, left_elbow, '
        'right_elbow, left_wrist and 123 more',
    ]
    assert report(parse(SOME), full=True)[-1].endswith(KEYPOINT_NAMES[-1])


def test_recommended_configs_have_no_other_labels() -> None:
    """All labels of the recommended configs stand for something, and nothing is missing."""
    for style, line in (('skeleton', 'pose (133 keypoints)'), ('parts', 'face (68 keypoints)')):
        found = parse(generate(style))  # type: ignore[arg-type]
        assert unmatched(found) == []
        assert any(line in text for text in report(found))
    assert report(parse(generate('keypoints')))[1].startswith('133 labels for keypoints: nose')


def test_the_offer_is_json() -> None:
    """`/validate` answers the labels with their keypoints and those without."""
    answer = offer(parse(SOME))
    assert answer['labels'] == {'Nose': 'nose', 'left_eye': 'left_eye'}
    assert answer['unmatched'] == ['neck', 'MidHip']
    assert answer['report'] == report(parse(SOME))


def test_the_command_checks_a_config(tmp_path: Path) -> None:
    """`wholebody labelstudio config --check` names all labels; the exit status says whether some stand for nothing."""
    path = tmp_path / 'config.xml'
    path.write_text(SOME)
    result = invoke(app, 'labelstudio', 'config', '--check', path)
    assert result.exit_code == 1
    assert result.stdout.splitlines() == report(parse(SOME), full=True)
    path.write_text(generate('parts'))
    assert 'body (17 keypoints)' in succeed(app, 'labelstudio', 'config', '--check', path)
    path.write_text('<View/>')
    refused = invoke(app, 'labelstudio', 'config', '--check', path)
    assert f'--check {path}' in f'{refused.exception}'
