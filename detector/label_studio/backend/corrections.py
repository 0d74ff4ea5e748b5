"""Send annotations from Label Studio with their images to the Learning Loop.

A webhook is only a hint that an annotation may be new, since any client can call it. The ids in it are queued on disk.
Annotation, task and project are then read from Label Studio, and each version of an annotation is sent once. Those that
no webhook has named are queued by `project_watch`.
"""

import asyncio
import logging
import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from contextlib import suppress
from functools import partial
from typing import Any, Final

import numpy as np
from defusedxml.ElementTree import fromstring
from learning_loop_node.data_classes import ImageMetadata
from learning_loop_node.data_classes.annotations import BoxAnnotation, PointAnnotation

from detector.datasets.person import Person
from detector.errors import (
    InvalidImage,
    InvalidRequest,
    LabelStudioFault,
    MediaFault,
    ModelUnavailable,
    NotInLabelStudio,
    OutboxFault,
)
from detector.label_studio.labels.config import parse
from detector.label_studio.labels.regions import read_results
from detector.label_studio.labels.tasks import address_of, results_of
from detector.label_studio.server.client import Connection
from detector.label_studio.server.media import TaskImages
from detector.outbox.outbox import Outbox
from detector.pose import images
from detector.pose.skeleton import KEYPOINT_NAMES, PERSON

from .correction_queue import MAX_PAUSE_SECONDS, CorrectionQueue, Hint

log = logging.getLogger('wholebody.label_studio')

TAG: Final = 'label_studio'
_ACTIONS: Final = ('ANNOTATION_CREATED', 'ANNOTATION_UPDATED', 'ANNOTATIONS_CREATED', 'ANNOTATIONS_UPDATED')
_MAX_HINTS: Final = 100_000
"""Maximum number of annotations taken from one call, so that a forged one cannot fill the disk."""
_IDLE_SECONDS: Final = 3600.0
_MAX_DUE: Final = 50
"""Number of annotations that are due from which missed ones wait, so that those of webhooks come first."""
_DUE_SECONDS: Final = 1.0
"""Interval for counting the annotations that are due, in seconds."""
_FATE: Final = {True: 'is given up', False: 'is tried again later'}


def hints_in(body: Mapping[str, Any]) -> list[Hint]:
    """Return the annotations that a webhook names; empty if it is about something else."""
    if body.get('action') not in _ACTIONS:
        return []
    found = body.get('annotation', body.get('annotations'))
    project = _id_of(body.get('project'))
    ids = map(_id_of, (found if isinstance(found, list) else [found])[:_MAX_HINTS])
    return [Hint(annotation=number, project=project) for number in ids if number is not None and project is not None]


def _id_of(item: object) -> int | None:
    return _id(item.get('id')) if isinstance(item, Mapping) else None


def _id(value: object) -> int | None:
    return value if type(value) is int and 0 < value < 2**63 else None


