"""`wholebody bench`: its options, and its results as a table, JSON and a plot."""

import json
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Final, get_args

import typer

from detector.cli.common import make_table, write_text

if TYPE_CHECKING:
    from rich.console import Console

    from detector.engine.runtimes import Backend
    from detector.models.package import ModelPackage

    from .frames import Case
    from .measuring import Comparison, Report

    Compare = Callable[[ModelPackage, Sequence[Backend] | None], Comparison]
    Cell = Callable[[Report, str, Case], str]

_MAX_PERSONS: Final = 100

PackageArgument = Annotated[Path, typer.Argument(help='A package, as a zip file.', exists=True, dir_okay=False)]
PersonsOption = Annotated[str, typer.Option(help='Numbers of persons per frame, separated by commas.')]
ImagesOption = Annotated[
    list[Path] | None,
    typer.Option(
        help='Picture to measure with; repeat the option for several pictures.',
        exists=True,
        show_default='640×480 pixels of noise',
    ),
]
IntervalOption = Annotated[int, typer.Option(help='DETECTION_INTERVAL of a stream to measure; 1 for no stream.', min=1)]
RuntimesOption = Annotated[
    str | None,
    typer.Option(help='Runtimes to measure, e.g. onnxruntime,openvino.', show_default='all installed runtimes'),
]
RoundsOption = Annotated[int, typer.Option(help='Turns of each variant per column of the table.', min=1)]
OutputOption = Annotated[Path | None, typer.Option('--output', '-o', help='JSON file to write, with a plot beside it.')]


def bench(
    package: PackageArgument,
    persons: PersonsOption = '1,4,10',
    image: ImagesOption = None,
    interval: IntervalOption = 5,
    runtimes: RuntimesOption = None,
    rounds: RoundsOption = 10,
    output: OutputOption = None,
) -> None:
    """Measure a model on this machine, with each runtime and precision, and compare the keypoints.

    Each variant runs in its own process. The processes take turns, and the figures are medians per frame.
    """
    from .measuring import engine_comparison

    run(engine_comparison, package, persons, image or [], interval, runtimes, rounds, output)


def run(
    compare: 'Compare',
    package: Path,
    persons: str,
    images: Sequence[Path],
    interval: int,
    runtimes: str | None,
    rounds: int,
    output: Path | None,
    tables: 'Sequence[tuple[str, Cell]]' = (),
) -> None:
    """Measure, print tables, write JSON and, if matplotlib is installed, a plot.

    :param compare: chooses the variants for the package and the runtimes.
    :param tables: titles and cells of tables to print in addition.
    :raises typer.BadParameter: an option cannot be read.
    :raises WholebodyError: the package or an image cannot be used.
    """
    from rich.progress import Progress

    from detector.models.package import unpack_package
    from detector.pose.images import read_image
    from detector.system.scratch import scratch_folder

    from .frames import example_image
    from .measuring import measure

    cases, only = _cases(persons, interval), None if runtimes is None else _backends(runtimes)
    pictures = [read_image(path) for path in images] or [example_image()]
    with scratch_folder() as folder, Progress(transient=True) as progress:
        opened = unpack_package(package, folder)
        comparison = compare(opened, only)
        task = progress.add_task(f'loading {len(comparison.variants)} variants', total=None)

        def watch(done: int) -> None:
            progress.update(task, description='measuring', completed=done, total=rounds * len(cases))

        report = measure(opened, pictures, comparison=comparison, cases=cases, rounds=rounds, watch=watch)
    print_report(report, tables)
    if output is not None:
        write_text(output, json.dumps(report.to_json(), indent=1) + '\n')
        plotted = plot(report, output.with_suffix('.png'))
        print(plotted if plotted is not None else 'no plot: matplotlib is not installed (pip install matplotlib)')


def _cases(persons: str, interval: int) -> 'list[Case]':
    from .frames import Case

    try:
        counts = [int(part) for part in persons.split(',')]
    except ValueError:
        counts = []
    if not counts or not all(0 <= count <= _MAX_PERSONS for count in counts) or len(set(counts)) < len(counts):
        raise typer.BadParameter(f'--persons {persons}: give different numbers from 0 to {_MAX_PERSONS}, as in 1,4,10')
    stream = [Case(persons=1, interval=interval)] if interval > 1 else []
    return [Case(persons=count) for count in counts] + stream


def _backends(names: str) -> 'list[Backend]':
    from detector.engine.runtimes import Backend

    asked, known = names.split(','), get_args(Backend)
    if not set(asked) <= set(known):
        raise typer.BadParameter(f'--runtimes {names}: give some of {",".join(known)}')
    return [name for name in known if name in asked]


def print_report(report: 'Report', tables: 'Sequence[tuple[str, Cell]]' = ()) -> None:
    """Print times and ratios, the share of time outside the networks, and distances of keypoints."""
    from rich.console import Console

    console = Console()
    features = ', '.join(report.cpu_features)
    sizes = ', '.join(f'{width}×{height}' for width, height in report.images)
    console.print(f'{report.package}, {sizes}; {report.cpu}, {report.cpus} CPUs, {features}')
    times = (f'per frame, and how many times as fast as {report.rival}', _time_cell)
    overheads = ('time outside the networks, including the decoding of the JPEG', _overhead_cell)
    for title, cell in (times, *tables, overheads):
        _print_table(console, report, title, cell)
    for name, figures in report.variants.items():
        if figures.failure is not None:
            console.print(f'{name}: {figures.failure}')
        elif figures.distances is not None:
            distances = figures.distances
            console.print(
                f'{name}: {distances.close:.2%} of the keypoints within 0.5 px of those of {report.reference}, '
                f'99 % within {distances.p99} px, all within {distances.largest} px'
            )


def _print_table(console: 'Console', report: 'Report', title: str, cell: 'Cell') -> None:
    rows = [(name, *(cell(report, name, case) for case in report.cases)) for name in report.variants]
    rows = [row for row in rows if any(row[1:])]
    if rows:
        table = make_table(('', *(case.name for case in report.cases)), rows, numeric=True)
        table.title, table.title_justify = title, 'left'
        console.print(table)


def _time_cell(report: 'Report', name: str, case: 'Case') -> str:
    milliseconds, ratio = report.variants[name].milliseconds(case), report.ratio(name, case)
    if milliseconds is None:
        return '–' if report.variants[name].failure else ''
    return f'{milliseconds:.0f} ms' + ('' if ratio is None else f' ×{ratio:.2f}')


def _overhead_cell(report: 'Report', name: str, case: 'Case') -> str:
    share = report.variants[name].overhead.get(case.name)
    return '' if share is None else f'{share:.1%}'


def plot(report: 'Report', path: Path) -> Path | None:
    """Draw the ratios as bars, one group per case. Return None if matplotlib is not installed."""
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
    axes.set_xlabel(f'times as fast as {report.rival}')
    axes.set_title(f'{report.package} on {report.cpu}, {report.cpus} CPUs', fontsize=9)
    axes.invert_yaxis()
    figure.legend(loc='outside lower center', ncols=3, fontsize=7)
    figure.savefig(path, dpi=110)
    return path
