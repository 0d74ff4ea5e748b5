"""The choice of runtime and precision for a package."""

import json
import subprocess
import sys
import weakref
from pathlib import Path

import pytest

from benchmarks.support.cards import assert_read, make_card
from detector.engine import runtime_choice
from detector.engine.pose_engine import EngineOptions, PoseEngine
from detector.engine.runtime_choice import Choice, choose
from detector.engine.runtimes import Backend, installed_for, open_runtime
from detector.errors import RuntimeUnavailable
from detector.models.embedded import EMBEDDED_PACKAGE
from detector.models.package import ModelPackage, unpack_package
from detector.system import memory
from tests.support.starter import needs_starter


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


def flags(monkeypatch: pytest.MonkeyPatch, *names: str) -> None:
    monkeypatch.setattr(runtime_choice, 'cpu_flags', lambda: frozenset(names))


def chosen(package: ModelPackage, **options: object) -> tuple[str, str]:
    choice = choose(package, **{'backend_type': 'auto', 'device': 'cpu', 'precision': 'auto'} | options)  # type: ignore[arg-type]
    return choice.backend_type, choice.precision


def test_bf16_is_chosen_on_cpus_with_matrix_units(real_model: ModelPackage, monkeypatch: pytest.MonkeyPatch) -> None:
    """bf16 is chosen on CPUs with AMX if the package allows it and no setting demands otherwise."""
    flags(monkeypatch, 'avx512_bf16')
    assert chosen(real_model) == ('onnxruntime', 'f32')
    flags(monkeypatch, 'amx_bf16', 'amx_tile')
    assert chosen(real_model) == ('openvino', 'bf16')
    assert chosen(real_model, backend_type='openvino') == ('openvino', 'bf16')
    assert chosen(real_model, backend_type='onnxruntime') == ('onnxruntime', 'f32')
    assert chosen(real_model, precision='f32') == ('onnxruntime', 'f32')


