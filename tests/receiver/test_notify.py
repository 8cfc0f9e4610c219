"""The guide's API for programs, over HTTP: its examples, its refusals, who may call it."""

from __future__ import annotations

import contextlib
import sqlite3
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from datetime import timedelta
from pathlib import Path
from typing import Any

import httpx
import pytest
import uvicorn
from pydantic import SecretStr

from deploy.demo.sandbox import Sandbox
from receiver.app import create_app
from receiver.notify import Turns, is_local
from receiver.settings import NotifySettings
from serving.authentication import Authentication
from tests.receiver.serving import served
from tests.receiver.test_app import World
from tests.waiting import until

API = "/api/v1/monitoring"
GUIDE = {
    "title": "시스템 알림",
    "message": "CPU 사용률이 높습니다",
    "level": "warning",
    "channels": ["email", "slack"],
    "email_recipients": ["admin@example.com"],
    "sms_recipients": ["01012345678"],
}
BRIEFLY = NotifySettings(wait=timedelta(seconds=0.3))


@pytest.fixture
def world(sandbox: Sandbox, tmp_path: Path) -> Iterator[World]:
    with World(sandbox, tmp_path / "receiver.db") as made:
        yield made


@pytest.fixture
def brief(sandbox: Sandbox, tmp_path: Path) -> Iterator[World]:
    """Waits for an outcome for a moment only."""
    with World(sandbox, tmp_path / "receiver.db", notify=BRIEFLY) as made:
        yield made


@contextlib.contextmanager
def another_door(
    world: World, *, token: str | None = None, certified: bool = False, allow_anonymous: bool = False
) -> Iterator[httpx.Client]:
    """To the same receiver, with other flags."""
    app = create_app(world.receiver, reload=world.reload, allow_anonymous=allow_anonymous)
    asking = Authentication(app, {}, SecretStr(token) if token is not None else None, certified=certified)
    config = uvicorn.Config(asking, port=0, log_config=None, http="httptools", ws="none", lifespan="off")
    with served(config) as url, httpx.Client(base_url=url, trust_env=False, timeout=20) as client:
        yield client


def notify(world: World, change: dict[str, Any] | None = None, *, key: str | None = None) -> tuple[int, Any]:
    headers = {"Idempotency-Key": key} if key is not None else {}
    answer = world.client.post(f"{API}/notify", json=GUIDE | (change or {}), headers=headers)
    return answer.status_code, answer.json()


# notify


def test_guides_example_is_answered_as_in_the_guide(world: World) -> None:
    assert notify(world) == (
        200,
        {
            "success": True,
            "results": {"email": True, "slack": True},
            "message": "알림이 전송되었습니다",
            "pending": [],
            "errors": {},
            "notification": 1,
        },
    )
    (mail,) = world.sandbox.messages("smtp")
    assert (mail["recipients"], mail["subject"]) == (["admin@example.com"], "[WARNING] 시스템 알림")
    assert world.sandbox.messages("aligo") == []


def test_slack_message_is_the_guides(world: World) -> None:
    notify(world, {"level": "critical", "message": "CPU 사용률이 95.3%로 매우 높습니다", "channels": ["slack"]})
    (post,) = world.sandbox.messages("slack")
    assert post["payload"]["text"] == ":rotating_light: [CRITICAL] 시스템 알림"
    (attachment,) = post["payload"]["attachments"]
    lines = attachment["text"].splitlines()
    assert lines[:3] == ["CPU 사용률이 95.3%로 매우 높습니다", "", "Category: system"]
    assert lines[3].startswith("Timestamp: ")
    assert attachment["footer"] == "Cold Chain Dispatch System"


def test_critical_without_channels_goes_to_all_three(world: World) -> None:
    status, answer = notify(world, {"level": "critical", "channels": None})
    assert (status, answer["results"]) == (200, {"email": True, "slack": True, "sms": True})
    assert [sms["receiver"] for sms in world.sandbox.messages("aligo")] == ["01012345678"]


