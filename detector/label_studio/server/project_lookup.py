"""Find a project by its number, its address or its title."""

import itertools
import re
from collections.abc import AsyncIterator
from typing import Final

from detector.errors import InvalidRequest, LabelStudioFault

from .client import Connection
from .project import Json, Project

_ID: Final = re.compile(r'(\d+)|\S*/projects/(\d+)(?:[/?#].*)?')
_MAX_SHOWN: Final = 80
"""Maximum length of a title in messages, in characters."""
_MAX_SIMILAR: Final = 5
"""Maximum number of similar titles in messages."""


async def find_project(connection: Connection, text: str) -> Project:
    """Return the project with a number, an address or a title.

    A number is always the number of a project, also if a project has it as its title.

    :param text: `7`, `http://localhost:8080/projects/7/data?tab=1` or `Kitchen`.
    :raises InvalidRequest: no project or several projects have this title; the message names candidates with their
        numbers.
    :raises LabelStudioFault: see `Connection.request`.
    """
    found = _ID.fullmatch(text.strip())
    if found is not None:
        return Project(connection, int(found[1] or found[2]))
    project = await titled(connection, text.strip())
    if project is None:
        shown = text[:_MAX_SHOWN]
        raise InvalidRequest(
            f'--project {shown}: there is no project with this title{await _similar(connection, text.strip())}; '
            'give its number, as in its address /projects/7/, or its exact title'
        )
    return project


async def titled(connection: Connection, title: str) -> Project | None:
    """Return the project with exactly this title; None if there is none.

    :raises InvalidRequest: several projects have it.
    """
    found = [project async for project in _projects(connection, title) if project.get('title') == title]
    if len(found) > 1:
        raise InvalidRequest(
            f'{len(found)} projects have the title "{title[:_MAX_SHOWN]}": choose one by its number, '
            f'{" or ".join(f"--project {number}" for number in sorted(int(project["id"]) for project in found))}'
        )
    return Project(connection, int(found[0]['id'])) if found else None


async def _similar(connection: Connection, title: str) -> str:
    """Return a clause that names projects whose titles contain a text, in any case; empty if there are none."""
    names = [f'"{project.get("title")}" ({project["id"]})' async for project in _projects(connection, title)]
    return f', but there is {", ".join(names[:_MAX_SIMILAR])}' if names and title else ''


async def _projects(connection: Connection, title: str) -> AsyncIterator[Json]:
    """Yield the projects whose titles contain a text, in any case."""
    for page in itertools.count(1):
        answer = await connection.get_json('/api/projects/', page_size=100, title=title, page=page)
        if not isinstance(answer, dict) or not isinstance(answer.get('results'), list):
            raise LabelStudioFault(f'{connection.url} answers /api/projects/ with something that is not a list')
        for project in answer['results']:
            yield project
        if not answer.get('next'):
            return
