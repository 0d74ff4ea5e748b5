"""`wholebody labelstudio queue`: write the order in which annotators should label tasks."""

import math
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from enum import StrEnum
from typing import TYPE_CHECKING, Annotated, Final, Literal

import typer

from detector.cli.common import load_settings, print_table, progress_bar
from detector.wording import counted

from .common import ProjectOption, in_project, resumable

if TYPE_CHECKING:
    from detector.label_studio.server.project import Project
    from detector.label_studio.workflows.review_queue import Place

_ROWS: Final = 50
"""Largest number of rows in the table."""


class QueuePart(StrEnum):  # typer takes no list of literals
    """Part of the body by whose certainty tasks are ordered."""

    HANDS = 'hands'
    FACE = 'face'
    BODY = 'body'
    FEET = 'feet'


_NAMES: Final = {QueuePart.HANDS: ('left_hand', 'right_hand')}
"""Names of the skeleton's parts, where they differ from the option's."""


def queue(
    project: ProjectOption,
    by: Annotated[
        Literal['uncertainty', 'diversity', 'both'],
        typer.Option(help='Rank uncertain tasks first, those unlike the rest, or both.'),
    ] = 'both',
    limit: Annotated[int | None, typer.Option(help='Number of tasks to queue.', min=1, show_default='all')] = None,
    part: Annotated[
        list[QueuePart] | None,
        typer.Option(
            help='Use the uncertainty of this part only; repeat the option for several parts.',
            show_default='all parts and the box',
        ),
    ] = None,
    model_version: Annotated[
        str | None,
        typer.Option(help='Model version of the predictions.', show_default='the newest version with predictions'),
    ] = None,
    stream: Annotated[
        bool,
        typer.Option('--stream', help='With --by uncertainty: make "Label All Tasks" begin with uncertain images.'),
    ] = False,
    dry_run: Annotated[bool, typer.Option('--dry-run', help='Print the table and change nothing.')] = False,
) -> None:
    """Order the tasks by what is most worth labelling: images that the model is unsure of or that differ from the rest.

    The queue holds the tasks with a prediction and without an annotation. The command writes their ranks into the
    column `wholebody_rank` of the tasks, and adds a tab "Queue" that shows them in this order; use "Label Tasks As
    Displayed" there. Predictions keep their scores.
    """
    if stream and (by != 'uncertainty' or part):
        raise typer.BadParameter(
            'in "Label All Tasks", Label Studio only follows the scores of predictions: give --stream with '
            '--by uncertainty and without --part, or use "Label Tasks As Displayed" in the tab "Queue"'
        )
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
            return f'nothing to queue: all tasks with a prediction of {version} are annotated or skipped'
        places = review_queue.queue(waiting, by=by, limit=limit)
        _print_table(places)
        about = f'{len(places)} of {len(waiting.candidates)} tasks, predictions of {version}'
        if dry_run:
            return f'{about}; nothing is written'
        changed, tab = await review_queue.write(chosen, places, waiting, stream=stream)
        return f'{about}; {counted(changed, "rank")} changed\n{chosen.page(tab=tab["id"])}'

    with resumable():
        print(in_project(load_settings(), project, work))


@contextmanager
def _bar(what: str) -> Iterator[Callable[[int, int], None]]:
    """Show a progress bar; yield a function that takes the number done and the total."""
    with progress_bar() as progress:
        task = progress.add_task(what, total=None)
        yield lambda done, total: progress.update(task, completed=done, total=total)


def _print_table(places: 'Sequence[Place]') -> None:
    print_table(('rank', 'task', 'file', 'uncertainty', 'part', 'diversity'), map(_row, places[:_ROWS]))
    if len(places) > _ROWS:
        print(f'… and {len(places) - _ROWS} more')


def _row(place: 'Place') -> tuple[str, ...]:
    found = place.candidate
    uncertainty = f'{1 - found.certainty:.3f}'
    return str(place.rank), str(found.task), found.file, uncertainty, found.part or '', _distance(place.diversity)


def _distance(value: float | None) -> str:
    """Format a distance: None is unknown; infinite if the queue has no earlier task."""
    if value is None:
        return ''
    return '–' if math.isinf(value) else f'{value:.3f}'
