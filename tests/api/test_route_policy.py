"""The policy table and the routes of the app agree."""

import os
from pathlib import Path
from unittest.mock import patch

import pytest
from fastapi.routing import iter_route_contexts

from detector.api.route_policy import DEFAULT, EXACT, OPEN_PATHS, PREFIXES, Access, policy_of
from detector.node.wholebody_node import WholebodyNode
from detector.page.install import install_page
from detector.settings import Settings

UNDER_DEFAULT = {
    '/debug_logging',
    '/docs',
    '/docs/oauth2-redirect',
    '/model_version',
    '/operation_mode',
    '/outbox',
    '/outbox_mode',
    '/redoc',
    '/reset',
    '/socketio',
    '/upload',
    '/ws',
}
"""Routes for which `DEFAULT` was chosen on purpose."""


@pytest.fixture
def routes(tmp_path: Path) -> set[str]:
    """The paths of all routes and mounted apps of a node, those for tests included."""
    with patch.dict(os.environ):  # the node writes its settings there
        node = WholebodyNode(Settings(data_folder=tmp_path, use_backdoor_controls=True))
    install_page(node, node.parts)
    return {route.path for route in iter_route_contexts(node.routes) if route.path}


def test_every_route_has_a_row_or_was_left_to_the_default(routes: set[str]) -> None:
    """A new route fails here until its author adds a row or lists it under the default."""
    assert {path for path in routes if policy_of(path) == DEFAULT} == UNDER_DEFAULT


def test_every_row_belongs_to_a_route(routes: set[str]) -> None:
    """A renamed route leaves no row behind."""
    assert set(EXACT) <= routes
    mounts = tuple(path for path in routes if path != '/')
    for prefix in PREFIXES:
        assert prefix.startswith(mounts) or any(path.startswith(prefix) for path in routes), prefix


def test_the_default_is_closed() -> None:
    """A path without a row needs the token, is counted, has a bounded body and is refused during a shutdown."""
    assert policy_of('/no/such/path') == DEFAULT
    assert DEFAULT.access is Access.TOKEN
    assert DEFAULT.counted
    assert DEFAULT.body_factor == 1
    assert not DEFAULT.open_while_draining
    assert not DEFAULT.polls


def test_only_the_exact_path_is_open() -> None:
    """A path that merely begins or ends like an open one needs the token."""
    for path in OPEN_PATHS:
        for other in (f'{path}/', f'/{path}', f'{path}x'):
            assert policy_of(other).access is Access.TOKEN, other


@pytest.mark.parametrize('path', ['/ws/socket.io', '/ws/socket.io/', '/ui/_nicegui_ws/socket.io/'])
def test_polls_of_both_socketio_servers_are_idle(path: str) -> None:
    """Polls do not count towards MAX_REQUESTS, and only the node's own Socket.IO server checks tokens itself."""
    assert policy_of(path).polls
    assert not policy_of(path).counted
    assert (policy_of(path).access is Access.EVENTS) == path.startswith('/ws/')
