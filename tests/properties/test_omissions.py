"""The mutation check: whatever is removed from a dataset or a project, the commands say so.

An example removes one file, entry or field. If other labels arrive than before, the output must differ, and the exit
status must be 1 unless the rest is a valid dataset of fewer persons or keypoints, which the counts of the output show.
"""

import base64
import copy
import functools
import json
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from tempfile import TemporaryDirectory
from types import SimpleNamespace
from typing import Any, cast
from unittest.mock import patch

import numpy as np
import pytest
import yaml
from hypothesis import example, given, settings
from hypothesis import strategies as st
from learning_loop_node.data_classes import ImageMetadata
from PIL import Image

from detector.cli.labelstudio import import_labels
from detector.cli.main import app
from detector.datasets.coco import to_coco
from detector.datasets.labelled_image import LabelledImage
from detector.datasets.omissions import Omissions
from detector.datasets.person import Person
from detector.datasets.poses_json import to_poses_json
from detector.datasets.yolo import write_yolo
from detector.label_studio.backend.correction_queue import CorrectionQueue
from detector.label_studio.labels.config import generate, parse
from detector.label_studio.labels.regions import from_results
from detector.label_studio.labels.task_labels import with_kept
from detector.label_studio.workflows import loop_export
from detector.label_studio.workflows.loop_export import LoopExport
from detector.models.package import categories
from detector.outbox.outbox import Outbox
from detector.settings import Settings
from tests.support.commands import invoke
from tests.support.label_studio.accepting_project import AcceptingProject
from tests.support.label_studio.exported import make_task
from tests.support.pictures import encoded

SIZE = (640, 480)
Path_ = list[str | int]
CATEGORY_IDS = {category['name']: category['id'] for category in categories()}


def person(seed: int, left: int) -> Person:
    """Make a person with a box, and all keypoints inside it."""
    rng = np.random.default_rng(seed)
    points = rng.uniform((left + 10, 40), (left + 140, 390), (133, 2)).astype(np.float32)
    visibility = rng.integers(0, 3, 133).astype(np.int8)
    box = np.array([left, 30, left + 150, 400], dtype=np.float32)
    return replace(Person.empty(), box=box, keypoints=points, visibility=visibility)


def picture(number: int, count: int) -> LabelledImage:
    persons = [person(10 * number + index, 200 * index) for index in range(count)]
    return LabelledImage(id=number, file_name=f'{number}.jpg', width=SIZE[0], height=SIZE[1], persons=persons)


IMAGES = [picture(1, 2), picture(2, 1), picture(3, 0)]
JPEG = encoded(Image.new('RGB', SIZE), 'JPEG')
DOCUMENTS = {
    'coco': to_coco(IMAGES),
    'flat coco': to_coco(IMAGES, flat=True),
    'json': to_poses_json(IMAGES),
}
ITEMS = ('persons', 'keypoints', 'annotations', 'images')
"""Lists and mappings from which an item may be removed without making the file invalid."""


def places(value: Any, path: Path_) -> Iterator[Path_]:
    """Yield the paths of all values in a document, but of only a few numbers in long lists."""
    items = value.items() if isinstance(value, dict) else enumerate(value) if isinstance(value, list) else ()
    for key, inner in items:
        if isinstance(value, list) and isinstance(inner, int | float) and key not in (0, 7, len(value) - 1):
            continue
        yield [*path, key]
        yield from places(inner, [*path, key])


def without(document: Any, path: Path_) -> Any:
    changed = copy.deepcopy(document)
    del at(changed, path[:-1])[path[-1]]
    return changed


def is_smaller(path: Path_) -> bool:
    """Return True if the rest is a valid dataset of fewer images, persons or keypoints."""
    return len(path) > 1 and path[-2] in ITEMS


def imported(labels: Path) -> tuple[dict[str, Any], str, int]:
    """Return the labels that arrive in the project, and the output and exit status of the command."""
    project = AcceptingProject([image.file_name for image in IMAGES])
    with patch.object(import_labels, 'in_project', project.in_project):
        result = invoke(app, 'labelstudio', 'import-labels', labels, '-p', '1', '--as', 'annotations')
    error = '' if isinstance(result.exception, SystemExit | None) else str(result.exception)
    config = parse(generate('skeleton'))
    arrived = {name: signature(from_results(results, config, SIZE)) for name, results in project.stored.items()}
    return arrived, result.output + error, result.exit_code


def signature(persons: list[Person]) -> list[Any]:
    return sorted(
        [
            [] if one.box is None else one.box.round(1).tolist(),
            one.visibility.tolist(),
            one.keypoints[one.labelled].round(1).tolist(),
        ]
        for one in persons
    )


