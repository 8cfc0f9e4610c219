"""The demo company: its rows, its rhythm, its backlogs and its commands."""

import re
import shutil
import signal
import sqlite3
import subprocess
import sys
from collections.abc import Iterator
from contextlib import closing
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest

from deploy.demo.company import SEOUL, Company, DemoError, Settings, connect, main, stamp

NOW = datetime(2026, 11, 22, 5, 0, tzinfo=UTC)


def opened(path: Path, settings: Settings | None = None, now: datetime = NOW) -> sqlite3.Connection:
    connection = connect(path, create=True)
    Company(connection, settings or Settings()).open(now)
    return connection


@pytest.fixture(scope="module")
def eight_days(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("company") / "company.db"
    opened(path).close()
    return path


@pytest.fixture
def path(eight_days: Path, tmp_path: Path) -> Path:
    return Path(shutil.copy(eight_days, tmp_path / "company.db"))


@pytest.fixture
def database(path: Path) -> Iterator[sqlite3.Connection]:
    with closing(connect(path)) as connection:
        yield connection


@pytest.fixture
def company(database: sqlite3.Connection) -> Company:
    return Company(database)


def statuses(database: sqlite3.Connection, table: str) -> dict[str, int]:
    return dict(database.execute(f"SELECT status, count(*) FROM {table} GROUP BY status").fetchall())


def one(database: sqlite3.Connection, query: str, *values: object) -> float:
    (found,) = database.execute(query, values).fetchone()
    assert isinstance(found, int | float)
    return found


# The past


def test_past_holds_eight_days_with_every_status(database: sqlite3.Connection) -> None:
    (first,) = database.execute("SELECT min(created_at) FROM orders").fetchone()
    assert stamp(NOW - timedelta(days=8)) <= first < stamp(NOW - timedelta(days=7, hours=20))
    assert set(statuses(database, "orders")) == {"PENDING", "ASSIGNED", "IN_TRANSIT", "DELIVERED", "CANCELLED"}
    assert {"CONFIRMED", "IN_PROGRESS", "COMPLETED", "CANCELLED"} <= set(statuses(database, "dispatches"))
    assert {"AVAILABLE", "IN_USE", "OUT_OF_SERVICE"} <= set(statuses(database, "vehicles"))


def test_times_are_written_as_sqlalchemy_writes_them(database: sqlite3.Connection) -> None:
    for table in ("orders", "dispatches", "vehicles", "vehicle_temperature_logs"):
        (text,) = database.execute(f"SELECT created_at FROM {table} LIMIT 1").fetchone()
        assert re.fullmatch(r"\d{4}-\d\d-\d\d \d\d:\d\d:\d\d\.\d{6}", text)


def test_ids_ascend_with_their_times(database: sqlite3.Connection) -> None:
    for table in ("orders", "dispatches"):
        times = [time for (time,) in database.execute(f"SELECT created_at FROM {table} ORDER BY id")]
        assert times == sorted(times)


def test_processing_takes_hours_and_trips_some_hundred_kilometres(database: sqlite3.Connection) -> None:
    days = one(
        database, "SELECT avg(julianday(updated_at) - julianday(created_at)) FROM orders WHERE status = 'DELIVERED'"
    )
    assert 3 < days * 24 < 9
    assert 200 < one(database, "SELECT avg(total_distance_km) FROM dispatches") < 400


def test_mornings_are_busier_than_nights(database: sqlite3.Connection) -> None:
    by_hour = [0] * 24
    for (text,) in database.execute("SELECT created_at FROM orders"):
        by_hour[datetime.fromisoformat(text).replace(tzinfo=UTC).astimezone(SEOUL).hour] += 1
    assert sum(by_hour[8:12]) > sum(by_hour[1:5]) * 1.15


def test_calm_company_is_within_every_limit_for_a_day(company: Company, database: sqlite3.Connection) -> None:
    for hours in range(0, 20, 2):
        now = NOW + timedelta(hours=hours)
        company.step(now)
        assert company.waiting(now) < 10
        assert statuses(database, "vehicles")["IN_USE"] / 50 > 0.30
        today = f"{now.astimezone(SEOUL):%Y-%m-%d}"
        late = "SELECT count(*) FROM dispatches WHERE status = 'IN_PROGRESS' AND dispatch_date < ?"
        assert one(database, late, today) <= 5


def test_vehicle_is_out_exactly_while_its_dispatch_is(database: sqlite3.Connection, company: Company) -> None:
    company.step(NOW + timedelta(hours=7))
    out = database.execute("SELECT id FROM vehicles WHERE status = 'IN_USE' ORDER BY id").fetchall()
    assert (
        out
        == database.execute(
            "SELECT vehicle_id FROM dispatches WHERE status = 'IN_PROGRESS' ORDER BY vehicle_id"
        ).fetchall()
    )


def test_temperatures_of_both_compartments_come_every_minute_and_old_ones_go(
    database: sqlite3.Connection, company: Company
) -> None:
    now = NOW + timedelta(hours=3)
    company.step(now)
    minutes = database.execute("SELECT DISTINCT created_at FROM vehicle_temperature_logs ORDER BY 1").fetchall()
    assert [minutes[0], minutes[-1]] == [(stamp(now - timedelta(hours=6)),), (stamp(now),)]
    assert len(minutes) == 361
    within = (
        "SELECT avg(temperature_a BETWEEN min_temp_celsius AND max_temp_celsius) FROM vehicle_temperature_logs l"
        " JOIN vehicles v ON v.id = l.vehicle_id"
    )
    assert 0.95 < one(database, within) <= 1


# Repeatability


def dump(connection: sqlite3.Connection) -> list[str]:
    return list(connection.iterdump())


def test_same_seed_and_clock_make_the_same_rows(tmp_path: Path, database: sqlite3.Connection) -> None:
    with closing(opened(tmp_path / "again.db")) as again:
        assert dump(again) == dump(database)


def test_another_seed_makes_other_rows(tmp_path: Path, database: sqlite3.Connection) -> None:
    with closing(opened(tmp_path / "other.db", Settings(seed=2))) as other:
        assert dump(other) != dump(database)


def test_stop_in_between_changes_nothing(path: Path, tmp_path: Path) -> None:
    later = NOW + timedelta(hours=10)
    other = Path(shutil.copy(path, tmp_path / "other.db"))
    with closing(connect(path)) as connection:
        for minutes in range(0, 601, 7):
            Company(connection).step(NOW + timedelta(minutes=minutes))
    with closing(opened(path, now=later)) as stopped, closing(opened(other, now=later)) as slept:
        assert dump(stopped) == dump(slept)


# Backlogs


def test_incident_makes_orders_wait_until_they_are_cleared(company: Company) -> None:
    before = company.waiting(NOW)
    assert company.incident(NOW, 14, timedelta(minutes=6)) == 14
    assert company.waiting(NOW) == before + 14
    company.step(NOW + timedelta(minutes=5, seconds=59))
    assert company.waiting(NOW + timedelta(minutes=6)) >= 14
    company.step(NOW + timedelta(minutes=6))
    assert company.waiting(NOW + timedelta(minutes=6)) <= 3


def test_orders_of_an_incident_are_delivered_in_the_end(company: Company, database: sqlite3.Connection) -> None:
    company.incident(NOW, 14, timedelta(minutes=6))
    held = [order for (order,) in database.execute("SELECT id FROM demo_events WHERE kind = 'release'")]
    company.step(NOW + timedelta(hours=16))
    marks = ", ".join("?" * len(held))
    ends = database.execute(f"SELECT DISTINCT status FROM orders WHERE id IN ({marks})", held).fetchall()
    assert ends == [("DELIVERED",)]


def test_resolve_clears_the_backlog_at_once(company: Company) -> None:
    company.incident(NOW, 14, timedelta(minutes=6))
    now = NOW + timedelta(minutes=1)
    before, after = company.resolve(now)
    assert before >= 14
    assert after <= 3


def test_backlog_comes_by_itself_and_is_cleared(tmp_path: Path) -> None:
    with closing(opened(tmp_path / "company.db", Settings(backlog_every=10))) as connection:
        company = Company(connection)
        waiting = []
        for hours in range(30):
            now = NOW + timedelta(hours=hours)
            company.step(now)
            waiting.append(company.waiting(now))
    worst = waiting.index(max(waiting))
    assert waiting[worst] > 10
    assert min(waiting[:worst]) < 5
    assert min(waiting[worst:]) < 5


def test_company_told_to_have_none_has_no_backlog(tmp_path: Path) -> None:
    with closing(opened(tmp_path / "company.db", Settings(backlog_every=0))) as connection:
        assert one(connection, "SELECT count(*) FROM demo_events WHERE kind IN ('dock', 'reopen')") == 0


@pytest.mark.parametrize(("faster", "times"), [(Settings(orders_per_hour=56), 4), (Settings(speed=4), 4)])
def test_rates_follow_the_flags(path: Path, faster: Settings, times: int) -> None:
    with closing(opened(path, faster)) as connection:
        Company(connection).step(NOW + timedelta(hours=12))
        orders = one(connection, "SELECT count(*) FROM orders WHERE created_at > ?", stamp(NOW))
    assert 0.8 < orders / (14 * 12 * times) < 1.2


# The file and the commands


def test_reader_is_not_held_up_by_the_writer(path: Path, database: sqlite3.Connection) -> None:
    before = one(database, "SELECT count(*) FROM orders")
    with closing(sqlite3.connect(f"file:{path}?mode=ro", uri=True, timeout=0)) as reader:
        database.execute("BEGIN IMMEDIATE")
        database.execute("DELETE FROM orders")
        assert one(reader, "SELECT count(*) FROM orders") == before
        database.execute("ROLLBACK")


def test_database_of_somebody_else_is_left_alone(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    path = tmp_path / "production.db"
    with closing(sqlite3.connect(path)) as connection:
        connection.execute("CREATE TABLE orders (id INTEGER PRIMARY KEY)")
    before = path.read_bytes()
    assert main(["run", "--database", str(path)]) == 1
    assert capsys.readouterr().err == f"company: {path} is not a demo company's; nothing was changed\n"
    assert path.read_bytes() == before


@pytest.mark.parametrize("command", ["incident", "resolve"])
def test_missing_file_is_named_with_what_to_do(
    tmp_path: Path, command: str, capsys: pytest.CaptureFixture[str]
) -> None:
    path = tmp_path / "company.db"
    assert main([command, "--database", str(path)]) == 1
    assert capsys.readouterr().err == (f"company: {path} does not exist: start the company first, with `make up`\n")


def test_file_that_is_no_database_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "notes.txt"
    path.write_text("not a database, only some words that are longer than a header " * 20)
    with pytest.raises(DemoError, match="file is not a database"):
        connect(path)


def command(*arguments: str) -> list[str]:
    return [sys.executable, "-m", "deploy.demo.company", *arguments]


def test_company_runs_has_an_incident_and_ends_on_a_signal(tmp_path: Path) -> None:
    path = str(tmp_path / "company.db")
    with subprocess.Popen(command("run", "--database", path), stderr=subprocess.PIPE, text=True) as process:
        assert process.stderr is not None
        assert "회사가 문을 열었습니다" in process.stderr.readline()
        said = subprocess.run(
            command("incident", "--database", path), capture_output=True, text=True, timeout=30, check=True
        ).stdout
        assert said.startswith("주문 14건이 배차 대기로 돌아갔습니다.")
        assert "6분 뒤" in said
        said = subprocess.run(
            command("resolve", "--database", path), capture_output=True, text=True, timeout=30, check=True
        ).stdout
        assert re.search(r"주문 1\d건 가운데 1\d건을 배차했습니다", said)
        process.send_signal(signal.SIGTERM)
        assert process.wait(30) == 0
        assert "회사가 문을 닫았습니다" in process.stderr.read()
