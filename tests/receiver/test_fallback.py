"""What does not get through on one channel is told by the next: once, to the same group, what it does not carry."""

from __future__ import annotations

import signal
import threading
from collections.abc import Mapping, Sequence
from dataclasses import replace
from datetime import timedelta
from pathlib import Path
from zoneinfo import ZoneInfo

import pytest

from deploy.demo.sandbox import Sandbox
from receiver.digest import Gathering, Rate
from receiver.fallback import Rules, Stranded, plan, planner
from receiver.notification import Notification
from receiver.outbox import Claim, HandedOver, Outbox, Settlement
from receiver.routing import Audience, PlannedDelivery, Quiet, QuietRule, Receipt, Routing
from receiver.routing import planner as route
from receiver.schedules import Schedule, Window, parse_hours
from receiver.store import Store
from tests.receiver.making import AUDIENCE, DAY, NOW, ROUTING, WINDOW, alert, body, notification, payload_alert
from tests.receiver.test_process import Process, running
from tests.waiting import until

MINUTE = timedelta(minutes=1)
SECOND = timedelta(seconds=1)
RULES = Rules(
    next={"slack": "email", "sms": "email", "email": "slack"},
    after={"info": 15 * MINUTE, "warning": 15 * MINUTE, "critical": 2 * MINUTE},
)
INFO = notification(alert(severity="info"))
BOTH = notification(alert(severity="info"), alert("f2", severity="warning"))


def stranded(
    told: Notification = INFO,
    channel: str = "slack",
    *,
    carried: Mapping[str, Sequence[int]] | None = None,
    audience: str = "default",
) -> Stranded:
    by_channel = {to: frozenset(some) for to, some in (carried or {}).items()}
    return Stranded(channel, audience, told, frozenset(range(len(told.alerts))), by_channel)


def tells(planned: Sequence[PlannedDelivery]) -> list[tuple[str, str, tuple[int, ...], str]]:
    return [(one.to.channel, one.to.lane, one.positions, one.severity) for one in planned]


# Deciding


@pytest.mark.parametrize(
    ("given", "expected"),
    [
        (stranded(), [("email", "", (0,), "info")]),
        (stranded(channel="sms"), [("email", "", (0,), "info")]),
        (stranded(channel="email"), [("slack", "default", (0,), "info")]),
        (stranded(carried={"email": [0]}), []),
        (stranded(BOTH, carried={"email": [1]}), [("email", "", (0,), "info")]),
        (stranded(BOTH, carried={"sms": [0, 1]}), [("email", "", (0, 1), "warning")]),
        (stranded(audience="(gone)"), []),
    ],
    ids=["slack", "sms", "email", "carried", "partly carried", "carried elsewhere", "no such group"],
)
def test_next_channel_tells_what_it_does_not_carry(
    given: Stranded, expected: list[tuple[str, str, tuple[int, ...], str]]
) -> None:
    assert tells(plan(given, ROUTING, RULES, NOW)) == expected


def test_channel_without_a_next_one_leaves_it_at_that() -> None:
    assert plan(stranded(), ROUTING, replace(RULES, next={}), NOW) == []


def test_group_that_the_next_channel_does_not_reach_is_left() -> None:
    routing = replace(ROUTING, audiences={"default": Audience("default", "ko", {"slack": ("default",)})})
    assert plan(stranded(), routing, RULES, NOW) == []


def test_each_hook_of_the_group_is_told() -> None:
    audience = replace(AUDIENCE, recipients={"slack": ("one", "two")})
    routing = replace(ROUTING, audiences={"default": audience})
    assert [lane for _, lane, _, _ in tells(plan(stranded(channel="email"), routing, RULES, NOW))] == ["one", "two"]


def test_end_is_not_told_by_a_channel_that_tells_of_none() -> None:
    over = notification(alert(resolved_after=MINUTE))
    rules, routing = replace(RULES, next={"slack": "sms"}), replace(ROUTING, silent_when_resolved=frozenset({"sms"}))
    assert plan(stranded(over), routing, rules, NOW) == []
    assert len(plan(stranded(), routing, rules, NOW)) == 1


def test_quiet_time_of_the_next_channel_is_kept() -> None:
    night = Schedule((Window(hours=(parse_hours("22:00-07:00"),)),), ZoneInfo("Asia/Seoul"))
    routing = replace(ROUTING, quiet=(QuietRule("quiet.0", night, frozenset({"email"}), frozenset({"info"})),))
    (one,) = plan(stranded(), routing, RULES, NOW)
    assert one.quiet is not None
    assert one.quiet.until == NOW + timedelta(hours=9)


