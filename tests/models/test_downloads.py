"""Downloads of large files."""

import resource
from collections.abc import AsyncIterator, Iterator
from pathlib import Path

import httpx
import numpy as np
import pytest

from benchmarks.support.processes import free_port
from detector.errors import DownloadFailed
from detector.models import downloads
from detector.models.downloads import Validators, discard, download, noted_validators, probe
from tests.support.file_server import FileServer, serving

CONTENT = np.random.default_rng(0).bytes(3_500_000)
LIMIT = 10_000_000


@pytest.fixture
def server() -> Iterator[FileServer]:
    with serving(CONTENT) as running:
        yield running


@pytest.fixture
async def client() -> AsyncIterator[httpx.AsyncClient]:
    async with httpx.AsyncClient(timeout=5) as opened:
        yield opened


@pytest.fixture(autouse=True)
def _no_pauses(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(downloads, '_PAUSE_SECONDS', 0)


async def test_a_file_arrives_with_progress(client: httpx.AsyncClient, server: FileServer, tmp_path: Path) -> None:
    """The file is identical, and the reported progress rises to its size."""
    seen: list[tuple[int, int | None]] = []
    target = tmp_path / 'model.zip'
    await download(client, server.url, target, max_bytes=LIMIT, progress=lambda *now: seen.append(now))
    assert target.read_bytes() == CONTENT
    assert [done for done, _ in seen] == sorted(done for done, _ in seen)
    assert seen[-1] == (len(CONTENT), len(CONTENT))


async def test_an_interrupted_transfer_is_resumed(
    client: httpx.AsyncClient, server: FileServer, tmp_path: Path
) -> None:
    """After each of two interruptions within one call, only the rest is requested."""
    server.cuts = [2_000_000, 1_000_000]
    target = tmp_path / 'model.zip'
    await download(client, server.url, target, max_bytes=LIMIT)
    assert target.read_bytes() == CONTENT
    starts = [int(wanted.removeprefix('bytes=').removesuffix('-')) for wanted in server.ranges if wanted]
    assert len(server.ranges) == 3
    assert 1_000_000 <= starts[0] <= 2_000_000
    assert starts[0] < starts[1] <= 3_000_000


async def test_a_later_call_resumes_an_earlier_one(
    client: httpx.AsyncClient, server: FileServer, tmp_path: Path
) -> None:
    """A later call resumes the download, as after a restart; an unchanged file is not downloaded again."""
    server.cuts = [2_000_000, 0, 0, 0]
    target = tmp_path / 'model.zip'
    with pytest.raises(DownloadFailed, match='broke off.*4 attempts'):
        await download(client, server.url, target, max_bytes=LIMIT)
    assert not target.exists()
    await download(client, server.url, target, max_bytes=LIMIT)
    assert target.read_bytes() == CONTENT
    assert server.ranges[-1] is not None
    before = target.stat().st_mtime_ns
    await download(client, server.url, target, max_bytes=LIMIT)
    assert target.stat().st_mtime_ns == before
    discard(target)
    assert list(tmp_path.iterdir()) == []


async def test_a_changed_file_is_downloaded_from_its_start(
    client: httpx.AsyncClient, server: FileServer, tmp_path: Path
) -> None:
    """If the server's file changes after an interruption, it is downloaded from its start."""
    server.cuts = [2_000_000, 0, 0, 0]
    target = tmp_path / 'model.zip'
    with pytest.raises(DownloadFailed):
        await download(client, server.url, target, max_bytes=LIMIT)
    server.content = CONTENT[::-1]
    await download(client, server.url, target, max_bytes=LIMIT)
    assert target.read_bytes() == CONTENT[::-1]


async def test_without_an_etag_it_restarts(client: httpx.AsyncClient, server: FileServer, tmp_path: Path) -> None:
    """Without an ETag the download restarts, since the rest may belong to another file."""
    server.etag = False
    server.cuts = [2_000_000]
    target = tmp_path / 'model.zip'
    await download(client, server.url, target, max_bytes=LIMIT)
    assert target.read_bytes() == CONTENT
    assert server.ranges == [None, None]


async def test_too_large_a_file_is_refused(client: httpx.AsyncClient, server: FileServer, tmp_path: Path) -> None:
    """A file whose announced size exceeds the limit is refused before it is written."""
    target = tmp_path / 'model.zip'
    target.write_bytes(b'older')
    with pytest.raises(DownloadFailed, match=f'^{server.url}: the file is larger than the limit of 1000000 bytes'):
        await download(client, server.url, target, max_bytes=1_000_000)
    assert [(file.name, file.read_bytes()) for file in tmp_path.iterdir()] == [('model.zip', b'older')]
    server.content = CONTENT[:1000]
    await download(client, server.url, target, max_bytes=1000)
    assert target.read_bytes() == CONTENT[:1000]


async def test_errors_of_the_server_are_reported(client: httpx.AsyncClient, server: FileServer, tmp_path: Path) -> None:
    """An error status is final; an address without a server is retried, and the error says that nothing connected."""
    server.statuses = [404, 500]
    for status in (404, 500):
        with pytest.raises(DownloadFailed, match=f'answers {status}'):
            await download(client, server.url, tmp_path / 'model.zip', max_bytes=LIMIT)
    with pytest.raises(DownloadFailed, match=r'^http://127.0.0.1:9/x: could not connect: .*\(4 attempts\)$'):
        await download(client, 'http://127.0.0.1:9/x', tmp_path / 'x.zip', max_bytes=LIMIT)


async def test_the_error_says_how_far_the_download_came(
    client: httpx.AsyncClient, server: FileServer, tmp_path: Path
) -> None:
    """A server that does not answer, one that stops sending and an address of no server have different errors."""
    target = tmp_path / 'model.zip'
    server.statuses = [0, 0, 0, 0]
    with pytest.raises(DownloadFailed, match='the server did not answer: .*(4 attempts)'):
        await download(client, server.url, target, max_bytes=LIMIT)
    server.cuts = [0, 0, 0, 0]
    with pytest.raises(DownloadFailed, match=r'the transfer broke off: peer closed .*\(4 attempts\)'):
        await download(client, server.url, target, max_bytes=LIMIT)
    with pytest.raises(DownloadFailed, match='could not connect: Request URL is missing'):
        await download(client, 'no address', target, max_bytes=LIMIT)
    assert len(server.ranges) == 8
    server.statuses = [0, 503]
    with pytest.raises(DownloadFailed, match='the server answers 503'):
        await download(client, server.url, target, max_bytes=LIMIT)


async def test_errors_show_no_password(client: httpx.AsyncClient, tmp_path: Path) -> None:
    """The login in the address of a private mirror appears in no error."""
    with pytest.raises(DownloadFailed) as caught:
        await download(client, f'http://me:secret@127.0.0.1:{free_port()}/x', tmp_path / 'x', max_bytes=LIMIT)
    assert 'secret' not in str(caught.value)
    assert str(caught.value).startswith('…@127.0.0.1')


async def test_a_file_may_be_downloaded_although_it_is_there(
    client: httpx.AsyncClient, server: FileServer, tmp_path: Path
) -> None:
    """With `keep=False` an existing file is replaced, although the server still has the recorded version."""
    target = tmp_path / 'model.zip'
    await download(client, server.url, target, max_bytes=LIMIT)
    target.write_bytes(b'damaged since')
    await download(client, server.url, target, max_bytes=LIMIT)
    assert target.read_bytes() == b'damaged since'
    await download(client, server.url, target, max_bytes=LIMIT, keep=False)
    assert target.read_bytes() == CONTENT


async def test_a_server_that_vanishes_after_the_download_is_reported(
    client: httpx.AsyncClient, server: FileServer, tmp_path: Path
) -> None:
    """If the version of an existing file cannot be compared, since the server is gone, that is a failed download."""
    target = tmp_path / 'model.zip'
    await download(client, server.url, target, max_bytes=LIMIT)
    with pytest.raises(DownloadFailed, match='could not connect'):
        await download(client, f'http://127.0.0.1:{free_port()}/x', target, max_bytes=LIMIT)
    assert target.read_bytes() == CONTENT


async def test_a_full_disk_is_an_os_error_and_the_beginning_stays(
    client: httpx.AsyncClient, server: FileServer, tmp_path: Path
) -> None:
    """A disk that takes no more raises OSError, no target file appears, and the next call requests only the rest."""
    target = tmp_path / 'model.zip'
    limits = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (3_000_000, limits[1]))
    try:
        with pytest.raises(OSError, match='File too large'):
            await download(client, server.url, target, max_bytes=LIMIT)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, limits)
    assert not target.exists()
    await download(client, server.url, target, max_bytes=LIMIT)
    assert server.ranges == [None, 'bytes=3000000-']
    assert target.read_bytes() == CONTENT


