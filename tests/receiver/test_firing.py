"""What fires now: what was heard, and what Alertmanager knows."""

from __future__ import annotations

import json
import socket
from collections.abc import Iterator
from concurrent.futures import wait
from datetime import timedelta
from pathlib import Path
from typing import Any

import pytest
import yaml
from structlog.testing import capture_logs

from deploy.demo.sandbox import Sandbox
from receiver.firing import Alertmanager, Heard, Known, Unreachable, firing
from receiver.outbox import Addition, Outbox
from receiver.routing import planner
from receiver.settings import ReceiverSettings
from serving.settings import parse_duration
from tests.deploy.files import ALERTMANAGER
from tests.outside import answering
from tests.receiver.making import DAY, NOW, ROUTING, WINDOW, alert, body, notification, payload_alert
from tests.receiver.test_app import World
from tests.waiting import until

HOUR = timedelta(hours=1)
SHIPPED = ReceiverSettings().repeat_interval.by_severity


def states(*found: object, known: list[Known] | None = None, at: timedelta = timedelta(0)) -> dict[str, str]:
    listed = firing([one for one in found if isinstance(one, Heard)], known, NOW + at, SHIPPED)
    return {one.alert.fingerprint: one.state for one in listed}


@pytest.mark.parametrize(
    ("severity", "after", "state"),
    [
        ("critical", HOUR, "firing"),
        ("critical", HOUR + timedelta(minutes=10), "firing"),  # a reminder waits for its group's turn
        ("critical", HOUR + timedelta(minutes=10, seconds=1), "unknown"),
        ("critical", 1.5 * HOUR, "unknown"),
        ("warning", 4 * HOUR, "firing"),
        ("warning", 4.5 * HOUR, "unknown"),
        ("info", 24 * HOUR, "firing"),
        ("info", 25 * HOUR, "unknown"),
    ],
)
def test_what_is_not_repeated_in_time_is_unknown(severity: str, after: timedelta, state: str) -> None:
    assert states(Heard(alert(severity=severity), NOW), at=after) == {"f1": state}


def test_what_is_unknown_follows_the_repeat_interval_that_is_set() -> None:
    rarely = SHIPPED | {"critical": 12 * HOUR}
    found = [Heard(alert(severity=severity), NOW) for severity in ("critical", "warning")]
    listed = [firing([one], None, NOW + 5 * HOUR, rarely)[0].state for one in found]
    assert listed == ["firing", "unknown"]


def test_shipped_repeat_intervals_are_those_of_the_shipped_alertmanager() -> None:
    route = yaml.safe_load(ALERTMANAGER.read_text(encoding="utf-8"))["route"]
    by_matchers = {tuple(one.get("matchers", [])): one.get("repeat_interval") for one in route["routes"]}
    assert {
        "critical": parse_duration(by_matchers["severity = critical",]),
        "warning": parse_duration(route["repeat_interval"]),
        "info": parse_duration(by_matchers["severity = info",]),
    } == SHIPPED


def test_alertmanager_knows_what_it_never_said_is_over() -> None:
    assert states(Heard(alert(), NOW), known=[]) == {}


def test_alertmanager_knows_what_it_keeps_from_us() -> None:
    listed = firing([], [Known(alert(), "inhibited"), Known(alert("f2"), "silenced")], NOW, SHIPPED)
    assert [(one.alert.fingerprint, one.state, one.heard_at) for one in listed] == [
        ("f1", "inhibited", None),
        ("f2", "silenced", None),
    ]


def test_what_both_know_was_heard_at_its_last_notification() -> None:
    (one,) = firing([Heard(alert(), NOW)], [Known(alert(), "firing")], NOW + 30 * HOUR, SHIPPED)
    assert (one.state, one.heard_at) == ("firing", NOW)


@pytest.mark.parametrize(
    ("name", "severity"), [("ColdChainWatchdog", "none"), ("ColdChainWatchdog", "warning"), ("InfoInhibitor", "none")]
)
def test_heartbeat_and_what_is_of_no_severity_are_no_alerts(name: str, severity: str) -> None:
    beat = alert(name=name, severity=severity)
    assert states(Heard(beat, NOW)) == {}
    assert states(known=[Known(beat, "firing")]) == {}


def test_most_urgent_comes_first_then_the_newest() -> None:
    old, new = alert("old", severity="warning"), alert("new", severity="warning", starts_at=NOW + HOUR)
    assert list(states(*(Heard(one, NOW) for one in (old, new, alert("worst"))))) == ["worst", "new", "old"]


