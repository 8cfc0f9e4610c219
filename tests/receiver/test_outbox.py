"""The outbox on SQLite and on PostgreSQL: what is accepted, claimed, finished and forgotten."""

from __future__ import annotations

import threading
from collections.abc import Sequence
from datetime import datetime, timedelta

import pytest
from sqlalchemy import func, select

from receiver.accepting import accept_all
from receiver.digest import Gathering, Rate
from receiver.notification import SEVERITIES, Notification
from receiver.outbox import Accepted, Addition, Asked, Claim, Filter, Outbox, Settlement
from receiver.routing import planner
from receiver.store import Store
from receiver.tables import alerts
from tests.receiver.making import DAY, NOW, ROUTING, WINDOW, alert, notification

SECOND = timedelta(seconds=1)
MINUTE = timedelta(minutes=1)
DELIVERED = Settlement("delivered", {0: ("delivered", None)})


def add(outbox: Outbox, told: Notification | None = None, *, at: timedelta = timedelta(0)) -> Accepted:
    """Stores one so long after NOW."""
    told = told or notification()
    return outbox.add(told, planner(told, ROUTING, NOW + at), now=NOW + at, dedup_window=WINDOW, give_up_after=DAY)


def add_together(store: Store, told: Sequence[Notification], asked: Asked | None = None) -> list[Accepted]:
    """Stores them in one transaction; `asked`: by the same request each."""
    additions = [
        Addition.of(
            one,
            planner(one, ROUTING, NOW),
            now=NOW,
            dedup_window=WINDOW,
            give_up_after=DAY,
            source="alertmanager",
            asked=asked,
        )
        for one in told
    ]
    return store.write(lambda connection: accept_all(connection, additions))


def claim(outbox: Outbox, channel: str = "email", *, at: timedelta = timedelta(0), limit: int = 10) -> list[Claim]:
    return outbox.claim(channel, now=NOW + at, limit=limit)


def finish(outbox: Outbox, one: Claim, state: str = "delivered", **more: object) -> None:
    to = {"delivered": "delivered", "failed": "refused", "retrying": "waiting"}[state]
    recipients = {recipient.position: (to, None) for recipient in one.recipients}
    outbox.finish(one, Settlement(state, recipients, **more), now=NOW).result()  # type: ignore[arg-type] # as the test says


# Accepting


def test_notification_is_stored_with_its_deliveries(outbox: Outbox) -> None:
    assert add(outbox) == Accepted(1, 3, duplicate=False)
    record = outbox.notification(1)
    assert record is not None
    assert record.notification == notification()
    assert {delivery.channel: len(delivery.recipients) for delivery in record.deliveries} == {
        "email": 2,
        "sms": 2,
        "slack": 1,
    }
    assert {delivery.state for delivery in record.deliveries} == {"pending"}


def test_what_is_taken_in_together_has_each_its_answer(outbox: Outbox, store: Store) -> None:
    told = [notification(group_key="a"), notification(group_key="b"), notification(group_key="a")]
    answers = add_together(store, told)
    assert answers == [Accepted(1, 3, duplicate=False), Accepted(2, 3, duplicate=False), Accepted(1, 0, duplicate=True)]
    assert [record.group_key for record in outbox.history(Filter())] == ["b", "a"]


def test_beginning_and_end_taken_in_together_reach_the_same_readers(store: Store) -> None:
    first, last = notification(alert()), notification(alert(resolved_after=MINUTE))
    answers = add_together(store, [first, last])
    assert [one.deliveries for one in answers] == [3, 3]


def test_same_request_twice_in_what_is_taken_in_together_is_one_notification(outbox: Outbox, store: Store) -> None:
    told = [notification(alert("f1"), group_key="a"), notification(alert("f2"), group_key="b")]
    answers = add_together(store, told, Asked.of("order-17", "digest"))
    assert answers == [Accepted(1, 3, duplicate=False), Accepted(1, 0, duplicate=True)]
    assert [record.group_key for record in outbox.history(Filter())] == ["a"]


def test_same_body_within_the_window_is_a_duplicate(outbox: Outbox) -> None:
    first = add(outbox)
    assert add(outbox, at=WINDOW - SECOND) == Accepted(first.notification_id, 0, duplicate=True)
    record = outbox.notification(first.notification_id)
    assert record is not None
    assert (record.duplicates, len(record.deliveries)) == (1, 3)


