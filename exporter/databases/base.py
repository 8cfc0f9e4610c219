"""What all databases share: one connection a source, a deadline for each use of it, and errors that say what to do."""

from __future__ import annotations

import contextlib
import enum
import re
import time
import traceback
from abc import ABC, abstractmethod
from collections.abc import Callable
from dataclasses import dataclass
from datetime import UTC, date, datetime, tzinfo
from typing import Any, TypeVar
from zoneinfo import ZoneInfo

import sqlalchemy
import sqlalchemy.exc

__all__ = ["Columns", "DatabaseError", "Dialect", "Failure", "Reader"]

T = TypeVar("T")


class Failure(enum.Enum):
    """What kind of failure it was; decides whether the database is down, and what comes next."""

    UNREACHABLE = "no connection, or it was lost"
    BUSY = "waited in vain for somebody else's lock"
    SLOW = "ran out of time while the database worked on it"
    REFUSED = "the database does not let us, or does not know what we ask for"


class DatabaseError(Exception):
    """A failure in words that stay the same while it lasts; `hint` says what to do about it.

    `again` says that a second try at once has every chance.
    """

    def __init__(self, message: str, failure: Failure, hint: str = "", *, again: bool = False) -> None:
        super().__init__(message)
        self.failure = failure
        self.hint = hint
        self.again = again


@dataclass(frozen=True)
class Columns:
    """What the database says about a table's columns."""

    naive: frozenset[str] = frozenset()
    """Timestamps without a zone: `database_timezone` says how to read them."""
    statuses: tuple[str, ...] | None = None
    """The words of its native enum; None where `status` is text."""


# the words that PostgreSQL's and MariaDB's drivers use, for the hint alone: elsewhere codes decide
_HINTS = (
    (
        r"option of DATABASE_URL|invalid (connection option|\w+ value|port number|integer value)",
        "check what DATABASE_URL says behind its ?",
    ),
    (
        r"'cryptography' package",
        "pip install cryptography, use TLS (?ssl_ca=FILE), or have the user log in by mysql_native_password",
    ),
    (r"refused|No such file or directory|Connection reset", "is the server running there, and the port right?"),
    (
        r"password|Access denied|authentication|role .* does not exist|not permitted to log in|no pg_hba",
        "check user and password",
    ),
    (r"database .* does not exist|Unknown database", "check the database's name in DATABASE_URL"),
    (r"resolve|translate host name|Name or service|nodename", "check the host's name in DATABASE_URL"),
    (
        r"timed out|timeout|unreachable|No route",
        "is the host right, does a firewall let this machine through, or is the server frozen?",
    ),
    (r"too many|connection slots", "the server has no connection left; this one asks for five at most"),
    (
        r"starting up|shutting down|recovery|terminat|closed the connection|Lost connection|gone away",
        "it may be restarting",
    ),
)


def hint_for(message: str) -> str:
    """What a person can do about a failed connection, as far as the words tell."""
    for pattern, hint in _HINTS:
        if re.search(pattern, message, re.IGNORECASE):
            return hint
    return "see the database's own log"


def one_line(error: BaseException) -> str:
    """The first line of a driver's words, short enough for a log."""
    first, *_ = str(error).strip().splitlines() or [type(error).__name__]
    return " ".join(first.split())[:300]


