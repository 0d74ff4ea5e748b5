"""`wholebody labelstudio config`, `init` and `import`: set up a project and its images."""

import asyncio
import sys
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Final, Literal

import typer

from detector.cli.common import load_settings, progress_bar, write_text
from detector.errors import InvalidRequest

from .common import ProjectOption, in_project, print_report, resumable

if TYPE_CHECKING:
    from detector.label_studio.workflows.image_imports import Report
    from detector.settings import Settings

_TITLE: Final = 'Whole-body pose'
_PARTS: Final = 'body,feet,face,left_hand,right_hand'
"""Names of all parts of the skeleton; written out, since the skeleton's module loads NumPy."""


Style = Literal['skeleton', 'parts', 'keypoints']
Sampling = Literal['uncertainty', 'sequential', 'uniform']

_STYLE_HELP: Final = 'One region per person with its limbs, one per part of the body, or one per keypoint.'
PartsOption = Annotated[str | None, typer.Option(help='Parts to label, e.g. body,left_hand.', show_default=_PARTS)]


def config(
    style: Annotated[Style, typer.Option(help=_STYLE_HELP)] = 'skeleton',
    parts: PartsOption = None,
    output: Annotated[
        Path | None, typer.Option('--output', '-o', help='File to write.', show_default='print it')
    ] = None,
    check: Annotated[
        Path | None,
        typer.Option(help='Config to check instead: list what its labels stand for.', exists=True, dir_okay=False),
    ] = None,
) -> None:
    """Print or write the recommended labeling config, to paste into a project's settings; or check a config.

    With --parts, the style skeleton has one region per part. With --check, the exit status is 1 if labels for keypoints
    or skeletons stand for none.
    """
    if check is not None:
        raise typer.Exit(_check(check))
    xml = _generated(style, parts)
    if output is None:
        print(xml, end='')
    else:
        write_text(output, xml)


def _generated(style: Style, parts: str | None) -> str:
    from detector.label_studio.labels.config import generate

    return generate(style, None if parts is None else [part.strip() for part in parts.split(',')])


def _check(file: Path) -> int:
    """Print what a labeling config offers, and return the exit status."""
    from detector.label_studio.labels.config import parse
    from detector.label_studio.labels.config_report import report, unmatched

    found = parse(_read_config(file, '--check'))
    for line in report(found, full=True):
        print(line)
    return 1 if unmatched(found) else 0


def init(
    title: Annotated[str | None, typer.Option(help='Title of the project.', show_default=_TITLE)] = None,
    project: Annotated[
        str | None,
        typer.Option('--project', '-p', help='Connect the project with this number, address or title instead.'),
    ] = None,
    style: Annotated[Style | None, typer.Option(help=_STYLE_HELP, show_default='skeleton')] = None,
    parts: PartsOption = None,
    config_file: Annotated[
        Path | None,
        typer.Option('--config', help='File with a labeling config of your own.', exists=True, dir_okay=False),
    ] = None,
    replace_config: Annotated[
        bool,
        typer.Option(
            '--replace-config', help='Replace the labeling config of a project that exists, after a question.'
        ),
    ] = False,
    yes: Annotated[bool, typer.Option('--yes', '-y', help='With --replace-config: do not ask.')] = False,
    node: Annotated[
        str | None,
        typer.Option(
            help='Address under which Label Studio reaches the node.', show_default='http://localhost:BACKEND_PORT'
        ),
    ] = None,
    sampling: Annotated[
        Sampling | None,
        typer.Option(
            help='Order in which annotators get tasks.', show_default='uncertainty; an existing project keeps its own'
        ),
    ] = None,
    no_backend: Annotated[bool, typer.Option('--no-backend', help='Do not change the backend.')] = False,
) -> None:
    """Set up a project: labeling config, sampling, the node as backend, its webhook.

    The command creates the project, or connects one that exists. It never changes the labeling config of an existing
    project unless you give --replace-config. It needs LABEL_STUDIO_URL and LABEL_STUDIO_API_TOKEN. BASIC_AUTH_USER and
    BASIC_AUTH_PASS, or API_TOKEN, must have the node's values.
    """
    if project is not None and title is not None:
        raise typer.BadParameter('--project does not change a title: give --title or --project, not both')
    if config_file is not None and (style is not None or parts is not None):
        raise typer.BadParameter('--style and --parts describe a generated config: give them or --config, not both')
    if no_backend and node is not None:
        raise typer.BadParameter('--no-backend ignores the node: give --node or --no-backend, not both')
    if yes and not replace_config:
        raise typer.BadParameter('--yes belongs to --replace-config')
    xml = _generated(style or 'skeleton', parts) if config_file is None else _read_config(config_file)
    settings = load_settings()
    asyncio.run(
        _init(
            settings,
            xml,
            title=_TITLE if title is None else title,
            project=project,
            node=None if no_backend else node or f'http://localhost:{settings.backend_port}',
            sampling=sampling,
            replace=partial(_confirm, yes=yes) if replace_config else None,
            is_described=any(option is not None for option in (style, parts, config_file)),
        )
    )


