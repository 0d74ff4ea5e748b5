"""What addresses in tasks' data refer to, without any network."""

import base64

import httpx
import pytest

from detector.errors import MediaFault
from detector.label_studio.server.addresses import Addresses, Inline, Inside, Outside, shown
from tests.support.label_studio.addresses import DEVIOUS

BASE = httpx.URL('https://labels.example/ls')
S3 = 's3://bucket/folder/käse 1.jpg'


@pytest.fixture
def addresses() -> Addresses:
    return Addresses(BASE, ['labels', 'other.example:8080', '[::1]:8080', 'secure.example:443'])


@pytest.mark.parametrize(
    ('address', 'path'),
    [
        ('/data/upload/1/2c357725-t0.jpg', '/data/upload/1/2c357725-t0.jpg'),
        ('  /data/upload/1/a.jpg\n', '/data/upload/1/a.jpg'),
        ('/ls/data/upload/1/a.jpg', '/data/upload/1/a.jpg'),
        ('/data/upload/1/100%25%20käse.jpg', '/data/upload/1/100%25%20k%C3%A4se.jpg'),
        ('/data/upload/1/a..b...jpg', '/data/upload/1/a..b...jpg'),
        ('/data/local-files/?d=ds/a b.jpg', '/data/local-files/?d=ds/a%20b.jpg'),
        ('/data/local-files/?d=ds%2Fa%20b.jpg#x', '/data/local-files/?d=ds%2Fa%20b.jpg'),
        ('/storage-data/uploaded/?filepath=upload/1/a.jpg', '/storage-data/uploaded/?filepath=upload/1/a.jpg'),
        ('/tasks/7/presign/?fileuri=czM6Ly9i_-8=', '/tasks/7/presign/?fileuri=czM6Ly9i_-8='),
        ('/api/projects/7/resolve?fileuri=czM6', '/api/projects/7/resolve?fileuri=czM6'),
        ('https://labels.example/ls/data/upload/1/a.jpg', '/data/upload/1/a.jpg'),
        ('https://labels.example:443/data/upload/1/a.jpg', '/data/upload/1/a.jpg'),
        ('HTTPS://LABELS.example./ls/data/upload/1/a.jpg', '/data/upload/1/a.jpg'),
        ('http://labels.example/ls/data/upload/1/a.jpg', '/data/upload/1/a.jpg'),
        ('http://labels/data/upload/1/a.jpg', '/data/upload/1/a.jpg'),
        ('http://other.example:8080/ls/data/upload/1/a.jpg', '/data/upload/1/a.jpg'),
        ('https://secure.example/data/upload/1/a.jpg', '/data/upload/1/a.jpg'),
        ('http://[::1]:8080/data/local-files/?d=a.jpg', '/data/local-files/?d=a.jpg'),
    ],
)
def test_files_of_label_studio_under_all_its_names(addresses: Addresses, address: str, path: str) -> None:
    """An address with any name and scheme of Label Studio becomes a path at LABEL_STUDIO_URL."""
    assert addresses.place(address, 7) == Inside(path)


@pytest.mark.parametrize('path', DEVIOUS)
@pytest.mark.parametrize('start', ['', '/ls', 'https://labels.example', 'https://labels.example/ls', 'http://labels'])
def test_paths_that_lead_elsewhere_are_never_asked_with_credentials(
    addresses: Addresses, start: str, path: str
) -> None:
    """A path that leaves the media folders is refused in every spelling, relative or with a name of Label Studio."""
    with pytest.raises(MediaFault, match='leaves the media folders'):
        addresses.place(start + path, 7)


@pytest.mark.parametrize(
    'path',
    ['/api/users/', '/data', '/data/', '/database/x', '/tasks/1/presigned/', '/tasks/x/presign/', '/ls/api/', '/'],
)
def test_other_paths_are_no_images_of_label_studio(addresses: Addresses, path: str) -> None:
    """Other paths of Label Studio are refused if relative, and requested without credentials if absolute."""
    with pytest.raises(MediaFault, match='in Label Studio, images lie below /data/'):
        addresses.place(path, 7)
    url = f'https://labels.example{path}'
    assert addresses.place(url, 7) == Outside(httpx.URL(url))


