"""`wholebody model`."""

import json
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx
import onnx
import pytest

from benchmarks.support.packages import altered, make_package
from benchmarks.support.processes import NodeProcess, running_node
from detector.cli.main import app
from detector.errors import WholebodyError
from detector.models.embedded import EXAMPLE_CARD
from mock.test_card.model import build_detector, build_estimator
from tests.support import commands
from tests.support.file_server import FileServer
from tests.support.published_models import catalogue_of, published_networks


def test_a_model_is_packed_verified_installed_listed_and_used(tmp_path: Path) -> None:
    """Two ONNX files, here of the test card model, become the model that `detect` uses."""
    onnx.save(build_detector(), tmp_path / 'det.onnx')
    onnx.save(build_estimator(), tmp_path / 'pose.onnx')
    package = tmp_path / 'mine.zip'
    packed = commands.succeed(app,
        'model', 'pack', '--det', tmp_path / 'det.onnx', '--pose', tmp_path / 'pose.onnx', '-o', package,
        '--name', 'mine', '--version', '2.5', '--score-mapping', '0:0,0.5:0.2,1:1',
    )  # fmt: skip
    assert 'mine 2.5' in packed
    assert 'mine 2.5 is valid; persons from 0.5 (default)' in commands.succeed(app, 'model', 'verify', package)
    assert '* test-card  (embedded)' in commands.succeed(app, 'model', 'list')
    assert 'installed' in commands.succeed(app, 'model', 'install', package)
    listed = commands.succeed(app, 'model', 'list')
    assert re.search(r'^\* 2\.5  mine', listed, re.MULTILINE)
    assert '  test-card  (embedded)' in listed
    assert '[mine 2.5]' in commands.succeed(app, 'detect', EXAMPLE_CARD)
    assert '[test-card 3.0]' in commands.succeed(
        app, 'detect', EXAMPLE_CARD, '--model', make_package(tmp_path / 'p.zip', '3.0')
    )
    assert commands.invoke(app, 'model', 'install', package).exit_code == 1
    commands.succeed(app, 'model', 'install', package, '--replace')


def test_a_bad_package_is_named_by_field(tmp_path: Path) -> None:
    """`verify` and `install` report the same reason."""
    bad = altered(tmp_path / 'bad.zip', lambda description: description['categories'].pop(3))
    for command in ('verify', 'install'):
        result = commands.invoke(app, 'model', command, bad)
        assert result.exit_code == 1
        assert 'right_eye missing' in str(result.exception)


@pytest.fixture
def published(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[tuple[FileServer, FileServer]]:
    """A catalogue of the models `small` and `large` on local servers."""
    entries: dict[str, dict[str, Any]] = {
        'small': {'version': '1.0.1', 'licence': 'MIT', 'ap': 58.25, 'ap_source': 'table 1'},
        'large': {'version': '1.0.2'},
    }
    with published_networks() as servers:
        monkeypatch.setenv('MODEL_CATALOGUE', str(catalogue_of(tmp_path, servers, entries=entries, megabytes=20)))
        yield servers


def test_published_models_are_listed_pulled_chosen_and_removed(published: tuple[FileServer, FileServer]) -> None:
    """The commands work without a node, and each refusal says which command helps."""
    listed = commands.succeed(app, 'model', 'available')
    assert re.search(r'^small +test +\? +58\.2 +MIT *$', listed, re.MULTILINE)
    assert 'AP: table 1' in listed
    assert 'run `wholebody model pull large`' in failure('model', 'use', 'large')
    commands.succeed(app, 'model', 'pull', 'small')
    assert 'large 1.0.2 is installed' in commands.succeed(app, 'model', 'pull', 'large')
    models = [json.loads(line) for line in commands.succeed(app, 'model', 'available', '--json').splitlines()]
    assert [(model['mode'], model['installed'], model['current']) for model in models] == [
        ('small', True, False),
        ('large', True, True),
    ]
    assert '[large 1.0.2]' in commands.succeed(app, 'detect', EXAMPLE_CARD)
    assert commands.succeed(app, 'model', 'use', 'small') == 'small 1.0.1 is current\n'
    assert '[small 1.0.1]' in commands.succeed(app, 'detect', EXAMPLE_CARD)
    assert 'small 1.0.1 is the current model; use another one first' in failure('model', 'remove', 'small')
    assert re.search(
        r'large 1\.0\.2 is removed, which frees \d\.\d MiB', commands.succeed(app, 'model', 'remove', 'large')
    )
    roles = [json.loads(line) for line in commands.succeed(app, 'model', 'list', '--json').splitlines()]
    assert [(model['name'], model['role'], model['current']) for model in roles] == [
        ('small', 'installed', True),
        ('starter', 'embedded', False),
        ('test-card', 'embedded', False),
    ]
    assert "the catalogue has no model 'huge'; it has small, large" in failure('model', 'pull', 'huge')


def failure(*arguments: object) -> str:
    """Run a command that must fail with one of this project's errors, and return its message."""
    result = commands.invoke(app, *arguments)
    assert isinstance(result.exception, WholebodyError), result.output
    return str(result.exception)


def test_a_running_node_is_told_or_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A running node keeps its model, and no command removes it; with its address it switches at once."""
    with running_node(tmp_path / 'node') as node:
        monkeypatch.setenv('DATA_FOLDER', str(node.data_folder))
        monkeypatch.setenv('BACKEND_PORT', str(node.port))
        for version in ('2.0', '2.1', '2.2'):
            told = commands.succeed(app, 'model', 'install', make_package(tmp_path / f'{version}.zip', version))
            assert f'the running node (process {node.process.pid} ' in told
            assert f'`wholebody model use {version} --url http://localhost:{node.port}`' in told
        assert serving(node) == 'test-card'
        assert f'{node.url} serves 2.0' in commands.succeed(app, 'model', 'use', '2.0', '--url', node.url)
        assert serving(node) == '2.0'
        commands.succeed(app, 'model', 'use', '2.1')
        assert 'give its address with --url' in failure('model', 'remove', '2.2')
        assert '2.0 is served by the running node' in failure('model', 'remove', '2.0', '--url', node.url)
        assert '2.1 is the current model' in failure('model', 'remove', '2.1', '--url', node.url)
        assert '2.2 is removed' in commands.succeed(app, 'model', 'remove', '2.2', '--url', node.url)
        assert 'switches to it with --url' in failure('model', 'use', 'test-card')
        assert f'{node.url} serves test-card' in commands.succeed(app, 'model', 'use', 'test-card', '--url', node.url)
        commands.succeed(app, 'model', 'use', '2.0', '--url', node.url)
        (node.data_folder / 'models' / '2.1' / 'pose.onnx').write_bytes(b'damaged')
        assert 'sha256' in failure('model', 'use', '2.1')
        assert f'{node.url} cannot switch to 2.1: ' in failure('model', 'use', '2.1', '--url', node.url)
        assert serving(node) == '2.0'
    assert 'no answer from' in failure('model', 'use', '2.0', '--url', node.url)


def serving(node: NodeProcess) -> str:
    return str(httpx.get(f'{node.url}/model_version', timeout=10).json()['current_version'])
