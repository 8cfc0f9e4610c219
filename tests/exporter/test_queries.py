"""A site's own gauges: what the settings refuse, what rows become, and what a bad query costs."""

from __future__ import annotations

import contextlib
import math
import re
import threading
from collections.abc import Iterator, Mapping
from datetime import UTC, datetime, timedelta
from decimal import Decimal
from pathlib import Path
from typing import Any
from zoneinfo import ZoneInfo

import pytest
import sqlalchemy
from sqlalchemy.dialects.postgresql import psycopg as postgresql_dialect

from exporter import sql
from exporter.databases import DatabaseError, Shared, parse_url
from exporter.naming import OWN_PREFIXES, gauge_problem
from exporter.settings import ExporterSettings, QuerySettings
from exporter.sources import Source, plans
from exporter.sources.queries import families
from serving.settings import ConfigError, load
from tests.databases import SQL, MariaDB, PostgreSQL, SQLite
from tests.exporter.awkward import NOW
from tests.exporter.running import QUICK, ends_with, running
from tests.waiting import until

EXAMPLE = Path(__file__).parent.parent.parent / "deploy" / "exporter" / "vehicle-temperature.yaml"
SEOUL = ZoneInfo("Asia/Seoul")


# -- settings ---------------------------------------------------------------------------------------------------------


def problems(folder: Path, text: str) -> list[str]:
    """What is wrong with a settings file, without its folder."""
    (folder / "f.yaml").write_text(text, encoding="utf-8")
    with pytest.raises(ConfigError) as caught:
        load(ExporterSettings, environ={}, config_file=folder / "f.yaml")
    return [problem.removeprefix(f"{folder}/") for problem in caught.value.problems]


GOOD = """\
queries:
  stock:
    sql: SELECT site, pallets FROM stock
    labels: [site]
    gauges:
      - name: acme_stock_pallets
        help: Pallets in stock.
        value: pallets
"""


@pytest.mark.parametrize(
    ("old", "new", "place", "words"),
    [
        ("labels: [site]", "labels: [site, site]", "4: queries.stock.labels", "site is given twice"),
        ("labels: [site]", "labels: [__site]", "4: queries.stock.labels.0", "__site: labels that begin with __ are"),
        ("labels: [site]", "labels: [site, job]", "4: queries.stock.labels.1", "job: Prometheus sets job itself"),
        ("labels: [site]", "labels: [le]", "4: queries.stock.labels.0", "le: le belongs to histograms and summaries"),
        ("labels: [site]", "labels: [a-b]", "4: queries.stock.labels.0", "a-b: a label's name is of letters"),
        ("acme_", "coldchain_orders_", "6: queries.stock.gauges.0.name",
         "coldchain_orders_stock_pallets: names that begin with coldchain_orders are the exporter's own; begin it "),
        ("acme_", "coldchain_host_", "6: queries.stock.gauges.0.name", "coldchain_host_stock_pallets: names that"),
        ("_pallets", "_total", "6: queries.stock.gauges.0.name",
         "acme_stock_total: _total ends names of counters, histograms and summaries, and this is a gauge"),
        ("acme_", "acme:", "6: queries.stock.gauges.0.name", "acme:stock_pallets: colons are for recording rules"),
        ("acme_", "__acme_", "6: queries.stock.gauges.0.name", "__acme_stock_pallets: names that begin"),
        ("acme_stock_pallets", "up", "6: queries.stock.gauges.0.name", "up: Prometheus makes series of this name"),
        ("        help: Pallets in stock.\n", "", "6: queries.stock.gauges.0.help", "missing: say in a sentence what"),
        ("value: pallets", "value: site", "8: queries.stock.gauges.0.value", "site is a label as well; a column is"),
        ("        value: pallets\n", "", "6: queries.stock.gauges.0.value", "Field required"),
        ("value: pallets", "column: pallets\n        value: pallets", "8: queries.stock.gauges.0.column",
         "unknown setting; allowed here: help, labels, name, value"),
        ("  stock:", "  orders:", "2: queries.orders", "orders: this is a source of the exporter's own; call"),
        ("SELECT site", "DELETE", "3: queries.stock.sql", "a query reads, so it begins with SELECT or WITH"),
        ("FROM stock", "FROM stock; COMMIT", "3: queries.stock.sql", "a query is one statement: split it"),
        ("FROM stock", "FROM stock WHERE created_at > :since", "3: queries.stock.sql",
         "it uses :since, so say how long ago that is: lookback: 1h"),
        ("    labels:", "    lookback: 1h\n    labels:", "4: queries.stock.lookback", "the SQL does not use :since"),
        ("    labels:", "    interval: 0s\n    labels:", "4: queries.stock.interval", "between 100ms and 1d"),
    ],
)  # fmt: skip
def test_a_wrong_entry_is_refused_with_its_line_and_a_hint(
    tmp_path: Path, old: str, new: str, place: str, words: str
) -> None:
    assert old in GOOD
    (problem,) = problems(tmp_path, GOOD.replace(old, new, 1))
    assert problem.startswith(f"f.yaml:{place}: {words}")


