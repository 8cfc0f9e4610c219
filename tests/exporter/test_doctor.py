"""`doctor` and `check-config`: what they find, and in which words, on each database."""

from __future__ import annotations

import os
import re
import signal
import socket
import subprocess
import sys
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from pathlib import Path
from zoneinfo import ZoneInfo

import pytest
from pydantic import SecretStr

from exporter.databases import CONNECTIONS, DatabaseError, Failure, open_reader, parse_url
from exporter.databases.catalogue import catalogue_for
from exporter.diagnosis import (
    Finding,
    Level,
    Look,
    judge_clock,
    judge_indexes,
    judge_look,
    judge_statuses,
    judge_zone,
)
from exporter.families import Family
from exporter.settings import ExporterSettings
from exporter.sources import plans, tables
from exporter.sources.table import TableSource
from tests.databases import QUOTED_PASSWORD, MariaDB, PostgreSQL, SQLite, free_port
from tests.exporter.awkward import NOW
from tests.exporter.running import ROOT, ends_with, running

UTC_ZONE, SEOUL = ZoneInfo("UTC"), ZoneInfo("Asia/Seoul")
ORDERS, DISPATCHES, VEHICLES = tables(ExporterSettings())
POSTGRESQL = catalogue_for("postgresql")


def doctor(folder: Path, url: str | None, *arguments: str, settings: str = "") -> tuple[int, list[str]]:
    """Exit code and findings, with what differs from run to run left out."""
    (folder / "exporter.yaml").write_text(settings, encoding="utf-8")
    environment = {"DATABASE_URL": url} if url else {}
    code, output, errors = ends_with(
        folder,
        f"--web.listen-address=127.0.0.1:{free_port()}",
        "--config.file=exporter.yaml",
        *arguments,
        "doctor",
        **environment,
    )
    assert errors == ""
    text = re.sub(r"\d\.\d{3} s", "T s", output)
    text = re.sub(r"(port: 127.0.0.1):\d+|(file systems: ).*|(at )(127.0.0.1:\d+|/\S+)(?=/dispatch)", r"\1\2\3…", text)
    return code, text.splitlines()


# -- judgement --------------------------------------------------------------------------------------------------------


OURS = "this machine's, and so is every window: run chrony on both"


@pytest.mark.parametrize(
    ("ahead", "level", "text"),
    [
        (0, Level.OK, "the database's and this machine's differ by 0.0 s"),
        (5, Level.OK, "the database's and this machine's differ by 5.0 s"),
        (8, Level.FAULT, f"the database's is 8 s ahead of {OURS}"),
        (-3600, Level.FAULT, f"the database's is 3600 s behind {OURS}"),
    ],
)  # fmt: skip
def test_clocks_that_differ_are_a_fault(ahead: int, level: Level, text: str) -> None:
    started, ended = NOW - timedelta(seconds=1), NOW
    server = (ended if ahead > 0 else started) + timedelta(seconds=ahead)
    assert judge_clock(server, started, ended) == Finding("clock", level, text)


AHEAD = "read as UTC the newest rows are 8 h 49 min in the future"
BEHIND = "read as Asia/Seoul the newest row is 9 h 1 min old, and read as UTC it is of the last minutes"


@pytest.mark.parametrize(
    ("zone", "business", "written_in", "level", "text"),
    [
        (UTC_ZONE, SEOUL, UTC_ZONE, Level.OK, "timestamps carry none and are read as UTC; the newest is 1 min old"),
        (SEOUL, SEOUL, SEOUL, Level.OK, "timestamps carry none and are read as Asia/Seoul; the newest is 1 min old"),
        (UTC_ZONE, SEOUL, SEOUL, Level.FAULT, f"{AHEAD}: set database_timezone: Asia/Seoul"),
        (UTC_ZONE, UTC_ZONE, SEOUL, Level.FAULT, f"{AHEAD}: set database_timezone to the zone of the system's clock"),
        (SEOUL, SEOUL, UTC_ZONE, Level.WARNING, f"{BEHIND}: if the site is at work, set database_timezone: UTC"),
    ],
)
def test_a_wrong_time_zone_is_told_by_the_newest_rows(
    zone: ZoneInfo, business: ZoneInfo, written_in: ZoneInfo, level: Level, text: str
) -> None:
    wall = [(NOW - timedelta(minutes=m)).astimezone(written_in).replace(tzinfo=UTC) for m in range(1, 22)]
    assert judge_zone("orders", wall, zone, business, NOW) == Finding("orders time zone", level, text)