# In the outbox


def add(outbox: Outbox, told: Notification = INFO, *, at: timedelta = timedelta(0), routing: Routing = ROUTING) -> None:
    outbox.add(told, route(told, routing, NOW + at), now=NOW + at, dedup_window=WINDOW, give_up_after=DAY)


def hand_over(outbox: Outbox, at: timedelta) -> list[HandedOver]:
    decide = planner(ROUTING, RULES, NOW + at)
    return outbox.hand_over(decide, now=NOW + at, after=RULES.after, give_up_after=DAY)


def claim(outbox: Outbox, channel: str, at: timedelta = timedelta(0)) -> list[Claim]:
    return outbox.claim(channel, now=NOW + at, limit=10)


def fail(
    outbox: Outbox, channel: str, state: str = "failed", at: timedelta = timedelta(0), again: timedelta = DAY
) -> None:
    for one in claim(outbox, channel, at):
        to = "waiting" if state == "retrying" else "refused" if state == "failed" else state
        recipients = {recipient.position: (to, "404 no_service") for recipient in one.recipients}
        outbox.finish(one, Settlement(state, recipients, next_attempt_at=NOW + again), now=NOW + at).result()


def test_what_failed_for_good_is_told_by_the_next_channel_at_once(outbox: Outbox) -> None:
    add(outbox)
    fail(outbox, "slack")
    assert hand_over(outbox, SECOND) == [HandedOver(1, "slack", "email")]
    (mail,) = claim(outbox, "email", SECOND)
    assert (mail.instead_of, mail.audience, mail.notification) == ("slack", "default", INFO)
    assert [one.address for one in mail.recipients] == ["a@example.com", "b@example.com"]


def test_only_once_whatever_becomes_of_it(outbox: Outbox) -> None:
    add(outbox)
    fail(outbox, "slack", "retrying")
    assert len(hand_over(outbox, 15 * MINUTE)) == 1
    fail(outbox, "slack", at=DAY)
    assert hand_over(outbox, DAY) == [HandedOver(2, "email", None)]  # the mail, which Slack carries
    assert hand_over(outbox, DAY) == []


@pytest.mark.parametrize(("severity", "after"), [("info", 15 * MINUTE), ("critical", 2 * MINUTE)])
def test_what_waits_too_long_is_told_by_the_next_channel_too(outbox: Outbox, severity: str, after: timedelta) -> None:
    only_slack = replace(ROUTING.default, channels={"info": ("slack",), "critical": ("slack",)})
    add(outbox, notification(alert(severity=severity)), routing=replace(ROUTING, default=only_slack))
    fail(outbox, "slack", "retrying")
    assert hand_over(outbox, after - SECOND) == []
    assert hand_over(outbox, after) == [HandedOver(1, "slack", "email")]
    assert len(claim(outbox, "slack", DAY)) == 1  # which goes on trying


def test_one_that_the_next_channel_carries_anyway_is_not_told_twice(outbox: Outbox) -> None:
    add(outbox, notification(alert(severity="warning")))
    fail(outbox, "slack")
    assert hand_over(outbox, SECOND) == [HandedOver(2, "slack", None)]
    assert [one.instead_of for one in claim(outbox, "email", SECOND)] == [None]


def test_mailbox_of_two_groups_whose_hooks_both_fail_gets_one_mail(outbox: Outbox) -> None:
    groups = {
        "a": Audience("a", "ko", {"slack": ("one",), "email": ("a@example.com", "both@example.com")}),
        "b": Audience("b", "ko", {"slack": ("two",), "email": ("both@example.com", "b@example.com")}),
    }
    routing = replace(ROUTING, audiences=groups, default=replace(ROUTING.default, audiences=("a", "b")))
    add(outbox, routing=routing)
    fail(outbox, "slack")
    decide = planner(routing, RULES, NOW)
    assert len(outbox.hand_over(decide, now=NOW, after=RULES.after, give_up_after=DAY)) == 2
    told = [tuple(one.address for one in mail.recipients) for mail in claim(outbox, "email")]
    assert told == [("a@example.com", "both@example.com"), ("b@example.com",)]


