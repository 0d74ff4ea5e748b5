from collections.abc import AsyncIterator
from pathlib import Path

import pytest
from aiohttp import web
from aiohttp.test_utils import TestServer

from detector.outbox.outbox import Outbox
from tests.support.outboxes import Script, make_outbox


@pytest.fixture
async def script() -> AsyncIterator[Script]:
    made = Script()
    app = web.Application(client_max_size=1024**3)
    app.router.add_post('/images', made.handle)
    server = TestServer(app, shutdown_timeout=0.1)
    await server.start_server()
    made.url = str(server.make_url('/images'))
    yield made
    await server.close()


@pytest.fixture
async def outbox(tmp_path: Path, script: Script) -> AsyncIterator[Outbox]:
    made = make_outbox(tmp_path / 'outbox', script.url)
    yield made
    await made.close()