def test_a_few_rows_of_the_future_and_a_site_at_rest_are_no_fault() -> None:
    recent = [NOW - timedelta(minutes=minute) for minute in range(1, 12)]
    ahead = [NOW + timedelta(days=day) for day in range(1, 11)]
    assert judge_zone("orders", [*recent, *ahead], UTC_ZONE, SEOUL, NOW).level is Level.OK
    resting = [NOW - timedelta(days=3)]
    assert judge_zone("orders", resting, SEOUL, SEOUL, NOW).text == (
        "timestamps carry none and are read as Asia/Seoul; the newest is 81 h 0 min old"
    )


def statuses(**rows: float) -> Finding:
    """What is said of orders with these in the windows."""
    samples: dict[tuple[str, ...], float] = {("1h", status): value for status, value in rows.items()}
    return judge_statuses(ORDERS, [Family("coldchain_orders", "", ("window", "status"), samples)])


def test_unknown_statuses_are_told_and_are_a_fault_when_there_are_no_others() -> None:
    assert statuses(pending=0, delivered=1).text == "columns and statuses are as expected"
    assert statuses(pending=1, on_hold=2) == Finding(
        "orders", Level.OK, "columns and statuses are as expected; beside them, shown as they are: on_hold"
    )
    assert statuses(pending=0, 배차대기=2, 취소=1) == Finding(
        "orders",
        Level.FAULT,
        "its statuses are 배차대기, 취소, none of which is known: is this the dispatch database?",
    )


def test_a_slow_source_says_how_rarely_it_will_look(sqlite: SQLite) -> None:
    settings = ExporterSettings.model_validate({"database_url": SecretStr(sqlite.url)})
    plan = next(plan for plan in plans(settings) if plan.name == "orders")
    families = (
        Family("coldchain_orders_waiting", "", samples={(): 1.0}),
        Family("own", "", (), {(): 1}, exported=False),
    )
    assert judge_look(plan, Look(1.5, families)) == Finding(
        "source orders", Level.OK, "1.500 s for 1 series, every 15 s"
    )
    assert judge_look(plan, Look(4.25, families)) == Finding(
        "source orders",
        Level.WARNING,
        "4.250 s for 1 series, every 42.5 s and not every 15 s, lest it take more than 10 % of the database's time",
    )
    error = DatabaseError("the query ran into its time-out", Failure.SLOW, "an index would help")
    assert judge_look(plan, Look(error=error)) == Finding(
        "source orders", Level.FAULT, "the query ran into its time-out: an index would help"
    )


@pytest.mark.parametrize("failure", Failure)
def test_nothing_but_a_look_that_ran_out_of_time_is_slow(failure: Failure) -> None:
    assert Look(error=DatabaseError("", failure)).slow is (failure is Failure.SLOW)
    assert Look(0.1).slow is False


ESTIMATE = (
    "a refresh takes {1} s without and, by an estimate from the {0} rows that it would read, {2} s with; "
    "as the owner, run"
)


def said(*indexed: str, seconds: float | None = 0.09, rows: int = 1_000_000, counted: int = 38_800) -> list[str]:
    """About the indexes of orders."""
    return [str(finding) for finding in judge_indexes(ORDERS, indexed, seconds, rows, counted, POSTGRESQL)]


