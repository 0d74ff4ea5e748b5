"""`wholebody labelstudio import-labels`: import the labels of a dataset into a project."""

from collections import Counter
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Literal

import typer

from detector.cli.common import load_settings, progress_bar
from detector.wording import counted

from .common import ProjectOption, end_with, in_project, line_printer, print_passed_over

if TYPE_CHECKING:
    from rich.progress import Progress

    from detector.datasets.omissions import Omissions
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
    ignored: Annotated[
        list[str] | None,
        typer.Option('--ignore-class', help='Class of objects other than persons to leave out without a report.'),
    ] = None,
) -> None:
    """Import the labels of a dataset into the project tasks that show its images.

    The command finds the task of an image by the hash of its file in --images, or by the file name. What cannot be
    read or is not clear is left out with a line that names file, field and value, and the exit status is 1. An image is
    left out as a whole if one of its persons cannot be imported. A second run changes nothing.
    """
    from detector.datasets.omissions import Omissions

    version = model_version if kind == 'predictions' else None
    with progress_bar() as progress:
        omissions = Omissions(line_printer(progress), expected=ignored or ())
        counts = _import(labels, project, form, version, images, force, omissions, progress)
    extra = f', {counted(counts["new tasks"], "new task")}' if counts['new tasks'] else ''
    keypoints = counted(counts['keypoints'], 'keypoint')
    done, persons = counted(counts['imported'], 'image'), counted(counts['persons'], 'person')
    print(f'{done} with {persons} as {kind}{extra}; {keypoints}')
    print_passed_over({'labelled already': counts['labelled already']})
    end_with(omissions)


def _import(
    labels: Path,
    project: str,
    form: Format | None,
    version: str | None,
    images: Path | None,
    force: bool,
    omissions: 'Omissions',
    progress: 'Progress',
) -> Counter[str]:
    """Import the labels and return counts by outcome.

    :param version: model version of predictions, None for annotations.
    """
    from detector.datasets.image_folder import ImageFolder
    from detector.label_studio.workflows.label_imports import Importer, read_labels

    settings = load_settings()
    threshold = None if version is None else settings.confidence_threshold
    dataset = read_labels(labels, form, omissions, threshold=threshold, size_of=ImageFolder(images).size)
    bar = progress.add_task(labels.name, total=len(dataset))

    async def work(target: 'Project') -> Counter[str]:
        importer = Importer(
            project=target,
            model_version=version,
            folder=images,
            force=force,
            omissions=omissions,
            advance=lambda count: progress.advance(bar, count),
        )
        await importer.run(dataset)
        return importer.counts

    return in_project(settings, project, work)
