"""`wholebody labelstudio send-to-loop` with a mock Learning Loop."""

import base64
import io
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from benchmarks.support.loops import MockLoopProcess, running_mock_loop
from detector.cli.main import app
from detector.datasets.omissions import Omissions
from detector.errors import FolderInUse, LoopFault, ModelUnavailable, NoLearningLoop
from detector.label_studio.workflows import loop_export
from detector.label_studio.workflows.loop_export import open_export
from detector.models.embedded import EMBEDDED_PACKAGE
from detector.models.store import ModelStore
from detector.settings import load_settings
from tests.support.commands import invoke, succeed
from tests.support.label_studio.exported import Json, make_annotation, make_task, write_export
from tests.support.people import SIZE, make_image


def tasks() -> list[Json]:
    """Return tasks with one, two and three persons, the third one skipped."""
    found = []
    for number in (1, 2, 3):
        buffer = io.BytesIO()
        Image.new('RGB', SIZE, (40 * number, 0, 0)).save(buffer, 'PNG')
        address = 'data:image/png;base64,' + base64.b64encode(buffer.getvalue()).decode()
        kept = {'wholebody': {'image': {'file_name': f'{number}.png'}}}
        found.append(make_task(make_image(number, number), data={'image': address}, meta=kept))
    found[2]['annotations'][0]['was_cancelled'] = True
    return found


@pytest.fixture
def loop(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[MockLoopProcess]:
    """Start a mock Loop that the settings of this process name, with a DATA_FOLDER that has a model."""
    with running_mock_loop(tmp_path / 'loop') as running:
        for name, value in running.settings.items():
            monkeypatch.setenv(name, value)
        monkeypatch.setenv('DATA_FOLDER', str(tmp_path / 'data'))
        monkeypatch.delenv('LABEL_STUDIO_URL', raising=False)
        store = ModelStore(tmp_path / 'data')
        store.select(store.add(EMBEDDED_PACKAGE).version)
        yield running


def test_each_version_arrives_once(tmp_path: Path, loop: MockLoopProcess) -> None:
    """Each version arrives once with tags, coordinates and category ids, and changed annotations are sent again."""
    labelled = tasks()
    arguments: tuple[Any, ...] = ('labelstudio', 'send-to-loop', tmp_path / 'tasks.json')
    write_export(tmp_path / 'tasks.json', labelled)
    printed = succeed(app, *arguments)
    keypoints = sum(int(person.labelled.sum()) for number in (1, 2) for person in make_image(number, number).persons)
    assert f'2 images, 3 persons, {keypoints} keypoints\npassed over: 1 not labelled' in printed
    found = sorted((image['metadata'] for image in loop.images()), key=lambda metadata: str(metadata['source']))
    for metadata, number in zip(found, (1, 2), strict=True):
        assert sorted(metadata['tags']) == ['annotator_7', 'label_studio', 'project_3', f'task_{number}']
        assert metadata['source'] == f'Label Studio, annotation {2 * number}'
        assert len(metadata['box_annotations']) == number
        points = [(point['x'], point['y']) for point in metadata['point_annotations']]
        persons = make_image(number, number).persons
        expected = np.concatenate([person.keypoints[person.visibility > 0] for person in persons])
        np.testing.assert_allclose(points, expected, atol=0.011)
        assert all(point['category_id'] for point in metadata['point_annotations'])
    assert '0 images, 0 persons, 0 keypoints\npassed over: 1 not labelled, 2 sent before' in succeed(app, *arguments)
    labelled[0]['annotations'] = [make_annotation(2, [], updated_at='2026-11-22T00:00:00Z')]
    labelled[0]['meta']['wholebody']['image'] |= {'width': 640, 'height': 480}
    write_export(tmp_path / 'tasks.json', labelled)
    assert '1 image, 0 persons' in succeed(app, *arguments)
    assert len(loop.images()) == 3


@pytest.mark.parametrize(
    ('place', 'name'),
    [('task', 'project'), ('annotation', 'id'), ('annotation', 'updated_at'), ('task', 'id'), ('task', 'data')],
)
def test_a_task_that_cannot_be_sent_does_not_stop_the_others(
    tmp_path: Path, loop: MockLoopProcess, place: str, name: str
) -> None:
    """A task without the ids that identify its version is left out with a line and the remedy; the others are sent, and
    the exit status is 1."""
    labelled = tasks()
    changed = labelled[0] if place == 'task' else labelled[0]['annotations'][0]
    changed.pop('created_at', None)
    del changed[name]
    file = write_export(tmp_path / 'tasks.json', labelled)
    result = invoke(app, 'labelstudio', 'send-to-loop', file)
    assert result.exit_code == 1, result.output
    assert '1 image, 2 persons' in result.output
    assert 'left out: 1 ' in result.output
    assert [image['metadata']['source'] for image in loop.images()] == ['Label Studio, annotation 4']
    if (place, name) != ('task', 'id'):
        assert f'{"task 1" if name != "data" else "[0]"} is left out' in result.output
    if name not in ('id', 'data') or place == 'annotation':
        assert 'name the project with --project' in result.output


def test_what_the_loop_does_not_take_waits(
    tmp_path: Path, loop: MockLoopProcess, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Images that the Loop does not accept wait for the next run, which sends them with its own."""
    monkeypatch.setattr(loop_export, '_PATIENCE_SECONDS', 1.0)
    file = write_export(tmp_path / 'tasks.json', tasks())
    loop.stop()
    result = invoke(app, 'labelstudio', 'send-to-loop', file)
    assert isinstance(result.exception, LoopFault)
    assert '2 images wait' in str(result.exception)
    loop.start()
    monkeypatch.setattr(loop_export, '_PATIENCE_SECONDS', 60.0)
    assert '2 sent before' in succeed(app, 'labelstudio', 'send-to-loop', file)
    assert len(loop.images()) == 2


def test_only_one_export_at_a_time(loop: MockLoopProcess) -> None:
    """A second export at the same time is refused, and may begin after the first."""
    for _ in range(2):
        with (
            open_export(load_settings(), Omissions(print)),
            pytest.raises(FolderInUse, match='label_studio is in use by process'),
            open_export(load_settings(), Omissions(print)),
        ):
            pass


def test_what_it_needs_is_named(tmp_path: Path, loop: MockLoopProcess, monkeypatch: pytest.MonkeyPatch) -> None:
    """A missing Loop or model is reported."""
    monkeypatch.setenv('DATA_FOLDER', str(tmp_path / 'other'))
    file = write_export(tmp_path / 'tasks.json', tasks())
    arguments = ('labelstudio', 'send-to-loop', file)
    assert isinstance(invoke(app, *arguments).exception, ModelUnavailable)
    monkeypatch.delenv('LOOP_HOST')
    fault = invoke(app, *arguments).exception
    assert isinstance(fault, NoLearningLoop)
    assert str(fault).startswith('The command `send-to-loop` needs a Learning Loop')
    for option in (['--predictions'], ['--all'], ['-o', tmp_path / 'out']):
        assert invoke(app, *arguments, *option).exit_code == 2


def test_export_names_the_command_for_the_loop(tmp_path: Path) -> None:
    """`export --format loop` writes nothing and prints one line with the new command."""
    file = write_export(tmp_path / 'tasks.json', tasks())
    for options in ([], ['-o', tmp_path / 'out']):
        result = invoke(app, 'labelstudio', 'export', file, '--format', 'loop', *options)
        assert result.exit_code == 2
        assert result.stderr.splitlines() == [
            'error: --format loop has become a command: wholebody labelstudio send-to-loop'
        ]
    assert not (tmp_path / 'out').exists()
