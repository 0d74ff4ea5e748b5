"""The queue of annotations to be sent to the Learning Loop, and the versions already handled, in an SQLite database."""

import sqlite3
import threading
from collections.abc import Iterable, Iterator
from contextlib import closing, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from detector.system.durable import make_folder

FIRST_PAUSE_SECONDS: Final = 5.0
MAX_PAUSE_SECONDS: Final = 600.0
MAX_TRIES: Final = 10
"""Maximum number of tries for an annotation whose image cannot be fetched; other faults are retried without limit."""
MAX_WAITING: Final = 200_000
"""Maximum number of waiting annotations; further ones are dropped."""
_TABLES: Final = """
CREATE TABLE IF NOT EXISTS waiting (
    annotation INTEGER PRIMARY KEY, project INTEGER NOT NULL, due REAL NOT NULL, tries INTEGER NOT NULL DEFAULT 0,
    hints INTEGER NOT NULL DEFAULT 1
);
CREATE INDEX IF NOT EXISTS waiting_due ON waiting (due);
CREATE TABLE IF NOT EXISTS sent (annotation INTEGER PRIMARY KEY, version TEXT NOT NULL);
CREATE TABLE IF NOT EXISTS counts (name TEXT PRIMARY KEY, number INTEGER NOT NULL);
"""
_COLUMNS: Final = (
    'annotation, project, due, tries, hints FROM waiting',
    'annotation, version FROM sent',
    'name, number FROM counts',
)
_FAULTS: Final = (sqlite3.Error, UnicodeDecodeError)
"""Errors of SQLite; texts in a damaged database need not be UTF-8."""
_NOT_DAMAGED: Final = (
    sqlite3.SQLITE_BUSY,
    sqlite3.SQLITE_CANTOPEN,
    sqlite3.SQLITE_FULL,
    sqlite3.SQLITE_IOERR,
    sqlite3.SQLITE_LOCKED,
    sqlite3.SQLITE_NOMEM,
    sqlite3.SQLITE_PERM,
    sqlite3.SQLITE_READONLY,
)
"""Codes of errors that another process, the disk or the permissions cause. The database may be sound."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Hint:
    """An annotation that may have a new version.

    :param hints: number of calls that named it, used by the queue only.
    """

    annotation: int
    project: int
    hints: int = 0


class CorrectionQueue:
    """A thread-safe queue; times are in seconds since the epoch.

    :param path: the database, created if missing.
    :raises OSError: the database fails; all methods raise this as well.
    """

    def __init__(self, path: Path) -> None:
        make_folder(path.parent)
        self._lock = threading.Lock()
        self._database = _open(path)

    def add(self, hints: Iterable[Hint], now: float) -> None:
        """Queue annotations for as soon as possible."""
        with self._transaction() as database:
            (waiting,) = database.execute('SELECT count(*) FROM waiting').fetchone()
            for hint in list(hints)[: max(0, MAX_WAITING - waiting)]:
                database.execute(
                    'INSERT INTO waiting (annotation, project, due) VALUES (?, ?, ?) ON CONFLICT (annotation) DO '
                    'UPDATE SET project = excluded.project, due = min(due, excluded.due), tries = 0, hints = hints + 1',
                    (hint.annotation, hint.project, now),
                )

    def next(self) -> tuple[Hint | None, float]:
        """Return the annotation that is due first, and its time."""
        with self._transaction() as database:
            row = database.execute(
                'SELECT annotation, CAST(project AS INTEGER), CAST(hints AS INTEGER), CAST(due AS REAL) FROM waiting '
                'ORDER BY due, annotation LIMIT 1'
            ).fetchone()
        return (None, 0.0) if row is None else (Hint(annotation=row[0], project=row[1], hints=row[2]), row[3])

    def due(self, now: float) -> int:
        """Return the number of annotations that are due."""
        with self._transaction() as database:
            (count,) = database.execute('SELECT count(*) FROM waiting WHERE due <= ?', (now,)).fetchone()
        return int(count)

    def add_missed(self, found: Iterable[tuple[Hint, str]], now: float) -> int:
        """Queue annotations with these versions, except those that wait or whose version was handled.

        :return: the number of queued annotations.
        """
        with self._transaction() as database:
            missed = [hint for hint, version in found if not _is_known(database, hint, version)]
            _count(database, 'missed', len(missed))
        self.add(missed, now)
        return len(missed)

    def was_sent(self, hint: Hint, version: str) -> bool:
        """Return True if this version of the annotation was already sent, or given up."""
        with self._transaction() as database:
            row = database.execute('SELECT version FROM sent WHERE annotation = ?', (hint.annotation,)).fetchone()
        return row is not None and row[0] == version

    def finish(self, hint: Hint, version: str | None) -> None:
        """Remove an annotation that was sent or has nothing to send.

        :param version: the version that was sent; None: nothing was sent.
        """
        with self._transaction() as database:
            if version is not None:
                database.execute('INSERT OR REPLACE INTO sent VALUES (?, ?)', (hint.annotation, version))
                _count(database, 'sent')
            _remove(database, hint)

    def give_up(self, hint: Hint, version: str | None) -> None:
        """Remove an annotation that can never be sent.

        :param version: the version that cannot be sent; None: unknown.
        """
        with self._transaction() as database:
            _give_up(database, hint, version)

    def postpone(self, hint: Hint, now: float, *, limited: bool, version: str | None = None) -> bool:
        """Put an annotation off by a pause that doubles each time.

        :param limited: True to give up the annotation after `MAX_TRIES`.
        :param version: the version that could not be sent; None: unknown.
        :return: True if the annotation was given up.
        """
        with self._transaction() as database:
            row = database.execute('SELECT tries FROM waiting WHERE annotation = ?', (hint.annotation,)).fetchone()
            tries = 1 + (row[0] if row is not None else 0)
            if limited and tries >= MAX_TRIES:
                _give_up(database, hint, version)
                return True
            pause = min(FIRST_PAUSE_SECONDS * 2 ** min(tries - 1, 20), MAX_PAUSE_SECONDS)
            database.execute(
                'UPDATE waiting SET due = ?, tries = ? WHERE annotation = ?', (now + pause, tries, hint.annotation)
            )
        return False

    def about(self) -> dict[str, int]:
        """Return how many annotations wait, were sent, were given up, and were missed by the webhook."""
        with self._transaction() as database:
            (waiting,) = database.execute('SELECT count(*) FROM waiting').fetchone()
            counts = dict(database.execute('SELECT name, number FROM counts').fetchall())
        return {'waiting': waiting} | {name: counts.get(name, 0) for name in ('sent', 'given_up', 'missed')}

    def close(self) -> None:
        with self._lock:
            self._database.close()

    @contextmanager
    def _transaction(self) -> Iterator[sqlite3.Connection]:
        """Commit or roll back, and turn errors of the database into OSError."""
        try:
            with self._lock, self._database:
                yield self._database
        except _FAULTS as error:
            raise OSError(f'the database of corrections: {error}') from error


def _open(path: Path) -> sqlite3.Connection:
    """Open the database; a damaged one is renamed and replaced by a new one."""
    try:
        return _prepared(path)
    except _FAULTS as error:
        if getattr(error, 'sqlite_errorcode', 0) & 0xFF in _NOT_DAMAGED:  # without the details of extended codes
            raise OSError(f'{path}: {error}') from error
        path.replace(path.with_suffix('.broken'))
    try:
        return _prepared(path)
    except _FAULTS as error:
        raise OSError(f'{path}: {error}') from error


def _prepared(path: Path) -> sqlite3.Connection:
    """:raises sqlite3.DatabaseError: the database is damaged or has other tables."""
    database = sqlite3.connect(path, check_same_thread=False, timeout=10)
    try:
        database.executescript(_TABLES)
        (verdict,) = database.execute('PRAGMA integrity_check(1)').fetchone()
        if verdict != 'ok':
            raise sqlite3.DatabaseError(verdict)
        if _schema(database) != _expected_schema():  # SQLite's checks do not verify the schema's texts
            raise sqlite3.DatabaseError('its tables have another schema')
        for columns in _COLUMNS:
            database.execute(f'SELECT {columns} LIMIT 1').fetchone()
    except BaseException:
        database.close()
        raise
    return database


def _schema(database: sqlite3.Connection) -> list[tuple[str, ...]]:
    return database.execute('SELECT type, name, tbl_name, sql FROM sqlite_master ORDER BY name').fetchall()


def _expected_schema() -> list[tuple[str, ...]]:
    with closing(sqlite3.connect(':memory:')) as database:
        database.executescript(_TABLES)
        return _schema(database)


def _remove(database: sqlite3.Connection, hint: Hint) -> None:
    """Remove an annotation unless another call has named it in the meantime."""
    database.execute('DELETE FROM waiting WHERE annotation = ? AND hints = ?', (hint.annotation, hint.hints))


def _give_up(database: sqlite3.Connection, hint: Hint, version: str | None) -> None:
    if version is not None:
        database.execute('INSERT OR REPLACE INTO sent VALUES (?, ?)', (hint.annotation, version))
    _count(database, 'given_up')
    _remove(database, hint)


def _is_known(database: sqlite3.Connection, hint: Hint, version: str) -> bool:
    """Return True if an annotation waits, or if its version was handled."""
    row = database.execute(
        'SELECT EXISTS (SELECT 1 FROM waiting WHERE annotation = :annotation) '
        'OR EXISTS (SELECT 1 FROM sent WHERE annotation = :annotation AND version = :version)',
        {'annotation': hint.annotation, 'version': version},
    ).fetchone()
    return bool(row[0])


def _count(database: sqlite3.Connection, name: str, number: int = 1) -> None:
    database.execute(
        'INSERT INTO counts VALUES (:name, :number) ON CONFLICT (name) DO UPDATE SET number = number + :number',
        {'name': name, 'number': number},
    )