def test_answer_says_what_is_still_being_tried_and_it_is(world: World) -> None:
    world.sandbox.misbehave(channel="slack", status=500, body="rollup_error")
    status, answer = notify(world)
    assert (status, answer["success"]) == (200, False)
    assert answer["results"] == {"email": True, "slack": False}
    assert answer["pending"] == ["slack"]
    assert answer["errors"] == {"slack": "Slack answered 500 rollup_error"}
    assert answer["message"] == "일부 채널에 알림이 전송되었고 나머지는 아직 전송이 끝나지 않았습니다"
    world.sandbox.behave()
    assert world.settled(answer["notification"]) == {"email": "delivered", "slack": "delivered"}


def test_refusal_for_good_is_no_success_and_pending_no_more(world: World) -> None:
    world.sandbox.misbehave(channel="slack", status=404, body="no_service")
    _, answer = notify(world, {"channels": ["slack"]})
    assert answer["results"] == {"slack": False}
    assert answer["pending"] == []
    assert answer["errors"] == {"slack": "Slack answered 404 no_service"}
    assert answer["message"] == "알림이 전송되지 않았습니다"


def test_refused_mailbox_is_named(world: World) -> None:
    world.sandbox.misbehave(channel="smtp", refuse={"gone@example.com": 550})
    _, answer = notify(world, {"channels": ["email"], "email_recipients": ["admin@example.com", "gone@example.com"]})
    assert (answer["success"], answer["results"], answer["pending"]) == (False, {"email": False}, [])
    assert "gone@example.com refused: 550" in answer["errors"]["email"]


def test_channel_that_is_off_says_so(sandbox: Sandbox, tmp_path: Path) -> None:
    with World(sandbox, tmp_path / "receiver.db", sms={}) as world:
        status, answer = notify(world, {"channels": ["sms"]})
    assert (status, answer["success"], answer["results"]) == (200, False, {"sms": False})
    assert answer["errors"] == {"sms": "off, not set: ALIGO_API_KEY"}


def test_it_is_in_the_history(world: World) -> None:
    notify(world)
    (record,) = world.client.get("/api/v1/notifications").json()["notifications"]
    assert (record["source"], record["title"], record["severity"]) == ("notify", "시스템 알림", "warning")


# Idempotency-Key


def test_same_request_again_is_the_same_notification(world: World) -> None:
    first = notify(world, key="order-17")
    again = notify(world, key="order-17")
    assert first == again
    assert notify(world, key="order-18")[1]["notification"] == 2
    assert len(world.sandbox.messages("smtp")) == 2


def test_key_of_another_request_is_422(world: World) -> None:
    notify(world, key="order-17")
    assert notify(world, {"title": "다른 알림"}, key="order-17") == (
        422,
        {"detail": "Idempotency-Key: was given with another body before"},
    )
    assert len(world.sandbox.messages("smtp")) == 1


def test_same_request_many_times_at_once_is_one_notification(world: World) -> None:
    with ThreadPoolExecutor(8) as pool:
        asked = [pool.submit(notify, world, key="order-17") for _ in range(8)]
        answers = [one.result() for one in asked]
    assert {(status, answer["notification"]) for status, answer in answers} == {(200, 1)}
    assert len(world.sandbox.messages("smtp")) == 1


@pytest.mark.parametrize("key", ["", "x" * 256, "with space"])
def test_key_must_be_one(world: World, key: str) -> None:
    assert notify(world, key=key) == (
        422,
        {"detail": "Idempotency-Key: must have 1 to 255 visible ASCII characters"},
    )


# What is refused


def test_wrong_field_is_422_and_named(world: World) -> None:
    assert notify(world, {"level": "urgent"}) == (
        422,
        {"detail": "level: Input should be 'info', 'warning' or 'critical'"},
    )
    assert world.sandbox.messages("slack") == []


