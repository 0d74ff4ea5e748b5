"""`wholebody outbox`: what waits for the Learning Loop, on this machine or at a running node."""

import json
import re
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Final, Protocol

import typer

from detector.errors import InvalidRequest, WholebodyError
from detector.outbox.files import Description, Entry, OutboxFiles
from detector.settings import load_settings, without_logins
from detector.wording import counted

if TYPE_CHECKING:
    import httpx

app = typer.Typer(help='List, export and clear what waits for the Learning Loop.', no_args_is_help=True)

Url = Annotated[
    str | None,
    typer.Option(help='Ask a running node, e.g. http://robot:8004, instead of looking into DATA_FOLDER here.'),
]
_ALL: Final = 100_000
_TIMEOUT_SECONDS: Final = 60


@app.command('list')
def list_images(
    url: Url = None,
    as_json: Annotated[bool, typer.Option('--json', help='Print JSON, one line per image.')] = False,
) -> None:
    """List the images in the outbox, in the order in which they will be sent."""
    from dataclasses import asdict

    with _outbox(url) as outbox:
        images = outbox.images()
    if as_json:
        for image in images:
            print(json.dumps(asdict(image)))
        return
    _print_table(images)


def _print_table(images: list[Description]) -> None:
    from rich.console import Console
    from rich.table import Table

    table = Table('name', 'KiB', 'persons', 'tags', 'source', box=None, pad_edge=False)
    for image in images:
        tags = ', '.join([*(['PRIORITY'] if image.priority else []), *(image.tags or [])])
        persons = '?' if image.persons is None else str(image.persons)
        table.add_row(image.name, f'{image.bytes / 1024:.0f}', persons, tags, image.source or '')
    if images:
        Console().print(table)
    oldest = min((image.saved_at for image in images if image.saved_at), default=None)
    size = f'{sum(image.bytes for image in images) / 1024**2:.1f} MiB'
    print(f'{counted(len(images), "image")}, {size}' + (f', the oldest of {oldest}' if oldest else ''))


@app.command()
def export(
    folder: Annotated[Path, typer.Argument(help='Where to copy the images and their metadata.', file_okay=False)],
    url: Url = None,
) -> None:
    """Copy what waits into a folder, as NAME.jpg and NAME.json; nothing is removed from the outbox."""
    from rich.progress import track

    folder.mkdir(parents=True, exist_ok=True)
    copied = 0
    with _outbox(url) as outbox:
        for image in track(outbox.images(), description='exporting', transient=True):
            contents = outbox.read(image.name)
            if contents is None:
                continue  # sent in the meantime
            for ending, content in zip(('jpg', 'json'), contents, strict=True):
                (folder / f'{_file_name(image.name)}.{ending}').write_bytes(content)
            copied += 1
    print(f'{folder}: {counted(copied, "image")}')


@app.command()
def clear(
    yes: Annotated[bool, typer.Option('--yes', help='Do not ask.')] = False,
) -> None:
    """Delete what waits on this machine, for good. A node that runs counts these images as vanished."""
    outbox = _Folder(load_settings().outbox_folder)
    entries = outbox.entries()
    if entries and not yes:
        typer.confirm(f'Delete {counted(len(entries), "image")} that the Learning Loop has not got yet?', abort=True)
    deleted = sum(outbox.files.remove(entry) for entry in entries)
    print(f'{counted(deleted, "image")} deleted')
    if deleted < len(entries):
        raise WholebodyError(f'{counted(len(entries) - deleted, "image")} cannot be deleted; the log says why')


def _file_name(name: str) -> str:
    """A name that every file system takes, and that stays in its folder whatever a node sends."""
    return re.sub(r'[^\w-]', '-', name.replace('.', '_'))


class _Outbox(Protocol):
    """Where images wait."""

    def images(self) -> list[Description]:
        """In the order in which they will be sent."""

    def read(self, name: str) -> tuple[bytes, bytes] | None:
        """JPEG and metadata of an image; None if it is gone."""


class _Folder:
    """The outbox of this machine; a node may be at work on it."""

    def __init__(self, folder: Path) -> None:
        self.files = OutboxFiles(folder)

    def entries(self) -> list[Entry]:
        found, _ = self.files.scan()
        normal = [entry for entry in found if not entry.priority]
        return [entry for entry in found if entry.priority] + normal[::-1]

    def images(self) -> list[Description]:
        return [entry.describe() for entry in self.entries()]

    def read(self, name: str) -> tuple[bytes, bytes] | None:
        for priority in (True, False):
            entry = self.files.entry(name, priority=priority)
            try:
                return entry.jpeg.read_bytes(), entry.metadata.read_bytes()
            except FileNotFoundError:
                pass
        return None


class _Node:
    """The outbox of a running node."""

    def __init__(self, client: 'httpx.Client') -> None:
        self._client = client
        self._address = without_logins(str(client.base_url))

    def images(self) -> list[Description]:
        answer = self._get('/outbox', limit=_ALL)  # in one piece, since the list changes all the time
        try:
            assert answer is not None
            return [Description(**image) for image in answer.json()['images']]
        except (AssertionError, ValueError, KeyError, TypeError):
            raise WholebodyError(f'{self._address} is no node with an outbox') from None

    def read(self, name: str) -> tuple[bytes, bytes] | None:
        jpeg, metadata = (self._get(f'/outbox/{name}/{kind}') for kind in ('image', 'metadata'))
        return None if jpeg is None or metadata is None else (jpeg.content, metadata.content)

    def _get(self, path: str, **parameters: Any) -> 'httpx.Response | None':
        """None: nothing is there."""
        import httpx

        try:
            response = self._client.get(path, params=parameters)
        except httpx.HTTPError as error:
            raise WholebodyError(f'no answer from {self._address}: {error}') from error
        if response.status_code == httpx.codes.NOT_FOUND:
            return None
        if not response.is_success:
            raise WholebodyError(f'{self._address} answers {response.status_code}: {response.text[:200]}')
        return response


@contextmanager
def _outbox(url: str | None) -> Iterator[_Outbox]:
    if url is None:
        yield _Folder(load_settings().outbox_folder)
        return
    import httpx

    headers = load_settings().request_headers
    try:
        client = httpx.Client(base_url=httpx.URL(url), timeout=_TIMEOUT_SECONDS, headers=headers)
    except httpx.InvalidURL as error:
        raise InvalidRequest(f'{without_logins(url)!r} is no address: {error}') from None
    with client:
        yield _Node(client)
