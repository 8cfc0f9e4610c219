"""Who gets what, and when: pure tables."""

from dataclasses import replace
from datetime import datetime, timedelta
from zoneinfo import ZoneInfo

import pytest

from receiver import matchers
from receiver.notification import Alert
from receiver.routing import (
    Audience,
    Earlier,
    Moment,
    PlannedDelivery,
    Quiet,
    QuietRule,
    Receipt,
    Route,
    Routing,
    identity,
    plan,
)
from receiver.schedules import Schedule, Window, parse_days, parse_holidays, parse_hours
from tests.receiver.making import AUDIENCE, DEFAULT_ROUTE, NOW, ROUTING, alert, notification

EMAIL = Receipt("email", "", "default", "ko", ("a@example.com", "b@example.com"))
SLACK = Receipt("slack", "default", "default", "ko", ("default",))
SMS = Receipt("sms", "", "default", "ko", ("01012345678", "01087654321"))
MINUTE = timedelta(minutes=1)
SEOUL = ZoneInfo("Asia/Seoul")


def told(*alerts: Alert, earlier: Earlier | None = None) -> dict[str, tuple[int, ...]]:
    """Channel → which of the alerts it tells."""
    planned = plan(notification(*alerts), ROUTING, earlier or {}, NOW)
    return {delivery.to.channel: delivery.positions for delivery in planned}


@pytest.mark.parametrize(
    ("severity", "channels"),
    [
        ("info", {"slack"}),
        ("warning", {"email", "slack"}),
        ("critical", {"email", "sms", "slack"}),
        (None, {"email", "slack"}),
        ("page", {"email", "slack"}),
        ("none", set()),
    ],
)
def test_severity_chooses_the_channels(severity: str | None, channels: set[str]) -> None:
    assert set(told(alert(severity=severity))) == channels


def test_heartbeat_is_never_delivered() -> None:
    assert told(alert(name="ColdChainWatchdog", severity="critical")) == {}


def test_mixed_severities_are_routed_alert_by_alert() -> None:
    mixed = [alert("a", severity="info"), alert("b", severity="critical"), alert("c", severity="warning")]
    assert told(*mixed) == {"slack": (0, 1, 2), "email": (1, 2), "sms": (1,)}


def test_delivery_has_the_highest_severity_of_what_it_tells() -> None:
    planned = plan(notification(alert("a", severity="info"), alert("b", severity="warning")), ROUTING, {}, NOW)
    assert {delivery.to.channel: delivery.severity for delivery in planned} == {"slack": "warning", "email": "warning"}


def test_channel_that_is_off_gets_nothing() -> None:
    routing = only(recipients={"slack": ("default",)}, off={"email", "sms"})
    assert [delivery.to for delivery in plan(notification(), routing, {}, NOW)] == [SLACK]


def test_each_slack_hook_has_a_delivery_of_its_own() -> None:
    planned = plan(notification(), only(recipients={"slack": ("ops", "business")}), {}, NOW)
    assert [(delivery.to.lane, delivery.to.recipients) for delivery in planned] == [
        ("ops", ("ops",)),
        ("business", ("business",)),
    ]


def test_resolved_goes_to_whoever_got_it_firing() -> None:
    resolved = alert(severity="critical", resolved_after=MINUTE)
    assert told(resolved, earlier={identity(resolved): [EMAIL]}) == {"email": (0,)}


def test_resolved_goes_nowhere_when_nobody_got_it_firing() -> None:
    resolved = alert(resolved_after=MINUTE)
    assert told(resolved, earlier={identity(resolved): []}) == {}


def test_resolved_goes_by_severity_when_nothing_is_known() -> None:
    assert set(told(alert(severity="warning", resolved_after=MINUTE))) == {"email", "slack"}


def test_earlier_start_of_the_same_alert_does_not_count() -> None:
    resolved = alert(severity="warning", resolved_after=MINUTE)
    earlier = {(resolved.fingerprint, NOW - timedelta(hours=1)): [SMS]}
    assert set(told(resolved, earlier=earlier)) == {"email", "slack"}


def test_resolved_is_not_sent_by_a_channel_that_is_off_by_now() -> None:
    resolved = alert(resolved_after=MINUTE)
    routing = replace(ROUTING, off=frozenset({"email"}))
    planned = plan(notification(resolved), routing, {identity(resolved): [EMAIL, SLACK]}, NOW)
    assert [delivery.to for delivery in planned] == [SLACK]


