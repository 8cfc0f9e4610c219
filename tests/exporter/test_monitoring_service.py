"""`MonitoringService` with a SQLAlchemy session, on each database: exact, bounded, and no trace in the transaction."""

from __future__ import annotations

import functools
import shutil
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import psutil
import pytest
import sqlalchemy
from sqlalchemy.orm import Session

from exporter import MonitoringService, service
from exporter.settings import ExporterSettings
from tests.databases import MariaDB, PostgreSQL, SQLite, free_port

HOURS = timedelta(hours=1)
PROCFS = Path(__file__).parent / "procfs"
# status, age, time from created_at to updated_at; no age is near the edge of a window, for the clock is the real one
ORDERS = (
    ("PENDING", HOURS / 2, 0 * HOURS),
    ("PENDING", 3 * HOURS, 0 * HOURS),
    ("PENDING", 26 * HOURS, 0 * HOURS),
    ("PENDING", -24 * HOURS, 0 * HOURS),
    ("ASSIGNED", HOURS / 3, 0 * HOURS),
    ("IN_TRANSIT", 20 * HOURS, 0 * HOURS),
    ("DELIVERED", 5 * HOURS, 1.5 * HOURS),
    ("DELIVERED", 6 * HOURS, 4.5 * HOURS),
    ("DELIVERED", 7 * HOURS, -3 * HOURS),
    ("DELIVERED", 47 * HOURS, 1 * HOURS),
    ("CANCELLED", 200 * HOURS, 0 * HOURS),
    ("ON_HOLD", 2.5 * HOURS, 0 * HOURS),
)
# status, age, days until its date, distance
DISPATCHES = (
    ("IN_PROGRESS", 1.5 * HOURS, 2, "NULL"),
    ("IN_PROGRESS", 100 * HOURS, -3, "10"),
    ("CONFIRMED", 2 * HOURS, -3, "20.5"),
    ("COMPLETED", 3 * HOURS, 0, "0"),
    ("DRAFT", 30 * HOURS, 0, "100.3"),
    ("CANCELLED", -24 * HOURS, 0, "1000"),
)
VEHICLES = (
    ("AVAILABLE", "true"),
    ("AVAILABLE", "false"),
    ("IN_USE", "true"),
    ("IN_USE", "true"),
    ("EMERGENCY_MAINTENANCE", "true"),
    ("BREAKDOWN", "true"),
)

MORE = (
    "INSERT INTO orders (order_number, order_date, temperature_zone, status) "
    "VALUES ('M', '2026-01-27', 'FROZEN', 'ASSIGNED')"
)


class Service(MonitoringService):
    """Without the host, whose figures are this machine's."""

    settings = ExporterSettings.model_validate(
        {
            "sources": {"host": {"enabled": False}},
            "default_timeout": "2s",  # MariaDB waits for locks in whole seconds
            "thresholds": {"ColdChainOrdersWaiting": {"warning": 1}},
        }
    )


@dataclass(frozen=True)
class Site:
    """A database with a session's URL, and a way beside it."""

    url: str
    execute: Callable[[str], list[tuple[Any, ...]]]


def fill(site: Site) -> None:
    now = datetime.now(UTC)

    def write(moment: datetime) -> str:
        return moment.replace(tzinfo=None).isoformat(sep=" ") + ("+00" if "postgresql" in site.url else "")

    for table in ("orders", "dispatches", "vehicles"):
        site.execute(f"DELETE FROM {table}")
    rows = ", ".join(
        f"('O-{number}', '2026-01-27', 'FROZEN', '{status}', '{write(now - age)}', '{write(now - age + took)}')"
        for number, (status, age, took) in enumerate(ORDERS)
    )
    columns = "order_number, order_date, temperature_zone, status, created_at, updated_at"
    site.execute(f"INSERT INTO orders ({columns}) VALUES {rows}")
    rows = ", ".join(
        f"('D-{number}', '{(now + timedelta(days=days)).date()}', {distance}, '{status}', '{write(now - age)}')"
        for number, (status, age, days, distance) in enumerate(DISPATCHES)
    )
    columns = "dispatch_number, dispatch_date, total_distance_km, status, created_at"
    site.execute(f"INSERT INTO dispatches ({columns}) VALUES {rows}")
    rows = ", ".join(
        f"('V-{number}', 'P-{number}', 'FROZEN', '{status}', {active})"
        for number, (status, active) in enumerate(VEHICLES)
    )
    site.execute(f"INSERT INTO vehicles (code, plate_number, vehicle_type, status, is_active) VALUES {rows}")


