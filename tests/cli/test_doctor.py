"""`wholebody doctor`."""

import json
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, HTTPServer
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from benchmarks.support.packages import make_package
from benchmarks.support.processes import free_port
from detector.cli.doctor import Check, examine
from detector.engine.verification import verify
from detector.models.store import ModelStore
from detector.settings import Settings
from detector.system import opencv

JWT = 'aaa.bbb.ccc'


class _Service(BaseHTTPRequestHandler):
    """The routes of a Learning Loop and of Label Studio that `doctor` requests."""

    def do_GET(self) -> None:
        authorization = self.headers.get('Authorization')
        if self.path in ('/api/status', '/health'):
            self._answer(200, {'status': 'UP'})
        elif self.path == '/api/current-user/whoami' and authorization in ('Token good', 'Bearer fresh'):
            self._answer(200, {'email': 'ann@example.com'})
        else:
            self._answer(401, {})

    def do_POST(self) -> None:
        body = self.rfile.read(int(self.headers['Content-Length'])).decode()
        if self.path == '/api/login':
            self._answer(200 if body == 'username=ann&password=secret' else 401, {})
        elif self.path == '/api/token/refresh/':
            self._answer(200 if json.loads(body) == {'refresh': JWT} else 401, {'access': 'fresh'})
        else:
            self._answer(404, {})

    def _answer(self, status: int, content: dict[str, Any]) -> None:
        self.send_response(status)
        self.send_header('Content-Type', 'application/json')
        self.end_headers()
        self.wfile.write(json.dumps(content).encode())

    def log_message(self, *_: object) -> None:
        pass


@pytest.fixture
def service() -> Iterator[str]:
    with HTTPServer(('127.0.0.1', 0), _Service) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        yield f'127.0.0.1:{server.server_port}'
        server.shutdown()


def examined(tmp_path: Path, **settings: Any) -> dict[str, Check]:
    checks = examine(Settings(data_folder=tmp_path / 'data', **settings))
    return {check.name: check for check in checks}


def loop_settings(host: str, password: str = 'secret') -> dict[str, Any]:
    return {
        'loop_host': host, 'loop_organization': 'o', 'loop_project': 'p',
        'loop_username': 'ann', 'loop_password': password,
    }  # fmt: skip


def test_a_fresh_installation_is_healthy(tmp_path: Path) -> None:
    """Every runtime reads the example card, and checks of what is not configured are skipped."""
    checks = examined(tmp_path)
    assert {name for name, check in checks.items() if check.state == 'skipped'} == {'Learning Loop', 'Label Studio'}
    assert not [check for check in checks.values() if check.state == 'failed']
    assert {'runtime onnxruntime', 'runtime openvino', 'runtime opencv'} <= set(checks)
    assert 'learning-loop-node 0.27.0' in checks['packages'].detail
    runtime = 'onnxruntime on CPUExecutionProvider, f32 (the default; the package requires f32)'
    assert f'test-card 0.0 works with {runtime}' in checks['model'].detail
    assert 'wholebody model pull' in checks['model'].detail


def test_the_loop_and_its_login_are_tried(tmp_path: Path, service: str) -> None:
    """The check distinguishes a good login, a refused one and a Loop that does not answer."""
    assert examined(tmp_path, **loop_settings(service))['Learning Loop'].state == 'ok'
    refused = examined(tmp_path, **loop_settings(service, 'wrong'))['Learning Loop']
    assert refused.state == 'failed'
    assert 'LOOP_PASSWORD' in refused.detail
    assert 'wrong' not in refused.detail
    gone = examined(tmp_path, **loop_settings(f'127.0.0.1:{free_port()}'))['Learning Loop']
    assert gone.state == 'failed'
    assert 'does not answer' in gone.detail


@pytest.mark.parametrize(
    ('token', 'state', 'message'),
    [
        ('good', 'ok', 'ann@example.com'),
        (JWT, 'ok', 'ann@example.com'),
        ('bad', 'failed', 'refuses LABEL_STUDIO_API_TOKEN (401)'),
        ('a.b.c', 'failed', 'a personal access token (401)'),
        (None, 'failed', 'set LABEL_STUDIO_API_TOKEN'),
    ],
)
def test_label_studio_and_its_token_are_tried(
    tmp_path: Path, service: str, token: str | None, state: str, message: str
) -> None:
    """The check accepts valid legacy and personal access tokens, and explains invalid ones."""
    settings = {'label_studio_url': f'http://{service}', 'label_studio_api_token': token}
    check = examined(tmp_path, **settings)['Label Studio']
    assert check.state == state
    assert message in check.detail


def test_two_opencv_distributions_are_found(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """With two OpenCV distributions the check fails and names the command that repairs the installation."""
    names = ('opencv-contrib-python', 'opencv-python-headless')
    monkeypatch.setattr(opencv, 'distributions', lambda: [SimpleNamespace(name=name) for name in names])
    check = next(check for check in examine(Settings(data_folder=tmp_path)) if check.name == 'opencv')
    assert check.state == 'failed'
    assert f'pip uninstall -y {" ".join(names)} && pip install opencv-python-headless' in check.detail


def test_a_damaged_model_and_a_missing_device_are_found(tmp_path: Path) -> None:
    """The check of the model names a damaged file and a missing device."""
    package = ModelStore(tmp_path / 'data').install(make_package(tmp_path / 'p.zip'), verify=verify)
    missing = examined(tmp_path, device='cuda')['model']
    assert missing.state == 'failed'
    assert 'DEVICE=cuda' in missing.detail
    package.detector_path.write_bytes(b'damaged')
    damaged = examined(tmp_path)['model']
    assert damaged.state == 'failed'
    assert 'det.onnx: sha256' in damaged.detail


def test_a_data_folder_that_cannot_be_written_is_found(tmp_path: Path) -> None:
    """The check names DATA_FOLDER if a file blocks its path."""
    (tmp_path / 'data').write_text('a file')
    check = examined(tmp_path)['data folder']
    assert check.state == 'failed'
    assert 'set DATA_FOLDER' in check.detail
