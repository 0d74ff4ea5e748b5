"""Exporting labels from a real Label Studio and importing them, with the commands."""

import copy
import json
import os
import subprocess
import sys
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import httpx
import numpy as np
import pytest
from PIL import Image

from benchmarks.support.label_studio_api import Json, LabelStudio
from benchmarks.support.loops import running_mock_loop
from benchmarks.support.processes import PROJECT, clean_environment, running_node
from benchmarks.support.waiting import eventually
from detector.datasets.coco import from_coco
from detector.datasets.labelled_image import LabelledImage
from detector.datasets.person import Person
from detector.datasets.poses_json import read_poses_json, to_poses_json
from detector.label_studio.labels.config import Style, generate
from detector.pose.skeleton import KEYPOINT_NAMES
from tests.support.integration.dataset_readers import read_by_fiftyone, read_by_ultralytics
from tests.support.people import dataset_file, make_image

pytestmark = pytest.mark.integration

DATA = os.environ.get('WHOLEBODY_TEST_DATA')
STYLES = pytest.mark.parametrize('style', ['keypoints', 'skeleton'])


@pytest.fixture(scope='module')
def studio(strict_label_studio: LabelStudio) -> LabelStudio:
    return strict_label_studio


@dataclass(frozen=True)
class Commands:
    """Runs `wholebody labelstudio` in processes of its own."""

    folder: Path
    settings: dict[str, Any]

    def __call__(self, *arguments: Any, fails: bool = False) -> str:
        """Return the output of a command, errors last."""
        command = [sys.executable, '-m', 'detector', 'labelstudio', *map(str, arguments)]
        environment = clean_environment(**{'DATA_FOLDER': self.folder / 'data'} | self.settings)
        environment['PYTHONPATH'] = str(PROJECT)
        done = subprocess.run(
            command, check=False, cwd=self.folder, env=environment, capture_output=True, text=True, timeout=300
        )
        assert (done.returncode != 0) == fails, done.stdout + done.stderr
        token = self.settings['LABEL_STUDIO_API_TOKEN']
        assert token not in done.stdout + done.stderr
        return done.stdout + done.stderr


@pytest.fixture
def wholebody(tmp_path: Path, studio: LabelStudio) -> Commands:
    settings = {'LABEL_STUDIO_URL': studio.url, 'LABEL_STUDIO_API_TOKEN': studio.personal_token()}
    return Commands(tmp_path, settings)


def write_images(folder: Path, images: Sequence[LabelledImage]) -> None:
    """Write an image file of its own colour for each image, in its size."""
    for number, image in enumerate(images):
        path = folder / image.file_name
        path.parent.mkdir(parents=True, exist_ok=True)
        Image.new('RGB', image.size, (number, 99, 20)).save(path, quality=95)


def write_poses(path: Path, images: Sequence[LabelledImage]) -> Path:
    path.write_text(json.dumps(to_poses_json(images)))
    return path


def assert_same_images(found: Sequence[LabelledImage], expected: Sequence[LabelledImage]) -> None:
    """Compare persons in any order: coordinates within 0.01 pixels or 0.01 %, all else equal."""
    assert [image.file_name for image in found] == [image.file_name for image in expected]
    for image, other in zip(found, expected, strict=True):
        assert image.size == other.size
        assert len(image.persons) == len(other.persons)
        assert len({id(_nearest(person, image.persons)) for person in other.persons}) == len(other.persons)
        for person in other.persons:
            assert_same_person(_nearest(person, image.persons), person, within=max(0.01, max(image.size) / 10_000))


def assert_same_person(one: Person, other: Person, *, within: float) -> None:
    np.testing.assert_array_equal(one.visibility, other.visibility)
    labelled = other.visibility > 0
    np.testing.assert_allclose(one.keypoints[labelled], other.keypoints[labelled], rtol=0, atol=within)
    assert (one.box is None) == (other.box is None)
    if one.box is not None and other.box is not None:
        np.testing.assert_allclose(one.box, other.box, rtol=0, atol=within)


def _nearest(person: Person, others: Sequence[Person]) -> Person:
    def distance(other: Person) -> float:
        boxes = [np.full(4, -1000.0) if one.box is None else one.box for one in (person, other)]
        return float(np.abs(boxes[0] - boxes[1]).sum() + np.abs(person.visibility - other.visibility).sum())

    return min(others, key=distance)


