"""Proxies of the environment, in all forms that other programs accept."""

import socketserver
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import httpx
import pytest
from PIL import Image

from detector.cli.main import app
from detector.errors import InvalidSettings, WholebodyError
from detector.label_studio.server.client import Connection
from detector.system import proxies
from detector.system.proxies import AsyncProxyTransport, ProxyTransport, http_proxy_of, proxy_of
from tests.support.commands import invoke

NAMES = ('http_proxy', 'https_proxy', 'all_proxy', 'no_proxy')


@pytest.fixture(autouse=True)
def _no_proxies(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in NAMES:
        monkeypatch.delenv(name, raising=False)
        monkeypatch.delenv(name.upper(), raising=False)


@pytest.mark.parametrize(
    ('variables', 'url', 'proxy'),
    [
        ({}, 'http://a.example', None),
        ({'HTTP_PROXY': 'http://p:3128'}, 'http://a.example', 'http://p:3128'),
        ({'HTTP_PROXY': 'http://p:3128'}, 'https://a.example', None),
        ({'https_proxy': 'p:3128'}, 'https://a.example', 'http://p:3128'),
        ({'HTTPS_PROXY': 'http://p', 'ALL_PROXY': 'socks5://q'}, 'https://a.example', 'http://p'),
        ({'ALL_PROXY': 'socks5://127.0.0.1:1080'}, 'http://a.example', 'socks5://127.0.0.1:1080'),
        ({'ALL_PROXY': 'socks5h://u:pw@q:1080'}, 'https://a.example', 'socks5h://u:pw@q:1080'),
        ({'ALL_PROXY': ''}, 'http://a.example', None),
    ],
)
def test_the_variable_of_the_scheme_decides(
    monkeypatch: pytest.MonkeyPatch, variables: dict[str, str], url: str, proxy: str | None
) -> None:
    """The variable of the scheme decides, and ALL_PROXY if it is unset, in either case."""
    for name, value in variables.items():
        monkeypatch.setenv(name, value)
    assert proxy_of(httpx.URL(url)) == proxy


@pytest.mark.parametrize(
    'url',
    [
        'http://localhost:8080', 'http://127.0.0.1', 'http://127.1.2.3:80', 'http://[::1]:8080', 'http://10.1.2.3',
        'http://192.168.1.5:8004', 'http://[fd00::1]', 'http://169.254.1.1', 'http://label-studio:8080',
        'http://robot.local', 'http://x.localhost', 'http://host.docker.internal',
    ],
)  # fmt: skip
def test_local_hosts_are_requested_directly(monkeypatch: pytest.MonkeyPatch, url: str) -> None:
    """Hosts of this machine and of the local network need no entry in NO_PROXY."""
    monkeypatch.setenv('ALL_PROXY', 'ftp://not-usable')
    assert proxy_of(httpx.URL(url)) is None
    with pytest.raises(InvalidSettings, match='ALL_PROXY=ftp://not-usable: give the address of a proxy'):
        proxy_of(httpx.URL('http://8.8.8.8'))


@pytest.mark.parametrize(
    ('entries', 'direct', 'through_proxy'),
    [
        ('localhost,127.0.0.1,[::1]', [], ['http://a.example']),
        ('10.0.0.0/8,fd00::/8', [], ['http://a.example']),
        ('8.8.0.0/16', ['http://8.8.4.4', 'https://8.8.1.1:444'], ['http://8.9.1.1']),
        ('2001:4860::/32', ['http://[2001:4860:4860::8888]'], ['http://[2001:4861::1]']),
        ('[2001:4860::1]:443', ['https://[2001:4860::1]'], ['http://[2001:4860::1]']),
        ('2001:4860::1', ['https://[2001:4860::1]:9'], []),
        ('a.example', ['http://a.example', 'http://b.a.example:9'], ['http://aa.example']),
        ('.a.example', ['http://a.example', 'http://b.a.example'], ['http://xa.example']),
        ('*.a.example', ['http://b.a.example'], ['http://b.example']),
        (' A.Example , x', ['http://a.example'], []),
        ('a.example:8080', ['http://a.example:8080'], ['http://a.example']),
        ('a.example:443', ['https://a.example'], ['http://a.example']),
        ('http://a.example/', ['http://a.example'], ['http://b.example']),
        ('*', ['http://a.example', 'http://8.8.8.8'], []),
        ('b.example a.example\tc.example', ['http://a.example', 'http://c.example'], ['http://d.example']),
        ('a.example., .b.example.', ['http://a.example', 'http://x.b.example'], ['http://c.example']),
        ('bücher.example', ['http://bücher.example'], ['http://b.example']),
        (',,;,%,10.0.0.0/99,[,:', [], ['http://a.example', 'http://8.8.8.8']),
    ],
)
def test_no_proxy_lists_hosts_in_all_common_forms(
    monkeypatch: pytest.MonkeyPatch, entries: str, direct: list[str], through_proxy: list[str]
) -> None:
    """NO_PROXY lists names, domains, addresses and networks, with or without brackets and ports."""
    monkeypatch.setenv('ALL_PROXY', 'http://p:3128')
    monkeypatch.setenv('NO_PROXY', entries)
    assert [proxy_of(httpx.URL(url)) for url in direct] == [None] * len(direct)
    assert [proxy_of(httpx.URL(url)) for url in through_proxy] == ['http://p:3128'] * len(through_proxy)


@pytest.mark.parametrize(
    'entry',
    [
        'a.example;b.example', '%', '10.0.0.0/99', '[', ':', '[::1', '[::1]:port', 'a.example:port', '10.*', '192.168.',
        '8.8.8', '<local>', '*.*', 'a..example', 'A.Example/path', '/etc/hosts', 'a.example:99999999',
    ],
)  # fmt: skip
def test_an_unreadable_entry_is_named_once(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture, entry: str
) -> None:
    """One line names the variable and each entry of NO_PROXY that cannot be read; the others count."""
    proxies._complain.cache_clear()
    monkeypatch.setenv('ALL_PROXY', 'http://p:3128')
    monkeypatch.setenv('no_proxy', f'c.example,{entry},u:secret@d.example')
    for _ in range(3):
        assert proxy_of(httpx.URL('http://c.example')) is None
        assert proxy_of(httpx.URL('http://a.example')) == 'http://p:3128'
    assert [message.partition(' is ignored')[0] for message in caplog.messages] == [
        f'no_proxy: "{entry}"', 'no_proxy: "…@d.example"'
    ]  # fmt: skip


@pytest.mark.parametrize(
    'value', ['ftp://p', 'socks4://p', 'http://', 'http://p:port', 'http://[::1', 'http://u:secret@']
)
def test_an_unusable_proxy_is_named_in_one_line(monkeypatch: pytest.MonkeyPatch, value: str) -> None:
    """The error for a proxy that cannot be used has one line with the variable, without the login."""
    monkeypatch.setenv('https_proxy', value)
    with pytest.raises(InvalidSettings, match='^https_proxy=') as caught:
        proxy_of(httpx.URL('https://a.example'))
    assert '\n' not in str(caught.value)
    assert 'secret' not in str(caught.value)
    with pytest.raises(InvalidSettings, match='^https_proxy='):
        Connection('https://studio.example', None)


def test_uploads_need_an_http_proxy(monkeypatch: pytest.MonkeyPatch) -> None:
    """The client that uploads images knows no SOCKS, which is said at the start with the remedy."""
    monkeypatch.setenv('ALL_PROXY', 'socks5://u:secret@127.0.0.1:1080')
    with pytest.raises(InvalidSettings, match=r'ALL_PROXY=…@127.0.0.1:1080: .* add loop.example to NO_PROXY'):
        http_proxy_of('https://loop.example/api')
    monkeypatch.setenv('HTTPS_PROXY', 'http://p:3128')
    assert http_proxy_of('https://loop.example/api') == 'http://p:3128'
    assert http_proxy_of('http://10.0.0.4/api') is None


@contextmanager
def served(server: socketserver.BaseServer) -> Iterator[int]:
    thread = threading.Thread(target=server.serve_forever, kwargs={'poll_interval': 0.01})
    thread.start()
    try:
        yield server.server_address[1]  # type: ignore[misc,index]
    finally:
        server.shutdown()
        server.server_close()
        thread.join()


class HttpProxy(BaseHTTPRequestHandler):
    """Answers each request with its target."""

    def do_GET(self) -> None:
        body = self.path.encode()
        self.send_response(200)
        self.send_header('Content-Length', str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, *_: Any) -> None:
        pass


class SocksProxy(socketserver.StreamRequestHandler):
    """A SOCKS 5 proxy without authentication that answers the first request itself, with the host it was asked for."""

    def handle(self) -> None:
        self.rfile.read(self.rfile.read(2)[1])
        self.wfile.write(b'\x05\x00')
        self.rfile.read(4)
        host = self.rfile.read(self.rfile.read(1)[0])
        self.rfile.read(2)
        self.wfile.write(b'\x05\x00\x00\x01' + bytes(6))
        while self.rfile.readline().strip():
            pass
        self.wfile.write(b'HTTP/1.1 200 OK\r\nContent-Length: %d\r\n\r\n%s' % (len(host), host))


async def test_requests_go_through_the_proxy_of_their_host(monkeypatch: pytest.MonkeyPatch) -> None:
    """One client sends each request through the proxy of its host, or directly."""
    with served(ThreadingHTTPServer(('127.0.0.1', 0), HttpProxy)) as port:
        monkeypatch.setenv('HTTP_PROXY', f'http://127.0.0.1:{port}')
        with httpx.Client(transport=ProxyTransport()) as client:
            assert client.get('http://a.example/x').text == 'http://a.example/x'
            assert client.get(f'http://127.0.0.1:{port}/y').text == '/y'
        async with httpx.AsyncClient(transport=AsyncProxyTransport()) as other:
            assert (await other.get('http://a.example/x')).text == 'http://a.example/x'
            assert (await other.get(f'http://127.0.0.1:{port}/y')).text == '/y'


def test_socks_proxies_are_used(monkeypatch: pytest.MonkeyPatch) -> None:
    """A SOCKS proxy gets the name of the host."""
    with served(socketserver.ThreadingTCPServer(('127.0.0.1', 0), SocksProxy)) as port:
        monkeypatch.setenv('ALL_PROXY', f'socks5://127.0.0.1:{port}')
        with httpx.Client(transport=ProxyTransport()) as client:
            assert client.get('http://a.example/x').text == 'a.example'


@pytest.mark.parametrize(
    'variables',
    [
        {'ALL_PROXY': 'socks5://127.0.0.1:9'},
        {'NO_PROXY': 'localhost,127.0.0.1,[::1]', 'HTTP_PROXY': 'http://127.0.0.1:9'},
        {'NO_PROXY': '10.0.0.0/8,fd00::/8'},
        {'https_proxy': 'nonsense://x', 'all_proxy': 'http://[', 'http_proxy': 'http://a:b'},
    ],
)
@pytest.mark.parametrize(
    'command',
    [
        ['doctor'],
        ['detect', 'card.png', '--url', 'http://127.0.0.1:9'],
        ['outbox', 'list', '--url', 'http://127.0.0.1:9'],
        ['mock-loop', 'images'],
        ['labelstudio', 'export', '-p', '1', '-o', 'out.json'],
        ['labelstudio', 'import-labels', '-p', '1', 'own.json'],
    ],
    ids=' '.join,
)
def test_no_command_ends_with_a_traceback(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, variables: dict[str, str], command: list[str]
) -> None:
    """Whatever the proxy variables hold, a command works or ends with an error that has a text."""
    (tmp_path / 'own.json').write_text('{"format": "wholebody-poses", "version": 1, "images": []}')
    Image.new('RGB', (64, 64)).save(tmp_path / 'card.png')
    settings = {'DATA_FOLDER': str(tmp_path / 'data'), 'LABEL_STUDIO_URL': 'http://127.0.0.1:9'}
    for name, value in (settings | variables | {'LABEL_STUDIO_API_TOKEN': 'x'}).items():
        monkeypatch.setenv(name, value)
    for name in ('HOST', 'LOOP_HOST'):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.chdir(tmp_path)
    result = invoke(app, *command)
    assert isinstance(result.exception, SystemExit | WholebodyError | None), result.exception
    assert str(result.exception) or result.output


def test_a_download_names_the_variable(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """A download through a proxy that cannot be used ends with the name of the variable."""
    monkeypatch.setenv('DATA_FOLDER', str(tmp_path))
    for name in ('https_proxy', 'http_proxy'):
        monkeypatch.setenv(name, 'nonsense://x')
    result = invoke(app, 'model', 'pull', 'lightweight')
    assert isinstance(result.exception, InvalidSettings)
    assert 'https_proxy=nonsense://x' in str(result.exception)
