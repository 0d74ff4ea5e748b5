"""This version on data folders that earlier versions have written."""

from pathlib import Path
from typing import Final

import httpx
import pytest

from benchmarks.support.cards import CARD
from benchmarks.support.processes import free_port, running_node
from detector.label_studio.backend.correction_queue import CorrectionQueue, Hint
from detector.label_studio.backend.known_projects import KnownProjects
from detector.models.downloads import download
from tests.support.file_server import serving
from tests.upgrades.write_data_folder import ARCHIVES, CONTENT, settings, unpack

FOUND: Final = sorted(ARCHIVES.glob('*.tar.xz'))
old = pytest.mark.parametrize('archive', FOUND, ids=lambda path: path.name.split('.')[0])


@old
def test_a_node_keeps_everything_that_an_older_one_has_accepted(tmp_path: Path, archive: Path) -> None:
    """The current model serves, images, corrections, projects and the node's id are there, and remains are gone."""
    expected = unpack(archive, tmp_path)
    outbox, studio = tmp_path / 'data' / 'outbox', tmp_path / 'data' / 'label_studio'
    before = {path: path.read_bytes() for name in expected.images for path in outbox.rglob(f'image_{name}.*')}
    identity = (tmp_path / 'data' / 'uuids.json').read_bytes()
    assert len(before) == 2 * len(expected.images) > 0
    with running_node(tmp_path, **settings(free_port(), free_port())) as node:
        assert node.version == expected.version
        assert len(node.detect(CARD).json()['box_detections']) == 2
        listing = node.outbox()
        assert [image['name'] for image in listing['images']] == expected.images
        assert listing['found'] == len(expected.images) + 1, 'the image without metadata must be found too'
        about = httpx.get(f'{node.url}/about', timeout=30).json()['label_studio']
        assert about['corrections'] == expected.corrections
        assert about['projects']['known'] == len(expected.projects)
    assert {path: path.read_bytes() for path in before} == before
    assert sorted(path.name for path in (outbox / 'set_aside').iterdir()) == expected.set_aside
    assert [*(outbox / '.saving').iterdir(), *(outbox / '.removing').iterdir()] == []
    assert (tmp_path / 'data' / 'uuids.json').read_bytes() == identity
    assert sorted(KnownProjects(studio / 'projects.json').numbers()) == expected.projects
    queue = CorrectionQueue(studio / 'corrections.sqlite')
    assert [queue.was_sent(Hint(annotation=number, project=7), 'v1') for number in (1, 2, 3)] == [True, True, False]
    queue.close()


@old
async def test_an_incomplete_download_of_an_older_node_is_resumed(tmp_path: Path, archive: Path) -> None:
    """The rest of the file is requested, and the file is complete."""
    expected = unpack(archive, tmp_path)
    target = tmp_path / 'data' / 'downloads' / 'old.zip'
    with serving(CONTENT) as server:
        async with httpx.AsyncClient(timeout=5) as client:
            await download(client, server.url, target, max_bytes=10**6)
    assert server.ranges == [f'bytes={expected.received}-']
    assert target.read_bytes() == CONTENT


def test_there_are_old_data_folders() -> None:
    """The data folder of at least one version is among the tests, and none is large."""
    assert FOUND
    assert all(path.stat().st_size < 200_000 for path in FOUND)
