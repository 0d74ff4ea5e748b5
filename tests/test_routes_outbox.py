"""The outbox's routes, and those of the page that show the same images."""

import asyncio
import threading
import time
from pathlib import Path
from typing import Any

import httpx
import pytest
from fastapi import FastAPI
from learning_loop_node.data_classes import ImageMetadata

from detector import overlay, routes_outbox
from detector.page import data
from detector.settings import Settings

from .test_node import CARD
from .test_outbox import make_outbox


async def test_stored_images_are_drawn_one_at_a_time(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """However many are asked for, here and by the page; those that are only read do not wait."""
    outbox = make_outbox(tmp_path / 'outbox', 'http://127.0.0.1:9')
    name = (await outbox.save(CARD, ImageMetadata(), priority=False)).name
    app: Any = FastAPI()
    app.outbox, app.settings, app.state.node = outbox, Settings(data_folder=tmp_path), app
    app.include_router(routes_outbox.router)
    app.include_router(data.router, prefix='/ui')
    lock = threading.Lock()
    overlaps: list[bool] = []
    draw = overlay.draw

    def slow(*arguments: Any, **options: Any) -> Any:
        overlaps.append(not lock.acquire(blocking=False))
        time.sleep(0.1)
        if not overlaps[-1]:
            lock.release()
        return draw(*arguments, **options)

    monkeypatch.setattr(overlay, 'draw', slow)
    async with httpx.AsyncClient(transport=httpx.ASGITransport(app), base_url='http://node') as client:
        drawn = [f'/outbox/{name}/image?skeletons=true', f'/ui/outbox/{name}/thumbnail']
        running = [asyncio.create_task(client.get(path)) for path in 3 * drawn]
        await asyncio.sleep(0.05)
        assert (await client.get(f'/outbox/{name}/image')).content == CARD
        assert not all(task.done() for task in running)
        assert {answer.status_code for answer in await asyncio.gather(*running)} == {200}
    assert overlaps == 6 * [False]
    await outbox.close()
