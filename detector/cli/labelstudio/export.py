"""`wholebody labelstudio export` and `import-labels`: labels out of Label Studio, and into it."""

import asyncio
import tempfile
from collections import Counter
from collections.abc import AsyncIterator, Iterable, Mapping, Sequence
from enum import StrEnum
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, cast

import typer

from detector.errors import InvalidRequest
from detector.settings import Settings, load_settings
from detector.wording import counted

from .common import ProjectOption, in_project, progress_bar

if TYPE_CHECKING:
    from rich.progress import Progress

    from detector.label_studio.labels.config import LabelingConfig
    from detector.label_studio.labels.task_labels import Choice
    from detector.label_studio.server.client import Connection
    from detector.label_studio.workflows.exports import Format, Labelled, Reader, Target

Sources = Sequence[tuple[AsyncIterator[Mapping[str, Any]], 'LabelingConfig', 'Choice']]


class ExportFormat(StrEnum):
    """Of a dataset."""

    COCO = 'coco-wholebody'
    YOLO = 'yolo-pose'
    FIFTYONE = 'fiftyone'
    JSON = 'json'
    LOOP = 'loop'


class ImportFormat(StrEnum):
    """Of labels."""

    COCO = 'coco'
    YOLO = 'yolo-pose'
    JSON = 'json'


class ImportKind(StrEnum):
    """What labels become."""

    PREDICTIONS = 'predictions'
    ANNOTATIONS = 'annotations'


def export(
    file: Annotated[
        Path | None,
        typer.Argument(help='A JSON export of Label Studio, instead of projects.', exists=True, dir_okay=False),
    ] = None,
    project: Annotated[
        list[str] | None, typer.Option('--project', '-p', help='Number or address of a project, may be given often.')
    ] = None,
    form: Annotated[
        ExportFormat,
        typer.Option('--format', help='Of the dataset; json is our own, in which nothing is lost; loop: send them.'),
    ] = ExportFormat.COCO,
    output: Annotated[
        Path | None,
        typer.Option('--output', '-o', help='New folder; or, of coco-wholebody and json, a new file NAME.json.'),
    ] = None,
    config: Annotated[
        Path | None,
        typer.Option(
            help="The file's labeling config.",
            exists=True,
            dir_okay=False,
            show_default='the recommended ones',
        ),
    ] = None,
    predictions: Annotated[
        bool, typer.Option('--predictions', help='Those of a model, instead of annotations.')
    ] = False,
    model_version: Annotated[str | None, typer.Option(help='Of the predictions.', show_default='of the newest')] = None,
    val: Annotated[
        float | None,
        typer.Option(
            help='Share of the images that are for validation, chosen by their names.',
            min=0,
            max=1,
            show_default='yolo-pose: 0.1; others: not divided',
        ),
    ] = None,
    images: Annotated[bool, typer.Option('--images', help='Write the image files, too.')] = False,
    flat: Annotated[
        bool, typer.Option('--flat', help='coco-wholebody with all 133 keypoints in the field keypoints.')
    ] = False,
    everything: Annotated[
        bool, typer.Option('--all', help='Also tasks without labels, as images without persons.')
    ] = False,
) -> None:
    """Write what people have labelled as a dataset, or send it to the Learning Loop.

    Of a task's annotations the one that was changed last counts, never a skipped one. What cannot be exported is
    reported, and the rest is exported.
    """
    if (file is None) == (not project):
        raise typer.BadParameter('give either projects (--project) or a file')
    if (output is None) != (form is ExportFormat.LOOP):
        raise typer.BadParameter('--format loop writes no dataset' if output else 'name what to write with --output')
    if model_version is not None and not predictions:
        raise typer.BadParameter('--model-version is for --predictions')
    if form is ExportFormat.LOOP and (predictions or everything):
        raise typer.BadParameter('--format loop sends annotations only')
    if config is not None and file is None:
        raise typer.BadParameter('--config is for a file; projects have their own')

    from detector.label_studio.labels.task_labels import Choice
    from detector.label_studio.workflows.exports import Target

    target = None
    if output is not None and form is not ExportFormat.LOOP:
        target = Target(kind=cast('Format', form.value), path=output, val_share=val, has_images=images, flat=flat)
        target.prepare()
    choice = Choice(predictions=predictions, model_version=model_version)
    settings = load_settings()
    asyncio.run(_export(settings, file, config, project or [], choice, target, everything))


