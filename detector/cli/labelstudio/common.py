"""What the commands share."""

import asyncio
from collections.abc import Awaitable, Callable
from typing import TYPE_CHECKING, Annotated, TypeVar

import typer

from detector.label_studio.server.client import connected
from detector.label_studio.server.project import Project, project_id_of
from detector.settings import Settings

if TYPE_CHECKING:
    from rich.progress import Progress

Result = TypeVar('Result')

ProjectOption = Annotated[str, typer.Option('--project', '-p', help='Number or address of a project.')]


def in_project(settings: Settings, project: str, work: Callable[[Project], Awaitable[Result]]) -> Result:
    """Do something with a project of the Label Studio that the settings name.

    :param project: its number or address.
    :raises WholebodyError: it cannot be reached, or whatever the work raises.
    """

    async def run() -> Result:
        async with connected(settings) as connection:
            return await work(Project(connection, project_id_of(project)))

    return asyncio.run(run())


def progress_bar() -> 'Progress':
    """A progress bar on standard error, where that is a terminal; `console.print` writes lines above it."""
    from rich.console import Console
    from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

    console = Console(stderr=True)
    columns = (TextColumn('{task.description}'), BarColumn(), MofNCompleteColumn(), TimeRemainingColumn())
    return Progress(*columns, console=console, transient=True, disable=not console.is_terminal)
