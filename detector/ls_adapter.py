"""The interface to Label Studio: the routes of a machine learning backend, as Label Studio 1.23 calls them."""

import asyncio
import json
import logging
from collections.abc import AsyncIterator, Mapping
from contextlib import nullcontext
from typing import Annotated, Any, Final

from fastapi import APIRouter, Depends, Request, Response

from detector.api import json_bodies
from detector.api.middleware.access import AccessPolicy, address_of
from detector.api.openapi import errors
from detector.errors import InvalidRequest, ModelUnavailable, OutboxFault, RequestTooLarge
from detector.label_studio.backend.correction_queue import CorrectionQueue
from detector.label_studio.backend.corrections import Corrections
from detector.label_studio.backend.known_projects import KnownProjects
from detector.label_studio.backend.preannotation import Preannotator
from detector.label_studio.backend.project_watch import ProjectWatch
from detector.label_studio.labels import config
from detector.label_studio.labels.config_report import offer, report, unmatched
from detector.label_studio.server.client import Connection
from detector.label_studio.server.media import Batch, TaskImages
from detector.observability.metrics import Metrics
from detector.outbox.outbox import Outbox
from detector.service import Models, encoded
from detector.serving.inference import Inference
from detector.settings import Settings
from detector.system import memory

log = logging.getLogger('wholebody.label_studio')

_LARGE_BODY: Final = 4 * 1024**2
"""Size from which bodies are parsed one at a time, in bytes: parsing blocks the interpreter."""
_parsing: Final = asyncio.Semaphore(1)
_MAX_NOTED: Final = 1000
"""Number of projects whose labeling configs are remembered as logged."""
_PROJECT_CHARACTERS: Final = 40
"""Length of a project's name in logs."""
_TRAINING: Final = 'models are trained in the Learning Loop, which receives the corrections; this node does not train'