@pytest.mark.parametrize(
    ("state", "quiet"),
    [("failed", None), ("suppressed", Quiet("quiet.0", None)), ("held", Quiet("quiet.0", NOW + DAY))],
)
def test_mailbox_that_was_not_reached_as_another_groups_is_told(
    outbox: Outbox, state: str, quiet: Quiet | None
) -> None:
    groups = {
        "a": Audience("a", "ko", {"email": ("both@example.com",)}),
        "b": Audience("b", "ko", {"slack": ("two",), "email": ("both@example.com",)}),
    }
    by_slack = PlannedDelivery(Receipt("slack", "two", "b", "ko", ("two",)), (0,), "info", firing=True)
    to = Receipt("email", "", "a", "ko", ("both@example.com",))
    by_mail = PlannedDelivery(to, (0,), "info", firing=True, quiet=quiet)
    outbox.add(INFO, lambda _earlier: [by_slack, by_mail], now=NOW, dedup_window=WINDOW, give_up_after=DAY)
    fail(outbox, "slack")
    if state == "failed":
        fail(outbox, "email")
    decide = planner(replace(ROUTING, audiences=groups), replace(RULES, next={"slack": "email"}), NOW)
    outbox.hand_over(decide, now=NOW, after=RULES.after, give_up_after=DAY)
    assert [mail.audience for mail in claim(outbox, "email")] == ["b"]


def test_delivery_that_reached_some_has_got_through(outbox: Outbox) -> None:
    add(outbox, notification(alert(severity="warning")))
    (mail,) = claim(outbox, "email")
    some = {0: ("delivered", None), 1: ("waiting", "452")}
    outbox.finish(mail, Settlement("retrying", some, next_attempt_at=NOW + DAY), now=NOW).result()
    outbox.finish(claim(outbox, "slack")[0], Settlement("delivered", {0: ("delivered", None)}), now=NOW).result()
    assert hand_over(outbox, 16 * MINUTE) == []


def test_channels_that_all_fail_hand_over_in_turn_and_come_to_an_end(outbox: Outbox) -> None:
    only_sms = replace(ROUTING.default, channels={"critical": ("sms",)})
    add(outbox, notification(), routing=replace(ROUTING, default=only_sms))
    for channel, to in [("sms", "email"), ("email", "slack"), ("slack", None)]:
        fail(outbox, channel, at=SECOND)
        assert [one.to for one in hand_over(outbox, SECOND)] == [to]
    assert hand_over(outbox, DAY) == []


def test_end_follows_to_the_channel_that_stood_in(outbox: Outbox) -> None:
    add(outbox)
    fail(outbox, "slack")
    hand_over(outbox, SECOND)
    (mail,) = claim(outbox, "email", SECOND)
    outbox.finish(mail, Settlement("delivered", {0: ("delivered", None), 1: ("delivered", None)}), now=NOW).result()
    add(outbox, notification(alert(severity="info", resolved_after=MINUTE)), at=MINUTE)
    (over,) = claim(outbox, "email", MINUTE)
    assert (over.notification.firing, over.instead_of) == (False, None)
    assert claim(outbox, "slack", MINUTE) == []