def test_sms_is_told_of_the_beginning_alone_where_its_end_is_switched_off() -> None:
    resolved = alert(resolved_after=MINUTE)
    routing = replace(ROUTING, silent_when_resolved=frozenset({"sms"}))
    assert [delivery.to for delivery in plan(notification(alert()), routing, {}, NOW)] == [EMAIL, SMS, SLACK]
    planned = plan(notification(resolved), routing, {identity(resolved): [EMAIL, SMS]}, NOW)
    assert [delivery.to for delivery in planned] == [EMAIL]


def test_firing_and_resolved_of_the_same_readers_are_one_message() -> None:
    resolved = alert("a", severity="warning", resolved_after=MINUTE)
    earlier: Earlier = {identity(resolved): [EMAIL, SLACK]}
    planned = plan(notification(resolved, alert("b", severity="warning")), ROUTING, earlier, NOW)
    assert [(one.to.channel, one.positions, one.firing) for one in planned] == [
        ("email", (0, 1), True),
        ("slack", (0, 1), True),
    ]


def only(*, recipients: dict[str, tuple[str, ...]], off: set[str] | None = None) -> Routing:
    """The ordinary routing to other recipients."""
    return replace(
        ROUTING, audiences={"default": replace(AUDIENCE, recipients=recipients)}, off=frozenset(off or set())
    )


ALL = DEFAULT_ROUTE.channels
NIGHT = Schedule((Window(hours=(parse_hours("22:00-07:00"),)),), SEOUL)
WEEKEND = Schedule((Window(parse_days(["sat", "sun", "holiday"])),), SEOUL, parse_holidays(["12-25"]))


def group(name: str, on_duty: Schedule | None = None, **recipients: str) -> Audience:
    """With one recipient a channel, named after the group if none is given."""
    chosen = recipients or {channel: f"{name}-{channel}" for channel in ("email", "slack", "sms")}
    return Audience(name, "ko", {channel: (one,) for channel, one in chosen.items()}, on_duty)


def route(name: str, matchers_text: str, *audiences: str, goes_on: bool = False) -> Route:
    return Route(name, audiences, ALL, matchers.parse(matchers_text), goes_on)


def routed(*routes: Route, groups: list[Audience] | None = None, quiet: tuple[QuietRule, ...] = ()) -> Routing:
    """Routes to `admins` and `dispatchers`, and to `admins` by default."""
    known = groups or [group("admins"), group("dispatchers")]
    return Routing({one.name: one for one in known}, Route("default", ("admins",), ALL), routes, quiet)


def audiences_of(
    routing: Routing, now: datetime = NOW, severity: str = "warning", category: str = "system"
) -> list[str]:
    receipts = Moment(routing, now).take(alert(severity=severity, category=category)).receipts
    return list(dict.fromkeys(receipt.audience for receipt in receipts))


BUSINESS = route("routes.0", 'category="business"', "dispatchers")


def test_first_route_that_matches_takes_the_alert() -> None:
    routing = routed(BUSINESS, route("routes.1", 'category=~"business|system"', "admins"))
    assert audiences_of(routing, category="business") == ["dispatchers"]


def test_route_that_goes_on_leaves_the_alert_to_the_others_too() -> None:
    first = replace(BUSINESS, goes_on=True)
    routing = routed(first, route("routes.1", 'severity="warning"', "admins"))
    assert audiences_of(routing, category="business") == ["dispatchers", "admins"]


def test_route_takes_what_all_of_its_matchers_match() -> None:
    routing = routed(route("routes.0", 'category="business",severity="critical"', "dispatchers"))
    assert audiences_of(routing, category="business", severity="critical") == ["dispatchers"]
    assert audiences_of(routing, category="business", severity="warning") == ["admins"]
    assert audiences_of(routing, category="system", severity="critical") == ["admins"]


def test_default_takes_what_no_route_takes() -> None:
    assert audiences_of(routed(BUSINESS), category="database") == ["admins"]


def test_default_takes_what_would_reach_nobody() -> None:
    groups = [group("admins"), group("dispatchers", sms="01012345678")]
    taken = Moment(routed(BUSINESS, groups=groups), NOW).take(alert(severity="warning", category="business"))
    assert taken.routes == ("routes.0", "default")
    assert [(receipt.channel, receipt.audience) for receipt in taken.receipts] == [
        ("email", "admins"),
        ("slack", "admins"),
    ]


