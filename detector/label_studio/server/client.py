"""Label Studio's HTTP API: with the token of the settings, at the address of the settings and nowhere else."""

import asyncio
import json
from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager
from http.cookiejar import CookieJar, DefaultCookiePolicy
from typing import Any, Final, Self

import httpx

from detector.errors import InvalidRequest, InvalidSettings, LabelStudioFault, NotInLabelStudio
from detector.settings import Settings

from .credentials import credentials_of
from .network import read_at_most, text_of

_ATTEMPTS: Final = 3
_PAUSE_SECONDS: Final = 0.3
_UNSENT: Final = (httpx.ConnectError, httpx.ConnectTimeout)
_PASSING: Final = (httpx.NetworkError, httpx.ConnectTimeout, httpx.RemoteProtocolError)
_PASSING_STATUSES: Final = (502, 503, 504)
_REPEATABLE: Final = ('GET', 'PATCH', 'DELETE')
"""Requests that do no more when they arrive twice."""
_MAX_WORDS: Final = 400
"""Characters of what Label Studio says about a request that it refuses."""
_MAX_REASON_BYTES: Final = 64 * 1024
_COMMAND_SECONDS: Final = 300
"""Large imports keep Label Studio busy."""
_MAX_JSON_BYTES: Final = 256 * 1024**2
_EXCHANGE: Final = '/api/token/refresh/'


