"""A mock Learning Loop, served by `uv run python -m mock`.

It has the endpoints that nodes of learning_loop_node 0.27 call (`routes`, `trainer_routes`, `events`), paths under
/mock for people and tests (`mock_routes`), and faults on demand (`faults`).
"""

import importlib.util
import shutil
import signal
import sys
from pathlib import Path
from typing import Any, Final

import socketio
import uvicorn
from fastapi import FastAPI, Request
from fastapi.responses import JSONResponse, RedirectResponse

from detector.api.middleware.access import is_own_page
from detector.page.lazy import PATH as PAGE_PATH
from detector.page.lazy import LazyPage

from . import events, mock_routes, routes, seed, trainer_routes
from .errors import LoopError
from .middleware import AbortableProtocol, LoopMiddleware
from .state import Loop, Sessions
from .store import LoopStore

SHUTDOWN_SECONDS: Final = 2

_DESCRIPTION: Final = """
A server that stands in for a Learning Loop. To let a node follow it, set `LOOP_HOST=127.0.0.1:5005`,
`LOOP_ORGANIZATION=zauberzeug` and `LOOP_PROJECT=wholebody`.

The paths under `/api` are those of the Learning Loop. The paths under `/mock` are for people and tests: upload a
package, set the deployment target, list what was received, order faults.
"""


def create_app(folder: Path, *, username: str | None = None, password: str = '') -> FastAPI:
    """Return the mock as an ASGI application.

    :param folder: keeps everything that survives a restart; a new folder is seeded with one project.
    :param username: the only user who may log in; None if every client may, also with empty credentials.
    """
    folder.mkdir(parents=True, exist_ok=True)
    store = LoopStore(folder)
    seed.seed_once(store)
    loop = Loop(store=store, sessions=Sessions(username, password), sio=events.make_server())
    shutil.rmtree(loop.broken_files, ignore_errors=True)
    events.register(loop)

    app = FastAPI(title='Mock Learning Loop', version='0.27', description=_DESCRIPTION)
    app.state.loop = loop
    app.add_middleware(LoopMiddleware, loop=loop)
    app.add_exception_handler(LoopError, _refuse)
    for router in (routes.router, mock_routes.router, trainer_routes.router):
        app.include_router(router)
    app.mount('/ws', socketio.ASGIApp(loop.sio, socketio_path=f'/ws/{events.SOCKETIO_PATH}'))
    app.add_api_route('/', _to_the_page, include_in_schema=False)

    def build_page(page: LazyPage) -> None:
        from .page import build

        page.app.add_exception_handler(LoopError, _refuse)
        build(page.app, loop)

    LazyPage(build_page, title='Mock Learning Loop', may_connect=is_own_page).install(app)
    return app


async def _refuse(_request: Request, error: Any) -> JSONResponse:
    return JSONResponse({'detail': error.detail}, status_code=error.status)


async def _to_the_page() -> RedirectResponse:
    """Redirect to the page, or to the OpenAPI page if the extra `page` is not installed."""
    return RedirectResponse('/docs' if importlib.util.find_spec('nicegui') is None else f'{PAGE_PATH}/')


def serve(folder: Path, *, host: str, port: int, username: str | None = None, password: str = '') -> None:
    """Serve until SIGTERM or SIGINT. The process then exits with status 0."""
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(0))  # uvicorn raises the signal again when it has ended
    uvicorn.run(
        create_app(folder, username=username, password=password),
        host=host,
        port=port,
        http=AbortableProtocol,
        log_level='warning',
        timeout_graceful_shutdown=SHUTDOWN_SECONDS,
    )
