"""The Socket.IO events: upstream's, and `poses`. Every event gets an answer; an error is `{'error': …}`.

Upstream's handlers leave an unknown event, or one without a payload, without an answer, so the client waits for its
time-out. For that reason they are replaced.
"""

import asyncio
import logging
from collections.abc import Awaitable, Callable, Mapping
from dataclasses import asdict
from functools import partial
from typing import Any, Final

import socketio
from engineio.payload import Payload
from learning_loop_node.helpers.misc import ImageData

from detector.errors import InvalidRequest, ModelUnavailable, Unauthorized, WholebodyError
from detector.observability.logs import OnceASecond
from detector.observability.metrics import Metrics
from detector.observability.request_context import note_error
from detector.pose import images
from detector.service import MAX_BATCH, DetectRequest, Service, UploadRequest, encoded
from detector.settings import Settings

from .engineio_guard import EngineIoGuard
from .event_access import ConnectionGuard, HandshakeMiddleware
from .in_flight import InFlight
from .middleware.access import AccessPolicy
from .middleware.drain import Drain, cut_off
from .middleware.observation import observed_event, refused_event
from .packets import UNREADABLE, TolerantJson, TolerantPacket
from .route_policy import SOCKETIO_PATH

log = logging.getLogger('wholebody.socketio')

Answer = dict[str, Any]


class Handlers:
    """Answers the events.

    :param max_pixels: limit for one image.
    """

    def __init__(self, service: Service, *, max_pixels: int) -> None:
        self._service = service
        self._max_pixels = max_pixels

    async def detect(self, sid: str, payload: Any) -> Answer:
        """Find the persons in an image: boxes, and 133 points per person in the order of the boxes.

        A frame with a `camera_id` replaces an older one of the same connection and camera that still waits, unless its
        `autoupload` is `all`.

        :param payload: `image`; optionally `camera_id`, `tags` (a list), `source`, `autoupload` (`filtered`, `all` or
            `disabled`), `creation_date` and `request_id`.
        :return: `ImageMetadata` of the Learning Loop.
        """
        fields = _object(payload)
        request = DetectRequest.parse(fields)
        stream = None if request.camera_id is None else (sid, request.camera_id)
        image = self._image(fields.get('image'))
        return await encoded(asdict, await self._service.detection.detect(image, request, stream=stream))

    async def batch_detect(self, _: str, payload: Any) -> Answer:
        """Find the persons in up to 64 images.

        :param payload: as for `detect`, with `images` (a list) instead of `image`.
        :return: `{'items': […]}`, one `ImageMetadata` per image in the same order.
        """
        fields = _object(payload)
        request = DetectRequest.parse(fields)
        received = fields.get('images')
        if not isinstance(received, list):
            raise InvalidRequest("'images' must be a list of images")
        batch = [self._image(image) for image in received]
        return await encoded(asdict, await self._service.detection.detect_batch(batch, request))

    async def poses(self, _: str, payload: Any) -> Answer:
        """Find the persons in an image: one object per person, with its 133 named keypoints.

        :param payload: `image`; optionally `request_id`.
        :return: the same object as `POST /poses`.
        """
        return await self._service.detection.poses(self._image(_object(payload).get('image')))

    async def upload(self, _: str, payload: Any) -> Answer:
        """Queue an image for the Learning Loop.

        rosys sends `source` and `creation_date` in `metadata` or beside it; both work.

        :param payload: `image`; optionally `metadata` (`ImageMetadata` of the Learning Loop), `source`,
            `creation_date`, `upload_priority` (true or false) and `request_id`.
        :return: `{'status': 'OK'}` once the image is stored.
        """
        fields = _object(payload)
        request = await asyncio.to_thread(UploadRequest.parse, fields)
        await self._service.uploads.upload([self._image(fields.get('image'))], request)
        return {'status': 'OK'}

    async def info(self, *_: Any) -> Answer:
        """Describe the model in service.

        :return: `ModelInformation` of the Learning Loop, or `{'status': 'No model loaded'}`.
        """
        try:
            return asdict(self._service.models.active().information)
        except ModelUnavailable:
            return {'status': 'No model loaded'}

    async def about(self, *_: Any) -> Answer:
        """Describe the node: what it does, the active model and since when it is active.

        :return: the same object as `GET /about`.
        """
        return self._service.about.about()

    async def get_model_version(self, *_: Any) -> Answer:
        """Name the model versions in service, wanted and installed.

        :return: the same object as `GET /model_version`.
        """
        return asdict(await asyncio.to_thread(self._service.models.versions))

    async def set_model_version_mode(self, _: str, payload: Any) -> Answer:
        """Follow the Loop's deployment target, pause, or serve one version.

        :param payload: `'follow_loop'`, `'pause'` or a version.
        :return: `{'status': 'OK'}`.
        """
        await self._service.models.set_mode(_string(payload, 'the mode or version'))
        return {'status': 'OK'}

    async def get_outbox_mode(self, *_: Any) -> Answer:
        """Return the mode of the outbox: sending or stopped.

        :return: `{'outbox_mode': 'continuous_upload'}` or `{'outbox_mode': 'stopped'}`.
        """
        return {'outbox_mode': self._service.outbox.mode()}

    async def set_outbox_mode(self, _: str, payload: Any) -> Answer:
        """Start or stop sending images to the Loop.

        :param payload: `'continuous_upload'` or `'stopped'`.
        :return: `{'status': 'OK'}`.
        """
        await self._service.outbox.set_mode(_string(payload, 'the outbox mode'))
        return {'status': 'OK'}

    def _image(self, payload: Any) -> ImageData:
        return images.from_payload(payload, max_pixels=self._max_pixels)