@pytest.mark.parametrize(
    ("content", "kind", "status", "detail"),
    [
        (b"{", "application/json", 400, "the body is not JSON: "),
        (b"\xff", "application/json", 400, "the body is not JSON: "),
        (b"[" * 100_000, "application/json", 400, "the body is nested too deeply"),
        (b"[]", "application/json", 422, "the body must be an object"),
        (b"title=x", "application/x-www-form-urlencoded", 415, "Content-Type: must be application/json"),
        (b" " * (2**20 + 1), "application/json", 413, "the body is over 1048576 bytes"),
    ],
)
def test_body_that_cannot_be_read(world: World, content: bytes, kind: str, status: int, detail: str) -> None:
    answer = world.client.post(f"{API}/notify", content=content, headers={"Content-Type": kind})
    assert (answer.status_code, answer.json()["detail"][: len(detail)]) == (status, detail)


def test_store_that_cannot_take_it_is_503_and_nothing_is_sent(world: World) -> None:
    notify(world)
    with contextlib.closing(sqlite3.connect(world.file, isolation_level=None)) as other:
        other.execute("BEGIN EXCLUSIVE")
        assert notify(world) == (503, {"detail": "the store is unavailable: try again"})
    assert len(world.sandbox.messages("smtp")) == 1


def test_outcome_that_cannot_be_looked_up_is_pending_for_it_is_stored(
    world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    # the store goes away between the commit and the first look
    tell = world.receiver.tell

    def and_then_gone(*arguments: Any, **more: Any) -> Any:
        posted = tell(*arguments, **more)
        world.receiver._store._engine.dispose()
        while not world.file.is_dir():  # a channel's thread may open it anew between the two
            world.file.unlink(missing_ok=True)
            with contextlib.suppress(FileExistsError):
                world.file.mkdir()
        return posted

    monkeypatch.setattr(world.receiver, "tell", and_then_gone)
    status, answer = notify(world)
    assert (status, answer["success"], answer["pending"]) == (200, False, ["email", "slack"])
    assert answer["message"] == "알림을 저장했으며 아직 전송이 끝나지 않았습니다"


# The tests


def test_mail_goes_to_the_named_address(world: World) -> None:
    answer = world.client.get(f"{API}/test/email", params={"to_email": "admin@example.com"})
    assert (answer.status_code, answer.json()["results"]) == (200, {"email": True})
    (mail,) = world.sandbox.messages("smtp")
    assert (mail["recipients"], mail["subject"]) == (["admin@example.com"], "[INFO] 테스트 알림")
    assert "email 채널로 보낸 info 레벨의 테스트 알림입니다. 조치할 것은 없습니다." in mail["text"]


def test_slack_message_goes_to_the_hook(world: World) -> None:
    assert world.client.get(f"{API}/test/slack").json()["results"] == {"slack": True}
    (post,) = world.sandbox.messages("slack")
    assert post["payload"]["text"] == "🔵 [INFO] 테스트 알림"


@pytest.mark.parametrize(
    ("query", "results", "channel"),
    [
        ("", {"slack": True}, "slack"),
        ("?level=critical&channel=sms", {"sms": True}, "aligo"),
        ("?level=info&channel=email", {"email": True}, "smtp"),
    ],
)
def test_alert_of_a_level_goes_by_a_channel(world: World, query: str, results: dict[str, bool], channel: str) -> None:
    answer = world.client.post(f"{API}/test/alert{query}")
    assert (answer.status_code, answer.json()["results"]) == (200, results)
    assert world.sandbox.messages(channel)


def test_alert_is_a_warning_by_default(world: World) -> None:
    world.client.post(f"{API}/test/alert")
    (post,) = world.sandbox.messages("slack")
    assert post["payload"]["text"] == "🟠 [WARNING] 테스트 알림"


@pytest.mark.parametrize(
    ("method", "path", "status", "detail"),
    [
        ("GET", "test/email", 422, "to_email: is missing"),
        ("GET", "test/email?to_email=x", 422, "to_email: is no mail address such as admin@example.com"),
        ("POST", "test/alert?level=loud", 422, "level: Input should be 'info', 'warning' or 'critical'"),
        ("POST", "test/alert?channel=fax", 422, "channel: Input should be 'email', 'slack' or 'sms'"),
        ("GET", "test/alert", 405, "Method Not Allowed"),
        ("GET", "notify", 405, "Method Not Allowed"),
    ],
)
def test_wrong_test_is_refused(world: World, method: str, path: str, status: int, detail: str) -> None:
    answer = world.client.request(method, f"{API}/{path}")
    assert (answer.status_code, answer.json()) == (status, {"detail": detail})


def test_head_sends_nothing(world: World) -> None:
    assert world.client.head(f"{API}/test/slack").status_code == 405
    assert world.sandbox.calls("slack") == []


def test_named_address_is_held_to_the_allow_list(sandbox: Sandbox, tmp_path: Path) -> None:
    allowed = NotifySettings(allowed_email_domains=("example.com",))
    with World(sandbox, tmp_path / "receiver.db", notify=allowed) as world:
        answer = world.client.get(f"{API}/test/email?to_email=a@evil.example")
    assert answer.status_code == 422
    assert sandbox.messages("smtp") == []


def test_too_many_tests_are_429_with_the_time_to_wait(sandbox: Sandbox, tmp_path: Path) -> None:
    with World(sandbox, tmp_path / "receiver.db", notify=NotifySettings(tests_a_minute=2)) as world:
        answers = [world.client.get(f"{API}/test/slack") for _ in range(3)]
    assert [answer.status_code for answer in answers] == [200, 200, 429]
    assert 1 <= int(answers[2].headers["Retry-After"]) <= 60
    assert len(sandbox.messages("slack")) == 2


def test_turns_come_back_a_minute_after_they_were_taken() -> None:
    now = [0.0]
    turns = Turns(lambda: now[0])
    assert [turns.take(2), turns.take(2), turns.take(2)] == [0, 0, 60]
    now[0] = 59.5
    assert turns.take(2) == 0.5
    now[0] = 60
    assert [turns.take(2), turns.take(2), turns.take(2)] == [0, 0, 60]


def test_test_that_does_not_get_through_is_given_up_soon(brief: World) -> None:
    brief.sandbox.misbehave(channel="slack", status=500)
    number = brief.client.get(f"{API}/test/slack").json()["notification"]
    with contextlib.closing(sqlite3.connect(brief.file)) as rows:
        ((seconds,),) = rows.execute(
            "SELECT round((julianday(give_up_at) - julianday(created_at)) * 86400) FROM deliveries "
            "WHERE notification_id = ?",
            (number,),
        ).fetchall()
    assert seconds == 60


# Who may call


@pytest.mark.parametrize(
    ("client", "headers", "local"),
    [
        ("127.0.0.1", {"host": "127.0.0.1:19111"}, True),
        ("127.0.0.9", {"host": "localhost:8000"}, True),
        ("127.0.0.1", {"host": "LOCALHOST"}, True),
        ("::1", {"host": "[::1]:19111"}, True),
        ("127.0.0.1", {"host": "monitor.example"}, False),
        ("127.0.0.1", {"host": "localhost.evil.example"}, False),
        ("127.0.0.1", {"host": "[::1"}, False),
        ("127.0.0.1", {"host": ""}, False),
        ("127.0.0.1", {}, False),
        ("203.0.113.9", {"host": "localhost"}, False),
        ("testclient", {"host": "localhost"}, False),
        (None, {"host": "localhost"}, False),
        ("127.0.0.1", {"host": "localhost", "x-forwarded-for": "203.0.113.9"}, False),
        ("127.0.0.1", {"host": "localhost", "x-forwarded-proto": "https"}, False),
        ("127.0.0.1", {"host": "localhost", "x-forwarded-for": ""}, False),
        ("127.0.0.1", {"host": "localhost", "forwarded": "for=203.0.113.9"}, False),
        ("127.0.0.1", {"host": "localhost", "x-real-ip": "203.0.113.9"}, False),
        ("127.0.0.1", {"host": "localhost", "via": "1.1 proxy"}, False),
    ],
)
def test_local_is_who_sits_at_this_machine(client: str | None, headers: dict[str, str], local: bool) -> None:
    assert is_local(client, headers) is local


DOORS = [
    ("POST", "notify"),
    ("GET", "test/email?to_email=a@example.com"),
    ("GET", "test/slack"),
    ("POST", "test/alert"),
]


FAR = {"Host": "monitor.example"}


def ask(client: httpx.Client, method: str, path: str, headers: dict[str, str]) -> int:
    body = GUIDE if path == "notify" else None
    return client.request(method, f"{API}/{path}", json=body, headers=headers).status_code


@pytest.mark.parametrize(("method", "path"), DOORS)
def test_without_credentials_only_local_callers_are_heard(world: World, method: str, path: str) -> None:
    assert ask(world.client, method, path, FAR) == 403
    assert ask(world.client, method, path, {"X-Forwarded-For": "203.0.113.9"}) == 403
    assert world.client.get("/api/v1/notifications").json()["notifications"] == []
    assert ask(world.client, method, path, {}) == 200


def test_refusal_says_what_to_do(world: World) -> None:
    answer = world.client.get(f"{API}/test/slack", headers=FAR)
    assert answer.json() == {
        "detail": "a test is sent only for a caller on the receiver's own machine that no proxy has passed on, or for "
        "one with a credential: set RECEIVER_TOKEN or --web.config.file"
    }


@pytest.mark.parametrize(
    ("method", "path", "status"), [(method, path, 200 if path == "notify" else 403) for method, path in DOORS]
)
def test_where_anonymous_callers_are_allowed_they_notify_but_send_no_tests(
    world: World, method: str, path: str, status: int
) -> None:
    with another_door(world, allow_anonymous=True) as client:
        assert ask(client, method, path, FAR) == status


@pytest.mark.parametrize(("method", "path"), DOORS)
def test_credential_is_asked_for_and_enough(world: World, method: str, path: str) -> None:
    with another_door(world, token="the-token") as client:
        assert ask(client, method, path, {}) == 401
        assert ask(client, method, path, FAR | {"Authorization": "Bearer the-token"}) == 200


@pytest.mark.parametrize(("method", "path"), DOORS)
def test_client_certificate_is_a_credential_too(world: World, method: str, path: str) -> None:
    with another_door(world, certified=True) as client:
        assert ask(client, method, path, FAR) == 200


@pytest.mark.parametrize(("method", "path"), DOORS)
def test_another_sites_page_cannot_have_a_local_browser_send_it(world: World, method: str, path: str) -> None:
    assert ask(world.client, method, path, {"Sec-Fetch-Site": "cross-site"}) == 403
    assert ask(world.client, method, path, {"Sec-Fetch-Site": "none"}) == 200


def test_waiting_callers_hold_up_nobody(brief: World) -> None:
    brief.sandbox.misbehave(channel="slack", stage="post", hang=True)
    slow = brief.settings.model_copy(update={"notify": NotifySettings()})
    brief.receiver.settings = slow
    with ThreadPoolExecutor(60) as pool:
        asked = [pool.submit(notify, brief, {"channels": ["slack"]}) for _ in range(60)]
        until(lambda: brief.client.get("/-/healthy").status_code == 200, "others are answered")
        assert brief.client.get("/api/v1/notifications").status_code == 200
        assert not all(one.done() for one in asked)
        brief.sandbox.behave()
        assert {one.result()[0] for one in asked} == {200}
