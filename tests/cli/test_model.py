"""`wholebody model`."""

import re
from pathlib import Path

import onnx

from benchmarks.support.packages import altered, make_package
from detector.cli.main import app
from detector.models.embedded import EXAMPLE_CARD
from mock.test_card.model import build_detector, build_estimator
from tests.support import commands


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
    assert 'mine 2.5 is valid' in commands.succeed(app, 'model', 'verify', package)
    assert '* 0.0  test-card  (embedded)' in commands.succeed(app, 'model', 'list')
    assert 'installed' in commands.succeed(app, 'model', 'install', package)
    listed = commands.succeed(app, 'model', 'list')
    assert re.search(r'^\* 2\.5  mine', listed, re.MULTILINE)
    assert '  0.0  test-card  (embedded)' in listed
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
