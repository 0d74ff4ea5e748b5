"""Proxies that the environment names: HTTP_PROXY, HTTPS_PROXY, ALL_PROXY and NO_PROXY, in upper or lower case.

httpx reads these variables when a client is made, and raises for forms that other programs accept, such as brackets and
networks in NO_PROXY, even if the client needs no proxy. The transports here choose the proxy of each request instead.
"""

import ipaddress
import logging
import os
import re
from functools import lru_cache
from typing import Any, Final
from urllib.request import getproxies

import httpx

from detector.errors import InvalidSettings
from detector.settings import without_logins

log = logging.getLogger('wholebody')

_SCHEMES: Final = ('http', 'https', 'socks5', 'socks5h')
_LOCAL_SUFFIXES: Final = ('.localhost', '.local', '.internal')
"""Ends of names that only the local network resolves."""
_DOMAIN: Final = re.compile(r'[\w-]+(?:\.[\w-]+)*')
_PORT: Final = re.compile(r'([^:]*):([0-9]{1,5})')
_BRACKETS: Final = re.compile(r'\[([^]]*)](?::([0-9]{1,5}))?')
_MAX_SHOWN: Final = 100
"""Maximum length of an entry of NO_PROXY in the log, in characters."""
_MAX_COMPLAINTS: Final = 1000
"""Number of entries of NO_PROXY that are remembered as logged."""


def proxy_of(url: httpx.URL) -> str | None:
    """Return the proxy for requests to a URL; None: connect directly.

    Hosts of this machine and of the local network are never requested through a proxy: loopback and private addresses,
    names without a dot, and names below `.local`, `.localhost` and `.internal`.

    :raises InvalidSettings: the variable for the URL, or NO_PROXY, cannot be used; the message names it.
    """
    return _chosen(url)[1]


def http_proxy_of(url: str) -> str | None:
    """Return the proxy for a client that knows no SOCKS; see `proxy_of`.

    :raises InvalidSettings: the variable for the URL names a SOCKS proxy, or cannot be used.
    """
    kind, proxy = _chosen(httpx.URL(url))
    if proxy is not None and proxy.startswith('socks'):
        raise InvalidSettings(
            f'{_variable(kind)}={without_logins(proxy)}: uploads cannot use a SOCKS proxy; set HTTPS_PROXY to an HTTP '
            f'proxy, or add {httpx.URL(url).host} to NO_PROXY'
        )
    return proxy


class ProxyTransport(httpx.BaseTransport):
    """Transport of a client that sends each request through the proxy of its host.

    :param options: options of `httpx.HTTPTransport`.
    """

    def __init__(self, **options: Any) -> None:
        self._options = options
        self._transports: dict[str | None, httpx.HTTPTransport] = {}

    def handle_request(self, request: httpx.Request) -> httpx.Response:
        """:raises InvalidSettings: see `proxy_of`."""
        proxy = proxy_of(request.url)
        if proxy not in self._transports:
            self._transports[proxy] = httpx.HTTPTransport(proxy=proxy, **self._options)
        return self._transports[proxy].handle_request(request)

    def close(self) -> None:
        for transport in self._transports.values():
            transport.close()


class AsyncProxyTransport(httpx.AsyncBaseTransport):
    """Transport of an asynchronous client that sends each request through the proxy of its host.

    :param options: options of `httpx.AsyncHTTPTransport`.
    """

    def __init__(self, **options: Any) -> None:
        self._options = options
        self._transports: dict[str | None, httpx.AsyncHTTPTransport] = {}

    async def handle_async_request(self, request: httpx.Request) -> httpx.Response:
        """:raises InvalidSettings: see `proxy_of`."""
        proxy = proxy_of(request.url)
        if proxy not in self._transports:
            self._transports[proxy] = httpx.AsyncHTTPTransport(proxy=proxy, **self._options)
        return await self._transports[proxy].handle_async_request(request)

    async def aclose(self) -> None:
        for transport in self._transports.values():
            await transport.aclose()