class Connection:
    """A client of one Label Studio.

    Redirects are not followed, cookies not kept. The proxies of the environment are used, as it is the operator who
    names both.

    :param url: where Label Studio is, with a path if it has one: `https://host/ls`.
    :param token: legacy token or personal access token.
    :param seconds: that an answer with all its retries may take.
    :param connect_seconds: that a connection may take.
    :raises InvalidSettings: the address or the token cannot be used.
    """

    def __init__(self, url: str, token: str | None, *, seconds: float = 30, connect_seconds: float = 5) -> None:
        self.url = _checked(url)
        self._seconds = seconds
        self._credentials = credentials_of(token, self._exchange)
        self._client = httpx.AsyncClient(
            timeout=httpx.Timeout(seconds, connect=connect_seconds),
            limits=httpx.Limits(max_connections=32),
            headers={'Accept-Encoding': 'identity', 'User-Agent': 'wholebody'},
            cookies=CookieJar(DefaultCookiePolicy(allowed_domains=[])),
            follow_redirects=False,
        )

    @classmethod
    def of(cls, settings: Settings, *, seconds: float = 30) -> Self | None:
        """The connection that the settings describe; None if LABEL_STUDIO_URL is unset.

        :param seconds: that an answer with all its retries may take.
        :raises InvalidSettings: the address or the token cannot be used.
        """
        token = settings.label_studio_api_token
        if settings.label_studio_url is None:
            return None
        return cls(settings.label_studio_url, None if token is None else token.get_secret_value(), seconds=seconds)

    @property
    def prefix(self) -> str:
        """Path below which Label Studio lies on its host, without a slash at the end; usually empty."""
        return self.url.path.rstrip('/')

    async def annotation(self, annotation_id: int) -> dict[str, Any]:
        """An annotation with its result; it names its task.

        :raises LabelStudioFault: see `get_json`.
        """
        return await self.request_object('GET', f'/api/annotations/{annotation_id}/')

    async def task(self, task_id: int) -> dict[str, Any]:
        """A task with data and annotations; Label Studio may ask its backend, us, for a prediction before it answers.

        :raises LabelStudioFault: see `get_json`.
        """
        return await self.request_object('GET', f'/api/tasks/{task_id}/')

    async def project(self, project_id: int) -> dict[str, Any]:
        """A project with its labeling config.

        :raises LabelStudioFault: see `get_json`.
        """
        return await self.request_object('GET', f'/api/projects/{project_id}/')

    async def get_json(self, path: str, **params: str | int) -> Any:
        """Ask a question.

        :param path: below the address of Label Studio, `/api/…`.
        :raises NotInLabelStudio: there is nothing.
        :raises LabelStudioFault: no answer in time, no permission, or no JSON.
        """
        return await self.request('GET', path, params=params)

    async def request(
        self, method: str, path: str, *, params: Mapping[str, str | int] | None = None, **content: Any
    ) -> Any:
        """Ask for something, or change it; what may be done twice without harm is tried again if it fails.

        :param path: below the address of Label Studio, `/api/…`.
        :param content: httpx's `json` or `files`.
        :return: the JSON of the answer, None if it is empty.
        :raises NotInLabelStudio: there is nothing.
        :raises InvalidRequest: Label Studio finds fault with what was sent (400).
        :raises LabelStudioFault: no answer in time, no permission, or no JSON.
        """
        query = f'?{httpx.QueryParams(dict(params))}' if params else ''
        try:
            async with asyncio.timeout(self._seconds), self.stream(path + query, method, **content) as response:
                return await self._json(response, path)
        except TimeoutError:
            raise LabelStudioFault(f'{self.url} takes longer than {self._seconds} s to answer {path}') from None

    @asynccontextmanager
    async def stream(self, path: str, method: str = 'GET', **content: Any) -> AsyncIterator[httpx.Response]:
        """Ask for something, with credentials; connections that fail are tried again.

        :param path: below the address of Label Studio, percent-encoded, with query. Whoever takes it from a stranger
            has to make sure that it names nothing but an image (see `addresses`).
        :param content: httpx's `json` or `files`.
        :return: the answer, whatever its status except 401 and 403, its body yet to be read; redirects are not
            followed.
        :raises LabelStudioFault: no answer, or the token is refused.
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
                    f'Label Studio answers {response.status_code}{await _reason(response)}: may the user of '
                    'LABEL_STUDIO_API_TOKEN see this?'
                )
            yield response
        except httpx.HTTPError as error:
            raise LabelStudioFault(f'{self.url}: the transfer broke off: {text_of(error)}') from None
        finally:
            await response.aclose()

    async def close(self) -> None:
        await self._client.aclose()

    async def _send(self, method: str, path: str, **request: Any) -> httpx.Response:
        """Send a request; if it may be repeated, until there is an answer that is not of a proxy alone.

        Others are repeated only where no connection came about.
        """
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
                    raise self._silence(error) from None
            except httpx.HTTPError as error:
                raise self._silence(error) from None
            await asyncio.sleep(_PAUSE_SECONDS * attempt)
        raise AssertionError('unreachable')

    def _silence(self, error: httpx.HTTPError) -> LabelStudioFault:
        return LabelStudioFault(f'LABEL_STUDIO_URL={self.url} does not answer: {text_of(error)}')

    async def _exchange(self, token: str) -> tuple[int, Any]:
        """Trade a personal access token for an access token."""
        response = await self._send('POST', _EXCHANGE, json={'refresh': token})
        try:
            body = await read_at_most(response, _MAX_JSON_BYTES)
            return response.status_code, json.loads(body or b'')
        except ValueError:
            return response.status_code, None
        except httpx.HTTPError as error:
            raise self._silence(error) from None
        finally:
            await response.aclose()

    async def request_object(self, method: str, path: str, **options: Any) -> dict[str, Any]:
        """Send a request whose answer must be a JSON object; see `request`."""
        answer = await self.request(method, path, **options)
        if not isinstance(answer, dict):
            raise LabelStudioFault(f'{self.url} answers {path} with something that is no JSON object')
        return answer

    async def _json(self, response: httpx.Response, path: str) -> Any:
        status = response.status_code
        if status == httpx.codes.NOT_FOUND and 'json' in response.headers.get('Content-Type', ''):
            raise NotInLabelStudio(f'Label Studio has no {path} (404), or not for the user of LABEL_STUDIO_API_TOKEN')
        if response.has_redirect_location:
            target = response.headers['Location'].partition('?')[0]
            raise LabelStudioFault(f'{self.url} redirects {path} to {target}: is LABEL_STUDIO_URL its real address?')
        if status == httpx.codes.BAD_REQUEST and 'json' in response.headers.get('Content-Type', ''):
            raise InvalidRequest(f'Label Studio refuses {path}: {_words(await response.aread())}')
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
                f'{self.url} answers {path} with no JSON: is LABEL_STUDIO_URL Label Studio?'
            ) from None


@asynccontextmanager
async def connected(settings: Settings) -> AsyncIterator[Connection]:
    """A connection for a command, which may take longer than a webhook's.

    :raises InvalidSettings: LABEL_STUDIO_URL is unset, or it or the token cannot be used.
    """
    connection = Connection.of(settings, seconds=_COMMAND_SECONDS)
    if connection is None:
        raise InvalidSettings('LABEL_STUDIO_URL: set the address of Label Studio, e.g. http://localhost:8080')
    try:
        yield connection
    finally:
        await connection.close()


async def _reason(response: httpx.Response) -> str:
    """What Label Studio says beside the status, in brackets; nothing where it says nothing, or a page."""
    body = await read_at_most(response, _MAX_REASON_BYTES)
    words = _words(body).strip() if body else ''
    return f' ({words})' if words and words[0] not in '<{[' else ''


def _words(body: bytes) -> str:
    """What Label Studio says is wrong with a request."""
    try:
        answer = json.loads(body)
        words = answer.get('validation_errors') or answer.get('detail') or answer
        text = words if isinstance(words, str) else json.dumps(words, ensure_ascii=False)
    except (ValueError, AttributeError):
        text = body.decode(errors='replace')
    return text if len(text) <= _MAX_WORDS else f'{text[:_MAX_WORDS]}…'


def _checked(text: str) -> httpx.URL:
    try:
        url = httpx.URL(text.strip())
    except httpx.InvalidURL:
        url = httpx.URL()
    if url.scheme not in ('http', 'https') or not url.raw_host or url.userinfo or url.query or url.fragment:
        raise InvalidSettings(
            'LABEL_STUDIO_URL: give an address like http://localhost:8080, without user name and query'
        )
    return url.copy_with(path=url.path.rstrip('/') or '/')
