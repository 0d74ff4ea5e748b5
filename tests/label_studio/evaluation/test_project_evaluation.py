"""Evaluating projects and snapshots, up to the command on a file."""

import json
import sys
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from detector.cli.labelstudio.app import app
from detector.errors import ExtraMissing, InvalidRequest
from detector.label_studio.evaluation.evaluation import Evaluated
from detector.label_studio.evaluation.matching import EVALUATED_PARTS
from detector.label_studio.evaluation.project_evaluation import Annotated, annotator_of, read_snapshot, with_keypoints
from detector.label_studio.labels.config import any_style, generate, parse
from detector.label_studio.labels.regions import to_results
from detector.pose.skeleton import OKS_SIGMAS
from tests.support.commands import invoke, succeed
from tests.support.label_studio.evaluated import (
    LEFT_HAND,
    SIZE,
    by_hand,
    coco_figures,
    make_person,
    moved,
    part_of,
    without,
)
from tests.support.label_studio.regions import drawn_skeleton
from tests.support.label_studio.tasks import Json, make_annotation, make_task

SKELETON = parse(generate('skeleton'))
KEYPOINTS = parse(generate('keypoints'))
NOSE = 0


def evaluated(*tasks: Json, versions: tuple[str, ...] = (), config: Any = SKELETON) -> list[Any]:
    annotated = Annotated()
    for task in tasks:
        annotated.add(task, config)
    return annotated.evaluate(versions)


def snapshot(path: Path, *tasks: Json) -> Path:
    path.write_text(json.dumps(tasks))
    return path


# ---------------------------------------------------------------- the command, on a file


@pytest.mark.parametrize('config', [SKELETON, KEYPOINTS], ids=['skeletons', 'keypoints'])
def test_the_command_reproduces_an_oks_that_was_computed_by_hand(tmp_path: Path, config: Any) -> None:
    """The command reports the OKS computed by hand, exp(-d² / (2 · 0.53 · width · height · (2σ)²)), in both styles."""
    person = make_person(width=200, height=400)
    task = make_task(7, config, people=[by_hand(person)], predicted={'m 1.0': [moved(person, [NOSE], 12, -16)]})
    file, figures = snapshot(tmp_path / 'snapshot.json', task), tmp_path / 'figures' / 'figures.json'
    printed = succeed(app, 'evaluate', file, '--json', figures)
    expected = np.exp(-(20**2) / (2 * 0.53 * 200 * 400 * (2 * 0.026) ** 2))
    found = json.loads(figures.read_text())
    parts = {part['name']: part for part in found['evaluations'][0]['parts']}
    assert parts['body']['oks'] == pytest.approx((16 + expected) / 17, abs=1e-5)
    assert parts['whole_body']['oks'] == pytest.approx((132 + expected) / 133, abs=1e-5)
    assert parts['face']['oks'] == 1
    assert found['comparison'] is None
    assert 'm 1.0: 1 images, 1 people, 1 predicted, 0 missed, 0 surplus' in printed
    assert 'image7.jpg (task 7)' in printed
    assert 'nose' in printed
    assert f'{(16 + expected) / 17:.3f}' in printed


