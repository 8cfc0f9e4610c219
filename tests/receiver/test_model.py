"""The outbox against a model of it: two receivers on one store take what comes in any order, and die at any moment.

Hypothesis walks at random. In short as it stands; WALKS=1000 takes some minutes, and is another thousand each time.
"""

from __future__ import annotations

import os
from collections import defaultdict
from dataclasses import dataclass, field, replace
from datetime import datetime, timedelta
from typing import ClassVar, TypeAlias
from zoneinfo import ZoneInfo

import pytest
from hypothesis import HealthCheck, Phase, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, precondition, rule, run_state_machine_as_test

from receiver.channels import DeliveryError, Outcome
from receiver.delivery import RetryPolicy, settle
from receiver.digest import BY_GROUP, Gathering, Rate
from receiver.fallback import Rules
from receiver.fallback import planner as next_channel
from receiver.notification import Alert, Severity
from receiver.outbox import Claim, Filter, Outbox
from receiver.routing import Identity, QuietRule, identity, planner
from receiver.schedules import Schedule, Window, parse_hours
from receiver.store import Store
from receiver.tables import OPEN_STATES, metadata
from tests.receiver.making import AUDIENCE, DAY, NOW, ROUTING, WINDOW, alert, notification

IN_SHORT = 25
WALKS = int(os.environ.get("WALKS", IN_SHORT))

SECOND, MINUTE = timedelta(seconds=1), timedelta(minutes=1)
GROUP_INTERVAL = MINUTE  # of Alertmanager, as shipped
GROUPS = {"{}:{a}": ("a1", "a2"), "{}:{b}": ("b1",)}
SEVERITIES: dict[str, Severity] = {"a1": "warning", "a2": "critical", "b1": "info"}
PLANNED = ROUTING.default.channels
RULES = Rules(
    next={"slack": "email", "sms": "email", "email": "slack"},
    after={"info": 15 * MINUTE, "warning": 15 * MINUTE, "critical": 2 * MINUTE},
)
STORMS = {
    "email": Gathering(Rate(2, within=5 * MINUTE, every=2 * MINUTE)),
    "slack": Gathering(Rate(2, within=5 * MINUTE, every=2 * MINUTE)),
    "sms": Gathering(Rate(1, within=10 * MINUTE, every=5 * MINUTE), unanswered=False),
}
QUIET = QuietRule(
    "quiet.0",
    Schedule((Window(hours=(parse_hours("22:00-22:20"),)),), ZoneInfo("Asia/Seoul")),
    frozenset({"email", "slack"}),
    frozenset({"info", "warning"}),
)
"""Beginning with the walk."""

Inbox: TypeAlias = tuple[str, str]
"""Channel and address."""

Words: TypeAlias = frozenset[tuple[Identity, bool]]
"""Of each alert whether it fires."""


def words(claim: Claim) -> Words:
    """What a message says."""
    return frozenset((identity(one), one.firing) for one in claim.notification.alerts)


@dataclass
class InFlight:
    """A message that one of the receivers has sent and not noted yet."""

    worker: int
    claim: Claim
    outcome: Outcome | DeliveryError


@dataclass
class Inboxes:
    """What has arrived at each address."""

    last: dict[Inbox, dict[Identity, bool]] = field(default_factory=lambda: defaultdict(dict))
    """Of each alert the last word: whether it fires."""
    noted: set[tuple[int, Inbox, Words]] = field(default_factory=set)
    """Deliveries, in the words of that time, of which the outbox has been told that they have arrived."""
    refusing: str | None = None
    """The one channel that ever refuses a message for good: another tells what it does not."""

    def arrive(self, claim: Claim, address: str) -> None:
        inbox = claim.channel, address
        assert (claim.id, inbox, words(claim)) not in self.noted, "what is known to have arrived is not sent again"
        for one in claim.notification.alerts:
            self.last[inbox][identity(one)] = one.firing


