"""The settings: their defaults, what is refused and in which words, and the example that ships."""

from __future__ import annotations

import math
from datetime import timedelta
from pathlib import Path

import pytest

from exporter.limits import Thresholds, threshold_family
from exporter.settings import ExporterSettings
from exporter.sources import plans, tables
from serving.settings import ConfigError, load

EXAMPLE = Path(__file__).parent.parent.parent / "deploy" / "exporter" / "exporter.yaml"


def settings(text: str, tmp_path: Path, **environ: str) -> ExporterSettings:
    """The settings of a file with this text."""
    file = tmp_path / "exporter.yaml"
    file.write_text(text, encoding="utf-8")
    return load(ExporterSettings, environ=environ, config_file=file)


def problems(text: str, tmp_path: Path, **environ: str) -> list[str]:
    """What is wrong with it, without the folder."""
    with pytest.raises(ConfigError) as caught:
        settings(text, tmp_path, **environ)
    return [problem.replace(f"{tmp_path}/", "") for problem in caught.value.problems]


def test_the_example_says_every_setting_with_its_default() -> None:
    example = load(ExporterSettings, environ={}, config_file=EXAMPLE)
    assert example == ExporterSettings()
    text = EXAMPLE.read_text(encoding="utf-8")
    assert [name for name in ExporterSettings.model_fields if f"\n{name}:" not in text.replace("\n#", "\n")] == []


@pytest.mark.parametrize(
    ("text", "problem"),
    [
        ("windows: []", "windows: give at least one window"),
        ("windows: [1h, 60m]", "windows: a window is given twice"),
        ("windows: [90s]", "windows: windows are whole minutes or hours"),
        ("timezone: Seoul", "timezone: not a time zone of the IANA database; write one such as Asia/Seoul or UTC"),
        (
            "database_timezone: ../etc/passwd",
            "database_timezone: not a time zone of the IANA database; write one such as",
        ),
        ("default_interval: 0s", "default_interval: between 100ms and 1d"),
        ("default_timeout: 5m", "default_timeout: between 100ms and 1m: a query that runs longer is an incident"),
        ("sources: {orders: {interval: soon}}", "sources.orders.interval: write a duration such as 15s, 5m, 2h or 1d"),
        ("sources: {trucks: {}}", "sources.trucks: unknown setting; allowed here: database, dispatches, host, orders"),
        (
            "thresholds: {ColdChainCpuHigh: {warning: 70}}",
            "thresholds.ColdChainCpuHigh.warning: a ratio between 0 and 1",
        ),
        (
            "thresholds: {ColdChainCpuHigh: {warning: 0.95}}",
            "thresholds.ColdChainCpuHigh: warning (0.95) is above critical",
        ),
        (
            "thresholds: {ColdChainOrdersWaiting: {warning: -1}}",
            "thresholds.ColdChainOrdersWaiting.warning: a number from",
        ),
        (
            "thresholds: {ColdChainDatabaseSlow: {critical: .inf}}",
            "thresholds.ColdChainDatabaseSlow.critical: a number from 0 on, or off",
        ),
        ("thresholds: {ColdChainOrdersWaiting: {critical: 5}}", "thresholds.ColdChainOrdersWaiting.critical: unknown"),
        ("disk: {exclude_types: '('}", "disk.exclude_types: not a regular expression"),
        ("orders_waiting_after: 0s", "orders_waiting_after: must be longer than nothing"),
        ("max_age: 0", "max_age: Input should be greater than or equal to 1"),
    ],
)
def test_what_is_wrong_is_told_with_its_line(tmp_path: Path, text: str, problem: str) -> None:
    (found,) = problems(f"# first line\n{text}\n", tmp_path)
    assert found.startswith(f"exporter.yaml:2: {problem}")


def test_a_database_url_that_cannot_be_used_is_told_without_its_password(tmp_path: Path) -> None:
    (found,) = problems("", tmp_path, DATABASE_URL="postgresql://user:secret@host:port/name")
    assert found.startswith("DATABASE_URL: database_url: not a database URL: is the port a number")
    assert "secret" not in found


def test_the_database_url_may_come_from_a_file(tmp_path: Path) -> None:
    (tmp_path / "url").write_text("sqlite:////srv/dispatch.db\n")
    found = settings("", tmp_path, DATABASE_URL_FILE=str(tmp_path / "url")).database_url
    assert found is not None
    assert found.get_secret_value() == "sqlite:////srv/dispatch.db"


@pytest.mark.parametrize("off", ["off", '"off"', "null", "false"])
def test_a_limit_that_is_off_is_never_passed(tmp_path: Path, off: str) -> None:
    text = f"thresholds:\n  ColdChainCpuHigh: {off}\n  ColdChainDiskHigh: {{warning: {off}}}\n"
    text += f"  ColdChainVehicleUtilizationLow: {off}\n"
    shown = threshold_family(settings(text, tmp_path).thresholds).samples
    assert shown["ColdChainCpuHigh", "warning"] == shown["ColdChainCpuHigh", "critical"] == math.inf
    assert shown["ColdChainDiskHigh", "warning"] == math.inf
    assert shown["ColdChainDiskHigh", "critical"] == 0.9
    assert shown["ColdChainVehicleUtilizationLow", "info"] == -math.inf


