"""The doors, over HTTP: every answer of the webhook, the history, the page, the metrics."""

from __future__ import annotations

import contextlib
import json
import re
import sqlite3
import time
from collections.abc import Iterator
from datetime import datetime, timedelta
from pathlib import Path
from typing import Any, Self

import httpx
import pytest
import uvicorn
from pydantic import SecretStr

from deploy.demo.sandbox import Options, Sandbox
from receiver.app import create_app
from receiver.service import Receiver
from receiver.settings import HeartbeatSettings, ReceiverSettings, RetrySettings, StormSettings
from serving.reload import Reload
from tests.databases import PostgreSQL
from tests.receiver.conftest import new_database
from tests.receiver.making import body, payload, payload_alert
from tests.receiver.sending import email_settings, slack_settings, sms_settings
from tests.receiver.serving import served
from tests.waiting import until

JSON = {"Content-Type": "application/json"}


class World:
    """A receiver behind its doors, and what it sends to."""

    def __init__(self, sandbox: Sandbox, file: Path, **more: Any) -> None:
        self.sandbox = sandbox
        self.file = file
        asked: dict[str, Any] = {
            "database_url": SecretStr(f"sqlite:///{file}"),
            "email": email_settings(sandbox),
            "slack": slack_settings(sandbox, pause="0s"),
            "sms": sms_settings(sandbox),
            "retry": RetrySettings(first="100ms", longest="200ms"),
        }
        self.settings = ReceiverSettings(**(asked | more))
        self.reload = Reload(lambda: self.receiver.reload(self.settings))
        self.receiver = Receiver(self.settings, "1.2.3", reloaded=lambda: self.reload.successful)
        config = uvicorn.Config(
            create_app(self.receiver, reload=self.reload), port=0, log_config=None, http="httptools", ws="none"
        )
        self._served = served(config)

    def __enter__(self) -> Self:
        self.client = httpx.Client(base_url=self._served.__enter__(), trust_env=False, timeout=20)
        return self

    def __exit__(self, *_: object) -> None:
        self.client.close()
        self._served.__exit__(None, None, None)

    def post(self, content: bytes, headers: dict[str, str] = JSON) -> tuple[int, Any]:
        answer = self.client.post("/webhook", content=content, headers=headers)
        return answer.status_code, answer.json()

    def deliveries(self, notification_id: int = 1) -> dict[str, dict[str, Any]]:
        """By channel, as the history tells."""
        found = self.client.get(f"/api/v1/notifications/{notification_id}").json()["deliveries"]
        return {delivery["channel"]: delivery for delivery in found}

    def states(self, notification_id: int = 1) -> dict[str, str]:
        return {channel: delivery["state"] for channel, delivery in self.deliveries(notification_id).items()}

    def settled(self, notification_id: int = 1) -> dict[str, str]:
        """The states when none is open any more."""
        until(lambda: not {"pending", "retrying"} & set(self.states(notification_id).values()), "all is settled")
        return self.states(notification_id)

    def metric(self, series: str) -> float | None:
        text = self.client.get("/metrics").text
        values = [line.rsplit(" ", 1)[1] for line in text.splitlines() if line.startswith(f"{series} ")]
        return float(values[0]) if values else None


@pytest.fixture
def world(sandbox: Sandbox, tmp_path: Path) -> Iterator[World]:
    made = World(sandbox, tmp_path / "receiver.db")
    with made:
        yield made


def critical(fingerprint: str = "f1", **more: Any) -> bytes:
    return body([payload_alert(fingerprint, severity="critical")], **more)


# The webhook's answers


def test_stored_notification_is_answered_with_its_number(world: World) -> None:
    assert world.post(critical()) == (200, {"notification": 1, "deliveries": 3, "duplicate": False})
    assert world.post(critical()) == (200, {"notification": 1, "deliveries": 0, "duplicate": True})
    assert world.metric('coldchain_receiver_webhooks_total{result="accepted"}') == 1
    assert world.metric('coldchain_receiver_webhooks_total{result="duplicate"}') == 1


def test_message_goes_out_on_every_channel_of_its_severity(world: World) -> None:
    world.post(critical())
    assert world.settled() == {"email": "delivered", "sms": "delivered", "slack": "delivered"}
    (mail,) = world.sandbox.messages("smtp")
    assert mail["subject"] == "[CRITICAL] 배차 대기 주문 많음"
    (post,) = world.sandbox.messages("slack")
    assert post["payload"]["text"] == ":rotating_light: [CRITICAL] 배차 대기 주문 많음"
    texts = world.sandbox.messages("aligo")
    assert [sms["msg"] for sms in texts] == [
        "[위험] 배차 대기 주문 많음\n2시간 이상 배차 대기 중인 주문이 11건 있습니다"
    ] * 2


