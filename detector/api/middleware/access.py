"""Access control: API_TOKEN, Label Studio's user name and password, sessions of the login page, and web origins.

`route_policy` says which credential a path needs. Mounted apps and their WebSockets are closed like any other path.
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
from starlette.types import ASGIApp, Message, Receive, Scope, Send
from starlette.websockets import WebSocketClose

from detector.api.error_answers import answer
from detector.api.route_policy import Access, policy_of
from detector.errors import ForeignOrigin, Unauthorized, WholebodyError
from detector.observability.logs import OnceASecond
from detector.setting_types import DEFAULT_PORTS
from detector.settings import Settings

log = logging.getLogger('wholebody.access')

AUTHORIZED: Final = 'wholebody.authorized'
"""Key of the ASGI scope; its value is True if the request itself carries the token or a session."""
SESSION_SECONDS: Final = 7 * 24 * 3600
"""Life of a session of the login page, in seconds."""
_MAX_SESSIONS: Final = 1000
_ATTEMPT_SECONDS: Final = 0.25
"""Delay of the answer to a wrong token or password, in seconds."""
_BEARER: Final = 'Bearer realm="wholebody"'
_BASIC: Final = 'Basic realm="wholebody"'
_PROTECTION: Final = (
    (b'content-security-policy', b"frame-ancestors 'none'"),
    (b'x-content-type-options', b'nosniff'),
)
"""Headers of each answer: no page may show it in a frame, and browsers do not guess its type."""
_WEBHOOK_REMEDY: Final = (
    'a webhook arrived without the required user name and password; Label Studio creates webhooks without credentials: '
    '`wholebody labelstudio init` adds them, as does PATCH /api/webhooks/ID {"headers": {"Authorization": "Basic …"}}'
)


def install(app: Starlette, settings: Settings, access_policy: 'AccessPolicy') -> None:
    """Add access control to an app, and tell browsers which other origins may use it."""
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
    """Checks credentials against the settings. A node has one instance."""

    def __init__(self, settings: Settings) -> None:
        self.sessions = _Sessions()
        self.cookie = f'wholebody_{settings.backend_port}'
        """Name of the session cookie. It contains the port, since browsers send cookies to all ports of a host."""
        self._token = None if settings.api_token is None else settings.api_token.get_secret_value()
        self._login = settings.label_studio_login
        self._any_name = settings.basic_auth_user is None
        self._logged = OnceASecond()
        self._unlogged = 0

    @property
    def has_token(self) -> bool:
        """True if the node requires a token."""
        return self._token is not None

    def accepts_token(self, given: object) -> bool:
        """Return True if the value is API_TOKEN, or if the node requires no token."""
        return self._token is None or (isinstance(given, str) and _same(given, self._token))

    def allows(self, connection: HTTPConnection) -> bool:
        """Return True if a request carries the token or the cookie of a session.

        A cookie counts only in requests from the node's own pages: browsers send it from every port of the host.
        """
        scheme, _, given = connection.headers.get('authorization', '').partition(' ')
        if scheme.lower() == 'bearer' and self.accepts_token(given.strip()):
            return True
        known = self.sessions.knows(connection.cookies.get(self.cookie, ''))
        return self._token is None or (known and is_own_page(connection))

    def allows_label_studio(self, connection: HTTPConnection) -> bool:
        """Return True if a request may use Label Studio's routes: by user name and password, or by `allows`."""
        if self._login is None or (self.has_token and self.allows(connection)):
            return True
        scheme, _, given = connection.headers.get('authorization', '').partition(' ')
        if scheme.lower() != 'basic':
            return False
        user, password = self._login
        if self._any_name:
            return _same(_decoded(given).partition(':')[2], password)
        # Label Studio's HTTP library encodes in Latin-1 where possible, other clients encode in UTF-8
        encodings = [base64.b64encode(f'{user}:{password}'.encode(name, 'replace')) for name in ('utf-8', 'latin-1')]
        return any([secrets.compare_digest(given.strip().encode(), encoded) for encoded in encodings])

    async def delay_failed_attempt(self, address: str) -> None:
        """Delay the answer to a wrong token or password, and log the attempt at most once a second.

        The delay locks out no client: a request with the right token is answered at once.
        """
        self._unlogged += 1
        if self._logged.due():
            log.warning('a wrong token or password from %s (%d since the last such line)', address, self._unlogged)
            self._unlogged = 0
        await asyncio.sleep(_ATTEMPT_SECONDS)

    def unauthorized(self, connection: HTTPConnection) -> Unauthorized:
        """Return the error for a request that lacks the credential of its route."""
        path = connection.scope['path']
        if policy_of(path).access in (Access.LABEL_STUDIO, Access.OPEN):
            if path == '/webhook':
                log.warning(_WEBHOOK_REMEDY)
            names = 'any user name, API_TOKEN' if self._any_name else 'BASIC_AUTH_USER, BASIC_AUTH_PASS'
            return Unauthorized(f'user name or password ({names}) is missing or wrong', challenge=_BASIC)
        if 'authorization' in connection.headers:
            return Unauthorized('the token is wrong, or not sent as a bearer token (API_TOKEN)', challenge=_BEARER)
        return Unauthorized('this node requires its token: `Authorization: Bearer API_TOKEN`', challenge=_BEARER)


