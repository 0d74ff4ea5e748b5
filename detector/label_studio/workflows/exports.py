"""Export labelled tasks as datasets: COCO-WholeBody, YOLO-pose, FiftyOne and the project's own JSON."""

import asyncio
import io
import itertools
import json
import warnings
from collections import Counter
from collections.abc import AsyncIterator, Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path, PurePosixPath
from typing import Any, Final, Literal

from PIL import ExifTags
from PIL import Image as PillowImage

from detector.datasets.coco import to_coco
from detector.datasets.fiftyone import write_fiftyone
from detector.datasets.labelled_image import LabelledImage, file_names, new_folder, split_of, unique_ids, write_image
from detector.datasets.person import Size
from detector.datasets.poses_json import to_poses_json
from detector.datasets.yolo import write_yolo
from detector.errors import InvalidImage, InvalidRequest, MediaFault
from detector.label_studio.labels.config import LabelingConfig
from detector.label_studio.labels.regions import from_results
from detector.label_studio.labels.task_labels import Choice, TaskLabels, extra_of, read_task, usable
from detector.label_studio.server.media import ImageSource
from detector.pose.images import DEFAULT_MAX_PIXELS, as_jpeg, decode_image

Format = Literal['coco-wholebody', 'yolo-pose', 'fiftyone', 'json']

