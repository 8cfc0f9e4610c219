"""A failure is told when it begins, when it changes and when it is over; one that all sources share is told once."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from structlog.testing import capture_logs

from exporter.outages import Outages


def told(entries: Sequence[Mapping[str, Any]]) -> list[tuple[str | None, ...]]:
    return [
        (entry["log_level"], entry["event"], entry.get("source"), entry.get("error"))
        for entry in entries
        if entry["log_level"] != "debug"
    ]


def test_a_failure_is_told_once_while_it_lasts_and_again_when_it_changes() -> None:
    outages = Outages()
    with capture_logs() as entries:
        for error in ("table missing", "table missing", "column missing", "column missing"):
            outages.failed("orders", error, "", connection=False)
        outages.recovered("orders")
        outages.recovered("orders")
    assert told(entries) == [
        ("warning", "source failed", "orders", "table missing"),
        ("warning", "source failed", "orders", "column missing"),
        ("info", "source recovered", "orders", None),
    ]


def test_a_database_that_is_down_for_all_is_told_once() -> None:
    outages = Outages()
    with capture_logs() as entries:
        for _ in range(3):
            for source in ("database", "orders", "vehicles"):
                outages.failed(source, "refused", "is it running?", connection=True)
        for source in ("orders", "database", "vehicles"):
            outages.recovered(source)
    assert told(entries) == [
        ("warning", "database unreachable", None, "refused"),
        ("info", "database reachable again", None, None),
    ]


def test_equal_words_of_two_tables_are_two_failures() -> None:
    outages = Outages()
    with capture_logs() as entries:
        outages.failed("orders", "permission denied", "", connection=False)
        outages.failed("vehicles", "permission denied", "", connection=False)
    assert told(entries) == [
        ("warning", "source failed", "orders", "permission denied"),
        ("warning", "source failed", "vehicles", "permission denied"),
    ]


def test_what_to_do_is_told_where_that_is_known() -> None:
    outages = Outages()
    with capture_logs() as entries:
        outages.failed("database", "refused", "is it running?", connection=True)
        outages.failed("orders", "table missing", "", connection=False)
    assert [entry.get("hint") for entry in entries] == ["is it running?", None]


def test_a_failure_is_known_by_its_source_and_its_words() -> None:
    outages = Outages()
    outages.failed("orders", "table missing", "", connection=False)
    asked = [("orders", "table missing"), ("orders", "column missing"), ("vehicles", "table missing")]
    assert [outages.known(*one) for one in asked] == [True, False, False]


def test_a_source_that_is_switched_off_is_forgotten() -> None:
    outages = Outages()
    with capture_logs() as entries:
        outages.failed("orders", "refused", "", connection=True)
        outages.forget("orders")
        outages.failed("vehicles", "refused", "", connection=True)
    assert [entry["event"] for entry in entries] == ["database unreachable"] * 2
