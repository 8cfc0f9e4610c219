"""Every number equals what SQL written by hand gives, on each database, however a site keeps its time."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from datetime import UTC, date, datetime, timedelta
from pathlib import Path
from typing import Any
from zoneinfo import ZoneInfo

import psycopg
import pymysql
import pytest
from pydantic import SecretStr

from exporter.settings import ExporterSettings
from exporter.sources import plans
from tests.databases import MariaDB, PostgreSQL, SQLite
from tests.exporter.awkward import NOW, Site, close, expected, fill

BERLIN, SEOUL, NEW_YORK = ZoneInfo("Europe/Berlin"), ZoneInfo("Asia/Seoul"), ZoneInfo("America/New_York")
Execute = Callable[[str], list[tuple[Any, ...]]]
UTC_ZONE = ZoneInfo("UTC")
POSTGRESQL_SECONDS = "extract(epoch FROM {end} - {start})"
MARIADB_SECONDS = "(unix_timestamp({end}) - unix_timestamp({start}))"
SQLITE_SECONDS = (
    "(strftime('%s', {end}) - strftime('%s', {start}) + substr(strftime('%f', {end}), 3) "
    "- substr(strftime('%f', {start}), 3))"
)
SQLITE_COMPARE = "julianday({column}) {operator} julianday('{moment}')"


def series(site: Site, now: datetime, *, timezone: ZoneInfo = SEOUL, **settings: object) -> dict[str, float]:
    """What the sources of orders, dispatches and vehicles find at `now`, as on /metrics."""
    chosen = ExporterSettings.model_validate(
        {
            "database_url": SecretStr(site.url),
            # of no matter where columns say for themselves that they are UTC
            "database_timezone": NEW_YORK if site.zone in {None, UTC_ZONE} and "sqlite" not in site.url else site.zone,
            "timezone": timezone,
            **settings,
        }
    )
    found = {}
    for plan in plans(chosen):
        if plan.name in {"orders", "dispatches", "vehicles"}:
            source = plan.make()
            for family in source.collect(now, 5):
                for values, value in family.samples.items() if family.exported else ():
                    labels = ",".join(f'{name}="{label}"' for name, label in zip(family.labels, values, strict=True))
                    found[f"{family.name}{{{labels}}}" if labels else family.name] = value
            source.close()
    return found


def postgresql_execute(connection: psycopg.Connection[tuple[Any, ...]]) -> Execute:
    def execute(sql: str) -> list[tuple[Any, ...]]:
        cursor = connection.execute(sql.encode())
        return cursor.fetchall() if cursor.description else []

    return execute


def mariadb_execute(connection: pymysql.Connection[Any]) -> Execute:
    def execute(sql: str) -> list[tuple[Any, ...]]:
        with connection.cursor() as cursor:
            cursor.execute(sql)
            return list(cursor.fetchall())

    execute("SET time_zone = '+00:00'")
    return execute


@pytest.fixture
def postgresql_site(postgresql: PostgreSQL) -> Iterator[Site]:
    postgresql.execute("ALTER TYPE orderstatus ADD VALUE IF NOT EXISTS 'ON_HOLD'")
    postgresql.execute("ALTER TYPE vehiclestatus ADD VALUE IF NOT EXISTS 'EMERGENCY_MAINTENANCE'")
    with postgresql.connect() as connection:
        yield Site(postgresql.url, postgresql_execute(connection), None, POSTGRESQL_SECONDS)
    postgresql.clear()


@pytest.fixture
def postgresql_naive_site(postgresql: PostgreSQL) -> Iterator[Site]:
    """A site whose timestamps lost their zone, and its enums their type, when it moved to PostgreSQL."""
    with postgresql.connect() as connection:
        execute = postgresql_execute(connection)
        execute("CREATE SCHEMA naive; GRANT USAGE ON SCHEMA naive TO coldchain_exporter; SET search_path = naive")
        for table in ("orders", "dispatches", "vehicles"):
            execute(f"CREATE TABLE {table} (LIKE public.{table} INCLUDING DEFAULTS INCLUDING INDEXES)")
            execute(f"ALTER TABLE {table} ALTER created_at TYPE timestamp, ALTER updated_at TYPE timestamp")
            execute(f"ALTER TABLE {table} ALTER status TYPE text")
            execute(f"GRANT SELECT ON {table} TO coldchain_exporter")
        yield Site(f"{postgresql.url}?options=-csearch_path%3Dnaive", execute, BERLIN, POSTGRESQL_SECONDS)
        execute("DROP SCHEMA naive CASCADE")


@pytest.fixture
def mariadb_site(mariadb: MariaDB) -> Iterator[Site]:
    with mariadb.connect() as connection:
        yield Site(mariadb.url, mariadb_execute(connection), SEOUL, MARIADB_SECONDS)
    mariadb.clear()


@pytest.fixture
def mariadb_native_site(mariadb: MariaDB) -> Iterator[Site]:
    """A site with MariaDB's own ENUM and TIMESTAMP, which the server keeps in UTC."""
    mariadb.execute("CREATE DATABASE native CHARACTER SET utf8mb4", database="mysql")
    with mariadb.connect("native") as connection:
        execute = mariadb_execute(connection)
        for table in ("orders", "dispatches", "vehicles"):
            execute(f"CREATE TABLE {table} LIKE dispatch.{table}")
            for column in ("created_at", "updated_at"):
                execute(f"ALTER TABLE {table} MODIFY {column} timestamp(6) NOT NULL DEFAULT now(6)")
        words = "'PENDING', 'ASSIGNED', 'IN_TRANSIT', 'DELIVERED', 'CANCELLED', 'ON_HOLD'"
        execute(f"ALTER TABLE orders MODIFY status ENUM ({words}) NOT NULL")
        yield Site(f"mysql://root@/native?unix_socket={mariadb.socket}", execute, UTC_ZONE, MARIADB_SECONDS)
        execute("DROP DATABASE native")


