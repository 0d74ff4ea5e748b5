"""The projects of a mock Learning Loop, in folders `projects/<organization>/<project>`; see `project`."""

import shutil
import threading
from pathlib import Path
from typing import Any

from .errors import Conflict, Unknown
from .project import Project, ProjectState, check_name


class LoopStore:
    """All projects in a folder."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self._lock = threading.Lock()
        self._projects: dict[tuple[str, str], Project] = {}
        for path in sorted(folder.glob('projects/*/*/project.json')):
            state = ProjectState.model_validate_json(path.read_bytes())
            self._projects[state.organization, state.project] = Project(path.parent, state)

    def projects(self) -> list[Project]:
        with self._lock:
            return list(self._projects.values())

    def project(self, organization: str, project: str) -> Project:
        """Return a project.

        :raises Unknown: the project does not exist.
        """
        found = self._projects.get((organization, project))
        if found is None:
            raise Unknown(f'no project {organization}/{project}')
        return found

    def create(self, organization: str, project: str, categories: list[dict[str, Any]]) -> Project:
        """Create an empty project.

        :raises Conflict: the project exists already.
        :raises LoopError: organization or project is not a plain name.
        """
        folder = self.folder / 'projects' / check_name(organization) / check_name(project)
        with self._lock:
            if (organization, project) in self._projects:
                raise Conflict(f'the project {organization}/{project} exists already')
            state = ProjectState(organization=organization, project=project, categories=categories)
            created = Project(folder, state)
            with created.change():
                pass
            self._projects[organization, project] = created
        return created

    def delete(self, organization: str, project: str) -> None:
        """Delete a project and everything in it.

        :raises Unknown: the project does not exist.
        """
        with self._lock:
            found = self._projects.pop((organization, project), None)
        if found is None:
            raise Unknown(f'no project {organization}/{project}')
        (found.folder / 'project.json').unlink(missing_ok=True)  # the project is gone even if a kill prevents the rest
        shutil.rmtree(found.folder, ignore_errors=True)