def check_import(before: tuple[dict[str, Any], str, int], labels: Path, *, may_be_smaller: bool) -> None:
    """Check that a difference of the labels shows in the output and in the exit status of the command."""
    after = imported(labels)
    name = labels.parent.as_posix()
    if after[0] == before[0]:
        return
    assert after[1].replace(name, '') != before[1], 'other labels, and the same output'
    assert after[2] == 1 or may_be_smaller, after[1]
    for image, persons in after[0].items():
        assert may_be_smaller or not persons or len(persons) == len(before[0][image]), 'a person is missing'
        assert persons or not before[0][image] or may_be_smaller, 'an empty annotation'


@pytest.mark.parametrize('name', DOCUMENTS)
def test_nothing_vanishes_from_a_file_without_a_word(name: str) -> None:
    """A field, a number or an entry that is removed from a JSON dataset shows in the output of the import."""
    document = DOCUMENTS[name]
    with TemporaryDirectory() as folder:
        labels = Path(folder) / 'labels.json'
        labels.write_text(json.dumps(document))
        before = imported(labels)
        assert (len(before[0]), before[2]) == (3, 0), before[1]

        @settings(deadline=None)
        @given(st.sampled_from(list(places(document, []))))
        def check(path: Path_) -> None:
            labels.write_text(json.dumps(without(document, path)))
            check_import(before, labels, may_be_smaller=is_smaller(path))

        check()


def yolo_folder(folder: Path) -> Path:
    write_yolo(folder, IMAGES, val_share=0.4, image_bytes=lambda _: JPEG)
    data = yaml.safe_load((folder / 'data.yaml').read_text())
    (folder / 'data.yaml').write_text(yaml.safe_dump(data | {'path': '.'}))
    return folder


YOLO_FILES = ('data.yaml', 'images.json')


@settings(deadline=None)
@given(st.data())
def test_nothing_vanishes_from_a_yolo_folder_without_a_word(data: st.DataObject) -> None:
    """A file, a line, a number or a field that is removed from a YOLO dataset shows in the output of the import."""
    with TemporaryDirectory() as name:
        original = yolo_folder(Path(name) / 'original' / 'data')
        before = imported(original)
        assert (len(before[0]), before[2]) == (3, 0), before[1]
        folder = Path(name) / 'changed' / 'data'
        shutil.copytree(original, folder)
        files = sorted(path for path in folder.rglob('*') if path.is_file())
        path = data.draw(st.sampled_from(files))
        may_be_smaller = False
        match data.draw(st.sampled_from(['file', 'part'])):
            case 'part' if path.suffix == '.txt' and path.stat().st_size:
                lines = path.read_text().splitlines()
                line = data.draw(st.integers(0, len(lines) - 1))
                words = lines[line].split()
                word = data.draw(st.none() | st.integers(0, len(words) - 1))
                may_be_smaller = word is None
                lines[line] = '' if word is None else ' '.join(words[:word] + words[word + 1 :])
                path.write_text('\n'.join(lines))
            case 'part' if path.name in YOLO_FILES:
                load, dump = (yaml.safe_load, yaml.safe_dump) if path.suffix == '.yaml' else (json.loads, json.dumps)
                content = load(path.read_text())
                path.write_text(dump(without(content, data.draw(st.sampled_from(list(places(content, [])))))))
            case _:
                path.unlink()
        check_import(before, folder, may_be_smaller=may_be_smaller)


FORMATS = ('coco-wholebody', 'yolo-pose', 'fiftyone', 'json')


def exported(tasks: Any, kind: str) -> tuple[list[Any], str, int]:
    """Return the labels of an export, and the output and exit status of the command."""
    with TemporaryDirectory() as name:
        file, output = Path(name) / 'tasks.json', Path(name) / 'out'
        file.write_text(json.dumps(tasks))
        result = invoke(app, 'labelstudio', 'export', file, '--format', kind, '-o', output)
        error = '' if isinstance(result.exception, SystemExit | None) else str(result.exception)
        found = sorted(
            path for path in output.rglob('*') if path.name in ('labels.json', 'samples.json') or path.suffix == '.txt'
        )
        written = [labels_in(path) for path in found]
        return written, (result.output + error).replace(name, ''), result.exit_code


def labels_in(path: Path) -> Any:
    """Return the labels of a file without what is no label: origins, and places of keypoints that are not labelled."""
    if path.suffix == '.txt':
        return path.name, path.read_text()
    content = json.loads(path.read_text())
    for image in content.get('images', []):
        image.pop('origin', None)
        for one in image.get('persons', []):
            one['keypoints'] = {name: row for name, row in one['keypoints'].items() if row[2] > 0}
    return content


def task_places(tasks: Any) -> list[Path_]:
    """Return the paths of tasks, annotations, regions and their fields.

    Fields of vertices, notes of regions and whole choices of visibility are left out: a valid point without them is
    visible.
    """
    return [
        path
        for path in places(tasks, [])
        if 'vertices' not in path[:-2] and not ('result' in path and {'meta', 'text'} & set(path))
        if not (path[-2:-1] == ['result'] and at(tasks, path)['type'] == 'choices')
    ]


