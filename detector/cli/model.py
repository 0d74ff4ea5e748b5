"""`wholebody model`: pull published models; pack, verify, install, choose, remove and upload model packages."""

import json
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Final, Literal

import typer

from detector.errors import FolderInUse, InvalidRequest, WholebodyError

from .common import NodeClient, load_settings, print_table

if TYPE_CHECKING:
    from detector.models.catalogue import Watch
    from detector.models.downloads import Progress as ByteProgress
    from detector.models.library import AvailableModel, ModelLibrary
    from detector.models.package import Verify
    from detector.settings import Settings

app = typer.Typer(
    help='Pull published models; pack, verify, install, choose, remove and upload model packages.',
    no_args_is_help=True,
    rich_markup_mode='markdown',
)

ColorOrderOption = Literal['RGB', 'BGR']
Url = Annotated[str | None, typer.Option(help='Address of the node that uses DATA_FOLDER, e.g. http://localhost:8004.')]
AsJson = Annotated[bool, typer.Option('--json', help='Print JSON, one line per model.')]
_SWITCH_SECONDS: Final = 300
"""Time in which a running node must have switched to another model, in seconds."""

Archive = Annotated[Path, typer.Argument(help='A package: a zip with model.json, det.onnx and pose.onnx.')]


@app.command()
def pack(
    det: Annotated[Path, typer.Option(help='ONNX file of a YOLOX person detector.', exists=True, dir_okay=False)],
    pose: Annotated[Path, typer.Option(help='ONNX file of an RTMW or RTMPose estimator.', exists=True, dir_okay=False)],
    output: Annotated[Path, typer.Option('--output', '-o', help='Package to write.')],
    name: Annotated[str, typer.Option(help='Name of the model.')] = 'wholebody',
    version: Annotated[str, typer.Option(help='Version of the model, numbers separated by dots.')] = '1.0',
    det_color: Annotated[ColorOrderOption, typer.Option(help='Colour order that the detector expects.')] = 'BGR',
    pose_color: Annotated[ColorOrderOption, typer.Option(help='Colour order that the estimator expects.')] = 'RGB',
    score_threshold: Annotated[
        float | None, typer.Option(help='Confidence from which a box is a person; 0.5 if unset.', min=0, max=1)
    ] = None,
    score_mapping: Annotated[str, typer.Option(help='Rising points raw score:confidence of keypoints.')] = '0:0,1:1',
    origin: Annotated[str, typer.Option(help='Origin of the networks.')] = '',
    licence: Annotated[str, typer.Option(help='Licence of the networks.')] = '',
) -> None:
    """Pack two ONNX files into a package and verify it.

    The defaults are those of the published rtmlib models: BGR in 0..255 for YOLOX; RGB with ImageNet mean and standard
    deviation for RTMW. The command reads input sizes and the detector's output form from the files.
    """
    from detector.engine.verification import verify as verify_package
    from detector.models.packing import pack_onnx

    package = pack_onnx(
        output,
        detector=det,
        estimator=pose,
        name=name,
        version=version,
        verify=verify_package,
        detector_color=det_color,
        estimator_color=pose_color,
        score_threshold=score_threshold,
        score_mapping=score_mapping,
        origin=origin,
        licence=licence,
    )
    print(f'{output}: {package.model_version}')


@app.command()
def verify(archive: Archive) -> None:
    """Check a package: files, description, hashes, and a trial inference."""
    from detector.engine.pose_engine import EngineOptions
    from detector.engine.thresholds import Thresholds

    settings = load_settings()
    package = _verification(settings)(archive)
    thresholds = Thresholds.of(package, EngineOptions.of(settings))
    print(f'{archive}: {package.model_version} is valid; {thresholds}')


@app.command()
def install(
    archive: Archive,
    replace: Annotated[bool, typer.Option('--replace', help='Replace an installed model of the same version.')] = False,
) -> None:
    """Verify a package, install it in DATA_FOLDER and make it the current model.

    A running node serves it after a restart.
    """
    settings = load_settings()
    package = _library(settings).store.install(archive, verify=_verification(settings), replace=replace)
    print(f'{package.model_version} is installed in {package.folder} and current')
    _tell_about_running_node(settings, package.version)