def test_a_gauge_may_come_from_one_query_alone(tmp_path: Path) -> None:
    other = GOOD.removeprefix("queries:\n").replace("  stock:", "  stock_too:")
    assert problems(tmp_path, GOOD + other) == [
        "f.yaml:13: queries.stock_too.gauges.0.name: acme_stock_pallets is a gauge of the query stock already"
    ]
    again = "      - {name: acme_stock_pallets, help: Pallets., value: site2}\n"
    assert problems(tmp_path, GOOD + again) == [
        "f.yaml:9: queries.stock.gauges.1.name: acme_stock_pallets is a gauge of this query already"
    ]


def test_every_name_of_ours_is_kept_from_queries(tmp_path: Path, sqlite: SQLite) -> None:
    with running(tmp_path, "default_interval: 500ms\n", database_url=sqlite.url) as exporter:
        until(lambda: "coldchain_host_cpu_usage_ratio" in exporter.series(), "every source has been looked at")
        names = {name.partition("{")[0] for name in exporter.series()}
    assert len(names) > 30
    assert {name for name in names if gauge_problem(name) is None} == set()
    assert [prefix for prefix in OWN_PREFIXES if "coldchain_vehicle_temperature_celsius".startswith(prefix)] == []


def test_defaults_are_those_of_the_sources_and_5000_series() -> None:
    query = QuerySettings.model_validate(
        {"sql": "SELECT 1 AS n;", "gauges": [{"name": "acme_one", "help": "One.", "value": "n"}]}
    )
    assert (query.enabled, query.interval, query.timeout, query.max_series, query.labels) == (
        True, None, None, 5000, (),
    )  # fmt: skip


# -- SQL --------------------------------------------------------------------------------------------------------------


def compiled(text: str) -> str:
    """What the database gets, on PostgreSQL."""
    statement = sqlalchemy.text(sql.text(text, 10))
    return str(statement.compile(dialect=postgresql_dialect.dialect()))  # type: ignore[no-untyped-call] # SQLAlchemy's


def test_only_the_moments_are_parameters() -> None:
    text = "SELECT x::int, ':now', \"a:b\", 5 % 2 -- :since;\nFROM t WHERE c > :since AND c <= :now AND d = :other;"
    assert sql.problem(text) is None
    assert sql.moments(text) == {"now", "since"}
    assert compiled(text) == (
        "SELECT * FROM (\nSELECT x::int, ':now', \"a:b\", 5 %% 2 -- :since;\n"
        "FROM t WHERE c > %(since)s AND c <= %(now)s AND d = :other\n) AS found LIMIT 10"
    )


@pytest.mark.parametrize("text", ["select 1", "WITH x AS (SELECT 1) SELECT * FROM x", "/* why */ SELECT ';' ; -- end",
                                  "(SELECT 1) UNION (SELECT 2)", "VALUES (1)"])  # fmt: skip
def test_queries_that_read_are_taken(text: str) -> None:
    assert sql.problem(text) is None


@pytest.mark.parametrize("text", ["", "-- SELECT 1", "UPDATE t SET x = 1", "SELECT 1; SELECT 2", "selection"])
def test_anything_else_is_not(text: str) -> None:
    assert sql.problem(text) is not None


# -- rows -------------------------------------------------------------------------------------------------------------


def made(*rows: tuple[Any, ...], columns: tuple[str, ...] = ("a", "b", "n"), **settings: Any) -> Mapping[Any, float]:
    """The samples of one gauge over `n`."""
    gauge = {"name": "acme_n", "help": "N.", "value": "n", **settings.pop("gauge", {})}
    query = QuerySettings.model_validate({"sql": "SELECT 1", "labels": ["a", "b"], "gauges": [gauge], **settings})
    (family,) = families(query, columns, rows, lambda value: datetime.fromisoformat(str(value)).replace(tzinfo=UTC))
    return family.samples


def refused(*rows: tuple[Any, ...], **settings: Any) -> str:
    """Why there are none, with the hint."""
    with pytest.raises(DatabaseError) as caught:
        made(*rows, **settings)
    return f"{caught.value} ({caught.value.hint})"


@pytest.mark.parametrize(
    ("value", "number"),
    [
        (3, 3.0), (Decimal("2.5"), 2.5), (True, 1.0), (-math.inf, -math.inf), (timedelta(minutes=2), 120.0),
        (datetime(2026, 1, 27, 16, 30, tzinfo=UTC), 1769531400.0), ("2026-01-27 16:30:00", 1769531400.0),
    ],
)  # fmt: skip
def test_what_a_number_is(value: Any, number: float) -> None:
    assert made(("x", "y", value)) == {("x", "y"): number}