async def _export(
    settings: Settings,
    file: Path | None,
    config: Path | None,
    projects: Iterable[str],
    choice: 'Choice',
    target: 'Target | None',
    everything: bool,
) -> None:
    """:param target: None: the Learning Loop."""
    from detector.label_studio.server.client import Connection, connected
    from detector.label_studio.server.media import TaskImages
    from detector.label_studio.workflows.exports import Reader

    with progress_bar() as progress:
        connection: Connection | None = None
        if file is None:
            async with connected(settings) as connection:
                source = TaskImages.of(settings, connection)
                reader = Reader(source=source, unlabelled=everything, warn=_warn(progress))
                sources = await _of_projects(connection, projects, choice, progress)
                await _finish(settings, sources, reader, target)
                await source.close()
            return
        connection = Connection.of(settings, seconds=settings.image_seconds)
        source = TaskImages.of(settings, connection)
        try:
            reader = Reader(source=source, unlabelled=everything, warn=_warn(progress))
            await _finish(settings, _of_file(file, config, choice, progress), reader, target)
        finally:
            await source.close()
            if connection is not None:
                await connection.close()


async def _of_projects(
    connection: 'Connection', projects: Iterable[str], choice: 'Choice', progress: 'Progress'
) -> Sources:
    from dataclasses import replace

    from detector.label_studio.labels.config import parse
    from detector.label_studio.server.project import Project, project_id_of

    sources = []
    for number in sorted({project_id_of(text) for text in projects}):
        project = Project(connection, number)
        settings = await project.settings()
        chosen = choice
        if choice.predictions and choice.model_version is None:
            versions = await project.model_versions()
            if not versions:
                raise InvalidRequest(f'project {number} has no predictions')
            newest = next(iter(versions))
            chosen = replace(choice, model_version=newest)
            progress.console.print(f'project {number}: predictions of {newest}', markup=False, highlight=False)
        bar = progress.add_task(f'project {number}', total=settings.get('task_number'))
        sources.append((_tracked(project.tasks(full=True), progress, bar), parse(settings.get('label_config')), chosen))
    return sources


def _of_file(file: Path, config: Path | None, choice: 'Choice', progress: 'Progress') -> Sources:
    from dataclasses import replace

    from detector.label_studio.labels.config import any_style, parse
    from detector.label_studio.labels.tasks import newest_version, tasks_in_file

    tasks = tasks_in_file(file)
    if choice.predictions and choice.model_version is None:
        version = newest_version(tasks)
        if version is None:
            raise InvalidRequest(f'{file} has no predictions in full')
        choice = replace(choice, model_version=version)
    bar = progress.add_task(file.name, total=len(tasks))
    found = any_style() if config is None else parse(config.read_text(encoding='utf-8'))
    return [(_tracked(_listed(tasks), progress, bar), found, choice)]


async def _listed(tasks: Iterable[Mapping[str, Any]]) -> AsyncIterator[Mapping[str, Any]]:
    for task in tasks:
        yield task


async def _tracked(
    tasks: AsyncIterator[Mapping[str, Any]], progress: 'Progress', bar: Any
) -> AsyncIterator[Mapping[str, Any]]:
    async for task in tasks:
        yield task
        progress.advance(bar)


async def _finish(settings: Settings, sources: Sources, reader: 'Reader', target: 'Target | None') -> None:
    reader.max_pixels = settings.max_image_pixels

    async def labelled() -> AsyncIterator['Labelled']:
        for tasks, config, choice in sources:
            async for one in reader.read(tasks, config, choice):
                yield one

    if target is None:
        await _send(settings, labelled(), reader)
    else:
        await _write(labelled(), reader, target)