def test_what_is_no_payload_is_400_and_says_why(world: World) -> None:
    assert world.post(b"{}") == (400, {"detail": "alerts: is missing"})
    assert world.metric('coldchain_receiver_webhooks_total{result="invalid"}') == 1


@pytest.mark.parametrize("kind", ["text/plain", "", "application/x-www-form-urlencoded"])
def test_what_is_not_called_json_is_415(world: World, kind: str) -> None:
    assert world.post(critical(), {"Content-Type": kind}) == (415, {"detail": "Content-Type: must be application/json"})


def test_charset_beside_the_type_does_no_harm(world: World) -> None:
    assert world.post(critical(), {"Content-Type": "Application/JSON; charset=utf-8"})[0] == 200


def test_body_over_the_limit_is_413(sandbox: Sandbox, tmp_path: Path) -> None:
    world = World(sandbox, tmp_path / "receiver.db", max_body_bytes=2_000)
    with world:
        assert world.post(b" " * 2_001) == (413, {"detail": "the body is over 2000 bytes"})
        assert world.post(critical().ljust(2_000))[0] == 200


def test_what_was_claimed_and_not_begun_at_a_reload_is_sent_after_it(sandbox: Sandbox, tmp_path: Path) -> None:
    slack = slack_settings(sandbox, pause="0s", workers=1, timeout="10s")
    storm = StormSettings.model_validate({"messages": 0})
    with World(sandbox, tmp_path / "receiver.db", slack=slack, storm=storm) as world:
        sandbox.misbehave(channel="slack", delay=0.4, accept=True)
        for number in range(3):
            alert = payload_alert(f"f{number}", severity="info")
            assert world.post(body([alert], groupKey=f"{{}}:{{n={number}}}"))[0] == 200
        until(lambda: sandbox.calls("slack"), "the first is on its way")
        world.receiver.reload(world.settings)
        sandbox.behave()
        assert [world.settled(number) for number in (2, 3)] == [{"slack": "delivered"}] * 2
        assert len(sandbox.messages("slack")) == 3


def test_store_that_cannot_take_it_is_503_until_it_can(world: World) -> None:
    world.post(critical())
    world.settled()
    with contextlib.closing(sqlite3.connect(world.file, isolation_level=None)) as other:
        other.execute("BEGIN EXCLUSIVE")
        assert world.post(critical("f2")) == (503, {"detail": "the store is unavailable: try again"})
    assert world.post(critical("f2"))[0] == 200
    assert world.metric('coldchain_receiver_webhooks_total{result="unavailable"}') == 1


def test_store_that_does_not_answer_is_503_in_time_and_nothing_comes_twice(
    sandbox: Sandbox, postgresql: PostgreSQL, tmp_path: Path
) -> None:
    with World(sandbox, tmp_path / "unused", database_url=SecretStr(new_database(postgresql))) as world:
        world.post(critical())
        world.settled()
        sandbox.clear()
        postgresql.freeze()
        try:
            answer = world.post(critical("f2"))
        finally:
            postgresql.thaw()
        assert answer == (503, {"detail": "the store is unavailable: try again"})
        assert world.post(critical("f2"))[1]["notification"] == 2
        assert world.settled(2) == {"email": "delivered", "sms": "delivered", "slack": "delivered"}
        assert len(sandbox.messages("smtp")) == 1


def test_ten_thousand_alerts_are_taken_in(world: World) -> None:
    alerts = [payload_alert(f"{number:016x}", severity="info") for number in range(10_000)]
    assert world.post(body(alerts)) == (200, {"notification": 1, "deliveries": 1, "duplicate": False})
    assert world.settled() == {"slack": "delivered"}
    assert world.sandbox.messages("slack")[0]["payload"]["text"] == "🔵 [INFO] 배차 대기 주문 많음 (10,000건)"


def test_heartbeat_is_counted_and_not_delivered(world: World) -> None:
    assert world.metric("coldchain_receiver_heartbeat_timestamp_seconds") is None
    beat = body([payload_alert(severity="none", labels={"alertname": "ColdChainWatchdog", "severity": "none"})])
    before = time.time()
    assert world.post(beat) == (200, {"notification": 1, "deliveries": 0, "duplicate": False})
    heard = world.metric("coldchain_receiver_heartbeat_timestamp_seconds")
    assert heard is not None
    assert before <= heard <= time.time()


