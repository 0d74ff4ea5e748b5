"""Label Studio's door: the routes of a machine learning backend, as Label Studio 1.23 calls them."""

import asyncio
import json
import logging
from collections.abc import Mapping
from contextlib import nullcontext
from typing import TYPE_CHECKING, Any, Final, cast

from fastapi import APIRouter, Depends, Request, Response

from detector.api.middleware.access import address_of
from detector.label_studio.backend.correction_queue import CorrectionQueue
from detector.label_studio.backend.corrections import Corrections
from detector.label_studio.backend.preannotation import Preannotator
from detector.label_studio.labels import config
from detector.label_studio.server.client import Connection
from detector.label_studio.server.media import TaskImages
from detector.models.package import ModelPackage
from detector.observability.request_context import encoding

from .errors import InvalidRequest, ModelUnavailable, OutboxFault, RequestTooLarge
from .loop import upstream

if TYPE_CHECKING:
    from detector.node.wholebody_node import WholebodyNode

log = logging.getLogger('wholebody.label_studio')

_LARGE_BODY: Final = 4 * 1024**2
_parsing: Final = asyncio.Semaphore(1)
"""Large bodies are parsed one at a time: it keeps the interpreter, and so all else, waiting."""
_TRAINING = 'models are trained in the Learning Loop, to which corrections flow; nothing is trained here'


class LabelStudioBackend:
    """What the routes work with; part of a node.

    :raises InvalidSettings: an address or a token cannot be used.
    """

    def __init__(self, node: 'WholebodyNode') -> None:
        settings = node.settings
        self._node = node
        self._settings = settings
        self._connection = Connection.of(settings)
        self.images = TaskImages.of(settings, self._connection)
        self.images.observe = node.metrics.fetched
        self.preannotator = Preannotator(node.inference, settings)
        self.corrections: Corrections | None = None

    async def start(self) -> None:
        """Begin to work off corrections, if there is a Loop to send them to and a Label Studio to read them from."""
        settings = self._settings
        wanted = settings.label_studio_api_token is not None and settings.loop_url is not None
        if self._connection is None or not wanted or self.corrections is not None:
            return
        path = self._settings.data_folder / 'label_studio' / 'corrections.sqlite'
        try:
            queue = await asyncio.to_thread(CorrectionQueue, path)
        except OSError as error:
            log.error('corrections are not taken: %s', error)
            return
        self.corrections = Corrections(
            queue,
            self._connection,
            self.images,
            self._node.outbox,
            category_ids=lambda: upstream.active_detector(self._node)[0].package.category_ids,
            max_pixels=self._settings.max_image_pixels,
        )
        self.corrections.start()

    async def stop(self) -> None:
        """Take no corrections any more; what waits is kept on the disk."""
        if self.corrections is not None:
            await self.corrections.close()
            self.corrections = None

    async def close(self) -> None:
        await self.stop()
        await self.images.close()
        if self._connection is not None:
            await self._connection.close()

    def model_version(self) -> str | None:
        """Name and version of the package that serves; None if none does."""
        try:
            return upstream.active_detector(self._node)[0].package.model_version
        except ModelUnavailable:
            return None

    def require_model(self) -> None:
        """:raises ModelUnavailable: none serves; says why."""
        self._node.serving.active()

    def about(self) -> dict[str, Any]:
        """Where images and corrections come from, and how many corrections wait."""
        corrections = None if self.corrections is None else self.corrections.about()
        url = None if self._connection is None else str(self._connection.url)
        return {'url': url, 'corrections': corrections}


def _backend(request: Request) -> LabelStudioBackend:
    backend: LabelStudioBackend = cast('WholebodyNode', request.app).label_studio
    return backend


async def _authorized(request: Request) -> None:
    """Ask for BASIC_AUTH_USER and BASIC_AUTH_PASS, if they are set; for API_TOKEN `AccessControl` has asked.

    :raises Unauthorized: they are not in the request.
    """
    node = cast('WholebodyNode', request.app)
    if node.settings.basic_auth_user is None or node.access_policy.allows_label_studio(request):
        return
    if 'authorization' in request.headers:
        await node.access_policy.delay_failed_attempt(address_of(request))
    raise node.access_policy.unauthorized(request)


router = APIRouter(tags=['Label Studio'], dependencies=[Depends(_authorized)])


async def _body(request: Request) -> dict[str, Any]:
    """The JSON object of a request.

    :raises InvalidRequest: it is none.
    """
    received = await request.body()
    try:
        async with _parsing if len(received) > _LARGE_BODY else nullcontext():
            body = await asyncio.to_thread(json.loads, received)
    except (ValueError, RecursionError):
        body = None
    if not isinstance(body, dict):
        raise InvalidRequest('the body is no JSON object')
    return body


