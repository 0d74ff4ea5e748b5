"""The printed and written forms of `wholebody bench`."""

import json
import tempfile
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.progress import Progress
from rich.table import Table

from . import bench, images, model_package


def run(package: Path, *, image: Path | None, persons: list[int], rounds: int, output: Path | None) -> None:
    """Measure, print a table, write JSON and, where matplotlib is installed, a plot beside it.

    :param package: a zip.
    :raises WholebodyError: the package or the image cannot be used.
    """
    picture = images.read(image) if image is not None else bench.example_image()
    with tempfile.TemporaryDirectory(prefix='wholebody-') as folder, Progress(transient=True) as progress:
        opened = model_package.unpack(package, Path(folder))
        chosen = bench.variants(opened)
        task = progress.add_task(f'loading {len(chosen)} variants', total=None)

        def watch(done: int) -> None:
            progress.update(task, description='measuring', completed=done, total=rounds * len(persons))

        report = bench.run(opened, picture, persons=persons, chosen=chosen, rounds=rounds, watch=watch)
    print_report(report, persons)
    if output is not None:
        output.parent.mkdir(parents=True, exist_ok=True)
        output.write_text(json.dumps(report.to_json(), indent=1) + '\n')
        print(output)
        plotted = plot(report, persons, output.with_suffix('.png'))
        print(plotted if plotted is not None else 'no plot: matplotlib is not installed (pip install matplotlib)')


def print_report(report: bench.Report, persons: list[int]) -> None:
    """Milliseconds per frame, and how many times as fast as rtmlib as it comes."""
    console = Console()
    bf16 = ', '.join(report.bf16) or 'no bf16'
    console.print(f'{report.package}, {report.image[0]}×{report.image[1]}, {report.cpu}, {report.cpus} CPUs, {bf16}')
    table = Table('variant', box=None, pad_edge=False)
    for count in persons:
        table.add_column(f'{count} person{"" if count == 1 else "s"}', justify='right')
    for name, figures in report.variants.items():
        table.add_row(name, *(_cell(report, name, figures, count) for count in persons))
    console.print(table)
    for name, figures in report.variants.items():
        if figures.failure is not None:
            console.print(f'{name}: {figures.failure}')
        elif any(share < 1 for share in figures.share_close.values()):
            shares = ', '.join(f'{share:.1%} of {count}' for count, share in figures.share_close.items())
            console.print(f'{name}: keypoints within 0.5 px of ours on onnxruntime in f32: {shares} persons')


def _cell(report: bench.Report, name: str, figures: bench.Figures, persons: int) -> str:
    if persons not in figures.milliseconds:
        return '–'
    ratio = report.ratio(name, persons)
    return f'{figures.milliseconds[persons]:.1f} ms' + ('' if ratio is None else f'  × {ratio:.2f}')


def plot(report: bench.Report, persons: list[int], path: Path) -> Path | None:
    """Bars of the ratios, a group per number of persons; None without matplotlib."""
    try:
        from matplotlib.figure import Figure
    except ImportError:
        return None
    names = [name for name, figures in report.variants.items() if figures.milliseconds]
    figure = Figure(figsize=(10, 1.5 + 0.3 * len(names) * len(persons)), layout='constrained')
    axes: Any = figure.subplots()
    height = 0.8 / len(names)
    for index, name in enumerate(names):
        places = [group + index * height for group in range(len(persons))]
        ratios = [report.ratio(name, count) or 0 for count in persons]
        bars = axes.barh(places, ratios, height=height, label=name)
        axes.bar_label(bars, fmt='%.2f', fontsize=7)
    axes.set_yticks([group + 0.4 for group in range(len(persons))], [f'{count} persons' for count in persons])
    axes.axvline(1, color='black', linewidth=0.8)
    axes.set_xlabel(f'times as fast as {bench.RIVAL}')
    axes.set_title(f'{report.package} on {report.cpu}, {report.cpus} CPUs', fontsize=9)
    axes.invert_yaxis()
    axes.legend(fontsize=7)
    figure.savefig(path, dpi=120)
    return path
