"""Label Studio's HTTP API: with the token of the settings, at the address of the settings and nowhere else."""

import asyncio
import json
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from http.cookiejar import CookieJar, DefaultCookiePolicy
from typing import Any, Final, Self

import httpx

from ..errors import InvalidSettings, LabelStudioFault, NotInLabelStudio
from ..settings import Settings
from .credentials import credentials_of
from .network import read_at_most, text_of

_ATTEMPTS: Final = 3
_PAUSE_SECONDS: Final = 0.3
_PASSING: Final = (httpx.NetworkError, httpx.ConnectTimeout, httpx.RemoteProtocolError)
_PASSING_STATUSES: Final = (502, 503, 504)
_MAX_JSON_BYTES: Final = 64 * 1024**2


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
    def of(cls, settings: Settings) -> Self | None:
        """The connection that the settings describe; None if LABEL_STUDIO_URL is unset.

        :raises InvalidSettings: the address or the token cannot be used.
        """
        token = settings.label_studio_api_token
        if settings.label_studio_url is None:
            return None
        return cls(settings.label_studio_url, None if token is None else token.get_secret_value())

    async def annotation(self, annotation_id: int) -> dict[str, Any]:
        """An annotation with its result; it names its task.

        :raises LabelStudioFault: see `get_json`.
        """
        return await self._object(f'/api/annotations/{annotation_id}/')

    async def task(self, task_id: int) -> dict[str, Any]:
        """A task with data and annotations; Label Studio may ask its backend, us, for a prediction before it answers.

        :raises LabelStudioFault: see `get_json`.
        """
        return await self._object(f'/api/tasks/{task_id}/')

    async def project(self, project_id: int) -> dict[str, Any]:
        """A project with its labeling config.

        :raises LabelStudioFault: see `get_json`.
        """
        return await self._object(f'/api/projects/{project_id}/')

    async def get_json(self, path: str, **params: str | int) -> Any:
        """Ask a question.

        :param path: below the address of Label Studio, `/api/…`.
        :raises NotInLabelStudio: there is nothing.
        :raises LabelStudioFault: no answer in time, no permission, or no JSON.
        """
        query = f'?{httpx.QueryParams(params)}' if params else ''
        try:
            async with asyncio.timeout(self._seconds), self.stream(path + query) as response:
                return await self._json(response, path)
        except TimeoutError:
            raise LabelStudioFault(f'{self.url} takes longer than {self._seconds} s to answer {path}') from None

    @asynccontextmanager
    async def stream(self, path: str) -> AsyncIterator[httpx.Response]:
        """Ask for something, with credentials; connections that fail are tried again.

        :param path: below the address of Label Studio, percent-encoded, with query. Whoever takes it from a stranger
            has to make sure that it names nothing but an image (see `addresses`).
        :return: the answer, whatever its status except 401 and 403, its body yet to be read; redirects are not
            followed.
        :raises LabelStudioFault: no answer, or the token is refused.
        """
        authorization = await self._credentials.authorization()
        response = await self._send('GET', path, headers={'Authorization': authorization})
        try:
            if response.status_code == httpx.codes.UNAUTHORIZED:
                await response.aclose()
                authorization = await self._credentials.authorization(refused=authorization)
                response = await self._send('GET', path, headers={'Authorization': authorization})
            if response.status_code in (httpx.codes.UNAUTHORIZED, httpx.codes.FORBIDDEN):
                raise LabelStudioFault(
                    f'Label Studio answers {response.status_code}: may the user of LABEL_STUDIO_API_TOKEN see this?'
                )
            yield response
        except httpx.HTTPError as error:
            raise LabelStudioFault(f'{self.url}: the transfer broke off: {text_of(error)}') from None
        finally:
            await response.aclose()

    async def close(self) -> None:
        await self._client.aclose()

    async def _send(self, method: str, path: str, **request: Any) -> httpx.Response:
        """Send a request that may be repeated, until there is an answer that is not of a proxy alone."""
        url = self.url.copy_with(raw_path=self.url.raw_path.rstrip(b'/') + path.encode('ascii'))
        for attempt in range(1, _ATTEMPTS + 1):
            try:
                response = await self._client.send(self._client.build_request(method, url, **request), stream=True)
                if response.status_code not in _PASSING_STATUSES or attempt == _ATTEMPTS:
                    return response
                await response.aclose()
            except _PASSING as error:
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
        response = await self._send('POST', '/api/token/refresh/', json={'refresh': token})
        try:
            body = await read_at_most(response, _MAX_JSON_BYTES)
            return response.status_code, json.loads(body or b'')
        except ValueError:
            return response.status_code, None
        except httpx.HTTPError as error:
            raise self._silence(error) from None
        finally:
            await response.aclose()

    async def _object(self, path: str) -> dict[str, Any]:
        answer = await self.get_json(path)
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
        if status != httpx.codes.OK:
            raise LabelStudioFault(f'{self.url} answers {status} to {path}: is LABEL_STUDIO_URL its address?')
        body = await read_at_most(response, _MAX_JSON_BYTES)
        if body is None:
            raise LabelStudioFault(f'{self.url} answers {path} with more than {_MAX_JSON_BYTES} bytes')
        try:
            return json.loads(body)
        except ValueError:
            raise LabelStudioFault(
                f'{self.url} answers {path} with no JSON: is LABEL_STUDIO_URL Label Studio?'
            ) from None


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
