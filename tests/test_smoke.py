"""One pass through the product on this Python version. CI runs this module on every supported version."""

from pathlib import Path

import httpx

from benchmarks.support.cards import CARD, RAW_CARD, assert_read, poses_of
from benchmarks.support.loops import running_mock_loop
from benchmarks.support.processes import running_node
from benchmarks.support.waiting import eventually


def test_a_node_detects_and_uploads(tmp_path: Path) -> None:
    """A node takes its model from the Loop, detects over REST and Socket.IO, and the Loop receives its upload."""
    with (
        running_mock_loop(tmp_path / 'loop') as loop,
        running_node(tmp_path / 'node', DEADLINE=60, POLL_SECONDS=0.5, UPLOAD_SECONDS=0.5, **loop.settings) as node,
    ):
        node.wait_for_version('1.0')
        assert_read(poses_of(node.detect(CARD).json()))
        with node.socketio() as client:
            assert_read(poses_of(client.call('detect', {'image': RAW_CARD})))
        httpx.post(f'{node.url}/upload', files={'files': CARD}, timeout=30).raise_for_status()
        (image,) = eventually(loop.images, 'the Loop receives the image')
        assert loop.jpeg(image['id']) == CARD
