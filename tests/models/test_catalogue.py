import hashlib
import io
import json
import zipfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx
import pytest
from rtmlib import Wholebody
from rtmlib.tools.file import get_mirror_url

from benchmarks.support.cards import CARD
from benchmarks.support.processes import free_port, running_node
from detector.cli.main import app
from detector.engine.verification import verify
from detector.errors import DownloadFailed, InvalidPackage
from detector.models import downloads
from detector.models.catalogue import pull, read_catalogue
from mock.test_card.model import build_detector, build_estimator
from tests.support.commands import succeed
from tests.support.file_server import FileServer, serving


def published(content: bytes) -> bytes:
    """A zip as mmdeploy publishes it: the network in a folder, with other files."""
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, 'w') as archive:
        archive.writestr('model_sdk/pipeline.json', '{}')
        archive.writestr('model_sdk/end2end.onnx', content)
    return buffer.getvalue()


@pytest.fixture(autouse=True)
def _no_pauses(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(downloads, '_PAUSE_SECONDS', 0)


@pytest.fixture
def servers() -> Iterator[tuple[FileServer, FileServer]]:
    """A detector and an estimator, each on a server of its own."""
    with (
        serving(published(build_detector().SerializeToString())) as detector,
        serving(published(build_estimator().SerializeToString())) as estimator,
    ):
        yield detector, estimator


def catalogue_of(folder: Path, servers: tuple[FileServer, FileServer], **changes: Any) -> Path:
    """A catalogue whose `lightweight` model is what the two servers have."""
    detector, estimator = (server.url for server in servers)
    model = {
        'description': 'test',
        'detector': {'urls': [detector.replace('model', 'det')], 'input_size': [640, 640], 'color_order': 'BGR'},
        'estimator': {'urls': [estimator.replace('model', 'pose')], 'input_size': [192, 256], 'color_order': 'RGB'},
    }
    model['detector'] |= changes  # type: ignore[operator]
    path = folder / 'catalogue.json'
    path.write_text(json.dumps({'lightweight': model}))
    return path


def test_the_shipped_catalogue_names_what_rtmlib_would_fetch() -> None:
    """All three modes: rtmlib's addresses and mirrors, its sizes; BGR for detectors, RGB for estimators."""
    models = read_catalogue()
    assert set(models) == set(Wholebody.MODE)
    for mode, model in models.items():
        theirs = Wholebody.MODE[mode]
        for network, role in ((model.detector, 'det'), (model.estimator, 'pose')):
            assert network.urls == [theirs[role], get_mirror_url(theirs[role])]
            assert network.input_size == theirs[f'{role}_input_size']
        assert (model.detector.color_order, model.estimator.color_order) == ('BGR', 'RGB')


async def test_a_model_is_fetched_packed_and_valid(servers: tuple[FileServer, FileServer], tmp_path: Path) -> None:
    """Progress is told per file; the second time nothing is fetched."""
    seen: dict[str, int] = {}

    def watch(name: str) -> downloads.Progress:
        return lambda done, _: seen.__setitem__(name, done)

    catalogue = catalogue_of(tmp_path, servers)
    archive = tmp_path / 'out' / 'light.zip'
    await pull('lightweight', archive, verify=verify, cache=tmp_path / 'cache', catalogue=catalogue, watch=watch)
    package = verify(archive)
    assert package.model_version == 'lightweight 1.0'
    assert 'sha256:' in package.wholebody.origin
    assert seen == {'det.zip': len(servers[0].content), 'pose.zip': len(servers[1].content)}
    requests = [len(server.ranges) for server in servers]
    await pull('lightweight', archive, verify=verify, cache=tmp_path / 'cache', catalogue=catalogue)
    assert [len(server.ranges) for server in servers] == requests


async def test_a_cut_is_resumed(servers: tuple[FileServer, FileServer], tmp_path: Path) -> None:
    """The rest is asked for."""
    servers[1].cuts = [300_000]
    await pull(
        'lightweight',
        tmp_path / 'l.zip',
        verify=verify,
        cache=tmp_path / 'c',
        catalogue=catalogue_of(tmp_path, servers),
    )
    assert len(servers[1].ranges) == 2
    assert servers[1].ranges[1] is not None


async def test_a_wrong_hash_is_refused(servers: tuple[FileServer, FileServer], tmp_path: Path) -> None:
    """One that the catalogue knows, and one that was recorded at the first download."""
    catalogue = catalogue_of(tmp_path, servers, sha256=64 * 'a')
    with pytest.raises(DownloadFailed, match=f'expected is {64 * "a"}'):
        await pull('lightweight', tmp_path / 'l.zip', verify=verify, cache=tmp_path / 'c', catalogue=catalogue)
    assert not (tmp_path / 'c' / 'det.zip').exists()
    catalogue = catalogue_of(tmp_path, servers)
    await pull('lightweight', tmp_path / 'l.zip', verify=verify, cache=tmp_path / 'c', catalogue=catalogue)
    (tmp_path / 'c' / 'det.zip').unlink()
    servers[0].content = published(b'something else')
    with pytest.raises(DownloadFailed, match='det.zip: sha256 is'):
        await pull('lightweight', tmp_path / 'l.zip', verify=verify, cache=tmp_path / 'c', catalogue=catalogue)


async def test_the_mirror_is_used_when_the_first_is_down(
    servers: tuple[FileServer, FileServer], tmp_path: Path
) -> None:
    """Nobody listens, an error is answered, or the wrong file comes: the next address is tried."""
    good = servers[0].url
    with serving(b'not a zip at all') as wrong:
        down = f'http://127.0.0.1:{free_port()}/det.zip'
        hashed = hashlib.sha256(servers[0].content).hexdigest()
        catalogue = catalogue_of(tmp_path, servers, urls=[down, f'{wrong.url}/det.zip', good], sha256=hashed)
        await pull('lightweight', tmp_path / 'l.zip', verify=verify, cache=tmp_path / 'c', catalogue=catalogue)
    assert verify(tmp_path / 'l.zip').name == 'lightweight'


async def test_offline_says_what_to_do(servers: tuple[FileServer, FileServer], tmp_path: Path) -> None:
    """Nothing is fetched; a file that was put into the cache by hand is taken."""
    catalogue = catalogue_of(tmp_path, servers)
    cache = tmp_path / 'c'
    with pytest.raises(DownloadFailed, match='det.zip has not been downloaded, and this is offline: fetch http'):
        await pull('lightweight', tmp_path / 'l.zip', verify=verify, cache=cache, catalogue=catalogue, offline=True)
    assert servers[0].ranges == []
    for name, server in zip(('det.zip', 'pose.zip'), servers, strict=True):
        (cache / name).write_bytes(server.content)
    await pull('lightweight', tmp_path / 'l.zip', verify=verify, cache=cache, catalogue=catalogue, offline=True)
    assert servers[0].ranges == []


async def test_what_is_no_published_network_is_refused(servers: tuple[FileServer, FileServer], tmp_path: Path) -> None:
    """A page with status 200, a zip without a network, an unknown mode, a catalogue that is none."""
    catalogue = catalogue_of(tmp_path, servers)
    servers[0].content = b'<html>moved</html>'
    with pytest.raises(InvalidPackage, match='not a readable zip'):
        await pull('lightweight', tmp_path / 'l.zip', verify=verify, cache=tmp_path / 'c', catalogue=catalogue)
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, 'w') as archive:
        archive.writestr('readme.txt', 'nothing')
    servers[0].content = buffer.getvalue()
    with pytest.raises(InvalidPackage, match='0 ONNX files'):
        await pull('lightweight', tmp_path / 'l.zip', verify=verify, cache=tmp_path / 'd', catalogue=catalogue)
    with pytest.raises(InvalidPackage, match='no model .performance. in the catalogue'):
        await pull('performance', tmp_path / 'l.zip', verify=verify, cache=tmp_path / 'c', catalogue=catalogue)
    catalogue.write_text('[]')
    with pytest.raises(InvalidPackage, match='no catalogue'):
        read_catalogue(catalogue)


