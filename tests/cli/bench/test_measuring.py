"""`wholebody bench`, on the embedded model."""

import json
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from benchmarks.support.cards import make_card
from detector.cli.bench import measuring
from detector.cli.bench.command import plot
from detector.cli.bench.frames import Case, Frame, Variant, example_image, fixed_boxes
from detector.cli.bench.measuring import Comparison, Distances, Figures, Report, engine_comparison, measure, overheads
from detector.cli.main import app
from detector.errors import RuntimeUnavailable
from detector.models.embedded import EMBEDDED_PACKAGE
from detector.models.package import ModelPackage
from detector.pose import images
from tests.support.commands import invoke, succeed

ONE = Case(persons=1)
REFERENCE = 'onnxruntime f32'
OTHER = 'openvino f32'


def make_report(cases: Sequence[Case], **turns: list[float]) -> Report:
    """:param turns: milliseconds of the `reference` and of the `other` in each case."""
    return Report(
        package='p 1.0',
        images=[(640, 480)],
        cpu='a CPU',
        cpus=2,
        cpu_features=['avx2'],
        rounds=3,
        cases=list(cases),
        rival=REFERENCE,
        reference=REFERENCE,
        variants={
            name: Figures(turns={case.name: turns[key] for case in cases})
            for name, key in ((REFERENCE, 'reference'), (OTHER, 'other'))
        },
    )


def in_any_precision(package: ModelPackage) -> ModelPackage:
    return replace(package, wholebody=package.wholebody.model_copy(update={'precision': 'any'}))


def test_the_command_measures_the_given_pictures(tmp_path: Path) -> None:
    """The command prints ratios and writes JSON and a plot, and all runtimes give the same keypoints."""
    images.write_image(tmp_path / 'card.png', make_card())
    images.write_image(tmp_path / 'small.png', example_image((320, 240)))
    output = tmp_path / 'new' / 'bench.json'
    options = ['--persons', '0', '--interval', '2', '--rounds', '1', '--runtimes', 'onnxruntime,openvino']
    pictures = ['--image', tmp_path / 'card.png', '--image', tmp_path / 'small.png']
    printed = ' '.join(succeed(app, 'bench', EMBEDDED_PACKAGE, *options, *pictures, '-o', output).split())
    report = json.loads(output.read_bytes())
    assert [case['persons'] for case in report['cases']] == [0, 1]
    assert report['images'] == [[720, 480], [320, 240]]
    assert set(report['variants']) == {REFERENCE, OTHER}
    for figures in report['variants'].values():
        assert {name: len(turns) for name, turns in figures['turns'].items()} == {
            '0 persons': 1,
            '1 person, interval 2': 1,
        }
        assert all(milliseconds > 0 for turns in figures['turns'].values() for milliseconds in turns)
        assert all(0 < share < 1 for share in figures['overhead'].values())
    assert report['variants'][OTHER]['distances']['close'] == 1
    assert f'{OTHER}: 100.00% of the keypoints within 0.5 px' in printed
    assert 'rtmlib' not in printed
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
    """The command checks its options before it loads anything."""
    result = invoke(app, 'bench', EMBEDDED_PACKAGE, *options)
    assert result.exit_code != 0
    assert message in ' '.join(f'{result.output} {result.exception}'.replace('│', ' ').split())


def test_a_variant_that_cannot_run_does_not_spoil_the_others(embedded: ModelPackage) -> None:
    """The report says why a variant cannot run; if none can, there is an error."""
    works = Variant(backend_type='onnxruntime')
    broken = Variant(backend_type='onnxruntime', precision='bf16')
    package = in_any_precision(embedded)
    both = Comparison(variants=[broken, works], rival=works.name, reference=works.name)
    report = measure(package, [make_card()], comparison=both, cases=[ONE], rounds=1)
    assert 'PRECISION=bf16' in str(report.variants[broken.name].failure)
    assert report.variants[broken.name].milliseconds(ONE) is None
    assert report.variants[works.name].milliseconds(ONE) is not None
    with pytest.raises(RuntimeUnavailable, match='PRECISION=bf16'):
        measure(package, [make_card()], comparison=replace(both, variants=[broken]), cases=[ONE], rounds=1)


def test_bf16_is_measured_where_cpu_and_package_allow_it(
    embedded: ModelPackage, monkeypatch: pytest.MonkeyPatch
) -> None:
    """bf16 is measured if the CPU supports it, the package allows it and OpenVINO is among the runtimes."""
    package = in_any_precision(embedded)

    def names(package: ModelPackage, *runtimes: str) -> set[str]:
        chosen = [name for name in ('onnxruntime', 'openvino', 'opencv') if name in runtimes]
        return {variant.name for variant in engine_comparison(package, chosen or None).variants}

    monkeypatch.setattr(measuring, 'openvino_capabilities', lambda device: ['FP32', 'BF16'])
    assert names(package) == {'onnxruntime f32', 'openvino f32', 'opencv f32', 'openvino bf16'}
    assert names(package, 'onnxruntime') == {'onnxruntime f32'}
    assert 'openvino bf16' not in names(embedded)
    monkeypatch.setattr(measuring, 'openvino_capabilities', lambda device: ['FP32'])
    assert 'openvino bf16' not in names(package)


def test_ratios_are_taken_turn_by_turn() -> None:
    """Ratios are computed per turn, since a slow machine slows both variants of a turn."""
    report = make_report([ONE], other=[10, 50, 10], reference=[20, 100, 30])
    assert report.ratio(OTHER, ONE) == 2
    assert report.ratio(REFERENCE, ONE, OTHER) == 0.5
    assert report.ratio(OTHER, Case(persons=4)) is None
    assert report.ratio(OTHER, ONE, 'opencv f32') is None


def test_distances_count_close_keypoints() -> None:
    """Keypoints within half a pixel are counted over all pictures."""
    reference = [np.zeros((1, 133, 2), dtype=np.float32), np.zeros((0, 133, 2), dtype=np.float32)]
    moved = [points.copy() for points in reference]
    moved[0][0, :7, 0] = 3
    distances = Distances.between(moved, reference)
    assert distances == Distances(close=round(126 / 133, 4), p99=3, largest=3)
    assert Distances.between(reference[1:], reference[1:]) is None


def test_overheads_include_the_decoding() -> None:
    """The overhead is the share of the time from JPEG to keypoints outside the networks; frames may lack it."""
    assert overheads([Frame(total=0.09, networks=0.08, decode=0.01), Frame(total=1)]) == [pytest.approx(0.2)]


def test_the_plot_shows_every_case(tmp_path: Path) -> None:
    """The plot is an image of the intended size."""
    pytest.importorskip('matplotlib')
    report = make_report([ONE, Case(persons=1, interval=5)], other=[10], reference=[20])
    path = plot(report, tmp_path / 'plot.png')
    assert path is not None
    assert images.read_image(path).shape[1] == 1100


def test_boxes_lie_in_the_picture() -> None:
    """Boxes for any number of persons have a positive area inside the picture."""
    for persons in (0, 1, 4, 10):
        boxes = fixed_boxes(example_image(), persons)
        assert boxes.shape == (persons, 4)
        assert ((boxes >= 0) & (boxes <= (640, 480, 640, 480))).all()
        assert (boxes[:, 2:] > boxes[:, :2]).all()
