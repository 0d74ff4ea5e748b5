"""Lines of the log: for people, or one JSON object each; both with the id of the request that they belong to."""

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
"""Of control characters but the tab: what others have said shall not look like lines of the log."""
_SECONDS: Final = 1.0
log = logging.getLogger('wholebody')


class OnceASecond:
    """For lines that would come many times a second, as when a robot repeats a fault with each frame."""

    def __init__(self) -> None:
        self._last: dict[Hashable, float] = {}

    def due(self, what: Hashable = None) -> bool:
        """Whether this has not been said for a second; it is taken to be said now.

        :param what: of a fixed set.
        """
        now = time.monotonic()
        if now - self._last.get(what, -math.inf) < _SECONDS:
            return False
        self._last[what] = now
        return True


class ConsoleFormatter(logging.Formatter):
    """Time, level, logger, message, and the request's id in brackets."""

    def __init__(self) -> None:
        super().__init__(_LINE)

    def formatMessage(self, record: logging.LogRecord) -> str:
        record.message = record.message.translate(_ESCAPES)
        line = super().formatMessage(record)
        request = request_id()
        return line if request is None else f'{line} [{request}]'


class JsonFormatter(logging.Formatter):
    """`time` (UTC, ISO 8601), `level`, `logger`, `message`; where there are, `request_id`, `exception`, `stack`.

    All are strings.

    In ASCII, so that a terminal's encoding cannot spoil it.
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
    """Let warnings and errors that nobody catches become lines of the log too."""
    logging.captureWarnings(True)
    sys.excepthook = lambda _, error, __: log.critical('the process fails', exc_info=error)
    threading.excepthook = lambda details: log.critical('a thread fails', exc_info=details.exc_value)
