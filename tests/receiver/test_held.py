"""What waits for the end of a quiet time: sent then, gathered into one message, dropped where it has resolved."""

from __future__ import annotations

from dataclasses import replace
from datetime import timedelta
from zoneinfo import ZoneInfo

import pytest

from receiver.digest import Gathering, Rate
from receiver.notification import Notification
from receiver.outbox import Accepted, Claim, Filter, Outbox, Settlement
from receiver.routing import QuietRule, planner
from receiver.schedules import Schedule, Window, parse_hours
from receiver.store import Store
from tests.receiver.making import DAY, NOW, ROUTING, WINDOW, alert, notification

HOUR = timedelta(hours=1)
NIGHT = QuietRule(
    "quiet.0",
    Schedule((Window(hours=(parse_hours("22:00-07:00"),)),), ZoneInfo("Asia/Seoul")),  # NOW is 22:00
    frozenset({"email"}),
    frozenset({"info", "warning"}),
)
LONGER_NIGHT = replace(NIGHT, schedule=Schedule((Window(hours=(parse_hours("22:00-08:00"),)),), ZoneInfo("Asia/Seoul")))
MORNING = 9 * HOUR  # after NOW


def add(outbox: Outbox, told: Notification, *, at: timedelta = timedelta(0), quiet: QuietRule = NIGHT) -> Accepted:
    routing = replace(ROUTING, quiet=(quiet,))
    return outbox.add(told, planner(told, routing, NOW + at), now=NOW + at, dedup_window=WINDOW, give_up_after=DAY)


def claim(outbox: Outbox, at: timedelta) -> list[Claim]:
    return outbox.claim("email", now=NOW + at, limit=10)


def states(outbox: Outbox) -> list[str]:
    """Of the deliveries by email, in the order of their notifications."""
    records = reversed(outbox.history(Filter(channel="email")))
    return [one.state for record in records for one in record.deliveries if one.channel == "email"]


def told_by(one: Claim) -> dict[str, bool]:
    """Fingerprint → whether it fires."""
    return {alert.fingerprint: alert.firing for alert in one.notification.alerts}


WARNING = alert(severity="warning")
OTHER = notification(alert("other", severity="warning"), group_key="other")


def test_what_is_held_is_sent_at_the_end_of_the_quiet_time(outbox: Outbox) -> None:
    add(outbox, notification(WARNING))
    assert states(outbox) == ["held"]
    assert claim(outbox, MORNING - timedelta(seconds=1)) == []
    (one,) = claim(outbox, MORNING)
    assert (one.held_until, one.merged, told_by(one)) == (NOW + MORNING, 0, {"f1": True})
    assert one.give_up_at == NOW + MORNING + DAY
    outbox.finish(
        one, Settlement("delivered", {0: ("delivered", None), 1: ("delivered", None)}), now=NOW + MORNING
    ).result()
    assert states(outbox) == ["delivered"]


def test_next_look_is_when_the_quiet_time_ends(outbox: Outbox) -> None:
    add(outbox, notification(WARNING))
    add(outbox, OTHER)
    assert outbox.next_due("email") == NOW + MORNING


def test_next_look_is_for_the_critical_one_that_is_to_be_sent_at_night(outbox: Outbox) -> None:
    add(outbox, notification(WARNING))
    add(outbox, notification(alert("other", severity="critical"), group_key="other"), at=HOUR)
    assert outbox.next_due("email") == NOW + HOUR


def test_critical_alert_does_not_wait_behind_what_is_held_of_its_group(outbox: Outbox) -> None:
    add(outbox, notification(WARNING))
    add(outbox, notification(WARNING, alert("f2", severity="critical")), at=HOUR)
    (one,) = claim(outbox, HOUR)
    assert told_by(one) == {"f2": True}


def test_what_was_held_for_the_same_readers_is_one_message(outbox: Outbox) -> None:
    add(outbox, notification(WARNING))
    add(outbox, OTHER, at=HOUR)
    (one,) = claim(outbox, MORNING)
    assert (one.merged, one.newly_merged, told_by(one)) == (1, 1, {"f1": True, "other": True})
    assert states(outbox) == ["held", "merged"]


def test_what_is_held_for_longer_keeps_nothing_of_the_same_readers_back(outbox: Outbox) -> None:
    until_noon = Schedule((Window(hours=(parse_hours("22:00-12:00"),)),), ZoneInfo("Asia/Seoul"))
    add(outbox, notification(WARNING), quiet=replace(NIGHT, schedule=until_noon))
    add(outbox, OTHER)
    (one,) = claim(outbox, MORNING)
    assert (one.merged, told_by(one)) == (0, {"other": True})
    outbox.finish(
        one, Settlement("delivered", {0: ("delivered", None), 1: ("delivered", None)}), now=NOW + MORNING
    ).result()
    (last,) = claim(outbox, MORNING + 5 * HOUR)
    assert (last.merged, told_by(last)) == (0, {"f1": True})


