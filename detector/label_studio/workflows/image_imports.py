"""Import local images as tasks, by upload or as local files that Label Studio serves.

A task's `meta` holds the SHA-256 of its file, which identifies it in later imports. The next import continues one that
was killed: the tasks of a batch are created together after their files, so at worst unused uploads are left behind.
"""

import asyncio
import hashlib
import os
import posixpath
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field
from pathlib import Path, PurePosixPath
from typing import Final
from urllib.parse import parse_qs, quote, urlsplit

from detector.errors import ImageTooLarge, InvalidImage, InvalidRequest, LabelStudioFault, UnsupportedImageFormat
from detector.label_studio.labels.config import parse
from detector.label_studio.server.project import Json, Project
from detector.pose import images

ENDINGS: Final = ('.jpg', '.jpeg', '.png', '.webp')
"""Endings of the files that both `images.decode_image` and Label Studio accept."""
_BATCH_FILES: Final = 25
_BATCH_BYTES: Final = 16 * 1024**2
_BATCH_TASKS: Final = 200
"""Maximum number of local files per request, which holds only their addresses."""
_SERVED: Final = '/data/local-files/'
_STORAGE_TITLE: Final = 'wholebody labelstudio import'


@dataclass(frozen=True, slots=True, kw_only=True)
class LocalFiles:
    """The folder that Label Studio serves local files from: its LOCAL_FILES_DOCUMENT_ROOT.

    :param root: path of the folder on this machine.
    :param remote_root: path of the folder as Label Studio sees it, if different, for example inside a container.
    """

    root: Path
    remote_root: PurePosixPath | None = None

    def below(self, path: Path) -> PurePosixPath:
        """Return the path of a file below the root.

        :raises InvalidRequest: the file does not lie below the root.
        """
        for normalised in (os.path.abspath, os.path.realpath):
            file, root = Path(normalised(path)), Path(normalised(self.root))
            if file.is_relative_to(root):
                return PurePosixPath(file.relative_to(root).as_posix())
        raise InvalidRequest(f'{path} does not lie below --document-root {self.root}')


@dataclass(slots=True, kw_only=True)
class Report:
    """Result of an import.

    :param present: number of files whose content a task of the project already has.
    :param repeated: number of files with the content of another file of this import.
    :param left_out: files that are not images, with the reason.
    :param surplus: number of removed tasks that Label Studio had created twice.
    """

    imported: int = 0
    present: int = 0
    repeated: int = 0
    left_out: list[tuple[Path, str]] = field(default_factory=list)
    surplus: int = 0


@dataclass(frozen=True, slots=True, kw_only=True)
class _File:
    path: Path
    digest: str
    content: bytes


def find_images(paths: Iterable[Path], *, recursive: bool = False) -> tuple[list[Path], int]:
    """Find image files by their endings, each once, in the order of their names.

    :param paths: files with any ending, and folders; hidden files in folders are ignored.
    :param recursive: True to search subfolders, too.
    :return: the files, and the number of other files in the folders.
    """
    found: dict[Path, None] = {}
    others = 0
    for path in paths:
        if not path.is_dir():
            found[path] = None
            continue
        for folder, folders, names in os.walk(path):
            folders[:] = sorted(name for name in folders if not name.startswith('.')) if recursive else []
            chosen = sorted(name for name in names if name.lower().endswith(ENDINGS) and not name.startswith('.'))
            found |= {Path(folder) / name: None for name in chosen}
            others += len(names) - len(chosen)
    return list(found), others


async def import_images(
    project: Project,
    paths: Sequence[Path],
    *,
    local: LocalFiles | None = None,
    max_pixels: int = images.DEFAULT_MAX_PIXELS,
    on_progress: Callable[[int], None] = lambda _: None,
) -> Report:
    """Create a task for each image file that no task has yet.

    :param paths: files; see `find_images`.
    :param local: let Label Studio serve the files from where they are; None: upload them.
    :param max_pixels: pixel limit; larger images are left out.
    :param on_progress: called with the number of further files that are done.
    :raises InvalidRequest: the project's labeling config has no image, a file lies outside the folder that Label Studio
        serves, or Label Studio serves no local files.
    :raises LabelStudioFault: see `Connection.request`; imported images are kept, and the next import continues.
    """
    key = await _image_key(project)
    store: _Store = _UploadStore(project, key) if local is None else _LocalStore(project, key, local)
    await store.prepare(paths)
    report = Report()
    try:
        importing = _Import(project=project, store=store, report=report, max_pixels=max_pixels, on_progress=on_progress)
        await importing.run(paths)
    except LabelStudioFault as error:
        raise LabelStudioFault(
            f'{error}; {report.imported} images are imported, run the command again to continue'
        ) from None
    return report


