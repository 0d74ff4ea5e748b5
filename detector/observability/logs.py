"""Formats of the log: readable lines, or one JSON object per line. Both contain the id of the current request."""

import json
import logging
import math
import sys
import threading
import time
from collections.abc import Hashable
from datetime import UTC, datetime
from typing import Any, Final

from .request_context import request_id

_LINE: Final = '%(asctime)s %(levelname)-8s %(name)s: %(message)s'
_ESCAPES: Final = {code: f'\\x{code:02x}' for code in (*range(9), *range(11, 32), *range(127, 160))} | {10: '\\n'}
"""Escapes for control characters except the tab, so that text from clients cannot imitate log lines."""
_SECONDS: Final = 1.0
log = logging.getLogger('wholebody')


class OnceASecond:
    """Limits a repeated log line to one a second, e.g. when a robot repeats a fault with each frame."""

    def __init__(self) -> None:
        self._last: dict[Hashable, float] = {}

    def due(self, what: Hashable = None) -> bool:
        """Return True if the line was not logged in the last second; the caller then logs it.

        :param what: key of the line, from a fixed set.
        """
        now = time.monotonic()
        if now - self._last.get(what, -math.inf) < _SECONDS:
            return False
        self._last[what] = now
        return True


class ClientFaults(logging.Filter):
    """Shortens the tracebacks that libraries log about messages of clients to one line a second.

    Otherwise every client could fill the log. The filter belongs to the loggers `engineio.server` and `uvicorn.error`.
    """

    def __init__(self) -> None:
        super().__init__()
        self._lines = OnceASecond()

    def filter(self, record: logging.LogRecord) -> bool:
        error = record.exc_info[1] if record.exc_info else None
        if error is None or not str(record.msg).startswith(_ABOUT_MESSAGES):
            return True
        record.msg, record.args = 'a message of a client is ignored: %s: %s', (type(error).__name__, error)
        record.exc_info = None
        record.levelno, record.levelname = logging.WARNING, 'WARNING'
        return self._lines.due()


_ABOUT_MESSAGES: Final = (
    'post request handler error',
    'message async handler error',
    'Unknown receive error',
    'Invalid UTF-8 sequence received',
)
"""Beginnings of the log lines of Engine.IO and uvicorn for a message that cannot be read."""


class ConsoleFormatter(logging.Formatter):
    """Formats time, level, logger, message, and the id of the request in brackets."""

    def __init__(self) -> None:
        super().__init__(_LINE)

    def formatMessage(self, record: logging.LogRecord) -> str:
        record.message = record.message.translate(_ESCAPES)
        line = super().formatMessage(record)
        request = request_id()
        return line if request is None else f'{line} [{request}]'


class JsonFormatter(logging.Formatter):
    """Formats a line as a JSON object of strings, in ASCII, so that it does not depend on the encoding of a terminal.

    The keys are `time` (UTC, ISO 8601), `level`, `logger` and `message`, and if present `request_id`, `exception` and
    `stack`.
    """

    def format(self, record: logging.LogRecord) -> str:
        line: dict[str, Any] = {
            'time': datetime.fromtimestamp(record.created, UTC).isoformat(timespec='milliseconds'),
            'level': record.levelname,
            'logger': record.name,
            'message': record.getMessage(),
        }
        request = request_id()
        if request is not None:
            line['request_id'] = request
        if record.exc_info and record.exc_info[0] is not None:
            line['exception'] = self.formatException(record.exc_info)
        if record.stack_info:
            line['stack'] = self.formatStack(record.stack_info)
        return json.dumps(line)


def log_uncaught_errors() -> None:
    """Write Python warnings and uncaught exceptions to the log."""
    logging.captureWarnings(True)
    sys.excepthook = lambda _, error, __: log.critical('the process fails', exc_info=error)
    threading.excepthook = lambda details: log.critical('a thread fails', exc_info=details.exc_value)
