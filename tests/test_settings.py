"""Settings: environment, `.env`, defaults, aliases and checks."""

import re
import socket
from pathlib import Path

import pytest

from detector.errors import InvalidSettings
from detector.pose.images import DEFAULT_MAX_PIXELS
from detector.settings import Settings, environment_name, load_settings


@pytest.fixture(autouse=True)
def _empty_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    for field in Settings.model_fields:
        monkeypatch.delenv(environment_name(field), raising=False)
    for name in ('HOST', 'ORGANIZATION', 'PROJECT', 'USERNAME', 'PASSWORD', 'NODE_PORT'):
        monkeypatch.delenv(name, raising=False)


def test_defaults_need_no_environment() -> None:
    """Without an environment there is no Loop, the port is 8004 and the CPU computes."""
    settings = load_settings()
    assert settings.loop_host is None
    assert settings.backend_port == 8004
    assert (settings.backend_type, settings.device) == ('auto', 'cpu')
    assert settings.max_image_pixels == DEFAULT_MAX_PIXELS


def test_every_faulty_value_gets_its_own_line(monkeypatch: pytest.MonkeyPatch) -> None:
    """Unknown and ill-typed values are all named at once, with the given value."""
    monkeypatch.setenv('BACKEND_TYPE', 'tensorflow')
    monkeypatch.setenv('BACKEND_PORT', 'http')
    monkeypatch.setenv('DEVICE', 'toaster')
    monkeypatch.setenv('DEBUG', 'perhaps')
    with pytest.raises(InvalidSettings) as caught:
        load_settings()
    lines = str(caught.value).splitlines()
    assert len(lines) == 4
    for given in ('BACKEND_TYPE=tensorflow', 'BACKEND_PORT=http', 'DEVICE=toaster', 'DEBUG=perhaps'):
        assert sum(line.startswith(f'{given}: ') for line in lines) == 1


def test_secrets_are_not_shown(monkeypatch: pytest.MonkeyPatch) -> None:
    """No representation and no error shows a password or token."""
    monkeypatch.setenv('LOOP_PASSWORD', 'hunter2')
    monkeypatch.setenv('LABEL_STUDIO_API_TOKEN', 'hunter3')
    assert 'hunter' not in repr(load_settings())
    monkeypatch.setenv('MODE', 'fast')
    with pytest.raises(InvalidSettings) as caught:
        load_settings()
    assert 'hunter' not in str(caught.value)


def test_an_unknown_mode_gets_the_list_of_modes(monkeypatch: pytest.MonkeyPatch) -> None:
    """MODE is the starter by default and may be written in capitals; the error for another value lists all modes."""
    assert load_settings().mode == 'starter'
    monkeypatch.setenv('MODE', 'Test-Card')
    assert load_settings().mode == 'test-card'
    monkeypatch.setenv('MODE', 'fast')
    with pytest.raises(InvalidSettings, match='^MODE=fast: ') as caught:
        load_settings()
    for mode in ('starter', 'test-card', 'lightweight', 'balanced', 'performance'):
        assert repr(mode) in str(caught.value)


def test_label_studio_logs_in_with_its_password_or_the_token(monkeypatch: pytest.MonkeyPatch) -> None:
    """BASIC_AUTH_* takes precedence over API_TOKEN for Label Studio; commands send the token."""
    assert load_settings().label_studio_login is None
    assert load_settings().request_headers == {}
    monkeypatch.setenv('API_TOKEN', 'hunter4')
    user, password = load_settings().label_studio_login or ('', '')
    assert user
    assert password == 'hunter4'
    assert load_settings().request_headers == {'Authorization': 'Bearer hunter4'}
    monkeypatch.setenv('BASIC_AUTH_USER', 'ann')
    monkeypatch.setenv('BASIC_AUTH_PASS', 'hunter5')
    assert load_settings().label_studio_login == ('ann', 'hunter5')


@pytest.mark.parametrize('origins', ['evil', 'ftp://a', 'https://a/b', 'https://', 'https://a b', 'null'])
def test_an_invalid_origin_is_refused(monkeypatch: pytest.MonkeyPatch, origins: str) -> None:
    """Origins have a scheme and a host and no path; others would silently allow no page."""
    monkeypatch.setenv('CORS_ORIGINS', origins)
    with pytest.raises(InvalidSettings, match='CORS_ORIGINS=.*give origins like'):
        load_settings()
    monkeypatch.setenv(
        'CORS_ORIGINS', ' https://A.example:8443/ , http://[::1]:8080,*,https://b.example:443,http://c:80,http://d:443 '
    )
    assert (
        load_settings().cors_origins
        == 'https://a.example:8443,http://[::1]:8080,*,https://b.example,http://c,http://d:443'
    )


def test_a_bind_address_is_not_taken_for_a_loop(monkeypatch: pytest.MonkeyPatch) -> None:
    """HOST is ignored if it is a bind address or the name of this machine; otherwise it names the Loop."""
    for address in ('0.0.0.0', '::', '127.0.0.1', 'localhost', socket.gethostname()):
        monkeypatch.setenv('HOST', address)
        assert load_settings().loop_host is None
    monkeypatch.setenv('HOST', 'loop.example')
    monkeypatch.setenv('ORGANIZATION', 'o')
    monkeypatch.setenv('PROJECT', 'p')
    assert load_settings().loop_url == 'http://loop.example'


