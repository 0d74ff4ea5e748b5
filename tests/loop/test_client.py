"""Requests to the Learning Loop reach the Loop and no other host."""

import asyncio
import http.server
import json
import ssl
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest
import trustme
from learning_loop_node.data_classes import ImageMetadata

from benchmarks.support.cards import CARD
from benchmarks.support.loops import running_mock_loop
from benchmarks.support.packages import make_package
from detector.cli.main import app
from detector.errors import InvalidPackage, InvalidRequest, LoopFault, NoLearningLoop
from detector.loop import client as loop
from detector.loop.upstream import apply_settings, node_id
from detector.outbox.outbox import NoOutbox, Outbox, open_outbox
from detector.settings import Settings
from tests.support.commands import invoke, succeed

PROJECT = '/zauberzeug/projects/wholebody'


@dataclass
class Recorded:
    """A server that records what reaches it.

    :param requests: method, path and body of each request.
    :param redirect: target of all redirects; None: no redirects.
    """

    port: int = 0
    requests: list[tuple[str, str, bytes]] = field(default_factory=list)
    redirect: str | None = None


@contextmanager
def recording(context: ssl.SSLContext | None = None) -> Iterator[Recorded]:
    state = Recorded()

    class Handler(http.server.BaseHTTPRequestHandler):
        def _answer(self) -> None:
            body = self.rfile.read(int(self.headers.get('Content-Length', 0)))
            if self.headers.get('Transfer-Encoding') == 'chunked':
                body = self._chunks()
            state.requests.append((self.command, self.path, body))
            if state.redirect:
                self.send_response(307)
                self.send_header('Location', state.redirect + self.path)
            else:
                self.send_response(200)
                self.send_header('Set-Cookie', 'session=1')
            content = json.dumps({'model_uuid': 'x', 'version': '1.0', 'models': []}).encode()
            self.send_header('Content-Length', str(len(content)))
            self.end_headers()
            self.wfile.write(content)

        def _chunks(self) -> bytes:
            body = b''
            while size := int(self.rfile.readline(), 16):
                body += self.rfile.read(size)
                self.rfile.readline()
            self.rfile.readline()
            return body

        do_GET = do_POST = do_PUT = _answer

        def log_message(self, *_: Any) -> None:
            pass

    with http.server.ThreadingHTTPServer(('127.0.0.1', 0), Handler) as server:
        if context is not None:
            server.socket = context.wrap_socket(server.socket, server_side=True)
        state.port = server.server_port
        threading.Thread(target=server.serve_forever, daemon=True).start()
        yield state
        server.shutdown()