def test_the_command_has_the_precision_of_coco(tmp_path: Path) -> None:
    """The command's precision on four images equals that of faster-coco-eval, although regions are in percent."""
    rng = np.random.default_rng(3)
    images, tasks = [], []
    for number in range(1, 5):
        people, predicted = [], []
        for column in range(3):
            width, height = rng.uniform(100, 250, 2)
            person = make_person(100 + 280 * column, 200, width=width, height=height, seed=10 * number + column)
            spread = 10 ** rng.uniform(-1, 0.3) * np.sqrt(width * height) * OKS_SIGMAS[:, None]
            noise = np.clip(rng.normal(0, spread, (133, 2)), -90, 90)
            found = replace(
                person,
                keypoints=(person.keypoints + noise).astype(np.float32),
                box_score=round(float(rng.uniform()), 3),
            )
            people.append(by_hand(person))
            if column < number:
                predicted.append(found)
        images.append(Evaluated(name=str(number), people=people, predicted=predicted, model_version='m'))
        tasks.append(make_task(number, SKELETON, people=people, predicted={'m': predicted}, size=SIZE))
    figures = tmp_path / 'figures.json'
    succeed(app, 'evaluate', snapshot(tmp_path / 'snapshot.json', *tasks), '--json', figures)
    parts = {part['name']: part for part in json.loads(figures.read_text())['evaluations'][0]['parts']}
    for part in EVALUATED_PARTS:
        expected = coco_figures(images, part)
        assert 0.05 < expected[0] < 0.95, 'the data must distinguish a right result from a wrong one'
        found_figures = [parts[part.name][metric] for metric in ('ap', 'ap50', 'ap75', 'ar')]
        assert found_figures == pytest.approx(expected, abs=1e-5), part.name


def test_the_command_compares_versions_and_writes_a_report(tmp_path: Path) -> None:
    """The command compares all versions, the oldest first, or the chosen ones, and writes a report."""
    person = make_person()
    versions = {'z 1.0': [moved(person, LEFT_HAND.indices, 100)], 'a 1.1': [person]}
    file = snapshot(tmp_path / 's.json', make_task(1, KEYPOINTS, people=[person], predicted=versions))
    report, figures = tmp_path / 'report.html', tmp_path / 'figures.json'
    printed = succeed(app, 'evaluate', file, '--html', report, '--json', figures)
    comparison = json.loads(figures.read_text())['comparison']
    assert comparison['versions'] == ['z 1.0', 'a 1.1']
    assert '+1.000' in printed
    assert 'a 1.1' in report.read_text()
    assert 'data:image/png' in report.read_text()
    printed = succeed(app, 'evaluate', file, '--model-version', 'a 1.1')
    assert 'z 1.0' not in printed


def test_the_command_takes_a_labeling_config_of_ones_own(tmp_path: Path) -> None:
    """The command accepts the labeling config of a project whose controls have other names."""
    xml = generate('keypoints', ['body']).replace('"kp"', '"punkte"')
    config = parse(xml)
    person = make_person()
    file = snapshot(tmp_path / 's.json', make_task(1, config, people=[person], predicted={'m': [person]}))
    own, figures = tmp_path / 'config.xml', tmp_path / 'figures.json'
    own.write_text(xml)
    succeed(app, 'evaluate', file, '--config', own, '--json', figures)
    parts = {part['name']: part['oks'] for part in json.loads(figures.read_text())['evaluations'][0]['parts']}
    assert (parts['body'], parts['face']) == (1, None)


def test_the_command_warns_with_numbers_of_tasks(tmp_path: Path) -> None:
    """The command warns on standard error and in the JSON about images without a size or with two sizes, and ends with
    the count of those that it leaves out and exit status 1."""
    person = make_person()
    good, small, unknown = (
        make_task(number, SKELETON, people=[person], predicted={'m': [person]}) for number in (1, 2, 3)
    )
    small['predictions'][0]['result'] = to_results([person], SKELETON, (500, 400))
    for part in (unknown['annotations'], unknown['predictions']):
        for region in part[0]['result']:
            del region['original_width']
    figures = tmp_path / 'figures.json'
    result = invoke(app, 'evaluate', snapshot(tmp_path / 's.json', good, small, unknown), '--json', figures)
    assert result.exit_code == 1
    assert result.stdout.endswith('left out: 1 task\n')
    assert 'warning: task 2: its image has 1000 × 800 pixels, but 500 × 400 for m' in result.stderr
    assert 'warning: task 3 is left out' in result.stderr
    found = json.loads(figures.read_text())
    assert len(found['warnings']) == 2
    assert len(found['evaluations'][0]['images']) == 2