def _confirm(losses: str, *, yes: bool) -> bool:
    """Return True if the user agrees to replace a labeling config."""
    print(losses, file=sys.stderr)
    if yes:
        return True
    if not sys.stdin.isatty():
        raise InvalidRequest('nothing is changed: give --yes to replace the labeling config without a question')
    return typer.confirm('Replace the labeling config?', err=True)


def _read_config(file: Path, option: str = '--config') -> str:
    from detector.datasets.fields import read_text
    from detector.label_studio.labels.config import parse

    try:
        xml = read_text(file)
        parse(xml)
    except InvalidRequest as error:
        raise InvalidRequest(f'{option} {file}: {error}') from None
    return xml


async def _init(
    settings: 'Settings',
    xml: str,
    *,
    title: str,
    project: str | None,
    node: str | None,
    sampling: Sampling | None,
    replace: Callable[[str], bool] | None,
    is_described: bool,
) -> None:
    """:param is_described: True if options describe the labeling config."""
    from detector.label_studio.server.client import connected
    from detector.label_studio.server.project_lookup import find_project
    from detector.label_studio.workflows.project_setup import Node, meaning, set_up

    backend = None
    if node is not None:
        user, password = settings.label_studio_login or (None, None)
        backend = Node(url=node, user=user, password=password)
    changes = 0

    def say(change: str) -> None:
        nonlocal changes
        changes += 1
        print(change, flush=True)

    def warn(text: str) -> None:
        print(f'warning: {text}', file=sys.stderr)

    async with connected(settings) as connection:
        found = await set_up(
            connection,
            label_config=xml,
            title=title,
            project=None if project is None else await find_project(connection, project),
            sampling=sampling,
            node=backend,
            replace=replace,
            say=say,
            warn=warn,
        )
        if is_described and meaning(await found.label_config()) != meaning(xml):
            warn(f'project {found.id} keeps its own labeling config; --replace-config replaces it')
        try:
            print_report(await found.label_config())
        except InvalidRequest as error:
            warn(f'project {found.id}: {error}')
        if not changes:
            print(f'project {found.id} is as it should be; nothing is changed')
        print(found.page())
        print(f'next: wholebody labelstudio import FOLDER --project {found.id}')


def import_images(
    paths: Annotated[list[Path], typer.Argument(help='Image files, or folders with images.', exists=True)],
    project: ProjectOption,
    recursive: Annotated[bool, typer.Option('--recursive', '-r', help='Include nested folders.')] = False,
    local_files: Annotated[
        bool, typer.Option('--local-files', help='Do not upload: Label Studio serves the files from their folder.')
    ] = False,
    document_root: Annotated[
        Path | None,
        typer.Option(
            help="With --local-files: Label Studio's LABEL_STUDIO_LOCAL_FILES_DOCUMENT_ROOT.",
            exists=True,
            file_okay=False,
        ),
    ] = None,
    remote_root: Annotated[
        str | None,
        typer.Option(help="Path of the document root in Label Studio's container.", show_default='the document root'),
    ] = None,
) -> None:
    """Import JPEG, PNG and WebP images as tasks.

    The command skips files that the project already has, by their SHA-256, so a second run completes an interrupted
    import. It reports and leaves out images that cannot be decoded; the exit status is then 1.
    """
    if local_files != (document_root is not None):
        raise typer.BadParameter('give --local-files and --document-root together')
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
        hint = '' if recursive else '; --recursive includes nested folders'
        raise InvalidRequest(f'there is no image ({", ".join(ENDINGS)}) in {", ".join(map(str, paths))}{hint}')
    with resumable(), progress_bar() as bar:
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
