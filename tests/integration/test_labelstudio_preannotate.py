"""`wholebody labelstudio preannotate` with a real Label Studio, also killed and continued."""

import hashlib
import signal
import subprocess
import sys
import time
from collections import Counter
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest

from benchmarks.support.cards import FIGURES, make_card
from benchmarks.support.environments import python_with
from benchmarks.support.label_studio_api import Json, LabelStudio, Project, Refused
from benchmarks.support.processes import PROJECT, clean_environment
from detector.label_studio.labels.config import Style, generate, parse
from detector.label_studio.labels.regions import from_results
from detector.pose import images
from mock.test_card.cards import Figure
from tests.support.label_studio.drawn import assert_drawn

pytestmark = pytest.mark.integration

VERSION = 'test-card 0.0'
"""Version of the embedded model."""
SIZE = (720, 480)
_SECONDS = 500
"""Time limit in seconds; Ray starts slowly, especially on a busy machine."""


def command(
    studio: LabelStudio, folder: Path, project: Project, *options: object, python: Sequence[object] = (sys.executable,)
) -> Any:
    """Start a process of the command."""
    environment = clean_environment(
        LABEL_STUDIO_URL=studio.url, LABEL_STUDIO_API_TOKEN=studio.personal_token(), DATA_FOLDER=folder / 'data'
    )
    call = [*python, '-m', 'detector', 'labelstudio', 'preannotate', '--project', project.id, *options]
    return subprocess.Popen(
        [str(part) for part in call],
        cwd=PROJECT,
        env=environment,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
    )


def ended(process: Any) -> tuple[int, str]:
    """Wait for a process, and return its exit code and output."""
    try:
        output, _ = process.communicate(timeout=_SECONDS)
    except subprocess.TimeoutExpired:
        process.kill()
        output, _ = process.communicate()
        raise AssertionError(f'not done after {_SECONDS} s: {output}') from None
    return process.returncode, output


