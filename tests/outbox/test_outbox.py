"""Uploads to a scripted server and to the mock Learning Loop."""

import asyncio
import shutil
import ssl
import threading
import time
from pathlib import Path
from typing import Any

import pytest
from aiohttp import web
from learning_loop_node.data_classes import ImageMetadata

from benchmarks.support.processes import free_port
from benchmarks.support.waiting import PATIENCE, eventually_async
from detector.errors import NoLearningLoop, OutboxFault
from detector.observability import request_context
from detector.outbox import outbox as outbox_module
from detector.outbox.files import Entry
from detector.outbox.outbox import Outbox, open_outbox
from detector.outbox.posting import Answer, Outcome
from detector.settings import Settings
from tests.support.outboxes import Script, accept, fill, make_outbox, names, until_empty


async def test_a_backlog_goes_in_batches_of_20_without_pauses(script: Script, tmp_path: Path) -> None:
    """Priority images go first, then the newest; the outbox pauses only after an incomplete batch."""
    outbox = make_outbox(tmp_path, script.url, interval=10 * PATIENCE)
    normal = await fill(outbox, 45)
    urgent = await fill(outbox, 2, priority=True)
    await outbox.start()
    await eventually_async(lambda: len(script.batches) == 2, 'a second batch without a pause')
    assert script.taken == [*names(urgent), *names(normal)[:6:-1]]
    await outbox.close()
    assert outbox.about() | {'uploaded': 40, 'waiting': 7} == outbox.about()


@pytest.mark.parametrize('status', [413, 422])
async def test_a_refused_batch_is_halved_until_the_culprit_is_alone(
    script: Script, outbox: Outbox, status: int, caplog: pytest.LogCaptureFixture
) -> None:
    """The refused image is set aside with the Loop's reason in the log; all others arrive once."""
    entries = await fill(outbox, 20)
    culprit = entries[7].name

    async def answer(received: list[str]) -> web.Response:
        return web.json_response({'detail': 'bad'}, status=status if culprit in received else 200)

    script.answer = answer
    await outbox.start()
    await until_empty(outbox)
    assert sorted(script.taken) == sorted(set(names(entries)) - {culprit})
    assert outbox.about() | {'uploaded': 19, 'set_aside': 1, 'waiting': 0} == outbox.about()
    folder = entries[7].folder.parent.parent / 'set_aside' / culprit
    assert {path.name for path in folder.iterdir()} == {entries[7].jpeg.name, entries[7].metadata.name}
    assert f'{culprit}\' is set aside: the Learning Loop answers {status} {{"detail": "bad"}}' in caplog.text


async def test_a_limit_of_the_request_size_is_learned(script: Script, outbox: Outbox) -> None:
    """After 413 for large batches, later batches start smaller, and no image is set aside."""

    async def answer(received: list[str]) -> web.Response:
        return web.json_response({}, status=413 if len(received) > 4 else 200)

    script.answer = answer
    entries = await fill(outbox, 60)
    await outbox.start()
    await until_empty(outbox)
    assert sorted(script.taken) == sorted(names(entries))
    assert outbox.about()['set_aside'] == 0
    refused = [len(batch) for batch in script.batches if len(batch) > 4]
    assert refused[0] == 20
    assert max(refused[3:], default=0) < 12


