"""Following the Learning Loop: from a deployment target to the model that serves.

A target that cannot be served never harms the one that serves. What was refused is remembered with what the Loop said
of the file, and fetched again only when the Loop offers another one or somebody asks.
"""

import asyncio
import logging
import math
import time
from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from typing import Any, Final

import httpx

from detector.errors import DamagedPackage, InvalidPackage, NoLearningLoop, WholebodyError
from detector.models.downloads import Validators, discard, download, noted_validators, probe
from detector.models.package import MODEL_FORMAT, ModelPackage, file_sha256, open_package
from detector.models.store import ModelStore

log = logging.getLogger('wholebody.updates')

MAX_PACKAGE_BYTES: Final = 2 * 1024**3
_TRANSFER_FAULTS: Final = 3
"""So often a file that is damaged, not wrong, is fetched again although the Loop says it is the same."""

_FIRST_PAUSE_SECONDS: Final = 1.0
_MAX_PAUSE_SECONDS: Final = 60.0
"""Between attempts while the device seems to be away."""

INSTALLED: Final = 'installed'
"""Stands for the id of whatever model is installed under a version."""

Switch = Callable[[ModelPackage], Awaitable[None]]
Connect = Callable[[], Awaitable[httpx.AsyncClient]]


@dataclass(frozen=True, slots=True)
class Target:
    """A model of the Loop that shall serve.

    :param model_id: its id in the Loop.
    """

    version: str
    model_id: str

    def is_met_by(self, package: ModelPackage | None) -> bool:
        """Whether a package is this model; a local one of the same number is another."""
        return package is not None and package.version == self.version and self.model_id in (INSTALLED, package.id)


@dataclass(frozen=True, slots=True, kw_only=True)
class Refusal:
    """A package that did not pass.

    :param validators: what the Loop said of the file; None if it was not fetched by this process.
    :param damaged: the file was broken rather than wrong, as a faulty transfer leaves it.
    :param faults: how often the same file was refused.
    :param kept: it is still installed: valid, but not for this machine.
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
    """Installs targets in the background, one at a time, and lets the node switch to them.

    :param files_url: address of the Loop's models; None without a Loop.
    :param connect: gives a client of the Loop, logged in where that is possible.
    :param switch: loads an opened package and lets it serve; raises if it does not work.
    :param keep: how many versions may stay installed.
    :param on_refusal: is called when a package that was fetched is not valid.
    :param is_serving: whether any model serves; if none does, the device may be at fault rather than the package.
    """

    def __init__(
        self,
        store: ModelStore,
        *,
        files_url: str | None,
        connect: Connect,
        switch: Switch,
        keep: int,
        on_refusal: Callable[[], object] = lambda: None,
        is_serving: Callable[[], bool] = lambda: True,
    ) -> None:
        self._store = store
        self._files_url = files_url
        self._connect = connect
        self._switch = switch
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
        """What is going on, for `/about`."""
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
        """Give every refused package another chance."""
        self._refusals.clear()
        self._hurry()

    async def ensure(self, target: Target | None, current: ModelPackage | None) -> None:
        """Work towards a target unless that is being done already; called every cycle.

        :param target: None stops what is going on.
        :param current: the model that serves.
        """
        if target != self.target:
            await self.stop()
            self._hurry()
        self.target = target
        if target is None or target.is_met_by(current):
            self.error = None
        elif not self.busy and time.monotonic() >= self._not_before:
            self._task = asyncio.create_task(self._update(target), name=f'update to {target.version}')

    def _hurry(self) -> None:
        self._pause, self._not_before = 0.0, -math.inf

    def _put_off(self) -> None:
        """Try again later, and then later still: what fails here comes and goes."""
        self._pause = min(max(_FIRST_PAUSE_SECONDS, 2 * self._pause), _MAX_PAUSE_SECONDS)
        self._not_before = time.monotonic() + self._pause

    async def wait(self) -> None:
        """Wait until what is going on has ended."""
        if self._task is not None:
            await asyncio.wait([self._task])

    async def stop(self) -> None:
        """Break off what is going on."""
        if self._task is not None and not self._task.done():
            self._task.cancel()
            await asyncio.wait([self._task])

    async def _update(self, target: Target) -> None:
        try:
            package = await self._installed(target) or await self._fetched(target)
            await self._serve(target, package)
            self.error = None
            self._refusals.pop(target.version, None)
            self._hurry()
            log.info('switched to %s', package.model_version)
        except (WholebodyError, OSError, httpx.HTTPError) as error:
            text = str(error) or type(error).__name__
            if text != self.error:  # a fault that lasts would fill the log
                log.error('cannot switch to model %s: %s', target.version, text)
            self.error = text

    async def _installed(self, target: Target) -> ModelPackage | None:
        """The installed package of a target; a damaged one is removed, that of another model is fetched over.

        :raises InvalidPackage: it did not work before, and was not removed for that.
        """
        folder = self._store.folder(target.version)
        if not folder.is_dir():
            return None
        refusal = self._refusals.get(target.version)
        if refusal is not None and refusal.target == target and (refusal.kept or target.model_id == INSTALLED):
            raise InvalidPackage(refusal.reason)
        try:
            package = await asyncio.to_thread(open_package, folder)
            return package if target.is_met_by(package) else None
        except InvalidPackage as error:
            log.warning('the installed model %s is damaged (%s) and removed', target.version, error)
            await asyncio.to_thread(self._store.remove, target.version)
            return None

    async def _fetched(self, target: Target) -> ModelPackage:
        """Download and install a target.

        :raises InvalidPackage: it is not valid, or was refused before and the Loop offers nothing else.
        """
        if self._files_url is None:
            raise NoLearningLoop(f'Model {target.version}, which is not installed,')
        client = await self._connect()
        url = f'{self._files_url}/{target.model_id}/{MODEL_FORMAT}/file'
        refusal = self._refusals.get(target.version)
        if refusal is not None and not await self._is_another(client, url, target, refusal):
            raise InvalidPackage(refusal.reason)
        archive = self._store.download_path(f'{target.version}-{target.model_id}')
        validators = await download(client, url, archive, max_bytes=MAX_PACKAGE_BYTES)
        try:
            return await asyncio.to_thread(self._store.add, archive, version=target.version, model_id=target.model_id)
        except InvalidPackage as error:
            sha256 = await asyncio.to_thread(file_sha256, archive)
            self._refuse(target, error, validators, sha256)
            self._on_refusal()
            discard(archive)
            raise

    async def _is_another(self, client: httpx.AsyncClient, url: str, target: Target, refusal: Refusal) -> bool:
        """Whether the Loop offers something else than what was refused."""
        if refusal.target != target or refusal.worth_another_try:
            return True
        return await probe(client, url) != refusal.validators

    async def _serve(self, target: Target, package: ModelPackage) -> None:
        """Switch to an installed package; one of the Loop's that is not valid is removed again.

        A runtime or device that fails while another model serves on it does not suit the package; it is not tried
        again. While none serves it may be away, and the switch is only put off.
        """
        archive = self._store.download_path(f'{target.version}-{target.model_id}')
        try:
            await self._switch(package)
        except WholebodyError as error:
            is_invalid = isinstance(error, InvalidPackage)
            if not is_invalid and not self._is_serving():
                self._put_off()
                raise
            sha256 = package.wholebody.estimator.sha256
            self._refuse(target, error, noted_validators(archive), sha256, kept=not is_invalid)
            if is_invalid and target.model_id != INSTALLED:  # that could not be fetched again
                await asyncio.to_thread(self._store.remove, target.version)
            raise
        finally:
            discard(archive)
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