# What was heard


def add(outbox: Outbox, *alerts: Any, at: timedelta = timedelta(0)) -> None:
    told = notification(*alerts)
    outbox.add(told, planner(told, ROUTING, NOW + at), now=NOW + at, dedup_window=WINDOW, give_up_after=DAY)


def heard(outbox: Outbox) -> dict[str, timedelta]:
    return {one.alert.fingerprint: one.at - NOW for one in outbox.heard(since=NOW - DAY)}


def test_last_word_on_an_alert_counts(outbox: Outbox) -> None:
    add(outbox, alert("a"), alert("b"))
    add(outbox, alert("a"), alert("b", resolved_after=HOUR), at=HOUR)
    assert heard(outbox) == {"a": HOUR}


def test_alert_that_fires_anew_fires(outbox: Outbox) -> None:
    add(outbox, alert("a"))
    add(outbox, alert("a", resolved_after=HOUR), at=HOUR)
    add(outbox, alert("a", starts_at=NOW + 2 * HOUR), at=2 * HOUR)
    assert heard(outbox) == {"a": 2 * HOUR}


def test_what_was_heard_long_ago_is_forgotten(outbox: Outbox) -> None:
    add(outbox, alert("a"))
    assert outbox.heard(since=NOW + HOUR) == []


def test_heard_alert_is_as_it_was_told(outbox: Outbox) -> None:
    add(outbox, alert("a", summary="CPU 사용률 높음"))
    assert outbox.heard(since=NOW)[0].alert == alert("a", summary="CPU 사용률 높음")


def test_none_is_forgotten_however_many_fire(outbox: Outbox) -> None:
    told = [notification(alert(f"f{number}"), group_key=f"{{}}:{{n={number}}}") for number in range(501)]
    stored = [
        outbox.submit(
            Addition.of(
                one,
                lambda _earlier: [],
                now=NOW,
                dedup_window=WINDOW,
                give_up_after=DAY,
                source="alertmanager",
                asked=None,
            )
        )
        for one in told
    ]
    wait(stored)
    assert len(heard(outbox)) == 501


# Asking Alertmanager


@pytest.fixture
def answers() -> Iterator[tuple[str, dict[str, Any]]]:
    """An address that answers with what the dictionary says."""
    answer: dict[str, Any] = {"status": 200, "body": []}

    def say(path: str, _headers: object) -> tuple[int, bytes]:
        answer["path"] = path
        return answer["status"], json.dumps(answer["body"]).encode()

    with answering(say) as url:
        yield f"{url}/", answer


def api_alert(**status: object) -> dict[str, Any]:
    """One as /api/v2/alerts has it (Alertmanager 0.25)."""
    return {
        "annotations": {"summary": "CPU 사용률 높음"},
        "endsAt": "2026-01-27T13:05:00.000Z",
        "fingerprint": "f1",
        "generatorURL": "http://prometheus.example:9090/graph",
        "labels": {"alertname": "ColdChainCpuHigh", "severity": "critical"},
        "receivers": [{"name": "coldchain-receiver"}],
        "startsAt": "2026-01-27T13:00:00.123Z",
        "status": {"inhibitedBy": [], "silencedBy": [], "state": "active"} | status,
        "updatedAt": "2026-01-27T13:01:00.000Z",
    }


@pytest.mark.parametrize(
    ("status", "state"),
    [
        ({}, "firing"),
        ({"silencedBy": ["x"], "state": "suppressed"}, "silenced"),
        ({"inhibitedBy": ["x"], "state": "suppressed"}, "inhibited"),
    ],
)
def test_alertmanagers_alerts_are_read(answers: tuple[str, dict[str, Any]], status: dict[str, Any], state: str) -> None:
    url, answer = answers
    answer["body"] = [api_alert(**status)]
    alertmanager = Alertmanager(lambda: url)
    alertmanager.ask()
    assert not isinstance(alertmanager.latest, Unreachable | None)
    (one,) = alertmanager.latest
    assert (one.state, one.alert.name, one.alert.severity) == (state, "ColdChainCpuHigh", "critical")
    assert one.alert.starts_at == NOW + timedelta(milliseconds=123)
    assert answer["path"] == "/api/v2/alerts"


