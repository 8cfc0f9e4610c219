"""What the exporter does to the database it watches: little, for a short time, and nothing at all when it hangs.

A server is frozen for a short time as it stands; FROZEN_SECONDS=180 makes it three minutes.
"""

from __future__ import annotations

import os
import re
import signal
import threading
import time
from collections.abc import Callable, Iterator
from datetime import timedelta
from pathlib import Path
from typing import Any, Self
from zoneinfo import ZoneInfo

import psycopg
import pymysql
import pytest
import sqlalchemy

from exporter.databases import open_reader, parse_url
from exporter.settings import ExporterSettings
from exporter.sources import Source, plans
from exporter.sources.dispatches import dispatches
from exporter.sources.orders import orders
from exporter.tables import Context, prepare
from tests.databases import PASSWORD, MariaDB, PostgreSQL
from tests.exporter.awkward import NOW
from tests.exporter.running import QUICK, running
from tests.waiting import until

FROZEN_SECONDS = float(os.environ.get("FROZEN_SECONDS", "3"))
"""How long a server stays frozen; six intervals as it stands."""

ALL_UP = {"database": 1, "orders": 1, "dispatches": 1, "vehicles": 1}
ORDERS_FAIL = ALL_UP | {"orders": 0}
NONE_UP = dict.fromkeys(ALL_UP, 0.0)


class Watch:
    """Looks at a server's own list of queries, all the time, and keeps the longest that a query of ours has run."""

    def __init__(self, seconds: Callable[[], Any]) -> None:
        self._seconds = seconds
        self._stopped = threading.Event()
        self.longest = 0.0
        self.looks = 0
        self._thread = threading.Thread(target=self._run)

    def _run(self) -> None:
        while not self._stopped.wait(0.05):
            self.longest = max(self.longest, float(self._seconds() or 0))
            self.looks += 1

    def __enter__(self) -> Self:
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._stopped.set()
        self._thread.join()


@pytest.fixture
def postgresql_watch(postgresql: PostgreSQL) -> Iterator[Watch]:
    with postgresql.connect() as connection:

        def seconds() -> Any:
            row = connection.execute(
                "SELECT extract(epoch FROM max(clock_timestamp() - query_start)) FROM pg_stat_activity "
                "WHERE application_name = 'coldchain-exporter' AND state = 'active'"
            ).fetchone()
            return row and row[0]

        with Watch(seconds) as watch:
            yield watch


@pytest.fixture
def mariadb_watch(mariadb: MariaDB) -> Iterator[Watch]:
    with mariadb.connect() as connection, connection.cursor() as cursor:

        def seconds() -> Any:
            cursor.execute(
                "SELECT max(time_ms) / 1000 FROM information_schema.processlist "
                "WHERE user = 'coldchain_exporter' AND command = 'Query'"
            )
            row = cursor.fetchone()
            return row and row[0]

        with Watch(seconds) as watch:
            yield watch


def test_a_lock_on_orders_delays_orders_alone_on_postgresql(
    tmp_path: Path, postgresql: PostgreSQL, postgresql_watch: Watch
) -> None:
    with running(tmp_path, database_url=postgresql.url) as exporter:
        until(lambda: exporter.up() == ALL_UP, "all are up")
        with postgresql.connect() as connection, connection.transaction():
            connection.execute("LOCK TABLE orders IN ACCESS EXCLUSIVE MODE")
            until(lambda: exporter.up() == ORDERS_FAIL, "orders fail")
            name = 'coldchain_source_last_success_timestamp_seconds{source="vehicles"}'
            seen = exporter.value(name) or 0
            until(lambda: (exporter.value(name) or 0) > seen + 2, "vehicles are looked at again and again")
            assert exporter.up() == ORDERS_FAIL
            assert exporter.value("coldchain_database_up") == 1
        until(lambda: exporter.up() == ALL_UP, "orders are back")
        told = (
            'level=warning logger=exporter.outages msg="source failed" source=orders error="waited in vain for a lock '
            'that another session holds" hint="see pg_locks: who holds it?"'
        )
        assert exporter.warnings() == [told]
    assert postgresql_watch.looks > 10
    assert 0.25 < postgresql_watch.longest < 2  # the time-out is 1 s


