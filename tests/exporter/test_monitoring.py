"""What the guide's documents say: the guide's own examples, and every state that a source can be in."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import replace
from datetime import timedelta
from typing import Any
from zoneinfo import ZoneInfo

import pytest

from exporter import monitoring
from exporter.limits import Alert, Thresholds, judge
from exporter.metrics import families as exported
from exporter.periods import Answer
from exporter.settings import ExporterSettings
from exporter.snapshot import Snapshot, SourceState
from tests.exporter.snapshots import MOMENT, NOW, STATES, failing, found, snapshot, stale

LATER = MOMENT + timedelta(hours=1)
AT = "2026-01-27T22:00:00+09:00"
LATE = {"coldchain_dispatches_overdue": 6.0}


def settings(**values: Any) -> ExporterSettings:
    return ExporterSettings.model_validate(values)


def health(of: Snapshot, now: float = NOW) -> Any:
    return monitoring.health(of, now, LATER)


def metrics(of: Snapshot, hours: int = 24, now: float = NOW) -> Any:
    return monitoring.metrics(of, hours, monitoring.present(of, now), now, LATER)


def statuses(of: Snapshot, now: float = NOW) -> tuple[str, str, str, str]:
    """Of all, the database, the host and the application."""
    document = health(of, now)
    checks = document["checks"]
    return document["status"], *(checks[name]["status"] for name in ("database", "system_resources", "application"))


def test_a_look_that_runs_has_failed_when_its_time_out_is_over_and_not_before() -> None:
    first = SourceState("orders", interval=15, timeout=5, running_since=NOW)
    later = replace(first, duration=0.1, fresh_until=NOW + 60)
    found = [(of.up(at), of.trouble(at)) for of in (first, later) for at in (NOW, NOW + 4.9, NOW + 5)]
    over = (False, "no answer within the time-out")
    assert found == [(None, "not looked at yet")] * 2 + [over] + [(True, None)] * 2 + [over]


# -- the guide's examples ----------------------------------------------------------------------------------------------


def test_health_is_the_guides() -> None:
    assert health(snapshot()) == {
        "status": "healthy",
        "timestamp": AT,
        "checks": {
            "database": {"status": "healthy", "response_time_ms": 45.23, "message": "Database connection OK"},
            "system_resources": {
                "status": "healthy",
                "cpu_percent": 25.3,
                "memory_percent": 45.6,
                "disk_percent": 62.0,
                "memory_available_gb": 8.7,
                "disk_free_gb": 189.8,
            },
            "application": {
                "status": "healthy",
                "recent_orders_24h": 145,
                "active_dispatches": 23,
                "active_vehicles": 45,
            },
        },
    }


def test_metrics_are_the_guides() -> None:
    assert metrics(snapshot()) == {
        "period_hours": 24,
        "timestamp": AT,
        "orders": {
            "total": 145,
            "by_status": {"배차대기": 12, "배차완료": 45, "운송중": 38, "배송완료": 48, "취소": 2},
            "avg_processing_hours": 6.5,
            "completion_rate": 33.1,
        },
        "dispatches": {
            "total": 67,
            "by_status": {"임시저장": 5, "확정": 20, "진행중": 30, "완료": 12, "취소": 0},
            "avg_distance_km": 42.5,
        },
        "vehicles": {"total": 50, "available": 27, "in_use": 20, "maintenance": 3, "utilization_rate": 40.0},
        "system": {
            "cpu": {"percent": 25.3, "count": 8},
            "memory": {"total_gb": 16.0, "used_gb": 7.3, "available_gb": 8.7, "percent": 45.6},
            "disk": {"total_gb": 500.0, "used_gb": 310.2, "free_gb": 189.8, "percent": 62.0},
            "network": {"bytes_sent_mb": 1250.45, "bytes_recv_mb": 2340.67},
        },
    }


THREE_ALERTS = snapshot(
    host={"coldchain_host_cpu_usage_ratio": 0.753},
    orders={"coldchain_orders_waiting": 12},
    vehicles={"coldchain_vehicles_utilization_ratio": 0.285},
)


def test_alerts_are_the_guides() -> None:
    assert monitoring.alerts(THREE_ALERTS, NOW, LATER) == {
        "total": 3,
        "alerts": [
            {
                "level": "warning",
                "category": "system",
                "title": "CPU 사용률 주의",
                "message": "CPU 사용률이 75.3%입니다",
                "timestamp": AT,
            },
            {
                "level": "warning",
                "category": "business",
                "title": "배차 대기 주문 많음",
                "message": "2시간 이상 배차 대기 중인 주문이 12건 있습니다",
                "timestamp": AT,
            },
            {
                "level": "info",
                "category": "business",
                "title": "차량 활용률 낮음",
                "message": "차량 활용률이 28.5%로 낮습니다",
                "timestamp": AT,
            },
        ],
    }


def test_the_dashboard_is_the_guides() -> None:
    assert monitoring.dashboard(THREE_ALERTS, NOW, LATER) == {
        "timestamp": AT,
        "health": {"status": "degraded", "database": "healthy", "resources": "degraded", "application": "degraded"},
        "metrics": {
            "orders_24h": 145,
            "active_dispatches": 23,
            "vehicle_utilization": 28.5,
            "cpu_percent": 75.3,
            "memory_percent": 45.6,
            "disk_percent": 62.0,
        },
        "alerts": {
            "total": 3,
            "by_level": {"critical": 0, "warning": 2, "info": 1},
            "recent": monitoring.alerts(THREE_ALERTS, NOW, LATER)["alerts"],
        },
    }


# -- limits ------------------------------------------------------------------------------------------------------------


def named(found: tuple[Alert, ...]) -> list[tuple[str, str]]:
    return [(alert.name, alert.severity) for alert in found]


@pytest.mark.parametrize(
    ("source", "figures", "expected"),
    [
        ("host", {"coldchain_host_cpu_usage_ratio": 0.7}, []),
        ("host", {"coldchain_host_cpu_usage_ratio": math.nextafter(0.7, 1)}, [("ColdChainCpuHigh", "warning")]),
        ("host", {"coldchain_host_cpu_usage_ratio": 0.9}, [("ColdChainCpuHigh", "warning")]),
        ("host", {"coldchain_host_cpu_usage_ratio": 0.901}, [("ColdChainCpuHigh", "critical")]),
        ("host", {"coldchain_host_cpu_usage_ratio": {}}, []),
        ("host", {"coldchain_host_memory_usage_ratio": 0.7}, []),
        ("host", {"coldchain_host_memory_usage_ratio": 0.71}, [("ColdChainMemoryHigh", "warning")]),
        ("host", {"coldchain_host_memory_usage_ratio": 0.91}, [("ColdChainMemoryHigh", "critical")]),
        ("host", {"coldchain_host_filesystem_usage_ratio": {("/",): 0.8}}, []),
        ("host", {"coldchain_host_filesystem_usage_ratio": {("/",): 0.81}}, [("ColdChainDiskHigh", "warning")]),
        ("host", {"coldchain_host_filesystem_usage_ratio": {("/",): 0.91}}, [("ColdChainDiskHigh", "critical")]),
        ("database", {"coldchain_database_response_seconds": 0.5}, []),
        ("database", {"coldchain_database_response_seconds": 0.501}, [("ColdChainDatabaseSlow", "warning")]),
        ("database", {"coldchain_database_response_seconds": 1.0}, [("ColdChainDatabaseSlow", "warning")]),
        ("database", {"coldchain_database_response_seconds": 1.001}, [("ColdChainDatabaseSlow", "critical")]),
        ("orders", {"coldchain_orders_waiting": 10}, []),
        ("orders", {"coldchain_orders_waiting": 11}, [("ColdChainOrdersWaiting", "warning")]),
        ("dispatches", {"coldchain_dispatches_overdue": 5}, []),
        ("dispatches", {"coldchain_dispatches_overdue": 6}, [("ColdChainDispatchesOverdue", "warning")]),
        ("vehicles", {"coldchain_vehicles_utilization_ratio": 0.3}, []),
        ("vehicles", {"coldchain_vehicles_utilization_ratio": 0.299}, [("ColdChainVehicleUtilizationLow", "info")]),
        ("vehicles", {"coldchain_vehicles_utilization_ratio": 0}, [("ColdChainVehicleUtilizationLow", "info")]),
        ("vehicles", {"coldchain_vehicles_utilization_ratio": {}}, []),
    ],
)
def test_a_limit_is_passed_by_more_than_itself(
    source: str, figures: Mapping[str, Any], expected: list[tuple[str, str]]
) -> None:
    assert named(judge(snapshot(**{source: figures}), Thresholds(), NOW)) == expected


def test_each_disk_is_a_cause_of_its_own_and_the_gravest_comes_first() -> None:
    disks = {("/",): 0.85, ("/data",): 0.95, ("/var",): 0.5}
    of = snapshot(host={"coldchain_host_filesystem_usage_ratio": disks}, orders={"coldchain_orders_waiting": 11})
    assert [(a["level"], a["title"], a["message"]) for a in monitoring.alerts(of, NOW, LATER)["alerts"]] == [
        ("critical", "디스크 공간 부족", "디스크(/data) 사용률이 95.0%로 매우 높습니다"),
        ("warning", "디스크 사용률 주의", "디스크(/) 사용률이 85.0%입니다"),
        ("warning", "배차 대기 주문 많음", "2시간 이상 배차 대기 중인 주문이 11건 있습니다"),
    ]


@pytest.mark.parametrize(
    ("source", "gauge", "value", "title", "message"),
    [
        ("host", "host_cpu_usage_ratio", 0.953, "CPU 사용률 높음", "CPU 사용률이 95.3%로 매우 높습니다"),
        ("host", "host_memory_usage_ratio", 0.712, "메모리 사용률 주의", "메모리 사용률이 71.2%입니다"),
        ("host", "host_memory_usage_ratio", 0.912, "메모리 부족", "메모리 사용률이 91.2%로 매우 높습니다"),
        (
            "database",
            "database_response_seconds",
            0.75,
            "데이터베이스 응답 지연",
            "데이터베이스 응답 시간이 750ms입니다",
        ),
        (
            "database",
            "database_response_seconds",
            1.5,
            "데이터베이스 응답 느림",
            "데이터베이스 응답 시간이 1500ms로 매우 느립니다",
        ),
        ("dispatches", "dispatches_overdue", 6, "지연된 배차 발견", "예정일을 넘긴 진행 중 배차가 6건 있습니다"),
    ],
)
def test_the_words_of_each_alert(source: str, gauge: str, value: float, title: str, message: str) -> None:
    alerts = monitoring.alerts(snapshot(**{source: {f"coldchain_{gauge}": value}}), NOW, LATER)["alerts"]
    assert [(alert["title"], alert["message"]) for alert in alerts] == [(title, message)]


@pytest.mark.parametrize(
    ("waiting_after", "words"),
    [
        ("2h", "2시간 이상"),
        ("90m", "1시간 30분 이상"),
        ("45m", "45분 이상"),
        ("26h", "26시간 이상"),
        ("90s", "1분 30초 이상"),
    ],
)
def test_the_message_names_the_waiting_time_in_force(waiting_after: str, words: str) -> None:
    of = snapshot(settings(orders_waiting_after=waiting_after), orders={"coldchain_orders_waiting": 11})
    assert monitoring.alerts(of, NOW, LATER)["alerts"][0]["message"].startswith(words)


def test_other_limits_are_followed_by_alerts_health_and_gauges_alike() -> None:
    limits = {"ColdChainCpuHigh": {"warning": 0.2, "critical": 0.95}, "ColdChainDispatchesOverdue": "off"}
    of = snapshot(settings(thresholds=limits), dispatches={"coldchain_dispatches_overdue": 1000})
    assert [a["title"] for a in monitoring.alerts(of, NOW, LATER)["alerts"]] == ["CPU 사용률 주의"]
    assert statuses(of) == ("degraded", "healthy", "degraded", "healthy")
    thresholds = next(family for family in exported(of, "1", NOW) if family.name == "coldchain_alert_threshold")
    assert thresholds.value("ColdChainCpuHigh", "warning") == 0.2
    assert thresholds.value("ColdChainDispatchesOverdue", "warning") == math.inf


def test_the_dashboard_shows_the_gravest_five_of_all() -> None:
    of = snapshot(
        host={
            "coldchain_host_cpu_usage_ratio": 0.75,
            "coldchain_host_memory_usage_ratio": 0.95,
            "coldchain_host_filesystem_usage_ratio": {("/",): 0.85},
        },
        database=failing(STATES["database"]),
        orders={"coldchain_orders_waiting": 11},
        dispatches=LATE,
        vehicles={"coldchain_vehicles_utilization_ratio": 0},
    )
    shown = monitoring.dashboard(of, NOW, LATER)["alerts"]
    assert (shown["total"], shown["by_level"]) == (7, {"critical": 2, "warning": 4, "info": 1})
    assert [alert["title"] for alert in shown["recent"]] == [
        "데이터베이스 연결 실패",
        "메모리 부족",
        "CPU 사용률 주의",
        "디스크 사용률 주의",
        "배차 대기 주문 많음",
    ]


# -- health ------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("changed", "expected"),
    [
        ({"host": {"coldchain_host_cpu_usage_ratio": 0.8}}, ("degraded", "healthy", "degraded", "healthy")),
        ({"host": {"coldchain_host_cpu_usage_ratio": 0.95}}, ("unhealthy", "healthy", "unhealthy", "healthy")),
        # judged by the fullest mount, whatever `/` has left
        (
            {"host": {"coldchain_host_filesystem_usage_ratio": {("/",): 0.1, ("/data",): 0.95}}},
            ("unhealthy", "healthy", "unhealthy", "healthy"),
        ),
        ({"database": {"coldchain_database_response_seconds": 0.7}}, ("degraded", "degraded", "healthy", "healthy")),
        ({"database": {"coldchain_database_response_seconds": 2}}, ("unhealthy", "unhealthy", "healthy", "healthy")),
        ({"orders": {"coldchain_orders_waiting": 11}}, ("degraded", "healthy", "healthy", "degraded")),
        ({"dispatches": LATE}, ("degraded", "healthy", "healthy", "degraded")),
        ({"vehicles": {"coldchain_vehicles_utilization_ratio": 0}}, ("healthy",) * 4),
        ({"host": None}, ("healthy", "healthy", "unknown", "healthy")),
        ({"database": None}, ("healthy", "unknown", "healthy", "healthy")),
        ({"orders": None, "dispatches": None}, ("healthy",) * 4),
        ({"orders": None, "dispatches": None, "vehicles": None}, ("healthy", "healthy", "healthy", "unknown")),
        (dict.fromkeys(STATES), ("unknown",) * 4),
        ({"host": stale(STATES["host"])}, ("degraded", "healthy", "degraded", "healthy")),
        ({"vehicles": stale(STATES["vehicles"])}, ("degraded", "healthy", "healthy", "degraded")),
        ({"database": failing(STATES["database"])}, ("unhealthy", "unhealthy", "healthy", "healthy")),
        ({"database": stale(STATES["database"])}, ("unhealthy", "unhealthy", "healthy", "healthy")),
        # it failed just now, but what it found is still today's
        ({"orders": failing(STATES["orders"])}, ("healthy",) * 4),
        ({"database": SourceState("database", 15, 5)}, ("degraded", "degraded", "healthy", "healthy")),
    ],
)  # fmt: skip
def test_health_follows_the_limits_and_the_sources(
    changed: dict[str, Any], expected: tuple[str, str, str, str]
) -> None:
    of = snapshot(**changed)
    assert statuses(of) == expected
    shown = monitoring.dashboard(of, NOW, LATER)["health"]
    assert tuple(shown.values()) == expected


def test_without_a_database_url_the_database_and_the_business_are_unknown() -> None:
    of = snapshot(database=None, orders=None, dispatches=None, vehicles=None)
    assert health(of)["checks"]["database"] == {
        "status": "unknown",
        "response_time_ms": None,
        "message": "Database is not watched",
    }
    assert health(of)["checks"]["application"] == {
        "status": "unknown",
        "recent_orders_24h": None,
        "active_dispatches": None,
        "active_vehicles": None,
    }
    assert health(of)["status"] == "healthy"


def test_an_unreachable_database_is_told_with_its_error_and_without_its_old_figure() -> None:
    of = snapshot(database=failing(STATES["database"], "connection refused", "is the server running?"))
    assert health(of)["checks"]["database"] == {
        "status": "unhealthy",
        "response_time_ms": None,
        "message": "Database connection failed",
        "error": "connection refused (is the server running?)",
    }
    assert monitoring.alerts(of, NOW, LATER)["alerts"] == [
        {
            "level": "critical",
            "category": "database",
            "title": "데이터베이스 연결 실패",
            "message": "데이터베이스에 연결할 수 없습니다",
            "timestamp": AT,
        }
    ]


def test_a_probe_that_hangs_is_an_unreachable_database_from_its_time_out_on() -> None:
    of = snapshot(database=replace(STATES["database"], running_since=NOW))
    assert statuses(of, now=NOW + 4.9) == ("healthy",) * 4
    assert statuses(of, now=NOW + 5) == ("unhealthy", "unhealthy", "healthy", "healthy")
    assert health(of, NOW + 5)["checks"]["database"]["error"] == "no answer within the time-out"
    assert health(of, NOW + 6)["checks"]["database"]["error"] == (
        "no answer within the time-out (is it frozen, or the network dead?)"
    )


def test_a_slow_database_says_so() -> None:
    of = snapshot(database={"coldchain_database_response_seconds": 0.75})
    assert health(of)["checks"]["database"] == {
        "status": "degraded",
        "response_time_ms": 750.0,
        "message": "Database responds slowly",
    }


def test_a_stale_part_has_no_figures_and_says_why() -> None:
    of = snapshot(host=stale(STATES["host"], "no /proc"), dispatches=stale(STATES["dispatches"], "locked", "by whom?"))
    assert health(of)["checks"]["system_resources"] == {
        "status": "degraded",
        "cpu_percent": None,
        "memory_percent": None,
        "disk_percent": None,
        "memory_available_gb": None,
        "disk_free_gb": None,
        "error": "no /proc",
    }
    assert health(of)["checks"]["application"] == {
        "status": "degraded",
        "recent_orders_24h": 145,
        "active_dispatches": None,
        "active_vehicles": 45,
        "error": "dispatches: locked (by whom?)",
    }
    document = metrics(of)
    assert (document["dispatches"], document["system"]) == (None, None)
    assert document["errors"] == {"dispatches": "locked (by whom?)", "system": "no /proc"}
    assert document["orders"]["total"] == 145
    shown = monitoring.dashboard(of, NOW, LATER)["metrics"]
    assert shown == {
        "orders_24h": 145,
        "active_dispatches": None,
        "vehicle_utilization": 40.0,
        "cpu_percent": None,
        "memory_percent": None,
        "disk_percent": None,
    }


def test_a_stale_source_has_no_alerts() -> None:
    of = snapshot(orders=stale(found("orders", {"coldchain_orders_waiting": 1000})))
    assert monitoring.alerts(of, NOW, LATER) == {"total": 0, "alerts": []}


def test_what_was_never_looked_at_says_so() -> None:
    of = snapshot(orders=SourceState("orders", 15, 5))
    assert health(of)["checks"]["application"]["error"] == "orders: not looked at yet"


def test_figures_become_stale_by_the_mere_passing_of_time() -> None:
    of = snapshot()
    assert statuses(of, now=174.9) == ("healthy",) * 4
    assert statuses(of, now=175.0) == ("degraded",) * 4
    assert health(of, 175.0)["checks"]["database"] == {
        "status": "degraded",
        "response_time_ms": None,
        "message": "Database state is not known",
        "error": "what was found is too old",
    }


def test_documents_show_what_the_gauges_show() -> None:
    """Whatever is withheld on /metrics is null here, and the other way round."""
    for name, state in STATES.items():
        for one in (state, failing(state), stale(state), SourceState(name, 15, 5)):
            of = snapshot(**{name: one})
            gauges = {family.name for family in exported(of, "1", NOW) if family.samples}
            checks = health(of)["checks"]
            assert (checks["database"]["response_time_ms"] is not None) == (
                "coldchain_database_response_seconds" in gauges
            )
            assert (checks["system_resources"]["cpu_percent"] is not None) == (
                "coldchain_host_cpu_usage_ratio" in gauges
            )
            document = metrics(of)
            assert [document[section] is not None for section in ("orders", "dispatches", "vehicles", "system")] == [
                gauge in gauges
                for gauge in ("coldchain_orders", "coldchain_dispatches", "coldchain_vehicles", "coldchain_host_cpus")
            ]


# -- figures -----------------------------------------------------------------------------------------------------------


def test_empty_tables_have_zeros_and_no_rates() -> None:
    none = dict.fromkeys((("24h", status) for status in monitoring.ORDER_LABELS), 0.0)
    of = snapshot(
        orders={"coldchain_orders": none, "coldchain_orders_processing_seconds_mean": {}},
        dispatches={"coldchain_dispatches": {}, "coldchain_dispatches_distance_meters_mean": {}},
        vehicles={"coldchain_vehicles": {("available",): 0}, "coldchain_vehicles_utilization_ratio": {}},
    )
    document = metrics(of)
    assert document["orders"] == {
        "total": 0,
        "by_status": {"배차대기": 0, "배차완료": 0, "운송중": 0, "배송완료": 0, "취소": 0},
        "avg_processing_hours": None,
        "completion_rate": None,
    }
    assert document["dispatches"] == {"total": 0, "by_status": {}, "avg_distance_km": None}
    assert document["vehicles"] == {
        "total": 0,
        "available": 0,
        "in_use": 0,
        "maintenance": 0,
        "utilization_rate": None,
    }


def test_a_status_without_a_korean_word_stands_behind_the_others_by_its_own_name() -> None:
    counts = {("24h", "on_hold"): 3.0, ("24h", "pending"): 1.0, ("24h", "delivered"): 4.0}
    document = metrics(snapshot(orders={"coldchain_orders": counts}))
    assert list(document["orders"]["by_status"].items()) == [("배차대기", 1), ("배송완료", 4), ("ON_HOLD", 3)]
    assert (document["orders"]["total"], document["orders"]["completion_rate"]) == (8, 50.0)


def test_vehicles_add_up_whatever_states_they_are_in() -> None:
    fleet = {("available",): 2.0, ("in_use",): 3.0, ("leased",): 4.0, ("breakdown",): 5.0}
    vehicles = metrics(snapshot(vehicles={"coldchain_vehicles": fleet}))["vehicles"]
    assert vehicles == {"total": 14, "available": 2, "in_use": 3, "maintenance": 9, "utilization_rate": 40.0}


def test_the_disk_is_the_one_that_the_settings_name() -> None:
    of = snapshot(settings(disk={"mountpoint": "/data"}))
    assert metrics(of)["system"]["disk"] == {"total_gb": 2000.0, "used_gb": 20.0, "free_gb": 1980.0, "percent": 1.0}
    assert health(of)["checks"]["system_resources"]["disk_percent"] == 1.0
    gone = metrics(snapshot(settings(disk={"mountpoint": "/gone"})))["system"]["disk"]
    assert gone == {"total_gb": None, "used_gb": None, "free_gb": None, "percent": None}


def test_a_period_is_shown_from_what_was_asked_and_the_rest_from_the_snapshot() -> None:
    answers = {
        "orders": Answer(found("orders", {"coldchain_orders": {("48h", "delivered"): 7}}).families),
        "dispatches": Answer(None, "the query ran into its time-out"),
    }
    document = monitoring.metrics(snapshot(), 48, answers, NOW, LATER)
    assert document["orders"] == {
        "total": 7,
        "by_status": {"배송완료": 7},
        "avg_processing_hours": None,
        "completion_rate": 100.0,
    }
    assert document["dispatches"] is None
    assert document.get("errors") == {"dispatches": "the query ran into its time-out"}
    assert document["vehicles"] is not None


def test_what_is_switched_off_is_a_null_section() -> None:
    document = metrics(snapshot(orders=None, host=None))
    assert (document["orders"], document["system"]) == (None, None)
    assert document["errors"] == {"orders": "the source is switched off", "system": "the source is switched off"}


def test_the_timestamp_is_that_of_the_latest_look_in_the_zone_of_the_business() -> None:
    latest = replace(failing(STATES["orders"]), looked_at=MOMENT + timedelta(seconds=7, milliseconds=900))
    assert health(snapshot(orders=latest))["timestamp"] == "2026-01-27T22:00:07+09:00"
    in_berlin = snapshot(settings(timezone=ZoneInfo("Europe/Berlin")), orders=latest)
    assert health(in_berlin)["timestamp"] == "2026-01-27T14:00:07+01:00"
    assert health(snapshot(**dict.fromkeys(STATES)))["timestamp"] == "2026-01-27T23:00:00+09:00"
