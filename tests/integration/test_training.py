"""The training of the person detector, in an environment with PyTorch."""

import json
import os
import subprocess
from pathlib import Path

import cv2
import numpy as np
import pytest

from benchmarks.support.environments import python_with
from benchmarks.support.processes import PROJECT
from detector.engine.person_detector import PersonDetector
from detector.engine.runtimes import open_runtime
from tests.support.networks import detector_spec, make_thresholds
from tests.support.photographs import portrait

pytestmark = pytest.mark.nightly  # PyTorch is a large download

CHECKS = 'tests.support.integration.training_checks'


@pytest.fixture(scope='session')
def python() -> str:
    """Return an interpreter with PyTorch: the one that the environment names, or one of a new environment."""
    named = os.environ.get('WHOLEBODY_TRAINING_PYTHON')
    requirements = ['torch>=2.6', 'numpy', 'onnx', 'onnxruntime', 'opencv-python-headless']
    return named or str(python_with('training-torch-2.6', '--torch-backend', 'cpu', *requirements))


def run(python: str, *arguments: object) -> str:
    """Run a module with PyTorch; return what it prints."""
    command = [python, '-m', *map(str, arguments)]
    ended = subprocess.run(command, cwd=PROJECT, capture_output=True, text=True, timeout=300, check=False)
    assert ended.returncode == 0, ended.stdout + ended.stderr
    return ended.stdout


@pytest.fixture
def photographs(tmp_path: Path) -> Path:
    """Write variants of a portrait with its person annotated, and pictures without annotation."""
    folder = tmp_path / 'photographs'
    image, boxes = portrait()[..., ::-1], {}
    for index in range(12):
        (folder / 'coco').mkdir(parents=True, exist_ok=True)
        (folder / 'osie').mkdir(parents=True, exist_ok=True)
        shade = np.clip(image[:, 10 * index :] * (0.5 + 0.05 * index), 0, 255).astype(np.uint8)
        cv2.imwrite(str(folder / f'coco/{index}.jpg'), cv2.resize(shade, (200, 240)))
        cv2.imwrite(str(folder / f'osie/{index}.jpg'), cv2.resize(shade[:40, :40], (200, 150)))
        boxes[f'coco/{index}.jpg'] = [[0.05, 0.05, 0.95, 1, 1]]
    (folder / 'boxes.json').write_text(json.dumps(boxes))
    return folder


def test_a_training_ends_with_a_file_that_the_node_reads(python: str, photographs: Path, tmp_path: Path) -> None:
    """Some steps in two processes change the network; the exported file is read by the node's person detector."""
    run(python, CHECKS, 'teacher', tmp_path)
    teacher, folder = tmp_path / 'teacher.onnx', tmp_path / 'run'
    arguments = ['--minutes', '0.5', '--batch', '1', '--blocks', '0.5', '--report', '0.02']
    output = run(python, 'training', 'run', photographs, teacher, folder, *arguments)
    assert 'calibrated on' in output
    assert 'pictures a second' in (folder / 'train.log').read_text()
    network = PersonDetector(open_runtime(folder / 'person_detector.onnx'), detector_spec('raw'), make_thresholds())
    network.check()
    run(python, CHECKS, 'exported', folder)

    # The same command goes on from the checkpoint; the time is over, so it only exports the same weights again.
    first = (folder / 'person_detector.onnx').read_bytes()
    run(python, 'training', 'run', photographs, teacher, folder, *arguments)
    assert 'resumed after' in (folder / 'train.log').read_text()
    assert (folder / 'person_detector.onnx').read_bytes() == first


@pytest.mark.parametrize('check', ['losses', 'optimizer', 'blocks', 'phases'])
def test_a_part_of_the_training(python: str, tmp_path: Path, check: str) -> None:
    """Losses, optimisers, blocks and phases behave as the docstring of the check says."""
    run(python, CHECKS, check, tmp_path)


def test_input_that_cannot_be_used_is_named(python: str, tmp_path: Path) -> None:
    """A folder of photographs from an unlisted source ends the command with one line and exit status 2."""
    (tmp_path / 'holidays').mkdir()
    cv2.imwrite(str(tmp_path / 'holidays/a.jpg'), np.zeros((40, 40, 3), np.uint8))
    command = [python, '-m', 'training', 'run', str(tmp_path), str(tmp_path / 't.onnx'), str(tmp_path / 'run')]
    ended = subprocess.run(command, cwd=PROJECT, capture_output=True, text=True, timeout=120, check=False)
    assert ended.returncode == 2
    assert 'holidays: not listed' in ended.stderr
    assert 'Traceback' not in ended.stderr


def test_a_run_without_time_for_the_whole_network_is_refused(python: str, photographs: Path, tmp_path: Path) -> None:
    """If blocks learn by themselves to the end, the command names the option and ends with status 2."""
    command = [python, '-m', 'training', 'run', str(photographs), 't.onnx', str(tmp_path / 'run'), '--blocks', '1']
    ended = subprocess.run(command, cwd=PROJECT, capture_output=True, text=True, timeout=120, check=False)
    assert ended.returncode == 2
    assert '--blocks 1: a share of the run' in ended.stderr
