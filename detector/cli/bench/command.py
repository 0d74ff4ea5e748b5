"""The printed, written and drawn forms of `wholebody bench`."""

import json
import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import Any, Final, get_args

import typer
from rich.console import Console
from rich.progress import Progress
from rich.table import Table

from detector.engine.runtimes import Backend
from detector.models import package as model_package
from detector.pose import images as image_files

from . import measuring as bench
from .frames import Case, Variant, example_image

_MAX_PERSONS: Final = 100


def cases(persons: str, interval: int) -> list[Case]:
    """What to measure.

    :param persons: numbers, such as `1,4,10`.
    :param interval: of the detections in a stream of one person; without a stream if 1.
    :raises typer.BadParameter: the numbers are none.
    """
    try:
        counts = [int(part) for part in persons.split(',')]
    except ValueError:
        counts = []
    if not counts or not all(0 <= count <= _MAX_PERSONS for count in counts) or len(set(counts)) < len(counts):
        raise typer.BadParameter(f'--persons {persons}: give different numbers from 0 to {_MAX_PERSONS}, as in 1,4,10')
    stream = [Case(persons=1, interval=interval)] if interval > 1 else []
    return [Case(persons=count) for count in counts] + stream


def backends(names: str) -> list[Backend]:
    """Runtimes by their names, such as `onnxruntime,openvino`.

    :raises typer.BadParameter: one is unknown.
    """
    asked, known = names.split(','), get_args(Backend)
    if not set(asked) <= set(known):
        raise typer.BadParameter(f'--runtimes {names}: give some of {",".join(known)}')
    return [name for name in known if name in asked]


def run(
    package: Path,
    *,
    images: Sequence[Path],
    cases: Sequence[Case],
    runtimes: Sequence[Backend] | None,
    rounds: int,
    output: Path | None,
) -> None:
    """Measure, print a table, write JSON and, where matplotlib is installed, a plot beside it.

    :param package: a zip.
    :param images: files; a picture of structured noise without any.
    :param runtimes: only these; all that are installed with None.
    :raises WholebodyError: the package or an image cannot be used.
    """
    pictures = [image_files.read(path) for path in images] or [example_image()]
    with tempfile.TemporaryDirectory(prefix='wholebody-') as folder, Progress(transient=True) as progress:
        opened = model_package.unpack(package, Path(folder))
        chosen = bench.variants(opened, runtimes)
        task = progress.add_task(f'loading {len(chosen)} variants', total=None)

        def watch(done: int) -> None:
            progress.update(task, description='measuring', completed=done, total=rounds * len(cases))

        report = bench.run(opened, pictures, cases=cases, chosen=chosen, rounds=rounds, watch=watch)
    print_report(report)
    if output is not None:
        output.parent.mkdir(parents=True, exist_ok=True)
        output.write_text(json.dumps(report.to_json(), indent=1) + '\n')
        print(output)
        plotted = plot(report, output.with_suffix('.png'))
        print(plotted if plotted is not None else 'no plot: matplotlib is not installed (pip install matplotlib)')


def print_report(report: bench.Report) -> None:
    """Milliseconds per frame and how many times as fast as rtmlib as it comes; overheads; distances of keypoints."""
    console = Console()
    features = ', '.join(report.cpu_features)
    sizes = ', '.join(f'{width}×{height}' for width, height in report.images)
    console.print(f'{report.package}, {sizes}; {report.cpu}, {report.cpus} CPUs, {features}')
    _print_table(console, report, 'per frame, and how many times as fast as rtmlib as it comes', _time_cell)
    _print_table(console, report, 'how many times as fast as rtmlib on the same runtime', _same_runtime_cell)
    _print_table(console, report, 'time outside the networks, decoding of the JPEG included', _overhead_cell)
    for name, figures in report.variants.items():
        if figures.failure is not None:
            console.print(f'{name}: {figures.failure}')
        elif figures.distances is not None:
            distances = figures.distances
            console.print(
                f'{name}: {distances.close:.2%} of the keypoints within 0.5 px of those of {bench.REFERENCE.name}, '
                f'99 % within {distances.p99} px, all within {distances.largest} px'
            )


def _print_table(console: Console, report: bench.Report, title: str, cell: Any) -> None:
    """:param cell: gives the text for a variant and a case, empty where there is none."""
    rows = [(name, [cell(report, name, case) for case in report.cases]) for name in report.variants]
    rows = [(name, cells) for name, cells in rows if any(cells)]
    if not rows:
        return
    table = Table('', title=title, title_justify='left', box=None, pad_edge=False)
    for case in report.cases:
        table.add_column(case.name, justify='right')
    for name, cells in rows:
        table.add_row(name, *cells)
    console.print(table)


def _time_cell(report: bench.Report, name: str, case: Case) -> str:
    milliseconds, ratio = report.variants[name].milliseconds(case), report.ratio(name, case)
    if milliseconds is None:
        return '–' if report.variants[name].failure else ''
    return f'{milliseconds:.0f} ms' + ('' if ratio is None else f' ×{ratio:.2f}')


def _same_runtime_cell(report: bench.Report, name: str, case: Case) -> str:
    for backend in (backend for backend in get_args(Backend) if name.startswith(f'ours, {backend} ')):
        ratio = report.ratio(name, case, Variant(kind='rtmlib', backend_type=backend).name)
        return '' if ratio is None else f'×{ratio:.2f}'
    return ''


def _overhead_cell(report: bench.Report, name: str, case: Case) -> str:
    share = report.variants[name].overhead.get(case.name)
    return '' if share is None else f'{share:.1%}'


def plot(report: bench.Report, path: Path) -> Path | None:
    """Bars of the ratios, a group per case; None without matplotlib."""
    try:
        from matplotlib.figure import Figure
    except ImportError:
        return None
    names = [name for name, figures in report.variants.items() if figures.turns]
    figure = Figure(figsize=(10, 2 + 0.18 * len(names) * len(report.cases)), layout='constrained')
    axes: Any = figure.subplots()
    height = 0.8 / len(names)
    for index, name in enumerate(names):
        places = [group + index * height for group in range(len(report.cases))]
        ratios = [report.ratio(name, case) or 0 for case in report.cases]
        bars = axes.barh(places, ratios, height=height, label=name)
        axes.bar_label(bars, fmt='%.2f', fontsize=7)
    axes.set_yticks([group + 0.4 for group in range(len(report.cases))], [case.name for case in report.cases])
    axes.axvline(1, color='black', linewidth=0.8)
    axes.set_xlabel(f'times as fast as {bench.RIVAL}')
    axes.set_title(f'{report.package} on {report.cpu}, {report.cpus} CPUs', fontsize=9)
    axes.invert_yaxis()
    figure.legend(loc='outside lower center', ncols=3, fontsize=7)
    figure.savefig(path, dpi=110)
    return path
