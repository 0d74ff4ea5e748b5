"""Model packages: description, hashes, categories and verification."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from learning_loop_node.data_classes import ModelInformation

from benchmarks.support.packages import altered, embedded_files, make_package, write_zip
from detector.errors import InvalidPackage
from detector.models import package as model_package
from detector.models.package import ModelPackage
from detector.pose.names import ALIASES
from detector.pose.skeleton import KEYPOINT_NAMES, category_id


def open_altered(tmp_path: Path, change: Callable[[dict[str, Any]], object]) -> ModelPackage:
    folder = tmp_path / 'package'
    folder.mkdir()
    return model_package.unpack_package(altered(tmp_path / 'altered.zip', change), folder)


def test_model_json_is_what_the_loop_client_expects(tmp_path: Path) -> None:
    """learning_loop_node loads model.json: 134 categories, the person box first, points in schema order."""
    model_package.unpack_package(make_package(tmp_path / 'p.zip', version='1.2'), tmp_path)
    information = ModelInformation.load_from_disk(str(tmp_path))
    assert information is not None
    assert information.version == '1.2'
    assert [category.name for category in information.categories] == ['person', *KEYPOINT_NAMES]
    assert [category.type for category in information.categories] == ['box', *(133 * ['point'])]
    assert information.resolution == 640


def test_ids_of_the_loop_are_kept_and_aliases_mapped(tmp_path: Path) -> None:
    """Category ids of the Loop are kept, and upstream names are mapped to canonical names."""
    ours = {name: alias for alias, name in ALIASES.items()}

    def rename(description: dict[str, Any]) -> None:
        for category in description['categories']:
            category['id'] = f'loop-{category["name"]}'
            category['name'] = ours.get(category['name'], category['name'])

    package = open_altered(tmp_path, rename)
    assert package.category_ids == {name: f'loop-{name}' for name in ('person', *KEYPOINT_NAMES)}


def test_unknown_categories_are_ignored(tmp_path: Path) -> None:
    """Further categories of a project are ignored."""
    package = open_altered(tmp_path, lambda d: d['categories'].append({'id': 'x', 'name': 'tractor', 'type': 'box'}))
    assert package.category_ids['nose'] == category_id('nose')
    assert 'tractor' not in package.category_ids


def set_in(*path: str, value: object) -> Callable[[dict[str, Any]], object]:
    def change(description: dict[str, Any]) -> None:
        target = description
        for key in path[:-1]:
            target = target[key]
        target[path[-1]] = value

    return change


@pytest.mark.parametrize(
    ('change', 'message'),
    [
        (lambda d: d.pop('wholebody'), 'wholebody: Field required'),
        (lambda d: d.pop('version'), 'version: Field required'),
        (set_in('version', value=1.0), 'version: Input should be a valid string'),
        (set_in('version', value='latest'), 'version: String should match'),
        (set_in('resolution', value='640'), 'resolution'),
        (set_in('categories', value=None), 'categories'),
        (lambda d: d['categories'].pop(5), 'categories: right_ear missing'),
        (lambda d: d['categories'].clear(), 'person, nose, left_eye and 131 more missing'),
        (lambda d: d['categories'].append({'id': 'x', 'name': 'Nose'}), 'nose occurs twice'),
        (lambda d: d['categories'][1].update(type='box'), 'nose is a box; it must be a point'),
        (set_in('wholebody', 'detector', 'sha256', value=64 * 'a'), 'det.onnx: sha256 is'),
        (set_in('wholebody', 'detector', 'file', value='../det.onnx'), 'wholebody.detector.file'),
        (set_in('wholebody', 'estimator', 'file', value='other.onnx'), 'other.onnx is missing'),
        (set_in('wholebody', 'estimator', 'input_size', value=[192, 250]), '192×250 is not a size'),
        (set_in('wholebody', 'estimator', 'color_order', value='GRB'), "'RGB' or 'BGR'"),
        (set_in('wholebody', 'estimator', 'std', value=None), 'give both mean and std, or neither'),
        (set_in('wholebody', 'estimator', 'std', value=[1, 0, 1]), 'std must be positive'),
        (set_in('wholebody', 'detector', 'output', value='boxes'), "'nms' or 'raw'"),
        (set_in('wholebody', 'score_mapping', value=[[0, 0.5], [1, 0.2]]), 'confidences must not decrease'),
        (set_in('wholebody', 'score_mapping', value=[[0, 0], [8, 2]]), 'must lie in 0..1'),
        (set_in('wholebody', 'keypoint_layout', value='halpe26'), "'coco133'"),
        (set_in('wholebody', 'score_mapping', value=[[float('-inf'), 0], [1, 1]]), 'finite'),
        (set_in('wholebody', 'score_mapping', value=[[-1e308, 0], [1e308, 1]]), 'raw scores must lie within'),
        (set_in('wholebody', 'estimator', 'mean', value=[float('nan'), 0, 0]), 'finite'),
        (set_in('version', value=300 * '1'), 'version'),
        (set_in('model_size', value=5), 'model_size'),
        (set_in('conf_threshold', value='high'), 'conf_threshold'),
        (set_in('conf_threshold', value=50), 'conf_threshold: Input should be less than or equal to 1'),
        (set_in('wholebody', 'presence_threshold', value=0.4), 'wholebody.presence_threshold: Input should be less'),
        (set_in('model_root_path', value=5), 'model_root_path'),
        (lambda d: d['categories'][0].update(color=5), 'categories.0.color'),
        (lambda d: d['categories'][0].update(point_size='5'), 'categories.0.point_size'),
    ],
)
def test_a_faulty_description_is_refused_by_field(
    tmp_path: Path, change: Callable[[dict[str, Any]], object], message: str
) -> None:
    """A faulty description is refused with the field and the reason."""
    with pytest.raises(InvalidPackage, match=message):
        open_altered(tmp_path, change)


@pytest.mark.parametrize('encoding', ['utf-8', 'utf-8-sig', 'utf-16', 'utf-16-be'])
def test_a_description_of_windows_tools_is_read(tmp_path: Path, encoding: str) -> None:
    """`model.json` may have a byte order mark or be UTF-16, as Windows tools save it."""
    files = embedded_files()
    files['model.json'] = files['model.json'].decode().encode(encoding)
    folder = tmp_path / 'package'
    folder.mkdir()
    found = model_package.unpack_package(write_zip(tmp_path / 'p.zip', files), folder)
    assert found.model_version == 'test-card 0.0'


@pytest.mark.parametrize(
    ('files', 'message'),
    [
        ({'model.json': b'{'}, 'not readable as JSON'),
        ({'model.json': b'[]'}, 'the file'),
        ({'model.json': 100000 * b'['}, 'not readable as JSON'),
        ({'model.json': b'\xef\xbb\xbf{'}, 'not readable as JSON'),
        ({'model.json': '{}'.encode('utf-16')[:-1]}, 'not readable as JSON'),
        ({'model.json': 2_000_000 * b' '}, 'larger than'),
        ({'model.json': None}, 'model.json is missing'),
        ({'pose.onnx': None}, 'pose.onnx is missing'),
        ({'det.onnx': b'garbage'}, 'det.onnx: sha256 is'),
    ],
)
def test_missing_and_broken_files_are_refused(tmp_path: Path, files: dict[str, bytes | None], message: str) -> None:
    """A missing or broken file is refused with its name."""
    content = {name: data for name, data in (embedded_files() | files).items() if data is not None}
    folder = tmp_path / 'package'
    folder.mkdir()
    with pytest.raises(InvalidPackage, match=message):
        model_package.unpack_package(write_zip(tmp_path / 'p.zip', content), folder)
