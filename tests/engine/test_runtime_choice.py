"""The choice of runtime and precision for a package."""

import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any, Final

import pytest

from benchmarks.support.cards import assert_read, make_card
from detector.engine import runtime_choice
from detector.engine.agreement import Agreement
from detector.engine.measurement import Measured, Pair
from detector.engine.pose_engine import EngineOptions, PoseEngine
from detector.engine.runtime_choice import Choice, choose
from detector.engine.runtimes import Backend
from detector.errors import RuntimeUnavailable
from detector.models.embedded import EMBEDDED_PACKAGE
from detector.models.package import ModelPackage, unpack_package
from detector.system import memory
from tests.support.networks import make_thresholds
from tests.support.starter import needs_starter

AGREEING: Final = Agreement(mean=0.995, worst=0.98, persons=6)


@pytest.fixture
def real_model(embedded: ModelPackage) -> ModelPackage:
    """The embedded networks, declared to allow any precision like the published models."""
    return ModelPackage(
        folder=embedded.folder,
        id=embedded.id,
        version=embedded.version,
        wholebody=embedded.wholebody.model_copy(update={'precision': 'any'}),
        category_ids=embedded.category_ids,
    )


@pytest.fixture
def large(monkeypatch: pytest.MonkeyPatch) -> None:
    """Makes every package large enough to be measured."""
    monkeypatch.setattr(runtime_choice, '_MEASURED_BYTES', 0)


def chosen(package: ModelPackage, **options: object) -> tuple[str, str]:
    choice = choosing(package, **options)
    return choice.backend_type, choice.precision


def choosing(package: ModelPackage, **options: object) -> Choice:
    usual = {
        'backend_type': 'auto',
        'device': 'cpu',
        'precision': 'auto',
        'agreement': 0.99,
        'thresholds': make_thresholds(),
    }
    return choose(package, **usual | options)  # type: ignore[arg-type]


def measuring(
    monkeypatch: pytest.MonkeyPatch, *, agreement: Agreement | None = AGREEING, **milliseconds: float
) -> list[Any]:
    """Replace the measurement on all supported pairs, and return what is asked of it.

    :param milliseconds: times of ONNX Runtime (`ort`), and of OpenVINO in `f32`, `bf16` and `f16`.
    :param agreement: agreement of the lower precisions.
    """
    asked: list[Any] = []

    def measured(package: ModelPackage, backends: Sequence[Backend], **options: Any) -> list[Measured]:
        asked.append((list(backends), options['reduced']))
        names = ['ort', 'f32', *(('bf16', 'f16') if options['reduced'] else ())]
        pairs = {name: Pair('onnxruntime', 'f32') if name == 'ort' else Pair('openvino', name) for name in names}
        return [
            Measured(
                pair=pair,
                milliseconds=milliseconds[name],
                agreement=None if pair.precision == 'f32' else agreement,
            )
            for name, pair in pairs.items()
            if pair.backend_type in backends and name in milliseconds
        ]

    monkeypatch.setattr(runtime_choice, 'recalled_or_measured', measured)
    return asked


@pytest.mark.usefixtures('large')
def test_the_fastest_precision_that_agrees_is_chosen(real_model: ModelPackage, monkeypatch: pytest.MonkeyPatch) -> None:
    """The fastest pair is chosen among those that compute in f32 or agree with it, and the reason has the figures."""
    asked = measuring(monkeypatch, ort=100, f32=90, bf16=45, f16=50)
    choice = choosing(real_model)
    assert (choice.backend_type, choice.precision) == ('openvino', 'bf16')
    assert choice.reason.startswith(
        'measured: onnxruntime f32 100 ms, openvino f32 90 ms, openvino bf16 45 ms, openvino f16 50 ms per frame of '
        'two persons; openvino bf16 agrees with f32 (OKS 0.9950, at worst 0.9800, of 6 persons)'
    )
    assert chosen(real_model, backend_type='openvino') == ('openvino', 'bf16')
    assert chosen(real_model, precision='f32') == ('openvino', 'f32')
    assert chosen(real_model, backend_type='onnxruntime') == ('onnxruntime', 'f32')
    both, only = ['onnxruntime', 'openvino'], ['openvino']
    assert asked == [(both, True), (only, True), (both, False)]


