"""MariaDB and MySQL by PyMySQL; they differ in how a query is bounded in time."""

from __future__ import annotations

import inspect
import re
import socket
from collections.abc import Sequence
from datetime import datetime, tzinfo
from typing import Any
from zoneinfo import ZoneInfo

import sqlalchemy
import sqlalchemy.event
import sqlalchemy.exc
from sqlalchemy.pool import NullPool

from exporter.databases.base import Columns, DatabaseError, Dialect, Failure, hint_for, one_line

__all__ = ["MySQL"]

_COLUMNS = sqlalchemy.text("""
SELECT column_name, data_type, column_type FROM information_schema.columns
WHERE table_schema = database() AND table_name = :table
""")

_SQLALCHEMY_OPTIONS = frozenset({"ssl_ca", "ssl_capath", "ssl_cert", "ssl_check_hostname", "ssl_cipher", "ssl_key"})
"""What SQLAlchemy makes PyMySQL's `ssl` of."""

_NO_TEXT_OPTIONS = frozenset({"auth_plugin_map", "conv", "cursorclass", "defer_connect", "ssl"})


class MySQL(Dialect):
    """Sessions run in UTC: TIMESTAMP columns then are UTC, DATETIME columns hold what the system wrote."""

    name = "mysql"

    def seconds_between(self, start: str, end: str) -> str:
        return f"timestampdiff(MICROSECOND, {start}, {end}) / 1000000"

    def without_index(self, column: str) -> str:
        return f"concat({column})"

    def bound(self, moment: datetime, zone: tzinfo, *, naive: bool, inclusive: bool = False) -> object:  # noqa: ARG002 - see below
        return super().bound(moment, zone, naive=True, inclusive=inclusive)  # it knows no other parameters

    def columns(self, connection: sqlalchemy.Connection, table: str) -> Columns:
        rows = connection.execute(_COLUMNS, {"table": table}).all()
        kinds = {str(name).lower(): (str(kind), str(full)) for name, kind, full in rows}
        statuses = None
        if kinds.get("status", ("", ""))[0] == "enum":
            statuses = tuple(word.replace("''", "'") for word in re.findall(r"'((?:[^']|'')*)'", kinds["status"][1]))
        return Columns(frozenset(name for name, (kind, _) in kinds.items() if kind == "datetime"), statuses)

    def options(self) -> frozenset[str] | None:
        import pymysql.connections  # noqa: PLC0415 - the driver is there only where it is needed

        taken = frozenset(inspect.signature(pymysql.connections.Connection).parameters)
        return (taken | _SQLALCHEMY_OPTIONS) - _NO_TEXT_OPTIONS

    def engine(self, url: sqlalchemy.URL, timeout: float) -> sqlalchemy.Engine:
        engine = sqlalchemy.create_engine(
            url,
            poolclass=NullPool,
            isolation_level="AUTOCOMMIT",
            connect_args={"connect_timeout": max(timeout / 2, 0.1), "program_name": "coldchain-exporter"},
        )

        @sqlalchemy.event.listens_for(engine, "do_connect")
        def connect(dialect: Any, _record: Any, arguments: Sequence[Any], options: dict[str, Any]) -> Any:
            return _connect(dialect.dbapi, arguments, options)

        return engine

    def begin(self, connection: sqlalchemy.Connection, timeout: float) -> None:
        # MariaDB counts seconds, MySQL milliseconds; both end the query on the server
        limit = (
            f"max_statement_time = {max(timeout, 0.001):.3f}"
            if connection.dialect.is_mariadb  # type: ignore[attr-defined] # of SQLAlchemy's MySQL dialects
            else f"max_execution_time = {max(1, int(timeout * 1000))}"
        )
        wait = max(1, int(timeout * 4 / 5))  # whole seconds
        connection.exec_driver_sql(f"SET SESSION {limit}, lock_wait_timeout = {wait}, time_zone = '+00:00'")
        connection.exec_driver_sql("START TRANSACTION READ ONLY")

    def use_zone(self, connection: sqlalchemy.Connection, zone: ZoneInfo, now: datetime) -> None:
        # by its offset of today: few servers have the tables of zone names
        offset = f"{now.astimezone(zone):%z}"
        connection.exec_driver_sql(f"SET SESSION time_zone = '{offset[:3]}:{offset[3:5]}'")

    def explain(self, error: sqlalchemy.exc.DBAPIError) -> DatabaseError:
        arguments: tuple[Any, ...] = getattr(error.orig, "args", ())
        code = arguments[0] if arguments and isinstance(arguments[0], int) else 0
        message = str(arguments[1])[:300] if len(arguments) > 1 else one_line(error.orig or error)
        # numbers: MariaDB's and MySQL's error references
        if code in {1205, 3572}:
            return DatabaseError(
                "waited in vain for a lock that another session holds",
                Failure.BUSY,
                "see information_schema.processlist: who holds it?",
            )
        if code in {1317, 1969, 3024}:
            return DatabaseError(
                "the query ran into its time-out", Failure.SLOW, "an index would help, or a longer timeout"
            )
        if code in {0, 1040, 1041, 1044, 1045, 1049, 1053, 1203, 1226, 1698} or code >= 2000:
            return DatabaseError(message, Failure.UNREACHABLE, hint_for(message))
        hint = {
            1146: "is this the dispatch database?",
            1054: "is this the dispatch database, in the version that this exporter knows?",
            1142: "grant what deploy/sql/mariadb.sql grants",
            1143: "grant what deploy/sql/mariadb.sql grants",
        }.get(code, "")
        return DatabaseError(message, Failure.REFUSED, hint)


def _connect(dbapi: Any, arguments: Sequence[Any], options: dict[str, Any]) -> Any:
    """A connection over a socket that notices a dead network within half a minute; PyMySQL's own never does."""
    try:
        connection = dbapi.connect(*arguments, **options, defer_connect=True)
    except (TypeError, ValueError, AttributeError, OSError) as error:  # a charset unknown to it, a CA file not there
        raise dbapi.OperationalError(2000, f"an option of DATABASE_URL cannot be used: {error}") from None
    link = None if options.get("unix_socket") else _link(dbapi, options)
    try:
        connection.connect(link)
    except RuntimeError as error:  # how PyMySQL says that it cannot log in that way; 2061 is CR_AUTH_PLUGIN_ERR
        raise dbapi.OperationalError(2061, str(error)) from None
    return connection


def _link(dbapi: Any, options: dict[str, Any]) -> socket.socket:
    address = (options.get("host", "localhost"), options.get("port", 3306))
    try:
        link = socket.create_connection(address, options["connect_timeout"])
    except OSError as error:
        # PyMySQL's own words and number for it
        raise dbapi.OperationalError(
            2003, f"Can't connect to the server at {address[0]}:{address[1]}: {error.strerror or error}"
        ) from None
    link.settimeout(None)
    link.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
    link.setsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE, 1)
    for name, value in {"TCP_KEEPIDLE": 10, "TCP_KEEPINTVL": 5, "TCP_KEEPCNT": 3, "TCP_USER_TIMEOUT": 30_000}.items():
        if hasattr(socket, name):  # not on every system
            link.setsockopt(socket.IPPROTO_TCP, getattr(socket, name), value)
    return link
