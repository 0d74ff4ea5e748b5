"""TLS for connections to the Learning Loop."""

from pathlib import Path

import pytest

from detector.errors import InvalidSettings
from detector.loop.tls import ssl_context
from detector.settings import Settings


def test_a_certificate_path_without_certificates_is_named(tmp_path: Path) -> None:
    """A certificate file that is missing or is not one stops the start with the setting's name."""
    (tmp_path / 'text').write_text('hello')
    for name in ('missing', 'text'):
        settings = Settings(data_folder=tmp_path, loop_ssl_cert_path=tmp_path / name)
        with pytest.raises(InvalidSettings, match=f'LOOP_SSL_CERT_PATH=.*{name}: '):
            ssl_context(settings)
