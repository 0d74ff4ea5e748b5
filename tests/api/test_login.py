"""The login page."""

import re
from collections.abc import Iterator

import httpx
import pytest

from benchmarks.support.processes import NodeProcess
from tests.support.access import TOKEN, handshake


@pytest.fixture
def browser(closed: NodeProcess) -> Iterator[httpx.Client]:
    with httpx.Client(base_url=closed.url, headers={'Accept': 'text/html,*/*', 'Origin': closed.url}) as client:
        yield client


def test_a_browser_is_led_to_the_login_page_and_back(closed: NodeProcess, browser: httpx.Client) -> None:
    """A login sets a cookie that is not the token and that scripts and other sites cannot use; a logout ends it."""
    sent = browser.get('/outbox?limit=5')
    assert (sent.status_code, sent.headers['location']) == (303, '/login?next=/outbox%3Flimit%3D5')
    page = browser.get(sent.headers['location'])
    assert page.status_code == 200
    assert re.search(r'name="next" type="hidden" value="/outbox\?limit=5"', page.text)
    wrong = browser.post('/login', data={'token': 'nonsense', 'next': '/outbox?limit=5'})
    assert wrong.status_code == 401
    assert 'This is not the token' in wrong.text
    assert 'nonsense' not in wrong.text
    right = browser.post('/login', data={'token': TOKEN, 'next': '/outbox?limit=5'})
    assert (right.status_code, right.headers['location']) == (303, '/outbox?limit=5')
    cookie = right.headers['set-cookie']
    assert TOKEN not in cookie
    assert 'httponly' in cookie.lower()
    assert 'samesite=strict' in cookie.lower()
    assert 'secure' not in cookie.lower(), 'a browser would drop it over plain http'
    assert browser.get('/docs').status_code == 200
    assert browser.put('/operation_mode', content='idle').status_code == 200
    assert browser.get('/login?next=/docs').headers['location'] == '/docs'
    session = dict(browser.cookies)
    websocket = {'Cookie': '; '.join(f'{name}={value}' for name, value in session.items())}
    assert handshake(closed, '/ui/x', origin=closed.url, headers=websocket) == 403, (
        'the session is accepted, but the path does not exist'
    )
    assert browser.post('/logout').headers['location'] == '/login'
    assert not browser.cookies
    assert browser.get('/docs').status_code == 303
    browser.cookies.update(session)
    assert browser.get('/docs').status_code == 303, 'a copy of the cookie must be invalid after the logout'
    assert handshake(closed, '/ui/x', origin=closed.url, headers=websocket) == 401


@pytest.mark.parametrize('target', ['//evil.example', 'https://evil.example', '/\\evil.example', 'evil', '/a\nb'])
def test_the_login_page_redirects_to_the_node_only(browser: httpx.Client, target: str) -> None:
    """After the login a target outside the node leads to `/ui`, since another site may have made the link."""
    assert browser.post('/login', data={'token': TOKEN, 'next': target}).headers['location'] == '/ui'


def test_behind_tls_the_cookie_stays_there(browser: httpx.Client) -> None:
    """The cookie is marked secure if a proxy states that the client uses https."""
    answer = browser.post('/login', data={'token': TOKEN}, headers={'X-Forwarded-Proto': 'https'})
    assert 'secure' in answer.headers['set-cookie'].lower()


def test_the_login_page_takes_no_large_forms(browser: httpx.Client) -> None:
    """A large form is refused, since its sender is unknown; the page escapes its target."""
    assert browser.post('/login', data={'token': 10_000 * 'x'}).status_code == 413
    page = browser.get('/login', params={'next': '/"><script>alert(1)</script>'})
    assert '<script>' not in page.text


def test_without_a_token_there_is_nothing_to_log_in_to(node: NodeProcess) -> None:
    """On a node without a token the login page redirects at once, and every page is open."""
    assert httpx.get(f'{node.url}/login', params={'next': '/about'}).headers['location'] == '/about'
    assert httpx.get(f'{node.url}/docs', headers={'Accept': 'text/html'}).status_code == 200


def test_a_session_is_of_no_use_to_another_port_of_the_same_host(closed: NodeProcess, browser: httpx.Client) -> None:
    """The node refuses a session from another port, for which browsers send the cookie too, by its origin."""
    browser.post('/login', data={'token': TOKEN})
    neighbour = {'Origin': f'http://127.0.0.1:{closed.port + 1}'}
    assert browser.put('/operation_mode', content='idle', headers=neighbour).status_code == 403
    assert browser.put('/operation_mode', content='idle').status_code == 200
