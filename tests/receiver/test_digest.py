"""Storms and backlogs: what is told in one message, what is never held back, and when."""

from __future__ import annotations

from dataclasses import replace
from datetime import datetime, timedelta
from pathlib import Path

import pytest
from sqlalchemy import Connection, select

from deploy.demo.sandbox import Sandbox
from receiver.digest import BY_GROUP, Gathering, Lane, Rate, note, turn
from receiver.notification import Notification
from receiver.outbox import Claim, Filter, Outbox, Settlement
from receiver.routing import PlannedDelivery, Quiet, Receipt, planner
from receiver.store import Store
from receiver.tables import deliveries
from tests.receiver.making import AUDIENCE, DAY, NOW, ROUTING, WINDOW, alert, body, notification, payload_alert
from tests.receiver.test_process import Process, running
from tests.waiting import until

SECOND = timedelta(seconds=1)
MINUTE = timedelta(minutes=1)
RATE = Rate(2, MINUTE, MINUTE)
STORM = Gathering(RATE)
CALM = Gathering(Rate(1000, MINUTE, MINUTE))
CEILING = Rate(30, timedelta(hours=1), 5 * MINUTE)


# The pace


def told(*seconds: float, digest_at: float | None = None) -> Lane:
    at = NOW + timedelta(seconds=digest_at) if digest_at is not None else None
    return Lane(tuple(NOW + timedelta(seconds=one) for one in seconds), at)


@pytest.mark.parametrize(
    ("lane", "second", "waits_until", "gathers"),
    [
        (told(), 0, None, False),
        (told(0), 1, None, False),
        (told(0, 1), 2, 62, False),
        (told(0, 1), 60, None, False),
        (told(0, 1, digest_at=62), 2, 62, False),
        (told(0, 1, digest_at=62), 30, 62, False),
        (told(0, 1, digest_at=62), 62, None, True),
        (told(0, 1, digest_at=62), 600, None, True),
        (told(3600, 3601), 0, None, False),
        (told(3600, 3601, digest_at=3662), 0, None, True),
    ],
    ids=[
        "first",
        "second",
        "third",
        "a minute later",
        "in the instant of the third",
        "within a storm",
        "digest",
        "late digest",
        "clock set back",
        "clock set back within a storm",
    ],
)
def test_above_the_rate_messages_wait_for_the_digest(
    lane: Lane, second: float, waits_until: float | None, *, gathers: bool
) -> None:
    found = turn(lane, RATE, NOW + timedelta(seconds=second))
    assert found.wait_until == (NOW + timedelta(seconds=waits_until) if waits_until is not None else None)
    assert found.gather is gathers


def test_while_the_storm_lasts_there_is_one_digest_a_minute_and_nothing_else() -> None:
    lane, singles, digests, waiting = Lane(), [], [], 0
    for second in range(301):  # one notification a second
        now = NOW + timedelta(seconds=second)
        found = turn(lane, RATE, now)
        lane = found.lane
        if found.wait_until is not None:
            waiting += 1
        elif found.gather:
            digests.append((second, waiting + 1))
            lane, waiting = note(lane, waiting, RATE, now), 0
        else:
            singles.append(second)
    assert singles == [0, 1]
    assert digests == [(62, 61), (123, 61), (184, 61), (245, 61)]


def test_after_a_quiet_time_messages_go_singly_again() -> None:
    after_a_digest = note(Lane(), 40, RATE, NOW)
    assert turn(after_a_digest, RATE, NOW + MINUTE - SECOND).wait_until is not None
    assert turn(after_a_digest, RATE, NOW + MINUTE).wait_until is None


def test_sms_ceiling_is_kept_in_every_hour() -> None:
    lane, singles = Lane(), list[datetime]()
    for minute in range(24 * 60):
        now = NOW + minute * MINUTE
        found = turn(lane, CEILING, now)
        lane = found.lane
        if found.wait_until is None and not found.gather:
            singles.append(now)
    assert singles[:30] == [NOW + minute * MINUTE for minute in range(30)]
    for start in singles:
        assert sum(start <= one < start + timedelta(hours=1) for one in singles) <= 30


# In the outbox


def add(outbox: Outbox, one: Notification, *, at: timedelta = timedelta(0)) -> None:
    outbox.add(one, planner(one, ROUTING, NOW + at), now=NOW + at, dedup_window=WINDOW, give_up_after=DAY)


