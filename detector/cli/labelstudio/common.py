"""Options and helpers that several commands of `wholebody labelstudio` share."""

import asyncio
import sys
from collections.abc import Awaitable, Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Final, TypeVar

import typer

from detector.wording import counted

if TYPE_CHECKING:
    from rich.progress import Progress

    from detector.datasets.omissions import Omissions
    from detector.label_studio.server.project import Project
    from detector.settings import Settings

Result = TypeVar('Result')

_INTERRUPTED: Final = 130
"""Exit status after Ctrl-C, as that of a shell."""

ProjectOption = Annotated[str, typer.Option('--project', '-p', help='Number, address or title of a project.')]
ProjectsOption = Annotated[
    list[str] | None,
    typer.Option(
        '--project', '-p', help='Number, address or title of a project; repeat the option for several projects.'
    ),
]
FileArgument = Annotated[
    Path | None, typer.Argument(help='A JSON export of Label Studio, instead of projects.', exists=True, dir_okay=False)
]
ConfigOption = Annotated[
    Path | None,
    typer.Option(
        help='Labeling config of the file.', exists=True, dir_okay=False, show_default='the recommended configs'
    ),
]


def check_source(file: Path | None, projects: Sequence[str] | None, config: Path | None) -> None:
    """Check the options of a command that reads either a file or projects.

    :raises typer.BadParameter: the options contradict each other.
    """
    if (file is None) == (not projects):
        raise typer.BadParameter('give either projects (--project) or a file')
    if config is not None and file is None:
        raise typer.BadParameter('--config belongs to a file; a project has its own labeling config')


def in_project(settings: 'Settings', project: str, work: 'Callable[[Project], Awaitable[Result]]') -> Result:
    """Run some work on a project of the Label Studio that the settings name, and return its result.

    :param project: number, address or title of the project.
    :raises WholebodyError: Label Studio or the project cannot be used, or the work raised it.
    """
    from detector.label_studio.server.client import connected
    from detector.label_studio.server.project_lookup import find_project

    async def run() -> Result:
        async with connected(settings) as connection:
            return await work(await find_project(connection, project))

    return asyncio.run(run())


@contextmanager
def resumable() -> Iterator[None]:
    """Run a part of a command that a second run continues, and say so at Ctrl-C.

    :raises typer.Exit: the user has pressed Ctrl-C.
    """
    try:
        yield
    except KeyboardInterrupt:
        print('stopped; run the command again: it continues with what is left', file=sys.stderr)
        raise typer.Exit(_INTERRUPTED) from None


def line_printer(progress: 'Progress') -> Callable[[str], None]:
    """Return a function that prints a line above a progress bar."""

    def show(line: str) -> None:
        progress.console.print(line, markup=False, highlight=False, soft_wrap=True)

    return show


def print_passed_over(counts: Mapping[str, int]) -> None:
    """Print how many tasks or images needed nothing, by reason; unlike those left out, they are no fault."""
    parts = [f'{count} {reason}' for reason, count in counts.items() if count]
    if parts:
        print(f'passed over: {", ".join(parts)}')


def in_words(counts: Mapping[str, int]) -> str:
    """Return persons and keypoints in words, see `counts_of`."""
    boxless = f' ({counts["without a box"]} without a box)' if counts['without a box'] else ''
    return f'{counted(counts["persons"], "person")}{boxless}, {counted(counts["keypoints"], "keypoint")}'


def end_with(omissions: 'Omissions') -> None:
    """Print the counts of what was left out.

    :raises typer.Exit: something was left out; the exit status is 1.
    """
    if omissions.summary:
        print(f'left out: {omissions.summary}')
        raise typer.Exit(1)


def print_report(label_config: str) -> None:
    """Print what the labels of a project stand for, and warn about those that stand for nothing.

    :raises InvalidRequest: the config offers no pose.
    """
    from detector.label_studio.labels.config import parse
    from detector.label_studio.labels.config_report import report, unmatched

    found = parse(label_config)
    print('\n'.join(report(found)))
    if unmatched(found):
        hint = '`wholebody labelstudio config --check FILE` lists them'
        print(f'warning: some labels stand for nothing; {hint}', file=sys.stderr)