ELSEWHERE = """
https://labels.example:8443/data/a.jpg http://labels:81/data/a.jpg http://other.example/data/a.jpg
https://example/data/a.jpg https://xlabels.example/data/a.jpg http://localhost:8080/data/a.jpg
"""


@pytest.mark.parametrize('address', ELSEWHERE.split())
def test_another_port_or_host_is_not_label_studio(addresses: Addresses, address: str) -> None:
    """A host or port that differs from Label Studio's in any part is another host."""
    assert addresses.place(address, 7) == Outside(httpx.URL(address))


def test_a_hostname_from_setup_is_another_name(addresses: Addresses) -> None:
    """A `hostname` from setup, with or without a path, is a further name; anything but a URL is ignored."""
    for hostname in (
        None,
        7,
        '',
        'label studio',
        'http://',
        'ftp://h',
        'http://ann:pw@seen:8080',
        'http://\ud800',
        'http://' + 'h' * 300,
    ):
        addresses.learn(hostname)
    addresses.learn('http://localhost:8080/studio')
    for start in ('http://localhost:8080/studio', 'http://localhost:8080'):
        assert addresses.place(f'{start}/data/upload/1/a.jpg', 7) == Inside('/data/upload/1/a.jpg')
    assert isinstance(addresses.place('http://seen:8080/data/upload/1/a.jpg', 7), Outside)


def test_names_from_setup_are_bounded(addresses: Addresses) -> None:
    """Only the latest names from setup are kept, but names from the settings always are."""
    for number in range(1000):
        addresses.learn('http://ours:8080')
        addresses.learn(f'http://host-{number}')
        assert isinstance(addresses.place('http://ours:8080/data/a.jpg', 7), Inside)
    assert len(addresses._learnt) < 100
    assert isinstance(addresses.place('http://host-0/data/a.jpg', 7), Outside)
    for name in ('host-999', 'labels'):
        assert isinstance(addresses.place(f'http://{name}/data/a.jpg', 7), Inside)


@pytest.mark.parametrize('scheme', ['s3', 'gs', 'azure-blob', 'S3'])
def test_files_of_cloud_storages_go_through_their_task(addresses: Addresses, scheme: str) -> None:
    """A file of a cloud storage is requested through its task, with its address in urlsafe base64."""
    address = S3.replace('s3', scheme)
    place = addresses.place(address, 7)
    assert isinstance(place, Inside)
    start, _, encoded = place.path.partition('?fileuri=')
    assert start == '/tasks/7/presign/'
    assert base64.urlsafe_b64decode(encoded).decode() == address
    with pytest.raises(MediaFault, match='needs the id of its task'):
        addresses.place(address, None)


@pytest.mark.parametrize('address', ['/data/upload/1/a.jpg', S3])
def test_without_label_studio_its_files_name_the_settings(address: str) -> None:
    """Without LABEL_STUDIO_URL, an address in Label Studio is refused with the settings to set."""
    with pytest.raises(MediaFault, match='set LABEL_STUDIO_URL and LABEL_STUDIO_API_TOKEN'):
        Addresses(None, ['labels']).place(address, 7)


NO_IMAGES = """
file:///etc/passwd ftp://host/a.jpg /etc/passwd etc/passwd ../a.jpg a.jpg C:\\a.jpg //host/a.jpg
javascript:alert(1) http:/a.jpg http:// https:///a.jpg http://h:99999/ http://h:0/ s3:bucket/a.jpg
http://0177.0.0.1/a.jpg http://h:-1/ http://[::1/a.jpg http://h:8080:80/a.jpg http://xn--%/a.jpg
http://a%20b/a.jpg http://a,b/ http://[fe80::1%25eth0]/a.jpg
"""


