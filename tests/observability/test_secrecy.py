"""No credential appears in logs, answers, metrics, errors of settings, or the output of commands."""

import base64
import json
import logging
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from threading import Thread
from typing import Any
from urllib.parse import quote

import httpx
import pytest
import socketio

from benchmarks.support.cards import CARD
from benchmarks.support.processes import PROJECT, NodeProcess, clean_environment, running_node
from detector.cli.main import app
from detector.errors import InvalidSettings
from detector.observability.secrecy import Secrets
from detector.settings import Settings, load_settings
from tests.support.commands import invoke

SECRETS = {
    'LOOP_PASSWORD': 'hush-loop/pass word',
    'API_TOKEN': 'hush-api-token-0123456789',
    'BASIC_AUTH_PASS': 'hush-basic-ä',
    'LABEL_STUDIO_API_TOKEN': 'hush-studio-token',
}
COOKIE = 'hush-session-of-the-loop'
BEARER = {'Authorization': f'Bearer {SECRETS["API_TOKEN"]}'}


def assert_hushed(text: str, where: str) -> None:
    """Expect no secret, neither plain nor encoded; all secrets of this test start alike."""
    encoded = base64.b64encode(f'ann:{SECRETS["BASIC_AUTH_PASS"]}'.encode()).decode()
    for secret in (*SECRETS.values(), encoded, quote(SECRETS['LOOP_PASSWORD'], safe='')):
        assert secret not in text, where
    found = text.find('hush-')
    assert found < 0, (where, text[max(0, found - 300) : found + 100])