def test_indexes_that_would_help_are_ready_statements_with_a_time_and_an_estimate() -> None:
    (both,) = said("id", "order_number")
    assert both.splitlines() == [
        f"-     orders indexes: {ESTIMATE.format('38,800 of about 1,000,000', '0.090', '0.030')}",
        "        CREATE INDEX CONCURRENTLY ix_orders_created_at ON orders (created_at);",
        "        CREATE INDEX CONCURRENTLY ix_orders_status ON orders (status);",
    ]
    (status,) = said("created_at", seconds=None)
    assert status.splitlines() == [
        "-     orders indexes: a refresh runs into its time-out without; as the owner, run",
        "        CREATE INDEX CONCURRENTLY ix_orders_status ON orders (status);",
    ]


def test_no_index_is_proposed_that_is_there_or_would_not_help() -> None:
    assert said("created_at", "status") == ["ok    orders indexes: on created_at and status, as they should be"]
    few = ["ok    orders indexes: none needed for about 19,999 rows, 10 of them in the longest window"]
    assert said(rows=19_999, counted=10) == few
    none = ["ok    orders indexes: none needed for about 0 rows, 0 of them in the longest window"]
    assert said(rows=0, counted=0) == none
    most = ["ok    orders indexes: none needed for about 100,000 rows, 40,000 of them in the longest window"]
    assert said(rows=100_000, counted=40_000) == most


@pytest.mark.parametrize(
    ("kind", "statement"),
    [
        ("mysql", "CREATE INDEX ix_orders_status ON orders (status) ALGORITHM=INPLACE LOCK=NONE;"),
        ("sqlite", "CREATE INDEX ix_orders_status ON orders (status);"),
    ],
)
def test_other_databases_have_statements_of_their_own(kind: str, statement: str) -> None:
    assert catalogue_for(kind).create_index("orders", "status") == statement


# -- on the databases -------------------------------------------------------------------------------------------------

FINE = [
    "ok    port: 127.0.0.1… is free",
    "ok    host: file systems: …",
]
SOURCES = [
    "ok    source database: T s for 1 series, every 15 s",
    "ok    source orders: T s for 18 series, every 15 s",
    "ok    source dispatches: T s for 17 series, every 15 s",
    "ok    source vehicles: T s for 6 series, every 15 s",
]


def tables_fine(zone: bool) -> list[str]:
    """What is said of tables with a row of this minute each."""
    result = []
    for table in ("orders", "dispatches"):
        result.append(f"ok    {table}: columns and statuses are as expected")
        if zone:
            words = "timestamps carry none and are read as UTC; the newest is 0 min old"
            result.append(f"ok    {table} time zone: {words}")
        result.append(f"ok    {table} indexes: none needed for about 1 rows, 1 of them in the longest window")
    return [*result, "ok    vehicles: columns and statuses are as expected"]


@pytest.fixture(params=["postgresql", "mariadb", "sqlite"])
def database(request: pytest.FixtureRequest) -> Iterator[PostgreSQL | MariaDB | SQLite]:
    """Each kind, with an order and a dispatch of this minute."""
    found: PostgreSQL | MariaDB | SQLite = request.getfixturevalue(request.param)
    found.clear()
    now = f"'{datetime.now(UTC):%Y-%m-%d %H:%M:%S}{'+00' if request.param == 'postgresql' else ''}'"
    found.execute(
        "INSERT INTO orders (order_number, order_date, temperature_zone, status, created_at, updated_at) "
        f"VALUES ('O', '2026-01-27', 'FROZEN', 'ASSIGNED', {now}, {now})"
    )
    found.execute(
        "INSERT INTO dispatches (dispatch_number, dispatch_date, status, created_at) "
        f"VALUES ('D', '2026-01-27', 'DRAFT', {now})"
    )
    yield found
    found.clear()