async def test_an_older_file_is_never_taken_for_the_new_one(
    client: httpx.AsyncClient, server: FileServer, tmp_path: Path
) -> None:
    """After a download of a new version that broke off, the next call continues it, whatever was there before."""
    target = tmp_path / 'model.zip'
    await download(client, server.url, target, max_bytes=LIMIT)
    server.content, server.cuts = CONTENT[::-1], [0, 2_000_000, 0, 0, 0]  # the first one ends the probe
    with pytest.raises(DownloadFailed):
        await download(client, server.url, target, max_bytes=LIMIT)
    await download(client, server.url, target, max_bytes=LIMIT)
    assert target.read_bytes() == CONTENT[::-1]


async def test_probing_reads_no_body(client: httpx.AsyncClient, server: FileServer, tmp_path: Path) -> None:
    """ETag and length distinguish two versions of a file."""
    first = await probe(client, server.url)
    assert first.length == len(CONTENT)
    assert first == await probe(client, server.url)
    server.content = CONTENT[::-1]
    assert first != await probe(client, server.url)
    assert noted_validators(tmp_path / 'nothing') is None


# ---------------------------------------------------------------- servers that answer otherwise


class Answers(httpx.MockTransport):
    """A server in memory.

    :param answers: answers to the next requests.
    """

    def __init__(self, *answers: httpx.Response) -> None:
        self.requests: list[httpx.Request] = []
        self._answers = list(answers)
        super().__init__(self._next)

    def _next(self, request: httpx.Request) -> httpx.Response:
        self.requests.append(request)
        return self._answers.pop(0)

    async def fetch(self, target: Path, *, limit: int = LIMIT) -> Validators:
        async with httpx.AsyncClient(transport=self) as client:
            return await download(client, 'http://server/x', target, max_bytes=limit)