async def _image_key(project: Project) -> str:
    try:
        return parse(await project.label_config()).image_key
    except InvalidRequest as error:
        raise InvalidRequest(
            f'project {project.id}: {error}; `wholebody labelstudio init` creates a project for poses'
        ) from None


@dataclass(slots=True, kw_only=True)
class _Import:
    """An import in progress.

    :param addresses: addresses of images in the project's tasks.
    :param tasks: tasks by the SHA-256 of their image: their ids, and True for labelled ones.
    :param last: highest task id seen so far.
    :param present: SHA-256 of the images that the project had before.
    :param taken: SHA-256 of the images imported by this run.
    """

    project: Project
    store: '_Store'
    report: Report
    max_pixels: int
    on_progress: Callable[[int], None]
    addresses: set[str] = field(default_factory=set)
    tasks: dict[str, dict[int, bool]] = field(default_factory=dict)
    last: int = 0
    present: set[str] = field(default_factory=set)
    taken: set[str] = field(default_factory=set)

    async def run(self, paths: Sequence[Path]) -> None:
        await self._note_tasks()
        self.present.update(self.tasks)
        batch: list[_File] = []
        for path in paths:
            file = await self._new_file(path)
            if file is None:
                self.on_progress(1)
                continue
            self.taken.add(file.digest)
            if batch and self.store.is_full([*batch, file]):
                await self._send(batch)
                batch = []
            batch.append(file)
        if batch:
            await self._send(batch)
        if self.report.imported:
            await self._note_tasks()
        await self._remove_surplus()

    async def _note_tasks(self) -> None:
        """Note the tasks that were created since the last call."""
        async for task in self.project.tasks(after=self.last):
            self.last = int(task['id'])
            self.addresses.update(map(str, (task.get('data') or {}).values()))
            digest = (task.get('meta') or {}).get('sha256')
            if isinstance(digest, str):
                labelled = bool(task.get('total_annotations') or task.get('cancelled_annotations'))
                self.tasks.setdefault(digest, {})[self.last] = labelled

    async def _remove_surplus(self) -> None:
        """Keep one task of each image, or the labelled ones.

        While its database is locked, a Label Studio on SQLite repeats a request from the start although parts of it are
        done, even after the client has given up.
        """
        repeated = [tasks for tasks in self.tasks.values() if len(tasks) > 1]
        drafted = await self.project.drafted() if repeated else set()
        surplus: list[int] = []
        for tasks in repeated:
            kept = {task for task, labelled in tasks.items() if labelled or task in drafted} or {min(tasks)}
            surplus += tasks.keys() - kept
        if surplus:
            await self.project.delete_tasks(surplus)
            self.report.surplus = len(surplus)

    async def _new_file(self, path: Path) -> _File | None:
        """Return a file to import, or None if it was counted as something else."""
        if self.store.has(path, self.addresses):
            self.report.present += 1
            return None
        try:
            content = await asyncio.to_thread(_read, path)
            digest = await asyncio.to_thread(lambda: hashlib.sha256(content).hexdigest())
            if digest in self.present:
                self.report.present += 1
                return None
            if digest in self.taken:
                self.report.repeated += 1
                return None
            await asyncio.to_thread(images.decode_image, content, max_pixels=self.max_pixels)
        except InvalidImage as error:
            self.report.left_out.append((path, str(error)))
            return None
        return _File(path=path, digest=digest, content=self.store.kept(content))

    async def _send(self, batch: list[_File]) -> None:
        await self.store.send(batch)
        self.report.imported += len(batch)
        self.on_progress(len(batch))


def _read(path: Path) -> bytes:
    """:raises InvalidImage: the file cannot be read, or its ending or size is not that of an accepted image."""
    if path.suffix.lower() not in ENDINGS:
        raise UnsupportedImageFormat(f'its ending is none of {", ".join(ENDINGS)}')
    try:
        if not path.is_file():
            raise InvalidImage('it is not a file')
        size = path.stat().st_size
        if size > images.MAX_BYTES:
            raise ImageTooLarge(f'the image has {size} bytes; the limit is {images.MAX_BYTES}')
        return path.read_bytes()
    except OSError as error:
        raise InvalidImage(f'it cannot be read: {error.strerror}') from None


