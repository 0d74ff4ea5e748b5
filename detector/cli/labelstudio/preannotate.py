"""`wholebody labelstudio preannotate`: store predictions for the tasks of a project."""

import asyncio
from collections.abc import Callable, Iterator
from contextlib import AsyncExitStack, contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from detector.cli.common import load_settings, progress_bar

from .common import ProjectOption, line_printer, print_report, resumable

if TYPE_CHECKING:
    from detector.label_studio.workflows.bulk_preannotation import Progress
    from detector.settings import Settings


def preannotate(
    project: ProjectOption,
    model: Annotated[
        Path | None,
        typer.Option(
            help='Package to use, zip or folder.', show_default='the model that the node would serve', exists=True
        ),
    ] = None,
    limit: Annotated[int | None, typer.Option(help='Number of tasks to predict.', min=1, show_default='all')] = None,
    use_ray: Annotated[bool, typer.Option('--ray', help='Distribute the work with Ray Data (extra `ray`).')] = False,
    workers: Annotated[
        int | None, typer.Option(help='Number of Ray workers, each with a model.', min=1, show_default='1 per 4 CPUs')
    ] = None,
    address: Annotated[
        str | None,
        typer.Option('--ray-address', help='Address of a Ray cluster.', show_default='a new cluster on this machine'),
    ] = None,
) -> None:
    """Add a prediction to every task that has none from this model version.

    The command needs no running node. It sends predictions in batches, which is faster than "Retrieve predictions".
    After an interruption, run it again: it continues with the tasks that are left.
    """
    if not use_ray and (workers is not None or address is not None):
        raise typer.BadParameter('--workers and --ray-address need --ray')
    with resumable():
        progress = asyncio.run(
            _preannotate(load_settings(), project, model, limit, (workers, address) if use_ray else None)
        )
    print(_summary(progress))
    if progress.failed:
        raise typer.Exit(1)


async def _preannotate(
    settings: 'Settings', project: str, model: Path | None, limit: int | None, ray: tuple[int | None, str | None] | None
) -> 'Progress':
    """:param ray: number of workers and address of the cluster; None to work without Ray."""
    from detector.label_studio.server.client import connected
    from detector.label_studio.server.project_lookup import find_project
    from detector.label_studio.workflows.bulk_preannotation import LocalPredictor, Predictor, preannotate
    from detector.models.store import ModelStore
    from detector.system.scratch import scratch_folder

    async with AsyncExitStack() as stack:
        scratch = stack.enter_context(scratch_folder())
        connection = await stack.enter_async_context(connected(settings))
        chosen = await find_project(connection, project)
        print_report(await chosen.label_config())  # fails before the model is loaded
        package = ModelStore(settings.data_folder).open(model, scratch, mode=settings.mode)
        predictor: Predictor
        if ray is None:
            local = await asyncio.to_thread(LocalPredictor, settings, package, connection)
            stack.push_async_callback(local.close)
            predictor = local
        else:
            from detector.label_studio.workflows.ray_preannotation import RayPredictor

            workers, address = ray
            predictor = stack.enter_context(RayPredictor(settings, package, workers=workers, address=address))
        show = stack.enter_context(_bar())
        return await preannotate(chosen, predictor, model_version=package.model_version, limit=limit, on_progress=show)


@contextmanager
def _bar() -> 'Iterator[Callable[[Progress], None]]':
    """Show a progress bar and print failures; yield a function that takes the state of the run."""
    printed = 0
    with progress_bar() as bar:
        task = bar.add_task('preannotating', total=None)

        def show(progress: 'Progress') -> None:
            nonlocal printed
            for task_id, why in list(progress.failed.items())[printed:]:
                line_printer(bar)(f'task {task_id}: {why}')
            printed = len(progress.failed)
            bar.update(task, total=progress.todo, completed=progress.done)

        yield show


def _summary(progress: 'Progress') -> str:
    if progress.todo == 0:
        return f'every task has a prediction of {progress.model_version}'
    parts = [f'{progress.stored} of {progress.todo} tasks have a new prediction of {progress.model_version}']
    if progress.elsewhere:
        parts.append(f'{progress.elsewhere} have one from another run')
    if progress.failed:
        parts.append(f'{len(progress.failed)} failed')
    return '; '.join(parts)