@pytest.mark.parametrize('fault', ['status 500', 'reset', 'hang'])
async def test_an_image_that_breaks_the_loop_does_not_hold_up_the_others(
    script: Script, outbox: Outbox, monkeypatch: pytest.MonkeyPatch, fault: str
) -> None:
    """An image that makes every request fail is retried until the Loop is repaired, and the other images arrive."""
    monkeypatch.setattr(outbox_module, 'BATCH_SECONDS', 0.3)
    outbox._batch_seconds = 0.3
    entries = await fill(outbox, 30)
    poison = entries[-1].name
    broken = True

    async def answer(received: list[str]) -> web.Response:
        if broken and poison in received:
            if fault == 'reset':
                raise ConnectionResetError
            if fault == 'hang':
                await asyncio.sleep(5)
            return web.json_response({}, status=500)
        return web.json_response({})

    script.answer = answer
    await outbox.start()
    await eventually_async(lambda: outbox.queue.count == 1)
    assert [entry.name for entry in outbox.queue.waiting()] == [poison]
    late = await fill(outbox, 3, priority=True)
    await eventually_async(lambda: set(names(late)) <= set(script.taken))
    broken = False
    await until_empty(outbox)
    assert sorted(script.taken) == sorted(names([*entries, *late]))
    assert outbox.about() | {'uploaded': 33, 'set_aside': 0, 'error': None} == outbox.about()


@pytest.mark.parametrize('status', [500, pytest.param(503, marks=pytest.mark.integration)])
async def test_an_outage_is_no_images_fault(script: Script, outbox: Outbox, status: int) -> None:
    """While the Loop answers only errors, no image is isolated; afterwards priority images go first as usual."""
    await fill(outbox, 20)
    urgent = await fill(outbox, 3, priority=True)

    async def answer(_: list[str]) -> web.Response:
        return web.json_response({}, status=status if len(script.batches) <= 8 else 200)

    script.answer = answer
    await outbox.start()
    await eventually_async(lambda: len(script.taken) >= 6, seconds=40)
    assert set(names(urgent)) <= set(script.taken[:6])
    await until_empty(outbox)


