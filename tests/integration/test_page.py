"""The pages of the node and of the mock Loop in Chromium."""

from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import httpx
import numpy as np
import pytest
from playwright.sync_api import expect

from benchmarks.support.cards import FIGURES, make_card, tolerance
from benchmarks.support.loops import MockLoopProcess, running_mock_loop
from benchmarks.support.packages import constant_network, make_package, with_network
from benchmarks.support.processes import NodeProcess, running_node
from benchmarks.support.waiting import eventually
from detector.models.package import OfferedModel
from detector.models.store import ModelStore
from detector.pose import images
from detector.pose.skeleton import PART_BY_NAME
from mock.test_card.cards import Figure
from tests.support.integration.browser import ARTEFACTS
from tests.support.integration.page_browser import PHONE, SCREENS, PageView, opened, seen
from tests.support.mock_loop import corrected_card, send_images

pytestmark = pytest.mark.integration

CARD = images.encode_jpeg(make_card(), quality=92)


def faded(share: float) -> Figure:
    """Return a figure with uncertain hands and face."""
    fading = np.zeros(133, dtype=np.float32)
    for part, fade in (('face', share / 2), ('left_hand', share), ('right_hand', share)):
        fading[PART_BY_NAME[part].slice] = fade
    return Figure(x=40, y=30, height=420, fading=fading)


@pytest.fixture(scope='module')
def alone(tmp_path_factory: pytest.TempPathFactory) -> Iterator[NodeProcess]:
    """Start a node without a Learning Loop."""
    with running_node(tmp_path_factory.mktemp('alone'), DEADLINE=60) as node:
        yield node


def assert_places(view: PageView, figures: Sequence[Figure] = FIGURES, inside: str = 'main') -> None:
    """Assert that the points of each figure appear over the picture where the card has them."""
    drawn = view.skeletons(len(figures), inside)
    for figure in figures:
        distances = [np.linalg.norm(seen(points) - figure.keypoints, axis=1) for points in drawn]
        assert min(float(np.percentile(distance, 95)) for distance in distances) <= tolerance(figure) + 0.5


# ---------------------------------------------------------------- an image on the node's page


@pytest.mark.parametrize('screen', SCREENS)
@pytest.mark.parametrize('scheme', ['light', 'dark'])
def test_a_dropped_card_gets_its_skeletons(alone: NodeProcess, chromium: Path, screen: str, scheme: str) -> None:
    """Skeletons lie over the figures on each screen and in both colour schemes, and nothing is cut or overlaps."""
    with opened(chromium, f'{alone.url}/ui', color_scheme=scheme, **SCREENS[screen]) as view:
        view.page.locator('.facts dd', has_text='test-card 0.0').wait_for()
        view.assert_fits()
        view.screenshot(f'page-empty-{screen}-{scheme}')
        view.drop(CARD, 'card.jpg', 'image/jpeg')
        assert_places(view)
        assert view.text('.skeleton-caption').startswith('2 persons · 720 × 480 pixels · inference ')
        eventually(lambda: view.text('[data-figure="Images/s"] .value') not in ('–', '0.0'), 'throughput')
        assert float(view.text('[data-figure="Inference, ms"] .value')) > 1
        view.assert_fits()
        view.screenshot(f'page-card-{screen}-{scheme}')
        with alone.socketio() as robot:  # robots can still connect
            assert robot.call('about')['state'] == 'online'