class AccessControl:
    """ASGI middleware that refuses requests without the required credential, and web pages of foreign origins.

    Robots and commands send no `Origin`. Browsers send it with every request that changes something, and with every
    WebSocket.
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
        send = _protecting(send)
        connection, path = HTTPConnection(scope), scope['path']
        scope[AUTHORIZED] = self._access_policy.allows(connection)
        access = policy_of(path).access
        is_nowhere = scope['type'] == 'websocket' and not policy_of(path).polls
        app = WebSocketClose() if is_nowhere else self._app  # routes and static files fail with a traceback
        if access is Access.OPEN and scope['type'] == 'http' and scope['method'] in ('GET', 'HEAD'):
            await app(scope, receive, send)
        elif (fault := self._origin_fault(connection)) is not None:
            await _refuse(fault, scope, receive, send)
        elif (
            scope[AUTHORIZED]
            or access in (Access.LOGIN, Access.EVENTS)
            or (access is Access.LABEL_STUDIO and self._access_policy.allows_label_studio(connection))
        ):
            await app(scope, receive, send)
        elif 'authorization' not in connection.headers and _is_page(connection):
            query = scope['query_string'].decode('latin-1')
            target = quote(path + (f'?{query}' if query else ''))
            await RedirectResponse(f'/login?next={target}', 303)(scope, receive, send)
        else:
            if 'authorization' in connection.headers:
                await self._access_policy.delay_failed_attempt(address_of(connection))
            await _refuse(self._access_policy.unauthorized(connection), scope, receive, send)

    def _origin_fault(self, connection: HTTPConnection) -> ForeignOrigin | None:
        if self._is_foreign(connection):
            return ForeignOrigin('a page of another origin may not use this node; CORS_ORIGINS lists the allowed ones')
        if self._has_foreign_name(connection):
            return ForeignOrigin(
                'without API_TOKEN, pages may use this node by its IP address, a name without a dot, or one in .local; '
                'CORS_ORIGINS lists other names, such as https://node.example'
            )
        return None

    def _is_foreign(self, connection: HTTPConnection) -> bool:
        """Return True if the request comes from a web page whose origin is neither the node's own nor allowed."""
        allowed = self._origins & {'*', connection.headers.get('origin', '').lower()}
        return not allowed and not is_own_page(connection)

    def _has_foreign_name(self, connection: HTTPConnection) -> bool:
        """Return True if a page may address this node by a name that an attacker controls (DNS rebinding).

        To the browser such a page has the node's own origin. It has no token, so the check applies only without one.
        """
        if self._access_policy.has_token or '*' in self._origins:
            return False
        origin = connection.headers.get('origin')
        if origin is not None:
            return origin.lower() not in self._origins and not _is_local(origin)
        host = connection.headers.get('host', '').lower()
        known = {host, host.removesuffix(':80'), host.removesuffix(':443')} & self._names
        return policy_of(connection.scope['path']).shows_images and not known and not _is_local(f'http://{host}')


class _Sessions:
    """Sessions of users who entered the token on the login page. They are kept in memory; a restart ends them."""

    def __init__(self) -> None:
        self._ends: dict[bytes, float] = {}

    def open(self) -> str:
        """Begin a session.

        :return: random value of its cookie; only its hash is kept.
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
    """Return the address of the client, for the log."""
    return 'an unknown address' if connection.client is None else connection.client.host


def _digest(value: str) -> bytes:
    return hashlib.sha256(value.encode(errors='replace')).digest()


def _same(given: str, expected: str) -> bool:
    """Compare in a time that does not depend on how many characters are right."""
    return secrets.compare_digest(given.encode(errors='replace'), expected.encode())


def _decoded(basic: str) -> str:
    try:
        return base64.b64decode(basic.strip(), validate=True).decode('latin-1')
    except ValueError:
        return ''


def is_own_page(connection: HTTPConnection) -> bool:
    """Return True if the request comes from a page of this node, or from no page at all.

    A proxy may have put its own host into Host. X-Forwarded-Host is safe to read here: a page of another origin can
    only set it after a preflight request, which the node refuses.
    """
    origin = connection.headers.get('origin')
    if origin is None:
        return True
    forwarded = connection.headers.get('x-forwarded-host', '').partition(',')[0].strip()
    own = {connection.headers.get('host', ''), forwarded} - {''}
    return _host_of(origin) in {host.lower().removesuffix(_port_of(origin)) for host in own}


def _host_of(origin: str) -> str | None:
    """Return host and port; None for `null`, the origin of local files and sandboxes."""
    try:
        return urlsplit(origin).netloc.lower().removesuffix(_port_of(origin)) or None
    except ValueError:
        return None


def _is_local(origin: str) -> bool:
    """Return True if the name cannot belong to a public domain: an address, no dot, .local, or this machine's name."""
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
    """Return the default port of the origin's scheme, as `:80`; a URL may omit it."""
    return DEFAULT_PORTS.get(origin.partition('://')[0].lower(), ':')


def _is_page(connection: HTTPConnection) -> bool:
    """Return True if a browser requests a page, so that the login page is the better answer."""
    scope = connection.scope
    return scope['type'] == 'http' and scope['method'] == 'GET' and 'text/html' in connection.headers.get('accept', '')


def _protecting(send: Send) -> Send:
    """Add the headers of `_PROTECTION` to an answer that has none of the same name."""

    async def protected(message: Message) -> None:
        if message['type'] == 'http.response.start':
            headers = list(message.get('headers', ()))
            present = {name.lower() for name, _ in headers}
            missing = [header for header in _PROTECTION if header[0] not in present]
            message = {**message, 'headers': [*headers, *missing]}
        await send(message)

    return protected


async def _refuse(error: WholebodyError, scope: Scope, receive: Receive, send: Send) -> None:
    """Answer a request or a WebSocket handshake without reading its body."""
    response: Response = answer(error)
    if scope['type'] == 'websocket':
        await receive()
        if 'websocket.http.response' not in scope.get('extensions', {}):
            await send({'type': 'websocket.close', 'code': 1008, 'reason': str(error)[:100]})
            return
    await response(scope, receive, send)  # for a WebSocket, Starlette prefixes the messages
