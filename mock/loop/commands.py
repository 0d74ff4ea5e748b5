"""Commands of the mock Learning Loop: `python -m mock`, or `wholebody mock-loop`."""

import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, get_args

import typer
from typer.core import TyperGroup

from detector.wording import counted

from .defaults import DEFAULT_PORT, DEFAULT_URL, ORGANIZATION, PROJECT
from .faults import Endpoint, Kind

if TYPE_CHECKING:
    from .client import LoopClient

app = typer.Typer(
    help='Serve a mock Learning Loop, or control a running one. Without a command it serves.',
    rich_markup_mode='markdown',
    pretty_exceptions_enable=False,
    add_completion=False,
)

Folder = Annotated[Path, typer.Option(envvar='MOCK_LOOP_FOLDER', help='Folder that keeps projects, models and images.')]
Host = Annotated[str, typer.Option(help='Address to bind to.')]
Port = Annotated[int, typer.Option(envvar='MOCK_LOOP_PORT', help='Port to bind to.', min=1, max=65535)]
Username = Annotated[
    str | None, typer.Option(envvar='MOCK_LOOP_USERNAME', help='The only user who may log in. Unset: every client may.')
]
Password = Annotated[str, typer.Option(envvar='MOCK_LOOP_PASSWORD', help='Password of that user.')]

Url = Annotated[str, typer.Option(envvar='MOCK_LOOP_URL', help='Address of the running mock.')]
Organization = Annotated[str, typer.Option(help='Organization in the mock.')]
Project = Annotated[str, typer.Option(help='Project in the mock.')]

DEFAULT_FOLDER = Path('mock-loop-data')


@app.callback(invoke_without_command=True)
def _serve_by_default(context: typer.Context) -> None:
    if context.invoked_subcommand is None:
        assert isinstance(context.command, TyperGroup)
        command = context.command.commands['serve']
        with command.make_context('serve', [], parent=context) as its_context:  # this reads the environment, too
            command.invoke(its_context)


@app.command()
def serve(
    folder: Folder = DEFAULT_FOLDER,
    host: Host = '127.0.0.1',
    port: Port = DEFAULT_PORT,
    username: Username = None,
    password: Password = '',
) -> None:
    """Serve a mock Learning Loop until it is interrupted."""
    from .app import serve as serve_loop

    address = f'{"127.0.0.1" if host == "0.0.0.0" else host}:{port}'
    print(f'mock Learning Loop in {folder}: http://{address} (OpenAPI page: http://{address}/docs)', flush=True)
    print(f'a node follows it with LOOP_HOST={address} LOOP_ORGANIZATION={ORGANIZATION} LOOP_PROJECT={PROJECT}')
    sys.stdout.flush()
    serve_loop(folder, host=host, port=port, username=username, password=password)


@app.command()
def upload(
    package: Annotated[Path, typer.Argument(help='A package: a zip with model.json.', exists=True, dir_okay=False)],
    version: Annotated[str | None, typer.Option(help='Version; by default the next minor version.')] = None,
    as_is: Annotated[bool, typer.Option('--as-is', help='Store any bytes unchanged.')] = False,
    url: Url = DEFAULT_URL,
    organization: Organization = ORGANIZATION,
    project: Project = PROJECT,
) -> None:
    """Upload a package as a new version. It is not verified, so faulty packages can be served, too."""
    with _client(url, organization, project) as loop:
        model_id = loop.upload_package(package, version, rewrite=not as_is)
        model = next(model for model in loop.models() if model['id'] == model_id)
        print(f'version {model["version"]}  {model_id}')


@app.command()
def models(url: Url = DEFAULT_URL, organization: Organization = ORGANIZATION, project: Project = PROJECT) -> None:
    """List the models; the deployment target is marked."""
    with _client(url, organization, project) as loop:
        for model in loop.models():
            files = ', '.join(f'{name} {file["size"] / 1e6:.1f} MB' for name, file in model['files'].items())
            print(f'{"*" if model["target"] else " "} {model["version"]:<8} {model["id"]}  {files}')


@app.command()
def target(
    version: Annotated[str | None, typer.Argument(help='Version to deploy. Without it the target is shown.')] = None,
    url: Url = DEFAULT_URL,
    organization: Organization = ORGANIZATION,
    project: Project = PROJECT,
) -> None:
    """Show or set the deployment target."""
    with _client(url, organization, project) as loop:
        if version is not None:
            loop.set_target(version)
        found = loop.target()
        print(found.get('raw') or f'version {found["version"]}  {found["model_uuid"]}')


