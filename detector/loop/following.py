"""Follow the deployment target of the Learning Loop, or serve the version that an operator chose."""

import logging
from collections.abc import Awaitable, Callable
from typing import Protocol

from learning_loop_node.enums import OperationMode, VersionMode
from learning_loop_node.loop_communication import LoopCommunicator

from detector.errors import InvalidRequest, LoopFault, NoLearningLoop
from detector.models.embedded import EMBEDDED_NAMES
from detector.models.package import VERSION, ModelPackage
from detector.models.store import ModelStore
from detector.settings import Settings

from . import client
from .model_updates import INSTALLED, ModelUpdater, Target

log = logging.getLogger('wholebody.node')


class Models(Protocol):
    """The information about the active model that `Following` needs."""

    def current(self) -> ModelPackage | None:
        """Return the active package, or None."""

    def intended(self) -> ModelPackage | None:
        """Return the active package, or the one that is being loaded again after its runtime failed."""

    def fault(self) -> str | None:
        """Return why the model's runtime fails, or None."""


class Following:
    """Decides which model should serve, and when the Loop gets a status report.

    :param communicator: client of the Loop.
    :param updates: installs a target and switches to it.
    :param send_status: sends a status report to the Loop.
    :param on_change: called when one of the public attributes has changed.
    :param is_ending: returns True once the node is shutting down.
    """

    def __init__(
        self,
        settings: Settings,
        communicator: LoopCommunicator,
        store: ModelStore,
        updates: ModelUpdater,
        models: Models,
        *,
        send_status: Callable[[], Awaitable[None]],
        on_change: Callable[['Following'], None] = lambda _: None,
        is_ending: Callable[[], bool] = lambda: False,
    ) -> None:
        self.operation_mode = OperationMode.Startup
        """`startup` until loading the first model has ended; models are switched in `idle` only."""
        self.version_control = VersionMode(settings.version_control_default)
        self.target: Target | None = None
        """The model that should serve."""
        self.loop_target: Target | None = None
        """The deployment target, as the Loop last answered."""
        self.errors: dict[str, str] = {}
        """Errors of the status report, by topic."""
        self.has_loop = settings.loop_host is not None
        self._project = client.project_path(settings)
        self._default_control = self.version_control
        self._cycles_per_report = settings.sync_cycles
        self._cycles_to_report = 0
        self._communicator = communicator
        self._store = store
        self._updates = updates
        self._models = models
        self._send_status = send_status
        self._on_change = on_change
        self._is_ending = is_ending
        self._reported: ModelPackage | None = None

    async def cycle(self) -> None:
        """Ask the Loop for its target, work towards it, and report the status if it is due or has changed."""
        if self._is_ending():
            return
        if self.has_loop:
            await self._poll_target()
        await self.pursue()
        changed = self._note('update_model', self._updates.error)
        changed |= self._note('inference', self._models.fault())
        current = self._models.current()
        changed |= current != self._reported
        self._reported = current
        self._cycles_to_report -= 1
        if changed or self._cycles_to_report <= 0:
            self._cycles_to_report = self._cycles_per_report
            await self.report()

    async def report(self) -> None:
        """Send a status report, if a Loop is configured."""
        if self.has_loop:
            await self._send_status()

    async def pursue(self) -> None:
        """Begin or continue to switch to the target; cancel the switch if models may not be switched now."""
        if self._is_ending() or self.operation_mode != OperationMode.Idle or self.version_control == VersionMode.Pause:
            await self._updates.stop()
        else:
            await self._updates.ensure(self.target, self._models.intended())

    async def _poll_target(self) -> None:
        try:
            target = await client.deployment_target(self._communicator, self._project)
        except LoopFault as error:
            if self._note('deployment_target', str(error)):
                log.warning('%s', error)
            return
        self._note('deployment_target', None)
        self.loop_target = target
        if self.version_control == VersionMode.FollowLoop and self.target != target:
            log.info('the deployment target is %s', target.version)
            self.target = target
        self._on_change(self)

    def _note(self, topic: str, error: str | None) -> bool:
        """Set or clear an error of the status report.

        :return: True if that changed the report.
        """
        if self.errors.get(topic) == error:
            return False
        if error is None:
            del self.errors[topic]
        else:
            self.errors[topic] = error
        self._on_change(self)
        return True

    async def set_mode(self, mode: str) -> None:
        """Follow the Loop, pause, or serve one version. An installed version and an embedded model need no Loop.

        :param mode: `follow_loop`, `pause`, a version such as `1.2`, or the name of an embedded model.
        :raises InvalidRequest: the version is malformed, or the Loop does not have it.
        :raises NoLearningLoop: the version is not installed, and no Loop is configured.
        :raises LoopFault: the Loop does not answer; then nothing changes.
        """
        mode = mode.strip()
        self._updates.forget()
        if mode in (VersionMode.FollowLoop.value, VersionMode.Pause.value):
            self.version_control = VersionMode(mode)
            if mode == VersionMode.FollowLoop.value and self.loop_target is not None:
                self.target = self.loop_target
        else:
            self.target = await self._target_of_version(mode)
            self.version_control = VersionMode.SpecificVersion
        self._on_change(self)
        await self.pursue()

    async def _target_of_version(self, version: str) -> Target:
        is_embedded = version in EMBEDDED_NAMES
        if not is_embedded and not VERSION.fullmatch(version):
            accepted = ', '.join(map(repr, ('follow_loop', 'pause', *EMBEDDED_NAMES)))
            raise InvalidRequest(f'{version!r} is not a version; send {accepted} or a version such as 1.2')
        if is_embedded or self._store.folder(version).is_dir():
            return Target(version=version, model_id=INSTALLED)
        if not self.has_loop:
            raise NoLearningLoop.for_model(version)
        return await client.find_model(self._communicator, self._project, version)

    def awaited(self) -> str | None:
        """Return why the Loop's model does not serve yet; None if it does, or without a Loop."""
        if not self.has_loop or (self.target is not None and self.target.is_met_by(self._models.intended())):
            return None
        if self.version_control == VersionMode.Pause:
            return 'the node does not follow the Learning Loop (`pause`)'
        if self.target is None:
            unknown = self.errors.get('deployment_target', 'it has not answered yet')
            return f'the target of the Learning Loop is unknown: {unknown}'
        fault = self._updates.error
        return f'model {self.target.version} ' + (f'cannot be installed: {fault}' if fault else 'is being installed')

    def mode(self) -> str:
        """Return the mode that was last set: `follow_loop`, `pause`, a version or the name of an embedded model."""
        if self.version_control == VersionMode.SpecificVersion and self.target is not None:
            return self.target.version
        return str(self.version_control.value)

    def set_operation_mode(self, mode: OperationMode) -> None:
        """Set the operation mode."""
        self.operation_mode = mode
        self._on_change(self)

    def leave_startup(self) -> None:
        """Leave the operation mode `startup`."""
        if self.operation_mode == OperationMode.Startup:
            self.set_operation_mode(OperationMode.Idle)

    def reset(self) -> None:
        """Forget targets and refused packages, and go back to the operation mode `startup`."""
        self._updates.forget()
        self.target = self.loop_target = None
        self.version_control = self._default_control
        self.set_operation_mode(OperationMode.Startup)
