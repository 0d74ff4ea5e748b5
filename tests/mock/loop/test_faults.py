"""Each fault of the mock Learning Loop as a client sees it, over a real port."""

import io
import itertools
import time
import zipfile
import zlib
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx
import pytest

from benchmarks.support.cards import CARD
from benchmarks.support.loops import MockLoopProcess, running_mock_loop
from benchmarks.support.packages import write_zip
from detector.models.package import MODEL_FORMAT

REPORT = {
    'uuid': 'u', 'name': 'n', 'state': 'online', 'uptime': 1, 'model_format': 'f', 'current_model': None,
    'target_model': '1.0', 'errors': {}, 'operation_mode': 'idle',
}  # fmt: skip


@pytest.fixture(scope='module')
def running(tmp_path_factory: pytest.TempPathFactory) -> Iterator[MockLoopProcess]:
    with running_mock_loop(tmp_path_factory.mktemp('mock') / 'loop') as loop:
        yield loop
        assert 'Traceback' not in loop.log.read_text()


@pytest.fixture
def loop(running: MockLoopProcess) -> MockLoopProcess:
    running.reset()
    running.login()
    return running


def call(loop: MockLoopProcess, endpoint: str) -> httpx.Response:
    """Send one request to an endpoint by the name that faults use."""
    match endpoint:
        case 'login':
            return loop.login()
        case 'status':
            return loop.http.get('/api/status')
        case 'detectors':
            return loop.http.post(f'{loop.api}/detectors', json=REPORT)
        case 'target':
            return loop.http.get(f'{loop.api}/deployment/target')
        case 'models':
            return loop.http.get(f'{loop.api}/models')
        case 'model_file':
            return loop.http.get(model_path(loop))
    return send_images(loop, 'a')


def model_path(loop: MockLoopProcess) -> str:
    return f'{loop.api}/models/{loop.models()[0]["id"]}/{MODEL_FORMAT}/file'


def send_images(loop: MockLoopProcess, *names: str) -> httpx.Response:
    return loop.http.post(f'{loop.api}/images', files=[('files', (f'{name}.jpg', CARD)) for name in names])


def received(loop: MockLoopProcess, path: str, headers: dict[str, str] | None = None) -> bytes:
    """Return the part of a body that arrives before the connection breaks."""
    parts: list[bytes] = []
    with pytest.raises(httpx.TransportError), loop.http.stream('GET', path, headers=headers) as answer:
        parts.extend(answer.iter_raw())
    return b''.join(parts)


ENDPOINTS = ['login', 'status', 'detectors', 'target', 'models', 'model_file', 'images']


@pytest.mark.parametrize('endpoint', ENDPOINTS)
def test_a_fault_affects_its_endpoint_only(loop: MockLoopProcess, endpoint: str) -> None:
    """A status and a dropped connection happen as often as ordered, and only at this endpoint."""
    status = loop.fault(endpoint, 'status', status=503, count=2)
    drop = loop.fault(endpoint, 'drop', count=1)
    answers = [call(loop, endpoint).status_code for _ in range(2)]
    assert answers == [503, 503]
    with pytest.raises(httpx.TransportError):
        call(loop, endpoint)
    assert {call(loop, name).status_code for name in ENDPOINTS} == {200}
    assert (loop.fired(status), loop.fired(drop)) == (2, 1)
    assert len(loop.images()) == 1
    assert [fault['active'] for fault in loop.faults()] == [False, False]


@pytest.mark.parametrize('status', [204, 301, 401, 413, 429, 500])
def test_statuses_last_until_they_are_deleted(loop: MockLoopProcess, status: int) -> None:
    """Without a count the fault stays; a refused upload is read and discarded."""
    loop.fault('images', 'status', status=status)
    assert [call(loop, 'images').status_code for _ in range(3)] == [status] * 3
    loop.clear_faults()
    assert call(loop, 'images').status_code == 200
    assert loop.faults() == []
    assert len(loop.images()) == 1


def test_faults_of_different_kinds_add_up(loop: MockLoopProcess) -> None:
    """A delay and a status apply together; after the status is deleted, only the delay applies."""
    delay = loop.fault('target', 'delay', seconds=0.3)
    refusal = loop.fault('target', 'status', status=500)
    assert timed(loop, 'target')[0] == 500
    loop.delete_fault(refusal)
    status, seconds = timed(loop, 'target')
    assert status == 200
    assert seconds >= 0.3
    assert call(loop, 'models').status_code == 200
    assert loop.fired(delay) == 2, 'other endpoints do not meet it'