@pytest.mark.parametrize("value", [None, math.nan, Decimal("NaN")])
def test_null_and_nan_make_no_series(value: Any) -> None:
    assert made(("x", "y", value), ("x", "z", 1)) == {("x", "z"): 1.0}


def test_labels_are_text_and_null_is_none() -> None:
    assert made((1, None, 1), (True, "서울", 2)) == {("1", ""): 1.0, ("true", "서울"): 2.0}


@pytest.mark.parametrize(
    ("value", "words"),
    [("12.5", "'12.5' is str; CAST it in the SQL"), (b"1", "\"b'1'\" is bytes; CAST it in the SQL")],
)
def test_what_is_no_number_is_refused(value: Any, words: str) -> None:
    assert refused(("x", "y", value)).startswith(f"the column n holds no number, as acme_n needs it ({words}")


def test_rows_with_the_same_labels_are_refused() -> None:
    assert refused(("x", "y", 1), ("x", "y", 1)) == (
        "more than one row for the same labels of acme_n "
        "(a='x', b='y': aggregate in the SQL, or add the label that tells them apart)"
    )


def test_a_gauge_with_fewer_labels_than_its_query_counts_repeated_rows_once() -> None:
    fewer = {"labels": ["a"]}
    assert made(("x", "1", 5), ("x", "2", 5), ("z", "1", 6), gauge=fewer) == {("x",): 5.0, ("z",): 6.0}
    assert refused(("x", "1", 5), ("x", "2", 6), gauge=fewer).startswith("more than one row for the same labels")


def test_a_missing_or_doubled_column_is_named() -> None:
    assert refused(columns=("a", "n", "c")) == (
        "the query has no column b, which acme_n names (it has a, n, c; name them by AS)"
    )
    assert refused(columns=("a", "b", "n", "n")) == (
        "the query has more than one column n, which acme_n names (it has a, b, n, n; name them by AS)"
    )


def test_too_many_series_are_refused() -> None:
    rows = [("x", str(number), number) for number in range(4)]
    assert len(made(*rows, max_series=4)) == 4
    assert refused(*rows, max_series=3).startswith("it makes more series than its 3 (aggregate, leave out a label, or ")


# -- the example that ships -------------------------------------------------------------------------------------------


def source(url: str, file: Path = EXAMPLE, **settings: object) -> Source:
    """The one query of a settings file."""
    loaded = load(ExporterSettings, environ={"DATABASE_URL": url}, config_file=file, flags=settings)
    return next(plan for plan in plans(loaded) if plan.name in loaded.queries).make()


def grants(name: str) -> list[str]:
    """The statements for the example, which deploy/sql keeps as a comment at its end."""
    tail = (SQL / name).read_text(encoding="utf-8").partition("For the vehicle-temperature example:")[2]
    return [part.strip() for part in tail.replace("\n-- ", "\n").split(";") if part.strip()]


@pytest.fixture(params=["postgresql", "mariadb", "sqlite"])
def database(request: pytest.FixtureRequest) -> Iterator[PostgreSQL | MariaDB | SQLite]:
    """Each kind, empty; the role may read what the example reads, and what deploy/sql grants beside."""
    found: PostgreSQL | MariaDB | SQLite = request.getfixturevalue(request.param)
    found.clear()
    statements = grants(f"{found.kind}.sql") if found.kind != "sqlite" else []
    assert len(statements) in {0, 2}
    for statement in statements:
        found.execute(statement)
    yield found
    for statement in statements:
        found.execute(statement.replace("GRANT", "REVOKE").replace(" TO ", " FROM "))
    for statement in ("GRANT SELECT (id, status, is_active) ON vehicles TO",):
        if found.kind != "sqlite":
            found.execute(f"{statement} {'coldchain_exporter' if found.kind == 'postgresql' else QUOTED_USER}")
    found.clear()


QUOTED_USER = "coldchain_exporter@'%'"


def write(database: PostgreSQL | MariaDB | SQLite, moment: datetime, zone: ZoneInfo) -> str:
    """A moment as SQL for that database, at a site that writes down the time of `zone`."""
    if database.kind == "postgresql":
        return f"'{moment.isoformat(sep=' ')}'"
    return f"'{moment.astimezone(zone).replace(tzinfo=None).isoformat(sep=' ', timespec='microseconds')}'"