def test_of_two_receivers_one_hands_it_over(store: Store) -> None:
    one = Outbox(store, "one")
    for number in range(20):
        add(one, notification(alert(f"f{number}", severity="info"), group_key=str(number)))
    fail(one, "slack")
    fail(one, "slack")
    found: list[HandedOver] = []
    start = threading.Barrier(4)

    def work(name: str) -> None:
        start.wait()
        while some := hand_over(Outbox(store, name), SECOND):
            found.extend(some)

    threads = [threading.Thread(target=work, args=(f"receiver {number}",)) for number in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert sorted(one.delivery_id for one in found) == list(range(1, 21))
    assert len(one.claim("email", now=NOW + SECOND, limit=100)) == 20


def test_messages_that_were_gathered_into_one_stay_one(outbox: Outbox) -> None:
    night = Schedule((Window(hours=(parse_hours("22:00-07:00"),)),), ZoneInfo("Asia/Seoul"))
    quiet = (QuietRule("quiet.0", night, frozenset({"slack"}), frozenset({"info"})),)
    add(outbox, routing=replace(ROUTING, quiet=quiet))
    add(outbox, notification(alert("other", severity="info"), group_key="o"), routing=replace(ROUTING, quiet=quiet))
    morning = timedelta(hours=9)
    fail(outbox, "slack", at=morning)
    assert hand_over(outbox, morning) == [HandedOver(1, "slack", "email")]
    (mail,) = claim(outbox, "email", morning)
    assert (mail.merged, [one.fingerprint for one in mail.notification.alerts]) == (1, ["f1", "other"])


def test_what_joins_a_message_that_another_channel_tells_already_is_told_there_too(outbox: Outbox) -> None:
    add(outbox)
    fail(outbox, "slack", "retrying", again=16 * MINUTE)
    assert hand_over(outbox, 15 * MINUTE) == [HandedOver(1, "slack", "email")]
    add(outbox, notification(alert(severity="info"), alert("f2", severity="info")), at=16 * MINUTE)
    fail(outbox, "slack", "retrying", at=16 * MINUTE)  # both in one message
    assert hand_over(outbox, 16 * MINUTE) == [HandedOver(1, "slack", "email")]
    (mail,) = claim(outbox, "email", 16 * MINUTE)
    assert [one.fingerprint for one in mail.notification.alerts] == ["f1", "f2"]
    assert hand_over(outbox, DAY) == [HandedOver(2, "email", None)]  # the mail, which Slack carries


def test_what_a_younger_message_took_along_has_waited_no_less_for_it(outbox: Outbox) -> None:
    add(outbox)
    fail(outbox, "slack", "retrying")
    add(outbox, notification(alert("other", severity="info"), group_key="o"), at=14 * MINUTE)
    fail(outbox, "slack", "retrying", at=14 * MINUTE, again=14 * MINUTE)
    (both,) = outbox.claim("slack", now=NOW + 14 * MINUTE, limit=1, gathering=Gathering(Rate(20, MINUTE, MINUTE)))
    assert (both.id, both.merged) == (2, 1)
    assert hand_over(outbox, 15 * MINUTE - SECOND) == []
    assert hand_over(outbox, 15 * MINUTE) == [HandedOver(2, "slack", "email")]


def test_held_message_that_tells_of_another_group_too_is_sent_though_its_own_alert_is_over(outbox: Outbox) -> None:
    night = Schedule((Window(hours=(parse_hours("22:00-07:00"),)),), ZoneInfo("Asia/Seoul"))
    routing = replace(ROUTING, quiet=(QuietRule("quiet.0", night, frozenset({"email"}), frozenset({"info"})),))
    add(outbox)
    add(outbox, notification(alert("other", severity="info"), group_key="o"))
    fail(outbox, "slack", "retrying")
    (both,) = outbox.claim("slack", now=NOW + DAY, limit=1, gathering=Gathering(Rate(20, MINUTE, MINUTE)))
    outbox.finish(both, Settlement("failed", {0: ("refused", "404")}), now=NOW + MINUTE).result()
    decide = planner(routing, RULES, NOW + MINUTE)
    outbox.hand_over(decide, now=NOW + MINUTE, after=RULES.after, give_up_after=DAY)
    add(outbox, notification(alert(severity="info", resolved_after=MINUTE)), at=2 * MINUTE, routing=routing)
    (mail,) = claim(outbox, "email", timedelta(hours=9))
    assert {one.fingerprint: one.firing for one in mail.notification.alerts} == {"f1": False, "other": True}


def test_test_message_is_not_told_elsewhere(outbox: Outbox) -> None:
    told = INFO
    outbox.add(told, route(told, ROUTING, NOW), now=NOW, dedup_window=WINDOW, give_up_after=DAY, source="test")
    fail(outbox, "slack")
    assert hand_over(outbox, DAY) == []


# As a process


def test_slack_hook_that_is_gone_is_stood_in_for_by_mail_even_after_a_hard_kill(
    sandbox: Sandbox, tmp_path: Path
) -> None:
    sandbox.misbehave(channel="slack", status=404, body="no_service")
    with running(Process(sandbox, tmp_path)) as process:
        process.post(body([payload_alert(severity="info")]))
        until(lambda: process.states(1)["slack"] == "failed", "Slack has refused it")
        process.end(signal.SIGKILL)
        process.start()
        until(lambda: process.states(1) == {"slack": "failed", "email": "delivered"}, "it is told by mail")
    assert [mail["subject"] for mail in sandbox.messages("smtp")] == ["[INFO] [Slack 대신] 배차 대기 주문 많음"]
