"""Damaged files in DATA_FOLDER are set aside or replaced, and cause no crash."""

import asyncio
import json
import sqlite3
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any
from unittest.mock import patch

import httpx
from hypothesis import example, given
from hypothesis import strategies as st

from detector.errors import DownloadFailed
from detector.label_studio.backend.correction_queue import CorrectionQueue, Hint
from detector.models import downloads
from detector.models.downloads import download, noted_validators
from detector.outbox.queue import OutboxQueue
from tests.support.strategies import JSON, TEXTS, damaged, mutated

NAME = '2026-01-31_12:00:00.000000'
METADATA = {'box_detections': [], 'tags': ['a'], 'source': 'x', 'created': '2026-01-31T12:00:00'}


def queue_file() -> bytes:
    """Make a database of corrections with waiting and sent annotations."""
    with TemporaryDirectory() as folder:
        path = Path(folder) / 'corrections.sqlite'
        queue = CorrectionQueue(path)
        queue.add([Hint(annotation=number, project=1) for number in range(1, 200)], now=0)
        for number in range(1, 50):
            queue.finish(Hint(annotation=number, project=1, hints=1), 'version')
        queue.close()
        return path.read_bytes()


QUEUE_FILE = queue_file()


@given(damaged(QUEUE_FILE) | st.binary(max_size=200))
@example(QUEUE_FILE[:4096] + bytes(4096) + QUEUE_FILE[8192:])
@example(QUEUE_FILE[:-4096] + b'\xff' * 4096)
@example(QUEUE_FILE.replace(b'PRIMARY KEY, project', b'PRIMAK YREY, project'))
def test_a_damaged_queue_of_corrections_works_or_is_begun_anew(content: bytes) -> None:
    """With any content of the file, the queue accepts and returns corrections; a fault of the disk is an OSError."""
    with TemporaryDirectory() as folder:
        path = Path(folder) / 'corrections.sqlite'
        path.write_bytes(content)
        queue = CorrectionQueue(path)
        try:
            hint = Hint(annotation=1000, project=7)
            queue.add([hint], now=5)
            assert queue.about()['waiting'] > 0
            found, _ = queue.next()
            assert found is not None
            queue.was_sent(found, 'a version')
            queue.postpone(found, 6, limited=True)
            queue.finish(hint, 'a version')
        finally:
            queue.close()


@given(
    metadata=damaged(json.dumps(METADATA).encode())
    | mutated(METADATA).map(lambda content: json.dumps(content).encode())
    | st.sampled_from([b'[' * 20_000, b'9' * 5000, b'']),
    jpeg=st.binary(max_size=20),
    name=st.sampled_from([NAME, NAME.replace('-01-31', '-02-31'), 'x', '.hidden', NAME + 'x']),
    extra=TEXTS,
)
@example(metadata=b'[' * 20_000, jpeg=b'a', name=NAME, extra='')
def test_a_damaged_outbox_is_taken_over(metadata: bytes, jpeg: bytes, name: str, extra: str) -> None:
    """Each image in a damaged outbox is waiting or set aside, and counted; descriptions have the readable fields."""
    with TemporaryDirectory() as folder:
        outbox = Path(folder) / 'outbox'
        place = outbox / 'normal' / name
        place.mkdir(parents=True)
        (place / f'image_{name}.json').write_bytes(metadata)
        (place / f'image_{name}.jpg').write_bytes(jpeg)
        (outbox / 'priority').mkdir()
        (outbox / 'priority' / 'stray').write_text(extra, errors='replace')
        queue = OutboxQueue(outbox, max_images=10, max_bytes=10**9)
        queue.load()
        about = queue.about()
        assert about['found'] == 2
        assert about['found'] == about['set_aside'] + about['waiting']
        for entry in queue.waiting():
            json.dumps(entry.describe().persons)
            assert entry.describe().name == name
        queue.save(b'jpeg', b'{}', priority=False)
        assert queue.count == about['waiting'] + 1


NOTE = {'etag': '"a"', 'last_modified': None, 'length': 100}
HEADERS = st.text(st.characters(min_codepoint=32, max_codepoint=255), max_size=12) | st.sampled_from(
    ['bytes 0-9/²', 'bytes 5-9/100', '9' * 5000, 'bytes */0', 'W/"a"', '"a"']
)


def download_from(answers: list[tuple[int, dict[str, str], bytes]], target: Path) -> None:
    """Download from a server with these answers, which repeats the last one."""
    left = list(answers)

    def answer(_: httpx.Request) -> httpx.Response:
        status, headers, content = left.pop(0) if len(left) > 1 else left[0]
        encoded = [(name.encode(), value.encode('latin-1')) for name, value in headers.items()]
        return httpx.Response(status, headers=encoded, content=content)

    async def run() -> None:
        async with httpx.AsyncClient(transport=httpx.MockTransport(answer)) as client:
            await download(client, 'http://loop/file', target, max_bytes=1000)

    with patch.object(downloads, '_PAUSE_SECONDS', 0):
        asyncio.run(run())


@given(
    note=mutated(NOTE).map(lambda content: json.dumps(content).encode())
    | st.binary(max_size=20)
    | st.just(b'[' * 20_000),
    part=st.binary(max_size=50),
    status=st.sampled_from([200, 206, 206, 404, 416]),
    headers=st.dictionaries(st.sampled_from(['ETag', 'Last-Modified', 'Content-Range']), HEADERS),
    content=st.binary(max_size=200),
)
@example(note=json.dumps(NOTE | {'etag': '\x80'}).encode(), part=b'part', status=206, headers={}, content=b'rest')
def test_a_damaged_download_is_completed_or_fails(
    note: bytes, part: bytes, status: int, headers: dict[str, str], content: bytes
) -> None:
    """A damaged note, a partial file and any answer of the server lead to a complete file or to DownloadFailed."""
    with TemporaryDirectory() as folder:
        target = Path(folder) / 'model.zip'
        target.with_name('model.zip.json').write_bytes(note)
        target.with_name('model.zip.part').write_bytes(part)
        try:
            # a transfer that breaks off is tried again, and the second try gets 404
            download_from([(status, headers, content), (404, {}, b'')], target)
        except DownloadFailed as error:
            assert str(error)
            return
        assert target.read_bytes().endswith(content)


@given(JSON | mutated(NOTE))
def test_a_note_is_understood_or_ignored(note: Any) -> None:
    """The fields of a note have the right types, or the note is ignored."""
    with TemporaryDirectory() as folder:
        target = Path(folder) / 'model.zip'
        target.with_name('model.zip.json').write_text(json.dumps(note))
        found = noted_validators(target)
        if found is not None:
            assert isinstance(found.range_condition, str | None)
            assert isinstance(found.length, int | None)


def test_the_queue_file_is_a_real_one() -> None:
    """The database that the tests above damage has tables and entries."""
    with sqlite3.connect(':memory:') as database:
        database.deserialize(QUEUE_FILE)
        assert database.execute('SELECT count(*) FROM sent').fetchone() == (49,)
    database.close()
