"""`wholebody detect`."""

import json
import re
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from benchmarks.support.cards import assert_read, make_card
from benchmarks.support.packages import make_package
from benchmarks.support.processes import NodeProcess
from detector.cli.main import app, main
from detector.models.embedded import EXAMPLE_CARD
from detector.pose import images
from detector.pose.pose import Pose
from mock.test_card.build import EXAMPLE_FIGURES
from tests.support import commands
from tests.support.photographs import astronaut
from tests.support.starter import needs_starter


def test_detect_prints_a_line_per_image_and_draws(tmp_path: Path) -> None:
    """The example card has two persons with all keypoints, and the output differs from the input."""
    output = commands.succeed(app, 'detect', EXAMPLE_CARD, '-o', tmp_path / 'drawn.png')
    assert '2 persons' in output
    assert '(133 keypoints)' in output
    assert 'test-card 0.0' in output
    drawn = images.read_image(tmp_path / 'drawn.png')
    assert (drawn != images.read_image(EXAMPLE_CARD)).any(axis=-1).sum() > 5000


@pytest.mark.parametrize('remote', [False, True], ids=['local engine', 'running node'])
def test_detect_prints_json_from_here_or_from_a_node(node: NodeProcess, remote: bool) -> None:
    """The local engine and a running node return the same poses."""
    arguments = ['--url', node.url] if remote else []
    answer = json.loads(commands.succeed(app, 'detect', EXAMPLE_CARD, '--json', *arguments))
    assert answer['file'] == str(EXAMPLE_CARD)
    assert_read([Pose.from_json(pose) for pose in answer['poses']], EXAMPLE_FIGURES)


def test_detect_walks_a_folder_and_reports_what_fails(tmp_path: Path) -> None:
    """Images in subfolders are drawn into the same tree, and a broken image affects no other."""
    images.write_image(tmp_path / 'in' / 'a.png', make_card())
    images.write_image(tmp_path / 'in' / 'sub' / 'b.jpg', make_card(()))
    (tmp_path / 'in' / 'broken.jpg').write_bytes(b'hello')
    (tmp_path / 'in' / 'notes.txt').write_text('no image')
    (tmp_path / 'in' / '._a.png').write_bytes(b'attributes that macOS stores beside a file')
    (tmp_path / 'in' / 'folder.jpg').mkdir()
    result = commands.invoke(app, 'detect', tmp_path / 'in', '--json', '-o', tmp_path / 'out')
    assert result.exit_code == 1
    answers = [json.loads(line) for line in result.stdout.splitlines() if line.startswith('{')]
    assert [len(answer['poses']) for answer in answers] == [2, 0]
    assert 'broken.jpg: these bytes are not an image' in result.stderr
    assert (tmp_path / 'out' / 'a.png').is_file()
    assert (tmp_path / 'out' / 'sub' / 'b.jpg').is_file()


@needs_starter
def test_detect_needs_no_data_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Where DATA_FOLDER cannot be written, the starter is built among temporary files, and the log says so."""
    (tmp_path / 'file').touch()
    monkeypatch.setenv('DATA_FOLDER', str(tmp_path / 'file' / 'data'))
    monkeypatch.setenv('MODE', 'starter')
    monkeypatch.setenv('BACKEND_TYPE', 'onnxruntime')
    images.write_image(tmp_path / 'astronaut.png', astronaut())
    command = [sys.executable, '-m', 'detector', 'detect', str(tmp_path / 'astronaut.png'), '--json']
    ended = subprocess.run(command, capture_output=True, text=True, check=False)
    assert ended.returncode == 0, ended.stderr
    assert len(json.loads(ended.stdout)['poses']) == 1
    assert 'the starter model is built in a temporary folder' in ended.stderr
    assert list(tmp_path.iterdir()) == [tmp_path / 'file', tmp_path / 'astronaut.png']


def test_an_image_without_persons_leads_to_a_better_model(tmp_path: Path, node: NodeProcess) -> None:
    """After `0 persons` of an embedded model the command says once how to get a better one, and otherwise nothing."""
    images.write_image(tmp_path / 'empty' / 'a.png', make_card(()))
    images.write_image(tmp_path / 'empty' / 'b.png', make_card(()))
    package = make_package(tmp_path / 'mine.zip', version='2.0', name='mine')
    for arguments, hints in (
        ([tmp_path / 'empty'], 1),
        ([tmp_path / 'empty', '--json'], 1),
        ([tmp_path / 'empty', '--url', node.url], 1),
        ([tmp_path / 'empty', '--model', package], 0),
        ([EXAMPLE_CARD], 0),
    ):
        result = commands.invoke(app, 'detect', *arguments)
        assert result.exit_code == 0
        assert result.stderr.count('`wholebody model pull balanced`') == hints, arguments
        assert result.stderr.count('reads test cards and finds no person in a photograph') == hints
        assert 'balanced' not in result.stdout or '--json' in arguments


def test_detect_never_writes_over_an_input_or_twice(tmp_path: Path) -> None:
    """The command stops before any work if an output would overwrite an input or another output."""
    images.write_image(tmp_path / 'a' / 'x.png', make_card())
    images.write_image(tmp_path / 'b' / 'x.png', make_card())
    before = (tmp_path / 'a' / 'x.png').read_bytes()
    for arguments, message in (
        (['detect', tmp_path / 'a', '-o', tmp_path / 'a'], 'is an input'),
        (['detect', tmp_path / 'a' / 'x.png', '-o', tmp_path / 'a' / 'x.png'], 'is an input'),
        (['detect', tmp_path / 'a' / 'x.png', tmp_path / 'b' / 'x.png', '-o', tmp_path / 'o'], 'more than once'),
    ):
        result = commands.invoke(app, *arguments)
        assert result.exit_code == 1
        assert message in str(result.exception)
    assert (tmp_path / 'a' / 'x.png').read_bytes() == before
    assert not (tmp_path / 'o').exists()


def test_detect_says_what_it_lacks(tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: Any) -> None:
    """Wrong arguments and a node that does not answer lead to one line without a traceback."""
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
    result = commands.invoke(app, 'detect', EXAMPLE_CARD, '--url', 'http://127.0.0.1:9')
    assert result.exit_code == 1
    assert 'no answer from http://127.0.0.1:9' in result.stderr
