"""Log lines for people and for machines."""

import json
import logging
import subprocess
import sys
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest

from benchmarks.support.processes import PROJECT
from detector.observability import request_context
from detector.observability.logs import ConsoleFormatter, JsonFormatter, OnceASecond


@pytest.fixture(autouse=True)
def _leave_the_request() -> Iterator[None]:
    yield
    request_context.leave()


def record(message: str, *arguments: Any, **fields: Any) -> logging.LogRecord:
    return logging.getLogger('wholebody.test').makeRecord(
        'wholebody.test', logging.WARNING, __file__, 1, message, arguments, fields.get('exc_info')
    )


def as_object(made: logging.LogRecord) -> dict[str, Any]:
    line = JsonFormatter().format(made)
    assert line.isascii()
    assert '\n' not in line
    found: dict[str, Any] = json.loads(line)
    return found


@pytest.mark.parametrize('text', ['plain', 'two\nlines', '"quoted" {', 'Grüße 北京', 'half a pair \ud83d', '\x00\x1b['])
def test_each_line_is_one_object(text: str) -> None:
    """Each message, whatever it contains, becomes one JSON object with its time in UTC."""
    found = as_object(record('it said %s', text))
    assert set(found) == {'time', 'level', 'logger', 'message'}
    assert found['message'] == f'it said {text}'
    assert (found['level'], found['logger']) == ('WARNING', 'wholebody.test')
    said = datetime.fromisoformat(found['time'])
    assert said.utcoffset() == timedelta(0)
    assert abs(datetime.now(UTC) - said) < timedelta(minutes=1)


def test_the_request_and_the_trace_are_in_the_line() -> None:
    """A line names the request that it concerns and the place of the error."""
    request_context.begin('robot-7')
    try:
        raise ZeroDivisionError('so\nit is')
    except ZeroDivisionError:
        made = record('failed', exc_info=sys.exc_info())
    found = as_object(made)
    assert found['request_id'] == 'robot-7'
    assert 'test_logs.py' in found['exception']
    assert 'ZeroDivisionError: so\nit is' in found['exception']
    line = ConsoleFormatter().format(made)
    assert 'WARNING  wholebody.test: failed [robot-7]' in line
    assert line.count('robot-7') == 1


def test_an_uncaught_error_is_a_line_too() -> None:
    """Warnings, and errors that end a thread or the process, are logged."""
    code = """
import threading, warnings
from detector.node.server import configure_logging
from detector.settings import Settings
configure_logging(Settings(log_format='json'))
warnings.warn('mind this')
thread = threading.Thread(target=lambda: 1 / 0)
thread.start()
thread.join()
raise KeyError('the end')
"""
    done = subprocess.run(
        [sys.executable, '-c', code], cwd=PROJECT, capture_output=True, text=True, check=False, timeout=60
    )
    assert done.returncode == 1
    lines = [json.loads(line) for line in done.stderr.splitlines()]
    assert [line['level'] for line in lines] == ['WARNING', 'CRITICAL', 'CRITICAL']
    assert 'mind this' in lines[0]['message']
    assert 'ZeroDivisionError' in lines[1]['exception']
    assert "KeyError: 'the end'" in lines[2]['exception']


def test_a_message_cannot_forge_lines_for_people() -> None:
    """Control characters in a message are escaped; tracebacks keep their lines."""
    forged = record('%s\tnot found', 'a\n2026-01-31 12:00:00,000 ERROR wholebody: \x1b[2J\r\x85')
    line = ConsoleFormatter().format(forged)
    assert line.endswith('a\\n2026-01-31 12:00:00,000 ERROR wholebody: \\x1b[2J\\x0d\\x85\tnot found')
    try:
        raise ValueError('a\nb')
    except ValueError as error:
        failed = record('it fails', exc_info=(type(error), error, error.__traceback__))
    assert len(ConsoleFormatter().format(failed).splitlines()) > 3


def test_what_is_repeated_is_said_once_a_second(monkeypatch: pytest.MonkeyPatch) -> None:
    """The limit is per key, and only logged lines count, not suppressed ones."""
    now = 100.0
    monkeypatch.setattr('time.monotonic', lambda: now)
    once = OnceASecond()
    assert [once.due('a'), once.due('a'), once.due('b'), once.due()] == [True, False, True, True]
    now = 100.9
    assert not once.due('a')
    now = 101.0
    assert once.due('a')
