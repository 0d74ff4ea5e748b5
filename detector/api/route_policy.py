"""The rules for each route: who may use it, how large its body may be, and how it behaves during a shutdown.

One table holds what access control, limits, shutdown, request log and OpenAPI document need to know of a path. A path
without a row falls under `DEFAULT`: it needs the token, counts towards MAX_REQUESTS, accepts MAX_BODY_MIB and is
refused during a shutdown. A new route is therefore closed until its author adds a row.
"""

from dataclasses import dataclass
from enum import Enum, auto
from typing import Final


class Access(Enum):
    """The credential that a route needs."""

    TOKEN = auto()
    """API_TOKEN or a session of the login page."""
    OPEN = auto()
    """None for GET and HEAD: the answer contains no image and no credential, and probes send no token."""
    LOGIN = auto()
    """None for any method: the login page."""
    LABEL_STUDIO = auto()
    """API_TOKEN, or the user name and password of Label Studio."""
    EVENTS = auto()
    """API_TOKEN in a header or in the Socket.IO handshake; `ConnectionGuard` checks it."""


@dataclass(frozen=True, slots=True, kw_only=True)
class RoutePolicy:
    """The rules for one path, or for all paths that begin with it.

    :param max_body_bytes: size limit of a body; None for `body_factor` times MAX_BODY_MIB.
    :param max_body_seconds: time limit for receiving a body, if it is below BODY_SECONDS.
    :param counted: True if the request counts towards MAX_REQUESTS.
    :param needs_engine: True to refuse a POST before reading its body while the queue of the engine is full.
    :param open_while_draining: True if the route answers during a shutdown.
    :param polls: True for requests that wait for events, as Socket.IO polls do; they end last during a shutdown. Only
        these paths take WebSockets.
    :param shows_images: True if browsers load images from the route with a GET, for which they send no Origin.
    :param is_probe: True if a 503 is a regular answer, which is not logged as a fault.
    """

    access: Access = Access.TOKEN
    max_body_bytes: int | None = None
    body_factor: int = 1
    max_body_seconds: float | None = None
    counted: bool = True
    needs_engine: bool = False
    open_while_draining: bool = False
    polls: bool = False
    shows_images: bool = False
    is_probe: bool = False


DEFAULT: Final = RoutePolicy()
SOCKETIO_PATH: Final = '/ws/socket.io'
MAX_COMMAND_BYTES: Final = 1024
"""Size limit for the body of a PUT request, in bytes. Such a body is a word or a version."""

_OPEN: Final = RoutePolicy(access=Access.OPEN)
_LOGIN: Final = RoutePolicy(access=Access.LOGIN, max_body_bytes=8 * 1024, max_body_seconds=5.0, counted=False)
"""Policy of the login form. It is small, and not counted, so unauthenticated clients cannot use up MAX_REQUESTS."""
_LABEL_STUDIO: Final = RoutePolicy(access=Access.LABEL_STUDIO)
_LARGE: Final = RoutePolicy(access=Access.LABEL_STUDIO, body_factor=2)
"""Policy for hundreds of tasks at once, with all their annotations and predictions."""
_IMAGES: Final = RoutePolicy(needs_engine=True)

_EVENTS: Final = RoutePolicy(access=Access.EVENTS, counted=False, polls=True)

EXACT: Final = {
    '/': _OPEN,
    '/about': RoutePolicy(access=Access.OPEN, counted=False),
    '/health': RoutePolicy(access=Access.OPEN, counted=False, open_while_draining=True),
    '/metrics': RoutePolicy(access=Access.OPEN, counted=False, open_while_draining=True),
    '/openapi.json': _OPEN,
    '/ready': RoutePolicy(access=Access.OPEN, counted=False, is_probe=True),
    '/login': _LOGIN,
    '/logout': _LOGIN,
    '/detect': _IMAGES,
    '/poses': _IMAGES,
    '/setup': _LABEL_STUDIO,
    '/train': _LABEL_STUDIO,
    '/validate': _LABEL_STUDIO,
    '/versions': _LABEL_STUDIO,
    '/predict': _LARGE,
    '/webhook': _LARGE,
}
"""Rules by path. Probes (`/about`, `/health`, `/metrics`, `/ready`) are not counted, so they work on a busy node."""
PREFIXES: Final = {
    f'{SOCKETIO_PATH}/': _EVENTS,
    '/ui/_nicegui_ws/socket.io/': RoutePolicy(counted=False, polls=True, shows_images=True),
    '/ui': RoutePolicy(shows_images=True),
    '/outbox/': RoutePolicy(shows_images=True),
}
"""Rules by the beginning of a path; the first match applies. MAX_CLIENTS bounds the connections of Socket.IO."""
OPEN_PATHS: Final = frozenset(path for path, policy in EXACT.items() if policy.access is Access.OPEN)


def policy_of(path: str) -> RoutePolicy:
    """Return the rules for a path."""
    found = EXACT.get(path)
    if found is not None:
        return found
    if path == SOCKETIO_PATH:
        path += '/'
    return next((policy for prefix, policy in PREFIXES.items() if path.startswith(prefix)), DEFAULT)
