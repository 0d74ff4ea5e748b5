"""The inference runtimes."""

import importlib.metadata
import importlib.util
from pathlib import Path

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper

from benchmarks.support.cards import make_card
from detector.engine import runtimes
from detector.engine.pose_engine import PoseEngine
from detector.engine.runtimes import Backend, Runtime, open_runtime, usable_cpus
from detector.errors import RuntimeUnavailable
from detector.models.package import ModelPackage

BACKENDS: tuple[Backend, ...] = ('onnxruntime', 'openvino', 'opencv')


@pytest.mark.parametrize('role', ['detector', 'estimator'])
def test_all_runtimes_compute_the_same(embedded: ModelPackage, role: str) -> None:
    """The embedded networks give the same numbers on ONNX Runtime, OpenVINO (f32) and OpenCV DNN."""
    path = embedded.detector_path if role == 'detector' else embedded.estimator_path
    card = make_card(width=720, height=480)
    if role == 'detector':
        batch = np.full((1, 3, 640, 640), 114, dtype=np.float32)
        batch[0, :, :480, :640] = card[:, :640, ::-1].transpose(2, 0, 1)
    else:
        crop = card[20:276, 30:222].astype(np.float32)
        batch = ((crop - (123.675, 116.28, 103.53)) / (58.395, 57.12, 57.375)).transpose(2, 0, 1)[None]
        batch = np.concatenate([batch, batch[..., ::-1]])
    batch = np.ascontiguousarray(batch, dtype=np.float32)
    reference, *others = (open_runtime(path, backend_type=backend).run(batch) for backend in BACKENDS)
    assert any(output.max() > 0.5 for output in reference)
    for outputs in others:
        assert [output.shape for output in outputs] == [output.shape for output in reference]
        for ours, theirs in zip(outputs, reference, strict=True):
            np.testing.assert_allclose(ours, theirs, atol=1e-4)


def test_gates_of_channel_attention_are_the_same_on_all_runtimes(tmp_path: Path) -> None:
    """All runtimes compute RTMW's attention gates alike, which OpenCV 5.0 would take for a part of a hard swish."""
    nodes = [
        helper.make_node('GlobalAveragePool', ['x'], ['pooled']),
        helper.make_node('HardSigmoid', ['pooled'], ['gate'], alpha=1 / 6, beta=0.5),
        helper.make_node('Mul', ['x', 'gate'], ['attended']),
        helper.make_node('HardSigmoid', ['attended'], ['y']),
    ]
    ends = [helper.make_tensor_value_info(name, TensorProto.FLOAT, [1, 3, 8, 8]) for name in 'xy']
    graph = helper.make_graph(nodes, 'attention', ends[:1], ends[1:])
    path = tmp_path / 'attention.onnx'
    onnx.save(helper.make_model(graph, opset_imports=[helper.make_opsetid('', 11)], ir_version=8), path)
    pixels = 4 * np.random.default_rng(0).normal(0, 1, (1, 3, 8, 8)).astype(np.float32)
    gate = np.clip(pixels.mean(axis=(2, 3), keepdims=True) / 6 + 0.5, 0, 1)
    expected = np.clip(0.2 * pixels * gate + 0.5, 0, 1)
    for backend in BACKENDS:
        (output,) = open_runtime(path, backend_type=backend).run(pixels)
        np.testing.assert_allclose(output, expected, atol=1e-6)


def test_a_released_runtime_computes_the_same(embedded: ModelPackage) -> None:
    """After its memory was released, a runtime gives the same outputs as before."""
    for backend in BACKENDS:
        runtime = open_runtime(embedded.estimator_path, backend_type=backend)
        batch = np.random.default_rng(0).normal(0, 1, (2, 3, 256, 192)).astype(np.float32)
        before = runtime.run(batch)
        runtime.release()
        for ours, theirs in zip(runtime.run(batch), before, strict=True):
            np.testing.assert_array_equal(ours, theirs)


def test_a_missing_device_is_an_error(embedded: ModelPackage) -> None:
    """A missing device is an error; the engine never falls back to the CPU silently."""
    for device in ('cuda', 'cuda:1', 'tensorrt', 'mps'):
        with pytest.raises(RuntimeUnavailable, match=f'DEVICE={device}'):
            open_runtime(embedded.detector_path, backend_type='onnxruntime', device=device)
    with pytest.raises(RuntimeUnavailable, match='openvino supports cpu, gpu and npu'):
        open_runtime(embedded.detector_path, backend_type='openvino', device='cuda')
    with pytest.raises(RuntimeUnavailable, match='cpu only'):
        open_runtime(embedded.detector_path, backend_type='opencv', device='cuda')
    with pytest.raises(RuntimeUnavailable, match='BACKEND_TYPE=openvino'):
        open_runtime(embedded.detector_path, backend_type='onnxruntime', device='npu')


@pytest.mark.parametrize('backend', BACKENDS)
def test_a_file_that_is_not_a_network_is_an_error(tmp_path: Path, backend: Backend) -> None:
    """A file that is not a network raises an error that names the runtime and the file."""
    path = tmp_path / 'text.onnx'
    path.write_text('hello')
    with pytest.raises(RuntimeUnavailable, match=f'{backend} on cpu cannot load text.onnx'):
        open_runtime(path, backend_type=backend)


def test_a_runtime_that_is_not_installed_is_named(embedded: ModelPackage, monkeypatch: pytest.MonkeyPatch) -> None:
    """`auto` skips a missing runtime; demanding it by name is an error."""
    real = importlib.util.find_spec
    monkeypatch.setattr(importlib.util, 'find_spec', lambda name: None if name == 'onnxruntime' else real(name))
    assert runtimes.installed_for('cpu') == ['openvino', 'opencv']
    assert PoseEngine(embedded).runtime == 'openvino on CPU, f32'
    with pytest.raises(RuntimeUnavailable, match='onnxruntime is not installed'):
        open_runtime(embedded.detector_path, backend_type='onnxruntime')
    monkeypatch.setattr(importlib.util, 'find_spec', lambda name: None)
    with pytest.raises(RuntimeUnavailable, match='no inference runtime'):
        runtimes.installed_for('cpu')


def test_onnxruntime_is_known_under_both_names(monkeypatch: pytest.MonkeyPatch) -> None:
    """The version is found for onnxruntime and for onnxruntime-gpu, which the image variant `cuda` has."""

    def version(name: str) -> str:
        if name == 'onnxruntime-gpu':
            return '1.2.3'
        raise importlib.metadata.PackageNotFoundError(name)

    assert runtimes.installed_version('onnxruntime').startswith('onnxruntime 1.')
    monkeypatch.setattr(importlib.metadata, 'version', version)
    assert runtimes.installed_version('onnxruntime') == 'onnxruntime-gpu 1.2.3'
    with pytest.raises(RuntimeUnavailable, match='openvino is not installed'):
        runtimes.installed_version('openvino')


def test_a_runtime_names_its_device(embedded: ModelPackage) -> None:
    """The name of a runtime, which /about shows, includes its device."""
    runtime: Runtime = open_runtime(embedded.detector_path)
    assert runtime.name == 'onnxruntime on CPUExecutionProvider'
    assert usable_cpus() >= 1
