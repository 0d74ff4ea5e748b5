"""Model updates: from a target to the active model.

A target that cannot be served never affects the active model. The updater remembers a refused package together
with the file's HTTP validators. It fetches the package again only when the Loop offers another file, or when a client
sets the model version.
"""

import asyncio
import logging
import math
import time
from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from typing import Any, Final

import httpx

from detector.errors import (
    DamagedPackage,
    InferenceFailed,
    InvalidPackage,
    NoLearningLoop,
    RuntimeUnavailable,
    WholebodyError,
    text_of,
)
from detector.models.downloads import Validators, discard, download, noted_validators, probe
from detector.models.embedded import EMBEDDED_NAMES
from detector.models.package import MODEL_FORMAT, ModelPackage, OfferedModel, file_sha256, open_package
from detector.models.store import ModelStore
from detector.system import child_process

log = logging.getLogger('wholebody.updates')

MAX_PACKAGE_BYTES: Final = 2 * 1024**3
"""Size limit of a package, in bytes."""
_TRANSFER_FAULTS: Final = 3
"""Attempts to fetch a damaged file, although the Loop says that it has not changed."""

_FIRST_PAUSE_SECONDS: Final = 1.0
_MAX_PAUSE_SECONDS: Final = 60.0
"""Bounds of the pause between attempts while the device seems to be missing, in seconds."""

INSTALLED: Final = 'installed'
"""Model id that stands for any model that is installed under a version."""

Switch = Callable[[ModelPackage], Awaitable[None]]
Connect = Callable[[], Awaitable[httpx.AsyncClient]]


@dataclass(frozen=True, slots=True, kw_only=True)
class Target(OfferedModel):
    """A model that should serve; its id may be `INSTALLED`."""

    def is_met_by(self, package: ModelPackage | None) -> bool:
        """Return True if a package is this model. A local model of the same version with another id is not."""
        found = None if package is None else package.reported_version
        return package is not None and found == self.version and self.model_id in (INSTALLED, package.id)


@dataclass(frozen=True, slots=True, kw_only=True)
class Refusal:
    """A package that was refused.

    :param validators: HTTP validators of the file; None if this process has not fetched it.
    :param damaged: True if the file was incomplete or corrupt, as after a faulty transfer, rather than invalid.
    :param faults: number of times that the same file was refused.
    :param kept: True if the package is still installed: it is valid, but does not work on this machine.
    """

    target: Target
    sha256: str
    validators: Validators | None
    reason: str
    damaged: bool
    faults: int
    kept: bool = False

    @property
    def worth_another_try(self) -> bool:
        return self.damaged and self.faults < _TRANSFER_FAULTS


