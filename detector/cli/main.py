"""The command `wholebody`.

Modules that load slowly are imported when a command runs, so that `--help` and `--version` answer at once.
"""

import io
import os
import signal
import sys
from pathlib import Path
from typing import Annotated

import typer

from detector.errors import InvalidSettings, WholebodyError
from detector.wording import counted

from .bench.command import bench
from .common import load_settings
from .labelstudio.app import app as labelstudio_app
from .model import app as model_app
from .outbox import app as outbox_app

app = typer.Typer(
    help='Whole-body pose: 133 keypoints per person, as a Learning Loop detector node and on the command line.',
    no_args_is_help=True,
    rich_markup_mode='markdown',
    pretty_exceptions_enable=False,
    add_completion=False,
)
app.add_typer(model_app, name='model')
app.add_typer(outbox_app, name='outbox')
app.add_typer(labelstudio_app, name='labelstudio')


def main() -> None:
    """Run the command line. Report an error of this project as one message on standard error."""
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, io.TextIOWrapper):
            stream.reconfigure(errors='backslashreplace')  # for terminals that cannot show ✓
    try:
        app()
    except InvalidSettings as error:
        _fail(error, 2)
    except (WholebodyError, OSError, UnicodeError) as error:
        _fail(error, 1)


def _fail(error: Exception, code: int) -> None:
    for line in str(error).splitlines():
        print(f'error: {line}', file=sys.stderr)
    sys.exit(code)


@app.callback(invoke_without_command=True)
def _version(
    version: Annotated[bool, typer.Option('--version', help='Print the version and exit.')] = False,
) -> None:
    if version:
        from detector import __version__

        print(__version__)
        raise typer.Exit


@app.command()
def serve(
    host: Annotated[str | None, typer.Option(help='Address to bind to.  [default: NODE_HOST, else 0.0.0.0]')] = None,
    port: Annotated[int | None, typer.Option(help='Port to bind to.  [default: BACKEND_PORT, else 8004]')] = None,
) -> None:
    """Serve the node: REST and Socket.IO on one port.

    The command reads its settings from the environment and from .env. Without LOOP_HOST, the node sends nothing to
    other machines and stores no images. Without an installed model, it serves the starter model, or what MODE names.
    """
    for number in (signal.SIGTERM, signal.SIGINT):  # during the slow imports below
        signal.signal(number, lambda *_: os._exit(0))
    changes = {'node_host': host, 'backend_port': port}
    settings = load_settings(**{name: value for name, value in changes.items() if value is not None})

    from detector.node.server import serve as serve_node

    serve_node(settings)


@app.command()
def detect(
    images: Annotated[list[Path], typer.Argument(help='Image files, or folders with images.', exists=True)],
    output: Annotated[
        Path | None,
        typer.Option('--output', '-o', help='Draw the skeletons: write a file for one image, a folder for several.'),
    ] = None,
    as_json: Annotated[bool, typer.Option('--json', help='Print JSON, one line per image.')] = False,
    url: Annotated[str | None, typer.Option(help='Use a running node, e.g. http://robot:8004.')] = None,
    model: Annotated[
        Path | None, typer.Option(help='Use this package instead of the installed model.', exists=True)
    ] = None,
) -> None:
    """Find the persons in images and their 133 keypoints.

    The command prints one line or one JSON object per image. It reports images that fail, and its exit status is then
    1.
    """
    if url is not None and model is not None:
        raise typer.BadParameter('a node uses its own model: give --url or --model, not both')
    from .detect import run

    failed = run(load_settings(), images, output=output, as_json=as_json, url=url, model=model)
    raise typer.Exit(1 if failed else 0)


app.command()(bench)


@app.command()
def doctor(
    security: Annotated[bool, typer.Option('--security', help='Check instead what is open to whom.')] = False,
) -> None:
    """Check this installation: packages, runtimes, devices, model, Learning Loop, Label Studio.

    The exit status is 1 if a check fails.
    """
    if security:
        from .doctor_security import examine
    else:
        from .doctor import examine

    settings = load_settings()
    failed = False
    for check in examine(settings):
        failed |= check.state == 'failed'
        print(f'{check.mark} {check.name}: {check.detail}')
    raise typer.Exit(1 if failed else 0)


@app.command()
def card(
    output: Annotated[Path, typer.Option('--output', '-o', help='Image file to write: .png or .jpg.')],
    persons: Annotated[int, typer.Option(help='Number of figures.', min=0, max=12)] = 1,
    width: Annotated[int, typer.Option(help='Width in pixels.', min=64, max=8192)] = 1280,
    height: Annotated[int, typer.Option(help='Height in pixels.', min=64, max=8192)] = 960,
    background: Annotated[
        Path | None,
        typer.Option(
            help='Picture to draw the figures on.', exists=True, dir_okay=False, show_default='a light grey area'
        ),
    ] = None,
) -> None:
    """Draw a test card, a picture that the test card model reads. It checks a camera or the whole chain."""
    try:
        from mock.test_card.cards import write_card
    except ImportError:
        from detector.models.embedded import EXAMPLE_CARD

        raise typer.BadParameter(
            'only the source checkout contains the test card renderer (folder mock); an example card is installed: '
            f'{EXAMPLE_CARD}'
        ) from None
    write_card(output, persons=persons, size=(width, height), background=background)
    print(f'{output}: {counted(persons, "person")}')


@app.command(
    'mock-loop',
    context_settings={'allow_extra_args': True, 'ignore_unknown_options': True, 'help_option_names': []},
)
def mock_loop(context: typer.Context) -> None:
    """Serve a mock Learning Loop, or control a running one; see `wholebody mock-loop --help`."""
    try:
        from mock.loop.commands import app as mock_app
    except ImportError:
        raise typer.BadParameter('only the source checkout contains the mock Learning Loop (folder mock)') from None
    mock_app(context.args, prog_name='wholebody mock-loop')
