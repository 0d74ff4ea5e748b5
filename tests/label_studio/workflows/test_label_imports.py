"""Decisions before an import of labels: formats, tasks and files; the rest is tested with Label Studio itself."""

import json
from collections.abc import AsyncIterator, Sequence
from pathlib import Path
from typing import Any, cast

import pytest
from PIL import Image

from detector.cli.main import app
from detector.datasets.coco import to_coco
from detector.datasets.omissions import Omissions
from detector.datasets.poses_json import to_poses_json
from detector.datasets.yolo import write_yolo
from detector.errors import InvalidRequest, InvalidSettings, NotInLabelStudio
from detector.label_studio.labels.config import generate
from detector.label_studio.labels.task_labels import kept_of
from detector.label_studio.server.project import Json, Project
from detector.label_studio.workflows.label_imports import Importer, batches, files_of, guess, read_labels
from tests.support.commands import invoke
from tests.support.label_studio.imported import image, task
from tests.support.people import SIZE, make_image


def test_formats_are_recognised(tmp_path: Path) -> None:
    """The format is recognised by the content, and an unclear one is refused."""
    images = [make_image(2)]
    write_yolo(tmp_path / 'yolo', images, val_share=0)
    (tmp_path / 'coco.json').write_text(json.dumps(to_coco(images)))
    (tmp_path / 'own.json').write_text(json.dumps(to_poses_json(images)))
    for name, kind in (
        ('yolo', 'yolo-pose'),
        ('yolo/data.yaml', 'yolo-pose'),
        ('coco.json', 'coco'),
        ('own.json', 'json'),
    ):
        assert guess(tmp_path / name) == kind
        (read,) = read_labels(tmp_path / name, None)
        assert len(read.persons) == 2
    (tmp_path / 'other.json').write_text('[]')
    with pytest.raises(InvalidRequest, match='name it with --format'):
        guess(tmp_path / 'other.json')


def test_files_are_found_below_a_folder(tmp_path: Path) -> None:
    """A file is found at its full name, or anywhere below if unique, and a wrong size is reported."""
    for name in ('a.jpg', 'in/b.jpg', 'one/c.jpg', 'two/c.jpg', 'in/d.jpg'):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        Image.new('RGB', (64, 48) if 'd' in name else SIZE).save(tmp_path / name)
    (tmp_path / 'e.jpg').mkdir()
    lines: list[str] = []
    names = ('a.jpg', 'other/b.jpg', 'c.jpg', 'two/c.jpg', 'd.jpg', '../e.jpg', 'f.jpg', '..')
    images = [image(number, name) for number, name in enumerate(names, 1)]
    omissions = Omissions(lines.append)
    files = files_of(images, tmp_path, omissions)
    found_names = {number: path.relative_to(tmp_path).as_posix() for number, path in files.items()}
    assert found_names == {1: 'a.jpg', 2: 'in/b.jpg', 4: 'two/c.jpg', 5: 'in/d.jpg'}
    assert len(lines) == 2
    assert 'c.jpg or' in lines[0]
    assert '64×48' in lines[1]
    assert files_of(images, None, omissions) == {}
    assert omissions.summary == '1 file of an image, 1 size of an image'


def test_batches_hold_their_limits() -> None:
    """Batches stay within the limits of bytes and items, and a larger item goes alone."""
    megabyte = 1024**2
    assert [len(batch) for batch in batches([3, 3, 3, 20, 1], lambda size: size * megabyte)] == [2, 1, 1, 1]
    assert [len(batch) for batch in batches(range(250), lambda _: 1)] == [100, 100, 50]
    assert list(batches([], len)) == []