@STYLES
def test_poses_go_round(studio: LabelStudio, wholebody: Commands, style: Style) -> None:
    """Poses survive predictions, accepted annotations, export, import into a second project, and export."""
    images = [make_image(count, count) for count in range(1, 9)]
    folder = wholebody.folder
    write_images(folder / 'images', images)
    poses = write_poses(folder / 'poses.json', images)
    first, second = (studio.create_project(generate(style)) for _ in range(2))
    printed = wholebody('import-labels', poses, '-p', first.id, '--images', 'images', '--model-version', 'v1')
    assert '8 images with 36 persons as predictions, 8 new tasks' in printed
    assert len(first.predictions()) == 8
    wholebody('export', '-p', first.id, '--predictions', '--format', 'json', '-o', 'predictions.json')
    assert_same_images(read_poses_json(folder / 'predictions.json'), images)
    first.accept_predictions()
    wholebody('export', '-p', first.id, '--format', 'json', '-o', 'accepted.json')
    wholebody('export', '-p', first.id, '--format', 'coco-wholebody', '--images', '-o', 'coco')
    accepted = read_poses_json(folder / 'accepted.json')
    assert_same_images(accepted, images)
    for image in images:
        assert (folder / 'coco' / 'images' / image.file_name).read_bytes() == (
            folder / 'images' / image.file_name
        ).read_bytes()
    source = folder / ('accepted.json' if style == 'skeleton' else 'coco/labels.json')
    wholebody('import-labels', source, '-p', second.id, '--as', 'annotations', '--images', 'coco/images')
    wholebody('export', '-p', second.id, '--format', 'json', '-o', 'second.json')
    again = read_poses_json(folder / 'second.json')
    if style == 'keypoints':  # COCO gives every person a box
        again = [_without_new_boxes(image, other) for image, other in zip(again, images, strict=True)]
    assert_same_images(again, images)
    content = json.loads((folder / 'second.json').read_text())
    assert {image['origin']['project'] for image in content['images']} == {second.id}


def _without_new_boxes(image: LabelledImage, original: LabelledImage) -> LabelledImage:
    boxes = [person.box for person in original.persons if person.box is not None]
    persons = [
        person
        if person.box is not None and any(np.abs(person.box - box).max() < 0.05 for box in boxes)
        else replace(person, box=None)
        for person in image.persons
    ]
    return replace(image, persons=persons)


def make_dataset() -> Json:
    """Make four images with fourteen persons, crowds included, in COCO-WholeBody's form."""
    content = dataset_file()
    person, crowd = content['annotations']
    image = content['images'][0]
    images, annotations = [], []
    rng = np.random.default_rng(3)
    for number, count in enumerate((2, 3, 4, 5)):
        image_id = 1000 + number
        images.append(image | {'id': image_id, 'file_name': f'{image_id:012}.jpg', 'flickr_url': f'http://f/{number}'})
        for index in range(count):
            one = copy.deepcopy(crowd if index == 4 else person)
            for field in ('keypoints', 'foot_kpts', 'face_kpts', 'righthand_kpts'):
                one[field] = _shifted(one[field], int(rng.integers(0, 20)))
            one['bbox'][0] = round(one['bbox'][0] - 30 * index - number, 2)
            one['bbox'][0] = max(one['bbox'][0], 0.0)
            annotations.append(one | {'image_id': image_id, 'id': 5000 + 10 * number + index})
    return content | {'images': images, 'annotations': annotations}


def _shifted(numbers: list[float], by: int) -> list[float]:
    """Shift labelled points by whole pixels."""
    return [
        round(number + by, 5) if axis % 3 < 2 and numbers[axis - axis % 3 + 2] > 0 else number
        for axis, number in enumerate(numbers)
    ]


def assert_same_file(found: Json, expected: Json) -> None:
    """Compare field by field, including the type and the last digit of each number."""
    assert found['categories'] == expected['categories']
    assert found['licenses'] == expected['licenses']
    for name in ('images', 'annotations'):
        ours, theirs = (sorted(content[name], key=lambda entry: int(entry['id'])) for content in (found, expected))
        for one, other in zip(ours, theirs, strict=True):
            assert {field: json.dumps(one[field]) for field in one} == {
                field: json.dumps(other[field]) for field in other
            }


@STYLES
@pytest.mark.skipif(DATA is None, reason='WHOLEBODY_TEST_DATA names no folder with annotations')
def test_the_dataset_s_own_annotations_come_back(studio: LabelStudio, wholebody: Commands, style: Style) -> None:
    """The dataset's own annotations, accepted as predictions, are exported field by field."""
    original = json.loads((Path(str(DATA)) / 'coco_wholebody_two_images.json').read_text())
    write_images(wholebody.folder / 'images', from_coco(original))
    (wholebody.folder / 'coco.json').write_text(json.dumps(original))
    project = studio.create_project(generate(style))
    wholebody('import-labels', 'coco.json', '-p', project.id, '--images', 'images')
    project.accept_predictions()
    wholebody('export', '-p', project.id, '-o', 'back.json')
    back = json.loads((wholebody.folder / 'back.json').read_text())
    named = [entry for entry in original['licenses'] if entry in back['licenses']]
    assert_same_file(back, original | {'licenses': named})


