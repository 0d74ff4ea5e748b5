"""Export labelled tasks as datasets: COCO-WholeBody, YOLO-pose, FiftyOne and the project's own JSON."""

import asyncio
import io
import itertools
import json
import warnings
from collections.abc import AsyncIterator, Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path, PurePosixPath
from typing import Any, Final, Literal

from PIL import ExifTags
from PIL import Image as PillowImage

from detector.datasets.coco import to_coco
from detector.datasets.fiftyone import write_fiftyone
from detector.datasets.labelled_image import (
    LabelledImage,
    file_names,
    new_folder,
    split_of,
    unique_ids,
    writable,
    write_images,
)
from detector.datasets.omissions import Omissions
from detector.datasets.person import Size
from detector.datasets.poses_json import to_poses_json
from detector.datasets.yolo import write_yolo
from detector.errors import InvalidImage, InvalidRequest, MediaFault
from detector.label_studio.labels.config import LabelingConfig
from detector.label_studio.labels.regions import read_results
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
_MAX_NAME_BYTES: Final = 255
"""Longest file name of common file systems."""
_MAX_PATH_BYTES: Final = 1024
_WHOLE_IMAGE: Final = frozenset(
    ('choices', 'datetime', 'number', 'pairwise', 'ranker', 'rating', 'relation', 'taxonomy', 'textarea')
)
"""Types of results about the whole image or about other results."""
_SHOWN: Final = 60
"""Longest part of a file name in messages, in characters."""
_WHY_RENAMED: Final = 'names must differ, lie below the folder, and be no longer than file systems allow'
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
    """Reads tasks as labelled images, and reports what is left out.

    :param source: source of images; None: images cannot be fetched, not even for their size.
    :param wants_images: True to fetch the image files.
    :param unlabelled: True to include tasks without labels as images without persons.
    :param omissions: receives what is left out.
    :param warn: called with a line for each change that loses nothing.
    :param skip: returns True for a task that is not wanted; called before its image is fetched.
    :param not_labelled: number of tasks that were passed over, since nobody has labelled them yet.
    """

    source: ImageSource | None
    wants_images: bool = False
    unlabelled: bool = False
    omissions: Omissions
    warn: Callable[[str], None]
    skip: Callable[[TaskLabels], bool] = lambda _: False
    max_pixels: int = DEFAULT_MAX_PIXELS
    not_labelled: int = 0

    async def read(
        self, tasks: AsyncIterator[Mapping[str, Any]], config: LabelingConfig, choice: Choice
    ) -> AsyncIterator[Labelled]:
        """Yield the labelled images of tasks in their order."""
        waiting: list[TaskLabels] = []
        async for task in tasks:
            for labels in self.omissions.each('task', [(task, config, choice)], read_task):
                if labels.results is None and not self.unlabelled:
                    self.not_labelled += 1
                elif not self.skip(labels):
                    waiting.append(labels)
            if len(waiting) == _AT_A_TIME:
                for labelled in await self._group(waiting, config):
                    yield labelled
                waiting = []
        for labelled in await self._group(waiting, config):
            yield labelled

    async def _group(self, tasks: Sequence[TaskLabels], config: LabelingConfig) -> list[Labelled]:
        """Return the labelled images of tasks, and report the tasks that have none."""
        found = await asyncio.gather(*(self._labelled(task, config) for task in tasks), return_exceptions=True)
        labelled: list[Labelled] = []
        for task, one in zip(tasks, found, strict=True):
            if isinstance(one, Labelled):
                labelled.append(one)
            elif isinstance(one, _LeftOut):
                line = ': '.join([f'task {task.task_id}, {one.reason}, is left out', *one.details])
                self.omissions.add(f'task {one.reason}', line)
            else:
                raise one
        return labelled

    async def _labelled(self, task: TaskLabels, config: LabelingConfig) -> Labelled:
        """:raises _LeftOut: the task cannot be exported."""
        name, size, content = task.file_name, task.known_size, None
        if name is None:
            raise _LeftOut('without an image')
        if self.wants_images or size is None:
            content, size = await self._fetch(task)
        regions, complaints = usable(task.results or [], config)
        reading = read_results(regions, config, size)
        persons = reading.persons
        for complaint in (*complaints, *reading.unread):
            self.omissions.add('fault in regions', f'task {task.task_id} has {complaint}')
        if reading.is_lost or (not persons and any(map(_has_place, task.results or ()))):
            raise _LeftOut('whose regions cannot be read', 'none of them is a person')
        if task.known_size not in (None, size):
            self._report_size(task, size)
        image = LabelledImage(
            id=task.task_id, file_name=name, width=size[0], height=size[1], persons=persons, extra=extra_of(task.kept)
        )
        return Labelled(task=task, image=image, content=content if self.wants_images else None)

    def _report_size(self, task: TaskLabels, size: Size) -> None:
        width, height = task.known_size or (0, 0)
        line = f'task {task.task_id} states {width}×{height} pixels, but its image has {size[0]}×{size[1]}, which count'
        self.omissions.add('size of an image', line)

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
    """A task cannot be exported.

    :param reason: phrase that follows the task in messages.
    """

    def __init__(self, reason: str, *details: str) -> None:
        super().__init__(reason, *details)
        self.reason = reason
        self.details = details


def _has_place(region: Mapping[str, Any]) -> bool:
    """Return True if a region marks something in the image, unlike a choice or a text about the whole image."""
    return region.get('type') not in _WHOLE_IMAGE


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
    target: Target,
    labelled: Sequence[Labelled],
    content_of: Callable[[int], bytes],
    omissions: Omissions,
    warn: Callable[[str], None],
) -> list[LabelledImage]:
    """Write a dataset.

    :param content_of: returns the image file of a task.
    :param omissions: receives what the format cannot hold, and files that cannot be written.
    :param warn: called with one line for each file name that is changed.
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
            return write_yolo(target.path, images, omissions, val_share=share, image_bytes=wanted)
        case 'fiftyone':
            return write_fiftyone(target.path, images, omissions, val_share=target.val_share, image_bytes=wanted)
        case 'coco-wholebody' | 'json':
            images = _with_usable_names(images, warn)
            images = writable(images, omissions) if target.kind == 'coco-wholebody' else images
            _write_json(target, images, {image.id: _origin(by_id[image.id].task) for image in images})
            places = ((image, target.path / 'images' / image.file_name) for image in images)
            if wanted is not None:
                write_images(places, wanted, omissions)
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


def _with_usable_names(images: Sequence[LabelledImage], warn: Callable[[str], None]) -> list[LabelledImage]:
    """Return the images unchanged if their file names are distinct paths below one folder; otherwise rename them."""
    names = [image.file_name for image in images]
    if all(map(_is_usable, names)) and len({name.casefold() for name in names}) == len(names):
        return list(images)
    renamed = [
        replace(image, file_name=name) if name != image.file_name else image
        for image, name in zip(images, file_names(images), strict=True)
    ]
    for image, name in zip(renamed, names, strict=True):
        if image.file_name != name:
            warn(f'{name[:_SHOWN]}{"…" * (len(name) > _SHOWN)} becomes {image.file_name[:_SHOWN]}: {_WHY_RENAMED}')
    return renamed


def _is_usable(name: str) -> bool:
    """Return True if a file can have this name below a folder."""
    parts = name.encode(errors='replace').split(b'/')
    return (
        not PurePosixPath(name).is_absolute()
        and '..' not in name.split('/')
        and '\\' not in name
        and name.isprintable()
        and max(map(len, parts)) <= _MAX_NAME_BYTES
        and len(b'/'.join(parts)) <= _MAX_PATH_BYTES
    )