# Delivering


def test_failed_delivery_is_tried_again_until_it_gets_through(world: World) -> None:
    world.sandbox.misbehave(channel="slack", status=500, body="rollup_error", times=2)
    world.post(critical())
    assert world.settled()["slack"] == "delivered"
    assert world.deliveries()["slack"]["attempts"] == 3
    assert world.metric('coldchain_receiver_deliveries_total{channel="slack",outcome="retried"}') == 2
    assert world.metric('coldchain_receiver_deliveries_total{channel="slack",outcome="delivered"}') == 1


def test_dead_channel_does_not_delay_the_others(world: World) -> None:
    world.sandbox.misbehave(channel="smtp", stage="connect", hang=True)
    world.post(critical())
    until(lambda: world.states()["slack"] == world.states()["sms"] == "delivered", "the others deliver")
    assert world.states()["email"] in {"pending", "retrying"}
    world.sandbox.behave()
    assert world.settled()["email"] == "delivered"


def test_permanent_refusal_fails_at_once_and_can_be_put_in_line_again(world: World) -> None:
    world.sandbox.misbehave(channel="slack", status=404, body="no_service")
    world.post(critical())
    assert world.settled()["slack"] == "failed"
    slack = world.deliveries()["slack"]
    assert (slack["attempts"], slack["error"]) == (1, "Slack answered 404 no_service")
    assert world.metric('coldchain_receiver_outbox_deliveries{channel="slack",state="failed"}') == 1
    assert world.metric('coldchain_receiver_channel_up{channel="slack"}') == 0
    world.sandbox.behave()
    answer = world.client.post(f"/api/v1/deliveries/{slack['id']}/retry")
    assert (answer.status_code, answer.json()) == (200, {"delivery": slack["id"], "state": "pending"})
    assert world.settled()["slack"] == "delivered"
    assert world.metric('coldchain_receiver_channel_up{channel="slack"}') == 1


@pytest.mark.parametrize(("delivery_id", "status"), [(99, 404), (10**20, 404), (1, 409)])
def test_only_what_did_not_get_through_can(world: World, delivery_id: int, status: int) -> None:
    world.post(critical())
    world.settled()
    assert world.client.post(f"/api/v1/deliveries/{delivery_id}/retry").status_code == status


def test_another_sites_page_cannot_ask_for_it(world: World) -> None:
    answer = world.client.post("/api/v1/deliveries/1/retry", headers={"Sec-Fetch-Site": "cross-site"})
    assert answer.status_code == 403


def test_refused_mailbox_is_partial_and_says_which(world: World) -> None:
    world.sandbox.misbehave(channel="smtp", refuse={"a@example.com": 550})
    world.post(critical())
    assert world.settled()["email"] == "partial"
    assert [(one["address"], one["state"]) for one in world.deliveries()["email"]["recipients"]] == [
        ("a@example.com", "refused"),
        ("b@example.com", "delivered"),
    ]
    assert world.metric('coldchain_receiver_channel_up{channel="email"}') == 1


def test_beginning_that_is_late_is_told_together_with_its_end(world: World) -> None:
    world.sandbox.misbehave(channel="slack", status=500, times=2)
    world.post(critical())
    world.post(body([payload_alert(severity="critical", status="resolved", endsAt="2026-01-27T13:12:00Z")]))
    assert world.settled(1)["slack"] == "delivered"
    assert world.settled(2)["slack"] == "merged"
    assert [post["payload"]["text"] for post in world.sandbox.messages("slack")] == ["✅ [해소] 배차 대기 주문 많음"]


def test_slack_is_posted_to_no_faster_than_it_allows(tmp_path: Path) -> None:
    with Sandbox(Options(slack_rate=1.2, slack_burst=1)) as sandbox:
        with World(sandbox, tmp_path / "receiver.db", slack=slack_settings(sandbox)) as world:
            for number in range(3):
                world.post(body([payload_alert(f"f{number}", severity="info")], groupKey=str(number)))
            until(lambda: len(sandbox.messages("slack")) == 3, "all are posted")
        assert [call["answer"] for call in sandbox.calls("slack")] == ["200 ok"] * 3


