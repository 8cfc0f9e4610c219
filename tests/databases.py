"""Private databases with the schema of the dispatch system: PostgreSQL with its native enums, MariaDB, SQLite."""

from __future__ import annotations

import contextlib
import os
import pwd
import shutil
import signal
import socket
import sqlite3
import subprocess
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any, Protocol

import psutil
import psycopg
import pymysql
import pytest

from tests.programs import program
from tests.waiting import until

SQL = Path(__file__).parent.parent / "deploy" / "sql"
PASSWORD = "exporter-p@ss/word"
QUOTED_PASSWORD = "exporter-p%40ss%2Fword"

ENUMS = {
    "orderstatus": ("PENDING", "ASSIGNED", "IN_TRANSIT", "DELIVERED", "CANCELLED"),
    "dispatchstatus": ("DRAFT", "CONFIRMED", "IN_PROGRESS", "COMPLETED", "CANCELLED"),
    "vehiclestatus": ("AVAILABLE", "IN_USE", "MAINTENANCE", "BREAKDOWN", "OUT_OF_SERVICE"),
    "temperaturezone": ("FROZEN", "REFRIGERATED", "AMBIENT"),
    "vehicletype": ("FROZEN", "REFRIGERATED", "DUAL", "AMBIENT"),
}

TABLES = """
CREATE TABLE orders (
  id {serial}, order_number varchar(50) NOT NULL UNIQUE, order_date date NOT NULL,
  temperature_zone {temperaturezone} NOT NULL, status {orderstatus} NOT NULL, priority integer NOT NULL DEFAULT 5,
  customer_note varchar(200),
  created_at {timestamp} NOT NULL DEFAULT {now}, updated_at {timestamp} NOT NULL DEFAULT {now});
CREATE TABLE dispatches (
  id {serial}, dispatch_number varchar(50) NOT NULL UNIQUE, dispatch_date date NOT NULL, vehicle_id integer,
  driver_id integer, total_distance_km {float}, status {dispatchstatus} NOT NULL,
  created_at {timestamp} NOT NULL DEFAULT {now}, updated_at {timestamp} NOT NULL DEFAULT {now});
CREATE INDEX ix_dispatches_dispatch_date ON dispatches (dispatch_date);
CREATE TABLE vehicles (
  id {serial}, code varchar(50) NOT NULL UNIQUE, plate_number varchar(20) NOT NULL UNIQUE,
  vehicle_type {vehicletype} NOT NULL, status {vehiclestatus} NOT NULL, is_active {boolean} NOT NULL,
  min_temp_celsius {float}, max_temp_celsius {float},
  created_at {timestamp} NOT NULL DEFAULT {now}, updated_at {timestamp} NOT NULL DEFAULT {now});
CREATE TABLE vehicle_temperature_logs (
  id {serial}, vehicle_id integer, tid_id varchar(50) NOT NULL, cm_number varchar(20),
  temperature_a {float}, temperature_b {float}, created_at {timestamp} NOT NULL DEFAULT {now});
CREATE INDEX ix_vehicle_temperature_logs_created_at ON vehicle_temperature_logs (created_at);
"""

NAMES = ("orders", "dispatches", "vehicles", "vehicle_temperature_logs")


class Database(Protocol):
    """What a test needs of any of the three."""

    kind: str

    @property
    def url(self) -> str:
        """For the exporter: a role that may read what the exporter reads."""

    def execute(self, sql: str) -> list[tuple[Any, ...]]:
        """Runs a statement as the owner; its rows, if it has any."""


def free_port() -> int:
    """A port of loopback that nobody holds now."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port: int = probe.getsockname()[1]
        return port


class Server:
    """A server program in a folder of its own, run by a user that it accepts."""

    def __init__(self, user: str) -> None:
        self.folder = Path(tempfile.mkdtemp(prefix="coldchain-test-"))
        self.port = free_port()
        self.user: dict[str, Any] = {}
        if os.geteuid() == 0:  # neither server runs as root
            entry = pwd.getpwnam(user)
            os.chown(self.folder, entry.pw_uid, entry.pw_gid)
            self.user = {"user": entry.pw_uid, "group": entry.pw_gid, "extra_groups": []}
        self.popen: subprocess.Popen[bytes] | None = None

    def run(self, *command: str, text: str | None = None) -> None:
        """Runs a program of the server's to its end, with `text` to read."""
        environment = {**os.environ, "TZ": "UTC"}
        done = subprocess.run(
            command, check=False, cwd=self.folder, input=text, capture_output=True, text=True, env=environment,
            **self.user,
        )  # fmt: skip
        assert done.returncode == 0, f"{command[0]}: {done.stdout}{done.stderr}"

    def spawn(self, *command: str) -> None:
        """Starts the server; it logs into its folder."""
        with (self.folder / "log").open("ab") as log:
            self.popen = subprocess.Popen(
                command, cwd=self.folder, stdout=log, stderr=log, env={**os.environ, "TZ": "UTC"}, **self.user
            )

    def log(self) -> str:
        """What the server wrote so far."""
        return (self.folder / "log").read_text(errors="replace")

    def send(self, number: signal.Signals) -> None:
        """A signal to the server and all of its children."""
        if self.popen is None:
            return
        with contextlib.suppress(psutil.NoSuchProcess):
            parent = psutil.Process(self.popen.pid)
            for process in (parent, *parent.children(recursive=True)):
                with contextlib.suppress(psutil.NoSuchProcess):
                    process.send_signal(number)

    def freeze(self) -> None:
        """Every process of the server stops where it is; its connections stay open, kept by the kernel alone."""
        self.send(signal.SIGSTOP)

    def thaw(self) -> None:
        """Goes on."""
        self.send(signal.SIGCONT)

    def stop(self, number: signal.Signals = signal.SIGINT) -> None:
        """Ends the server; a frozen one too."""
        if self.popen is None:
            return
        self.thaw()
        self.popen.send_signal(number)
        try:
            self.popen.wait(20)
        except subprocess.TimeoutExpired:
            self.send(signal.SIGKILL)
            self.popen.wait()
        self.popen = None

    def remove(self) -> None:
        """Ends the server and deletes its folder."""
        self.stop()
        shutil.rmtree(self.folder, ignore_errors=True)