def _answer(results: list[Any]) -> Response:
    """Written piece by piece: one encoding of megabytes would keep the interpreter, and so `/health`, waiting."""
    pieces = [json.dumps(result, allow_nan=False) for result in results]
    return Response('{"results": [' + ', '.join(pieces) + ']}', media_type='application/json')


@router.get('/', include_in_schema=False)
@router.head('/', include_in_schema=False)
@router.head('/health', include_in_schema=False)
@router.get('/health')
async def health() -> dict[str, str]:
    """Whether the process is alive; says nothing of a model."""
    return {'status': 'UP'}


@router.post('/setup')
async def setup(request: Request) -> dict[str, str | None]:
    """Label Studio introduces itself and asks for the version that predicts.

    The token that it offers is not used.
    """
    body = await _body(request)
    backend = _backend(request)
    backend.images.learn_hostname(body.get('hostname'))
    return {'model_version': backend.model_version()}


@router.post('/predict')
async def predict(request: Request) -> Response:
    """Predictions for tasks; with a `context`, the person in the box that was drawn or nearest to the click.

        curl localhost:8004/predict --json '{"tasks": [{"id": 1, "data": {"image": "https://…/photo.jpg"}}]}'

    A task that fails has `[]` among the `results`, and so has one for which the time was too short.
    """
    body = await _body(request)
    tasks = body.get('tasks')
    if not isinstance(tasks, list):
        raise InvalidRequest("'tasks' must be a list of tasks, each with an 'id' and 'data'")
    max_tasks = cast('WholebodyNode', request.app).settings.max_tasks
    if len(tasks) > max_tasks:
        raise RequestTooLarge(
            f'{len(tasks)} tasks are more than {max_tasks} (MAX_TASKS); send them in several requests'
        )
    label_config = body.get('label_config')
    if not isinstance(label_config, str | None):
        raise InvalidRequest("'label_config' must be a text, the XML of the labeling config")
    chosen = await asyncio.to_thread(config.parse, label_config)
    params = body.get('params')
    context = params.get('context') if isinstance(params, Mapping) else None
    backend = _backend(request)
    backend.require_model()
    async with backend.images.batch() as source:
        if isinstance(context, Mapping):
            if len(tasks) != 1:
                raise InvalidRequest(f'a context belongs to one task; there are {len(tasks)}')
            results: list[Any] = [await backend.preannotator.interactive(tasks[0], chosen, context, source)]
        else:
            results = list(await backend.preannotator.predict(tasks, chosen, source))
    with encoding():
        return await asyncio.to_thread(_answer, results)


@router.get('/versions')
async def versions(request: Request) -> dict[str, list[str]]:
    """The model versions that are installed, the one that serves first."""
    node = cast('WholebodyNode', request.app)
    serving = _backend(request).model_version()
    packages = await asyncio.to_thread(node.store.installed)
    others = {package.model_version for package in packages if isinstance(package, ModelPackage)} - {serving}
    return {'versions': [*filter(None, [serving]), *sorted(others)]}


@router.post('/validate')
async def validate(request: Request) -> dict[str, Any]:
    """Whether a labeling config offers something for a pose, and what."""
    body = await _body(request)
    label_config = body.get('config', body.get('label_config'))
    if not isinstance(label_config, str):
        raise InvalidRequest("'config' must be a text, the XML of the labeling config")
    found = await asyncio.to_thread(config.parse, label_config)
    return {
        'status': 'OK',
        'image': found.image_key,
        'boxes': found.boxes is not None,
        'skeletons': [] if found.skeletons is None else list(found.skeletons.labels),
        'keypoints': 0 if found.points is None else len(found.points.labels),
    }


@router.post('/train')
async def train(request: Request) -> dict[str, str]:
    """Says where training happens."""
    await _body(request)
    return {'status': 'OK', 'detail': _TRAINING}


@router.post('/webhook')
async def webhook(request: Request) -> dict[str, Any]:
    """Takes news of annotations; they are read again from Label Studio and sent to the Learning Loop afterwards."""
    body = await _body(request)
    if body.get('action') == 'START_TRAINING':
        return {'status': 'OK', 'detail': _TRAINING}
    corrections = _backend(request).corrections
    if corrections is None:
        return {'status': 'OK', 'detail': 'corrections need LOOP_HOST, LABEL_STUDIO_URL and LABEL_STUDIO_API_TOKEN'}
    try:
        return {'status': 'OK', 'annotations': await corrections.note(body)}
    except OSError as error:
        raise OutboxFault(f'the correction cannot be stored: {error}') from error
