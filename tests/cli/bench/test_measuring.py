"""`wholebody bench`, on the embedded model."""

import json
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from benchmarks.support.cards import make_card
from detector.cli.bench import command as cli_bench
from detector.cli.bench import measuring as bench
from detector.cli.bench.frames import Case, Frame, Variant, example_image, fixed_boxes
from detector.cli.bench.measuring import Distances, Figures, Report
from detector.cli.main import app
from detector.errors import RuntimeUnavailable
from detector.models.embedded import EMBEDDED_PACKAGE
from detector.models.package import ModelPackage
from detector.pose import images
from tests.support.commands import invoke, succeed

ONE = Case(persons=1)
OURS = 'ours, onnxruntime f32'


def make_report(cases: Sequence[Case], **turns: list[float]) -> Report:
    """:param turns: milliseconds of `ours` and of `rival` in each case."""
    return Report(
        package='p 1.0',
        images=[(640, 480)],
        cpu='a CPU',
        cpus=2,
        cpu_features=['avx2'],
        rounds=3,
        cases=list(cases),
        variants={
            name: Figures(turns={case.name: turns[key] for case in cases})
            for name, key in ((bench.RIVAL, 'rival'), (OURS, 'ours'))
        },
    )


def in_any_precision(package: ModelPackage) -> ModelPackage:
    return replace(package, wholebody=package.wholebody.model_copy(update={'precision': 'any'}))


@pytest.mark.integration
def test_the_command_compares_all_on_the_given_pictures(tmp_path: Path) -> None:
    """It prints ratios, writes JSON and a plot; ours and rtmlib give the same keypoints of the persons on the cards."""
    images.write(tmp_path / 'card.png', make_card())
    images.write(tmp_path / 'small.png', example_image((320, 240)))
    output = tmp_path / 'new' / 'bench.json'
    options = ['--persons', '0', '--interval', '2', '--rounds', '1', '--runtimes', 'onnxruntime']
    pictures = ['--image', tmp_path / 'card.png', '--image', tmp_path / 'small.png']
    printed = succeed(app, 'bench', EMBEDDED_PACKAGE, *options, *pictures, '-o', output)
    report = json.loads(output.read_bytes())
    assert [case['persons'] for case in report['cases']] == [0, 1]
    assert report['images'] == [[720, 480], [320, 240]]
    assert set(report['variants']) == {bench.RIVAL, OURS, 'bare networks, onnxruntime f32'}
    for figures in report['variants'].values():
        assert {name: len(turns) for name, turns in figures['turns'].items()} == {
            '0 persons': 1,
            '1 person, interval 2': 1,
        }
        assert all(milliseconds > 0 for turns in figures['turns'].values() for milliseconds in turns)
    assert all(0 < share < 1 for share in report['variants'][OURS]['overhead'].values())
    assert report['variants'][bench.RIVAL]['distances']['close'] == 1
    assert '100.00% of the keypoints within 0.5 px' in ' '.join(printed.split())
    assert output.with_suffix('.png').exists() or 'no plot: matplotlib is not installed' in printed


@pytest.mark.parametrize(
    ('options', 'message'),
    [
        (['--persons', '1,x'], 'give different numbers from 0 to 100'),
        (['--persons', '4,4'], 'give different numbers'),
        (['--persons', '101'], 'from 0 to 100'),
        (['--runtimes', 'onnxruntime,torch'], 'give some of onnxruntime,openvino,opencv'),
        (['--image', __file__], 'these bytes are not an image'),
    ],
)
def test_impossible_options_are_named(options: list[str], message: str) -> None:
    """Before anything is loaded."""
    result = invoke(app, 'bench', EMBEDDED_PACKAGE, *options)
    assert result.exit_code != 0
    assert message in ' '.join(f'{result.output} {result.exception}'.replace('│', ' ').split())


def test_a_variant_that_cannot_run_does_not_spoil_the_others(embedded: ModelPackage) -> None:
    """The report says why; without any that runs there is an error."""
    works = Variant(kind='ours', backend_type='onnxruntime')
    broken = Variant(kind='ours', backend_type='onnxruntime', precision='bf16')
    package = in_any_precision(embedded)
    report = bench.run(package, [make_card()], cases=[ONE], chosen=[broken, works], rounds=1)
    assert 'PRECISION=bf16' in str(report.variants[broken.name].failure)
    assert report.variants[broken.name].milliseconds(ONE) is None
    assert report.variants[works.name].milliseconds(ONE) is not None
    with pytest.raises(RuntimeUnavailable, match='PRECISION=bf16'):
        bench.run(package, [make_card()], cases=[ONE], chosen=[broken], rounds=1)


def test_bf16_is_offered_where_cpu_and_package_allow_it(
    embedded: ModelPackage, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Both ours and the bare networks; only the runtimes that are asked for."""
    monkeypatch.setattr(bench, 'openvino_capabilities', lambda device: ['FP32', 'BF16'])
    package = in_any_precision(embedded)
    names = {variant.name for variant in bench.variants(package)}
    assert {'ours, openvino bf16', 'bare networks, openvino bf16', 'rtmlib on opencv'} <= names
    assert 'ours, openvino bf16' not in {variant.name for variant in bench.variants(package, ['onnxruntime'])}
    monkeypatch.setattr(bench, 'openvino_capabilities', lambda device: ['FP32'])
    assert 'ours, openvino bf16' not in {variant.name for variant in bench.variants(package)}


def test_ratios_are_taken_turn_by_turn() -> None:
    """A machine that was slow for one turn was slow for both."""
    report = make_report([ONE], ours=[10, 50, 10], rival=[20, 100, 30])
    assert report.ratio(OURS, ONE) == 2
    assert report.ratio(OURS, Case(persons=4)) is None
    assert report.ratio(OURS, ONE, 'rtmlib on opencv') is None


def test_distances_count_close_keypoints() -> None:
    """Within half a pixel, over all pictures."""
    reference = [np.zeros((1, 133, 2), dtype=np.float32), np.zeros((0, 133, 2), dtype=np.float32)]
    moved = [points.copy() for points in reference]
    moved[0][0, :7, 0] = 3
    distances = Distances.between(moved, reference)
    assert distances == Distances(close=round(126 / 133, 4), p99=3, largest=3)
    assert Distances.between(reference[1:], reference[1:]) is None


def test_overheads_hold_the_decoding() -> None:
    """Of the time from JPEG to keypoints, all but the networks; of variants that do not tell, nothing."""
    assert bench._overheads([Frame(total=0.09, networks=0.08, decode=0.01), Frame(total=1)]) == [pytest.approx(0.2)]


def test_the_plot_shows_every_case(tmp_path: Path) -> None:
    """Where matplotlib is installed."""
    pytest.importorskip('matplotlib')
    report = make_report([ONE, Case(persons=1, interval=5)], ours=[10], rival=[20])
    path = cli_bench.plot(report, tmp_path / 'plot.png')
    assert path is not None
    assert images.read(path).shape[1] == 1100


def test_boxes_lie_in_the_picture() -> None:
    """Any number of them."""
    for persons in (0, 1, 4, 10):
        boxes = fixed_boxes(example_image(), persons)
        assert boxes.shape == (persons, 4)
        assert ((boxes >= 0) & (boxes <= (640, 480, 640, 480))).all()
        assert (boxes[:, 2:] > boxes[:, :2]).all()
