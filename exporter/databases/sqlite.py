"""SQLite, which belongs to a running system too: read only, and for a quarter of a second at most."""

from __future__ import annotations

import sqlite3
import time
from datetime import date, datetime, tzinfo
from pathlib import Path
from typing import Any, cast
from urllib.parse import quote

import sqlalchemy
import sqlalchemy.exc
from sqlalchemy.pool import NullPool

from exporter.databases.base import Columns, DatabaseError, Dialect, Failure, one_line

__all__ = ["SQLite"]

READ_SECONDS = 0.25
"""A read keeps writers waiting, so it ends after this long, whatever it was about to find."""

BUSY_SECONDS = 1.0
"""How long a writer is waited for; waiting holds nobody up."""


class SQLite(Dialect):
    """Timestamps are text as SQLAlchemy and CURRENT_TIMESTAMP write them: `YYYY-MM-DD HH:MM:SS[.ffffff]`."""

    name = "sqlite"
    probe = "SELECT count(*) FROM sqlite_master"  # SELECT 1 would not touch the file
    keeps_connection = False
    explain_statement = "EXPLAIN QUERY PLAN "

    def seconds_between(self, start: str, end: str) -> str:
        # days as a float, which SQLite makes of whole milliseconds
        return f"round((julianday({end}) - julianday({start})) * 86400000) / 1000"

    def without_index(self, column: str) -> str:
        return f"+{column}"  # https://sqlite.org/optoverview.html, "Disqualifying WHERE-clause terms"

    def columns(self, connection: sqlalchemy.Connection, table: str) -> Columns:  # noqa: ARG002 - SQLite has no types to ask for
        return Columns(frozenset({"created_at", "updated_at"}))

    def bound(self, moment: datetime, zone: tzinfo, *, naive: bool, inclusive: bool = False) -> object:  # noqa: ARG002 - all is text
        """Text that sorts before (`inclusive`: after) both ways of writing the same second, with and without zeros."""
        text = moment.astimezone(zone).strftime("%Y-%m-%d %H:%M:%S.%f")
        return text if inclusive else text.removesuffix(".000000")

    def day(self, day: date) -> object:
        return day.isoformat()

    def moment(self, value: Any, zone: tzinfo, now: datetime) -> datetime:
        try:
            value = datetime.fromisoformat(value)
        except (TypeError, ValueError):
            raise DatabaseError(f"cannot read {str(value)[:40]!r} as a timestamp", Failure.REFUSED) from None
        return super().moment(value, zone, now)

    def engine(self, url: sqlalchemy.URL, timeout: float) -> sqlalchemy.Engine:
        path = Path(str(url.database)).resolve()
        patience = min(BUSY_SECONDS, timeout / 2)
        return sqlalchemy.create_engine("sqlite://", creator=lambda: _open(path, patience), poolclass=NullPool)

    def begin(self, connection: sqlalchemy.Connection, timeout: float) -> None:
        allowed = min(timeout, READ_SECONDS)
        began: list[float] = []

        def over() -> bool:  # not called while a writer is waited for: the time begins with the lock
            now = time.monotonic()
            if not began:
                began.append(now)
            return now - began[0] > allowed

        _driver(connection).set_progress_handler(over, 5000)

    def end(self, connection: sqlalchemy.Connection) -> None:
        if not _driver(connection).still_valid():
            raise DatabaseError("the file was written while it was read", Failure.BUSY, "it is tried again", again=True)

    def explain(self, error: sqlalchemy.exc.DBAPIError) -> DatabaseError:
        code = getattr(error.orig, "sqlite_errorcode", 0) & 0xFF
        message = one_line(error.orig or error)
        if code in {sqlite3.SQLITE_BUSY, sqlite3.SQLITE_LOCKED}:
            return DatabaseError("the file is locked by a writer", Failure.BUSY, "it is tried again")
        if code == sqlite3.SQLITE_INTERRUPT:
            return DatabaseError(
                f"the query took longer than the {READ_SECONDS * 1000:g} ms that a read may take",
                Failure.SLOW,
                "an index on created_at and one on status would help",
            )
        if code in {sqlite3.SQLITE_CANTOPEN, sqlite3.SQLITE_READONLY}:
            hint = (
                "does the file exist, and may this user read it, and beside it its -wal and -shm? after a crash the "
                "system itself has to open it once"
            )
            return DatabaseError(message, Failure.UNREACHABLE, hint)
        if code in {sqlite3.SQLITE_NOTADB, sqlite3.SQLITE_CORRUPT, sqlite3.SQLITE_IOERR, sqlite3.SQLITE_PERM}:
            return DatabaseError(message, Failure.UNREACHABLE, "is this the dispatch database's file?")
        return DatabaseError(message, Failure.REFUSED, "is this the dispatch database?")


class _Connection(sqlite3.Connection):
    """A connection that remembers what the file looked like, where it reads without looking for writers."""

    path: Path
    seal: tuple[int, ...] | None = None

    def still_valid(self) -> bool:
        """Whether what was read is what the file held all the time."""
        return self.seal is None or self.seal == _seal(self.path)


def _driver(connection: sqlalchemy.Connection) -> _Connection:
    driver: Any = connection.connection.driver_connection
    return cast("_Connection", driver)


def _open(path: Path, patience: float) -> _Connection:
    """A connection that creates no file, neither the database nor those that WAL mode keeps beside it.

    An ordinary reader of a WAL database that nobody has open makes `-wal` and `-shm`, and the system, under another
    user, could not write them. Where they are missing the file holds everything; it is read as immutable then, and
    what was read counts only if nothing changed meanwhile.
    """
    options = "mode=ro"
    seal = None
    if _is_wal(path):
        seal = _seal(path)
        options += "&readonly_shm=1" if seal is None else "&immutable=1"
    connection = sqlite3.connect(
        f"file:{quote(str(path))}?{options}",
        uri=True,
        timeout=patience,
        isolation_level=None,
        check_same_thread=False,
        factory=_Connection,
    )
    connection.path, connection.seal = path, seal
    return connection


def _is_wal(path: Path) -> bool:
    try:
        with path.open("rb") as file:
            return file.read(20)[18:] == b"\x02\x02"  # read and write version, https://sqlite.org/fileformat2.html
    except OSError:
        return False


def _seal(path: Path) -> tuple[int, ...] | None:
    """What changes when the file does; None while a WAL belongs to it."""
    try:
        if path.with_name(f"{path.name}-wal").stat().st_size:
            return None
    except FileNotFoundError:
        pass
    except OSError:
        return None
    try:
        found = path.stat()
    except OSError:
        return ()
    return found.st_mtime_ns, found.st_size, found.st_ino
