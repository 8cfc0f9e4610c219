"""The threads that deliver, and whose a delivery is when they end."""

from __future__ import annotations

import contextlib
import itertools
import threading
from collections.abc import Iterator, Sequence
from concurrent.futures import Future
from datetime import datetime, timedelta
from typing import Any, ClassVar

import pytest
import structlog

from receiver.channels import Channel, DeliveryError, Doubt, Message, Outcome
from receiver.delivery import Carrier, Observer, RetryPolicy, Workers
from receiver.digest import Gathering, Rate
from receiver.outbox import Claim, Outbox, Settlement
from receiver.routing import planner
from receiver.store import Store, StoreUnavailableError
from tests.receiver.making import DAY, NOW, ROUTING, WINDOW, notification
from tests.receiver.sending import message
from tests.waiting import until


class Hanging:
    """A channel that takes so many at once, and then does not come back before it is let go."""

    name: ClassVar[str] = "email"

    def __init__(self) -> None:
        self.takes = 0
        self.sending = threading.Event()
        self.go = threading.Event()

    def send(self, message: Message, recipients: Sequence[str], *, doubt: Doubt | None) -> Outcome:
        self.takes -= 1
        if self.takes < 0:
            self.sending.set()
            self.go.wait()
        return dict.fromkeys(recipients)

    def close(self) -> None:
        pass


@pytest.fixture
def channel() -> Iterator[Hanging]:
    made = Hanging()
    yield made
    made.go.set()


