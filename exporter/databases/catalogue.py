"""What a database says of itself when the doctor asks: who it is, who we are to it, its clock and its indexes."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any

import sqlalchemy

__all__ = ["Catalogue", "Server", "catalogue_for"]


@dataclass(frozen=True)
class Server:
    """A database as it is at present."""

    version: str
    role: str
    writable: tuple[str, ...]
    """What the role may change, as a person reads it; () when nothing."""
    connections: int | None
    """How many the role may have at once; None where there is no limit of its own."""
    replica: bool
    clock: datetime | None
    """Aware; None where it is that of this machine."""


class Catalogue(ABC):
    """Every function reads the catalogue alone, never a table."""

    role_script: str
    """Makes a role that may read what is read, and nothing else; "" where there are no roles."""

    @abstractmethod
    def server(self, connection: sqlalchemy.Connection, tables: Sequence[str]) -> Server:
        """What it is, and what we may do to `tables`."""

    @abstractmethod
    def indexed(self, connection: sqlalchemy.Connection, table: str) -> frozenset[str]:
        """The columns that some index of all the table's rows begins with."""

    @abstractmethod
    def create_index(self, table: str, column: str) -> str:
        """A statement for the owner that keeps nobody from writing meanwhile, where the database can."""


_POSTGRESQL_SERVER = sqlalchemy.text("""
SELECT current_setting('server_version'), current_user, rolsuper, rolconnlimit, pg_is_in_recovery(), clock_timestamp(),
       ARRAY(SELECT name FROM unnest(CAST(:tables AS text[])) AS name
             WHERE to_regclass(name) IS NOT NULL
               AND (has_table_privilege(to_regclass(name), 'INSERT, UPDATE, DELETE, TRUNCATE')
                    OR has_any_column_privilege(to_regclass(name), 'INSERT, UPDATE')))
FROM pg_roles WHERE rolname = current_user
""")
_POSTGRESQL_INDEXES = sqlalchemy.text("""
SELECT a.attname
FROM pg_index i JOIN pg_attribute a ON a.attrelid = i.indrelid AND a.attnum = i.indkey[0]
WHERE i.indrelid = to_regclass(:table) AND i.indisvalid AND i.indpred IS NULL
""")


class PostgreSQLCatalogue(Catalogue):
    """Reads pg_catalog, which everybody may."""

    role_script = "deploy/sql/postgresql.sql"

    def server(self, connection: sqlalchemy.Connection, tables: Sequence[str]) -> Server:
        row = connection.execute(_POSTGRESQL_SERVER, {"tables": list(tables)}).one()
        version, role, superuser, limit, replica, clock, writable = row
        return Server(
            f"PostgreSQL {version}",
            role,
            ("everything: it is a superuser",) if superuser else tuple(writable),
            None if limit < 0 or superuser else limit,
            replica,
            clock,
        )

    def indexed(self, connection: sqlalchemy.Connection, table: str) -> frozenset[str]:
        return _first_column(connection.execute(_POSTGRESQL_INDEXES, {"table": table}).all())

    def create_index(self, table: str, column: str) -> str:
        return f"CREATE INDEX CONCURRENTLY ix_{table}_{column} ON {table} ({column});"


_MYSQL_SERVER = sqlalchemy.text(
    "SELECT version(), current_user(), @@max_user_connections, @@read_only, utc_timestamp(6)"
)
# a role sees its own privileges here; CREATE and above are rights to change as well
_MYSQL_WRITABLE = sqlalchemy.text("""
SELECT '*.*' FROM information_schema.user_privileges WHERE privilege_type NOT IN ('USAGE', 'SELECT', 'SHOW VIEW')
UNION SELECT concat(table_schema, '.*') FROM information_schema.schema_privileges
WHERE privilege_type NOT IN ('SELECT', 'SHOW VIEW') AND database() LIKE table_schema
UNION SELECT table_name FROM information_schema.table_privileges
WHERE privilege_type NOT IN ('SELECT', 'SHOW VIEW') AND table_schema = database()
UNION SELECT table_name FROM information_schema.column_privileges
WHERE privilege_type NOT IN ('SELECT', 'REFERENCES') AND table_schema = database()
""")
_MYSQL_INDEXES = sqlalchemy.text("""
SELECT column_name FROM information_schema.statistics
WHERE table_schema = database() AND table_name = :table AND seq_in_index = 1
""")


class MySQLCatalogue(Catalogue):
    """Reads information_schema, which shows each role what is its own."""

    role_script = "deploy/sql/mariadb.sql"

    def server(self, connection: sqlalchemy.Connection, tables: Sequence[str]) -> Server:  # noqa: ARG002 - all are told
        version, role, limit, replica, clock = connection.execute(_MYSQL_SERVER).one()
        name = "MariaDB" if connection.dialect.is_mariadb else "MySQL"  # type: ignore[attr-defined] # of its MySQL dialects
        return Server(
            f"{name} {version.removesuffix('-MariaDB')}",
            role,
            tuple(sorted(_first_column(connection.execute(_MYSQL_WRITABLE).all()))),
            limit or None,
            bool(replica),
            clock.replace(tzinfo=UTC),
        )

    def indexed(self, connection: sqlalchemy.Connection, table: str) -> frozenset[str]:
        return _first_column(connection.execute(_MYSQL_INDEXES, {"table": table}).all())

    def create_index(self, table: str, column: str) -> str:
        return f"CREATE INDEX ix_{table}_{column} ON {table} ({column}) ALGORITHM=INPLACE LOCK=NONE;"


class SQLiteCatalogue(Catalogue):
    """Reads by PRAGMA; there are no roles, and the file is opened such that it cannot be written."""

    role_script = ""

    def server(self, connection: sqlalchemy.Connection, tables: Sequence[str]) -> Server:  # noqa: ARG002 - one file
        version = connection.exec_driver_sql("SELECT sqlite_version()").scalar_one()
        mode = connection.exec_driver_sql("PRAGMA journal_mode").scalar_one()
        return Server(f"SQLite {version} ({mode} journal)", "", (), None, replica=False, clock=None)

    def indexed(self, connection: sqlalchemy.Connection, table: str) -> frozenset[str]:
        found = connection.execute(
            sqlalchemy.text(
                "SELECT i.name FROM pragma_index_list(:table) AS l, pragma_index_info(l.name) AS i "
                "WHERE i.seqno = 0 AND NOT l.partial"
            ),
            {"table": table},
        )
        return _first_column(found.all())

    def create_index(self, table: str, column: str) -> str:
        return f"CREATE INDEX ix_{table}_{column} ON {table} ({column});"


def catalogue_for(name: str) -> Catalogue:
    """The catalogue by SQLAlchemy's name for the database."""
    if name == "postgresql":
        return PostgreSQLCatalogue()
    return SQLiteCatalogue() if name == "sqlite" else MySQLCatalogue()


def _first_column(rows: Sequence[Any]) -> frozenset[str]:
    return frozenset(str(row[0]) for row in rows)
