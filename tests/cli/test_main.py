import json
import os
import re
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest

from benchmarks.support.cards import assert_read, make_card
from benchmarks.support.packages import altered, make_package
from benchmarks.support.processes import NodeProcess, clean_environment
from detector.cli.main import app, main
from detector.models.embedded import EXAMPLE_CARD
from detector.pose import images
from detector.pose.pose import Pose
from mock.test_card.build import EXAMPLE_FIGURES
from mock.test_card.model import build_detector, build_estimator
from tests.support import commands


@pytest.fixture(autouse=True)
def _own_environment(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for name in set(os.environ) - set(clean_environment()):
        monkeypatch.delenv(name)
    monkeypatch.setenv('DATA_FOLDER', str(tmp_path / 'data'))


invoke = partial(commands.invoke, app)
succeed = partial(commands.succeed, app)


def test_detect_prints_a_line_per_image_and_draws(tmp_path: Path) -> None:
    """The example card: two persons, all keypoints, and a picture that differs from the input."""
    output = succeed('detect', EXAMPLE_CARD, '-o', tmp_path / 'drawn.png')
    assert '2 persons' in output
    assert '(133 keypoints)' in output
    assert 'test-card 0.0' in output
    drawn = images.read(tmp_path / 'drawn.png')
    assert (drawn != images.read(EXAMPLE_CARD)).any(axis=-1).sum() > 5000


@pytest.mark.parametrize('remote', [False, True], ids=['local engine', 'running node'])
def test_detect_prints_json_from_here_or_from_a_node(node: NodeProcess, remote: bool) -> None:
    """The same poses either way."""
    arguments = ['--url', node.url] if remote else []
    answer = json.loads(succeed('detect', EXAMPLE_CARD, '--json', *arguments))
    assert answer['file'] == str(EXAMPLE_CARD)
    assert_read([Pose.from_json(pose) for pose in answer['poses']], EXAMPLE_FIGURES)


def test_detect_walks_a_folder_and_reports_what_fails(tmp_path: Path) -> None:
    """Images in subfolders are found and drawn into the same tree; a broken one costs only itself."""
    images.write(tmp_path / 'in' / 'a.png', make_card())
    images.write(tmp_path / 'in' / 'sub' / 'b.jpg', make_card(()))
    (tmp_path / 'in' / 'broken.jpg').write_bytes(b'hello')
    (tmp_path / 'in' / 'notes.txt').write_text('no image')
    result = invoke('detect', tmp_path / 'in', '--json', '-o', tmp_path / 'out')
    assert result.exit_code == 1
    answers = [json.loads(line) for line in result.stdout.splitlines() if line.startswith('{')]
    assert [len(answer['poses']) for answer in answers] == [2, 0]
    assert 'broken.jpg: these bytes are not an image' in result.stderr
    assert (tmp_path / 'out' / 'a.png').is_file()
    assert (tmp_path / 'out' / 'sub' / 'b.jpg').is_file()


def test_detect_never_writes_over_an_input_or_twice(tmp_path: Path) -> None:
    """`detect f -o f` and two files of one name would destroy pictures; both are refused before any work."""
    images.write(tmp_path / 'a' / 'x.png', make_card())
    images.write(tmp_path / 'b' / 'x.png', make_card())
    before = (tmp_path / 'a' / 'x.png').read_bytes()
    for arguments, message in (
        (['detect', tmp_path / 'a', '-o', tmp_path / 'a'], 'is an input'),
        (['detect', tmp_path / 'a' / 'x.png', '-o', tmp_path / 'a' / 'x.png'], 'is an input'),
        (['detect', tmp_path / 'a' / 'x.png', tmp_path / 'b' / 'x.png', '-o', tmp_path / 'o'], 'more than once'),
    ):
        result = invoke(*arguments)
        assert result.exit_code == 1
        assert message in str(result.exception)
    assert (tmp_path / 'a' / 'x.png').read_bytes() == before
    assert not (tmp_path / 'o').exists()


def test_detect_says_what_it_lacks(tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: Any) -> None:
    """An empty folder, a node that does not answer: one line, no traceback."""
    (tmp_path / 'empty').mkdir()
    for arguments, message in (
        (['detect', str(tmp_path / 'empty')], 'error: no images'),
        (['model', 'verify', str(tmp_path / 'missing.zip')], 'error: .*missing.zip: no such file'),
        (['card', '-o', str(tmp_path)], 'error: .*ending'),
        (['card', '-o', '/proc/none/card.png'], 'error: .*No such file'),
        (['detect', str(EXAMPLE_CARD), '--url', 'http://a b:x'], 'error: .*is not an address'),
    ):
        monkeypatch.setattr('sys.argv', ['wholebody', *arguments])
        with pytest.raises(SystemExit) as ended:
            main()
        assert ended.value.code == 1
        assert re.search(message, capsys.readouterr().err)
    result = invoke('detect', EXAMPLE_CARD, '--url', 'http://127.0.0.1:9')
    assert result.exit_code == 1
    assert 'no answer from http://127.0.0.1:9' in result.stderr


@pytest.mark.parametrize('persons', [0, 1, 8, 12])
def test_card_draws_what_detect_reads(tmp_path: Path, persons: int) -> None:
    """From nobody to the model's limit, through a JPEG file."""
    succeed('card', '-o', tmp_path / 'card.jpg', '--persons', persons)
    answer = json.loads(succeed('detect', tmp_path / 'card.jpg', '--json'))
    assert len(answer['poses']) == persons


def test_card_takes_a_background_and_refuses_what_does_not_fit(tmp_path: Path) -> None:
    """A photograph under the figures; too many for the size is an error."""
    noise = np.random.default_rng(0).integers(0, 256, (300, 400, 3), dtype=np.uint8)
    images.write(tmp_path / 'noise.png', noise)
    succeed('card', '-o', tmp_path / 'card.png', '--persons', 2, '--background', tmp_path / 'noise.png')
    answer = json.loads(succeed('detect', tmp_path / 'card.png', '--json'))
    assert len(answer['poses']) == 2
    result = invoke('card', '-o', tmp_path / 'x.png', '--persons', 12, '--width', 200, '--height', 200)
    assert result.exit_code == 1
    assert 'do not fit' in str(result.exception)


def test_a_model_is_packed_verified_installed_listed_and_used(tmp_path: Path) -> None:
    """The way to a real model, with the test card's networks as the two files."""
    onnx.save(build_detector(), tmp_path / 'det.onnx')
    onnx.save(build_estimator(), tmp_path / 'pose.onnx')
    package = tmp_path / 'mine.zip'
    packed = succeed(
        'model', 'pack', '--det', tmp_path / 'det.onnx', '--pose', tmp_path / 'pose.onnx', '-o', package,
        '--name', 'mine', '--version', '2.5', '--score-mapping', '0:0,0.5:0.2,1:1',
    )  # fmt: skip
    assert 'mine 2.5' in packed
    assert 'mine 2.5 is valid' in succeed('model', 'verify', package)
    assert '* 0.0  test-card  (embedded)' in succeed('model', 'list')
    assert 'installed' in succeed('model', 'install', package)
    listed = succeed('model', 'list')
    assert re.search(r'^\* 2\.5  mine', listed, re.MULTILINE)
    assert '  0.0  test-card  (embedded)' in listed
    assert '[mine 2.5]' in succeed('detect', EXAMPLE_CARD)
    assert '[test-card 3.0]' in succeed('detect', EXAMPLE_CARD, '--model', make_package(tmp_path / 'p.zip', '3.0'))
    assert invoke('model', 'install', package).exit_code == 1
    succeed('model', 'install', package, '--replace')


def test_a_bad_package_is_named_by_field(tmp_path: Path) -> None:
    """verify and install fail alike, and say why."""
    bad = altered(tmp_path / 'bad.zip', lambda description: description['categories'].pop(3))
    for command in ('verify', 'install'):
        result = invoke('model', command, bad)
        assert result.exit_code == 1
        assert 'right_eye missing' in str(result.exception)


def test_help_and_version() -> None:
    """A newcomer finds every command."""
    for command in ('serve', 'detect', 'doctor', 'card', 'model'):
        assert command in succeed('--help')
    for command in ('pack', 'verify', 'install', 'list'):
        assert command in succeed('model', '--help')
    assert re.match(r'\d+\.\d+', succeed('--version'))