def test_message_that_gathers_others_tells_them_again_when_it_is_tried_again(outbox: Outbox) -> None:
    add(outbox, notification(WARNING))
    add(outbox, OTHER)
    (one,) = claim(outbox, MORNING)
    waiting = {0: ("waiting", None), 1: ("waiting", None)}
    outbox.finish(
        one, Settlement("retrying", waiting, next_attempt_at=NOW + MORNING + HOUR), now=NOW + MORNING
    ).result()
    (again,) = claim(outbox, MORNING + HOUR)
    assert (again.merged, again.newly_merged, told_by(again)) == (1, 0, {"f1": True, "other": True})


def test_worker_that_died_leaves_the_gathered_message_to_another(outbox: Outbox) -> None:
    add(outbox, notification(WARNING))
    add(outbox, OTHER)
    claim(outbox, MORNING)
    (again,) = claim(outbox, MORNING + HOUR)
    assert (again.merged, again.newly_merged, told_by(again)) == (1, 0, {"f1": True, "other": True})


def test_gathered_message_of_a_worker_that_died_keeps_what_it_gathered(outbox: Outbox) -> None:
    add(outbox, notification(WARNING), quiet=LONGER_NIGHT)
    add(outbox, OTHER)
    add(outbox, notification(alert("third", severity="warning"), group_key="third"))
    claim(outbox, MORNING)
    (late,) = claim(outbox, MORNING + HOUR)
    outbox.finish(
        late, Settlement("delivered", {0: ("delivered", None), 1: ("delivered", None)}), now=NOW + MORNING
    ).result()
    (again,) = claim(outbox, MORNING + HOUR)
    assert [told_by(late), told_by(again)] == [{"f1": True}, {"other": True, "third": True}]


def test_what_is_given_back_brings_along_what_it_gathered(outbox: Outbox) -> None:
    add(outbox, notification(WARNING), quiet=LONGER_NIGHT)
    add(outbox, OTHER)
    add(outbox, notification(alert("third", severity="warning"), group_key="third"))
    outbox.release([], claim(outbox, MORNING), now=NOW + MORNING)
    (one,) = claim(outbox, MORNING + HOUR)
    assert told_by(one) == {"f1": True, "other": True, "third": True}


def test_what_is_being_sent_is_not_gathered_by_another(outbox: Outbox, store: Store) -> None:
    add(outbox, notification(WARNING), quiet=LONGER_NIGHT)
    add(outbox, OTHER)
    (slow,) = claim(outbox, MORNING)
    outbox.renew([slow.id], now=NOW + MORNING + HOUR)
    (one,) = claim(Outbox(store, "two"), MORNING + HOUR)
    assert told_by(one) == {"f1": True}


def test_message_in_doubt_gathers_nothing_more(outbox: Outbox) -> None:
    add(outbox, notification(WARNING))
    add(outbox, OTHER, quiet=LONGER_NIGHT)
    claim(outbox, MORNING)
    (again,) = claim(outbox, MORNING + HOUR)
    assert (again.unanswered_since, told_by(again)) == (NOW + MORNING, {"f1": True})


def test_end_waits_for_its_beginning_that_was_held_and_is_being_sent(outbox: Outbox) -> None:
    add(outbox, notification(WARNING))
    (beginning,) = claim(outbox, MORNING)
    add(outbox, notification(alert(severity="warning", resolved_after=MORNING)), at=MORNING)
    assert claim(outbox, MORNING) == []
    outbox.finish(
        beginning, Settlement("delivered", {0: ("delivered", None), 1: ("delivered", None)}), now=NOW + MORNING
    ).result()
    assert [told_by(one) for one in claim(outbox, MORNING)] == [{"f1": False}]


def test_end_that_comes_as_the_quiet_time_ends_waits_for_the_digest_of_its_beginning(outbox: Outbox) -> None:
    quiet, gathering = replace(NIGHT, channels=frozenset({"slack"})), Gathering(Rate(10, within=HOUR, every=HOUR))
    add(outbox, notification(alert("other", severity="info"), group_key="other"), quiet=quiet)
    add(outbox, notification(WARNING, alert("f2", severity="warning")), quiet=quiet)
    end = alert(severity="warning", resolved_after=10 * HOUR)
    add(outbox, notification(end), at=MORNING + timedelta(seconds=1), quiet=quiet)

    def one() -> list[Claim]:
        return outbox.claim("slack", now=NOW + MORNING + timedelta(seconds=2), limit=1, gathering=gathering)

    (digest,) = one()
    assert told_by(digest) == {"other": True, "f1": True, "f2": True}
    assert one() == []


def test_reminder_of_the_night_is_told_once(outbox: Outbox) -> None:
    add(outbox, notification(WARNING))
    add(outbox, notification(WARNING), at=4 * HOUR)
    (one,) = claim(outbox, MORNING)
    assert [alert.fingerprint for alert in one.notification.alerts] == ["f1"]


