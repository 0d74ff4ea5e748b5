"""Keep the projects of Label Studio that name this node up to date.

Label Studio calls `/setup` of a backend, and names the project, when it connects or uses it. A call is only a hint,
since any client can make it. The node therefore asks Label Studio for the backends of the project: Label Studio calls
each of them before it answers, so a project names this node if this causes a call here.

For each such project, the node renames its backend after a switch of models, and catches up with annotations that it
has missed, because it was down or because Label Studio gave up a webhook after its second.
"""

import asyncio
import logging
import time
from collections import OrderedDict
from collections.abc import Callable, Sequence
from contextlib import suppress
from datetime import UTC, datetime, timedelta
from typing import Any, Final

from detector.errors import InvalidRequest, LabelStudioFault, NotInLabelStudio
from detector.label_studio.server.client import Connection
from detector.label_studio.server.project import Json, Project
from detector.wording import counted

from .correction_queue import Hint
from .corrections import Corrections
from .known_projects import KnownProject, KnownProjects

log = logging.getLogger('wholebody.label_studio')

_FIRST_SECONDS: Final = 2.0
"""Pause after the start, in seconds, until the node answers Label Studio's calls."""
_RETRY_SECONDS: Final = 15.0
"""First pause after a failure, in seconds; it doubles with each further one."""
_MAX_RETRY_SECONDS: Final = 600.0
_MAX_FAILURES: Final = 3
"""Number of projects in a row that may fail before the others are left for later: Label Studio is probably down."""
_AGAIN_SECONDS: Final = 60.0
"""Pause in seconds before an unknown project that does not name this node is checked again."""
_MAX_CANDIDATES: Final = 1000
_MAX_PAGES: Final = 10
"""Number of pages of tasks that are read from a project before other projects have their turn."""
_OVERLAP: Final = timedelta(minutes=1)
"""Time before the last known change that is read again, since Label Studio may have stored changes late."""
_EPOCH: Final = datetime.fromtimestamp(0, UTC)