def test_a_loop_needs_organization_and_project(monkeypatch: pytest.MonkeyPatch) -> None:
    """LOOP_HOST requires both, or images would go to a project that the operator did not choose."""
    monkeypatch.setenv('LOOP_HOST', 'learning-loop.ai')
    with pytest.raises(InvalidSettings, match='LOOP_ORGANIZATION must be set'):
        load_settings()
    monkeypatch.setenv('LOOP_ORGANIZATION', 'o')
    with pytest.raises(InvalidSettings, match='LOOP_PROJECT must be set'):
        load_settings()
    monkeypatch.setenv('LOOP_PROJECT', 'p')
    assert load_settings().loop_url == 'https://learning-loop.ai'


@pytest.mark.parametrize(
    ('variable', 'value', 'named'),
    [
        (
            'HOST',
            'x86_64-conda-linux-gnu',
            'LOOP_ORGANIZATION must be set if HOST=x86_64-conda-linux-gnu names the Lear',
        ),
        ('host', 'mybox', 'LOOP_ORGANIZATION must be set if HOST=mybox names the Learning Loop; else unset HOST'),
        ('HOST', 'a/b', 'HOST=a/b: give a host name'),
        ('NODE_PORT', 'tcp://10.0.0.1:80', 'NODE_PORT=tcp://10.0.0.1:80: Input should be a valid integer'),
        ('BACKEND_PORT', '0', 'BACKEND_PORT=0: Input should be greater than'),
    ],
)
@pytest.mark.parametrize('in_file', [False, True])
def test_an_error_names_the_variable_that_was_read(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, variable: str, value: str, named: str, in_file: bool
) -> None:
    """An error names the variable that is set, also if it is an alias, in another case, or in `.env`."""
    monkeypatch.chdir(tmp_path)
    if in_file:
        (tmp_path / '.env').write_text(f'{variable}={value}\n')
    else:
        monkeypatch.setenv(variable, value)
    with pytest.raises(InvalidSettings, match=re.escape(named)):
        load_settings()


@pytest.mark.parametrize(
    ('host', 'url'),
    [
        ('loop.example', 'http://loop.example'),
        ('loop.example:8443', 'http://loop.example:8443'),
        ('https://loop.example:8443/', 'https://loop.example:8443'),
        ('http://learning-loop.ai', 'http://learning-loop.ai'),
        ('learning-loop.ai', 'https://learning-loop.ai'),
        ('127.0.0.1:5005', 'http://127.0.0.1:5005'),
        (socket.gethostname(), f'http://{socket.gethostname()}'),
    ],
)
def test_a_loop_is_named_with_or_without_scheme_and_port(monkeypatch: pytest.MonkeyPatch, host: str, url: str) -> None:
    """Without a scheme upstream's rule holds; LOOP_HOST always names the Loop."""
    monkeypatch.setenv('LOOP_HOST', host)
    monkeypatch.setenv('LOOP_ORGANIZATION', 'o')
    monkeypatch.setenv('LOOP_PROJECT', 'p')
    assert load_settings().loop_url == url


@pytest.mark.parametrize('host', ['ftp://loop', 'http://', 'loop/path', 'user:pw@loop', 'a b'])
def test_an_invalid_host_is_refused(monkeypatch: pytest.MonkeyPatch, host: str) -> None:
    """LOOP_HOST must not contain a path or credentials, which would appear in logs."""
    monkeypatch.setenv('LOOP_HOST', host)
    with pytest.raises(InvalidSettings, match='give a host name'):
        load_settings()


def test_a_data_folder_that_cannot_be_written_is_named(tmp_path: Path) -> None:
    """An unwritable DATA_FOLDER is named; a relative one is resolved once."""
    (tmp_path / 'file').write_text('')
    with pytest.raises(InvalidSettings, match=r'DATA_FOLDER=.*file.*: cannot be written'):
        load_settings(data_folder=tmp_path / 'file' / 'data').make_data_folder()
    assert load_settings(data_folder='data').data_folder == tmp_path / 'data'


def test_upstream_names_and_cases_are_read(monkeypatch: pytest.MonkeyPatch) -> None:
    """NODE_PORT is upstream's name of BACKEND_PORT, which takes precedence; values may have any case."""
    monkeypatch.setenv('NODE_PORT', '81')
    monkeypatch.setenv('LOG_LEVEL', 'warning')
    monkeypatch.setenv('DEVICE', 'CUDA:1')
    settings = load_settings()
    assert (settings.backend_port, settings.effective_log_level, settings.device) == (81, 'WARNING', 'cuda:1')
    monkeypatch.setenv('BACKEND_PORT', '82')
    monkeypatch.setenv('DEBUG', '1')
    assert (load_settings().backend_port, load_settings().effective_log_level) == (82, 'DEBUG')


def test_the_command_line_wins(monkeypatch: pytest.MonkeyPatch) -> None:
    """`--port` overrides BACKEND_PORT and is checked in the same way."""
    monkeypatch.setenv('BACKEND_PORT', '82')
    assert load_settings(backend_port=90).backend_port == 90
    with pytest.raises(InvalidSettings, match='BACKEND_PORT'):
        load_settings(backend_port=90000)


def test_thresholds_in_the_wrong_order_are_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    """An empty range of uncertainty is refused, since no image would ever be uploaded."""
    monkeypatch.setenv('MIN_UNCERTAIN_THRESHOLD', '0.7')
    with pytest.raises(InvalidSettings, match='MIN_UNCERTAIN_THRESHOLD is above'):
        load_settings()


def test_a_dotenv_file_is_read(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """`.env` is read, the environment takes precedence, and empty lines mean unset."""
    Path('.env').write_text('BACKEND_PORT=83\nLOOP_HOST=\nLOG_LEVEL=ERROR\n')
    monkeypatch.setenv('LOG_LEVEL', 'INFO')
    settings = load_settings()
    assert (settings.backend_port, settings.loop_host, settings.log_level) == (83, None, 'INFO')
