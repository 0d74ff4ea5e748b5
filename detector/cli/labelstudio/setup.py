"""`wholebody labelstudio config`, `init` and `import`: a project and its images."""

import asyncio
import sys
from enum import StrEnum
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Literal

import typer

from detector.errors import InvalidRequest
from detector.pose.skeleton import PART_BY_NAME
from detector.settings import Settings, load_settings

from .common import ProjectOption, in_project, progress_bar

if TYPE_CHECKING:
    from detector.label_studio.workflows.image_imports import Report

_TITLE = 'Whole-body pose'


class ConfigStyle(StrEnum):
    """Of regions."""

    SKELETON = 'skeleton'
    KEYPOINTS = 'keypoints'


def config(
    style: Annotated[
        ConfigStyle, typer.Option(help='A region per person with its limbs, or one per keypoint.')
    ] = ConfigStyle.SKELETON,
    parts: Annotated[
        str | None, typer.Option(help='Only these, e.g. body,left_hand.', show_default=','.join(PART_BY_NAME))
    ] = None,
    output: Annotated[
        Path | None, typer.Option('--output', '-o', help='File to write.', show_default='print it')
    ] = None,
) -> None:
    """The recommended labeling config, to be pasted into a project's settings."""
    xml = _generated(style, parts)
    if output is None:
        print(xml, end='')
        return
    output.parent.mkdir(parents=True, exist_ok=True)
    output.write_text(xml)
    print(output)


def _generated(style: ConfigStyle, parts: str | None) -> str:
    from detector.label_studio.labels.config import generate

    chosen = tuple(PART_BY_NAME) if parts is None else [part.strip() for part in parts.split(',')]
    return generate(style.value, chosen)


def init(
    title: Annotated[
        str | None, typer.Option(help='Of the project to create, or to change.', show_default=_TITLE)
    ] = None,
    project: Annotated[
        str | None, typer.Option('--project', '-p', help='Number or address of a project to change instead.')
    ] = None,
    style: Annotated[
        ConfigStyle | None,
        typer.Option(help='A region per person with its limbs, or one per keypoint.', show_default='skeleton'),
    ] = None,
    parts: Annotated[
        str | None, typer.Option(help='Only these, e.g. body,left_hand.', show_default=','.join(PART_BY_NAME))
    ] = None,
    config_file: Annotated[
        Path | None,
        typer.Option('--config', help='File with another labeling config.', exists=True, dir_okay=False),
    ] = None,
    node: Annotated[
        str | None,
        typer.Option(
            help='Address of the node as Label Studio reaches it.', show_default='http://localhost:BACKEND_PORT'
        ),
    ] = None,
    sampling: Annotated[
        Literal['uncertainty', 'sequential', 'uniform'], typer.Option(help='Order in which tasks are handed out.')
    ] = 'uncertainty',
    no_backend: Annotated[bool, typer.Option('--no-backend', help='Leave the backend as it is.')] = False,
) -> None:
    """Create a project, or change what differs: labeling config, sampling, the node as backend, its webhook.

    Needs LABEL_STUDIO_URL and LABEL_STUDIO_API_TOKEN; BASIC_AUTH_USER and BASIC_AUTH_PASS, or API_TOKEN, must be those
    of the node.
    Run it again after a switch of models: uncertainty sampling goes by the name of the backend.
    """
    if project is not None and title is not None:
        raise typer.BadParameter('a project keeps its title: give --title or --project, not both')
    if config_file is not None and (style is not None or parts is not None):
        raise typer.BadParameter('--style and --parts describe a generated config: give them or --config, not both')
    if no_backend and node is not None:
        raise typer.BadParameter('--no-backend leaves the node out: give --node or --no-backend, not both')
    xml = _generated(style or ConfigStyle.SKELETON, parts) if config_file is None else _read_config(config_file)
    settings = load_settings()
    asyncio.run(
        _init(
            settings,
            xml,
            title=_TITLE if title is None else title,
            project=project,
            node=None if no_backend else node or f'http://localhost:{settings.backend_port}',
            sampling=sampling,
            keep_looks=config_file is None,
        )
    )