def test_all_is_well_with_the_role_that_ships(tmp_path: Path, database: PostgreSQL | MariaDB | SQLite) -> None:
    code, lines = doctor(tmp_path, database.url)
    about = {
        "postgresql": (r"PostgreSQL 1\d\.\d+ .*at …/dispatch as coldchain_exporter", "coldchain_exporter"),
        "mariadb": (r"MariaDB 1\d\.\S+ at …/dispatch as coldchain_exporter@%", "coldchain_exporter@%"),
        "sqlite": (r"SQLite 3\.\S+ \(delete journal\) at \S+/dispatch.db", ""),
    }
    words, role = about[database.kind]
    assert re.fullmatch(f"ok    database: {words}", lines[2])
    middle = [
        f"ok    role: {role} can read alone",
        "ok    clock: the database's and this machine's differ by 0.0 s",
    ] if role else []  # fmt: skip
    assert lines[:2] + lines[3:] == FINE + middle + SOURCES + tables_fine(zone=database.kind != "postgresql")
    assert code == 0


@pytest.mark.parametrize("kind", ["postgresql", "mariadb"])
def test_the_role_that_ships_has_connections_for_the_exporter_and_the_doctor(
    request: pytest.FixtureRequest, tmp_path: Path, kind: str
) -> None:
    server: PostgreSQL | MariaDB = request.getfixturevalue(kind)
    readers = [open_reader(parse_url(server.url), 5) for _ in range(CONNECTIONS)]  # as many as a busy exporter has
    for reader in readers:
        reader.read(lambda connection: connection.exec_driver_sql("SELECT 1").all(), 5)
    try:
        code, lines = doctor(tmp_path, server.url, settings="sources: {host: {enabled: false}}")
    finally:
        for reader in readers:
            reader.close()
    assert [line for line in lines if line.startswith("FAULT")] == []
    assert code == 0


def test_a_role_that_could_write_is_warned_of(tmp_path: Path, postgresql: PostgreSQL, mariadb: MariaDB) -> None:
    for server in (postgresql, mariadb):
        server.execute(f"GRANT UPDATE ON orders TO {USER[server.kind]}")
    try:
        for server in (postgresql, mariadb):
            code, lines = doctor(tmp_path, server.url, settings="sources: {host: {enabled: false}}")
            role = "coldchain_exporter" if server is postgresql else "coldchain_exporter@%"
            script = f"deploy/sql/{server.kind}.sql"
            (line,) = [line for line in lines if not line.startswith("ok")]
            assert line == (
                f"warn  role: {role} could change orders: the exporter does not, but use the role that {script} makes, "
                "which can read alone"
            )
            assert code == 0
    finally:
        for server in (postgresql, mariadb):
            server.execute(f"REVOKE UPDATE ON orders FROM {USER[server.kind]}")


USER = {"postgresql": "coldchain_exporter", "mariadb": "coldchain_exporter@'%'"}


def test_a_role_with_too_few_connections_is_a_fault(tmp_path: Path, postgresql: PostgreSQL) -> None:
    postgresql.execute("ALTER ROLE coldchain_exporter CONNECTION LIMIT 4")
    try:
        code, lines = doctor(tmp_path, postgresql.url)
    finally:
        postgresql.execute("ALTER ROLE coldchain_exporter CONNECTION LIMIT 8")
    text = "coldchain_exporter may have 4 connections at once; allow it 5, as deploy/sql/postgresql.sql"
    assert f"FAULT role: {text}" in lines
    assert code == 1