async def in_chunks(content: bytes) -> AsyncIterator[bytes]:
    """Yield a body whose size the server does not state."""
    for number in content:
        yield bytes([number])


@pytest.mark.parametrize(
    ('status', 'headers', 'length'),
    [
        (200, {'Content-Length': '17'}, 17),
        (200, {}, None),
        (200, {'Content-Length': '1e3'}, None),
        (200, {'Content-Length': '9' * 19}, None),
        (206, {'Content-Length': '5', 'Content-Range': 'bytes 12-16/17'}, 17),
        (206, {'Content-Length': '5', 'Content-Range': 'bytes 12-16/*'}, None),
        (206, {'Content-Length': '5'}, None),
    ],
)
def test_the_length_is_that_of_the_whole_file(status: int, headers: dict[str, str], length: int | None) -> None:
    """The length of a part is in Content-Range; a number that is missing or too long is unknown."""
    response = httpx.Response(status, headers=headers | {'ETag': '"a"', 'Last-Modified': 'yesterday'})
    assert Validators.of(response) == Validators('"a"', 'yesterday', length)


@pytest.mark.parametrize(
    ('etag', 'date', 'condition'),
    [('"a"', 'today', '"a"'), ('W/"a"', 'today', 'today'), (None, 'today', 'today'), ('W/"a"', None, None)],
)
def test_a_strong_etag_or_a_date_marks_a_version(etag: str | None, date: str | None, condition: str | None) -> None:
    """A weak ETag does not: two files with it may differ in their bytes. A value that no header can hold does not."""
    assert Validators(etag, date, None).range_condition == condition
    assert Validators('"ä"', 'ä', None).range_condition is None