@app.command()
def available(as_json: AsJson = False) -> None:
    """List the published models that `pull` downloads: size, licence, accuracy, and what is on this machine.

    AP is the published average precision of the pose estimator over the whole body on COCO-WholeBody, in percent.
    """
    from dataclasses import asdict

    models = _library(load_settings()).available()
    if as_json:
        for model in models:
            print(json.dumps(asdict(model)))
        return
    rows = [
        (
            model.mode,
            model.description,
            '?' if model.megabytes is None else f'{model.megabytes:.0f}',
            '?' if model.ap is None else f'{model.ap:.1f}',
            model.licence or '?',
            _state(model),
        )
        for model in models
    ]
    print_table(('model', 'networks', 'MB', 'AP', 'licence', 'here'), rows)
    for source in dict.fromkeys(f'AP: {model.ap_source}' for model in models if model.ap_source):
        print(source)


def _state(model: 'AvailableModel') -> str:
    states = {
        'current': model.current,
        'installed': model.installed,
        'downloaded': model.downloaded,
        "in rtmlib's cache": model.in_rtmlib_cache,
    }
    return next((state for state, holds in states.items() if holds), '')


@app.command('list')
def list_models(as_json: AsJson = False) -> None:
    """List the installed models and those that ship with the project, and mark the one that a node starts with."""
    from dataclasses import asdict

    from detector.models.library import INSTALLED

    settings = load_settings()
    library = _library(settings)
    for model in [*library.installed(), *library.embedded(settings.mode)]:
        if as_json:
            print(json.dumps(asdict(model)))
        elif model.error is not None:
            print(f'! {model.version}: {model.error}')
        else:
            is_installed = model.role == INSTALLED
            details = f'{model.name}  {_mib(model.bytes)}  {model.folder}' if is_installed else f'({model.role})'
            print(f'{"*" if model.current else " "} {model.version}  {details}')


@app.command()
def pull(
    mode: Annotated[str, typer.Argument(help='Published model to download; `available` lists them.')],
    output: Annotated[
        Path | None, typer.Option('--output', '-o', help='Write the package to this file instead of installing it.')
    ] = None,
    offline: Annotated[bool, typer.Option('--offline', help='Use earlier downloads only.')] = False,
    from_rtmlib: Annotated[
        bool, typer.Option('--from-rtmlib', help="Take the networks from rtmlib's cache; nothing is downloaded.")
    ] = False,
) -> None:
    """Download a published rtmlib model, pack it, verify it, install it and make it current.

    The command resumes interrupted downloads, tries mirrors, and records and checks hashes. It uses files that lie in
    `DATA_FOLDER/downloads` already.
    """
    import asyncio

    from detector.models.library import PullRequest

    settings = load_settings()
    library = _library(settings)
    request = PullRequest(mode=mode, offline=offline, from_rtmlib=from_rtmlib)
    with _progress() as watch:
        package = asyncio.run(library.pull(request, output, verify=_verification(settings), watch=watch))
    if output is not None:
        print(f'{output}: {package.model_version}')
        return
    library.store.select(package.version)
    print(f'{package.model_version} is installed in {package.folder} and current')
    _tell_about_running_node(settings, package.version)


@app.command()
def use(
    name: Annotated[
        str, typer.Argument(help='Name or version of an installed model; with --url also `starter` or `test-card`.')
    ],
    url: Url = None,
) -> None:
    """Make an installed model the current one.

    A node serves it from its next start on. With `--url`, the running node switches at once, and the command waits
    until it has.
    """
    from detector.models.embedded import EMBEDDED_NAMES

    settings = load_settings()
    library = _library(settings)
    if url is None:
        if name in EMBEDDED_NAMES:
            raise InvalidRequest(
                f'{name} is embedded: a node starts with it if MODE names it and no model is installed, and a running '
                'node switches to it with --url'
            )
        package = library.use(name)
        print(f'{package.model_version} is current')
        _tell_about_running_node(settings, package.version)
        return
    version = name if name in EMBEDDED_NAMES else library.find(name).version
    with NodeClient(url, settings) as node:
        _switch(node, version)
        print(f'{node.address} serves {version}')


@app.command()
def remove(
    name: Annotated[str, typer.Argument(help='Name or version of an installed model.')],
    url: Url = None,
) -> None:
    """Remove an installed model, but neither the current one nor the one that the running node serves.

    While a node uses DATA_FOLDER, the command needs its address, to learn what it serves.
    """
    settings = load_settings()
    library = _library(settings)
    serving = None
    if url is not None:
        with NodeClient(url, settings) as node:
            serving = _serving(node)
    elif (holder := _running_node(settings)) is not None:
        raise FolderInUse(
            f'a node uses {settings.data_folder} ({holder}): give its address with --url, so that the model that it '
            'serves stays'
        )
    model = library.remove(name, serving=serving)
    print(f'{model.name} {model.version} is removed, which frees {_mib(model.bytes)}'.strip())