def test_what_is_missing_is_named_with_what_to_do(tmp_path: Path, postgresql: PostgreSQL) -> None:
    postgresql.execute("ALTER TABLE orders RENAME updated_at TO changed_at")
    postgresql.execute("REVOKE SELECT (total_distance_km) ON dispatches FROM coldchain_exporter")
    postgresql.execute("ALTER TABLE vehicles RENAME TO trucks")
    try:
        code, lines = doctor(tmp_path, postgresql.url, settings=QUERY)
    finally:
        postgresql.execute("ALTER TABLE trucks RENAME TO vehicles")
        postgresql.execute("GRANT SELECT (total_distance_km) ON dispatches TO coldchain_exporter")
        postgresql.execute("ALTER TABLE orders RENAME changed_at TO updated_at")
    orders, dispatches, vehicles, mine = (line for line in lines if not line.startswith("ok"))
    assert orders == (
        'FAULT source orders: column "updated_at" does not exist: is this the dispatch database, in the version that '
        "this exporter knows?"
    )
    assert dispatches == (
        "FAULT source dispatches: permission denied for table dispatches: grant what deploy/sql/postgresql.sql grants"
    )
    assert vehicles == (
        'FAULT source vehicles: relation "vehicles" does not exist: is this the dispatch database, and its schema in '
        "the role's search_path?"
    )
    assert mine == "FAULT source mine: the query has no column m, which acme_m names: it has n; name them by AS"
    assert code == 1


QUERY = "queries: {mine: {sql: SELECT 1 AS n, gauges: [{name: acme_m, help: M., value: m}]}}"


def test_a_wrong_zone_is_found_in_the_rows(tmp_path: Path, sqlite: SQLite) -> None:
    wall = datetime.now(SEOUL)
    sqlite.execute(
        "INSERT INTO orders (order_number, order_date, temperature_zone, status, created_at) "
        f"VALUES ('O', '2026-01-27', 'FROZEN', 'PENDING', '{wall:%Y-%m-%d %H:%M:%S}')"
    )
    code, lines = doctor(tmp_path, sqlite.url)
    (line,) = [line for line in lines if not line.startswith("ok")]
    assert line == (
        "FAULT orders time zone: read as UTC the newest rows are 9 h 0 min in the future: "
        "set database_timezone: Asia/Seoul"
    )
    assert code == 1


def test_the_proposed_indexes_can_be_made_and_are_used(tmp_path: Path, database: PostgreSQL | MariaDB | SQLite) -> None:
    """With an order an hour of the last three years."""
    now = datetime.now(UTC)
    zone = "+00" if database.kind == "postgresql" else ""
    moments = (f"'{now - timedelta(hours=hour):%Y-%m-%d %H:%M:%S}{zone}'" for hour in range(25_000))
    rows = (f"('O-{n}', '2026-01-27', 'FROZEN', 'DELIVERED', {moment}, {moment})" for n, moment in enumerate(moments))
    columns = "order_number, order_date, temperature_zone, status, created_at, updated_at"
    database.execute(f"INSERT INTO orders ({columns}) VALUES {', '.join(rows)}")

    code, lines = doctor(tmp_path, database.url)
    at = next(number for number, line in enumerate(lines) if line.startswith("-     orders indexes: "))
    assert lines[at] == f"-     orders indexes: {ESTIMATE.format('169 of about 25,001', 'T', 'T')}"
    statements = [line.strip() for line in lines[at + 1 : at + 3]]
    assert [statement.partition(" ON ")[2][:14] for statement in statements] == ["orders (create", "orders (status"]
    assert code == 0

    try:
        for statement in statements:
            database.execute(statement)
        database.execute("ANALYZE TABLE orders" if database.kind == "mariadb" else "ANALYZE orders")
        code, lines = doctor(tmp_path, database.url)
        assert "ok    orders indexes: on created_at and status, as they should be" in lines
        plan = explained(database.url)
        assert "ix_orders_created_at" in plan
        assert "ix_orders_status" in plan
    finally:
        for column in ("created_at", "status"):
            database.execute(f"DROP INDEX ix_orders_{column}{' ON orders' if database.kind == 'mariadb' else ''}")


def explained(url: str) -> str:
    """How the database would go about a refresh of the orders."""
    settings = ExporterSettings.model_validate({"database_url": SecretStr(url)})
    source = next(plan for plan in plans(settings) if plan.name == "orders").make()
    assert isinstance(source, TableSource)
    now = datetime.now(UTC)
    found = source._reader.read(
        lambda connection: source._prepare(connection, now, source._table, source._windows).explain(connection), 5
    )
    source.close()
    return found


