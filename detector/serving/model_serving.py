"""Which model serves: the first one at the start, others in its place, and the same again when its runtime fails."""

import asyncio
import contextvars
import logging
from pathlib import Path
from typing import TYPE_CHECKING, Final

from learning_loop_node.data_classes import ModelInformation
from learning_loop_node.enums import OperationMode

from detector.engine.verification import verify
from detector.errors import InferenceFailed, InvalidPackage, ModelUnavailable, RuntimeUnavailable, WholebodyError
from detector.loop import upstream
from detector.models import catalogue
from detector.models.embedded import EMBEDDED_NAME, EMBEDDED_NOTICE
from detector.models.package import ModelPackage, open_package
from detector.system import memory
from detector.wholebody_logic import WholebodyDetectorLogic, WholebodyLogicFactory

from .recovery import Recovery

if TYPE_CHECKING:
    from detector.node.wholebody_node import WholebodyNode

log = logging.getLogger('wholebody.node')

_LOADING: Final = 'the model is being loaded'
_PULL_AGAIN_SECONDS: Final = 60


class ModelServing:
    """Builds models and lets them serve.

    :param factory: builds the logic of a model.
    """

    def __init__(self, node: 'WholebodyNode', factory: WholebodyLogicFactory) -> None:
        self.unavailable: str | None = _LOADING
        """Why no model serves; None while one does."""
        self.recovery = Recovery(unload=self.unload, reload=self.reload)
        self._node = node
        self._factory = factory
        self._first: asyncio.Task[None] | None = None
        self._exchange: asyncio.Task[None] | None = None
        self._tidying: asyncio.Task[None] | None = None
        self._building = asyncio.Lock()
        """One model at a time."""

    def start(self) -> None:
        """Begin to load the first model; `operation_mode` is `startup` until that has ended."""
        self._first = asyncio.create_task(self._serve_first())

    async def stop(self) -> None:
        """Break off what was begun at the start, and the attempts to mend a runtime."""
        if self._first is not None:
            self._first.cancel()
        if self._exchange is not None:
            self._exchange.cancel()
        tasks = [task for task in (self._first, self._exchange) if task is not None]
        if tasks:
            await asyncio.wait(tasks)
        await self.recovery.stop()

    def current(self) -> ModelPackage | None:
        """The model that serves."""
        try:
            return upstream.active_detector(self._node)[0].package
        except WholebodyError:
            return None

    def active(self) -> tuple[WholebodyDetectorLogic, ModelInformation]:
        """The logic and the model that serve.

        :raises ModelUnavailable: none does; says why.
        """
        try:
            return upstream.active_detector(self._node)
        except ModelUnavailable as error:
            raise (
                error if self.unavailable is None else ModelUnavailable(f'no model serves: {self.unavailable}')
            ) from None

    async def switch(self, folder: Path) -> None:
        """Build the model in a folder and let it serve; until then the old one does.

        With EXCLUSIVE_MODEL_BUILD the old one is unloaded first, and requests wait; if the new one does not work,
        the old one is built again. That goes on to its end if this is cancelled.

        :raises InvalidPackage: names the file or field and the reason.
        :raises RuntimeUnavailable: the runtime or device is missing or rejects a network.
        :raises InferenceFailed: the device fails in the trial inference.
        """
        if self._node.settings.exclusive_model_build:
            self._exchange = asyncio.create_task(self._exchange_models(folder))
            self._exchange.add_done_callback(_seen)
            await asyncio.shield(self._exchange)
        else:
            async with self._building:
                await self._build(folder)

    async def _exchange_models(self, folder: Path) -> None:
        async with self._building, self._node.detection_lock:
            old = self.current()
            if old is None:
                await self._build(folder)
                return
            self._node.inference.unloading = True
            try:
                self.unavailable = f'model {folder.name} is being built'
                self._node.inference.forget_streams()
                upstream.unload(self._node, folder.name)
                await self._build(folder)
            except Exception as error:
                upstream.serve_nothing(self._node)
                await self._restore(old, error)
                raise
            finally:
                self._node.inference.unloading = False

    async def _restore(self, old: ModelPackage, fault: Exception) -> None:
        """Build the old model again, now or, if that does not work, as soon as it does."""
        self.unavailable = str(fault)
        try:
            await self._build(old.folder)
        except Exception as error:
            log.error('the model %s cannot be built again: %s', old.model_version, error)
            self.recovery.begin(old, str(error))

    async def _build(self, folder: Path) -> None:
        try:
            built = await self._load(folder)
        except Exception:
            self._node.metrics.switched('failed')
            raise
        self._serve(*built)
        # not waited for: who breaks off the switch now must not miss that it has succeeded
        self._tidying = asyncio.create_task(asyncio.to_thread(memory.give_back), context=contextvars.Context())

    async def _load(self, folder: Path) -> tuple[WholebodyDetectorLogic, ModelInformation]:
        model_info = await asyncio.to_thread(ModelInformation.load_from_disk, str(folder))
        if model_info is None:
            await asyncio.to_thread(open_package, folder)  # says what is wrong
            raise AssertionError('unreachable')
        logic = await self._factory.build(model_info)
        assert isinstance(logic, WholebodyDetectorLogic)
        return logic, model_info

    def _serve(self, logic: WholebodyDetectorLogic, model_info: ModelInformation) -> None:
        self._node.inference.forget_streams()
        upstream.serve_with(self._node, logic, model_info)
        self.recovery.served()
        self._node.life.model_serves()
        self._node.metrics.switched('ok')
        self.unavailable = None
        log.info('serving %s with %s', logic.package.model_version, logic.engine.runtime)

    def unload(self, why: str) -> None:
        """Let nothing serve, since the runtime fails; unless another model does by now."""
        if self.recovery.package is not None and self.current() not in (None, self.recovery.package):
            return
        self.unavailable = why
        self._node.inference.forget_streams()
        upstream.serve_nothing(self._node)

    async def reload(self, folder: Path) -> None:
        """Load a model anew whose runtime has failed.

        :raises WholebodyError: it cannot be loaded.
        """
        async with self._building:
            if self.current() is None:
                await self._build(folder)

    # ---------------------------------------------------------------- the first model

    async def _serve_first(self) -> None:
        """Serve the best model that works."""
        self.unavailable = _LOADING
        try:
            await asyncio.to_thread(self._node.store.clean)
            if self._node.settings.mode is not None and not self._node.store.has_current:
                self._leave_startup()
                await self._pull_first_model(self._node.settings.mode)
                return
            faults: list[tuple[Path, Exception]] = []
            for folder in await asyncio.to_thread(self._node.store.to_start_with):
                if await self._starts_with(folder, faults):
                    return
            self.unavailable = str(faults[0][1])  # that of the best candidate
            for folder, error in faults:
                if isinstance(error, RuntimeUnavailable | InferenceFailed):  # the device may come back
                    self.recovery.begin(await asyncio.to_thread(open_package, folder), str(error))
                    return
        except (WholebodyError, OSError) as error:
            self.unavailable = str(error)
            log.error('no model serves: %s', error)
        except Exception as error:
            self.unavailable = f'loading the model failed inside the node: {error!r}'
            log.exception('loading the model failed inside the node')
        finally:
            self._leave_startup()

    def _leave_startup(self) -> None:
        if self._node.operation_mode == OperationMode.Startup:
            self._node.operation_mode = OperationMode.Idle

    async def _starts_with(self, folder: Path, faults: list[tuple[Path, Exception]]) -> bool:
        try:
            await self.switch(folder)
        except (WholebodyError, OSError) as error:
            faults.append((folder, error))
            log.error('the model in %s cannot serve: %s', folder, error)
            return False
        logic, _ = upstream.active_detector(self._node)
        if logic.package.name == EMBEDDED_NAME:
            log.warning(EMBEDDED_NOTICE)
        return True

    async def _pull_first_model(self, mode: str) -> None:
        """Fetch the published model that MODE names; until then nothing serves, unless the Loop is faster."""
        archive = self._node.store.download_path(mode)
        while not self._node.store.has_current:
            self.unavailable = f'the {mode} model (MODE) is being downloaded'
            try:
                await catalogue.pull(
                    mode,
                    archive,
                    verify=verify,
                    cache=archive.parent,
                    catalogue=self._node.settings.model_catalogue,
                )
                if self._node.store.has_current:
                    return
                package = await asyncio.to_thread(self._node.store.add, archive)
                await self.switch(package.folder)
                await asyncio.to_thread(self._node.store.select, package.version)
                archive.unlink()
                return
            except Exception as error:
                if isinstance(error, InvalidPackage):
                    self._node.metrics.switched('refused')
                expected = isinstance(error, WholebodyError | OSError)
                self.unavailable = f'the {mode} model (MODE) cannot be downloaded: {error}'
                pause = _PULL_AGAIN_SECONDS
                log.error('%s; the next try is in %d seconds', self.unavailable, pause, exc_info=not expected)
                await asyncio.sleep(pause)


def _seen(task: asyncio.Task[None]) -> None:
    """Keep asyncio from complaining of an error that nobody waits for any more."""
    if not task.cancelled():
        task.exception()