async def test_files_that_cannot_be_opened_are_kept(
    script: Script, outbox: Outbox, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Files that cannot be opened for a while, for example with too many open files, are kept and arrive later."""
    entries = await fill(outbox, 5)
    read = Path.read_bytes

    def exhausted(path: Path) -> bytes:
        raise OSError(24, 'Too many open files')

    monkeypatch.setattr(Path, 'read_bytes', exhausted)
    await outbox.start()
    await eventually_async(lambda: 'Too many open files' in str(outbox.about()['error']))
    monkeypatch.setattr(Path, 'read_bytes', read)
    await until_empty(outbox)
    assert sorted(script.taken) == sorted(names(entries))


async def test_stopping_while_files_are_removed_sends_nothing_twice(
    script: Script, outbox: Outbox, monkeypatch: pytest.MonkeyPatch
) -> None:
    """An outbox that stops while it removes uploaded files from a slow disk sends no image twice."""
    monkeypatch.setattr(outbox_module, 'STOP_SECONDS', 0.05)
    remove = outbox.queue._files.remove

    def slowly(entry: Entry) -> bool:
        time.sleep(0.05)
        return remove(entry)

    monkeypatch.setattr(outbox.queue._files, 'remove', slowly)
    await fill(outbox, 15)
    await outbox.start()
    await eventually_async(lambda: len(script.taken) == 15)
    for _ in range(3):
        await outbox.set_mode('stopped')
        await outbox.set_mode('continuous_upload')
        await asyncio.sleep(0.1)
    await eventually_async(lambda: not any(path.is_file() for path in outbox.queue._files.folder.rglob('*')))
    assert len(script.taken) == 15


async def test_nothing_is_sent_while_it_is_held(script: Script, tmp_path: Path) -> None:
    """After PUT /socketio off, the mode stays the same and the images wait."""
    held = True
    outbox = make_outbox(tmp_path, script.url)
    turns = 0

    def is_held() -> bool:
        nonlocal turns
        turns += 1
        return held

    outbox._held = is_held
    await fill(outbox, 2)
    await outbox.start()
    await eventually_async(lambda: turns >= 3, 'three turns of the outbox')
    assert (script.batches, outbox.get_mode().value) == ([], 'continuous_upload')
    held = False
    await until_empty(outbox)
    await outbox.close()


async def test_failures_are_tried_again_ever_later(script: Script, tmp_path: Path) -> None:
    """Pauses double up to a minute, and each is randomised."""

    async def answer(_: list[str]) -> web.Response:
        return web.json_response({}, status=503)

    script.answer = answer
    outbox = make_outbox(tmp_path, script.url, interval=0.1)
    await fill(outbox, 1)
    await outbox.start()
    await eventually_async(lambda: len(script.times) == 5)
    await outbox.close()
    pauses = [after - before for before, after in zip(script.times, script.times[1:], strict=False)]
    for number, pause in enumerate(pauses):
        assert pause >= 0.1 * 2**number / 2


async def test_pauses_have_a_limit_and_some_chance(outbox: Outbox) -> None:
    """A pause lasts between half a minute and a minute; the Loop may ask for five minutes at most."""
    (entry,) = await fill(outbox, 1)
    failed = Answer(outcome=Outcome.UNAVAILABLE)
    pauses = [outbox._pause_after_failure(failed, [entry]) for _ in range(60)][-30:]
    assert all(30 <= pause <= 60 for pause in pauses)
    assert len(set(pauses)) > 20
    patience = Answer(outcome=Outcome.UNAVAILABLE, retry_after=100_000)
    assert outbox._pause_after_failure(patience, [entry]) == 300


async def test_the_loop_may_ask_for_patience(script: Script, outbox: Outbox) -> None:
    """After 429 the outbox waits for the Loop's Retry-After, although its interval is 0.02 s."""

    async def answer(_: list[str]) -> web.Response:
        first = len(script.batches) == 1
        return web.json_response({}, status=429 if first else 200, headers={'Retry-After': '1'} if first else {})

    script.answer = answer
    await fill(outbox, 1)
    await outbox.start()
    await until_empty(outbox)
    assert script.times[1] - script.times[0] >= 1


async def test_batches_that_are_too_slow_are_made_smaller(
    script: Script, outbox: Outbox, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Batches above the time limit of 0.2 s shrink, and a single image that needs 0.5 s gets more time."""
    monkeypatch.setattr(outbox_module, 'BATCH_SECONDS', 0.2)
    outbox._batch_seconds = 0.2
    entries = await fill(outbox, 12)
    slow = entries[5].name

    async def answer(received: list[str]) -> web.Response:
        await asyncio.sleep(sum(0.5 if name == slow else 0.05 for name in received))
        return web.json_response({})

    script.answer = answer
    await outbox.start()
    await eventually_async(lambda: outbox.queue.count == 0, seconds=40)
    assert outbox.about()['uploaded'] == 12
    assert len(script.batches[0]) == 12
    assert [slow] in script.batches


async def test_stopping_cuts_a_hanging_request(script: Script, outbox: Outbox) -> None:
    """Stopping cuts a hanging request within rosys' 5 seconds, and the next start sends the image."""
    hanging, answered = script.hold()
    await fill(outbox, 3)
    await outbox.start()
    await hanging.wait()
    assert outbox_module.STOP_SECONDS < 4
    await outbox.set_mode('stopped')
    assert not answered.is_set()
    assert outbox.get_mode().value == 'stopped'
    assert outbox.queue.count == 3
    script.answer = accept
    await outbox.set_mode('continuous_upload')
    await until_empty(outbox)
    assert len(script.taken) == 3


async def test_a_request_that_is_under_way_may_end(script: Script, outbox: Outbox) -> None:
    """Stopping waits for a request in progress, so that nothing is sent twice."""
    begun, go = script.hold()
    await fill(outbox, 3)
    await outbox.start()
    await begun.wait()
    stopping = asyncio.create_task(outbox.set_mode('stopped'))
    for _ in range(10):
        await asyncio.sleep(0)
    assert not stopping.done()
    go.set()
    await stopping
    assert outbox.about() | {'uploaded': 3, 'waiting': 0, 'mode': 'stopped'} == outbox.about()


async def test_the_last_mode_wins(script: Script, outbox: Outbox) -> None:
    """The last of several simultaneous calls that set the mode wins, whatever the modes are."""
    await outbox.start()
    for modes in (['stopped', 'continuous_upload'], ['continuous_upload', 'stopped'], ['stopped', 'stopped']):
        await asyncio.gather(*(outbox.set_mode(mode) for mode in modes))
        assert outbox.get_mode().value == modes[-1]
    with pytest.raises(ValueError, match='sometimes'):
        await outbox.set_mode('sometimes')


async def test_images_wait_while_the_loop_is_away(script: Script, tmp_path: Path) -> None:
    """Without a server nothing is lost, no image is isolated, and all arrive once the Loop is back."""
    outbox = make_outbox(tmp_path, f'http://127.0.0.1:{free_port()}/images')
    entries = await fill(outbox, 30)
    await outbox.start()
    await eventually_async(lambda: outbox.about()['error'] is not None)
    await asyncio.sleep(0.3)
    outbox._poster.url = script.url
    await until_empty(outbox)
    await outbox.close()
    assert [len(batch) for batch in script.batches][:1] == [20]
    assert sorted(script.taken) == sorted(names(entries))


async def test_deleted_images_do_not_hold_up_the_others(script: Script, outbox: Outbox) -> None:
    """After a folder, a single file or all files of a batch have been deleted, the other images arrive."""
    entries = await fill(outbox, 5)
    shutil.rmtree(entries[1].folder)
    entries[3].jpeg.unlink()
    await outbox.set_mode('continuous_upload')
    await until_empty(outbox)
    assert sorted(script.taken) == sorted(names([entries[0], entries[2], entries[4]]))
    assert outbox.about() | {'uploaded': 3, 'vanished': 1, 'set_aside': 1} == outbox.about()
    await outbox.close()
    shutil.rmtree((await fill(outbox, 1))[0].folder.parent)
    await outbox.set_mode('continuous_upload')
    await until_empty(outbox)
    assert outbox.about()['vanished'] == 2
    assert [] not in script.batches
    left = {path.name for path in entries[0].folder.parent.parent.rglob('*') if path.is_file()}
    assert left == {entries[3].metadata.name}, 'the rest of an incomplete image must be set aside'


async def test_strays_do_not_stop_the_outbox(script: Script, outbox: Outbox) -> None:
    """Images are sent although an incomplete folder and a stray file, which would stop upstream's outbox, are newer."""
    entries = await fill(outbox, 2)
    normal = entries[0].folder.parent
    (normal / '2999-01-01_00:00:00.000000').mkdir()
    (normal / 'zzz').write_text('')
    await outbox.start()
    await until_empty(outbox)
    assert sorted(script.taken) == sorted(names(entries))
    assert outbox.about() | {'found': 4, 'set_aside': 2, 'uploaded': 2} == outbox.about()


async def test_an_outbox_that_cannot_be_read_does_not_stop_the_node(
    script: Script, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    """The node starts, logs the error, and the outbox works as soon as the disk does."""
    folder = tmp_path / 'outbox'
    folder.write_text('')
    outbox = make_outbox(folder, script.url)
    await outbox.start()
    assert 'cannot be used' in caplog.text
    folder.unlink()
    await fill(outbox, 1)
    await until_empty(outbox)
    await outbox.close()
    assert len(script.taken) == 1


async def test_a_fault_inside_is_survived(script: Script, outbox: Outbox, monkeypatch: pytest.MonkeyPatch) -> None:
    """Uploads continue after a pause, whatever exception was raised."""
    post: Any = outbox._poster.post
    calls = []

    async def failing(*arguments: Any, **options: Any) -> Any:
        calls.append(1)
        if len(calls) == 1:
            raise RuntimeError('unforeseen')
        return await post(*arguments, **options)

    monkeypatch.setattr(outbox._poster, 'post', failing)
    await fill(outbox, 2)
    await outbox.start()
    await until_empty(outbox)
    assert len(script.taken) == 2


async def test_settings_reach_the_outbox(tmp_path: Path) -> None:
    """Folder, limits, interval, address and certificates come from the settings."""
    loop: dict[str, Any] = {'loop_host': 'localhost:1', 'loop_organization': 'o', 'loop_project': 'p'}
    settings = Settings(data_folder=tmp_path, max_outbox_size=2, max_outbox_mib=1, upload_seconds=7, **loop)
    held = False
    outbox = open_outbox(settings, held=lambda: held)
    entries = await fill(outbox, 3)
    assert (outbox.queue.waiting(), entries[2].priority) == (entries[:0:-1], False)
    assert entries[2].folder.is_relative_to(settings.outbox_folder)
    with pytest.raises(OutboxFault, match='the outbox holds 1048576 '):
        await outbox.save(bytes(1024**2), ImageMetadata())
    assert outbox._poster.url == f'{settings.loop_url}/api/o/projects/p/images'
    assert isinstance(outbox._poster._ssl_context, ssl.SSLContext)
    assert (outbox._interval, outbox._held()) == (7, False)
    held = True
    assert outbox._held()


async def test_an_image_is_of_normal_priority_and_its_metadata_is_json(outbox: Outbox) -> None:
    """A number that JSON does not have stores nothing, since the Loop could not read the metadata."""
    assert not (await outbox.save(b'jpeg', ImageMetadata())).priority
    with pytest.raises(ValueError, match='not JSON compliant'):
        await outbox.save(b'jpeg', ImageMetadata(source=float('nan')))  # type: ignore[arg-type]
    assert outbox.about() | {'mode': 'stopped', 'saved': 1, 'waiting': 1, 'error': None} == outbox.about()


async def test_the_disk_is_used_in_threads_of_the_outbox(
    script: Script, outbox: Outbox, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A disk that stalls does not occupy the threads of detections, also while files are read for a request."""
    threads: list[str] = []
    read, write = Path.read_bytes, outbox.queue._files.write

    def reading(path: Path) -> bytes:
        threads.append(threading.current_thread().name)
        return read(path)

    def writing(*arguments: Any, **options: Any) -> Any:
        threads.append(threading.current_thread().name)
        return write(*arguments, **options)

    monkeypatch.setattr(Path, 'read_bytes', reading)
    monkeypatch.setattr(outbox.queue._files, 'write', writing)
    await fill(outbox, 1)
    await outbox.start()
    await until_empty(outbox)
    assert len(threads) == 3
    assert all(name.startswith('outbox') for name in threads)


async def test_uploads_belong_to_no_request(script: Script, outbox: Outbox, monkeypatch: pytest.MonkeyPatch) -> None:
    """Log lines of uploads do not carry the id of the request that set the mode."""
    ids: list[str | None] = []
    post: Any = outbox._poster.post

    async def noting(*arguments: Any, **options: Any) -> Any:
        ids.append(request_context.request_id())
        return await post(*arguments, **options)

    monkeypatch.setattr(outbox._poster, 'post', noting)
    await fill(outbox, 1)
    request_context.begin('a request')
    await outbox.set_mode('continuous_upload')
    await until_empty(outbox)
    assert ids == [None]


async def test_without_a_loop_nothing_is_stored_or_sent() -> None:
    """The outbox of a node without a Loop refuses images and uploads, and can be stopped."""
    outbox = open_outbox(Settings())
    await outbox.start()
    with pytest.raises(NoLearningLoop, match='^The outbox '):
        await outbox.save(b'jpeg', ImageMetadata())
    with pytest.raises(NoLearningLoop, match='^The outbox '):
        _ = outbox.queue
    with pytest.raises(NoLearningLoop, match='^An upload '):
        await outbox.set_mode('continuous_upload')
    with pytest.raises(ValueError, match='sometimes'):
        await outbox.set_mode('sometimes')
    await outbox.set_mode('stopped')
    assert (outbox.count, outbox.about()) == (0, {'mode': 'stopped'})
    await outbox.close()
