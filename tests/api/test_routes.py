"""The REST routes of a real node."""

import asyncio
import contextlib
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import anyio.to_thread
import httpx
import numpy as np
import pytest
from fastapi import FastAPI
from PIL import Image as PillowImage

from benchmarks.support.cards import CARD, FIGURES, assert_misread, assert_read, make_card, poses_of
from benchmarks.support.processes import NodeProcess, running_node
from benchmarks.support.waiting import PATIENCE
from detector.api import error_answers, outbox_routes, routes
from detector.models.embedded import EXAMPLE_CARD
from detector.pose import images
from detector.pose.pose import Pose
from detector.pose.skeleton import KEYPOINT_NAMES
from detector.settings import Settings
from mock.test_card.build import EXAMPLE_FIGURES
from tests.support.photographs import portrait
from tests.support.pictures import encoded, png_of_size
from tests.support.sabotage import Sabotage


def test_the_example_card_is_read_to_the_pixel(node: NodeProcess) -> None:
    """`POST /detect` with the example card gives both persons with 133 points each."""
    response = node.detect(EXAMPLE_CARD.read_bytes())
    assert response.status_code == 200
    assert_read(poses_of(response.json()), EXAMPLE_FIGURES)


@pytest.mark.parametrize('kind', ['JPEG', 'PNG', 'WEBP'])
def test_every_format_is_read(node: NodeProcess, kind: str) -> None:
    """JPEG, PNG and WebP are read in the right colour order."""
    data = encoded(PillowImage.fromarray(make_card()), kind, quality=90)
    assert_read(poses_of(node.detect(data).json()))


def test_swapped_colours_are_not_read(node: NodeProcess) -> None:
    """With red and blue swapped, the persons on the card are not found as drawn."""
    data = encoded(PillowImage.fromarray(np.ascontiguousarray(make_card()[..., ::-1])))
    assert_misread(poses_of(node.detect(data).json()))


def test_a_rotated_camera_gives_upright_coordinates(node: NodeProcess) -> None:
    """With EXIF orientation 6, the answer is in pixels of the upright image."""
    exif = PillowImage.Exif()
    exif[0x0112] = 6
    stored = PillowImage.fromarray(make_card()).transpose(PillowImage.Transpose.ROTATE_90)
    data = encoded(stored, 'JPEG', exif=exif, quality=90, subsampling=0)
    assert_read(poses_of(node.detect(data).json()))


def test_the_answer_has_upstreams_form(node: NodeProcess) -> None:
    """The answer has exactly the fields of ImageMetadata, so that existing clients parse it."""
    answer = node.detect(CARD).json()
    assert set(answer) == {
        'box_detections', 'point_detections', 'segmentation_detections', 'classification_detections',
        'box_annotations', 'point_annotations', 'classification_annotation', 'tags', 'created', 'source', 'state',
    }  # fmt: skip
    assert set(answer['box_detections'][0]) == {
        'category_name', 'category_id', 'x', 'y', 'width', 'height', 'model_name', 'confidence',
    }  # fmt: skip
    assert set(answer['point_detections'][0]) == {'category_name', 'category_id', 'x', 'y', 'model_name', 'confidence'}


@pytest.mark.parametrize('spelling', ['creation_date', 'creation-date'])
def test_headers_are_honoured_in_both_spellings(node: NodeProcess, spelling: str) -> None:
    """Headers count with underscores, as in upstream's README, and with hyphens; upstream ignores underscores."""
    headers = {
        spelling: '2026-01-02T03:04:05',
        'tags': 'a, b',
        'source': 'me',
        'camera_id': 'c',
        'autoupload': 'disabled',
    }
    answer = node.detect(CARD, headers).json()
    assert answer['created'] == '2026-01-02T03:04:05'
    assert answer['tags'] == ['a', 'b']
    assert answer['source'] == 'me'


def test_headers_are_utf_8_and_lists_continue(node: NodeProcess) -> None:
    """Text in headers is UTF-8, as curl sends it; a repeated list continues, and a repeated single value is refused."""
    headers = [
        (b'tags', 'küche'.encode()),
        (b'tags', b'a, b'),
        (b'source', '厨房'.encode()),
        (b'camera-id', b'caf\xe9'),
    ]
    answer = httpx.post(f'{node.url}/detect', files={'file': CARD}, headers=headers, timeout=30).json()
    assert (answer['tags'], answer['source']) == (['küche', 'a', 'b'], '厨房')
    twice = httpx.post(f'{node.url}/detect', files={'file': CARD}, headers=[('source', 'a'), ('source', 'b')])
    assert twice.status_code == 422
    assert "the header source has several values, 'a', 'b': send one" in twice.text