@app.command()
def compare(
    first: Annotated[str, typer.Argument(help='An installed model, `starter`, `test-card`, or a package.')],
    second: Annotated[str, typer.Argument(help='Another one.')],
    images: Annotated[Path, typer.Option(help='Folder with photographs.', exists=True, file_okay=False)],
    truth: Annotated[
        Path | None, typer.Option(help='COCO-WholeBody file with the persons of these photographs.', dir_okay=False)
    ] = None,
    json_file: Annotated[Path | None, typer.Option('--json', help='File to write all figures to.')] = None,
) -> None:
    """Run two models on the same photographs: persons found, missed and false, OKS per part, and time.

    With `--truth` both are measured against the annotated persons. Without it, the second is measured against the
    persons of the first, which shows agreement and not which is right. The OKS covers persons that were found. The
    command needs the extra `evaluate`.
    """
    from .compare import run

    run(load_settings(), (first, second), images, truth=truth, json_file=json_file)


def _library(settings: 'Settings') -> 'ModelLibrary':
    from detector.models.library import ModelLibrary
    from detector.models.store import ModelStore

    return ModelLibrary(ModelStore(settings.data_folder), settings.model_catalogue)


def _verification(settings: 'Settings') -> 'Verify':
    from functools import partial

    from detector.engine.pose_engine import EngineOptions
    from detector.engine.verification import verify as verify_package

    return partial(verify_package, options=EngineOptions.of(settings))


def _mib(size: int) -> str:
    return f'{size / 1024**2:.1f} MiB'


# ---------------------------------------------------------------- a running node


def _running_node(settings: 'Settings') -> str | None:
    """Return the process of the node that uses DATA_FOLDER, None if no node does."""
    from detector.system.folder_lock import NODE_LOCK, holder_of

    return holder_of(settings.data_folder / NODE_LOCK)


def _tell_about_running_node(settings: 'Settings', version: str) -> None:
    if (holder := _running_node(settings)) is not None:
        print(
            f'the running node ({holder}) keeps its model until its next start; it switches now with '
            f'`wholebody model use {version} --url http://localhost:{settings.backend_port}`'
        )


def _json(node: NodeClient, route: str, field: str) -> Any:
    """Return a field of a node's answer."""
    response = node.send('GET', route)
    try:
        return response.json()[field]
    except (ValueError, KeyError, TypeError):
        raise node.fault(response, f'no {field!r}, so it is not a node of this project') from None


def _serving(node: NodeClient) -> str:
    """Return the version that a node serves, or the name of an embedded model."""
    return str(_json(node, '/model_version', 'current_version'))


def _switch(node: NodeClient, version: str) -> None:
    """Let a node switch to an installed version or an embedded model, and wait until it serves it.

    :raises WholebodyError: the node refuses the version or cannot serve it.
    """
    response = node.send('PUT', '/model_version', content=version)
    if not response.is_success:
        raise node.fault(response, response.text[:500])
    end = time.monotonic() + _SWITCH_SECONDS
    while time.monotonic() < end:
        if _serving(node) == version:
            return
        update = _json(node, '/about', 'update')
        if not update['busy'] and update['error']:
            raise WholebodyError(f'{node.address} cannot switch to {version}: {update["error"]}')
        time.sleep(0.5)
    raise WholebodyError(f'{node.address} has not switched to {version} within {_SWITCH_SECONDS} seconds')


# ---------------------------------------------------------------- progress, and the Learning Loop


@contextmanager
def _progress() -> Iterator['Watch']:
    """Show a progress bar per file on standard error."""
    from rich.console import Console
    from rich.progress import (
        BarColumn,
        DownloadColumn,
        Progress,
        TaskID,
        TextColumn,
        TimeRemainingColumn,
        TransferSpeedColumn,
    )

    columns = (TextColumn('{task.description}'), BarColumn(), DownloadColumn(), TransferSpeedColumn())
    with Progress(*columns, TimeRemainingColumn(), console=Console(stderr=True)) as bars:

        def watch(name: str) -> 'ByteProgress':
            tasks: list[TaskID] = []

            def show(done: int, total: int | None) -> None:
                if not tasks:  # no bar for a server that does not answer
                    tasks.append(bars.add_task(name, total=None))
                bars.update(tasks[0], completed=done, total=total)

            return show

        yield watch


@app.command()
def upload(
    archive: Archive,
    training: Annotated[int, typer.Option(help='Number of the training that the model belongs to.', min=0)],
) -> None:
    """Upload a package to the Learning Loop (LOOP_HOST, LOOP_ORGANIZATION, LOOP_PROJECT) as the model of a training."""
    import asyncio

    from detector.loop.client import upload_package

    print(asyncio.run(upload_package(load_settings(), archive, training=training)))
