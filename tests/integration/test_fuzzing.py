"""Coverage-guided fuzzing with atheris, each target in its own process; see `tests.fuzz.harness`."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

from benchmarks.support.environments import python_with
from benchmarks.support.processes import PROJECT
from tests.fuzz.harness import TARGETS
from tests.support import fuzz_budget as budget

pytestmark = [pytest.mark.integration, pytest.mark.nightly]

ATHERIS = 'atheris==3.0.0'
"""Requirement of the fuzzer. It has wheels for Linux on x86-64 only, so it is not a dependency: the interpreter of the
tests imports it from another environment."""


@pytest.fixture(scope='module')
def packages() -> Path:
    """Return a folder that contains atheris but no package of the project's environment."""
    python = python_with('atheris-3.0.0', ATHERIS)
    return next((python.parent.parent / 'lib').glob('python*/site-packages'))


@pytest.mark.parametrize('target', TARGETS)
def test_no_input_breaks_a_target(target: str, packages: Path, tmp_path: Path) -> None:
    """No input makes a target crash, run for over 5 seconds or use over 2 GiB; a failure shows the input."""
    path = os.pathsep.join([str(PROJECT), str(packages)])
    seconds = budget.seconds(6)
    command = [sys.executable, '-m', 'tests.fuzz.harness', target, '--seconds', str(seconds), '--corpus', 'corpus']
    done = subprocess.run(
        command,
        cwd=tmp_path,
        env=os.environ | {'PYTHONPATH': path},
        capture_output=True,
        text=True,
        errors='replace',
        timeout=seconds + 180,
        check=False,
    )
    found = [file for kind in ('crash', 'timeout', 'oom', 'leak') for file in tmp_path.glob(f'{kind}-*')]
    shown = [(file.name, file.read_bytes()[:2000]) for file in found]
    assert done.returncode == 0, f'{done.stderr[-4000:]}\n{shown}'
    assert 'DONE' in done.stderr
