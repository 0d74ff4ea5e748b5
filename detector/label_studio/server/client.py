"""Label Studio's HTTP API, with the token and at the address of the settings only."""

import asyncio
import json
from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager
from http.cookiejar import CookieJar, DefaultCookiePolicy
from typing import Any, Final, Self

import httpx

from detector.errors import InvalidRequest, InvalidSettings, LabelStudioFault, NotInLabelStudio, text_of
from detector.settings import Settings
from detector.system.proxies import AsyncProxyTransport, proxy_of

from .addresses import base_url
from .credentials import Credentials
from .network import read_at_most

_ATTEMPTS: Final = 3
_PAUSE_SECONDS: Final = 0.3
_CONNECT_SECONDS: Final = 5
_UNSENT: Final = (httpx.ConnectError, httpx.ConnectTimeout)
_PASSING: Final = (httpx.NetworkError, httpx.ConnectTimeout, httpx.RemoteProtocolError)
_PASSING_STATUSES: Final = (502, 503, 504)
_REPEATABLE: Final = ('GET', 'PATCH', 'DELETE')
"""Methods whose requests may safely be repeated."""
_MAX_WORDS: Final = 400
"""Maximum length of a complaint of Label Studio in error messages, in characters."""
_MAX_REASON_BYTES: Final = 64 * 1024
_COMMAND_SECONDS: Final = 300
"""Time limit for requests of commands, in seconds; large imports keep Label Studio busy."""
_MAX_JSON_BYTES: Final = 256 * 1024**2
_EXCHANGE: Final = '/api/token/refresh/'


