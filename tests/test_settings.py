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
    """No Loop, port 8004, the CPU."""
    settings = load_settings()
    assert settings.loop_host is None
    assert settings.backend_port == 8004
    assert (settings.backend_type, settings.device) == ('auto', 'cpu')
    assert settings.max_image_pixels == DEFAULT_MAX_PIXELS


def test_every_faulty_value_gets_a_line_of_its_own(monkeypatch: pytest.MonkeyPatch) -> None:
    """Unknown and ill-typed values are all named at once, with what was given."""
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
    """Neither a representation nor an error shows a password or token."""
    monkeypatch.setenv('LOOP_PASSWORD', 'hunter2')
    monkeypatch.setenv('LABEL_STUDIO_API_TOKEN', 'hunter3')
    assert 'hunter' not in repr(load_settings())
    monkeypatch.setenv('MODE', 'fast')
    with pytest.raises(InvalidSettings) as caught:
        load_settings()
    assert 'hunter' not in str(caught.value)


def test_label_studio_logs_in_with_its_password_or_else_with_the_token(monkeypatch: pytest.MonkeyPatch) -> None:
    """Of BASIC_AUTH_* and API_TOKEN the former, if both are set; commands send the token itself."""
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
def test_what_is_no_origin_is_refused(monkeypatch: pytest.MonkeyPatch, origins: str) -> None:
    """Origins have a scheme and a host, and no path; others would silently allow nobody."""
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
    """HOST=0.0.0.0, ::, or this machine's name is no Loop; another HOST is, as upstream has it."""
    for address in ('0.0.0.0', '::', '127.0.0.1', 'localhost', socket.gethostname()):
        monkeypatch.setenv('HOST', address)
        assert load_settings().loop_host is None
    monkeypatch.setenv('HOST', 'loop.example')
    monkeypatch.setenv('ORGANIZATION', 'o')
    monkeypatch.setenv('PROJECT', 'p')
    assert load_settings().loop_url == 'http://loop.example'


def test_a_loop_needs_organization_and_project(monkeypatch: pytest.MonkeyPatch) -> None:
    """With LOOP_HOST alone the images of a robot would land in a project of somebody's guess."""
    monkeypatch.setenv('LOOP_HOST', 'learning-loop.ai')
    with pytest.raises(InvalidSettings, match='LOOP_ORGANIZATION must be set'):
        load_settings()
    monkeypatch.setenv('LOOP_ORGANIZATION', 'o')
    with pytest.raises(InvalidSettings, match='LOOP_PROJECT must be set'):
        load_settings()
    monkeypatch.setenv('LOOP_PROJECT', 'p')
    assert load_settings().loop_url == 'https://learning-loop.ai'


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
    """Without a scheme upstream's rule holds; what LOOP_HOST says is never taken for anything else."""
    monkeypatch.setenv('LOOP_HOST', host)
    monkeypatch.setenv('LOOP_ORGANIZATION', 'o')
    monkeypatch.setenv('LOOP_PROJECT', 'p')
    assert load_settings().loop_url == url


@pytest.mark.parametrize('host', ['ftp://loop', 'http://', 'loop/path', 'user:pw@loop', 'a b'])
def test_what_is_no_host_is_refused(monkeypatch: pytest.MonkeyPatch, host: str) -> None:
    """Credentials in an address would end up in logs."""
    monkeypatch.setenv('LOOP_HOST', host)
    with pytest.raises(InvalidSettings, match='give a host name'):
        load_settings()


def test_a_data_folder_that_cannot_be_written_is_named(tmp_path: Path) -> None:
    """Before anything else is tried; a relative one is taken from the working directory for good."""
    (tmp_path / 'file').write_text('')
    with pytest.raises(InvalidSettings, match=r'DATA_FOLDER=.*file.*: cannot be written'):
        load_settings(data_folder=tmp_path / 'file' / 'data').make_data_folder()
    assert load_settings(data_folder='data').data_folder == tmp_path / 'data'


def test_upstream_names_and_cases_are_read(monkeypatch: pytest.MonkeyPatch) -> None:
    """NODE_PORT is upstream's name of the port; BACKEND_PORT wins; values are read in any case."""
    monkeypatch.setenv('NODE_PORT', '81')
    monkeypatch.setenv('LOG_LEVEL', 'warning')
    monkeypatch.setenv('DEVICE', 'CUDA:1')
    settings = load_settings()
    assert (settings.backend_port, settings.effective_log_level, settings.device) == (81, 'WARNING', 'cuda:1')
    monkeypatch.setenv('BACKEND_PORT', '82')
    monkeypatch.setenv('DEBUG', '1')
    assert (load_settings().backend_port, load_settings().effective_log_level) == (82, 'DEBUG')


def test_the_command_line_wins(monkeypatch: pytest.MonkeyPatch) -> None:
    """`--port` overrides BACKEND_PORT, and is checked like it."""
    monkeypatch.setenv('BACKEND_PORT', '82')
    assert load_settings(backend_port=90).backend_port == 90
    with pytest.raises(InvalidSettings, match='BACKEND_PORT'):
        load_settings(backend_port=90000)


def test_thresholds_in_the_wrong_order_are_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    """An empty range would silently never upload anything."""
    monkeypatch.setenv('MIN_UNCERTAIN_THRESHOLD', '0.7')
    with pytest.raises(InvalidSettings, match='MIN_UNCERTAIN_THRESHOLD is above'):
        load_settings()


def test_a_dotenv_file_is_read(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """`.env` of the working directory counts, the environment wins, empty lines of `.env.example` mean unset."""
    Path('.env').write_text('BACKEND_PORT=83\nLOOP_HOST=\nLOG_LEVEL=ERROR\n')
    monkeypatch.setenv('LOG_LEVEL', 'INFO')
    settings = load_settings()
    assert (settings.backend_port, settings.loop_host, settings.log_level) == (83, None, 'INFO')