def _read_config(file: Path) -> str:
    from detector.label_studio.labels.config import parse

    try:
        xml = file.read_text(encoding='utf-8')
        parse(xml)
    except (InvalidRequest, UnicodeDecodeError) as error:
        raise InvalidRequest(f'--config {file}: {error}') from None
    return xml


async def _init(
    settings: Settings,
    xml: str,
    *,
    title: str,
    project: str | None,
    node: str | None,
    sampling: Literal['uncertainty', 'sequential', 'uniform'],
    keep_looks: bool,
) -> None:
    from detector.label_studio.server.client import connected
    from detector.label_studio.server.project import Project, project_id_of
    from detector.label_studio.workflows.project_setup import Node, set_up

    backend = None
    if node is not None:
        user, password = settings.label_studio_login or (None, None)
        backend = Node(url=node, user=user, password=password)
    changes = 0

    def say(change: str) -> None:
        nonlocal changes
        changes += 1
        print(change, flush=True)

    async with connected(settings) as connection:
        found = await set_up(
            connection,
            label_config=xml,
            title=title,
            project=None if project is None else Project(connection, project_id_of(project)),
            sampling=sampling,
            node=backend,
            keep_looks=keep_looks,
            say=say,
            warn=lambda text: print(f'warning: {text}', file=sys.stderr),
        )
        if not changes:
            print(f'project {found.id} is as it should be; nothing is changed')
        print(found.page())
        print(f'next: wholebody labelstudio import FOLDER --project {found.id}')


def import_images(
    paths: Annotated[list[Path], typer.Argument(help='Image files, or folders of them.', exists=True)],
    project: ProjectOption,
    recursive: Annotated[bool, typer.Option('--recursive', '-r', help='Look into folders of folders, too.')] = False,
    local_files: Annotated[
        bool,
        typer.Option('--local-files', help='Upload nothing: Label Studio serves the files from where they are.'),
    ] = False,
    document_root: Annotated[
        Path | None,
        typer.Option(
            help='With --local-files: LABEL_STUDIO_LOCAL_FILES_DOCUMENT_ROOT of Label Studio.',
            exists=True,
            file_okay=False,
        ),
    ] = None,
    remote_root: Annotated[
        str | None,
        typer.Option(help='The same folder as Label Studio sees it (Docker).', show_default='the document root'),
    ] = None,
) -> None:
    """Import images as tasks: JPEG, PNG, WebP.

    What the project has already, by the SHA-256 of the file, is skipped, so that an interrupted import goes on when it
    is run again. Images that cannot be decoded are reported and left out, and make the exit status 1.
    """
    if local_files != (document_root is not None):
        raise typer.BadParameter('--local-files and --document-root belong together')
    if remote_root is not None and not local_files:
        raise typer.BadParameter('--remote-root needs --local-files')
    from pathlib import PurePosixPath

    from detector.label_studio.workflows.image_imports import ENDINGS, LocalFiles, find_images
    from detector.label_studio.workflows.image_imports import import_images as run

    local = None
    if document_root is not None:
        local = LocalFiles(root=document_root, remote_root=None if remote_root is None else PurePosixPath(remote_root))
    settings = load_settings()
    files, others = find_images(paths, recursive=recursive)
    if not files:
        hint = '' if recursive else '; --recursive looks into the folders there'
        raise InvalidRequest(f'there is no image ({", ".join(ENDINGS)}) in {", ".join(map(str, paths))}{hint}')
    with progress_bar() as bar:
        show = partial(bar.advance, bar.add_task('importing', total=len(files)))
        report = in_project(
            settings,
            project,
            lambda found: run(found, files, local=local, max_pixels=settings.max_image_pixels, on_progress=show),
        )
    for path, why in report.left_out:
        print(f'error: {path}: {why}', file=sys.stderr)
    print(_summary(report, others))
    raise typer.Exit(1 if report.left_out else 0)


def _summary(report: 'Report', others: int) -> str:
    parts = [f'{report.imported} imported']
    counts = {
        'there already': report.present,
        'repeated': report.repeated,
        'left out': len(report.left_out),
        'of other kinds skipped': others,
        'made twice by Label Studio and removed': report.surplus,
    }
    return ', '.join(parts + [f'{count} {what}' for what, count in counts.items() if count])