@pytest.fixture
def sqlite_site(sqlite: SQLite) -> Site:
    return Site(sqlite.url, sqlite.execute, UTC_ZONE, SQLITE_SECONDS, SQLITE_COMPARE)


@pytest.fixture
def sqlite_berlin_site(tmp_path: Path) -> Site:
    database = SQLite(tmp_path / "berlin.db")
    return Site(database.url, database.execute, BERLIN, SQLITE_SECONDS, SQLITE_COMPARE)


SITES = (
    "postgresql_site", "postgresql_naive_site", "mariadb_site", "mariadb_native_site", "sqlite_site",
    "sqlite_berlin_site",
)  # fmt: skip


@pytest.fixture(params=SITES)
def site(request: pytest.FixtureRequest) -> Site:
    found: Site = request.getfixturevalue(request.param)
    return found


def differences(found: dict[str, float], wanted: dict[str, float]) -> dict[str, tuple[float | None, float | None]]:
    """The series that differ, with both values; None where there is none."""
    return {
        name: (found.get(name), wanted.get(name))
        for name in found.keys() | wanted.keys()
        if name not in found or name not in wanted or not close(found[name], float(wanted[name]))
    }


def test_awkward_rows_count_as_hand_written_sql_counts_them(site: Site) -> None:
    fill(site, NOW)
    found = series(site, NOW)
    assert differences(found, expected(site, NOW, today=date(2026, 1, 28))) == {}
    # the hand-written SQL has something to say: rows on both sides of every edge
    assert found['coldchain_orders{window="1h",status="pending"}'] == 4
    assert found['coldchain_orders{window="24h",status="on_hold"}'] == 11
    assert found['coldchain_orders{window="168h",status="delivered"}'] == 14
    assert found["coldchain_orders_waiting"] == 8
    assert found["coldchain_orders_newest_timestamp_seconds"] == NOW.timestamp()
    assert found["coldchain_dispatches_overdue"] == 12


def test_empty_tables_show_zeros_and_no_means(site: Site) -> None:
    for statement in site.drop_rows:
        site.execute(statement)
    found = series(site, NOW)
    unknown = {f'coldchain_orders{{window="{hours}h",status="on_hold"}}': 0.0 for hours in (1, 24, 168)}
    assert differences(unknown | found, expected(site, NOW, today=date(2026, 1, 28))) == {}
    assert set(found.values()) == {0.0}


