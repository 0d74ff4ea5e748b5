"""Variables that other programs use as well."""

import socket
from pathlib import Path

import pytest

from detector.environment import is_own_address, variable_read


def test_the_variable_that_decides_is_named(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """The environment comes before `.env` and earlier names before later ones; empty and missing ones do not count."""
    monkeypatch.chdir(tmp_path)
    for name in ('LOOP_HOST', 'HOST', 'host'):
        monkeypatch.delenv(name, raising=False)
    names = ['LOOP_HOST', 'HOST']
    assert variable_read(names) is None
    (tmp_path / '.env').write_text('LOOP_HOST=a\n')
    assert variable_read(names) == 'LOOP_HOST'
    monkeypatch.setenv('HOST', '')
    assert variable_read(names) == 'LOOP_HOST'
    monkeypatch.setenv('HOST', 'b')
    assert variable_read(names) == 'HOST'
    monkeypatch.setenv('LOOP_HOST', 'c')
    assert variable_read(names) == 'LOOP_HOST'


@pytest.mark.parametrize(
    ('host', 'own'),
    [
        ('0.0.0.0', True),
        ('::1', True),
        ('LOCALHOST', True),
        (socket.gethostname(), True),
        ('10.0.0.1', False),
        ('x', False),
    ],
)
def test_own_addresses(host: str, own: bool) -> None:
    """Addresses to bind to and names of this machine are its own."""
    assert is_own_address(host) is own