@app.command()
def images(
    tag: Annotated[str | None, typer.Option(help='Only images with this tag.')] = None,
    limit: Annotated[int, typer.Option(help='Number of images to list, newest ones.', min=1)] = 20,
    output: Annotated[
        Path | None, typer.Option('--output', '-o', help='Folder to write the images to, with their skeletons drawn.')
    ] = None,
    url: Url = DEFAULT_URL,
    organization: Organization = ORGANIZATION,
    project: Project = PROJECT,
) -> None:
    """List the received images, newest last."""
    with _client(url, organization, project) as loop:
        for image in loop.images(tag, limit=limit, metadata=False):
            print(_image_line(image))
            if output is not None:
                output.mkdir(parents=True, exist_ok=True)
                (output / f'{image["number"]:06}_{image["id"]}.jpg').write_bytes(loop.jpeg(image['id'], skeletons=True))


def _image_line(image: dict[str, Any]) -> str:
    shapes = f'{counted(image["boxes"], "box")}, {counted(image["points"], "point")}'
    line = f'{image["received"][:19]}  {image["id"]}  {image["width"]}×{image["height"]}  {shapes}'
    return '  '.join([line, *(f'#{tag}' for tag in image['tags'])])


@app.command()
def detectors(url: Url = DEFAULT_URL, organization: Organization = ORGANIZATION, project: Project = PROJECT) -> None:
    """List the detectors that have reported, with their latest status."""
    with _client(url, organization, project) as loop:
        for report in loop.detectors().values():
            models = f'model {report["current_model"]}, target {report["target_model"]}'
            print(f'{report["received"][:19]}  {report["name"]}  {report["state"]}, {models}  {report["uuid"]}')
            for key, error in report['errors'].items():
                print(f'  ! {key}: {error}')


@app.command()
def fault(
    endpoint: Annotated[str, typer.Argument(help=', '.join(get_args(Endpoint)))],
    kind: Annotated[str, typer.Argument(help=', '.join(get_args(Kind)))],
    count: Annotated[int | None, typer.Option(help='Number of affected requests. Unset: until deleted.', min=1)] = None,
    share: Annotated[float | None, typer.Option(help='Share of the affected requests, at random, 0..1.')] = None,
    seconds: Annotated[float | None, typer.Option(help='Length of a delay, in seconds.')] = None,
    at: Annotated[float | None, typer.Option(help='Share of the body, 0..1: delay, drop, truncate, corrupt.')] = None,
    bytes_per_second: Annotated[int | None, typer.Option(help='Rate of throttle.')] = None,
    status: Annotated[int | None, typer.Option(help='HTTP status to answer with.')] = None,
    filename: Annotated[str | None, typer.Option(help='File name in the Content-Disposition.')] = None,
    image: Annotated[str | None, typer.Option(help='Name of the image to reject; by default the first one.')] = None,
    url: Url = DEFAULT_URL,
) -> None:
    """Order a fault that affects requests to an endpoint from now on."""
    given = {
        'count': count,
        'share': share,
        'seconds': seconds,
        'at': at,
        'bytes_per_second': bytes_per_second,
        'status': status,
        'filename': filename,
        'image': image,
    }
    with _client(url, ORGANIZATION, PROJECT) as loop:
        parameters = {name: value for name, value in given.items() if value is not None}
        print(f'fault {loop.fault(endpoint, kind, **parameters)}: {endpoint} {kind}')


@app.command()
def faults(
    clear: Annotated[bool, typer.Option('--clear', help='Delete all faults.')] = False, url: Url = DEFAULT_URL
) -> None:
    """List the faults and how many requests each has affected, or delete them."""
    with _client(url, ORGANIZATION, PROJECT) as loop:
        if clear:
            loop.clear_faults()
        for entry in loop.faults():
            left = 'until deleted' if entry['count'] is None else f'of {entry["count"]}'
            mark = '*' if entry['active'] else ' '
            print(f'{mark} {entry["id"]}  {entry["endpoint"]} {entry["kind"]}  fired {entry["fired"]} {left}')


@contextmanager
def _client(url: str, organization: str, project: str) -> Iterator['LoopClient']:
    """Provide a client whose refusals become one message on standard error and exit status 1."""
    from .client import LoopClient, LoopRefusal

    try:
        with LoopClient(url, organization=organization, project=project) as client:
            yield client
    except LoopRefusal as error:
        print(f'error: {error}', file=sys.stderr)
        raise typer.Exit(1) from None