@pytest.mark.parametrize(
    ("now", "today"),
    [
        # New York's clock was put forward that night, Berlin's three weeks later
        (datetime(2026, 3, 8, 12, tzinfo=UTC), date(2026, 3, 8)),
        (datetime(2026, 3, 29, 12, tzinfo=UTC), date(2026, 3, 29)),
        # still Saturday in New York while it is Sunday in Berlin
        (datetime(2026, 10, 25, 3, 30, tzinfo=UTC), date(2026, 10, 24)),
    ],
)
def test_windows_are_true_hours_where_clocks_are_put_forward_and_back(
    sqlite_berlin_site: Site, now: datetime, today: date
) -> None:
    fill(sqlite_berlin_site, now)
    found = series(sqlite_berlin_site, now, timezone=NEW_YORK)
    wanted = expected(sqlite_berlin_site, now, today=today)
    wanted |= true_means(sqlite_berlin_site, now)  # SQL by hand takes the clock on the wall for the time that passed
    assert differences(found, wanted) == {}


def true_means(site: Site, now: datetime) -> dict[str, float]:
    """Processing times by the calendar of the site, without SQL."""

    def moment(text: str) -> datetime:
        return datetime.fromisoformat(text).replace(tzinfo=site.zone, fold=1).astimezone(UTC)

    rows = site.execute("SELECT created_at, updated_at FROM orders WHERE status = 'DELIVERED'")
    pairs = [(moment(created), moment(updated)) for created, updated in rows]
    means = {}
    for hours in (1, 24, 168):
        took = [
            (updated - created).total_seconds()
            for created, updated in pairs
            if now - timedelta(hours=hours) <= created <= now and updated >= created
        ]
        means[f'coldchain_orders_processing_seconds_mean{{window="{hours}h"}}'] = sum(took) / len(took)
    return means


@pytest.mark.parametrize("name", ["postgresql_naive_site", "mariadb_site", "sqlite_berlin_site"])
@pytest.mark.parametrize(
    ("created", "updated", "seconds"),
    [
        ("2026-03-29 01:59:59", "2026-03-29 03:00:00", 1),  # put forward that night, from 02:00 to 03:00
        ("2026-03-28 12:00:00", "2026-03-29 12:00:00", 23 * 3600),
        ("2026-03-29 03:00:00", "2026-03-29 12:00:00", 9 * 3600),
    ],
)
def test_an_order_took_as_long_as_it_did_over_a_change_of_clocks(
    request: pytest.FixtureRequest, name: str, created: str, updated: str, seconds: float
) -> None:
    site: Site = request.getfixturevalue(name)
    site.execute(
        "INSERT INTO orders (order_number, order_date, temperature_zone, status, created_at, updated_at) "
        f"VALUES ('O', '2026-03-29', 'FROZEN', 'DELIVERED', '{created}', '{updated}')"
    )
    found = series(site, datetime(2026, 3, 30, 12, tzinfo=UTC), database_timezone=BERLIN)
    assert found['coldchain_orders_processing_seconds_mean{window="168h"}'] == seconds


def test_orders_of_a_repeated_hour_are_not_taken_for_an_hour_old(sqlite_berlin_site: Site) -> None:
    now = datetime(2026, 10, 25, 1, 15, tzinfo=UTC)  # 02:15 in Berlin, for the second time
    sqlite_berlin_site.execute(
        "INSERT INTO orders (order_number, order_date, temperature_zone, status, created_at, updated_at) "
        "VALUES ('O', '2026-10-25', 'FROZEN', 'PENDING', '2026-10-25 02:10:00', '2026-10-25 02:10:00')"
    )
    found = series(sqlite_berlin_site, now)
    assert found["coldchain_orders_oldest_waiting_seconds"] == 300
    assert found["coldchain_orders_newest_timestamp_seconds"] == (now - timedelta(minutes=5)).timestamp()


