"""Write the data folder of this version as an archive, for the tests of later versions.

Run it before a release, and commit the archive: `uv run python -m tests.upgrades.write_data_folder`. A real node writes
the folder. It is killed while images wait in every state of the outbox and a download is incomplete.
"""

import asyncio
import io
import json
import shutil
import tarfile
import tempfile
from dataclasses import dataclass
from datetime import UTC, date, datetime
from pathlib import Path
from typing import Any, Final

import httpx

from benchmarks.support.cards import make_card
from benchmarks.support.packages import make_package
from benchmarks.support.processes import NodeProcess, free_port, running_node
from benchmarks.support.studio import TOKEN
from detector.engine.verification import verify
from detector.errors import DownloadFailed
from detector.label_studio.backend.correction_queue import CorrectionQueue, Hint
from detector.label_studio.backend.known_projects import KnownProjects
from detector.models.downloads import download
from detector.models.store import ModelStore
from detector.pose.images import encode_jpeg
from tests.support.file_server import serving

ARCHIVES: Final = Path(__file__).parent
CONTENT: Final = b''.join(number.to_bytes(4) for number in range(150_000))
"""File of which the archive has the beginning, as an incomplete download; it compresses well."""
_EXPECTED: Final = 'expected.json'
_LEFT_OUT: Final = ('node.lock', 'models.lock')
"""Lock files. They name the process and the host that wrote the archive."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Expected:
    """Content of a written data folder.

    :param version: version of the current model.
    :param images: names of the waiting images, in the order of sending.
    :param set_aside: names in `outbox/set_aside`.
    :param corrections: counters of the corrections, and the annotations that wait.
    :param projects: numbers of the known projects.
    :param received: bytes of the incomplete download.
    """

    version: str
    images: list[str]
    set_aside: list[str]
    corrections: dict[str, Any]
    projects: list[int]
    received: int


def settings(loop_port: int, studio_port: int) -> dict[str, object]:
    """Return the settings of a node that sends nothing: nothing listens on these ports."""
    return {
        'LOOP_HOST': f'127.0.0.1:{loop_port}',
        'LOOP_ORGANIZATION': 'organization',
        'LOOP_PROJECT': 'project',
        'LABEL_STUDIO_URL': f'http://127.0.0.1:{studio_port}',
        'LABEL_STUDIO_API_TOKEN': TOKEN,
    }


def write(folder: Path) -> Expected:
    """Write a data folder into an empty folder, with `data` as its name."""
    data = folder / 'data'
    _install_models(data, folder)
    _write_label_studio(data / 'label_studio')
    with running_node(folder, **settings(free_port(), free_port())) as node:
        _upload(node)
        annotations = [{'id': 3}, {'id': 4}]
        body = {'action': 'ANNOTATIONS_CREATED', 'annotations': annotations, 'project': {'id': 7}}
        httpx.post(f'{node.url}/webhook', json=body, timeout=30).raise_for_status()
        images = [image['name'] for image in node.outbox()['images']]
        node.process.kill()
        node.process.wait()
    set_aside = _write_remains(data / 'outbox', images)
    received = asyncio.run(_download_in_part(data / 'downloads'))
    queue = CorrectionQueue(data / 'label_studio' / 'corrections.sqlite')
    corrections = queue.about()
    queue.close()
    return Expected(
        version='1.10',
        images=images,
        set_aside=set_aside,
        corrections=corrections,
        projects=[7, 8],
        received=received,
    )


def _install_models(data: Path, folder: Path) -> None:
    store = ModelStore(data)
    for version in ('1.9', '1.10'):
        store.install(make_package(folder / f'{version}.zip', version=version, name='old'), verify=verify)


def _write_label_studio(folder: Path) -> None:
    """Write two known projects, and a queue with one annotation of each end."""
    projects = KnownProjects(folder / 'projects.json')
    for number in (7, 8):
        projects.keep(number).start(datetime(2026, 11, 1, 12, tzinfo=UTC))
        projects.keep(number).note_titles('old 1.10')
    projects.save()
    queue = CorrectionQueue(folder / 'corrections.sqlite')
    for annotation in (1, 2):
        queue.add([Hint(annotation=annotation, project=7)], 0.0)
    for finish in (queue.finish, queue.give_up):
        hint, _ = queue.next()
        assert hint is not None
        finish(hint, 'v1')
    queue.close()


def _upload(node: NodeProcess) -> None:
    """Upload two images of normal priority and two of high priority."""
    jpeg = encode_jpeg(make_card()[::4, ::4], quality=50)
    for priority in ('false', 'true'):
        parts = [('files', (f'{number}.jpg', jpeg)) for number in range(2)]
        httpx.post(
            f'{node.url}/upload?source=old&upload_priority={priority}', files=parts, timeout=60
        ).raise_for_status()


def _write_remains(outbox: Path, images: list[str]) -> list[str]:
    """Leave what kills leave: an image that was being saved, one that was being removed, and one without metadata.

    :return: names in `set_aside` after the next start.
    """
    source = outbox / 'normal' / images[-1]
    states = ('.saving', '.removing', 'set_aside', 'normal')
    names = [f'2026-11-01_12:00:00.00000{number}' for number in range(len(states))]
    for state, name in zip(states, names, strict=True):
        shutil.copytree(source, outbox / state / name)
        for file in (outbox / state / name).iterdir():
            file.rename(file.with_name(f'image_{name}{file.suffix}'))
    (outbox / states[-1] / names[-1] / f'image_{names[-1]}.json').unlink()
    return names[-2:]


async def _download_in_part(folder: Path) -> int:
    folder.mkdir(exist_ok=True)
    with serving(CONTENT) as server:
        server.cuts = [400_000, 0, 0, 0]
        async with httpx.AsyncClient(timeout=5) as client:
            try:
                await download(client, server.url, folder / 'old.zip', max_bytes=10**6)
            except DownloadFailed:
                return (folder / 'old.zip.part').stat().st_size
    raise AssertionError('the download was not interrupted')


def pack(folder: Path, expected: Expected, archive: Path) -> None:
    """Pack `data` of a folder, without compiled networks and lock files, and what it contains."""
    described = json.dumps({name: getattr(expected, name) for name in Expected.__slots__}, indent=1).encode()
    with tarfile.open(archive, 'w:xz') as target:
        target.add(folder / 'data', 'data', filter=_without_owner)
        entry = tarfile.TarInfo(_EXPECTED)
        entry.size = len(described)
        target.addfile(entry, io.BytesIO(described))


def _without_owner(entry: tarfile.TarInfo) -> tarfile.TarInfo | None:
    parts = Path(entry.name).parts
    if parts[-1] in _LEFT_OUT or parts[1:2] == ('cache',):
        return None
    entry.uid = entry.gid = 0
    entry.uname = entry.gname = ''
    return entry


def unpack(archive: Path, folder: Path) -> Expected:
    """Unpack an archive into a folder, and return what `data` in it contains."""
    with tarfile.open(archive) as source:
        source.extractall(folder, filter='data')
    return Expected(**json.loads((folder / _EXPECTED).read_bytes()))


def main() -> None:
    with tempfile.TemporaryDirectory() as temporary:
        expected = write(Path(temporary))
        pack(Path(temporary), expected, ARCHIVES / f'{date.today().isoformat()}.tar.xz')


if __name__ == '__main__':
    main()
