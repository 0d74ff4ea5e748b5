"""`wholebody labelstudio send-to-loop`: send annotations and their images to the Learning Loop."""

import asyncio
from collections.abc import Sequence
from contextlib import AsyncExitStack
from pathlib import Path
from typing import TYPE_CHECKING

from detector.cli.common import load_settings
from detector.wording import counted

from .common import ConfigOption, FileArgument, ProjectsOption, check_source, end_with, in_words, print_passed_over

if TYPE_CHECKING:
    from detector.settings import Settings


def send_to_loop(file: FileArgument = None, project: ProjectsOption = None, config: ConfigOption = None) -> None:
    """Send the annotations of projects or of an export file, with their images, to the Learning Loop.

    Each version of an annotation is sent once. If a task has several annotations, the one that was changed last
    counts; skipped annotations never count. The command reports annotations that it cannot send, sends the rest
    and ends with exit status 1.
    """
    check_source(file, project, config)
    asyncio.run(_send(load_settings(), file, project or (), config))


async def _send(settings: 'Settings', file: Path | None, projects: Sequence[str], config: Path | None) -> None:
    from detector.label_studio.labels.task_labels import Choice
    from detector.label_studio.workflows import loop_export

    from .reading import opened

    async with AsyncExitStack() as stack:
        labels = opened(settings, file=file, config=config, projects=projects, choice=Choice())
        reader, labelled = await stack.enter_async_context(labels)
        loop = stack.enter_context(loop_export.open_export(settings, reader.omissions))
        reader.wants_images, reader.skip = True, loop.passes_over
        await loop.outbox.start()
        try:
            await loop.send(labelled)
        finally:
            await loop.outbox.close()
        print(f'{settings.loop_url}: {counted(loop.sent, "image")}, {in_words(loop.counts)}')
        print_passed_over({'not labelled': reader.not_labelled, 'sent before': loop.known})
        if loop.refused:
            line = f'the Learning Loop has refused {counted(loop.refused, "image")}; they are set aside'
            reader.omissions.add('image refused by the Learning Loop', line, loop.refused)
        end_with(reader.omissions)
