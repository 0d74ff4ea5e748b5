"""The page's control that downloads a published model, in Chromium, with servers of its own."""

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx
import pytest
from playwright.sync_api import expect

from benchmarks.support.cards import CARD, FIGURES, make_card
from benchmarks.support.processes import NodeProcess, running_node
from benchmarks.support.waiting import eventually
from detector.pose import images
from mock.test_card.model import build_estimator
from tests.support.file_server import FileServer
from tests.support.integration.page_browser import PHONE, SCREENS, PageView, opened
from tests.support.published_models import catalogue_of, published, published_networks

pytestmark = pytest.mark.integration

ENTRIES: dict[str, dict[str, Any]] = {
    'small': {
        'version': '1.0.1',
        'description': 'YOLOX-tiny 416×416 and RTMW-m 256×192',
        'licence': 'Apache-2.0',
        'ap': 58.2,
        'ap_source': 'COCO-WholeBody v1.0 val: https://example.org/a/rather/long/address/of/a/table/of/results.md',
    },
    'large': {'version': '1.0.2', 'description': 'A model without figures'},
}


@pytest.fixture
def servers() -> Iterator[tuple[FileServer, FileServer]]:
    with published_networks() as running:
        yield running


def about(node: NodeProcess) -> dict[str, Any]:
    return dict(httpx.get(f'{node.url}/about', timeout=10).json())


def choose(view: PageView, mode: str, label: str) -> None:
    """Open the list of published models and press the button of one."""
    view.page.locator('[data-control=get-model]').click()
    view.page.locator(f'[data-model={mode}]').get_by_role('button', name=label, exact=True).click()


@pytest.mark.parametrize('screen', SCREENS)
def test_a_model_is_downloaded_and_used_while_the_node_serves(
    servers: tuple[FileServer, FileServer], tmp_path: Path, chromium: Path, screen: str
) -> None:
    """Size, licence and progress are shown; a cancelled download continues; the node serves all the time."""
    servers[1].content = published(build_estimator().SerializeToString(), padding=2_000_000)
    servers[1].chunk_seconds = 0.1
    catalogue = catalogue_of(tmp_path, servers, entries=ENTRIES, megabytes=0.3, estimator={'megabytes': 2.1})
    with (
        running_node(tmp_path / 'node', MODEL_CATALOGUE=catalogue) as node,
        opened(chromium, f'{node.url}/ui', **SCREENS[screen]) as view,
    ):
        view.page.locator('[data-control=get-model]').click()
        row = view.page.locator('[data-model=small]')
        expect(row).to_contain_text('2 MB · AP 58.2 · licence Apache-2.0')
        view.page.wait_for_timeout(500)  # until the dialog stops moving
        view.assert_fits()
        view.screenshot(f'page-published-{screen}')
        row.get_by_role('button', name='Download and use').click()
        status = view.page.locator('.pull [role=status]')
        expect(status).to_contain_text('Downloading small: 0.')
        eventually(lambda: about(node)['pull']['received'] > 500_000, 'the first part')
        view.assert_fits()
        view.screenshot(f'page-pulling-{screen}')
        assert len(node.detect(CARD).json()['box_detections']) == len(FIGURES)
        other = view.page.context.new_page()  # shows the same download
        other.goto(f'{node.url}/ui')
        expect(other.locator('.pull [role=status]')).to_contain_text('Downloading small')
        other.close()
        view.page.locator('[data-control=cancel-pull]').click()
        expect(view.page.locator('.notice.info', has_text='The download of small was cancelled')).to_be_visible()
        assert about(node)['pull']['stage'] == 'cancelled'
        servers[1].chunk_seconds = 0
        choose(view, 'small', 'Download and use')
        view.page.locator('.pill', has_text='small 1.0.1 serves').wait_for()
        assert servers[1].ranges[-1] is not None, 'only the rest was requested'
        view.assert_fits()
        view.screenshot(f'page-pulled-{screen}')
        choose(view, 'large', 'Download and use')  # the same files: no download
        view.page.locator('.pill', has_text='large 1.0.2 serves').wait_for()
        eventually(lambda: (node.data_folder / 'current_model').resolve().name == '1.0.2', 'the link')
        choose(view, 'small', 'Use')
        view.page.locator('.pill', has_text='small 1.0.1 serves').wait_for()
        eventually(lambda: (node.data_folder / 'current_model').resolve().name == '1.0.1', 'the link')
        view.page.locator('[data-control=get-model]').click()
        expect(view.page.locator('[data-model=small]')).to_contain_text('in use')
        view.page.get_by_role('button', name='Close').click()
        httpx.put(f'{node.url}/model_version', content='test-card', timeout=10).raise_for_status()
        view.page.locator('.pill', has_text='test-card 0.0 serves').wait_for()
        choose(view, 'small', 'Use')  # it is still the current model, but does not serve
        view.page.locator('.pill', has_text='small 1.0.1 serves').wait_for()


