"""Addresses in tasks' data: the file that each names, and the paths of Label Studio that may get credentials."""

import base64
import re
from collections import OrderedDict
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Final, NamedTuple
from urllib.parse import quote, unquote

import httpx

from detector.errors import MediaFault

CLOUD_SCHEMES: Final = ('s3', 'gs', 'azure-blob', 'azure-spi', 'azure_spi')
"""Schemes of Label Studio's cloud storages; Label Studio presigns or streams these files itself."""
_MEDIA: Final = re.compile(r'/data/.+|/storage-data/.+|(/api)?/(tasks|projects)/[0-9]+/(presign|resolve)/?')
"""Paths that may be requested with credentials; all others are refused."""
_PARTS: Final = re.compile(r'(?:https?://[^/?#]*)?(?P<path>[^?#]*)(?:\?(?P<query>[^#]*))?', re.IGNORECASE)
_SURROGATE: Final = re.compile('[\ud800-\udfff]')
_CONTROL: Final = re.compile(r'[\x00-\x1f\x7f-\x9f]')
_HOST: Final = re.compile(rb'[a-z0-9._-]+|[0-9a-f:.]+')
_CLIMBS: Final = re.compile(r'(^|[=/\\&])\.\.([/\\&]|$)')
_FILE_PATHS: Final = ('/data/local-files/', '/storage-data/uploaded/')
"""Paths whose query names the file."""
_MAX_CHARACTERS: Final = 8192
_MAX_SHOWN: Final = 120
_MAX_LEARNT_NAMES: Final = 32
_MAX_LAYERS: Final = 4
"""Maximum number of nested percent-encodings."""


@dataclass(frozen=True, slots=True)
class Inside:
    """A file at LABEL_STUDIO_URL, requested with credentials.

    :param path: path below LABEL_STUDIO_URL, percent-encoded, with query.
    """

    path: str


@dataclass(frozen=True, slots=True)
class Outside:
    """A file elsewhere, requested without credentials.

    :param by_label_studio: True if Label Studio redirected here; then any public host is allowed.
    """

    url: httpx.URL
    by_label_studio: bool = False


@dataclass(frozen=True, slots=True)
class Inline:
    """A `data:` URI."""

    uri: str


class Addresses:
    """Finds the file that an address names.

    The names of Label Studio only decide if a path is requested at LABEL_STUDIO_URL. Nothing is ever sent to a name, so
    a forged one gains nothing.

    :param base: LABEL_STUDIO_URL, if it is set.
    :param names: other names of the same Label Studio: `host`, `host:port` or URLs.
    """

    def __init__(self, base: httpx.URL | None, names: Iterable[str] = ()) -> None:
        self._base = base
        self._names = {} if base is None else {_Name.of(base): base.path.rstrip('/')}
        for name in names:
            url = httpx.URL(name if '://' in name else f'http://{name}')
            self._names.setdefault(_Name.of(url), url.path.rstrip('/'))
        self._learnt: OrderedDict[_Name, str] = OrderedDict()

    def learn(self, hostname: object) -> None:
        """Remember the URL that Label Studio states as its own, unverified; only the latest ones are kept."""
        if not isinstance(hostname, str) or len(hostname) > 300:
            return
        try:
            url = _parse(hostname.strip())
        except MediaFault:
            return
        self._learnt[_Name.of(url)] = url.path.rstrip('/')
        self._learnt.move_to_end(_Name.of(url))
        if len(self._learnt) > _MAX_LEARNT_NAMES:
            self._learnt.popitem(last=False)

    def place(self, address: object, task_id: int | None) -> Inside | Outside | Inline:
        """Return the file that an address in a task's data names.

        :raises MediaFault: the kind of address is not accepted, or its path leaves the media folders.
        """
        if not isinstance(address, str) or not address.strip():
            raise MediaFault('the task has no address of an image')
        address = address.strip()
        if _SURROGATE.search(address):
            raise MediaFault('the address of the image has unpaired surrogates')
        scheme = address.partition(':')[0].lower()
        if scheme == 'data':
            return Inline(address)
        if len(address) > _MAX_CHARACTERS or _CONTROL.search(address):
            raise MediaFault(f'{shown(address)}: too long, or contains control characters')
        if scheme in ('http', 'https'):
            return self._located(address, _parse(address))
        if scheme in CLOUD_SCHEMES and '://' in address:
            return self._inside(address, _presign(address, task_id))
        if address.startswith('/') and not address.startswith('//'):
            return self._inside(address, self._media(address, ''))
        raise MediaFault(
            f'{shown(address)}: unsupported address; use http(s)://, s3://, gs://, azure-blob://, azure-spi://, '
            '/data/ or data:'
        )

    def redirected(self, place: Inside | Outside, location: str) -> Inside | Outside:
        """Return the target of a redirect; a request that has left Label Studio gets no credentials again.

        :raises MediaFault: the target is not an address, or is a page of Label Studio such as its login.
        """
        if isinstance(place, Outside):
            origin = place.url
        else:
            assert self._base is not None
            origin = self._base.copy_with(raw_path=self._base.raw_path.rstrip(b'/') + place.path.encode('ascii'))
        try:
            target = _parse(str(origin.join(location)))
        except (httpx.InvalidURL, ValueError):
            raise MediaFault(f'{shown(str(origin))} redirects to an invalid address') from None
        if isinstance(place, Outside):
            return Outside(target, place.by_label_studio)
        found = self._located(str(target), target)
        if isinstance(found, Inside):
            return found
        if self._prefix(target) is not None:
            raise MediaFault(
                f'Label Studio redirects {shown(place.path)} to its page {shown(target.path)}: '
                'check LABEL_STUDIO_API_TOKEN'
            )
        return Outside(target, by_label_studio=True)

    def _located(self, address: str, url: httpx.URL) -> Inside | Outside:
        prefix = self._prefix(url)
        media = None if prefix is None else self._media(address, prefix)
        return Outside(url) if media is None else Inside(media)

    def _prefix(self, url: httpx.URL) -> str | None:
        """Return the path of Label Studio under the host of a URL; None if the host is not Label Studio."""
        name = _Name.of(url)
        return self._names.get(name, self._learnt.get(name)) if self._base is not None else None

    def _inside(self, address: str, path: str | None) -> Inside:
        if path is None:
            raise MediaFault(
                f'{shown(address)}: in Label Studio, images lie below /data/ or /storage-data/, or at …/presign/'
            )
        if self._base is None:
            raise MediaFault(
                f'{shown(address)} is stored in Label Studio; to let the node fetch it, set LABEL_STUDIO_URL and '
                'LABEL_STUDIO_API_TOKEN'
            )
        return Inside(path)

    def _media(self, address: str, prefix: str) -> str | None:
        """Return path and query of a file in Label Studio, percent-encoded once; None if the path is not a media path.

        :param prefix: path of Label Studio under the host of the address; the path of LABEL_STUDIO_URL is accepted as
            well.
        :raises MediaFault: a server could read the path differently.
        """
        parts = _PARTS.match(address)
        assert parts is not None
        path, query = parts['path'], parts['query'] or ''
        if _is_ambiguous(path, query):
            raise MediaFault(f'{shown(address)}: the path leaves the media folders')
        for start in (prefix, '' if self._base is None else self._base.path.rstrip('/')):
            if start and path.startswith(f'{start}/'):
                path = path.removeprefix(start)
                break
        path = unquote(path)
        if not _MEDIA.fullmatch(path):
            return None
        path = quote(path, safe="/:@!$&'()*+,;=~")
        return f'{path}?{quote(query, safe="%/?:@!$&()*+,;=~")}' if query else path


