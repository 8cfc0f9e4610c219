"""SQLite, which belongs to a running system too: read only, and for a quarter of a second at most."""

from __future__ import annotations

import sqlite3
import time
from datetime import date, datetime
from pathlib import Path
from typing import Any
from urllib.parse import quote
from zoneinfo import ZoneInfo

import sqlalchemy
import sqlalchemy.event
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

    def seconds_between(self, start: str, end: str) -> str:
        # days as a float, which SQLite makes of whole milliseconds
        return f"round((julianday({end}) - julianday({start})) * 86400000) / 1000"

    def columns(self, connection: sqlalchemy.Connection, table: str) -> Columns:  # noqa: ARG002 - SQLite has no types to ask for
        return Columns(frozenset({"created_at", "updated_at"}))

    def bound(self, moment: datetime, zone: ZoneInfo, *, naive: bool, inclusive: bool = False) -> object:  # noqa: ARG002
        """Text that sorts before (`inclusive`: after) both ways of writing the same second, with and without zeros."""
        text = moment.astimezone(zone).strftime("%Y-%m-%d %H:%M:%S.%f")
        return text if inclusive else text.removesuffix(".000000")

    def day(self, day: date) -> object:
        return day.isoformat()

    def moment(self, value: Any, zone: ZoneInfo, now: datetime) -> datetime:
        try:
            value = datetime.fromisoformat(value)
        except (TypeError, ValueError):
            raise DatabaseError(f"cannot read {str(value)[:40]!r} as a timestamp", Failure.REFUSED) from None
        return super().moment(value, zone, now)

    def engine(self, url: sqlalchemy.URL, timeout: float) -> sqlalchemy.Engine:
        path = Path(str(url.database)).absolute()

        def connect() -> sqlite3.Connection:
            return sqlite3.connect(
                f"file:{quote(str(path))}?mode=ro",
                uri=True,
                timeout=min(BUSY_SECONDS, timeout / 2),
                isolation_level=None,
                check_same_thread=False,
            )

        return sqlalchemy.create_engine("sqlite://", creator=connect, poolclass=NullPool)

    def begin(self, connection: sqlalchemy.Connection, timeout: float) -> None:
        allowed = min(timeout, READ_SECONDS)
        started: list[float] = []

        def over() -> bool:
            started.append(time.monotonic()) if not started else None
            return time.monotonic() - started[0] > allowed

        raw: Any = connection.connection.driver_connection
        raw.set_progress_handler(over, 5000)

    def end(self, connection: sqlalchemy.Connection) -> None:
        pass

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
        if code in {sqlite3.SQLITE_CANTOPEN, sqlite3.SQLITE_NOTADB, sqlite3.SQLITE_CORRUPT, sqlite3.SQLITE_IOERR}:
            return DatabaseError(message, Failure.UNREACHABLE, "does the file exist, and may this user read it?")
        return DatabaseError(message, Failure.REFUSED, "is this the dispatch database?")