def test_missing_severity_reads_as_warning_in_a_route() -> None:
    routing = routed(route("routes.0", 'severity="warning"', "dispatchers"))
    taken = Moment(routing, NOW).take(alert(severity=None))
    assert taken.routes == ("routes.0",)


def test_route_has_channels_of_its_own() -> None:
    routing = routed(replace(BUSINESS, channels={"critical": ("sms",)}))
    taken = Moment(routing, NOW).take(alert(severity="critical", category="business"))
    assert [(receipt.channel, receipt.audience) for receipt in taken.receipts] == [("sms", "dispatchers")]


def test_who_is_in_two_groups_is_told_once() -> None:
    both = [group("admins", email="kim@example.com"), group("dispatchers", email="kim@example.com", sms="01012345678")]
    routing = routed(route("routes.0", 'severity="critical"', "admins", "dispatchers"), groups=both)
    taken = Moment(routing, NOW).take(alert(severity="critical"))
    assert [(receipt.channel, receipt.audience) for receipt in taken.receipts] == [
        ("email", "admins"),
        ("sms", "dispatchers"),
    ]


@pytest.mark.parametrize(
    ("at", "audience"),
    [
        ("2026-01-27T21:59+09:00", "admins"),
        ("2026-01-27T22:00+09:00", "night-shift"),
        ("2026-01-27T13:00+00:00", "night-shift"),  # the same moment
        ("2026-01-28T06:59+09:00", "night-shift"),
        ("2026-01-28T07:00+09:00", "admins"),
    ],
)
def test_group_off_duty_is_not_told_and_the_default_is(at: str, audience: str) -> None:
    groups = [group("admins"), group("night-shift", NIGHT)]
    routing = routed(route("routes.0", 'severity="warning"', "night-shift"), groups=groups)
    assert audiences_of(routing, datetime.fromisoformat(at)) == [audience]


def test_group_off_duty_is_named_once_beside_those_that_are_told() -> None:
    night = group("night-shift", NIGHT)
    first = route("routes.0", 'severity="warning"', "night-shift", goes_on=True)
    routing = routed(
        first, route("routes.1", 'category="system"', "admins", "night-shift"), groups=[group("admins"), night]
    )
    taken = Moment(routing, morning(28)).take(alert(severity="warning"))
    assert [receipt.audience for receipt in taken.receipts] == ["admins", "admins"]
    assert taken.off_duty == ("night-shift",)


def test_group_off_duty_is_told_of_the_end_of_what_it_was_told_of() -> None:
    groups = [group("admins"), group("night-shift", NIGHT)]
    routing = routed(route("routes.0", 'severity="warning"', "night-shift"), groups=groups)
    resolved = alert(severity="warning", resolved_after=MINUTE)
    receipt = Receipt("email", "", "night-shift", "ko", ("night-shift-email",))
    noon = datetime(2026, 1, 28, 12, 0, tzinfo=SEOUL)
    planned = plan(notification(resolved), routing, {identity(resolved): [receipt]}, noon)
    assert [delivery.to for delivery in planned] == [receipt]


QUIET_NIGHT = QuietRule("quiet.0", NIGHT, frozenset({"email", "slack", "sms"}), frozenset({"info", "warning"}))


def planned_at(at: str, *quiet: QuietRule, severity: str = "warning") -> dict[str, Quiet | None]:
    """Channel → why it waits, for one alert at a time in Seoul."""
    now = datetime.fromisoformat(at).replace(tzinfo=SEOUL)
    planned: list[PlannedDelivery] = plan(notification(alert(severity=severity)), routed(quiet=quiet), {}, now)
    return {delivery.to.channel: delivery.quiet for delivery in planned}


def morning(day: int) -> datetime:
    return datetime(2026, 1, day, 7, 0, tzinfo=SEOUL)


@pytest.mark.parametrize(
    ("at", "until"),
    [("2026-01-27T21:59", None), ("2026-01-27T22:00", 28), ("2026-01-28T06:59", 28), ("2026-01-28T07:00", None)],
)
def test_quiet_hours_hold_messages_back_to_their_end(at: str, until: int | None) -> None:
    waits = Quiet("quiet.0", morning(until)) if until is not None else None
    assert planned_at(at, QUIET_NIGHT) == {"email": waits, "slack": waits}


