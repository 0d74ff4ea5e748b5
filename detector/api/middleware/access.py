"""Who may do what: API_TOKEN, Label Studio's user name and password, the sessions of the login page, and origins.

Everything is closed that is not listed here, mounted apps and their WebSockets too, so that nobody has to think of it
who adds a route.
"""

import asyncio
import base64
import hashlib
import ipaddress
import logging
import math
import secrets
import socket
import time
from typing import Final
from urllib.parse import quote, urlsplit

from starlette.applications import Starlette
from starlette.middleware.cors import CORSMiddleware
from starlette.requests import HTTPConnection
from starlette.responses import RedirectResponse, Response
from starlette.types import ASGIApp, Receive, Scope, Send

from detector.api.error_answers import answer
from detector.errors import ForeignOrigin, Unauthorized, WholebodyError
from detector.observability.logs import OnceASecond
from detector.settings import DEFAULT_PORTS, Settings

log = logging.getLogger('wholebody.access')

OPEN_PATHS: Final = frozenset({'/', '/health', '/ready', '/about', '/metrics', '/openapi.json'})
"""Read without the token: nothing of it is an image, a credential, or changes anything; probes carry no token."""
LOGIN_PATHS: Final = frozenset({'/login', '/logout'})
LABEL_STUDIO_PATHS: Final = frozenset({'/setup', '/predict', '/webhook', '/train', '/validate', '/versions'})
SOCKETIO_PATH: Final = '/ws/socket.io'
"""Where clients show the token when they connect, or in a header (`sio_access`)."""
AUTHORIZED: Final = 'wholebody.authorized'
"""Key of the ASGI scope: whether the request itself carries what lets it in."""
_READ_BY_PAGES: Final = ('/ui', '/outbox/')
"""What begins so carries images in answer to a GET, with which browsers send no `Origin`."""
SESSION_SECONDS: Final = 7 * 24 * 3600
_MAX_SESSIONS: Final = 1000
_ATTEMPT_SECONDS: Final = 0.25
"""So long a wrong token or password waits for its answer."""
_BEARER: Final = 'Bearer realm="wholebody"'
_BASIC: Final = 'Basic realm="wholebody"'
_WEBHOOK_REMEDY: Final = (
    'a webhook came without the user name and password that the node asks for; Label Studio creates webhooks without: '
    '`wholebody labelstudio init` gives them theirs, as does PATCH /api/webhooks/ID '
    '{"headers": {"Authorization": "Basic …"}}'
)


def install(app: Starlette, settings: Settings, access_policy: 'AccessPolicy') -> None:
    """Put an app behind an access policy, and let browsers know which other origins may use it."""
    app.add_middleware(AccessControl, settings=settings, access_policy=access_policy)
    if settings.cors_origins:
        app.add_middleware(
            CORSMiddleware,
            allow_origins=settings.cors_origins.split(','),
            allow_methods=['*'],
            allow_headers=['*'],
            expose_headers=['Retry-After'],
        )


