"""Public addresses, and connections to checked addresses only."""

import socket
from collections.abc import AsyncIterator, Callable
from typing import Any

import httpx
import pytest
import pytest_asyncio

from detector.errors import MediaFault
from detector.label_studio.server import network
from detector.label_studio.server.network import AllowedHosts, PublicClient, is_public
from tests.support.label_studio.recorder import PICTURE, recording

Resolve = Callable[..., list[Any]]


@pytest.fixture
def names(monkeypatch: pytest.MonkeyPatch) -> dict[str, list[str]]:
    """Resolve names to given addresses; each lookup uses up the first one, except the last."""
    known: dict[str, list[str]] = {}
    real: Resolve = socket.getaddrinfo

    def getaddrinfo(host: Any, port: Any, *args: Any, **kwargs: Any) -> list[Any]:
        if host not in known:
            return real(host, port, *args, **kwargs)
        answers = known[host]
        found = (answers.pop(0) if len(answers) > 1 else answers[0]).split()
        return [info for address in found for info in real(address, port, *args, **kwargs)]

    monkeypatch.setattr(socket, 'getaddrinfo', getaddrinfo)
    return known


@pytest.fixture
def _loopback_2_is_public(monkeypatch: pytest.MonkeyPatch) -> None:
    """Treat 127.0.0.2 as a public address, since tests have no internet."""
    monkeypatch.setattr(network, 'is_public', lambda address: address == '127.0.0.2' or is_public(address))


@pytest_asyncio.fixture
async def client() -> AsyncIterator[PublicClient]:
    client = PublicClient(AllowedHosts.parse('*'), connect_seconds=2)
    yield client
    await client.close()


@pytest.mark.parametrize(
    'address',
    ['8.8.8.8', '100.63.255.255', '100.128.0.1', '172.32.0.1', '2606:4700::1111', '::ffff:8.8.8.8', '64:ff9b::8.8.8.8'],
)
def test_public_addresses(address: str) -> None:
    """Addresses of the internet are public; translated addresses are judged by what they contain."""
    assert is_public(address)


NOT_PUBLIC = """
127.0.0.1 127.9.9.9 0.0.0.0 0.1.2.3 10.0.0.1 172.16.0.1 172.31.255.255 192.168.1.1 169.254.169.254
100.64.0.1 100.127.255.255 192.0.0.8 192.0.2.1 198.18.0.1 203.0.113.1 224.0.0.1 239.255.255.255
240.0.0.1 255.255.255.255 192.88.99.1 :: ::1 ::127.0.0.1 ::8.8.8.8 fe80::1 fe80::1%1 fc00::1
fd00:ec2::254 fec0::1 ff02::1 ff0e::1 2001:db8::1 3fff::1 2001::1 100::1 5f00::1
::ffff:127.0.0.1 ::ffff:10.0.0.1 ::ffff:169.254.169.254 ::ffff:100.64.0.1
64:ff9b::127.0.0.1 64:ff9b::10.0.0.1 64:ff9b::169.254.169.254 64:ff9b:1::1
2002:7f00:1:: 2002:a00:1:: 2002:a9fe:a9fe:: 2002:808:808::
"""


@pytest.mark.parametrize('address', NOT_PUBLIC.split())
def test_addresses_that_are_not_public(address: str) -> None:
    """Loopback, private, link-local, shared, documentation, multicast and reserved addresses are not public, in IPv6
    either."""
    assert not is_public(address)


@pytest.mark.parametrize(
    ('text', 'host', 'port', 'contained'),
    [
        ('minio:9000', 'minio', 9000, True),
        ('minio:9000', 'minio', 9001, False),
        ('*,minio', 'minio', 1234, True),
        ('*', 'minio', 80, False),
        ('minio:80', 'minio', 80, True),
        ('minio:443', 'minio', 80, False),
        ('Minio.Local', 'minio.local.', 80, True),
        ('[0:0::1]:80', '::1', 80, True),
        ('10.0.0.5', '10.0.0.5', 80, True),
        ('10.0.0.5', '010.0.0.5', 80, False),
        ('none', 'minio', 80, False),
    ],
)
def test_hosts_are_listed_with_or_without_port(text: str, host: str, port: int, contained: bool) -> None:
    """Hosts match exactly, with or without a port, and a star does not count as a listed host."""
    hosts = AllowedHosts.parse(text)
    assert hosts.contains(host, port) is contained
    assert hosts.any_public is ('*' in text)


