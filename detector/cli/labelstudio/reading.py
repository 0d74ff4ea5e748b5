"""Reading of labels for `export` and `send-to-loop`, from projects of Label Studio or from one of its export files."""

from collections.abc import AsyncIterator, Iterable, Mapping, Sequence
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

from rich.progress import Progress, TaskID

from detector.cli.common import progress_bar
from detector.datasets.fields import read_text
from detector.datasets.omissions import Omissions
from detector.errors import InvalidRequest
from detector.label_studio.labels.config import LabelingConfig, any_style, parse
from detector.label_studio.labels.task_labels import Choice
from detector.label_studio.labels.tasks import newest_version, tasks_in_file
from detector.label_studio.server.client import Connection, connected
from detector.label_studio.server.media import TaskImages
from detector.label_studio.server.project import Project
from detector.label_studio.server.project_lookup import find_project
from detector.label_studio.workflows.exports import Labelled, Reader
from detector.settings import Settings

from .common import line_printer

Batch = tuple[AsyncIterator[Mapping[str, Any]], LabelingConfig, Choice]
"""Tasks, their labeling config, and which of their labels count."""


@asynccontextmanager
async def opened(
    settings: Settings,
    *,
    file: Path | None,
    config: Path | None,
    projects: Iterable[str],
    choice: Choice,
    everything: bool = False,
) -> AsyncIterator[tuple[Reader, AsyncIterator[Labelled]]]:
    """Yield a reader and the labelled images that it reads; show a progress bar meanwhile.

    :param file: a JSON export, instead of projects.
    :param config: labeling config of the file; the recommended configs if None.
    :param projects: numbers, addresses or titles.
    :param choice: which labels of a task count.
    :param everything: True to include tasks without labels.
    :raises WholebodyError: Label Studio or the file cannot be used, or there are no predictions to read.
    """
    async with AsyncExitStack() as stack:
        progress = stack.enter_context(progress_bar())
        show = line_printer(progress)
        omissions = Omissions(show)
        connection: Connection | None
        if file is None:
            connection = await stack.enter_async_context(connected(settings))
            numbers = sorted({(await find_project(connection, text)).id for text in projects})
            batches = [await _of_project(Project(connection, number), choice, progress) for number in numbers]
        else:
            connection = Connection.of(settings, seconds=settings.image_seconds)
            if connection is not None:
                stack.push_async_callback(connection.close)
            batches = [_of_file(file, config, choice, progress, omissions)]
        images = TaskImages.of(settings, connection)
        stack.push_async_callback(images.close)
        reader = Reader(
            source=images,
            unlabelled=everything,
            omissions=omissions,
            warn=show,
            max_pixels=settings.max_image_pixels,
        )
        yield reader, _read(reader, batches)


async def _read(reader: Reader, batches: Sequence[Batch]) -> AsyncIterator[Labelled]:
    for tasks, config, choice in batches:
        async for labelled in reader.read(tasks, config, choice):
            yield labelled


async def _of_project(project: Project, choice: Choice, progress: Progress) -> Batch:
    settings = await project.settings()
    if choice.predictions and choice.model_version is None:
        versions = await project.model_versions()
        if not versions:
            raise InvalidRequest(f'project {project.id} has no predictions')
        choice = replace(choice, model_version=next(iter(versions)))
        line_printer(progress)(f'project {project.id}: predictions of {choice.model_version}')
    bar = progress.add_task(f'project {project.id}', total=settings.get('task_number'))
    return _tracked(project.tasks(full=True), progress, bar), parse(await project.label_config()), choice


def _of_file(file: Path, config: Path | None, choice: Choice, progress: Progress, omissions: Omissions) -> Batch:
    tasks = tasks_in_file(file, omissions)
    if choice.predictions and choice.model_version is None:
        version = newest_version(tasks)
        if version is None:
            raise InvalidRequest(
                f'{file} has no predictions, or only their numbers; export a snapshot with predictions '
                '(Export → Create New Snapshot → Include predictions)'
            )
        choice = replace(choice, model_version=version)
    bar = progress.add_task(file.name, total=len(tasks))
    found = any_style() if config is None else parse(read_text(config))
    return _tracked(_listed(tasks), progress, bar), found, choice


async def _listed(tasks: Iterable[Mapping[str, Any]]) -> AsyncIterator[Mapping[str, Any]]:
    for task in tasks:
        yield task


async def _tracked(
    tasks: AsyncIterator[Mapping[str, Any]], progress: Progress, bar: TaskID
) -> AsyncIterator[Mapping[str, Any]]:
    async for task in tasks:
        yield task
        progress.advance(bar)
