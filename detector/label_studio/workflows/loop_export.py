"""Send annotations with their images to the Learning Loop, each version once, as the node sends corrections.

They go through a separate outbox below DATA_FOLDER, since a running node may use its own. The next run sends what this
one could not. If a run is killed, one annotation may be sent again.
"""

import asyncio
import time
from collections import Counter
from collections.abc import AsyncIterator, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from functools import partial
from typing import Final

from detector.datasets.omissions import Omissions
from detector.datasets.person import counts_of
from detector.errors import InvalidImage, InvalidRequest, LoopFault, ModelUnavailable, NoLearningLoop
from detector.label_studio.backend.correction_queue import CorrectionQueue, Hint
from detector.label_studio.backend.corrections import to_metadata
from detector.label_studio.labels.task_labels import TaskLabels
from detector.models.package import open_package
from detector.models.store import ModelStore
from detector.outbox.outbox import Outbox, open_outbox
from detector.pose import images
from detector.settings import Settings
from detector.system.folder_lock import locked

from .exports import Labelled

_MAX_WAITING: Final = 60
"""Number of images in the outbox above which no more are prepared."""
_PATIENCE_SECONDS: Final = 60.0
"""Time limit in seconds for the next image to arrive while some wait."""
_UPLOAD_SECONDS: Final = 0.5


@dataclass(slots=True, kw_only=True)
class LoopExport:
    """Sends annotations; see `opened`.

    :param sent: number of images that were put into the outbox.
    :param counts: number of persons and keypoints on them, see `counts_of`.
    :param known: number of annotations that were already sent before.
    """

    outbox: Outbox
    queue: CorrectionQueue
    category_ids: Mapping[str, str]
    max_pixels: int
    omissions: Omissions
    sent: int = 0
    counts: Counter[str] = field(default_factory=Counter)
    known: int = 0

    def passes_over(self, task: TaskLabels) -> bool:
        """Return True if the image of a task is not needed: its annotation was already sent, or cannot be sent.

        The one is counted, the other reported.
        """
        for hint in self.omissions.each('task without ids', [(task,)], _hint):
            is_known = self.queue.was_sent(hint, str(task.origin['updated_at']))
            self.known += is_known
            return is_known
        return True

    async def send(self, labelled: AsyncIterator[Labelled]) -> None:
        """Send annotated images, and return when the Loop has received them.

        :param labelled: labelled images with their files, without those that `passes_over` names.
        :raises LoopFault: the Loop accepts nothing; the next run sends the waiting images.
        :raises OutboxFault: the disk is full.
        """
        async for one in labelled:
            try:
                await self._save(one)
            except InvalidImage as error:
                self.omissions.add('task whose image is broken', f'task {one.task.task_id} is left out: {error}')
                continue
            await self._wait(_MAX_WAITING)
        await self._wait(0)

    @property
    def refused(self) -> int:
        """Number of images that the Loop has rejected; the log states the reasons."""
        return self.outbox.queue.counters.set_aside

    async def _save(self, labelled: Labelled) -> None:
        task, content = labelled.task, labelled.content
        assert content is not None
        hint = _hint(task)
        pixels = await asyncio.to_thread(partial(images.decode_image, content, max_pixels=self.max_pixels))
        jpeg = await asyncio.to_thread(images.as_jpeg, content, pixels)
        metadata = to_metadata(
            labelled.image.persons, self.category_ids, hint, task=task.task_id, annotator=task.origin.get('annotator')
        )
        await self.outbox.save(jpeg, metadata)
        await asyncio.to_thread(self.queue.finish, hint, str(task.origin['updated_at']))
        self.sent += 1
        self.counts += counts_of(labelled.image.persons)

    async def _wait(self, most: int) -> None:
        """Wait until at most this many images are in the outbox."""
        queue, since = self.outbox.queue, time.monotonic()
        waiting = queue.count
        while queue.count > most:
            if queue.count < waiting:
                waiting, since = queue.count, time.monotonic()
            elif time.monotonic() - since > _PATIENCE_SECONDS:
                raise LoopFault(
                    f'{waiting} images wait for the Learning Loop: {self.outbox.about()["error"]}; the next run sends '
                    'them'
                )
            await asyncio.sleep(0.05)


@contextmanager
def open_export(settings: Settings, omissions: Omissions) -> Iterator[LoopExport]:
    """Open an export to the Loop of the settings; the caller starts and closes its outbox.

    :raises NoLearningLoop: LOOP_HOST is unset.
    :raises ModelUnavailable: no model is installed to take the Loop's category ids from.
    :raises FolderInUse: another export uses the same DATA_FOLDER.
    """
    folder = settings.data_folder / 'label_studio'
    changes = {'data_folder': folder, 'max_outbox_size': 10**9, 'max_outbox_mib': 10**6}
    if settings.loop_url is None:
        raise NoLearningLoop('The command `send-to-loop`')
    outbox = open_outbox(settings.model_copy(update=changes | {'upload_seconds': _UPLOAD_SECONDS}))
    store = ModelStore(settings.data_folder)
    current = store.current()
    if current is None:
        raise ModelUnavailable(
            f'no model is installed in {settings.data_folder}, but the Loop identifies categories by the ids of its '
            'models: let a node follow the Loop on this DATA_FOLDER, or install a model with `wholebody model`'
        )
    category_ids = open_package(current).category_ids
    with locked(folder / 'export.lock', seconds=0):
        queue = CorrectionQueue(folder / 'corrections.sqlite')
        try:
            yield LoopExport(
                outbox=outbox,
                queue=queue,
                category_ids=category_ids,
                max_pixels=settings.max_image_pixels,
                omissions=omissions,
            )
        finally:
            queue.close()


def _hint(task: TaskLabels) -> Hint:
    """Return the ids by which the export knows which versions it has sent.

    :raises InvalidRequest: an id or the time of the last change is missing.
    """
    annotation, project, changed = (task.origin.get(name) for name in ('annotation', 'project', 'updated_at'))
    if type(annotation) is not int or type(project) is not int or not isinstance(changed, str):
        raise InvalidRequest(
            f'task {task.task_id} is left out: its project is {project!r}, and its annotation has the id '
            f'{annotation!r} and the updated_at {changed!r}, but all are needed; name the project with --project, or '
            'export it again'
        )
    return Hint(annotation=annotation, project=project)