def test_what_resolves_meanwhile_is_dropped_and_a_line_of_the_morning(outbox: Outbox) -> None:
    resolved = alert(severity="warning", resolved_after=HOUR)
    add(outbox, notification(WARNING))
    assert add(outbox, notification(resolved), at=HOUR).suppressed == ("email",)
    add(outbox, OTHER, at=HOUR)
    assert states(outbox) == ["suppressed", "held", "held"]
    (one,) = claim(outbox, MORNING)
    assert told_by(one) == {"f1": False, "other": True}
    (dropped,) = [
        delivery
        for record in outbox.history(Filter(state="suppressed"))
        for delivery in record.deliveries
        if delivery.channel == "email"
    ]
    assert dropped.error == "resolved within the quiet time"


def test_group_of_which_some_still_fire_is_kept(outbox: Outbox) -> None:
    both = notification(WARNING, alert("f2", severity="warning"))
    add(outbox, both)
    first_over = notification(alert(severity="warning", resolved_after=HOUR), alert("f2", severity="warning"))
    assert add(outbox, first_over, at=HOUR).suppressed == ()
    (one,) = claim(outbox, MORNING)
    assert told_by(one) == {"f1": False, "f2": True}


@pytest.mark.parametrize(("fingerprint", "dropped"), [("f1", ("email",)), ("f2", ())])
def test_what_is_held_of_a_group_is_dropped_by_its_own_end_alone(
    outbox: Outbox, fingerprint: str, dropped: tuple[str, ...]
) -> None:
    add(outbox, notification(WARNING, alert("f2", severity="critical")))
    assert states(outbox) == ["held", "pending"]
    over = notification(alert(fingerprint, severity="warning", resolved_after=HOUR))
    assert add(outbox, over, at=HOUR).suppressed == dropped


def test_group_that_resolves_bit_by_bit_is_told_of_as_resolved(outbox: Outbox) -> None:
    add(outbox, notification(WARNING, alert("f2", severity="warning")))
    add(outbox, notification(alert(severity="warning", resolved_after=HOUR), alert("f2", severity="warning")), at=HOUR)
    last = notification(alert("f2", severity="warning", resolved_after=2 * HOUR))
    assert add(outbox, last, at=2 * HOUR).suppressed == ("email",)
    (one,) = claim(outbox, MORNING)
    assert told_by(one) == {"f1": False, "f2": False}


def test_alert_that_fires_anew_is_not_dropped_by_the_end_of_the_earlier_one(outbox: Outbox) -> None:
    add(outbox, notification(alert(severity="warning", starts_at=NOW + HOUR)), at=HOUR)
    add(outbox, notification(alert(severity="warning", resolved_after=timedelta(minutes=1))), at=HOUR)
    (one,) = claim(outbox, MORNING)
    assert any(alert.firing for alert in one.notification.alerts)


def test_what_is_to_be_suppressed_is_kept_in_the_history_alone(outbox: Outbox) -> None:
    accepted = add(outbox, notification(WARNING), quiet=replace(NIGHT, hold=False))
    assert (accepted.deliveries, accepted.suppressed) == (2, ("email",))
    (suppressed,) = outbox.history(Filter(state="suppressed"))[0].deliveries[:1]
    assert (suppressed.channel, suppressed.error, suppressed.settled_at) == ("email", "quiet time (quiet.0)", NOW)
    assert states(outbox) == ["suppressed"]
    assert claim(outbox, MORNING) == []
    resolved = alert(severity="warning", resolved_after=MORNING)
    add(outbox, notification(resolved), at=MORNING + HOUR)
    assert claim(outbox, MORNING + HOUR) == []  # who was never told that it began is not told that it is over


def test_age_of_what_was_held_counts_from_the_end_of_the_quiet_time(outbox: Outbox) -> None:
    add(outbox, notification(WARNING))
    (waiting,) = [one for one in outbox.waiting() if one.channel == "email"]
    assert (waiting.state, waiting.oldest) == ("held", NOW + MORNING)


def test_readers_who_changed_meanwhile_have_messages_of_their_own(outbox: Outbox) -> None:
    add(outbox, notification(WARNING))
    others = {"default": replace(ROUTING.audiences["default"], recipients={"email": ("c@example.com",)})}
    routing = replace(ROUTING, audiences=others, quiet=(NIGHT,))
    outbox.add(OTHER, planner(OTHER, routing, NOW), now=NOW, dedup_window=WINDOW, give_up_after=DAY)
    (first,) = claim(outbox, MORNING)
    outbox.finish(
        first, Settlement("delivered", {0: ("delivered", None), 1: ("delivered", None)}), now=NOW + MORNING
    ).result()
    (second,) = claim(outbox, MORNING)
    assert (first.merged, told_by(first)) == (0, {"f1": True})
    assert (second.merged, told_by(second), second.recipients[0].address) == (0, {"other": True}, "c@example.com")