class ForgetfulProject:
    """Answers as Label Studio does, but stores only predictions with persons."""

    def __init__(self) -> None:
        self.stored: dict[int, list[Json]] = {1: [], 2: [], 3: []}

    async def label_config(self) -> str:
        return generate('keypoints', ['body'])

    async def tasks(self) -> AsyncIterator[Json]:
        for number in self.stored:
            yield task(number, f'/data/upload/1/31fe11d0-{number:04}.jpg')

    async def tasks_with(self, _: str) -> dict[int, bool]:
        return {number: True for number, predictions in self.stored.items() if predictions}

    async def change_task(self, task_id: int, **fields: Any) -> None:
        assert kept_of(fields['meta'])['id'] == task_id

    async def import_predictions(self, predictions: Sequence[Json]) -> int:
        kept = [prediction for prediction in predictions if prediction['result']]
        for prediction in kept:
            self.stored[prediction['task']].append(prediction | {'id': 7})
        return len(kept)

    async def predictions(self, task_id: int) -> list[Json]:
        return self.stored[task_id]

    async def remove_surplus(self, _: str) -> int:
        return 0


async def test_what_label_studio_drops_is_named() -> None:
    """Predictions that Label Studio silently drops and keypoints that the config lacks are reported."""
    lines: list[str] = []
    done: list[int] = []
    images = [make_image(count, number) for number, count in ((1, 2), (2, 0), (3, 1))]
    importer = Importer(
        project=cast(Project, ForgetfulProject()),
        model_version='v1',
        omissions=Omissions(lines.append),
        advance=done.append,
    )
    await importer.run(images)
    assert importer.counts.pop('keypoints') > 30
    assert importer.counts == {'imported': 2, 'persons': 3}
    assert importer.omissions.counts['image refused by Label Studio'] == 1
    assert '0002.jpg is not imported, refused by Label Studio: task 2' in lines
    assert any(line.startswith('0001.jpg: ') and 'keypoints are left out' in line for line in lines)
    assert sum(done) == 3


class RefusingProject(ForgetfulProject):
    """Refuses the labels of task 2: predictions with 400, together with all others in the request, annotations too."""

    async def import_predictions(self, predictions: Sequence[Json]) -> int:
        if any(prediction['task'] == 2 for prediction in predictions):
            raise InvalidRequest('Label Studio refuses them: task 2')
        return await super().import_predictions(predictions)

    async def annotate(self, task_id: int, result: Sequence[Json]) -> Json:
        if task_id == 2:
            raise NotInLabelStudio('Label Studio has no /api/tasks/2')
        annotation = {'id': 8, 'result': list(result)}
        self.stored[task_id].append(annotation)
        return annotation


@pytest.mark.parametrize('version', ['v1', None])
async def test_labels_that_label_studio_refuses_do_not_stop_the_others(version: str | None) -> None:
    """Predictions or an annotation that Label Studio refuses have a line; those of all other images are imported."""
    lines: list[str] = []
    done: list[int] = []
    project = RefusingProject()
    importer = Importer(
        project=cast(Project, project), model_version=version, omissions=Omissions(lines.append), advance=done.append
    )
    await importer.run([make_image(1, number) for number in (1, 2, 3)])
    assert [bool(labels) for labels in project.stored.values()] == [True, False, True]
    assert importer.counts['imported'] == 2
    assert importer.omissions.counts['image refused by Label Studio'] == 1
    assert any(line.startswith('0002.jpg is not imported, refused by Label Studio: Label Studio ') for line in lines)
    assert sum(done) == 3


async def test_versions_have_no_commas() -> None:
    """A model version with commas is refused, since Label Studio joins versions by commas."""
    for version in ('a,b', ' '):
        importer = Importer(project=cast(Project, ForgetfulProject()), model_version=version, omissions=Omissions())
        with pytest.raises(InvalidRequest, match='without commas'):
            await importer.run([])


def test_label_studio_must_be_configured(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The error for a missing Label Studio names the setting."""
    monkeypatch.delenv('LABEL_STUDIO_URL', raising=False)
    (tmp_path / 'own.json').write_text(json.dumps(to_poses_json([make_image(1)])))
    result = invoke(app, 'labelstudio', 'import-labels', tmp_path / 'own.json', '-p', '1')
    assert isinstance(result.exception, InvalidSettings)
    assert 'LABEL_STUDIO_URL' in str(result.exception)
