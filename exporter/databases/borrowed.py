"""A connection of somebody else's: read inside his transaction, bounded in time, and left as it was."""

from __future__ import annotations

import contextlib
import sqlite3
import time
from collections.abc import Callable, Iterator
from typing import Any, TypeVar

import sqlalchemy
import sqlalchemy.exc

from exporter.databases.base import DatabaseError, Dialect, Failure
from exporter.databases.sqlite import READ_SECONDS
from exporter.databases.urls import dialect_for

__all__ = ["Borrowed"]

T = TypeVar("T")

_SAVEPOINT = "coldchain_exporter"
_IN_FAILED_TRANSACTION = "25P02"  # PostgreSQL documentation, appendix A


def unusable() -> DatabaseError:
    """The owner has to roll back first, which is not for us to do."""
    return DatabaseError(
        "the session cannot be used: a statement of its transaction has failed before", Failure.REFUSED, "roll it back"
    )


def _lost() -> DatabaseError:
    return DatabaseError(
        "the session's connection was lost", Failure.UNREACHABLE, "after a rollback the session connects again"
    )


class Borrowed:
    """As a Reader, but it neither commits nor breaks the transaction, and leaves no setting behind."""

    connections = 1

    def __init__(self, connection: sqlalchemy.Connection) -> None:
        """Raises ValueError where it is a database that we do not know."""
        try:
            self.dialect: Dialect = dialect_for(connection.dialect.name)
        except KeyError:
            raise ValueError(f"not PostgreSQL, MariaDB, MySQL or SQLite, but {connection.dialect.name}") from None
        self._connection = connection

    def read(self, work: Callable[[sqlalchemy.Connection], T], timeout: float) -> T:
        """What `work` finds within `timeout` seconds; raises DatabaseError, and the transaction can go on."""
        try:
            with _BOUNDS[self.dialect.name](self._connection, timeout):
                return work(self._connection)
        except sqlalchemy.exc.PendingRollbackError:
            raise (_lost() if self._connection.invalidated else unusable()) from None
        except sqlalchemy.exc.DBAPIError as error:
            # psycopg says sqlstate, psycopg2 pgcode
            state = getattr(error.orig, "sqlstate", None) or getattr(error.orig, "pgcode", None)
            raise unusable() if state == _IN_FAILED_TRANSACTION else self.dialect.explain(error) from None

    def rest(self, seconds: float) -> None:
        """It is the owner's to close."""

    def close(self) -> None:
        """It is the owner's to close."""


@contextlib.contextmanager
def _postgresql(connection: sqlalchemy.Connection, timeout: float) -> Iterator[None]:
    # An error spoils the transaction back to the savepoint only; and going back there undoes SET LOCAL as well.
    # Without a transaction (autocommit) there is none to take care of, and we make our own.
    own = bool(getattr(connection.connection.driver_connection, "autocommit", False))
    milliseconds = max(1, int(timeout * 1000))
    limits = {
        "statement_timeout": milliseconds,
        "lock_timeout": max(1, milliseconds * 4 // 5),  # a little earlier, so that waiting is told from working
        "jit": "off",
    }
    connection.exec_driver_sql("BEGIN READ ONLY" if own else f"SAVEPOINT {_SAVEPOINT}")
    try:
        for name, value in limits.items():
            connection.exec_driver_sql(f"SET LOCAL {name} = {value}")
        yield
    finally:
        if not connection.invalidated:
            for statement in ("ROLLBACK",) if own else (f"ROLLBACK TO {_SAVEPOINT}", f"RELEASE {_SAVEPOINT}"):
                connection.exec_driver_sql(statement)


@contextlib.contextmanager
def _mysql(connection: sqlalchemy.Connection, timeout: float) -> Iterator[None]:
    # An error takes back its own statement alone. Settings are the session's: they are put back.
    is_mariadb: bool = connection.dialect.is_mariadb  # type: ignore[attr-defined] # of SQLAlchemy's MySQL dialects
    limits: dict[str, object] = {
        "max_statement_time" if is_mariadb else "max_execution_time": max(timeout, 0.001)
        if is_mariadb
        else max(1, int(timeout * 1000)),
        "lock_wait_timeout": max(1, int(timeout * 4 / 5)),
        "time_zone": "+00:00",  # in which TIMESTAMP columns are compared
    }
    before = connection.exec_driver_sql(f"SELECT {', '.join(f'@@SESSION.{name}' for name in limits)}").one()
    _set(connection, limits)
    try:
        yield
    finally:
        if not connection.invalidated:
            _set(connection, dict(zip(limits, before, strict=True)))


def _set(connection: sqlalchemy.Connection, values: dict[str, object]) -> None:
    text = sqlalchemy.text("SET " + ", ".join(f"SESSION {name} = :{name}" for name in values))
    connection.execute(text, values)


@contextlib.contextmanager
def _sqlite(connection: sqlalchemy.Connection, timeout: float) -> Iterator[None]:
    # An error takes back its own statement alone.
    driver: Any = connection.connection.driver_connection
    if not isinstance(driver, sqlite3.Connection):
        yield
        return
    end = time.monotonic() + min(timeout, READ_SECONDS)
    driver.set_progress_handler(lambda: time.monotonic() > end, 5000)
    try:
        yield
    finally:
        driver.set_progress_handler(None, 0)


_BOUNDS: dict[str, Callable[[sqlalchemy.Connection, float], contextlib.AbstractContextManager[None]]] = {
    "postgresql": _postgresql,
    "mysql": _mysql,
    "sqlite": _sqlite,
}
