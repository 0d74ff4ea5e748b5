"""The routes of the outbox, and those of the page that show the same images."""

import asyncio
import shutil
import threading
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import httpx
import pytest
from fastapi import FastAPI
from learning_loop_node.data_classes import ImageMetadata

from benchmarks.support.cards import CARD
from benchmarks.support.waiting import PATIENCE
from detector.api import error_answers, openapi, outbox_routes
from detector.observability.life import Life
from detector.observability.metrics import Metrics
from detector.outbox.collector import Collector
from detector.outbox.files import Entry
from detector.outbox.outbox import NoOutbox, Outbox
from detector.page import routes
from detector.pose import overlay
from detector.service import Detection, OutboxControl, Uploads
from detector.serving.inference import Inference
from detector.serving.model_serving import ModelServing
from detector.settings import Settings
from tests.support.outboxes import make_outbox

AS_THEY_LIE = ('/outbox/{name}/image', '/outbox/{name}/metadata', '/ui/outbox/{name}/image')
READ = ('/outbox/{name}/image?skeletons=true', '/ui/outbox/{name}/thumbnail', '/ui/outbox/{name}/poses')


def make_app(outbox: Outbox, folder: Path, **settings: Any) -> Any:
    """Return an app with the routes of this outbox and those of the page."""
    app: Any = FastAPI()
    chosen = Settings(data_folder=folder, **settings)
    serving = ModelServing(chosen, metrics=Metrics(), life=Life())
    collector = Collector(outbox, chosen)
    uploads, control = Uploads(serving, collector), OutboxControl(outbox)
    detection = Detection(Inference(chosen, lambda: serving.active().engine), collector)
    app.include_router(outbox_routes.create_router(uploads, control, outbox, chosen))
    app.include_router(routes.create_router(detection, outbox, chosen), prefix='/ui')
    error_answers.install(app)
    return app


def client_of(app: Any) -> httpx.AsyncClient:
    return httpx.AsyncClient(transport=httpx.ASGITransport(app), base_url='http://node')


@pytest.fixture
async def outbox(tmp_path: Path) -> AsyncIterator[Outbox]:
    """An outbox whose Loop does not exist."""
    made = make_outbox(tmp_path / 'outbox', 'http://127.0.0.1:9')
    yield made
    await made.close()


@pytest.fixture
async def entry(outbox: Outbox) -> Entry:
    """An image that waits in the outbox."""
    return await outbox.save(CARD, ImageMetadata(), priority=False)


async def answers(app: Any, name: str, paths: tuple[str, ...] = AS_THEY_LIE + READ) -> list[httpx.Response]:
    async with client_of(app) as client:
        return [await client.get(path.format(name=name)) for path in paths]


def assert_documented(app: Any, status: int) -> None:
    """Check that the OpenAPI document has this status for both routes that show an image."""
    paths = openapi.completed(app.openapi())['paths']
    for path in AS_THEY_LIE[:2]:
        assert str(status) in paths[path]['get']['responses']


async def test_images_that_do_not_wait_are_not_found(outbox: Outbox, entry: Entry, tmp_path: Path) -> None:
    """An unknown name, and an image whose files have disappeared, get 404."""
    app = make_app(outbox, tmp_path)
    assert {answer.status_code for answer in await answers(app, entry.name)} == {200}
    found = await answers(app, 'x')
    shutil.rmtree(entry.folder)
    for answer in found + await answers(app, entry.name):
        assert answer.status_code == 404
        assert 'it may have been sent' in answer.json()['detail']
    assert_documented(app, 404)


async def test_without_a_loop_nothing_can_wait(tmp_path: Path) -> None:
    """Without a Loop the routes of REST and page answer 409 and name the setting."""
    app = make_app(NoOutbox(), tmp_path)
    for answer in await answers(app, 'x'):
        assert answer.status_code == 409
        assert 'set LOOP_HOST' in answer.json()['detail']
    assert_documented(app, 409)


