"""Keep the projects of Label Studio that name this node up to date.

Label Studio calls `/setup` of a backend, and names the project, when it connects or uses it. A call is only a hint,
since any client can make it. The node therefore asks Label Studio for the backends of the project: Label Studio calls
each of them before it answers, so a project names this node if this causes a call here.

For each such project, the node renames its backend after a switch of models, and catches up with annotations that it
has missed, because it was down or because Label Studio gave up a webhook after its second.
"""

import asyncio
import logging
import math
import time
from collections import OrderedDict
from collections.abc import Callable, Sequence
from contextlib import suppress
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from typing import Any, Final
from urllib.parse import urlsplit

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
_RETRY_SECONDS: Final = 2.0
"""First pause after a failed check of a project, in seconds; it doubles with each further one."""
_MAX_RETRY_SECONDS: Final = 600.0
_MAX_FAILURES: Final = 3
"""Number of projects in a row that may fail before the others are left for later: Label Studio is probably down."""
_AGAIN_SECONDS: Final = 60.0
"""Longest pause in seconds between a call for a project that is not known to name this node, and a check of it."""
_MAX_CANDIDATES: Final = 1000
_QUESTIONS: Final = 2
"""Number of questions for a backend that must each cause a call, if a project has several."""
_MAX_PAGES: Final = 10
"""Number of pages of tasks that are read from a project before other projects have their turn."""
_OVERLAP: Final = timedelta(minutes=1)
"""Time before the last known change that is read again, since Label Studio may have stored changes late."""
_EPOCH: Final = datetime.fromtimestamp(0, UTC)