@pytest.mark.usefixtures('large')
def test_a_precision_that_differs_is_not_chosen(real_model: ModelPackage, monkeypatch: pytest.MonkeyPatch) -> None:
    """A faster precision that differs from f32 or was not compared is not chosen, and the reason says so."""
    differing = Agreement(mean=0.985, worst=0.93, persons=6)
    measuring(monkeypatch, agreement=differing, ort=100, f32=90, bf16=45)
    choice = choosing(real_model)
    assert (choice.backend_type, choice.precision) == ('openvino', 'f32')
    assert choice.reason.endswith(
        '; openvino bf16 differs from f32 (OKS 0.9850, at worst 0.9300, of 6 persons; PRECISION_AGREEMENT=0.99 allows '
        '0.95 at worst)'
    )
    assert chosen(real_model, agreement=0.98) == ('openvino', 'bf16')
    measuring(monkeypatch, agreement=Agreement(mean=0, worst=0, persons=0), ort=100, f32=90, bf16=45)
    choice = choosing(real_model)
    assert (choice.backend_type, choice.precision) == ('openvino', 'f32')
    assert 'openvino bf16 is not compared with f32, since this model finds no person' in choice.reason
    measuring(monkeypatch, agreement=None, ort=100, f32=90, bf16=89)
    assert chosen(real_model) == ('openvino', 'f32')