def test_a_package_that_needs_f32_gets_it(
    embedded: ModelPackage, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    """A package that requires f32 gets it on every CPU and with every setting; the log says so."""
    flags(monkeypatch, 'amx_bf16')
    assert chosen(embedded)[1] == 'f32'
    assert caplog.text == ''
    assert chosen(embedded, precision='bf16', backend_type='openvino') == ('openvino', 'f32')
    assert 'requires f32' in caplog.text


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
    monkeypatch.setattr(runtime_choice, '_measure', lambda *_: pytest.fail('measured'))
    assert chosen(embedded) == ('onnxruntime', 'f32')


@pytest.mark.usefixtures('large')
def test_the_fastest_is_measured_once_and_remembered(
    embedded: ModelPackage, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    """A measurement, which the log announces, is reused until the package or the machine changes."""
    caplog.set_level('INFO', 'wholebody.engine')
    first = choose(embedded, backend_type='auto', device='cpu', precision='auto', cache=tmp_path)
    assert caplog.messages == [
        f'{embedded.model_version}: measuring which is the fastest of {", ".join(installed_for("cpu")[:2])}'
    ]
    assert 'measured: ' in first.reason
    assert 'onnxruntime' in first.reason
    assert 'openvino' in first.reason
    (outcome,) = json.loads((tmp_path / 'runtimes.json').read_text()).values()
    assert set(outcome) == {'onnxruntime', 'openvino'}
    measure = runtime_choice._measure
    monkeypatch.setattr(runtime_choice, '_measure', lambda *_: pytest.fail('measured again'))
    assert choose(embedded, backend_type='auto', device='cpu', precision='auto', cache=tmp_path) == first
    monkeypatch.setattr(runtime_choice, '_measure', measure)
    monkeypatch.setattr(runtime_choice, 'usable_cpus', lambda: 64)
    chosen(embedded, cache=tmp_path)
    assert len(json.loads((tmp_path / 'runtimes.json').read_text())) == 2


@pytest.mark.usefixtures('large')
@pytest.mark.parametrize(('seconds', 'rounds'), [(60.0, 3), (0.0, 1)])
def test_a_slow_machine_measures_one_round(
    embedded: ModelPackage, monkeypatch: pytest.MonkeyPatch, seconds: float, rounds: int
) -> None:
    """Once the time for measuring is over, no further round delays the first answer."""
    runs: list[object] = []

    class Counting:
        def run(self, batch: object) -> None:
            runs.append(batch)

    monkeypatch.setattr(runtime_choice, 'open_runtime', lambda *_, **__: Counting())
    monkeypatch.setattr(runtime_choice, '_MEASURING_SECONDS', seconds)
    assert set(runtime_choice._measure(embedded, ['onnxruntime', 'openvino'])) == {'onnxruntime', 'openvino'}
    warm_up, round_of_both = 2 * 2, 2 * 3
    assert len(runs) == warm_up + rounds * round_of_both


@pytest.mark.usefixtures('large')
def test_only_one_runtime_at_a_time_holds_the_networks(embedded: ModelPackage, monkeypatch: pytest.MonkeyPatch) -> None:
    """The runtimes are measured one after the other, and the first one is freed before the second one is opened."""
    alive: dict[str, weakref.WeakSet[object]] = {}

    class Fake:
        def run(self, batch: object) -> None: ...

    def opening(path: Path, *, backend_type: Backend) -> object:
        assert not any(runtimes for name, runtimes in alive.items() if name != backend_type)
        runtime = Fake()
        alive.setdefault(backend_type, weakref.WeakSet()).add(runtime)
        return runtime

    monkeypatch.setattr(runtime_choice, 'open_runtime', opening)
    runtime_choice._measure(embedded, ['onnxruntime', 'openvino'])
    assert set(alive) == {'onnxruntime', 'openvino'}


def little(monkeypatch: pytest.MonkeyPatch, mebibytes: int | None) -> None:
    monkeypatch.setattr(memory, 'usable', lambda: None if mebibytes is None else mebibytes * 1024**2)


@pytest.mark.usefixtures('large')
def test_with_little_memory_onnxruntime_is_chosen(
    real_model: ModelPackage, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    """With too little memory for OpenVINO nothing is measured, ONNX Runtime runs, and one line in the log says why."""
    flags(monkeypatch, 'amx_bf16')
    monkeypatch.setattr(runtime_choice, '_measure', lambda *_: pytest.fail('measured'))
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
    for options in ({'backend_type': 'openvino', 'precision': 'f32'}, {'precision': 'bf16'}):
        assert chosen(real_model, **options)[0] == 'openvino'
    plain = {'backend_type': 'openvino', 'precision': 'f32'}
    assert choose(real_model, device='cpu', **plain).largest_batch == 2  # type: ignore[arg-type]
    assert choose(real_model, device='gpu', **plain).largest_batch is None  # type: ignore[arg-type]


@pytest.mark.parametrize('mebibytes', [1536, None])
def test_enough_or_unknown_memory_changes_nothing(
    real_model: ModelPackage, monkeypatch: pytest.MonkeyPatch, mebibytes: int | None
) -> None:
    """With enough memory, or where the system does not say how much there is, the speed decides."""
    flags(monkeypatch, 'amx_bf16')
    little(monkeypatch, mebibytes)
    assert chosen(real_model) == ('openvino', 'bf16')


LOADING = """
import numpy as np
import detector.node.server
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


@pytest.mark.usefixtures('large')
@pytest.mark.parametrize(
    ('milliseconds', 'backend'),
    [
        ({'onnxruntime': 100, 'openvino': 90}, 'openvino'),
        ({'onnxruntime': 100, 'openvino': 97}, 'onnxruntime'),
        ({'onnxruntime': 100, 'openvino': 110}, 'onnxruntime'),
        ({'openvino': 110}, 'openvino'),
    ],
)
def test_another_runtime_must_be_clearly_faster(
    embedded: ModelPackage, monkeypatch: pytest.MonkeyPatch, milliseconds: dict[Backend, float], backend: str
) -> None:
    """Another runtime is chosen only if it is clearly faster or the only one that works."""
    monkeypatch.setattr(runtime_choice, '_measure', lambda *_: milliseconds)
    assert chosen(embedded) == (backend, 'f32')


@pytest.mark.usefixtures('large')
def test_a_runtime_that_rejects_the_networks_is_skipped(
    embedded: ModelPackage, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A runtime that rejects the networks is skipped; if all do, the error gives all reasons."""
    real = open_runtime

    def opening(path: Path, *, backend_type: Backend, **options: object) -> object:
        if backend_type in rejecting:
            raise RuntimeUnavailable(f'{backend_type} knows no such operator')
        return real(path, backend_type=backend_type, **options)  # type: ignore[arg-type]

    monkeypatch.setattr(runtime_choice, 'open_runtime', opening)
    rejecting = ['onnxruntime']
    assert chosen(embedded) == ('openvino', 'f32')
    rejecting = ['onnxruntime', 'openvino']
    with pytest.raises(RuntimeUnavailable, match='onnxruntime knows no such operator.*openvino knows no such'):
        chosen(embedded)


@pytest.mark.usefixtures('large')
def test_an_unusable_cache_does_no_harm(
    embedded: ModelPackage, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    """With a damaged cache file or an unwritable folder, the runtimes are measured again."""
    monkeypatch.setattr(runtime_choice, '_measure', lambda *_: {'onnxruntime': 1})
    for content in ('{', '[]', '{"x": 5}'):
        (tmp_path / 'runtimes.json').write_text(content)
        assert chosen(embedded, cache=tmp_path)[0] == 'onnxruntime'
    (tmp_path / 'file').write_text('')
    assert chosen(embedded, cache=tmp_path / 'file')[0] == 'onnxruntime'
    assert 'cannot be written' in caplog.text


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
