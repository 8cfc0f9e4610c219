"""A night of the whole receiver, without its doors: quiet hours, groups in two languages, own words, what fires."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import datetime, timedelta
from pathlib import Path
from typing import Any

import pytest
from pydantic import SecretStr

from deploy.demo.sandbox import Sandbox
from receiver.outbox import Filter
from receiver.service import Receiver
from receiver.settings import ReceiverSettings
from tests.receiver.making import NOW, body, payload_alert
from tests.receiver.sending import email_settings, slack_settings, sms_settings
from tests.waiting import until

HOUR = timedelta(hours=1)
MORNING = NOW + 9 * HOUR  # 07:00 in Seoul
ENGLISH = {"summary_en": "Many orders waiting", "description_en": "11 orders have been waiting"}
KOREAN = {"summary": "배차 대기 주문 많음", "description": "주문 11건이 배차를 기다리고 있습니다"}
WHO: dict[str, Any] = {
    "groups": {
        "배차 담당자": {"email": "dispatch@example.com", "locale": "en", "time_zone": "UTC"},
        "시스템 관리자": {"email": "admin@example.com", "slack": "default"},
    },
    "routes": [{"matchers": ["category=business"], "groups": "배차 담당자"}],
    "default": {"groups": "시스템 관리자"},
    "schedules": {"nights": {"windows": [{"hours": "22:00-07:00"}]}},
    "quiet": [{"schedule": "nights", "channels": "email"}],
}


class Night:
    """A receiver whose clock is turned by hand."""

    def __init__(self, sandbox: Sandbox, settings: ReceiverSettings) -> None:
        self.sandbox = sandbox
        self.now = NOW
        self.receiver = Receiver(settings, "1.2.3", clock=lambda: self.now)

    def post(self, *alerts: dict[str, Any], at: datetime = NOW, group: str = "g") -> None:
        self.now = at
        self.receiver.accept(body(alerts, groupKey=group)).result()

    def states(self, channel: str = "email") -> list[str]:
        """Of one channel, the oldest first."""
        records = reversed(self.receiver.outbox.history(Filter(channel=channel)))
        return [one.state for record in records for one in record.deliveries if one.channel == channel]

    def mail(self) -> dict[str, Any]:
        """The only one."""
        until(lambda: len(self.sandbox.messages("smtp")) == 1, "there is a mail")
        return self.sandbox.messages("smtp")[0]


@pytest.fixture
def settings(sandbox: Sandbox, tmp_path: Path) -> ReceiverSettings:
    return ReceiverSettings(
        database_url=SecretStr(f"sqlite:///{tmp_path}/receiver.db"),
        email=email_settings(sandbox),
        slack=slack_settings(sandbox, pause="0s"),
        sms=sms_settings(sandbox),
        **WHO,
    )


@contextmanager
def running(sandbox: Sandbox, settings: ReceiverSettings) -> Iterator[Night]:
    night = Night(sandbox, settings)
    night.receiver.start()
    try:
        yield night
    finally:
        night.receiver.stop()


@pytest.fixture
def night(sandbox: Sandbox, settings: ReceiverSettings) -> Iterator[Night]:
    with running(sandbox, settings) as made:
        yield made


def orders(fingerprint: str = "orders", **more: Any) -> dict[str, Any]:
    return payload_alert(fingerprint, annotations=KOREAN | ENGLISH, startsAt="2026-01-27T13:00:00Z", **more)


RESOLVED = {"status": "resolved", "endsAt": "2026-01-27T14:00:00Z"}


def test_quiet_night_is_told_in_the_morning_in_the_readers_language_and_time(night: Night) -> None:
    night.post(orders())
    assert night.states() == ["held"]
    night.now = MORNING
    mail = night.mail()
    assert mail["recipients"] == ["dispatch@example.com"]
    assert mail["subject"] == "[WARNING] Many orders waiting"
    assert "Started: 2026-01-27 13:00:00 UTC" in mail["text"]
    until(lambda: night.states() == ["delivered"], "it is noted")


def test_what_came_and_went_is_a_line_of_the_mornings_message(night: Night) -> None:
    night.post(orders())
    night.post(orders("vehicles"), at=NOW + HOUR / 2, group="another")
    night.post(orders(**RESOLVED), at=NOW + HOUR)
    assert night.states() == ["suppressed", "held", "held"]
    night.now = MORNING
    mail = night.mail()
    assert mail["subject"] == "[WARNING] 2 alerts held back: Many orders waiting"
    assert "(1 firing, 1 resolved)" in mail["text"]
    assert "✅ [RESOLVED] Many orders waiting" in mail["text"]
    until(lambda: sorted(night.states()) == ["delivered", "merged", "suppressed"], "it is noted")


def test_critical_alert_wakes_its_readers(night: Night) -> None:
    critical = {"alertname": "ColdChainDatabaseDown", "category": "database", "severity": "critical"}
    night.post(payload_alert("db", labels=critical))
    assert night.mail()["recipients"] == ["admin@example.com"]


def test_groups_that_change_at_a_reload_are_in_force_at_once(night: Night, settings: ReceiverSettings) -> None:
    night.receiver.reload(settings.model_copy(update={"quiet": ()}))
    night.post(orders())
    assert night.mail()["recipients"] == ["dispatch@example.com"]


def test_own_template_that_fails_costs_no_message_and_is_counted(
    sandbox: Sandbox, settings: ReceiverSettings, tmp_path: Path
) -> None:
    (tmp_path / "templates/en").mkdir(parents=True)
    (tmp_path / "templates/en/email.subject.j2").write_text("{{ story.nothing }}", encoding="utf-8")
    broken = settings.model_copy(update={"quiet": (), "templates_dir": tmp_path / "templates"})
    with running(sandbox, broken) as night:
        night.post(orders())
        assert night.mail()["subject"] == "[WARNING] Many orders waiting"
        scraped = night.receiver.metrics.scrape("", "")[0].decode()
        assert 'coldchain_receiver_template_errors_total{channel="email"} 1.0' in scraped


def test_what_fires_is_known_from_what_was_heard(night: Night) -> None:
    night.post(orders())
    assert [(one.alert.fingerprint, one.state) for one in night.receiver.firing()] == [("orders", "firing")]
    night.now = NOW + 5 * HOUR
    assert [one.state for one in night.receiver.firing()] == ["unknown"]
    night.post(orders(**RESOLVED), at=NOW + 5 * HOUR)
    assert night.receiver.firing() == []


def test_no_thread_outlives_the_receiver(sandbox: Sandbox, settings: ReceiverSettings) -> None:
    before = threading.active_count()
    with running(sandbox, settings):
        pass
    until(lambda: threading.active_count() <= before, "every thread has ended")


def test_clock_that_is_set_back_holds_up_no_channel(night: Night) -> None:
    critical = {"alertname": "ColdChainDatabaseDown", "category": "database", "severity": "critical"}
    night.post(payload_alert("before", labels=critical), at=MORNING)
    until(lambda: night.states() + night.states("slack") == ["delivered"] * 2, "it is told")
    night.post(payload_alert("after", labels=critical), at=MORNING - HOUR, group="after")
    until(lambda: night.states() + night.states("slack") == ["delivered"] * 4, "the next is told as well")


def test_what_waits_when_the_clock_is_set_back_does_not_wait_until_it_has_caught_up(
    night: Night, sandbox: Sandbox
) -> None:
    sandbox.misbehave(channel="smtp", status=451, times=1)
    critical = {"alertname": "ColdChainDatabaseDown", "category": "database", "severity": "critical"}
    night.post(payload_alert("before", labels=critical), at=MORNING)
    until(lambda: night.states() == ["retrying"], "the mail is to be tried again")
    night.now = MORNING - HOUR
    until(lambda: night.states() == ["delivered"], "it is")
