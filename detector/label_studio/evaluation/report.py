"""The report of an evaluation as JSON or as one self-contained HTML file."""

import base64
import io
from collections.abc import Callable, Iterable, Sequence
from dataclasses import asdict
from functools import partial
from html import escape
from pathlib import Path
from typing import Any, Final
from urllib.parse import urlsplit

from detector.errors import ExtraMissing

from .evaluation import METRICS, Evaluation, ImageFigures, KeypointFigures, compare
from .matching import EVALUATED_PARTS, PCK_THRESHOLDS

MAX_IMAGES: Final = 30
"""Maximum number of images per version in the HTML file, the worst first; JSON has all."""
MAX_CORRECTED: Final = 20
"""Maximum number of keypoints in the plot of the most corrected ones."""
_DIGITS: Final = 6
_TITLES: Final = {
    'ap': 'AP',
    'ap50': 'AP50',
    'ap75': 'AP75',
    'ar': 'AR',
    'oks': 'mean OKS',
    'pck05': 'PCK 0.05',
    'pck10': 'PCK 0.1',
}
_STYLE: Final = """
body { font: 15px/1.5 system-ui, sans-serif; margin: 2em auto; max-width: 75em; padding: 0 1em; color: #222; }
table { border-collapse: collapse; margin: .5em 0 1.5em; }
th, td { padding: .2em .8em; border-bottom: 1px solid #ddd; text-align: right; }
th:first-child, td:first-child { text-align: left; overflow-wrap: anywhere; }
img { max-width: 100%; }
summary { cursor: pointer; font-weight: bold; }
.notice { background: #fff3cd; padding: .5em 1em; }
"""


def to_json(evaluation: Evaluation) -> dict[str, Any]:
    """Return all figures as JSON; null if no keypoint is annotated to compare with.

    `pck` has the shares at `pck_thresholds`, which are in shares of the longer side of a person's box.
    """
    figures = asdict(evaluation)
    for part, found in zip(figures['parts'], evaluation.parts, strict=True):
        part |= {'pck05': found.pck05, 'pck10': found.pck10}
    for keypoint, point in zip(figures['keypoints'], evaluation.keypoints, strict=True):
        keypoint |= {'corrected': point.corrected, 'corrected_share': point.corrected_share}
    all_figures: dict[str, Any] = rounded({'pck_thresholds': PCK_THRESHOLDS} | figures)
    return all_figures


def rounded(value: Any) -> Any:
    """Return JSON data with all numbers rounded to `_DIGITS` digits."""
    match value:
        case float():
            return round(value, _DIGITS)
        case dict():
            return {key: rounded(item) for key, item in value.items()}
        case list() | tuple():
            return [rounded(item) for item in value]
    return value


def to_html(evaluations: Sequence[Evaluation], path: Path) -> None:
    """Write a report of one or more versions, the oldest first: tables, plots and the worst images.

    :raises InvalidRequest: there are two evaluations of one version.
    :raises ExtraMissing: matplotlib is not installed.
    :raises ValueError: there is no evaluation.
    """
    if not evaluations:
        raise ValueError('a report needs at least one evaluation')
    sections = [
        _heading(evaluations),
        *(_comparison(evaluations) if len(evaluations) > 1 else ()),
        '<h2>Parts</h2>',
        *(_parts_table(evaluation) for evaluation in evaluations),
        *_plots(evaluations),
        '<h2>Keypoints</h2><p>Figures cover the persons whom the model found. Corrected keypoints are those that '
        'annotators moved, removed or added.</p>',
        *(_keypoints_table(evaluations, part.name) for part in EVALUATED_PARTS[:-1]),
        '<h2>Worst images</h2>',
        *(_images_table(evaluation) for evaluation in evaluations),
    ]
    page = (
        '<!DOCTYPE html>\n<html lang="en"><head><meta charset="utf-8">'
        '<meta http-equiv="Content-Security-Policy" '
        "content=\"default-src 'none'; img-src data:; style-src 'unsafe-inline'\">"
        f'<title>Model evaluation</title><style>{_STYLE}</style></head>\n<body>\n'
        + '\n'.join(sections)
        + '\n</body></html>\n'
    )
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(page, encoding='utf-8', errors='replace')  # a name may have unpaired surrogates