class Company(RuleBasedStateMachine):
    """Alertmanager, two receivers, their peers, and a clock that all of them share."""

    store: ClassVar[Store]

    def __init__(self) -> None:
        super().__init__()
        self.store.write(
            lambda connection: [connection.execute(table.delete()) for table in reversed(metadata.sorted_tables)]
        )
        self.outboxes = (Outbox(self.store, "one"), Outbox(self.store, "two"))
        self.now: datetime = NOW
        self.state: dict[str, dict[str, Alert]] = {group: {} for group in GROUPS}
        self.sent: dict[str, tuple[datetime, tuple[Alert, ...]]] = {}
        self.words: dict[Identity, Alert] = {}
        self.in_flight: list[InFlight] = []
        self.inboxes = Inboxes()
        self.gathering = dict.fromkeys(AUDIENCE.recipients, BY_GROUP)
        self.routing = ROUTING
        self.severities = SEVERITIES

    @initialize(storms=st.booleans(), quiet=st.booleans())
    def settings_are_read(self, storms: bool, quiet: bool) -> None:
        if storms or quiet:  # who gathers nothing may hear of an end before the quiet time's digest
            self.gathering = STORMS
        if quiet:  # without critical ones, which no digest holds up
            self.routing = replace(ROUTING, quiet=(QUIET,))
            self.severities = {**SEVERITIES, "a2": "warning"}

    # Alertmanager

    @rule(group=st.sampled_from(sorted(GROUPS)), which=st.integers(0, 1))
    def an_alert_changes(self, group: str, which: int) -> None:
        """It begins to fire where it does not, and is over where it does."""
        known = self.state[group]
        name = GROUPS[group][which % len(GROUPS[group])]
        if group in self.sent:
            self.now = max(self.now, self.sent[group][0] + GROUP_INTERVAL)
            self.another_channel_is_asked(0)  # as it is every few seconds
        self.now += SECOND
        severity = self.severities[name]
        before = known.get(name)
        if before is None:
            known[name] = alert(name, severity=severity, starts_at=self.now)
        else:
            known[name] = alert(
                name,
                severity=severity,
                starts_at=before.starts_at,
                resolved_after=self.now - before.starts_at,
            )
        told = tuple(known.values())
        assert not self.post(group, told), "a change is told"
        self.sent[group] = self.now, told
        self.words |= {identity(one): one for one in told}
        self.state[group] = {key: one for key, one in known.items() if one.firing}

    @precondition(lambda self: any(self.is_fresh(group) for group in GROUPS))
    @rule(group=st.sampled_from(sorted(GROUPS)))
    def a_notification_comes_again(self, group: str) -> None:
        if self.is_fresh(group):
            assert self.post(group, self.sent[group][1]), "what came again is a duplicate"

    def is_fresh(self, group: str) -> bool:
        """Whether a notification was sent of it, and not longer ago than duplicates are known for."""
        return group in self.sent and self.now < self.sent[group][0] + WINDOW

    def post(self, group: str, alerts: tuple[Alert, ...]) -> bool:
        """Whether it was a duplicate."""
        told = notification(*alerts, group_key=group)
        accepted = self.outboxes[0].add(
            told, planner(told, self.routing, self.now), now=self.now, dedup_window=WINDOW, give_up_after=DAY
        )
        return accepted.duplicate

    # The receivers

    @rule(
        worker=st.integers(0, 1),
        channel=st.sampled_from(["email", "slack", "sms"]),
        limit=st.integers(1, 3),
        peer=st.sampled_from(["takes", "takes one", "refuses", "fails", "takes and is silent", "is silent"]),
    )
    def messages_are_sent(self, worker: int, channel: str, limit: int, peer: str) -> None:
        gathering = self.gathering[channel]
        for most in [limit] if gathering.rate is None else [1] * limit:
            held = [one.claim.id for one in self.in_flight if one.worker == worker]
            for claim in self.outboxes[worker].claim(channel, now=self.now, limit=most, held=held, gathering=gathering):
                self.in_flight.append(InFlight(worker, claim, self.send(claim, peer)))

    def send(self, claim: Claim, peer: str) -> Outcome | DeliveryError:
        """What becomes of it at the peer."""
        waiting = [one.address for one in claim.recipients if one.state == "waiting"]
        one = waiting if claim.channel == "sms" else waiting[:1]  # Aligo takes a call as a whole
        reached = {"takes": waiting, "takes and is silent": waiting, "takes one": one}.get(peer, [])
        for address in reached:
            self.inboxes.arrive(claim, address)
        if peer in ("takes", "takes one"):
            full = DeliveryError("452 mailbox full")
            return {address: None if address in reached else full for address in waiting}
        if peer == "refuses" and self.inboxes.refusing in (None, claim.channel):
            self.inboxes.refusing = claim.channel
            return DeliveryError("404 no_service", permanent=True)
        return DeliveryError("no answer", uncertain="silent" in peer)

    @precondition(lambda self: self.in_flight)
    @rule(which=st.integers(0, 9))
    def an_outcome_is_noted(self, which: int) -> None:
        self.note(self.in_flight.pop(which % len(self.in_flight)))

    def note(self, one: InFlight) -> None:
        settlement = settle(one.claim, one.outcome, self.now, policy=RetryPolicy(), chance=0.5)
        self.outboxes[one.worker].finish(one.claim, settlement, now=self.now).result()
        for recipient in one.claim.recipients:
            state, _ = settlement.recipients.get(recipient.position, ("", None))
            if state == "delivered":
                inbox = one.claim.channel, recipient.address
                self.inboxes.noted.add((one.claim.id, inbox, words(one.claim)))

    @precondition(lambda self: self.in_flight)
    @rule(worker=st.integers(0, 1))
    def a_receiver_dies(self, worker: int) -> None:
        """And is there again at once; what it had in hand is left as it is."""
        self.in_flight = [one for one in self.in_flight if one.worker != worker]

    @precondition(lambda self: self.in_flight)
    @rule(worker=st.integers(0, 1))
    def leases_are_renewed(self, worker: int) -> None:
        held = [one.claim.id for one in self.in_flight if one.worker == worker]
        self.outboxes[worker].renew(held, now=self.now)

    @rule(worker=st.integers(0, 1))
    def another_channel_is_asked(self, worker: int) -> None:
        decide = next_channel(self.routing, RULES, self.now)
        while self.outboxes[worker].hand_over(decide, now=self.now, after=RULES.after, give_up_after=DAY):
            pass

    @rule(span=st.sampled_from([SECOND, 10 * SECOND, 16 * SECOND, 3 * MINUTE, 16 * MINUTE]))
    def time_passes(self, span: timedelta) -> None:
        self.now += span

    # The end

    def teardown(self) -> None:
        """Everything works again, and goes on until nothing is left to do."""
        for one in self.in_flight:
            self.note(one)
        self.in_flight = []
        for _ in range(100):
            for channel in AUDIENCE.recipients:
                self.messages_are_sent(0, channel, 10, "takes")
            while self.in_flight:
                self.note(self.in_flight.pop())
            self.another_channel_is_asked(0)
            due = [self.outboxes[0].next_due(channel) for channel in AUDIENCE.recipients]
            if not any(due):
                break
            self.now = max(self.now, min(time for time in due if time is not None))
        self.everything_is_settled()
        self.everyone_has_heard_the_last_word()

    def everything_is_settled(self) -> None:
        for record in self.outboxes[0].history(Filter(limit=200)):
            for delivery in record.deliveries:
                assert delivery.state not in OPEN_STATES
                found = {one.state for one in delivery.recipients}
                if delivery.state == "delivered":
                    assert found == {"delivered"}
                elif delivery.state == "failed":
                    assert found == {"refused"}

    def everyone_has_heard_the_last_word(self) -> None:
        for one, word in self.words.items():
            planned = [(channel, to) for channel in PLANNED[word.severity] for to in AUDIENCE.recipients[channel]]
            heard = {inbox for inbox in self.inboxes.last if self.inboxes.last[inbox].get(one) is word.firing}
            assert heard, f"nobody has heard of {word}"
            missed = {inbox for inbox in planned if inbox[0] != self.inboxes.refusing} - heard
            assert not missed, f"{missed} have not heard the last of {word}"


@pytest.mark.timeout(120 + WALKS)
def test_what_was_accepted_reaches_everyone_and_nobody_twice_without_need(store: Store) -> None:
    class OnThisStore(Company):
        pass

    OnThisStore.store = store
    run_state_machine_as_test(
        OnThisStore,
        settings=settings(
            max_examples=WALKS,
            stateful_step_count=40,
            derandomize=WALKS == IN_SHORT,
            deadline=None,
            database=None,
            phases=(Phase.generate,),
            suppress_health_check=list(HealthCheck),
        ),
    )