def test_what_was_given_back_at_a_stop_is_not_taken_back_by_a_renewal(
    outbox: Outbox, store: Store, channel: Hanging, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("receiver.delivery._RENEW_SECONDS", 0.01)
    told = notification()
    outbox.add(told, planner(told, ROUTING, NOW), now=NOW, dedup_window=WINDOW, give_up_after=DAY)
    carrier = Carrier(lambda: channel, lambda _claim: message())
    workers = Workers(outbox, {"email": carrier}, RetryPolicy(), Observer(), clock=lambda: NOW)
    workers.start()
    assert channel.sending.wait(10)
    workers.stop(within=timedelta(seconds=0.1))
    until(lambda: "lease" not in [thread.name for thread in threading.enumerate()], "no lease is renewed any more")
    (again,) = Outbox(store, "two").claim("email", now=NOW, limit=1)
    assert again.unanswered_since == NOW


class Taking:
    """A channel that takes everything, and counts."""

    name: ClassVar[str] = "email"

    def __init__(self) -> None:
        self.sent = 0
        self.closed = 0

    def send(self, message: Message, recipients: Sequence[str], *, doubt: Doubt | None) -> Outcome:
        self.sent += 1
        return dict.fromkeys(recipients)

    def close(self) -> None:
        self.closed += 1


class Outcomes(Observer):
    """What was noted."""

    def __init__(self) -> None:
        self.states: list[str] = []

    def attempted(self, claim: Claim, settlement: Settlement, outcome: Outcome | DeliveryError, now: datetime) -> None:
        self.states.append(settlement.state)


@contextlib.contextmanager
def delivering(outbox: Outbox, channel: Channel, count: int) -> Iterator[Outcomes]:
    """One worker, and so many notifications for it."""
    for number in range(count):
        told = notification(group_key=f"g{number}")
        outbox.add(told, planner(told, ROUTING, NOW), now=NOW, dedup_window=WINDOW, give_up_after=DAY)
    outcomes = Outcomes()
    carrier = Carrier(lambda: channel, lambda _claim: message())
    workers = Workers(outbox, {"email": carrier}, RetryPolicy(), outcomes, clock=lambda: NOW)
    workers.start()
    yield outcomes
    workers.stop(within=timedelta(seconds=5))


def test_what_has_reached_everyone_by_a_late_answer_is_sent_to_nobody(outbox: Outbox, store: Store) -> None:
    told = notification()
    outbox.add(told, planner(told, ROUTING, NOW), now=NOW, dedup_window=WINDOW, give_up_after=DAY)
    (late,) = outbox.claim("email", now=NOW, limit=1)
    two = Outbox(store, "two")
    (given_back,) = two.claim("email", now=NOW + outbox.lease, limit=1)
    reached: dict[int, tuple[str, str | None]] = {one.position: ("delivered", None) for one in late.recipients}
    outbox.finish(late, Settlement("delivered", reached), now=NOW).result()
    two.release([], [given_back], now=NOW)
    channel = Taking()
    with delivering(outbox, channel, 0) as outcomes:
        until(lambda: outcomes.states, "it is noted")
    assert (channel.sent, outcomes.states) == (0, ["delivered"])


def unavailable() -> Future[None]:
    """What the store answers while its disk is gone."""
    gone: Future[None] = Future()
    gone.set_exception(StoreUnavailableError("disk I/O error"))
    return gone


def test_two_are_sent_and_no_third_before_the_first_is_noted(outbox: Outbox, monkeypatch: pytest.MonkeyPatch) -> None:
    channel, finish, go_on = Taking(), outbox.finish, threading.Event()

    def late(claim: Claim, settlement: Settlement, *, now: datetime) -> Future[None]:
        noted: Future[None] = Future()

        def work() -> None:
            go_on.wait(20)
            noted.set_result(finish(claim, settlement, now=now).result())

        threading.Thread(target=work, daemon=True).start()
        return noted

    monkeypatch.setattr(outbox, "finish", late)
    with delivering(outbox, channel, 4) as outcomes:
        until(lambda: channel.sent == 2, "two are sent")
        threading.Event().wait(0.3)
        assert (channel.sent, outcomes.states) == (2, [])
        go_on.set()
        until(lambda: len(outcomes.states) == 4, "all are noted")
    assert (channel.sent, outcomes.states) == (4, ["delivered"] * 4)


def test_what_was_sent_is_noted_when_the_store_is_back_and_not_sent_again(
    outbox: Outbox, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("receiver.delivery._STORE_PAUSE_SECONDS", 0.01)
    channel, finish, tries = Taking(), outbox.finish, itertools.count()

    def failing(claim: Claim, settlement: Settlement, *, now: datetime) -> Future[None]:
        if next(tries) >= 5:
            return finish(claim, settlement, now=now)
        return unavailable()

    monkeypatch.setattr(outbox, "finish", failing)
    with delivering(outbox, channel, 3) as outcomes:
        until(lambda: len(outcomes.states) == 3, "all are noted")
    assert (channel.sent, outcomes.states) == (3, ["delivered"] * 3)


def test_what_cannot_be_noted_is_said_once_and_not_at_each_try(outbox: Outbox, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("receiver.delivery._STORE_PAUSE_SECONDS", 0.01)
    finish, tries = outbox.finish, itertools.count()

    def failing(claim: Claim, settlement: Settlement, *, now: datetime) -> Future[None]:
        return finish(claim, settlement, now=now) if next(tries) >= 5 else unavailable()

    monkeypatch.setattr(outbox, "finish", failing)
    with structlog.testing.capture_logs() as lines, delivering(outbox, Taking(), 1) as outcomes:
        until(lambda: outcomes.states, "it is noted")
    told = [(line["delivery"], line["error"]) for line in lines if line["event"] == "outcome not noted yet"]
    assert told == [(1, "disk I/O error")]


def test_what_waits_to_be_noted_is_not_taken_again_though_its_lease_has_ended(
    outbox: Outbox, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("receiver.delivery._STORE_PAUSE_SECONDS", 0.01)
    channel, finish, claim, now = Taking(), outbox.finish, outbox.claim, [NOW]
    is_back, looked = threading.Event(), threading.Semaphore(0)

    def failing(claim: Claim, settlement: Settlement, *, now: datetime) -> Future[None]:
        if is_back.is_set():
            return finish(claim, settlement, now=now)
        return unavailable()

    def looking(*args: Any, **wanted: Any) -> list[Claim]:
        found = claim(*args, **wanted)
        looked.release()
        return found

    monkeypatch.setattr(outbox, "finish", failing)
    monkeypatch.setattr(outbox, "claim", looking)
    told = notification()
    outbox.add(told, planner(told, ROUTING, NOW), now=NOW, dedup_window=WINDOW, give_up_after=DAY)
    outcomes = Outcomes()
    carrier = Carrier(lambda: channel, lambda _claim: message())
    workers = Workers(outbox, {"email": carrier}, RetryPolicy(), outcomes, clock=lambda: now[0])
    workers.start()
    until(lambda: channel.sent == 1, "it is sent")
    now[0] += timedelta(hours=1)
    while looked.acquire(blocking=False):
        pass
    for _ in range(2):
        workers.wake()
        assert looked.acquire(timeout=10)
    is_back.set()
    until(lambda: outcomes.states, "it is noted")
    workers.stop(within=timedelta(seconds=5))
    assert (channel.sent, outcomes.states) == (1, ["delivered"])


def test_what_is_noted_is_done_with_while_its_worker_sends_the_next(outbox: Outbox, channel: Hanging) -> None:
    channel.takes = 1
    for number in range(2):
        told = notification(group_key=f"g{number}")
        outbox.add(told, planner(told, ROUTING, NOW), now=NOW, dedup_window=WINDOW, give_up_after=DAY)
    carrier = Carrier(lambda: channel, lambda _claim: message())
    workers = Workers(outbox, {"email": carrier}, RetryPolicy(), Observer(), clock=lambda: NOW)
    workers.start()
    assert channel.sending.wait(10)
    until(lambda: [row.count for row in outbox.waiting() if row.channel == "email"] == [1], "the first is noted")
    with structlog.testing.capture_logs() as lines:
        workers.stop(within=timedelta(seconds=0.1))
    assert [len(line["deliveries"]) for line in lines if "deliveries" in line] == [1]  # given back


def test_message_that_cannot_be_put_into_words_delays_itself_alone(outbox: Outbox) -> None:
    def render(claim: Claim) -> Message:
        if claim.notification.group_key == "g0":
            raise ArithmeticError
        return message()

    for number in range(2):
        told = notification(group_key=f"g{number}")
        outbox.add(told, planner(told, ROUTING, NOW), now=NOW, dedup_window=WINDOW, give_up_after=DAY)
    channel, outcomes = Taking(), Outcomes()
    workers = Workers(outbox, {"email": Carrier(lambda: channel, render)}, RetryPolicy(), outcomes, clock=lambda: NOW)
    workers.start()
    until(lambda: len(outcomes.states) == 2, "both are noted")
    workers.stop(within=timedelta(seconds=5))
    assert (channel.sent, sorted(outcomes.states)) == (1, ["delivered", "retrying"])


def test_fault_while_looking_for_work_delays_it_and_ends_nothing(
    outbox: Outbox, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("receiver.threads._PAUSE_SECONDS", 0.01)
    channel, claim, faults = Taking(), outbox.claim, [ArithmeticError("x"), ArithmeticError("y")]

    def faulty(*args: Any, **wanted: Any) -> list[Claim]:
        if faults:
            raise faults.pop()
        return claim(*args, **wanted)

    monkeypatch.setattr(outbox, "claim", faulty)
    with structlog.testing.capture_logs() as lines, delivering(outbox, channel, 2) as outcomes:
        until(lambda: len(outcomes.states) == 2, "both are noted")
    assert (channel.sent, outcomes.states) == (2, ["delivered"] * 2)
    assert [line["thread"] for line in lines if "fault" in line["event"]] == ["email-0"] * 2


def test_fault_while_noting_holds_back_that_message_and_no_other(
    outbox: Outbox, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("receiver.threads._PAUSE_SECONDS", 0.01)
    channel, finish, faults = Taking(), outbox.finish, [ArithmeticError("x")]

    def faulty(claim: Claim, settlement: Settlement, *, now: datetime) -> Future[None]:
        if not faults:
            return finish(claim, settlement, now=now)
        noted: Future[None] = Future()
        noted.set_exception(faults.pop())
        return noted

    monkeypatch.setattr(outbox, "finish", faulty)
    for number in range(3):
        told = notification(group_key=f"g{number}")
        outbox.add(told, planner(told, ROUTING, NOW), now=NOW, dedup_window=WINDOW, give_up_after=DAY)
    outcomes = Outcomes()
    one_at_a_time = Gathering(Rate(100, timedelta(minutes=1), timedelta(minutes=1)))
    carrier = Carrier(lambda: channel, lambda _claim: message(), gathering=one_at_a_time)
    workers = Workers(outbox, {"email": carrier}, RetryPolicy(), outcomes, clock=lambda: NOW)
    workers.start()
    until(lambda: len(outcomes.states) == 2, "the others are noted")
    workers.stop(within=timedelta(seconds=5))
    assert (channel.sent, channel.closed, outcomes.states) == (3, 2, ["delivered"] * 2)
