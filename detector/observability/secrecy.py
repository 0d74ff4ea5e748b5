"""Hides credentials in the log: the secrets of the settings, and everything that looks like a credential.

This is a second line of defence. The node itself logs no secret, but libraries log addresses, headers and errors.
"""

import base64
import json
import logging
import re
from typing import Final
from urllib.parse import quote

from pydantic import SecretStr

from detector.settings import Settings, without_logins

from .logs import JsonFormatter

_HIDDEN: Final = '…'
_MIN_LENGTH: Final = 5
"""Minimum length of a secret to hide; a shorter one cannot be told from other text."""
_PARAMETER: Final = re.compile(
    r'(?i)([?&;](?:[\w.-]*(?:token|password|passwd|secret|signature|credential|api_?key)[\w.-]*|auth|key|sig|pass)=)'
    r'[^&;\s"\'<>]+'
)
"""Matches a credential in the query of a URL."""
_HEADER: Final = re.compile(
    r"""(?ix) (\b(?:proxy-)?authorization ['"]?\s*[:=,]\s*b?['"]?(?:(?:bearer|basic|token)\s+)?) [^\s'",)]+
    | (\b(?:set-)?cookie ['"]?\s*[:=,]\s*b?['"]?) [^'"\n)]+
    """
)

_QUERY: Final = re.compile(r'\?[^\s"]+')


class Secrets:
    """The credentials of the settings, also in the forms in which they are sent: basic auth and percent-encoded."""

    def __init__(self, settings: Settings) -> None:
        values = [getattr(settings, field) for field in Settings.model_fields]
        plain = {value.get_secret_value() for value in values if isinstance(value, SecretStr)}
        login = settings.label_studio_login
        if login is not None:
            plain |= {
                base64.b64encode(':'.join(login).encode(name, 'replace')).decode() for name in ('utf-8', 'latin-1')
            }
        known = {form for text in plain for form in (text, quote(text), quote(text, safe=''), repr(text)[1:-1])}
        longest_first = sorted((text for text in known if len(text) >= _MIN_LENGTH), key=len, reverse=True)
        self._known = re.compile('|'.join(map(re.escape, longest_first))) if longest_first else None

    def hide(self, text: str) -> str:
        """Return the text without credentials."""
        if self._known is not None:
            text = self._known.sub(_HIDDEN, text)
        if '://' in text:
            text = without_logins(text)
        text = _PARAMETER.sub(rf'\1{_HIDDEN}', text)
        return _HEADER.sub(lambda found: (found[1] or found[2]) + _HIDDEN, text)


def hide_secrets(settings: Settings) -> None:
    """Pass all log lines of all loggers through `Secrets.hide`. Call this after the handlers have been set up."""
    hidden = Secrets(settings)
    loggers = [logging.getLogger(), *map(logging.getLogger, logging.root.manager.loggerDict)]
    for handler in {handler for logger in loggers for handler in logger.handlers}:
        handler.setFormatter(_Hiding(hidden, handler.formatter or logging.Formatter()))


class _Hiding(logging.Formatter):
    """Removes credentials from the text of another formatter, including tracebacks."""

    def __init__(self, hidden: Secrets, formatter: logging.Formatter) -> None:
        super().__init__()
        self._secrets = hidden
        self._formatter = formatter

    def format(self, record: logging.LogRecord) -> str:
        text = self._formatter.format(record)
        if not isinstance(self._formatter, JsonFormatter):
            return self._hidden(record, text)
        line = json.loads(text)
        return json.dumps({key: self._hidden(record, value) for key, value in line.items()})

    def _hidden(self, record: logging.LogRecord, text: str) -> str:
        if record.name.startswith('uvicorn'):  # logs requests with their queries, which clients may fill with secrets
            text = _QUERY.sub(f'?{_HIDDEN}', text)
        return self._secrets.hide(text)