@pytest.fixture
def postgresql_site(postgresql: PostgreSQL) -> Iterator[Site]:
    postgresql.execute("ALTER TYPE orderstatus ADD VALUE IF NOT EXISTS 'ON_HOLD'")
    postgresql.execute("ALTER TYPE vehiclestatus ADD VALUE IF NOT EXISTS 'EMERGENCY_MAINTENANCE'")
    url = f"postgresql+psycopg://owner@/dispatch?host={postgresql.folder}&port={postgresql.port}"
    yield Site(url, postgresql.execute)
    postgresql.clear()


@pytest.fixture
def mariadb_site(mariadb: MariaDB) -> Iterator[Site]:
    yield Site(f"mysql+pymysql://root@/dispatch?unix_socket={mariadb.socket}", mariadb.execute)
    mariadb.clear()


@pytest.fixture
def sqlite_site(sqlite: SQLite) -> Site:
    return Site(sqlite.url, sqlite.execute)


@pytest.fixture(params=["postgresql_site", "mariadb_site", "sqlite_site"])
def site(request: pytest.FixtureRequest) -> Site:
    found: Site = request.getfixturevalue(request.param)
    fill(found)
    return found


def session(url: str, **options: Any) -> Session:
    return Session(sqlalchemy.create_engine(url, poolclass=sqlalchemy.NullPool, **options))


@pytest.fixture
def db(site: Site) -> Iterator[Session]:
    found = session(site.url)
    yield found
    found.close()
    found.get_bind().engine.dispose()


# -- the guide's own tests ---------------------------------------------------------------------------------------------


def test_system_health(db: Session) -> None:
    health = MonitoringService.get_system_health(db)
    assert health["status"] in ["healthy", "degraded", "unhealthy"]
    assert "checks" in health
    assert "database" in health["checks"]
    assert "system_resources" in health["checks"]


def test_metrics(db: Session) -> None:
    metrics = MonitoringService.get_metrics(db, 24)
    assert "orders" in metrics
    assert "dispatches" in metrics
    assert "vehicles" in metrics
    assert "system" in metrics


def test_alerts(db: Session) -> None:
    alerts = MonitoringService.get_alerts(db)
    assert isinstance(alerts, list)
    for alert in alerts:
        assert "level" in alert
        assert alert["level"] in ["info", "warning", "critical"]


# -- exact -------------------------------------------------------------------------------------------------------------


def test_metrics_count_what_the_period_holds(db: Session) -> None:
    document = Service.get_metrics(db)
    assert document["orders"] == {
        "total": 8,
        "by_status": {"배차대기": 2, "배차완료": 1, "운송중": 1, "배송완료": 3, "취소": 0, "ON_HOLD": 1},
        "avg_processing_hours": 3.0,
        "completion_rate": 37.5,
    }
    assert document["dispatches"] == {
        "total": 3,
        "by_status": {"임시저장": 0, "확정": 1, "진행중": 1, "완료": 1, "취소": 0},
        "avg_distance_km": 10.25,
    }
    assert document["vehicles"] == {
        "total": 6,
        "available": 2,
        "in_use": 2,
        "maintenance": 2,
        "utilization_rate": 33.3,
    }
    assert document["system"] is None
    assert document.get("errors") == {"system": "the source is switched off"}


def test_metrics_of_other_periods(db: Session) -> None:
    orders = {hours: Service.get_metrics(db, period_hours=hours)["orders"] for hours in (1, 48, 168)}
    assert {hours: found and found["total"] for hours, found in orders.items()} == {1: 2, 48: 10, 168: 10}
    assert orders[48] is not None
    assert (orders[48]["avg_processing_hours"], orders[48]["completion_rate"]) == (2.33, 40.0)
    assert Service.get_metrics(db, 168)["dispatches"] == {
        "total": 5,
        "by_status": {"임시저장": 1, "확정": 1, "진행중": 2, "완료": 1, "취소": 0},
        "avg_distance_km": 32.7,
    }


def test_health_is_of_the_session(db: Session) -> None:
    document = Service.get_system_health(db)
    assert (document["status"], document["checks"]["database"]["status"]) == ("degraded", "healthy")
    assert (document["checks"]["database"]["response_time_ms"] or 0) > 0
    assert document["checks"]["application"] == {
        "status": "degraded",
        "recent_orders_24h": 8,
        "active_dispatches": 3,
        "active_vehicles": 3,
    }
    assert document["checks"]["system_resources"]["status"] == "unknown"


def test_alerts_follow_the_limits_of_the_class(db: Session) -> None:
    alerts = Service.get_alerts(db)
    assert [(alert["level"], alert["category"], alert["title"], alert["message"]) for alert in alerts] == [
        ("warning", "business", "배차 대기 주문 많음", "2시간 이상 배차 대기 중인 주문이 2건 있습니다")
    ]


@pytest.mark.parametrize("hours", [0, -1, 169, 24.0, "24", True, None])
def test_a_period_that_is_no_whole_number_in_range_is_refused_by_name(sqlite_site: Site, hours: Any) -> None:
    with (
        session(sqlite_site.url) as db,
        pytest.raises(ValueError, match="period_hours: must be a whole number from 1 to 168"),
    ):
        Service.get_metrics(db, hours)


