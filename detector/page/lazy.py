"""A NiceGUI page that costs nothing until a client requests it."""

import asyncio
import contextvars
import gc
import importlib
import logging
from collections.abc import AsyncIterator, Callable
from contextlib import AsyncExitStack, asynccontextmanager, suppress
from typing import Any, Final

from fastapi import FastAPI
from starlette.requests import HTTPConnection, Request
from starlette.responses import JSONResponse, RedirectResponse, Response
from starlette.types import Receive, Scope, Send
from starlette.websockets import WebSocketClose

from detector.api import error_answers
from detector.api.engineio_guard import EngineIoGuard
from detector.errors import Busy, ExtraMissing, NotFound

log = logging.getLogger('wholebody.page')

PATH: Final = '/ui'
_SOCKETS: Final = '/_nicegui_ws/'
"""Path below `/ui` of NiceGUI's Socket.IO server."""
_CLOSE_SECONDS: Final = 1
"""Time limit for NiceGUI to end, in seconds."""
_MAX_OPEN: Final = 50
"""Maximum number of open pages. NiceGUI keeps a page for a minute after the browser has gone."""
_RETRY_SECONDS: Final = 10
_MAX_MESSAGE_BYTES: Final = 64 * 1024
"""Size limit of a message from a browser. Images arrive by REST, and clicks take a few hundred bytes."""


class LazyPage:
    """An ASGI app that imports NiceGUI and builds its page at the first request.

    NiceGUI keeps its state in modules, so a process can have only one such page.

    :param build: imports the modules with the pages and registers them; it may add routes to `app`.
    :param title: title of the browser's tab, unless the page sets its own.
    :param may_connect: returns True if a request may open the page's Socket.IO connection; None allows all.
    """

    def __init__(
        self,
        build: Callable[['LazyPage'], None],
        *,
        title: str,
        may_connect: Callable[[HTTPConnection], bool] | None = None,
    ) -> None:
        self.app = FastAPI(openapi_url=None)
        self._sockets = EngineIoGuard(self.app)
        error_answers.install(self.app)
        self._build = build
        self._title = title
        self._may_connect = may_connect
        self._running = AsyncExitStack()
        self._loading: asyncio.Task[None] | None = None

    def install(self, app: FastAPI) -> None:
        """Serve the page at `/ui` of an app, and close it when the app ends."""
        serving = app.router.lifespan_context

        @asynccontextmanager
        async def lifespan(served: Any) -> AsyncIterator[Any]:
            async with serving(served) as state:
                try:
                    yield state
                finally:
                    await self._close()

        async def to_the_page() -> Response:
            return await self._load() or RedirectResponse(f'{PATH.removeprefix("/")}/')

        app.router.lifespan_context = lifespan
        app.add_api_route(PATH, to_the_page, include_in_schema=False, response_model=None)
        app.mount(PATH, self)

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        missing = await self._load()
        if missing is None:
            full = scope['type'] == 'http' and _is_page(scope) and _open_pages() >= _MAX_OPEN
            app = self._sockets if _is_socket(scope) else self.app
            await (_too_many() if full else app)(scope, receive, send)
        elif scope['type'] == 'http':
            await missing(scope, receive, send)
        else:
            await WebSocketClose()(scope, receive, send)

    async def _load(self) -> Response | None:
        """Load NiceGUI and the page.

        :return: the answer to the client if NiceGUI is not installed, else None.
        """
        if self._loading is None:
            # in an empty context: NiceGUI's tasks do not belong to this request
            self._loading = asyncio.create_task(self._start(), context=contextvars.Context())
        try:
            await asyncio.shield(self._loading)
        except ImportError as error:
            self._loading = None  # it may be installed before the next request
            log.warning('no page: %s', error)
            detail = f'there is no page: {ExtraMissing("NiceGUI", extra="page")}'
            return JSONResponse({'detail': detail}, status_code=NotFound.status)
        return None

    async def _start(self) -> None:
        await asyncio.to_thread(importlib.import_module, 'nicegui')  # takes a second or more
        from nicegui import core, ui

        core.sio.eio.cors_allowed_origins = [] if self._may_connect is None else self._admits  # by default: '*'
        core.sio.eio.max_http_buffer_size = _MAX_MESSAGE_BYTES  # by default: 1 MB
        core.app.storage.max_tab_storage_age = 0  # by default 30 days; the page stores nothing for a browser's tab
        core.app.add_exception_handler(404, _not_found)  # NiceGUI's own makes a page, and logs the raw path
        self._build(self)
        ui.run_with(
            self.app,
            title=self._title,
            dark=None,
            language='en-US',
            tailwind=False,
            binding_refresh_interval=None,
            show_welcome_message=False,
        )
        await self._running.enter_async_context(self.app.router.lifespan_context(self.app))
        gc.collect()
        gc.freeze()  # as `server.serve` does for the modules imported before

    async def _close(self) -> None:
        if self._loading is None:
            return
        self._loading.cancel()
        with suppress(TimeoutError):
            await asyncio.wait_for(self._running.aclose(), _CLOSE_SECONDS)

    def _admits(self, _origin: str | None, environ: dict[str, Any]) -> bool:
        return self._may_connect is None or self._may_connect(HTTPConnection(environ['asgi.scope']))


def _is_page(scope: Scope) -> bool:
    return str(scope['path']).removeprefix(scope.get('root_path', '')) == '/'


def _is_socket(scope: Scope) -> bool:
    return str(scope['path']).removeprefix(scope.get('root_path', '')).startswith(_SOCKETS)


def _open_pages() -> int:
    from nicegui import Client

    return len(Client.instances)


def _too_many() -> Response:
    return error_answers.answer(Busy(f'{_MAX_OPEN} pages are open, which is the maximum', retry_after=_RETRY_SECONDS))


async def _not_found(_: Request, error: Exception) -> Response:
    return JSONResponse({'detail': str(getattr(error, 'detail', 'Not Found'))}, status_code=NotFound.status)
