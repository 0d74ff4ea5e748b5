"""The node's Socket.IO events: a real client over a real port."""

from typing import Any

import numpy as np
import pytest

from benchmarks.support.cards import FIGURES, RAW_CARD, assert_misread, assert_read, make_card, poses_of
from benchmarks.support.processes import NodeProcess, SocketClient
from detector.api.events import EVENTS
from detector.pose import images
from detector.pose.pose import Pose

JPEG = {'format': 'jpeg', 'bytes': images.encode_jpeg(make_card(), quality=90)}


@pytest.fixture(scope='module', params=['websocket', pytest.param('polling', marks=pytest.mark.integration)])
def client(node: NodeProcess, request: pytest.FixtureRequest) -> Any:
    """One connection for all tests: bad events must not end it. A polling client takes half a minute to close."""
    with node.socketio(transport=request.param) as connected:
        yield connected


def call(client: SocketClient, event: str, *payload: Any) -> Any:
    return client.call(event, *payload, timeout=20)


@pytest.mark.parametrize('image', [RAW_CARD, JPEG], ids=['raw', 'jpeg'])
def test_detect_and_batch_detect_read_the_card(client: SocketClient, image: dict[str, Any]) -> None:
    """Raw RGB arrays and JPEG bytes are read to the pixel; a batch keeps its order."""
    assert_read(poses_of(call(client, 'detect', {'image': image})))
    single = make_card(FIGURES[:1])
    other = {'bytes': single.tobytes(), 'dtype': 'uint8', 'shape': single.shape}
    batch = call(client, 'batch_detect', {'images': [image, other, image], 'camera_id': 'c'})
    assert [len(item['box_detections']) for item in batch['items']] == [2, 1, 2]
    assert_read(poses_of(batch['items'][0]))
    assert_read(poses_of(batch['items'][1]), FIGURES[:1])


def test_swapped_colours_are_not_read(client: SocketClient) -> None:
    """A raw array with red and blue swapped is misread, so the colour order is right."""
    swapped = RAW_CARD | {'bytes': np.ascontiguousarray(make_card()[..., ::-1]).tobytes()}
    assert_misread(poses_of(call(client, 'detect', {'image': swapped})))


def test_poses_are_grouped(client: SocketClient) -> None:
    """The event `poses` answers as `POST /poses` does."""
    answer = call(client, 'poses', {'image': RAW_CARD})
    assert_read([Pose.from_json(pose) for pose in answer['poses']])
    assert answer['image'] == {'width': 720, 'height': 480}


def test_options_reach_the_answer(client: SocketClient) -> None:
    """Tags, source and date return as sent; an empty batch gives an empty list."""
    options = {'tags': ['a'], 'source': 's', 'creation_date': '2026-01-02', 'camera_id': None, 'autoupload': 'all'}
    answer = call(client, 'detect', {'image': JPEG} | options)
    assert (answer['tags'], answer['source'], answer['created']) == (['a'], 's', '2026-01-02')
    assert call(client, 'batch_detect', {'images': []}) == {'items': []}


def test_a_frame_of_64_mib_is_accepted(node: NodeProcess) -> None:
    """A raw frame of 64 MiB arrives in one WebSocket message, while uvicorn's default limit is 16 MiB."""
    height, width = 4096, 5461  # 3 · 4096 · 5461 is 4 KiB short of 64 MiB
    card = make_card(tuple(FIGURES), width=width, height=height)
    large = np.kron(make_card(), np.ones((5, 5, 1), dtype=np.uint8))
    card[: large.shape[0], : large.shape[1]] = large
    with node.socketio() as client:
        answer = call(client, 'detect', {'image': {'bytes': card.tobytes(), 'dtype': 'uint8', 'shape': card.shape}})
    assert len(poses_of(answer)) == 2