# -- the caller's transaction ------------------------------------------------------------------------------------------


def test_what_the_caller_has_not_committed_is_seen_and_neither_committed_nor_lost(db: Session, site: Site) -> None:
    db.execute(sqlalchemy.text(MORE))
    Service.get_system_health(db)
    orders = Service.get_metrics(db)["orders"]
    assert orders is not None
    assert orders["by_status"]["배차완료"] == 2
    assert db.in_transaction()
    db.rollback()
    assert site.execute("SELECT count(*) FROM orders WHERE order_number = 'M'")[0][0] == 0
    db.execute(sqlalchemy.text(MORE))
    Service.get_alerts(db)
    db.commit()
    assert site.execute("SELECT count(*) FROM orders WHERE order_number = 'M'")[0][0] == 1


def test_a_missing_table_costs_its_own_figures_and_not_the_transaction(db: Session, site: Site) -> None:
    site.execute("ALTER TABLE vehicles RENAME TO elsewhere")
    try:
        db.execute(sqlalchemy.text(MORE))
        document = Service.get_metrics(db)
        assert document["vehicles"] is None
        assert "vehicles" in document.get("errors", {})
        assert document["orders"] is not None
        health = Service.get_system_health(db)["checks"]
        assert (health["application"]["status"], health["application"]["active_vehicles"]) == ("degraded", None)
        assert health["application"]["recent_orders_24h"] == 9
        db.commit()
    finally:
        db.close()
        site.execute("ALTER TABLE elsewhere RENAME TO vehicles")
    assert site.execute("SELECT count(*) FROM orders WHERE order_number = 'M'")[0][0] == 1


SETTINGS = {
    "postgresql": "SELECT name, setting FROM pg_settings WHERE name IN ('statement_timeout', 'lock_timeout', 'jit')",
    "mariadb": "SELECT @@max_statement_time, @@lock_wait_timeout, @@time_zone",
}


@pytest.mark.parametrize(
    ("kind", "lock"),
    [("postgresql", "LOCK TABLE orders IN ACCESS EXCLUSIVE MODE"), ("mariadb", "LOCK TABLES orders WRITE")],
)
def test_a_lock_is_waited_for_until_the_time_out_and_no_setting_stays(
    kind: str, lock: str, request: pytest.FixtureRequest
) -> None:
    site: Site = request.getfixturevalue(f"{kind}_site")
    fill(site)
    with session(site.url) as db, session(site.url) as other:
        if kind == "mariadb":
            db.execute(sqlalchemy.text("SET time_zone = '+09:00'"))
        before = db.execute(sqlalchemy.text(SETTINGS[kind])).all()
        other.execute(sqlalchemy.text(lock))
        document = Service.get_metrics(db)
        assert document["orders"] is None
        assert document.get("errors", {})["orders"].startswith("waited in vain for a lock that another session holds")
        assert document["dispatches"] is not None
        other.rollback()
        if kind == "mariadb":
            other.execute(sqlalchemy.text("UNLOCK TABLES"))
        assert db.execute(sqlalchemy.text(SETTINGS[kind])).all() == before
        assert Service.get_metrics(db)["orders"] is not None


def test_a_slow_query_is_ended_on_sqlite_and_the_session_goes_on(sqlite_site: Site) -> None:
    with session(sqlite_site.url) as db:
        db.execute(sqlalchemy.text("ALTER TABLE orders RENAME TO some_orders"))
        db.execute(
            sqlalchemy.text(
                "CREATE VIEW orders AS WITH RECURSIVE n(i) AS (SELECT 1 UNION ALL SELECT i + 1 FROM n) "
                "SELECT some_orders.* FROM n, some_orders"
            )
        )
        db.execute(sqlalchemy.text(MORE.replace("orders", "some_orders")))
        document = Service.get_metrics(db)
        assert document["orders"] is None
        assert "took longer than the 250 ms that a read may take" in document.get("errors", {})["orders"]
        count = "WITH RECURSIVE n(i) AS (SELECT 1 UNION ALL SELECT i + 1 FROM n LIMIT 3000000) SELECT count(*) FROM n"
        assert db.execute(sqlalchemy.text(count)).scalar_one() == 3_000_000  # takes longer, and is the caller's own
        db.commit()


def test_a_transaction_that_has_failed_before_is_no_reason_to_call_the_database_down(postgresql_site: Site) -> None:
    with session(postgresql_site.url) as db:
        with pytest.raises(sqlalchemy.exc.ProgrammingError):
            db.execute(sqlalchemy.text("SELECT nothing"))
        assert Service.get_alerts(db) == []
        assert Service.get_system_health(db)["checks"]["database"] == {
            "status": "degraded",
            "response_time_ms": None,
            "message": "Database state is not known",
            "error": "the session cannot be used: a statement of its transaction has failed before (roll it back)",
        }
        db.rollback()
        assert Service.get_system_health(db)["checks"]["database"]["status"] == "healthy"


