"""The Socket.IO events: upstream's, plus `poses`; every event gets an answer, an error as `{'error': …}`.

Upstream's own handlers leave a client without an answer, and so waiting for its time-out, when an event is unknown
or comes without payload; that is why they are replaced rather than added to.
"""

import asyncio
import logging
from collections.abc import Awaitable, Callable, Mapping
from dataclasses import asdict
from typing import TYPE_CHECKING, Any, Final

import socketio
from engineio.payload import Payload
from learning_loop_node.data_classes import ImageMetadata, ImagesMetadata
from learning_loop_node.helpers.misc import ImageData

from detector.api.middleware.drain import cut_off
from detector.api.middleware.observation import observed_event, refused_event
from detector.api.route_policy import SOCKETIO_PATH
from detector.errors import InvalidRequest, ModelUnavailable, Unauthorized, WholebodyError
from detector.loop import metadata, upstream
from detector.observability.logs import OnceASecond
from detector.observability.request_context import encoding, note_error
from detector.pose import images

from .event_access import ConnectionGuard, HandshakeMiddleware
from .outbox_routes import set_outbox_mode
from .packets import UNREADABLE, TolerantJson, TolerantPacket
from .routes import about_node, grouped_poses

if TYPE_CHECKING:
    from detector.node.wholebody_node import WholebodyNode

log = logging.getLogger('wholebody.socketio')

MAX_BATCH: Final = 64
"""Images of one `batch_detect`."""

Handler = Callable[['WholebodyNode', str, Any], Awaitable[dict[str, Any]]]
"""Takes the node, the id of the connection, and the payload."""


def create_server(node: 'WholebodyNode') -> tuple[socketio.AsyncServer, Any]:
    """A Socket.IO server with all events registered, and the ASGI app to mount at `/ws`.

    Which origins may connect, `AccessControl` decides.
    """
    Payload.max_decode_packets = MAX_BATCH + 16  # of one polling request; beyond, a message is lost without a word
    server = socketio.AsyncServer(
        async_mode='asgi',
        max_http_buffer_size=node.settings.max_frame_mib * 1024**2,
        cors_allowed_origins=[],
        serializer=TolerantPacket.counted_by(node.in_flight, seconds=node.settings.body_seconds),
        json=TolerantJson,
    )
    seconds = node.settings.body_seconds
    guard = ConnectionGuard(server, node.access_policy, max_clients=node.settings.max_clients, seconds=seconds)
    for name, handler in EVENTS.items():
        server.on(name, observed_event(node.metrics, name, _answering(node, guard, name, handler)))

    async def connect(sid: str, *details: Any) -> dict[str, str] | None:
        if not details or details[0] is not server.get_environ(sid):
            # a client can, and reaches this
            return refused_event(node.metrics, InvalidRequest("'connect' is no event to send"))
        await guard.admit(sid, *details)
        node.connected_clients.append(sid)
        return None

    async def disconnect(sid: str, *_: Any) -> dict[str, str]:
        if not server.manager.is_connected(sid, '/'):  # else a client has sent an event of this name
            guard.leave(sid)
            if sid in node.connected_clients:
                node.connected_clients.remove(sid)
        return {'error': "'disconnect' is no event to send"}

    logged = OnceASecond()

    async def unknown(event: str, sid: str, *payload: Any) -> dict[str, str]:
        if event != UNREADABLE:
            known = ', '.join(EVENTS)
            return refused_event(node.metrics, InvalidRequest(f'unknown event {event!r}; known are {known}'))
        why, *name = payload or ('',)
        if not isinstance(why, WholebodyError):
            return refused_event(node.metrics, InvalidRequest(f'the message cannot be read: {why}'))
        known_name = name[0] if name and name[0] in EVENTS else None
        if logged.due(known_name):
            log.warning('%s is answered with an error: %s', known_name or 'an unknown event', why)
        return refused_event(node.metrics, why, known_name)

    server.on('connect', connect)
    server.on('disconnect', disconnect)
    server.on('*', unknown)
    return server, HandshakeMiddleware(socketio.ASGIApp(server, socketio_path=SOCKETIO_PATH), guard, seconds=seconds)


