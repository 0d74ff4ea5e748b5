"""The projects that name this node as their backend, and up to when their annotations are known; kept on disk."""

import logging
from datetime import datetime
from pathlib import Path
from typing import Any, Final

from pydantic import AwareDatetime, BaseModel, ValidationError, model_validator

from detector.system.durable import make_folder, replace_file

log = logging.getLogger('wholebody.label_studio')

MAX_PROJECTS: Final = 1000
"""Maximum number of projects; further ones replace those that have not named the node for the longest time."""
_MAX_TITLES: Final = 20
"""Maximum number of titles of a project's backend; a further one replaces the oldest."""


class KnownProject(BaseModel):
    """A project that names this node. Times are those of Label Studio's clock.

    :param begin: annotations that were last changed at or before this time are not caught up; None: nothing has been
        caught up yet.
    :param since: last change of the tasks whose annotations have been read.
    :param titles: model versions that were titles of the backend, the newest last.
    """

    begin: AwareDatetime | None = None
    since: AwareDatetime | None = None
    titles: list[str] = []

    @model_validator(mode='before')
    @classmethod
    def _with_titles(cls, stored: Any) -> Any:
        """Take the only title that older files have."""
        if isinstance(stored, dict) and isinstance(stored.get('title'), str):
            return {'titles': [stored['title']]} | stored
        return stored

    def start(self, begin: datetime) -> None:
        self.begin = self.since = begin

    def note_titles(self, *titles: str) -> None:
        """Remember model versions that are or become the title of the backend."""
        self.titles = [*(known for known in self.titles if known not in titles), *titles][-_MAX_TITLES:]


class _File(BaseModel):
    projects: dict[int, KnownProject] = {}


class KnownProjects:
    """The projects by number, in a JSON file.

    :param path: the file. A damaged one is renamed and replaced; its projects then count as new.
    :raises OSError: the file cannot be read or written; `save` raises this as well.
    """

    def __init__(self, path: Path) -> None:
        self._path = path
        self._projects = _read(path)

    def __contains__(self, number: int) -> bool:
        return number in self._projects

    def __len__(self) -> int:
        return len(self._projects)

    def numbers(self) -> list[int]:
        return list(self._projects)

    def keep(self, number: int) -> KnownProject:
        """Return a project that has just named the node; add it if it is new."""
        project = self._projects.pop(number, None) or KnownProject()
        while len(self._projects) >= MAX_PROJECTS:
            del self._projects[next(iter(self._projects))]
        self._projects[number] = project
        return project

    def forget(self, number: int) -> None:
        self._projects.pop(number, None)

    def save(self) -> None:
        """Replace the file as a whole."""
        make_folder(self._path.parent)
        replace_file(self._path, _File(projects=self._projects).model_dump_json().encode())


def _read(path: Path) -> dict[int, KnownProject]:
    try:
        return _File.model_validate_json(path.read_bytes()).projects
    except FileNotFoundError:
        return {}
    except ValidationError as error:
        broken = path.with_suffix('.broken')
        path.replace(broken)
        log.warning('%s is damaged and now called %s: %s', path, broken.name, error.errors()[0]['msg'])
        return {}
