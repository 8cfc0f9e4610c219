"""Alertmanager's shipped configuration: who gets what, when, and what is kept back, on two Alertmanagers."""

import re
import subprocess
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx
import pytest

from deploy.demo.sandbox import Sandbox
from deploy.prometheus.quicken import quicken, seconds
from tests.deploy.alertmanagers import Alertmanager, Labels, Webhook, alertmanager, free_address, webhook
from tests.deploy.conftest import Tool
from tests.deploy.contract import ALERTS
from tests.deploy.files import ALERTMANAGER, document
from tests.waiting import until

RECEIVER, OWN_EMAIL = "coldchain-receiver", "alertmanager-email"
CONFIG = document(ALERTMANAGER)
EXPORTER = {"job": "coldchain-exporter", "instance": "127.0.0.1:19110"}
DEDUP_WINDOW = 20 * 60


def of(name: str, severity: str, category: str, **more: str) -> Labels:
    """The labels of an alert of the exporter."""
    return {"alertname": name, "severity": severity, "category": category, **EXPORTER, **more}


CRITICAL_DISK = of("ColdChainDiskHigh", "critical", "system", mountpoint="/data", source="host")
DATABASE_DOWN = of("ColdChainDatabaseDown", "critical", "database")
EXPORTER_DOWN = of("ColdChainExporterDown", "critical", "monitoring")
RECEIVER_DOWN = {
    **of("ColdChainReceiverDown", "critical", "monitoring"),
    "job": "coldchain-receiver",
    "instance": "127.0.0.1:19111",
}
# of a target that is gone from Prometheus's configuration
EXPORTER_GONE = {name: value for name, value in EXPORTER_DOWN.items() if name != "instance"}
WATCHDOG = {"alertname": "ColdChainWatchdog", "severity": "none", "category": "monitoring"}
ORDERS_WAITING = of("ColdChainOrdersWaiting", "warning", "business", source="orders")
STALE = "ColdChainSourceStale"