@pytest.mark.usefixtures('large')
def test_a_package_that_needs_f32_gets_it(
    embedded: ModelPackage, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    """A package that requires f32 gets it on every CPU and with every setting; reason and log say so."""
    asked = measuring(monkeypatch, ort=100, f32=90, bf16=45)
    choice = choosing(embedded)
    assert (choice.backend_type, choice.precision) == ('openvino', 'f32')
    assert choice.reason.endswith('; the package requires f32')
    assert asked == [(['onnxruntime', 'openvino'], False)]
    assert caplog.text == ''
    for precision in ('bf16', 'f16'):
        caplog.clear()
        assert chosen(embedded, precision=precision, backend_type='openvino') == ('openvino', 'f32')
        assert f'PRECISION={precision} is ignored: {embedded.model_version} requires f32' in caplog.text


def test_unsupported_bf16_is_an_error(real_model: ModelPackage, monkeypatch: pytest.MonkeyPatch) -> None:
    """PRECISION=bf16 is an error, and never silently f32, if the runtime or the CPU lacks bf16."""
    for backend in ('onnxruntime', 'opencv'):
        with pytest.raises(RuntimeUnavailable, match=f'PRECISION=bf16: {backend} supports f32 only'):
            PoseEngine(real_model, EngineOptions(backend_type=backend, precision='bf16'))
    import openvino

    if 'BF16' not in openvino.Core().get_property('CPU', 'OPTIMIZATION_CAPABILITIES'):
        with pytest.raises(RuntimeUnavailable, match='PRECISION=bf16: this cpu supports'):
            PoseEngine(real_model, EngineOptions(precision='bf16'))
    monkeypatch.setattr(runtime_choice, 'is_installed', lambda name: name != 'openvino')
    with pytest.raises(RuntimeUnavailable, match='needs the package openvino, which is not installed'):
        chosen(real_model, precision='bf16')


def test_small_packages_are_not_measured(embedded: ModelPackage, monkeypatch: pytest.MonkeyPatch) -> None:
    """The embedded package starts at once on the default runtime."""
    monkeypatch.setattr(runtime_choice, 'recalled_or_measured', lambda *_, **__: pytest.fail('measured'))
    assert choosing(embedded).reason == 'the default; the package requires f32'
    assert chosen(embedded) == ('onnxruntime', 'f32')


def little(monkeypatch: pytest.MonkeyPatch, mebibytes: int | None) -> None:
    monkeypatch.setattr(memory, 'usable', lambda: None if mebibytes is None else mebibytes * 1024**2)


@pytest.mark.usefixtures('large')
def test_with_little_memory_onnxruntime_is_chosen(
    real_model: ModelPackage, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    """With too little memory for OpenVINO nothing is measured, ONNX Runtime runs, and one line in the log says why."""
    monkeypatch.setattr(runtime_choice, 'recalled_or_measured', lambda *_, **__: pytest.fail('measured'))
    little(monkeypatch, 512)
    caplog.set_level('INFO', 'wholebody.engine')
    engine = PoseEngine(real_model)
    assert engine.runtime == 'onnxruntime on CPUExecutionProvider, f32'
    assert caplog.messages == [
        f'{real_model.model_version} runs on onnxruntime in f32: this process may use 512 MiB of memory, and OpenVINO '
        'needs 1536 MiB'
    ]
    engine.check()
    assert engine.estimator.batch_sizes == (2, 1)


def test_settings_count_with_little_memory(real_model: ModelPackage, monkeypatch: pytest.MonkeyPatch) -> None:
    """A runtime or precision that the settings name is used, with few persons per inference on the CPU."""
    little(monkeypatch, 512)
    for options in ({'backend_type': 'openvino', 'precision': 'f32'}, {'precision': 'bf16'}, {'precision': 'f16'}):
        assert chosen(real_model, **options)[0] == 'openvino'
    plain = {'backend_type': 'openvino', 'precision': 'f32'}
    assert choosing(real_model, device='cpu', **plain).largest_batch == 2
    assert choosing(real_model, device='gpu', **plain).largest_batch is None


@pytest.mark.usefixtures('large')
@pytest.mark.parametrize('mebibytes', [1536, None])
def test_enough_or_unknown_memory_changes_nothing(
    real_model: ModelPackage, monkeypatch: pytest.MonkeyPatch, mebibytes: int | None
) -> None:
    """With enough memory, or where the system does not say how much there is, the speed decides."""
    little(monkeypatch, mebibytes)
    measuring(monkeypatch, ort=100, f32=90, bf16=45)
    assert chosen(real_model) == ('openvino', 'bf16')


LOADING = """
import numpy as np
import detector.node.server
from detector.engine.agreement import Agreement
from detector.engine.measurement import Measured, Pair
from detector.engine.pose_engine import EngineOptions, PoseEngine
from detector.models.store import ModelStore
from detector.system import memory
from pathlib import Path

memory.usable = lambda: 512 * 1024**2
engine = PoseEngine(ModelStore(Path()).embedded('starter'), EngineOptions(cache=Path()))
engine.check()
image = np.random.default_rng(0).integers(0, 255, (720, 1280, 3), dtype=np.uint8)
boxes = np.tile(np.array([100, 100, 400, 700], dtype=np.float32), (9, 1))
assert len(engine.poses_in_boxes([(image, boxes, np.ones(9, dtype=np.float32))])[0]) == 9
print(Path('/proc/self/status').read_text().split('VmHWM:')[1].split()[0])
"""


@needs_starter
@pytest.mark.skipif(sys.platform != 'linux', reason='reads /proc')
def test_the_starter_fits_into_512_mib(tmp_path: Path) -> None:
    """In a process with the node's modules that may use 512 MiB, building and running the starter takes up to 420."""
    ended = subprocess.run([sys.executable, '-c', LOADING], cwd=tmp_path, capture_output=True, text=True, check=False)
    assert ended.returncode == 0, ended.stderr
    assert int(ended.stdout.split()[-1]) / 1024 < 420


def test_compiled_networks_are_kept_with_their_package(tmp_path: Path) -> None:
    """OpenVINO's compiled networks are kept in the folder of the package and give the same poses."""
    (tmp_path / 'package').mkdir()
    package = unpack_package(EMBEDDED_PACKAGE, tmp_path / 'package')
    assert_read(PoseEngine(package, EngineOptions(backend_type='openvino')).poses(make_card()))
    assert not (package.folder / 'compiled').exists()
    options = EngineOptions(backend_type='openvino', cache=tmp_path / 'cache')
    assert_read(PoseEngine(package, options).poses(make_card()))
    blobs = sorted((package.folder / 'compiled').iterdir())
    assert blobs
    assert_read(PoseEngine(package, options).poses(make_card()))
    assert sorted((package.folder / 'compiled').iterdir()) == blobs


def test_a_choice_opens_what_it_says(embedded: ModelPackage) -> None:
    """The opened runtime has the chosen name and precision."""
    choice = Choice(backend_type='openvino', device='cpu', precision='f32', compiled=None, reason='')
    runtime = choice.open(embedded.detector_path)
    assert (runtime.name, runtime.precision) == ('openvino on CPU', 'f32')
