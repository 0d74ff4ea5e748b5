"""`wholebody outbox`: the images that wait for the Learning Loop, on this machine or on a running node."""

import json
import re
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Final, Protocol

import typer

from detector.errors import WholebodyError
from detector.outbox.files import Description, Entry, OutboxFiles
from detector.wording import counted

from .common import NodeClient, load_settings, print_table

if TYPE_CHECKING:
    import httpx

app = typer.Typer(
    help='List, export and delete the images that wait for the Learning Loop.',
    no_args_is_help=True,
    rich_markup_mode='markdown',
)

Url = Annotated[str | None, typer.Option(help='Use the outbox of a running node, e.g. http://robot:8004.')]
_ALL: Final = 100_000
"""Number of images requested from a node: more than any outbox holds."""


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
    else:
        _print(images)


def _print(images: list[Description]) -> None:
    if images:
        print_table(('name', 'KiB', 'persons', 'tags', 'source'), map(_row, images))
    oldest = min((image.saved_at for image in images if image.saved_at), default=None)
    size = f'{sum(image.bytes for image in images) / 1024**2:.1f} MiB'
    print(f'{counted(len(images), "image")}, {size}' + (f', the oldest from {oldest}' if oldest else ''))


def _row(image: Description) -> tuple[str, ...]:
    tags = ', '.join([*(['PRIORITY'] if image.priority else []), *map(str, image.tags or [])])
    persons = '?' if image.persons is None else str(image.persons)
    return image.name, f'{image.bytes / 1024:.0f}', persons, tags, str(image.source or '')


@app.command()
def export(
    folder: Annotated[Path, typer.Argument(help='Folder for the copies.', file_okay=False)],
    url: Url = None,
) -> None:
    """Copy the waiting images to a folder, as NAME.jpg and NAME.json. The outbox keeps them."""
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
    yes: Annotated[bool, typer.Option('--yes', help='Delete without confirmation.')] = False,
) -> None:
    """Delete the images that wait on this machine. A running node counts them as vanished."""
    outbox = _Folder(load_settings().outbox_folder)
    entries = outbox.entries()
    if entries and not yes:
        typer.confirm(f'Delete {counted(len(entries), "image")} not yet sent to the Learning Loop?', abort=True)
    deleted = sum(outbox.files.remove(entry) for entry in entries)
    print(f'{counted(deleted, "image")} deleted')
    if deleted < len(entries):
        raise WholebodyError(f'{counted(len(entries) - deleted, "image")} cannot be deleted; the log says why')


def _file_name(name: str) -> str:
    """Return a name that is valid on every file system and cannot leave its folder, whatever a node sends."""
    return re.sub(r'[^\w-]', '-', name.replace('.', '_'))


class _Outbox(Protocol):
    """An outbox, here or on a node."""

    def images(self) -> list[Description]:
        """List the images in the order in which they will be sent."""

    def read(self, name: str) -> tuple[bytes, bytes] | None:
        """Return an image's JPEG and metadata, None if it is gone."""


class _Folder:
    """The outbox of this machine. A node may use it at the same time."""

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

    def __init__(self, node: NodeClient) -> None:
        self._node = node

    def images(self) -> list[Description]:
        answer = self._get('/outbox', limit=_ALL)  # one request, since the list keeps changing
        try:
            assert answer is not None
            return [Description(**image) for image in answer.json()['images']]
        except (AssertionError, ValueError, KeyError, TypeError):
            raise WholebodyError(f'{self._node.address} is not a node with an outbox') from None

    def read(self, name: str) -> tuple[bytes, bytes] | None:
        jpeg, metadata = (self._get(f'/outbox/{name}/{kind}') for kind in ('image', 'metadata'))
        return None if jpeg is None or metadata is None else (jpeg.content, metadata.content)

    def _get(self, path: str, **parameters: Any) -> 'httpx.Response | None':
        """Return the node's answer, None if the status is 404."""
        response = self._node.send('GET', path, params=parameters)
        if response.status_code == 404:
            return None
        if not response.is_success:
            raise self._node.fault(response, response.text[:200])
        return response


@contextmanager
def _outbox(url: str | None) -> Iterator[_Outbox]:
    settings = load_settings()
    if url is None:
        yield _Folder(settings.outbox_folder)
        return
    with NodeClient(url, settings) as node:
        yield _Node(node)