class ProjectWatch:
    """Checks projects in the background, one at a time.

    :param corrections: takes annotations that were missed; None: they are not asked for.
    :param model_version: returns the version that the node serves, or None.
    :param password: password with which Label Studio calls this node; None: it needs none.
    :param seconds: interval between two checks of a project; 0: check only at the start, when a project is new and
        after a switch of models, and do not ask for annotations.
    :param begin: annotations of new projects that were changed later than this are caught up; None: those that are
        changed after the first check.
    """

    def __init__(
        self,
        connection: Connection,
        projects: KnownProjects,
        *,
        corrections: Corrections | None,
        model_version: Callable[[], str | None],
        password: str | None,
        seconds: float,
        begin: datetime | None,
    ) -> None:
        self._connection = connection
        self._projects = projects
        self._corrections = corrections if seconds > 0 else None
        self._model_version = model_version
        self._password = password
        self._seconds = seconds
        self._begin = begin
        self._due = set(projects.numbers())
        self._calls: set[int] = set()
        """Projects for which Label Studio has called since their check has begun."""
        self._checked: OrderedDict[int, float] = OrderedDict()
        """Time of the last check of unknown projects."""
        self._warned: set[tuple[int, str]] = set()
        self._error: str | None = None
        self._news = asyncio.Event()
        self._task: asyncio.Task[None] | None = None

    def start(self) -> None:
        self._task = asyncio.create_task(self._work())

    async def close(self) -> None:
        if self._task is not None:
            self._task.cancel()
            await asyncio.gather(self._task, return_exceptions=True)

    def note_call(self, project: object) -> None:
        """Note that Label Studio has called for a project.

        :param project: what `/setup` got: the number, a dot and the time of the project's creation.
        """
        number = _number(project)
        if number is None:
            return
        self._calls.add(number)
        if number in self._projects or time.monotonic() - self._checked.get(number, -_AGAIN_SECONDS) < _AGAIN_SECONDS:
            return
        self._checked[number] = time.monotonic()
        self._checked.move_to_end(number)
        if len(self._checked) > _MAX_CANDIDATES:
            self._checked.popitem(last=False)
        self._due.add(number)
        self._news.set()

    def check_all(self) -> None:
        """Check all projects soon: the node serves another model."""
        self._due.update(self._projects.numbers())
        self._news.set()

    def about(self) -> dict[str, Any]:
        """Return the number of projects that name this node, and why the last check failed, if it did."""
        return {'known': len(self._projects), 'error': self._error}

    async def _work(self) -> None:
        await asyncio.sleep(_FIRST_SECONDS)
        failures, checked_at = 0, time.monotonic()
        while True:
            self._news.clear()
            failed = await self._check_due()
            failures = failures + 1 if failed else 0
            pause = min(_RETRY_SECONDS * 2 ** min(failures - 1, 10), _MAX_RETRY_SECONDS) if failed else None
            if not failed and self._due:
                continue
            if pause is None and self._seconds:
                pause = max(0.0, checked_at + self._seconds - time.monotonic())
            with suppress(TimeoutError):
                await asyncio.wait_for(self._news.wait(), pause)
            self._due.update(failed)
            if self._seconds and time.monotonic() - checked_at >= self._seconds:
                checked_at = time.monotonic()
                self._due.update(self._projects.numbers())

    async def _check_due(self) -> set[int]:
        """Check the projects that are due, and return those that failed."""
        failed: set[int] = set()
        in_a_row = 0
        while self._due and in_a_row < _MAX_FAILURES:
            number = min(self._due)
            self._due.discard(number)
            try:
                succeeded = await self._check(number)
            except (LabelStudioFault, InvalidRequest, OSError) as error:
                self._note_failure(number, str(error))
                succeeded = False
            except Exception as error:
                log.exception('the check of project %d failed inside the node', number)
                self._error = repr(error)
                succeeded = False
            in_a_row = 0 if succeeded else in_a_row + 1
            if not succeeded and number in self._projects:
                failed.add(number)
        failed |= self._due & set(self._projects.numbers()) if in_a_row >= _MAX_FAILURES else set()
        if in_a_row >= _MAX_FAILURES:
            self._due.clear()
        if not failed:
            self._error = None
        return failed

    def _note_failure(self, number: int, why: str) -> None:
        text = f'project {number}: {why}'
        if text != self._error:
            log.warning('corrections and model version of %s; tried again later', text)
        self._error = text

    async def _check(self, number: int) -> bool:
        """Check one project.

        :return: False if the project is known, but this check has caused no call of Label Studio.
        """
        project = Project(self._connection, number)
        self._calls.clear()
        try:
            backends = await project.backends()
        except NotInLabelStudio:
            self._projects.forget(number)
            await asyncio.to_thread(self._projects.save)
            return True
        if number not in self._calls:
            return number not in self._projects
        state = self._projects.keep(number)
        await self._rename(project, backends, state)
        if self._corrections is not None:
            await self._catch_up(project, state, self._corrections)
        await asyncio.to_thread(self._projects.save)
        return True

    # ------------------------------------------------------------ model version

    async def _rename(self, project: Project, backends: Sequence[Json], state: KnownProject) -> None:
        """Give the backend the model version as its title, if its title is an older version.

        Label Studio then changes the project's model version too, if it was the old title. It needs both for
        uncertainty sampling.
        """
        version = self._model_version()
        for backend in backends:
            title = backend.get('title')
            if version is None or backend.get('model_version') != version:
                continue  # another node, or a call before a switch of models: the switch causes another check
            if title == version:
                state.title = version
            elif title in {state.title, *await project.model_versions()}:
                await project.rename_backend(backend, title=version, password=self._password)
                state.title = version
                log.info('the backend of project %d is now called "%s", not "%s"', project.id, version, title)
            elif (project.id, version) not in self._warned:
                self._warned.add((project.id, version))
                log.warning(
                    'the backend of project %d is called "%s", so uncertainty sampling does not find predictions of '
                    '"%s"; to rename it: wholebody labelstudio init --project %d',
                    project.id, title, version, project.id,
                )  # fmt: skip

    # ------------------------------------------------------------ annotations

    async def _catch_up(self, project: Project, state: KnownProject, corrections: Corrections) -> None:
        """Queue the versions of annotations that the node has not seen yet."""
        if state.begin is None or state.since is None:
            state.start(self._begin or await project.last_change() or _EPOCH)
            log.info('annotations of project %d are sent if they are changed after %s', project.id, state.begin)
        begin, since, pages, missed = state.begin, state.since, 0, 0
        assert begin is not None
        assert since is not None
        async for tasks in project.annotated_since(since - _OVERLAP):
            missed += await corrections.catch_up([found for task in tasks for found in _versions(project, task, begin)])
            state.since = max(state.since or since, *(_time(task['updated_at']) for task in tasks))
            pages += 1
            # more tasks than these pages may have changed within the overlap: a later check would read the same ones
            if pages >= _MAX_PAGES and state.since > since:
                await asyncio.to_thread(self._projects.save)
                self._due.add(project.id)
                break
        if missed:
            log.info('%s of project %d had been missed', counted(missed, 'annotation'), project.id)


def _versions(project: Project, task: Json, begin: datetime) -> list[tuple[Hint, str]]:
    """Return the annotations of a task that are not skipped and were changed after a time, with their versions."""
    found = []
    for annotation in task['annotations']:
        version = str(annotation['updated_at'])
        if not annotation['was_cancelled'] and _time(version) > begin:
            found.append((Hint(annotation=int(annotation['id']), project=project.id), version))
    return found


def _time(text: str) -> datetime:
    moment = datetime.fromisoformat(text)
    return moment if moment.tzinfo is not None else moment.replace(tzinfo=UTC)


def _number(project: object) -> int | None:
    text = str(project).partition('.')[0] if isinstance(project, str | int) and not isinstance(project, bool) else ''
    return int(text) if text.isascii() and text.isdigit() and 0 < len(text) < 10 and int(text) else None