def test_a_fault_with_a_share_is_random(loop: MockLoopProcess) -> None:
    """About the ordered share of requests is affected, and `fired` counts them."""
    fault = loop.fault('status', 'status', status=503, share=0.5)
    answers = [call(loop, 'status').status_code for _ in range(200)]
    assert set(answers) == {200, 503}
    assert 50 < answers.count(503) < 150
    assert loop.fired(fault) == answers.count(503)


def test_requests_spared_by_a_fault_try_the_next(loop: MockLoopProcess) -> None:
    """A count covers only affected requests; the next fault of the same kind is tried for the others."""
    first = loop.fault('status', 'status', status=503, share=0.5, count=40)
    second = loop.fault('status', 'status', status=500)
    answers = [call(loop, 'status').status_code for _ in range(200)]
    assert (answers.count(503), answers.count(500)) == (40, 160)
    assert 500 in answers[:40]
    assert (loop.fired(first), loop.fired(second)) == (40, 160)


def timed(loop: MockLoopProcess, endpoint: str) -> tuple[int, float]:
    start = time.monotonic()
    return call(loop, endpoint).status_code, time.monotonic() - start


def test_a_download_stalls_in_the_middle(loop: MockLoopProcess) -> None:
    """A delay with `at` sends that share of the body first."""
    path = model_path(loop)
    loop.fault('model_file', 'delay', seconds=0.5, at=0.5)
    with loop.http.stream('GET', path) as answer:
        size = int(answer.headers['content-length'])
        arrivals = [(time.monotonic(), len(part)) for part in answer.iter_raw()]
    assert sum(length for _, length in arrivals) == size
    gaps = [after[0] - before[0] for before, after in itertools.pairwise(arrivals)]
    assert max(gaps) > 0.4


def test_a_throttled_download_takes_its_time(loop: MockLoopProcess) -> None:
    """The download has about the ordered rate."""
    loop.fault('model_file', 'throttle', bytes_per_second=20_000)
    path = model_path(loop)
    start = time.monotonic()
    size = len(loop.http.get(path).content)
    assert time.monotonic() - start > size / 20_000 * 0.7