@dataclass(frozen=True, slots=True, kw_only=True)
class _Failure:
    """A check that has not shown that a project names this node.

    :param at: time of the check (`time.monotonic`).
    :param pause: time until the next one, in seconds.
    :param why: what Label Studio has answered; None if it has only not called this node.
    """

    at: float
    pause: float
    why: str | None


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
        self._due = dict.fromkeys(projects.numbers(), 0.0)
        """Times (`time.monotonic`) from which projects are to be checked."""
        self._calls: dict[int, set[str]] = {}
        """Hosts under which Label Studio has called, by project, since the last question to it."""
        self._failures: OrderedDict[int, _Failure] = OrderedDict()
        """The last checks that have failed, unless a later one has succeeded."""
        self._warned: set[tuple[int, str]] = set()
        self._news = asyncio.Event()
        self._task: asyncio.Task[None] | None = None

    def start(self) -> None:
        self._task = asyncio.create_task(self._work())

    async def close(self) -> None:
        if self._task is not None:
            self._task.cancel()
            await asyncio.gather(self._task, return_exceptions=True)

    def note_call(self, project: object, host: str = '') -> None:
        """Note that Label Studio has called for a project.

        :param project: what `/setup` got: the number, a dot and the time of the project's creation.
        :param host: the header `Host` of the call.
        """
        number = _number(project)
        if number is None:
            return
        self._calls.setdefault(number, set()).add(host.lower())
        failure = self._failures.get(number)
        if number in self._projects and failure is None:
            return
        if number in self._due or len(self._due) < len(self._projects) + _MAX_CANDIDATES:
            # Label Studio first calls before it stores a new connection, so that a check may come too early
            self._plan(number, 0.0 if failure is None else failure.at + min(failure.pause, _AGAIN_SECONDS))
            self._news.set()

    def check_all(self) -> None:
        """Check all projects soon, also those that failed: the node serves another model."""
        self._failures.clear()
        for number in self._projects.numbers():
            self._plan(number, 0.0)
        self._news.set()

    def about(self) -> dict[str, Any]:
        """Return the number of projects that name this node, and why the last check of one failed, if it did."""
        errors = (one.why for number, one in reversed(self._failures.items()) if number in self._projects)
        return {'known': len(self._projects), 'error': next((why for why in errors if why is not None), None)}

    def _plan(self, number: int, at: float) -> None:
        """Check a project at a time (`time.monotonic`), or earlier if that is planned already."""
        self._due[number] = min(at, self._due.get(number, math.inf))

    async def _work(self) -> None:
        await asyncio.sleep(_FIRST_SECONDS)
        outages = 0
        while True:
            self._news.clear()
            outages = 0 if await self._check_due() else outages + 1
            pause = min(self._due.values(), default=math.inf) - time.monotonic()
            if outages:
                pause = max(pause, min(_RETRY_SECONDS * 2 ** min(outages - 1, 10), _MAX_RETRY_SECONDS))
            with suppress(TimeoutError):
                await asyncio.wait_for(self._news.wait(), pause if math.isfinite(pause) else None)

    async def _check_due(self) -> bool:
        """Check the projects that are due, the longest due first.

        :return: False if Label Studio is probably down: only failures, and projects that are due may be left.
        """
        now, in_a_row, answered = time.monotonic(), 0, False
        for number in sorted((number for number, at in self._due.items() if at <= now), key=self._due.__getitem__):
            if in_a_row == _MAX_FAILURES:
                break
            del self._due[number]  # a call or a switch of models during the check makes it due again
            try:
                if await self._check(number):
                    self._failures.pop(number, None)
                    if self._seconds:
                        self._plan(number, time.monotonic() + self._seconds)
                else:
                    self._note_failure(number, None)
                in_a_row, answered = 0, True
            except (LabelStudioFault, InvalidRequest, OSError) as error:
                why = f'project {number}: {error}'
                if number not in self._failures or self._failures[number].why != why:
                    log.warning('corrections and model version of %s; tried again later', why)
                self._note_failure(number, why)
                in_a_row += 1
            except Exception as error:
                log.exception('the check of project %d failed inside the node', number)
                self._note_failure(number, repr(error))
                in_a_row += 1
        return answered or in_a_row < _MAX_FAILURES

    def _note_failure(self, number: int, why: str | None) -> None:
        """Plan the next check of a project if it is known or if there was a call during this one."""
        now, before = time.monotonic(), self._failures.pop(number, None)
        if before is None or now - before.at > before.pause + _AGAIN_SECONDS:
            pause = _RETRY_SECONDS
        else:
            pause = min(2 * before.pause, _MAX_RETRY_SECONDS)
        self._failures[number] = _Failure(at=now, pause=pause, why=why)
        if number in self._projects or number in self._due:
            self._due[number] = now + pause
        while len(self._failures) > len(self._projects) + _MAX_CANDIDATES:
            self._failures.popitem(last=False)

    async def _check(self, number: int) -> bool:
        """Check one project.

        :return: True if it names this node.
        """
        project = Project(self._connection, number)
        self._calls.clear()
        try:
            backends = await project.backends()
        except NotInLabelStudio:
            self._projects.forget(number)
            await asyncio.to_thread(self._projects.save)
            return False
        if number not in self._calls or not backends:
            return False
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
        if version is None:
            return
        # others are other nodes, or were called before a switch of models, which causes another check
        serving = [backend for backend in backends if backend.get('model_version') == version]
        older = [backend for backend in serving if backend.get('title') != version]
        own = [backend for backend in older if await self._is_own(project, backend, backends)]
        if older != serving:
            state.note_titles(version)
        elif len(older) > 1 and not own:
            self._warn(
                project, version, 'project %d has several backends with the same model, and it is not clear which of '
                'them is this node, so none is called "%s"', project.id, version,
            )  # fmt: skip
        for backend in own:
            title = backend.get('title')
            if title in {*state.titles, *await project.model_versions()}:
                state.note_titles(title, version)
                await project.rename_backend(backend, title=version, password=self._password)
                # Label Studio may restore the old title, if it has checked the backend's health at the same time
                self._plan(project.id, time.monotonic() + _RETRY_SECONDS)
                log.info('the backend of project %d is now called "%s", not "%s"', project.id, version, title)
            else:
                self._warn(
                    project, version, 'the backend of project %d is called "%s", so uncertainty sampling does not find '
                    'predictions of "%s"', project.id, title, version,
                )  # fmt: skip

    async def _is_own(self, project: Project, backend: Json, backends: Sequence[Json]) -> bool:
        """Return True if one of the project's backends is this node: Label Studio calls it before it describes it.

        Label Studio may call for another backend meanwhile, for example because an annotator opens a task. Such a call
        names the host of that backend, unless a proxy changes it; then it has to happen with each question.
        """
        if len(backends) == 1:
            return True
        others = {_host_of(other) for other in backends} - {_host_of(backend)}
        for _ in range(_QUESTIONS):
            self._calls.clear()
            await project.backend(int(backend['id']))
            if self._calls.get(project.id, set()) <= others:
                return False
        return True

    def _warn(self, project: Project, version: str, text: str, *details: object) -> None:
        """Log once for each version why the backend of a project is not renamed, with the remedy."""
        if (project.id, version) not in self._warned:
            self._warned.add((project.id, version))
            log.warning(f'{text}; to rename it: wholebody labelstudio init --project %d', *details, project.id)

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
                self._plan(project.id, 0.0)
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


def _host_of(backend: Json) -> str:
    """Return the header `Host` of requests to a backend."""
    url = urlsplit(str(backend.get('url')))
    default = {'http': ':80', 'https': ':443'}.get(url.scheme, '')
    return url.netloc.rpartition('@')[2].lower().removesuffix(default)


def _time(text: str) -> datetime:
    moment = datetime.fromisoformat(text)
    return moment if moment.tzinfo is not None else moment.replace(tzinfo=UTC)


def _number(project: object) -> int | None:
    text = str(project).partition('.')[0] if isinstance(project, str | int) and not isinstance(project, bool) else ''
    return int(text) if text.isascii() and text.isdigit() and 0 < len(text) < 10 and int(text) else None