@pytest.mark.parametrize(
    'address',
    [
        *NO_IMAGES.split(),
        *('/data/a\x00b.jpg', 'http://host/a\r\nb', 'http://host/' + 'a' * 9000, '', '  '),
        *('/data/upload/1/\ud800.jpg', 's3://bucket/\ud800', 'http://host/\udc00', 'data:image/png,\ud800'),
        *(None, 7, ['/data/a.jpg'], {}, True),
    ],
)
def test_everything_else_is_refused(addresses: Addresses, address: object) -> None:
    """All other addresses are refused with a short text."""
    with pytest.raises(MediaFault) as caught:
        addresses.place(address, 7)
    assert 20 < len(str(caught.value)) < 300


@pytest.mark.parametrize(
    'address',
    ['http://ann:pw@labels/data/a.jpg', 'https://:pw@host/a.jpg', 'http://host:pw/x@host/a.jpg', 'http://pw@host'],
)
def test_user_names_and_passwords_are_refused_and_not_repeated(addresses: Addresses, address: str) -> None:
    """An address with a user name or password is refused without repeating it."""
    with pytest.raises(MediaFault) as caught:
        addresses.place(address, 7)
    assert 'pw' not in str(caught.value)


def test_data_uris_are_left_as_they_are(addresses: Addresses) -> None:
    """`data:` URIs of any length are passed on unchanged."""
    uri = 'data:image/png;base64,' + 'A' * 100_000
    assert addresses.place(uri, None) == Inline(uri)


def test_redirects_of_label_studio_keep_credentials_only_to_its_own_files(addresses: Addresses) -> None:
    """A redirect by Label Studio keeps credentials for its own files only, and may lead to any public host."""
    presign = Inside('/tasks/7/presign/?fileuri=czM6')
    for location in ('/ls/data/upload/1/a.jpg', '../../../data/upload/1/a.jpg', 'http://labels/data/upload/1/a.jpg'):
        assert addresses.redirected(presign, location) == Inside('/data/upload/1/a.jpg')
    signed = 'https://bucket.s3.example/a.jpg?X-Amz-Signature=1'
    outside = addresses.redirected(presign, signed)
    assert outside == Outside(httpx.URL(signed), by_label_studio=True)
    assert isinstance(outside, Outside)
    back = addresses.redirected(outside, 'https://labels.example/ls/data/upload/1/a.jpg')
    assert back == Outside(httpx.URL('https://labels.example/ls/data/upload/1/a.jpg'), by_label_studio=True)
    assert addresses.redirected(Outside(httpx.URL('http://host/a.jpg')), signed) == Outside(httpx.URL(signed))
    with pytest.raises(MediaFault, match='LABEL_STUDIO_API_TOKEN'):
        addresses.redirected(presign, '/user/login/?next=/data/a.jpg')


@pytest.mark.parametrize('location', ['file:///etc/passwd', 'http://ann:pw@host/', 'http://h:0/', 'http://h:x/?sig=pw'])
def test_redirects_to_nowhere_are_refused(addresses: Addresses, location: str) -> None:
    """A redirect to an invalid address is refused, from Label Studio and from other hosts."""
    for place in (Inside('/tasks/7/presign/'), Outside(httpx.URL('http://host/a.jpg'))):
        with pytest.raises(MediaFault) as caught:
            addresses.redirected(place, location)
        assert 'pw' not in str(caught.value)


def test_no_secret_and_no_long_text_is_shown() -> None:
    """The shown text has no query except the path of a local file, and is short."""
    assert shown('https://b.s3.example/a.jpg?X-Amz-Signature=secret#secret') == 'https://b.s3.example/a.jpg'
    assert shown('http://ann:pa@ss@host/a.jpg') == 'http://host/a.jpg'
    assert shown('/data/local-files/?d=ds/a.jpg&token=secret') == '/data/local-files/?d=ds/a.jpg'
    assert shown('a\nb') == 'a�b'
    long = shown(f'/data/upload/1/{"a" * 500}/end.jpg')
    assert len(long) <= 120
    assert long.endswith('/end.jpg')