class _Store:
    """Creates tasks for files."""

    def __init__(self, project: Project, key: str) -> None:
        self._project = project
        self._key = key

    async def prepare(self, paths: Sequence[Path]) -> None:
        """Prepare for the first task."""

    def has(self, path: Path, addresses: set[str]) -> bool:
        """Return True if a task already has the address of a file."""
        return False

    def kept(self, content: bytes) -> bytes:
        """Return the part of a file's content that is needed for sending it."""
        return content

    def is_full(self, batch: Sequence[_File]) -> bool:
        return len(batch) > _BATCH_FILES or sum(len(file.content) for file in batch) > _BATCH_BYTES

    async def send(self, batch: Sequence[_File]) -> None:
        """Create tasks for all files of a batch or for none."""
        raise NotImplementedError

    def _task(self, file: _File, address: str) -> Json:
        meta = {'sha256': file.digest, 'file': _readable(file.path.name)}
        return {'data': {self._key: address}, 'meta': meta}


class _UploadStore(_Store):
    async def send(self, batch: Sequence[_File]) -> None:
        uploads = await self._project.upload_files([(_readable(file.path.name), file.content) for file in batch])
        tasks = [
            self._task(file, address) | {'file_upload_id': upload_id}
            for file, (upload_id, address) in zip(batch, uploads, strict=True)
        ]
        try:
            await self._project.import_tasks(tasks)
        except InvalidRequest:
            await self._project.delete_uploads([upload_id for upload_id, _ in uploads])
            raise


class _LocalStore(_Store):
    def __init__(self, project: Project, key: str, local: LocalFiles) -> None:
        super().__init__(project, key)
        self._local = local
        self._served: set[str] | None = None

    async def prepare(self, paths: Sequence[Path]) -> None:
        files = [self._local.below(path) for path in paths]
        if not files:
            return
        root = self._local.remote_root or PurePosixPath(os.path.abspath(self._local.root))
        serving = [PurePosixPath(str(storage.get('path'))) for storage in await self._project.local_storages()]
        for folder in folders_to_serve(files):
            path = root / folder
            if not any(path.is_relative_to(known) for known in serving):
                await self._serve(path)
        await self._check(files[0])

    async def _serve(self, path: PurePosixPath) -> None:
        try:
            await self._project.serve_folder(str(path), title=_STORAGE_TITLE)
        except InvalidRequest as error:
            raise InvalidRequest(
                f'{error}; start Label Studio with LABEL_STUDIO_LOCAL_FILES_SERVING_ENABLED=true and '
                'LABEL_STUDIO_LOCAL_FILES_DOCUMENT_ROOT, and give --document-root that folder (--remote-root, if Label '
                'Studio sees it under another path)'
            ) from None

    async def _check(self, file: PurePosixPath) -> None:
        async with self._project.connection.stream(_address(file)) as response:
            if not response.is_success:
                raise InvalidRequest(
                    f'Label Studio does not serve {file} ({response.status_code}): is --document-root its '
                    'LABEL_STUDIO_LOCAL_FILES_DOCUMENT_ROOT?'
                )

    def has(self, path: Path, addresses: set[str]) -> bool:
        if self._served is None:
            self._served = set(filter(None, map(_served_file, addresses)))
        return str(self._local.below(path)) in self._served

    def kept(self, content: bytes) -> bytes:
        return b''

    def is_full(self, batch: Sequence[_File]) -> bool:
        return len(batch) > _BATCH_TASKS

    async def send(self, batch: Sequence[_File]) -> None:
        prefix = self._project.connection.prefix
        tasks = [self._task(file, prefix + _address(self._local.below(file.path))) for file in batch]
        await self._project.import_tasks(tasks)


def folders_to_serve(files: Sequence[PurePosixPath]) -> list[PurePosixPath]:
    """Return the folder that holds all files, or several, since Label Studio refuses to serve the document root itself.

    :param files: paths below the document root.
    :raises InvalidRequest: a file lies directly in the document root.
    """
    loose = next((file for file in files if len(file.parts) < 2), None)
    if loose is not None:
        raise InvalidRequest(
            f'{loose} lies directly in the document root, and Label Studio serves only subfolders of it'
        )
    common = os.path.commonpath([file.parent for file in files])
    return [PurePosixPath(common)] if common else sorted({PurePosixPath(file.parts[0]) for file in files})


def _served_file(address: str) -> str | None:
    """Return the path below the document root that an address names; None if it is not a local file."""
    if _SERVED not in address:
        return None
    named = parse_qs(urlsplit(address).query).get('d', [''])[0]
    return posixpath.normpath(named).lstrip('/') if named else None


def _address(file: PurePosixPath) -> str:
    return f'{_SERVED}?d={quote(os.fsencode(str(file)))}'


def _readable(name: str) -> str:
    """Return a file name without undecodable bytes, so that it can be sent."""
    return os.fsencode(name).decode(errors='replace')
