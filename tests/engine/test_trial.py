"""The trial of a package in a child process."""

import json
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from benchmarks.support.packages import constant_network, hostile_network, with_network
from detector.engine import trial
from detector.engine.pose_engine import EngineOptions
from detector.errors import InferenceFailed, InvalidPackage, RuntimeUnavailable
from detector.models.package import ModelPackage, unpack_package
from detector.system import child_process, memory
from detector.system.child_process import ChildFailed

OPTIONS = EngineOptions(backend_type='onnxruntime')
GIB = 1024**3


def with_estimator(folder: Path, make: Callable[[Path], Path]) -> ModelPackage:
    """Unpack a copy of the embedded package that has another estimator."""
    archive = with_network(folder / 'p.zip', 'estimator', make(folder / 'network.onnx'))
    (folder / 'unpacked').mkdir()
    return unpack_package(archive, folder / 'unpacked')


@pytest.mark.usefixtures('child_processes')
def test_a_graph_that_loops_for_ever_is_refused(tmp_path: Path) -> None:
    """The child is killed when its time is up, and the error names the networks."""
    package = with_estimator(tmp_path, lambda path: hostile_network(path, grows=False))
    with pytest.raises(RuntimeUnavailable, match=r'of det.onnx and pose.onnx has not ended within 3 seconds'):
        trial.run(package, replace(OPTIONS, trial_seconds=3))


@pytest.mark.usefixtures('child_processes')
@pytest.mark.parametrize('backend_type', ['onnxruntime', 'openvino'])
def test_a_graph_that_allocates_without_bound_is_refused(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, backend_type: str
) -> None:
    """The runtime reports that it gets no more memory, as the fault of the network."""
    monkeypatch.setattr(trial, 'MAX_BYTES', 2 * 1024**3)
    package = with_estimator(tmp_path, lambda path: hostile_network(path, grows=True))
    with pytest.raises(InvalidPackage, match=r'^pose.onnx: a trial inference failed: '):
        trial.run(package, EngineOptions(backend_type=backend_type))  # type: ignore[arg-type]


@pytest.mark.usefixtures('child_processes')
def test_the_error_is_that_of_the_engine(tmp_path: Path) -> None:
    """Its type and its text pass through the process."""
    outputs = {'simcc_x': np.zeros((1, 17, 384)), 'simcc_y': np.zeros((1, 17, 512))}
    package = with_estimator(tmp_path, lambda path: constant_network(path, outputs, (192, 256)))
    with pytest.raises(InvalidPackage, match=r'^pose.onnx: outputs are \[\(1, 17, 384\)'):
        trial.run(package, OPTIONS)
    with pytest.raises(RuntimeUnavailable, match='^DEVICE=npu: onnxruntime does not support it'):
        trial.run(package, replace(OPTIONS, device='npu'))


def test_a_package_that_has_passed_is_not_tried_again(
    embedded: ModelPackage, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The same networks need no second trial, wherever they lie; other networks and other options need one."""
    calls: list[object] = []
    monkeypatch.setattr(child_process, 'call', lambda *_, **options: calls.append(options))
    options = replace(OPTIONS, cache=tmp_path / 'cache')
    trial.ensure(embedded, OPTIONS)
    for package in (embedded, embedded, replace(embedded, folder=tmp_path)):
        trial.ensure(package, options)
    assert len(calls) == 2
    trial.ensure(embedded, replace(options, backend_type='openvino'))
    estimator = embedded.wholebody.estimator.model_copy(update={'sha256': 64 * '0'})
    other = replace(embedded, wholebody=embedded.wholebody.model_copy(update={'estimator': estimator}))
    trial.ensure(other, options)
    assert len(calls) == 4


@pytest.mark.parametrize('content', [b'', b'[]', b'{"passed": 7}', b'{"passed": [7, null]}', 200_000 * b'['])
def test_damaged_notes_of_trials_lead_to_another_trial(
    embedded: ModelPackage, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, content: bytes
) -> None:
    """A file that cannot be read is replaced; the number of notes is limited."""
    calls: list[object] = []
    monkeypatch.setattr(child_process, 'call', lambda *_, **options: calls.append(options))
    (tmp_path / 'trials.json').write_bytes(content)
    for number in range(70):
        trial.ensure(embedded, replace(OPTIONS, cache=tmp_path, device=f'cuda:{number}'))
    trial.ensure(embedded, replace(OPTIONS, cache=tmp_path, device='cuda:69'))
    assert len(calls) == 70
    assert len(json.loads((tmp_path / 'trials.json').read_bytes())['passed']) == 64


@pytest.mark.parametrize(
    ('failure', 'device', 'error'),
    [
        (ChildFailed('has crashed (SIGSEGV)'), 'cpu', InvalidPackage),
        (ChildFailed('has crashed (SIGSEGV)'), 'cuda', InferenceFailed),
        (ChildFailed('was killed', was_starved=True), 'cpu', RuntimeUnavailable),
    ],
)
def test_a_child_that_ends_is_the_fault_of_package_device_or_machine(
    embedded: ModelPackage, monkeypatch: pytest.MonkeyPatch, failure: ChildFailed, device: str, error: type[Exception]
) -> None:
    """A crash on the CPU is the package's; another device may be at fault, and memory is the machine's."""

    def fail(*_: object, **options: object) -> None:
        assert (options['max_bytes'] is None) == (device != 'cpu')
        raise failure

    monkeypatch.setattr(child_process, 'call', fail)
    with pytest.raises(
        error, match=f'a trial inference of det.onnx and pose.onnx {failure}'.replace('(', r'\(').replace(')', r'\)')
    ):
        trial.run(embedded, replace(OPTIONS, device=device))


def test_an_unexpected_error_is_an_invalid_package(embedded: ModelPackage, monkeypatch: pytest.MonkeyPatch) -> None:
    """The child has no log, so its error reaches the caller in one line."""
    monkeypatch.setattr(trial, 'PoseEngine', lambda *_: dict[str, int]()['weights'])
    with pytest.raises(InvalidPackage, match='a trial inference failed: KeyError: .weights.'):
        trial.run(embedded, OPTIONS)


def test_the_limit_of_a_container_bounds_a_trial(monkeypatch: pytest.MonkeyPatch) -> None:
    """A trial gets no more than the machine can spare and the cgroup allows, besides what runtimes never touch."""
    for spare, usable, expected in ((4, 0.5, 1.5), (1, 16, 2), (64, 64, 8), (None, None, 8)):
        monkeypatch.setattr(memory, 'spare', lambda size=spare: size and size * GIB)
        monkeypatch.setattr(memory, 'usable', lambda size=usable: size and int(size * GIB))
        assert trial._max_bytes() == expected * GIB
