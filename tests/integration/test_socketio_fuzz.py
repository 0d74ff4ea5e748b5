"""A real node answers Socket.IO events of any content."""

from collections.abc import Iterator
from typing import Any

import httpx
import pytest
from hypothesis import given
from hypothesis import strategies as st

from benchmarks.idle_memory import resident_mib
from benchmarks.support.loops import running_mock_loop
from benchmarks.support.processes import NodeProcess, running_node
from detector.api.events import EVENTS
from tests.support.fuzz_budget import repeat
from tests.support.seeds import FRAME, SEEDS
from tests.support.strategies import JSON, METADATA, TEXTS, damaged, mutated

pytestmark = [pytest.mark.integration, pytest.mark.nightly]

ANSWER_SECONDS = 5
JPEG = {'format': 'jpeg', 'bytes': SEEDS['jpeg']}
OPTIONS = {'camera_id': 'a', 'tags': ['b'], 'source': 'c', 'autoupload': 'all', 'creation_date': '2026-01-31'}
IMAGES = (
    mutated(FRAME)
    | mutated(JPEG)
    | st.sampled_from(sorted(SEEDS)).flatmap(lambda name: damaged(SEEDS[name])).map(lambda data: JPEG | {'bytes': data})
)
PAYLOADS = {
    'detect': mutated({'image': FRAME} | OPTIONS) | IMAGES.map(lambda image: {'image': image}),
    'batch_detect': mutated({'images': [FRAME, JPEG]} | OPTIONS) | st.lists(IMAGES).map(lambda some: {'images': some}),
    'poses': IMAGES.map(lambda image: {'image': image}),
    'upload': mutated({'image': JPEG, 'metadata': METADATA, 'upload_priority': True})
    | mutated(METADATA).map(lambda metadata: {'image': JPEG, 'metadata': metadata}),
}


@pytest.fixture(scope='module')
def follower(tmp_path_factory: pytest.TempPathFactory) -> Iterator[NodeProcess]:
    """Start a node that sends accepted images to a mock Loop."""
    folder = tmp_path_factory.mktemp('fuzzed')
    with (
        running_mock_loop(folder / 'loop') as loop,
        running_node(folder / 'node', UPLOAD_SECONDS=0.2, POLL_SECONDS=1, **loop.settings) as node,
    ):
        node.wait_for_version('1.0')
        yield node


@pytest.fixture
def alive(follower: NodeProcess) -> Iterator[NodeProcess]:
    """Yield the node, and check afterwards that it is ready, has logged no fault and has not grown."""
    before = resident_mib(follower.process.pid)
    yield follower
    assert httpx.get(f'{follower.url}/ready', timeout=ANSWER_SECONDS).status_code == 200
    assert httpx.get(f'{follower.url}/outbox', timeout=ANSWER_SECONDS).status_code == 200
    assert resident_mib(follower.process.pid) < 1.2 * before + 64
    assert 'the event' not in follower.log.read_text()  # the log line of an event that failed inside the node


@pytest.mark.parametrize('event', EVENTS)
def test_every_payload_is_answered(alive: NodeProcess, event: str) -> None:
    """Each payload gets an object within 5 seconds, and none causes a failure inside the node."""
    with alive.socketio() as client:

        @given(PAYLOADS.get(event, JSON | TEXTS) | JSON)
        def check(payload: Any) -> None:
            answer = client.call(event, payload, timeout=ANSWER_SECONDS)
            assert isinstance(answer, dict)
            assert 'inside the node' not in str(answer.get('error'))

        assert repeat(check, 3) > 0
        client.call('set_outbox_mode', 'continuous_upload')
        client.call('set_model_version_mode', 'follow_loop')


def test_events_are_answered_after_any_message(alive: NodeProcess) -> None:
    """A connection still answers events after raw messages of any kind, with missing or surplus binary parts."""
    raw = st.builds(
        '{}{}{}{}'.format,
        st.sampled_from(['2', '2', '5', '51-', '50-', '52-', '5999999999-', '3', '4', '6', '9', '']),
        st.sampled_from(['', '/,', '/other,']),
        st.sampled_from(['', '7', '9' * 120]),
        JSON.map(repr)
        | st.sampled_from(
            ['["info"]', '[', '{}', '[]', '[[1]]', '[' * 100_000, '["detect",{"_placeholder":true,"num":5}]', '[null]']
        ),
    )

    def check_on(node: NodeProcess) -> None:
        @given(st.lists(raw | st.binary(max_size=20), max_size=3))
        def check(messages: list[str | bytes]) -> None:
            with node.socketio() as client:
                for message in messages:
                    client._client.eio.send(message)
                if any(isinstance(message, str) and message.startswith(('5', '6')) for message in messages):
                    client._client.eio.send(b'a binary part, in case the node waits for one')
                    client._client.eio.send(b'another')
                assert isinstance(client.call('info', timeout=ANSWER_SECONDS), dict)

        assert repeat(check, 10) > 0

    check_on(alive)