@pytest.fixture(autouse=True)
def _environment(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """Restore the environment, which a node rewrites for upstream."""
    import os
    from unittest.mock import patch

    with patch.dict(os.environ):
        yield


def settings_for(host: str, folder: Path, **more: Any) -> Settings:
    settings = Settings(
        loop_host=host,
        loop_organization='zauberzeug',
        loop_project='wholebody',
        loop_username='ann',
        loop_password='hunter2',
        data_folder=folder,
        **more,
    )
    apply_settings(settings)
    return settings


async def full_outbox(settings: Settings) -> Outbox:
    """An outbox with one image, not started."""
    outbox = open_outbox(settings)
    await outbox.save(CARD, ImageMetadata())
    return outbox


async def test_the_password_goes_to_the_configured_host_only(tmp_path: Path) -> None:
    """A redirect to another host is not followed, neither at the login nor with a question nor with images."""
    with recording() as configured, recording() as other:
        configured.redirect = f'http://127.0.0.1:{other.port}'
        settings = settings_for(f'http://127.0.0.1:{configured.port}', tmp_path)
        client = loop.communicator(settings)
        with pytest.raises(LoopFault):
            await loop.deployment_target(client, PROJECT)
        outbox = await full_outbox(settings)
        await outbox.set_mode('continuous_upload')
        await asyncio.sleep(0.5)
        await outbox.close()
        await client.async_client.aclose()
        assert any(b'hunter2' in body for _, _, body in configured.requests)
        assert any(path.endswith('/images') for _, path, _ in configured.requests)
        assert other.requests == []
        assert outbox.queue.count == 1


async def test_a_certificate_of_the_loops_own_is_honoured_for_questions_and_uploads(tmp_path: Path) -> None:
    """LOOP_SSL_CERT_PATH lets questions and uploads through; without it both fail, and the image stays."""
    authority = trustme.CA()
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    authority.issue_cert('localhost').configure_cert(context)
    authority.cert_pem.write_to_path(str(tmp_path / 'ca.pem'))
    with recording(context) as server:
        for cert, waiting in ((None, 1), (tmp_path / 'ca.pem', 0)):
            host = f'https://localhost:{server.port}'
            settings = settings_for(host, tmp_path / str(waiting), loop_ssl_cert_path=cert)
            client = loop.communicator(settings)
            outbox = await full_outbox(settings)
            await outbox.set_mode('continuous_upload')
            await asyncio.sleep(0.5)
            await outbox.close()
            if cert is None:
                with pytest.raises(LoopFault, match='(?i)certificate'):
                    await loop.deployment_target(client, PROJECT)
                assert server.requests == []
                assert 'certificate' in outbox.about()['error'].lower()
            else:
                assert (await loop.deployment_target(client, PROJECT)).version == '1.0'
                assert any(CARD in body for _, _, body in server.requests)
            assert outbox.queue.count == waiting
            await client.async_client.aclose()


async def test_without_a_loop_the_client_opens_no_connection(tmp_path: Path) -> None:
    """Without a Loop every method of the client raises an error before it connects."""
    apply_settings(Settings(data_folder=tmp_path))
    client = loop.communicator(Settings(data_folder=tmp_path))
    for question in (client.ensure_login, lambda: client.get('/status', requires_login=False)):
        with pytest.raises(NoLearningLoop):
            await question()
    outbox = NoOutbox()
    with pytest.raises(NoLearningLoop):
        await outbox.save(CARD, ImageMetadata())
    with pytest.raises(NoLearningLoop):
        await outbox.set_mode('continuous_upload')
    await client.async_client.aclose()


async def test_models_are_found_by_version(tmp_path: Path) -> None:
    """The mock Loop knows the seeded version and no other."""
    with running_mock_loop(tmp_path / 'loop') as server:
        client = loop.communicator(settings_for(server.host, tmp_path))
        found = await loop.find_model(client, PROJECT, '1.0')
        assert found == await loop.deployment_target(client, PROJECT)
        with pytest.raises(InvalidRequest, match='no model of version 9.9'):
            await loop.find_model(client, PROJECT, '9.9')
        await client.async_client.aclose()


def test_a_package_is_uploaded_as_a_trainings_model(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """`wholebody model upload` uploads to the mock Loop; the second time it says that the package is there already."""
    package = make_package(tmp_path / 'p.zip', version='1.5', name='mine')
    monkeypatch.setenv('DATA_FOLDER', str(tmp_path / 'data'))
    with pytest.raises(NoLearningLoop):
        raise invoke(app, 'model', 'upload', package, '--training', 3).exception or AssertionError
    with running_mock_loop(tmp_path / 'loop') as server:
        for name, value in server.settings.items():
            monkeypatch.setenv(name, value)
        before = len(server.models())
        assert 'mine 1.5 is uploaded' in succeed(app, 'model', 'upload', package, '--training', 3)
        assert len(server.models()) == before + 1
        for name, value in {**server.settings, 'DATA_FOLDER': str(tmp_path / 'data')}.items():
            monkeypatch.setenv(name, value)
        assert 'stored there already' in succeed(app, 'model', 'upload', package, '--training', 3)
        bad = tmp_path / 'bad.zip'
        bad.write_bytes(b'no zip')
        assert isinstance(invoke(app, 'model', 'upload', bad, '--training', 3).exception, InvalidPackage)


def test_the_mock_loop_is_a_command(tmp_path: Path) -> None:
    """`wholebody mock-loop upload | target | models` talk to a running mock, as docs/how-to/mock-loop.md shows."""
    with running_mock_loop(tmp_path / 'loop') as server:
        package = make_package(tmp_path / 'p.zip')
        assert '1.1' in succeed(app, 'mock-loop', 'upload', package, '--version', '1.1', '--url', server.url)
        succeed(app, 'mock-loop', 'target', '1.1', '--url', server.url)
        assert server.target()['version'] == '1.1'


def test_the_node_id_survives_a_broken_file(tmp_path: Path) -> None:
    """A node keeps its id; a broken uuids.json is set aside, and the ids of other nodes in a valid one stay."""
    first = node_id(tmp_path, 'My Node')
    assert node_id(tmp_path, 'my node') == first
    other = node_id(tmp_path, 'other')
    assert (node_id(tmp_path, 'My Node'), node_id(tmp_path, 'other')) == (first, other)
    for content in ('{"my_no', '[]', ''):
        (tmp_path / 'uuids.json').write_text(content)
        fresh = node_id(tmp_path, 'My Node')
        assert fresh != first
        assert node_id(tmp_path, 'My Node') == fresh
    assert (tmp_path / 'uuids.broken').exists()
