"""Exporting datasets from Label Studio's JSON exports with the command."""

import base64
import io
import json
import re
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from detector.cli.main import app
from detector.datasets.coco import read_coco
from detector.datasets.poses_json import read_poses_json
from detector.datasets.yolo import read_yolo
from detector.errors import InvalidImage, InvalidRequest
from detector.label_studio.labels.config import Style, generate, parse
from detector.label_studio.labels.regions import to_results
from detector.label_studio.labels.task_labels import with_kept
from detector.label_studio.workflows.exports import upright, with_unique_ids
from tests.support.commands import invoke, succeed
from tests.support.label_studio.exported import Json, make_annotation, make_task, write_export
from tests.support.label_studio.regions import choice_region, drawn_skeleton
from tests.support.people import SIZE, assert_same_persons, make_image, make_person

STYLES = pytest.mark.parametrize('style', ['keypoints', 'skeleton'])


@pytest.fixture(autouse=True)
def _no_label_studio(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ('LABEL_STUDIO_URL', 'LABEL_STUDIO_API_TOKEN', 'LOOP_HOST', 'HOST'):
        monkeypatch.delenv(name, raising=False)


def export(*arguments: Any) -> str:
    return succeed(app, 'labelstudio', 'export', *arguments)


@STYLES
@pytest.mark.parametrize('kind', ['coco-wholebody', 'coco-wholebody --flat', 'json', 'yolo-pose'])
def test_every_person_comes_out(tmp_path: Path, style: Style, kind: str) -> None:
    """Every person is exported from either style, up to eight per image, under the tasks' ids."""
    images = [make_image(count, count) for count in range(1, 9)]
    file = write_export(tmp_path / 'tasks.json', [make_task(image, style) for image in images])
    output = tmp_path / ('out' if kind == 'yolo-pose' else 'out.json')
    printed = export(file, '--format', *kind.split(), '-o', output)
    assert '8 images, 36 persons' in printed
    readers = {'json': read_poses_json, 'yolo-pose': read_yolo}
    found = sorted(readers.get(kind, read_coco)(output), key=lambda image: image.id)
    for one, other in zip(found, images, strict=True):
        assert (one.id, one.file_name, one.size) == (other.id, other.file_name, other.size)
        # points without a box keep only their order among the other regions
        order = [*(p for p in other.persons if p.box is not None), *(p for p in other.persons if p.box is None)]
        assert_same_persons(one.persons, order)


def test_fiftyone_gets_its_folder(tmp_path: Path) -> None:
    """A FiftyOne dataset gets its folder, and tags if it is divided."""
    file = write_export(tmp_path / 'tasks.json', [make_task(make_image(2))])
    export(file, '--format', 'fiftyone', '--val', '1', '-o', tmp_path / 'out')
    (sample,) = json.loads((tmp_path / 'out' / 'samples.json').read_text())['samples']
    assert len(sample['detections']['detections']) == 2
    assert sample['tags'] == ['val']


def test_the_newest_annotation_counts(tmp_path: Path) -> None:
    """The annotation that was changed last is exported, skipped ones are not, and the origin names it."""
    old, new = make_image(1), make_image(2)
    task = make_task(old)
    config = parse(generate('skeleton'))
    changed = make_annotation(5, to_results(new.persons, config, SIZE), updated_at='2026-11-22T00:00:00Z')
    skipped = make_annotation(9, [], updated_at='2026-11-23T00:00:00Z', was_cancelled=True)
    task['annotations'] = [skipped, changed, *task['annotations']]
    file = write_export(tmp_path / 'tasks.json', [task])
    export(file, '--format', 'json', '-o', tmp_path / 'out.json')
    (image,) = json.loads((tmp_path / 'out.json').read_text())['images']
    assert len(image['persons']) == 2
    assert image['origin'] == {
        'task': 1,
        'project': 3,
        'data': task['data'],
        'annotation': 5,
        'annotator': 7,
        'updated_at': '2026-11-22T00:00:00Z',
    }


def test_unlabelled_tasks_are_left_out(tmp_path: Path) -> None:
    """Unlabelled and skipped tasks are left out unless --all is given, and an empty annotation gives an image without
    persons."""
    empty = make_task(make_image(0, 1), meta=with_kept({}, make_image(0, 1)))
    bare = make_task(make_image(0, 2), meta=with_kept({}, make_image(0, 2)), annotations=[])
    skipped = make_task(make_image(1, 3), meta=with_kept({}, make_image(0, 3)))
    skipped['annotations'][0]['was_cancelled'] = True
    file = write_export(tmp_path / 'tasks.json', [empty, bare, skipped])
    printed = export(file, '-o', tmp_path / 'out.json')
    assert '1 image, 0 persons, 0 keypoints\npassed over: 2 not labelled' in printed
    assert [image.id for image in read_coco(tmp_path / 'out.json')] == [1]
    export(file, '--all', '--format', 'json', '-o', tmp_path / 'all.json')
    images = json.loads((tmp_path / 'all.json').read_text())['images']
    assert [(image['id'], image['persons'], image['origin'] is None) for image in images] == [
        (1, [], False),
        (2, [], True),
        (3, [], True),
    ]


def test_predictions_of_one_version(tmp_path: Path) -> None:
    """Predictions of the named or the newest version are exported, and predictions given by id only are ignored."""
    config = parse(generate('skeleton'))
    task = make_task(make_image(3))
    task['predictions'] = [
        {
            'id': number,
            'model_version': f'v{number}',
            'created_at': f'2026-11-21T12:00:0{number}Z',
            'result': to_results(make_image(number).persons, config, SIZE),
        }
        for number in (2, 1)
    ]
    file = write_export(tmp_path / 'tasks.json', [task, make_task(make_image(1, 2), predictions=[16])])
    for options, persons in (([], 2), (['--model-version', 'v1'], 1), (['--model-version', 'v3'], 0)):
        output = tmp_path / f'{persons}.json'
        printed = export(file, '--predictions', *options, '--format', 'json', '-o', output)
        assert f'{persons} person' in printed
    (image,) = json.loads((tmp_path / '2.json').read_text())['images']
    assert (image['origin']['prediction'], image['origin']['model_version']) == (2, 'v2')
    only_ids = write_export(tmp_path / 'ids.json', [make_task(make_image(1, 2), predictions=[16])])
    refused = invoke(app, 'labelstudio', 'export', only_ids, '--predictions', '-o', tmp_path / 'none.json')
    assert isinstance(refused.exception, InvalidRequest)


@STYLES
def test_what_is_odd_is_named(tmp_path: Path, style: Style) -> None:
    """Odd regions are reported with their task, the rest is exported, and persons that cannot be read mean status 1."""
    task = make_task(make_image(2, 41), style)
    results = task['annotations'][0]['result']
    common = {'to_name': 'image', 'original_width': 640, 'original_height': 480}
    box = {'x': 1, 'y': 1, 'width': 5, 'height': 5, 'rotation': 0}
    results += [
        common | {'from_name': 'bbox', 'type': 'rectanglelabels', 'value': box | {'rectanglelabels': ['car']}},
        common | {'from_name': 'x', 'type': 'brushlabels', 'value': {'rle': [], 'brushlabels': ['hair']}},
        common
        | {'from_name': 'bbox', 'type': 'rectanglelabels', 'value': box | {'x': 150, 'rectanglelabels': ['person']}},
        common | {'from_name': 'kp', 'type': 'keypointlabels', 'value': {'x': 5, 'y': -9, 'keypointlabels': ['nose']}},
        {'type': 'relation', 'from_id': 'a', 'to_id': 'b'},
        {'type': 'rectanglelabels', 'from_name': 'bbox'},
    ]
    half = {'vertices': [{'id': 'nose', 'x': 50, 'y': 50, 'v': 2}], 'vectorlabels': ['pose']}
    results.append(common | {'id': 'half', 'from_name': 'skeleton', 'type': 'vectorlabels', 'value': half})
    file = write_export(tmp_path / 'tasks.json', [task])
    result = invoke(app, 'labelstudio', 'export', file, '-o', tmp_path / 'out.json')
    assert result.exit_code == 1
    lost = 'a skeleton pose (region half) that belongs to no person'
    for odd in ('(car)', '(hair)', 'outside the image (person)', 'outside the image (nose)', lost, 'a value'):
        assert any(line.startswith('task 41 has') and odd in line for line in result.stderr.splitlines()), odd
    (image,) = read_coco(tmp_path / 'out.json')
    assert len(image.persons) == 2
    assert '1 image, 2 persons, ' in result.stdout
    assert 'left out: 6 faults in regions' in result.stdout


def test_labels_with_aliases_are_exported(tmp_path: Path) -> None:
    """Regions with the aliases of a config's labels are a person with its keypoints."""
    config = tmp_path / 'config.xml'
    config.write_text(
        '<View><Image name="image" value="$image"/><RectangleLabels name="bbox" toName="image"><Label value="Person" '
        'alias="P"/></RectangleLabels><KeyPointLabels name="kp" toName="image"><Label value="Nase" alias="nose"/>'
        '<Label value="Linkes Auge" alias="left_eye"/></KeyPointLabels></View>'
    )
    common = {'original_width': 1000, 'original_height': 500, 'to_name': 'image'}
    box = {'x': 10, 'y': 10, 'width': 30, 'height': 60, 'rotation': 0, 'rectanglelabels': ['P']}
    results: list[dict[str, Any]] = [
        common | {'id': 'b1', 'from_name': 'bbox', 'type': 'rectanglelabels', 'value': box}
    ]
    for text, x, y in (('nose', 20, 20), ('left_eye', 22, 18)):
        place = {'x': x, 'y': y, 'width': 0.5, 'keypointlabels': [text]}
        point = {'id': f'p{text}', 'from_name': 'kp', 'type': 'keypointlabels', 'value': place, 'parentID': 'b1'}
        results.append(common | point)
    task = make_task(make_image(1))
    task['annotations'][0]['result'] = results
    file = write_export(tmp_path / 'tasks.json', [task])
    assert '1 image, 1 person' in export(file, '--config', config, '-o', tmp_path / 'out.json')
    (image,) = read_coco(tmp_path / 'out.json')
    assert image.persons[0].visibility.nonzero()[0].tolist() == [0, 1]
    assert image.persons[0].keypoints[0].tolist() == [200, 100]


@pytest.mark.parametrize('chosen', ['hidden', 'outside'])
@STYLES
def test_a_choice_for_a_region_is_no_fault(tmp_path: Path, style: Style, chosen: str) -> None:
    """The choice for a region, which repeats its place or vertices, is exported without a complaint."""
    task = make_task(make_image(1), style)
    results = task['annotations'][0]['result']
    if results[1]['type'] == 'choices':  # the editor replaces the choice
        del results[1]
    repeated = choice_region(results[0], chosen)
    repeated['value'] |= {key: labels for key, labels in results[0]['value'].items() if key.endswith('labels')}
    results.append(repeated)
    result = invoke(app, 'labelstudio', 'export', write_export(tmp_path / 'a.json', [task]), '-o', tmp_path / 'b.json')
    assert (result.exit_code, result.stderr) == (0, '')
    (before,), (after,) = make_image(1).persons, read_coco(tmp_path / 'b.json')[0].persons
    assert after.labelled.sum() < before.labelled.sum() if chosen == 'outside' else (after.visibility == 1).any()


def test_an_image_whose_persons_cannot_be_read_is_not_empty(tmp_path: Path) -> None:
    """An image whose only skeleton cannot be read is left out with status 1; an empty one stays empty."""
    task, empty = make_task(make_image(1, 7)), make_task(make_image(0, 8))
    task['annotations'][0]['result'] = [drawn_skeleton('body', 16, original_width=640, original_height=480)]
    empty['meta'] = {'wholebody': {'image': {'width': 640, 'height': 480}}}
    file = write_export(tmp_path / 'tasks.json', [task, empty])
    result = invoke(app, 'labelstudio', 'export', file, '-o', tmp_path / 'out.json')
    assert result.exit_code == 1
    assert 'task 7 has a skeleton body (region drawn) with 16 points drawn by hand instead of 17' in result.stderr
    assert 'task whose regions cannot be read' in result.stdout
    (image,) = read_coco(tmp_path / 'out.json')
    assert (image.id, image.persons) == (8, [])


def test_tasks_without_image_or_size_are_left_out(tmp_path: Path) -> None:
    """Tasks without an image or a size are left out and counted by reason."""
    good, blank, unknown = (make_task(make_image(1, number)) for number in (1, 2, 3))
    blank['data'] = {'text': 'hello'}
    unknown['annotations'][0]['result'] = []
    file = write_export(tmp_path / 'tasks.json', [good, blank, unknown])
    result = invoke(app, 'labelstudio', 'export', file, '-o', tmp_path / 'out.json')
    assert 'task 2, without an image, is left out' in result.stderr
    assert 'task 3, whose image cannot be fetched, is left out' in result.stderr
    assert result.stdout.splitlines()[1] == 'left out: 1 task whose image cannot be fetched, 1 task without an image'


def turned_jpeg() -> bytes:
    """Make a JPEG of 640 × 480 upright pixels with an EXIF orientation."""
    exif = Image.Exif()
    exif[0x0112] = 6
    buffer = io.BytesIO()
    Image.new('RGB', (480, 640), 'grey').save(buffer, 'JPEG', exif=exif)
    return buffer.getvalue()


def test_images_are_written_upright(tmp_path: Path) -> None:
    """Images are written upright, with their true size even if the regions state none or another."""
    task = make_task(make_image(2))
    for region in task['annotations'][0]['result']:
        del region['original_width']
    task['data']['image'] = 'data:image/jpeg;base64,' + base64.b64encode(turned_jpeg()).decode()
    task['meta'] = {'wholebody': {'image': {'file_name': 'in/folders/a.jpg'}}}
    file = write_export(tmp_path / 'tasks.json', [task])
    for kind, name in (('coco-wholebody', 'images/in/folders/a.jpg'), ('yolo-pose', 'images/train/a.jpg')):
        export(file, '--format', kind, '--images', '--val', '0', '-o', tmp_path / kind)
        with Image.open(tmp_path / kind / name) as picture:
            assert (picture.size, picture.getexif().get(0x0112)) == (SIZE, None)
    (image,) = read_coco(tmp_path / 'coco-wholebody' / 'train.json')
    assert (image.size, image.file_name) == (SIZE, 'in/folders/a.jpg')
    assert_same_persons(image.persons, make_image(2).persons)
    with pytest.raises(InvalidImage):
        upright(b'no image', 10**6)


def test_a_dataset_s_fields_come_back(tmp_path: Path) -> None:
    """The fields of an imported dataset that the task's meta keeps are exported again."""
    image = make_image(1, 785, extra={'license': 4, 'flickr_url': 'http://a', 'license_entry': {'id': 4, 'name': 'L'}})
    task = make_task(image, id=9, meta=with_kept({'sha256': 'ab'}, image))
    assert task['meta']['sha256'] == 'ab'
    export(write_export(tmp_path / 'tasks.json', [task]), '-o', tmp_path / 'out.json')
    content = json.loads((tmp_path / 'out.json').read_text())
    assert content['licenses'] == [{'id': 4, 'name': 'L'}]
    known = {'id': 785, 'file_name': '0785.jpg', 'width': 640, 'height': 480}
    assert content['images'] == [known | {'license': 4, 'flickr_url': 'http://a'}]


def test_coco_can_be_divided(tmp_path: Path) -> None:
    """COCO can be divided by name into two files, with each image in one of them."""
    file = write_export(tmp_path / 'tasks.json', [make_task(make_image(1, number)) for number in range(1, 31)])
    export(file, '--val', '0.3', '-o', tmp_path / 'out')
    parts = [{image.id for image in read_coco(tmp_path / 'out' / f'{part}.json')} for part in ('train', 'val')]
    assert parts[0] | parts[1] == set(range(1, 31))
    assert 3 <= len(parts[1]) <= 15
    assert not parts[0] & parts[1]


def test_nothing_is_written_over(tmp_path: Path) -> None:
    """Existing files and folders are not overwritten, and contradicting options are refused."""
    file = write_export(tmp_path / 'tasks.json', [make_task(make_image(1))])
    (tmp_path / 'full').mkdir()
    (tmp_path / 'full' / 'a.txt').write_text('a')
    for options in (['-o', file], ['-o', tmp_path / 'full'], ['--format', 'json', '--flat', '-o', tmp_path / 'a.json']):
        result = invoke(app, 'labelstudio', 'export', file, *options)
        assert isinstance(result.exception, InvalidRequest)
    for options in ([], ['-p', '1', '-o', tmp_path / 'b'], ['--model-version', 'a', '-o', tmp_path / 'c']):
        assert invoke(app, 'labelstudio', 'export', file, *options).exit_code == 2
    assert json.loads(file.read_text())


def test_regions_without_parents_come_out_person_by_person(tmp_path: Path) -> None:
    """Points without a parent, as FiftyOne makes them, are exported per person by the box around them."""
    config = """<View><Image name="image" value="$image"/>
        <RectangleLabels name="ground_truth" toName="image"><Label value="person"/></RectangleLabels>
        <KeyPointLabels name="keypoints" toName="image">%s</KeyPointLabels></View>"""
    names = ('nose', 'left_eye', 'right_eye', 'left_shoulder', 'right_shoulder')
    path = tmp_path / 'config.xml'
    path.write_text(config % ''.join(f'<Label value="{name}"/>' for name in names))
    results: list[Json] = []
    for left in (10, 55):
        for number, name in enumerate(names):
            value = {'x': left + 5 * number, 'y': 20 + number, 'width': 1, 'keypointlabels': [name]}
            results.append({'id': f'{left}{name}', 'from_name': 'keypoints', 'type': 'keypointlabels', 'value': value})
        box = {'x': left - 5, 'y': 10, 'width': 35, 'height': 80, 'rotation': 0, 'rectanglelabels': ['person']}
        results.append({'id': f'{left}', 'from_name': 'ground_truth', 'type': 'rectanglelabels', 'value': box})
    results = [region | {'to_name': 'image', 'original_width': 200, 'original_height': 100} for region in results[::-1]]
    task = make_task(make_image(0), annotations=[make_annotation(1, results)])
    export(
        write_export(tmp_path / 'tasks.json', [task]), '--config', path, '--format', 'json', '-o', tmp_path / 'o.json'
    )
    (image,) = json.loads((tmp_path / 'o.json').read_text())['images']
    found = sorted(image['persons'], key=lambda person: person['box'][0])
    for person, left in zip(found, (10, 55), strict=True):
        assert person['box'] == [2 * left - 10, 10, 2 * left + 60, 90]
        assert person['keypoints'] == {
            name: [2 * left + 10 * number, 20 + number, 2, None] for number, name in enumerate(names)
        }


def test_ids_stay_unique() -> None:
    """An image gets the id of its dataset if it is the first to claim it, and otherwise its task's."""
    images = [make_image(0, number) for number in (1, 2, 3, 4)]
    found = with_unique_ids(images, [3, None, 'x', 3])
    assert [image.id for image in found] == [3, 2, 3 + 1_000_000_000, 4]


@pytest.mark.parametrize(
    ('address', 'name'),
    [('/data/upload/3/1a2b3c4d-a1.jpg', 'a (1).jpg'), ('/data/local-files/?d=in/a.jpg', 'in/a.jpg')],
)
def test_the_name_before_an_upload_counts(tmp_path: Path, address: str, name: str) -> None:
    """The name that `wholebody labelstudio import` noted is used for uploads, and other names keep their folders."""
    task = make_task(make_image(1), data={'image': address}, meta={'file': 'a (1).jpg', 'sha256': 'ab'})
    export(write_export(tmp_path / 'tasks.json', [task]), '-o', tmp_path / 'out.json')
    assert [image.file_name for image in read_coco(tmp_path / 'out.json')] == [name]


def test_a_person_of_points_alone_gets_a_box(tmp_path: Path) -> None:
    """A person without a box gets one in COCO and none in the own JSON."""
    person = make_person('no box', seed=4)
    file = write_export(tmp_path / 'tasks.json', [make_task(make_image(0, persons=[person]))])
    export(file, '-o', tmp_path / 'coco.json')
    export(file, '--format', 'json', '-o', tmp_path / 'own.json')
    (annotation,) = json.loads((tmp_path / 'coco.json').read_text())['annotations']
    points = person.keypoints[person.visibility > 0]
    np.testing.assert_allclose(annotation['bbox'][:2], points.min(axis=0), atol=0.01)
    assert annotation['area'] > 0
    (own,) = read_poses_json(tmp_path / 'own.json')
    assert own.persons[0].box is None


@pytest.mark.parametrize(
    ('address', 'name'),
    [
        ('/storage-data/uploaded/?filepath=upload/1/0a1b2c3d-a.jpg', 'a.jpg'),
        ('http://studio.example/storage-data/uploaded/?filepath=upload%2F1%2F0a1b2c3d-K%C3%BCche.jpg', 'Küche.jpg'),
        ('/tasks/7/presign/?fileuri=czM6Ly9idWNrZXQvaW4vYi5qcGc=', 'in/b.jpg'),
        ('data:image/png;base64,iVBORw0KGgo=', 'task-1.png'),
        ('data:image/jpeg;base64,/9j/', 'task-1.jpg'),
        ('data:IMAGE/WEBP,x', 'task-1.webp'),
        ('https://camera.example/', 'task-1.jpg'),
        ('https://camera.example/?id=5', 'task-1.jpg'),
    ],
)
def test_every_address_gives_a_file_name(tmp_path: Path, address: str, name: str) -> None:
    """The name of an uploaded or presigned file is found in its address, and others get one of their task's number."""
    task = make_task(make_image(1), data={'image': address})
    printed = export(write_export(tmp_path / 'tasks.json', [task]), '-o', tmp_path / 'out.json')
    assert '1 image, 1 person, ' in printed
    assert [image.file_name for image in read_coco(tmp_path / 'out.json')] == [name]


@pytest.mark.parametrize(
    'name', ['a' * 300 + '.jpg', 'ü' * 150 + '.jpg', 'x/' * 600 + 'a.jpg', 'a\tb.jpg', 'in\\a.jpg']
)
@pytest.mark.parametrize('kind', ['coco-wholebody', 'json', 'yolo-pose', 'fiftyone'])
def test_names_that_file_systems_refuse_are_changed(tmp_path: Path, kind: str, name: str) -> None:
    """A name that is too long or has characters that file systems refuse is changed, and all files are written."""
    content = 'data:image/jpeg;base64,' + base64.b64encode(turned_jpeg()).decode()
    long = make_task(make_image(1), data={'image': content}, meta={'wholebody': {'image': {'file_name': name}}})
    short = make_task(make_image(1, 2), data={'image': content}, meta={'wholebody': {'image': {'file_name': 'b.jpg'}}})
    file = write_export(tmp_path / 'tasks.json', [long, short])
    result = invoke(app, 'labelstudio', 'export', file, '--format', kind, '--images', '-o', tmp_path / 'out')
    assert result.exit_code == 0, result.output
    assert '2 images, 2 persons, ' in result.stdout
    files = [path for path in (tmp_path / 'out').rglob('*.jpg') if path.is_file()]
    assert len(files) == 2
    if kind in ('coco-wholebody', 'json'):
        assert 'becomes' in result.stderr
        content = json.loads((tmp_path / 'out' / 'labels.json').read_text())
        assert {image['file_name'] for image in content['images']} == {path.name for path in files}


def test_a_file_that_cannot_be_written_stops_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """An image file that cannot be written is reported with the reason, and the other files are written."""
    content = 'data:image/jpeg;base64,' + base64.b64encode(turned_jpeg()).decode()
    tasks = [make_task(make_image(1, number), data={'image': content}) for number in (1, 2)]
    write = Path.write_bytes

    def full(path: Path, data: bytes) -> int:
        if path.name == 'task-1.jpg':
            raise OSError(28, 'No space left on device')
        return write(path, data)

    monkeypatch.setattr(Path, 'write_bytes', full)
    file = write_export(tmp_path / 'tasks.json', tasks)
    result = invoke(app, 'labelstudio', 'export', file, '--images', '-o', tmp_path / 'out')
    assert result.exit_code == 1
    assert 'task-1.jpg cannot be written: No space left on device' in result.stderr
    assert 'left out: 1 file of an image' in result.stdout
    assert (tmp_path / 'out' / 'images' / 'task-2.jpg').is_file()


@STYLES
@pytest.mark.parametrize(
    ('change', 'named'),
    [
        (
            lambda task: task['annotations'][0].pop('result'),
            'annotations[0].result must be a list, not missing or null',
        ),
        (lambda task: task['annotations'][0]['result'].append('x'), '].* must be a mapping, not'),
        (lambda task: task.update(annotations={}), None),
        (
            lambda task: [region.update(from_name='other') for region in task['annotations'][0]['result']],
            'none of them',
        ),
        (lambda task: [region['value'].clear() for region in task['annotations'][0]['result']], None),
        (lambda task: task.pop('id'), 'a task has no id'),
    ],
)
def test_a_task_that_cannot_be_read_is_not_an_image_without_persons(
    tmp_path: Path, style: Style, change: Any, named: str | None
) -> None:
    """A task whose labels cannot be read is left out with a line, and the others are exported."""
    bad, good = make_task(make_image(2), style), make_task(make_image(1, 2), style)
    change(bad)
    file = write_export(tmp_path / 'tasks.json', [bad, good])
    result = invoke(app, 'labelstudio', 'export', file, '-o', tmp_path / 'out.json')
    if isinstance(result.exception, InvalidRequest):
        return
    images = read_coco(tmp_path / 'out.json')
    assert all(image.persons for image in images), result.output
    if named is not None:
        assert result.exit_code == 1
        assert re.search(re.escape(named) if '*' not in named else named, result.stderr)
        assert 'left out: ' in result.stdout


def test_a_size_that_disagrees_is_reported(tmp_path: Path) -> None:
    """The size comes from the image if it is fetched, and another size of the regions is reported."""
    task = make_task(make_image(1))
    task['data']['image'] = 'data:image/jpeg;base64,' + base64.b64encode(turned_jpeg()).decode()
    for region in task['annotations'][0]['result']:
        region |= {'original_width': 320, 'original_height': 240}
    file = write_export(tmp_path / 'tasks.json', [task])
    result = invoke(app, 'labelstudio', 'export', file, '--images', '-o', tmp_path / 'out')
    assert result.exit_code == 1
    assert 'task 1 states 320×240 pixels, but its image has 640×480, which count' in result.stderr
    assert 'left out: 1 size of an image' in result.stdout
    assert read_coco(tmp_path / 'out' / 'labels.json')[0].size == SIZE