def some(
    outbox: Outbox, count: int, *, first: int = 0, severity: str = "warning", at: timedelta = timedelta(0)
) -> None:
    for number in range(first, first + count):
        add(outbox, notification(alert(f"f{number}", severity=severity), group_key=str(number)), at=at)


def claim(outbox: Outbox, at: timedelta, gathering: Gathering = STORM, channel: str = "email") -> list[Claim]:
    """One after the other, as a worker takes them."""
    found = []
    for _ in range(200):
        found += outbox.claim(channel, now=NOW + at, limit=1, gathering=gathering)
        due = outbox.next_due(channel)
        if due is None or due > NOW + at:
            return found
    raise AssertionError("it does not come to an end")


def finish(outbox: Outbox, one: Claim, state: str = "delivered", **more: object) -> None:
    to = {"delivered": "delivered", "failed": "refused", "retrying": "waiting"}[state]
    each = {recipient.position: (to, None) for recipient in one.recipients}
    outbox.finish(one, Settlement(state, each, **more), now=NOW).result()  # type: ignore[arg-type] # as the test says


def fingerprints(one: Claim) -> list[str]:
    return [alert.fingerprint for alert in one.notification.alerts]


def begin(outbox: Outbox, count: int) -> list[Claim]:
    """A storm of so many, and the messages that were delivered before it was known as one."""
    some(outbox, count)
    singles = claim(outbox, timedelta(0))
    for one in singles:
        finish(outbox, one)
    return singles


def states(outbox: Outbox, channel: str = "email") -> list[str]:
    records = reversed(outbox.history(Filter(channel=channel)))
    return [one.state for record in records for one in record.deliveries if one.channel == channel]


def test_storm_is_told_in_a_few_messages_and_one_digest(outbox: Outbox) -> None:
    assert [fingerprints(one) for one in begin(outbox, 10)] == [["f0"], ["f1"]]
    assert outbox.next_due("email") == NOW + MINUTE
    some(outbox, 5, first=10, at=30 * SECOND)
    assert claim(outbox, 59 * SECOND) == []
    (gathered,) = claim(outbox, MINUTE)
    assert fingerprints(gathered) == [f"f{number}" for number in range(2, 15)]
    assert (gathered.merged, gathered.newly_merged, gathered.groups) == (12, 12, 13)
    assert states(outbox).count("merged") == 12


def test_rate_is_the_same_for_two_receivers_and_after_a_restart(outbox: Outbox, store: Store) -> None:
    some(outbox, 6)
    found = outbox.claim("email", now=NOW, limit=1, gathering=STORM)
    other = Outbox(store, "two")
    found += other.claim("email", now=NOW, limit=1, gathering=STORM)
    assert [fingerprints(one) for one in found] == [["f0"], ["f1"]]
    for receiver, one in zip((outbox, other), found, strict=True):
        finish(receiver, one)
    assert claim(Outbox(store, "after a restart"), timedelta(0)) == []
    (gathered,) = claim(other, MINUTE)
    assert fingerprints(gathered) == ["f2", "f3", "f4", "f5"]


def test_critical_alert_is_not_held_back_by_a_storm_of_others(outbox: Outbox) -> None:
    begin(outbox, 10)
    some(outbox, 1, first=99, severity="critical", at=SECOND)
    assert [fingerprints(one) for one in claim(outbox, SECOND)] == [["f99"]]


def test_critical_alert_takes_along_what_waits_of_its_group(outbox: Outbox) -> None:
    begin(outbox, 4)  # of which the fourth has to wait
    add(outbox, notification(alert("f3", severity="warning"), alert("now"), group_key="3"), at=SECOND)
    (one,) = claim(outbox, SECOND)
    assert fingerprints(one) == ["f3", "now"]
    assert states(outbox)[3] == "merged"


def test_firing_and_its_end_that_both_wait_are_one_message(outbox: Outbox) -> None:
    add(outbox, notification(alert(severity="warning")))
    add(outbox, notification(alert(severity="warning", resolved_after=MINUTE)), at=MINUTE)
    (one,) = claim(outbox, MINUTE, BY_GROUP)
    assert (one.groups, one.merged, [alert.firing for alert in one.notification.alerts]) == (1, 1, [False])
    finish(outbox, one)
    assert claim(outbox, DAY, BY_GROUP) == []