@STYLES
def test_a_dataset_comes_back_field_by_field(studio: LabelStudio, wholebody: Commands, style: Style) -> None:
    """An unchanged dataset is exported field by field, and a moved point changes only what depends on it."""
    original = make_dataset()
    assert (len(original['images']), len(original['annotations'])) == (4, 14)
    folder = wholebody.folder
    (folder / 'coco.json').write_text(json.dumps(original))
    write_images(folder / 'images', from_coco(original))
    project = studio.create_project(generate(style))
    printed = wholebody('import-labels', 'coco.json', '-p', project.id, '--as', 'annotations', '--images', 'images')
    assert '4 images with 14 persons as annotations, 4 new tasks' in printed
    wholebody('export', '-p', project.id, '-o', 'back.json')
    assert_same_file(json.loads((folder / 'back.json').read_text()), original)

    task = next(task for task in project.tasks() if task['meta']['wholebody']['image']['id'] == 1001)
    result = task['annotations'][0]['result']
    _move(result, 'left_wrist', 1.0)
    project.annotate(task['id'], result)
    wholebody('export', '-p', project.id, '-o', 'moved.json')
    moved = json.loads((folder / 'moved.json').read_text())
    differing = []
    for one in moved['annotations']:
        other = next(entry for entry in original['annotations'] if entry['id'] == one['id'])
        differing += [(one, other, field) for field in one if json.dumps(one[field]) != json.dumps(other[field])]
    ((one, other, field),) = differing
    assert (one['image_id'], field) == (1001, 'keypoints')
    changed = [index for index in range(51) if one['keypoints'][index] != other['keypoints'][index]]
    assert changed == [27]  # x of the left wrist
    assert one['keypoints'][27] == pytest.approx(other['keypoints'][27] + 6.4, abs=0.01)


def _move(result: list[Json], name: str, percent: float) -> None:
    """Move the first person's keypoint to the right."""
    for region in result:
        if region['value'].get('keypointlabels') == [name]:
            region['value']['x'] += percent
            return
        for vertex in region['value'].get('vertices', ()):
            if vertex['id'] == name:
                vertex['x'] += percent
                return
    raise AssertionError(name)


def test_repeating_an_import_changes_nothing(studio: LabelStudio, wholebody: Commands) -> None:
    """Repeated imports change nothing; --force replaces predictions and adds annotations."""
    images = [make_image(2, 1), make_image(1, 2, file_name='Straße 東京 (1).jpg')]
    write_images(wholebody.folder / 'images', images)
    poses = write_poses(wholebody.folder / 'poses.json', images)
    project = studio.create_project(generate('skeleton'))
    contents = [(image.file_name, (wholebody.folder / 'images' / image.file_name).read_bytes()) for image in images]
    project.upload(contents)
    for kind in ('predictions', 'annotations'):
        arguments = ('import-labels', poses, '-p', project.id, '--as', kind)
        assert f'2 images with 3 persons as {kind}' in wholebody(*arguments)
        assert '2 labelled already' in wholebody(*arguments, '--images', 'images')
    before = [prediction['id'] for prediction in project.predictions()]
    assert len(before) == 2
    for kind in ('predictions', 'annotations'):
        wholebody('import-labels', poses, '-p', project.id, '--as', kind, '--force')
    after = [prediction['id'] for prediction in project.predictions()]
    assert len(after) == 2
    assert not set(after) & set(before)
    assert [len(task['annotations']) for task in project.tasks()] == [2, 2]
    wholebody('import-labels', poses, '-p', project.id, '--model-version', 'imported2')
    assert len(project.predictions()) == 4


def test_names_that_are_not_clear_are_reported(studio: LabelStudio, wholebody: Commands) -> None:
    """Ambiguous names are reported with exit status 1, and the rest is imported."""
    images = [make_image(1, number, file_name=f'{name}.jpg') for number, name in enumerate('abc', 1)]
    write_images(wholebody.folder / 'images', images)
    content = (wholebody.folder / 'images' / 'a.jpg').read_bytes()
    project = studio.create_project(generate('skeleton'))
    project.upload([('a.jpg', content), ('a.jpg', content), ('b.jpg', content)])
    poses = write_poses(wholebody.folder / 'poses.json', images)
    printed = wholebody('import-labels', poses, '-p', project.id, fails=True)
    assert 'a.jpg is not imported, with an ambiguous task: tasks' in printed
    assert 'c.jpg is not imported, without a task' in printed
    assert '1 image with 1 person as predictions' in printed
    assert 'left out: 1 image with an ambiguous task, 1 image without a task' in printed