class PostgreSQL(Server):
    """A cluster on a free port: scram over TCP, trust over its socket."""

    kind = "postgresql"

    def __init__(self) -> None:
        binaries = {name: program(name) for name in ("initdb", "postgres", "psql")}
        super().__init__("postgres")
        self._binaries = binaries
        self.run(
            binaries["initdb"], "-D", "data", "-U", "owner", "-A", "trust", "--no-sync", "-E", "UTF8", "--locale=C"
        )
        hba = "local all all trust\nhost all all 127.0.0.1/32 scram-sha-256\n"
        (self.folder / "data" / "pg_hba.conf").write_text(hba)
        self.start()
        self.execute("CREATE DATABASE dispatch", database="postgres")
        for name, words in ENUMS.items():
            self.execute(f"CREATE TYPE {name} AS ENUM ({', '.join(repr(word) for word in words)})")
        kinds = {name: name for name in ENUMS}
        self.execute(
            TABLES.format(
                serial="serial PRIMARY KEY", timestamp="timestamptz", now="now()", float="double precision",
                boolean="boolean", **kinds,
            )
        )  # fmt: skip
        self.run(
            *(binaries["psql"], "-qX", "-v", "ON_ERROR_STOP=1", "-v", f"password={PASSWORD}"),
            *("-h", str(self.folder), "-p", str(self.port), "-U", "owner", "dispatch"),
            text=(SQL / "postgresql.sql").read_text(encoding="utf-8"),
        )

    @property
    def url(self) -> str:
        return f"postgresql://coldchain_exporter:{QUOTED_PASSWORD}@127.0.0.1:{self.port}/dispatch"

    def start(self) -> None:
        """Starts the server and returns when it lets somebody in."""
        self.spawn(
            *(self._binaries["postgres"], "-D", "data", "-p", str(self.port), "-k", str(self.folder)),
            *("-c", "listen_addresses=127.0.0.1", "-c", "fsync=off", "-c", "max_connections=40"),
            *("-c", "shared_buffers=32MB", "-c", "log_min_messages=warning"),
        )

        def connects() -> bool:
            assert self.popen is not None
            assert self.popen.poll() is None, self.log()
            try:
                self.execute("SELECT 1", database="postgres")
            except psycopg.OperationalError:
                return False
            return True

        until(connects, "PostgreSQL lets us in")

    def connect(self, database: str = "dispatch") -> psycopg.Connection[tuple[Any, ...]]:
        """A connection of the owner's, in autocommit mode."""
        return psycopg.connect(
            host=str(self.folder), port=self.port, user="owner", dbname=database, autocommit=True,
            application_name="test",
        )  # fmt: skip

    def execute(self, sql: str, database: str = "dispatch") -> list[tuple[Any, ...]]:
        """Runs it as the owner of everything."""
        with self.connect(database) as connection:
            cursor = connection.execute(sql.encode())
            return cursor.fetchall() if cursor.description else []

    def clear(self) -> None:
        """No rows in any table, and no status that a test has added: PostgreSQL takes none out of an enum."""
        self.execute(f"TRUNCATE {', '.join(NAMES)} RESTART IDENTITY")
        for name, words in ENUMS.items():
            if [word for (word,) in self.execute(f"SELECT unnest(enum_range(NULL::{name}))::text")] == list(words):
                continue
            self.execute(f"ALTER TYPE {name} RENAME TO {name}_before")
            self.execute(f"CREATE TYPE {name} AS ENUM ({', '.join(repr(word) for word in words)})")
            columns = f"SELECT table_name, column_name FROM information_schema.columns WHERE udt_name = '{name}_before'"
            for table, column in self.execute(columns):
                self.execute(f"ALTER TABLE {table} ALTER {column} TYPE {name} USING {column}::text::{name}")
            self.execute(f"DROP TYPE {name}_before")