def fill(database: PostgreSQL | MariaDB | SQLite, zone: ZoneInfo) -> None:
    fleet = [
        ("서울12가3456", "IN_USE", "true", "-25", "-18"), ("부산34나5678", "IN_USE", "true", "NULL", "8"),
        ("PARKED", "AVAILABLE", "true", "0", "8"), ("SILENT", "IN_USE", "true", "NULL", "8"),
        ("BY-PLATE", "IN_USE", "true", "0", "NULL"), ("DEAD", "IN_USE", "true", "2", "8"),
        ("AMBIENT", "IN_USE", "true", "NULL", "NULL"), ("SOLD", "IN_USE", "false", "0", "8"),
        ("BROKEN", "MAINTENANCE", "true", "0", "8"), ("RANGELESS", "IN_USE", "true", "NULL", "NULL"),
    ]  # fmt: skip
    for number, (plate, status, active, low, high) in enumerate(fleet, 1):
        database.execute(
            "INSERT INTO vehicles (id, code, plate_number, vehicle_type, status, is_active, min_temp_celsius, "
            f"max_temp_celsius) VALUES ({number}, 'V{number}', '{plate}', 'DUAL', '{status}', {active}, {low}, {high})"
        )
    readings: list[tuple[str, str, str, str, timedelta]] = [
        ("1", "NULL", "-20", "-21", timedelta(minutes=5)),
        ("1", "NULL", "-19.5", "-17.25", timedelta(minutes=1)),  # the latest, though others came in later
        ("1", "NULL", "-10", "-10", timedelta(minutes=2)),
        ("1", "NULL", "-19", "NULL", timedelta(seconds=20)),  # one compartment's sensor is dead
        ("1", "NULL", "99", "99", timedelta(minutes=-3)),  # a clock that is ahead
        ("2", "'부산34나5678'", "4", "NULL", timedelta(seconds=30)),  # one compartment
        ("2", "'부산34나5678'", "3", "NULL", timedelta(seconds=30)),  # twice at once: the warmer counts
        ("3", "NULL", "20", "20", timedelta(minutes=1)),  # parked
        ("4", "NULL", "5", "5", timedelta(hours=1, seconds=1)),  # longer ago than the example looks back
        ("NULL", "'BY-PLATE'", "NULL", "2", timedelta(minutes=59)),
        ("6", "NULL", "NULL", "NULL", timedelta(seconds=30)),  # the unit lives, its sensors do not
        ("7", "NULL", "NULL", "NULL", timedelta(seconds=30)),
        ("10", "NULL", "NULL", "18", timedelta(minutes=1)),
        ("NULL", "'NOBODYS'", "1", "1", timedelta(minutes=1)),
        ("NULL", "NULL", "1", "1", timedelta(minutes=1)),
    ]
    for vehicle, plate, front, rear, age in readings:
        database.execute(
            "INSERT INTO vehicle_temperature_logs (vehicle_id, tid_id, cm_number, temperature_a, temperature_b, "
            f"created_at) VALUES ({vehicle}, 'TID', {plate}, {front}, {rear}, {write(database, NOW - age, zone)})"
        )


@pytest.mark.parametrize("zone", [ZoneInfo("UTC"), SEOUL], ids=str)
def test_the_temperature_example_finds_each_vehicles_latest_reading(
    database: PostgreSQL | MariaDB | SQLite, zone: ZoneInfo
) -> None:
    fill(database, zone)
    example = source(database.url, database_timezone=zone.key)
    found = {family.name: (family.labels, dict(family.samples)) for family in example.collect(NOW, 5)}
    example.close()
    now = NOW.timestamp()
    assert found == {
        "coldchain_vehicle_temperature_celsius": (
            ("plate", "compartment"),
            {
                ("서울12가3456", "a"): -19.0, ("서울12가3456", "b"): -17.25,
                ("부산34나5678", "a"): 4.0,
                ("BY-PLATE", "b"): 2.0,
                ("RANGELESS", "b"): 18.0,
            },
        ),
        "coldchain_vehicle_temperature_timestamp_seconds": (
            ("plate", "compartment"),
            {
                ("서울12가3456", "a"): now - 20, ("서울12가3456", "b"): now - 60,
                ("부산34나5678", "a"): now - 30,
                ("BY-PLATE", "b"): now - 59 * 60,
                ("RANGELESS", "b"): now - 60,
            },
        ),
        "coldchain_vehicle_temperature_min_celsius": (
            ("plate",), {("서울12가3456",): -25.0, ("BY-PLATE",): 0.0, ("DEAD",): 2.0},
        ),
        "coldchain_vehicle_temperature_max_celsius": (
            ("plate",), {("서울12가3456",): -18.0, ("부산34나5678",): 8.0, ("SILENT",): 8.0, ("DEAD",): 8.0},
        ),
        # neither parked, in the workshop nor sold; with a range, or known to have a sensor
        "coldchain_vehicle_temperature_expected": (
            ("plate",),
            {(plate,): 1.0 for plate in ("서울12가3456", "부산34나5678", "SILENT", "BY-PLATE", "DEAD", "RANGELESS")},
        ),
    }  # fmt: skip


@pytest.mark.parametrize("database", ["postgresql"], indirect=True)  # the one that keeps NaN
def test_a_reading_that_is_no_number_is_none(database: PostgreSQL) -> None:
    fill(database, ZoneInfo("UTC"))
    database.execute(
        "INSERT INTO vehicle_temperature_logs (vehicle_id, tid_id, temperature_a, temperature_b, created_at) "
        f"VALUES (1, 'TID', 'NaN', -20, {write(database, NOW, ZoneInfo('UTC'))})"
    )
    example = source(database.url)
    celsius, read_at, *_ = example.collect(NOW, 5)
    example.close()
    assert {compartment: celsius.samples["서울12가3456", compartment] for compartment in "ab"} == {"a": -19, "b": -20}
    assert read_at.samples["서울12가3456", "a"] == NOW.timestamp() - 20