DAMAGES: dict[str, tuple[bytes | None, bytes | None, str]] = {
    'no image': (b'no image', None, 'these bytes are not an image'),
    'half an image': (CARD[: len(CARD) // 2], None, 'the image is broken'),
    'no JSON': (None, b'{', 'JSONDecodeError'),
    'deep JSON': (None, b'[' * 200_000, 'RecursionError'),
    'JSON of another form': (None, b'{"box_detections": 5}', 'TypeError'),
    'a box without sides': (None, b'{"box_detections": [{"x": 1, "y": 2}]}', "KeyError('width')"),
}


@pytest.mark.parametrize('damage', DAMAGES)
async def test_a_damaged_image_is_an_error_of_the_node(
    outbox: Outbox, entry: Entry, tmp_path: Path, damage: str
) -> None:
    """Every route that reads the file answers 500 with name and fault; the unchanged files can still be downloaded."""
    jpeg, stored, why = DAMAGES[damage]
    if jpeg is not None:
        entry.jpeg.write_bytes(jpeg)
    if stored is not None:
        entry.metadata.write_bytes(stored)
    app = make_app(outbox, tmp_path)
    only_the_size_is_read = damage == 'half an image'
    for answer in await answers(app, entry.name, READ[:2] if only_the_size_is_read else READ):
        assert answer.status_code == 500
        assert f"{entry.name}' waits in the outbox" in answer.json()['detail']
        assert why in answer.json()['detail']
    as_they_lie = [entry.jpeg.read_bytes(), entry.metadata.read_bytes(), entry.jpeg.read_bytes()]
    assert [answer.content for answer in await answers(app, entry.name, AS_THEY_LIE)] == as_they_lie
    assert_documented(app, 500)


async def test_unreadable_files_count_as_damaged(outbox: Outbox, entry: Entry, tmp_path: Path) -> None:
    """An image whose files cannot be read gets 500 rather than 404, since it has not been sent."""
    for path in (entry.jpeg, entry.metadata):
        path.unlink()
        path.mkdir()
    for answer in await answers(make_app(outbox, tmp_path), entry.name):
        assert (answer.status_code, 'IsADirectoryError' in answer.json()['detail']) == (500, True)


async def test_images_beyond_a_limit_that_was_lowered_are_not_drawn(
    outbox: Outbox, entry: Entry, tmp_path: Path
) -> None:
    """A stored image above a limit that was lowered gets 500 with the name of the limit."""
    for answer in await answers(make_app(outbox, tmp_path, max_image_pixels=64), entry.name, READ):
        assert (answer.status_code, 'MAX_IMAGE_PIXELS' in answer.json()['detail']) == (500, True)


async def test_stored_images_are_drawn_one_at_a_time(
    outbox: Outbox, entry: Entry, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Simultaneous requests of REST and page draw in turn; requests that only read a file do not wait."""
    lock = threading.Lock()
    overlaps: list[bool] = []
    begun, go = threading.Event(), threading.Event()
    draw = overlay.draw_poses

    def slow(*arguments: Any, **options: Any) -> Any:
        overlaps.append(not lock.acquire(blocking=False))
        begun.set()
        go.wait(PATIENCE)
        if not overlaps[-1]:
            lock.release()
        return draw(*arguments, **options)

    monkeypatch.setattr(overlay, 'draw_poses', slow)
    async with client_of(make_app(outbox, tmp_path)) as client:
        drawn = [path.format(name=entry.name) for path in READ[:2]]
        running = [asyncio.create_task(client.get(path)) for path in 3 * drawn]
        await asyncio.to_thread(begun.wait, PATIENCE)
        assert (await client.get(f'/outbox/{entry.name}/image')).content == CARD
        assert not any(task.done() for task in running)
        go.set()
        assert {answer.status_code for answer in await asyncio.gather(*running)} == {200}
    assert overlaps == 6 * [False]