def test_same_body_after_the_window_is_a_reminder(outbox: Outbox) -> None:
    first = add(outbox)
    second = add(outbox, at=WINDOW)
    assert (second.duplicate, second.deliveries) == (False, 3)
    assert second.notification_id != first.notification_id


def test_duplicate_does_not_lengthen_the_window(outbox: Outbox) -> None:
    add(outbox)
    add(outbox, at=WINDOW - SECOND)
    assert add(outbox, at=WINDOW).duplicate is False


def test_what_came_before_the_clock_was_set_back_makes_no_duplicate(outbox: Outbox) -> None:
    add(outbox, at=2 * WINDOW)
    assert add(outbox).duplicate is False


def test_what_alertmanager_calls_a_reminder_is_none(outbox: Outbox) -> None:
    add(outbox)
    assert add(outbox, notification(reason="repeat interval elapsed"), at=MINUTE).duplicate is False
    assert add(outbox, notification(reason="new alerts added"), at=2 * MINUTE).duplicate is True


@pytest.mark.parametrize(
    "other",
    [
        notification(group_key="{}:{other}"),
        notification(truncated=1),
        notification(alert(resolved_after=MINUTE)),
        notification(alert(starts_at=NOW + SECOND)),
        notification(alert(), alert("f2")),
    ],
    ids=["group", "truncated", "resolved", "fires anew", "one more"],
)
def test_any_other_transition_is_no_duplicate(outbox: Outbox, other: Notification) -> None:
    add(outbox)
    assert add(outbox, other, at=SECOND).duplicate is False


def test_order_and_repetition_of_alerts_do_not_matter_to_a_duplicate(outbox: Outbox) -> None:
    add(outbox, notification(alert("a"), alert("b")))
    assert add(outbox, notification(alert("b"), alert("a"), alert("b")), at=SECOND).duplicate is True


