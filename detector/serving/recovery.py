"""Recovery from an inference runtime that fails while it runs, for example because its device is gone.

A single failure costs one request. After `FAULTS` failures in a row the model is unloaded, then loaded again until it
passes its trial inference.
"""

import asyncio
import contextvars
import logging
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import Final

from detector.errors import InferenceFailed, WholebodyError
from detector.models.package import ModelPackage

log = logging.getLogger('wholebody.recovery')

FAULTS: Final = 3
"""Failures in a row after which the model is loaded again."""
FIRST_PAUSE_SECONDS: Final = 0.5
"""Pause before the first attempt, in seconds; requests that still hold the old model's memory end in it."""
MAX_PAUSE_SECONDS: Final = 60.0
"""Upper bound of the pause, which doubles with each attempt, in seconds."""


class Recovery:
    """Watches the inferences of the active model.

    :param unload: unloads the model, given the reason.
    :param reload: loads the model in a folder and makes it the active one, unless another is active by then.
    """

    def __init__(self, *, unload: Callable[[str], None], reload: Callable[[Path], Awaitable[None]]) -> None:
        self.package: ModelPackage | None = None
        """The package that is being loaded again; None while no model is being recovered."""
        self._unload = unload
        self._reload = reload
        self._faults = 0
        self._faulty: ModelPackage | None = None
        self._task: asyncio.Task[None] | None = None

    def inferred(self) -> None:
        """Note that an inference succeeded."""
        self._faults = 0

    def failed(self, package: ModelPackage, error: InferenceFailed) -> None:
        """Note that an inference with a package failed."""
        if self.package is not None:
            return
        if package != self._faulty:  # the failures counted so far are another model's
            self._faulty, self._faults = package, 0
        self._faults += 1
        log.error('inference failed (%d in a row): %s', self._faults, str(error))
        if self._faults >= FAULTS:
            self._unload(f'{error}; the model is being loaded again')
            self.begin(package, str(error))

    def begin(self, package: ModelPackage, why: str) -> None:
        """Try to load a model again and again, until it or another one is active."""
        self._faults = 0
        self.package = package
        # An empty context: the request's context references the failed model, whose memory is needed.
        self._task = asyncio.create_task(self._recover(package.folder, why), context=contextvars.Context())

    def served(self) -> None:
        """Note that a model has begun to serve."""
        self._faults = 0
        self.package = None
        if self._task is not None and self._task is not asyncio.current_task():
            self._task.cancel()

    async def _recover(self, folder: Path, why: str) -> None:
        pause = FIRST_PAUSE_SECONDS
        while True:
            await asyncio.sleep(pause)
            pause = min(2 * pause, MAX_PAUSE_SECONDS)
            try:
                await self._reload(folder)
                self.package = None
                return
            except Exception as error:
                expected = isinstance(error, WholebodyError | OSError)
                text = 'the model cannot be loaded again; the next try is in %g seconds: %s'
                log.error(text, pause, error, exc_info=not expected)
                self._unload(f'{why}; the model cannot be loaded again: {error}')

    async def stop(self) -> None:
        """Cancel the attempts."""
        if self._task is not None:
            self._task.cancel()
            await asyncio.wait([self._task])
        self.package = None