def _heading(evaluations: Sequence[Evaluation]) -> str:
    rows = [
        [found.model_version, len(found.images), found.people, found.predicted, found.missed, found.surplus]
        for found in evaluations
    ]
    header = ['version', 'images', 'people', 'predicted', 'missed', 'surplus']
    return '<h1>Model evaluation</h1>' + _table(header, rows)


def _comparison(evaluations: Sequence[Evaluation]) -> Iterable[str]:
    comparison = compare(evaluations)
    yield '<h2>Versions</h2>'
    if not comparison.same_images:
        yield '<p class="notice">The versions were measured on different images, which alone can change figures.</p>'
    yield _table(
        ['part', 'figure', *comparison.versions, 'change'],
        [[row.part, _TITLES[row.metric], *row.values, shown(row.change, sign=True)] for row in comparison.rows],
    )


def _parts_table(evaluation: Evaluation) -> str:
    rows = [[part.name, part.people, *(getattr(part, metric) for metric in METRICS)] for part in evaluation.parts]
    return _caption(evaluation) + _table(['part', 'people', *(_TITLES[metric] for metric in METRICS)], rows)


def _keypoints_table(evaluations: Sequence[Evaluation], part: str) -> str:
    columns = ('labelled', 'PCK 0.05', 'PCK 0.1', 'predicted', 'moved', 'removed', 'added', 'corrected')
    tables = []
    for evaluation in evaluations:
        rows = [_keypoint_row(keypoint) for keypoint in evaluation.keypoints if keypoint.part == part]
        tables.append(_caption(evaluation) + _table(['keypoint', *columns], rows))
    return f'<details><summary>{escape(part)}</summary>{"".join(tables)}</details>'


def _keypoint_row(one: KeypointFigures) -> list[object]:
    figures = [one.labelled, one.pck05, one.pck10, one.predicted, one.moved, one.removed, one.added]
    return [one.name, *figures, one.corrected_share]


def _images_table(evaluation: Evaluation) -> str:
    bad = [image for image in evaluation.images if image.quality < 1][:MAX_IMAGES]
    rows = [[image.quality, image.oks, image.people, image.predicted, image.missed, image.surplus] for image in bad]
    header = ['image', 'quality', 'mean OKS', 'people', 'predicted', 'missed', 'surplus']
    return _caption(evaluation) + _table(header, rows, first=[_link(image) for image in bad])


def _link(image: ImageFigures) -> str:
    """Return the name, as a link if its address is one that a browser may open."""
    try:
        is_link = image.address is not None and urlsplit(image.address).scheme in ('http', 'https')
    except ValueError:
        is_link = False
    name = escape(image.name)
    return f'<a href="{escape(str(image.address))}" rel="noreferrer">{name}</a>' if is_link else name


def _caption(evaluation: Evaluation) -> str:
    return f'<h3>{escape(evaluation.model_version)}</h3>'


def _table(header: Sequence[str], rows: Sequence[Sequence[object]], first: Sequence[str] = ()) -> str:
    """:param first: first column in HTML; the text of the other columns is escaped here."""
    lines = [''.join(f'<th>{escape(title)}</th>' for title in header)]
    for index, row in enumerate(rows):
        lead = [first[index]] if first else []
        lines.append(''.join(f'<td>{cell}</td>' for cell in (*lead, *(escape(shown(cell)) for cell in row))))
    return '<table>' + '\n'.join(f'<tr>{line}</tr>' for line in lines) + '</table>'


def shown(value: object, *, sign: bool = False) -> str:
    """Return a cell of a table: a float as a share, None as a dash."""
    if value is None:
        return '–'
    return f'{value:{"+" if sign else ""}.3f}' if isinstance(value, float) else str(value)


