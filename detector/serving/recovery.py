"""An inference runtime that fails while it runs, as when its device is gone: the model is loaded anew.

One failure may be an accident, and costs one request. After `FAULTS` in a row nothing serves until the model has been
loaded anew and has passed its trial inference; that is tried again and again, since a driver may take its time.
"""

import asyncio
import contextvars
import logging
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import Final

from detector.errors import InferenceFailed, WholebodyError
from detector.models.package import ModelPackage
from detector.wholebody_logic import WholebodyDetectorLogic

log = logging.getLogger('wholebody.recovery')

FAULTS: Final = 3
FIRST_PAUSE_SECONDS: Final = 0.5
"""In which what holds the old model's memory ends; then twice as long each time, up to …"""
MAX_PAUSE_SECONDS: Final = 60.0


class Recovery:
    """Watches the inferences of the model that serves.

    :param unload: lets nothing serve, with a text that says why.
    :param reload: builds the model in a folder and lets it serve, unless another one does by then.
    """

    def __init__(self, *, unload: Callable[[str], None], reload: Callable[[Path], Awaitable[None]]) -> None:
        self.package: ModelPackage | None = None
        """That is being loaded anew."""
        self._unload = unload
        self._reload = reload
        self._faults = 0
        self._faulty: ModelPackage | None = None
        self._task: asyncio.Task[None] | None = None

    def inferred(self) -> None:
        """An inference succeeded."""
        self._faults = 0

    def failed(self, logic: WholebodyDetectorLogic, error: InferenceFailed) -> None:
        """An inference failed."""
        if self.package is not None:
            return
        if logic.package != self._faulty:  # another model had the faults before
            self._faulty, self._faults = logic.package, 0
        self._faults += 1
        log.error('an inference failed, the last %d did: %s', self._faults, str(error))
        if self._faults >= FAULTS:
            self._unload(f'{error}; the model is being loaded anew')
            self.begin(logic.package, str(error))

    def begin(self, package: ModelPackage, why: str) -> None:
        """Load a model anew, which does not serve, until it does or another one serves."""
        self._faults = 0
        self.package = package
        # A context of its own: that of the request holds the failed model, whose memory is wanted.
        self._task = asyncio.create_task(self._recover(package.folder, why), context=contextvars.Context())

    def served(self) -> None:
        """A model has begun to serve."""
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
                text = 'the model cannot be loaded anew; the next try is in %g seconds: %s'
                log.error(text, pause, error, exc_info=not expected)
                self._unload(f'{why}; the model cannot be loaded anew: {error}')

    async def stop(self) -> None:
        """Try no more."""
        if self._task is not None:
            self._task.cancel()
            await asyncio.wait([self._task])
        self.package = None
