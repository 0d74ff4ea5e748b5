"""The page in a node process, with and without NiceGUI."""

import re
import subprocess
import sys
from pathlib import Path
from urllib.parse import urlencode

import httpx
import pytest
import socketio

from benchmarks.support.cards import CARD, FIGURES, assert_read
from benchmarks.support.processes import NodeProcess, clean_environment, running_node
from benchmarks.support.waiting import eventually
from detector.pose.pose import Pose
from tests.support.extras import without_nicegui


def test_without_the_extra_the_node_says_what_to_install(tmp_path: Path) -> None:
    """`/ui` and the paths below answer 404 and name the extra; all other routes work."""
    with running_node(tmp_path / 'node', PYTHONPATH=without_nicegui(tmp_path)) as node:
        for path in ('/ui', '/ui/', '/ui/poses'):
            answer = httpx.get(node.url + path)
            assert answer.status_code == 404
            assert 'extra `page`' in answer.json()['detail']
        assert node.detect(CARD).status_code == 200


def test_nicegui_is_not_imported_before_the_page_is_opened(tmp_path: Path) -> None:
    """A node that serves has not imported NiceGUI."""
    program = """
import sys
from detector.node.wholebody_node import WholebodyNode
from detector.page.install import install_page
from detector.settings import Settings
node = WholebodyNode(Settings())
install_page(node, node.parts)
assert 'nicegui' not in sys.modules
"""
    environment = clean_environment(DATA_FOLDER=tmp_path / 'data', PYTHONPATH=':'.join(sys.path))
    subprocess.run([sys.executable, '-c', program], env=environment, cwd=tmp_path, check=True, timeout=60)


def test_the_page_is_served_beside_the_other_routes(tmp_path: Path) -> None:
    """`/ui` redirects to the page, Socket.IO at /ws still works, other origins are refused, and no folder is left
    behind.
    """
    with running_node(tmp_path / 'node') as node:
        redirect = httpx.get(f'{node.url}/ui')
        assert redirect.status_code == 307
        page = httpx.get(f'{node.url}/ui', follow_redirects=True, timeout=30)
        assert page.status_code == 200
        assert page.url.path == '/ui/'
        assert '/ui/_nicegui/' in page.text
        assert '"/_nicegui' not in page.text
        with node.socketio() as client:
            assert client.call('about')['state'] == 'online'
        assert_read_by_page(node)
        assert_own_origin_only(node)
        assert_pages_do_not_pile_up(node)
        for kind in ('thumbnail', 'image', 'poses'):
            nothing = httpx.get(f'{node.url}/ui/outbox/2026-01-31_12:00:00.000000/{kind}')
            assert (nothing.status_code, 'set LOOP_HOST' in nothing.json()['detail']) == (409, True)
        folders = {path.name for path in (tmp_path / 'node').iterdir()}
    assert folders == {'data', 'node.log'}
    assert 'Traceback' not in node.log.read_text()
    assert 'forged' not in node.log.read_text()
    assert node.process.returncode == 0


def assert_read_by_page(node: NodeProcess) -> None:
    answer = httpx.post(f'{node.url}/ui/poses', files={'file': CARD}, timeout=30)
    assert_read([Pose.from_json(pose) for pose in answer.json()['poses']], FIGURES)
    refused = httpx.post(f'{node.url}/ui/poses', files={'file': b'no image'}, timeout=30)
    assert refused.status_code == 415
    assert refused.json() == httpx.post(f'{node.url}/poses', files={'file': b'no image'}, timeout=30).json()


def assert_own_origin_only(node: NodeProcess) -> None:
    """Check that another origin cannot connect to the page, and that a proxy may use https."""
    for origin, accepted in (
        (node.url, True),
        (node.url.replace('http', 'https'), True),
        ('http://elsewhere.example', False),
    ):
        address = f'{node.url}/ui/_nicegui_ws/socket.io/?EIO=4&transport=polling'
        answer = httpx.get(address, headers={'Origin': origin}, timeout=30)
        assert (answer.status_code == 200) == accepted, answer.text


