"""The mock Loop's page, its REST side; Chromium looks at it in tests/integration/test_page.py."""

from pathlib import Path

import httpx

from ..page.test_lazy import without_nicegui
from .loops import MockLoopProcess


def test_the_mock_works_without_the_extra(tmp_path: Path) -> None:
    """`/` leads to the API's page then, `/ui` says what to install."""
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
