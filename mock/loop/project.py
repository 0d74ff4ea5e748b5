"""One project of a mock Learning Loop: its models, images and status reports, in its own folder.

    project.json             models, deployment target, trainings, categories
    models/<id>/<format>.zip
    images/<id>.jpg, images/<id>.json
    detections/<time>.json   detections that trainers sent
    detectors.json           status reports

Every file is written under a temporary name and renamed: after a kill there is the old or the new file, never a part.
All methods may be called from several threads.
"""

import json
import os
import re
import shutil
import threading
import uuid
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, Final

from pydantic import BaseModel

from detector.models.package import file_sha256

from . import archives
from .errors import Conflict, LoopError, Unknown

REPORTS_KEPT: Final = 100
"""Number of status reports that are kept per detector."""
_NAME: Final = re.compile(r'[A-Za-z0-9][A-Za-z0-9._-]{0,99}')


class ModelFile(BaseModel):
    """The zip of a model in one format.

    :param sha256: hash of the zip.
    :param size: size of the zip in bytes.
    :param content: hash of the parts as they were uploaded, before the Loop wrote into model.json.
    """

    sha256: str
    size: int
    content: str = ''


class Model(BaseModel):
    """A model of the project.

    :param training: number of the training that the model comes from, as in the path of the upload.
    """

    id: str
    version: str
    created: str
    comment: str = ''
    training: str | None = None
    formats: dict[str, ModelFile] = {}


class ImageRecord(BaseModel):
    """A received image, without its metadata.

    :param number: order of arrival in the project, from 1.
    :param name: file name without its ending, decoded.
    :param boxes: number of annotated boxes; without any, number of detected boxes.
    :param points: number of annotated or detected points likewise.
    """

    id: str
    number: int
    name: str
    received: str
    bytes: int
    width: int
    height: int
    state: str = 'inbox'
    source: str | None = None
    created: str | None = None
    tags: list[str] = []
    boxes: int = 0
    points: int = 0


class ProjectState(BaseModel):
    """The content of project.json.

    :param target: id of the model that is the deployment target.
    :param raw_target: JSON text that is served instead of the target.
    """

    organization: str
    project: str
    categories: list[dict[str, Any]] = []
    models: list[Model] = []
    target: str | None = None
    raw_target: str | None = None
    trainings: list[dict[str, Any]] = []


