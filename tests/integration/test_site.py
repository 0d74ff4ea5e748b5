"""The documentation site that MkDocs builds."""

import os
import re
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from benchmarks.support.processes import PROJECT

pytestmark = pytest.mark.integration


@pytest.fixture(scope='module')
def site(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Build the site; a warning of MkDocs, for example about a broken link, fails the build."""
    folder = tmp_path_factory.mktemp('site')
    build = [sys.executable, '-m', 'mkdocs', 'build', '--strict', '--quiet', '--site-dir', str(folder)]
    done = subprocess.run(
        build, cwd=PROJECT, env=os.environ | {'NO_MKDOCS_2_WARNING': '1'}, capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, f'{done.stderr}\nMkDocs is in the group docs: uv sync --group docs'
    return folder


def _loaded(page: Path) -> Iterator[str]:
    """Yield the addresses that a browser loads with a page."""
    text = page.read_text()
    for tag in re.findall(
        r'<(?:script|img|source|iframe)\b[^>]*>|<link\b[^>]*rel="?(?:stylesheet|icon|preload)[^>]*>', text
    ):
        yield from re.findall(r'\b(?:src|href)="?([^"\s>]+)', tag)


def test_the_site_loads_nothing_from_other_hosts(site: Path) -> None:
    """The site contains its fonts, scripts and pictures, so that it works offline."""
    pages = sorted(site.rglob('*.html'))
    assert len(pages) > 25
    for page in pages:
        loaded = list(_loaded(page))
        assert loaded
        for address in loaded:
            assert not re.match(r'(https?:)?//', address), f'{page.name} loads {address}'


def test_generated_pages_are_in_the_site_and_in_the_search(site: Path) -> None:
    """The generated pages are in the site, and its search index has their content."""
    index = (site / 'search' / 'search_index.json').read_text()
    for page, word in (
        ('settings', 'MAX_OUTBOX_SIZE'),
        ('command-line', 'wholebody model pack'),
        ('rest', '/outbox/{name}/metadata'),
        ('events', 'batch_detect'),
        ('errors', 'DeadlineExceeded'),
        ('metrics', 'wholebody_queue_seconds'),
    ):
        assert word in (site / 'reference' / f'{page}.html').read_text()
        assert word in index