def test_the_command_pulls_installs_and_shows_it(
    servers: tuple[FileServer, FileServer], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """`wholebody model pull lightweight`, and `-o` for the package alone."""
    monkeypatch.setenv('DATA_FOLDER', str(tmp_path / 'data'))
    monkeypatch.setenv('MODEL_CATALOGUE', str(catalogue_of(tmp_path, servers)))
    assert 'lightweight 1.0 is installed' in succeed(app, 'model', 'pull', 'lightweight')
    assert '* 1.0  lightweight' in succeed(app, 'model', 'list')
    assert 'lightweight 1.0' in succeed(app, 'model', 'pull', 'lightweight', '--offline', '-o', tmp_path / 'l.zip')
    assert verify(tmp_path / 'l.zip').name == 'lightweight'


@pytest.mark.integration
def test_mode_pulls_the_model_at_the_first_start(servers: tuple[FileServer, FileServer], tmp_path: Path) -> None:
    """A node with MODE and without a model: 503 with the reason while it downloads, then it serves that one."""
    servers[0].statuses = []
    catalogue = catalogue_of(tmp_path, servers)
    with running_node(tmp_path, MODE='lightweight', MODEL_CATALOGUE=catalogue) as node:
        assert httpx.get(f'{node.url}/ready').json()['model_version'] == 'lightweight 1.0'
        assert len(node.detect(CARD).json()['box_detections']) == 2
    with running_node(tmp_path / 'b', ready=False, MODE='lightweight', MODEL_CATALOGUE=tmp_path / 'none.json') as node:
        ready = httpx.get(f'{node.url}/ready')
        assert ready.status_code == 503
        assert 'the lightweight model (MODE)' in ready.json()['detail']