def test_the_temperature_example_reads_recent_rows_by_their_index(database: PostgreSQL | MariaDB | SQLite) -> None:
    fill(database, ZoneInfo("UTC"))
    rows = ", ".join(
        f"(1, 'TID', 1, 1, {write(database, NOW - timedelta(hours=2, minutes=minute), ZoneInfo('UTC'))})"
        for minute in range(20_000)
    )
    columns = "vehicle_id, tid_id, temperature_a, temperature_b, created_at"
    database.execute(f"INSERT INTO vehicle_temperature_logs ({columns}) VALUES {rows}")
    database.execute(
        {"mariadb": "ANALYZE TABLE vehicle_temperature_logs"}.get(database.kind, "ANALYZE vehicle_temperature_logs")
    )
    query = load(ExporterSettings, environ={}, config_file=EXAMPLE).queries["vehicle_temperature"]
    statement = sql.text(query.sql, 10)
    for name, moment in {"since": NOW - timedelta(hours=1), "now": NOW}.items():
        statement = statement.replace(f":{name}", write(database, moment, ZoneInfo("UTC")))
    explain = {"sqlite": "EXPLAIN QUERY PLAN "}.get(database.kind, "EXPLAIN ")
    plan = "\n".join(str(row) for row in database.execute(explain + statement))
    assert "ix_vehicle_temperature_logs_created_at" in plan
    assert not re.search(r"Seq Scan on vehicle_temperature_logs|SCAN l\b|'l', 'ALL'", plan), plan


# -- the database's word on queries -----------------------------------------------------------------------------------

DENIED = "SELECT command denied to user 'coldchain_exporter'@'127.0.0.1' for"
BAD = """\
queries:
  gone: {sql: SELECT n FROM nowhere, gauges: [{name: acme_gone, help: Gone., value: n}]}
  nameless: {sql: SELECT count(*) AS number FROM orders, gauges: [{name: acme_nameless, help: N., value: n}]}
  secret: {sql: SELECT count(order_number) AS n FROM orders, gauges: [{name: acme_secret, help: N., value: n}]}
  fine: {sql: SELECT count(*) AS n FROM orders, gauges: [{name: acme_fine, help: N., value: n}]}
"""


@pytest.mark.parametrize(
    ("kind", "gone", "secret"),
    [
        ("postgresql", 'relation "nowhere" does not exist', "permission denied for table orders"),
        ("mariadb", f"{DENIED} table `dispatch`.`nowhere` (", f"{DENIED} column 'order_number' in table 'orders'"),
        ("sqlite", "no such table: nowhere", None),
    ],
)  # fmt: skip
def test_check_config_has_the_database_explain_every_query(
    tmp_path: Path, kind: str, gone: str, secret: str | None, request: pytest.FixtureRequest
) -> None:
    server: PostgreSQL | MariaDB | SQLite = request.getfixturevalue(kind)
    (tmp_path / "f.yaml").write_text(BAD, encoding="utf-8")
    code, output, errors = ends_with(
        tmp_path, "--config.file=f.yaml", "check-config", "--database", DATABASE_URL=server.url
    )
    assert (code, output) == (1, "")
    lines = errors.splitlines()
    assert lines[0].startswith(f"error: gone: {gone}")
    assert lines[1] == (
        "error: nameless: the query has no column n, which acme_nameless names (it has number; name them by AS)"
    )
    denied = [f"error: secret: {secret} (grant the role what the query reads, as deploy/sql/ shows)"] if secret else []
    assert lines[2:] == denied


def fill_orders(*databases: PostgreSQL | MariaDB) -> None:
    """One order each."""
    for database in databases:
        database.clear()
        database.execute(
            "INSERT INTO orders (order_number, order_date, temperature_zone, status) "
            "VALUES ('O', '2026-01-27', 'FROZEN', 'PENDING')"
        )


def test_checking_runs_no_query(postgresql: PostgreSQL, mariadb: MariaDB, tmp_path: Path) -> None:
    fill_orders(postgresql, mariadb)
    mariadb_url = f"mysql://root@/dispatch?unix_socket={mariadb.socket}"
    for url, sleep in ((postgresql.url, "pg_sleep(60)::text"), (mariadb_url, "sleep(60)")):
        (tmp_path / "f.yaml").write_text(
            "queries:\n" + query("slow", f"SELECT count(*) AS n, max({sleep}) FROM orders"), encoding="utf-8"
        )
        slow = source(url, tmp_path / "f.yaml")
        slow.check(NOW, 2)
        with pytest.raises(DatabaseError, match="time-out"):
            slow.collect(NOW, 2)
        slow.close()