def _answering(
    node: 'WholebodyNode', guard: ConnectionGuard, name: str, handler: Handler
) -> Callable[..., Awaitable[dict[str, Any]]]:
    """Wrap a handler so that whatever arrives and whatever happens, the client gets an answer."""

    logged = OnceASecond()

    async def answer(sid: str, *payload: Any) -> dict[str, Any]:
        if node.drain.begun:
            return _refused(node.drain.refusal())
        with node.drain.work() as work:
            try:
                return await answer_now(sid, *payload)
            except asyncio.CancelledError:
                if not work.resume_if_cut_off():
                    raise
                return _refused(cut_off())

    async def answer_now(sid: str, *payload: Any) -> dict[str, Any]:
        try:
            if not guard.knows(sid):
                raise Unauthorized('this client has not been let in')
            if len(payload) > 1:
                raise InvalidRequest(f'{name} takes one payload, not {len(payload)}')
            return await handler(node, sid, payload[0] if payload else None)
        except WholebodyError as error:
            note_error(error)
            if logged.due():
                log.warning('%s is answered with an error: %s', name, error)
            return {'error': str(error)}
        except Exception as error:
            note_error(error)
            log.exception('the event %s failed', name)
            return {'error': f'{name} failed inside the node; its log says why'}

    return answer


def _refused(error: WholebodyError) -> dict[str, Any]:
    note_error(error)
    return {'error': str(error)}


# ---------------------------------------------------------------- payloads


def _object(payload: Any) -> Mapping[str, Any]:
    if not isinstance(payload, Mapping):
        raise InvalidRequest(f'the payload must be an object, not {type(payload).__name__}')
    return payload


def _optional_string(payload: Mapping[str, Any], field: str) -> str | None:
    value = payload.get(field)
    if value is not None and not isinstance(value, str):
        raise InvalidRequest(f'{field!r} must be a string, not {type(value).__name__}')
    return value and metadata.check_text(value)


def _flag(payload: Mapping[str, Any], field: str) -> bool:
    value = payload.get(field, False)
    if not isinstance(value, bool):
        raise InvalidRequest(f'{field!r} must be true or false, not {str(value)[:40]!r}')
    return value


def _string(payload: Any, what: str) -> str:
    if not isinstance(payload, str):
        raise InvalidRequest(f'{what} must be sent as a string, not {type(payload).__name__}')
    return payload


def _options(payload: Mapping[str, Any]) -> dict[str, Any]:
    """The arguments of `get_detections` beside the image."""
    tags = payload.get('tags', [])
    if not isinstance(tags, list) or not all(isinstance(tag, str) for tag in tags):
        raise InvalidRequest("'tags' must be a list of strings; leave it out to send none")
    for tag in tags:
        metadata.check_text(tag)
    return {
        'tags': tags,
        'camera_id': _optional_string(payload, 'camera_id'),
        'source': _optional_string(payload, 'source'),
        'autoupload': payload.get('autoupload', 'filtered'),
        'creation_date': _optional_string(payload, 'creation_date'),
    }


def _image(node: 'WholebodyNode', payload: Any) -> ImageData:
    return images.from_payload(payload, max_pixels=node.settings.max_image_pixels)


# ---------------------------------------------------------------- events


async def _detect(node: 'WholebodyNode', sid: str, payload: Any) -> dict[str, Any]:
    """Find the persons in an image: boxes, and 133 points per person in the order of the boxes.

    A frame with a `camera_id` replaces an older one of the same connection and camera that still waits, unless its
    `autoupload` is `all`.

    :param payload: `image`; optionally `camera_id`, `tags` (a list), `source`, `autoupload` (`filtered`, `all` or
        `disabled`), `creation_date` and `request_id`.
    :return: `ImageMetadata` of the Learning Loop.
    """
    payload = _object(payload)
    options = _options(payload)
    stream = None if options['camera_id'] is None else (sid, options['camera_id'])
    detected = await node.get_detections(_image(node, payload.get('image')), **options, stream=stream)
    with encoding():
        return await asyncio.to_thread(asdict, detected)


async def _batch_detect(node: 'WholebodyNode', _: str, payload: Any) -> dict[str, Any]:
    """Find the persons in up to 64 images.

    :param payload: as for `detect`, with `images` (a list) instead of `image`.
    :return: `{'items': […]}`, one `ImageMetadata` per image in the same order.
    """
    payload = _object(payload)
    options = _options(payload)
    received = payload.get('images')
    if not isinstance(received, list):
        raise InvalidRequest("'images' must be a list of images")
    batch = [_image(node, image) for image in received]
    detected = await node.get_batch_detections(batch, **options)
    with encoding():
        return await asyncio.to_thread(asdict, detected)