def test_poses_are_grouped_and_named(node: NodeProcess) -> None:
    """`POST /poses` answers one object per person, with model, image size and timing."""
    answer = httpx.post(f'{node.url}/poses', files={'file': CARD}, timeout=30).json()
    assert_read([Pose.from_json(pose) for pose in answer['poses']])
    assert [point['name'] for point in answer['poses'][0]['keypoints']] == list(KEYPOINT_NAMES)
    assert answer['image'] == {'width': 720, 'height': 480}
    assert answer['model_version'] == 'test-card 0.0'
    assert set(answer['timing']) == {'decode_ms', 'wait_ms', 'inference_ms'}


def test_a_photograph_gives_an_empty_answer_and_about_says_why(node: NodeProcess) -> None:
    """The test card model finds no person in a photograph; `/about` and `/ready` say so, and how to install another."""
    answer = node.detect(images.encode_jpeg(portrait())).json()
    assert answer['box_detections'] == answer['point_detections'] == []
    about = httpx.get(f'{node.url}/about').json()
    assert about['wholebody']['model_version'] == 'test-card 0.0'
    assert about['wholebody']['embedded'] is True
    assert about['wholebody']['thresholds']['person'] == 0.5
    assert about['wholebody']['thresholds']['person_from'] == 'score_threshold'
    assert 'wholebody model install' in about['wholebody']['notice']
    assert 'finds no person in a photograph' in httpx.get(f'{node.url}/ready').json()['notice']
    assert about['model_info']['version'] == 'test-card'
    assert len(about['model_info']['categories']) == 134
    assert set(about) >= {'operation_mode', 'state', 'model_info', 'target_model', 'version_control'}


