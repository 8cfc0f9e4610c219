"""PostgreSQL by psycopg, directly or behind pgbouncer in transaction pooling."""

from __future__ import annotations

from datetime import datetime
from typing import Any
from zoneinfo import ZoneInfo

import sqlalchemy
import sqlalchemy.exc
from sqlalchemy.pool import NullPool

from exporter.databases.base import Columns, DatabaseError, Dialect, Failure, hint_for, one_line

__all__ = ["PostgreSQL"]

_COLUMNS = sqlalchemy.text("""
SELECT a.attname, a.atttypid = CAST('timestamp' AS regtype) AS naive,
       ARRAY(SELECT CAST(e.enumlabel AS text) FROM pg_enum e WHERE e.enumtypid = a.atttypid ORDER BY e.enumsortorder)
FROM pg_attribute a
WHERE a.attrelid = to_regclass(:table) AND a.attnum > 0 AND NOT a.attisdropped
""")


class PostgreSQL(Dialect):
    """Time-outs by SET LOCAL inside the transaction: pgbouncer refuses or leaks any other way of setting them."""

    name = "postgresql"

    def seconds_between(self, start: str, end: str) -> str:
        return f"extract(epoch FROM {end} - {start})"

    def columns(self, connection: sqlalchemy.Connection, table: str) -> Columns:
        rows = connection.execute(_COLUMNS, {"table": table}).all()
        statuses = next((tuple(labels) for name, _, labels in rows if name == "status" and labels), None)
        return Columns(frozenset(name for name, naive, _ in rows if naive), statuses)

    def options(self) -> frozenset[str] | None:
        import psycopg  # noqa: PLC0415 - the driver is there only where it is needed

        return frozenset(option.keyword.decode() for option in psycopg.pq.Conninfo.get_defaults())

    def engine(self, url: sqlalchemy.URL, timeout: float) -> sqlalchemy.Engine:
        return sqlalchemy.create_engine(
            url,
            poolclass=NullPool,
            isolation_level="AUTOCOMMIT",
            use_native_hstore=False,  # saves a look into the catalogue at each connection
            connect_args={
                "application_name": "coldchain-exporter",
                "client_encoding": "utf8",  # where the server has none (SQL_ASCII), text would come as bytes
                "connect_timeout": max(2, int(timeout / 2)),  # libpq takes whole seconds, two at least
                "prepare_threshold": None,  # pgbouncer in transaction pooling knows no prepared statements
                # a network that has died is noticed within half a minute; a frozen server still answers these
                "keepalives": 1,
                "keepalives_idle": 10,
                "keepalives_interval": 5,
                "keepalives_count": 3,
                "tcp_user_timeout": 30_000,
            },
        )

    def begin(self, connection: sqlalchemy.Connection, timeout: float) -> None:
        milliseconds = max(1, int(timeout * 1000))
        connection.exec_driver_sql(
            "BEGIN READ ONLY; "
            f"SET LOCAL statement_timeout = {milliseconds}; "
            # a little earlier, so that waiting for a lock is told from working
            f"SET LOCAL lock_timeout = {max(1, milliseconds * 4 // 5)}; "
            f"SET LOCAL idle_in_transaction_session_timeout = {milliseconds + 1000}; "
            "SET LOCAL jit = off"  # compiling takes longer than these queries
        )

    def use_zone(self, connection: sqlalchemy.Connection, zone: ZoneInfo, now: datetime) -> None:  # noqa: ARG002 - MySQL's
        connection.exec_driver_sql(f"SET LOCAL TIME ZONE '{zone.key}'")

    def explain(self, error: sqlalchemy.exc.DBAPIError) -> DatabaseError:
        # a session's own driver may be psycopg2, which calls it pgcode
        state = getattr(error.orig, "sqlstate", None) or getattr(error.orig, "pgcode", None) or ""
        diagnosis = getattr(error.orig, "diag", None)
        message = getattr(diagnosis, "message_primary", None) or one_line(error.orig or error)
        message = message.removeprefix("connection failed: ")
        # classes and codes: PostgreSQL documentation, appendix A
        if state == "55P03":
            return DatabaseError(
                "waited in vain for a lock that another session holds", Failure.BUSY, "see pg_locks: who holds it?"
            )
        if state == "57014":
            return DatabaseError(
                "the query ran into its time-out", Failure.SLOW, "an index would help, or a longer timeout"
            )
        if state == "40001":  # on a replica, "conflict with recovery"
            return DatabaseError(message, Failure.BUSY, "hot_standby_feedback = on spares the replica's readers this")
        nothing_said = not state and not _is_about_data(error.orig)
        if state[:2] in {"08", "53", "57", "58", "28", "3D"} or error.connection_invalidated or nothing_said:
            return DatabaseError(message, Failure.UNREACHABLE, hint_for(message))
        hint = {
            "42P01": "is this the dispatch database, and its schema in the role's search_path?",
            "42703": "is this the dispatch database, in the version that this exporter knows?",
            "42501": "grant what deploy/sql/postgresql.sql grants",
        }.get(state, "")
        return DatabaseError(message, Failure.REFUSED, hint)


def _is_about_data(error: Any) -> bool:
    """Whether the driver itself objects to what it got, such as to a timestamp `infinity`: the connection is well."""
    return "DataError" in {kind.__name__ for kind in type(error).__mro__}  # of psycopg, or a session's psycopg2
