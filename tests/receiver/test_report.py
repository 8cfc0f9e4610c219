"""The health report mail: its words, its figures' source, its times."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest
from pydantic import SecretStr, ValidationError

from deploy.demo.sandbox import Sandbox
from receiver import report
from receiver.outbox import Accepted, Filter, Outbox
from receiver.report import ExporterError, Reporter, compose, due, fetch
from receiver.settings import ReceiverSettings, ReportSettings
from receiver.store import Store
from tests.outside import answering
from tests.receiver.test_app import World
from tests.waiting import until

GOLDEN = Path(__file__).parent / "golden"
# The guide's, with the offset that times have here.
GUIDE: dict[str, Any] = {
    "status": "healthy",
    "timestamp": "2026-01-27T22:00:00+09:00",
    "checks": {
        "database": {"status": "healthy", "response_time_ms": 45.23, "message": "Database connection OK"},
        "system_resources": {
            "status": "healthy",
            "cpu_percent": 25.3,
            "memory_percent": 45.7,
            "disk_percent": 62.1,
            "memory_available_gb": 8.52,
            "disk_free_gb": 150.45,
        },
        "application": {
            "status": "healthy",
            "recent_orders_24h": 145,
            "active_dispatches": 23,
            "active_vehicles": 45,
        },
    },
}
DOWN: dict[str, Any] = {
    "status": "unhealthy",
    "timestamp": "2026-01-27T22:00:00+09:00",
    "checks": {
        "database": {
            "status": "unhealthy",
            "response_time_ms": None,
            "message": "Database connection failed",
            "error": "connection refused <script>",
        },
        "system_resources": GUIDE["checks"]["system_resources"] | {"status": "degraded", "cpu_percent": 75.0},
        "application": {
            "status": "degraded",
            "recent_orders_24h": None,
            "active_dispatches": None,
            "active_vehicles": None,
            "error": "orders: stale",
        },
    },
}
UNKNOWN = {
    "status": "unknown",
    "error": "the exporter at http://127.0.0.1:19110 is not reached: ConnectionError",
    "error_ko": "수집기(http://127.0.0.1:19110)에 연결할 수 없습니다: ConnectionError",
}
SEOUL = ReceiverSettings().zone


# Words


@pytest.mark.parametrize("locale", ["ko", "en"])
@pytest.mark.parametrize(("name", "document"), [("healthy", GUIDE), ("down", DOWN), ("unknown", UNKNOWN)])
def test_mail_reads_as_it_did(
    golden: Callable[[Path, str], None], locale: str, name: str, document: dict[str, Any]
) -> None:
    parts = report.parts(compose(document, locale, SEOUL))
    golden(GOLDEN / locale / f"report_{name}.html", parts["html"] + "\n")
    golden(GOLDEN / locale / f"report_{name}.txt", f"{parts['subject']}\n\n{parts['text']}\n")


def test_guides_lines_are_there_as_in_the_guide() -> None:
    html = report.parts(compose(GUIDE, "ko", SEOUL))["html"]
    for line in (
        "<h2>시스템 상태 보고</h2>",
        "<h3>데이터베이스</h3>",
        "<li>상태: healthy</li>",
        "<li>응답 시간: 45ms</li>",
        "<h3>시스템 리소스</h3>",
        "<li>CPU: 25.3%</li>",
        "<li>메모리: 45.7%</li>",
        "<li>디스크: 62.1%</li>",
    ):
        assert line in html
    assert "시스템 상태: <strong" in html


def test_other_language_reads_it_in_english() -> None:
    assert compose(GUIDE, "ja", SEOUL).title == "System health report"


# Figures


@dataclass
class Exporter:
    """Answers `health` as it is told."""

    url: str = ""
    status: int = 200
    body: object = field(default_factory=lambda: GUIDE)
    asked: list[tuple[str, str | None]] = field(default_factory=list)

    def answer(self, path: str, headers: Mapping[str, str]) -> tuple[int, bytes]:
        self.asked.append((path, headers.get("Authorization")))
        return self.status, self.body if isinstance(self.body, bytes) else json.dumps(self.body).encode()


@pytest.fixture
def exporter() -> Iterator[Exporter]:
    made = Exporter()
    with answering(made.answer) as made.url:
        yield made


def test_figures_are_the_exporters(exporter: Exporter) -> None:
    assert fetch(ReportSettings(exporter_url=exporter.url)) == GUIDE
    assert exporter.asked == [("/api/v1/monitoring/health", None)]


def test_exporter_that_asks_for_a_user_gets_one(exporter: Exporter) -> None:
    fetch(
        ReportSettings(exporter_url=exporter.url, exporter_user="receiver", exporter_password=SecretStr("a-password"))
    )
    assert exporter.asked[0][1] == "Basic cmVjZWl2ZXI6YS1wYXNzd29yZA=="


@pytest.mark.parametrize(
    ("status", "body", "said", "korean"),
    [
        (401, b"", "the exporter at {url} answered 401", "수집기({url})의 응답 코드가 401입니다"),
        (500, b"", "the exporter at {url} answered 500", "수집기({url})의 응답 코드가 500입니다"),
        (200, b"<html>", "what answers at {url} is not the exporter", "{url}에서 응답하는 것은 수집기가 아닙니다"),
        (200, [], "what answers at {url} is not the exporter", "{url}에서 응답하는 것은 수집기가 아닙니다"),
        (
            200,
            {"detail": "x"},
            "what answers at {url} is not the exporter",
            "{url}에서 응답하는 것은 수집기가 아닙니다",
        ),
    ],
)
def test_what_is_no_health_is_said(exporter: Exporter, status: int, body: object, said: str, korean: str) -> None:
    exporter.status, exporter.body = status, body
    with pytest.raises(ExporterError) as caught:
        fetch(ReportSettings(exporter_url=exporter.url))
    assert str(caught.value) == said.format(url=exporter.url)
    assert caught.value.korean == korean.format(url=exporter.url)


def test_exporter_that_is_not_there_is_said() -> None:
    with pytest.raises(ExporterError, match=r"the exporter at http://127\.0\.0\.1:1 is not reached: ConnectionError"):
        fetch(ReportSettings(exporter_url="http://127.0.0.1:1"))


# Times


def at(text: str) -> datetime:
    return datetime.fromisoformat(f"{text}+09:00")


@pytest.mark.parametrize(
    ("asked", "now", "expected"),
    [
        ({}, "2026-01-27T08:00", None),
        ({"at": ["08:00"]}, "2026-01-27T07:59", None),
        ({"at": ["08:00"]}, "2026-01-27T08:00", "2026-01-27T08:00"),
        ({"at": ["08:00"]}, "2026-01-27T08:59", "2026-01-27T08:00"),
        ({"at": ["08:00"]}, "2026-01-27T09:00", None),
        ({"at": ["08:00", "08:30"]}, "2026-01-27T08:45", "2026-01-27T08:30"),
        ({"at": "23:30"}, "2026-01-28T00:15", "2026-01-27T23:30"),
        ({"at": ["08:00"], "days": "mon-fri"}, "2026-01-31T08:00", None),  # a Saturday
        ({"at": ["08:00"], "days": "sat"}, "2026-01-31T08:00", "2026-01-31T08:00"),
        ({"at": ["08:00"], "days": "mon-fri"}, "2026-02-17T08:00", None),  # a holiday
        ({"at": ["08:00"], "days": ["mon-fri", "holiday"]}, "2026-02-17T08:00", "2026-02-17T08:00"),
        ({"at": "23:30", "days": "fri"}, "2026-01-31T00:15", "2026-01-30T23:30"),  # Friday's, after midnight
        ({"at": 18 * 60}, "2026-01-27T18:00", "2026-01-27T18:00"),  # 18:00 as YAML reads it without quotes
    ],
)
def test_report_is_due(asked: dict[str, Any], now: str, expected: str | None) -> None:
    settings = ReceiverSettings(
        report=ReportSettings(**asked, to=("a@example.com",)),
        holidays=("2026-02-17",),
    )
    found = due(settings, at(now))
    assert found == (at(expected).astimezone(UTC) if expected is not None else None)


@pytest.mark.parametrize("wrong", ["8:00", "24:00", "08:60", "soon"])
def test_time_that_is_none_is_refused(wrong: str) -> None:
    with pytest.raises(ValidationError, match="write times of day such as 08:00"):
        ReportSettings(at=(wrong,))


def test_report_to_nobody_is_refused() -> None:
    with pytest.raises(ValidationError, match=r"report\.at is given, but neither report\.to nor email\.to"):
        ReceiverSettings(report=ReportSettings(at=("08:00",)))


# Sending


class Clock:
    def __init__(self, text: str) -> None:
        self.now = at(text)

    def __call__(self) -> datetime:
        return self.now


def settings_for(exporter: Exporter) -> ReceiverSettings:
    return ReceiverSettings(
        email={"host": "mail.example.com", "sender": "noreply@example.com", "to": "duty@example.com"},
        report=ReportSettings(at=("08:00",), exporter_url=exporter.url),
    )


def test_report_is_stored_once_whoever_looks_and_however_often(store: Store, exporter: Exporter) -> None:
    settings, told, clock = settings_for(exporter), list[Accepted](), Clock("2026-01-27T08:00")
    outboxes = [Outbox(store, name) for name in ("one", "two")]
    for outbox in (outboxes[0], outboxes[1], outboxes[0]):
        reporter = Reporter(outbox, lambda: settings, told.append, clock=clock)
        reporter.look()
        reporter.look()
    assert len(told) == 1
    clock.now += timedelta(days=1)
    Reporter(outboxes[0], lambda: settings, told.append, clock=clock).look()
    assert len(told) == 2
    (_, first) = outboxes[0].history(Filter())
    (delivery,) = first.deliveries
    assert (first.source, delivery.channel) == ("report", "email")
    assert [one.address for one in delivery.recipients] == ["duty@example.com"]


def test_exporter_that_is_away_has_five_minutes_and_then_the_report_says_so(outbox: Outbox, exporter: Exporter) -> None:
    exporter.status = 503
    settings, told, clock = settings_for(exporter), list[Accepted](), Clock("2026-01-27T08:04:59")
    reporter = Reporter(outbox, lambda: settings, told.append, clock=clock)
    reporter.look()
    assert told == []
    clock.now += timedelta(seconds=1)
    reporter.look()
    (accepted,) = told
    record = outbox.notification(accepted.notification_id)
    assert record is not None
    assert record.notification is not None
    description = record.notification.alerts[0].annotations["description"]
    assert description == f"시스템 상태: unknown\n\n원인\n- 수집기({exporter.url})의 응답 코드가 503입니다"


def test_mail_arrives_as_the_report_and_not_as_an_alert(sandbox: Sandbox, tmp_path: Path, exporter: Exporter) -> None:
    now = datetime.now(SEOUL)
    asked = ReportSettings(at=(f"{now:%H:%M}",), to=("boss@example.com",), exporter_url=exporter.url)
    with World(sandbox, tmp_path / "receiver.db", report=asked):
        (mail,) = until(lambda: sandbox.messages("smtp"), "the mail arrives")
    assert (mail["recipients"], mail["subject"]) == (["boss@example.com"], "시스템 상태 보고")
    assert "<li>응답 시간: 45ms</li>" in mail["html"]
    lines = mail["text"].splitlines()
    assert lines[:5] == ["시스템 상태: healthy", "", "데이터베이스", "- 상태: healthy", "- 응답 시간: 45ms"]