@pytest.mark.parametrize('arguments', [[], ['FILE', '--project', '1'], ['--project', '1', '--config', 'FILE']])
def test_the_command_takes_projects_or_a_file(tmp_path: Path, arguments: list[str]) -> None:
    """The command takes either projects or a file, and a labeling config only with a file."""
    file = snapshot(tmp_path / 's.json')
    result = invoke(app, 'evaluate', *[str(file) if argument == 'FILE' else argument for argument in arguments])
    assert result.exit_code == 2


def test_a_missing_extra_is_told_before_anything_is_read(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A missing extra for figures or plots is reported before anything is read."""
    file = snapshot(tmp_path / 's.json')
    monkeypatch.setitem(sys.modules, 'matplotlib', None)
    result = invoke(app, 'evaluate', file, '--html', tmp_path / 'report.html')
    assert isinstance(result.exception, ExtraMissing)
    assert 'matplotlib' in str(result.exception)
    monkeypatch.setitem(sys.modules, 'faster_coco_eval', None)
    result = invoke(app, 'evaluate', file)
    assert isinstance(result.exception, ExtraMissing)
    assert 'extra `evaluate`' in str(result.exception)


# ---------------------------------------------------------------- tasks


def test_the_newest_annotation_that_is_not_skipped_counts() -> None:
    """The annotation that was changed last counts, skipped ones do not, and tasks without one are left out."""
    person = make_person()
    task = make_task(1, SKELETON, people=[moved(person, [NOSE], 50)], predicted={'m': [person]})
    right = make_annotation(3, to_results([person], SKELETON, SIZE), hour=15)
    skipped = make_annotation(99, [], was_cancelled=True, hour=18)
    task['annotations'] += [right, skipped]
    only_skipped = make_task(2, SKELETON, predicted={'m': [person]})
    only_skipped['annotations'] = [skipped]
    (found,) = evaluated(task, only_skipped, make_task(3, SKELETON, predicted={'m': [person]}))
    assert [image.name for image in found.images] == ['image1.jpg (task 1)']
    assert part_of(found, 'whole_body').oks == 1


def test_of_predictions_of_one_version_the_newest_counts() -> None:
    """The newest prediction of a version counts; one without a version is "undefined", as in Label Studio."""
    person = make_person()
    task = make_task(1, SKELETON, people=[person], predicted={'x': [person], 'y': [moved(person, [NOSE], 90)]})
    for prediction in task['predictions']:
        prediction['model_version'] = None
    (found,) = evaluated(task)
    assert found.model_version == 'undefined'
    oks = part_of(found, 'body').oks
    assert oks is not None
    assert oks < 1


def test_an_empty_annotation_means_no_persons() -> None:
    """With an empty annotation the predicted person is surplus, and its regions state the image size."""
    (found,) = evaluated(make_task(1, SKELETON, people=[], predicted={'m': [make_person()]}))
    assert (found.people, found.surplus) == (0, 1)
    (found,) = evaluated(make_task(1, SKELETON, people=[], predicted={'m': []}))
    assert [image.quality for image in found.images] == [1]


@pytest.mark.parametrize('style', ['skeleton', 'keypoints'])
def test_only_keypoints_that_annotators_could_label_count(style: Any) -> None:
    """Only keypoints that the labeling config offers count, even if a prediction has more."""
    person = make_person()
    wide, narrow = parse(generate(style)), parse(generate(style, ['body', 'left_hand']))
    task = make_task(1, narrow, people=[by_hand(person)])
    task['predictions'] = make_task(1, wide, predicted={'m': [person]})['predictions']
    (found,) = evaluated(task, config=narrow)
    assert {part.name for part in found.parts if part.oks is not None} == {'body', 'left_hand', 'whole_body'}
    assert part_of(found, 'whole_body').oks == 1
    assert sum(keypoint.removed for keypoint in found.keypoints) == 0


def test_either_style_of_annotations_and_predictions_can_be_read_together() -> None:
    """Annotations and predictions in different styles are compared."""
    person = make_person()
    task = make_task(1, KEYPOINTS, people=[by_hand(without(person, [NOSE]))])
    task['predictions'] = make_task(1, SKELETON, predicted={'m': [person]})['predictions']
    (found,) = evaluated(task, config=any_style())
    assert next(keypoint.removed for keypoint in found.keypoints if keypoint.name == 'nose') == 1
    assert part_of(found, 'whole_body').oks == pytest.approx(1)


# ---------------------------------------------------------------- what is refused


def test_nothing_to_compare_is_said() -> None:
    """Missing annotations, predictions or versions are reported."""
    person = make_person()
    with pytest.raises(InvalidRequest, match='no task has an annotation'):
        evaluated(make_task(1, SKELETON, predicted={'m': [person]}))
    with pytest.raises(InvalidRequest, match='none of the 1 annotated tasks has a usable prediction'):
        evaluated(make_task(1, SKELETON, people=[person]))
    with pytest.raises(InvalidRequest, match="no annotated task has a prediction of 'x', only of m, n"):
        evaluated(make_task(1, SKELETON, people=[person], predicted={'m': [], 'n': []}), versions=('x',))


def test_a_labeling_config_without_keypoints_is_refused() -> None:
    """A labeling config without keypoints is refused."""
    config = replace(SKELETON, skeletons=None)
    with pytest.raises(InvalidRequest, match='no keypoints'):
        with_keypoints(config)


@pytest.mark.parametrize(
    ('content', 'text'),
    [
        ('{', 'is not JSON'),
        ('{}', 'must be a list'),
        ('[1]', 'has no data and annotations'),
        ('[{"data": {}, "id": 1}]', 'not as JSON-MIN'),
        (
            '[{"data": {}, "id": 4, "annotations": [{"result": []}], "predictions": [12]}]',
            'task 4: the file lists its predictions by number only; export a snapshot',
        ),
    ],
)
def test_files_that_are_no_snapshot_are_refused(tmp_path: Path, content: str, text: str) -> None:
    """A file that is not a snapshot is refused with a hint what to export."""
    file = tmp_path / 's.json'
    file.write_text(content)
    with pytest.raises(InvalidRequest, match=text):
        read_snapshot(file, Annotated())


def test_odd_tasks_do_no_harm() -> None:
    """Malformed tasks are left out with a line, and raise nothing."""
    annotated = Annotated()
    annotated.add({}, SKELETON)
    annotated.add({'annotations': [None, {'result': [None, 3, {}]}], 'predictions': [None, {}]}, SKELETON)
    assert annotated.warnings == ['task 0 is left out: annotations[1].result[0] must be a mapping, not missing or null']
    with pytest.raises(InvalidRequest, match='none of the 1 annotated tasks has a usable prediction'):
        annotated.evaluate()


@pytest.mark.parametrize('name', ['data', 'annotations'])
def test_an_entry_that_is_no_task_does_not_stop_the_others(tmp_path: Path, name: str) -> None:
    """An entry of a snapshot that is not a task has a line with its place; the other tasks are evaluated."""
    person = make_person()
    tasks = [make_task(number, SKELETON, people=[person], predicted={'m': [person]}) for number in (1, 2, 3)]
    del tasks[1][name]
    annotated = Annotated()
    read_snapshot(snapshot(tmp_path / 's.json', *tasks), annotated)
    (line,) = annotated.warnings
    assert f'[1] is left out: it has no {name}; export the project again' in line
    assert len(annotated.evaluate()[0].images) == 2


def test_persons_that_cannot_be_read_are_not_counted_as_nobody() -> None:
    """A task whose only skeleton cannot be read is left out with its region, instead of counting as an empty image."""
    annotated = Annotated()
    task = make_task(7, SKELETON)
    half = drawn_skeleton('pose', 5, original_width=640, original_height=480)
    task['annotations'] = [make_annotation(70, [half])]
    annotated.add(task, SKELETON)
    assert annotated.warnings == [
        'task 7 has a skeleton pose (region drawn) with 5 points drawn by hand instead of 133 of its label',
        'task 7 is left out: none of its persons can be read',
    ]


# ---------------------------------------------------------------- agreement


def shared(number: int, **persons: Any) -> Json:
    """Make a task with an annotation of each annotator, an hour apart."""
    task = make_task(number, SKELETON)
    task['annotations'] = [
        make_annotation(10 * number + hour, to_results([by_hand(person)], SKELETON, SIZE), hour=hour)
        | {'completed_by': {'id': hour, 'email': f'{name}@example.com'}}
        for hour, (name, person) in enumerate(persons.items(), start=1)
    ]
    return task


def test_the_command_compares_annotators(tmp_path: Path) -> None:
    """Tables and JSON state the agreement per part, for annotators and for pairs, also without predictions."""
    person = make_person(width=200, height=400)
    file = snapshot(tmp_path / 'a.json', shared(1, ann=person, bea=moved(person, LEFT_HAND.indices, 100)))
    printed = succeed(app, 'evaluate', file, '--json', tmp_path / 'figures.json')
    assert 'agreement of 2 annotators on 1 image' in printed
    assert 'ann@example.com – bea@example.com' in printed
    found = json.loads((tmp_path / 'figures.json').read_text())
    assert found['evaluations'] == []
    (pair,) = found['agreement']['pairs']
    assert pair['annotators'] == ['ann@example.com', 'bea@example.com']
    assert pair['oks']['left_hand'] < 0.01
    assert pair['oks']['right_hand'] == 1
    assert len(found['agreement']['annotators']) == 2
    refused = invoke(app, 'evaluate', file, '--html', tmp_path / 'report.html').exception
    assert isinstance(refused, InvalidRequest)


def test_the_newest_annotation_of_each_annotator_counts() -> None:
    """An annotator's last annotation that is not skipped counts, and one annotator alone agrees with nobody."""
    person = make_person(width=200, height=400)
    task = shared(1, ann=moved(person, range(133), 50), bea=person)
    regions = to_results([by_hand(person)], SKELETON, SIZE)
    ann, other = task['annotations'][0]['completed_by'], {'id': 9, 'email': 'cai@example.com'}
    task['annotations'] += [
        make_annotation(20, regions, hour=20) | {'completed_by': ann},
        make_annotation(21, regions, hour=21, was_cancelled=True) | {'completed_by': other},
    ]
    annotated = Annotated()
    annotated.add(task, SKELETON)
    found = annotated.agreement()
    assert found is not None
    assert [pair.annotators for pair in found.pairs] == [('ann@example.com', 'bea@example.com')]
    assert found.pairs[0].oks['whole_body'] == 1
    alone = Annotated()
    task['annotations'] = [entry | {'completed_by': ann} for entry in task['annotations']]
    alone.add(task, SKELETON)
    assert alone.agreement() is None


@pytest.mark.parametrize(
    ('annotation', 'name'),
    [
        ({'completed_by': 3}, '3'),
        ({'completed_by': 3, 'created_username': ' Ann Lee ann@example.com, 3'}, 'ann@example.com'),
        ({'completed_by': 3, 'created_username': ' ann@example.com, 3'}, 'ann@example.com'),
        ({'completed_by': 3, 'created_username': 'of another form'}, '3'),
        ({'completed_by': {'id': 3, 'email': 'ann@example.com'}}, 'ann@example.com'),
        ({'completed_by': {'id': 3}}, '3'),
        ({}, 'unknown'),
    ],
)
def test_annotators_are_named_as_label_studio_states_them(annotation: Json, name: str) -> None:
    """An annotator is named by the e-mail address if Label Studio states it, or else by the number."""
    assert annotator_of(annotation) == name
