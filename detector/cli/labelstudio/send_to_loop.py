"""`wholebody labelstudio send-to-loop`: annotations of Label Studio, with their images, to the Learning Loop."""

import asyncio
from collections import Counter
from typing import TYPE_CHECKING

from detector.cli.common import load_settings
from detector.errors import LoopFault
from detector.wording import counted

from .common import ConfigOption, FileArgument, ProjectsOption, check_source, print_left_out

if TYPE_CHECKING:
    from collections.abc import AsyncIterator

    from detector.label_studio.workflows.exports import Labelled, Reader
    from detector.settings import Settings


def send_to_loop(
    file: FileArgument = None,
    project: ProjectsOption = None,
    config: ConfigOption = None,
) -> None:
    """Send the annotations of projects or of an export file, with their images, to the Learning Loop.

    Each version of an annotation is sent once. If a task has several annotations, the one that was changed last
    counts; skipped annotations never count. The command reports annotations that it cannot send, and sends the rest.
    """
    check_source(file, project, config)
    from detector.label_studio.labels.task_labels import Choice

    from .reading import opened

    settings = load_settings()

    async def run() -> None:
        labels = opened(settings, file=file, config=config, projects=project or (), choice=Choice())
        async with labels as (reader, labelled):
            await _send(settings, labelled, reader)

    asyncio.run(run())


async def _send(settings: 'Settings', labelled: 'AsyncIterator[Labelled]', reader: 'Reader') -> None:
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
        print_left_out(reader.left_out + Counter({'sent before': loop.known}))
        if loop.refused:
            raise LoopFault(f'the Learning Loop has refused {counted(loop.refused, "image")}; they are set aside')