def test_critical_ignores_quiet_hours() -> None:
    assert planned_at("2026-01-27T23:00", QUIET_NIGHT, severity="critical") == {
        "email": None,
        "slack": None,
        "sms": None,
    }


def test_critical_keeps_quiet_hours_where_it_is_told_to() -> None:
    rule = replace(QUIET_NIGHT, severities=frozenset({"critical"}), channels=frozenset({"sms"}))
    waits = Quiet("quiet.0", morning(28))
    assert planned_at("2026-01-27T23:00", rule, severity="critical") == {"email": None, "slack": None, "sms": waits}


def test_quiet_hours_may_be_those_of_one_channel() -> None:
    rule = replace(QUIET_NIGHT, channels=frozenset({"email"}))
    assert planned_at("2026-01-27T23:00", rule) == {"email": Quiet("quiet.0", morning(28)), "slack": None}


@pytest.mark.parametrize(
    ("audience", "waits"), [("dispatchers", None), ("admins", Quiet("quiet.0", morning(28)))], ids=["other", "own"]
)
def test_quiet_hours_may_be_those_of_one_group(audience: str, waits: Quiet | None) -> None:
    rule = replace(QUIET_NIGHT, audiences=frozenset({audience}))
    assert planned_at("2026-01-27T23:00", rule) == {"email": waits, "slack": waits}


def test_quiet_hours_may_suppress() -> None:
    never = Quiet("quiet.0", None)
    assert planned_at("2026-01-27T23:00", replace(QUIET_NIGHT, hold=False)) == {"email": never, "slack": never}


@pytest.mark.parametrize(("at", "first"), [("2026-01-30T23:00", "quiet.0"), ("2026-02-01T12:00", "quiet.1")])
def test_what_is_held_waits_for_the_end_of_all_quiet_times_that_follow(at: str, first: str) -> None:
    weekend = replace(QUIET_NIGHT, name="quiet.1", schedule=WEEKEND)
    waits = Quiet(first, datetime(2026, 2, 2, 7, 0, tzinfo=SEOUL))  # Friday night, or Sunday noon, until Monday morning
    assert planned_at(at, QUIET_NIGHT, weekend) == {"email": waits, "slack": waits}


def test_first_quiet_rule_in_force_decides() -> None:
    first = replace(QUIET_NIGHT, schedule=WEEKEND, hold=False)
    second = replace(QUIET_NIGHT, name="quiet.1")
    waits = Quiet("quiet.1", morning(28))
    assert planned_at("2026-01-27T23:00", first, second) == {"email": waits, "slack": waits}


def test_what_is_held_is_sent_though_a_later_quiet_time_suppresses() -> None:
    suppressed = replace(QUIET_NIGHT, name="quiet.1", schedule=WEEKEND, hold=False)
    friday = replace(QUIET_NIGHT, schedule=Schedule((Window(parse_days(["fri"])),), SEOUL))
    waits = Quiet("quiet.0", datetime(2026, 1, 31, tzinfo=SEOUL))
    assert planned_at("2026-01-30T23:00", friday, suppressed) == {"email": waits, "slack": waits}


def test_critical_alert_of_a_group_goes_at_once_and_the_rest_waits() -> None:
    now = datetime(2026, 1, 27, 23, 0, tzinfo=SEOUL)
    mixed = notification(alert("a", severity="warning"), alert("b", severity="critical"))
    planned = plan(mixed, routed(quiet=(QUIET_NIGHT,)), {}, now)
    told_by_email = [(delivery.positions, delivery.quiet) for delivery in planned if delivery.to.channel == "email"]
    assert told_by_email == [((0,), Quiet("quiet.0", morning(28))), ((1,), None)]


def test_end_that_comes_at_night_waits_too() -> None:
    now = datetime(2026, 1, 27, 23, 0, tzinfo=SEOUL)
    resolved = alert(severity="warning", resolved_after=MINUTE)
    planned = plan(notification(resolved), routed(quiet=(QUIET_NIGHT,)), {identity(resolved): [EMAIL]}, now)
    assert [delivery.quiet for delivery in planned] == [Quiet("quiet.0", morning(28))]