def test_a_database_that_is_not_there_is_told_once(tmp_path: Path) -> None:
    (tmp_path / "f.yaml").write_text(BAD, encoding="utf-8")
    code, _, errors = ends_with(
        tmp_path, "--config.file=f.yaml", "check-config", "--database", DATABASE_URL="postgresql://u:pw@127.0.0.1:1/x"
    )
    assert code == 1
    assert len(errors.splitlines()) == 1
    assert errors.startswith("error: database: ")
    assert "pw@" not in errors


# -- running ----------------------------------------------------------------------------------------------------------


def query(name: str, text: str, more: str = "") -> str:
    """An entry of `queries:`."""
    return f"  {name}:\n    sql: {text}\n{more}    gauges: [{{name: acme_{name}, help: N., value: n}}]\n"


def test_a_bad_query_costs_its_own_gauges_alone(tmp_path: Path, postgresql: PostgreSQL) -> None:
    postgresql.clear()
    settings = (
        f"{QUICK.replace('default_timeout: 1s', 'default_timeout: 5s')}queries:\n"  # six of them take turns
        + query("fine", "SELECT 7 AS n")
        + query("gone", "SELECT n FROM nowhere")
        + query("many", "SELECT g AS n, g AS a FROM generate_series(1, 1000000) g", "    labels: [a]\n")
        + query("text", "SELECT 'x' AS n")
        + query("twice", "SELECT 1 AS n UNION ALL SELECT 1")
        + query("writes", "SELECT nextval('orders_id_seq') AS n")
    )
    failing = {"gone", "many", "text", "twice", "writes"}
    wanted = {"database": 1, "orders": 1, "dispatches": 1, "vehicles": 1, "fine": 1} | dict.fromkeys(failing, 0)
    postgresql.execute("GRANT USAGE ON SEQUENCE orders_id_seq TO coldchain_exporter")
    try:
        with running(tmp_path, settings, database_url=postgresql.url) as exporter:
            until(lambda: exporter.up() == wanted, "each is as it should be")
            assert exporter.value("acme_fine") == 7
            assert [name for name in exporter.series() if name.startswith("acme_") and name != "acme_fine"] == []
            seen = 'coldchain_source_last_success_timestamp_seconds{source="fine"}'
            until(lambda: (exporter.value(seen) or 0) > NOW.timestamp(), "it was looked at")
            first = exporter.value(seen) or 0
            until(lambda: (exporter.value(seen) or 0) > first + 2, "all have been looked at again and again")
            assert exporter.connections(postgresql.port) <= 5
            told = {re.findall(r"source=(\w+) error=\"?([^\"]*)", line)[0] for line in exporter.warnings()}
            assert len(exporter.warnings()) == len(failing)
    finally:
        postgresql.execute("REVOKE USAGE ON SEQUENCE orders_id_seq FROM coldchain_exporter")
    assert told == {
        ("gone", "relation \\"),
        ("many", "it makes more series than its 5000"),
        ("text", "the column n holds no number, as acme_text needs it"),
        ("twice", "more than one row for the same labels of acme_twice"),
        ("writes", "cannot execute nextval() in a read-only transaction"),
    }


def test_a_query_that_writes_is_refused_by_mariadb(tmp_path: Path, mariadb: MariaDB) -> None:
    mariadb.clear()
    mariadb.execute(
        "CREATE FUNCTION writes() RETURNS INT MODIFIES SQL DATA BEGIN INSERT INTO vehicle_temperature_logs (tid_id) "
        "VALUES ('x'); RETURN 1; END"
    )
    (tmp_path / "f.yaml").write_text("queries:\n" + query("writes", "SELECT writes() AS n"))
    writes = source(f"mysql://root@/dispatch?unix_socket={mariadb.socket}", tmp_path / "f.yaml")
    try:
        with pytest.raises(DatabaseError, match="Cannot execute statement in a READ ONLY transaction"):
            writes.collect(NOW, 5)
        assert mariadb.execute("SELECT count(*) FROM vehicle_temperature_logs") == [(0,)]
    finally:
        writes.close()
        mariadb.execute("DROP FUNCTION writes")


def test_queries_share_one_connection_and_say_so_when_it_is_not_free(tmp_path: Path, postgresql: PostgreSQL) -> None:
    names = ["q1", "q2"]
    settings = f"{QUICK}queries:\n" + "".join(query(name, "SELECT 1 AS n") for name in names)
    slow = query("slow", "SELECT 1 AS n FROM pg_sleep(9)", "    timeout: 12s\n")
    with running(tmp_path, settings, database_url=postgresql.url) as exporter:
        until(lambda: sum(exporter.up().values()) == 6, "all are up")
        assert exporter.connections(postgresql.port) == 5
        exporter.settings.write_text(settings + slow, encoding="utf-8")
        assert exporter.post("/-/reload").status_code == 200
        out = {"database": 1, "orders": 1, "dispatches": 1, "vehicles": 1} | dict.fromkeys(names, 0)
        until(lambda: exporter.up() == out, "the slow one keeps the others out")
        assert exporter.connections(postgresql.port) == 5
        (line,) = {re.sub("source=q.", "source=q", line) for line in exporter.warnings()}
        assert line == (
            'level=warning logger=exporter.outages msg="source failed" source=q error="no connection was free within '
            'the time-out: other queries hold those that all of them share" hint="coldchain_source_duration_seconds '
            'tells which take long; give those a longer interval or an index"'
        )
        until(lambda: sum(exporter.up().values()) == 7, "all are up, the slow one at its own pace")
        assert (exporter.value('coldchain_source_interval_seconds{source="slow"}') or 0) >= 90


