"""Socket.IO events of the mock. Trainers and annotators connect with the cookie of their login."""

import asyncio
from collections.abc import Callable
from http.cookies import SimpleCookie
from typing import Any, Final

import socketio

from .errors import Unknown
from .project import now
from .state import COOKIE, Loop

SOCKETIO_PATH: Final = 'socket.io'
"""Path below the mount point /ws."""
CALL_SECONDS: Final = 10
"""Time limit for the answer of a node, in seconds."""
_SUCCESS: Final = {'success': True, 'error_msg': None, 'payload': None}

Answer = dict[str, Any]


def make_server() -> Any:
    """Return a socketio.AsyncServer without events."""
    return socketio.AsyncServer(async_mode='asgi', max_http_buffer_size=16 * 1024**2)


def register(loop: Loop) -> None:
    """Register the events that nodes send."""
    events = _Events(loop)
    for name in ('connect', 'disconnect', 'update_trainer', 'update_training', 'update_annotation_node',
                 'update_segmentation_annotation'):  # fmt: skip
        loop.sio.on(name, getattr(events, name))


async def emit(loop: Loop, event: str, arguments: list[Any], node_type: str | None) -> list[dict[str, Any]]:
    """Send an event to the connected nodes and collect their answers.

    :param node_type: `trainer`, `annotation_node` …; None for all nodes.
    :return: per node its session, type and name, and `answer` or `error`.
    """
    chosen = {sid: node for sid, node in loop.nodes.items() if node_type in (None, node['node_type'])}

    async def call(sid: str) -> dict[str, Any]:
        try:
            answer = await loop.sio.call(event, tuple(arguments), to=sid, timeout=CALL_SECONDS)
        except Exception as error:  # a missing answer is a result, too
            return {'error': type(error).__name__}
        return {'answer': answer}

    results = await asyncio.gather(*map(call, chosen))
    return [
        {'sid': sid, 'node_type': node['node_type'], 'name': (node['status'] or {}).get('name')} | result
        for (sid, node), result in zip(chosen.items(), results, strict=True)
    ]


class _Events:
    def __init__(self, loop: Loop) -> None:
        self._loop = loop

    async def connect(self, sid: str, environ: dict[str, Any], auth: Any = None) -> None:
        cookie: SimpleCookie = SimpleCookie(environ.get('HTTP_COOKIE', ''))
        token = cookie[COOKIE].value if COOKIE in cookie else None
        if not self._loop.sessions.valid(token):
            raise socketio.exceptions.ConnectionRefusedError('not logged in')
        self._loop.nodes[sid] = {
            'organization': environ.get('HTTP_ORGANIZATION'),
            'project': environ.get('HTTP_PROJECT'),
            'node_type': environ.get('HTTP_NODETYPE'),
            'connected': now(),
            'status': None,
        }

    async def disconnect(self, sid: str, reason: Any = None) -> None:
        self._loop.nodes.pop(sid, None)

    async def update_trainer(self, sid: str, status: Any = None) -> Answer:
        return self._note_status(sid, status)

    async def update_annotation_node(self, sid: str, status: Any = None) -> Answer:
        return self._note_status(sid, status)

    def _note_status(self, sid: str, status: Any) -> Answer:
        if not isinstance(status, dict):
            return _failure('the status must be an object')
        self._loop.nodes[sid]['status'] = status
        return _SUCCESS

    async def update_training(
        self, sid: str, organization: Any = None, project: Any = None, training: Any = None
    ) -> Answer:
        def store() -> None:
            with self._loop.store.project(organization, project).change() as state:
                state.trainings.append({'received': now(), **training})

        if not isinstance(training, dict):
            return _failure('the training must be an object')
        return await _stored(store)

    async def update_segmentation_annotation(
        self, sid: str, organization: Any = None, project: Any = None, annotation: Any = None
    ) -> Answer:
        def store() -> None:
            found = self._loop.store.project(organization, project)
            found.add_detections([{'segmentation_annotation': annotation}])

        return await _stored(store)


async def _stored(store: Callable[[], None]) -> Answer:
    try:
        await asyncio.to_thread(store)
    except Unknown as error:
        return _failure(str(error))
    return _SUCCESS


def _failure(message: str) -> Answer:
    return {'success': False, 'error_msg': message, 'payload': None}