def test_a_database_that_cannot_be_reached_is_one_line_without_its_password(tmp_path: Path) -> None:
    port = free_port()
    code, lines = doctor(tmp_path, f"postgresql://somebody:{PASSWORD_IN_URL}@127.0.0.1:{port}/dispatch")
    assert lines[:2] == FINE
    (line,) = lines[2:]
    assert line.startswith("FAULT database: 127.0.0.1")
    assert "Connection refused" in line
    assert line.endswith("is the server running there, and the port right?")
    assert PASSWORD_IN_URL not in line
    assert code == 1


PASSWORD_IN_URL = "hidden-secret"


def test_a_wrong_password_is_told_and_not_shown(tmp_path: Path, postgresql: PostgreSQL) -> None:
    url = postgresql.url.replace(QUOTED_PASSWORD, PASSWORD_IN_URL)
    code, lines = doctor(tmp_path, url)
    assert "password authentication failed" in lines[2]
    assert lines[2].endswith("check user and password")
    assert PASSWORD_IN_URL not in "".join(lines)
    assert len(lines) == 3
    assert code == 1


def test_an_sqlite_file_that_is_not_there_is_a_fault_and_is_not_made(tmp_path: Path) -> None:
    code, lines = doctor(tmp_path, f"sqlite:///{tmp_path / 'none.db'}")
    assert lines[2].startswith(
        f"FAULT database: {tmp_path / 'none.db'}: unable to open database file: does the file exist"
    )
    assert code == 1
    assert not (tmp_path / "none.db").exists()


@pytest.mark.usefixtures("interruptible")
@pytest.mark.parametrize("ending", ["nobody reads", "interrupted"])
def test_a_doctor_that_is_sent_away_leaves_no_traceback(tmp_path: Path, ending: str) -> None:
    with socket.create_server(("127.0.0.1", 0)) as silent:  # it waits for this one's answer
        url = f"postgresql://u:p@127.0.0.1:{silent.getsockname()[1]}/dispatch"
        doctor = subprocess.Popen(
            [sys.executable, "-m", "exporter", f"--web.listen-address=127.0.0.1:{free_port()}", "doctor"],
            cwd=tmp_path, env={"PATH": os.environ["PATH"], "PYTHONPATH": str(ROOT), "DATABASE_URL": url},
            stdout=subprocess.PIPE, stderr=subprocess.PIPE,
        )  # fmt: skip
        with doctor:
            assert doctor.stdout is not None
            assert doctor.stderr is not None
            assert doctor.stdout.readline().startswith(b"ok    port:")
            if ending == "nobody reads":
                doctor.stdout.close()
            else:
                doctor.send_signal(signal.SIGINT)
            assert doctor.stderr.read() == b""
        assert doctor.returncode == {"nobody reads": 141, "interrupted": 130}[ending]


def test_without_a_database_the_host_is_examined(tmp_path: Path) -> None:
    assert doctor(tmp_path, None) == (
        0, [*FINE, "warn  database: DATABASE_URL is not set: everything but the host is off"],
    )  # fmt: skip


# -- the host and the door --------------------------------------------------------------------------------------------


def test_a_folder_that_is_no_procfs_is_a_fault(tmp_path: Path) -> None:
    code, lines = doctor(tmp_path, None, f"--path.procfs={tmp_path}")
    assert lines[0] == (
        f"FAULT settings: path.procfs: {tmp_path} is no procfs: mount the host's /proc there, or leave it out"
    )
    assert lines[2].startswith("FAULT host: ")
    assert code == 1


def test_a_disk_that_is_not_shown_is_a_fault(tmp_path: Path) -> None:
    code, lines = doctor(tmp_path, None, settings="disk: {mountpoint: /none}")
    assert lines[1].startswith("FAULT host: disk.mountpoint /none is none of the file systems shown: /")
    assert code == 1


