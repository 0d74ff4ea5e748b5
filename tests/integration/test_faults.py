"""Real processes on a network that answers nothing, and with a clock that jumps."""

import socket
import time
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager, suppress
from datetime import datetime, timedelta
from functools import partial
from pathlib import Path

import httpx
import pytest

from benchmarks.support.cards import make_card
from benchmarks.support.loops import MockLoopProcess, running_mock_loop
from benchmarks.support.processes import NodeProcess, running_node
from benchmarks.support.waiting import eventually
from detector.pose import images
from tests.support.integration.debian import install

pytestmark = pytest.mark.integration

CARD = images.encode_jpeg(make_card())


@contextmanager
def black_hole() -> Iterator[int]:
    """Open a port whose queue of connections is full: a connection never opens, as at an address without a machine."""
    with ExitStack() as stack:
        listener = stack.enter_context(socket.socket())
        listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        listener.bind(('127.0.0.1', 0))
        listener.listen(0)
        port = listener.getsockname()[1]
        for _ in range(8):
            waiting = stack.enter_context(socket.socket())
            waiting.setblocking(False)
            with suppress(BlockingIOError):
                waiting.connect(('127.0.0.1', port))
        probe = stack.enter_context(socket.socket())
        probe.settimeout(0.5)
        with pytest.raises(TimeoutError):
            probe.connect(('127.0.0.1', port))
        yield port


def test_a_network_that_swallows_everything(tmp_path: Path) -> None:
    """The node starts, serves and ends in time, and its accepted image arrives when the Loop is back."""
    with black_hole() as port:
        settings = {
            'LOOP_HOST': f'127.0.0.1:{port}',
            'LOOP_ORGANIZATION': 'zauberzeug',
            'LOOP_PROJECT': 'demo',
            'LABEL_STUDIO_URL': f'http://127.0.0.1:{port}',
            'LABEL_STUDIO_API_TOKEN': 'token',
            'UPLOAD_SECONDS': 0.1,
            'POLL_SECONDS': 0.1,
        }
        start = time.monotonic()
        with running_node(tmp_path, **settings) as node:
            assert time.monotonic() - start < 20
            names = [upload(node)]
            for _ in range(5):
                begun = time.monotonic()
                assert node.detect(CARD).status_code == 200
                assert time.monotonic() - begun < 5
                time.sleep(0.5)
            webhook = {'action': 'ANNOTATION_CREATED', 'annotation': {'id': 5}, 'project': {'id': 1}}
            assert httpx.post(f'{node.url}/webhook', json=webhook).json()['annotations'] == 1
            start = time.monotonic()
            node.process.terminate()
            assert node.process.wait(20) == 0
            assert time.monotonic() - start < 8
    with running_mock_loop(tmp_path / 'loop') as loop:
        settings |= loop.settings | {'LABEL_STUDIO_URL': 'http://127.0.0.1:9'}
        with running_node(tmp_path, **settings) as node:
            eventually(lambda: len(loop.images()) == 1)
            assert [image['name'] for image in loop.images()] == [f'image_{names[0]}']
            about = httpx.get(f'{node.url}/about').json()
            assert about['label_studio']['corrections']['waiting'] == 1


class Clock:
    """The wall clock of processes with libfaketime; their monotonic clock is unaffected."""

    def __init__(self, folder: Path) -> None:
        found = partial(Path('/usr/lib').glob, '*/faketime/libfaketime.so.1')
        reason = '' if any(found()) else install('libfaketime')
        libraries = list(found())
        assert libraries, f'libfaketime is missing: {reason}'
        self._file = folder / 'clock'
        self.settings = {
            'LD_PRELOAD': libraries[0],
            'FAKETIME_TIMESTAMP_FILE': self._file,
            'FAKETIME_NO_CACHE': 1,
            'FAKETIME_DONT_FAKE_MONOTONIC': 1,
            'DONT_FAKE_MONOTONIC': 1,
        }
        self.set(0)

    def set(self, hours: float) -> None:
        """Set the clock.

        :param hours: difference to the true time; positive if the clock is ahead.
        """
        fresh = self._file.with_suffix('.new')
        fresh.write_text(f'{hours * 3600:+.0f}')
        fresh.replace(self._file)


def upload(node: NodeProcess) -> str:
    answer = httpx.post(f'{node.url}/upload', files={'files': CARD}, timeout=60)
    assert answer.status_code == 200
    (name,) = answer.json()['names']
    return str(name)


def _arrive(loop: MockLoopProcess, images: int) -> None:
    """Wait until that many images have arrived, and the node has requested the target a few more times."""
    eventually(lambda: len(loop.images()) == images)
    last = loop.requests('target')[-1]['number']
    eventually(lambda: len(loop.requests('target', after=last)) > 3)


def test_the_clock_jumps(tmp_path: Path) -> None:
    """The node answers, sends images and follows the Loop at its usual pace while its clock jumps by hours and days."""
    clock = Clock(tmp_path)
    with running_mock_loop(tmp_path / 'loop') as loop:
        settings = {'UPLOAD_SECONDS': 0.2, 'POLL_SECONDS': 0.2, **loop.settings, **clock.settings}
        with running_node(tmp_path, **settings) as node, node.socketio() as client:
            names = [upload(node)]
            for hours in (-6, 0, 12, -12, 0, 30 * 24, 0):
                clock.set(hours)
                names += [upload(node) for _ in range(3)]
                said = datetime.fromisoformat(names[-1])
                if hours == 30 * 24:
                    assert said - datetime.now() > timedelta(days=29), 'libfaketime does not change the clock'
                begun = time.monotonic()
                assert node.detect(CARD).status_code == 200
                assert 'error' not in client.call('about')
                _arrive(loop, len(names))
                assert time.monotonic() - begun < 60, 'the node waited for its wall clock'
            assert len(set(names)) == len(names)
            monotonous = names[:16]
            assert monotonous == sorted(monotonous)
            assert httpx.get(f'{node.url}/outbox').json()['waiting'] == 0
            start = time.monotonic()
            clock.set(-24)
            node.process.terminate()
            clock.set(24)
            assert node.process.wait(20) == 0
            assert time.monotonic() - start < 8
