"""`wholebody model`: pull, pack, verify, install, list and upload model packages."""

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Literal

import typer

from detector.models.embedded import Mode

from .common import load_settings

if TYPE_CHECKING:
    from detector.models.catalogue import Watch
    from detector.models.downloads import Progress as ByteProgress
    from detector.models.store import ModelStore

app = typer.Typer(
    help='Pull, pack, verify, install, list and upload model packages.',
    no_args_is_help=True,
    rich_markup_mode='markdown',
)

ColorOrderOption = Literal['RGB', 'BGR']
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
    score_threshold: Annotated[float, typer.Option(help='Lowest confidence of a box.', min=0, max=1)] = 0.5,
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
    from detector.engine.verification import verify as verify_package

    package = verify_package(archive, EngineOptions.of(load_settings()))
    print(f'{archive}: {package.model_version} is valid')


@app.command()
def install(
    archive: Archive,
    replace: Annotated[bool, typer.Option('--replace', help='Replace an installed model of the same version.')] = False,
) -> None:
    """Verify a package, install it in DATA_FOLDER and make it the current model.

    A running node serves it after a restart.
    """
    from detector.models.store import ModelStore

    _install(ModelStore(load_settings().data_folder), archive, replace=replace)


@app.command('list')
def list_models() -> None:
    """List the installed models and mark the current one."""
    from detector.errors import InvalidPackage
    from detector.models.package import open_package
    from detector.models.store import ModelStore

    store = ModelStore(load_settings().data_folder)
    try:
        current = store.current()
    except InvalidPackage as error:
        print(f'! {error}')
        current = store.data_folder  # marks no model
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
    mode: Annotated[Mode, typer.Argument(help='Published model to download.')],
    output: Annotated[
        Path | None, typer.Option('--output', '-o', help='Write the package to this file instead of installing it.')
    ] = None,
    offline: Annotated[bool, typer.Option('--offline', help='Use earlier downloads only.')] = False,
) -> None:
    """Download a published rtmlib model, pack it, verify it, install it and make it current.

    The command resumes interrupted downloads, tries mirrors, and records and checks hashes.
    """
    import asyncio

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
        _install(store, archive, replace=True)
        archive.unlink()
    else:
        print(f'{output}: {package.model_version}')


@contextmanager
def _progress() -> Iterator['Watch']:
    """Show a progress bar per file on standard error."""
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
    """Upload a package to the Learning Loop (LOOP_HOST, LOOP_ORGANIZATION, LOOP_PROJECT) as the model of a training."""
    import asyncio

    from detector.loop.client import upload_package

    print(asyncio.run(upload_package(load_settings(), archive, training=training)))


def _install(store: 'ModelStore', archive: Path, *, replace: bool) -> None:
    from functools import partial

    from detector.engine.pose_engine import EngineOptions
    from detector.engine.verification import verify as verify_package

    verified = partial(verify_package, options=EngineOptions.of(load_settings()))
    package = store.install(archive, verify=verified, replace=replace)
    print(f'{package.model_version} is installed in {package.folder} and current')
