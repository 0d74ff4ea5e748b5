"""The state of a running mock Learning Loop, and the access of routes to it."""

import itertools
import secrets
import threading
from collections import deque
from dataclasses import dataclass, field
from pathlib import Path
from typing import Annotated, Any, Final, cast

from fastapi import Depends, HTTPException, Request

from .faults import Faults
from .project import Project
from .store import LoopStore

COOKIE: Final = 'session'
REQUESTS_KEPT: Final = 2000
_SESSIONS_KEPT: Final = 1000


class Sessions:
    """The logins. They are not stored: after a restart every client has to log in again.

    :param username: None if every client may log in, also with empty credentials.
    """

    def __init__(self, username: str | None, password: str) -> None:
        self._credentials = username, password
        self._lock = threading.Lock()
        self._tokens: deque[str] = deque(maxlen=_SESSIONS_KEPT)

    def login(self, username: str, password: str) -> str | None:
        """Return a token for the cookie, or None if the credentials are wrong."""
        if self._credentials[0] is not None and (username, password) != self._credentials:
            return None
        token = secrets.token_urlsafe(24)
        with self._lock:
            self._tokens.append(token)
        return token

    def valid(self, token: str | None) -> bool:
        with self._lock:
            return token in self._tokens

    def logout(self, token: str | None = None) -> None:
        """End the session of a token, or all sessions without a token."""
        with self._lock:
            kept = [known for known in self._tokens if token is not None and known != token]
            self._tokens = deque(kept, maxlen=_SESSIONS_KEPT)


class RequestLog:
    """The latest requests to the Loop's own paths, oldest first."""

    def __init__(self) -> None:
        self._numbers = itertools.count(1)
        self.entries: deque[dict[str, Any]] = deque(maxlen=REQUESTS_KEPT)

    def add(self, **entry: Any) -> dict[str, Any]:
        """Add and return an entry. Its `status` is filled in when the request is answered."""
        numbered: dict[str, Any] = {'number': next(self._numbers), **entry}
        self.entries.append(numbered)
        return numbered


@dataclass(slots=True, kw_only=True)
class Loop:
    """A running mock.

    :param sio: the socketio.AsyncServer that trainers and annotators connect to.
    :param nodes: organization, project, node type and latest status by Socket.IO session.
    """

    store: LoopStore
    sessions: Sessions
    sio: Any
    faults: Faults = field(default_factory=Faults)
    requests: RequestLog = field(default_factory=RequestLog)
    nodes: dict[str, dict[str, Any]] = field(default_factory=dict)

    @property
    def broken_files(self) -> Path:
        """Folder of the broken copies of model files."""
        return self.store.folder / 'broken-files'


def loop_of(request: Request) -> Loop:
    return cast(Loop, request.app.state.loop)


def project_of(request: Request, organization: str, project: str) -> Project:
    return loop_of(request).store.project(organization, project)


def require_login(request: Request) -> None:
    """Require a valid cookie.

    :raises HTTPException: 401, the request has no valid cookie.
    """
    if not loop_of(request).sessions.valid(request.cookies.get(COOKIE)):
        raise HTTPException(401, 'not logged in')


def example(content: Any, description: str = '') -> dict[int | str, dict[str, Any]]:
    """Return the example of a 200 answer for the OpenAPI page."""
    return {200: {'content': {'application/json': {'example': content}}, 'description': description or 'OK'}}


CurrentLoop = Annotated[Loop, Depends(loop_of)]
CurrentProject = Annotated[Project, Depends(project_of)]
Login: Final = Depends(require_login)
