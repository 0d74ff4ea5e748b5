"""Fetching task images over real connections: contents, credentials and limits."""

import asyncio
import base64
import gzip
import ssl
import threading
import time
from collections.abc import AsyncIterator, Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import pytest_asyncio
import trustme

from benchmarks.support.waiting import PATIENCE, eventually_async
from detector.errors import InvalidSettings, MediaFault
from detector.label_studio.server import media, network
from detector.label_studio.server.client import Connection
from detector.label_studio.server.media import Batch, TaskImages
from detector.settings import Settings, load_settings
from tests.support.label_studio.addresses import DEVIOUS
from tests.support.label_studio.recorder import PICTURE, Recorder, Reply, Request, recording, redirecting

TOKEN = '0123456789abcdef0123456789abcdef01234567'
UPLOAD = '/data/upload/1/2c357725-t0.jpg'
SIGNED = '/bucket/a.jpg?X-Amz-Signature=deadbeef'

Images = Callable[..., TaskImages]


@pytest.fixture(scope='module')
def authority() -> trustme.CA:
    return trustme.CA()


@pytest.fixture(autouse=True)
def _authority_in_the_environment(authority: trustme.CA, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Trust only the test's certificate authority, which also makes clients faster to create."""
    authority.cert_pem.write_to_path(str(tmp_path / 'ca.pem'))
    monkeypatch.setenv('SSL_CERT_FILE', str(tmp_path / 'ca.pem'))


@pytest.fixture
def studio() -> Iterator[Recorder]:
    with recording() as recorder:
        yield recorder


@pytest.fixture
def other() -> Iterator[Recorder]:
    with recording() as recorder:
        yield recorder


@pytest_asyncio.fixture
async def images(studio: Recorder) -> AsyncIterator[Images]:
    """Make task images for the test's Label Studio."""
    made: list[TaskImages] = []
    connections: list[Connection] = []

    def make(url: str | None = studio.url, **parameters: Any) -> TaskImages:
        connections.extend([] if url is None else [Connection(url, TOKEN)])
        made.append(TaskImages(None if url is None else connections[-1], **parameters))
        return made[-1]

    yield make
    await asyncio.gather(*(fetching.close() for fetching in made), *(one.close() for one in connections))


async def refused(images: TaskImages, address: object, match: str, *, task_id: int | None = 7) -> str:
    """Assert that an address is refused, and return the reason."""
    with pytest.raises(MediaFault, match=match) as caught:
        await images.fetch(address, task_id=task_id)
    text = str(caught.value)
    assert TOKEN not in text
    assert 'deadbeef' not in text
    assert len(text) < 400
    return text


@pytest.mark.parametrize(
    ('address', 'path'),
    [
        (UPLOAD, UPLOAD),
        ('/data/local-files/?d=ds/a b.jpg', '/data/local-files/?d=ds/a%20b.jpg'),
        ('/storage-data/uploaded/?filepath=upload/1/a.jpg', '/storage-data/uploaded/?filepath=upload/1/a.jpg'),
        ('/tasks/7/presign/?fileuri=czM6Ly9i', '/tasks/7/presign/?fileuri=czM6Ly9i'),
        ('s3://bucket/k.jpg', '/tasks/7/presign/?fileuri=czM6Ly9idWNrZXQvay5qcGc='),
        ('{studio}' + UPLOAD, UPLOAD),
        ('http://localhost:8080' + UPLOAD, UPLOAD),
        ('https://labels.example' + UPLOAD, UPLOAD),
    ],
)
async def test_files_of_label_studio_are_asked_for_with_the_token(
    studio: Recorder, images: Images, address: str, path: str
) -> None:
    """Files of Label Studio are requested with the token by path, address, other names, and through presign."""
    fetching = images(hostnames='labels.example', allowed_hosts='none')
    fetching.learn_hostname('http://localhost:8080')
    assert await fetching.fetch(address.format(studio=studio.url), task_id=7) == PICTURE
    assert studio.paths == [path]
    assert studio.requests[0].authorization == f'Token {TOKEN}'


async def test_a_label_studio_below_a_path(studio: Recorder, images: Images) -> None:
    """With LABEL_STUDIO_URL=http://host/ls, the path is added once, whether or not the task's address has it."""
    fetching = images(f'{studio.url}/ls')
    for address in (UPLOAD, f'/ls{UPLOAD}', f'{studio.url}/ls{UPLOAD}'):
        assert await fetching.fetch(address, task_id=7) == PICTURE
    assert studio.paths == [f'/ls{UPLOAD}'] * 3


@pytest.mark.parametrize('start', ['', '{studio}', 'http://localhost:8080'])
async def test_paths_that_lead_elsewhere_are_refused_without_a_request(
    studio: Recorder, images: Images, start: str
) -> None:
    """Addresses that leave the media folders are refused without a request, in all spellings and under all names."""
    fetching = images(hostnames='localhost:8080')
    for path in (*DEVIOUS, '/api/users/', '/user/login', '/'):
        await refused(
            fetching, start.format(studio=studio.url) + path, 'leaves the media folders|images lie below|IMAGE_HOSTS'
        )
    assert studio.requests == []


async def test_a_forged_name_from_setup_receives_nothing(studio: Recorder, other: Recorder, images: Images) -> None:
    """A name from setup only leads to LABEL_STUDIO_URL and receives neither token nor request."""
    fetching = images(allowed_hosts=f'*,{other.place}')
    fetching.learn_hostname(other.url)
    assert await fetching.fetch(other.url + UPLOAD, task_id=7) == PICTURE
    assert studio.paths == [UPLOAD]
    await fetching.fetch(f'{other.url}/images/a.jpg', task_id=7)
    assert other.paths == ['/images/a.jpg']
    assert other.requests[0].authorization is None


async def test_the_token_of_an_https_label_studio_never_goes_in_clear(images: Images, authority: trustme.CA) -> None:
    """An http:// address of an https Label Studio is requested over https, with the authority in SSL_CERT_FILE."""
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    authority.issue_cert('localhost').configure_cert(context)
    with recording(context=context) as studio:
        fetching = images(f'https://localhost:{studio.port}')
        assert await fetching.fetch(f'http://localhost:{studio.port}{UPLOAD}', task_id=7) == PICTURE
        assert studio.requests[0].authorization == f'Token {TOKEN}'
        outside = images(None, allowed_hosts=f'localhost:{studio.port},127.0.0.1:{studio.port}')
        assert await outside.fetch(f'https://localhost:{studio.port}/a.jpg', task_id=7) == PICTURE
        await refused(outside, f'https://127.0.0.1:{studio.port}/a.jpg', '(?i)certificate')


async def test_hosts_that_are_listed_are_asked_without_credentials(other: Recorder, images: Images) -> None:
    """Listed hosts are requested without credentials but with the query, and may be in private networks."""
    fetching = images(allowed_hosts=other.place)
    assert await fetching.fetch(f'{other.url}{SIGNED}', task_id=None) == PICTURE
    request = other.requests[0]
    assert request.path == SIGNED
    assert request.headers['host'] == other.place
    assert not {'authorization', 'cookie', 'referer'} & set(request.headers)


async def test_ipv6_hosts_can_be_listed(images: Images) -> None:
    """IPv6 hosts are listed in brackets."""
    with recording('::1') as server:
        assert await images(allowed_hosts=server.place).fetch(f'{server.url}/a.jpg', task_id=7) == PICTURE
        await refused(images(), f'{server.url}/a.jpg', rf'add \[::1\]:{server.port} to IMAGE_HOSTS')
        assert len(server.requests) == 1


@pytest.mark.parametrize('host', ['127.0.0.1', 'localhost', '2130706433', '[::ffff:127.0.0.1]', '0.0.0.0'])
async def test_private_hosts_need_listing(other: Recorder, images: Images, host: str) -> None:
    """Private hosts must be listed even with a star, and the error names the entry or LABEL_STUDIO_HOSTNAMES."""
    await refused(images(), f'http://{host}:{other.port}/a.jpg', 'add .* to IMAGE_HOSTS, or to LABEL_STUDIO_HOSTNAMES')
    assert other.requests == []


async def test_the_environments_proxy_does_not_see_other_hosts(
    other: Recorder, images: Images, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The proxy of the environment is not used for other hosts, since it would bypass the address check."""
    fetching = images(None, allowed_hosts=other.place)
    with recording() as proxy:
        for name in ('HTTP_PROXY', 'http_proxy', 'ALL_PROXY', 'HTTPS_PROXY'):
            monkeypatch.setenv(name, proxy.url)
        monkeypatch.delenv('NO_PROXY', raising=False)
        assert await images(None, allowed_hosts=other.place).fetch(f'{other.url}/a.jpg', task_id=7) == PICTURE
        await refused(fetching, 'http://169.254.169.254/latest/meta-data/', 'IMAGE_HOSTS')
        assert proxy.requests == []


@pytest.mark.parametrize('status', [301, 302, 303, 307, 308])
async def test_label_studio_may_redirect_to_listed_hosts_without_its_token(
    studio: Recorder, other: Recorder, images: Images, status: int
) -> None:
    """Label Studio may redirect to a listed host, such as MinIO, which receives neither token nor cookies."""
    studio.answer = redirecting(other.url + SIGNED, status)
    fetching = images(allowed_hosts=other.place)
    for _ in range(2):
        assert await fetching.fetch('s3://bucket/a.jpg', task_id=7) == PICTURE
    assert other.paths == [SIGNED] * 2
    for request in (*other.requests, *studio.requests):
        assert 'cookie' not in request.headers
    assert {request.authorization for request in other.requests} == {None}


async def test_label_studio_may_redirect_to_public_hosts_that_are_not_listed(
    studio: Recorder, other: Recorder, images: Images, monkeypatch: pytest.MonkeyPatch
) -> None:
    """With IMAGE_HOSTS=none, Label Studio may still redirect to public hosts, also twice; other hosts may not."""
    monkeypatch.setattr(network, 'is_public', lambda address: address == '127.0.0.2')  # represents the internet
    with recording('127.0.0.2') as bucket:
        studio.answer = redirecting(bucket.url + SIGNED)
        bucket.answer = lambda request: redirecting('/region/a.jpg')(request) if request.path == SIGNED else Reply()
        assert await images(allowed_hosts='none').fetch('s3://bucket/a.jpg', task_id=7) == PICTURE
        assert bucket.paths == [SIGNED, '/region/a.jpg']
        assert {request.authorization for request in bucket.requests} == {None}
        await refused(images(allowed_hosts='none'), f'{bucket.url}/a.jpg', 'images may not come from 127.0.0.2')
        other.answer = studio.answer
        await refused(images(allowed_hosts=other.place), f'{other.url}/a.jpg', 'images may not come from 127.0.0.2')
        assert len(bucket.requests) == 2


async def test_no_redirect_leads_to_private_hosts(studio: Recorder, other: Recorder, images: Images) -> None:
    """A redirect from Label Studio or a listed host to a private host or another scheme is refused."""
    with recording() as private:
        for location in (f'{private.url}/latest/meta-data/', f'http://localhost:{private.port}/', 'file:///etc/passwd'):
            studio.answer = other.answer = redirecting(location)
            fetching = images(allowed_hosts=f'*,{other.place}')
            for address in ('s3://bucket/a.jpg', UPLOAD, f'{other.url}/a.jpg'):
                await refused(fetching, address, 'IMAGE_HOSTS|invalid')
        assert private.requests == []
        assert len(studio.requests) == 6


async def test_other_hosts_do_not_redirect_to_files_of_label_studio(
    studio: Recorder, other: Recorder, images: Images
) -> None:
    """A redirect from another host to Label Studio is requested without the token."""
    other.answer = redirecting(studio.url + UPLOAD)
    await refused(images(allowed_hosts=other.place), f'{other.url}/a.jpg', 'IMAGE_HOSTS')
    assert studio.requests == []
    studio.answer = lambda _: Reply(401, b'{}')
    await refused(images(allowed_hosts=f'{other.place},{studio.place}'), f'{other.url}/a.jpg', 'without credentials')
    assert studio.requests[0].authorization is None


async def test_redirects_within_label_studio_keep_to_its_files(studio: Recorder, images: Images) -> None:
    """A redirect within Label Studio may lead to another file, but not to a page such as the login."""
    studio.answer = lambda request: Reply() if request.path == UPLOAD else redirecting(UPLOAD)(request)
    assert await images().fetch('s3://bucket/a.jpg', task_id=7) == PICTURE
    assert studio.requests[1].authorization == f'Token {TOKEN}'
    studio.answer = redirecting('/user/login/?next=/data/')
    await refused(images(), UPLOAD, 'redirects .* to its page /user/login/: check LABEL_STUDIO_API_TOKEN')
    studio.answer = redirecting('/data/%2e%2e/api/users')
    await refused(images(), UPLOAD, 'leaves the media folders')
    assert len(studio.requests) == 4


async def test_redirects_end(studio: Recorder, other: Recorder, images: Images) -> None:
    """More than five redirects are refused, at Label Studio and elsewhere."""
    studio.answer, other.answer = redirecting(UPLOAD), redirecting('/a.jpg')
    await refused(images(), UPLOAD, 'more than 5 redirects')
    await refused(images(allowed_hosts=other.place), f'{other.url}/a.jpg', 'more than 5 redirects')
    assert len(studio.requests) == len(other.requests) == 6


@pytest.mark.parametrize('inside', [True, False])
async def test_a_body_larger_than_the_limit_is_not_read(studio: Recorder, images: Images, inside: bool) -> None:
    """A body above the limit is not read to its end, with or without Content-Length."""
    sent = []

    def endless() -> Iterator[bytes]:
        for _ in range(1600):
            sent.append(1)
            yield bytes(65536)

    fetching = images(allowed_hosts=studio.place, max_bytes=1_000_000)
    address = UPLOAD if inside else f'{studio.url}/a.jpg'
    studio.answer = lambda _: Reply(body=endless())
    await refused(fetching, address, 'larger than the limit of 1000000 bytes')
    assert 16 <= len(sent) < 400
    studio.answer = lambda _: Reply(headers={'Content-Length': '1000001'}, body=iter([PICTURE]))
    await refused(fetching, address, 'larger than the limit of 1000000 bytes')
    studio.answer = lambda _: Reply(body=b'\xff\xd8'.ljust(1_000_000))
    assert len(await fetching.fetch(address, task_id=7)) == 1_000_000


@pytest.mark.parametrize('inside', [True, False])
async def test_a_compressed_body_is_refused_undecoded(studio: Recorder, images: Images, inside: bool) -> None:
    """A compressed body is refused and not decompressed."""
    bomb = gzip.compress(bytes(10_000_000))
    studio.answer = lambda _: Reply(body=bomb, headers={'Content-Encoding': 'gzip', 'Content-Type': 'image/png'})
    fetching = images(allowed_hosts=studio.place)
    await refused(fetching, UPLOAD if inside else f'{studio.url}/a.jpg', r'compressed \(gzip\)')
    assert studio.requests[0].headers['accept-encoding'] == 'identity'


@pytest.mark.parametrize('inside', [True, False])
async def test_a_host_that_drips_ends(studio: Recorder, images: Images, inside: bool) -> None:
    """The time limit holds for the whole image."""

    def drip() -> Iterator[bytes]:
        while True:
            yield b'\xff'
            time.sleep(0.05)

    studio.answer = lambda _: Reply(body=drip())
    fetching = images(allowed_hosts=studio.place, seconds=0.4)
    started = time.monotonic()
    await refused(fetching, UPLOAD if inside else f'{studio.url}/a.jpg', r'not received within 0.4 s \(IMAGE_SECONDS\)')
    assert time.monotonic() - started < PATIENCE


async def test_a_body_that_breaks_off_is_no_image(studio: Recorder, images: Images) -> None:
    """A body that breaks off is refused."""
    studio.answer = lambda _: Reply(headers={'Content-Length': '1000'}, body=iter([PICTURE]))
    fetching = images(allowed_hosts=studio.place)
    for address in (UPLOAD, f'{studio.url}/a.jpg'):
        await refused(fetching, address, '(?i)without sending complete message body')


@pytest.mark.parametrize(
    ('body', 'content_type', 'text'),
    [
        (b'\n<!DOCTYPE html><title>Log in</title>', 'image/jpeg', 'an HTML page instead of an image'),
        (b'<p>Log in</p>', 'text/html; charset=utf-8', 'an HTML page instead of an image'),
        (b'{"detail": "no"}', 'application/json', 'JSON instead of an image'),
        (b'', 'image/jpeg', r'empty \(0 bytes\)'),
    ],
)
async def test_a_page_instead_of_an_image_is_called_one(
    studio: Recorder, images: Images, body: bytes, content_type: str, text: str
) -> None:
    """A page instead of an image is reported as such even with status 200, with the settings to check for Label
    Studio."""
    studio.answer = lambda _: Reply(body=body, headers={'Content-Type': content_type})
    fault = await refused(images(), UPLOAD, text)
    assert ('LABEL_STUDIO_API_TOKEN' in fault) == bool(body)
    await refused(images(allowed_hosts=studio.place), f'{studio.url}/a.jpg', text)


async def test_an_image_is_one_whatever_its_content_type(studio: Recorder, images: Images) -> None:
    """An image is accepted under any content type."""
    answers = [(PICTURE, 'text/html'), (b'GIF89a', 'image/gif'), (b'\0\1', 'application/octet-stream')]
    fetching = images()

    def answer(request: Request) -> Reply:
        body, content_type = answers[int(request.path[-1])]
        return Reply(body=body, headers={'Content-Type': content_type})

    studio.answer = answer
    for number, (body, _) in enumerate(answers):
        assert await fetching.fetch(f'/data/upload/{number}', task_id=7) == body


@pytest.mark.parametrize(
    ('address', 'status', 'text'),
    [
        (UPLOAD, 404, '^/data/upload/1/2c357725-t0.jpg: Label Studio has no such file'),
        ('/data/local-files/?d=ds/a.jpg&sig=deadbeef', 404, r'^/data/local-files/\?d=ds/a.jpg: Label Studio has no'),
        ('s3://bucket/k.jpg', 404, '^s3://bucket/k.jpg: .* its bucket among the cloud storages'),
        (UPLOAD, 500, 'Label Studio answers 500, as version 1.23 does if the upload is missing'),
        ('/storage-data/uploaded/?filepath=a.jpg', 500, r'^/storage-data/uploaded/\?filepath=a.jpg: .* answers 500$'),
        (UPLOAD, 206, 'Label Studio answers 206'),
        (UPLOAD, 304, 'Label Studio answers 304'),
        (UPLOAD, 403, 'answers 403: has the user of LABEL_STUDIO_API_TOKEN permission'),
        (UPLOAD, 401, 'legacy tokens switched off .* use a personal access token'),
        ('{studio}' + SIGNED, 404, r'^http://127.0.0.1:\d+/bucket/a.jpg: 127.0.0.1 answers 404'),
        ('{studio}' + SIGNED, 403, 'answers 403, which is requested without credentials'),
    ],
)
async def test_other_statuses_name_the_address_and_what_to_do(
    studio: Recorder, images: Images, address: str, status: int, text: str
) -> None:
    """Other statuses are reported with the address without its query, and with a hint."""
    studio.answer = lambda _: Reply(status, b'')
    await refused(images(allowed_hosts=studio.place), address.format(studio=studio.url), text)


async def test_no_signature_and_no_token_is_logged(
    studio: Recorder, other: Recorder, images: Images, caplog: pytest.LogCaptureFixture
) -> None:
    """Neither the token nor the signature of a redirect is logged, even at DEBUG."""
    caplog.set_level('DEBUG')
    studio.answer = redirecting(other.url + SIGNED)
    assert await images(allowed_hosts=other.place).fetch('s3://bucket/a.jpg', task_id=7) == PICTURE
    assert other.paths == [SIGNED]
    assert 'deadbeef' not in caplog.text
    assert TOKEN not in caplog.text


@pytest.mark.parametrize(
    'address', ['file:///etc/passwd', '/etc/passwd', '../../etc/passwd', '', None, 7, 'http://ann:pw@127.0.0.1/a.jpg']
)
async def test_no_file_of_this_machine_is_read(studio: Recorder, images: Images, address: object) -> None:
    """Local files and other non-addresses are refused."""
    fault = await refused(
        images(allowed_hosts='127.0.0.1'), address, 'unsupported address|images lie below|no address|user name'
    )
    assert 'pw' not in fault.replace('passwd', '')
    assert studio.requests == []


async def test_without_label_studio_other_hosts_still_serve(other: Recorder, images: Images) -> None:
    """Without Label Studio, other hosts still work, and its own files are refused with the settings to set."""
    fetching = images(None, allowed_hosts=other.place)
    assert await fetching.fetch(f'{other.url}/data/upload/a.jpg', task_id=7) == PICTURE
    await refused(fetching, UPLOAD, 'set LABEL_STUDIO_URL and LABEL_STUDIO_API_TOKEN')


async def test_settings_are_honoured(other: Recorder, studio: Recorder) -> None:
    """IMAGE_HOSTS, IMAGE_SECONDS and LABEL_STUDIO_HOSTNAMES are applied."""
    settings = Settings(
        label_studio_url=studio.url,
        label_studio_api_token=TOKEN,
        label_studio_hostnames='Labels:8080, labels.example',
        image_hosts=f' {other.place} ,*',
        image_seconds=0.3,
    )
    connection = Connection.of(settings)
    assert connection is not None
    fetching = TaskImages.of(settings, connection)
    assert await fetching.fetch(f'http://labels:8080{UPLOAD}', task_id=7) == PICTURE
    assert await fetching.fetch(f'{other.url}/a.jpg', task_id=7) == PICTURE
    other.answer = Concurrent(0.6)
    await refused(fetching, f'{other.url}/a.jpg', '0.3 s')
    await fetching.close()
    await connection.close()


@pytest.mark.parametrize(
    ('name', 'value'),
    [
        ('IMAGE_HOSTS', 'http://minio:9000'),
        ('IMAGE_HOSTS', 'minio/bucket'),
        ('IMAGE_HOSTS', 'minio,*.example'),
        ('IMAGE_HOSTS', 'ann:pw@minio'),
        ('LABEL_STUDIO_HOSTNAMES', '*'),
        ('LABEL_STUDIO_HOSTNAMES', 'labels:http'),
        ('IMAGE_SECONDS', '0'),
    ],
)
def test_settings_that_name_no_host_stop_the_start(name: str, value: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """IMAGE_HOSTS entries that are not hosts, such as URLs, paths or patterns, prevent the start."""
    monkeypatch.setenv(name, value)
    with pytest.raises(InvalidSettings, match=f'^{name}='):
        load_settings()


@pytest.mark.parametrize(
    'uri',
    [
        'data:image/jpeg;base64,' + base64.b64encode(PICTURE).decode(),
        'DATA:image/jpeg;name=a;BASE64,' + base64.b64encode(PICTURE).decode().replace('/', '%2F'),
        'data:image/jpeg;base64,' + base64.encodebytes(PICTURE).decode(),
        'data:image/jpeg,' + ''.join(f'%{byte:02x}' for byte in PICTURE),
    ],
)
async def test_data_uris_are_decoded(images: Images, uri: str) -> None:
    """`data:` URIs in base64 or percent-encoding are decoded without any request."""
    assert await images(None, allowed_hosts='none').fetch(uri, task_id=None) == PICTURE


@pytest.mark.parametrize(
    ('uri', 'text'),
    [
        ('data:text/html;base64,PGI+', 'must be data:image/…'),
        ('data:,hello', 'must be data:image/…'),
        ('data:image/png;base64', 'must be data:image/…'),
        ('data:image/png;base64,@@@@', 'invalid base64'),
        ('data:image/png;base64,ä', 'invalid base64'),
        ('data:image/png;base64,', 'empty'),
        ('data:image/png;base64,' + 'A' * 1400, 'larger than the limit of 1000 bytes'),
        ('data:image/png,' + 'A' * 1001, 'larger than the limit of 1000 bytes'),
        ('data:image/png,' + '%41' * 2000, 'larger than the limit of 1000 bytes'),
    ],
)
async def test_data_uris_of_other_things_are_refused(images: Images, uri: str, text: str) -> None:
    """Other, damaged and large `data:` URIs are refused without being repeated."""
    assert len(await refused(images(max_bytes=1000), uri, text)) < 120


class Concurrent:
    """Counts how many requests are answered at the same time, each taking a while."""

    def __init__(self, seconds: float = 0.05) -> None:
        self.seconds = seconds
        self.most = self._now = 0
        self._lock = threading.Lock()

    def __call__(self, _: Request) -> Reply:
        with self._lock:
            self._now += 1
            self.most = max(self.most, self._now)
        time.sleep(self.seconds)
        with self._lock:
            self._now -= 1
        return Reply()


class Held:
    """Lets requests wait until `go` is set."""

    def __init__(self) -> None:
        self.go = threading.Event()

    def __call__(self, _: Request) -> Reply:
        self.go.wait(2 * PATIENCE)
        return Reply()


async def test_so_many_images_are_fetched_at_the_same_time(studio: Recorder, images: Images) -> None:
    """The concurrency is used and not exceeded, and the wait for a turn does not count as time of the image."""
    studio.answer = crowd = Concurrent(0.06)
    fetching = images(concurrency=3, seconds=1)
    await asyncio.gather(*(fetching.fetch(f'/data/upload/1/{number}.jpg', task_id=7) for number in range(60)))
    assert crowd.most == 3
    assert len(studio.requests) == 60


async def test_what_becomes_of_a_fetch_is_told(studio: Recorder, images: Images) -> None:
    """`observe` is called once per fetch with its duration, and not for `data:` URIs."""
    told: list[tuple[str, float]] = []
    fetching = images(allowed_hosts='none')
    fetching.observe = lambda outcome, seconds: told.append((outcome, seconds))
    studio.answer = lambda request: Reply(404, b'') if 'none' in request.path else Reply(200, PICTURE)
    await fetching.fetch(UPLOAD, task_id=7)
    await refused(fetching, '/data/upload/1/none.jpg', 'no such file')
    await refused(fetching, '/api/projects', '/api/projects')
    await fetching.fetch('data:image/png;base64,aGFsbG8=', task_id=7)
    assert [outcome for outcome, _ in told] == ['ok', 'failed', 'refused']
    assert all(0 <= seconds < 10 for _, seconds in told)


async def test_a_batch_fetches_each_address_once(studio: Recorder, images: Images) -> None:
    """A batch fetches each address once, concurrently and later, and the next batch fetches it again."""
    studio.answer = Concurrent()
    fetching = images()
    async with Batch(fetching) as batch:
        fetched = await asyncio.gather(*(batch.fetch(UPLOAD, task_id=number) for number in range(10)))
        assert fetched == [PICTURE] * 10
        assert await batch.fetch(UPLOAD, task_id=7) == PICTURE
        assert len(studio.requests) == 1
        assert await batch.fetch('/data/upload/1/other.jpg', task_id=7) == PICTURE
    async with Batch(fetching) as batch:
        await batch.fetch(UPLOAD, task_id=7)
    assert studio.paths == [UPLOAD, '/data/upload/1/other.jpg', UPLOAD]


async def test_a_batch_remembers_failures_too(studio: Recorder, images: Images) -> None:
    """A batch remembers a failure and reports it for every request of the address."""
    studio.answer = lambda _: Reply(404, b'')
    async with Batch(images()) as batch:
        for _ in range(3):
            with pytest.raises(MediaFault, match='no such file'):
                await batch.fetch(UPLOAD, task_id=7)
        with pytest.raises(MediaFault, match='no address'):
            await batch.fetch(None, task_id=7)
    assert len(studio.requests) == 1


async def test_a_cancelled_request_leaves_the_others_their_image(studio: Recorder, images: Images) -> None:
    """Cancelling one request of a batch does not cancel the shared fetch."""
    studio.answer = held = Held()
    async with Batch(images(seconds=PATIENCE)) as batch:
        first, second = (asyncio.create_task(batch.fetch(UPLOAD, task_id=7)) for _ in range(2))
        await eventually_async(lambda: studio.requests, 'the request')
        first.cancel()
        held.go.set()
        assert await second == PICTURE
    assert len(studio.requests) == 1


async def test_the_end_of_a_batch_ends_its_fetches(studio: Recorder, images: Images) -> None:
    """The end of a batch cancels its fetches at once, failed ones included."""
    held = Held()
    studio.answer = lambda request: Reply(404, b'') if request.path == UPLOAD else held(request)
    async with asyncio.timeout(PATIENCE):
        async with Batch(images(seconds=10 * PATIENCE)) as batch:
            waiting = [asyncio.create_task(batch.fetch(f'/data/upload/1/{name}', task_id=7)) for name in 'abc']
            forgotten = asyncio.create_task(batch.fetch(UPLOAD, task_id=7))
            await eventually_async(lambda: len(studio.requests) == 4, 'the requests')
            forgotten.cancel()
    assert not held.go.is_set()
    held.go.set()
    assert all(
        isinstance(result, asyncio.CancelledError) for result in await asyncio.gather(*waiting, return_exceptions=True)
    )


async def test_a_batch_keeps_so_many_bytes(studio: Recorder, images: Images, monkeypatch: pytest.MonkeyPatch) -> None:
    """A batch keeps the latest images up to its size limit and fetches forgotten ones again."""
    monkeypatch.setattr(media, '_BATCH_BYTES', 2 * len(PICTURE))
    async with Batch(images()) as batch:
        for name in 'abcbab':
            assert await batch.fetch(f'/data/upload/1/{name}', task_id=7) == PICTURE
    assert [path[-1] for path in studio.paths] == ['a', 'b', 'c', 'a']
