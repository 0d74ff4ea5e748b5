"""`wholebody labelstudio evaluate`: measure the quality of predictions against annotations."""

import json
import sys
from collections.abc import Iterator, Sequence
from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Final

import typer

from detector.cli.common import load_settings, print_table, write_text
from detector.datasets.fields import read_text
from detector.errors import ExtraMissing
from detector.wording import counted

from .common import ConfigOption, FileArgument, ProjectsOption, check_source, end_with, in_project

if TYPE_CHECKING:
    from detector.label_studio.evaluation.agreement import Agreement
    from detector.label_studio.evaluation.evaluation import Comparison, Evaluation
    from detector.label_studio.evaluation.project_evaluation import Annotated as AnnotatedTasks

_KEYPOINTS: Final = 10
"""Rows of the table of most corrected keypoints."""
_IMAGES: Final = 5
"""Rows of the table of worst images."""
_WARNINGS: Final = 20
"""Warnings to print in full."""
_COUNTS: Final = ('people', 'predicted', 'missed', 'surplus')

Table = tuple[Sequence[str], Sequence[Sequence[Any]]]
"""Header and rows."""

VersionsOption = Annotated[
    list[str] | None,
    typer.Option(
        help='Model version to evaluate; repeat the option for several versions.',
        show_default='all versions with predictions on annotated tasks',
    ),
]
JsonOption = Annotated[Path | None, typer.Option('--json', help='File to write all figures to.')]
HtmlOption = Annotated[Path | None, typer.Option(help='File to write a report with plots to.')]


def evaluate(
    file: FileArgument = None,
    project: ProjectsOption = None,
    model_version: VersionsOption = None,
    config: ConfigOption = None,
    json_file: JsonOption = None,
    html: HtmlOption = None,
) -> None:
    """Measure predictions against annotations: AP, AR, OKS and PCK per part, corrections per keypoint.

    The figures cover all tasks with an annotation that is not skipped; the newest one counts. Where several annotators
    have labelled the same tasks, the command also compares them with each other, by OKS per part. A file must contain
    the predictions themselves, not only their numbers. The exit status is 1 if tasks or regions are left out, because
    they cannot be read. The command needs the extra `evaluate`.
    """
    check_source(file, project, config)
    _check_extra(plots=html is not None)
    from detector.label_studio.evaluation.evaluation import compare
    from detector.label_studio.evaluation.report import to_html

    annotated = _read(file, project or (), config)
    _print_warnings(annotated.warnings)
    agreement = annotated.agreement()
    can_agree_only = agreement is not None and not annotated.versions and not model_version and html is None
    evaluations = [] if can_agree_only else annotated.evaluate(model_version or ())
    for evaluation in evaluations:
        _print(evaluation)
    comparison = compare(evaluations) if len(evaluations) > 1 else None
    if comparison is not None:
        _print_comparison(comparison)
    if agreement is not None:
        _print_agreement(agreement)
    if json_file is not None:
        write_text(json_file, _to_json(evaluations, comparison, agreement, annotated.warnings))
    if html is not None:
        to_html(evaluations, html)
        print(html)
    end_with(annotated.omissions)


def _check_extra(*, plots: bool) -> None:
    """:raises ExtraMissing: before minutes are spent on reading."""
    for module in ('faster_coco_eval', *(['matplotlib'] if plots else [])):
        if find_spec(module) is None:
            raise ExtraMissing(module.replace('_', '-'), extra='evaluate')


def _read(file: Path | None, projects: Sequence[str], config: Path | None) -> 'AnnotatedTasks':
    from detector.label_studio.evaluation.project_evaluation import Annotated as AnnotatedTasks
    from detector.label_studio.evaluation.project_evaluation import read_project, read_snapshot

    annotated = AnnotatedTasks()
    if file is not None:
        read_snapshot(file, annotated, xml=None if config is None else read_text(config))
    for number in projects:
        in_project(load_settings(), number, lambda chosen: read_project(chosen, annotated))
    return annotated


def _print_warnings(warnings: Sequence[str]) -> None:
    for warning in warnings[:_WARNINGS]:
        print(f'warning: {warning}', file=sys.stderr)
    if len(warnings) > _WARNINGS:
        print(f'warning: … and {len(warnings) - _WARNINGS} more', file=sys.stderr)


def _print(evaluation: 'Evaluation') -> None:
    counts = ', '.join(f'{getattr(evaluation, name)} {name}' for name in _COUNTS)
    print(f'\n{evaluation.model_version}: {len(evaluation.images)} images, {counts}')
    for number, (header, rows) in enumerate(_tables(evaluation)):
        if number:
            print()
        _print_figures(header, rows)


def _tables(evaluation: 'Evaluation') -> Iterator[Table]:
    from detector.label_studio.evaluation.evaluation import METRICS
    from detector.label_studio.evaluation.report import most_corrected

    yield (
        ['part', 'people', *METRICS],
        [[part.name, part.people, *(getattr(part, metric) for metric in METRICS)] for part in evaluation.parts],
    )
    corrected = [
        [one.name, one.corrected_share, one.moved, one.removed, one.added, one.predicted + one.added]
        for one in most_corrected(evaluation)[:_KEYPOINTS]
    ]
    if corrected:
        yield ['most corrected', 'share', 'moved', 'removed', 'added', 'of'], corrected
    worst = [
        [image.name, image.quality, image.oks, *(getattr(image, name) for name in _COUNTS)]
        for image in evaluation.images
        if image.quality < 1
    ][:_IMAGES]
    if worst:
        yield ['worst images', 'quality', 'oks', *_COUNTS], worst


def _print_comparison(comparison: 'Comparison') -> None:
    from detector.label_studio.evaluation.report import shown

    note = '' if comparison.same_images else ', on different images, which alone can change figures'
    print(f'\nversions{note}')
    rows = [[row.part, row.metric, *row.values, shown(row.change, sign=True)] for row in comparison.rows]
    _print_figures(['part', 'figure', *comparison.versions, 'change'], rows)


def _print_agreement(agreement: 'Agreement') -> None:
    annotators, pairs = agreement.annotators, agreement.pairs
    images = counted(agreement.images, 'image')
    print(f'\nagreement of {counted(len(annotators), "annotator")} on {images}, OKS per part, the lowest first')
    parts = list(pairs[0].oks)
    rows = [[one.annotator, one.images, one.people, one.missed, one.alone, *one.oks.values()] for one in annotators]
    _print_figures(['annotator', 'images', 'people', 'missed', 'alone', *parts], rows)
    print()
    rows = [
        [' – '.join(one.annotators), one.images, one.people, one.only_first, one.only_second, *one.oks.values()]
        for one in pairs
    ]
    _print_figures(['pair', 'images', 'people', 'only 1st', 'only 2nd', *parts], rows)


def _print_figures(header: Sequence[str], rows: Sequence[Sequence[object]]) -> None:
    from detector.label_studio.evaluation.report import shown

    print_table(header, [[shown(cell) for cell in row] for row in rows], numeric=True)


def _to_json(
    evaluations: 'Sequence[Evaluation]',
    comparison: 'Comparison | None',
    agreement: 'Agreement | None',
    warnings: Sequence[str],
) -> str:
    from dataclasses import asdict

    from detector.label_studio.evaluation.report import rounded, to_json

    figures = {
        'evaluations': [to_json(evaluation) for evaluation in evaluations],
        'comparison': None if comparison is None else asdict(comparison),
        'agreement': None if agreement is None else rounded(asdict(agreement)),
        'warnings': warnings,
    }
    return json.dumps(figures, indent=1) + '\n'