def _object(payload: Any) -> Mapping[str, Any]:
    if not isinstance(payload, Mapping):
        raise InvalidRequest(f'the payload must be an object, not {type(payload).__name__}')
    return payload


def _string(payload: Any, what: str) -> str:
    if not isinstance(payload, str):
        raise InvalidRequest(f'{what} must be sent as a string, not {type(payload).__name__}')
    return payload


EVENTS: Final[dict[str, Callable[[Handlers, str, Any], Awaitable[Answer]]]] = {
    'detect': Handlers.detect,
    'batch_detect': Handlers.batch_detect,
    'poses': Handlers.poses,
    'upload': Handlers.upload,
    'info': Handlers.info,
    'about': Handlers.about,
    'get_model_version': Handlers.get_model_version,
    'set_model_version_mode': Handlers.set_model_version_mode,
    'get_outbox_mode': Handlers.get_outbox_mode,
    'set_outbox_mode': Handlers.set_outbox_mode,
}
"""Handlers by event; each takes the id of the client and the payload."""


class EventServer:
    """A Socket.IO server with all events registered. `AccessControl` checks the origin before a request gets here.

    :param clients: ids of the connected clients; kept up to date.
    """

    def __init__(
        self,
        service: Service,
        settings: Settings,
        *,
        access_policy: AccessPolicy,
        drain: Drain,
        in_flight: InFlight,
        metrics: Metrics,
        clients: list[str],
    ) -> None:
        Payload.max_decode_packets = MAX_BATCH + 16  # in one polling request; the library silently drops further ones
        seconds = settings.body_seconds
        self.sio = socketio.AsyncServer(
            async_mode='asgi',
            max_http_buffer_size=settings.max_frame_mib * 1024**2,
            cors_allowed_origins=[],
            serializer=TolerantPacket.counted_by(in_flight, seconds=seconds),
            json=TolerantJson,
        )
        self.guard = ConnectionGuard(self.sio, access_policy, max_clients=settings.max_clients, seconds=seconds)
        asgi = EngineIoGuard(socketio.ASGIApp(self.sio, socketio_path=SOCKETIO_PATH))
        self.app = HandshakeMiddleware(asgi, self.guard, seconds=seconds)
        """The ASGI app to mount at `/ws`."""
        self._drain = drain
        self._metrics = metrics
        self._clients = clients
        self._logged = OnceASecond()
        handlers = Handlers(service, max_pixels=settings.max_image_pixels)
        for name, handler in EVENTS.items():
            answer = partial(self._answer, name, partial(handler, handlers))
            self.sio.on(name, observed_event(metrics, name, answer))
        self.sio.on('connect', self._connect)
        self.sio.on('disconnect', self._disconnect)
        self.sio.on('*', self._unknown)

    async def _connect(self, sid: str, *details: Any) -> Answer | None:
        if not details or details[0] is not self.sio.get_environ(sid):  # a client has sent an event of this name
            return refused_event(self._metrics, InvalidRequest("'connect' is not an event that clients may send"))
        await self.guard.admit(sid, *details)
        self._clients.append(sid)
        return None

    async def _disconnect(self, sid: str, *_: Any) -> Answer:
        if not self.sio.manager.is_connected(sid, '/'):  # else a client has sent an event of this name
            self.guard.leave(sid)
            if sid in self._clients:
                self._clients.remove(sid)
        return {'error': "'disconnect' is not an event that clients may send"}

    async def _unknown(self, event: str, sid: str, *payload: Any) -> Answer:
        if event != UNREADABLE:
            known = ', '.join(EVENTS)
            return refused_event(self._metrics, InvalidRequest(f'unknown event {event!r}; known are {known}'))
        why, *name = payload or ('',)
        if not isinstance(why, WholebodyError):
            return refused_event(self._metrics, InvalidRequest(f'the message cannot be read: {why}'))
        known_name = name[0] if name and name[0] in EVENTS else None
        self._log_refusal(known_name or 'an unknown event', why)
        return refused_event(self._metrics, why, known_name)

    async def _answer(
        self, name: str, handler: Callable[[str, Any], Awaitable[Answer]], sid: str, *payload: Any
    ) -> Answer:
        """Answer an event in any case: with an error if the node is ending, the event is malformed or it fails."""
        if self._drain.begun:
            return _refused(self._drain.refusal())
        with self._drain.work() as work, self.guard.running(sid):
            try:
                if not self.guard.knows(sid):
                    raise Unauthorized('this client is not authorized')
                if len(payload) > 1:
                    raise InvalidRequest(f'{name} takes one payload, not {len(payload)}')
                return await handler(sid, payload[0] if payload else None)
            except asyncio.CancelledError:
                if not work.resume_if_cut_off():
                    raise
                return _refused(cut_off())
            except WholebodyError as error:
                self._log_refusal(name, error)
                return _refused(error)
            except Exception as error:
                note_error(error)
                log.exception('the event %s failed', name)
                return {'error': f"{name} failed inside the node; see the node's log"}

    def _log_refusal(self, name: str, error: WholebodyError) -> None:
        if self._logged.due(name):
            log.warning('%s is answered with an error: %s', name, error)


def _refused(error: WholebodyError) -> Answer:
    note_error(error)
    return {'error': str(error)}