class AccessPolicy:
    """Knows who may come in; one per node."""

    def __init__(self, settings: Settings) -> None:
        self.sessions = _Sessions()
        self.cookie = f'wholebody_{settings.backend_port}'
        """Name of the session's cookie; with the port, since browsers show cookies to all ports of a host."""
        self._token = None if settings.api_token is None else settings.api_token.get_secret_value()
        self._login = settings.label_studio_login
        self._any_name = settings.basic_auth_user is None
        self._logged = OnceASecond()
        self._unlogged = 0

    @property
    def has_token(self) -> bool:
        """Whether a token is asked for at all."""
        return self._token is not None

    def accepts_token(self, given: object) -> bool:
        """Whether this is API_TOKEN; anything is where none is asked for."""
        return self._token is None or (isinstance(given, str) and _same(given, self._token))

    def allows(self, connection: HTTPConnection) -> bool:
        """Whether a request carries the token, or the cookie of a session.

        Cookies count from the node's own pages only: browsers send them along from every port of the same host.
        """
        scheme, _, given = connection.headers.get('authorization', '').partition(' ')
        if scheme.lower() == 'bearer' and self.accepts_token(given.strip()):
            return True
        known = self.sessions.knows(connection.cookies.get(self.cookie, ''))
        return self._token is None or (known and is_own_page(connection))

    def allows_label_studio(self, connection: HTTPConnection) -> bool:
        """Whether a request may use Label Studio's routes: by user name and password, or as `admits` has it."""
        if self._login is None or (self.has_token and self.allows(connection)):
            return True
        scheme, _, given = connection.headers.get('authorization', '').partition(' ')
        if scheme.lower() != 'basic':
            return False
        user, password = self._login
        if self._any_name:
            return _same(_decoded(given).partition(':')[2], password)
        # Label Studio's HTTP library encodes in Latin-1 what fits into it, others in UTF-8
        encodings = [base64.b64encode(f'{user}:{password}'.encode(name, 'replace')) for name in ('utf-8', 'latin-1')]
        return any([secrets.compare_digest(given.strip().encode(), encoded) for encoded in encodings])

    async def delay_failed_attempt(self, who: str) -> None:
        """Let somebody wait who has shown a wrong token or password; the log says so, not more than once a second.

        Nobody is locked out: who has the right token comes in at once.
        """
        self._unlogged += 1
        if self._logged.due():
            log.warning('a wrong token or password from %s (%d since this was last said)', who, self._unlogged)
            self._unlogged = 0
        await asyncio.sleep(_ATTEMPT_SECONDS)

    def unauthorized(self, connection: HTTPConnection) -> Unauthorized:
        """What to tell somebody who may not come in."""
        path = connection.scope['path']
        if path in LABEL_STUDIO_PATHS or path in OPEN_PATHS:
            if path == '/webhook':
                log.warning(_WEBHOOK_REMEDY)
            names = 'any user name, API_TOKEN' if self._any_name else 'BASIC_AUTH_USER, BASIC_AUTH_PASS'
            return Unauthorized(f'user name or password ({names}) are missing or wrong', challenge=_BASIC)
        if 'authorization' in connection.headers:
            return Unauthorized('the token is wrong, or no bearer token (API_TOKEN)', challenge=_BEARER)
        return Unauthorized('this node asks for its token: `Authorization: Bearer API_TOKEN`', challenge=_BEARER)


class AccessControl:
    """ASGI middleware: lets in who carries what is asked for, and no web page of a foreign origin.

    Robots and commands send no `Origin`; browsers do with whatever changes something, and with every WebSocket.
    """

    def __init__(self, app: ASGIApp, *, settings: Settings, access_policy: AccessPolicy) -> None:
        self._app = app
        self._access_policy = access_policy
        self._origins = frozenset(settings.cors_origins.split(',')) - {''}
        self._names = {_host_of(origin) for origin in self._origins}

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope['type'] not in ('http', 'websocket'):
            await self._app(scope, receive, send)
            return
        connection, path = HTTPConnection(scope), scope['path']
        scope[AUTHORIZED] = self._access_policy.allows(connection)
        if path in OPEN_PATHS and scope['type'] == 'http' and scope['method'] in ('GET', 'HEAD'):
            await self._app(scope, receive, send)
        elif self._is_foreign(connection):
            error = ForeignOrigin('a page of another origin may not use this node; CORS_ORIGINS lists those that may')
            await _refuse(error, scope, receive, send)
        elif self._is_strange_name(connection):
            error = ForeignOrigin(
                'without API_TOKEN pages may use this node by its IP address, a name without a dot, or one in .local; '
                'CORS_ORIGINS lists others, as https://node.example'
            )
            await _refuse(error, scope, receive, send)
        elif (
            scope[AUTHORIZED]
            or path in LOGIN_PATHS
            or path.startswith(SOCKETIO_PATH)
            or (path in LABEL_STUDIO_PATHS and self._access_policy.allows_label_studio(connection))
        ):
            await self._app(scope, receive, send)
        elif 'authorization' not in connection.headers and _is_page(connection):
            query = scope['query_string'].decode('latin-1')
            target = quote(path + (f'?{query}' if query else ''))
            await RedirectResponse(f'/login?next={target}', 303)(scope, receive, send)
        else:
            if 'authorization' in connection.headers:
                await self._access_policy.delay_failed_attempt(address_of(connection))
            await _refuse(self._access_policy.unauthorized(connection), scope, receive, send)

    def _is_foreign(self, connection: HTTPConnection) -> bool:
        """Whether a web page of an origin asks that is neither the node's own nor allowed."""
        allowed = self._origins & {'*', connection.headers.get('origin', '').lower()}
        return not allowed and not is_own_page(connection)

    def _is_strange_name(self, connection: HTTPConnection) -> bool:
        """Whether a page may have got here by a name that somebody else has pointed at this node (DNS rebinding).

        Such a page is of the node's own origin, to its browser. It has no token.
        """
        if self._access_policy.has_token or '*' in self._origins:
            return False
        origin = connection.headers.get('origin')
        if origin is not None:
            return origin.lower() not in self._origins and not _is_local(origin)
        host = connection.headers.get('host', '').lower()
        known = {host, host.removesuffix(':80'), host.removesuffix(':443')} & self._names
        return connection.scope['path'].startswith(_READ_BY_PAGES) and not known and not _is_local(f'http://{host}')