def base_url(text: str) -> httpx.URL | None:
    """Return the URL of a server; None if it has another scheme than http(s), a user name, a query or a fragment."""
    try:
        url = httpx.URL(text)
    except httpx.InvalidURL:
        return None
    is_plain = not (url.userinfo or url.query or url.fragment)
    return url if url.scheme in ('http', 'https') and url.raw_host and is_plain else None


def shown(address: str) -> str:
    """Return a short form of an address for messages, without user name, password or query.

    A query parameter that names the file of a Label Studio address is kept.
    """
    path, _, query = address.partition('#')[0].partition('?')
    path = re.sub(r'^([^/]*//)?[^/]*@', r'\1', path)
    file = re.search(r'(^|&)((d|filepath)=[^&]*)', query) if path.endswith(_FILE_PATHS) else None
    text = _CONTROL.sub('�', f'{path}?{file[2]}' if file else path)
    return text if len(text) <= _MAX_SHOWN else f'{text[: _MAX_SHOWN - 30]}…{text[-29:]}'


class _Name(NamedTuple):
    """Host and port; the default ports of http and https are equal, since either scheme may be used."""

    host: bytes
    port: int | None

    @classmethod
    def of(cls, url: httpx.URL) -> '_Name':
        return cls(url.raw_host.rstrip(b'.'), None if url.port in (80, 443) else url.port)


def _parse(text: str) -> httpx.URL:
    try:
        url = httpx.URL(text)
    except (httpx.InvalidURL, ValueError):
        url = httpx.URL()
    usable = url.scheme in ('http', 'https') and _HOST.fullmatch(url.raw_host)
    if not usable or (url.port is not None and not 0 < url.port < 65536):
        raise MediaFault(f'{text.partition("/")[0][:_MAX_SHOWN]}//…: this address is invalid')
    if url.userinfo:
        raise MediaFault(f'{shown(text)}: addresses with a user name or password are refused')
    return url


def _presign(address: str, task_id: int | None) -> str:
    """Return the path at which Label Studio serves a file of its cloud storages."""
    if type(task_id) is not int:
        raise MediaFault(f'{shown(address)}: a file of a cloud storage needs the id of its task')
    return f'/tasks/{task_id}/presign/?fileuri={base64.urlsafe_b64encode(address.encode()).decode()}'


def _is_ambiguous(path: str, query: str) -> bool:
    """Return True if a server could read another path: dot segments and slashes under any number of encodings."""
    slashes = path.count('/')
    for _ in range(_MAX_LAYERS):
        if (
            path.count('/') != slashes
            or '//' in path
            or '\\' in path
            or _CONTROL.search(path + query)
            or any(segment.partition(';')[0] in ('.', '..') for segment in path.split('/'))
            or _CLIMBS.search(query)
        ):
            return True
        try:
            decoded = unquote(path, errors='strict'), unquote(query, errors='strict')
        except UnicodeDecodeError:
            return True
        if decoded == (path, query):
            return False
        path, query = decoded
    return True
