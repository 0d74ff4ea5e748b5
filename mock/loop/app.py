"""A mock Learning Loop: `uv run python -m mock` serves it.

It has the endpoints that nodes of learning_loop_node 0.27 call (`loop_routes`, `loop_trainer_routes`, `loop_events`),
those that people and tests need on top, under /mock (`loop_mock_routes`), and makes faults on demand (`loop_faults`).
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

from . import (
    events as loop_events,
)
from . import (
    mock_routes as loop_mock_routes,
)
from . import (
    routes as loop_routes,
)
from . import (
    seed as loop_seed,
)
from . import (
    trainer_routes as loop_trainer_routes,
)
from .errors import LoopError
from .middleware import AbortableProtocol, LoopMiddleware
from .state import Loop, Sessions
from .store import LoopStore

SHUTDOWN_SECONDS: Final = 2

_DESCRIPTION: Final = """
Stands in for a Learning Loop. Point a node at it: `LOOP_HOST=127.0.0.1:5005`, `LOOP_ORGANIZATION=zauberzeug`,
`LOOP_PROJECT=wholebody`.

The paths under `/api` are the Learning Loop's own; those under `/mock` are for people and tests: upload a package, set
the deployment target, see what arrived, order faults.
"""


def create_app(folder: Path, *, username: str | None = None, password: str = '') -> FastAPI:
    """The mock as an ASGI application.

    :param folder: keeps all that shall survive a restart; seeded with one project if there is none in it.
    :param username: the only one to be let in; None: everybody is, with empty credentials too.
    """
    folder.mkdir(parents=True, exist_ok=True)
    store = LoopStore(folder)
    loop_seed.seed_once(store)
    loop = Loop(store=store, sessions=Sessions(username, password), sio=loop_events.make_server())
    shutil.rmtree(loop.broken_files, ignore_errors=True)
    loop_events.register(loop)

    app = FastAPI(title='Mock Learning Loop', version='0.27', description=_DESCRIPTION)
    app.state.loop = loop
    app.add_middleware(LoopMiddleware, loop=loop)
    app.add_exception_handler(LoopError, _refuse)
    for router in (loop_routes.router, loop_mock_routes.router, loop_trainer_routes.router):
        app.include_router(router)
    app.mount('/ws', socketio.ASGIApp(loop.sio, socketio_path=f'/ws/{loop_events.SOCKETIO_PATH}'))
    app.add_api_route('/', _to_the_page, include_in_schema=False)

    def build_page(page: LazyPage) -> None:
        from . import page as loop_page

        page.app.add_exception_handler(LoopError, _refuse)
        loop_page.build(page.app, loop)

    LazyPage(build_page, title='Mock Learning Loop', may_connect=is_own_page).install(app)
    return app


async def _refuse(_request: Request, error: Any) -> JSONResponse:
    return JSONResponse({'detail': error.detail}, status_code=error.status)


async def _to_the_page() -> RedirectResponse:
    """To the API's, if the extra `page` is not installed."""
    return RedirectResponse('/docs' if importlib.util.find_spec('nicegui') is None else f'{PAGE_PATH}/')


def serve(folder: Path, *, host: str, port: int, username: str | None = None, password: str = '') -> None:
    """Serve until SIGTERM or SIGINT; the process then ends with status 0."""
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(0))  # uvicorn raises the signal once more when it is done
    uvicorn.run(
        create_app(folder, username=username, password=password),
        host=host,
        port=port,
        http=AbortableProtocol,
        log_level='warning',
        timeout_graceful_shutdown=SHUTDOWN_SECONDS,
    )