def test_of_many_at_once_only_one_is_new(store: Store) -> None:
    answers: list[Accepted] = []
    start = threading.Barrier(8)

    def post(name: str) -> None:
        start.wait()
        answers.append(add(Outbox(store, name)))

    threads = [threading.Thread(target=post, args=(f"replica {number}",)) for number in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert sorted(answer.duplicate for answer in answers) == [False] + [True] * 7
    assert len({answer.notification_id for answer in answers}) == 1


def test_heartbeat_counts_even_as_a_duplicate(outbox: Outbox) -> None:
    beat = notification(alert(name="ColdChainWatchdog", severity="none"))
    assert outbox.heartbeat() is None
    assert add(outbox, beat).deliveries == 0
    assert add(outbox, beat, at=MINUTE).duplicate is True
    assert outbox.heartbeat() == NOW + MINUTE


@pytest.mark.parametrize(
    ("ahead", "counts"), [(MINUTE, MINUTE), (MINUTE + SECOND, timedelta(0))], ids=["another clock", "set back"]
)
def test_heartbeat_goes_back_only_where_the_clock_was_set_back(
    outbox: Outbox, ahead: timedelta, counts: timedelta
) -> None:
    beat = notification(alert(name="ColdChainWatchdog", severity="none"))
    add(outbox, beat, at=ahead)
    add(outbox, beat)
    assert outbox.heartbeat() == NOW + counts


def test_resolved_watchdog_is_no_heartbeat(outbox: Outbox) -> None:
    add(outbox, notification(alert(name="ColdChainWatchdog", resolved_after=MINUTE)))
    assert outbox.heartbeat() is None


def test_resolved_goes_to_whoever_got_it_firing(outbox: Outbox) -> None:
    add(outbox, notification(alert(severity="warning")))
    resolved = notification(alert(severity="critical", resolved_after=MINUTE))
    assert add(outbox, resolved, at=MINUTE).deliveries == 2


def test_end_of_one_alert_goes_to_whoever_got_that_one(outbox: Outbox) -> None:
    add(outbox, notification(alert("a", severity="info"), alert("b", severity="critical")))
    ended = add(outbox, notification(alert("a", severity="info", resolved_after=MINUTE)), at=MINUTE)
    record = outbox.notification(ended.notification_id)
    assert record is not None
    assert [delivery.channel for delivery in record.deliveries] == ["slack"]


def test_channel_that_failed_to_tell_of_it_does_not_tell_of_its_end(outbox: Outbox) -> None:
    add(outbox, notification(alert(severity="warning")))
    finish(outbox, claim(outbox)[0], "failed")
    assert add(outbox, notification(alert(severity="warning", resolved_after=MINUTE)), at=MINUTE).deliveries == 1


def test_recipient_that_was_refused_is_not_told_of_its_end(outbox: Outbox) -> None:
    add(outbox, notification(alert(severity="warning")))
    recipients = {0: ("delivered", None), 1: ("refused", "550")}
    outbox.finish(claim(outbox)[0], Settlement("partial", recipients), now=NOW).result()
    second = add(outbox, notification(alert(severity="warning", resolved_after=MINUTE)), at=MINUTE)
    record = outbox.notification(second.notification_id)
    assert record is not None
    assert [one.address for one in record.deliveries[0].recipients] == ["a@example.com"]


def test_end_is_told_once_though_a_reminder_reached_others_than_the_beginning(outbox: Outbox) -> None:
    add(outbox, notification(alert(severity="warning")))
    b_is_refused = {0: ("delivered", None), 1: ("refused", "550")}
    outbox.finish(claim(outbox)[0], Settlement("partial", b_is_refused), now=NOW).result()
    add(outbox, notification(alert(severity="warning")), at=WINDOW)
    finish(outbox, claim(outbox, at=WINDOW)[0])
    add(outbox, notification(alert(severity="warning", resolved_after=MINUTE)), at=2 * WINDOW)
    (end,) = claim(outbox, at=2 * WINDOW)
    assert [one.address for one in end.recipients] == ["a@example.com", "b@example.com"]


def test_delivery_holds_only_the_alerts_that_it_tells(outbox: Outbox) -> None:
    add(outbox, notification(alert("a", severity="info"), alert("b", severity="warning"), alert("c", severity="none")))
    assert [one.fingerprint for one in claim(outbox)[0].notification.alerts] == ["b"]
    assert [one.fingerprint for one in claim(outbox, "slack")[0].notification.alerts] == ["a", "b"]


def test_ten_thousand_alerts_are_stored_and_their_end_finds_them(outbox: Outbox, store: Store) -> None:
    many = [alert(f"f{number}", severity="warning") for number in range(10_000)]
    add(outbox, notification(*many))
    assert (
        store.read(lambda connection: connection.execute(select(func.count()).select_from(alerts)).scalar()) == 10_000
    )
    ended = [alert(f"f{number}", severity="critical", resolved_after=MINUTE) for number in range(10_000)]
    assert add(outbox, notification(*ended), at=MINUTE).deliveries == 2


# Delivering


def test_claimed_delivery_is_not_claimed_again(outbox: Outbox, store: Store) -> None:
    add(outbox)
    assert len(claim(outbox)) == 1
    assert claim(outbox) == []
    assert claim(Outbox(store, "two")) == []


def test_most_urgent_goes_first_then_the_oldest(outbox: Outbox) -> None:
    for number, severity in enumerate(["info", "warning", "critical", "warning", "critical"]):
        told = notification(alert(f"f{number}", severity=severity), group_key=str(number))
        add(outbox, told, at=number * SECOND)
    order = [claim(outbox, "slack", at=MINUTE, limit=1)[0].notification_id for _ in range(5)]
    assert order == [3, 5, 2, 4, 1]


@pytest.mark.parametrize("severity", ["info", "warning"])
def test_group_keeps_its_order(outbox: Outbox, severity: str) -> None:
    add(outbox, notification(alert(severity="info")))
    (first,) = claim(outbox, "slack", at=MINUTE)
    add(outbox, notification(alert(severity=severity, resolved_after=MINUTE)), at=MINUTE)
    assert claim(outbox, "slack", at=MINUTE) == []
    finish(outbox, first)
    (second,) = claim(outbox, "slack", at=MINUTE)
    assert [first.notification_id, second.notification_id] == [1, 2]


def test_mailbox_that_is_full_does_not_hold_up_the_group(outbox: Outbox) -> None:
    add(outbox, notification(alert(severity="warning")))
    recipients = {0: ("delivered", None), 1: ("waiting", "452")}
    outbox.finish(claim(outbox)[0], Settlement("retrying", recipients, next_attempt_at=NOW + DAY), now=NOW).result()
    add(outbox, notification(alert(severity="warning", resolved_after=MINUTE)), at=MINUTE)
    assert [one.notification_id for one in claim(outbox, at=MINUTE)] == [2]


def test_whose_mailbox_was_full_hears_of_the_end_once_and_of_no_beginning_after_it(outbox: Outbox) -> None:
    told = (alert("f1", severity="warning"), alert("f2", severity="warning"))
    add(outbox, notification(*told))
    recipients = {0: ("delivered", None), 1: ("waiting", "452")}
    (first,) = claim(outbox)
    outbox.finish(first, Settlement("retrying", recipients, next_attempt_at=NOW + MINUTE), now=NOW).result()
    add(outbox, notification(alert("f1", severity="warning", resolved_after=MINUTE)), at=MINUTE)
    (end,) = claim(outbox, at=MINUTE)
    assert [(one.fingerprint, one.firing) for one in end.notification.alerts] == [("f2", True), ("f1", False)]
    finish(outbox, end)
    assert claim(outbox, at=DAY) == []
    (beginning,) = [one for one in outbox.history(Filter(channel="email"))[1].deliveries if one.channel == "email"]
    assert (beginning.state, beginning.merged_into) == ("merged", end.id)
    assert [one.state for one in beginning.recipients] == ["delivered", "merged"]


def test_end_waits_while_a_full_mailbox_is_tried_again(outbox: Outbox) -> None:
    add(outbox, notification(alert(severity="warning")))
    recipients = {0: ("delivered", None), 1: ("waiting", "452")}
    (first,) = claim(outbox)
    outbox.finish(first, Settlement("retrying", recipients, next_attempt_at=NOW + MINUTE), now=NOW).result()
    (again,) = claim(outbox, at=MINUTE)
    add(outbox, notification(alert(severity="warning", resolved_after=MINUTE)), at=MINUTE)
    assert claim(outbox, at=MINUTE) == []
    finish(outbox, again)
    (end,) = claim(outbox, at=MINUTE)
    assert (end.notification_id, end.merged) == (2, 0)


def test_who_had_a_digest_does_not_get_it_again_with_the_next_of_one_group(outbox: Outbox) -> None:
    gathering = Gathering(Rate(1, within=MINUTE, every=MINUTE))

    def one(at: timedelta) -> Claim:
        (found,) = outbox.claim("email", now=NOW + at, limit=1, gathering=gathering)
        return found

    add(outbox, notification(alert("f0", severity="warning"), group_key="first"))
    finish(outbox, one(timedelta(0)))
    for number in (1, 2):
        add(outbox, notification(alert(f"f{number}", severity="warning"), group_key=f"g{number}"))
    assert outbox.claim("email", now=NOW, limit=1, gathering=gathering) == []
    digest = one(MINUTE)
    recipients = {0: ("delivered", None), 1: ("waiting", "452")}
    outbox.finish(digest, Settlement("retrying", recipients, next_attempt_at=NOW + DAY), now=NOW + MINUTE).result()
    add(outbox, notification(alert("f1", severity="warning", resolved_after=MINUTE), group_key="g1"), at=10 * MINUTE)
    end = one(10 * MINUTE)
    assert (digest.merged, end.merged, len(end.notification.alerts)) == (1, 0, 1)


def test_critical_one_takes_along_what_a_dead_worker_had_and_what_waited_for_that(outbox: Outbox, store: Store) -> None:
    add(outbox, notification(alert(severity="warning")))
    assert len(claim(outbox)) == 1
    add(outbox, notification(alert(severity="warning", resolved_after=MINUTE)))
    add(outbox, notification(alert("f2", severity="critical"), alert(severity="warning", starts_at=NOW + MINUTE)))
    (critical,) = claim(Outbox(store, "two"), at=outbox.lease, limit=1)
    assert (critical.notification_id, critical.merged) == (3, 2)
    assert claim(outbox, at=outbox.lease) == []


def test_busy_lane_is_left_alone(outbox: Outbox) -> None:
    add(outbox)
    assert outbox.claim("slack", now=NOW, limit=1, busy_lanes=["default"]) == []
    assert len(outbox.claim("slack", now=NOW, limit=1, busy_lanes=["other"])) == 1


def test_retry_waits_for_its_time_even_in_another_process(outbox: Outbox, store: Store) -> None:
    add(outbox)
    (first,) = claim(outbox)
    finish(outbox, first, "retrying", next_attempt_at=NOW + MINUTE, error="busy")
    other = Outbox(store, "after a restart")
    assert claim(other, at=MINUTE - SECOND) == []
    assert other.next_due("email") == NOW + MINUTE
    (again,) = claim(other, at=MINUTE)
    assert (again.id, again.attempts) == (first.id, 1)


def test_only_unsettled_recipients_are_left(outbox: Outbox) -> None:
    add(outbox)
    recipients = {0: ("delivered", None), 1: ("waiting", "452")}
    outbox.finish(claim(outbox)[0], Settlement("retrying", recipients, next_attempt_at=NOW), now=NOW).result()
    assert [recipient.state for recipient in claim(outbox)[0].recipients] == ["delivered", "waiting"]


def test_dead_workers_delivery_is_taken_up_when_its_lease_ends(outbox: Outbox, store: Store) -> None:
    add(outbox)
    (lost,) = claim(outbox)
    two = Outbox(store, "two")
    assert claim(two, at=outbox.lease - SECOND) == []
    assert two.next_due("email") == NOW + outbox.lease
    (found,) = claim(two, at=outbox.lease)
    assert found.id == lost.id
    assert found.unanswered_since == NOW  # nobody knows how far the first came


def test_unanswered_delivery_knows_what_the_peer_calls_the_others(outbox: Outbox, store: Store) -> None:
    add(outbox, notification(group_key="answered"))
    add(outbox, notification(group_key="unanswered"))
    answered, lost = claim(outbox, "sms")
    assert (answered.others, lost.others) == (frozenset(), frozenset())
    taken = {recipient.position: ("delivered", None) for recipient in answered.recipients}
    references = dict.fromkeys(taken, "4711")
    outbox.finish(answered, Settlement("delivered", taken, references=references), now=NOW).result()
    (again,) = claim(Outbox(store, "two"), "sms", at=outbox.lease)
    assert (again.id, again.others) == (lost.id, frozenset({"4711"}))


def test_dead_workers_lease_ends_in_time_though_the_clock_was_set_back(outbox: Outbox, store: Store) -> None:
    add(outbox, at=DAY)
    assert len(claim(outbox, at=DAY)) == 1
    two = Outbox(store, "two")
    two.make_due("email", now=NOW)
    assert claim(two, at=outbox.lease - SECOND) == []
    (found,) = claim(two, at=outbox.lease)
    assert found.unanswered_since == NOW + DAY


def test_renewed_lease_is_not_taken(outbox: Outbox, store: Store) -> None:
    add(outbox)
    (held,) = claim(outbox)
    outbox.renew([held.id], now=NOW + outbox.lease / 2)
    assert claim(Outbox(store, "two"), at=outbox.lease + SECOND) == []


def test_late_answer_of_a_worker_that_lost_its_lease_spares_the_recipients_a_second_message(
    outbox: Outbox, store: Store
) -> None:
    add(outbox)
    (late,) = claim(outbox)
    two = Outbox(store, "two")
    (taken,) = claim(two, at=outbox.lease)
    outbox.finish(late, Settlement("delivered", {0: ("delivered", None), 1: ("delivered", None)}), now=NOW).result()
    record = outbox.notification(1)
    assert record is not None
    assert [one.state for one in record.deliveries[0].recipients] == ["delivered", "delivered"]
    assert record.deliveries[0].state == "pending"  # the one that holds it settles it
    finish(two, taken)


def test_late_failure_of_a_worker_that_lost_its_lease_makes_no_recipient_unsettled_again(
    outbox: Outbox, store: Store
) -> None:
    add(outbox)
    (late,) = claim(outbox)
    two = Outbox(store, "two")
    (taken,) = claim(two, at=outbox.lease)
    one_is_full = {0: ("delivered", None), 1: ("waiting", "452")}
    two.finish(
        taken, Settlement("retrying", one_is_full, next_attempt_at=NOW + MINUTE), now=NOW + outbox.lease
    ).result()
    finish(outbox, late, "retrying", next_attempt_at=NOW + MINUTE)
    (again,) = claim(two, at=MINUTE)
    assert [recipient.state for recipient in again.recipients] == ["delivered", "waiting"]


def test_late_success_says_nothing_of_what_joined_the_message_meanwhile(outbox: Outbox, store: Store) -> None:
    add(outbox, notification(alert(severity="info")))
    (late,) = claim(outbox, "slack")
    add(outbox, notification(alert(severity="info", resolved_after=MINUTE)), at=outbox.lease)
    two = Outbox(store, "two")
    (taken,) = claim(two, "slack", at=outbox.lease)
    assert taken.merged == 1
    finish(two, taken, "retrying", next_attempt_at=NOW + MINUTE)
    finish(outbox, late)
    (again,) = claim(two, "slack", at=MINUTE)
    assert [one.state for one in again.recipients] == ["waiting"]


def test_late_refusal_leaves_it_to_the_worker_that_holds_the_delivery(outbox: Outbox, store: Store) -> None:
    add(outbox)
    (late,) = claim(outbox)
    two = Outbox(store, "two")
    (taken,) = claim(two, at=outbox.lease)
    finish(outbox, late, "failed")
    finish(two, taken, "retrying", next_attempt_at=NOW + MINUTE)
    (again,) = claim(two, at=MINUTE)
    assert [one.state for one in again.recipients] == ["waiting", "waiting"]


@pytest.mark.parametrize("late_comes_last", [True, False])
@pytest.mark.parametrize(
    ("reached", "state"),
    [({0: ("delivered", None), 1: ("delivered", None)}, "delivered"), ({0: ("delivered", None)}, "partial")],
)
def test_late_success_is_what_became_of_a_delivery_that_another_worker_gave_up(
    outbox: Outbox, store: Store, late_comes_last: bool, reached: dict[int, tuple[str, str | None]], state: str
) -> None:
    add(outbox)
    (late,) = claim(outbox)
    two = Outbox(store, "two")
    (taken,) = claim(two, at=outbox.lease)
    refused = dict.fromkeys((0, 1), ("refused", "550"))
    outcomes = [
        (two, taken, Settlement("failed", refused, error="550")),
        (outbox, late, Settlement(state, reached, error=None if state == "delivered" else "451")),
    ]
    for who, whose, settlement in outcomes if late_comes_last else reversed(outcomes):
        who.finish(whose, settlement, now=NOW + MINUTE).result()
    record = outbox.notification(1)
    assert record is not None
    assert [one.state for one in record.deliveries[0].recipients].count("delivered") == len(reached)
    assert record.deliveries[0].state == state
    assert record.deliveries[0].error == (None if state == "delivered" else "550")
    after = dict.fromkeys(SEVERITIES, DAY)
    assert outbox.hand_over(lambda _: [], now=NOW + MINUTE, after=after, give_up_after=DAY) == []


def test_released_delivery_is_there_at_once(outbox: Outbox) -> None:
    add(outbox)
    outbox.release(claim(outbox), [], now=NOW + SECOND)
    (again,) = claim(outbox, at=SECOND)
    assert again.unanswered_since == NOW


def test_one_given_back_untouched_is_as_if_it_had_never_been_claimed(outbox: Outbox) -> None:
    add(outbox)
    outbox.release([], claim(outbox), now=NOW + SECOND)
    (again,) = claim(outbox, at=SECOND)
    assert again.unanswered_since is None


def test_several_claimed_at_once_are_each_a_message_with_the_most_urgent_first(outbox: Outbox) -> None:
    for number, severity in enumerate(("warning", "critical", "warning")):
        add(outbox, notification(alert(severity=severity, fingerprint=f"f{number}"), group_key=f"group {number}"))
    found = claim(outbox)
    assert [(one.severity, one.notification.group_key, one.merged) for one in found] == [
        ("critical", "group 1", 0),
        ("warning", "group 0", 0),
        ("warning", "group 2", 0),
    ]


def test_critical_one_takes_along_what_is_claimed_of_its_group_at_the_same_time(outbox: Outbox) -> None:
    add(outbox, notification(alert(severity="warning", fingerprint="f0")))
    add(outbox, notification(alert(severity="critical", fingerprint="f1")))
    (one,) = claim(outbox)
    assert (one.severity, one.merged, len(one.notification.alerts)) == ("critical", 1, 2)
    lesser = outbox.history(Filter(channel="email"))[1].deliveries[0]
    assert (lesser.state, lesser.merged_into, lesser.recipients[0].state) == ("merged", one.id, "merged")
    finish(outbox, one)
    assert claim(outbox, at=outbox.lease + SECOND) == []


def test_failed_delivery_can_be_put_in_line_again(outbox: Outbox) -> None:
    add(outbox)
    (failed,) = claim(outbox)
    recipients = {0: ("delivered", None), 1: ("refused", "550")}
    outbox.finish(failed, Settlement("partial", recipients, error="550"), now=NOW).result()
    assert outbox.retry(failed.id, now=NOW + DAY, give_up_after=DAY) is True
    (again,) = claim(outbox, at=DAY)
    assert [recipient.state for recipient in again.recipients] == ["delivered", "waiting"]
    assert (again.attempts, again.give_up_at) == (0, NOW + 2 * DAY)


@pytest.mark.parametrize(
    ("settle", "delivery_id", "expected"), [(True, 1, False), (False, 1, False), (False, 99, None)]
)
def test_only_a_delivery_that_did_not_get_through_can(
    outbox: Outbox, *, settle: bool, delivery_id: int, expected: bool | None
) -> None:
    add(outbox)
    if settle:
        finish(outbox, claim(outbox)[0])
    assert outbox.retry(delivery_id, now=NOW, give_up_after=DAY) is expected


# Looking and forgetting


def settled(outbox: Outbox) -> list[datetime | None]:
    """When the only delivery was settled, and when its only recipient."""
    record = outbox.notification(1)
    assert record is not None
    (delivery,) = record.deliveries
    (recipient,) = delivery.recipients
    return [delivery.settled_at, recipient.settled_at]


def test_history_says_since_when_it_is_settled(outbox: Outbox) -> None:
    add(outbox, notification(alert(severity="info")))
    assert settled(outbox) == [None, None]
    later = NOW + MINUTE
    outbox.finish(
        claim(outbox, "slack")[0], Settlement("retrying", {0: ("waiting", "500")}, next_attempt_at=later), now=NOW
    ).result()
    assert settled(outbox) == [None, None]
    (again,) = claim(outbox, "slack", at=MINUTE)
    outbox.finish(again, Settlement("failed", {0: ("refused", "404")}), now=later).result()
    assert settled(outbox) == [later, later]
    outbox.retry(again.id, now=later, give_up_after=DAY)
    assert settled(outbox) == [None, None]


def test_waiting_counts_by_channel_and_state(outbox: Outbox) -> None:
    add(outbox)
    add(outbox, notification(group_key="other"), at=MINUTE)
    finish(outbox, claim(outbox)[0], "failed")
    found = {(row.channel, row.state): (row.count, row.oldest) for row in outbox.waiting()}
    assert found == {
        ("email", "failed"): (1, NOW),
        ("email", "pending"): (1, NOW + MINUTE),
        ("slack", "pending"): (2, NOW),
        ("sms", "pending"): (2, NOW),
    }


@pytest.mark.parametrize(
    ("wanted", "ids"),
    [
        (Filter(), [3, 2, 1]),
        (Filter(limit=2), [3, 2]),
        (Filter(before=3), [2, 1]),
        (Filter(firing=False), [3]),
        (Filter(severity="warning"), [2]),
        (Filter(channel="sms"), [3, 1]),
        (Filter(state="failed"), [1]),
        (Filter(state="failed", channel="slack"), []),
    ],
)
def test_history_is_filtered_newest_first(outbox: Outbox, wanted: Filter, ids: list[int]) -> None:
    add(outbox)
    add(outbox, notification(alert("w", severity="warning"), group_key="other"), at=SECOND)
    add(outbox, notification(alert(resolved_after=MINUTE)), at=MINUTE)
    finish(outbox, claim(outbox)[0], "failed")
    assert [record.id for record in outbox.history(wanted)] == ids


def test_pruning_forgets_what_is_old_and_settled(outbox: Outbox) -> None:
    add(outbox, notification(alert(severity="info"), group_key="settled"))
    add(outbox, notification(alert(severity="info"), group_key="open"))
    add(outbox, notification(alert(severity="info"), group_key="young"), at=DAY)
    finish(outbox, claim(outbox, "slack", limit=1)[0])
    assert outbox.prune(before=NOW + DAY, seen_before=NOW) == 1
    assert outbox.prune(before=NOW + DAY, seen_before=NOW) == 0
    assert [record.group_key for record in outbox.history(Filter())] == ["young", "open"]


def test_erased_address_is_in_no_row(outbox: Outbox) -> None:
    add(outbox)
    recipients = {0: ("refused", "a@example.com refused: 550 no a@example.com here"), 1: ("delivered", None)}
    outbox.finish(
        claim(outbox)[0], Settlement("partial", recipients, error="a@example.com refused: 550"), now=NOW
    ).result()
    assert outbox.erase("A@Example.com", now=NOW) == 1
    record = outbox.notification(1)
    assert record is not None
    assert "a@example.com" not in repr(record)
    assert [one.state for one in record.deliveries[0].recipients] == ["refused", "delivered"]


def test_erased_address_gets_nothing_more(outbox: Outbox) -> None:
    add(outbox)
    outbox.erase("a@example.com", now=NOW)
    (one,) = claim(outbox)
    assert [recipient.address for recipient in one.recipients if recipient.state == "waiting"] == ["b@example.com"]


def test_erased_address_is_not_told_of_the_end(outbox: Outbox) -> None:
    add(outbox)
    finish(outbox, claim(outbox)[0])
    outbox.erase("a@example.com", now=NOW)
    add(outbox, notification(alert(resolved_after=MINUTE)), at=MINUTE)
    (end,) = claim(outbox, at=MINUTE)
    assert [recipient.address for recipient in end.recipients] == ["b@example.com"]


def test_erased_address_is_not_tried_again(outbox: Outbox) -> None:
    add(outbox)
    finish(outbox, claim(outbox)[0], "failed")
    outbox.erase("a@example.com", now=NOW)
    assert outbox.retry(1, now=NOW, give_up_after=DAY) is True
    (one,) = claim(outbox)
    assert [recipient.address for recipient in one.recipients if recipient.state == "waiting"] == ["b@example.com"]


def test_address_erased_while_it_is_being_sent_to_does_not_come_back(outbox: Outbox) -> None:
    add(outbox)
    (one,) = claim(outbox)
    outbox.erase("a@example.com", now=NOW)
    refused = {0: ("waiting", "a@example.com refused: 452"), 1: ("waiting", "b@example.com refused: 452")}
    words = "a@example.com refused: 452; b@example.com refused: 452"
    outbox.finish(one, Settlement("retrying", refused, error=words, next_attempt_at=NOW), now=NOW).result()
    assert "a@example.com" not in repr(outbox.notification(1))
    (again,) = claim(outbox)
    assert [recipient.address for recipient in again.recipients if recipient.state == "waiting"] == ["b@example.com"]


def test_delivery_whose_addresses_are_all_erased_while_it_is_being_sent_is_not_tried_again(outbox: Outbox) -> None:
    add(outbox)
    (one,) = claim(outbox)
    for address in ("a@example.com", "b@example.com"):
        outbox.erase(address, now=NOW)
    finish(outbox, one, "retrying", next_attempt_at=NOW)
    assert claim(outbox) == []
    record = outbox.notification(1)
    assert record is not None
    assert [(one.state, one.error) for one in record.deliveries if one.channel == "email"] == [
        ("suppressed", "the recipients were erased")
    ]


def test_delivery_to_nobody_but_erased_addresses_comes_to_its_end(outbox: Outbox) -> None:
    add(outbox)
    for address in ("a@example.com", "b@example.com"):
        outbox.erase(address, now=NOW)
    assert claim(outbox) == []
    record = outbox.notification(1)
    assert record is not None
    assert [(one.state, one.error) for one in record.deliveries if one.channel == "email"] == [
        ("suppressed", "the recipients were erased")
    ]
    assert outbox.retry(1, now=NOW, give_up_after=DAY) is False