def test_end_does_not_go_along_while_its_beginning_is_being_sent(outbox: Outbox) -> None:
    some(outbox, 2)
    (first,) = outbox.claim("email", now=NOW, limit=1, gathering=STORM)
    add(outbox, notification(alert("f0", severity="warning", resolved_after=MINUTE), group_key="0"), at=MINUTE)
    (second,) = outbox.claim("email", now=NOW + MINUTE / 100, limit=1, gathering=STORM)
    assert (fingerprints(first), fingerprints(second)) == (["f0"], ["f1"])


def test_end_waits_for_the_digest_that_tells_its_beginning_and_is_not_through(outbox: Outbox) -> None:
    begin(outbox, 5)
    (gathered,) = claim(outbox, MINUTE)
    assert fingerprints(gathered) == ["f2", "f3", "f4"]
    over = notification(alert("f4", severity="warning", resolved_after=MINUTE), group_key="4")
    add(outbox, over, at=MINUTE + SECOND)
    assert claim(outbox, MINUTE + SECOND) == []
    finish(outbox, gathered, "retrying", next_attempt_at=NOW + 5 * MINUTE)
    assert claim(outbox, 4 * MINUTE) == []
    (again,) = claim(outbox, 5 * MINUTE)
    assert [(one.fingerprint, one.firing) for one in again.notification.alerts] == [
        ("f2", True),
        ("f3", True),
        ("f4", False),
    ]


@pytest.mark.parametrize("database_url", ["postgresql"], indirect=True)  # SQLite has one transaction at a time
def test_end_does_not_go_along_while_another_receiver_takes_its_beginning(outbox: Outbox, store: Store) -> None:
    begin(outbox, 4)
    over = notification(alert("f3", severity="warning", resolved_after=MINUTE), group_key="3")
    add(outbox, over, at=MINUTE / 2)
    lock = select(deliveries.c.id).where(deliveries.c.notification_id == 4).with_for_update()

    def take(connection: Connection) -> list[Claim]:
        connection.execute(lock)
        return outbox.claim("email", now=NOW + MINUTE, limit=1, gathering=STORM)

    (gathered,) = store.write(take)
    assert fingerprints(gathered) == ["f2"]


def test_backlog_of_an_outage_goes_out_as_one_message_with_the_last_state_of_each(outbox: Outbox) -> None:
    some(outbox, 5)
    later = NOW + 10 * MINUTE
    for one in claim(outbox, timedelta(0), CALM):
        finish(outbox, one, "retrying", next_attempt_at=later)
    over = notification(alert("f1", severity="warning", resolved_after=5 * MINUTE), group_key="1")
    add(outbox, over, at=5 * MINUTE)
    (backlog,) = claim(outbox, 10 * MINUTE, CALM)
    assert [(alert.fingerprint, alert.firing) for alert in backlog.notification.alerts] == [
        ("f0", True),
        ("f2", True),
        ("f3", True),
        ("f4", True),
        ("f1", False),  # the last word came last
    ]
    assert backlog.groups == 5


def test_backlog_stays_as_it_is_where_no_rate_is_set(outbox: Outbox) -> None:
    some(outbox, 3)
    for one in claim(outbox, timedelta(0), BY_GROUP):
        finish(outbox, one, "retrying", next_attempt_at=NOW + MINUTE)
    assert [fingerprints(one) for one in claim(outbox, MINUTE, BY_GROUP)] == [["f0"], ["f1"], ["f2"]]


def test_what_was_never_tried_does_not_join_one_that_fails(outbox: Outbox) -> None:
    some(outbox, 1)
    (sick,) = claim(outbox, timedelta(0), CALM)
    finish(outbox, sick, "retrying", next_attempt_at=NOW + 5 * SECOND)
    some(outbox, 1, first=1, at=5 * SECOND)
    assert [fingerprints(one) for one in claim(outbox, 5 * SECOND, CALM)] == [["f0"], ["f1"]]


def test_end_goes_with_its_beginning_where_that_is_gathered_by_another_group(outbox: Outbox) -> None:
    some(outbox, 2)
    for seconds, one in enumerate(claim(outbox, timedelta(0), CALM)):
        finish(outbox, one, "retrying", next_attempt_at=NOW + (6 - seconds) * SECOND)  # the second group is first
    add(outbox, notification(alert("f0", severity="warning", resolved_after=SECOND), group_key="0"), at=SECOND)
    (one,) = claim(outbox, 5 * SECOND, CALM)
    assert {alert.fingerprint: alert.firing for alert in one.notification.alerts} == {"f1": True, "f0": False}


