"""`wholebody doctor --security`."""

from pathlib import Path
from typing import Any

import pytest

from detector.api.route_policy import OPEN_PATHS
from detector.cli.doctor import Check
from detector.cli.doctor_security import examine
from detector.cli.main import app
from detector.settings import Settings
from tests.support.commands import invoke

GOOD_TOKEN = 24 * 'ab'


def examined(tmp_path: Path, **settings: Any) -> dict[str, Check]:
    return {check.name: check for check in examine(Settings(data_folder=tmp_path / 'data', **settings))}


def test_a_node_for_this_machine_only_is_in_order(tmp_path: Path) -> None:
    """No check fails on a loopback address; a warning names the programs on the same machine."""
    checks = examined(tmp_path, node_host='127.0.0.1')
    assert [check.name for check in checks.values() if check.state == 'failed'] == []
    assert checks['address'].state == 'ok'
    assert checks['API_TOKEN'].state == 'warning'


LOOP = {'loop_host': 'http://loop.example', 'loop_organization': 'o', 'loop_project': 'p'}


@pytest.mark.parametrize(
    ('settings', 'name', 'state', 'remedy'),
    [
        ({}, 'address', 'warning', 'NODE_HOST=127.0.0.1'),
        ({'node_host': '::1'}, 'address', 'ok', ''),
        ({}, 'API_TOKEN', 'failed', 'openssl rand'),
        ({'api_token': 'short'}, 'API_TOKEN', 'failed', 'openssl rand'),
        ({'api_token': GOOD_TOKEN}, 'API_TOKEN', 'ok', ''),
        ({}, 'Label Studio routes', 'failed', 'BASIC_AUTH_USER'),
        ({'api_token': GOOD_TOKEN}, 'Label Studio routes', 'ok', ''),
        ({'basic_auth_user': 'a', 'basic_auth_pass': 'b'}, 'Label Studio routes', 'failed', 'BASIC_AUTH_PASS'),
        ({'basic_auth_user': 'a', 'basic_auth_pass': 'long enough'}, 'Label Studio routes', 'ok', ''),
        ({}, 'CORS_ORIGINS', 'ok', ''),
        ({'cors_origins': '*'}, 'CORS_ORIGINS', 'failed', 'list origins'),
        ({'cors_origins': '*', 'api_token': GOOD_TOKEN}, 'CORS_ORIGINS', 'warning', 'list those'),
        ({'cors_origins': 'https://a.example'}, 'CORS_ORIGINS', 'ok', ''),
        ({'use_backdoor_controls': True}, 'USE_BACKDOOR_CONTROLS', 'failed', 'unset it'),
        ({}, 'IMAGE_HOSTS', 'warning', 'list those'),
        ({'image_hosts': 'none'}, 'IMAGE_HOSTS', 'ok', ''),
        ({'image_hosts': 'cdn.example'}, 'IMAGE_HOSTS', 'ok', ''),
        ({}, 'Learning Loop', 'skipped', ''),
        (LOOP, 'Learning Loop', 'warning', 'https://'),
        (LOOP | {'loop_password': 'x'}, 'Learning Loop', 'failed', 'https://'),
        (LOOP | {'loop_host': 'https://loop.example', 'loop_password': 'x'}, 'Learning Loop', 'ok', ''),
        (LOOP | {'loop_host': '127.0.0.1:5005', 'loop_password': 'x'}, 'Learning Loop', 'ok', ''),
        ({'label_studio_url': 'http://ls', 'label_studio_api_token': 'x'}, 'Label Studio', 'failed', 'https://'),
        ({'debug': True}, 'log', 'warning', 'unset DEBUG'),
    ],
)
def test_what_is_open_is_said_with_a_remedy(
    tmp_path: Path, settings: dict[str, Any], name: str, state: str, remedy: str
) -> None:
    """Each setting is judged on its own, with an address that other machines reach."""
    check = examined(tmp_path, **{'node_host': '0.0.0.0'} | settings)[name]
    assert check.state == state
    assert remedy in check.detail


def test_with_a_token_it_is_said_what_stays_open_to_read(tmp_path: Path) -> None:
    """With a token, the check passes and lists the paths that need none."""
    check = examined(tmp_path, node_host='0.0.0.0', api_token=GOOD_TOKEN)['API_TOKEN']
    assert check.state == 'ok'
    listed = check.detail.rpartition('open to read without it: ')[2]
    assert set(listed.split(', ')) == OPEN_PATHS
    assert 'open to read' not in examined(tmp_path, node_host='0.0.0.0')['API_TOKEN'].detail


def test_files_that_others_can_read_are_found(tmp_path: Path) -> None:
    """The checks judge DATA_FOLDER and `.env` by their permissions; others may read a `.env` without credentials."""
    data, dotenv = tmp_path / 'data', Path('.env')
    assert examined(tmp_path)['DATA_FOLDER'].state == 'skipped'
    assert examined(tmp_path)['.env'].state == 'skipped'
    data.mkdir()
    for mode, state in ((0o777, 'failed'), (0o755, 'warning'), (0o750, 'ok')):
        data.chmod(mode)
        check = examined(tmp_path)['DATA_FOLDER']
        assert check.state == state
        assert ('chmod' in check.detail) == (state != 'ok')
    dotenv.write_text('BACKEND_PORT=8004\nAPI_TOKEN=\n')
    dotenv.chmod(0o644)
    assert examined(tmp_path)['.env'].state == 'ok'
    dotenv.write_text(f'API_TOKEN={GOOD_TOKEN}\nPASSWORD=x\n')
    for mode, state in ((0o644, 'failed'), (0o600, 'ok'), (0o660, 'failed')):
        dotenv.chmod(mode)
        assert examined(tmp_path)['.env'].state == state
    dotenv.chmod(0o640)
    assert 'API_TOKEN, PASSWORD' in examined(tmp_path)['.env'].detail
    assert GOOD_TOKEN not in examined(tmp_path)['.env'].detail


def test_the_command_fails_where_something_is_dangerous(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """The exit status is 1 if a check fails, and the output shows no token."""
    monkeypatch.setenv('DATA_FOLDER', str(tmp_path / 'data'))
    monkeypatch.setenv('NODE_HOST', '0.0.0.0')
    open_to_all = invoke(app, 'doctor', '--security')
    assert open_to_all.exit_code == 1
    assert '✗ API_TOKEN: not set' in open_to_all.output
    monkeypatch.setenv('API_TOKEN', GOOD_TOKEN)
    guarded = invoke(app, 'doctor', '--security')
    assert guarded.exit_code == 0, guarded.output
    assert '✓ API_TOKEN' in guarded.output
    assert '! address' in guarded.output
    assert GOOD_TOKEN not in guarded.output