def test_newest_order_is_found_when_every_window_is_empty(site: Site) -> None:
    for statement in site.drop_rows:
        site.execute(statement)
    long_ago = NOW - timedelta(days=90)
    for number, moment in enumerate((long_ago, long_ago - timedelta(minutes=5), NOW + timedelta(days=1))):
        site.execute(
            "INSERT INTO orders (order_number, order_date, temperature_zone, status, created_at, updated_at) VALUES "
            f"('N-{number}', '2026-01-27', 'FROZEN', 'DELIVERED', '{site.write(moment)}', '{site.write(moment)}')"
        )
    assert series(site, NOW)["coldchain_orders_newest_timestamp_seconds"] == long_ago.timestamp()


def test_sqlite_orders_written_without_fractions_count_alike(sqlite_site: Site) -> None:
    now = NOW + timedelta(microseconds=500_000)
    for number, written in enumerate(("2026-01-27 16:30:00", "2026-01-27 15:30:00", "2026-01-27 15:30:01")):
        sqlite_site.execute(
            "INSERT INTO orders (order_number, order_date, temperature_zone, status, created_at, updated_at) VALUES "
            f"('F-{number}', '2026-01-27', 'FROZEN', 'ASSIGNED', '{written}', '{written}')"
        )
    assert series(sqlite_site, now)['coldchain_orders{window="1h",status="assigned"}'] == 2
    assert series(sqlite_site, NOW)['coldchain_orders{window="1h",status="assigned"}'] == 3


def test_night_runs_have_their_grace_before_they_are_overdue(sqlite_site: Site) -> None:
    sqlite_site.execute(
        "INSERT INTO dispatches (dispatch_number, dispatch_date, status) VALUES ('D', '2026-01-27', 'IN_PROGRESS')"
    )
    half_past_one_in_seoul = NOW
    assert series(sqlite_site, half_past_one_in_seoul)["coldchain_dispatches_overdue"] == 1
    grace = timedelta(hours=1, minutes=31)
    assert series(sqlite_site, NOW, dispatches_overdue_after=grace)["coldchain_dispatches_overdue"] == 0
    assert series(sqlite_site, NOW, timezone=NEW_YORK)["coldchain_dispatches_overdue"] == 0


def test_an_unknown_status_comes_and_goes_with_its_rows(postgresql: PostgreSQL) -> None:
    postgresql.clear()
    settings = ExporterSettings.model_validate({"database_url": SecretStr(postgresql.url)})
    plan = next(plan for plan in plans(settings) if plan.name == "vehicles")
    source = plan.make()

    def statuses() -> dict[str, float]:
        return {labels[0]: value for labels, value in source.collect(NOW, 5)[0].samples.items() if value}

    assert statuses() == {}
    postgresql.execute("ALTER TYPE vehiclestatus ADD VALUE IF NOT EXISTS 'LEASED'")
    postgresql.execute(
        "INSERT INTO vehicles (code, plate_number, vehicle_type, status, is_active) "
        "VALUES ('1', '1', 'DUAL', 'LEASED', true)"
    )
    assert statuses() == {"leased": 1}
    postgresql.execute("DELETE FROM vehicles")
    assert statuses() == {}
    assert source.collect(NOW, 5)[0].value("leased") == 0  # a word of the enum by now, like the others
    source.close()
    postgresql.clear()


def test_a_status_that_leaves_a_text_column_leaves_no_series(sqlite_site: Site) -> None:
    sqlite_site.execute(
        "INSERT INTO vehicles (code, plate_number, vehicle_type, status, is_active) "
        "VALUES ('1', '1', 'DUAL', 'Leased', 1)"
    )
    assert series(sqlite_site, NOW)['coldchain_vehicles{status="leased"}'] == 1
    sqlite_site.execute("DELETE FROM vehicles")
    assert 'coldchain_vehicles{status="leased"}' not in series(sqlite_site, NOW)


def test_statuses_that_differ_in_case_alone_are_one_series(sqlite_site: Site) -> None:
    for number, status in enumerate(("AVAILABLE", "available")):
        sqlite_site.execute(
            "INSERT INTO vehicles (code, plate_number, vehicle_type, status, is_active) "
            f"VALUES ('{number}', '{number}', 'DUAL', '{status}', 1)"
        )
    assert series(sqlite_site, NOW)['coldchain_vehicles{status="available"}'] == 2