def test_waiting_behind_a_slow_query_costs_the_others_nothing(tmp_path: Path, postgresql: PostgreSQL) -> None:
    settings = f"{QUICK}queries:\n" + query("quick", "SELECT 1 AS n FROM pg_sleep(0.05)", "    timeout: 5s\n")
    slow = query("slow", "SELECT 1 AS n FROM pg_sleep(3)", "    timeout: 4s\n")
    last = 'coldchain_source_last_success_timestamp_seconds{source="%s"}'
    with running(tmp_path, settings, database_url=postgresql.url) as exporter:
        until(lambda: sum(exporter.up().values()) == 5, "all are up")
        exporter.settings.write_text(settings + slow, encoding="utf-8")
        assert exporter.post("/-/reload").status_code == 200
        seen: set[tuple[float | None, float | None]] = set()

        def quick_after_slow() -> bool:
            series = exporter.series()
            duration = series.get('coldchain_source_duration_seconds{source="quick"}')
            waited = duration is not None and duration >= 2
            seen.add((float(waited), series.get('coldchain_source_interval_seconds{source="quick"}')))
            return series.get(last % "quick", 0) > series.get(last % "slow", math.inf) + 3

        until(quick_after_slow, "the quick one has had its turn after the slow one")
        assert exporter.warnings() == []
    assert {waited for waited, _ in seen} == {0}
    assert all(interval is not None and interval < 10 for _, interval in seen)


def test_connections_are_given_in_the_order_in_which_they_are_asked_for() -> None:
    shared, url = Shared(), parse_url("postgresql://nobody@127.0.0.1/nowhere")
    held = shared.take(url, 5, 5)
    order: list[int] = []

    def take(number: int) -> None:
        reader = shared.take(url, 5, 20)
        order.append(number)
        shared.give_back(url, reader)

    threads: list[threading.Thread] = []
    for number in range(5):
        threads.append(threading.Thread(target=take, args=(number,)))
        threads[-1].start()
        until(lambda: len(shared._waiting) == len(threads), "it waits")
    shared.give_back(url, held)
    for thread in threads:
        thread.join()
    assert order == [0, 1, 2, 3, 4]


def test_a_shared_connection_that_nobody_needs_within_a_minute_is_closed(postgresql: PostgreSQL) -> None:
    shared, url = Shared(), parse_url(postgresql.url)
    often, seldom = shared.reader(url, 5), shared.reader(url, 5)

    def sessions() -> int:
        rows = postgresql.execute("SELECT 1 FROM pg_stat_activity WHERE usename = 'coldchain_exporter'")
        return len(rows)

    until(lambda: sessions() == 0, "those of other tests are gone")
    for reader in (often, seldom):
        assert reader.read(lambda connection: connection.exec_driver_sql("SELECT 1").scalar(), 5) == 1
    assert sessions() == 1
    often.rest(50)
    seldom.rest(3600)
    assert sessions() == 1
    often.close()
    until(lambda: sessions() == 0, "it is closed")


def test_a_frozen_server_is_waited_for_by_one_query(tmp_path: Path, postgresql: PostgreSQL) -> None:
    settings = f"{QUICK}queries:\n" + "".join(query(f"q{number}", "SELECT 1 AS n") for number in range(4))
    with running(tmp_path, settings, database_url=postgresql.url) as exporter:
        until(lambda: sum(exporter.up().values()) == 8, "all are up")
        postgresql.freeze()
        try:
            until(lambda: sum(exporter.up().values()) == 0, "nothing is up")
            assert exporter.connections(postgresql.port) == 5
            threads = exporter.threads()
            lines = len(exporter.log())
            last = exporter.value("process_cpu_seconds_total")
            until(lambda: exporter.value("process_cpu_seconds_total") != last, "some seconds have passed")
            assert (exporter.connections(postgresql.port), exporter.threads()) == (5, threads)
            assert len(exporter.log()) <= lines + 1
        finally:
            postgresql.thaw()
        until(lambda: sum(exporter.up().values()) == 8, "all are back", 5)


