"""Operations of a node on its data folder, and what must be there at the next start, whatever the disk did."""

import asyncio
import json
import tempfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from functools import partial
from logging.handlers import QueueHandler
from pathlib import Path
from queue import SimpleQueue
from typing import Final

import httpx

from benchmarks.support.packages import make_package
from detector.errors import DownloadFailed, InvalidPackage, OutboxFault
from detector.label_studio.backend.correction_queue import CorrectionQueue, Hint
from detector.label_studio.backend.known_projects import KnownProjects
from detector.loop import upstream
from detector.models.downloads import download
from detector.models.package import ModelPackage, open_package, unpack_package
from detector.models.store import ModelStore
from detector.outbox.files import Entry
from detector.outbox.queue import OutboxQueue
from detector.system import durable
from tests.support.disk_faults import Note, Operation
from tests.support.file_server import serving
from tests.support.one_annotation import make_corrections

Check = Callable[[Path, list[str]], list[str]]
"""Starts again on a folder, and returns what is lost of that which the operation had confirmed."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Scenario:
    """An operation and its check.

    :param prepare: writes the folder before the operation, without faults.
    """

    name: str
    operation: Operation
    check: Check
    prepare: Callable[[Path], None] = lambda folder: None


# ---------------------------------------------------------------- outbox


def _queue(folder: Path, *, max_images: int = 1000) -> OutboxQueue:
    return OutboxQueue(folder / 'outbox', max_images=max_images, max_bytes=10**6)


def _content(name: str) -> tuple[bytes, bytes]:
    return f'jpeg {name} '.encode() * 2000, b'{"source": "%s"}' % name.encode()


def _save(queue: OutboxQueue, note: Note, source: str, *, priority: bool = False) -> Entry:
    entry = queue.save(*_content(source), priority=priority)
    note(f'accepted {source}')
    return entry


def _fill(folder: Path) -> None:
    queue = _queue(folder)
    queue.load()
    for number in range(4):
        _save(queue, lambda _: None, f'old{number}', priority=number < 2)


def _accept(folder: Path, note: Note) -> None:
    """Accept images, as the first start of a node does."""
    queue = _queue(folder)
    queue.load()
    for number in range(3):
        try:
            _save(queue, note, f'new{number}', priority=number == 1)
        except OutboxFault:
            continue


def _send(folder: Path, note: Note) -> None:
    """Send two images; the Loop refuses a third one."""
    queue = _queue(folder)
    queue.load()
    batch = queue.next_batch(2, 10**6, 0)
    for entry in batch:
        note(f'sent {_source(entry)}')
    queue.uploaded(batch)
    queue.remove_files(batch)
    queue.clear_in_flight()
    queue.set_aside(queue.next_batch(1, 10**6, 0)[0], 'refused')


def _drop(folder: Path, note: Note) -> None:
    """Accept two images beyond the limit, which drops the two oldest of normal priority."""
    queue = _queue(folder, max_images=2)
    queue.load()
    for number in range(2):
        _save(queue, note, f'new{number}')


def _source(entry: Entry) -> str:
    return str(entry.describe().source)


def _lost_images(
    folder: Path, notes: list[str], *, before: tuple[str, ...] = (), urgent: tuple[str, ...] = (), limit: int = 1000
) -> list[str]:
    """Return the accepted images that are not there or damaged, except those that were sent or had to be dropped.

    :param before: images that waited before the operation, oldest first.
    :param urgent: those of high priority.
    :param limit: number of images of normal priority that may wait.
    """
    queue = _queue(folder, max_images=limit)
    queue.load()
    accepted = [*before, *_noted(notes, 'accepted')]
    found = {_source_in(path): (path.with_suffix('.jpg').read_bytes(), path.read_bytes()) for path in _images(folder)}
    normal = [source for source in (*accepted, *sorted(set(found) - set(accepted))) if source not in urgent]
    required = {source for source in (*urgent, *normal[-limit:]) if source in accepted} - set(_noted(notes, 'sent'))
    damaged = {source for source, content in found.items() if content != _content(source)}
    _save(queue, lambda _: None, 'after')  # the outbox is of use again
    outbox = folder / 'outbox'
    remains = [path.name for path in (*(outbox / '.saving').iterdir(), *(outbox / '.removing').iterdir())]
    return [*sorted((required - set(found)) | damaged), *remains]


def _noted(notes: list[str], verb: str) -> list[str]:
    return [note.removeprefix(f'{verb} ') for note in notes if note.startswith(f'{verb} ')]


def _images(folder: Path) -> list[Path]:
    """Return the metadata of the images that wait or are set aside."""
    return sorted((folder / 'outbox').glob('[!.]*/*/*.json'))


def _source_in(metadata: Path) -> str:
    return str(json.loads(metadata.read_bytes())['source'])


_OLD: Final = ('old0', 'old1', 'old2', 'old3')


# ---------------------------------------------------------------- corrections

_HINT: Final = Hint(annotation=5, project=1)


def _corrections_queue(folder: Path) -> CorrectionQueue:
    return CorrectionQueue(folder / 'label_studio' / 'corrections.sqlite')


def _note_corrections(folder: Path, note: Note) -> None:
    """Queue annotations as a webhook's and a catch-up's answer confirm them; the first start creates the database."""
    queue = _corrections_queue(folder)
    queue.add([_HINT], 1.0)
    note('queued 5')
    queue.add_missed([(Hint(annotation=6, project=1), 'v1')], 2.0)
    note('queued 6')
    queue.close()


def _take_correction(folder: Path, note: Note) -> None:
    """Read the annotation that is due, put its image into the outbox, and note that its version was sent."""
    asyncio.run(_handle_first(folder))


async def _handle_first(folder: Path) -> None:
    queue = _corrections_queue(folder)
    corrections = make_corrections(folder, queue)
    hint, _ = queue.next()
    assert hint is not None
    await corrections._handle(hint)
    await corrections.close()


def _lost_corrections(folder: Path, notes: list[str]) -> list[str]:
    """Return the annotations that neither wait nor are in the outbox."""
    queue = _corrections_queue(folder)
    waiting = set()
    while (hint := queue.next()[0]) is not None:
        waiting.add(str(hint.annotation))
        queue.finish(hint, None)
    queue.close()
    outbox = _queue(folder)
    outbox.load()
    sent = {str(entry.describe().source).rpartition(' ')[2] for entry in outbox.waiting()}
    broken = [path.name for path in (folder / 'label_studio').glob('*.broken')]
    return [*sorted(set(_noted(notes, 'queued')) - waiting - sent), *broken]


def _queue_two(folder: Path) -> None:
    _note_corrections(folder, lambda _: None)


# ---------------------------------------------------------------- small files


def _keep_projects(folder: Path, note: Note) -> None:
    projects = KnownProjects(folder / 'label_studio' / 'projects.json')
    projects.keep(8)
    projects.save()
    note('kept 8')


def _keep_seven(folder: Path) -> None:
    projects = KnownProjects(folder / 'label_studio' / 'projects.json')
    projects.keep(7)
    projects.save()


def _lost_projects(folder: Path, notes: list[str]) -> list[str]:
    projects = KnownProjects(folder / 'label_studio' / 'projects.json')
    return [number for number in ('7', *_noted(notes, 'kept')) if int(number) not in projects]


def _name_node(folder: Path, note: Note) -> None:
    warnings: SimpleQueue[object] = SimpleQueue()
    upstream.log.addHandler(QueueHandler(warnings))  # in this process only
    name = upstream.node_id(folder, 'node')
    if warnings.empty():  # else the log says that the next start has another id
        note(f'named {name}')


def _lost_ids(folder: Path, notes: list[str]) -> list[str]:
    return [name for name in _noted(notes, 'named') if name != upstream.node_id(folder, 'node')]


# ---------------------------------------------------------------- downloads

_VERSIONS: Final = [b''.join(number.to_bytes(4) for number in range(start, start + 150_000)) for start in (0, 10**6)]
"""Two versions of a file on a server."""


def _target(folder: Path) -> Path:
    return folder / 'downloads' / 'model.zip'


async def _download(folder: Path, url: str) -> None:
    _target(folder).parent.mkdir(exist_ok=True)
    async with httpx.AsyncClient(timeout=5) as client:
        await download(client, url, _target(folder), max_bytes=10**6)


@contextmanager
def download_scenario(*, begun_with: int, cut: int | None) -> Iterator[Scenario]:
    """Yield a download of the second version of a file, with a running server.

    :param begun_with: number of the version that was downloaded before.
    :param cut: bytes after which that download was interrupted; None: it was complete.
    """
    name = f'download: version 2 after {"all" if cut is None else "a part"} of version {begun_with + 1}'
    with serving(_VERSIONS[1]) as server:

        def prepare(folder: Path) -> None:
            server.content = _VERSIONS[begun_with]
            server.cuts = [] if cut is None else [cut, 0, 0, 0]
            with suppress(DownloadFailed):
                asyncio.run(_download(folder, server.url))
            server.content, server.cuts = _VERSIONS[1], []

        def operation(folder: Path, note: Note) -> None:
            asyncio.run(_download(folder, server.url))
            note('downloaded')

        def damaged(folder: Path, notes: list[str]) -> list[str]:
            if 'downloaded' in notes and _target(folder).read_bytes() != _VERSIONS[1]:
                return ['the file that was downloaded']
            asyncio.run(_download(folder, server.url))
            return [] if _target(folder).read_bytes() == _VERSIONS[1] else ['the file, after the next download']

        yield Scenario(name=name, prepare=prepare, operation=operation, check=damaged)


# ---------------------------------------------------------------- models


def _archive(folder: Path, version: str, name: str) -> Path:
    """Return the archive of a small package, beside the data folder."""
    path = folder.parent / f'{name}-{version}.zip'
    if not path.exists():
        make_package(path, version=version, name=name)
    return path


def _make_archive(folder: Path) -> None:
    _archive(folder, '1.1', 'new')


def _verify(archive: Path) -> ModelPackage:
    """Check a package without running its networks, which change no file."""
    with tempfile.TemporaryDirectory() as temporary:
        return unpack_package(archive, Path(temporary))


def _install(folder: Path, note: Note, *, version: str, name: str, replace: bool = False) -> None:
    ModelStore(folder).install(_archive(folder, version, name), verify=_verify, replace=replace)
    note(f'current {name} {version}')


def _install_old(folder: Path) -> None:
    for version in ('1.0', '1.1'):
        _install(folder, lambda _: None, version=version, name='old')
    for archive in (('1.1', 'new'), ('1.2', 'new')):
        _archive(folder, *archive)


def _replace_without_exchange(folder: Path, note: Note) -> None:
    vars(durable)['_renameat2'] = lambda: None  # the operation has a process of its own
    _install(folder, note, version='1.1', name='new', replace=True)


def _select(folder: Path, note: Note) -> None:
    ModelStore(folder).select('1.0')
    note('current old 1.0')


def _remove(folder: Path, _: Note) -> None:
    ModelStore(folder).remove('1.0')


def _remove_others(folder: Path, _: Note) -> None:
    ModelStore(folder).prune(keep=1)


def _lost_models(folder: Path, notes: list[str], *, before: str | None, possible: tuple[str, ...] = ()) -> list[str]:
    """Return the model that ought to serve after a start, if another one serves or none.

    :param before: the current model before the operation; None: none was installed.
    :param possible: other models that may serve while the operation is not confirmed.
    """
    store = ModelStore(folder)
    store.mend()
    served = None
    for candidate in store.to_start_with():
        with suppress(InvalidPackage):
            served = open_package(candidate).model_version
            break
    confirmed = _noted(notes, 'current')
    expected: list[str | None] = [confirmed[-1]] if confirmed else [before, *possible]
    leftovers = [path.name for path in store.models.glob('.*')] if store.models.exists() else []
    return [*([] if served in expected else [f'{served} serves instead of {expected}']), *leftovers]


_MODELS: Final = (
    Scenario(
        name='models: install the first one',
        prepare=_make_archive,
        operation=partial(_install, version='1.1', name='new'),
        check=partial(_lost_models, before=None, possible=('new 1.1',)),
    ),
    Scenario(
        name='models: install another version',
        prepare=_install_old,
        operation=partial(_install, version='1.2', name='new'),
        check=partial(_lost_models, before='old 1.1', possible=('new 1.2',)),
    ),
    Scenario(
        name='models: replace the current version',
        prepare=_install_old,
        operation=partial(_install, version='1.1', name='new', replace=True),
        check=partial(_lost_models, before='old 1.1', possible=('new 1.1',)),
    ),
    Scenario(
        name='models: replace it where paths cannot be exchanged',
        prepare=_install_old,
        operation=_replace_without_exchange,
        check=partial(_lost_models, before='old 1.1', possible=('new 1.1',)),
    ),
    Scenario(
        name='models: select another version',
        prepare=_install_old,
        operation=_select,
        check=partial(_lost_models, before='old 1.1', possible=('old 1.0',)),
    ),
    Scenario(
        name='models: remove a version',
        prepare=_install_old,
        operation=_remove,
        check=partial(_lost_models, before='old 1.1'),
    ),
    Scenario(
        name='models: remove old versions',
        prepare=_install_old,
        operation=_remove_others,
        check=partial(_lost_models, before='old 1.1'),
    ),
)


SCENARIOS: Final = (
    *_MODELS,
    Scenario(name='outbox: accept the first images', operation=_accept, check=_lost_images),
    Scenario(
        name='outbox: send two images, set one aside',
        prepare=_fill,
        operation=_send,
        check=partial(_lost_images, before=_OLD, urgent=_OLD[:2]),
    ),
    Scenario(
        name='outbox: accept images beyond the limit',
        prepare=_fill,
        operation=_drop,
        check=partial(_lost_images, before=_OLD, urgent=_OLD[:2], limit=2),
    ),
    Scenario(name='corrections: queue two annotations', operation=_note_corrections, check=_lost_corrections),
    Scenario(
        name='corrections: send an annotation',
        prepare=_queue_two,
        operation=_take_correction,
        check=lambda folder, notes: _lost_corrections(folder, ['queued 5', 'queued 6', *notes]),
    ),
    Scenario(name='projects: keep one more', prepare=_keep_seven, operation=_keep_projects, check=_lost_projects),
    Scenario(name="node: keep the node's id", operation=_name_node, check=_lost_ids),
)
