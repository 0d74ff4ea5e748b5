"""Networks with random weights have the size and form of the published ones and are suitable for measurements."""

import subprocess
import sys
from dataclasses import replace
from math import prod
from pathlib import Path
from typing import get_args

import numpy as np
import onnx
import onnxruntime
import pytest

from benchmarks import random_weights
from benchmarks.network_layers import FloatArray, random_pictures
from benchmarks.support.processes import PROJECT
from benchmarks.yolox_network import Form, person_boxes
from detector.cli.main import app
from detector.engine.pose_engine import EngineOptions, PoseEngine
from detector.models.package import IMAGENET_MEAN, IMAGENET_STD, unpack_package
from tests.support.commands import succeed

pytestmark = [pytest.mark.integration, pytest.mark.nightly]


@pytest.fixture(scope='module')
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Build the networks of the lightweight mode with the command, which checks their figures."""
    folder = tmp_path_factory.mktemp('random-weights')
    command = [sys.executable, '-m', 'benchmarks.random_weights', str(folder), '--models', 'yolox-tiny,rtmw-m']
    ended = subprocess.run(command, cwd=PROJECT, capture_output=True, text=True, timeout=180, check=False)
    assert ended.returncode == 0, ended.stdout + ended.stderr
    return folder


def session(path: Path) -> onnxruntime.InferenceSession:
    return onnxruntime.InferenceSession(path, providers=['CPUExecutionProvider'])


def crops(count: int) -> FloatArray:
    pictures = random_pictures(count, width=192, height=256, seed=7)
    normalised = (pictures - IMAGENET_MEAN) / IMAGENET_STD
    return np.ascontiguousarray(normalised.transpose(0, 3, 1, 2), dtype=np.float32)


def weights_of(path: Path) -> int:
    return sum(prod(weight.dims) for weight in onnx.load(path).graph.initializer)


@pytest.mark.parametrize(('name', 'parameters'), [('yolox-tiny-raw', 5.06e6), ('rtmw-m', 32.3e6)])
def test_the_files_hold_as_many_weights_as_published(folder: Path, name: str, parameters: float) -> None:
    """The weights in a file, with folded batch norms, match the number of parameters that the command checks."""
    assert weights_of(folder / f'{name}.onnx') == pytest.approx(parameters, rel=0.03)


def test_a_missed_figure_is_reported(capsys: pytest.CaptureFixture[str]) -> None:
    """A deviation of parameters or multiply-adds by more than 3 % is reported as missed."""
    published = random_weights.DETECTORS['yolox-tiny']
    good = random_weights.Built(path=Path('x.onnx'), published=published, parameters=5.1, multiply_adds=3.2)
    assert random_weights.report([good])
    assert 'MISSED' not in capsys.readouterr().out
    assert not random_weights.report([good, replace(good, parameters=5.4)])
    assert not random_weights.report([replace(good, multiply_adds=3.1)])
    assert capsys.readouterr().out.count('MISSED') == 2


def test_the_estimator_takes_any_batch(folder: Path) -> None:
    """Three crops in one batch give the same output as each crop alone."""
    estimator, pixels = session(folder / 'rtmw-m.onnx'), crops(3)
    together = estimator.run(None, {'input': pixels})
    assert [output.shape for output in together] == [(3, 133, 384), (3, 133, 512)]
    for index in range(3):
        for batch, single in zip(together, estimator.run(None, {'input': pixels[index : index + 1]}), strict=True):
            np.testing.assert_allclose(batch[index], single[0], atol=1e-4)


def test_peaks_are_clear_and_depend_on_the_picture(folder: Path) -> None:
    """Peaks are clear and differ between pictures, so that keypoints of two runtimes differ only if the runtimes do."""
    for simcc in session(folder / 'rtmw-m.onnx').run(None, {'input': crops(3)}):
        ordered = np.sort(simcc, axis=2)
        assert np.mean(ordered[..., -1] - ordered[..., -2] > 1e-3) > 0.95
        assert ordered[..., -1].min() > 0.2
        assert ordered[..., -1].max() < 2
        bins = simcc.argmax(axis=2)
        assert np.mean(bins[0] == bins[1]) < 0.8
        assert len(np.unique(bins[0])) > 20


@pytest.mark.parametrize('name', ['yolox-tiny-raw', 'rtmw-m'])
def test_no_activation_falsifies_the_speed(folder: Path, tmp_path: Path, name: str) -> None:
    """No activation is infinite or subnormal and no layer vanishes, for a picture and for a blank one."""
    model = onnx.load(folder / f'{name}.onnx')
    convolutions = [node.output[0] for node in model.graph.node if node.op_type == 'Conv']
    model.graph.output.extend(onnx.ValueInfoProto(name=output) for output in convolutions)
    onnx.save(model, tmp_path / 'all.onnx')
    network = session(tmp_path / 'all.onnx')
    source = network.get_inputs()[0]
    if name.startswith('rtmw'):
        picture, blank = crops(1), np.zeros((1, 3, 256, 192), dtype=np.float32)
    else:
        picture = random_pictures(1, width=416, height=416, seed=7).transpose(0, 3, 1, 2).astype(np.float32)
        blank = np.full_like(picture, 114)
    for pixels in (picture, blank):
        for values in network.run(convolutions, {source.name: pixels}):
            assert np.isfinite(values).all()
            assert not np.any((values != 0) & (np.abs(values) < np.finfo(np.float32).tiny))
            assert 0.02 < np.sqrt(np.mean(values**2)) < 200


def test_scores_of_all_sizes_occur(folder: Path) -> None:
    """The scores of a raw detector without --persons range from low to high."""
    picture = random_pictures(1, width=416, height=416, seed=7).transpose(0, 3, 1, 2).astype(np.float32)
    (rows,) = session(folder / 'yolox-tiny-raw.onnx').run(None, {'images': picture})
    assert rows.shape == (1, 3549, 85)
    scores = rows[0, :, 4] * rows[0, :, 5]
    assert 5 < np.sum(scores > 0.05) < 2000
    assert np.sum(scores < 0.01) > 1000


@pytest.mark.parametrize('form', get_args(Form))
def test_a_package_finds_its_persons_in_any_picture(folder: Path, tmp_path: Path, form: Form) -> None:
    """The package is valid and finds the requested number of persons near their boxes in any picture."""
    archive = random_weights.pack(folder, 'lightweight', 4, form)
    assert 'random-lightweight 1.0 is valid' in succeed(app, 'model', 'verify', archive)
    engine = PoseEngine(unpack_package(archive, tmp_path), EngineOptions(backend_type='onnxruntime', precision='f32'))
    wide = random_pictures(1, width=960, height=540, seed=7)[0]
    for picture in (wide, np.zeros_like(wide), np.full_like(wide, 255)):
        poses = engine.poses(picture)
        assert len(poses) == 4
        for box in person_boxes(4, 416) * (960 / 416):
            assert min(np.abs(pose.box - box).max() for pose in poses) < 30
        assert all(pose.box_confidence > 0.9 for pose in poses)


@pytest.mark.parametrize('persons', [0, 1, 10])
def test_any_number_of_persons_is_found(tmp_path: Path, persons: int) -> None:
    """A detector with NMS gives a row per person and a last row of zeros, as in mmdeploy's exports."""
    detector = session(random_weights.write_detector(tmp_path, 'yolox-tiny', form='nms', persons=persons).path)
    for level in (0, 114, 255):
        dets, labels = detector.run(None, {'input': np.full((1, 3, 416, 416), level, dtype=np.float32)})
        assert dets.shape == (1, persons + 1, 5)
        assert np.all(dets[0, :-1, 4] > 0.9)
        assert not dets[0, -1].any()
        assert labels.dtype == np.int64
        np.testing.assert_array_equal(labels, np.zeros((1, persons + 1)))


def test_too_many_persons_are_refused() -> None:
    """More persons than cells of the coarsest level are refused."""
    assert len(person_boxes(18, 416)) == 18
    with pytest.raises(ValueError, match='19 persons are too many for an input of 416×416'):
        person_boxes(19, 416)


def test_the_same_seed_gives_the_same_file(folder: Path, tmp_path: Path) -> None:
    """The same seed gives the same file, and another seed gives another file."""
    again = random_weights.write_detector(tmp_path, 'yolox-tiny', form='raw').path.read_bytes()
    assert again == (folder / 'yolox-tiny-raw.onnx').read_bytes()
    assert again != random_weights.write_detector(tmp_path, 'yolox-tiny', form='raw', seed=1).path.read_bytes()