def test_a_reload_adds_changes_and_removes_queries_and_leaves_the_others_alone(tmp_path: Path, sqlite: SQLite) -> None:
    def write(*queries: str) -> str:
        return f"{QUICK}queries:\n{''.join(queries)}"

    kept, old = query("kept", "SELECT 1 AS n"), query("old", "SELECT 1 AS n")
    changed = query("changed", "SELECT 1 AS n")
    with running(tmp_path, write(kept, old, changed), database_url=sqlite.url) as exporter:
        until(lambda: exporter.value("acme_old") == 1, "the queries are looked at")
        lines = write(kept.replace("interval", "interval"), changed.replace("SELECT 1", "SELECT 2"))
        exporter.settings.write_text(lines + query("new", "SELECT 3 AS n"), encoding="utf-8")
        assert exporter.post("/-/reload").status_code == 200
        assert exporter.value("acme_kept") == 1  # at once: it was never stopped
        until(lambda: exporter.value("acme_new") == 3 and exporter.value("acme_changed") == 2, "the new are there")
        assert exporter.value("acme_old") is None
        assert "old" not in exporter.up()

        exporter.settings.write_text(write(query("new", "SELECT 4 AS n"), "  broken: {}\n"), encoding="utf-8")
        answer = exporter.post("/-/reload")
        assert answer.status_code == 400
        assert "queries.broken.sql: Field required" in answer.text
        assert exporter.value("acme_new") == 3
        assert exporter.value("coldchain_config_last_reload_successful") == 0


def test_the_example_of_the_reference_works_as_it_stands(tmp_path: Path, postgresql: PostgreSQL) -> None:
    reference = (Path(sql.__file__).parent / "QUERIES.md").read_text(encoding="utf-8")
    (text,) = re.findall(r"```yaml\n(.*?)```", reference, re.DOTALL)
    (tmp_path / "f.yaml").write_text(text, encoding="utf-8")
    postgresql.execute("CREATE TABLE loadings (dock text, arrived_at timestamptz, loaded_at timestamptz)")
    arrived = [NOW - timedelta(hours=hours) for hours in (1, 2, 30)]
    try:
        postgresql.execute("GRANT SELECT ON loadings TO coldchain_exporter")
        for dock in ("A", "B"):
            for moment in arrived:
                postgresql.execute(
                    f"INSERT INTO loadings VALUES ('{dock}', '{moment}', '{moment + timedelta(hours=1)}')"
                )
        with closing(source(postgresql.url, tmp_path / "f.yaml")) as loading:
            found = {family.name: dict(family.samples) for family in loading.collect(NOW, 5)}
    finally:
        postgresql.execute("DROP TABLE loadings")
    assert found == {
        "acme_loading_arrived": {("A",): 2, ("B",): 2},
        "acme_loading_seconds_mean": {("A",): 3600, ("B",): 3600},
        "acme_loading_newest_timestamp_seconds": {(): arrived[0].timestamp()},
    }


def test_a_query_may_be_switched_off(sqlite: SQLite) -> None:
    loaded = load(ExporterSettings, environ={"DATABASE_URL": sqlite.url}, config_file=EXAMPLE)
    off = loaded.queries["vehicle_temperature"].model_copy(update={"enabled": False})
    settings = loaded.model_copy(update={"queries": {"vehicle_temperature": off}})
    assert [plan.name for plan in plans(settings)] == ["host", "database", "orders", "dispatches", "vehicles"]


@contextlib.contextmanager
def closing(what: Source) -> Iterator[Source]:
    try:
        yield what
    finally:
        what.close()


def test_naive_timestamps_compare_as_the_sites_clock_says(mariadb: MariaDB, tmp_path: Path) -> None:
    """Both kinds of MariaDB's timestamps, at a site in Seoul."""
    mariadb.execute("CREATE TABLE clocks (written datetime(6), kept timestamp(6) NULL)")
    wall = NOW.astimezone(SEOUL).replace(tzinfo=None)
    with mariadb.connect() as connection, connection.cursor() as cursor:
        cursor.execute("SET time_zone = '+09:00'")
        cursor.execute(f"INSERT INTO clocks VALUES ('{wall}', '{wall}')")
    (tmp_path / "f.yaml").write_text(
        "database_timezone: Asia/Seoul\nqueries:\n  clocks:\n    lookback: 1s\n"
        "    sql: SELECT written, kept FROM clocks WHERE written > :since AND written <= :now AND kept > :since "
        "AND kept <= :now\n    gauges:\n"
        "      - {name: acme_written_seconds, help: W., value: written}\n"
        "      - {name: acme_kept_seconds, help: K., value: kept}\n"
    )
    with closing(source(f"mysql://root@/dispatch?unix_socket={mariadb.socket}", tmp_path / "f.yaml")) as clocks:
        found = {family.name: family.value() for family in clocks.collect(NOW, 5)}
        assert found == {"acme_written_seconds": NOW.timestamp(), "acme_kept_seconds": NOW.timestamp()}
        assert [family.value() for family in clocks.collect(NOW + timedelta(seconds=1), 5)] == [None, None]
    mariadb.execute("DROP TABLE clocks")
