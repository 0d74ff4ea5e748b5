"""`wholebody labelstudio import-labels`: import the labels of a dataset into a project."""

from collections import Counter
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Literal

import typer

from detector.cli.common import load_settings, progress_bar
from detector.wording import counted

from .common import ProjectOption, in_project, line_printer, print_left_out

if TYPE_CHECKING:
    from detector.label_studio.server.project import Project


Format = Literal['coco', 'yolo-pose', 'json']


def import_labels(
    labels: Annotated[Path, typer.Argument(help='A COCO or JSON file, or the folder of a YOLO dataset.', exists=True)],
    project: ProjectOption,
    kind: Annotated[
        Literal['predictions', 'annotations'], typer.Option('--as', help='What the labels become.')
    ] = 'predictions',
    form: Annotated[
        Format | None, typer.Option('--format', help='Format of the labels.', show_default='recognized from the file')
    ] = None,
    images: Annotated[
        Path | None,
        typer.Option(
            help='Folder with image files. Images that the project lacks become tasks.', exists=True, file_okay=False
        ),
    ] = None,
    model_version: Annotated[str, typer.Option(help='Model version of the predictions.')] = 'imported',
    force: Annotated[
        bool,
        typer.Option(
            '--force', help='Replace predictions of this version; add annotations to tasks that already have some.'
        ),
    ] = False,
) -> None:
    """Import the labels of a dataset into the project tasks that show its images.

    The command finds the task of an image by the hash of its file in --images, or by the file name. If several tasks
    fit or none does, it reports the image, leaves it out and ends with exit status 1. A second run changes nothing.
    """
    version = model_version if kind == 'predictions' else None
    counts = _import(labels, project, form, version, images, force)
    done, persons, new = (counts.pop(name, 0) for name in ('imported', 'persons', 'new tasks'))
    extra = f', {counted(new, "new task")}' if new else ''
    print(f'{counted(done, "image")} with {counted(persons, "person")} as {kind}{extra}')
    print_left_out(counts)
    raise typer.Exit(1 if any(count for reason, count in counts.items() if reason != 'labelled already') else 0)


def _import(
    labels: Path, project: str, form: Format | None, version: str | None, images: Path | None, force: bool
) -> Counter[str]:
    """Import the labels and return counts by outcome.

    :param version: model version of predictions, None for annotations.
    """
    from detector.label_studio.workflows.label_imports import Importer, read_labels

    dataset = read_labels(labels, form)
    with progress_bar() as progress:
        bar = progress.add_task(labels.name, total=len(dataset))

        async def work(target: 'Project') -> Counter[str]:
            importer = Importer(
                project=target,
                model_version=version,
                folder=images,
                force=force,
                warn=line_printer(progress),
                advance=lambda count: progress.advance(bar, count),
            )
            await importer.run(dataset)
            return importer.counts

        return in_project(load_settings(), project, work)