def test_parts_and_confidence_decide_what_is_drawn(alone: NodeProcess, chromium: Path) -> None:
    """The page draws exactly the points of the chosen parts whose confidence reaches the slider's value."""
    figure = faded(0.45)
    card = images.encode_jpeg(make_card([figure]), quality=92)
    (pose,) = httpx.post(f'{alone.url}/poses', files={'file': card}, timeout=30).json()['poses']

    def expected(parts: Sequence[str], limit: float) -> set[str]:
        points = [pose['keypoints'][index] for part in parts for index in PART_BY_NAME[part].indices]
        return {point['name'] for point in points if point['confidence'] >= limit}

    with opened(chromium, f'{alone.url}/ui') as view:
        view.drop(card, 'card.jpg', 'image/jpeg')
        parts = list(PART_BY_NAME)
        assert view.skeletons(1)[0].keys() == expected(parts, 0.3)
        for part in ('face', 'left_hand'):
            assert expected([part], 0.3)
            view.switch(part).click()
            parts.remove(part)
            assert view.skeletons(1)[0].keys() == expected(parts, 0.3)
        view.screenshot('page-parts')
        for part in ('face', 'left_hand'):
            view.switch(part).click()
        assert view.page.locator('main rect.box').count() == 1
        view.switch('box').click()
        assert view.page.locator('main rect.box').count() == 0
        thumb = view.page.locator('main .skeleton-threshold .q-slider__track-container')
        thumb.focus()
        for _ in range(40):
            view.page.keyboard.press('ArrowRight')
        assert view.text('.skeleton-threshold b') == '0.70'
        assert view.skeletons(1)[0].keys() == expected(list(PART_BY_NAME), 0.7)
        assert len(expected(list(PART_BY_NAME), 0.7)) < len(expected(list(PART_BY_NAME), 0.3))
        view.screenshot('page-confidence')


def test_the_slider_starts_at_the_setting(tmp_path: Path, chromium: Path) -> None:
    """The slider starts at CONFIDENCE_THRESHOLD."""
    with (
        running_node(tmp_path / 'node', CONFIDENCE_THRESHOLD=0.55) as node,
        opened(chromium, f'{node.url}/ui') as view,
    ):
        assert view.text('.skeleton-threshold b') == '0.55'


def test_bad_images_are_refused_in_words(alone: NodeProcess, chromium: Path) -> None:
    """The page shows the node's message for an image that it cannot decode, and draws the next image."""
    with opened(chromium, f'{alone.url}/ui', **PHONE) as view:
        alert = view.page.locator('main .skeleton-view [role=alert]')
        for data, name, kind in (
            (b'no image', 'letter.txt', 'text/plain'),
            (CARD[:2000], 'half.jpg', 'image/jpeg'),
            (b'GIF89a' + bytes(100), 'moving.gif', 'image/gif'),
            (b'', 'empty.png', 'image/png'),
        ):
            view.drop(data, name, kind)
            said = httpx.post(f'{alone.url}/poses', files={'file': data}, timeout=30).json()['detail']
            expect(alert, f'{name}: {said}').to_contain_text(said[1:])
            assert view.page.locator('main circle.point').count() == 0
        view.assert_fits()
        view.screenshot('page-refused-phone')
        view.drop(CARD, 'card.jpg', 'image/jpeg')
        assert_places(view)
        assert alert.count() == 0


def test_a_file_is_chosen_and_the_example_taken(alone: NodeProcess, chromium: Path, tmp_path: Path) -> None:
    """One button opens the file dialog, and another one loads the example card."""
    path = tmp_path / 'card.png'
    images.write_image(path, make_card())
    with opened(chromium, f'{alone.url}/ui') as view:
        with view.page.expect_file_chooser() as chooser:
            view.page.get_by_role('button', name='Choose image').click()
        chooser.value.set_files(path)
        assert_places(view)
        view.page.get_by_role('button', name='Test card').click()
        eventually(lambda: '1024' in view.text('.skeleton-caption'), 'the example card')
        assert len(view.skeletons(2)[1]) > 100


def test_the_camera_takes_a_picture(alone: NodeProcess, chromium: Path, tmp_path: Path) -> None:
    """A picture of a card from the camera gets its skeletons."""
    film = tmp_path / 'film.mjpeg'
    film.write_bytes(4 * images.encode_jpeg(make_card(width=1280, height=720), quality=95))
    arguments = (
        '--use-fake-ui-for-media-stream',
        '--use-fake-device-for-media-stream',
        f'--use-file-for-fake-video-capture={film}',
    )
    with opened(chromium, f'{alone.url}/ui', arguments=arguments) as view:
        view.page.get_by_role('button', name='Camera', exact=True).click()
        eventually(lambda: view.page.evaluate('document.querySelector("video").videoWidth'), 'the camera')
        view.screenshot('page-camera')
        view.page.get_by_role('button', name='Take the picture').click()
        assert len(view.skeletons(2)[0]) > 100
        view.screenshot('page-camera-taken')