def _chosen(url: httpx.URL) -> tuple[str, str | None]:
    """Return the kind of variable that decides, such as `all`, and the proxy that it names; see `proxy_of`."""
    found = getproxies()
    kind = next((kind for kind in (url.scheme, 'all') if found.get(kind)), '')
    if not kind or _is_local(url.host) or _is_exempt(url, found.get('no', '')):
        return kind, None
    return kind, _checked(kind, found[kind])


def _is_local(host: str) -> bool:
    address = _address(host)
    if address is not None:
        return address.is_loopback or address.is_private or address.is_link_local
    name = host.rstrip('.').lower()
    return '.' not in name or name.endswith(_LOCAL_SUFFIXES)


def _address(text: str) -> ipaddress.IPv4Address | ipaddress.IPv6Address | None:
    try:
        return ipaddress.ip_address(text.strip('[]'))
    except ValueError:
        return None


def _is_exempt(url: httpx.URL, entries: str) -> bool:
    """Return True if NO_PROXY lists the host: by name, domain, address or network, with or without a port, or `*`."""
    name, address = url.host.rstrip('.').lower(), _address(url.host)
    port = url.port or {'http': 80, 'https': 443}.get(url.scheme)
    found = False
    for written in filter(None, re.split(r'[\s,]+', entries)):
        entry = written.lower()
        host, wanted = _host_and_port(entry.rpartition('://')[2].rstrip('/') if '://' in entry else entry)
        network, domain = _network(host), host.removeprefix('*').strip('.')
        if entry == '*':
            found = True
        elif network is None and not _is_domain(domain):
            _complain(written)
        elif wanted in (None, port):
            found |= address is not None and network is not None and address in network
            found |= name == domain or name.endswith(f'.{domain}')
    return found


@lru_cache(maxsize=_MAX_COMPLAINTS)
def _complain(entry: str) -> None:
    """Log an entry of NO_PROXY that cannot be read, once."""
    log.warning(
        '%s: "%s" is ignored; give names, domains, addresses or networks, separated by commas, such as '
        'localhost,.example.com,10.0.0.0/8',
        _variable('no'), without_logins(entry)[:_MAX_SHOWN],
    )  # fmt: skip


def _is_domain(text: str) -> bool:
    """Return True if a text can be the name of a host; a last label of digits would be a part of an address."""
    return _DOMAIN.fullmatch(text) is not None and not text.rpartition('.')[2].isdecimal()


def _host_and_port(entry: str) -> tuple[str, int | None]:
    """Divide `host`, `host:port`, `[v6]`, `[v6]:port`, `v6` and `address/prefix`."""
    found = _BRACKETS.fullmatch(entry) or _PORT.fullmatch(entry)
    return (entry, None) if found is None else (found[1], int(found[2]) if found[2] else None)


def _network(text: str) -> ipaddress.IPv4Network | ipaddress.IPv6Network | None:
    try:
        return ipaddress.ip_network(text, strict=False)
    except ValueError:
        return None


def _checked(kind: str, value: str) -> str:
    """Return the proxy's address with a scheme.

    :raises InvalidSettings: it is not the address of a proxy.
    """
    text = value if '://' in value else f'http://{value}'
    try:
        url = httpx.URL(text)
    except httpx.InvalidURL as error:
        raise InvalidSettings(f'{_variable(kind)}={without_logins(value)}: {error}') from None
    if url.scheme not in _SCHEMES or not url.host:
        raise InvalidSettings(
            f'{_variable(kind)}={without_logins(value)}: give the address of a proxy, such as http://proxy:3128; the '
            f'schemes are {", ".join(_SCHEMES)}'
        )
    return text


def _variable(kind: str) -> str:
    """Return the variable that names the proxy for a scheme."""
    name = f'{kind}_proxy'
    return next((variable for variable in (name, name.upper()) if os.environ.get(variable)), name.upper())