def test_annotations_reach_the_learning_loop(
    studio: LabelStudio, wholebody: Commands, tmp_path_factory: pytest.TempPathFactory
) -> None:
    """Annotations reach the Loop with coordinates and tags, each version once, also with a node on the same folder."""
    images = [make_image(count, count) for count in (1, 2)]
    write_images(wholebody.folder / 'images', images)
    poses = write_poses(wholebody.folder / 'poses.json', images)
    project = studio.create_project(generate('keypoints'))
    wholebody('import-labels', poses, '-p', project.id, '--as', 'annotations', '--images', 'images')
    tasks = project.tasks()
    with running_mock_loop(tmp_path_factory.mktemp('learning') / 'loop') as loop:
        wholebody.settings.update(loop.settings)
        arguments = ('send-to-loop', '-p', project.id)
        assert 'no model is installed' in wholebody(*arguments, fails=True)
        settings: dict[str, Any] = dict(loop.settings)
        with running_node(wholebody.folder, **settings) as node:  # on the same DATA_FOLDER, which needs a model
            assert eventually(lambda: httpx.get(f'{node.url}/ready').json()['model_version'] == 'test-card 1.0')
        assert '2 images, 3 persons' in wholebody(*arguments)
        found = {tuple(sorted(image['metadata']['tags'])): image['metadata'] for image in loop.images()}
        assert len(found) == 2
        for task, image in zip(tasks, images, strict=True):
            tags = ('annotator_1', 'label_studio', f'project_{project.id}', f'task_{task["id"]}')
            metadata = found[tags]
            assert len(metadata['box_annotations']) == len(image.persons)
            points = [(point['x'], point['y']) for point in metadata['point_annotations']]
            expected = np.concatenate([person.keypoints[person.visibility > 0] for person in image.persons])
            np.testing.assert_allclose(points, expected, atol=0.011)
        assert '0 images, 0 persons, 0 keypoints\npassed over: 2 sent before' in wholebody(*arguments)
        project.annotate(tasks[0]['id'], tasks[1]['annotations'][0]['result'])
        printed = wholebody(*arguments)
        assert '1 image, 2 persons' in printed
        assert 'passed over: 1 sent before' in printed
        assert len(loop.images()) == 3
        waiting = [path for path in (wholebody.folder / 'data' / 'label_studio' / 'outbox').rglob('*.jpg')]
        assert waiting == []


@pytest.mark.parametrize('kind', ['yolo-pose', 'fiftyone'])
def test_others_read_the_same_persons(studio: LabelStudio, wholebody: Commands, kind: str) -> None:
    """Ultralytics and FiftyOne, in environments of their own, read the same boxes, coordinates and visibilities."""
    images = [make_image(count, count) for count in (1, 3, 8)]
    write_images(wholebody.folder / 'images', images)
    poses = write_poses(wholebody.folder / 'poses.json', images)
    project = studio.create_project(generate('skeleton'))
    wholebody('import-labels', poses, '-p', project.id, '--as', 'annotations', '--images', 'images')
    wholebody('export', '-p', project.id, '--format', kind, '--images', '--val', '0.5', '-o', 'out')
    if kind == 'fiftyone':
        names, found = read_by_fiftyone(wholebody.folder / 'out')
        assert names == list(KEYPOINT_NAMES)
    else:
        found = read_by_ultralytics(wholebody.folder / 'out' / 'data.yaml')
    assert found.keys() == {image.file_name for image in images}
    for image in images:
        assert len(found[image.file_name]) == len(image.persons)
        for person in image.persons:
            # the visibilities differ from person to person and identify each
            visibility = person.visibility.tolist()
            (one,) = [
                other
                for other in found[image.file_name]
                if [row[2] for row in other['points']] in (visibility, [] if not any(visibility) else visibility)
                and _is_near(other['box'], person)
            ]
            labelled = person.visibility > 0
            if labelled.any():
                places = np.array(one['points'])[labelled, :2]
                np.testing.assert_allclose(places, person.keypoints[labelled], atol=0.01)


def _is_near(box: Sequence[float], person: Person) -> bool:
    """Return True if centre and size match the person's box, or if the person has none."""
    if person.box is None:
        return True
    low, high = person.box.reshape(2, 2)
    return bool(np.abs(np.array(box) - np.concatenate([(low + high) / 2, high - low])).max() < 0.01)