def test_a_lock_on_orders_delays_orders_alone_on_mariadb(
    tmp_path: Path, mariadb: MariaDB, mariadb_watch: Watch
) -> None:
    settings = QUICK.replace("default_timeout: 1s", "default_timeout: 2s")  # MariaDB waits for locks in whole seconds
    with running(tmp_path, settings, database_url=mariadb.url) as exporter:
        until(lambda: exporter.up() == ALL_UP, "all are up")
        with mariadb.connect() as connection, connection.cursor() as cursor:
            cursor.execute("LOCK TABLES orders WRITE")
            until(lambda: exporter.up() == ORDERS_FAIL, "orders fail")
            name = 'coldchain_source_last_success_timestamp_seconds{source="vehicles"}'
            seen = exporter.value(name) or 0
            until(lambda: (exporter.value(name) or 0) > seen + 2, "vehicles are looked at again and again")
            assert exporter.up() == ORDERS_FAIL
        until(lambda: exporter.up() == ALL_UP, "orders are back")
        assert len(exporter.warnings()) == 1
        assert "waited in vain for a lock" in exporter.warnings()[0]
    assert mariadb_watch.looks > 10
    assert 0.25 < mariadb_watch.longest < 3


def test_a_slow_query_is_ended_by_postgresql_and_asked_less_often(
    tmp_path: Path, postgresql: PostgreSQL, postgresql_watch: Watch
) -> None:
    with postgresql.connect() as connection:
        connection.execute("CREATE SCHEMA slow; GRANT USAGE ON SCHEMA slow TO coldchain_exporter")
        connection.execute("CREATE VIEW slow.orders AS SELECT o.* FROM pg_sleep(60) LEFT JOIN public.orders o ON true")
        connection.execute("GRANT SELECT ON slow.orders TO coldchain_exporter")
    url = f"{postgresql.url}?options=-csearch_path%3Dslow,public"
    try:
        with running(tmp_path, database_url=url) as exporter:
            until(lambda: exporter.up() == ORDERS_FAIL, "orders fail")
            interval = until(
                lambda: exporter.value('coldchain_source_interval_seconds{source="orders"}'), "the interval is told"
            )
            duration = exporter.value('coldchain_source_duration_seconds{source="orders"}') or 0
            assert 1 <= duration < 2  # the time-out is 1 s
            assert interval == pytest.approx(10 * duration)
            assert (exporter.value('coldchain_source_interval_seconds{source="vehicles"}') or 0) < 10
            told = (
                'level=warning logger=exporter.outages msg="source failed" source=orders error="the query ran into its '
                'time-out" hint="an index would help, or a longer timeout"'
            )
            assert exporter.warnings() == [told]
    finally:
        postgresql.execute("DROP SCHEMA slow CASCADE")
    assert 0.25 < postgresql_watch.longest < 2


def test_a_slow_query_is_ended_by_mariadb(tmp_path: Path, mariadb: MariaDB, mariadb_watch: Watch) -> None:
    mariadb.execute("CREATE DATABASE slow", database="mysql")
    mariadb.execute("CREATE VIEW orders AS SELECT o.* FROM dispatch.orders o WHERE sleep(60) = 0", "slow")
    for table in ("dispatches", "vehicles"):
        mariadb.execute(f"CREATE VIEW {table} AS SELECT * FROM dispatch.{table}", "slow")
    mariadb.execute("GRANT SELECT ON slow.* TO coldchain_exporter@'%'", "slow")
    mariadb.execute(
        "INSERT INTO orders (order_number, order_date, temperature_zone, status) "
        "VALUES ('S', '2026-01-01', 'FROZEN', 'PENDING')"
    )
    try:
        with running(tmp_path, database_url=mariadb.url.replace("/dispatch", "/slow")) as exporter:
            until(lambda: exporter.up() == ORDERS_FAIL, "orders fail")
            assert (exporter.value('coldchain_source_interval_seconds{source="orders"}') or 0) >= 10
    finally:
        mariadb.execute("REVOKE SELECT ON slow.* FROM coldchain_exporter@'%'", "mysql")
        mariadb.execute("DROP DATABASE slow", database="mysql")
        mariadb.clear()
    assert 0.25 < mariadb_watch.longest < 2


