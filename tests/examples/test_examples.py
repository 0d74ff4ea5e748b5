"""The examples run as they stand."""

import json
import subprocess
import sys
from pathlib import Path

import pytest

from benchmarks.support.cards import assert_read
from benchmarks.support.packages import make_package
from benchmarks.support.processes import PROJECT, NodeProcess, clean_environment
from detector.datasets.yolo import read_yolo
from detector.engine.verification import verify
from detector.models.embedded import EXAMPLE_CARD
from detector.models.store import ModelStore
from detector.pose import images
from detector.pose.pose import Pose
from mock.test_card.build import EXAMPLE_FIGURES

EXAMPLES = PROJECT / 'examples'
SECONDS = 120


@pytest.fixture(autouse=True)
def _an_installed_model(tmp_path: Path) -> None:
    """Install a model that reads the test card where the Python API looks for one."""
    ModelStore(tmp_path / 'share' / 'wholebody').install(make_package(tmp_path / 'installed.zip'), verify=verify)


def run(name: str, *arguments: object, folder: Path) -> str:
    """Run an example and return its standard output."""
    ended = subprocess.run(
        [sys.executable, EXAMPLES / name, *map(str, arguments)],
        cwd=PROJECT,
        env=clean_environment(DATA_FOLDER=folder / 'data', XDG_DATA_HOME=folder / 'share', PYTHONPATH=PROJECT),
        capture_output=True,
        text=True,
        timeout=SECONDS,
        check=False,
    )
    assert ended.returncode == 0, ended.stderr
    return ended.stdout


@pytest.mark.parametrize('name', ['robot_client.py', 'rest_client.py'])
def test_a_client_prints_what_the_card_shows(name: str, node: NodeProcess, tmp_path: Path) -> None:
    """A client of a running node finds both figures of the test card, with a keypoint where it was drawn."""
    output = run(name, '--url', node.url, folder=tmp_path)
    assert '2 persons' in output
    keypoint = {'robot_client.py': 0, 'rest_client.py': 9}[name]  # nose, left wrist
    for figure in EXAMPLE_FIGURES:
        x, y = figure.keypoints[keypoint]
        found = [(x + dx, y + dy) for dx in (-1, 0, 1) for dy in (-1, 0, 1)]
        assert any(f'{at[0]:.0f}, {at[1]:.0f}' in output for at in found), output


def test_a_client_reports_an_error_of_the_node(node: NodeProcess, tmp_path: Path) -> None:
    """The REST client ends with the node's message when the node refuses the image."""
    broken = tmp_path / 'broken.jpg'
    broken.write_bytes(b'no image')
    with pytest.raises(AssertionError, match='415: .*not an image'):
        run('rest_client.py', '--url', node.url, '--image', broken, folder=tmp_path)


def test_the_python_api_reads_a_folder(tmp_path: Path) -> None:
    """Each image gets a JSON file with its poses and a picture with skeletons; a broken file is reported."""
    pictures = tmp_path / 'pictures'
    pictures.mkdir()
    (pictures / 'card.jpg').write_bytes(EXAMPLE_CARD.read_bytes())
    (pictures / 'broken.jpg').write_bytes(b'no image')
    output = run('poses_of_a_folder.py', pictures, tmp_path / 'poses', folder=tmp_path)
    assert 'card.jpg: 2 persons' in output
    assert 'broken.jpg: ' in output
    answer = json.loads((tmp_path / 'poses' / 'card.json').read_text())
    assert_read([Pose.from_json(pose) for pose in answer['poses']], EXAMPLE_FIGURES)
    drawn = images.read_image(tmp_path / 'poses' / 'card.jpg')
    assert drawn.shape == images.read_image(EXAMPLE_CARD).shape
    assert (drawn != images.read_image(EXAMPLE_CARD)).any()


def test_a_dataset_is_exported(tmp_path: Path) -> None:
    """The YOLO-pose dataset and the COCO file hold both persons of the card where they were drawn."""
    run('export_dataset.py', EXAMPLE_CARD.parent, tmp_path / 'dataset', folder=tmp_path)
    (image,) = read_yolo(tmp_path / 'dataset' / 'yolo')
    assert len(image.persons) == len(EXAMPLE_FIGURES)
    for figure in EXAMPLE_FIGURES:
        assert min(abs(person.keypoints[0] - figure.keypoints[0]).max() for person in image.persons) < 2
    coco = json.loads((tmp_path / 'dataset' / 'coco.json').read_text())
    assert [annotation['num_keypoints'] for annotation in coco['annotations']] == [17, 17]
    assert coco['images'][0]['file_name'] == EXAMPLE_CARD.name


def test_a_node_follows_the_mock_loop(tmp_path: Path) -> None:
    """The node switches to the new version, and the mock Loop receives the image."""
    output = run('follow_mock_loop.py', folder=tmp_path)
    assert [line for line in output.splitlines() if line.startswith('the node serves version')] == [
        'the node serves version 1.0',
        'the node serves version 1.1',
    ]
    assert 'the Loop received ' in output


def test_every_example_is_listed_and_run() -> None:
    """The table of examples/README.md names every file, and a test runs each of them."""
    names = {path.name for path in EXAMPLES.iterdir() if path.suffix in ('.py', '.sh')}
    readme = (EXAMPLES / 'README.md').read_text()
    tests = Path(__file__).read_text() + (PROJECT / 'tests/integration/test_label_studio_example.py').read_text()
    assert len(names) == 6
    for name in names:
        assert f'[{name}]({name})' in readme
        assert f"'{name}'" in tests
