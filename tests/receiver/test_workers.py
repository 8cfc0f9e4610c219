"""The threads that deliver, and whose a delivery is when they end."""

from __future__ import annotations

import threading
from collections.abc import Iterator, Sequence
from datetime import timedelta
from typing import ClassVar

import pytest

from receiver.channels import Doubt, Message, Outcome
from receiver.delivery import Carrier, Observer, RetryPolicy, Workers
from receiver.outbox import Outbox
from receiver.routing import planner
from receiver.store import Store
from tests.receiver.making import DAY, NOW, ROUTING, WINDOW, notification
from tests.receiver.sending import message
from tests.waiting import until


class Hanging:
    """A channel that does not come back before it is let go."""

    name: ClassVar[str] = "email"

    def __init__(self) -> None:
        self.sending = threading.Event()
        self.go = threading.Event()

    def send(self, message: Message, recipients: Sequence[str], *, doubt: Doubt | None) -> Outcome:
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