@pytest.mark.timeout(300 + FROZEN_SECONDS)
@pytest.mark.parametrize("kind", ["postgresql", "mariadb"])
def test_a_frozen_server_is_waited_for_once_and_is_back_when_it_goes_on(
    tmp_path: Path, kind: str, request: pytest.FixtureRequest
) -> None:
    server: PostgreSQL | MariaDB = request.getfixturevalue(kind)
    with running(tmp_path, database_url=server.url) as exporter:
        until(lambda: exporter.up() == ALL_UP, "all are up")
        business = exporter.business()
        server.freeze()
        try:
            until(lambda: exporter.up() == NONE_UP, "nothing is up")
            assert exporter.value("coldchain_database_up") == 0
            threads, connections = exporter.threads(), exporter.connections(server.port)
            assert connections <= 4
            until(lambda: exporter.business() == set(), "no old figure is shown as today's")
            until(lambda: len(exporter.warnings()) == 1, "it is told once")
            looks = 0
            end = time.monotonic() + FROZEN_SECONDS
            while time.monotonic() < end:
                assert exporter.get("/metrics").status_code == 200
                assert (exporter.threads(), exporter.connections(server.port)) == (threads, connections)
                looks += 1
                time.sleep(0.1)
        finally:
            server.thaw()
        begin = time.monotonic()
        until(lambda: exporter.up() == ALL_UP, "all are back", 5)
        print(  # shown by pytest -s
            f"{kind}, {FROZEN_SECONDS:g} s frozen: {threads} threads and {connections} connections at {looks} scrapes, "
            f"all back {time.monotonic() - begin:.2f} s after"
        )
        assert exporter.business() == business
        assert [line for line in exporter.warnings() if "no answer within the time-out" not in line] == []
        assert exporter.connections(server.port) <= 4


@pytest.mark.parametrize("kind", ["postgresql", "mariadb"])
def test_the_process_ends_while_the_server_is_frozen(tmp_path: Path, kind: str, request: pytest.FixtureRequest) -> None:
    server: PostgreSQL | MariaDB = request.getfixturevalue(kind)
    with running(tmp_path, database_url=server.url) as exporter:
        until(lambda: exporter.up() == ALL_UP, "all are up")
        server.freeze()
        try:
            until(lambda: exporter.up() == NONE_UP, "nothing is up")
            assert exporter.end(signal.SIGTERM, seconds=10) == 0  # what it is asked it would never answer
        finally:
            server.thaw()


def test_a_stopped_server_is_down_and_is_back_without_a_restart(tmp_path: Path, postgresql: PostgreSQL) -> None:
    with running(tmp_path, database_url=postgresql.url) as exporter:
        until(lambda: exporter.up() == ALL_UP, "all are up")
        business = exporter.business()
        postgresql.stop()
        until(lambda: exporter.value("coldchain_database_up") == 0, "the database is down")
        assert exporter.value("coldchain_database_response_seconds") is None
        until(lambda: exporter.business() == set(), "no old figure is shown as today's")
        postgresql.start()
        until(lambda: exporter.up() == ALL_UP, "all are up again")
        assert exporter.business() == business
        refused = [line for line in exporter.warnings() if "Connection refused" in line]
        assert len(refused) == 1
        assert "is the server running there" in refused[0]


def test_sessions_are_few_and_named(tmp_path: Path, postgresql: PostgreSQL) -> None:
    with running(tmp_path, database_url=postgresql.url) as exporter:
        until(lambda: exporter.up() == ALL_UP, "all are up")
        sessions = postgresql.execute(
            "SELECT application_name FROM pg_stat_activity WHERE usename = 'coldchain_exporter'"
        )
        assert sessions == [("coldchain-exporter",)] * 4


def source_of(url: str, name: str) -> Source:
    """One source, not yet connected."""
    settings = ExporterSettings.model_validate({"database_url": url})
    return next(plan for plan in plans(settings) if plan.name == name).make()


