"""rosys' own edge client, DetectorHardware, in another process and environment."""

import json
import subprocess
import time
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from benchmarks.support.cards import assert_read, make_card, poses_of
from benchmarks.support.environments import python_with
from benchmarks.support.loops import running_mock_loop
from benchmarks.support.processes import PROJECT, NodeProcess, running_node
from detector.pose.images import Image
from detector.pose.skeleton import category_id
from mock.test_card.cards import arrange

pytestmark = pytest.mark.integration

CLIENT = PROJECT / 'tests/support/integration/rosys_client.py'


def drive(node: NodeProcess, frame: Image, transmission: str, folder: Path) -> dict[str, Any]:
    np.save(folder / 'frame.npy', frame)
    python = python_with('rosys-0.37', 'rosys==0.37.*')
    command = [
        str(part) for part in (python, CLIENT, node.port, folder / 'frame.npy', transmission, folder / 'result.json')
    ]
    ended = subprocess.run(command, capture_output=True, text=True, timeout=180, check=False)
    assert ended.returncode == 0, ended.stderr
    return dict(json.loads((folder / 'result.json').read_text()))


@pytest.mark.parametrize('transmission', ['RAW', 'JPEG'])
def test_rosys_gets_poses_from_a_4k_frame(node: NodeProcess, tmp_path: Path, transmission: str) -> None:
    """`detect` and `batch_detect` answer rosys within its 5 seconds, for a raw message of 24 MB and for JPEG."""
    figures = arrange(2, (3840, 2160))
    answers = drive(node, make_card(figures, width=3840, height=2160), transmission, tmp_path)
    assert_read(poses_of(answers['detect']), figures)
    assert len(answers['batch_detect']) == 2
    for item in answers['batch_detect']:
        assert_read(poses_of(item), figures)


def test_what_rosys_uploads_reaches_the_loop(tmp_path: Path) -> None:
    """An upload of rosys, which waits for no answer, reaches the Loop with detections, category ids, tags and date."""
    with (
        running_mock_loop(tmp_path / 'loop') as loop,
        running_node(tmp_path / 'node', UPLOAD_SECONDS=0.1, **loop.settings) as node,
    ):
        drive(node, make_card(), 'RAW', tmp_path)
        deadline = time.monotonic() + 20
        while not loop.images() and time.monotonic() < deadline:
            time.sleep(0.1)
        (image,) = loop.images()
    assert (image['tags'], image['source']) == (['robot', 'picked_by_system'], 'rosys')
    assert image['metadata']['created'].startswith('2026-01-31T12:00:00')
    assert_read(poses_of(image['metadata']))
    assert image['metadata']['point_detections'][0]['category_id'] == category_id('nose')


def test_rosys_reads_about_and_the_model_version(node: NodeProcess, tmp_path: Path) -> None:
    """rosys parses `about` and the model version, although the node adds fields to upstream's answers."""
    answers = drive(node, make_card(), 'RAW', tmp_path)
    assert_read(poses_of(answers['detect']))
    assert answers['about']['operation_mode'] == 'idle'
    assert answers['model_version']['current_version'] == 'test-card'
