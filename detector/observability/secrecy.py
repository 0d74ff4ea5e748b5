"""Keeps credentials out of the log: what this node knows to be secret, and what looks like it.

A second line of defence: nothing here writes a secret on purpose, but libraries log addresses, headers and errors.
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
"""A shorter secret cannot be told from other text."""
_PARAMETER: Final = re.compile(
    r'(?i)([?&;](?:[\w.-]*(?:token|password|passwd|secret|signature|credential|api_?key)[\w.-]*|auth|key|sig|pass)=)'
    r'[^&;\s"\'<>]+'
)
"""In the query of an address."""
_HEADER: Final = re.compile(
    r"""(?ix) (\b(?:proxy-)?authorization ['"]?\s*[:=,]\s*b?['"]?(?:(?:bearer|basic|token)\s+)?) [^\s'",)]+
    | (\b(?:set-)?cookie ['"]?\s*[:=,]\s*b?['"]?) [^'"\n)]+
    """
)

_QUERY: Final = re.compile(r'\?[^\s"]+')


class Secrets:
    """The credentials of the settings.

    Also as they are sent: as basic auth, and percent-encoded.
    """

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
        """The text without credentials."""
        if self._known is not None:
            text = self._known.sub(_HIDDEN, text)
        if '://' in text:
            text = without_logins(text)
        text = _PARAMETER.sub(rf'\1{_HIDDEN}', text)
        return _HEADER.sub(lambda found: (found[1] or found[2]) + _HIDDEN, text)


def hide_secrets(settings: Settings) -> None:
    """Let all that is logged from now on, by whomever, pass through `Secrets.hide`; to be called last."""
    hidden = Secrets(settings)
    loggers = [logging.getLogger(), *map(logging.getLogger, logging.root.manager.loggerDict)]
    for handler in {handler for logger in loggers for handler in logger.handlers}:
        handler.setFormatter(_Hiding(hidden, handler.formatter or logging.Formatter()))


class _Hiding(logging.Formatter):
    """Another formatter's text, tracebacks and all, without credentials."""

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
        if record.name.startswith('uvicorn'):  # lists requests with whatever callers have put into addresses
            text = _QUERY.sub(f'?{_HIDDEN}', text)
        return self._secrets.hide(text)
