"""Requests to untrusted hosts: connections go to checked IP addresses only.

Proxies of the environment (`HTTP_PROXY` …) are not used, since a proxy would resolve the name itself and bypass the
check. `SSL_CERT_FILE` and `SSL_CERT_DIR` are respected.
"""

import asyncio
import ipaddress
import logging
import socket
from collections.abc import AsyncIterator, Iterable
from contextlib import asynccontextmanager
from dataclasses import dataclass
from typing import Final, Self

import httpcore
import httpx

from detector.errors import MediaFault, text_of

# at DEBUG it logs response headers, and so the signatures of presigned addresses in redirects
logging.getLogger('httpcore').setLevel(logging.INFO)

_HEADERS: Final = ((b'Accept', b'image/*'), (b'Accept-Encoding', b'identity'), (b'User-Agent', b'wholebody'))
_ERRORS: Final = (httpcore.NetworkError, httpcore.TimeoutException, httpcore.ProtocolError)
_GLOBAL_UNICAST: Final = ipaddress.ip_network('2000::/3')
_NAT64: Final = ipaddress.ip_network('64:ff9b::/96')
_SPECIAL: Final = tuple(map(ipaddress.ip_network, ('192.0.0.0/24', '192.88.99.0/24', '2002::/16', '3fff::/20')))
"""Networks that Python 3.11 takes for public: protocol assignments, 6to4 relays to any IPv4 address, documentation."""


@dataclass(frozen=True, slots=True)
class AllowedHosts:
    """The hosts that images may come from (IMAGE_HOSTS).

    :param any_public: True to allow all other hosts with a public address, too.
    :param listed: host with port, or without for all ports; these may be in private networks.
    """

    any_public: bool
    listed: frozenset[tuple[str, int | None]]

    @classmethod
    def parse(cls, text: str) -> Self:
        """Read `host`, `host:port` and `*`, comma separated.

        :raises httpx.InvalidURL: an entry is not a host; the settings are already checked for this.
        """
        entries = {entry.strip() for entry in text.split(',')} - {''}
        urls = [httpx.URL(f'any://{entry}') for entry in entries - {'*'}]  # a scheme without a default port
        return cls('*' in entries, frozenset((_plain(url.raw_host.decode('ascii')), url.port) for url in urls))

    def contains(self, host: str, port: int) -> bool:
        return not self.listed.isdisjoint({(_plain(host), None), (_plain(host), port)})


class PublicClient:
    """An HTTP client without credentials, cookies, proxies or redirects that connects to checked addresses only.

    :param connections: maximum number of open connections.
    :param connect_seconds: time limit for name resolution and connection.
    """

    def __init__(self, hosts: AllowedHosts, *, connections: int = 8, connect_seconds: float = 5) -> None:
        self._hosts = hosts
        self._connect_seconds = connect_seconds
        self._pool = httpcore.AsyncConnectionPool(
            ssl_context=httpx.create_ssl_context(),
            max_connections=connections,
            keepalive_expiry=5,
            network_backend=_VettingBackend(hosts),
        )

    @asynccontextmanager
    async def get(self, url: httpx.URL, *, any_public: bool = False) -> AsyncIterator[httpx.Response]:
        """Request a file and leave its body unread; the caller limits the total time.

        :param any_public: True to allow any public host, even if IMAGE_HOSTS does not.
        :raises MediaFault: IMAGE_HOSTS does not allow the host or its address.
        :raises httpx.TransportError: no answer, or an invalid one.
        """
        host = url.raw_host.decode('ascii')
        port = url.port or (443 if url.scheme == 'https' else 80)
        if not (any_public or self._hosts.any_public or self._hosts.contains(host, port)):
            raise MediaFault(f'images may not come from {host}: add {_entry(host, port)} to IMAGE_HOSTS')
        target = httpcore.URL(scheme=url.raw_scheme, host=url.raw_host, port=url.port, target=url.raw_path)
        headers = [(b'Host', url.netloc), *_HEADERS]
        timeouts = {'connect': self._connect_seconds}
        try:
            async with self._pool.stream('GET', target, headers=headers, extensions={'timeout': timeouts}) as answer:
                yield httpx.Response(answer.status, headers=answer.headers, content=answer.aiter_stream())
        except _ERRORS as error:
            raise httpx.TransportError(f'{host} does not answer properly: {text_of(error)}') from None

    async def close(self) -> None:
        await self._pool.aclose()


