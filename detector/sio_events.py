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
from dacite import DaciteError, from_dict
from learning_loop_node.data_classes import ImageMetadata, ImagesMetadata

from . import images, upstream
from .errors import InvalidRequest, WholebodyError
from .images import Image
from .routes import grouped_poses

if TYPE_CHECKING:
    from .node import WholebodyNode

log = logging.getLogger('wholebody.socketio')

MAX_MESSAGE_BYTES: Final = images.MAX_BYTES + 1024**2
"""Of one WebSocket message: a frame of the largest size and what describes it."""

Handler = Callable[['WholebodyNode', Any], Awaitable[dict[str, Any]]]


def create_server(node: 'WholebodyNode') -> socketio.AsyncServer:
    """A Socket.IO server with all events registered."""
    server = socketio.AsyncServer(async_mode='asgi', max_http_buffer_size=MAX_MESSAGE_BYTES)
    for name, handler in EVENTS.items():
        server.on(name, _answering(node, name, handler))

    async def connect(sid: str, environ: Mapping[str, Any], auth: Any = None) -> None:
        node.connected_clients.append(sid)

    async def disconnect(sid: str, reason: str) -> None:
        if sid in node.connected_clients:
            node.connected_clients.remove(sid)

    async def unknown(event: str, sid: str, *payload: Any) -> dict[str, str]:
        return {'error': f'unknown event {event!r}; known are {", ".join(EVENTS)}'}

    server.on('connect', connect)
    server.on('disconnect', disconnect)
    server.on('*', unknown)
    return server


def as_app(server: socketio.AsyncServer) -> Any:
    """The ASGI app to mount at `/ws`."""
    return socketio.ASGIApp(server, socketio_path='/ws/socket.io')


def _answering(node: 'WholebodyNode', name: str, handler: Handler) -> Callable[..., Awaitable[dict[str, Any]]]:
    """Wrap a handler so that whatever arrives and whatever happens, the client gets an answer."""

    async def answer(sid: str, *payload: Any) -> dict[str, Any]:
        try:
            if len(payload) > 1:
                raise InvalidRequest(f'{name} takes one payload, not {len(payload)}')
            return await handler(node, payload[0] if payload else None)
        except WholebodyError as error:
            return {'error': str(error)}
        except Exception:
            log.exception('the event %s failed', name)
            return {'error': f'{name} failed inside the node; its log says why'}

    return answer


# ---------------------------------------------------------------- payloads


def _object(payload: Any) -> Mapping[str, Any]:
    if not isinstance(payload, Mapping):
        raise InvalidRequest(f'the payload must be an object, not {type(payload).__name__}')
    return payload


def _optional_string(payload: Mapping[str, Any], field: str) -> str | None:
    value = payload.get(field)
    if value is not None and not isinstance(value, str):
        raise InvalidRequest(f'{field!r} must be a string, not {type(value).__name__}')
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
    return {
        'tags': tags,
        'camera_id': _optional_string(payload, 'camera_id'),
        'source': _optional_string(payload, 'source'),
        'autoupload': payload.get('autoupload', 'filtered'),
        'creation_date': _optional_string(payload, 'creation_date'),
    }


async def _image(node: 'WholebodyNode', payload: Any) -> Image:
    return await asyncio.to_thread(images.from_payload, payload, max_pixels=node.settings.max_image_pixels)


# ---------------------------------------------------------------- events


async def _detect(node: 'WholebodyNode', payload: Any) -> dict[str, Any]:
    payload = _object(payload)
    options = _options(payload)
    metadata = await node.get_detections(await _image(node, payload.get('image')), **options)
    return await asyncio.to_thread(asdict, metadata)


async def _batch_detect(node: 'WholebodyNode', payload: Any) -> dict[str, Any]:
    payload = _object(payload)
    options = _options(payload)
    received = payload.get('images')
    if not isinstance(received, list):
        raise InvalidRequest("'images' must be a list of images")
    decoded = await asyncio.gather(*(_image(node, image) for image in received))
    metadata = await node.get_batch_detections(decoded, **options)
    return await asyncio.to_thread(asdict, metadata)


async def _poses(node: 'WholebodyNode', payload: Any) -> dict[str, Any]:
    return await grouped_poses(node, await _image(node, _object(payload).get('image')))


async def _upload(node: 'WholebodyNode', payload: Any) -> dict[str, Any]:
    payload = _object(payload)
    metadata = ImageMetadata()
    if payload.get('metadata'):
        try:
            metadata = from_dict(data_class=ImageMetadata, data=dict(_object(payload['metadata'])))
        except DaciteError as error:
            raise InvalidRequest(f"'metadata': {error}") from None
        _, model_info = upstream.active_detector(node)
        metadata = node.add_category_id_to_detections(model_info, metadata)
    await node.upload_images(
        images=[await _image(node, payload.get('image'))],
        images_metadata=ImagesMetadata(items=[metadata]),
        upload_priority=bool(payload.get('upload_priority', False)),
    )
    return {'status': 'OK'}


async def _info(node: 'WholebodyNode', _: Any) -> dict[str, Any]:
    try:
        _, model_info = upstream.active_detector(node)
    except WholebodyError:
        return {'status': 'No model loaded'}
    return asdict(model_info)


async def _about(node: 'WholebodyNode', _: Any) -> dict[str, Any]:
    return node.about()


async def _get_model_version(node: 'WholebodyNode', _: Any) -> dict[str, Any]:
    return asdict(node.get_model_version_response())


async def _set_model_version_mode(node: 'WholebodyNode', payload: Any) -> dict[str, Any]:
    mode = _string(payload, 'the mode or version')
    await node.set_model_version_mode(mode)
    return {'status': 'OK'}


async def _get_outbox_mode(node: 'WholebodyNode', _: Any) -> dict[str, Any]:
    return {'outbox_mode': node.outbox.get_mode().value}


async def _set_outbox_mode(node: 'WholebodyNode', payload: Any) -> dict[str, Any]:
    try:
        await node.outbox.set_mode(_string(payload, 'the outbox mode'))
    except (ValueError, TimeoutError) as error:
        raise InvalidRequest(str(error)) from error
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