def test_gathered_message_has_the_time_of_the_youngest(outbox: Outbox) -> None:
    some(outbox, 1)
    (old,) = claim(outbox, timedelta(0), CALM)
    finish(outbox, old, "retrying", next_attempt_at=NOW + DAY)
    some(outbox, 1, first=1, at=DAY - 2 * MINUTE)
    (young,) = claim(outbox, DAY - 2 * MINUTE, CALM)
    finish(outbox, young, "retrying", next_attempt_at=NOW + DAY)
    (one,) = claim(outbox, DAY, CALM)
    assert (fingerprints(one), one.give_up_at) == (["f0", "f1"], NOW + 2 * DAY - 2 * MINUTE)


def test_gathered_message_survives_its_worker(outbox: Outbox, store: Store) -> None:
    begin(outbox, 4)
    (first,) = claim(outbox, MINUTE)
    (again,) = claim(Outbox(store, "two"), 2 * MINUTE)
    assert (first.id, fingerprints(first)) == (again.id, fingerprints(again)) == (first.id, ["f2", "f3"])
    assert (again.newly_merged, again.unanswered_since) == (0, NOW + MINUTE)


def test_lesser_message_that_takes_a_critical_one_along_is_critical_itself(outbox: Outbox) -> None:
    add(outbox, notification(alert("lesser", severity="warning")))
    (lesser,) = claim(outbox, timedelta(0))
    add(outbox, notification(alert("critical")))
    (critical,) = claim(outbox, timedelta(0))  # which does not wait for the other
    finish(outbox, critical, "retrying", next_attempt_at=NOW + 10 * SECOND)
    finish(outbox, lesser, "retrying", next_attempt_at=NOW + 5 * SECOND)
    (both,) = claim(outbox, 5 * SECOND)
    assert (both.id, both.merged, both.severity) == (lesser.id, 1, "critical")


def test_end_of_what_a_message_told_that_reached_nobody_is_not_told(outbox: Outbox) -> None:
    begin(outbox, 4)
    (gathered,) = claim(outbox, MINUTE)
    finish(outbox, gathered, "failed")
    add(outbox, notification(alert("f3", severity="warning", resolved_after=MINUTE), group_key="3"), at=2 * MINUTE)
    assert claim(outbox, 2 * MINUTE) == []


def test_end_of_what_a_message_told_goes_to_those_whom_it_reached(outbox: Outbox) -> None:
    begin(outbox, 4)
    (gathered,) = claim(outbox, MINUTE)
    outbox.finish(
        gathered, Settlement("partial", {0: ("delivered", None), 1: ("refused", "550")}), now=NOW + MINUTE
    ).result()
    add(outbox, notification(alert("f3", severity="warning", resolved_after=MINUTE), group_key="3"), at=2 * MINUTE)
    (over,) = claim(outbox, 2 * MINUTE)
    assert [one.address for one in over.recipients] == ["a@example.com"]


def test_message_that_is_tried_again_by_hand_takes_along_the_later_one_that_waits_for_it(outbox: Outbox) -> None:
    add(outbox, notification(alert("old", severity="warning")))
    silenced = Receipt("email", "", "default", "ko", AUDIENCE.recipients["email"])
    never = PlannedDelivery(silenced, (0,), "critical", firing=True, quiet=Quiet("quiet.0", None))

    def plan(planned: PlannedDelivery, told: Notification) -> None:
        outbox.add(told, lambda _earlier: [planned], now=NOW, dedup_window=WINDOW, give_up_after=DAY)

    plan(never, notification(alert("silenced")))
    plan(replace(never, quiet=None), notification(alert("new")))
    (new,) = claim(outbox, timedelta(0), CALM)
    assert fingerprints(new) == ["old", "new"]
    finish(outbox, new, "retrying", next_attempt_at=NOW + MINUTE)
    (suppressed,) = outbox.history(Filter(state="suppressed"))
    assert outbox.retry(suppressed.deliveries[0].id, now=NOW, give_up_after=DAY) is True
    assert [fingerprints(one) for one in claim(outbox, timedelta(0), CALM)] == [["old", "silenced", "new"]]


def test_digest_gathers_what_is_in_no_doubt_where_the_peer_can_be_asked(outbox: Outbox) -> None:
    asked = Gathering(RATE, unanswered=False)
    some(outbox, 4)
    for one in claim(outbox, timedelta(0), asked):
        finish(outbox, one)
    assert [fingerprints(one) for one in claim(outbox, MINUTE, asked)] == [["f2", "f3"]]