def cards(count: int) -> list[tuple[tuple[Figure, ...], bytes]]:
    """Make distinct cards of two persons."""
    found: list[tuple[tuple[Figure, ...], bytes]] = []
    for number in range(count):
        first, second = FIGURES
        moved = (
            Figure(x=first.x + number % 20, y=first.y + number // 20 % 20, height=first.height),
            Figure(x=second.x - number % 7, y=second.y, height=second.height),
        )
        found.append((moved, images.encode_jpeg(make_card(moved), quality=90)))
    return found


def project_of(studio: LabelStudio, pictures: Sequence[bytes], style: Style = 'keypoints') -> tuple[Project, list[int]]:
    project = studio.create_project(generate(style))
    ids = []
    for start in range(0, len(pictures), 100):
        ids += project.upload([(f'{start + n}.jpg', image) for n, image in enumerate(pictures[start : start + 100])])
    return project, ids


def without_ids(prediction: Json) -> list[Json]:
    """Return regions without ids and references to them, which are new each time."""
    kept = []
    for region in prediction['result']:
        meta = {key: value for key, value in (region.get('meta') or {}).items() if key != 'person'}
        kept.append({key: value for key, value in region.items() if key not in ('id', 'parentID')} | {'meta': meta})
    return kept


@pytest.mark.parametrize('style', ['keypoints', 'skeleton'])
def test_predictions_lie_where_the_figures_were_drawn(
    strict_label_studio: LabelStudio, tmp_path: Path, style: Style
) -> None:
    drawn = cards(5)
    project, ids = project_of(strict_label_studio, [image for _, image in drawn], style)
    code, output = ended(command(strict_label_studio, tmp_path, project))
    assert code == 0, output
    assert '5 of 5 tasks have a new prediction of test-card 0.0' in output
    stored = {prediction['task']: prediction for prediction in project.predictions()}
    for task, (figures, _) in zip(ids, drawn, strict=True):
        assert stored[task]['model_version'] == VERSION
        assert 0 < stored[task]['score'] < 1
        assert_drawn(from_results(stored[task]['result'], parse(generate(style))), figures, SIZE)
    code, output = ended(command(strict_label_studio, tmp_path, project))
    assert (code, 'every task has a prediction of test-card 0.0' in output) == (0, True)
    assert len(project.predictions()) == 5


def test_five_hundred_tasks_survive_two_kills_without_duplicates(label_studio: LabelStudio, tmp_path: Path) -> None:
    pictures = [image for _, image in cards(125)]
    project, ids = project_of(label_studio, pictures * 4)
    for at_least in (64, 224):
        process = command(label_studio, tmp_path, project)
        deadline = time.monotonic() + _SECONDS
        while len(project.predictions()) < at_least:
            assert process.poll() is None, process.communicate()
            assert time.monotonic() < deadline
            time.sleep(0.2)
        process.kill()
        process.communicate()
    assert len(project.predictions()) < 500, 'the second kill came after the end of the run'
    code, output = ended(command(label_studio, tmp_path, project))
    assert code == 0, output
    counts = Counter(prediction['task'] for prediction in project.predictions())
    assert counts == dict.fromkeys(ids, 1)


def test_two_runs_at_once_and_ctrl_c_end_well(label_studio: LabelStudio, tmp_path: Path) -> None:
    """After Ctrl-C a run says how to continue; two runs at the same time then end with status 0 and leave one
    prediction per task."""
    project, ids = project_of(label_studio, [image for _, image in cards(100)])
    process = command(label_studio, tmp_path, project)
    deadline = time.monotonic() + _SECONDS
    while not project.predictions():
        assert time.monotonic() < deadline
        time.sleep(0.2)
    process.send_signal(signal.SIGINT)
    code, output = ended(process)
    assert (code, 'run the command again: it continues' in output) == (130, True), output
    assert 'Traceback' not in output
    for process in [command(label_studio, tmp_path / str(number), project) for number in range(2)]:
        code, output = ended(process)
        assert code == 0, output
    assert Counter(prediction['task'] for prediction in project.predictions()) == dict.fromkeys(ids, 1)


def test_versions_of_similar_names_and_predictions_stored_twice(label_studio: LabelStudio, tmp_path: Path) -> None:
    """Versions 0.0 and 0.0.1 are kept apart although Label Studio's filter confuses them, and duplicates are
    removed."""
    project, ids = project_of(label_studio, [image for _, image in cards(4)])
    twice = [{'task': task, 'result': [], 'score': 0.5, 'model_version': VERSION} for task in ids[:2]] * 2
    other = [{'task': task, 'result': [], 'score': 0.5, 'model_version': f'{VERSION}.1'} for task in ids[1:3]]
    assert project.import_predictions(twice + other) == 6
    code, output = ended(command(label_studio, tmp_path, project))
    assert code == 0, output
    assert '2 of 2 tasks have a new prediction' in output
    stored = [(found['task'], found['model_version']) for found in project.predictions()]
    expected = [(task, VERSION) for task in ids] + [(task, f'{VERSION}.1') for task in ids[1:3]]
    assert sorted(stored) == sorted(expected)


def test_what_fails_is_named_and_the_rest_is_stored(label_studio: LabelStudio, tmp_path: Path) -> None:
    (_, card), *_ = cards(1)
    project, good = project_of(label_studio, [card, card])
    bad = project.import_tasks([{'image': '/data/upload/1/gone.jpg'}, {'image': 'http://127.0.0.1:1/x.jpg'}])
    code, output = ended(command(label_studio, tmp_path, project))
    assert code == 1
    assert '2 of 4 tasks have a new prediction of test-card 0.0; 2 failed' in output
    for task in bad:
        assert f'task {task}: ' in output
    assert {prediction['task'] for prediction in project.predictions()} == set(good)


def test_a_wrong_token_and_a_missing_project_are_said(label_studio: LabelStudio, tmp_path: Path) -> None:
    class Stranger:
        url = label_studio.url

        def personal_token(self) -> str:
            return 'f' * 40

    project = Project(label_studio, 987654)
    code, output = ended(command(label_studio, tmp_path, project))
    assert (code, '--project 987654: there is no project' in output) == (1, True), output
    code, output = ended(command(Stranger(), tmp_path, project))  # type: ignore[arg-type]
    assert (code, 'LABEL_STUDIO_API_TOKEN' in output) == (1, True), output
    with pytest.raises(Refused):
        project.settings()


def test_ray_gives_the_same_predictions(label_studio: LabelStudio, tmp_path: Path) -> None:
    pins = PROJECT / 'requirements.lock'
    digest = hashlib.sha256(pins.read_bytes()).hexdigest()[:8]
    # Ray behaves differently below a process of `uv run`
    python = ('uv', 'run', '--no-project', python_with(f'ray-{digest}', 'ray[data]>=2.40', '-r', str(pins)))
    pictures = [image for _, image in cards(40)]
    plain, _ = project_of(label_studio, pictures)
    spread, _ = project_of(label_studio, pictures)
    assert ended(command(label_studio, tmp_path, plain))[0] == 0
    code, output = ended(command(label_studio, tmp_path, spread, '--ray', '--workers', 2, python=python))
    assert code == 0, output
    assert '40 of 40' in output
    one, other = (sorted(project.predictions(), key=lambda found: int(found['task'])) for project in (plain, spread))
    assert [without_ids(found) for found in one] == [without_ids(found) for found in other]
    assert [found['score'] for found in one] == [found['score'] for found in other]


def test_ray_without_the_extra_is_explained(label_studio: LabelStudio, tmp_path: Path) -> None:
    (tmp_path / 'ray.py').write_text('raise ImportError("not here")')
    project, _ = project_of(label_studio, [cards(1)[0][1]])
    environment = clean_environment(
        LABEL_STUDIO_URL=label_studio.url,
        LABEL_STUDIO_API_TOKEN=label_studio.personal_token(),
        DATA_FOLDER=tmp_path / 'data',
        PYTHONPATH=tmp_path,
    )
    call = [sys.executable, '-m', 'detector', 'labelstudio', 'preannotate', '--project', str(project.id), '--ray']
    done = subprocess.run(call, cwd=PROJECT, env=environment, capture_output=True, text=True, check=False, timeout=60)
    assert done.returncode == 1
    assert 'ray[data] is not installed; it comes with the extra `ray`' in done.stderr
