"""Requests to the Learning Loop, whose answers are validated."""

import asyncio
from contextlib import suppress
from pathlib import Path
from typing import Any, TypeVar

import httpx
from learning_loop_node.loop_communication import LoopCommunicationException, LoopCommunicator
from pydantic import BaseModel, ConfigDict, Field, ValidationError

from detector.errors import InvalidRequest, LoopFault, NoLearningLoop, text_of
from detector.models.package import MODEL_FORMAT, MODEL_JSON, VERSION, unpack_package
from detector.settings import Settings
from detector.system.proxies import AsyncProxyTransport, http_proxy_of
from detector.system.scratch import scratch_folder

from .model_updates import Target
from .tls import ssl_context
from .upstream import apply_settings

TIMEOUT = httpx.Timeout(60, connect=5)
"""Time limits, in seconds. A Loop may need long to pack a model before it sends the first byte."""
QUESTION_SECONDS = 8
"""Time limit for the Loop to answer a short request, in seconds."""


class _Answer(BaseModel):
    model_config = ConfigDict(strict=True)


A = TypeVar('A', bound=_Answer)


class _TargetAnswer(_Answer):
    model_uuid: str = Field(min_length=1, pattern=r'^[A-Za-z0-9._-]+$')
    version: str = Field(pattern=f'^{VERSION.pattern}$')


class _Model(_Answer):
    id: str = Field(min_length=1, pattern=r'^[A-Za-z0-9._-]+$')
    version: str


class _ModelsAnswer(_Answer):
    models: list[_Model]


class Communicator(LoopCommunicator):
    """Upstream's client of the Loop, with the settings of this node; see `detector.loop.upstream`.

    :param url: base address of the Loop.
    :param transport: sends the requests.
    """

    def __init__(self, settings: Settings, url: str, transport: httpx.AsyncBaseTransport) -> None:
        self.base_url = url
        self.host = url.partition('://')[2]
        self.ssl_cert_path = ''
        self.username, self.password = settings.loop_username, settings.loop_password.get_secret_value()
        self.organization, self.project = settings.loop_organization, settings.loop_project
        self.async_client = httpx.AsyncClient(transport=transport, base_url=url, timeout=TIMEOUT)


class NoLoopCommunicator(Communicator):
    """Replaces the client of the Loop where no Loop is configured; it never opens a connection."""

    def __init__(self, settings: Settings) -> None:
        super().__init__(settings, 'http://no-loop.invalid', _Refusing())


class _Refusing(httpx.AsyncBaseTransport):
    async def handle_async_request(self, request: httpx.Request) -> httpx.Response:
        raise NoLearningLoop(f'The request {request.method} {request.url.path}')


def communicator(settings: Settings) -> LoopCommunicator:
    """Return upstream's client of the Loop at the address in our settings, with or without scheme and port.

    :raises InvalidSettings: the proxy for the Loop cannot be used.
    """
    if settings.loop_url is None:
        return NoLoopCommunicator(settings)
    http_proxy_of(settings.loop_url)  # raises at the start, not at the first request
    return Communicator(settings, settings.loop_url, AsyncProxyTransport(verify=ssl_context(settings)))


def project_path(settings: Settings) -> str:
    """Return the path of the project in the Loop's API: `/organization/projects/project`."""
    return f'/{settings.loop_organization}/projects/{settings.loop_project}'


async def connected_client(loop: LoopCommunicator) -> httpx.AsyncClient:
    """Return the HTTP client, logged in if the Loop accepts that; it also sends model files without a login."""
    with suppress(httpx.HTTPError, LoopCommunicationException):
        await loop.ensure_login()
    return loop.async_client


async def deployment_target(loop: LoopCommunicator, project: str) -> Target:
    """Ask for the deployment target: the model that the Loop wants the node to serve.

    :param project: see `project_path`.
    :raises LoopFault: the Loop does not answer, or its answer is malformed.
    """
    answer = _parse(_TargetAnswer, await _get(loop, f'{project}/deployment/target'), 'deployment target')
    return Target(version=answer.version, model_id=answer.model_uuid)


async def find_model(loop: LoopCommunicator, project: str, version: str) -> Target:
    """Find a model by its version.

    :param project: see `project_path`.
    :raises InvalidRequest: the Loop has no model of this version, or more than one.
    :raises LoopFault: the Loop does not answer, or its answer is malformed.
    """
    answer = _parse(_ModelsAnswer, await _get(loop, f'{project}/models'), 'list of models')
    found = [model for model in answer.models if model.version == version]
    if len(found) != 1:
        what = 'no model' if not found else f'{len(found)} models'
        raise InvalidRequest(f'the Learning Loop has {what} of version {version}')
    return Target(version=version, model_id=found[0].id)


async def _get(loop: LoopCommunicator, path: str) -> Any:
    try:
        async with asyncio.timeout(QUESTION_SECONDS):
            response = await loop.get(path)
        if response.status_code != httpx.codes.OK:
            raise LoopFault(f'the Learning Loop answers {response.status_code} to {path}')
        return response.json()
    except (httpx.HTTPError, LoopCommunicationException, TimeoutError, ValueError) as error:
        raise LoopFault(f'the Learning Loop does not answer {path}: {text_of(error)}') from error


def _parse(kind: type[A], content: Any, what: str) -> A:
    try:
        return kind.model_validate(content)
    except ValidationError as error:
        problem = error.errors()[0]
        field = '.'.join(str(part) for part in problem['loc'])
        raise LoopFault(f'the {what} of the Learning Loop is malformed: {field}: {problem["msg"]}') from None


async def upload_package(settings: Settings, archive: Path, *, training: int) -> str:
    """Upload a package's files as the newest model of a training, as trainers do.

    :return: the result, in words.
    :raises NoLearningLoop: LOOP_HOST is not set.
    :raises InvalidPackage: the package is not valid.
    :raises LoopFault: the Loop refuses the upload or does not answer.
    """
    if settings.loop_host is None:
        raise NoLearningLoop('An upload')
    apply_settings(settings)
    path = (
        f'/{settings.loop_organization}/projects/{settings.loop_project}'
        f'/trainings/{training}/models/latest/{MODEL_FORMAT}/file'
    )
    loop = communicator(settings)
    try:
        with scratch_folder() as folder:
            package = unpack_package(archive, folder)
            files = [folder / MODEL_JSON, package.detector_path, package.estimator_path]
            response = await loop.put(path, files=[str(file) for file in files], timeout=600)
    except (httpx.HTTPError, LoopCommunicationException) as error:
        raise LoopFault(f'{settings.loop_url} does not take the upload: {error or type(error).__name__}') from error
    finally:
        await loop.async_client.aclose()
    if response.status_code not in (httpx.codes.OK, httpx.codes.CONFLICT):
        raise LoopFault(f'{settings.loop_url} answers {response.status_code} to the upload: {response.text[:200]}')
    answer = response.json()
    if response.status_code == httpx.codes.CONFLICT:
        return f'{package.model_version} is stored there already: {(answer.get("detail") or {}).get("id")}'
    return f'{package.model_version} is uploaded: {answer.get("id")}'