async def _write(labelled: AsyncIterator['Labelled'], reader: 'Reader', target: 'Target') -> None:
    from dataclasses import replace

    from detector.label_studio.workflows.exports import write

    reader.wants_images = target.has_images
    with tempfile.TemporaryDirectory(prefix='wholebody-') as scratch:
        found = []
        async for one in labelled:
            if one.content is not None:
                (Path(scratch) / str(one.task.task_id)).write_bytes(one.content)
            found.append(replace(one, content=None))
        images = write(target, found, lambda task_id: (Path(scratch) / str(task_id)).read_bytes(), reader.warn)
    persons = sum(len(image.persons) for image in images)
    print(f'{target.path}: {counted(len(images), "image")}, {counted(persons, "person")}')
    _print_left_out(reader.left_out)


async def _send(settings: Settings, labelled: AsyncIterator['Labelled'], reader: 'Reader') -> None:
    from detector.errors import LoopFault
    from detector.label_studio.workflows.loop_export import opened

    reader.wants_images = True
    with opened(settings, reader.warn) as loop:
        reader.skip = loop.is_known
        await loop.outbox.start()
        try:
            await loop.send(labelled)
        finally:
            await loop.outbox.close()
        print(f'{settings.loop_url}: {counted(loop.sent, "image")}, {counted(loop.persons, "person")}')
        _print_left_out(reader.left_out + Counter({'sent before': loop.known}))
        if loop.refused:
            raise LoopFault(f'the Learning Loop has refused {counted(loop.refused, "image")}; they are set aside')


def import_labels(
    labels: Annotated[Path, typer.Argument(help='A COCO or JSON file, or the folder of a YOLO dataset.', exists=True)],
    project: ProjectOption,
    kind: Annotated[ImportKind, typer.Option('--as', help='What they become.')] = ImportKind.PREDICTIONS,
    form: Annotated[
        ImportFormat | None, typer.Option('--format', help='Of the labels.', show_default='as the file shows')
    ] = None,
    images: Annotated[
        Path | None,
        typer.Option(
            help='Make tasks of images that the project lacks, from this folder.', exists=True, file_okay=False
        ),
    ] = None,
    model_version: Annotated[str, typer.Option(help='Of the predictions.')] = 'imported',
    force: Annotated[
        bool,
        typer.Option('--force', help='Replace predictions of this version; add annotations to tasks that have some.'),
    ] = False,
) -> None:
    """Import a dataset's labels into a project, for the tasks that show its images.

    Tasks are found by the hash of the image file (of --images), or by its name; where that is not clear, the image is
    reported and left out, and the exit status is 1. Repeating it changes nothing.
    """
    from detector.label_studio.server.project import Project
    from detector.label_studio.workflows.label_imports import Importer, read_labels

    dataset = read_labels(labels, None if form is None else form.value)
    version = model_version if kind is ImportKind.PREDICTIONS else None
    with progress_bar() as progress:
        bar = progress.add_task(labels.name, total=len(dataset))
        warn = _warn(progress)

        async def work(target: Project) -> Importer:
            importer = Importer(
                project=target,
                model_version=version,
                folder=images,
                force=force,
                warn=warn,
                advance=lambda count: progress.advance(bar, count),
            )
            await importer.run(dataset)
            return importer

        counts = in_project(load_settings(), project, work).counts
    done, persons, new = (counts.pop(name, 0) for name in ('imported', 'persons', 'new tasks'))
    extra = f', {counted(new, "new task")}' if new else ''
    print(f'{counted(done, "image")} with {counted(persons, "person")} as {kind.value}{extra}')
    _print_left_out(counts)
    raise typer.Exit(1 if any(count for reason, count in counts.items() if reason != 'labelled already') else 0)


# ---------------------------------------------------------------- what both show


class _warn:
    """Prints a line above the progress bar."""

    def __init__(self, progress: 'Progress') -> None:
        self._console = progress.console

    def __call__(self, line: str) -> None:
        self._console.print(line, markup=False, highlight=False, soft_wrap=True)


def _print_left_out(counts: Counter[str]) -> None:
    parts = [f'{count} {reason}' for reason, count in sorted(counts.items()) if count]
    if parts:
        print(f'left out: {", ".join(parts)}')