@pytest.mark.integration
def test_logging_out_ends_open_pages(tmp_path: Path) -> None:
    """The node tells the browser to reload the page; a page that is not reloaded loses all its elements."""
    with (
        running_node(tmp_path / 'node', API_TOKEN='correct-horse') as node,
        httpx.Client(base_url=node.url, timeout=30) as browser,
        socketio.SimpleClient() as page,
    ):
        browser.post('/login', data={'token': 'correct-horse'})
        session = {'Cookie': '; '.join('='.join(item) for item in browser.cookies.items())}
        query = {
            'client_id': client_in(browser.get('/ui/').text),
            'tab_id': 't',
            'document_id': 'd',
            'next_message_id': 0,
        }
        address = f'{node.url}?{urlencode(query | {"implicit_handshake": "true"})}'
        page.connect(address, headers=session, socketio_path='/ui/_nicegui_ws/socket.io', transports=['websocket'])
        wait_for(page, 'serves')
        browser.post('/logout')
        wait_for(page, 'history.go(0)')
        wait_for(page, "'0': None")  # all elements are gone
        with pytest.raises(socketio.exceptions.TimeoutError):
            page.receive(timeout=1.5)
    assert 'Traceback' not in node.log.read_text()


def test_tabs_of_browsers_are_forgotten(tmp_path: Path) -> None:
    """NiceGUI's next cleaning forgets what it keeps for a browser's tab; by default it keeps that for 30 days."""
    program = """
import asyncio
from fastapi import FastAPI
from detector.page.lazy import LazyPage
async def main():
    page = LazyPage(lambda _: None, title='page')
    assert await page._load() is None
    from nicegui import core
    from nicegui.app.app import prune_tab_storage
    for number in range(100):
        await core.app.storage._create_tab_storage(str(number))
    assert len(core.app.storage._tabs) == 100
    await asyncio.sleep(0.01)
    await prune_tab_storage()
    assert not core.app.storage._tabs
    await page._close()
asyncio.run(main())
"""
    environment = clean_environment(PYTHONPATH=':'.join(sys.path))
    subprocess.run([sys.executable, '-c', program], env=environment, cwd=tmp_path, check=True, timeout=60)


@pytest.mark.integration
def test_long_messages_to_the_page_end_the_connection(tmp_path: Path) -> None:
    """A message of 100 KB, such as a tab's id that the node would keep, ends its connection; 1 KB is answered."""
    with running_node(tmp_path / 'node') as node:
        for size, accepted in ((1000, True), (100_000, False)):
            with socketio.SimpleClient() as page:
                page.connect(node.url, socketio_path='/ui/_nicegui_ws/socket.io', transports=['websocket'])
                client_id = client_in(httpx.get(f'{node.url}/ui/', timeout=30).text)
                tab = {'client_id': client_id, 'tab_id': 't' * size, 'document_id': 'd', 'next_message_id': 0}
                if accepted:
                    assert page.call('handshake', tab, timeout=10) is True
                else:
                    page.emit('handshake', tab)
                    eventually(lambda: not page.client.connected)
    assert 'Traceback' not in node.log.read_text()


def client_in(page: str) -> str:
    """Return the id that NiceGUI has given to a page."""
    found = re.search(r"'client_id': '([0-9a-f-]+)'|\"client_id\": ?\"([0-9a-f-]+)\"", page)
    assert found is not None, page
    return found[1] or found[2]


def wait_for(page: socketio.SimpleClient, text: str) -> None:
    """Wait for an event with this text."""
    while text not in str(page.receive(timeout=5)):
        pass


def assert_pages_do_not_pile_up(node: NodeProcess) -> None:
    """Check that unknown paths make no page and no line of the log, and that at most 50 pages open while other routes
    answer.
    """
    with httpx.Client(base_url=node.url, timeout=30) as client:
        for _ in range(60):
            unknown = client.get('/ui/%0Aforged')
            assert (unknown.status_code, unknown.json()) == (404, {'detail': 'Not Found'})
        statuses = [client.get('/ui/').status_code for _ in range(60)]
        assert statuses == sorted(statuses)
        assert 40 < statuses.count(200) <= 50
        assert client.get('/ui/').headers['Retry-After']
        assert client.get('/ui/test-card').status_code == 200
