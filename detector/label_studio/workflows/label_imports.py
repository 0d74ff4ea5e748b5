"""Import datasets (COCO, YOLO-pose, own JSON) into a project as predictions or annotations."""

import asyncio
import json
from collections import Counter
from collections.abc import Awaitable, Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Final, Literal, TypeVar, Unpack

import numpy as np

from detector.datasets.coco import read_coco
from detector.datasets.fields import read_json
from detector.datasets.image_folder import ImageFolder, upright_size
from detector.datasets.labelled_image import LabelledImage, Options
from detector.datasets.omissions import Omissions
from detector.datasets.person import Person
from detector.datasets.poses_json import FORMAT, read_poses_json
from detector.datasets.yolo import read_yolo
from detector.errors import InvalidRequest, LabelStudioFault, NotInLabelStudio
from detector.label_studio.labels.config import LabelingConfig, parse
from detector.label_studio.labels.regions import from_results, to_results
from detector.label_studio.labels.task_labels import with_kept
from detector.label_studio.labels.tasks import address_of
from detector.label_studio.labels.values import Region
from detector.label_studio.server.project import Project
from detector.models.package import file_sha256

from .task_matching import match

Kind = Literal['coco', 'yolo-pose', 'json']
Json = dict[str, Any]
Pair = tuple[LabelledImage, Mapping[str, Any]]
"""An image with its task or its prediction."""

T = TypeVar('T')

_BATCH_BYTES: Final = 8 * 1024**2
_BATCH_ITEMS: Final = 100
_AT_A_TIME: Final = 4
"""Number of concurrent requests; Label Studio's database handles one at a time anyway."""
_OUTSIDE: Final = 0.01
"""Distance outside the image, in shares of its sides, beyond which a keypoint is not a rounding error."""


