"""What is decided before labels are imported: formats, tasks, files; the rest needs Label Studio itself."""

import json
from collections.abc import AsyncIterator, Sequence
from pathlib import Path
from typing import Any, cast

import pytest
from PIL import Image

from detector.cli.main import app
from detector.datasets.coco import to_coco
from detector.datasets.labelled_image import LabelledImage
from detector.datasets.poses_json import to_poses_json
from detector.datasets.yolo import write_yolo
from detector.errors import InvalidRequest, InvalidSettings
from detector.label_studio.labels.config import generate
from detector.label_studio.labels.task_labels import kept_of, with_kept
from detector.label_studio.server.project import Json, Project
from detector.label_studio.workflows.label_imports import Importer, batches, files_of, guess, read_labels
from detector.label_studio.workflows.task_matching import Matches, match
from tests.support.commands import invoke
from tests.support.people import SIZE, make_image


def image(number: int, name: str) -> LabelledImage:
    return make_image(0, number, file_name=name)


def task(number: int, address: str, **meta: Any) -> dict[str, Any]:
    return {'id': number, 'data': {'image': address}, 'meta': meta}


def found(matches: Matches) -> dict[int, int]:
    return {one.id: other['id'] for one, other in matches.found}


def named(matches: Sequence[tuple[LabelledImage, str]]) -> list[int]:
    return sorted(one.id for one, _ in matches)


def test_formats_are_recognised(tmp_path: Path) -> None:
    """By the content; what may be anything is refused."""
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
    with pytest.raises(InvalidRequest, match='say so with --format'):
        guess(tmp_path / 'other.json')


def test_names_find_their_tasks() -> None:
    """Uploads with what Label Studio makes of the name; names in folders; those that an import has kept."""
    tasks = [
        task(1, '/data/upload/4/31fe11d0-a_b1.jpg'),
        task(2, '/data/upload/4/31fe11d1-Stra%C3%9Fe.jpg'),
        task(3, '/data/local-files/?d=photos/c.jpg'),
        task(4, '/data/upload/4/31fe11d2-x.jpg', **with_kept({}, image(9, 'val2017/d.jpg'))),
        task(5, 'https://host/e.jpg'),
        task(6, '/data/upload/4/31fe11d3-0815.jpg', file='f+f.jpg'),
    ]
    names = ('a b(1).jpg', 'Straße.jpg', 'photos/c.jpg', 'val2017/d.jpg', 'in/e.jpg', 'f+f.jpg', 'g.jpg')
    matches = match([image(10 + number, name) for number, name in enumerate(names, 1)], tasks, 'image')
    assert found(matches) == {11: 1, 12: 2, 13: 3, 14: 4, 15: 5, 16: 6}
    assert [one.id for one in matches.missing] == [17]
    assert not matches.ambiguous


def test_the_hash_counts_most() -> None:
    """Also against another name."""
    tasks = [
        task(1, '/data/upload/4/31fe11d0-b.jpg', sha256='AA'),
        task(2, '/data/upload/4/31fe11d0-a.jpg', sha256='bb'),
    ]
    matches = match([image(1, 'a.jpg'), image(2, 'b.jpg')], tasks, 'image', {1: 'aa', 2: 'bb'})
    assert found(matches) == {1: 1, 2: 2}


def test_nothing_is_guessed() -> None:
    """Two tasks of a name, or two images for a task: neither is taken; a whole name beats one without folders."""
    tasks = [
        task(1, '/data/upload/4/31fe11d0-a.jpg'),
        task(2, '/data/upload/4/31fe11d1-a.jpg'),
        task(3, '/data/upload/4/31fe11d1-b.jpg'),
        task(4, '/data/local-files/?d=one/c.jpg'),
        task(5, '/data/local-files/?d=two/c.jpg'),
        {'id': 6, 'data': None, 'meta': None},
    ]
    names = ('a.jpg', 'x/b.jpg', 'y/b.jpg', 'two/c.jpg', 'three/c.jpg')
    matches = match([image(number, name) for number, name in enumerate(names, 1)], tasks, 'image')
    assert found(matches) == {4: 5}
    assert named(matches.ambiguous) == [1, 2, 3, 5]
    matches = match([image(1, 'b.jpg'), image(2, 'y/b.jpg')], tasks, 'image')
    assert found(matches) == {1: 3}
    assert matches.ambiguous[0][1] == 'task 3 fits b.jpg as well'


