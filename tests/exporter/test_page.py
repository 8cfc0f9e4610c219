"""The page for people tells of each source what /metrics tells."""

from __future__ import annotations

from datetime import timedelta

from exporter.page import Row, rows
from exporter.snapshot import Snapshot, SourceState
from tests.exporter.awkward import NOW

FAILED = SourceState(
    "orders", 15, 5, succeeded_at=NOW - timedelta(seconds=90), fresh_until=100, duration=0.25, error="denied",
    hint="grant it",
)  # fmt: skip


def row(state: SourceState, now: float) -> Row:
    (only,) = rows(Snapshot(states={state.name: state}), now, NOW)
    return only


def test_a_source_that_fails_says_why_and_what_to_do() -> None:
    assert row(FAILED, 99) == Row("orders", False, 90.0, 15, 0.25, True, "denied", "grant it")
    assert row(FAILED, 100).fresh is False


def test_a_source_that_hangs_is_given_no_hint_of_an_earlier_failure() -> None:
    found = row(SourceState("orders", 15, 5, duration=0.25, error="denied", hint="grant it", running_since=50), 55)
    assert (found.up, found.error, found.hint) == (False, "no answer within the time-out", "")


def test_a_source_that_hangs_past_its_time_out_says_what_to_look_at() -> None:
    found = row(SourceState("orders", 15, 5, duration=0.25, running_since=50), 56)
    assert (found.error, found.hint) == ("no answer within the time-out", "is it frozen, or the network dead?")


def test_a_source_that_works_says_nothing_more() -> None:
    found = row(SourceState("orders", 15, 5, duration=0.25), 50)
    assert (found.up, found.error, found.hint, found.age) == (True, None, "", None)
