"""A client for the /mock paths of a running mock Learning Loop, used by its commands and by tests."""

import json
from pathlib import Path
from types import TracebackType
from typing import Any, Self

import httpx

from detector.system.proxies import ProxyTransport

from .defaults import DEFAULT_URL, ORGANIZATION, PROJECT


class LoopRefusal(Exception):
    """The mock answers with an error, or does not answer."""


class LoopClient:
    """Talks to one project of a mock Learning Loop.

    Every method raises `LoopRefusal` if the mock cannot be reached or refuses the request.

    :param http: the HTTP client that is used; relative addresses are those of the mock.
    """

    def __init__(
        self, url: str = DEFAULT_URL, *, organization: str = ORGANIZATION, project: str = PROJECT, timeout: float = 60
    ) -> None:
        self.url = url.rstrip('/')
        self.organization = organization
        self.project = project
        self.http = httpx.Client(transport=ProxyTransport(), base_url=self.url, timeout=timeout)
        self._prefix = f'/mock/projects/{organization}/{project}'

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self.http.close()

    @property
    def api(self) -> str:
        """Path of the project in the Loop's own interface."""
        return f'/api/{self.organization}/projects/{self.project}'

    def upload_package(
        self,
        path: Path,
        version: str | None = None,
        *,
        model_format: str | None = None,
        rewrite: bool = True,
        duplicate: bool = False,
    ) -> str:
        """Store a package as a new model.

        :param version: version of the model; by default the next minor version.
        :param rewrite: True to write the Loop's id, version and names into its model.json; False to store any bytes.
        :param duplicate: True to allow a version that exists already.
        :return: the id of the model.
        """
        fields = {'version': version, 'model_format': model_format, 'rewrite': rewrite, 'duplicate': duplicate}
        data = {name: str(value) for name, value in fields.items() if value is not None}
        with path.open('rb') as file:
            return str(self._call('POST', f'{self._prefix}/models', data=data, files={'file': file})['id'])

    def models(self) -> list[dict[str, Any]]:
        """Return the models, oldest first: id, version, formats, files (sha256, size), target …"""
        return self._listed(f'{self._prefix}/models', 'models')

    def delete_model(self, model_id: str) -> None:
        self._call('DELETE', f'{self._prefix}/models/{model_id}')

    def target(self) -> dict[str, Any]:
        """Return `model_uuid` and `version` of the deployment target, or `raw`."""
        return self._call('GET', f'{self._prefix}/target')

    def set_target(self, version: str | None = None, *, model_uuid: str | None = None) -> None:
        """Set the deployment target, by version or id."""
        given = {'version': version, 'model_uuid': model_uuid}
        body = {name: value for name, value in given.items() if value is not None}
        self._call('PUT', f'{self._prefix}/target', json=body)

    def set_raw_target(self, body: Any) -> None:
        """Serve any JSON as the deployment target."""
        headers = {'Content-Type': 'application/json'}
        self._call('PUT', f'{self._prefix}/target/raw', content=json.dumps(body), headers=headers)

    def images(self, tag: str | None = None, *, limit: int = 100_000, metadata: bool = True) -> list[dict[str, Any]]:
        """Return the received images in the order of arrival: id, name, tags, source, boxes, points, …, metadata."""
        parameters = {'limit': limit, 'metadata': metadata} | ({'tag': tag} if tag is not None else {})
        return self._listed(f'{self._prefix}/images', 'images', parameters)

    def jpeg(self, image_id: str, *, skeletons: bool = False) -> bytes:
        """Return an image as it was received, or with its skeletons drawn over it."""
        name = 'skeletons' if skeletons else 'jpeg'
        return self._request('GET', f'{self._prefix}/images/{image_id}/{name}').content

    def delete_images(self) -> None:
        self._call('DELETE', f'{self._prefix}/images')

    def detectors(self) -> dict[str, dict[str, Any]]:
        """Return the latest status report of each detector by its uuid."""
        found: dict[str, dict[str, Any]] = self._call('GET', f'{self._prefix}/detectors')['detectors']
        return found

    def reports(self, uuid: str) -> list[dict[str, Any]]:
        """Return the latest 100 status reports of a detector, oldest first."""
        return self._listed(f'{self._prefix}/detectors/{uuid}', 'reports')

    def requests(self, endpoint: str | None = None, *, after: int = 0) -> list[dict[str, Any]]:
        """Return the latest requests to /api: number, time, endpoint, method, path, range, status."""
        parameters: dict[str, Any] = {'after': after} | ({'endpoint': endpoint} if endpoint else {})
        return self._listed('/mock/requests', 'requests', parameters)

    def fault(self, endpoint: str, kind: str, **parameters: Any) -> int:
        """Order a fault.

        :param parameters: see `faults.Fault`.
        :return: the id of the fault.
        """
        return int(self._call('POST', '/mock/faults', json={'endpoint': endpoint, 'kind': kind} | parameters)['id'])

    def faults(self) -> list[dict[str, Any]]:
        """Return all faults, with `fired` and `active`."""
        return self._listed('/mock/faults', 'faults')

    def fired(self, fault_id: int) -> int:
        """Return how many requests a fault has affected."""
        return next(int(fault['fired']) for fault in self.faults() if fault['id'] == fault_id)

    def delete_fault(self, fault_id: int) -> None:
        self._call('DELETE', f'/mock/faults/{fault_id}')

    def clear_faults(self) -> None:
        self._call('DELETE', '/mock/faults')

    def expire_sessions(self) -> None:
        """Invalidate all logins."""
        self._call('DELETE', '/mock/sessions')

    def reset(self) -> None:
        """Delete everything and seed again."""
        self._call('POST', '/mock/reset')

    def login(self, username: str = '', password: str = '') -> httpx.Response:
        """Log `http` in, so that it may use the Loop's own paths."""
        return self.http.post('/api/login', data={'username': username, 'password': password})

    def _listed(self, path: str, name: str, parameters: dict[str, Any] | None = None) -> list[dict[str, Any]]:
        found: list[dict[str, Any]] = self._call('GET', path, params=parameters)[name]
        return found

    def _call(self, method: str, path: str, **options: Any) -> dict[str, Any]:
        answer: dict[str, Any] = self._request(method, path, **options).json()
        return answer

    def _request(self, method: str, path: str, **options: Any) -> httpx.Response:
        try:
            response = self.http.request(method, path, **options)
        except httpx.TransportError as error:
            raise LoopRefusal(f'no mock Learning Loop answers at {self.url}: {error}') from error
        if not response.is_success:
            raise LoopRefusal(_detail(response))
        return response


def _detail(response: httpx.Response) -> str:
    try:
        detail = response.json()['detail']
    except (ValueError, KeyError, TypeError):
        return f'{response.status_code} {response.reason_phrase} from {response.url}'
    if isinstance(detail, list):
        return '; '.join(f'{".".join(map(str, entry["loc"][1:]))}: {entry["msg"]}' for entry in detail)
    return str(detail)
