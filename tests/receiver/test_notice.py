"""What a program may ask, whom it reaches, and how the answer tells what became of it. Tables."""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest
from pydantic import SecretStr

from receiver.audiences import routing
from receiver.notice import InvalidNoticeError, Notice, Plan, Posted, outcome, plan, post, read
from receiver.outbox import Accepted, DeliveryRecord, Filter, KeyReusedError, Outbox, Settlement
from receiver.settings import ReceiverSettings
from receiver.store import Store
from tests.receiver.making import NOW

GUIDE = {
    "title": "시스템 알림",
    "message": "CPU 사용률이 높습니다",
    "level": "warning",
    "channels": ["email", "slack"],
    "email_recipients": ["admin@example.com"],
    "sms_recipients": ["01012345678"],
}
CONFIGURED: dict[str, Any] = {
    "email": {"host": "mail.example.com", "sender": "noreply@example.com", "to": "duty@example.com"},
    "slack": {"webhook_url": SecretStr("https://hooks.example.com/x")},
    "sms": {"api_key": SecretStr("key"), "user_id": "user", "sender": "0212345678", "to": "01087654321"},
}


def settings(**more: Any) -> ReceiverSettings:
    """With every channel; None leaves one out."""
    return ReceiverSettings(**{name: value for name, value in (CONFIGURED | more).items() if value is not None})


def reached(made: Plan) -> dict[str, tuple[str, ...]]:
    return {one.to.channel: one.to.recipients for one in made.deliveries}


def planned(asked: dict[str, Any], now: datetime = NOW, **more: Any) -> Plan:
    found = settings(**more)
    return plan(read(asked, found), routing(found), found, now)


# Whom it reaches


def test_guides_example_reaches_the_named_mailbox_and_the_hook() -> None:
    made = planned(GUIDE)
    assert reached(made) == {"email": ("admin@example.com",), "slack": ("default",)}
    assert (made.channels, made.errors) == (("email", "slack"), {})


@pytest.mark.parametrize(
    ("level", "channels"),
    [("info", ["slack"]), ("warning", ["email", "slack"]), ("critical", ["email", "slack", "sms"])],
)
def test_without_channels_the_level_decides(level: str, channels: list[str]) -> None:
    assert list(planned({"title": "t", "message": "m", "level": level}).channels) == channels


def test_named_channel_is_used_whatever_the_level() -> None:
    assert reached(planned({"title": "t", "message": "m", "channels": ["sms"]})) == {"sms": ("01087654321",)}


def test_without_level_it_is_information() -> None:
    assert planned({"title": "t", "message": "m"}).deliveries[0].severity == "info"


def test_empty_list_of_recipients_means_the_configured_ones() -> None:
    assert reached(planned(GUIDE | {"email_recipients": []}))["email"] == ("duty@example.com",)


def test_category_chooses_the_route() -> None:
    groups = {"dispatch": {"email": "dispatch@example.com"}}
    routes = [{"matchers": ['category="business"'], "groups": ["dispatch"]}]
    asked = {"title": "t", "message": "m", "channels": ["email"]}
    assert reached(planned(asked, groups=groups, routes=routes)) == {"email": ("duty@example.com",)}
    assert reached(planned(asked | {"category": "business"}, groups=groups, routes=routes)) == {
        "email": ("dispatch@example.com",)
    }


def test_named_hooks_are_told_one_by_one() -> None:
    hooks = {"ops": {"url": SecretStr("https://hooks.example.com/y")}}
    made = planned(
        GUIDE | {"channels": ["slack"], "slack_recipients": ["ops", "default"]},
        slack=CONFIGURED["slack"] | {"hooks": hooks},
    )
    assert [one.to.recipients for one in made.deliveries] == [("ops",), ("default",)]


@pytest.mark.parametrize(
    ("asked", "more", "errors"),
    [
        (GUIDE, {"email": None}, {"email": "off, not set: SMTP_HOST"}),
        (GUIDE | {"channels": ["sms"]}, {"sms": None}, {"sms": "off, not set: ALIGO_API_KEY"}),
        (
            GUIDE | {"email_recipients": None},
            {"email": {"host": "mail.example.com", "sender": "noreply@example.com"}},
            {"email": "no recipients: give email_recipients, or set ALERT_EMAIL_TO"},
        ),
        (GUIDE | {"level": "info", "channels": None}, {"slack": None}, {"slack": "off, not set: SLACK_WEBHOOK_URL"}),
    ],
)
def test_channel_that_reaches_nobody_says_why(
    asked: dict[str, Any], more: dict[str, Any], errors: dict[str, str]
) -> None:
    made = planned(asked, **more)
    assert made.errors == errors
    assert not set(errors) & {one.to.channel for one in made.deliveries}


def test_channel_without_recipients_of_its_own_sends_to_the_named_ones() -> None:
    server = {"host": "mail.example.com", "sender": "noreply@example.com"}
    assert reached(planned(GUIDE, email=server))["email"] == ("admin@example.com",)