async def test_a_file_of_unknown_length_is_bounded_and_resumed(tmp_path: Path) -> None:
    """A file of exactly the limit is accepted, a larger one is refused, and its beginning is continued later."""
    target, version = tmp_path / 'x', {'ETag': '"a"'}
    whole = httpx.Response(200, headers=version, content=in_chunks(b'abcde'))
    with pytest.raises(DownloadFailed, match='larger than the limit of 4 bytes'):
        await Answers(whole).fetch(target, limit=4)
    (tmp_path / 'x.part').write_bytes(b'abc')
    rest = Answers(httpx.Response(206, headers=version | {'Content-Range': 'bytes 3-4/5'}, content=b'de'))
    await rest.fetch(target, limit=5)
    assert rest.requests[0].headers['Range'] == 'bytes=3-'
    assert rest.requests[0].headers['If-Range'] == '"a"'
    assert target.read_bytes() == b'abcde'


@pytest.mark.parametrize(('part', 'asked'), [(b'', None), (b'a', 'bytes=1-'), (b'abcd', 'bytes=4-'), (b'abcde', None)])
async def test_only_a_part_is_resumed(tmp_path: Path, part: bytes, asked: str | None) -> None:
    """A part that is empty, or as long as the file, is fetched anew: a server refuses a range without bytes."""
    target, version = tmp_path / 'x', {'ETag': '"a"'}
    (tmp_path / 'x.part').write_bytes(part)
    (tmp_path / 'x.json').write_text('{"etag": "\\"a\\"", "last_modified": null, "length": 5}')
    server = Answers(httpx.Response(200, headers=version, content=b'abcde'))
    await server.fetch(target)
    assert server.requests[0].headers.get('Range') == asked
    assert target.read_bytes() == b'abcde'


@pytest.mark.parametrize('note', [None, '', '[]', '{"etag": "a", "last_modified": null, "length": "5"}'])
async def test_a_part_of_an_unknown_file_is_fetched_anew(tmp_path: Path, note: str | None) -> None:
    """Without a valid record of the server's version, the bytes on the disk may belong to another file."""
    target = tmp_path / 'x'
    (tmp_path / 'x.part').write_bytes(b'other')
    if note is not None:
        (tmp_path / 'x.json').write_text(note)
    assert noted_validators(target) is None
    server = Answers(httpx.Response(200, content=b'abcdef'))
    await server.fetch(target)
    assert 'Range' not in server.requests[0].headers
    assert target.read_bytes() == b'abcdef'


async def test_a_part_that_is_too_short_is_not_the_file(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    """If a server ends its answer before the stated end of the file, the rest is requested again; the log says so."""
    caplog.set_level('INFO', 'wholebody.downloads')
    version = {'ETag': '"a"'}
    (tmp_path / 'x.part').write_bytes(b'ab')
    (tmp_path / 'x.json').write_text('{"etag": "\\"a\\"", "last_modified": null, "length": 5}')
    server = Answers(
        httpx.Response(206, headers=version | {'Content-Range': 'bytes 2-3/5'}, content=b'cd'),
        httpx.Response(206, headers=version | {'Content-Range': 'bytes 4-4/5'}, content=b'e'),
    )
    await server.fetch(tmp_path / 'x')
    assert (tmp_path / 'x').read_bytes() == b'abcde'
    assert '4 of 5 bytes were received; trying again' in caplog.text


async def test_pauses_grow_and_a_server_that_is_away_does_not_fill_the_log(
    client: httpx.AsyncClient, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    """The next attempt waits longer than the one before; at level INFO the log has no line for each attempt."""
    pauses: list[float] = []

    async def sleep(seconds: float) -> None:
        pauses.append(seconds)

    monkeypatch.setattr(downloads, '_PAUSE_SECONDS', 1)
    monkeypatch.setattr('asyncio.sleep', sleep)
    caplog.set_level('INFO', 'wholebody.downloads')
    with pytest.raises(DownloadFailed):
        await download(client, 'no address', tmp_path / 'x', max_bytes=LIMIT)
    assert pauses == [1, 2, 3]
    assert caplog.text == ''
