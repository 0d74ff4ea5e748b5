"""Measurement of runtimes and precisions for a package."""

import json
import weakref
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from benchmarks.support.cards import make_card
from detector.engine import measurement, runtimes
from detector.engine.agreement import Agreement, find_people
from detector.engine.measurement import Measured, Pair, fastest_in_f32, measure, recalled_or_measured
from detector.engine.runtimes import Backend, Precision, Runtime, open_runtime
from detector.errors import RuntimeUnavailable
from detector.models.package import ModelPackage
from detector.pose.pose import FloatArray
from tests.support.networks import make_thresholds

ORT, OV, OV_BF16 = Pair('onnxruntime', 'f32'), Pair('openvino', 'f32'), Pair('openvino', 'bf16')


def measured(package: ModelPackage, *pairs: Pair) -> dict[Pair, Measured]:
    return {one.pair: one for one in measure(package, pairs, device='cpu', thresholds=make_thresholds())}


def recalled(package: ModelPackage, cache: Path | None, *, reduced: bool = False) -> list[Measured]:
    backends: list[Backend] = ['onnxruntime', 'openvino']
    return recalled_or_measured(
        package, backends, device='cpu', reduced=reduced, thresholds=make_thresholds(), cache=cache
    )


def timed(monkeypatch: pytest.MonkeyPatch, **milliseconds: float) -> None:
    """Replace the clock: each precision takes the given time, and computes in f32, which each CPU can."""
    asked: list[Precision] = []

    def opening(path: Path, *, precision: Precision, **options: object) -> object:
        asked.append(precision)
        return open_runtime(path, **options)  # type: ignore[arg-type]

    monkeypatch.setattr(measurement, 'open_runtime', opening)
    monkeypatch.setattr(measurement, '_time', lambda *_: milliseconds[asked[-1]])


