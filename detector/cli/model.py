"""`wholebody model`: pull, pack, verify, install, list and upload model packages."""

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Literal

import typer

from detector.settings import load_settings

if TYPE_CHECKING:
    from detector.models.catalogue import Watch
    from detector.models.downloads import Progress as ByteProgress

app = typer.Typer(help='Pull, pack, verify, install, list and upload model packages.', no_args_is_help=True)

Mode = Literal['lightweight', 'balanced', 'performance']
ColorOrderOption = Literal['RGB', 'BGR']
Archive = Annotated[Path, typer.Argument(help='A package: a zip of model.json, det.onnx and pose.onnx.')]


@app.command()
def pack(
    det: Annotated[Path, typer.Option(help='ONNX file of a YOLOX person detector.', exists=True, dir_okay=False)],
    pose: Annotated[
        Path, typer.Option(help='ONNX file of an RTMW or RTMPose whole-body estimator.', exists=True, dir_okay=False)
    ],
    output: Annotated[Path, typer.Option('--output', '-o', help='Package to write.')],
    name: Annotated[str, typer.Option(help='Name of the model.')] = 'wholebody',
    version: Annotated[str, typer.Option(help='Version, numbers and dots.')] = '1.0',
    det_color: Annotated[ColorOrderOption, typer.Option(help='Channel order that the detector expects.')] = 'BGR',
    pose_color: Annotated[ColorOrderOption, typer.Option(help='Channel order that the estimator expects.')] = 'RGB',
    score_threshold: Annotated[float, typer.Option(help='Boxes below are dropped.', min=0, max=1)] = 0.5,
    score_mapping: Annotated[
        str, typer.Option(help='Raw keypoint score to confidence, as rising points raw:confidence.')
    ] = '0:0,1:1',
    origin: Annotated[str, typer.Option(help='Where the networks come from.')] = '',
    licence: Annotated[str, typer.Option(help='Their licence.')] = '',
) -> None:
    """Pack two ONNX files into a package, and verify it.

    The defaults are those of the published rtmlib models: BGR, 0..255 for YOLOX; RGB, ImageNet mean and standard
    deviation for RTMW. Input sizes and the detector's output form are read from the files.
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
    """Check a package wholly: files, description, hashes, and a trial inference."""
    from detector.engine.pose_engine import EngineOptions
    from detector.engine.verification import verify as verify_package

    settings = load_settings()
    package = verify_package(archive, EngineOptions.of(settings))
    print(f'{archive}: {package.model_version} is valid')


@app.command()
def install(
    archive: Archive,
    replace: Annotated[bool, typer.Option('--replace', help='Install over the same version.')] = False,
) -> None:
    """Verify a package, install it into DATA_FOLDER and make it the current model.

    A running node serves it after a restart.
    """
    from functools import partial

    from detector.engine.pose_engine import EngineOptions
    from detector.engine.verification import verify as verify_package
    from detector.models.store import ModelStore

    settings = load_settings()
    store = ModelStore(settings.data_folder)
    verified = partial(verify_package, options=EngineOptions.of(settings))
    package = store.install(archive, verify=verified, replace=replace)
    print(f'{package.model_version} is installed in {package.folder} and current')


@app.command('list')
def list_models() -> None:
    """List the installed models; the current one is marked."""
    from detector.errors import InvalidPackage
    from detector.models.package import open_package
    from detector.models.store import ModelStore

    store = ModelStore(load_settings().data_folder)
    try:
        current = store.current()
    except InvalidPackage as error:
        print(f'! {error}')
        current = store.data_folder  # marks none
    for model in store.installed():
        if isinstance(model, InvalidPackage):
            print(f'! {model}')
        else:
            mark = '*' if current is not None and model.folder.resolve() == current else ' '
            print(f'{mark} {model.version}  {model.name}  {model.folder}')
    embedded = open_package(store.embedded())
    print(f'{" " if current else "*"} {embedded.version}  {embedded.name}  (embedded)')


@app.command()
def pull(
    mode: Annotated[Mode, typer.Argument(help='Which published model.')],
    output: Annotated[
        Path | None, typer.Option('--output', '-o', help='Write the package here instead of installing it.')
    ] = None,
    offline: Annotated[bool, typer.Option('--offline', help='Fetch nothing; use what was downloaded before.')] = False,
) -> None:
    """Fetch a published rtmlib model, pack it, verify it, install it and make it current.

    Interrupted downloads are resumed, mirrors are tried, hashes are recorded and checked.
    """
    import asyncio
    from functools import partial

    from detector.engine.pose_engine import EngineOptions
    from detector.engine.verification import verify as verify_package
    from detector.models.catalogue import pull as pull_model
    from detector.models.store import ModelStore

    settings = load_settings()
    store = ModelStore(settings.data_folder)
    archive = output or store.download_path(mode)
    with _progress() as watch:
        package = asyncio.run(
            pull_model(
                mode,
                archive,
                verify=verify_package,
                cache=store.download_path(mode).parent,
                catalogue=settings.model_catalogue,
                offline=offline,
                watch=watch,
            )
        )
    if output is None:
        verified = partial(verify_package, options=EngineOptions.of(settings))
        package = store.install(archive, verify=verified, replace=True)
        archive.unlink()
        print(f'{package.model_version} is installed in {package.folder} and current')
    else:
        print(f'{output}: {package.model_version}')


@contextmanager
def _progress() -> Iterator['Watch']:
    """A progress bar per file, on standard error."""
    from rich.console import Console
    from rich.progress import BarColumn, DownloadColumn, Progress, TextColumn, TimeRemainingColumn, TransferSpeedColumn

    columns = (TextColumn('{task.description}'), BarColumn(), DownloadColumn(), TransferSpeedColumn())
    with Progress(*columns, TimeRemainingColumn(), console=Console(stderr=True)) as bars:

        def watch(name: str) -> 'ByteProgress':
            task = bars.add_task(name, total=None)
            return lambda done, total: bars.update(task, completed=done, total=total)

        yield watch


@app.command()
def upload(
    archive: Archive,
    training: Annotated[int, typer.Option(help='Number of the training that the model belongs to.', min=0)],
) -> None:
    """Upload a package to the Learning Loop (LOOP_HOST, LOOP_ORGANIZATION, LOOP_PROJECT) as a training's model."""
    import asyncio

    from detector.loop.client import upload_package

    print(asyncio.run(upload_package(load_settings(), archive, training=training)))
