"""`wholebody labelstudio export`: export labels from Label Studio as a dataset."""

import asyncio
import sys
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Literal

import typer

from detector.cli.common import load_settings
from detector.wording import counted

from .common import ConfigOption, FileArgument, ProjectsOption, check_source, end_with, in_words, print_passed_over

if TYPE_CHECKING:
    from collections.abc import AsyncIterator

    from detector.label_studio.workflows.exports import Labelled, Reader, Target


FormatOption = Annotated[
    Literal['coco-wholebody', 'yolo-pose', 'fiftyone', 'json', 'loop'],
    typer.Option(
        '--format', help='Format of the dataset. json is our own and loses nothing; for loop, use send-to-loop.'
    ),
]
OutputOption = Annotated[Path | None, typer.Option('--output', '-o', help='New folder, or new NAME.json (COCO, json).')]
PredictionsFlag = Annotated[bool, typer.Option('--predictions', help='Export predictions instead of annotations.')]
VersionOption = Annotated[str | None, typer.Option(help='Version of the predictions.', show_default='the newest')]
ValOption = Annotated[
    float | None,
    typer.Option(
        help='Share of the images to use for validation; a hash of the file name decides.',
        min=0,
        max=1,
        show_default='0.1 for yolo-pose, otherwise no split',
    ),
]
ImagesFlag = Annotated[bool, typer.Option('--images', help='Write the image files too.')]
FlatFlag = Annotated[bool, typer.Option('--flat', help='Write all 133 keypoints of coco-wholebody in one field.')]
AllFlag = Annotated[bool, typer.Option('--all', help='Include tasks without labels, as images without persons.')]


def export(
    file: FileArgument = None,
    project: ProjectsOption = None,
    form: FormatOption = 'coco-wholebody',
    output: OutputOption = None,
    config: ConfigOption = None,
    predictions: PredictionsFlag = False,
    model_version: VersionOption = None,
    val: ValOption = None,
    images: ImagesFlag = False,
    flat: FlatFlag = False,
    everything: AllFlag = False,
) -> None:
    """Write the labels of projects or of an export file as a dataset.

    If a task has several annotations, the one that was changed last counts; skipped annotations never count. The
    command reports labels that it cannot export, exports the rest and ends with exit status 1.
    """
    if form == 'loop':
        print('error: --format loop has become a command: wholebody labelstudio send-to-loop', file=sys.stderr)
        raise typer.Exit(2)
    check_source(file, project, config)
    if output is None:
        raise typer.BadParameter('name the folder or file to write with --output')
    if model_version is not None and not predictions:
        raise typer.BadParameter('--model-version needs --predictions')

    from detector.label_studio.labels.task_labels import Choice
    from detector.label_studio.workflows.exports import Target

    from .reading import opened

    target = Target(kind=form, path=output, val_share=val, has_images=images, flat=flat)
    target.prepare()
    choice = Choice(predictions=predictions, model_version=model_version)

    async def run() -> None:
        labels = opened(
            load_settings(), file=file, config=config, projects=project or (), choice=choice, everything=everything
        )
        async with labels as (reader, labelled):
            await _write(labelled, reader, target)

    asyncio.run(run())


async def _write(labelled: 'AsyncIterator[Labelled]', reader: 'Reader', target: 'Target') -> None:
    from detector.datasets.person import counts_of
    from detector.label_studio.workflows.exports import write
    from detector.system.scratch import scratch_folder

    reader.wants_images = target.has_images
    with scratch_folder() as scratch:
        found = []
        async for one in labelled:
            if one.content is not None:
                (scratch / str(one.task.task_id)).write_bytes(one.content)
            found.append(replace(one, content=None))
        images = write(
            target, found, lambda task_id: (scratch / str(task_id)).read_bytes(), reader.omissions, reader.warn
        )
    counts = counts_of(person for image in images for person in image.persons)
    print(f'{target.path}: {counted(len(images), "image")}, {in_words(counts)}')
    print_passed_over({'not labelled': reader.not_labelled})
    end_with(reader.omissions)