@pytest.mark.parametrize("name", ["orders", "dispatches", "vehicles", "database"])
def test_a_refresh_is_one_statement_in_a_read_only_transaction_of_postgresql(postgresql: PostgreSQL, name: str) -> None:
    postgresql.execute("ALTER ROLE coldchain_exporter SET log_statement = 'all'")
    source = source_of(postgresql.url, name)
    try:
        source.collect(NOW, 5)  # the first one asks the catalogue as well
        before = len(postgresql.log())
        source.collect(NOW, 5)
        logged = postgresql.log()[before:]
    finally:
        source.close()
        postgresql.execute("ALTER ROLE coldchain_exporter RESET log_statement")
    statements = re.findall(r"LOG:  (?:statement|execute <unnamed>): (.*)", logged)
    assert [statement.split()[0] for statement in statements] == ["BEGIN", "SELECT", "COMMIT"]
    assert statements[0].startswith("BEGIN READ ONLY; SET LOCAL statement_timeout = ")


def test_a_refresh_is_one_statement_in_a_read_only_transaction_of_mariadb(mariadb: MariaDB) -> None:
    source = source_of(mariadb.url, "vehicles")
    source.collect(NOW, 5)
    mariadb.execute("SET GLOBAL log_output = 'TABLE', GLOBAL general_log = ON")
    try:
        source.collect(NOW, 5)
    finally:
        mariadb.execute("SET GLOBAL general_log = OFF")
        source.close()
    logged = mariadb.execute(
        "SELECT CAST(argument AS CHAR) FROM mysql.general_log "
        "WHERE user_host LIKE 'coldchain_exporter%' ORDER BY event_time"
    )
    mariadb.execute("TRUNCATE mysql.general_log")
    assert [statement.split()[0] for (statement,) in logged] == ["SET", "START", "SELECT", "COMMIT"]
    assert logged[1] == ("START TRANSACTION READ ONLY",)


@pytest.mark.parametrize("table", ["orders", "dispatches"])
def test_indexes_are_used_where_there_are_any(postgresql: PostgreSQL, table: str) -> None:
    rows = {
        "orders": "orders (order_number, order_date, temperature_zone, status, created_at) "
        "SELECT n, '2025-01-01', 'FROZEN', 'DELIVERED', {created}",
        "dispatches": "dispatches (dispatch_number, dispatch_date, status, created_at) "
        "SELECT n, '2025-01-01', 'COMPLETED', {created}",
    }[table].format(created="timestamptz '2026-01-27 16:30+00' - (30000 - n) * interval '1 h'")
    postgresql.execute(f"INSERT INTO {rows} FROM generate_series(1, 30000) n")
    postgresql.execute(f"CREATE INDEX tried_created ON {table} (created_at)")
    postgresql.execute(f"CREATE INDEX tried_status ON {table} (status)")
    postgresql.execute(f"ANALYZE {table}")
    reader = open_reader(parse_url(postgresql.url), 5)
    declared = orders(timedelta(hours=2)) if table == "orders" else dispatches(timedelta(0), ZoneInfo("Asia/Seoul"))
    windows = [timedelta(hours=hours) for hours in (1, 24, 168)]

    def explain(connection: sqlalchemy.Connection) -> str:
        columns = reader.dialect.columns(connection, table)
        context = Context(reader.dialect, NOW, ZoneInfo("UTC"))
        return prepare(declared, columns, windows, context).explain(connection)

    try:
        explained = reader.read(explain, 5)
    finally:
        reader.close()
        postgresql.execute("DROP INDEX tried_created; DROP INDEX tried_status")
        postgresql.clear()
    assert "BitmapOr" in explained
    assert "tried_created" in explained
    assert "tried_status" in explained
    assert "Seq Scan" not in explained


@pytest.mark.parametrize(
    "statement", ["SELECT order_number FROM orders", "SELECT * FROM vehicle_temperature_logs", "DELETE FROM orders"]
)
def test_the_roles_may_read_nothing_else(postgresql: PostgreSQL, mariadb: MariaDB, statement: str) -> None:
    writing = f"{postgresql.url}?options=-cdefault_transaction_read_only%3Doff"
    with psycopg.connect(writing) as connection, pytest.raises(psycopg.errors.InsufficientPrivilege):
        connection.execute(statement.encode())
    with (
        pymysql.connect(
            host="127.0.0.1", port=mariadb.port, user="coldchain_exporter", password=PASSWORD, database="dispatch"
        ) as link,
        link.cursor() as cursor,
        pytest.raises(pymysql.OperationalError, match="denied"),
    ):
        cursor.execute(statement)
