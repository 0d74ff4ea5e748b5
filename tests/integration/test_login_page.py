"""The login page, and pages of other origins, in a real Chromium."""

from collections.abc import Iterator
from functools import partial
from http.server import HTTPServer, SimpleHTTPRequestHandler
from pathlib import Path
from threading import Thread

import pytest
from playwright.sync_api import Page, ViewportSize, expect, sync_playwright

from benchmarks.support.processes import NodeProcess, running_node
from tests.support.integration.browser import ARTEFACTS, chromium_executable

pytestmark = pytest.mark.integration

TOKEN = 'correct-horse-battery-staple'
PHONE: ViewportSize = {'width': 390, 'height': 780}

ATTACK = """
async node => {
    const said = {}
    const post = await fetch(node + '/webhook', {method: 'POST', body: '{}', credentials: 'include'})
        .then(answer => answer.status, () => 'blocked')
    said.post = post
    said.put = await fetch(node + '/outbox_mode', {method: 'PUT', body: 'stopped', credentials: 'include'})
        .then(answer => answer.status, () => 'blocked')
    await fetch(node + '/logout', {method: 'POST', mode: 'no-cors', credentials: 'include'}).catch(() => 0)
    said.websocket = await new Promise(resolve => {
        const socket = new WebSocket(node.replace('http', 'ws') + '/ws/socket.io/?EIO=4&transport=websocket')
        socket.onopen = () => resolve('open')
        socket.onerror = () => resolve('blocked')
    })
    return said
}
"""


class _Blank(SimpleHTTPRequestHandler):
    def log_message(self, *_: object) -> None:
        pass


@pytest.fixture
def page() -> Iterator[Page]:
    with sync_playwright() as playwright:
        process = playwright.chromium.launch(executable_path=chromium_executable(), headless=True)
        yield process.new_context(viewport=PHONE).new_page()
        process.close()


@pytest.fixture
def elsewhere(tmp_path: Path) -> Iterator[str]:
    """Start another server on the same host, which has another origin but is the same site for cookies."""
    folder = tmp_path / 'elsewhere'
    folder.mkdir()
    (folder / 'index.html').write_text('<!doctype html><title>elsewhere</title>')
    with HTTPServer(('127.0.0.1', 0), partial(_Blank, directory=folder)) as server:
        Thread(target=server.serve_forever, daemon=True).start()
        yield f'http://127.0.0.1:{server.server_port}'
        server.shutdown()


@pytest.fixture
def closed(tmp_path: Path) -> Iterator[NodeProcess]:
    with running_node(tmp_path / 'node', API_TOKEN=TOKEN) as running:
        yield running


def test_a_person_logs_in_and_other_pages_cannot_use_that(page: Page, closed: NodeProcess, elsewhere: str) -> None:
    """A person logs in on a phone, also after a wrong token, and a page of another port still cannot use the node."""
    page.goto(f'{closed.url}/openapi.json?x=1')
    page.goto(f'{closed.url}/model_version')
    expect(page).to_have_url(f'{closed.url}/login?next=/model_version')
    ARTEFACTS.mkdir(exist_ok=True)
    page.screenshot(path=ARTEFACTS / 'login.png')
    assert page.evaluate('document.documentElement.scrollWidth') <= PHONE['width'], 'the page is wider than the screen'
    page.get_by_label('API_TOKEN').fill('wrong')
    page.get_by_role('button').click()
    expect(page.get_by_text('This is not the token.')).to_be_visible()
    page.screenshot(path=ARTEFACTS / 'login-wrong.png')
    page.get_by_label('API_TOKEN').fill(TOKEN)
    page.get_by_label('API_TOKEN').press('Enter')
    expect(page).to_have_url(f'{closed.url}/model_version')
    assert 'current_version' in page.content()
    assert page.evaluate('document.cookie') == ''
    page.goto(elsewhere)
    assert page.evaluate(ATTACK, closed.url) == {'post': 'blocked', 'put': 'blocked', 'websocket': 'blocked'}
    page.goto(f'{closed.url}/model_version')
    assert 'current_version' in page.content(), 'the other page has logged the person out'
    page.goto(f'{closed.url}/ui')
    expect(page.get_by_text('test-card 0.0 serves')).to_be_visible()  # this text comes over the page's own Socket.IO
    page.screenshot(path=ARTEFACTS / 'page-with-token.png')
    other = page.context.new_page()
    other.goto(f'{closed.url}/ui/')
    expect(other.get_by_text('test-card 0.0 serves')).to_be_visible()
    page.get_by_role('button', name='Log out').click()
    expect(other, 'an open page must end too').to_have_url(f'{closed.url}/login?next=/ui/')
    expect(page).to_have_url(f'{closed.url}/login')
    page.goto(f'{closed.url}/ui/')
    expect(page).to_have_url(f'{closed.url}/login?next=/ui/')


def test_without_a_token_other_pages_are_kept_out_too(page: Page, node: NodeProcess, elsewhere: str) -> None:
    """Without a token, pages of other origins still cannot use the node, and its own pages can."""
    page.goto(elsewhere)
    assert page.evaluate(ATTACK, node.url) == {'post': 'blocked', 'put': 'blocked', 'websocket': 'blocked'}
    page.goto(f'{node.url}/about')
    own = page.evaluate(ATTACK, node.url)
    assert own['websocket'] == 'open'
    assert own['put'] in (200, 409)