def test_by_level_a_channel_that_is_off_is_not_asked_for() -> None:
    made = planned({"title": "t", "message": "m", "level": "critical"}, sms=None)
    assert (made.channels, made.errors) == (("email", "slack"), {})


def test_quiet_hours_hold_it_unless_it_is_a_test() -> None:
    quiet = {
        "schedules": {"night": {"windows": [{"hours": "22:00-07:00"}]}},
        "quiet": [{"schedule": "night", "severities": "info"}],
    }
    found = settings(**quiet)
    told = read({"title": "t", "message": "m"}, found)
    (held,) = plan(told, routing(found), found, NOW).deliveries
    assert held.quiet is not None
    assert held.quiet.until == datetime(2026, 1, 27, 22, 0, tzinfo=UTC)
    (sent,) = plan(told, routing(found), found, NOW, quiet=False).deliveries
    assert sent.quiet is None


# What is refused


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ({"title": None}, "title: Input should be a valid string"),
        ({"title": " "}, "title: must not be empty"),
        ({"title": "x" * 201}, "title: String should have at most 200 characters"),
        ({"message": ""}, "message: must not be empty"),
        ({"message": 5}, "message: Input should be a valid string"),
        ({"level": "urgent"}, "level: Input should be 'info', 'warning' or 'critical'"),
        ({"category": "x"}, "category: Input should be 'system', 'database', 'business' or 'monitoring'"),
        ({"channels": ["fax"]}, "channels.0: Input should be 'email', 'slack' or 'sms'"),
        ({"channels": "slack"}, "channels: expected a list, as in [a, b]"),
        ({"channels": []}, "channels: name at least one channel, or leave it out: the level decides then"),
        ({"email_recipients": ["x"]}, "email_recipients: number 1 is no mail address such as admin@example.com"),
        (
            {"sms_recipients": ["12"]},
            "sms_recipients: number 1: expected a Korean phone number such as 010-1234-5678",
        ),
        (
            {"email_recipients": [f"a{number}@example.com" for number in range(101)]},
            "email_recipients: at most 100 of them",
        ),
        ({"slack_recipients": ["ops"]}, "slack_recipients: there is no hook of that name; there is: default"),
        (
            {"recipients": {}},
            (
                "recipients: unknown field; known are title, message, level, category, channels, email_recipients, "
                "sms_recipients, slack_recipients"
            ),
        ),
    ],
)
def test_wrong_field_is_named(change: dict[str, Any], said: str) -> None:
    with pytest.raises(InvalidNoticeError) as caught:
        read(GUIDE | change, settings())
    assert str(caught.value) == said


@pytest.mark.parametrize("body", [None, 5, "text", [GUIDE]])
def test_what_is_no_object_is_refused(body: object) -> None:
    with pytest.raises(InvalidNoticeError, match="the body must be an object"):
        read(body, settings())


def test_every_wrong_field_is_named_at_once() -> None:
    with pytest.raises(InvalidNoticeError, match=r"^title: is missing; level: .*; colour: unknown field"):
        read({"message": "m", "level": "x", "colour": 1}, settings())


@pytest.mark.parametrize(
    ("change", "said"),
    [
        (
            {"email_recipients": ["a@example.com", "b@evil.example"]},
            "email_recipients: number 2 is not in a domain of notify.allowed_email_domains",
        ),
        (
            {"email_recipients": ["b@sub.example.com"]},
            "email_recipients: number 1 is not in a domain of notify.allowed_email_domains",
        ),
        (
            {"sms_recipients": ["02-1234-5678"]},
            "sms_recipients: number 1 begins with none of notify.allowed_sms_prefixes",
        ),
        ({"email_recipients": ["A@EXAMPLE.com"], "sms_recipients": ["+82 10-1234-5678"]}, None),
    ],
)
def test_recipients_outside_the_allow_list_are_refused(change: dict[str, Any], said: str | None) -> None:
    allowed = settings(notify={"allowed_email_domains": "example.com", "allowed_sms_prefixes": "010"})
    if said is None:
        assert read(GUIDE | change, allowed).email_recipients == ("A@EXAMPLE.com",)
        return
    with pytest.raises(InvalidNoticeError) as caught:
        read(GUIDE | change, allowed)
    assert str(caught.value) == said


def test_what_no_database_takes_is_mended() -> None:
    assert read(GUIDE | {"title": "a\x00b", "message": "\ud800"}, settings()).title == "a\ufffdb"


def test_same_request_has_the_same_digest_and_another_has_not() -> None:
    first, same, other = (read(GUIDE | {"title": title}, settings()) for title in ("a", "a", "b"))
    assert first.digest == same.digest
    assert first.digest != other.digest


def test_two_requests_alike_are_two_notifications() -> None:
    told = Notice(title="t", message="m")
    assert told.notification(NOW).group_key != told.notification(NOW).group_key


# What became of it


