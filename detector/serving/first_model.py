"""The model that a node serves after its start.

Installed models come first. Only where none is installed, an embedded model serves: because MODE names it, or
provisionally, until the published model that MODE names, or the model that the Loop names, is installed.
"""

import asyncio
import logging
from asyncio import sleep
from collections.abc import Callable
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from functools import partial
from pathlib import Path
from typing import Final, Protocol

from detector.errors import InferenceFailed, RuntimeUnavailable, WholebodyError, text_of
from detector.models.embedded import EMBEDDED_NAMES, INSTALL_HINT, embedded_name, embedded_notice
from detector.models.library import PullRequest
from detector.models.package import ModelPackage, open_package
from detector.models.pulling import ModelPull
from detector.models.store import MODEL_REMEDY, ModelStore
from detector.settings import Settings

from .recovery import Recovery

log = logging.getLogger('wholebody.node')

FIRST_PAUSE_SECONDS: Final = 15.0
"""Pause before the second attempt to download the model that MODE names, in seconds."""
MAX_PAUSE_SECONDS: Final = 900.0
"""Upper bound of the pause, which doubles with each attempt, in seconds."""


class Serving(Protocol):
    """The parts of `ModelServing` that `FirstModel` needs."""

    unavailable: str | None
    recovery: Recovery

    async def switch(self, source: Path | ModelPackage) -> None:
        """Load a model, then make it the active one."""

    def current(self) -> ModelPackage | None:
        """Return the active package, or None."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Awaited:
    """A published model that MODE names and that is not installed yet.

    :param error: why the last attempt to download it failed; None during an attempt.
    :param next_try: when the next attempt begins; None during an attempt.
    """

    name: str
    error: str | None = None
    next_try: datetime | None = None

    def describe(self) -> dict[str, str | None]:
        """Return the fields in the form of JSON."""
        next_try = None if self.next_try is None else self.next_try.isoformat(timespec='seconds')
        return {'model': self.name, 'error': self.error, 'next_try': next_try}

    def __str__(self) -> str:
        if self.error is None or self.next_try is None:
            return f'the {self.name} model (MODE) is being downloaded'
        seconds = max(0, round((self.next_try - datetime.now(UTC)).total_seconds()))
        return f'the {self.name} model (MODE) cannot be downloaded: {self.error}; the next try is in {seconds} s'


class FirstModel:
    """Chooses the first model, and awaits the published one that MODE names.

    :param serving: serves what is chosen.
    :param pull: downloads the awaited model.
    :param on_ended: called when loading the first model has ended, with or without success.
    """

    def __init__(
        self,
        settings: Settings,
        store: ModelStore,
        serving: Serving,
        pull: ModelPull,
        *,
        on_ended: Callable[[], None],
    ) -> None:
        self.fault: str | None = None
        """Why the test card serves although MODE does not name it; None otherwise."""
        self._settings = settings
        self._store = store
        self._serving = serving
        self._pull = pull
        self._on_ended = on_ended
        self._awaited: Awaited | None = None
        self._task: asyncio.Task[None] | None = None
        self._waiting: asyncio.Task[None] | None = None
        self._may_wait = True

    @property
    def awaited(self) -> Awaited | None:
        """The model that MODE names, until it or another model is installed."""
        return None if self._store.has_current else self._awaited

    def start(self) -> None:
        """Begin to load the first model."""
        self._awaited = self.fault = None
        self._may_wait = True
        self._task = asyncio.create_task(self._run(), name='first model')

    async def stop(self) -> None:
        """Cancel loading the first model, and the download of the awaited one."""
        await _cancelled(self._task)
        await _cancelled(self._waiting)

    async def set_aside(self) -> None:
        """Stop awaiting the model that MODE names, because the operator has chosen another one or a pause.

        A download in progress is cancelled. What has arrived stays, and a later download continues there.
        """
        self._may_wait = False
        await _cancelled(self._waiting)
        self._awaited = None

    async def resume(self) -> None:
        """Await the model that MODE names again, if an embedded one serves in its place."""
        self._may_wait = True
        if self._task is not None and self._task.done():
            await self._begin_to_wait()

    async def _begin_to_wait(self) -> None:
        is_waiting = self._waiting is not None and not self._waiting.done()
        if self._settings.mode in EMBEDDED_NAMES or is_waiting or not self._may_wait:
            return
        if not await asyncio.to_thread(self._store.to_start_with):
            self._waiting = asyncio.create_task(self._await_model(self._settings.mode), name='awaited model')

    async def _run(self) -> None:
        try:
            await asyncio.to_thread(self._store.mend)
            installed = await asyncio.to_thread(self._store.to_start_with)
            if installed:
                await self._serve_installed(installed)
                return
            await self._serve_embedded()
        except (WholebodyError, OSError) as error:
            self._serving.unavailable = str(error)
            log.error('no model is loaded: %s', error)
        except Exception as error:
            self._serving.unavailable = f'loading the model failed inside the node, see its log: {error!r}'
            log.exception('loading the model failed inside the node')
        finally:
            self._on_ended()
        await self._begin_to_wait()

    # ---------------------------------------------------------------- installed models

    async def _serve_installed(self, folders: list[Path]) -> None:
        faults = await self._serve_first_of({str(folder): partial(open_package, folder) for folder in folders})
        current, mode = self._serving.current(), self._settings.mode
        if current is None:
            reason = next(iter(faults.values()))
            self._serving.unavailable = f'the model in {folders[0]} cannot serve: {reason}; {MODEL_REMEDY}'
        elif 'mode' in self._settings.model_fields_set and current.name != mode:
            log.warning('MODE=%s has no effect, because models are installed: %s serves', mode, current.model_version)
        if current is not None:
            await asyncio.to_thread(self._mend_link, current)

    def _mend_link(self, package: ModelPackage) -> None:
        """Make the model that serves current if the link to the current one is gone or leads nowhere."""
        store, version = self._store, package.folder.name
        if store.is_linked or package.folder != store.folder(version).resolve():
            return
        try:
            store.select(version)
        except OSError as error:
            log.warning('no model is current, and %s cannot be made current: %s', package.model_version, error)
        else:
            log.warning('no installed model was current; %s serves and is current from now on', package.model_version)

    # ---------------------------------------------------------------- embedded models

    async def _serve_embedded(self) -> None:
        names = EMBEDDED_NAMES[EMBEDDED_NAMES.index(embedded_name(self._settings.mode)) :]
        self._serving.unavailable = (
            f'the {names[0]} model is being prepared; the first start may take a minute or two, because the node '
            'measures which runtime is the fastest'
        )
        log.info('no model is installed; preparing the %s model', names[0])
        faults = await self._serve_first_of({name: partial(self._store.embedded, name) for name in names})
        if faults:
            self.fault = f'the {names[0]} model cannot serve: {faults[names[0]]}'
        package = self._serving.current()
        if package is None:
            self._serving.unavailable = self.fault
        else:
            log.warning('%s', embedded_notice(package.name, self.fault or INSTALL_HINT))

    async def _serve_first_of(self, candidates: dict[str, Callable[[], ModelPackage]]) -> dict[str, Exception]:
        """Serve the first model that works; if none does, try the first one again whose device may come back.

        :param candidates: functions that open a package, by the name for the log.
        :return: the faults of the models that do not work, by name, up to the model that serves.
        """
        faults: dict[str, Exception] = {}
        device_faults: list[tuple[ModelPackage, Exception]] = []
        for name, opened in candidates.items():
            package = None
            try:
                package = await asyncio.to_thread(opened)
                await self._serving.switch(package)
                return faults
            except Exception as error:  # whatever is wrong with one model, another one may work
                faults[name] = error
                expected = isinstance(error, WholebodyError | OSError)
                log.error('the model %s cannot serve: %s', name, text_of(error), exc_info=not expected)
                if package is not None and isinstance(error, RuntimeUnavailable | InferenceFailed):
                    device_faults.append((package, error))
        if device_faults:
            package, fault = device_faults[0]
            self._serving.recovery.begin(package, str(fault))
        return faults

    # ---------------------------------------------------------------- the published model that MODE names

    async def _await_model(self, name: str) -> None:
        """Download a published model and serve it, unless another model is installed meanwhile."""
        pause = FIRST_PAUSE_SECONDS
        while not self._store.has_current:
            self._awaited = Awaited(name=name)
            error = await self._pulled(name)
            if error is None:
                break
            self._awaited = Awaited(name=name, error=error, next_try=datetime.now(UTC) + timedelta(seconds=pause))
            log.warning('%s', self._awaited)
            await sleep(pause)
            pause = min(2 * pause, MAX_PAUSE_SECONDS)
        self._awaited = None

    async def _pulled(self, name: str) -> str | None:
        """Download a published model and serve it.

        :return: why that failed; None if it succeeded, or if a client has cancelled it.
        """
        try:
            self._pull.start(PullRequest(mode=name), use=self._use)
        except WholebodyError as error:
            return str(error)
        try:
            await self._pull.wait()
        except asyncio.CancelledError:
            await self._pull.stop()
            raise
        return None if self._pull.state is None else self._pull.state.error

    async def _use(self, version: str) -> None:
        """Serve a downloaded model and make it current, unless another model became current first."""
        if self._store.has_current:
            return
        try:
            await self._serving.switch(self._store.folder(version))
        except Exception:
            await asyncio.to_thread(self._store.remove, version)  # what is installed must be able to serve
            raise
        if self._store.has_current:  # a command or the Loop chose another one while this one was loaded
            chosen, *_ = await asyncio.to_thread(self._store.to_start_with)
            await self._serving.switch(chosen)
        else:
            await asyncio.to_thread(self._store.select, version)


async def _cancelled(task: asyncio.Task[None] | None) -> None:
    """Cancel a task, and wait until it has ended."""
    if task is not None:
        task.cancel()
        await asyncio.wait([task])
