"""`wholebody labelstudio evaluate`."""

import json
import sys
from collections.abc import Sequence
from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Final

import typer

from detector.errors import ExtraMissing
from detector.settings import load_settings

from .common import in_project

if TYPE_CHECKING:
    from detector.label_studio.evaluation.evaluation import Comparison, Evaluation

_KEYPOINTS: Final = 10
_IMAGES: Final = 5
_WARNINGS: Final = 20
"""Rows, and lines on standard error."""


def evaluate(
    file: Annotated[
        Path | None,
        typer.Argument(help='A JSON snapshot with predictions, instead of projects.', exists=True, dir_okay=False),
    ] = None,
    project: Annotated[
        list[str] | None,
        typer.Option('--project', '-p', help='Number or address of a project; may be given often.'),
    ] = None,
    model_version: Annotated[
        list[str] | None,
        typer.Option(help='May be given often.', show_default='all with predictions on annotated tasks'),
    ] = None,
    config: Annotated[
        Path | None,
        typer.Option(help='Labeling config of FILE.', show_default='the recommended ones', exists=True, dir_okay=False),
    ] = None,
    json_file: Annotated[Path | None, typer.Option('--json', help='File to write all figures to.')] = None,
    html: Annotated[Path | None, typer.Option(help='File to write a report with plots to.')] = None,
) -> None:
    """Measure predictions against people's annotations: AP, AR, OKS and PCK per part, corrections per keypoint.

    Counts tasks with an annotation that is not skipped, its newest. Needs the extra `evaluate`.
    """
    if (file is None) == (not project):
        raise typer.BadParameter('give either --project or a FILE')
    if config is not None and file is None:
        raise typer.BadParameter('--config is for a FILE; a project has its own')
    _check_extra(plots=html is not None)
    from detector.label_studio.evaluation.evaluation import compare
    from detector.label_studio.evaluation.project_evaluation import Annotated as AnnotatedTasks
    from detector.label_studio.evaluation.project_evaluation import read_project, read_snapshot
    from detector.label_studio.evaluation.report import to_html, to_json

    annotated = AnnotatedTasks()
    if file is not None:
        read_snapshot(file, annotated, xml=None if config is None else config.read_text())
    for number in project or ():
        in_project(load_settings(), number, lambda chosen: read_project(chosen, annotated))
    for warning in annotated.warnings[:_WARNINGS]:
        print(f'warning: {warning}', file=sys.stderr)
    if len(annotated.warnings) > _WARNINGS:
        print(f'warning: … and {len(annotated.warnings) - _WARNINGS} more', file=sys.stderr)
    evaluations = annotated.evaluate(model_version or ())
    for evaluation in evaluations:
        _print(evaluation)
    comparison = compare(evaluations) if len(evaluations) > 1 else None
    if comparison is not None:
        _print_comparison(comparison)
    if json_file is not None:
        from dataclasses import asdict

        figures = {
            'evaluations': [to_json(evaluation) for evaluation in evaluations],
            'comparison': None if comparison is None else asdict(comparison),
            'warnings': annotated.warnings,
        }
        json_file.parent.mkdir(parents=True, exist_ok=True)
        json_file.write_text(json.dumps(figures, indent=1) + '\n')
        print(json_file)
    if html is not None:
        to_html(evaluations, html)
        print(html)


def _check_extra(*, plots: bool) -> None:
    """:raises ExtraMissing: now, and not after minutes of reading."""
    for module in ('faster_coco_eval', *(['matplotlib'] if plots else [])):
        if find_spec(module) is None:
            raise ExtraMissing(module.replace('_', '-'), extra='evaluate')


def _print(evaluation: 'Evaluation') -> None:
    from detector.label_studio.evaluation.evaluation import METRICS
    from detector.label_studio.evaluation.report import most_corrected

    counted = ('people', 'predicted', 'missed', 'surplus')
    counts = ', '.join(f'{getattr(evaluation, name)} {name}' for name in counted)
    print(f'\n{evaluation.model_version}: {len(evaluation.images)} images, {counts}')
    _table(
        ['part', 'people', *METRICS],
        [[part.name, part.people, *(getattr(part, metric) for metric in METRICS)] for part in evaluation.parts],
    )
    corrected = most_corrected(evaluation)[:_KEYPOINTS]
    if corrected:
        print()
        _table(
            ['most corrected', 'share', 'moved', 'removed', 'added', 'of'],
            [
                [one.name, one.corrected_share, one.moved, one.removed, one.added, one.predicted + one.added]
                for one in corrected
            ],
        )
    worst = [image for image in evaluation.images if image.quality < 1][:_IMAGES]
    if worst:
        print()
        _table(
            ['worst images', 'quality', 'oks', *counted],
            [[image.name, image.quality, image.oks, *(getattr(image, name) for name in counted)] for image in worst],
        )


def _print_comparison(comparison: 'Comparison') -> None:
    print('\nversions' if comparison.same_images else '\nversions, on different images, which alone can change figures')
    _table(
        ['part', 'figure', *comparison.versions, 'change'],
        [
            [row.part, row.metric, *row.values, '–' if row.change is None else f'{row.change:+.3f}']
            for row in comparison.rows
        ],
    )


def _table(header: Sequence[str], rows: Sequence[Sequence[Any]]) -> None:
    """Print a table; floats are shares, None is a dash."""
    from rich.console import Console
    from rich.markup import escape
    from rich.table import Table

    table = Table(box=None, pad_edge=False)
    for index, title in enumerate(header):
        table.add_column(escape(title), justify='left' if index == 0 else 'right', overflow='fold')
    for row in rows:
        table.add_row(*(escape(_text(cell)) for cell in row))
    Console().print(table)


def _text(value: object) -> str:
    if value is None:
        return '–'
    return f'{value:.3f}' if isinstance(value, float) else str(value)