BAD: dict[str, tuple[str, tuple[Any, ...], str]] = {
    'no payload': ('detect', (), 'must be an object'),
    'null payload': ('detect', (None,), 'must be an object'),
    'text payload': ('detect', ('image',), 'must be an object'),
    'two payloads': ('detect', ({'image': RAW_CARD}, 1), 'one payload'),
    'no image': ('detect', ({},), "'image' must be an object"),
    'bare bytes': ('detect', ({'image': RAW_CARD['bytes']},), "'image' must be an object"),
    'float64': ('detect', ({'image': RAW_CARD | {'dtype': 'float64'}},), "send 'uint8'"),
    '2-D': ('detect', ({'image': RAW_CARD | {'shape': (480, 2160)}},), 'send (height, width, 3)'),
    'short bytes': ('detect', ({'image': RAW_CARD | {'bytes': b'abc'}},), '3 bytes'),
    '0x0': ('detect', ({'image': RAW_CARD | {'bytes': b'', 'shape': (0, 0, 3)}},), '0×0'),
    '1x1': ('detect', ({'image': RAW_CARD | {'bytes': b'abc', 'shape': (1, 1, 3)}},), '1×1'),
    'truncated': ('detect', ({'image': JPEG | {'bytes': JPEG['bytes'][:2000]}},), 'broken'),
    'no tags': ('detect', ({'image': RAW_CARD, 'tags': None},), "'tags' must be a list"),
    'number tags': ('detect', ({'image': RAW_CARD, 'tags': [1]},), "'tags' must be a list"),
    'autoupload': ('detect', ({'image': RAW_CARD, 'autoupload': 'maybe'},), "autoupload is 'maybe'"),
    'camera': ('detect', ({'image': RAW_CARD, 'camera_id': 7},), "'camera_id' must be a string"),
    'batch of one': ('batch_detect', ({'images': RAW_CARD},), "'images' must be a list"),
    'large batch': ('batch_detect', ({'images': [JPEG] * 65},), 'up to 64'),
    'long number': ('detect', ({'image': RAW_CARD | {'shape': (10**120, 5, 3)}},), 'shape'),
    'reserved': ('connect', ({'image': RAW_CARD},), 'is not an event'),
    'metadata of lists': (
        'upload',
        ({'image': JPEG, 'metadata': {'box_detections': {'a': 1}}},),
        "'metadata' is malformed",
    ),
    'bad in batch': ('batch_detect', ({'images': [RAW_CARD, JPEG | {'bytes': b'x'}]},), 'not an image'),
    'poses': ('poses', ({'image': 5},), "'image' must be an object"),
    'unknown event': ('detekt', ({'image': RAW_CARD},), "unknown event 'detekt'"),
    'soft_reload': ('soft_reload', (), 'unknown event'),
    'bad version': ('set_model_version_mode', ('1.0',), 'set LOOP_HOST'),
    'version number': ('set_model_version_mode', (1.0,), 'must be sent as a string'),
    'bad outbox mode': ('set_outbox_mode', ('sometimes',), 'sometimes'),
    'upload without loop': ('upload', ({'image': JPEG},), 'set LOOP_HOST'),
    'bad metadata': ('upload', ({'image': JPEG, 'metadata': {'tags': 5}},), 'tags'),
}


@pytest.mark.parametrize('name', BAD)
def test_bad_events_get_an_error_at_once_and_the_node_serves_on(client: SocketClient, name: str) -> None:
    """Every bad event gets `{'error': …}` that says what to change, and the next frame is served."""
    event, payload, message = BAD[name]
    answer = client.call(event, *payload, timeout=2)
    assert message in answer['error']
    assert len(call(client, 'detect', {'image': JPEG})['box_detections']) == 2


def test_the_other_events_answer_as_upstream_does(client: SocketClient) -> None:
    """The events that rosys and the Loop's tools send get the answers that upstream gives."""
    assert call(client, 'info')['version'] == 'test-card'
    about = call(client, 'about')
    assert about['operation_mode'] == 'idle'
    assert about['wholebody']['model_version'] == 'test-card 0.0'
    versions = call(client, 'get_model_version')
    assert versions['current_version'] == 'test-card'
    assert call(client, 'set_model_version_mode', 'pause') == {'status': 'OK'}
    assert call(client, 'get_model_version')['version_control'] == 'pause'
    assert call(client, 'set_model_version_mode', 'follow_loop') == {'status': 'OK'}
    assert call(client, 'get_outbox_mode') == {'outbox_mode': 'stopped'}
    assert call(client, 'set_outbox_mode', 'stopped') == {'status': 'OK'}
    assert set(EVENTS) == {
        'detect', 'batch_detect', 'poses', 'upload', 'info', 'about', 'get_model_version', 'set_model_version_mode',
        'get_outbox_mode', 'set_outbox_mode',
    }  # fmt: skip