def test_a_failed_download_says_what_to_copy(
    servers: tuple[FileServer, FileServer], tmp_path: Path, chromium: Path
) -> None:
    """The page shows the reason, the files and the folder; after they were copied, the same button works."""
    contents = [server.content for server in servers]
    servers[0].statuses = [404] * 3
    catalogue = catalogue_of(tmp_path, servers, entries=ENTRIES)
    with (
        running_node(tmp_path / 'node', MODEL_CATALOGUE=catalogue) as node,
        opened(chromium, f'{node.url}/ui', **PHONE) as view,
    ):
        choose(view, 'small', 'Download and use')
        fault = view.page.locator('.notice.error', has_text='small is not installed: det.zip from 127.0.0.1')
        expect(fault).to_contain_text('the server answers 404')
        expect(fault).to_contain_text(f'put the files into {node.data_folder / "downloads"}')
        view.assert_fits()
        view.screenshot('page-pull-failed-phone')
        assert len(node.detect(CARD).json()['box_detections']) == len(FIGURES)
        for name, content in zip(('det.zip', 'pose.zip'), contents, strict=True):
            (node.data_folder / 'downloads' / name).write_bytes(content)
        choose(view, 'small', 'Download and use')
        view.page.locator('.pill', has_text='small 1.0.1 serves').wait_for()
        expect(fault).to_be_hidden()


def test_an_image_without_persons_leads_to_the_button(tmp_path: Path, chromium: Path) -> None:
    """While an embedded model serves, the caption of an image without persons names the command and the button."""
    empty = images.encode_jpeg(make_card(()), quality=92)
    with running_node(tmp_path / 'node') as node, opened(chromium, f'{node.url}/ui', **PHONE) as view:
        button = view.page.locator('[data-control=get-model]').inner_text()
        view.drop(empty, 'empty.jpg', 'image/jpeg')
        caption = view.page.locator('main .skeleton-caption')
        expect(caption).to_contain_text('No person found · 720 × 480 pixels')
        expect(caption).to_contain_text('run `wholebody model pull balanced`')
        expect(caption).to_contain_text(f'Press "{button.splitlines()[-1]}"')
        view.assert_fits()
        view.screenshot('page-no-person-phone')
        view.drop(CARD, 'card.jpg', 'image/jpeg')
        expect(caption).not_to_contain_text('wholebody model pull')


def test_a_user_who_has_logged_out_starts_no_download(
    servers: tuple[FileServer, FileServer], tmp_path: Path, chromium: Path
) -> None:
    """With API_TOKEN the list is closed to others, and a click right after the logout changes nothing."""
    catalogue = catalogue_of(tmp_path, servers, entries=ENTRIES)
    settings = {'MODEL_CATALOGUE': catalogue, 'API_TOKEN': 'secret'}
    with running_node(tmp_path / 'node', **settings) as node:
        assert '/login' in httpx.get(f'{node.url}/ui/', headers={'Accept': 'text/html'}).headers['location']
        with opened(chromium, f'{node.url}/ui', token='secret') as view:
            view.page.locator('[data-control=get-model]').click()
            view.page.locator('[data-model=small]').wait_for()
            view.page.evaluate(_LOG_OUT_AND_CLICK)
            view.page.locator('input[name=token]').wait_for()
        assert about(node)['pull'] is None
        assert servers[0].ranges == []


_LOG_OUT_AND_CLICK = """async () => {
    await fetch('/logout', {method: 'POST'});
    document.querySelector('[data-model=small] button').click();
}"""