class Corrections:
    """Works through the queue in the background.

    :param category_ids: returns the category ids of the active model by name, or raises ModelUnavailable.
    """

    def __init__(
        self,
        queue: CorrectionQueue,
        connection: Connection,
        source: TaskImages,
        outbox: Outbox,
        *,
        category_ids: Callable[[], Mapping[str, str]],
        max_pixels: int,
    ) -> None:
        self._queue = queue
        self._connection = connection
        self._source = source
        self._outbox = outbox
        self._category_ids = category_ids
        self._max_pixels = max_pixels
        self._news = asyncio.Event()
        self._task: asyncio.Task[None] | None = None

    def start(self) -> None:
        self._task = asyncio.create_task(self._work())

    async def close(self) -> None:
        """Stop; the remaining annotations are handled after the next start."""
        if self._task is not None:
            self._task.cancel()
            await asyncio.gather(self._task, return_exceptions=True)
        await asyncio.to_thread(self._queue.close)

    async def enqueue(self, body: Mapping[str, Any]) -> int:
        """Queue the annotations that a webhook names.

        :return: the number of annotations.
        """
        hints = hints_in(body)
        if hints:
            await asyncio.to_thread(self._queue.add, hints, time.time())
            self._news.set()
        return len(hints)

    async def catch_up(self, found: Sequence[tuple[Hint, str]]) -> int:
        """Queue annotations with these versions, unless they wait or were handled. Webhooks have priority.

        :return: the number of queued annotations.
        :raises OSError: the queue cannot be written.
        """
        while await asyncio.to_thread(self._queue.due, time.time()) >= _MAX_DUE:
            await asyncio.sleep(_DUE_SECONDS)
        missed = await asyncio.to_thread(self._queue.add_missed, found, time.time())
        if missed:
            self._news.set()
        return missed

    def about(self) -> dict[str, Any]:
        """Return how many annotations wait, and were sent, given up or missed since the queue was created; or the
        error."""
        try:
            return dict(self._queue.about())
        except OSError as error:
            return {'error': str(error)}

    async def _work(self) -> None:
        while True:
            self._news.clear()
            try:
                hint, due = await asyncio.to_thread(self._queue.next)
                seconds = due - time.time() if hint is not None else _IDLE_SECONDS
                # pauses are never longer; a time further ahead means that the clock was set back
                if hint is not None and not 0 < seconds <= MAX_PAUSE_SECONDS:
                    await self._handle(hint)
                    continue
            except OSError as error:
                log.error('corrections are handled later, since their queue fails: %s', error)
                seconds = 10
            with suppress(TimeoutError):
                await asyncio.wait_for(self._news.wait(), min(seconds, _IDLE_SECONDS))

    async def _handle(self, hint: Hint) -> None:
        version: str | None = None
        try:
            annotation = await self._connection.annotation(hint.annotation)
            version = str(annotation.get('updated_at') or annotation.get('created_at'))
            sent = await self._send(hint, annotation, version)
        except (NotInLabelStudio, InvalidRequest, InvalidImage) as error:
            log.warning('annotation %d of project %d is not sent: %s', hint.annotation, hint.project, error)
            await asyncio.to_thread(self._queue.give_up, hint, version)
        except MediaFault as error:
            gone = await asyncio.to_thread(self._queue.postpone, hint, time.time(), limited=True, version=version)
            log.warning('annotation %d %s: %s', hint.annotation, _FATE[gone], error)
        except (LabelStudioFault, ModelUnavailable, OutboxFault) as error:
            await asyncio.to_thread(self._queue.postpone, hint, time.time(), limited=False)
            log.warning('annotation %d is tried again later: %s', hint.annotation, error)
        except Exception:
            gone = await asyncio.to_thread(self._queue.postpone, hint, time.time(), limited=True, version=version)
            log.exception('annotation %d failed inside the node, and %s', hint.annotation, _FATE[gone])
        else:
            await asyncio.to_thread(self._queue.finish, hint, version if sent else None)

    async def _send(self, hint: Hint, annotation: Mapping[str, Any], version: str) -> bool:
        """Put an annotation with its image into the outbox.

        :return: True if there was something to send.
        :raises InvalidRequest: the annotation does not belong to its project, or its regions cannot be read.
        """
        if annotation.get('was_cancelled') or await asyncio.to_thread(self._queue.was_sent, hint, version):
            return False
        task_id = _id(annotation.get('task'))
        if task_id is None:
            raise InvalidRequest('it names no task')
        task = await self._connection.task(task_id)
        if task.get('project') != hint.project:
            raise InvalidRequest(f'it belongs to project {task.get("project")}')
        label_config = str((await self._connection.project(hint.project)).get('label_config'))
        config = parse(label_config)
        received = await self._source.fetch(address_of(task, config.image_key), task_id=task_id)
        image = await self._outbox.run(partial(images.decode_image, received, max_pixels=self._max_pixels))
        results = results_of(annotation)
        reading = read_results(results, config, (image.shape[1], image.shape[0]))
        if reading.is_lost:
            raise InvalidRequest(f'none of its persons can be read: task {task_id} has {"; ".join(reading.unread)}')
        if not reading.persons:
            _require_nobody(results, label_config)
        for phrase in reading.unread:
            log.warning('annotation %d is sent without a part: task %d has %s', hint.annotation, task_id, phrase)
        annotator = _id(annotation.get('completed_by'))
        metadata = to_metadata(reading.persons, self._category_ids(), hint, task=task_id, annotator=annotator)
        jpeg = await self._outbox.run(partial(images.as_jpeg, received, image))
        await self._outbox.save(jpeg, metadata)
        return True


def _require_nobody(results: Sequence[Mapping[str, Any]], label_config: str) -> None:
    """Check that regions without a person do not describe persons in a way that the node cannot read.

    Regions of other controls and labels of the config do not: a dog is not a person.

    :raises InvalidRequest: regions are of a control that the config lacks.
    """
    controls = {tag.get('name') for tag in fromstring(label_config, forbid_dtd=True).iter()}
    drawn = {str(region.get('from_name')) for region in results if isinstance(region.get('value'), Mapping)}
    if drawn - controls:
        raise InvalidRequest(
            f'none of its regions can be read as a person: the labeling config has no {_listed(drawn - controls)}; '
            'give the project a config with the controls of its annotations, and submit the annotation again'
        )


def _listed(names: Iterable[str]) -> str:
    return ', '.join(f'{name[:40]!r}' for name in sorted(names))


def to_metadata(
    persons: Sequence[Person], category_ids: Mapping[str, str], hint: Hint, *, task: int, annotator: int | None
) -> ImageMetadata:
    """Return an annotation as the Loop's metadata: boxes, points and their origin.

    :param annotator: id of the user; None: unknown.
    """
    metadata = to_annotations(persons, category_ids)
    metadata.tags = [TAG, f'project_{hint.project}', f'task_{task}']
    metadata.tags += [] if annotator is None else [f'annotator_{annotator}']
    metadata.source = f'Label Studio, annotation {hint.annotation}'
    return metadata


def to_annotations(persons: Sequence[Person], category_ids: Mapping[str, str]) -> ImageMetadata:
    """Return persons as the Loop's annotations, with boxes in whole pixels and the labelled points.

    Points follow the box of their person in the order of the skeleton. A person without a box gets the box around the
    points.
    """
    metadata = ImageMetadata()
    for person in persons:
        labelled = np.flatnonzero(person.labelled).tolist()
        x1, y1, x2, y2 = np.round(np.array(person.extent)).astype(int).tolist()
        metadata.box_annotations.append(
            BoxAnnotation(
                category_name=PERSON, category_id=category_ids[PERSON], x=x1, y=y1, width=x2 - x1, height=y2 - y1
            )
        )
        places = np.round(person.keypoints.astype(np.float64), 2).tolist()
        metadata.point_annotations.extend(
            PointAnnotation(
                category_name=KEYPOINT_NAMES[index],
                category_id=category_ids[KEYPOINT_NAMES[index]],
                x=places[index][0],
                y=places[index][1],
            )
            for index in labelled
        )
    return metadata
