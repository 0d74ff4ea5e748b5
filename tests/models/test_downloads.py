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
from detector.models.downloads import discard, download, noted_validators, probe
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
    with pytest.raises(DownloadFailed, match='larger than the limit of 1000000'):
        await download(client, server.url, tmp_path / 'model.zip', max_bytes=1_000_000)
    assert not (tmp_path / 'model.zip').exists()


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
    with pytest.raises(DownloadFailed, match='the transfer broke off: .*(4 attempts)'):
        await download(client, server.url, target, max_bytes=LIMIT)
    with pytest.raises(DownloadFailed, match='could not connect: '):
        await download(client, 'no address', target, max_bytes=LIMIT)
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