@dataclass(slots=True, kw_only=True)
class Importer:
    """Imports labels into a project; importing them again changes nothing.

    :param model_version: version of the predictions, without commas; None: import annotations.
    :param folder: folder of images to create tasks from if the project lacks them; None: create no tasks.
    :param force: True to replace predictions of the same model version and add annotations to annotated tasks.
    :param omissions: receives what is left out.
    :param advance: called with the number of images done.
    :param counts: number of images by what happened to them.
    """

    project: Project
    model_version: str | None
    folder: Path | None = None
    force: bool = False
    omissions: Omissions
    advance: Callable[[int], None] = lambda _: None
    counts: Counter[str] = field(default_factory=Counter)

    async def run(self, images: Sequence[LabelledImage]) -> None:
        """Import the labels of images.

        :raises WholebodyError: Label Studio does not answer or refuses a request, or the labeling config offers no
            pose.
        """
        if self.model_version is not None and (',' in self.model_version or not self.model_version.strip()):
            raise InvalidRequest('the model version must be a name without commas')
        config = parse(await self.project.label_config())
        pairs = await self._tasks_of(images, config)
        has_labels = await self._labelled_tasks(pairs)
        todo = []
        for image, task in pairs:
            if task['id'] in has_labels and not self.force:
                self.counts['labelled already'] += 1
                self.advance(1)
            else:
                todo.append((image, task))
        await _each(todo, self._note_fields)
        if self.model_version is None:
            await _each(todo, lambda pair: self._annotate(*pair, config))
        else:
            await self._predict(todo, config, has_labels)

    async def _labelled_tasks(self, pairs: Sequence[Pair]) -> set[int]:
        if self.model_version is not None:
            return await self.project.tasks_with(self.model_version)
        return {task['id'] for _, task in pairs if task.get('total_annotations')}

    async def _tasks_of(self, images: Sequence[LabelledImage], config: LabelingConfig) -> list[Pair]:
        files = await asyncio.to_thread(files_of, images, self.folder, self.omissions)
        tasks = [task async for task in self.project.tasks()]
        digests = await asyncio.to_thread(lambda: {image_id: file_sha256(path) for image_id, path in files.items()})
        matches = match(images, tasks, config.image_key, digests)
        for image, why in matches.ambiguous:
            self._report(image, 'with an ambiguous task', why)
        pairs, new = matches.found, []
        for image in matches.missing:
            if image.id in files:
                new.append((image, files[image.id]))
            else:
                self._report(image, 'without a task', 'the project has no image with this name')
        last = max((int(task['id']) for task in tasks), default=0)
        for batch in batches(new, lambda pair: pair[1].stat().st_size):
            made = await self._upload(batch, digests, config.image_key, last)
            last = max(int(task['id']) for _, task in made)
            pairs += made
        return pairs

    async def _upload(
        self, batch: Sequence[tuple[LabelledImage, Path]], digests: Mapping[int, str], image_key: str, after: int
    ) -> list[Pair]:
        """Create tasks with their `meta` in the same request, so that the run after a killed one finds them."""
        contents = await asyncio.to_thread(lambda: [(path.name, path.read_bytes()) for _, path in batch])
        uploads = await self.project.upload_files(contents)
        tasks: list[Json] = [
            {
                'data': {image_key: address},
                'meta': with_kept({'sha256': digests[image.id]}, image),
                'file_upload_id': upload_id,
            }
            for (image, _), (upload_id, address) in zip(batch, uploads, strict=True)
        ]
        await self.project.import_tasks(tasks)
        task_ids = await self._created(after, image_key)
        missing = sum(task['data'][image_key] not in task_ids for task in tasks)
        if missing:
            raise LabelStudioFault(f'Label Studio has not created tasks for {missing} of {len(batch)} images')
        self.counts['new tasks'] += len(batch)
        return [
            (image, task | {'id': task_ids[task['data'][image_key]]})
            for (image, _), task in zip(batch, tasks, strict=True)
        ]

    async def _created(self, after: int, image_key: str) -> dict[str, int]:
        """Return the ids of newer tasks by address, and delete those that a busy Label Studio has created twice."""
        found: dict[str, int] = {}
        surplus: list[int] = []
        async for task in self.project.tasks(after=after):
            address = str(address_of(task, image_key))
            if '/data/upload/' in address and found.setdefault(address, task['id']) != task['id']:
                surplus.append(task['id'])
        if surplus:
            await self.project.delete_tasks(surplus)
        return found

    async def _note_fields(self, pair: Pair) -> None:
        """Note the dataset's fields about the image in the task's `meta`."""
        image, task = pair
        meta = with_kept(task.get('meta'), image)
        if meta != task.get('meta'):
            await self.project.change_task(task['id'], meta=meta)

    def _regions(self, image: LabelledImage, config: LabelingConfig) -> list[Region]:
        """Return the regions of an image.

        :raises InvalidRequest: a person would be lost, so that the image would teach that nobody is there.
        """
        _check_boxes(image)
        results = to_results(image.persons, config, image.size)
        again = from_results(results, config, image.size)
        if len(again) < len(image.persons):
            raise InvalidRequest(
                f'{image.file_name} is not imported: the labeling config offers neither a box nor keypoints for '
                f'{len(image.persons) - len(again)} of its {len(image.persons)} persons'
            )
        lost = _labelled(image.persons) - _labelled(again)
        if lost:
            line = f'{image.file_name}: {lost} keypoints are left out, since the labeling config does not offer them'
            self.omissions.add('keypoint', line, lost)
        outside = _outside(image)
        if outside:
            line = f'{image.file_name}: {outside} keypoints outside the image are moved to its border'
            self.omissions.add('place outside the image', f'{line}: is its size {image.width}×{image.height}?', outside)
        self.counts['persons'] += len(again)
        self.counts['keypoints'] += _labelled(again)
        return results

    async def _annotate(self, image: LabelledImage, task: Mapping[str, Any], config: LabelingConfig) -> None:
        for results in self.omissions.each('image', [(image, config)], self._regions):
            try:
                await self.project.annotate(task['id'], results)
            except (InvalidRequest, NotInLabelStudio) as error:
                self._report(image, 'refused by Label Studio', str(error))
            else:
                self.counts['imported'] += 1
        self.advance(1)

    async def _predict(self, pairs: Sequence[Pair], config: LabelingConfig, has_labels: set[int]) -> None:
        predictions = (
            (image, self._prediction(image, task, results))
            for image, task in pairs
            for results in self.omissions.each('image', [(image, config)], self._regions)
        )
        for batch in batches(predictions, lambda pair: len(json.dumps(pair[1]))):
            await self._store(batch, has_labels)
            self.advance(len(batch))
        if pairs:
            assert self.model_version is not None
            await self.project.remove_surplus(self.model_version)

    async def _store(self, batch: Sequence[Pair], has_labels: set[int]) -> None:
        """Store predictions; if Label Studio refuses them, store halves, until the one that it refuses is found."""
        sent = [dict(prediction) for _, prediction in batch]
        old = [await self._predictions(one['task']) if one['task'] in has_labels else [] for one in sent]
        try:
            created = await self.project.import_predictions(sent)
        except InvalidRequest as error:
            if len(batch) == 1:
                self._report(batch[0][0], 'refused by Label Studio', str(error))
                return
            for half in (batch[: len(batch) // 2], batch[len(batch) // 2 :]):
                await self._store(half, has_labels)
            return
        stored = created if created == len(sent) else await self._name_dropped(batch, old)
        for prediction_id in (number for numbers in old for number in numbers):
            await self.project.delete_prediction(prediction_id)
        self.counts['imported'] += stored

    def _prediction(self, image: LabelledImage, task: Mapping[str, Any], results: Sequence[Region]) -> Json:
        scores = [person.scores[person.labelled] for person in image.persons]
        known = np.concatenate([[], *scores])
        known = known[np.isfinite(known)]
        score = round(float(known.mean().clip(0, 1)), 4) if len(known) else None
        return {'task': task['id'], 'result': list(results), 'score': score, 'model_version': self.model_version}

    async def _predictions(self, task_id: int) -> list[int]:
        found = await self.project.predictions(task_id)
        return [int(one['id']) for one in found if one.get('model_version') == self.model_version]

    async def _name_dropped(self, batch: Sequence[Pair], old: Sequence[Sequence[int]]) -> int:
        """Warn about predictions that Label Studio has silently dropped as invalid.

        :return: the number of stored predictions.
        """
        stored = 0
        for (image, prediction), before in zip(batch, old, strict=True):
            if set(await self._predictions(prediction['task'])) - set(before):
                stored += 1
            else:
                self._report(image, 'refused by Label Studio', f'task {prediction["task"]}')
        return stored

    def _report(self, image: LabelledImage, reason: str, detail: str) -> None:
        self.omissions.add(f'image {reason}', f'{image.file_name} is not imported, {reason}: {detail}')
        self.advance(0 if reason.startswith('refused') else 1)


def _labelled(persons: Iterable[Person]) -> int:
    return sum(int(person.labelled.sum()) for person in persons)


def guess(path: Path) -> Kind:
    """Return the format of a file or folder.

    :raises InvalidRequest: the file cannot be read or its format is unclear.
    """
    if path.is_dir() or path.suffix.lower() in ('.yaml', '.yml'):
        return 'yolo-pose'
    content = read_json(path)
    if isinstance(content, dict) and content.get('format') == FORMAT:
        return 'json'
    if isinstance(content, dict) and 'annotations' in content and 'images' in content:
        return 'coco'
    raise InvalidRequest(f'{path}: the format is neither COCO nor {FORMAT}; name it with --format')


def read_labels(
    path: Path, kind: Kind | None, omissions: Omissions | None = None, **options: Unpack[Options]
) -> list[LabelledImage]:
    """Return the images and persons of a dataset.

    :param kind: format; None: see `guess`.
    :param omissions: receives what is left out; None: raise it.
    :raises InvalidRequest: the dataset cannot be read; the message names file and field.
    """
    readers = {'coco': read_coco, 'yolo-pose': read_yolo, 'json': read_poses_json}
    return readers[kind or guess(path)](path, omissions, **options)


def files_of(images: Sequence[LabelledImage], folder: Path | None, omissions: Omissions) -> dict[int, Path]:
    """Return the image files in a folder by image id: at the path of their name, or anywhere below if unambiguous.

    :param omissions: receives files that are ambiguous, not images, or of another size than their labels.
    """
    files = ImageFolder(folder)
    found: dict[int, Path] = {}
    for image in images:
        candidates = files.find(image.file_name)
        if len(candidates) > 1:
            line = f'{image.file_name} is ambiguous: {candidates[0]} or {candidates[1]}'
            omissions.add('file of an image', line)
        for path in candidates if len(candidates) == 1 else ():
            for size in omissions.each('file of an image', [(path,)], upright_size):
                found[image.id] = path
                if size != image.size:
                    line = f'{path} has {size[0]}×{size[1]} pixels; the labels are for {image.width}×{image.height}'
                    omissions.add('size of an image', line)
    return found


def _check_boxes(image: LabelledImage) -> None:
    """:raises InvalidRequest: the box of a person lies outside the image."""
    for person in image.persons:
        box = person.box
        if box is not None and (np.minimum(box[2:], image.size) <= np.maximum(box[:2], 0)).any():
            raise InvalidRequest(
                f'{image.file_name} is not imported: a box {", ".join(f"{side:g}" for side in box)} lies outside the '
                f'image of {image.width}×{image.height} pixels'
            )


def _outside(image: LabelledImage) -> int:
    """Return the number of labelled keypoints outside the image."""
    limits = np.array(image.size)
    beyond = [
        ((person.keypoints < -_OUTSIDE * limits) | (person.keypoints > (1 + _OUTSIDE) * limits)).any(axis=1)
        for person in image.persons
    ]
    return sum(int((outside & person.labelled).sum()) for outside, person in zip(beyond, image.persons, strict=True))


def batches(items: Iterable[T], size_of: Callable[[T], int]) -> Iterator[list[T]]:
    """Yield groups within the limits of items and bytes; a larger item has a group of its own."""
    batch: list[T] = []
    total = 0
    for item in items:
        size = size_of(item)
        if batch and (total + size > _BATCH_BYTES or len(batch) == _BATCH_ITEMS):
            yield batch
            batch, total = [], 0
        batch.append(item)
        total += size
    if batch:
        yield batch


async def _each(items: Sequence[T], work: Callable[[T], Awaitable[None]]) -> None:
    for start in range(0, len(items), _AT_A_TIME):
        await asyncio.gather(*(work(item) for item in items[start : start + _AT_A_TIME]))