async def _poses(node: 'WholebodyNode', _: str, payload: Any) -> dict[str, Any]:
    """Find the persons in an image: one object per person, with its 133 named keypoints.

    :param payload: `image`; optionally `request_id`.
    :return: the same object as `POST /poses`.
    """
    return await grouped_poses(node, _image(node, _object(payload).get('image')))


async def _upload(node: 'WholebodyNode', _: str, payload: Any) -> dict[str, Any]:
    """Queue an image for the Learning Loop.

    rosys sends `source` and `creation_date` in `metadata` or beside it; both work.

    :param payload: `image`; optionally `metadata` (`ImageMetadata` of the Learning Loop), `source`, `creation_date`,
        `upload_priority` (true or false) and `request_id`.
    :return: `{'status': 'OK'}` once the image is stored.
    """
    payload = _object(payload)
    given = await asyncio.to_thread(_metadata, node, payload)
    await node.upload_images(
        images=[_image(node, payload.get('image'))],
        images_metadata=ImagesMetadata(items=[given]),
        upload_priority=_flag(payload, 'upload_priority'),
    )
    return {'status': 'OK'}


def _metadata(node: 'WholebodyNode', payload: Mapping[str, Any]) -> ImageMetadata:
    """The metadata of an upload, with category ids where a model is there that knows them."""
    given = metadata.parse(payload.get('metadata'))
    for field, name in (('source', 'source'), ('creation_date', 'created')):
        value = _optional_string(payload, field)
        if value is not None:
            setattr(given, name, metadata.check_date(value) if name == 'created' else value)
    try:
        logic, model_info = upstream.active_detector(node)
    except ModelUnavailable as error:
        log.warning('an upload gets no category ids: %s', error)
        return given
    metadata.add_category_ids(given, logic.package, model_info)
    return given


async def _info(node: 'WholebodyNode', *_: Any) -> dict[str, Any]:
    """Describe the model in service.

    :return: `ModelInformation` of the Learning Loop, or `{'status': 'No model loaded'}`.
    """
    try:
        model_info = upstream.active_detector(node)[1]
    except WholebodyError:
        return {'status': 'No model loaded'}
    return asdict(model_info)


async def _about(node: 'WholebodyNode', *_: Any) -> dict[str, Any]:
    """Describe the node: what it does, which model serves and since when.

    :return: the same object as `GET /about`.
    """
    return about_node(node)


async def _get_model_version(node: 'WholebodyNode', *_: Any) -> dict[str, Any]:
    """Name the model versions in service, wanted and installed.

    :return: the same object as `GET /model_version`.
    """
    return asdict(node.get_model_version_response())


async def _set_model_version_mode(node: 'WholebodyNode', _: str, payload: Any) -> dict[str, Any]:
    """Follow the Loop's deployment target, pause, or serve one version.

    :param payload: `'follow_loop'`, `'pause'` or a version.
    :return: `{'status': 'OK'}`.
    """
    mode = _string(payload, 'the mode or version')
    await node.set_model_version_mode(mode)
    return {'status': 'OK'}


async def _get_outbox_mode(node: 'WholebodyNode', *_: Any) -> dict[str, Any]:
    """Tell whether the outbox sends images.

    :return: `{'outbox_mode': 'continuous_upload'}` or `{'outbox_mode': 'stopped'}`.
    """
    return {'outbox_mode': node.outbox.get_mode().value}


async def _set_outbox_mode(node: 'WholebodyNode', _: str, payload: Any) -> dict[str, Any]:
    """Start or stop sending images to the Loop.

    :param payload: `'continuous_upload'` or `'stopped'`.
    :return: `{'status': 'OK'}`.
    """
    await set_outbox_mode(node, _string(payload, 'the outbox mode'))
    return {'status': 'OK'}


EVENTS: Final[dict[str, Handler]] = {
    'detect': _detect,
    'batch_detect': _batch_detect,
    'poses': _poses,
    'upload': _upload,
    'info': _info,
    'about': _about,
    'get_model_version': _get_model_version,
    'set_model_version_mode': _set_model_version_mode,
    'get_outbox_mode': _get_outbox_mode,
    'set_outbox_mode': _set_outbox_mode,
}