def test_a_port_that_another_program_holds_is_a_fault(tmp_path: Path) -> None:
    with socket.socket() as other:
        other.bind(("127.0.0.1", 0))
        other.listen()
        taken = f"127.0.0.1:{other.getsockname()[1]}"
        code, output, _ = ends_with(tmp_path, f"--web.listen-address={taken}", "doctor")
    assert output.splitlines()[0] == (
        f"FAULT port: cannot listen on {taken}: Address already in use; another program listens there: stop it or "
        "choose another --web.listen-address"
    )
    assert code == 1


def test_a_port_that_the_exporter_holds_is_fine(tmp_path: Path) -> None:
    with running(tmp_path) as exporter:
        place = f"127.0.0.1:{exporter.port}"
        code, output, _ = ends_with(tmp_path, f"--web.listen-address={place}", "doctor")
    assert output.splitlines()[0] == f"ok    port: {place}: the exporter is running there"
    assert code == 0


# -- check-config -----------------------------------------------------------------------------------------------------


def test_check_config_names_every_source(tmp_path: Path, database: PostgreSQL | MariaDB | SQLite) -> None:
    (tmp_path / "exporter.yaml").write_text(QUERY.replace("value: m", "value: n"))
    assert ends_with(
        tmp_path, "--config.file=exporter.yaml", "check-config", "--database", DATABASE_URL=database.url
    ) == (0, "The settings are fine. Sources: host, database, orders, dispatches, vehicles, mine.\n", "")


EXPOSED = (
    "--web.listen-address=0.0.0.0:0 is beyond loopback and no authentication is configured: give --web.config.file "
    "with basic_auth_users (or a token), or allow it with --web.allow-anonymous"
)


@pytest.mark.parametrize(
    ("arguments", "problem"),
    [
        (["--path.procfs=/none"], "path.procfs: /none is no procfs: mount the host's /proc there, or leave it out"),
        (["--path.rootfs=/none"], "path.rootfs: /none is no folder: mount the host's / there, or leave it out"),
        (["--web.listen-address=19110"], "--web.listen-address=19110: write HOST:PORT, for example 127.0.0.1:19110"),
        (["--web.config.file=none.yml"], "none.yml: cannot be read: No such file or directory"),
        (["--web.listen-address=0.0.0.0:0"], EXPOSED),
    ],
)
def test_check_config_looks_at_paths_without_a_database(tmp_path: Path, arguments: list[str], problem: str) -> None:
    assert ends_with(tmp_path, *arguments, "check-config") == (1, "", f"error: {problem}\n")


def test_the_doctor_finds_that_it_would_not_listen_beyond_loopback_without_authentication(tmp_path: Path) -> None:
    code, out, _ = ends_with(tmp_path, "--web.listen-address=0.0.0.0:0", "doctor")
    assert out.splitlines()[0] == f"FAULT settings: {EXPOSED}"
    assert code == 1


def test_who_allows_anonymous_callers_may_listen_anywhere(tmp_path: Path) -> None:
    found = ends_with(tmp_path, "--web.listen-address=0.0.0.0:0", "--web.allow-anonymous", "check-config")
    assert found == (0, "The settings are fine. Sources: host.\n", "")


def test_check_config_tells_that_queries_have_no_database(tmp_path: Path) -> None:
    (tmp_path / "exporter.yaml").write_text(QUERY)
    problem = "queries: there is no database to ask: set DATABASE_URL, or leave them out"
    assert ends_with(tmp_path, "--config.file=exporter.yaml", "check-config") == (1, "", f"error: {problem}\n")


def test_check_config_cannot_ask_a_database_that_is_not_named(tmp_path: Path) -> None:
    found = ends_with(tmp_path, "check-config", "--database")
    assert found == (1, "", "error: --database: DATABASE_URL is not set\n")
