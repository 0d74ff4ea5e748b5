"""More frames than the node can process, and streams of frames, over real sockets."""

import threading
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import httpx
import pytest
import socketio

from benchmarks.support.cards import assert_read, make_card, poses_of
from benchmarks.support.processes import NodeProcess, running_node
from detector.pose import images
from mock.test_card.cards import Figure
from tests.support.crowds import CROWD


def test_too_many_requests_get_503_and_a_time_to_retry(tmp_path: Path) -> None:
    """Each request is answered rightly or refused with a JSON detail and `Retry-After`; the node serves on."""
    with running_node(tmp_path, MAX_WAITING=2, DEADLINE=60) as node:
        with ThreadPoolExecutor(16) as pool:
            answers = list(pool.map(lambda _: node.detect(CROWD), range(48)))
        statuses = [answer.status_code for answer in answers]
        assert set(statuses) == {200, 503}
        for answer in answers:
            if answer.status_code == 200:
                assert len(poses_of(answer.json())) == 12
            else:
                assert int(answer.headers['Retry-After']) >= 1
                assert 'are ahead of this one; try again later' in answer.json()['detail']
        assert len(poses_of(node.detect(CROWD).json())) == 12
        about = httpx.get(f'{node.url}/about').json()['requests']
        assert about == {'present': 0, 'refused': statuses.count(503)}


def test_requests_past_the_deadline_are_refused(tmp_path: Path) -> None:
    """A request whose turn would come after the deadline is refused at once, or when the deadline has passed."""
    with running_node(tmp_path, MAX_WAITING=100, DEADLINE=0.5) as node:
        with ThreadPoolExecutor(32) as pool:
            answers = list(pool.map(lambda _: node.detect(CROWD), range(32)))
        refused = [answer.json()['detail'] for answer in answers if answer.status_code == 503]
        assert refused
        assert {answer.status_code for answer in answers} == {200, 503}
        assert all('no turn within 0.5 seconds' in text or 'try again later' in text for text in refused)


class Answers:
    """The answers to emitted frames, in the order of sending."""

    def __init__(self, node: NodeProcess) -> None:
        self._client = socketio.SimpleClient(reconnection=False)
        self._client.connect(node.url, socketio_path='/ws/socket.io', transports=['websocket'])
        self._found: dict[int, Any] = {}
        self._news = threading.Condition()

    def emit(self, number: int, **payload: Any) -> None:
        def keep(answer: Any) -> None:
            with self._news:
                self._found[number] = answer
                self._news.notify_all()

        self._client.client.emit('detect', payload, callback=keep)

    def all(self, count: int) -> list[Any]:
        with self._news:
            assert self._news.wait_for(lambda: len(self._found) == count, timeout=30)
        self._client.disconnect()
        return [self._found[number] for number in range(count)]


def jpeg(content: bytes) -> dict[str, Any]:
    return {'format': 'jpeg', 'bytes': content}


@pytest.fixture(scope='module')
def patient(tmp_path_factory: pytest.TempPathFactory) -> Any:
    with running_node(tmp_path_factory.mktemp('patient'), DEADLINE=60, DETECTION_INTERVAL=5) as node:
        yield node


def test_a_newer_frame_takes_the_place_of_an_older_one(patient: NodeProcess) -> None:
    """Only a waiting frame of the same camera is replaced, so the node does not compute outdated frames."""
    answers = Answers(patient)
    answers.emit(0, image=jpeg(CROWD))
    for number, camera in ((1, 'a'), (2, 'b'), (3, 'a'), (4, 'a')):
        answers.emit(number, image=jpeg(CROWD), camera_id=camera)
    found = answers.all(5)
    assert ['error' in answer for answer in found] == [False, True, False, True, False]
    assert 'a newer frame of this camera has arrived' in found[1]['error']
    for number in (0, 2, 4):
        assert len(poses_of(found[number])) == 12


def walk(client: socketio.SimpleClient, figures: Sequence[Figure]) -> None:
    for figure in figures:
        card = images.encode_jpeg(make_card([figure], width=1000, height=600))
        answer = client.call('detect', {'image': jpeg(card), 'camera_id': 'walk', 'autoupload': 'disabled'}, timeout=30)
        assert_read(poses_of(answer), [figure])


def test_a_stream_is_read_in_every_frame(patient: NodeProcess) -> None:
    """With one detection in five frames, every frame of a person who walks, leaves and returns elsewhere is read."""
    with socketio.SimpleClient(reconnection=False) as client:
        client.connect(patient.url, socketio_path='/ws/socket.io', transports=['websocket'])
        walk(client, [Figure(x=50 + 8 * step, y=40, height=420) for step in range(7)])
        empty = images.encode_jpeg(make_card((), width=1000, height=600))
        answer = client.call('detect', {'image': jpeg(empty), 'camera_id': 'walk'}, timeout=30)
        assert answer['box_detections'] == []
        walk(client, [Figure(x=600, y=100 + 4 * step, height=400) for step in range(3)])
    assert httpx.get(f'{patient.url}/health').status_code == 200