class Dialect(ABC):
    """What differs between databases: their SQL, their clocks, their time-outs and the words of their errors."""

    name: str

    # -- SQL ----------------------------------------------------------------------------------------------------------

    @abstractmethod
    def seconds_between(self, start: str, end: str) -> str:
        """SQL for the seconds from one timestamp to the other, fractions included."""

    def without_index(self, column: str) -> str:
        """SQL for the column such that no index on it is used: some would read a whole table in an index's order."""
        return column

    @abstractmethod
    def columns(self, connection: sqlalchemy.Connection, table: str) -> Columns:
        """What the catalogue says of the table; empty where it does not know it."""

    def bound(self, moment: datetime, zone: tzinfo, *, naive: bool, inclusive: bool = False) -> object:  # noqa: ARG002 - SQLite's
        """`moment` (aware) as a parameter that compares with a column of that kind."""
        return moment.astimezone(zone).replace(tzinfo=None) if naive else moment

    def day(self, day: date) -> object:
        """A parameter that compares with a date column."""
        return day

    def moment(self, value: Any, zone: tzinfo, now: datetime) -> datetime:
        """A timestamp that was read, aware. An hour that a clock repeats is read as its latest pass before `now`."""
        if not isinstance(value, datetime):
            raise DatabaseError(f"cannot read {str(value)[:40]!r} as a timestamp", Failure.REFUSED)
        if value.tzinfo is not None:
            return value.astimezone(UTC)
        latest = value.replace(tzinfo=zone, fold=1).astimezone(UTC)
        return latest if latest <= now else value.replace(tzinfo=zone, fold=0).astimezone(UTC)

    # -- connections --------------------------------------------------------------------------------------------------

    probe = "SELECT 1"

    def options(self) -> frozenset[str] | None:
        """What may stand behind the `?` of DATABASE_URL; None where nothing there counts."""
        return None

    @abstractmethod
    def engine(self, url: sqlalchemy.URL, timeout: float) -> sqlalchemy.Engine:
        """An engine whose connections give up connecting within `timeout` seconds; it keeps none itself."""

    @abstractmethod
    def begin(self, connection: sqlalchemy.Connection, timeout: float) -> None:
        """Starts a read-only transaction in which the server itself ends what runs longer than `timeout` seconds."""

    def use_zone(self, connection: sqlalchemy.Connection, zone: ZoneInfo, now: datetime) -> None:  # noqa: B027 - SQLite has none
        """Has the database compare and show timestamps in `zone` until the transaction ends."""

    def end(self, connection: sqlalchemy.Connection) -> None:
        """Ends the transaction."""
        connection.exec_driver_sql("COMMIT")

    explain_statement = "EXPLAIN "

    @abstractmethod
    def explain(self, error: sqlalchemy.exc.DBAPIError) -> DatabaseError:
        """The driver's error in our words."""

    keeps_connection = True


class Reader:
    """One source's way to the database: at most one connection, opened when needed, closed when it fails or rests."""

    IDLE_SECONDS = 60.0

    def __init__(self, dialect: Dialect, url: sqlalchemy.URL, timeout: float) -> None:
        self.dialect = dialect
        self._engine = dialect.engine(url, timeout)
        self._connection: sqlalchemy.Connection | None = None
        self._password = url.password
        self.connections = 0
        """How often it connected: what was learned on an earlier connection may no longer hold."""

    def read(self, work: Callable[[sqlalchemy.Connection], T], timeout: float) -> T:
        """What `work` finds in a read-only transaction that ends within `timeout` seconds; raises DatabaseError.

        `work` may be called twice: a connection that was lost while it rested is replaced once. However long connecting
        took, `work` gets half of the time: a query that has none left would be called slow, and its connection lost.
        """
        deadline = time.monotonic() + timeout
        rested = self._connection is not None
        try:
            return self._read(work, deadline, timeout / 2)
        except DatabaseError as error:
            lost = rested and error.failure is Failure.UNREACHABLE
            if not (lost or error.again) or time.monotonic() >= deadline:
                raise
        return self._read(work, deadline, timeout / 2)

    def rest(self, seconds: float) -> None:
        """Tells that the next use is that far away: a connection is not kept idle for longer than a minute."""
        if seconds > self.IDLE_SECONDS:
            self.close()

    def close(self) -> None:
        """Closes the connection, if any; from the thread that uses it."""
        connection, self._connection = self._connection, None
        if connection is not None:
            # a broken connection may object to being closed; there is nothing left to be done about it
            with contextlib.suppress(sqlalchemy.exc.SQLAlchemyError, OSError):
                connection.invalidate()
            with contextlib.suppress(sqlalchemy.exc.SQLAlchemyError, OSError):
                connection.close()

    def _read(self, work: Callable[[sqlalchemy.Connection], T], deadline: float, least: float) -> T:
        try:
            if self._connection is None:
                self._connection = self._connect()
            self.dialect.begin(self._connection, max(deadline - time.monotonic(), least))
            result = work(self._connection)
            self.dialect.end(self._connection)
        except sqlalchemy.exc.DBAPIError as error:
            self.close()
            raise self._without_password(self.dialect.explain(error)) from None
        except BaseException:
            self.close()
            raise
        if not self.dialect.keeps_connection:
            self.close()
        return result

    def _connect(self) -> sqlalchemy.Connection:
        try:
            connection = self._engine.connect()
        except sqlalchemy.exc.DBAPIError as error:
            # until garbage is collected, psycopg's frames keep the socket of an attempt that it gave up (seen in 3.3)
            traceback.clear_frames(getattr(error.orig, "__traceback__", None))
            told = self.dialect.explain(error)
            raise self._without_password(DatabaseError(str(told), Failure.UNREACHABLE, told.hint)) from None
        self.connections += 1
        return connection

    def _without_password(self, error: DatabaseError) -> DatabaseError:
        # drivers do not repeat passwords; a server's own words might
        if not self._password or len(str(self._password)) < 4:
            return error
        return DatabaseError(str(error).replace(str(self._password), "***"), error.failure, error.hint)