def test_alertmanager_accepts_the_configuration(tool: Tool) -> None:
    done = subprocess.run([tool("amtool"), "check-config", ALERTMANAGER], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout + done.stderr


@pytest.mark.parametrize(("alert", "severity"), ALERTS)
def test_every_alert_goes_to_the_receiver_and_those_of_the_monitoring_by_email_too(
    tool: Tool, alert: str, severity: str
) -> None:
    category = ALERTS[alert, severity].category
    monitoring = category == "monitoring" and alert != "ColdChainWatchdog"
    assert routed(tool, alert, severity, category) == [OWN_EMAIL, RECEIVER] if monitoring else [RECEIVER]


@pytest.mark.parametrize("severity", ["critical", "warning", "info", "page", None])
def test_an_alert_of_another_rule_is_routed_alike_whatever_its_severity(tool: Tool, severity: str | None) -> None:
    assert routed(tool, "DiskBroken", severity, "hardware") == [RECEIVER]
    assert routed(tool, "DiskBroken", severity, "monitoring") == [OWN_EMAIL, RECEIVER]


def routed(tool: Tool, alert: str, severity: str | None, category: str) -> list[str]:
    """The receivers that amtool finds for the labels, in order."""
    labels = {"alertname": alert, "severity": severity, "category": category}
    given = [f"{name}={value}" for name, value in labels.items() if value]
    command = [tool("amtool"), "config", "routes", "test", f"--config.file={ALERTMANAGER}", *given]
    return subprocess.run(command, capture_output=True, text=True, check=True).stdout.strip().split(",")


def routes(route: dict[str, Any], above: dict[str, Any]) -> Iterator[dict[str, Any]]:
    """Every route with the timings and the receiver that it inherits."""
    whole = {**{key: value for key, value in above.items() if key not in {"routes", "matchers"}}, **route}
    yield whole
    for child in route.get("routes", []):
        yield from routes(child, whole)


@pytest.mark.parametrize(
    ("matcher", "wait", "repeat"),
    [
        ("severity = critical", "0s", "1h"),
        ("severity = info", "10s", "24h"),
        ("alertname = ColdChainVehicleUtilizationLow", "10s", "24h"),
        ("alertname = ColdChainOrdersStopped", "10s", "4h"),
        ("category = monitoring", "10s", "4h"),
        ("alertname = ColdChainWatchdog", "0s", "3m"),
        (None, "10s", "4h"),
    ],
)
def test_route_has_its_timings(matcher: str | None, wait: str, repeat: str) -> None:
    found = [
        route for route in routes(CONFIG["route"], {}) if route.get("matchers") == ([matcher] if matcher else None)
    ]
    assert found
    for route in found:
        assert (route["group_wait"], route["group_interval"], route["repeat_interval"]) == (wait, "1m", repeat)


def test_no_reminder_falls_into_the_receivers_dedup_window() -> None:
    repeats = {
        route.get("matchers", ["all"])[0]: seconds(route["repeat_interval"]) for route in routes(CONFIG["route"], {})
    }
    heartbeat = repeats.pop("alertname = ColdChainWatchdog")
    assert min(repeats.values()) > DEDUP_WINDOW
    assert 3 * heartbeat < 10 * 60  # three may be lost before the receiver raises the alarm


def test_business_hours_are_those_of_seoul() -> None:
    intervals = {interval["name"]: interval["time_intervals"] for interval in CONFIG["time_intervals"]}
    assert {spec["location"] for specs in intervals.values() for spec in specs} == {"Asia/Seoul"}
    hours = {name: specs[0].get("times") for name, specs in intervals.items()}
    assert hours["business-hours"] == [{"start_time": "09:00", "end_time": "18:00"}]
    assert hours["orders-expected"] == [{"start_time": "11:00", "end_time": "18:00"}]
    for name in ("business-hours", "orders-expected"):
        assert intervals[name][0]["weekdays"] == ["monday:friday"]


@pytest.fixture
def hook() -> Iterator[Webhook]:
    """The receiver's place, held by a webhook that keeps what it is sent."""
    with webhook() as found:
        yield found


@pytest.fixture
def running(tmp_path: Path, tool: Tool, hook: Webhook) -> Iterator[Alertmanager]:
    """Alertmanager on the shipped configuration, sixty times as fast, sending to the webhook."""
    quicken(tmp_path, divide=60, receiver=hook.address)
    with alertmanager(tool("alertmanager"), tmp_path) as found:
        yield found


@pytest.mark.parametrize(
    ("cause", "kept_back", "passed"),
    [
        (
            CRITICAL_DISK,
            [of("ColdChainDiskHigh", "warning", "system", mountpoint="/data", source="host")],
            [
                of("ColdChainDiskHigh", "warning", "system", mountpoint="/", source="host"),
                of("ColdChainCpuHigh", "warning", "system", source="host"),
                {**CRITICAL_DISK, "severity": "info", "instance": "127.0.0.1:29110"},
            ],
        ),
        (of("Other", "warning", "system"), [of("Other", "info", "system")], [of("Another", "info", "system")]),
        (
            DATABASE_DOWN,
            [
                ORDERS_WAITING,
                of("ColdChainVehicleUtilizationLow", "info", "business", source="vehicles"),
                of("ColdChainDatabaseSlow", "critical", "database", source="database"),
                of(STALE, "warning", "monitoring", source="orders"),
            ],
            [
                of("ColdChainCpuHigh", "critical", "system", source="host"),
                of("ColdChainThresholdMissing", "warning", "monitoring", alert="ColdChainCpuHigh", limit="warning"),
                {**of("ColdChainDispatchesOverdue", "warning", "business"), "instance": "127.0.0.1:29110"},
            ],
        ),
        (DATABASE_DOWN, [], [of(STALE, "warning", "monitoring", source="host")]),
        (
            EXPORTER_DOWN,
            [
                ORDERS_WAITING,
                DATABASE_DOWN,
                of("ColdChainCpuHigh", "critical", "system", source="host"),
                of(STALE, "warning", "monitoring", source="host"),
            ],
            [
                WATCHDOG,
                {**CRITICAL_DISK, "instance": "127.0.0.1:29110"},
                {"alertname": "HostGone", "severity": "critical", "instance": "127.0.0.1:19110", "job": "other"},
            ],
        ),
        (
            EXPORTER_GONE,
            [ORDERS_WAITING, DATABASE_DOWN],
            [WATCHDOG, {"alertname": "HostGone", "severity": "critical", "job": "other"}],
        ),
        (
            RECEIVER_DOWN,
            [{**RECEIVER_DOWN, "alertname": "ColdChainOutboxOld", "severity": "warning"}],
            [ORDERS_WAITING],
        ),
        (
            of(STALE, "warning", "monitoring", source="orders"),
            [ORDERS_WAITING, of("ColdChainBacklogGrowing", "warning", "business", source="orders")],
            [
                of("ColdChainDispatchesOverdue", "warning", "business", source="dispatches"),
                of("ColdChainThresholdMissing", "warning", "monitoring", alert="ColdChainCpuHigh", limit="warning"),
            ],
        ),
        (
            of("ColdChainTemperatureSensorSilent", "warning", "business", plate="서울12가3456", compartment="a"),
            [of("ColdChainTemperatureSensorSilent", "info", "business", plate="서울12가3456", compartment="a")],
            [of("ColdChainTemperatureOutOfRange", "critical", "business", plate="서울12가3456", compartment="a")],
        ),
    ],
    ids=lambda value: value["alertname"] if isinstance(value, dict) else "",
)
def test_what_follows_from_a_cause_is_kept_back_and_nothing_else(
    running: Alertmanager, cause: Labels, kept_back: list[Labels], passed: list[Labels]
) -> None:
    running.post(cause, *kept_back, *passed)
    assert len(running.alerts()) == 1 + len(kept_back) + len(passed)
    expected = {(labels["alertname"], labels["severity"]) for labels in kept_back}
    until(lambda: running.inhibited() == expected, f"{expected} are kept back, not {running.inhibited()}")


def test_what_vanished_with_its_exporter_is_never_reported_as_resolved(running: Alertmanager, hook: Webhook) -> None:
    running.post(ORDERS_WAITING)
    until(lambda: hook.alerts("ColdChainOrdersWaiting", "firing"), "the backlog is told")
    running.post(EXPORTER_DOWN)
    until(lambda: hook.alerts("ColdChainExporterDown", "firing"), "the dead exporter is told")
    running.post(ORDERS_WAITING, resolved=True)
    wait_for_flushes(running, hook)
    running.post(EXPORTER_DOWN, resolved=True)
    until(lambda: hook.alerts("ColdChainExporterDown", "resolved"), "the exporter is back")
    assert hook.alerts("ColdChainOrdersWaiting", "resolved") == []


def test_one_message_for_all_mounts_of_a_host(running: Alertmanager, hook: Webhook) -> None:
    mounts = ["/", "/backup", "/data"]
    running.post(*(of("ColdChainDiskHigh", "warning", "system", mountpoint=mount) for mount in mounts))
    until(lambda: hook.bodies, "a message")
    (body,) = hook.bodies
    assert [alert["labels"]["mountpoint"] for alert in body["alerts"]] == mounts
    assert body["groupLabels"] == {"alertname": "ColdChainDiskHigh", **EXPORTER}


def test_the_heartbeat_is_repeated(running: Alertmanager, hook: Webhook) -> None:
    running.post(WATCHDOG)
    until(lambda: len(hook.alerts("ColdChainWatchdog", "firing")) == 3, "three heartbeats")


def wait_for_flushes(running: Alertmanager, hook: Webhook) -> None:
    """Returns when every group has been flushed since: all are each second, and heartbeats come three seconds apart."""
    before = len(hook.alerts("ColdChainWatchdog", "firing"))
    running.post(WATCHDOG)
    until(lambda: len(hook.alerts("ColdChainWatchdog", "firing")) >= before + 3, "three more heartbeats")


def test_the_monitorings_own_failure_reaches_people_without_the_receiver(tmp_path: Path, tool: Tool) -> None:
    with Sandbox() as sandbox:
        host, port = sandbox.smtp
        # nobody listens where the receiver should be
        quicken(tmp_path, divide=60, receiver=free_address(), smarthost=f"{host}:{port}", email_to="duty@example.com")
        with alertmanager(tool("alertmanager"), tmp_path) as found:
            found.post(RECEIVER_DOWN)
            (mail,) = until(lambda: sandbox.messages("smtp"), "a mail")
            assert mail["recipients"] == ["duty@example.com"]
            assert mail["subject"] == "[모니터링] 1건 발생: ColdChainReceiverDown"


@pytest.mark.parametrize("alert", ["ColdChainOrdersStopped", "ColdChainVehicleUtilizationLow"])
@pytest.mark.parametrize("opened", [True, False], ids=["open", "closed"])
def test_business_hours_let_pass_and_keep_back(
    tmp_path: Path, tool: Tool, hook: Webhook, alert: str, *, opened: bool
) -> None:
    # The clock cannot be set, so the hours are: always, or never again; and no day is a holiday.
    quicken(tmp_path, divide=60, receiver=hook.address)
    text = (tmp_path / "alertmanager.yml").read_text("utf-8")
    text, hours = re.subn(
        r"weekdays: \[monday:friday\]\n.*times: .*", "years: ['2001:2999']" if opened else "years: ['2001']", text
    )
    text, holidays = re.subn(r"(?m)^( +- \{location: Asia/Seoul, )months", r"\1years: ['2001'], months", text)
    assert (hours, holidays) == (2, 7)
    (tmp_path / "alertmanager.yml").write_text(text, "utf-8")
    with alertmanager(tool("alertmanager"), tmp_path) as found:
        found.post(of(alert, "warning", "business"))
        if opened:
            until(lambda: hook.alerts(alert, "firing"), "it is passed on in business hours")
        else:
            wait_for_flushes(found, hook)
            assert hook.alerts(alert, "firing") == []


def peers(member: Alertmanager) -> int:
    """How many Alertmanagers the member sees, itself among them."""
    return len(httpx.get(f"http://{member.address}/api/v2/status").json()["cluster"].get("peers", []))


def looked_up(member: Alertmanager) -> float:
    """How often the member has looked up whether a notification was sent already, by itself or the other."""
    text = httpx.get(f"http://{member.address}/metrics").text
    return float(re.search(r"(?m)^alertmanager_nflog_queries_total (\S+)$", text)[1])  # type: ignore[index] # always there


def test_a_pair_of_alertmanagers_sends_one_message(tmp_path: Path, tool: Tool, hook: Webhook) -> None:
    quicken(tmp_path, divide=60, receiver=hook.address)
    first, second = free_address(), free_address()
    program = tool("alertmanager")
    # the second of a pair waits this long for the first
    timeout = "--cluster.peer-timeout=2s"
    with (
        alertmanager(
            program, tmp_path, f"--cluster.listen-address={first}", f"--cluster.peer={second}", timeout
        ) as one,
        alertmanager(
            program, tmp_path, f"--cluster.listen-address={second}", f"--cluster.peer={first}", timeout
        ) as two,
    ):
        until(lambda: all(peers(member) == 2 for member in (one, two)), "the two have found each other")
        for member in (one, two):  # as every Prometheus sends to both
            member.post(ORDERS_WAITING)
        until(lambda: min(looked_up(one), looked_up(two)) >= 3, "each has had its turn thrice", 60)
        assert len(hook.alerts("ColdChainOrdersWaiting", "firing")) == 1