class Project:
    """One project of the mock, stored in its own folder."""

    def __init__(self, folder: Path, state: ProjectState) -> None:
        self.folder = folder
        self.state = state
        self._lock = threading.RLock()
        self._uploads = threading.Lock()  # lock for new models, held for a long time
        self._detectors: dict[str, list[dict[str, Any]]] = {}
        self._images: dict[str, ImageRecord] = {}
        for name in ('models', 'images', 'detections'):
            (folder / name).mkdir(parents=True, exist_ok=True)
        self._load()

    def _load(self) -> None:
        for partial in self.folder.rglob('.partial-*'):
            partial.unlink()
        reports = self.folder / 'detectors.json'
        if reports.exists():
            self._detectors = json.loads(reports.read_bytes())
        records = [
            ImageRecord.model_validate(json.loads(path.read_bytes())['record'])
            for path in (self.folder / 'images').glob('*.json')
        ]
        self._images = {record.id: record for record in sorted(records, key=lambda record: record.number)}

    @contextmanager
    def change(self) -> Iterator[ProjectState]:
        """Change the state and store it. On an exception nothing changes."""
        with self._lock:
            state = self.state.model_copy(deep=True)
            yield state
            write(self.folder / 'project.json', state.model_dump_json(indent=1).encode())
            self.state = state

    def model(self, model_id: str) -> Model:
        """Return a model.

        :raises Unknown: the model does not exist.
        """
        for model in self.state.models:
            if model.id == model_id:
                return model
        raise Unknown(f'no model {model_id}')

    def model_path(self, model_id: str, model_format: str) -> tuple[Path, ModelFile]:
        """Return the zip of a model in a format.

        :raises Unknown: the model does not exist, or not in this format.
        """
        file = self.model(model_id).formats.get(model_format)
        if file is None:
            raise Unknown(f'model {model_id} is not available in the format {model_format}')
        return self.folder / 'models' / model_id / f'{model_format}.zip', file

    def add_model(
        self,
        archive: Path,
        *,
        model_format: str,
        version: str | None = None,
        training: str | None = None,
        content: str = '',
        rewrite: bool = True,
        duplicate: bool = False,
    ) -> Model:
        """Store a zip as a new model.

        :param version: version of the model; by default the next minor version.
        :param content: see `ModelFile`.
        :param rewrite: True to write id, version, organization and project into its model.json, like the Loop.
        :param duplicate: True to allow a version that exists already.
        :raises Conflict: the version exists already.
        :raises LoopError: the zip cannot be rewritten, or the format is not a plain name.
        """
        with self._uploads:
            version = version or self.next_version(training)
            if not duplicate and any(model.version == version for model in self.state.models):
                raise Conflict(f'version {version} exists already')
            model = Model(id=str(uuid.uuid4()), version=version, created=now(), training=training)
            model.comment = f'uploaded at {model.created}'
            model.formats = {model_format: self._store(archive, model, model_format, content, rewrite)}
            with self.change() as state:
                state.models.append(model)
            return model

    def add_format(self, model: Model, archive: Path, *, model_format: str, content: str = '') -> Model:
        """Store a zip as another format of a model, or replace it in that format."""
        with self._uploads:
            file = self._store(archive, model, model_format, content, True)
            with self.change() as state:
                stored = next(candidate for candidate in state.models if candidate.id == model.id)
                stored.formats[model_format] = file
            return stored

    def _store(self, archive: Path, model: Model, model_format: str, content: str, rewrite: bool) -> ModelFile:
        folder = self.folder / 'models' / model.id
        partial = folder / f'.partial-{check_name(model_format)}'
        folder.mkdir(exist_ok=True)
        if rewrite:
            identity = {
                'id': model.id,
                'version': model.version,
                'organization': self.state.organization,
                'project': self.state.project,
                'format': model_format,
            }
            try:
                archives.copy_with_identity(archive, partial, identity)
            except ValueError as error:
                partial.unlink(missing_ok=True)
                if not model.formats:
                    folder.rmdir()
                raise LoopError(str(error)) from error
        else:
            shutil.copyfile(archive, partial)
        file = ModelFile(sha256=file_sha256(partial), size=partial.stat().st_size, content=content)
        partial.replace(folder / f'{model_format}.zip')
        return file

    def delete_model(self, model_id: str) -> None:
        """Delete a model.

        :raises Unknown: the model does not exist.
        """
        self.model(model_id)
        with self.change() as state:
            state.models = [model for model in state.models if model.id != model_id]
            state.target = None if state.target == model_id else state.target
        shutil.rmtree(self.folder / 'models' / model_id, ignore_errors=True)

    def next_version(self, training: str | None = None) -> str:
        """Return the next minor version of a training's own major version, or of the highest major version."""
        known = {_numbers(model.version) for model in self.state.models}
        if training is not None and training.isdigit():
            own = [number for number in known if number[:1] == (int(training),)]
            major, minor = int(training), max((_minor(number) for number in own), default=-1) + 1
        elif known - {()}:
            highest = max(known)
            major, minor = highest[0], _minor(highest) + 1
        else:
            major, minor = 1, 0
        return f'{major}.{minor}'

    def set_target(self, *, version: str | None = None, model_id: str | None = None) -> Model:
        """Make a model the deployment target.

        :param version: version of the model; of several models with this version the newest is taken.
        :raises Unknown: the model does not exist.
        """
        if model_id is None:
            model_id = next((model.id for model in reversed(self.state.models) if model.version == version), None)
            if model_id is None:
                raise Unknown(f'no model has the version {version}')
        model = self.model(model_id)
        with self.change() as state:
            state.target, state.raw_target = model.id, None
        return model

    def add_image(self, jpeg: bytes, metadata: dict[str, Any], *, name: str, size: tuple[int, int]) -> ImageRecord:
        """Store an image that has been checked.

        :param size: width, height in pixels.
        """
        image_id = str(uuid.uuid4())
        write(self.folder / 'images' / f'{image_id}.jpg', jpeg)
        with self._lock:
            last = next(reversed(self._images.values()), None)
            record = ImageRecord(
                id=image_id,
                number=last.number + 1 if last else 1,
                name=name,
                received=now(),
                bytes=len(jpeg),
                width=size[0],
                height=size[1],
                state=metadata.get('state') or 'inbox',
                source=metadata.get('source'),
                created=metadata.get('created'),
                tags=metadata.get('tags') or [],
                boxes=_count(metadata, 'box'),
                points=_count(metadata, 'point'),
            )
            content = {'record': record.model_dump(), 'metadata': metadata}
            write(self.folder / 'images' / f'{image_id}.json', json.dumps(content).encode())
            self._images[image_id] = record
        return record

    def images(self) -> list[ImageRecord]:
        """Return the images in the order of arrival."""
        with self._lock:
            return list(self._images.values())

    def image(self, image_id: str) -> tuple[ImageRecord, Path]:
        """Return the record and the file of an image.

        :raises Unknown: the image does not exist.
        """
        record = self._images.get(image_id)
        if record is None:
            raise Unknown(f'no image {image_id}')
        return record, self.folder / 'images' / f'{image_id}.jpg'

    def metadata(self, image_id: str) -> dict[str, Any]:
        """Return the ImageMetadata of an image as it was received."""
        content = json.loads((self.folder / 'images' / f'{image_id}.json').read_bytes())
        metadata: dict[str, Any] = content['metadata']
        return metadata

    def delete_images(self) -> int:
        """Delete all images and return their number."""
        with self._lock:
            records, self._images = list(self._images), {}
            for image_id in records:
                for ending in ('json', 'jpg'):
                    (self.folder / 'images' / f'{image_id}.{ending}').unlink(missing_ok=True)
            return len(records)

    def add_detections(self, detections: list[dict[str, Any]]) -> None:
        """Store a trainer's detections."""
        name = f'{now().replace(":", "")}-{uuid.uuid4().hex[:8]}.json'
        write(self.folder / 'detections' / name, json.dumps(detections).encode())

    def detections(self) -> list[dict[str, Any]]:
        """Return all detections that trainers sent, in the order of arrival."""
        files = sorted((self.folder / 'detections').glob('*.json'))
        return [entry for file in files for entry in json.loads(file.read_bytes())]

    def add_report(self, detector_uuid: str, report: dict[str, Any]) -> None:
        """Store a detector's status report."""
        with self._lock:
            reports = self._detectors.setdefault(detector_uuid, [])
            reports.append(report | {'received': now()})
            del reports[:-REPORTS_KEPT]
            write(self.folder / 'detectors.json', json.dumps(self._detectors).encode())

    def reports(self) -> dict[str, list[dict[str, Any]]]:
        """Return the latest reports of each detector by its uuid, oldest first."""
        with self._lock:
            return {detector: list(reports) for detector, reports in self._detectors.items()}


def write(path: Path, content: bytes) -> None:
    """Write a file completely or not at all."""
    partial = path.with_name(f'.partial-{uuid.uuid4().hex}')
    partial.write_bytes(content)
    os.replace(partial, path)


def now() -> str:
    return datetime.now(UTC).isoformat(timespec='microseconds')


def check_name(name: str) -> str:
    """Return the name if it is plain enough for a folder or file on every system.

    :raises LoopError: the name is not plain.
    """
    if not _NAME.fullmatch(name):
        raise LoopError(f'{name!r} is not a name of letters, digits, dots, underscores and hyphens')
    return name


def _count(metadata: dict[str, Any], kind: str) -> int:
    """:param kind: `box` or `point`."""
    return len(metadata.get(f'{kind}_annotations') or metadata.get(f'{kind}_detections') or [])


def _numbers(version: str) -> tuple[int, ...]:
    parts = version.split('.')
    return tuple(map(int, parts)) if all(part.isdigit() for part in parts) else ()


def _minor(numbers: tuple[int, ...]) -> int:
    return numbers[1] if len(numbers) > 1 else 0