def test_slack_that_asks_to_wait_is_left_alone_for_as_long(world: World) -> None:
    world.sandbox.misbehave(channel="slack", status=429, headers={"Retry-After": "2"}, times=1)
    for number in range(3):
        world.post(body([payload_alert(f"f{number}", severity="info")], groupKey=str(number)))
    until(lambda: len(world.sandbox.messages("slack")) == 3, "all are posted")
    refused, *others = world.sandbox.calls("slack")
    assert [refused["answer"].split()[0], *(call["answer"] for call in others)] == ["429", *["200 ok"] * 3]
    first, second = (datetime.fromisoformat(call["time"]) for call in (refused, others[0]))
    assert second - first >= timedelta(seconds=2)


def test_hostile_text_goes_out_on_every_channel(world: World) -> None:
    hostile = "\r\nBcc: x@example.com\n<!channel> <script>alert(1)</script> \u202e\u0000\ud83d & " + "가" * 100_000
    labels = {"alertname": hostile, "severity": "critical", "instance": hostile}
    alerts = [payload_alert("f1", labels=labels, annotations={"summary": hostile, "description": hostile})]
    content = json.dumps(payload(alerts, groupKey=hostile)).encode()
    assert world.post(content)[0] == 200
    assert world.settled() == {"email": "delivered", "sms": "delivered", "slack": "delivered"}
    (mail,) = world.sandbox.messages("smtp")
    assert mail["recipients"] == ["a@example.com", "b@example.com"]
    assert "<script" not in mail["html"]
    (post,) = world.sandbox.messages("slack")
    assert "<!channel>" not in json.dumps(post["payload"])
    assert world.sandbox.messages("aligo")[0]["bytes"] <= 2_000


def test_balance_is_a_gauge(world: World) -> None:
    until(lambda: world.metric('coldchain_receiver_sms_balance_messages{type="sms"}') == 100_000, "it is asked for")