BAD_IMAGES: dict[str, tuple[bytes, int, str]] = {
    'empty': (b'', 400, 'empty'),
    'text': (b'hello, world', 415, 'not an image'),
    'truncated': (CARD[: len(CARD) // 2], 400, 'broken'),
    'huge': (png_of_size(13000, 13000), 413, 'limit'),
    'gif': (encoded(PillowImage.new('P', (50, 50)), 'GIF'), 415, 'GIF'),
    'pixel': (png_of_size(1, 1), 400, '1×1'),
    'strip': (png_of_size(10, 5000), 400, '10×5000'),
}


@pytest.mark.parametrize('name', BAD_IMAGES)
@pytest.mark.parametrize('route', ['detect', 'poses'])
def test_bad_images_get_a_clear_error_and_the_node_serves_on(node: NodeProcess, name: str, route: str) -> None:
    """A bad image is answered with a 4xx and a `detail`, and the next request is served."""
    data, status, message = BAD_IMAGES[name]
    response = httpx.post(f'{node.url}/{route}', files={'file': data}, timeout=10)
    assert response.status_code == status
    assert message in response.json()['detail']
    assert node.detect(CARD).status_code == 200


def test_bad_requests_get_a_clear_error(node: NodeProcess) -> None:
    """Bad bodies, field names, methods, headers, paths and modes get a 4xx with the reason."""
    post = f'{node.url}/detect'
    for response in (httpx.post(post), httpx.post(post, files={'image': CARD}), httpx.post(post, content=CARD)):
        assert response.status_code == 422
        assert response.json()['detail'].startswith('file: ')
    assert node.detect(CARD, {'autoupload': 'perhaps'}).status_code == 422
    assert httpx.get(post).status_code == 405
    assert httpx.get(f'{node.url}/nowhere').status_code == 404
    for path, body, status in (
        ('model_version', '1.0', 409),
        ('model_version', 'newest', 422),
        ('model_version', b'\xff\xfe', 422),
        ('operation_mode', b'\xff\xfe', 422),
        ('debug_logging', b'\xff\xfe', 422),
        ('socketio', b'\xff\xfe', 422),
        ('outbox_mode', 2000 * 'x', 413),
        ('outbox_mode', 'continuous_upload', 409),
        ('outbox_mode', 'sometimes', 422),
        ('operation_mode', 'sleeping', 422),
    ):
        response = httpx.put(f'{node.url}/{path}', content=body)
        assert response.status_code == status, path
        assert response.json()['detail']


def test_bodies_that_are_too_large_are_refused_unread(node: NodeProcess) -> None:
    """A large body is refused by its declared size or its received bytes, without using the node's memory."""
    before = _resident_mib(node)
    declared = httpx.post(f'{node.url}/detect', files={'file': bytes(images.MAX_BYTES + 2 * 1024**2)}, timeout=30)
    assert declared.status_code == 413
    assert 'limit' in declared.json()['detail']
    chunks = (bytes(1024**2) for _ in range(100))
    with contextlib.suppress(httpx.TransportError):  # the node may close the connection while the client sends
        streamed = httpx.post(
            f'{node.url}/detect',
            content=chunks,
            headers={'Content-Type': 'multipart/form-data; boundary=x'},
            timeout=30,
        )
        assert streamed.status_code in (400, 413)
    assert node.detect(CARD).status_code == 200
    assert _resident_mib(node) < before + 200


def _resident_mib(node: NodeProcess) -> float:
    status = Path(f'/proc/{node.process.pid}/status').read_text()
    return int(status.split('VmRSS:')[1].split()[0]) / 1024


def test_a_form_with_a_strange_charset_is_refused(node: NodeProcess) -> None:
    """A form with an unusual charset is refused without its value, which may not be text."""
    body = b'--x\r\nContent-Disposition: form-data; name="file"\r\n\r\n\\ud800\r\n--x--\r\n'
    kind = 'multipart/form-data; boundary=x; charset=unicode_escape'
    response = httpx.post(f'{node.url}/detect', content=body, headers={'Content-Type': kind})
    assert response.status_code == 422
    assert response.json()['detail'].startswith('file: ')


def test_health_and_ready_answer_head_requests(node: NodeProcess) -> None:
    """HEAD requests work, since some probes send no other."""
    assert httpx.head(f'{node.url}/health').status_code == httpx.head(f'{node.url}/ready').status_code == 200


def test_an_upload_without_a_loop_is_refused(node: NodeProcess) -> None:
    """An upload without a Loop gets 409 and the setting, so that the caller does not wait for its arrival."""
    response = httpx.post(f'{node.url}/upload', files={'files': CARD})
    assert response.status_code == 409
    assert 'set LOOP_HOST' in response.json()['detail']


def test_health_answers_and_clients_get_their_own_poses_while_the_node_computes(tmp_path: Path) -> None:
    """Eight clients send different cards; /health answers during an inference, and each gets the poses of its card."""
    cards = [make_card(FIGURES[:1]), make_card(FIGURES[1:]), make_card(), make_card(())]
    expected = [FIGURES[:1], FIGURES[1:], FIGURES, ()]
    sabotage = Sabotage(tmp_path / 'runtime')

    def client(number: int) -> None:
        data = images.encode_jpeg(cards[number % 4])
        for _ in range(3):
            assert_read(poses_of(node.detect(data).json()), expected[number % 4])

    with running_node(tmp_path / 'node', DEADLINE=60, **sabotage.settings) as node, ThreadPoolExecutor(8) as pool:
        sabotage.hold()
        clients = [pool.submit(client, number) for number in range(8)]
        sabotage.wait_until_held()
        for _ in range(10):
            assert httpx.get(f'{node.url}/health', timeout=PATIENCE).json() == {'status': 'UP'}
        assert not any(running.done() for running in clients)
        sabotage.end()
        for running in clients:
            running.result()


def test_a_request_that_waits_too_long_is_refused(tmp_path: Path) -> None:
    """A request that gets no turn before its deadline gets 503 and the reason; the one before it is answered."""
    sabotage = Sabotage(tmp_path / 'runtime')
    with running_node(tmp_path / 'node', DEADLINE=0.3, **sabotage.settings) as node, ThreadPoolExecutor(1) as pool:
        sabotage.hold()
        first = pool.submit(node.detect, CARD)
        sabotage.wait_until_held()
        late = node.detect(CARD)
        assert not first.done()
        sabotage.end()
        assert late.status_code == 503
        assert 'no turn within 0.3 seconds' in late.json()['detail']
        assert_read(poses_of(first.result().json()))
        assert node.detect(CARD).status_code == 200


@pytest.mark.parametrize(('path', 'field'), [('/detect', 'file'), ('/upload', 'files')])
async def test_options_are_read_without_a_worker_thread(path: str, field: str) -> None:
    """Small requests do not wait while all worker threads of the framework write large files to a slow disk."""
    app = FastAPI()
    error_answers.install(app)
    app.include_router(routes.create_router(None))  # type: ignore[arg-type]  # the options are wrong, so nothing is used
    app.include_router(outbox_routes.create_router(None, None, None, Settings()))  # type: ignore[arg-type]
    limiter = anyio.to_thread.current_default_thread_limiter()
    limiter.total_tokens = 1
    limiter.acquire_on_behalf_of_nowait('another request')
    transport = httpx.ASGITransport(app)
    async with asyncio.timeout(PATIENCE), httpx.AsyncClient(transport=transport, base_url='http://node') as client:
        answer = await client.post(path, files={field: CARD[:100]}, headers={'creation_date': 'yesterday'})
    assert (answer.status_code, 'is not ISO 8601' in answer.json()['detail']) == (422, True)