class LabelStudioBackend:
    """Answers the requests of Label Studio, and runs the corrections in the background.

    :raises InvalidSettings: an address or a token cannot be used.
    """

    def __init__(
        self, settings: Settings, models: Models, inference: Inference, outbox: Outbox, metrics: Metrics
    ) -> None:
        self._settings = settings
        self._models = models
        self._outbox = outbox
        self._connection = Connection.of(settings)
        self.images = TaskImages.of(settings, self._connection)
        self.images.observe = metrics.fetched
        self.preannotator = Preannotator(inference, settings)
        self.corrections: Corrections | None = None
        self._watch: ProjectWatch | None = None
        self._noted: dict[str, int] = {}

    async def start(self) -> None:
        """Begin to keep projects up to date if Label Studio's API can be used, and to process corrections if a Loop
        takes them."""
        settings = self._settings
        if self._connection is None or settings.label_studio_api_token is None:
            return
        if settings.loop_url is not None and self.corrections is None:
            await self._start_corrections(self._connection)
        if self._watch is None:
            await self._start_watch(self._connection)

    async def _start_corrections(self, connection: Connection) -> None:
        settings = self._settings
        path = settings.data_folder / 'label_studio' / 'corrections.sqlite'
        try:
            queue = await asyncio.to_thread(CorrectionQueue, path)
        except OSError as error:
            log.error('corrections are not accepted: %s', error)
            return
        self.corrections = Corrections(
            queue,
            connection,
            self.images,
            self._outbox,
            category_ids=lambda: self._models.active().package.category_ids,
            max_pixels=settings.max_image_pixels,
        )
        self.corrections.start()

    async def _start_watch(self, connection: Connection) -> None:
        settings, login = self._settings, self._settings.label_studio_login
        try:
            projects = await asyncio.to_thread(KnownProjects, settings.data_folder / 'label_studio' / 'projects.json')
        except OSError as error:
            log.error('projects of Label Studio are not kept up to date: %s', error)
            return
        self._watch = ProjectWatch(
            connection,
            projects,
            corrections=self.corrections,
            model_version=self.model_version,
            password=None if login is None else login[1],
            seconds=settings.catch_up_seconds,
            begin=settings.corrections_since,
        )
        self._watch.start()

    async def stop(self) -> None:
        """Stop processing corrections and projects; those that wait stay on the disk."""
        if self._watch is not None:
            await self._watch.close()
            self._watch = None
        if self.corrections is not None:
            await self.corrections.close()
            self.corrections = None

    async def close(self) -> None:
        await self.stop()
        await self.images.close()
        if self._connection is not None:
            await self._connection.close()

    def model_version(self) -> str | None:
        """Return name and version of the active package, or None."""
        try:
            return self._models.active().package.model_version
        except ModelUnavailable:
            return None

    def note_setup(self, body: Mapping[str, Any], host: str) -> None:
        """Note the address and the project of a Label Studio that calls, and the host that it calls."""
        self.images.learn_hostname(body.get('hostname'))
        if self._watch is not None:
            self._watch.note_call(body.get('project'), host)

    def follow_model(self) -> None:
        """Tell Label Studio about a switch of models soon."""
        if self._watch is not None:
            self._watch.check_all()

    def about(self) -> dict[str, Any]:
        """Describe where images and corrections come from, how many corrections wait, and how many projects name this
        node."""
        url = None if self._connection is None else str(self._connection.url)
        projects = None if self._watch is None else self._watch.about()
        return {'url': url, 'corrections': self.about_corrections(), 'projects': projects}

    def about_corrections(self) -> dict[str, Any] | None:
        """Return the counters of the corrections, or None if none are processed."""
        return None if self.corrections is None else self.corrections.about()

    async def predict(self, body: Mapping[str, Any]) -> list[Any]:
        """Predict for the tasks of a request, see `Preannotator`.

        :raises InvalidRequest: the request is malformed.
        :raises RequestTooLarge: there are more than MAX_TASKS tasks.
        :raises ModelUnavailable: no model is loaded.
        """
        tasks, label_config, params = body.get('tasks'), body.get('label_config'), body.get('params')
        if not isinstance(tasks, list):
            raise InvalidRequest("'tasks' must be a list of tasks, each with an 'id' and 'data'")
        limit = self._settings.max_tasks
        if len(tasks) > limit:
            raise RequestTooLarge(
                f'{len(tasks)} tasks are more than {limit} (MAX_TASKS); send them in several requests'
            )
        if not isinstance(label_config, str | None):
            raise InvalidRequest("'label_config' must be a string, the XML of the labeling config")
        chosen = await asyncio.to_thread(config.parse, label_config)
        context = params.get('context') if isinstance(params, Mapping) else None
        self._models.active()  # raises if no model is loaded
        async with Batch(self.images) as source:
            if not isinstance(context, Mapping):
                return list(await self.preannotator.predict(tasks, chosen, source))
            if len(tasks) != 1:
                raise InvalidRequest(f'a context belongs to one task; there are {len(tasks)}')
            return [await self.preannotator.interactive(tasks[0], chosen, context, source)]

    async def note_config(self, project: object, label_config: object) -> None:
        """Log what the labels of a project stand for, once for each labeling config.

        :param label_config: the XML; anything else, and an empty config, is ignored.
        """
        if not isinstance(label_config, str) or not label_config.strip():
            return
        key, digest = str(project)[:_PROJECT_CHARACTERS], hash(label_config)
        if self._noted.get(key) == digest:
            return
        if len(self._noted) >= _MAX_NOTED:
            self._noted.clear()
        self._noted[key] = digest
        try:
            found = await asyncio.to_thread(config.parse, label_config)
        except InvalidRequest as error:
            log.warning('project %s: %s', key, error)
            return
        level = logging.WARNING if unmatched(found) else logging.INFO
        log.log(level, 'project %s: %s', key, '; '.join(report(found)))

    async def validate(self, body: Mapping[str, Any]) -> dict[str, Any]:
        """Describe what a labeling config offers for a pose.

        :raises InvalidRequest: the config offers nothing for a pose, or is malformed.
        """
        label_config = body.get('config', body.get('label_config'))
        if not isinstance(label_config, str):
            raise InvalidRequest("'config' must be a string, the XML of the labeling config")
        found = await asyncio.to_thread(config.parse, label_config)
        return {'status': 'OK', **offer(found)}

    async def note_webhook(self, body: Mapping[str, Any]) -> dict[str, Any]:
        """Queue the annotations that a webhook names.

        :raises OutboxFault: the queue cannot be written.
        """
        if body.get('action') == 'START_TRAINING':
            return {'status': 'OK', 'detail': _TRAINING}
        if self.corrections is None:
            return {'status': 'OK', 'detail': 'corrections need LOOP_HOST, LABEL_STUDIO_URL and LABEL_STUDIO_API_TOKEN'}
        try:
            return {'status': 'OK', 'annotations': await self.corrections.enqueue(body)}
        except OSError as error:
            raise OutboxFault(f'the correction cannot be stored: {error}') from error