def test_lesser_message_waits_for_a_later_critical_one_that_tells_what_came_before_it(outbox: Outbox) -> None:
    for fingerprint in ("old", "lesser"):
        add(outbox, notification(alert(fingerprint, severity="warning")))
        (one,) = claim(outbox, timedelta(0), CALM)
        if fingerprint == "old":
            finish(outbox, one, "failed")
            old = one.id
    assert outbox.retry(old, now=NOW, give_up_after=DAY) is True
    add(outbox, notification(alert("critical")))
    (critical,) = claim(outbox, timedelta(0), CALM)
    assert fingerprints(critical) == ["old", "critical"]
    finish(outbox, one, "retrying", next_attempt_at=NOW)
    assert outbox.claim("email", now=NOW, limit=1, gathering=CALM) == []


def test_message_in_doubt_stays_as_it_is_where_the_peer_can_be_asked(outbox: Outbox) -> None:
    some(outbox, 2, severity="critical")
    asked = Gathering(CALM.rate, unanswered=False)
    for one in claim(outbox, timedelta(0), asked, "sms"):
        finish(outbox, one, "retrying", next_attempt_at=NOW + MINUTE, unanswered_since=NOW)
    assert [one.merged for one in claim(outbox, MINUTE, asked, "sms")] == [0, 0]


def test_failed_digest_can_be_put_in_line_again_with_all_it_tells(outbox: Outbox) -> None:
    begin(outbox, 4)
    (gathered,) = claim(outbox, MINUTE)
    finish(outbox, gathered, "failed")
    assert outbox.retry(gathered.id, now=NOW + DAY, give_up_after=DAY) is True
    assert [fingerprints(one) for one in claim(outbox, DAY)] == [["f2", "f3"]]


# As a process


def settings(folder: Path, text: str) -> str:
    (folder / "receiver.yaml").write_text(text)
    return "--config.file=receiver.yaml"


def headlines(sandbox: Sandbox) -> list[str]:
    return [post["payload"]["text"] for post in sandbox.messages("slack")]


def test_storm_arrives_as_a_few_messages_and_one_digest(sandbox: Sandbox, tmp_path: Path) -> None:
    flag = settings(tmp_path, "slack: {pause: 0s}\nstorm: {messages: 2, within: 1m, digest_every: 5s}\n")
    with running(Process(sandbox, tmp_path, flag)) as process:
        for number in range(10):
            process.post(body([payload_alert(f"f{number}", severity="info")], groupKey=str(number)))
        process.post(body([payload_alert("now", severity="critical")], groupKey="now"))
        until(lambda: len(sandbox.messages("slack")) == 4, "the digest arrives")
        until(lambda: 'channel="slack",outcome="merged"} 7.0' in process.metrics(), "it is counted")
    single, critical = "🔵 [INFO] 배차 대기 주문 많음", ":rotating_light: [CRITICAL] 배차 대기 주문 많음"
    assert sorted(headlines(sandbox)[:3]) == sorted([single, single, critical])
    assert headlines(sandbox)[3] == "🔵 [INFO] 모아 보내는 알림 8건: 배차 대기 주문 많음 등"


def test_backlog_of_an_outage_arrives_as_one_message(sandbox: Sandbox, tmp_path: Path) -> None:
    sandbox.misbehave(channel="slack", status=503)
    flag = settings(tmp_path, "slack: {pause: 0s}\nretry: {first: 6s, longest: 6s}\n")
    with running(Process(sandbox, tmp_path, flag)) as process:
        for number in range(4):
            process.post(body([payload_alert(f"f{number}", severity="info")], groupKey=str(number)))
        over = payload_alert("f0", severity="info", status="resolved", endsAt="2026-01-27T13:12:00Z")
        process.post(body([over], groupKey="0"))
        until(lambda: len(sandbox.calls("slack")) >= 4, "each was tried")
        sandbox.behave()
        until(lambda: process.states(1)["slack"] in ("delivered", "merged"), "it gets through")
        until(lambda: sandbox.messages("slack"), "it arrives")
        until(lambda: not {"pending", "retrying"} & {process.states(one)["slack"] for one in range(1, 6)}, "all of it")
    assert headlines(sandbox) == ["🔵 [INFO] 모아 보내는 알림 4건: 배차 대기 주문 많음 등"]
    (post,) = sandbox.messages("slack")
    assert "발생 중 3건, 해소 1건" in str(post["payload"])
