"""Who gets what: pure tables."""

from dataclasses import replace
from datetime import timedelta

import pytest

from receiver.notification import Alert
from receiver.routing import Earlier, Receipt, identity, plan
from tests.receiver.making import NOW, ROUTING, alert, notification

EMAIL = Receipt("email", "", "default", "ko", ("a@example.com", "b@example.com"))
SLACK = Receipt("slack", "default", "default", "ko", ("default",))
SMS = Receipt("sms", "", "default", "ko", ("01012345678", "01087654321"))
MINUTE = timedelta(minutes=1)


def told(*alerts: Alert, earlier: Earlier | None = None) -> dict[str, tuple[int, ...]]:
    """Channel → which of the alerts it tells."""
    planned = plan(notification(*alerts), ROUTING, earlier or {})
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
    planned = plan(notification(alert("a", severity="info"), alert("b", severity="warning")), ROUTING, {})
    assert {delivery.to.channel: delivery.severity for delivery in planned} == {"slack": "warning", "email": "warning"}


def test_channel_that_is_off_gets_nothing() -> None:
    routing = replace(ROUTING, channels={"critical": ("slack",)})
    assert [delivery.to for delivery in plan(notification(), routing, {})] == [SLACK]


def test_each_slack_hook_has_a_delivery_of_its_own() -> None:
    audience = replace(ROUTING.audience, recipients={"slack": ("ops", "business")})
    planned = plan(notification(), replace(ROUTING, audience=audience), {})
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
    routing = replace(ROUTING, audience=replace(ROUTING.audience, recipients={"slack": ("default",)}))
    planned = plan(notification(resolved), routing, {identity(resolved): [EMAIL, SLACK]})
    assert [delivery.to for delivery in planned] == [SLACK]


def test_sms_is_not_told_of_the_end_where_that_is_switched_off() -> None:
    resolved = alert(resolved_after=MINUTE)
    routing = replace(ROUTING, silent_when_resolved=frozenset({"sms"}))
    planned = plan(notification(resolved), routing, {identity(resolved): [EMAIL, SMS]})
    assert [delivery.to for delivery in planned] == [EMAIL]


def test_firing_and_resolved_of_the_same_readers_are_one_message() -> None:
    resolved = alert("a", severity="warning", resolved_after=MINUTE)
    earlier: Earlier = {identity(resolved): [EMAIL, SLACK]}
    assert told(resolved, alert("b", severity="warning"), earlier=earlier) == {"email": (0, 1), "slack": (0, 1)}
