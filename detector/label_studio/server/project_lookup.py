"""Find a project by its number, its address or its title."""

import itertools
import re
from collections.abc import AsyncIterator
from typing import Final

from detector.errors import InvalidRequest, LabelStudioFault, NotInLabelStudio

from .client import Connection
from .project import Json, Project

_NUMBER: Final = re.compile(r'0*([1-9][0-9]{0,17})')
_ADDRESS: Final = re.compile(r'\S*/projects/([0-9]+)(?:[/?#].*)?')
_MAX_SHOWN: Final = 80
"""Maximum length of a title in messages, in characters."""
_MAX_SIMILAR: Final = 5
"""Maximum number of similar titles in messages."""


async def find_project(connection: Connection, text: str) -> Project:
    """Return the project with a number, an address or a title.

    Digits may be a number or a title. An address always names a project by its number.

    :param text: `7`, `http://localhost:8080/projects/7/data?tab=1` or `Kitchen`.
    :raises InvalidRequest: no project or several projects are meant; the message names candidates with their numbers.
    :raises LabelStudioFault: see `Connection.request`.
    """
    text = text.strip()
    address, number = _ADDRESS.fullmatch(text), _NUMBER.fullmatch(text)
    if address is not None:
        return Project(connection, int(address[1]))
    numbered = None if number is None else await _numbered(connection, int(number[1]))
    project = await titled(connection, text)
    if numbered is not None and project is not None and project.id != numbered.id:
        raise InvalidRequest(
            f'--project {text} is the number of one project and the title of another, of project {project.id}: give an '
            f'address, {" or ".join(f"--project /projects/{one.id}/" for one in (numbered, project))}'
        )
    found = numbered or project
    if found is None:
        named = 'number or title' if number is not None else 'title'
        raise InvalidRequest(
            f'--project {text[:_MAX_SHOWN]}: there is no project with this {named}{await _similar(connection, text)}; '
            'give its number, as in its address /projects/7/, or its exact title'
        )
    return found


async def _numbered(connection: Connection, number: int) -> Project | None:
    try:
        await connection.project(number)
    except NotInLabelStudio:
        return None
    return Project(connection, number)


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