async def read_at_most(response: httpx.Response, limit: int) -> bytes | None:
    """Return the body of an answer; compressed bodies are refused without decoding.

    :param limit: size limit in bytes.
    :return: None if the body is larger than the limit; the rest stays unread.
    :raises httpx.HTTPError: the transfer breaks off, or the body is compressed.
    """
    encoding = response.headers.get('Content-Encoding', '')
    if encoding.lower() not in ('', 'identity'):
        raise httpx.DecodingError(f'the answer is compressed ({encoding[:20]}), although the request excludes that')
    length = response.headers.get('Content-Length', '')
    if length.isdecimal() and int(length) > limit:
        return None
    chunks, size = [], 0
    async for chunk in response.aiter_raw():
        size += len(chunk)
        if size > limit:
            return None
        chunks.append(chunk)
    return b''.join(chunks)


def is_public(address: str) -> bool:
    """Return True if an IP address is public; IPv4 addresses that are embedded in IPv6 ones are judged themselves."""
    ip = ipaddress.ip_address(address)
    if isinstance(ip, ipaddress.IPv6Address):
        if ip.ipv4_mapped is not None:
            return is_public(str(ip.ipv4_mapped))
        if ip in _NAT64:
            return is_public(str(ipaddress.IPv4Address(int(ip) & 0xFFFFFFFF)))
        if ip not in _GLOBAL_UNICAST:
            return False
    return (
        ip.is_global and not ip.is_multicast and not ip.is_reserved and not any(ip in network for network in _SPECIAL)
    )


class _VettingBackend(httpcore.AsyncNetworkBackend):
    """Resolves a name once and connects to the addresses that passed the check, so a second lookup cannot differ."""

    def __init__(self, hosts: AllowedHosts) -> None:
        self._hosts = hosts
        self._backend = httpcore.AnyIOBackend()

    async def connect_tcp(
        self,
        host: str,
        port: int,
        timeout: float | None = None,
        local_address: str | None = None,
        socket_options: Iterable[httpcore.SOCKET_OPTION] | None = None,
    ) -> httpcore.AsyncNetworkStream:
        try:
            async with asyncio.timeout(timeout):
                for address in await self._vetted(host, port):
                    try:
                        return await self._backend.connect_tcp(address, port, None, local_address, socket_options)
                    except httpcore.ConnectError as error:
                        failure = error
        except TimeoutError:
            raise httpcore.ConnectTimeout(f'no connection within {timeout} s') from None
        raise failure

    async def _vetted(self, host: str, port: int) -> list[str]:
        try:
            found = await asyncio.get_running_loop().getaddrinfo(host, port, type=socket.SOCK_STREAM)
        except (OSError, UnicodeError):
            raise httpcore.ConnectError('its name has no IP address') from None
        addresses = list(dict.fromkeys(str(sockaddr[0]) for *_, sockaddr in found))
        if not self._hosts.contains(host, port):
            addresses = [address for address in addresses if is_public(address)]
        if not addresses:
            raise MediaFault(
                f'{host} has no public address: add {_entry(host, port)} to IMAGE_HOSTS, or to '
                'LABEL_STUDIO_HOSTNAMES if it is Label Studio'
            )
        return addresses


def _entry(host: str, port: int) -> str:
    return f'[{host}]:{port}' if ':' in host else f'{host}:{port}'


def _plain(host: str) -> str:
    """Normalise a host for comparison: no trailing dot, IP addresses in their shortest form."""
    host = host.rstrip('.').lower()
    try:
        return str(ipaddress.ip_address(host))
    except ValueError:
        return host
