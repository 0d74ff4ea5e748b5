"""Pull a published model in the background of a node, one at a time."""

import asyncio
import logging
from collections.abc import Awaitable, Callable
from dataclasses import asdict, dataclass, field, replace
from typing import Any, Final, Literal

from detector.errors import FolderInUse, InvalidPackage, InvalidRequest, WholebodyError, text_of

from .downloads import Progress
from .library import ModelLibrary, PullRequest
from .package import Verify

log = logging.getLogger('wholebody.pull')

Use = Callable[[str], Awaitable[None]]
Stage = Literal['downloading', 'installing', 'installed', 'failed', 'cancelled']
_RUNNING: Final[tuple[Stage, ...]] = ('downloading', 'installing')


@dataclass(frozen=True, slots=True, kw_only=True)
class PullState:
    """State of the last pull.

    :param received: bytes of the download that have arrived.
    :param expected: size of the download in bytes, approximate until the server has stated it; None if unknown.
    :param error: why the pull failed, with the remedy; None otherwise.
    """

    mode: str
    stage: Stage = 'downloading'
    received: int = 0
    expected: int | None = None
    error: str | None = None

    @property
    def running(self) -> bool:
        return self.stage in _RUNNING


@dataclass(slots=True)
class _Received:
    """Progress of the files of one pull.

    :param sizes: bytes by file name, as far as they are known.
    """

    sizes: dict[str, int | None]
    arrived: dict[str, int] = field(default_factory=dict)

    def note(self, name: str, done: int, total: int | None) -> None:
        self.arrived[name] = done
        if total is not None:
            self.sizes[name] = total

    def expected(self) -> int | None:
        known = [size for size in self.sizes.values() if size is not None]
        return sum(known) if len(known) == len(self.sizes) else None


class ModelPull:
    """Downloads, installs and uses a model of the catalogue while the node keeps serving.

    :param verify: `detector.engine.verification.verify`.
    :param use: lets the node switch to an installed version.
    :param on_refusal: called when a downloaded package is not valid.
    """

    def __init__(
        self, library: ModelLibrary, *, verify: Verify, use: Use, on_refusal: Callable[[], object] = lambda: None
    ) -> None:
        self._library = library
        self._verify = verify
        self._use = use
        self._on_refusal = on_refusal
        self._task: asyncio.Task[None] | None = None
        self.state: PullState | None = None
        """State of the pull in progress, or of the last one; None before the first one."""

    def about(self) -> dict[str, Any] | None:
        """Return the state for `/about`."""
        return None if self.state is None else asdict(self.state)

    def start(self, request: PullRequest, *, use: Use | None = None) -> None:
        """Begin to pull a model.

        :param use: replaces the way in which the node switches to the model; the caller then reports failures.
        :raises FolderInUse: a pull is in progress.
        :raises InvalidPackage: the catalogue cannot be read or has no such model.
        """
        if self.state is not None and self.state.running:
            raise FolderInUse(f'{self.state.mode} is being downloaded; wait until it is installed, or cancel it')
        received = _Received(self._library.missing_files(request.mode))
        self.state = PullState(mode=request.mode, expected=received.expected())
        self._task = asyncio.create_task(self._run(request, received, use or self._use), name=f'pull {request.mode}')

    async def wait(self) -> None:
        """Wait until the pull in progress has ended."""
        if self._task is not None:
            await asyncio.wait([self._task])

    async def cancel(self) -> None:
        """Cancel the download in progress. What has arrived stays, and a later pull continues there.

        :raises InvalidRequest: no download is in progress.
        """
        if self.state is None or self.state.stage != 'downloading':
            raise InvalidRequest('no download is in progress')
        await self.stop()

    async def stop(self) -> None:
        """Stop the pull in progress, as at the end of the node."""
        if self._task is not None and not self._task.done():
            self._task.cancel()
            await asyncio.wait([self._task])

    async def _run(self, request: PullRequest, received: _Received, use: Use) -> None:
        log.info('pulling %s', request.mode)

        def watch(name: str) -> Progress:
            def show(done: int, total: int | None) -> None:
                received.note(name, done, total)
                self._set(received=sum(received.arrived.values()), expected=received.expected())

            return show

        try:
            package = await self._library.pull(
                request, verify=self._verify, watch=watch, on_fetched=lambda: self._set(stage='installing')
            )
            await use(package.version)
        except asyncio.CancelledError:
            self._set(stage='cancelled')
            raise
        except Exception as error:
            if isinstance(error, InvalidPackage):
                self._on_refusal()
            expected = isinstance(error, WholebodyError | OSError)
            self._set(stage='failed', error=text_of(error) if expected else f'a fault inside the node: {error!r}')
            if use == self._use or not expected:  # otherwise the caller reports it, with its next attempt
                log.error('%s cannot be pulled: %s', request.mode, text_of(error), exc_info=not expected)
        else:
            self._set(stage='installed')
            log.info('pulled %s', package.model_version)

    def _set(self, **changes: Any) -> None:
        assert self.state is not None
        self.state = replace(self.state, **changes)
