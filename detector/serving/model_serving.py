"""Select, load and replace the active model."""

import asyncio
import contextvars
import gc
import logging
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from learning_loop_node.data_classes import ModelInformation

from detector.engine import trial
from detector.engine.pose_engine import EngineOptions, PoseEngine
from detector.errors import ModelUnavailable
from detector.models.embedded import is_embedded_folder
from detector.models.package import ModelPackage, open_package
from detector.observability.life import Life
from detector.observability.metrics import Metrics
from detector.settings import Settings
from detector.system import child_process, memory

from .admission import retrieve_error
from .recovery import Recovery

log = logging.getLogger('wholebody.node')

_LOADING: Final = 'the model is being loaded'


@dataclass(frozen=True, slots=True, kw_only=True)
class ServingModel:
    """A loaded model.

    :param information: description of the model in the Learning Loop's form.
    """

    engine: PoseEngine
    information: ModelInformation

    @property
    def package(self) -> ModelPackage:
        return self.engine.package


def load_model(source: Path | ModelPackage, settings: Settings) -> ServingModel:
    """Load the networks of a package and run them once on a blank image.

    :param source: folder of an installed package, which is opened; or an opened package, which is not hashed again.
    :raises InvalidPackage: the package is not valid; the error names the file or field and the reason.
    :raises RuntimeUnavailable: the runtime or device is missing or rejects a network.
    :raises InferenceFailed: the device fails in the trial inference.
    """
    package = open_package(source) if isinstance(source, Path) else source
    options = EngineOptions.of(settings)
    if not is_embedded_folder(package.folder, settings.data_folder):
        trial.ensure(package, options)  # first in a child process, where an endless graph does no harm
    engine = PoseEngine(package, options)
    engine.check()
    identity = {'version': package.reported_version, 'model_root_path': str(package.folder)}
    # Not read from the file again: upstream reads fewer encodings, and has errors of its own.
    information = ModelInformation.from_dict(package.information | identity)
    return ServingModel(engine=engine, information=information)


class ModelServing:
    """Owns the active model.

    :param on_change: called with the new model, or with None when the old one stops serving.
    """

    def __init__(
        self,
        settings: Settings,
        *,
        metrics: Metrics,
        life: Life,
        on_change: Callable[[ServingModel | None], None] = lambda _: None,
    ) -> None:
        self.unavailable: str | None = _LOADING
        """Why no model is loaded; None while one is."""
        self.exchanging = False
        """True while the old model is unloaded and the new one is not loaded yet; requests wait for the new one."""
        self.lock = asyncio.Lock()
        """Held during an inference, and while a model is exchanged."""
        self.recovery = Recovery(unload=self.unload, reload=self.reload)
        self._settings = settings
        self._metrics = metrics
        self._life = life
        self._on_change = on_change
        self._active: ServingModel | None = None
        self._exchange: asyncio.Task[None] | None = None
        self._tidying: asyncio.Task[None] | None = None
        self._building = asyncio.Lock()
        """Held while a model is loaded: one at a time."""

    async def stop(self) -> None:
        """Cancel an exchange of models and attempts to recover."""
        if self._exchange is not None:
            self._exchange.cancel()
            await asyncio.wait([self._exchange])
        await self.recovery.stop()

    def reset(self) -> None:
        """Unload the model."""
        self._serve_nothing(_LOADING)

    def current(self) -> ModelPackage | None:
        """Return the active package, or None."""
        return None if self._active is None else self._active.package

    def intended(self) -> ModelPackage | None:
        """Return the active package, or the one that is being loaded again after its runtime failed."""
        return self.current() or self.recovery.package

    def fault(self) -> str | None:
        """Return why the model's runtime fails, or None while no model is being recovered."""
        return None if self.recovery.package is None else self.unavailable

    def active(self) -> ServingModel:
        """Return the active model.

        :raises ModelUnavailable: no model is loaded; the error says why.
        """
        if self._active is None:
            raise ModelUnavailable(f'no model is loaded: {self.unavailable}')
        return self._active

    async def switch(self, source: Path | ModelPackage) -> None:
        """Load a model, then make it the active one; the old model stays active until then.

        With EXCLUSIVE_MODEL_BUILD the old model is unloaded first, and requests wait. If the new one does not work,
        the old one is loaded again. Cancelling this call does not interrupt such an exchange.

        :param source: see `load_model`.
        :raises InvalidPackage: the package is not valid; the error names the file or field and the reason.
        :raises RuntimeUnavailable: the runtime or device is missing or rejects a network.
        :raises InferenceFailed: the device fails in the trial inference.
        """
        if self._settings.exclusive_model_build:
            self._exchange = asyncio.create_task(self._exchange_models(source))
            self._exchange.add_done_callback(retrieve_error)
            await asyncio.shield(self._exchange)
        else:
            async with self._building:
                await self._build(source)

    async def _exchange_models(self, source: Path | ModelPackage) -> None:
        async with self._building, self.lock:
            old = self.current()
            if old is None:
                await self._build(source)
                return
            self.exchanging = True
            try:
                version = source.name if isinstance(source, Path) else source.version
                self._serve_nothing(f'model {version} is being built')
                await self._build(source)
            except Exception as error:
                self._serve_nothing(str(error))
                await self._restore(old)
                raise
            finally:
                self.exchanging = False

    async def _restore(self, old: ModelPackage) -> None:
        """Load the old model again: now or, if that fails, as soon as it works."""
        try:
            await self._build(old.folder)
        except Exception as error:
            log.error('the model %s cannot be loaded again: %s', old.model_version, error)
            self.recovery.begin(old, str(error))

    async def _build(self, source: Path | ModelPackage) -> None:
        try:
            model = await child_process.to_thread(load_model, source, self._settings)
        except Exception:
            self._metrics.switched('failed')
            raise
        self._serve(model)
        # Not awaited: the switch has succeeded, and a caller that is cancelled now must not believe otherwise.
        self._tidying = asyncio.create_task(asyncio.to_thread(memory.give_back), context=contextvars.Context())

    def _serve(self, model: ServingModel) -> None:
        self._active = model
        self.unavailable = None
        self._on_change(model)
        self.recovery.served()
        self._life.model_serves()
        self._metrics.switched('ok')
        log.info('serving %s with %s', model.package.model_version, model.engine.runtime)

    def _serve_nothing(self, why: str) -> None:
        self.unavailable = why
        self._active = None
        self._on_change(None)
        gc.collect()  # frees the old model's memory now, before another model needs it

    def unload(self, why: str) -> None:
        """Stop serving the model whose runtime fails, unless another model is active already."""
        if self.recovery.package is None or self.current() in (None, self.recovery.package):
            self._serve_nothing(why)

    async def reload(self, folder: Path) -> None:
        """Load the model whose runtime failed, unless another model is active already.

        :raises WholebodyError: the model cannot be loaded.
        """
        async with self._building:
            if self._active is None:
                await self._build(folder)
