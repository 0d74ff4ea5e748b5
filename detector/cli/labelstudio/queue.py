"""`wholebody labelstudio queue`."""

import math
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from enum import StrEnum
from typing import TYPE_CHECKING, Annotated, Final

import typer

from detector.settings import load_settings

from .common import ProjectOption, in_project, progress_bar

if TYPE_CHECKING:
    from detector.label_studio.server.project import Project
    from detector.label_studio.workflows.review_queue import Place

_ROWS: Final = 50
"""Of the table."""


class Order(StrEnum):
    """What comes first."""

    UNCERTAINTY = 'uncertainty'
    DIVERSITY = 'diversity'
    BOTH = 'both'


class QueuePart(StrEnum):
    """Whose certainty counts."""

    HANDS = 'hands'
    FACE = 'face'
    BODY = 'body'
    FEET = 'feet'


_NAMES: Final = {QueuePart.HANDS: ('left_hand', 'right_hand')}
"""Of the parts of the skeleton, where they differ."""


def queue(
    project: ProjectOption,
    by: Annotated[Order, typer.Option(help='What comes first: what is uncertain, unlike the rest, or both.')] = (
        Order.BOTH
    ),
    limit: Annotated[
        int | None, typer.Option(help='Queue no more tasks; the others come after them.', min=1, show_default='all')
    ] = None,
    part: Annotated[
        list[QueuePart] | None,
        typer.Option(help='Uncertainty of this part alone; may be given often.', show_default='all, and the box'),
    ] = None,
    model_version: Annotated[
        str | None, typer.Option(help='Whose predictions.', show_default='the newest that has predictions')
    ] = None,
    stream: Annotated[
        bool, typer.Option('--stream', help='Let "Label All Tasks" follow as well: sets uncertainty sampling.')
    ] = False,
    dry_run: Annotated[bool, typer.Option('--dry-run', help='Only print the table.')] = False,
) -> None:
    """Bring the tasks first that are worth a person's time: those the model is unsure of, and those unlike the rest.

    Orders what has a prediction and no annotation. Writes the order into the scores of the predictions, and a tab
    "Queue" that shows it; sets the project's model version to that of the queue.
    """
    names = [name for chosen in part or () for name in _NAMES.get(chosen, (chosen.value,))]

    async def work(chosen: 'Project') -> str:
        from detector.label_studio.labels.config import parse
        from detector.label_studio.workflows import review_queue

        config = parse(await chosen.label_config())
        version = await review_queue.version_of(chosen, model_version)
        waiting = review_queue.Waiting(config=config, model_version=version, parts=tuple(dict.fromkeys(names)))
        total = int((await chosen.settings()).get('task_number') or 0)
        with _bar('reading tasks') as show:
            await review_queue.read(chosen, waiting, on_progress=lambda done: show(done, total))
        if not waiting.candidates:
            return f'nothing to queue: each task with a prediction of {version} is annotated or skipped'
        places = review_queue.queue(waiting, by=by.value, limit=limit)
        queued = places[:limit]
        _print_table(queued)
        about = f'{len(queued)} of {len(places)} tasks, predictions of {version}'
        if dry_run:
            return f'{about}; nothing is written'
        with _bar('writing scores') as show:
            changed, tab = await review_queue.write(chosen, places, version, stream=stream, on_progress=show)
        return f'{about}; {changed} scores have changed\n{chosen.page(tab=tab["id"])}'

    print(in_project(load_settings(), project, work))


@contextmanager
def _bar(what: str) -> Iterator[Callable[[int, int], None]]:
    """A progress bar, told how many are done of how many."""
    with progress_bar() as progress:
        task = progress.add_task(what, total=None)
        yield lambda done, total: progress.update(task, completed=done, total=total)


def _print_table(places: 'Sequence[Place]') -> None:
    from rich.console import Console
    from rich.markup import escape
    from rich.table import Table

    table = Table('rank', 'task', 'file', 'uncertainty', 'part', 'diversity', box=None, pad_edge=False)
    for place in places[:_ROWS]:
        found = place.candidate
        table.add_row(
            str(place.rank),
            str(found.task),
            escape(found.file),
            f'{1 - found.certainty:.3f}',
            found.part or '',
            _distance(place.diversity),
        )
    Console().print(table)
    if len(places) > _ROWS:
        print(f'… and {len(places) - _ROWS} more')


def _distance(value: float | None) -> str:
    """Of the first of all there is none."""
    if value is None:
        return ''
    return '–' if math.isinf(value) else f'{value:.3f}'