@pytest.mark.parametrize(
    ("answer", "error"),
    [
        ({"status": 503, "body": []}, "answered 503"),
        ({"status": 200, "body": {"error": "no"}}, "TypeError"),
        ({"status": 200, "body": [{}]}, "KeyError"),
    ],
)
def test_answer_that_is_none_is_said(answers: tuple[str, dict[str, Any]], answer: dict[str, Any], error: str) -> None:
    answers[1].update(answer)
    alertmanager = Alertmanager(lambda: answers[0])
    alertmanager.ask()
    assert alertmanager.latest == Unreachable(error)


def test_alertmanager_that_is_away_is_said_once_without_its_address() -> None:
    alertmanager = Alertmanager(lambda: "http://user:secret@127.0.0.1:1")
    with capture_logs() as lines:
        alertmanager.ask()
        alertmanager.ask()
    assert alertmanager.latest == Unreachable("ConnectionError")
    assert lines == [{"log_level": "warning", "event": "alertmanager not asked", "error": "ConnectionError"}]


def test_alertmanager_without_an_address_is_asked_no_more() -> None:
    addresses = ["http://127.0.0.1:1", None]
    alertmanager = Alertmanager(lambda: addresses.pop(0))
    alertmanager.ask()
    assert alertmanager.latest == Unreachable("ConnectionError")
    alertmanager.ask()
    assert alertmanager.latest is None


# The door and the page


def test_what_fires_is_listed_for_programs_and_for_people(sandbox: Sandbox, tmp_path: Path) -> None:
    with World(sandbox, tmp_path / "receiver.db") as world:
        world.post(body([payload_alert(severity="critical")]))
        found = world.client.get("/api/v1/alerts").json()
        (one,) = found["alerts"]
        assert found["alertmanager"] == "not set: ALERTMANAGER_URL"
        assert (one["status"], one["severity"], one["starts_at"]) == (
            "firing",
            "critical",
            "2026-01-27T22:00:00+09:00",
        )
        page = world.client.get("/").text
        assert "발생 중" in page
        assert "Alertmanager에 확인하지 않은 목록입니다 (ALERTMANAGER_URL 설정 없음)." in page


def test_page_tells_alerts_of_one_title_apart_and_leads_to_what_to_do(sandbox: Sandbox, tmp_path: Path) -> None:
    runbook = "https://docs.example.com/runbooks/ko/ColdChainDiskHigh.md"
    disk = {"summary": "디스크 공간 부족", "runbook_url": runbook}
    with World(sandbox, tmp_path / "receiver.db") as world:
        world.post(
            body(
                [
                    payload_alert("f1", annotations=disk | {"description": "/data 사용률이 95%입니다"}),
                    payload_alert("f2", annotations=disk | {"description": "/backup 사용률이 97%입니다"}),
                    payload_alert("f3", annotations={"description": "<b>", "runbook_url": "javascript:alert(1)"}),
                ]
            )
        )
        page = world.client.get("/").text
        assert "<small>/data 사용률이 95%입니다</small>" in page
        assert "<small>/backup 사용률이 97%입니다</small>" in page
        assert page.count(f'<a href="{runbook}">조치 방법</a>') == 2
        assert "<small>&lt;b&gt;</small>" in page
        assert "javascript:" not in page


def test_door_does_not_wait_for_an_alertmanager_that_does_not_answer(sandbox: Sandbox, tmp_path: Path) -> None:
    with socket.create_server(("127.0.0.1", 0)) as silent:
        address = f"http://127.0.0.1:{silent.getsockname()[1]}"
        with World(sandbox, tmp_path / "receiver.db", alertmanager_url=address) as world:
            world.post(body([payload_alert(severity="critical")]))
            assert [one["status"] for one in world.client.get("/api/v1/alerts").json()["alerts"]] == ["firing"]
            assert world.client.get("/").status_code == 200


def test_list_is_alertmanagers_where_it_answers(
    sandbox: Sandbox, tmp_path: Path, answers: tuple[str, dict[str, Any]]
) -> None:
    url, answer = answers
    answer["body"] = [api_alert(silencedBy=["x"])]
    with World(sandbox, tmp_path / "receiver.db", alertmanager_url=url) as world:
        world.post(body([payload_alert("gone", severity="critical")]))
        until(lambda: world.client.get("/api/v1/alerts").json()["alertmanager"] == "asked", "Alertmanager is asked")
        found = world.client.get("/api/v1/alerts").json()["alerts"]
        assert [(one["fingerprint"], one["status"], one["heard_at"]) for one in found] == [("f1", "silenced", None)]