def test_a_camera_that_comes_late_does_not_stay_on(alone: NodeProcess, chromium: Path) -> None:
    """The camera stays off if the person loads an image before the browser has opened it, even after two clicks."""
    arguments = '--use-fake-ui-for-media-stream', '--use-fake-device-for-media-stream'
    with opened(chromium, f'{alone.url}/ui', arguments=arguments) as view:
        view.page.evaluate(_SLOW_CAMERA)
        camera = view.page.get_by_role('button', name='Camera', exact=True)
        camera.click()
        camera.click()
        view.page.get_by_role('button', name='Test card').click()
        assert len(view.skeletons(2)[0]) > 100
        eventually(lambda: view.page.evaluate('tracks.length') == 2, 'both open')
        eventually(lambda: view.page.evaluate('tracks.every((track) => track.readyState === "ended")'), 'both are off')
        assert view.page.locator('main video').is_hidden()


# ---------------------------------------------------------------- models


def test_a_version_is_switched_by_the_page(tmp_path: Path, chromium: Path) -> None:
    """A chosen version serves, and the page follows other clients; a faulty version is explained and not used."""
    store = ModelStore(tmp_path / 'node' / 'data')
    for version in ('1.0', '1.1'):
        store.add(make_package(tmp_path / f'{version}.zip', version=version))
    broken = constant_network(tmp_path / 'bad.onnx', {'simcc_x': np.zeros((1, 7, 384))}, (192, 256))
    offered = OfferedModel(version='1.2', model_id='broken')
    store.add(with_network(tmp_path / '1.2.zip', 'estimator', broken), offered)
    store.select('1.0')
    with running_node(tmp_path / 'node') as node, opened(chromium, f'{node.url}/ui', **PHONE) as view:

        def current() -> dict[str, Any]:
            return dict(httpx.get(f'{node.url}/model_version', timeout=10).json())

        view.page.locator('.pill', has_text='test-card 1.0 serves').wait_for()
        view.choose('model', 'Version 1.1')
        view.page.locator('.pill', has_text='test-card 1.1 serves').wait_for()
        assert current()['current_version'] == '1.1'
        assert current()['version_control'] == 'specific_version'
        view.assert_fits()
        view.screenshot('page-switched-phone')
        view.choose('model', 'Pause')
        eventually(lambda: current()['version_control'] == 'pause', 'pause')
        view.choose('model', 'Version 1.2')
        view.page.locator('.notice.error', has_text='Cannot switch: pose.onnx').first.wait_for()
        assert current()['current_version'] == '1.1'
        view.assert_fits()
        view.screenshot('page-switch-failed-phone')
        httpx.put(f'{node.url}/model_version', content='1.0', timeout=10).raise_for_status()  # by another client
        view.page.locator('.pill', has_text='test-card 1.0 serves').wait_for()
        eventually(lambda: 'Version 1.0' in view.text('[data-control=model]'), 'the choice follows')


# ---------------------------------------------------------------- outbox and mock Loop


@pytest.fixture(scope='module')
def loop(tmp_path_factory: pytest.TempPathFactory) -> Iterator[MockLoopProcess]:
    with running_mock_loop(tmp_path_factory.mktemp('learning') / 'loop') as server:
        yield server


@pytest.fixture(scope='module')
def follower(tmp_path_factory: pytest.TempPathFactory, loop: MockLoopProcess) -> Iterator[NodeProcess]:
    """Start a node that follows the mock Loop."""
    settings = {'UPLOAD_SECONDS': 0.2, 'POLL_SECONDS': 0.3, **loop.settings}
    with running_node(tmp_path_factory.mktemp('follower'), **settings) as node:
        eventually(lambda: httpx.get(f'{node.url}/about').json()['outbox']['mode'] == 'continuous_upload', 'outbox')
        yield node