class ModelUpdater:
    """Installs targets in the background, one at a time, and switches to them.

    :param files_url: address of the Loop's models; None without a Loop.
    :param connect: returns a client of the Loop, logged in if possible.
    :param switch: loads an opened package and lets it serve; raises if the model does not work.
    :param try_out: runs the networks of a package once; raises if they do not work.
    :param keep: number of versions that stay installed.
    :param on_refusal: called when a fetched package is not valid.
    :param is_serving: returns True while a model is loaded; otherwise the device may be at fault rather than the
        package.
    """

    def __init__(
        self,
        store: ModelStore,
        *,
        files_url: str | None,
        connect: Connect,
        switch: Switch,
        try_out: Callable[[ModelPackage], None],
        keep: int,
        on_refusal: Callable[[], object] = lambda: None,
        is_serving: Callable[[], bool] = lambda: True,
    ) -> None:
        self._store = store
        self._files_url = files_url
        self._connect = connect
        self._switch = switch
        self._try_out = try_out
        self._keep = keep
        self._on_refusal = on_refusal
        self._is_serving = is_serving
        self._pause = 0.0
        self._not_before = -math.inf
        self._task: asyncio.Task[None] | None = None
        self._refusals: dict[str, Refusal] = {}
        self.target: Target | None = None
        self.error: str | None = None

    @property
    def busy(self) -> bool:
        return self._task is not None and not self._task.done()

    def about(self) -> dict[str, Any]:
        """Return the target, the current error and the refused packages, for `/about`."""
        return {
            'target': self.target.version if self.target else None,
            'busy': self.busy,
            'error': self.error,
            'refused': [
                {'version': refusal.target.version, 'sha256': refusal.sha256, 'reason': refusal.reason}
                for refusal in self._refusals.values()
            ],
        }

    def forget(self) -> None:
        """Forget the refusals, so that the packages are tried again."""
        self._refusals.clear()
        self._reset_pause()

    async def ensure(self, target: Target | None, current: ModelPackage | None) -> None:
        """Begin to install a target and switch to it, unless that is in progress; called every cycle.

        :param target: None cancels an update in progress.
        :param current: the active model.
        """
        if target != self.target:
            await self.stop()
            self._reset_pause()
        self.target = target
        if target is None or target.is_met_by(current):
            self.error = None
        elif not self.busy and time.monotonic() >= self._not_before:
            self._task = asyncio.create_task(self._update(target), name=f'update to {target.version}')

    def _reset_pause(self) -> None:
        self._pause, self._not_before = 0.0, -math.inf

    def _postpone(self) -> None:
        """Double the pause before the next attempt: the device may come back at any time."""
        self._pause = min(max(_FIRST_PAUSE_SECONDS, 2 * self._pause), _MAX_PAUSE_SECONDS)
        self._not_before = time.monotonic() + self._pause

    async def wait(self) -> None:
        """Wait until the update in progress has ended."""
        if self._task is not None:
            await asyncio.wait([self._task])

    async def stop(self) -> None:
        """Cancel the update in progress."""
        if self._task is not None and not self._task.done():
            self._task.cancel()
            await asyncio.wait([self._task])

    async def _update(self, target: Target) -> None:
        try:
            installed = await self._installed(target)
            package = installed or await self._fetched(target)
            await self._serve(target, package, is_new=installed is None)
            self.error = None
            self._refusals.pop(target.version, None)
            self._reset_pause()
            log.info('switched to %s', package.model_version)
        except (WholebodyError, OSError, httpx.HTTPError) as error:
            text = text_of(error)
            if text != self.error:  # a lasting fault must not fill the log
                log.error('cannot switch to model %s: %s', target.version, text)
            self.error = text

    async def _installed(self, target: Target) -> ModelPackage | None:
        """Return the installed package of a target, or None if it must be fetched. A damaged one stays until then.

        :raises InvalidPackage: the package did not work before and is still installed, or it is damaged and the Loop
            has not offered it.
        :raises StarterUnavailable: the target is the starter model, which cannot be built.
        """
        folder, is_embedded = self._store.folder(target.version), target.version in EMBEDDED_NAMES
        if not is_embedded and not folder.is_dir():
            return None
        refusal = self._refusals.get(target.version)
        if refusal is not None and refusal.target == target and (refusal.kept or target.model_id == INSTALLED):
            raise InvalidPackage(refusal.reason)
        if is_embedded:
            return await asyncio.to_thread(self._store.embedded, target.version)
        try:
            package = await asyncio.to_thread(open_package, folder)
            return package if target.is_met_by(package) else None
        except InvalidPackage as error:
            if target.model_id == INSTALLED:
                raise InvalidPackage(
                    f'the installed model {target.version} is damaged: {error}; install it again with `--replace`'
                ) from error
            log.warning('the installed model %s is damaged (%s) and fetched again', target.version, error)
            return None

    async def _fetched(self, target: Target) -> ModelPackage:
        """Download and install a target.

        :raises InvalidPackage: the package is not valid, or was refused before and the Loop offers the same file.
        """
        if self._files_url is None:
            raise NoLearningLoop.for_model(target.version)
        client = await self._connect()
        url = f'{self._files_url}/{target.model_id}/{MODEL_FORMAT}/file'
        refusal = self._refusals.get(target.version)
        if refusal is not None and not await self._is_another(client, url, target, refusal):
            raise InvalidPackage(refusal.reason)
        archive = self._store.download_path(f'{target.version}-{target.model_id}')
        validators = await download(client, url, archive, max_bytes=MAX_PACKAGE_BYTES)
        try:
            return await child_process.to_thread(self._store.add, archive, target, before_replacing=self._try_out)
        except InvalidPackage as error:
            sha256 = await asyncio.to_thread(file_sha256, archive)
            self._refuse(target, error, validators, sha256)
            self._on_refusal()
            discard(archive)
            raise
        except (RuntimeUnavailable, InferenceFailed) as error:
            if self._is_serving():
                self._refuse(target, error, validators, await asyncio.to_thread(file_sha256, archive))
            else:
                self._postpone()
            raise

    async def _is_another(self, client: httpx.AsyncClient, url: str, target: Target, refusal: Refusal) -> bool:
        """Return True if the Loop offers another file than the refused one."""
        if refusal.target != target or refusal.worth_another_try:
            return True
        return await probe(client, url) != refusal.validators

    async def _serve(self, target: Target, package: ModelPackage, *, is_new: bool) -> None:
        """Switch to an installed package. If it is not valid and has just been fetched, it is removed again.

        If the runtime or device fails while another model is loaded, it does not suit the package, which is not tried
        again. If no model is loaded, the device may be missing, and the switch is tried again later.
        """
        archive = self._store.download_path(f'{target.version}-{target.model_id}')
        try:
            await self._switch(package)
        except WholebodyError as error:
            is_invalid = isinstance(error, InvalidPackage)
            if not is_invalid and not self._is_serving():
                self._postpone()
                raise
            sha256 = package.wholebody.estimator.sha256
            kept = not (is_invalid and is_new) or self._store.linked().name == target.version
            self._refuse(target, error, noted_validators(archive), sha256, kept=kept)
            if not kept:
                await asyncio.to_thread(self._store.remove, target.version)
            raise
        finally:
            discard(archive)
        if not package.is_embedded:  # an embedded model serves until the next start only
            await asyncio.to_thread(self._store.select, target.version)
            await asyncio.to_thread(self._store.prune, self._keep)

    def _refuse(
        self, target: Target, error: WholebodyError, validators: Validators | None, sha256: str, *, kept: bool = False
    ) -> None:
        previous = self._refusals.get(target.version)
        faults = 1
        if previous is not None and (previous.target, previous.validators) == (target, validators):
            faults = previous.faults + 1
        self._refusals[target.version] = Refusal(
            target=target,
            sha256=sha256,
            validators=validators,
            reason=str(error),
            damaged=isinstance(error, DamagedPackage),
            faults=faults,
            kept=kept,
        )