THIS_MACHINE = """
127.0.0.1 localhost LOCALHOST 2130706433 127.1 0x7f.1 0.0.0.0 0
[::1] [::ffff:127.0.0.1] [::ffff:7f00:1] [::] images.example images.example. mapped.example
"""


@pytest.mark.parametrize('host', THIS_MACHINE.split())
async def test_names_and_numbers_of_this_machine_are_not_connected_to(
    client: PublicClient, names: dict[str, list[str]], host: str
) -> None:
    """Names and numbers of this machine are refused in every spelling, and the error says what to list."""
    names['images.example'] = names['images.example.'] = ['127.0.0.1']
    names['mapped.example'] = ['::ffff:127.0.0.1']
    with recording() as v4, recording('::1') as v6:
        for server in (v4, v6):
            with pytest.raises(MediaFault, match=rf'add .*:{server.port} to IMAGE_HOSTS'):
                async with client.get(httpx.URL(f'http://{host}:{server.port}/a.jpg')):
                    pass
        assert v4.requests == v6.requests == []


@pytest.mark.usefixtures('_loopback_2_is_public')
async def test_a_name_that_changes_its_address_is_asked_once(client: PublicClient, names: dict[str, list[str]]) -> None:
    """A name is resolved once, so the connection goes to the address that was checked."""
    with recording('127.0.0.2') as public, recording('127.0.0.1') as private:
        names['rebinding.example'] = ['127.0.0.2', '127.0.0.1']
        async with client.get(httpx.URL(f'http://rebinding.example:{public.port}/a.jpg')) as response:
            assert await response.aread() == PICTURE
        assert public.requests[0].headers['host'] == f'rebinding.example:{public.port}'
        with pytest.raises(MediaFault, match='has no public address'):
            async with client.get(httpx.URL(f'http://rebinding.example:{private.port}/a.jpg')):
                pass
        assert private.requests == []


@pytest.mark.usefixtures('_loopback_2_is_public')
async def test_of_several_addresses_the_public_ones_are_tried(
    client: PublicClient, names: dict[str, list[str]]
) -> None:
    """Public addresses of a name are tried in turn, and private ones are not."""
    with recording('127.0.0.2') as public:
        names['both.example'] = ['127.0.0.1 ::1 127.0.0.2']
        names['mixed.example'] = ['127.0.0.3 127.0.0.2']
        async with client.get(httpx.URL(f'{public.url}/a.jpg').copy_with(host='both.example')) as response:
            assert response.status_code == 200
    listed = PublicClient(AllowedHosts.parse('mixed.example'))
    with recording('127.0.0.2') as second:
        async with listed.get(httpx.URL(f'{second.url}/a.jpg').copy_with(host='mixed.example')) as response:
            assert response.status_code == 200
    await listed.close()


async def test_an_unknown_name_is_a_transport_error(client: PublicClient, monkeypatch: pytest.MonkeyPatch) -> None:
    """An unknown name raises a transport error that shows the host without the query."""

    def unresolved(*_: Any, **__: Any) -> list[Any]:
        raise socket.gaierror(-2, 'Name or service not known')

    monkeypatch.setattr(socket, 'getaddrinfo', unresolved)
    with pytest.raises(httpx.TransportError, match='nowhere.example') as caught:
        async with client.get(httpx.URL('http://nowhere.example/a.jpg?sig=secret')):
            pass
    assert 'secret' not in str(caught.value)


async def test_hosts_that_are_not_allowed_are_not_even_resolved(names: dict[str, list[str]]) -> None:
    """A host that is not allowed is not even resolved."""
    names['images.example'] = ['first', 'never asked']
    client = PublicClient(AllowedHosts.parse('minio:9000'))
    for url in ('http://images.example/a.jpg', 'http://minio:9001/a.jpg'):
        with pytest.raises(MediaFault, match='images may not come from .*IMAGE_HOSTS'):
            async with client.get(httpx.URL(url)):
                pass
    assert names['images.example'] == ['first', 'never asked']
    await client.close()