async def _body(request: Request) -> AsyncIterator[dict[str, Any]]:
    """Yield the JSON object of a request; the memory of a large one goes back to the system afterwards.

    :raises InvalidRequest: the body is not a JSON object.
    :raises RequestTooLarge: the body has too many values.
    """
    received = bytearray()  # joining the parts of a large body at its end would stop the event loop
    async for part in request.stream():
        received += part
    is_large = len(received) > _LARGE_BODY
    body: dict[str, Any] = {}
    try:
        async with _parsing if is_large else nullcontext():
            body = await asyncio.to_thread(json_bodies.parse_object, received)
        yield body
    finally:
        if is_large:
            body.clear()  # FastAPI refers to it a little longer
            await asyncio.to_thread(memory.give_back)


Body = Annotated[dict[str, Any], Depends(_body)]


def create_router(
    backend: LabelStudioBackend, models: Models, access_policy: AccessPolicy, settings: Settings
) -> APIRouter:
    """Return the routes of this backend."""

    async def authorize(request: Request) -> None:
        """Check BASIC_AUTH_USER and BASIC_AUTH_PASS, if they are set; `AccessControl` has checked API_TOKEN.

        :raises Unauthorized: the request does not carry them.
        """
        if settings.basic_auth_user is None or access_policy.allows_label_studio(request):
            return
        if 'authorization' in request.headers:
            await access_policy.delay_failed_attempt(address_of(request))
        raise access_policy.unauthorized(request)

    router = APIRouter(tags=['Label Studio'], dependencies=[Depends(authorize)])

    @router.get('/', include_in_schema=False)
    @router.head('/', include_in_schema=False)
    @router.head('/health', include_in_schema=False)
    @router.get('/health', responses=errors(401))
    async def health() -> dict[str, str]:
        """Answer 200 while the process is alive, even without a model."""
        return {'status': 'UP'}

    @router.post('/setup', responses=errors(422))
    async def setup(body: Body, request: Request) -> dict[str, str | None]:
        """Register a Label Studio, and answer the model version that predicts.

        The token that Label Studio offers is not used.
        """
        backend.note_setup(body, request.headers.get('host', ''))
        await backend.note_config(body.get('project'), body.get('schema'))
        return {'model_version': backend.model_version()}

    @router.post('/predict', responses=errors(422))
    async def predict(body: Body) -> Response:
        """Predict for tasks; with a `context`, find the person in the drawn box or nearest to the click.

            curl localhost:8004/predict --json '{"tasks": [{"id": 1, "data": {"image": "https://…/photo.jpg"}}]}'

        The result of a task that fails, or that is not done in time, is `[]`.
        """
        return await encoded(_answer, await backend.predict(body))

    @router.get('/versions')
    async def versions() -> dict[str, list[str]]:
        """List the installed model versions, the active one first."""
        return {'versions': await asyncio.to_thread(models.names)}

    @router.post('/validate', responses=errors(422))
    async def validate(body: Body) -> dict[str, Any]:
        """Check a labeling config, and answer what it offers for a pose."""
        return await backend.validate(body)

    @router.post('/train', responses=errors(422))
    async def train(body: Body) -> dict[str, str]:
        """Answer where training happens."""
        return {'status': 'OK', 'detail': _TRAINING}

    @router.post('/webhook', responses=errors(422, 507))
    async def webhook(body: Body) -> dict[str, Any]:
        """Note changed annotations. The node reads them from Label Studio and sends them to the Learning Loop later."""
        return await backend.note_webhook(body)

    return router


def _answer(results: list[Any]) -> Response:
    """Encode one result at a time: encoding megabytes at once would block the interpreter, and with it `/health`."""
    pieces = [json.dumps(result, allow_nan=False) for result in results]
    return Response('{"results": [' + ', '.join(pieces) + ']}', media_type='application/json')