def delivery(channel: str, state: str, error: str | None = None) -> DeliveryRecord:
    return DeliveryRecord(
        id=1,
        channel=channel,
        audience="default",
        severity="warning",
        firing=True,
        state=state,
        attempts=1,
        created_at=NOW,
        next_attempt_at=None,
        settled_at=NOW + timedelta(seconds=1),
        error=error,
        recipients=(),
    )


@pytest.mark.parametrize(
    ("records", "results", "pending", "errors", "message"),
    [
        ([("email", "delivered"), ("slack", "delivered")], (True, True), [], {}, "알림이 전송되었습니다"),
        (
            [("email", "delivered"), ("slack", "retrying", "Slack answered 500")],
            (True, False),
            ["slack"],
            {"slack": "Slack answered 500"},
            "일부 채널에 알림이 전송되었고 나머지는 아직 전송이 끝나지 않았습니다",
        ),
        (
            [("email", "pending"), ("slack", "retrying")],
            (False, False),
            ["email", "slack"],
            {},
            "알림을 저장했으며 아직 전송이 끝나지 않았습니다",
        ),
        (
            [("email", "failed", "login refused"), ("slack", "delivered")],
            (False, True),
            [],
            {"email": "login refused"},
            "일부 채널에만 알림이 전송되었습니다",
        ),
        (
            [("email", "partial", "a refused: 550"), ("slack", "suppressed")],
            (False, False),
            [],
            {"email": "a refused: 550", "slack": "not sent in quiet hours"},
            "알림이 전송되지 않았습니다",
        ),
        (
            [("email", "uncertain", "no answer"), ("slack", "held")],
            (False, False),
            ["slack"],
            {"email": "no answer", "slack": "held until the quiet hours are over"},
            "알림을 저장했으며 아직 전송이 끝나지 않았습니다",
        ),
        (
            [("email", "delivered"), ("email", "failed", "550"), ("slack", "merged")],
            (False, False),
            ["slack"],
            {"email": "550", "slack": "sent as part of a digest"},
            "알림을 저장했으며 아직 전송이 끝나지 않았습니다",
        ),
        (
            None,
            (False, False),
            ["email", "slack"],
            {},
            "알림을 저장했으며 아직 전송이 끝나지 않았습니다",
        ),
    ],
)
def test_answer_tells_what_became_of_it(
    records: list[tuple[str, ...]] | None,
    results: tuple[bool, bool],
    pending: list[str],
    errors: dict[str, str],
    message: str,
) -> None:
    posted = Posted(7, Plan(("email", "slack"), (), {}), Accepted(7, 2, duplicate=False))
    found = outcome(posted, [delivery(*record) for record in records] if records is not None else None)
    assert found.document() == {
        "success": all(results),
        "results": {"email": results[0], "slack": results[1]},
        "message": message,
        "pending": pending,
        "errors": errors,
        "notification": 7,
    }


def test_channel_that_could_not_be_asked_is_no_success() -> None:
    posted = Posted(7, Plan(("sms",), (), {"sms": "off, not set: ALIGO_API_KEY"}), Accepted(7, 0, duplicate=False))
    assert outcome(posted, []).document() == {
        "success": False,
        "results": {"sms": False},
        "message": "알림이 전송되지 않았습니다",
        "pending": [],
        "errors": {"sms": "off, not set: ALIGO_API_KEY"},
        "notification": 7,
    }


# In the store


def posted(outbox: Outbox, key: str | None, now: datetime = NOW, **change: Any) -> Posted:
    found = settings()
    return post(read(GUIDE | change, found), outbox, routing(found), found, now=now, source="notify", key=key)


def test_of_two_processes_that_store_the_same_request_at_once_one_does(store: Store) -> None:
    outboxes = [Outbox(store, f"{number}") for number in range(8)]
    with ThreadPoolExecutor(8) as pool:
        numbers = list(pool.map(lambda outbox: posted(outbox, "order-17").notification_id, outboxes))
    assert set(numbers) == {numbers[0]}
    (record,) = outboxes[0].history(Filter())
    assert sorted(delivery.channel for delivery in record.deliveries) == ["email", "slack"]


def test_key_of_another_request_is_refused_and_nothing_is_stored(outbox: Outbox) -> None:
    posted(outbox, "order-17")
    with pytest.raises(KeyReusedError):
        posted(outbox, "order-17", title="다른 알림")
    assert len(outbox.history(Filter())) == 1


def test_key_is_forgotten_with_its_notification(outbox: Outbox) -> None:
    posted(outbox, "order-17")
    for channel in ("email", "slack"):
        for claim in outbox.claim(channel, now=NOW, limit=1):
            told = {recipient.position: ("delivered", None) for recipient in claim.recipients}
            outbox.finish(claim, Settlement("delivered", told), now=NOW).result()
    outbox.prune(before=NOW + timedelta(days=1), seen_before=NOW)
    again = posted(outbox, "order-17", title="다른 알림")
    assert (again.accepted.deliveries, again.accepted.duplicate) == (2, False)


def test_same_request_without_a_key_is_told_again(outbox: Outbox) -> None:
    assert posted(outbox, None).notification_id != posted(outbox, None).notification_id