class _Unkind(BaseHTTPRequestHandler):
    """A Learning Loop and Label Studio that refuses every request and repeats what it received."""

    protocol_version = 'HTTP/1.1'

    def do_GET(self) -> None:
        body = self.rfile.read(int(self.headers.get('Content-Length', 0)))
        self.send_response(401 if 'status' not in self.path else 200)
        self.send_header('Set-Cookie', f'session={COOKIE}')
        self.send_header('Content-Length', str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    do_POST = do_PUT = do_PATCH = do_GET

    def log_message(self, *_: object) -> None:
        pass


class _Server(ThreadingHTTPServer):
    def handle_error(self, *_: Any) -> None:
        """Ignore connections that a node closes at its end."""


@contextmanager
def unkind_service() -> Iterator[str]:
    with _Server(('127.0.0.1', 0), _Unkind) as server:
        Thread(target=server.serve_forever, daemon=True).start()
        yield f'http://127.0.0.1:{server.server_port}'
        server.shutdown()


def settings_for(service: str) -> dict[str, Any]:
    return SECRETS | {
        'LOOP_HOST': service, 'LOOP_ORGANIZATION': 'o', 'LOOP_PROJECT': 'p', 'LOOP_USERNAME': 'ann',
        'BASIC_AUTH_USER': 'ann', 'LABEL_STUDIO_URL': service, 'POLL_SECONDS': 0.2, 'UPLOAD_SECONDS': 0.1, 'DEBUG': 1,
    }  # fmt: skip


def provoke(node: NodeProcess, service: str) -> str:
    """Cause an error on every path and return all answers."""
    heard: list[httpx.Response] = []
    with httpx.Client(base_url=node.url, headers=BEARER, timeout=30) as client:
        heard += [client.post('/detect', files={'file': CARD}, headers={'autoupload': 'all'})]
        heard += [client.get(path) for path in ('/about', '/metrics', '/openapi.json', '/model_version', '/outbox')]
        query = {'token': SECRETS['API_TOKEN'], 'password': 'hush-unknown', 'next': f'//ann:hush-x@{service}'}
        heard += [
            client.get(path, params=query, headers={'Authorization': ''}) for path in ('/outbox', '/no', '/about')
        ]
        heard += [client.put('/model_version', content=content) for content in ('9.9', 'nonsense')]
        client.put('/outbox_mode', content=SECRETS['API_TOKEN'])  # the answer repeats it, the log must not contain it
        address = 'http://ann:hush-media@127.0.0.1:9/photo.jpg?X-Amz-Signature=hush-signature'
        tasks = [{'id': 1, 'data': {'image': image}} for image in (address, f'{service}/data/x.jpg?token=hush-query')]
        heard += [client.post('/predict', json={'tasks': tasks, 'label_config': None})]
        webhook = {'action': 'ANNOTATION_CREATED', 'annotation': {'id': 1}, 'project': {'id': 1}}
        heard += [client.post('/webhook', json=webhook), client.post('/setup', json={'access_token': 'no'})]
        wrong = {'Authorization': f'Bearer {SECRETS["API_TOKEN"]}x'}
        heard += [client.get('/outbox', headers=wrong), client.post('/predict', auth=('ann', 'hush-guess'))]
        heard += [client.post('/login', data={'token': 'hush-guess'})]
        heard += [client.post('/login', data={'token': SECRETS['API_TOKEN']})]
        heard += [client.post('/detect', content=b'\xff', headers={'Content-Type': SECRETS['API_TOKEN']})]
    for auth in ({'token': 'hush-guess'}, {'token': SECRETS['API_TOKEN']}):
        visitor = socketio.Client(reconnection=False)
        try:
            visitor.connect(f'{node.url}?token={SECRETS["API_TOKEN"]}', socketio_path='/ws/socket.io', auth=auth)
            visitor.call('nonsense', {'password': 'x'}, timeout=10)
        except socketio.exceptions.ConnectionError:
            pass
        finally:
            connection = visitor.eio.http
            visitor.disconnect()
            if connection is not None:
                connection.close()
    return '\n'.join(f'{answer.request.url.path} {answer.status_code} {answer.text}' for answer in heard)


@pytest.mark.parametrize('log_format', ['console', 'json'])
def test_a_node_keeps_its_secrets_whatever_is_done_to_it(tmp_path: Path, log_format: str) -> None:
    """A node at DEBUG shows no secret, although Loop and Label Studio refuse it and clients misplace their tokens."""
    with unkind_service() as service, running_node(tmp_path, **settings_for(service), LOG_FORMAT=log_format) as node:
        heard = provoke(node, service)
        time.sleep(1.5)  # for the outbox and the model updates, which fail too
        process = node.process
        assert_hushed(heard, 'answers')
    assert process.returncode == 0
    log = node.log.read_text()
    assert 'DEBUG' in log
    if log_format == 'json':
        assert all(isinstance(json.loads(line)['message'], str) for line in log.splitlines())
    assert 'a wrong token' in log
    assert_hushed(log, 'log')
    assert {401, 422} <= {int(line.split()[1]) for line in heard.splitlines() if line.startswith('/')}


FAULTY = {
    'API_TOKEN': 'hush-token with spaces',
    'BASIC_AUTH_PASS': 'hush-alone',
    'LOOP_HOST': 'https://ann:hush-loop@loop.example/path',
    'LABEL_STUDIO_URL': 'ftp://ann:hush-studio@studio.example',
    'CORS_ORIGINS': 'https://ann:hush-origin@page.example/x',
    'IMAGE_HOSTS': 'ann:hush/image@host',
    'MODE': 'ann:hush-mode@host',
}


@pytest.mark.parametrize('name', FAULTY)
def test_errors_of_settings_show_no_secret(monkeypatch: pytest.MonkeyPatch, name: str) -> None:
    """The line names the setting; the rest of an address may appear."""
    monkeypatch.setenv(name, FAULTY[name])
    with pytest.raises(InvalidSettings, match=name) as caught:
        load_settings()
    assert_hushed(str(caught.value), 'settings')


def test_a_node_that_does_not_start_shows_no_secret(tmp_path: Path) -> None:
    """A process that all these faulty settings stop shows no secret in its output."""
    ended = subprocess.run(
        [sys.executable, '-m', 'detector', 'serve'],
        env=clean_environment(DATA_FOLDER=tmp_path / 'data', DEBUG=1, **FAULTY) | {'PYTHONPATH': str(PROJECT)},
        capture_output=True,
        text=True,
        cwd=tmp_path,
        check=False,
        timeout=60,
    )
    assert ended.returncode == 2
    assert 'API_TOKEN: ' in ended.stderr
    assert_hushed(ended.stdout + ended.stderr, 'start')


def test_commands_show_no_secret(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """`doctor`, and commands that use a URL with user name and password, show no secret."""
    with unkind_service() as service:
        for name, value in (settings_for(service) | {'DATA_FOLDER': tmp_path / 'data'}).items():
            monkeypatch.setenv(name, str(value))
        card = tmp_path / 'card.jpg'
        card.write_bytes(CARD)
        url = service.replace('http://', 'http://ann:hush-url@')
        for arguments in (
            ['doctor'],
            ['doctor', '--security'],
            ['detect', card, '--url', url],
            ['detect', card, '--url', 'http://ann:hush-url@127.0.0.1:9'],
            ['detect', card, '--url', 'http://ann:hush-url@['],
            ['outbox', 'list', '--url', url],
            ['labelstudio', 'init', '--title', 'x'],
        ):
            ended = invoke(app, *arguments)
            assert ended.exit_code == (0 if '--security' in arguments else 1), arguments
            said = ended.output + ('' if ended.exception is None else str(ended.exception))
            assert said.strip(), arguments
            assert_hushed(said, str(arguments))


@pytest.mark.parametrize(
    'text',
    [
        'GET /x?token=hush-1&y=2',
        'GET /x?y=2&X-Amz-Signature=hush-1 HTTP/1.1',
        "headers={'Authorization': 'Bearer hush-1', 'x': 'y'}",
        "[(b'authorization', b'Basic hush-1')]",
        'Authorization: Token hush-1',
        "[(b'Set-Cookie', b'session=hush-1; Path=/')]",
        'cannot reach http://ann:hush-1@host/path',
        'cannot reach http://ann:hush/1@2@host/path',
        'secret value hush-known',
        'percent hush%2Dknown%2F'.replace('%2D', '-'),
    ],
)
def test_what_looks_like_a_credential_is_hidden(text: str, tmp_path: Path) -> None:
    """Known secrets are found by value, others by their position; the surrounding text stays."""
    hidden = Secrets(Settings(data_folder=tmp_path, api_token='hush-known', loop_password='hush-known/'))
    assert 'hush' not in hidden.hide(text)
    assert hidden.hide(text)[:4] == text[:4]


def test_other_text_is_left_alone(tmp_path: Path) -> None:
    """Text without credentials stays readable, even if it contains a short secret such as 8004."""
    hidden = Secrets(Settings(data_folder=tmp_path, loop_password='8004'))
    for text in ('GET http://host:8004/outbox?limit=5&key_count=3', 'the token is wrong', 'monkey=1', 'a cookie'):
        assert hidden.hide(text) == text


def test_tracebacks_are_covered(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Secrets in tracebacks are hidden, although a formatter adds tracebacks last."""
    from detector.node.server import configure_logging

    before = logging.root.handlers[:], logging.root.level
    try:
        configure_logging(Settings(data_folder=tmp_path, api_token='hush-known'))
        try:
            raise ValueError('hush-known')
        except ValueError:
            logging.getLogger('wholebody.test').exception('failed with %s', 'hush-known')
    finally:
        logging.root.handlers[:], level = before
        logging.root.setLevel(level)
    written = capsys.readouterr().err
    assert 'Traceback' in written
    assert 'hush' not in written