def test_fault_of_our_own_delays_one_delivery_and_stops_no_worker(
    world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    render = world.receiver.render
    faults = iter([True])

    def faulty(*arguments: Any) -> Any:
        if next(faults, False):
            raise KeyError("secret detail")
        return render(*arguments)

    monkeypatch.setattr(world.receiver, "render", faulty)
    world.post(body([payload_alert(severity="info")]))
    assert world.settled() == {"slack": "delivered"}
    assert world.deliveries()["slack"]["attempts"] == 2


# Looking


def test_history_has_local_times_and_what_became_of_it(world: World) -> None:
    world.post(critical())
    world.settled()
    found = world.client.get("/api/v1/notifications").json()
    assert found["before"] is None
    (one,) = found["notifications"]
    assert (one["title"], one["status"], one["severity"]) == ("배차 대기 주문 많음", "firing", "critical")
    assert one["received_at"].endswith("+09:00")
    whole = world.client.get("/api/v1/notifications/1").json()
    assert whole["alerts"][0]["starts_at"] == "2026-01-27T22:00:00+09:00"


def test_history_is_paged(world: World) -> None:
    for number in range(3):
        world.post(critical(f"f{number}", groupKey=str(number)))
    first = world.client.get("/api/v1/notifications?limit=2").json()
    assert ([one["id"] for one in first["notifications"]], first["before"]) == ([3, 2], 2)
    second = world.client.get(f"/api/v1/notifications?limit=2&before={first['before']}").json()
    assert [one["id"] for one in second["notifications"]] == [1]


@pytest.mark.parametrize(
    ("query", "detail"),
    [
        (
            "status=burning",
            (
                "status: must be one of firing, resolved, pending, held, retrying, delivered, partial, uncertain, "
                "merged, suppressed, failed"
            ),
        ),
        ("severity=high", "severity: must be one of none, info, warning, critical"),
        ("channel=fax", "channel: must be one of email, slack, sms"),
        ("limit=0", "limit: must be a number from 1 to 500"),
        ("limit=501", "limit: must be a number from 1 to 500"),
        ("before=x", "before: must be a number from 1 to 4611686018427387904"),
    ],
)
def test_wrong_question_is_422_and_names_the_parameter(world: World, query: str, detail: str) -> None:
    answer = world.client.get(f"/api/v1/notifications?{query}")
    assert (answer.status_code, answer.json()) == (422, {"detail": detail})


@pytest.mark.parametrize("number", [7, 10**20])
def test_unknown_notification_is_404(world: World, number: int) -> None:
    answer = world.client.get(f"/api/v1/notifications/{number}")
    assert (answer.status_code, answer.json()) == (404, {"detail": "there is no such notification"})


def test_page_shows_channels_and_outcomes_with_masked_recipients(world: World) -> None:
    world.sandbox.misbehave(channel="smtp", refuse={"a@example.com": 550})
    world.post(critical())
    world.settled()
    answer = world.client.get("/")
    assert answer.headers["cache-control"] == "no-store"
    for expected in ("배차 대기 주문 많음", "일부 전달", "<small>a***@example.com refused: 550", "전달됨"):
        assert expected in answer.text
    assert "a@example.com" not in answer.text
    assert world.client.get("/static/receiver.css").headers["content-type"].startswith("text/css")


def test_page_gives_the_number_by_which_a_failed_delivery_is_tried_again(world: World) -> None:
    world.sandbox.misbehave(channel="slack", status=404, body="no_service")
    world.post(critical())
    world.settled()
    page = world.client.get("/").text
    assert re.findall(r"<small>발송 번호 (\d+)</small>", page) == [str(world.deliveries()["slack"]["id"])]
    assert "<small>default: Slack answered 404 no_service</small>" in page


def test_page_says_when_what_waits_for_a_digest_goes_out(sandbox: Sandbox, tmp_path: Path) -> None:
    storm = StormSettings.model_validate({"messages": 1, "within": "1h", "digest_every": "1h"})
    with World(sandbox, tmp_path / "receiver.db", sms={}, slack={}, storm=storm) as world:
        for number in range(2):
            world.post(body([payload_alert(f"f{number}")], groupKey=f"{{}}:{{n={number}}}"))
            until(lambda: world.states(1) == {"email": "delivered"}, "the first is delivered")
        until(lambda: "모아서 발송" in world.client.get("/").text, "the second waits for the digest")
        due = world.deliveries(2)["email"]["next_attempt_at"]
        assert (
            f'<span class="quiet">대기</span> <small>{due[11:19]}에 모아서 발송</small>' in world.client.get("/").text
        )


@pytest.mark.parametrize(("missing_after", "said"), [("1h", False), ("1ms", True)])
def test_page_says_when_the_heartbeat_is_missing(
    sandbox: Sandbox, tmp_path: Path, missing_after: str, *, said: bool
) -> None:
    heartbeat = HeartbeatSettings.model_validate({"missing_after": missing_after})
    with World(sandbox, tmp_path / "receiver.db", heartbeat=heartbeat) as world:
        world.post(
            body([payload_alert(severity="none", labels={"alertname": "ColdChainWatchdog", "severity": "none"})])
        )
        assert ("중단됨" in world.client.get("/").text) is said


def test_page_says_that_a_channel_is_off(sandbox: Sandbox, tmp_path: Path) -> None:
    world = World(sandbox, tmp_path / "receiver.db", sms={})
    with world:
        assert "꺼짐: ALIGO_API_KEY, ALERT_SMS_TO 설정 없음" in world.client.get("/").text


def test_secret_is_in_no_page_metric_row_or_log(
    world: World, caplog: pytest.LogCaptureFixture, capfd: pytest.CaptureFixture[str]
) -> None:
    world.sandbox.misbehave(channel="slack", status=404, body="no_service")
    world.sandbox.misbehave(channel="aligo", body={"result_code": -101, "message": "인증오류"})
    world.sandbox.misbehave(channel="smtp", status=554)
    world.post(critical())
    world.settled()
    world.receiver._store.write(lambda connection: connection.exec_driver_sql("PRAGMA user_version"))
    stored = b"".join(file.read_bytes() for file in world.file.parent.iterdir()).decode("latin-1")
    pages = "".join(world.client.get(path).text for path in ("/", "/metrics", "/api/v1/notifications/1"))
    told = stored + pages + caplog.text + "".join(capfd.readouterr())
    assert "no_service" in told
    for secret in ("services/T0", "sandbox-key"):
        assert secret not in told


def test_recipients_are_masked_in_the_log(world: World, capfd: pytest.CaptureFixture[str]) -> None:
    world.sandbox.misbehave(channel="smtp", refuse={"a@example.com": 550, "b@example.com": 550})
    world.post(critical())
    world.settled()
    logged = ""

    def said() -> bool:
        nonlocal logged
        logged += "".join(capfd.readouterr())
        return "not delivered" in logged and "channel=email" in logged

    until(said, "it is logged")
    assert "a***@example.com refused: 550" in logged
    assert "a@example.com" not in logged


def test_store_that_can_be_read_and_not_written_is_not_ready_and_shows_no_numbers(world: World) -> None:
    world.post(critical())
    world.settled()
    oldest = 'coldchain_receiver_outbox_oldest_seconds{channel="slack"}'
    with contextlib.closing(sqlite3.connect(world.file, isolation_level=None)) as other:
        other.execute("BEGIN IMMEDIATE")
        assert world.post(critical("f2"))[0] == 503
        answer = world.client.get("/-/ready")
        assert (answer.status_code, answer.text) == (503, "Not ready: the store is unavailable\n")
        assert world.metric(oldest) is None
        page = world.client.get("/").text
        assert "저장소를 쓸 수 없습니다: database is locked." in page
        assert "배차 대기 주문 많음" in page  # what can be read is shown
    assert world.client.get("/-/ready").text == "Ready\n"
    assert world.metric(oldest) == 0
    assert "저장소를 쓸 수 없습니다" not in world.client.get("/").text


def test_ready_says_so_when_the_store_is_gone(sandbox: Sandbox, tmp_path: Path) -> None:
    world = World(sandbox, tmp_path / "missing" / "receiver.db")
    with world:
        answer = world.client.get("/-/ready")
        assert (answer.status_code, answer.text) == (503, "Not ready: the store is unavailable\n")
        assert world.post(critical())[0] == 503
        answer = world.client.get("/")
        assert answer.status_code == 200
        assert answer.text.count("저장소를 읽지 못해 알 수 없습니다.") == 2  # not that nothing fires, or ever came
        assert "없습니다.</p>" not in answer.text.replace("알 수 없습니다.</p>", "")
        assert world.metric('coldchain_receiver_outbox_oldest_seconds{channel="slack"}') is None
        (tmp_path / "missing").mkdir()
        assert world.client.get("/-/ready").text == "Ready\n"
        assert world.post(critical())[0] == 200
        assert "저장소를 읽지 못해" not in world.client.get("/").text


# Reloading


def test_reload_puts_other_settings_in_force(world: World) -> None:
    world.settings = world.settings.model_copy(update={"locale": "en", "sms": sms_settings(world.sandbox, to=())})
    assert world.client.post("/-/reload").status_code == 200
    assert world.post(critical())[1]["deliveries"] == 2
    assert world.settled() == {"email": "delivered", "slack": "delivered"}
    (mail,) = world.sandbox.messages("smtp")
    assert "Category: business" in mail["text"]


def test_reload_refuses_another_store_and_keeps_the_old(world: World, tmp_path: Path) -> None:
    old = world.settings
    world.settings = old.model_copy(update={"database_url": SecretStr(f"sqlite:///{tmp_path}/other.db")})
    answer = world.client.post("/-/reload")
    assert answer.status_code == 400
    assert "can be changed only by a restart" in answer.text
    assert world.metric("coldchain_config_last_reload_successful") == 0
    assert world.receiver.settings == old


def test_metrics_are_all_there_before_anything_happened(world: World) -> None:
    text = world.client.get("/metrics").text
    for name in (
        "coldchain_receiver_webhooks_total",
        "coldchain_receiver_deliveries_total",
        "coldchain_receiver_delivery_seconds",
        "coldchain_receiver_outbox_deliveries",
        "coldchain_receiver_outbox_oldest_seconds",
        "coldchain_receiver_channel_up",
        "coldchain_receiver_sms_balance_messages",
        "coldchain_receiver_build_info",
        "coldchain_config_last_reload_successful",
        "coldchain_authentication_failures_total",
        "process_resident_memory_bytes",
    ):
        assert f"# TYPE {name} " in text, name
    assert "_created" not in text


@pytest.mark.parametrize(
    ("accept", "kind"),
    [
        ("application/openmetrics-text;version=1.0.0", "application/openmetrics-text; version=1.0.0; charset=utf-8"),
        ("text/plain", "text/plain; version=0.0.4; charset=utf-8"),
        ("", "text/plain; version=0.0.4; charset=utf-8"),
    ],
)
def test_metrics_come_in_the_form_that_is_asked_for(world: World, accept: str, kind: str) -> None:
    answer = world.client.get("/metrics", headers={"Accept": accept, "Accept-Encoding": "gzip"})
    assert answer.headers["content-type"].split("; escaping")[0] == kind
    assert answer.headers["content-encoding"] == "gzip"
    assert "coldchain_receiver_build_info" in answer.text
