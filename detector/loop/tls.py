"""TLS for connections to the Learning Loop."""

import ssl

from detector.errors import InvalidSettings
from detector.settings import Settings


def ssl_context(settings: Settings) -> ssl.SSLContext:
    """Return the context that verifies the certificate of the Loop.

    :raises InvalidSettings: LOOP_SSL_CERT_PATH does not name a file of certificates.
    """
    path = settings.loop_ssl_cert_path
    try:
        return ssl.create_default_context(cafile=None if path is None else str(path))
    except OSError as error:
        raise InvalidSettings(f'LOOP_SSL_CERT_PATH={path}: {error.strerror or error}') from None