class MariaDB(Server):
    """A server on a free port; the owner comes in by the socket without a password."""

    kind = "mariadb"

    def __init__(self) -> None:
        binaries = {name: program(name) for name in ("mariadbd", "mariadb-install-db", "mariadb")}
        super().__init__("mysql")
        self._binaries = binaries
        self.run(
            *(binaries["mariadb-install-db"], "--no-defaults", f"--datadir={self.folder}/data", "--skip-test-db"),
            *("--auth-root-authentication-method=normal", "--innodb-log-file-size=4M", "--innodb-buffer-pool-size=32M"),
        )
        self.start()
        self.execute("CREATE DATABASE dispatch CHARACTER SET utf8mb4", database="mysql")
        kinds = dict.fromkeys(ENUMS, "varchar(32)")
        tables = TABLES.format(
            serial="integer PRIMARY KEY AUTO_INCREMENT", timestamp="datetime(6)", now="now(6)", float="double",
            boolean="boolean", **kinds,
        )  # fmt: skip
        for statement in tables.split(";"):
            if statement.strip():
                self.execute(statement)
        script = (SQL / "mariadb.sql").read_text(encoding="utf-8")
        self.run(
            *(binaries["mariadb"], "--no-defaults", f"--socket={self.socket}", "-uroot", "dispatch"),
            text=f"SET @password = '{PASSWORD}';\n{script}",
        )

    @property
    def socket(self) -> str:
        """The path of its socket."""
        return str(self.folder / "socket")

    @property
    def url(self) -> str:
        return f"mysql://coldchain_exporter:{QUOTED_PASSWORD}@127.0.0.1:{self.port}/dispatch"

    def start(self) -> None:
        """Starts the server and returns when it lets somebody in."""
        self.spawn(
            *(self._binaries["mariadbd"], "--no-defaults", f"--datadir={self.folder}/data", f"--socket={self.socket}"),
            *(
                f"--port={self.port}",
                "--bind-address=127.0.0.1",
                f"--pid-file={self.folder}/pid",
                "--skip-name-resolve",
            ),
            *("--innodb-flush-log-at-trx-commit=0", "--innodb-buffer-pool-size=32M", "--performance-schema=OFF"),
        )

        def connects() -> bool:
            assert self.popen is not None
            assert self.popen.poll() is None, self.log()
            if not Path(self.socket).exists():
                return False
            try:
                self.execute("SELECT 1", database="mysql")
            except pymysql.OperationalError:
                return False
            return True

        until(connects, "MariaDB lets us in", 60)

    def stop(self, number: signal.Signals = signal.SIGTERM) -> None:
        super().stop(number)

    def connect(self, database: str = "dispatch") -> pymysql.Connection[Any]:
        """A connection of the owner's, in autocommit mode."""
        return pymysql.connect(unix_socket=self.socket, user="root", database=database, autocommit=True)

    def execute(self, sql: str, database: str = "dispatch") -> list[tuple[Any, ...]]:
        """Runs it as the owner of everything."""
        with self.connect(database) as connection, connection.cursor() as cursor:
            cursor.execute(sql)
            return list(cursor.fetchall())

    def clear(self) -> None:
        """No rows in any table."""
        for name in NAMES:
            self.execute(f"TRUNCATE {name}")


class SQLite:
    """A file."""

    kind = "sqlite"

    def __init__(self, path: Path) -> None:
        self.path = path
        kinds = dict.fromkeys(ENUMS, "varchar(32)")
        script = TABLES.format(
            serial="integer PRIMARY KEY", timestamp="datetime", now="CURRENT_TIMESTAMP", float="float",
            boolean="boolean", **kinds,
        )  # fmt: skip
        with contextlib.closing(sqlite3.connect(path)) as connection:
            connection.executescript(script)

    @property
    def url(self) -> str:
        return f"sqlite:///{self.path}"

    def execute(self, sql: str) -> list[tuple[Any, ...]]:
        """Runs it on a connection of its own."""
        with contextlib.closing(sqlite3.connect(self.path, timeout=20)) as connection, connection:
            return connection.execute(sql).fetchall()

    def clear(self) -> None:
        """No rows in any table."""
        for name in NAMES:
            self.execute(f"DELETE FROM {name}")


@pytest.fixture(scope="session")
def postgresql() -> Iterator[PostgreSQL]:
    """A cluster for the whole run; who stops it starts it again, and who fills it clears it first."""
    server = PostgreSQL()
    try:
        yield server
    finally:
        server.remove()


@pytest.fixture(scope="session")
def mariadb() -> Iterator[MariaDB]:
    """A MariaDB server for the whole run."""
    server = MariaDB()
    try:
        yield server
    finally:
        server.remove()


@pytest.fixture
def sqlite(tmp_path: Path) -> SQLite:
    """A file for one test."""
    return SQLite(tmp_path / "dispatch.db")
