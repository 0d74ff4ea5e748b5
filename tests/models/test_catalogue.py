"""The catalogue of published models: download, cache, mirrors and hashes."""

import hashlib
import io
import json
import re
import zipfile
from collections.abc import Iterator
from datetime import UTC, datetime
from pathlib import Path

import httpx
import numpy as np
import onnx
import pytest
from rtmlib import YOLOX, Wholebody
from rtmlib.tools.file import download_checkpoint, get_mirror_url

from benchmarks.support.cards import CARD
from benchmarks.support.processes import free_port, running_node, running_node_without_model
from detector.cli.main import app
from detector.engine.verification import verify
from detector.errors import DownloadFailed, InvalidPackage
from detector.models import downloads
from detector.models.catalogue import pull, read_catalogue, rtmlib_file
from detector.models.embedded import CATALOGUE
from detector.models.package import ModelPackage
from mock.test_card.model import build_detector, build_estimator
from tests.support.commands import succeed
from tests.support.file_server import FileServer, serving
from tests.support.published_models import catalogue_of, published, published_networks


@pytest.fixture(autouse=True)
def _no_pauses(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(downloads, '_PAUSE_SECONDS', 0)


@pytest.fixture
def servers() -> Iterator[tuple[FileServer, FileServer]]:
    with published_networks() as running:
        yield running


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
        assert model.licence == 'Apache-2.0'
        assert model.ap
        assert 'COCO-WholeBody' in model.ap_source
        assert model.megabytes
    assert len({model.version for model in models.values()}) == len(models), 'installed together'


def test_rtmlib_keeps_its_downloads_where_we_look(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The file that rtmlib would reuse instead of a download is the one that `rtmlib_file` names."""
    network = read_catalogue()['balanced'].estimator
    for variable in ('XDG_CACHE_HOME', 'TORCH_HOME'):
        monkeypatch.setenv(variable, str(tmp_path / variable))
        file = rtmlib_file(network)
        file.parent.mkdir(parents=True)
        file.write_bytes(b'network')
        assert download_checkpoint(network.urls[0]) == str(file)


def test_published_models_answer_the_boxes_that_rtmlib_answers() -> None:
    """The person threshold in the catalogue is the one that rtmlib applies to detectors with NMS."""
    theirs = YOLOX.__new__(YOLOX)
    theirs.det_mode = 'human'
    for model in read_catalogue().values():
        assert model.detector.output == 'nms'
        threshold = model.detector.score_threshold
        assert threshold is not None
        rows = [[0, 0, 9, 9, threshold - 0.01], [0, 0, 9, 9, threshold + 0.01]]
        assert len(theirs.postprocess(np.array([rows]), 1.0)) == 1


async def test_a_model_is_fetched_packed_and_valid(servers: tuple[FileServer, FileServer], tmp_path: Path) -> None:
    """Progress is reported per file, and a second call downloads nothing."""
    seen: dict[str, int] = {}

    def watch(name: str) -> downloads.Progress:
        return lambda done, _: seen.__setitem__(name, done)

    catalogue = catalogue_of(tmp_path, servers, score_threshold=0.25)
    archive = tmp_path / 'out' / 'light.zip'
    await pull('lightweight', archive, verify=verify, cache=tmp_path / 'cache', catalogue=catalogue, watch=watch)
    package = verify(archive)
    assert package.model_version == 'lightweight 1.0'
    assert 'sha256:' in package.wholebody.origin
    assert package.wholebody.detector.score_threshold == 0.25
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
    with pytest.raises(
        DownloadFailed, match='det.zip has the wrong content: sha256 is .* as recorded in .*sha256.json'
    ):
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
    with pytest.raises(DownloadFailed, match='det.zip has not been downloaded.*offline mode.*download http'):
        await pull('lightweight', tmp_path / 'l.zip', verify=verify, cache=cache, catalogue=catalogue, offline=True)
    assert servers[0].ranges == []
    for name, server in zip(('det.zip', 'pose.zip'), servers, strict=True):
        (cache / name).write_bytes(server.content)
    await pull('lightweight', tmp_path / 'l.zip', verify=verify, cache=cache, catalogue=catalogue, offline=True)
    assert servers[0].ranges == []


async def test_without_internet_access_one_line_says_what_to_copy(
    servers: tuple[FileServer, FileServer], tmp_path: Path
) -> None:
    """The error names both hosts and the reason once, the two files and the folder; files copied there are used."""
    down = [f'http://127.0.0.1:{free_port()}/det.zip', f'http://127.0.0.1:{free_port()}/det.zip']
    catalogue = catalogue_of(tmp_path, servers, urls=down)
    pose = servers[1].url.replace('model', 'pose')
    with pytest.raises(DownloadFailed) as caught:
        await pull('lightweight', tmp_path / 'l.zip', verify=verify, cache=tmp_path / 'c', catalogue=catalogue)
    private = [url.replace('//', '//me:secret@') for url in down]
    with pytest.raises(DownloadFailed) as hidden:
        await pull(
            'lightweight', tmp_path / 'l.zip',
            verify=verify, cache=tmp_path / 'c', catalogue=catalogue_of(tmp_path, servers, urls=private),
        )  # fmt: skip
    assert 'secret' not in str(hidden.value)
    catalogue_of(tmp_path, servers, urls=down)
    hosts = ' and '.join(url.removeprefix('http://').removesuffix('/det.zip') for url in down)
    assert re.fullmatch(
        rf'det.zip from {hosts}: could not connect: [^;]* \(4 attempts\)\. Without internet access '
        rf'here, download {down[0]} and {pose} on another machine, put the files into {tmp_path / "c"}; the next '
        'attempt uses what lies there',
        str(caught.value),
    )
    for name, server in zip(('det.zip', 'pose.zip'), servers, strict=True):
        (tmp_path / 'c' / name).write_bytes(server.content)
    await pull('lightweight', tmp_path / 'l.zip', verify=verify, cache=tmp_path / 'c', catalogue=catalogue)
    assert verify(tmp_path / 'l.zip').name == 'lightweight'
    assert servers[1].ranges == []


@pytest.mark.parametrize('offline', [True, False])
async def test_a_wrong_copy_is_refused_by_name_and_kept(
    servers: tuple[FileServer, FileServer], tmp_path: Path, offline: bool
) -> None:
    """A damaged or wrong file in the folder is named with the reason, and stays while there is no better one."""
    down = f'http://127.0.0.1:{free_port()}/det.zip'
    right = hashlib.sha256(servers[0].content).hexdigest()
    copy = tmp_path / 'c' / 'det.zip'
    copy.parent.mkdir()
    for content, known, fault in (
        (servers[1].content, right, f'wrong content: sha256 is .*, expected {right}'),
        (servers[0].content[:-100], None, 'det.zip is not a readable zip file'),
        (b'<html>sign in</html>', None, 'det.zip is not a readable zip file'),
        (servers[0].content.replace(b'end2end', b'elseend'), right, 'wrong content'),
        (flipped(servers[0].content), None, 'det.zip is not a readable zip file: Bad CRC-32'),
    ):
        copy.write_bytes(content)
        catalogue = catalogue_of(tmp_path, servers, urls=[down], sha256=known)
        with pytest.raises(DownloadFailed, match=fault if offline else 'det.zip from 127') as caught:
            await pull(
                'lightweight', tmp_path / 'l.zip',
                verify=verify, cache=copy.parent, catalogue=catalogue, offline=offline,
            )  # fmt: skip
        assert re.search(fault, str(caught.value))
        assert str(copy) in str(caught.value)
        assert copy.read_bytes() == content
    catalogue = catalogue_of(tmp_path, servers, sha256=right)
    await pull('lightweight', tmp_path / 'l.zip', verify=verify, cache=copy.parent, catalogue=catalogue)
    assert copy.read_bytes() == servers[0].content


def flipped(content: bytes) -> bytes:
    """Change a byte of the network within the zip, so that only the checksum of the zip reveals it."""
    place = content.index(b'end2end.onnx') + 2000
    return content[:place] + bytes([content[place] ^ 1]) + content[place + 1 :]


async def test_a_broken_transfer_is_resumed_by_the_next_pull(
    servers: tuple[FileServer, FileServer], tmp_path: Path
) -> None:
    """A pull that gave up keeps what it received, and the next one requests only the rest."""
    catalogue = catalogue_of(tmp_path, servers)
    servers[1].cuts = [300_000, 0, 0, 0]
    with pytest.raises(DownloadFailed, match='broke off.*4 attempts.*put the file into') as caught:
        await pull('lightweight', tmp_path / 'l.zip', verify=verify, cache=tmp_path / 'c', catalogue=catalogue)
    assert 'det.zip' not in str(caught.value), 'it has arrived'
    await pull('lightweight', tmp_path / 'l.zip', verify=verify, cache=tmp_path / 'c', catalogue=catalogue)
    assert servers[1].ranges[-1] is not None
    assert servers[1].ranges[-1] != 'bytes=0-'


async def test_licence_and_origin_are_those_of_the_catalogue(
    servers: tuple[FileServer, FileServer], tmp_path: Path
) -> None:
    """A package states the licence of its entry, and none if the entry has none."""
    catalogue = catalogue_of(tmp_path, servers)
    for entry in ({}, {'licence': 'CC-BY-NC-4.0', 'origin': 'https://example.org/us', 'version': '7.1'}):
        models = json.loads(catalogue.read_text())
        models['lightweight'] |= entry
        catalogue.write_text(json.dumps(models))
        package = await pull(
            'lightweight', tmp_path / 'l.zip', verify=verify, cache=tmp_path / 'c', catalogue=catalogue
        )
        assert package.wholebody.licence == entry.get('licence', '')
        assert package.wholebody.origin.startswith(entry.get('origin', 'det.zip sha256:'))
        assert package.version == entry.get('version', '1.0')


async def test_networks_come_from_the_cache_of_rtmlib_on_demand(
    servers: tuple[FileServer, FileServer], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Files that rtmlib has downloaded are packed on demand; a missing one and one of another network are named."""
    monkeypatch.setenv('TORCH_HOME', str(tmp_path / 'torch'))
    catalogue = catalogue_of(tmp_path, servers)
    model = read_catalogue(catalogue)['lightweight']

    async def packed() -> ModelPackage:
        return await pull(
            'lightweight', tmp_path / 'l.zip',
            verify=verify, cache=tmp_path / 'c', catalogue=catalogue, from_rtmlib=True,
        )  # fmt: skip

    with pytest.raises(DownloadFailed, match="rtmlib's cache lacks .*det.onnx and .*pose.onnx"):
        await packed()
    rtmlib_file(model.detector).parent.mkdir(parents=True)
    onnx.save(build_detector(), rtmlib_file(model.detector))
    onnx.save(build_estimator(), rtmlib_file(model.estimator))
    catalogue_of(tmp_path, servers, input_size=[416, 416])
    with pytest.raises(InvalidPackage, match='det.onnx: the input is 640×640; the catalogue expects 416×416'):
        await packed()
    assert not (tmp_path / 'l.zip').exists()
    catalogue_of(tmp_path, servers)
    assert (await packed()).name == 'lightweight'
    assert [server.ranges for server in servers] == [[], []]


async def test_files_that_are_not_networks_are_refused(servers: tuple[FileServer, FileServer], tmp_path: Path) -> None:
    """An HTML page, a zip without a network, an unknown mode and a broken catalogue are refused."""
    catalogue = catalogue_of(tmp_path, servers)
    right, servers[0].content = servers[0].content, b'<html>moved</html>'
    with pytest.raises(DownloadFailed, match='not a readable zip'):
        await pull('lightweight', tmp_path / 'l.zip', verify=verify, cache=tmp_path / 'c', catalogue=catalogue)
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, 'w') as archive:
        archive.writestr('readme.txt', 'nothing')
    servers[0].content = buffer.getvalue()
    with pytest.raises(DownloadFailed, match='0 ONNX files'):
        await pull('lightweight', tmp_path / 'l.zip', verify=verify, cache=tmp_path / 'c', catalogue=catalogue)
    servers[0].content = right  # the hash of a refused file is not recorded
    await pull('lightweight', tmp_path / 'l.zip', verify=verify, cache=tmp_path / 'c', catalogue=catalogue)
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
    """With MODE and no model, an embedded one serves and names the reason until the downloaded model serves."""
    servers[0].statuses = []
    catalogue = catalogue_of(tmp_path, servers)
    settings = {'MODE': 'lightweight', 'BACKEND_TYPE': 'onnxruntime'}
    with running_node(tmp_path, **settings, MODEL_CATALOGUE=catalogue) as node:
        node.wait_for_version('1.0')
        assert httpx.get(f'{node.url}/ready').json() == {'status': 'READY', 'model_version': 'lightweight 1.0'}
        assert len(node.detect(CARD).json()['box_detections']) == 2
    with running_node_without_model(tmp_path / 'b', **settings, MODEL_CATALOGUE=tmp_path / 'none.json') as node:
        ready = httpx.get(f'{node.url}/ready').json()
        assert ready['status'] == 'READY'
        assert 'The lightweight model (MODE) cannot be downloaded: ' in ready['notice']
        awaited = httpx.get(f'{node.url}/about').json()['wholebody']['awaited']
        assert awaited['model'] == 'lightweight'
        assert datetime.fromisoformat(awaited['next_try']) > datetime.now(UTC)