def _plots(evaluations: Sequence[Evaluation]) -> Iterable[str]:
    yield '<h2>Plots</h2>'
    yield _plot('AP of each part by version', (10, 4), partial(_draw_precision, evaluations=evaluations))
    yield _plot('PCK curves', (10, 6), partial(_draw_pck, evaluations=evaluations))
    for evaluation in evaluations:
        most = most_corrected(evaluation)
        if most:
            title = f'Most corrected keypoints, {evaluation.model_version}'
            yield _plot(title, (10, 1 + 0.25 * len(most)), partial(_draw_corrected, most=most))


def most_corrected(evaluation: Evaluation) -> list[KeypointFigures]:
    """Return keypoints by the share that annotators corrected, the largest first, at most `MAX_CORRECTED`."""
    corrected = [keypoint for keypoint in evaluation.keypoints if keypoint.corrected]
    corrected.sort(key=lambda keypoint: (-(keypoint.corrected_share or 0), -keypoint.corrected))
    return corrected[:MAX_CORRECTED]


def _plot(title: str, size: tuple[float, float], draw: Callable[[Any], None]) -> str:
    try:
        from matplotlib.figure import Figure
    except ImportError as error:
        raise ExtraMissing('matplotlib', extra='evaluate') from error
    figure = Figure(figsize=size, layout='constrained')
    draw(figure)
    buffer = io.BytesIO()
    figure.savefig(buffer, format='png', dpi=110)
    data = base64.b64encode(buffer.getvalue()).decode()
    return f'<h3>{escape(title)}</h3><img alt="{escape(title)}" src="data:image/png;base64,{data}">'


def _draw_precision(figure: Any, evaluations: Sequence[Evaluation]) -> None:
    axes = figure.subplots()
    width = 0.8 / len(evaluations)
    names = [part.name for part in EVALUATED_PARTS]
    for index, evaluation in enumerate(evaluations):
        places = [number + index * width for number in range(len(names))]
        bars = axes.bar(places, [part.ap or 0 for part in evaluation.parts], width, label=_label(evaluation, index))
        axes.bar_label(bars, [shown(part.ap) for part in evaluation.parts], fontsize=7)
    axes.set_xticks([number + 0.4 - width / 2 for number in range(len(names))], names)
    axes.set_ylim(0, 1.1)
    axes.set_ylabel('AP')
    figure.legend(loc='outside lower center', ncols=3, fontsize=8)


def _draw_pck(figure: Any, evaluations: Sequence[Evaluation]) -> None:
    grid = figure.subplots(2, 3, sharex=True, sharey=True)
    for number, (part, axes) in enumerate(zip(EVALUATED_PARTS, grid.flat, strict=True)):
        for index, evaluation in enumerate(evaluations):
            pck = evaluation.parts[number].pck or [float('nan')] * len(PCK_THRESHOLDS)
            axes.plot(PCK_THRESHOLDS, pck, label=_label(evaluation, index) if number == 0 else None)
        axes.set_title(part.name, fontsize=9)
        axes.set_ylim(0, 1.02)
        axes.grid(alpha=0.3)
    figure.supxlabel("distance in shares of the box's longer side", fontsize=9)
    figure.supylabel('share of keypoints', fontsize=9)
    figure.legend(loc='outside upper center', ncols=3, fontsize=8)


def _draw_corrected(figure: Any, most: Sequence[KeypointFigures]) -> None:
    axes = figure.subplots()
    bars = axes.barh([keypoint.name for keypoint in most], [keypoint.corrected_share for keypoint in most])
    axes.bar_label(
        bars, [f'{point.corrected} of {point.predicted + point.added}' for point in most], fontsize=7, padding=2
    )
    axes.invert_yaxis()
    axes.set_xlim(0, 1.1)
    axes.set_xlabel('share corrected')


def _label(evaluation: Evaluation, index: int) -> str:
    """Return a numbered version for the legend, without formulas or characters that matplotlib cannot draw."""
    plain = ''.join(char if char.isascii() and char.isprintable() else '?' for char in evaluation.model_version[:40])
    return f'{index + 1}: {plain}'.replace('$', r'\$')
