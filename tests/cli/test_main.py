"""The command `wholebody` and its small subcommands."""

import json
import re
import subprocess
import sys
from collections.abc import Iterator
from itertools import pairwise
from pathlib import Path

import numpy as np
import pytest
import typer

from detector.cli.main import app
from detector.pose import images
from tests.support import commands


@pytest.mark.parametrize('persons', [0, 1, 8, 12])
def test_card_draws_what_detect_reads(tmp_path: Path, persons: int) -> None:
    """`detect` finds all figures of a card in a JPEG file, from none to the model's limit."""
    commands.succeed(app, 'card', '-o', tmp_path / 'card.jpg', '--persons', persons)
    answer = json.loads(commands.succeed(app, 'detect', tmp_path / 'card.jpg', '--json'))
    assert len(answer['poses']) == persons


def test_card_takes_a_background_and_refuses_what_does_not_fit(tmp_path: Path) -> None:
    """Figures on a noisy background are found, and more figures than fit are an error."""
    noise = np.random.default_rng(0).integers(0, 256, (300, 400, 3), dtype=np.uint8)
    images.write_image(tmp_path / 'noise.png', noise)
    commands.succeed(app, 'card', '-o', tmp_path / 'card.png', '--persons', 2, '--background', tmp_path / 'noise.png')
    answer = json.loads(commands.succeed(app, 'detect', tmp_path / 'card.png', '--json'))
    assert len(answer['poses']) == 2
    result = commands.invoke(app, 'card', '-o', tmp_path / 'x.png', '--persons', 12, '--width', 200, '--height', 200)
    assert result.exit_code == 1
    assert 'do not fit' in str(result.exception)


SLOW_MODULES = {'numpy', 'cv2', 'onnxruntime', 'openvino', 'fastapi', 'learning_loop_node', 'pydantic_settings', 'mock'}


@pytest.mark.parametrize(
    'arguments',
    ['--version', '--help', 'model --help', 'outbox --help', 'labelstudio --help', 'labelstudio init --help'],
)
def test_help_and_version_load_no_slow_modules(arguments: str) -> None:
    """A fresh process answers without importing what only the work of commands needs."""
    code = f"""
import sys
from detector.cli.main import main

sys.argv = ['wholebody', *{arguments.split()}]
try:
    main()
except SystemExit as end:
    assert not end.code
print(*sys.modules, file=sys.stderr)
"""
    ended = subprocess.run([sys.executable, '-c', code], capture_output=True, text=True, check=True)
    assert ended.stdout.strip()
    assert not SLOW_MODULES & set(ended.stderr.split())


def test_help_and_version() -> None:
    """The help names every command, and the version is a number."""
    for command in ('serve', 'detect', 'doctor', 'card', 'model'):
        assert command in commands.succeed(app, '--help')
    for command in ('pack', 'verify', 'install', 'list'):
        assert command in commands.succeed(app, 'model', '--help')
    assert re.match(r'\d+\.\d+', commands.succeed(app, '--version'))


def all_commands(group: typer.core.TyperGroup, *path: str) -> Iterator[tuple[str, ...]]:
    for name, command in group.commands.items():
        yield (*path, name)
        if isinstance(command, typer.core.TyperGroup):
            yield from all_commands(command, *path, name)


@pytest.mark.parametrize('path', [*all_commands(typer.main.get_group(app))], ids='-'.join)
def test_help_fills_the_lines_of_its_paragraphs(path: tuple[str, ...], monkeypatch: pytest.MonkeyPatch) -> None:
    """On a terminal of 80 columns, a line of a command's description ends only where the next word does not fit."""
    monkeypatch.setenv('COLUMNS', '80')
    description = commands.succeed(app, *path, '--help').partition('╭')[0].split('\n')[3:]
    assert any(description)
    for line, following in pairwise(description):
        if line.strip() and following.strip():
            assert len(line.rstrip()) + len(f' {following.split()[0]}') > 79, (line, following)