class _Sessions:
    """Of people who have shown the token on the login page; kept in memory, so that a restart ends them."""

    def __init__(self) -> None:
        self._ends: dict[bytes, float] = {}

    def open(self) -> str:
        """Begin a session.

        :return: the value of its cookie: random, and only its hash is kept.
        """
        while len(self._ends) >= _MAX_SESSIONS:
            del self._ends[next(iter(self._ends))]
        value = secrets.token_urlsafe(32)
        self._ends[_digest(value)] = time.monotonic() + SESSION_SECONDS
        return value

    def knows(self, value: str) -> bool:
        return self._ends.get(_digest(value), -math.inf) > time.monotonic()

    def close(self, value: str) -> None:
        self._ends.pop(_digest(value), None)


def address_of(connection: HTTPConnection) -> str:
    """Where a request comes from, for the log."""
    return 'an unknown address' if connection.client is None else connection.client.host


def _digest(value: str) -> bytes:
    return hashlib.sha256(value.encode(errors='replace')).digest()


def _same(given: str, expected: str) -> bool:
    """In a time that does not tell how much of it is right."""
    return secrets.compare_digest(given.encode(errors='replace'), expected.encode())


def _decoded(basic: str) -> str:
    try:
        return base64.b64decode(basic.strip(), validate=True).decode('latin-1')
    except ValueError:
        return ''


def is_own_page(connection: HTTPConnection) -> bool:
    """Whether a page of this node asks, or no page at all.

    A proxy may have put its own host into Host; no page can set X-Forwarded-Host without being asked for its origin.
    """
    origin = connection.headers.get('origin')
    if origin is None:
        return True
    forwarded = connection.headers.get('x-forwarded-host', '').partition(',')[0].strip()
    own = {connection.headers.get('host', ''), forwarded} - {''}
    return _host_of(origin) in {host.lower().removesuffix(_port_of(origin)) for host in own}


def _host_of(origin: str) -> str | None:
    """Host and port; None for `null`, the origin of local files and sandboxes."""
    try:
        return urlsplit(origin).netloc.lower().removesuffix(_port_of(origin)) or None
    except ValueError:
        return None


def _is_local(origin: str) -> bool:
    """Whether nobody elsewhere can own the name in it: an address, no dot, in .local, or this machine's own."""
    try:
        name = (urlsplit(origin).hostname or '').removesuffix('.')
    except ValueError:
        return False
    try:
        ipaddress.ip_address(name)
    except ValueError:
        return name != '' and ('.' not in name or name.endswith('.local') or name == socket.gethostname().lower())
    return True


def _port_of(origin: str) -> str:
    """The port that may be left out."""
    return DEFAULT_PORTS.get(origin.partition('://')[0].lower(), ':')


def _is_page(connection: HTTPConnection) -> bool:
    """Whether a browser wants to show this, so that the login page is the better answer."""
    scope = connection.scope
    return scope['type'] == 'http' and scope['method'] == 'GET' and 'text/html' in connection.headers.get('accept', '')


async def _refuse(error: WholebodyError, scope: Scope, receive: Receive, send: Send) -> None:
    """Answer a request, or the handshake of a WebSocket, without reading its body."""
    response: Response = answer(error)
    if scope['type'] == 'websocket':
        await receive()
        if 'websocket.http.response' not in scope.get('extensions', {}):
            await send({'type': 'websocket.close', 'code': 1008, 'reason': str(error)[:100]})
            return
    await response(scope, receive, send)  # for a WebSocket Starlette prefixes the messages