class Connection:
    """A client of one Label Studio.

    It does not follow redirects and keeps no cookies. It uses the proxies of the environment, since the operator
    configures both them and the address.

    :param url: address of Label Studio, with a path if it has one: `https://host/ls`.
    :param token: legacy token or personal access token.
    :param seconds: time limit for an answer, retries included.
    :raises InvalidSettings: the address, the token or the proxy is invalid.
    """

    def __init__(self, url: str, token: str | None, *, seconds: float = 30) -> None:
        base = base_url(url.strip())
        if base is None:
            raise InvalidSettings(
                'LABEL_STUDIO_URL: give an address like http://localhost:8080, without user name and query'
            )
        self.url = base.copy_with(path=base.path.rstrip('/') or '/')
        proxy_of(self.url)  # raises at the start, not at the first request
        self._seconds = seconds
        self._credentials = Credentials(token, self._exchange)
        self._client = httpx.AsyncClient(
            timeout=httpx.Timeout(seconds, connect=_CONNECT_SECONDS),
            transport=AsyncProxyTransport(limits=httpx.Limits(max_connections=32)),
            headers={'Accept-Encoding': 'identity', 'User-Agent': 'wholebody'},
            cookies=CookieJar(DefaultCookiePolicy(allowed_domains=[])),
            follow_redirects=False,
        )

    @classmethod
    def of(cls, settings: Settings, *, seconds: float = 30) -> Self | None:
        """Return the connection that the settings describe; None if LABEL_STUDIO_URL is unset.

        :param seconds: time limit for an answer, retries included.
        :raises InvalidSettings: the address or the token is invalid.
        """
        token = settings.label_studio_api_token
        if settings.label_studio_url is None:
            return None
        return cls(settings.label_studio_url, None if token is None else token.get_secret_value(), seconds=seconds)

    @property
    def prefix(self) -> str:
        """Path of Label Studio on its host, without a slash at the end; usually empty."""
        return self.url.path.rstrip('/')

    async def annotation(self, annotation_id: int) -> dict[str, Any]:
        """Return an annotation with its result and the id of its task; see `request`."""
        return await self.request_object('GET', f'/api/annotations/{annotation_id}/')

    async def task(self, task_id: int) -> dict[str, Any]:
        """Return a task with its data; Label Studio may request a prediction from its backend first. See `request`."""
        return await self.request_object('GET', f'/api/tasks/{task_id}/')

    async def project(self, project_id: int) -> dict[str, Any]:
        """Return a project with its labeling config; see `request`."""
        return await self.request_object('GET', f'/api/projects/{project_id}/')

    async def get_json(self, path: str, **params: str | int) -> Any:
        """Send a GET request; see `request`."""
        return await self.request('GET', path, params=params)

    async def request(
        self, method: str, path: str, *, params: Mapping[str, str | int] | None = None, **content: Any
    ) -> Any:
        """Send a request; requests that may be repeated are tried again if they fail.

        :param path: path below the address of Label Studio, `/api/…`.
        :param content: httpx's `json` or `files`.
        :return: the JSON of the answer; None if it is empty.
        :raises NotInLabelStudio: the object does not exist (404).
        :raises InvalidRequest: Label Studio rejects the content (400).
        :raises LabelStudioFault: no answer in time, no permission, or the answer is not JSON.
        """
        query = f'?{httpx.QueryParams(dict(params))}' if params else ''
        try:
            async with asyncio.timeout(self._seconds), self.stream(path + query, method, **content) as response:
                return await self._json(response, path)
        except TimeoutError:
            raise LabelStudioFault(f'{self.url} takes longer than {self._seconds} s to answer {path}') from None

    @asynccontextmanager
    async def stream(self, path: str, method: str = 'GET', **content: Any) -> AsyncIterator[httpx.Response]:
        """Send a request with credentials; failed connections are tried again.

        :param path: path below the address of Label Studio, percent-encoded, with query. The caller must make sure that
            an untrusted path names an image (see `addresses`).
        :param content: httpx's `json` or `files`.
        :return: the answer with any status except 401 and 403, its body unread; redirects are not followed.
        :raises LabelStudioFault: no answer, or Label Studio refuses the token.
        """
        authorization = await self._credentials.authorization()
        response = await self._send(method, path, headers={'Authorization': authorization}, **content)
        try:
            if response.status_code == httpx.codes.UNAUTHORIZED:
                await response.aclose()
                authorization = await self._credentials.authorization(refused=authorization)
                response = await self._send(method, path, headers={'Authorization': authorization}, **content)
            if response.status_code in (httpx.codes.UNAUTHORIZED, httpx.codes.FORBIDDEN):
                raise LabelStudioFault(
                    f'Label Studio answers {response.status_code}{await _reason(response)}: has the user of '
                    'LABEL_STUDIO_API_TOKEN permission for this?'
                )
            yield response
        except httpx.HTTPError as error:
            raise LabelStudioFault(f'{self.url}: the transfer broke off: {text_of(error)}') from None
        finally:
            await response.aclose()

    async def close(self) -> None:
        await self._client.aclose()

    async def _send(self, method: str, path: str, **request: Any) -> httpx.Response:
        """Retry a request until its answer is not a proxy's error; if it may not be repeated, until it is connected."""
        may_repeat = method in _REPEATABLE or path == _EXCHANGE
        passing = _PASSING if may_repeat else _UNSENT
        url = self.url.copy_with(raw_path=self.url.raw_path.rstrip(b'/') + path.encode('ascii'))
        for attempt in range(1, _ATTEMPTS + 1):
            try:
                response = await self._client.send(self._client.build_request(method, url, **request), stream=True)
                if response.status_code not in _PASSING_STATUSES or attempt == _ATTEMPTS or not may_repeat:
                    return response
                await response.aclose()
            except passing as error:
                if attempt == _ATTEMPTS:
                    raise self._no_answer(error) from None
            except httpx.HTTPError as error:
                raise self._no_answer(error) from None
            await asyncio.sleep(_PAUSE_SECONDS * attempt)
        raise AssertionError('unreachable')

    def _no_answer(self, error: httpx.HTTPError) -> LabelStudioFault:
        return LabelStudioFault(f'LABEL_STUDIO_URL={self.url} does not answer: {text_of(error)}')

    async def _exchange(self, token: str) -> tuple[int, Any]:
        response = await self._send('POST', _EXCHANGE, json={'refresh': token})
        try:
            body = await read_at_most(response, _MAX_JSON_BYTES)
            return response.status_code, json.loads(body or b'')
        except ValueError:
            return response.status_code, None
        except httpx.HTTPError as error:
            raise self._no_answer(error) from None
        finally:
            await response.aclose()

    async def request_object(self, method: str, path: str, **options: Any) -> dict[str, Any]:
        """Send a request whose answer must be a JSON object; see `request`."""
        answer = await self.request(method, path, **options)
        if not isinstance(answer, dict):
            raise LabelStudioFault(f'{self.url} answers {path} with something that is not a JSON object')
        return answer

    async def _json(self, response: httpx.Response, path: str) -> Any:
        status = response.status_code
        if status == httpx.codes.NOT_FOUND and 'json' in response.headers.get('Content-Type', ''):
            raise NotInLabelStudio(f'Label Studio has no {path} (404), or not for the user of LABEL_STUDIO_API_TOKEN')
        if response.has_redirect_location:
            target = response.headers['Location'].partition('?')[0]
            raise LabelStudioFault(f'{self.url} redirects {path} to {target}: is LABEL_STUDIO_URL its real address?')
        if status == httpx.codes.BAD_REQUEST and 'json' in response.headers.get('Content-Type', ''):
            raise InvalidRequest(f'Label Studio refuses {path}: {_complaint(await response.aread())}')
        if not response.is_success:
            raise LabelStudioFault(f'{self.url} answers {status} to {path}: is LABEL_STUDIO_URL its address?')
        body = await read_at_most(response, _MAX_JSON_BYTES)
        if body is None:
            raise LabelStudioFault(f'{self.url} answers {path} with more than {_MAX_JSON_BYTES} bytes')
        if not body:
            return None
        try:
            return json.loads(body)
        except ValueError:
            raise LabelStudioFault(
                f'{self.url} does not answer {path} with JSON: is LABEL_STUDIO_URL the address of Label Studio?'
            ) from None


@asynccontextmanager
async def connected(settings: Settings) -> AsyncIterator[Connection]:
    """Open the connection of a command, with a longer time limit than that of webhooks.

    :raises InvalidSettings: LABEL_STUDIO_URL is unset, or it or the token is invalid.
    """
    connection = Connection.of(settings, seconds=_COMMAND_SECONDS)
    if connection is None:
        raise InvalidSettings('LABEL_STUDIO_URL: set the address of Label Studio, e.g. http://localhost:8080')
    try:
        yield connection
    finally:
        await connection.close()


async def _reason(response: httpx.Response) -> str:
    """Return the reason in the body in brackets; empty if the body holds no plain text."""
    body = await read_at_most(response, _MAX_REASON_BYTES)
    words = _complaint(body).strip() if body else ''
    return f' ({words})' if words and words[0] not in '<{[' else ''


def _complaint(body: bytes) -> str:
    try:
        answer = json.loads(body)
        words = answer.get('validation_errors') or answer.get('detail') or answer
        text = words if isinstance(words, str) else json.dumps(words, ensure_ascii=False)
    except (ValueError, AttributeError):
        text = body.decode(errors='replace')
    return text if len(text) <= _MAX_WORDS else f'{text[:_MAX_WORDS]}…'