def test_limits_are_the_contracts_where_none_are_given() -> None:
    assert list(Thresholds().items()) == [
        ("ColdChainCpuHigh", "warning", 0.7),
        ("ColdChainCpuHigh", "critical", 0.9),
        ("ColdChainMemoryHigh", "warning", 0.7),
        ("ColdChainMemoryHigh", "critical", 0.9),
        ("ColdChainDiskHigh", "warning", 0.8),
        ("ColdChainDiskHigh", "critical", 0.9),
        ("ColdChainDatabaseSlow", "warning", 0.5),
        ("ColdChainDatabaseSlow", "critical", 1.0),
        ("ColdChainOrdersWaiting", "warning", 10),
        ("ColdChainDispatchesOverdue", "warning", 5),
        ("ColdChainVehicleUtilizationLow", "info", 0.3),
    ]


def test_one_limit_given_leaves_the_other_as_it_was(tmp_path: Path) -> None:
    found = settings("thresholds: {ColdChainDiskHigh: {warning: 0.85}}", tmp_path).thresholds.ColdChainDiskHigh
    assert (found.warning, found.critical) == (0.85, 0.9)


def test_limit_may_be_nothing_and_a_warning_as_high_as_the_critical_one(tmp_path: Path) -> None:
    text = "thresholds: {ColdChainOrdersWaiting: {warning: 0}, ColdChainCpuHigh: {warning: 0.9, critical: 0.9}}"
    found = settings(text, tmp_path).thresholds
    assert found.ColdChainOrdersWaiting.warning == 0
    assert (found.ColdChainCpuHigh.warning, found.ColdChainCpuHigh.critical) == (0.9, 0.9)


def test_sources_take_the_defaults_unless_they_say_otherwise(tmp_path: Path) -> None:
    text = """
database_url: sqlite:////srv/dispatch.db
default_interval: 30s
default_timeout: 2s
sources:
  orders: {interval: 1m, timeout: 10s}
  vehicles: {enabled: false}
"""
    found = {plan.name: (plan.interval, plan.timeout) for plan in plans(settings(text, tmp_path))}
    assert found == {"host": (5, 2), "database": (30, 2), "orders": (60, 10), "dispatches": (30, 2)}


def test_without_a_database_the_host_alone_is_watched(tmp_path: Path) -> None:
    assert [plan.name for plan in plans(settings("", tmp_path))] == ["host"]


@pytest.mark.parametrize(
    ("text", "changed"),
    [
        ("", []),
        ("thresholds: {ColdChainCpuHigh: off}", []),
        ("database_url: sqlite:////srv/other.db", ["database", "orders", "dispatches", "vehicles"]),
        ("windows: [2h]", ["orders", "dispatches", "vehicles"]),
        ("orders_waiting_after: 3h", ["orders"]),
        ("timezone: UTC", ["dispatches"]),
        ("sources: {vehicles: {timeout: 1s}}", ["vehicles"]),
        ("disk: {exclude_mountpoints: ^/mnt}", ["host"]),
    ],
)
def test_a_reload_changes_the_sources_whose_settings_changed(tmp_path: Path, text: str, changed: list[str]) -> None:
    def read(more: str) -> ExporterSettings:
        own = "" if "database_url" in more else "database_url: sqlite:////srv/dispatch.db\n"
        return settings(own + more, tmp_path)

    old, new = plans(read("")), plans(read(text))
    assert [plan.name for plan in new if plan not in old] == changed


def test_windows_are_sorted_and_may_be_written_in_any_unit(tmp_path: Path) -> None:
    assert settings("windows: [7d, 30m, 90m]", tmp_path).windows == (
        timedelta(minutes=30), timedelta(minutes=90), timedelta(days=7),
    )  # fmt: skip


@pytest.mark.parametrize(("after", "words"), [("2h", "2h"), ("90m", "90m"), ("45s", "45s"), ("90s", "90s")])
def test_the_help_says_after_how_long_an_order_waits(tmp_path: Path, after: str, words: str) -> None:
    orders, dispatches, _ = tables(
        settings(f"{{orders_waiting_after: {after}, dispatches_overdue_after: 6h}}", tmp_path)
    )
    assert {gauge.name: gauge.help for gauge in orders.gauges}["coldchain_orders_waiting"] == (
        f"Orders PENDING for longer than {words}, whenever created."
    )
    assert {gauge.name: gauge.help for gauge in dispatches.gauges}["coldchain_dispatches_overdue"] == (
        "Dispatches IN_PROGRESS with a dispatch_date before today (Asia/Seoul), which begins 6h after midnight."
    )