def test_the_runtimes_are_timed_once_and_remembered(
    embedded: ModelPackage, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    """A measurement, which the log announces, is reused until package, machine, versions or pairs change."""
    caplog.set_level('INFO', 'wholebody.engine')
    first = recalled(embedded, tmp_path)
    assert caplog.messages == [
        f'{embedded.model_version}: measuring which is the fastest of onnxruntime f32, openvino f32'
    ]
    assert [one.pair for one in first] == [ORT, OV]
    assert all(one.milliseconds > 0 and one.agreement is None for one in first)
    real = measurement.measure
    monkeypatch.setattr(measurement, 'measure', lambda *_, **__: pytest.fail('measured again'))
    assert recalled(embedded, tmp_path) == first
    monkeypatch.setattr(measurement, 'measure', real)
    changed = replace(embedded, wholebody=embedded.wholebody.model_copy(update={'origin': 'elsewhere'}))
    for change in (
        lambda: recalled(changed, tmp_path),
        lambda: recalled(embedded, tmp_path, reduced=True),
        lambda: (monkeypatch.setattr(measurement, 'usable_cpus', lambda: 64), recalled(embedded, tmp_path)),
        lambda: (monkeypatch.setattr(measurement, 'processor', lambda: 'another CPU'), recalled(embedded, tmp_path)),
        lambda: (monkeypatch.setattr(measurement, 'installed_version', lambda _: 'x 2'), recalled(embedded, tmp_path)),
    ):
        before = len(json.loads((tmp_path / 'runtimes.json').read_text()))
        change()
        assert len(json.loads((tmp_path / 'runtimes.json').read_text())) == before + 1


def test_agreements_are_remembered(embedded: ModelPackage, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A remembered measurement equals the fresh one, with the agreement of the lower precisions."""
    fresh = [
        Measured(pair=ORT, milliseconds=20.5),
        Measured(pair=OV_BF16, milliseconds=10, agreement=Agreement(mean=0.998, worst=0.97, persons=6)),
    ]
    monkeypatch.setattr(measurement, 'measure', lambda *_, **__: fresh)
    assert recalled(embedded, tmp_path) == fresh
    monkeypatch.setattr(measurement, 'measure', lambda *_, **__: pytest.fail('measured again'))
    assert recalled(embedded, tmp_path) == fresh


def test_old_measurements_are_dropped(embedded: ModelPackage, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The file keeps the newest 64 measurements."""
    monkeypatch.setattr(measurement, 'measure', lambda *_, **__: [Measured(pair=ORT, milliseconds=1)])
    for count in range(66):
        monkeypatch.setattr(measurement, 'usable_cpus', lambda count=count: count)
        recalled(embedded, tmp_path)
    kept = json.loads((tmp_path / 'runtimes.json').read_text())
    assert len(kept) == 64
    monkeypatch.setattr(measurement, 'measure', lambda *_, **__: pytest.fail('the newest one is dropped'))
    recalled(embedded, tmp_path)


def test_an_unusable_cache_does_no_harm(
    embedded: ModelPackage, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    """With a damaged file or entry, or an unwritable folder, the runtimes are measured again."""
    monkeypatch.setattr(measurement, 'measure', lambda *_, **__: [Measured(pair=ORT, milliseconds=1)])
    recalled(embedded, tmp_path)
    (key,) = json.loads((tmp_path / 'runtimes.json').read_text())
    damaged: list[object] = [5, [], [{}], {'onnxruntime': 1}]
    for content in ('{', '[]', '{"x": 5}', *(json.dumps({key: value}) for value in damaged)):
        (tmp_path / 'runtimes.json').write_text(content)
        assert [one.pair for one in recalled(embedded, tmp_path)] == [ORT]
    (tmp_path / 'file').write_text('')
    assert [one.pair for one in recalled(embedded, tmp_path / 'file')] == [ORT]
    assert 'cannot be written' in caplog.text


@pytest.mark.parametrize(('seconds', 'rounds'), [(60.0, 3), (0.0, 1)])
def test_a_slow_machine_measures_one_round(
    embedded: ModelPackage, monkeypatch: pytest.MonkeyPatch, seconds: float, rounds: int
) -> None:
    """Once the time for measuring is over, no further round delays the first answer."""
    runs: list[object] = []

    class Counting:
        def run(self, batch: object) -> None:
            runs.append(batch)

    monkeypatch.setattr(measurement, 'open_runtime', lambda *_, **__: Counting())
    monkeypatch.setattr(measurement, '_MEASURING_SECONDS', seconds)
    assert set(measured(embedded, ORT, OV)) == {ORT, OV}
    warm_up, round_of_both = 2 * 2, 2 * 3
    assert len(runs) == warm_up + rounds * round_of_both


def test_only_one_pair_at_a_time_holds_the_networks(embedded: ModelPackage, monkeypatch: pytest.MonkeyPatch) -> None:
    """The pairs are measured one after the other, and each one is freed before the next one is opened."""
    alive: dict[Pair, weakref.WeakSet[object]] = {}

    def opening(path: Path, *, backend_type: Backend, precision: Precision, device: str) -> object:
        pair = Pair(backend_type, precision)
        assert not any(runtimes for other, runtimes in alive.items() if other != pair)
        runtime = open_runtime(path)
        alive.setdefault(pair, weakref.WeakSet()).add(runtime)
        return runtime

    monkeypatch.setattr(measurement, 'open_runtime', opening)
    times = iter([3, 2, 1])
    monkeypatch.setattr(measurement, '_time', lambda *_: next(times))
    found = measured(embedded, ORT, OV, OV_BF16)
    assert set(alive) == {ORT, OV, OV_BF16}
    assert found[OV_BF16].agreement is not None


def test_a_faster_precision_is_compared_with_f32(embedded: ModelPackage, monkeypatch: pytest.MonkeyPatch) -> None:
    """Only precisions that are clearly faster than f32 are compared, on the photographs."""
    monkeypatch.setattr(measurement, 'photographs', lambda: [make_card()])
    timed(monkeypatch, f32=10, bf16=9)
    assert measured(embedded, ORT, OV_BF16)[OV_BF16].agreement == Agreement(mean=1, worst=1, persons=2)
    timed(monkeypatch, f32=10, bf16=9.8)
    assert measured(embedded, ORT, OV_BF16)[OV_BF16].agreement is None


class _Shifting(Runtime):
    """A pose estimator whose keypoints lie eight pixels of its input too far right."""

    name = 'shifting'

    def __init__(self, runtime: Runtime) -> None:
        self._runtime = runtime

    def _infer(self, batch: FloatArray) -> list[FloatArray]:
        simcc_x, simcc_y = self._runtime.run(batch)
        return [np.roll(simcc_x, 16, axis=-1), simcc_y]


def test_a_precision_that_moves_keypoints_does_not_agree(
    embedded: ModelPackage, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A fast precision whose keypoints lie elsewhere does not agree with f32."""

    def opening(path: Path, *, precision: Precision, **options: object) -> Runtime:
        runtime = open_runtime(path, **options)  # type: ignore[arg-type]
        return _Shifting(runtime) if precision == 'bf16' and path == embedded.estimator_path else runtime

    monkeypatch.setattr(measurement, 'photographs', lambda: [make_card()])
    monkeypatch.setattr(measurement, 'open_runtime', opening)
    times = iter([10, 5])
    monkeypatch.setattr(measurement, '_time', lambda *_: next(times))
    agreement = measured(embedded, ORT, OV_BF16)[OV_BF16].agreement
    assert agreement is not None
    assert agreement.persons == 2
    assert 0 < agreement.mean < 0.9


def test_a_precision_that_fails_on_photographs_is_not_compared(
    embedded: ModelPackage, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    """A failure on the photographs is logged, and leaves the precision without an agreement."""
    broken = {ORT}

    def finding(package: ModelPackage, images: object, detector: object, *rest: object, **options: object) -> object:
        if opened[-1] in broken:
            raise IndexError('no such output')
        return find_people(package, images, detector, *rest, **options)  # type: ignore[arg-type]

    def opening(package: ModelPackage, pair: Pair, device: str) -> tuple[Runtime, Runtime]:
        opened.append(pair)
        return open_runtime(package.detector_path), open_runtime(package.estimator_path)

    opened: list[Pair] = []
    monkeypatch.setattr(measurement, 'find_people', finding)
    monkeypatch.setattr(measurement, '_open', opening)
    monkeypatch.setattr(measurement, '_time', lambda *_: 10 if opened[-1] == ORT else 5)
    for broken in ({ORT}, {OV_BF16}):
        caplog.clear()
        assert measured(embedded, ORT, OV_BF16)[OV_BF16].agreement is None
        assert f'cannot be run on photographs with {next(iter(broken))}: no such output' in caplog.text


@pytest.mark.parametrize(('times', 'fastest'), [((100, 90), OV), ((100, 98), ORT), ((100, 110), ORT)])
def test_another_runtime_must_be_clearly_faster(times: tuple[float, float], fastest: Pair) -> None:
    """Another runtime is the fastest in f32 only if it is clearly faster than the usual one."""
    found = [Measured(pair=pair, milliseconds=taken) for pair, taken in zip((ORT, OV), times, strict=True)]
    quick = Measured(pair=OV_BF16, milliseconds=1)
    assert fastest_in_f32([*found, quick]).pair == fastest


def test_pairs_that_reject_the_networks_are_skipped(embedded: ModelPackage, monkeypatch: pytest.MonkeyPatch) -> None:
    """A pair that rejects the networks is skipped; without any in f32, the error gives all reasons."""

    def opening(path: Path, *, backend_type: Backend, precision: Precision, **options: object) -> object:
        if (backend_type, precision) in rejecting:
            raise RuntimeUnavailable(f'{backend_type} knows no such operator')
        return open_runtime(path)

    monkeypatch.setattr(measurement, 'open_runtime', opening)
    rejecting = [ORT]
    assert set(measured(embedded, ORT, OV, OV_BF16)) == {OV, OV_BF16}
    rejecting = [ORT, OV]
    with pytest.raises(RuntimeUnavailable, match='in f32: .*onnxruntime knows no such operator.*openvino knows no'):
        measured(embedded, ORT, OV, OV_BF16)


def test_the_precisions_of_the_device_are_measured(
    embedded: ModelPackage, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    """OpenVINO is measured in each precision that the device reports, after all runtimes in f32."""
    monkeypatch.setattr(runtimes, 'openvino_capabilities', lambda device: ['BF16', 'FP32', 'FP16', 'INT8'])
    seen: list[Pair] = []

    def measuring(package: ModelPackage, pairs: list[Pair], **_: object) -> list[Measured]:
        seen.extend(pairs)
        return []

    monkeypatch.setattr(measurement, 'measure', measuring)
    recalled(embedded, tmp_path, reduced=True)
    assert seen == [ORT, OV, OV_BF16, Pair('openvino', 'f16')]
    seen.clear()
    recalled(embedded, tmp_path)
    assert seen == [ORT, OV]