@pytest.mark.parametrize('screen', SCREENS)
def test_the_outbox_shows_what_waits(follower: NodeProcess, loop: MockLoopProcess, chromium: Path, screen: str) -> None:
    """A stopped outbox shows its images in pages and one image with skeletons; a started outbox sends them."""
    with opened(chromium, f'{follower.url}/ui', **SCREENS[screen]) as view:
        view.page.locator('.bar .pill', has_text='serves').wait_for()  # Socket.IO, which clicks need, works
        switch = view.page.locator('[data-control=outbox]')
        switch.click()
        eventually(lambda: httpx.get(f'{follower.url}/outbox_mode').text == 'stopped', 'stopped')
        for number in range(15):
            headers = {'autoupload': 'all', 'tags': f'round {number % 3},entrance', 'source': 'door camera'}
            assert follower.detect(CARD, headers).status_code == 200
        pictures = view.page.locator('main .picture')
        eventually(lambda: view.text('[data-figure=Waiting] .value') == '15', 'all wait')
        eventually(lambda: pictures.count() == 12, 'the first page')
        view.page.wait_for_timeout(1500)  # until the last pictures have their positions
        pictures.last.scroll_into_view_if_needed()
        eventually(lambda: view.page.evaluate(_ALL_LOADED), 'thumbnails')
        assert 'entrance' in pictures.first.inner_text()
        assert '2 persons' in pictures.first.inner_text()
        view.assert_fits()
        view.screenshot(f'page-outbox-{screen}')
        pictures.first.click()
        assert_places(view, inside='.picture-dialog')
        view.page.wait_for_timeout(500)  # until the dialog stops moving
        view.assert_fits()
        view.page.screenshot(path=_artefact(f'page-outbox-picture-{screen}'))
        view.page.get_by_role('button', name='Close').click()
        view.page.locator('main .q-pagination button', has_text='2').click()
        eventually(lambda: pictures.count() == 3, 'the second page')
        switch.click()
        view.page.get_by_text('No image waits.').wait_for()
        eventually(lambda: len(loop.images()) >= 15, 'the Loop has them')


@pytest.mark.parametrize('screen', SCREENS)
def test_the_mock_loop_shows_what_arrived_and_sets_the_target(
    follower: NodeProcess, loop: MockLoopProcess, chromium: Path, tmp_path: Path, screen: str
) -> None:
    """The mock's page shows the image with its skeletons and tags, and the node deploys the target chosen there."""
    version = {'desktop': '2.1', 'phone': '2.2'}[screen]
    loop.upload_package(make_package(tmp_path / 'package.zip'), version)
    assert follower.detect(CARD, {'autoupload': 'all', 'tags': f'seen on {screen}'}).status_code == 200
    with opened(chromium, loop.url, **SCREENS[screen]) as view:
        picture = view.page.locator('main .picture', has_text=f'seen on {screen}')
        picture.wait_for()
        view.choose('target', f'Version {version}')
        eventually(lambda: loop.target()['version'] == version, 'the target')
        eventually(lambda: _version(follower) == version, 'the node follows')
        view.page.locator('.row-line', has_text=f'model {version}').wait_for()
        eventually(lambda: view.page.evaluate(_ALL_LOADED), 'thumbnails')
        view.assert_fits()
        view.screenshot(f'loop-page-{screen}')
        picture.click()
        assert_places(view, inside='.picture-dialog')
        view.page.wait_for_timeout(500)
        view.page.screenshot(path=_artefact(f'loop-page-picture-{screen}'))


def test_the_mock_loop_shows_corrections(loop: MockLoopProcess, chromium: Path) -> None:
    """The mock's page counts the boxes and points of an annotation, and draws them over the image."""
    assert send_images(loop, {'corrected.jpg': CARD, 'corrected.json': corrected_card()}).status_code == 200
    with opened(chromium, loop.url) as view:
        picture = view.page.locator('main .picture', has_text='2 boxes, 266 points').first
        picture.wait_for()
        picture.click()
        assert_places(view, inside='.picture-dialog')
        assert view.page.locator('.picture-dialog rect.box').count() == len(FIGURES)


def _version(node: NodeProcess) -> str:
    return str(httpx.get(f'{node.url}/model_version', timeout=10).json()['current_version'])


def _artefact(name: str) -> Path:
    ARTEFACTS.mkdir(exist_ok=True)
    return ARTEFACTS / f'{name}.png'


_ALL_LOADED = """[...document.querySelectorAll('main .picture img')]
    .filter((image) => image.getBoundingClientRect().top < innerHeight)
    .every((image) => image.complete && image.naturalWidth)"""


_SLOW_CAMERA = """() => {
    window.tracks = [];
    const open = navigator.mediaDevices.getUserMedia.bind(navigator.mediaDevices);
    navigator.mediaDevices.getUserMedia = async (wanted) => {
        await new Promise((resolve) => setTimeout(resolve, 1500));
        const stream = await open(wanted);
        tracks.push(...stream.getTracks());
        return stream;
    };
}"""
