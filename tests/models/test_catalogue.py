"""The catalogue of published models: download, cache, mirrors and hashes."""

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
from benchmarks.support.processes import free_port, running_node, running_node_without_model
from detector.cli.main import app
from detector.engine.verification import verify
from detector.errors import DownloadFailed, InvalidPackage
from detector.models import downloads
from detector.models.catalogue import pull, read_catalogue
from detector.models.embedded import CATALOGUE
from mock.test_card.model import build_detector, build_estimator
from tests.support.commands import succeed
from tests.support.file_server import FileServer, serving


def published(content: bytes) -> bytes:
    """Return a zip as mmdeploy publishes it: the network lies in a folder beside other files."""
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
    """A detector and an estimator, each on its own server."""
    with (
        serving(published(build_detector().SerializeToString())) as detector,
        serving(published(build_estimator().SerializeToString())) as estimator,
    ):
        yield detector, estimator


def catalogue_of(folder: Path, servers: tuple[FileServer, FileServer], **changes: Any) -> Path:
    """Write a catalogue whose `lightweight` model consists of the files of the two servers."""
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
    """The catalogue has rtmlib's three modes with its addresses, mirrors, input sizes and colour orders."""
    models = read_catalogue()
    assert set(models) == set(Wholebody.MODE)
    for mode, model in models.items():
        theirs = Wholebody.MODE[mode]
        for network, role in ((model.detector, 'det'), (model.estimator, 'pose')):
            assert network.urls == [theirs[role], get_mirror_url(theirs[role])]
            assert network.input_size == theirs[f'{role}_input_size']
        assert (model.detector.color_order, model.estimator.color_order) == ('BGR', 'RGB')


async def test_a_model_is_fetched_packed_and_valid(servers: tuple[FileServer, FileServer], tmp_path: Path) -> None:
    """Progress is reported per file, and a second call downloads nothing."""
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
    """After an interruption only the rest of the file is requested."""
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
    """A file must match the hash in the catalogue, or the hash recorded at the first download."""
    catalogue = catalogue_of(tmp_path, servers, sha256=64 * 'a')
    with pytest.raises(DownloadFailed, match=f'expected {64 * "a"}'):
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
    """The next address is tried if a server is down, answers with an error or delivers a wrong file."""
    good = servers[0].url
    with serving(b'not a zip at all') as wrong:
        down = f'http://127.0.0.1:{free_port()}/det.zip'
        hashed = hashlib.sha256(servers[0].content).hexdigest()
        catalogue = catalogue_of(tmp_path, servers, urls=[down, f'{wrong.url}/det.zip', good], sha256=hashed)
        await pull('lightweight', tmp_path / 'l.zip', verify=verify, cache=tmp_path / 'c', catalogue=catalogue)
    assert verify(tmp_path / 'l.zip').name == 'lightweight'


async def test_offline_says_what_to_do(servers: tuple[FileServer, FileServer], tmp_path: Path) -> None:
    """Offline, nothing is downloaded; files that the user has put into the cache are used."""
    catalogue = catalogue_of(tmp_path, servers)
    cache = tmp_path / 'c'
    with pytest.raises(DownloadFailed, match='det.zip has not been downloaded.*offline mode.*: fetch http'):
        await pull('lightweight', tmp_path / 'l.zip', verify=verify, cache=cache, catalogue=catalogue, offline=True)
    assert servers[0].ranges == []
    for name, server in zip(('det.zip', 'pose.zip'), servers, strict=True):
        (cache / name).write_bytes(server.content)
    await pull('lightweight', tmp_path / 'l.zip', verify=verify, cache=cache, catalogue=catalogue, offline=True)
    assert servers[0].ranges == []


async def test_files_that_are_not_networks_are_refused(servers: tuple[FileServer, FileServer], tmp_path: Path) -> None:
    """An HTML page, a zip without a network, an unknown mode and a broken catalogue are refused."""
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
    with pytest.raises(InvalidPackage, match='the catalogue has no model .performance.'):
        await pull('performance', tmp_path / 'l.zip', verify=verify, cache=tmp_path / 'c', catalogue=catalogue)
    catalogue.write_text('[]')
    with pytest.raises(InvalidPackage, match='is not a catalogue'):
        read_catalogue(catalogue)


@pytest.mark.parametrize('encoding', ['utf-8', 'utf-8-sig', 'utf-16'])
def test_a_catalogue_may_be_written_in_any_unicode_encoding(tmp_path: Path, encoding: str) -> None:
    """A catalogue is read in each encoding that JSON permits, with or without a byte order mark."""
    catalogue = tmp_path / 'catalogue.json'
    catalogue.write_text(CATALOGUE.read_text(encoding='utf-8'), encoding=encoding)
    assert read_catalogue(catalogue) == read_catalogue()


def test_the_command_pulls_installs_and_shows_it(
    servers: tuple[FileServer, FileServer], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """`wholebody model pull` installs the model; with `-o` it only writes the package."""
    monkeypatch.setenv('DATA_FOLDER', str(tmp_path / 'data'))
    monkeypatch.setenv('MODEL_CATALOGUE', str(catalogue_of(tmp_path, servers)))
    assert 'lightweight 1.0 is installed' in succeed(app, 'model', 'pull', 'lightweight')
    assert '* 1.0  lightweight' in succeed(app, 'model', 'list')
    assert 'lightweight 1.0' in succeed(app, 'model', 'pull', 'lightweight', '--offline', '-o', tmp_path / 'l.zip')
    assert verify(tmp_path / 'l.zip').name == 'lightweight'


@pytest.mark.integration
def test_mode_pulls_the_model_at_the_first_start(servers: tuple[FileServer, FileServer], tmp_path: Path) -> None:
    """With MODE and no model, the node answers 503 with the reason until it serves the downloaded model."""
    servers[0].statuses = []
    catalogue = catalogue_of(tmp_path, servers)
    with running_node(tmp_path, MODE='lightweight', MODEL_CATALOGUE=catalogue) as node:
        assert httpx.get(f'{node.url}/ready').json()['model_version'] == 'lightweight 1.0'
        assert len(node.detect(CARD).json()['box_detections']) == 2
    with running_node_without_model(tmp_path / 'b', MODE='lightweight', MODEL_CATALOGUE=tmp_path / 'none.json') as node:
        ready = httpx.get(f'{node.url}/ready')
        assert ready.status_code == 503
        assert 'the lightweight model (MODE)' in ready.json()['detail']