def test_what_a_task_keeps_of_an_image() -> None:
    """Beside what its meta has; read again as it was."""
    meta = with_kept({'sha256': 'aa', 'wholebody': {'other': 1}}, make_image(0, 5, extra={'license': 4}))
    assert meta['sha256'] == 'aa'
    assert meta['wholebody']['other'] == 1
    assert kept_of(meta) == {'license': 4, 'id': 5, 'file_name': '0005.jpg', 'width': SIZE[0], 'height': SIZE[1]}
    assert kept_of(None) == kept_of({'wholebody': []}) == {}


def test_files_are_found_below_a_folder(tmp_path: Path) -> None:
    """Under the whole name, or anywhere if there is one only; of two none is taken; a wrong size is reported."""
    for name in ('a.jpg', 'in/b.jpg', 'one/c.jpg', 'two/c.jpg', 'in/d.jpg'):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        Image.new('RGB', (64, 48) if 'd' in name else SIZE).save(tmp_path / name)
    (tmp_path / 'e.jpg').mkdir()
    lines: list[str] = []
    names = ('a.jpg', 'other/b.jpg', 'c.jpg', 'two/c.jpg', 'd.jpg', '../e.jpg', 'f.jpg', '..')
    images = [image(number, name) for number, name in enumerate(names, 1)]
    files = files_of(images, tmp_path, lines.append)
    found_names = {number: path.relative_to(tmp_path).as_posix() for number, path in files.items()}
    assert found_names == {1: 'a.jpg', 2: 'in/b.jpg', 4: 'two/c.jpg', 5: 'in/d.jpg'}
    assert len(lines) == 2
    assert 'c.jpg or' in lines[0]
    assert '64×48' in lines[1]
    assert files_of(images, None, lines.append) == {}


def test_batches_hold_their_limits() -> None:
    """Of bytes and of items; what is too large goes alone."""
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
    """It says nothing itself; and what the config has no place for is named, too."""
    lines: list[str] = []
    done: list[int] = []
    images = [make_image(count, number) for number, count in ((1, 2), (2, 0), (3, 1))]
    importer = Importer(
        project=cast(Project, ForgetfulProject()), model_version='v1', warn=lines.append, advance=done.append
    )
    await importer.run(images)
    assert importer.counts == {'imported': 2, 'persons': 3, 'refused by Label Studio': 1}
    assert '0002.jpg is not imported, refused by Label Studio: task 2' in lines
    assert any(line.startswith('0001.jpg: ') and 'keypoints for which' in line for line in lines)
    assert sum(done) == 3


async def test_versions_have_no_commas() -> None:
    """Label Studio lists those of a task with commas between."""
    for version in ('a,b', ' '):
        importer = Importer(project=cast(Project, ForgetfulProject()), model_version=version, warn=print)
        with pytest.raises(InvalidRequest, match='without commas'):
            await importer.run([])


def test_label_studio_must_be_configured(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The error names the setting."""
    monkeypatch.delenv('LABEL_STUDIO_URL', raising=False)
    (tmp_path / 'own.json').write_text(json.dumps(to_poses_json([make_image(1)])))
    result = invoke(app, 'labelstudio', 'import-labels', tmp_path / 'own.json', '-p', '1')
    assert isinstance(result.exception, InvalidSettings)
    assert 'LABEL_STUDIO_URL' in str(result.exception)