def test_a_dropped_download_can_be_resumed(loop: MockLoopProcess) -> None:
    """The connection is reset after the ordered share, and Range gives the rest."""
    path = model_path(loop)
    whole = loop.http.get(path)
    loop.fault('model_file', 'drop', at=0.25, count=1)
    first = received(loop, path)
    assert first == whole.content[: len(whole.content) // 4]
    headers = {'Range': f'bytes={len(first)}-', 'If-Range': whole.headers['etag']}
    loop.fault('model_file', 'drop', at=0.5, count=1)
    second = received(loop, path, headers)
    assert second
    headers['Range'] = f'bytes={len(first + second)}-'
    assert first + second + loop.http.get(path, headers=headers).content == whole.content


def test_a_dropped_upload_has_no_effect_and_a_lost_response_has(loop: MockLoopProcess) -> None:
    """Only the lost response has an effect, although the client sees no answer in both cases."""
    loop.fault('images', 'drop', count=1)
    loop.fault('images', 'lose_response', count=1)
    for stored in (0, 1):
        with pytest.raises(httpx.TransportError):
            send_images(loop, 'a')
        assert len(loop.images()) == stored


def test_one_image_is_rejected_in_every_batch(loop: MockLoopProcess) -> None:
    """The named image, or the first one received, is rejected in every batch; the others arrive."""
    loop.fault('images', 'reject_image', image='c:1')
    assert send_images(loop, 'a', 'b', 'c%3A1', 'd').status_code == 422
    assert 'c:1' in send_images(loop, 'c%3A1').json()['detail']
    assert send_images(loop, 'a', 'b').status_code == 200
    loop.clear_faults()
    fault = loop.fault('images', 'reject_image')
    assert send_images(loop, 'x', 'y', 'z').status_code == 422
    assert send_images(loop, 'z', 'y').status_code == 200
    assert send_images(loop, 'x').status_code == 422
    assert loop.faults()[0]['image'] == 'x'
    assert loop.fired(fault) == 2
    assert [image['name'] for image in loop.images()] == ['a', 'b', 'z', 'y']


def test_truncated_and_corrupted_files_look_whole(loop: MockLoopProcess) -> None:
    """Content-Length and ETag match the served bytes, which are the same each time."""
    path = model_path(loop)
    good = loop.http.get(path)
    for kind, size in (('truncate', len(good.content) // 2), ('corrupt', len(good.content))):
        loop.fault('model_file', kind)
        bad = loop.http.get(path)
        assert (bad.status_code, len(bad.content)) == (200, size)
        assert int(bad.headers['content-length']) == size
        assert bad.headers['etag'] != good.headers['etag']
        assert loop.http.get(path).headers['etag'] == bad.headers['etag']
        assert loop.http.get(path, headers={'Range': 'bytes=100-'}).content == bad.content[100:]
        assert not intact(bad.content)
        loop.clear_faults()
    assert intact(loop.http.get(path).content)


def intact(content: bytes) -> bool:
    try:
        return zipfile.ZipFile(io.BytesIO(content)).testzip() is None
    except (zipfile.BadZipFile, zlib.error):
        return False


def test_the_file_name_of_a_download_can_be_missing_or_bad(loop: MockLoopProcess) -> None:
    """Content-Disposition may be missing, have an empty name, or a name that leads out of the folder."""
    path = model_path(loop)
    loop.fault('model_file', 'no_disposition', count=1)
    assert 'content-disposition' not in loop.http.get(path).headers
    for name in ('', '../../x'):
        loop.fault('model_file', 'filename', filename=name, count=1)
        assert loop.http.get(path).headers['content-disposition'] == f'attachment; filename="{name}"'
    assert 'filename="wholebody_' in loop.http.get(path).headers['content-disposition']


def test_an_html_page_replaces_the_answer(loop: MockLoopProcess) -> None:
    """Like a captive portal, the fault answers 200 with an HTML page."""
    for endpoint in ('model_file', 'target'):
        loop.fault(endpoint, 'html', count=1)
        answer = call(loop, endpoint)
        assert answer.status_code == 200
        assert answer.text.startswith('<!DOCTYPE html>')


@pytest.mark.parametrize(
    'fault',
    [
        {'endpoint': 'nowhere', 'kind': 'drop'},
        {'endpoint': 'target', 'kind': 'explode'},
        {'endpoint': 'target', 'kind': 'truncate'},
        {'endpoint': 'target', 'kind': 'reject_image'},
        {'endpoint': 'target', 'kind': 'delay', 'seconds': -1},
        {'endpoint': 'target', 'kind': 'status', 'status': 42},
        {'endpoint': 'model_file', 'kind': 'filename', 'filename': 'a\r\nb: c'},
        {'endpoint': 'images', 'kind': 'drop', 'count': 0},
        {'endpoint': 'images', 'kind': 'drop', 'share': 0},
        {'endpoint': 'images', 'kind': 'drop', 'share': 1.5},
        {'endpoint': 'images', 'kind': 'reject_image', 'share': 0.5},
    ],
    ids=str,
)
def test_impossible_faults_are_refused(loop: MockLoopProcess, fault: dict[str, Any]) -> None:
    """An impossible fault is refused with 422 and not ordered."""
    assert loop.http.post('/mock/faults', json=fault).status_code == 422
    assert loop.faults() == []


def test_requests_are_listed(loop: MockLoopProcess) -> None:
    """Each request is listed with its status, so that tests can count requests."""
    call(loop, 'target')
    last = loop.requests()[-1]['number']
    loop.fault('target', 'status', status=500)
    call(loop, 'target')
    call(loop, 'models')
    assert [entry['status'] for entry in loop.requests(after=last)] == [500, 200]
    assert [entry['status'] for entry in loop.requests('target')] == [200, 500]


def test_a_large_file_is_served_in_pieces(loop: MockLoopProcess, tmp_path: Path) -> None:
    """A package of 120 MB needs far less memory in either direction, and other requests are still answered."""
    archive = write_large(tmp_path / 'large.zip', 120)
    before = resident_mb(loop)
    model = loop.upload_package(archive)
    loop.fault('model_file', 'corrupt')
    size = 0
    with loop.http.stream('GET', f'{loop.api}/models/{model}/{MODEL_FORMAT}/file') as answer:
        for part in answer.iter_raw():
            size += len(part)
    assert size > 120e6
    assert resident_mb(loop) - before < 60


def write_large(path: Path, megabytes: int) -> Path:
    write_zip(path, {'model.json': b'{}'})
    with zipfile.ZipFile(path, 'a', zipfile.ZIP_STORED) as archive, archive.open('det.onnx', 'w') as sink:
        for _ in range(megabytes):
            sink.write(bytes(1024**2))
    return path


def resident_mb(loop: MockLoopProcess) -> float:
    """Return the peak memory of the process in MB."""
    assert loop.process is not None
    status = Path(f'/proc/{loop.process.pid}/status').read_text()
    return next(int(line.split()[1]) for line in status.splitlines() if line.startswith('VmHWM')) / 1024