_AT_A_TIME: Final = 8
"""Number of tasks whose images are fetched together."""
_YOLO_VAL_SHARE: Final = 0.1
"""Default share of validation images in YOLO datasets, since training needs some."""
_ID_STEP: Final = 1_000_000_000
"""Distance between the ids that are tried for an image whose task id is already taken."""
_TURNED: Final = range(2, 9)
"""Values of the EXIF orientation that require a turn or a mirroring."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Labelled:
    """A task as a labelled image with the task's id.

    :param content: the image file with upright pixels; None if it was not requested.
    """

    task: TaskLabels
    image: LabelledImage
    content: bytes | None


@dataclass(slots=True, kw_only=True)
class Reader:
    """Reads tasks as labelled images, warns about unusable labels and counts the tasks left out.

    :param source: source of images; None: images cannot be fetched, not even for their size.
    :param wants_images: True to fetch the image files.
    :param unlabelled: True to include tasks without labels as images without persons.
    :param warn: called with one line per warning.
    :param skip: returns True for a task that is not wanted; called before its image is fetched.
    :param left_out: counts tasks by the reason why they were left out.
    """

    source: ImageSource | None
    wants_images: bool = False
    unlabelled: bool = False
    warn: Callable[[str], None]
    skip: Callable[[TaskLabels], bool] = lambda _: False
    max_pixels: int = DEFAULT_MAX_PIXELS
    left_out: Counter[str] = field(default_factory=Counter)

    async def read(
        self, tasks: AsyncIterator[Mapping[str, Any]], config: LabelingConfig, choice: Choice
    ) -> AsyncIterator[Labelled]:
        """Yield the labelled images of tasks in their order."""
        waiting: list[TaskLabels] = []
        async for task in tasks:
            labels = read_task(task, config, choice)
            if labels.results is None and not self.unlabelled:
                self.left_out['not labelled'] += 1
            elif not self.skip(labels):
                waiting.append(labels)
            if len(waiting) == _AT_A_TIME:
                for labelled in await self._group(waiting, config):
                    yield labelled
                waiting = []
        for labelled in await self._group(waiting, config):
            yield labelled

    async def _group(self, tasks: Sequence[TaskLabels], config: LabelingConfig) -> list[Labelled]:
        found = await asyncio.gather(*(self._labelled(task, config) for task in tasks))
        return [labelled for labelled in found if labelled is not None]

    async def _labelled(self, task: TaskLabels, config: LabelingConfig) -> Labelled | None:
        name, size, content = task.file_name, task.known_size, None
        try:
            if name is None:
                raise _LeftOut('without an image')
            if self.wants_images or size is None:
                content, size = await self._fetch(task)
        except _LeftOut as error:
            reason, *details = error.args
            self.left_out[reason] += 1
            self.warn(': '.join([f'task {task.task_id}, {reason}, is left out', *details]))
            return None
        regions, complaints = usable(task.results or [], config)
        for complaint in complaints:
            self.warn(f'task {task.task_id} has {complaint}')
        image = LabelledImage(
            id=task.task_id,
            file_name=name,
            width=size[0],
            height=size[1],
            persons=from_results(regions, config, size),
            extra=extra_of(task.kept),
        )
        return Labelled(task=task, image=image, content=content if self.wants_images else None)

    async def _fetch(self, task: TaskLabels) -> tuple[bytes, Size]:
        if task.address is None:
            raise _LeftOut('without an image')
        if self.source is None:
            raise _LeftOut('of unknown size')
        try:
            content = await self.source.fetch(task.address, task_id=task.task_id)
            return await asyncio.to_thread(upright, content, self.max_pixels)
        except (MediaFault, InvalidImage) as error:
            raise _LeftOut('whose image cannot be fetched', str(error)) from None


class _LeftOut(Exception):
    """A task cannot be exported; the arguments are the reason and an optional detail."""


def upright(content: bytes, max_pixels: int) -> tuple[bytes, Size]:
    """Return an image file with upright pixels, and its size; a file that is upright already is returned unchanged.

    :raises InvalidImage: the file is not an image or is damaged.
    """
    try:
        with warnings.catch_warnings():
            warnings.simplefilter('ignore', PillowImage.DecompressionBombWarning)  # only the header is read here
            with PillowImage.open(io.BytesIO(content)) as picture:
                size, orientation = picture.size, picture.getexif().get(ExifTags.Base.Orientation)
    except (OSError, ValueError, SyntaxError, PillowImage.DecompressionBombError) as error:
        raise InvalidImage(f'the image is broken: {error}') from error
    if orientation not in _TURNED:
        return content, size
    pixels = decode_image(content, max_pixels=max_pixels)
    return as_jpeg(content, pixels), (pixels.shape[1], pixels.shape[0])


def with_unique_ids(images: Sequence[LabelledImage], kept: Sequence[object]) -> list[LabelledImage]:
    """Restore the ids that images had in their original dataset; other images keep their tasks' ids.

    :param kept: previous id of each image, if any; the first of several images with the same one gets it.
    """
    ids = unique_ids(kept, [itertools.count(image.id, _ID_STEP) for image in images])
    return [replace(image, id=number) for image, number in zip(images, ids, strict=True)]


@dataclass(frozen=True, slots=True, kw_only=True)
class Target:
    """A dataset to be written.

    :param path: a file that ends in .json, or a folder.
    :param val_share: share of the images that are for validation, 0..1; None: the format's default.
    :param has_images: True to write image files, too.
    :param flat: True to put all 133 keypoints into COCO's `keypoints`.
    """

    kind: Format
    path: Path
    val_share: float | None = None
    has_images: bool = False
    flat: bool = False

    @property
    def is_file(self) -> bool:
        return self.kind in ('coco-wholebody', 'json') and self.path.suffix.lower() == '.json'

    def prepare(self) -> None:
        """Create the target folder, or check that the target file does not exist.

        :raises InvalidRequest: the target already exists, or options contradict each other.
        """
        if self.flat and self.kind != 'coco-wholebody':
            raise InvalidRequest(f'--flat is for coco-wholebody, not for {self.kind}')
        if not self.is_file:
            new_folder(self.path)
            return
        if self.has_images or self.val_share is not None:
            raise InvalidRequest(f'{self.path} is a file; with --images or --val, name a folder with -o')
        if self.path.exists() and self.path.stat().st_size:
            raise InvalidRequest(f'{self.path} already exists')
        self.path.parent.mkdir(parents=True, exist_ok=True)


def write(
    target: Target, labelled: Sequence[Labelled], content_of: Callable[[int], bytes], warn: Callable[[str], None]
) -> list[LabelledImage]:
    """Write a dataset.

    :param content_of: returns the image file of a task.
    :param warn: called with one line per warning.
    :return: the images as they were written.
    :raises InvalidRequest: see `Target.prepare`.
    """
    images = with_unique_ids([one.image for one in labelled], [one.task.kept.get('id') for one in labelled])
    by_id = {image.id: one for image, one in zip(images, labelled, strict=True)}

    def image_bytes(image: LabelledImage) -> bytes:
        return content_of(by_id[image.id].task.task_id)

    wanted = image_bytes if target.has_images else None
    match target.kind:
        case 'yolo-pose':
            share = _YOLO_VAL_SHARE if target.val_share is None else target.val_share
            write_yolo(target.path, images, val_share=share, image_bytes=wanted)
            _warn_of_lost(target.path, images, warn)
        case 'fiftyone':
            write_fiftyone(target.path, images, val_share=target.val_share, image_bytes=wanted)
        case 'coco-wholebody' | 'json':
            images = _with_unique_names(images, warn)
            _write_json(target, images, {image.id: _origin(by_id[image.id].task) for image in images})
            for image in images if wanted else ():
                write_image(target.path / 'images' / image.file_name, image_bytes(image))
    return images


def _write_json(
    target: Target, images: Sequence[LabelledImage], origins: Mapping[int, Mapping[str, Any] | None]
) -> None:
    for name, part in _parts(target, images):
        is_coco = target.kind == 'coco-wholebody'
        content = to_coco(part, flat=target.flat) if is_coco else to_poses_json(part, origins)
        path = target.path if target.is_file else target.path / name
        path.write_text(json.dumps(content, ensure_ascii=False, allow_nan=False), encoding='utf-8')


def _origin(task: TaskLabels) -> Mapping[str, Any] | None:
    return None if task.results is None else task.origin


def _parts(target: Target, images: Sequence[LabelledImage]) -> list[tuple[str, list[LabelledImage]]]:
    share = target.val_share
    if share is None:
        return [('labels.json', list(images))]
    return [
        (f'{part}.json', [image for image in images if split_of(image.file_name, share) == part])
        for part in ('train', 'val')
    ]


def _with_unique_names(images: Sequence[LabelledImage], warn: Callable[[str], None]) -> list[LabelledImage]:
    """Return the images unchanged if their file names are distinct paths below one folder; otherwise rename them."""
    names = [image.file_name for image in images]
    are_safe = all(not PurePosixPath(name).is_absolute() and '..' not in name.split('/') for name in names)
    if are_safe and len({name.casefold() for name in names}) == len(names) and not any('\\' in name for name in names):
        return list(images)
    renamed = [
        replace(image, file_name=name) if name != image.file_name else image
        for image, name in zip(images, file_names(images), strict=True)
    ]
    count = sum(image.file_name != name for image, name in zip(renamed, names, strict=True))
    warn(f'{count} images get other file names, since some names are equal or lie outside the folder')
    return renamed


def _warn_of_lost(folder: Path, images: Sequence[LabelledImage], warn: Callable[[str], None]) -> None:
    """Warn about images with persons that the label file lacks."""
    index = json.loads((folder / 'images.json').read_text(encoding='utf-8'))
    paths = {entry['id']: PurePosixPath(name) for name, entry in index.items()}
    for image in images:
        label = folder / PurePosixPath('labels', *paths[image.id].parts[1:]).with_suffix('.txt')
        lost = len(image.persons) - len(label.read_text(encoding='utf-8').splitlines())
        if lost:
            warn(f'{image.file_name}: {lost} persons are left out, since their boxes have no area inside the image')
