"""A node with a Loop and without one."""

import json
import os
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any
from unittest.mock import patch

import httpx
import pytest
from learning_loop_node.enums import OperationMode

from benchmarks.support.cards import CARD, FIGURES, assert_read, make_card, poses_of
from benchmarks.support.packages import make_package
from benchmarks.support.processes import NodeProcess, free_port, running_node
from detector.errors import NoLearningLoop
from detector.node.wholebody_node import WholebodyNode
from detector.settings import Settings


@pytest.fixture(scope='module')
def watched(tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[NodeProcess, Path]]:
    """A node that records each outgoing connection and name look-up in a file."""
    folder = tmp_path_factory.mktemp('watched')
    record = folder / 'connections.txt'
    (folder / 'sitecustomize.py').write_text(
        'import sys\n'
        'def hook(event, args):\n'
        "    if event in ('socket.connect', 'socket.getaddrinfo', 'socket.sendto'):\n"
        f"        with open({str(record)!r}, 'a') as file:\n"
        "            file.write(f'{event} {args!r}\\n')\n"
        'sys.addaudithook(hook)\n'
        f"open({str(record)!r}, 'a').close()\n"
    )
    with running_node(folder, PYTHONPATH=str(folder)) as node:
        yield node, record


def test_without_a_loop_nothing_is_sent_and_nothing_stored(watched: tuple[NodeProcess, Path]) -> None:
    """A node without a Loop sends and stores nothing, even with `autoupload: all` and after upstream's first cycle."""
    node, record = watched
    assert node.detect(CARD, {'autoupload': 'all'}).status_code == 200
    assert node.detect(CARD).status_code == 200
    httpx.put(f'{node.url}/operation_mode', content='detecting')
    time.sleep(6)  # one cycle is 5 seconds
    lines = [line for line in record.read_text().splitlines() if f"'127.0.0.1', {node.port}" not in line]
    assert lines == []
    stored = {path.suffix for path in node.data_folder.rglob('*') if path.is_file()}
    assert stored == {'.json', '.onnx', '.lock'}
    assert not [path for path in (node.data_folder / 'outbox').rglob('*') if path.is_file()]


def test_with_a_loop_images_wait_in_the_outbox_in_upstreams_form(tmp_path: Path) -> None:
    """`autoupload: all` stores image and metadata with all 133 points per person until the Loop answers."""
    closed = free_port()
    with running_node(
        tmp_path, LOOP_HOST=f'127.0.0.1:{closed}', LOOP_ORGANIZATION='o', LOOP_PROJECT='p', SKIP_REPEAT_ON_START=1
    ) as node:
        assert node.detect(CARD, {'autoupload': 'all', 'camera_id': 'c', 'tags': 'x'}).status_code == 200
        garbage = httpx.post(f'{node.url}/upload', files={'files': b'garbage'})
        assert garbage.status_code == 415
        assert httpx.post(f'{node.url}/upload', files={'files': CARD}).status_code == 200
        found = _waiting_images(node, 2)
    detected = next(metadata for metadata, _ in found if metadata['tags'] == ['x'])
    assert_read(poses_of(detected))
    uploaded = next(metadata for metadata, _ in found if metadata['tags'] == ['picked_by_system'])
    assert uploaded['box_detections'] == []
    assert all(image == CARD for _, image in found)


def _waiting_images(node: NodeProcess, count: int) -> list[tuple[dict[str, Any], bytes]]:
    deadline = time.monotonic() + 10
    while time.monotonic() < deadline:
        folders = list((node.data_folder / 'outbox' / 'normal').iterdir())
        if len(folders) == count:
            return [
                (json.loads(next(folder.glob('*.json')).read_text()), next(folder.glob('*.jpg')).read_bytes())
                for folder in folders
            ]
        time.sleep(0.1)
    raise AssertionError(f'{count} images should wait in the outbox')


async def test_upstream_sees_the_model_the_target_and_the_modes(tmp_path: Path) -> None:
    """Upstream's own answers and the methods that it calls agree with the parts of the node."""
    with patch.dict(os.environ):  # a node rewrites it for upstream
        node = WholebodyNode(Settings(data_folder=tmp_path))
    package = node.parts.store.add(make_package(tmp_path / 'p.zip', version='1.2'))
    assert node.get_about_response().model_info is None
    await node.parts.serving.switch(package)
    await node.set_model_version_mode('1.2')
    await node.set_operation_mode(OperationMode.Detecting)
    about = node.get_about_response()
    assert about.model_info is not None
    assert (about.model_info.version, about.target_model) == ('1.2', '1.2')
    assert (about.operation_mode, about.version_control) == ('detecting', 'specific_version')
    assert node.get_model_version_response() == node.parts.service.models.versions()
    found = await node.get_detections(CARD, ['a'], source='s', autoupload='disabled')
    assert (len(found.box_detections), found.tags, found.source) == (len(FIGURES), ['a'], 's')
    batch = await node.get_batch_detections([make_card(()), CARD], [], autoupload='disabled')
    assert [len(item.box_detections) for item in batch.items] == [0, len(FIGURES)]
    with pytest.raises(NoLearningLoop):
        await node.upload_images(images=[CARD])
    node.parts.serving.reset()
    assert node.get_about_response().model_info is None
