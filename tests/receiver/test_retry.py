"""When to try again, and what an attempt makes of a delivery: pure tables."""

from datetime import timedelta

import pytest

from receiver.channels import DeliveryError
from receiver.delivery import RetryPolicy, next_attempt, settle
from receiver.outbox import Claim
from tests.receiver.making import DAY, NOW, claim

POLICY = RetryPolicy(first=timedelta(seconds=5), longest=timedelta(minutes=10), jitter=0.2)
BUSY = DeliveryError("busy")
GONE = DeliveryError("gone", permanent=True)
SILENT = DeliveryError("no answer", uncertain=True)


def after(attempts: int, error: DeliveryError = BUSY, *, chance: float = 0.5, left: timedelta = DAY) -> float | None:
    """Seconds until the next attempt."""
    at = next_attempt(attempts, error, NOW, give_up_at=NOW + left, policy=POLICY, chance=chance)
    return (at - NOW).total_seconds() if at is not None else None


@pytest.mark.parametrize(
    ("attempts", "seconds"), [(1, 5), (2, 10), (3, 20), (4, 40), (5, 80), (6, 160), (7, 320), (8, 600), (5000, 600)]
)
def test_pauses_double_up_to_the_longest(attempts: int, seconds: float) -> None:
    assert after(attempts) == seconds


@pytest.mark.parametrize(("chance", "seconds"), [(0, 8), (0.25, 9), (0.5, 10), (1, 12)])
def test_jitter_spreads_a_pause_by_a_fifth(chance: float, seconds: float) -> None:
    assert after(2, chance=chance) == seconds


def test_permanent_error_stops_at_once() -> None:
    assert after(1, GONE) is None


@pytest.mark.parametrize("chance", [0, 1])
def test_retry_after_is_kept_to_the_letter(chance: float) -> None:
    assert after(7, DeliveryError("429", retry_after=timedelta(seconds=30)), chance=chance) == 30


def test_retry_after_beyond_the_limit_is_the_end() -> None:
    assert after(1, DeliveryError("429", retry_after=timedelta(hours=25))) is None


def test_last_attempt_falls_on_the_limit() -> None:
    assert after(8, left=timedelta(seconds=90)) == 90


@pytest.mark.parametrize("left", [timedelta(0), timedelta(seconds=-1)])
def test_at_the_limit_nothing_is_tried_again(left: timedelta) -> None:
    assert after(3, left=left) is None


@pytest.mark.parametrize(
    ("delivery", "outcome", "state", "recipients"),
    [
        (claim("waiting", "waiting"), {"a": None, "b": None}, "delivered", ["delivered", "delivered"]),
        (claim("waiting", "waiting"), {"a": None, "b": GONE}, "partial", ["delivered", "refused"]),
        (claim("waiting", "waiting"), {"a": GONE, "b": GONE}, "failed", ["refused", "refused"]),
        (claim("waiting", "waiting"), {"a": None, "b": BUSY}, "retrying", ["delivered", "waiting"]),
        (claim("waiting", "waiting"), {"a": GONE, "b": BUSY}, "retrying", ["refused", "waiting"]),
        (claim("waiting", "waiting"), BUSY, "retrying", ["waiting", "waiting"]),
        (claim("waiting", "waiting"), GONE, "failed", ["refused", "refused"]),
        (claim("delivered", "waiting"), {"b": None}, "delivered", ["delivered"]),
        (claim("delivered", "waiting"), {"b": GONE}, "partial", ["refused"]),
        (claim("refused", "waiting"), {"b": None}, "partial", ["delivered"]),
        (claim("waiting", give_up_at=NOW), BUSY, "failed", ["refused"]),
        (claim("delivered", "waiting", give_up_at=NOW), BUSY, "partial", ["refused"]),
        (claim("waiting"), SILENT, "retrying", ["waiting"]),
        (claim("waiting", give_up_at=NOW), SILENT, "uncertain", ["uncertain"]),
        (claim("waiting", give_up_at=NOW, unanswered_since=NOW), BUSY, "uncertain", ["uncertain"]),
        (claim("waiting", unanswered_since=NOW), GONE, "failed", ["refused"]),
        (claim("delivered", "waiting", give_up_at=NOW), SILENT, "partial", ["uncertain"]),
    ],
)
def test_outcome_settles_the_delivery_and_each_recipient(
    delivery: Claim, outcome: dict[str, DeliveryError | None] | DeliveryError, state: str, recipients: list[str]
) -> None:
    settlement = settle(delivery, outcome, NOW, policy=POLICY, chance=0.5)
    assert settlement.state == state
    assert [to for to, _ in settlement.recipients.values()] == recipients
    assert (settlement.next_attempt_at is not None) == (state == "retrying")


def test_attempts_made_so_far_lengthen_the_pause() -> None:
    settlement = settle(claim("waiting", attempts=2), BUSY, NOW, policy=POLICY, chance=0.5)
    assert settlement.next_attempt_at == NOW + timedelta(seconds=20)


def test_first_unanswered_attempt_is_remembered() -> None:
    first = NOW - timedelta(minutes=5)
    again = settle(claim("waiting", unanswered_since=first), SILENT, NOW, policy=POLICY, chance=0.5)
    assert again.unanswered_since == first
    assert settle(claim("waiting"), SILENT, NOW, policy=POLICY, chance=0.5).unanswered_since == NOW


def test_each_recipient_keeps_its_error_and_the_delivery_both() -> None:
    settlement = settle(claim("waiting", "waiting"), {"a": GONE, "b": BUSY}, NOW, policy=POLICY, chance=0.5)
    assert settlement.recipients == {0: ("refused", "gone"), 1: ("waiting", "busy")}
    assert settlement.error == "gone; busy"