def test_a_session_in_autocommit_mode_works_and_stays_in_it(postgresql_site: Site) -> None:
    fill(postgresql_site)
    with session(postgresql_site.url, isolation_level="AUTOCOMMIT") as db:
        found = Service.get_metrics(db)
        assert found["orders"] is not None
        assert "vehicles" not in found.get("errors", {})
        before = postgresql_site.execute("SHOW statement_timeout")
        assert db.execute(sqlalchemy.text("SHOW statement_timeout")).all() == before
        db.execute(sqlalchemy.text(MORE))
        assert postgresql_site.execute("SELECT count(*) FROM orders WHERE order_number = 'M'") == [(1,)]


@pytest.mark.parametrize("driver", ["postgresql+psycopg", "mysql+pymysql"])
def test_an_unreachable_database_is_unhealthy_and_raises_nothing(driver: str) -> None:
    with session(f"{driver}://user:hunter22@127.0.0.1:{free_port()}/dispatch") as db:
        document = Service.get_system_health(db)
        assert (document["status"], document["checks"]["database"]["status"]) == ("unhealthy", "unhealthy")
        assert document["checks"]["application"]["status"] == "degraded"
        assert "Connection refused" in document["checks"]["database"]["error"]
        assert "hunter22" not in str(document)
        assert [alert["title"] for alert in Service.get_alerts(db)] == ["데이터베이스 연결 실패"]
        assert Service.get_metrics(db)["orders"] is None


def test_a_connection_that_is_lost_meanwhile_is_an_unreachable_database(postgresql_site: Site) -> None:
    with session(postgresql_site.url) as db:
        [(pid,)] = db.execute(sqlalchemy.text("SELECT pg_backend_pid()")).all()
        postgresql_site.execute(f"SELECT pg_terminate_backend({pid}, 5000)")
        assert Service.get_system_health(db)["checks"]["database"]["status"] == "unhealthy"
        db.rollback()
        assert Service.get_system_health(db)["checks"]["database"]["status"] == "healthy"


def test_other_databases_are_refused_by_name() -> None:
    with session("sqlite://") as db:
        db.connection().dialect.name = "elsewhere"
        with pytest.raises(ValueError, match="not PostgreSQL, MariaDB, MySQL or SQLite, but elsewhere"):
            Service.get_metrics(db)


# -- the host ----------------------------------------------------------------------------------------------------------


def test_host_figures_need_no_sleep(sqlite_site: Site, monkeypatch: pytest.MonkeyPatch) -> None:
    def sleep(_seconds: float) -> None:
        raise AssertionError("it slept")

    monkeypatch.setattr(time, "sleep", sleep)
    with session(sqlite_site.url) as db:
        system = MonitoringService.get_metrics(db)["system"]
    assert system is not None
    assert system["cpu"]["count"] == psutil.cpu_count()
    assert system["memory"]["total_gb"] == round(psutil.virtual_memory().total / 2**30, 2)


def test_processor_usage_is_since_an_earlier_call(
    sqlite_site: Site, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    procfs = tmp_path / "proc"
    shutil.copytree(PROCFS, procfs)
    monkeypatch.setattr(psutil, "PROCFS_PATH", "/proc")  # put back at the end

    class Host(MonitoringService):
        settings = ExporterSettings.model_validate({"path": {"procfs": str(procfs)}})

    def usage(busy: int, idle: int) -> float | None:
        (procfs / "stat").write_text(f"cpu  {busy} 0 0 {idle} 0 0 0 0 0 0\ncpu0 0 0 0 0 0 0 0 0 0 0\n")
        with session(sqlite_site.url) as db:
            return Host.get_system_health(db)["checks"]["system_resources"]["cpu_percent"]

    assert usage(0, 0) is None
    assert usage(900, 100) is None  # too soon: nobody is alarmed by the share of a moment
    monkeypatch.setattr(service, "HOST_SECONDS", 0.0)
    monkeypatch.setattr(service, "_host", functools.lru_cache(service._Host))
    assert usage(0, 0) is None
    assert usage(953, 47) == 95.3


# -- the module --------------------------------------------------------------------------------------------------------


def test_the_import_brings_no_web_server_along() -> None:
    program = (
        "import sys; from exporter import MonitoringService; import threading; "
        "print(threading.active_count(), *sorted(sys.modules.keys() & "
        "{'starlette', 'uvicorn', 'prometheus_client', 'jinja2', 'psycopg', 'pymysql', 'httpx'}))"
    )
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True)
    assert done.stdout == "1\n"