def at(document: Any, path: Path_) -> Any:
    """Return what lies at a path."""
    return functools.reduce(lambda item, key: item[key], path, document)


@pytest.mark.parametrize('style', ['skeleton', 'keypoints'])
def test_nothing_vanishes_from_a_project_without_a_word(style: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    """A task, an annotation, a region or a field that is removed from an export shows in the output, in each format."""
    for name in ('LABEL_STUDIO_URL', 'LABEL_STUDIO_API_TOKEN', 'LOOP_HOST', 'HOST'):
        monkeypatch.delenv(name, raising=False)
    tasks = [make_task(image, style, meta=with_kept({}, image)) for image in IMAGES]
    before = {kind: exported(tasks, kind) for kind in FORMATS}
    assert all(status == 0 for _, _, status in before.values()), before

    results = tasks[0]['annotations'][0]['result']
    box: Path_ = [0, 'annotations', 0, 'result', [region['type'] for region in results].index('rectanglelabels')]

    @settings(deadline=None)
    @given(st.sampled_from(task_places(tasks)), st.sampled_from(FORMATS))
    @example(box, 'yolo-pose')
    @example([*box, 'id'], 'coco-wholebody')
    def check(path: Path_, kind: str) -> None:
        after = exported(without(tasks, path), kind)
        if after[0] == before[kind][0]:
            return
        assert after[1] != before[kind][1], 'other labels, and the same output'
        # without an item of a list, the rest is a valid project
        assert after[2] == 1 or isinstance(path[-1], int), after[1]

    check()


class TakingLoop:
    """Takes the place of the outbox and of the queue of corrections, and keeps what would be sent.

    :param sent: boxes and points by the origin of the image.
    """

    def __init__(self) -> None:
        self.sent: dict[str, Any] = {}
        self.queue = SimpleNamespace(count=0, counters=SimpleNamespace(set_aside=0))

    @contextmanager
    def open_export(self, settings: Settings, omissions: Omissions) -> Iterator[LoopExport]:
        yield LoopExport(
            outbox=cast(Outbox, self),
            queue=cast(CorrectionQueue, SimpleNamespace(was_sent=lambda *_: False, finish=lambda *_: None)),
            category_ids=CATEGORY_IDS,
            max_pixels=settings.max_image_pixels,
            omissions=omissions,
        )

    async def start(self) -> None: ...

    async def close(self) -> None: ...

    async def save(self, _: bytes, metadata: ImageMetadata) -> None:
        boxes = sorted((box.x, box.y, box.width, box.height) for box in metadata.box_annotations)
        points = sorted((point.category_name, point.x, point.y) for point in metadata.point_annotations)
        self.sent[str(metadata.source)] = boxes, points


def sent_to_loop(tasks: Any) -> tuple[dict[str, Any], str, int]:
    """Return the labels that would arrive in the Loop, and the output and exit status of the command."""
    loop = TakingLoop()
    with TemporaryDirectory() as name, patch.object(loop_export, 'open_export', loop.open_export):
        file = Path(name) / 'tasks.json'
        file.write_text(json.dumps(tasks))
        result = invoke(app, 'labelstudio', 'send-to-loop', file)
    error = '' if isinstance(result.exception, SystemExit | None) else str(result.exception)
    return loop.sent, (result.output + error).replace(name, ''), result.exit_code


@pytest.mark.parametrize('style', ['skeleton', 'keypoints'])
def test_nothing_vanishes_on_the_way_to_the_loop_without_a_word(style: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    """A task, an annotation, a region or a field that is removed from an export shows in the output of send-to-loop,
    and no image is sent without persons because a field is missing."""
    for name in ('LABEL_STUDIO_URL', 'LABEL_STUDIO_API_TOKEN', 'LOOP_HOST', 'HOST'):
        monkeypatch.delenv(name, raising=False)
    address = f'data:image/jpeg;base64,{base64.b64encode(JPEG).decode()}'
    tasks = [make_task(image, style, data={'image': address}, meta=with_kept({}, image)) for image in IMAGES]
    before = sent_to_loop(tasks)
    assert (len(before[0]), before[2]) == (3, 0), before[1]

    @settings(deadline=None)
    @given(st.sampled_from(task_places(tasks)))
    def check(path: Path_) -> None:
        after = sent_to_loop(without(tasks, path))
        if after[0] == before[0]:
            return
        assert after[1] != before[1], 'other labels, and the same output'
        assert after[2] == 1 or isinstance(path[-1], int), after[1]
        for source, (boxes, _) in after[0].items():
            assert boxes or not before[0][source][0] or isinstance(path[-1], int), 'an image without persons'

    check()
