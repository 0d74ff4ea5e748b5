"""`benchmarks.engine`, on the embedded model."""

import json
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import pytest

from benchmarks.engine import OURS, RIVAL, compare, same_runtime_cell
from benchmarks.support.cards import make_card
from detector.cli.bench import measuring
from detector.cli.bench.frames import Case
from detector.cli.bench.measuring import Figures, Report
from detector.models.embedded import EMBEDDED_PACKAGE
from detector.models.package import ModelPackage
from detector.pose import images

ONE = Case(persons=1)


@pytest.mark.integration
def test_rtmlib_and_the_engine_find_the_same_keypoints(tmp_path: Path) -> None:
    """The benchmark as a process prints its tables, writes JSON, and finds no keypoint further away than 0.5 px."""
    images.write_image(tmp_path / 'card.png', make_card())
    output = tmp_path / 'bench.json'
    options = ['--persons', '0', '--interval', '2', '--rounds', '1', '--runtimes', 'onnxruntime,openvino']
    command = [sys.executable, '-m', 'benchmarks.engine', str(EMBEDDED_PACKAGE), *options, '-o', str(output)]
    printed = subprocess.run(
        [*command, '--image', str(tmp_path / 'card.png')], capture_output=True, text=True, check=True
    )
    report = json.loads(output.read_bytes())
    assert set(report['variants']) == {
        RIVAL,
        'rtmlib on openvino',
        OURS,
        'ours, openvino f32',
        'bare networks, onnxruntime f32',
        'bare networks, openvino f32',
    }
    for figures in report['variants'].values():
        assert set(figures['turns']) == {'0 persons', '1 person, interval 2'}
        assert all(milliseconds > 0 for turns in figures['turns'].values() for milliseconds in turns)
    assert report['variants'][RIVAL]['distances']['close'] == 1
    assert report['variants']['bare networks, openvino f32']['distances'] is None
    words = ' '.join(printed.stdout.split())
    assert f'{RIVAL}: 100.00% of the keypoints within 0.5 px of those of {OURS}' in words
    assert 'per frame, and how many times as fast as rtmlib as it comes' in words
    assert 'how many times as fast as rtmlib on the same runtime' in words


def test_bf16_is_measured_for_the_engine_and_the_bare_networks(
    embedded: ModelPackage, monkeypatch: pytest.MonkeyPatch
) -> None:
    """rtmlib runs in f32 only, once per runtime."""
    monkeypatch.setattr(measuring, 'openvino_capabilities', lambda device: ['FP32', 'BF16'])
    package = replace(embedded, wholebody=embedded.wholebody.model_copy(update={'precision': 'any'}))
    names = [variant.name for variant in compare(package, None).variants]
    assert {'ours, openvino bf16', 'bare networks, openvino bf16'} <= set(names)
    assert [name for name in names if 'rtmlib' in name] == [RIVAL, 'rtmlib on openvino', 'rtmlib on opencv']


def test_the_engine_is_compared_with_rtmlib_on_the_same_runtime() -> None:
    """Only rows of the engine have a ratio, and only if rtmlib was measured on their runtime."""
    turns = {RIVAL: 40, 'rtmlib on openvino': 30, OURS: 20, 'ours, openvino bf16': 10, 'ours, opencv f32': 5}
    report = Report(
        package='p 1.0',
        images=[(640, 480)],
        cpu='a CPU',
        cpus=2,
        cpu_features=[],
        rounds=1,
        cases=[ONE],
        rival=RIVAL,
        reference=OURS,
        variants={name: Figures(turns={ONE.name: [milliseconds]}) for name, milliseconds in turns.items()},
    )
    cells = {name: same_runtime_cell(report, name, ONE) for name in turns}
    assert {name: cell for name, cell in cells.items() if cell} == {OURS: '×2.00', 'ours, openvino bf16': '×3.00'}
