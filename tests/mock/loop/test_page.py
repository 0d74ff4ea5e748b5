"""The REST side of the page of the mock Loop; tests/integration/test_page.py checks it in Chromium."""

from pathlib import Path

import httpx

from benchmarks.support.loops import MockLoopProcess
from tests.support.extras import without_nicegui


def test_the_mock_works_without_the_extra(tmp_path: Path) -> None:
    """Without NiceGUI `/` redirects to the OpenAPI page, and `/ui` says what to install."""
    with MockLoopProcess(tmp_path / 'loop') as loop:
        try:
            loop.start(PYTHONPATH=without_nicegui(tmp_path))
            assert httpx.get(loop.url).headers['location'] == '/docs'
            answer = httpx.get(f'{loop.url}/ui/')
            assert answer.status_code == 404
            assert 'extra `page`' in answer.json()['detail']
            assert loop.target()['version'] == '1.0'
        finally:
            loop.stop()


def test_other_sites_cannot_connect_to_the_page(tmp_path: Path) -> None:
    """Connections of foreign origins are refused before they reach the page, like at the node."""
    with MockLoopProcess(tmp_path / 'loop') as loop:
        try:
            loop.start()
            for origin, status in ((loop.url, 200), ('http://elsewhere.example', 400), ('http://[', 400)):
                address = f'{loop.url}/ui/_nicegui_ws/socket.io/?EIO=4&transport=polling'
                assert httpx.get(address, headers={'Origin': origin}, timeout=30).status_code == status
        finally:
            loop.stop()
